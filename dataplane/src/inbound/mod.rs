//! Inbound: one burst from an uplink to the guests.
//!
//! In: datagrams of one uplink queue. Out: frames in guest RX rings, packets back to
//! other peers, handshake messages for the control core. Never: plaintext of a packet
//! that does not verify, a decision before its tag is verified, a packet held beyond
//! the burst.
//!
//! 1. `claim`: which session each datagram belongs to; handshakes are punted.
//! 2. `open`: all tags at once, then the plaintext in place.
//! 3. `accept`: replay window (one lock per session and burst), endpoint, counters.
//! 4. `admit`: the inner source must be the peer's; ECN moves inward.
//! 5. `route`: to a port of the tunnel's network, to the gateway, to another peer; of a
//!    plain network always to its one port, untouched.
//! 6. `deliver_to`: per guest ring or interface queue, coalesced as far as it is taken.

mod admit;
mod forward;

use std::sync::{Arc, atomic::Ordering};

use arrayvec::ArrayVec;
use culvert_aead::{Jobs, OpenJob};
use culvert_wire::{
    EtherType, VnetHeader,
    coalesce::Accept,
    ether,
    icmp::IcmpError,
    parse::{Headers, L3},
};
use culvert_wireguard::{
    Instant,
    cookie::carries_mac2,
    message::{DATA_HEADER_LEN, DataHeader, Kind, data_len},
};

use self::{admit::admit, forward::forward};
use crate::{
    guest::deliver::{self, ETHERNET, Outlet},
    loss::{Lost, lose},
    shared::{
        control_link::{HandshakePunt, Inline},
        drops::DropReason,
        ids::PortIndex,
        limits::{self, UPLINK_BURST},
        peer::signal,
        sessions::Session,
    },
    uplink::{Datagram, Uplink},
    worker::turn::{Sending, Tools, Turn},
};

/// The sessions of a burst, each once per run of datagrams.
type Sessions = ArrayVec<Arc<Session>, UPLINK_BURST>;

/// A datagram that belongs to a session.
#[derive(Clone, Copy)]
struct Claim {
    datagram: usize,
    session: usize,
    counter: u64,
}

/// A packet that was opened and is not a keepalive.
struct Arrival {
    datagram: usize,
    session: usize,
    headers: Headers,
    to: Destination,
}

/// Where an inner packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// A guest RX ring of a port, or a queue of its interface.
    Ring(PortIndex, u16),
    /// Another peer of the same tunnel, or this one.
    Peer(crate::shared::ids::PeerIndex),
    /// The gateway: an echo request.
    Gateway,
    /// Nowhere: its sender is told why.
    Sender(IcmpError),
}

/// Carries a burst of datagrams inward.
pub(crate) fn inbound(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    link: &mut Punt<'_>,
    uplink: &Uplink,
    datagrams: &mut [Datagram],
) {
    let mut rest = datagrams;
    while !rest.is_empty() {
        let count = portion(rest.len(), |index| rest[index].ends);
        let (burst, behind) = rest.split_at_mut(count);
        rest = behind;
        let mut sessions = Sessions::new();
        let claims = claim(turn, tools, link, uplink, burst, &mut sessions);
        let opened = open(tools, burst, &claims, &sessions);
        let accepted = accept(turn, burst, opened, &sessions);
        let arrivals = admit(turn, burst, accepted, &sessions);
        forward(turn, tools, sending, burst, &arrivals, &sessions);
        deliver_all(turn, tools, burst, &arrivals);
    }
}

/// How many of `count` datagrams make the next burst: as many as it may have, but rather whole messages of the
/// kernel's, which `ends` knows; for what was one frame becomes one frame again only within a burst.
fn portion(count: usize, ends: impl Fn(usize) -> bool) -> usize {
    if count <= UPLINK_BURST {
        return count;
    }
    let last = (0..UPLINK_BURST).rev().find(|&index| ends(index));
    last.map_or(UPLINK_BURST, |last| last + 1)
}

/// Where handshake messages go.
pub(crate) struct Punt<'a> {
    pub(crate) handshakes: &'a mut rtrb::Producer<HandshakePunt>,
}

impl Punt<'_> {
    fn push(&mut self, datagram: &Datagram) -> bool {
        let Some(message) = Inline::new(datagram.bytes()) else {
            return false;
        };
        self.handshakes
            .push(HandshakePunt {
                tunnel: datagram.tunnel,
                source: datagram.source,
                local: datagram.local,
                message,
            })
            .is_ok()
    }
}

/// Step 1.
fn claim(
    turn: &Turn<'_>,
    tools: &mut Tools,
    punt: &mut Punt<'_>,
    uplink: &Uplink,
    burst: &[Datagram],
    sessions: &mut Sessions,
) -> ArrayVec<Claim, UPLINK_BURST> {
    let lost = |reason, datagram: &Datagram| {
        lose(uplink.books(), reason, Lost::Wire(datagram.bytes()));
    };
    let mut claims = ArrayVec::new();
    let mut punted = false;
    for (index, datagram) in burst.iter().enumerate() {
        let header = match Kind::of(datagram.bytes()) {
            Some(Kind::Data) => DataHeader::parse(datagram.bytes()),
            Some(Kind::Initiation | Kind::Response | Kind::CookieReply) => {
                if !affords(tools, datagram, turn.now) {
                    uplink.counters.crowded.store(true, Ordering::Relaxed);
                    lost(DropReason::HandshakeQueueFull, datagram);
                } else if !admits(turn, datagram) {
                    lost(DropReason::HandshakeMac1Invalid, datagram);
                } else if punt.push(datagram) {
                    punted = true;
                } else {
                    lost(DropReason::HandshakeQueueFull, datagram);
                }
                continue;
            }
            None => None,
        };
        let Some(header) = header else {
            lost(DropReason::DatagramMalformed, datagram);
            continue;
        };
        let known = sessions.last().is_some_and(|last: &Arc<Session>| {
            last.keypair.local_index() == header.receiver && last.peer.tunnel == datagram.tunnel
        });
        if !known {
            let found = turn
                .snapshot
                .tunnel(datagram.tunnel)
                .and_then(|tunnel| tunnel.sessions.find(header.receiver));
            let Some(session) = found.as_deref().and_then(Option::as_ref) else {
                lost(DropReason::ReceiverUnknown, datagram);
                continue;
            };
            if !session.keypair.receivable(turn.now) {
                let lost = Lost::Wire(datagram.bytes());
                lose(session.peer.books(), DropReason::KeypairExpired, lost);
                continue;
            }
            sessions.push(Arc::clone(session));
        }
        claims.push(Claim {
            datagram: index,
            session: sessions.len() - 1,
            counter: header.counter,
        });
    }
    if punted {
        turn.attention.wake().notify();
    }
    claims
}

/// Whether another handshake message of this kind may be looked at: a flood of them gets its share of the worker and
/// no more. A flood without cookies takes nothing from those who were given one.
fn affords(tools: &mut Tools, datagram: &Datagram, now: Instant) -> bool {
    let bytes = datagram.bytes();
    let plain = Kind::of(bytes) != Some(Kind::CookieReply) && !carries_mac2(bytes);
    tools.calls[usize::from(plain)].take(limits::CALLS_PER_SECOND_IDLE, now)
}

/// Whether a handshake message is meant for its tunnel at all (whitepaper, section
/// 5.4.4): what isn't costs the control core nothing.
fn admits(turn: &Turn<'_>, datagram: &Datagram) -> bool {
    turn.snapshot
        .tunnel(datagram.tunnel)
        .and_then(|tunnel| tunnel.mac1.as_ref())
        .is_some_and(|mac1| mac1.admits(datagram.bytes()))
}

/// Step 2: verifies and decrypts in place; keeps the claims that verified.
fn open(
    tools: &mut Tools,
    burst: &mut [Datagram],
    claims: &[Claim],
    sessions: &Sessions,
) -> ArrayVec<Claim, UPLINK_BURST> {
    let mut jobs = Jobs::<OpenJob<'_>, UPLINK_BURST>::new();
    let mut next = 0;
    for (index, datagram) in burst.iter_mut().enumerate() {
        let Some(claim) = claims.get(next).filter(|claim| claim.datagram == index) else {
            continue;
        };
        next += 1;
        let key = sessions[claim.session].keypair.receiving_key();
        let sealed = &mut datagram.bytes_mut()[DATA_HEADER_LEN..];
        // A claim's datagram holds at least a header and a tag.
        let Ok(job) = OpenJob::in_place(key, claim.counter, sealed) else {
            break;
        };
        if jobs.push(job).is_err() {
            break;
        }
    }
    tools.engine.open(&mut jobs);
    let mut opened = ArrayVec::<_, UPLINK_BURST>::new();
    let verified = |&(_, job): &(&Claim, &OpenJob<'_>)| job.ok();
    let pairs = claims.iter().zip(jobs.iter());
    opened.extend(pairs.filter(verified).map(|(claim, _)| *claim));
    if opened.len() < claims.len() {
        let tried = jobs.len();
        lose_unopened(burst, (claims, tried), &opened, sessions);
    }
    opened
}

/// Loses the claims that are not among those that were opened; `tried` were looked at.
#[cold]
fn lose_unopened(
    burst: &[Datagram],
    (claims, tried): (&[Claim], usize),
    opened: &[Claim],
    sessions: &Sessions,
) {
    let mut opened = opened.iter().map(|claim| claim.datagram).peekable();
    for (index, claim) in claims.iter().enumerate() {
        if opened.next_if_eq(&claim.datagram).is_some() {
            continue;
        }
        let reason = match index < tried {
            true => DropReason::TagInvalid,
            false => DropReason::DatagramMalformed,
        };
        let lost = Lost::Wire(burst[claim.datagram].bytes());
        lose(sessions[claim.session].peer.books(), reason, lost);
    }
}

/// Step 3.
fn accept(
    turn: &Turn<'_>,
    burst: &[Datagram],
    mut opened: ArrayVec<Claim, UPLINK_BURST>,
    sessions: &Sessions,
) -> ArrayVec<Claim, UPLINK_BURST> {
    let mut kept = 0;
    let mut start = 0;
    while start < opened.len() {
        let session = &sessions[opened[start].session];
        let peer = &session.peer;
        let run = opened[start..]
            .iter()
            .take_while(|claim| claim.session == opened[start].session)
            .count();
        let first = kept;
        {
            let mut window = session.keypair.replay();
            for position in start..start + run {
                let claim = opened[position];
                if window.accept(claim.counter) {
                    opened[kept] = claim;
                    kept += 1;
                } else {
                    let lost = Lost::Inner(plaintext(&burst[claim.datagram]));
                    lose(peer.books(), DropReason::Replayed, lost);
                }
            }
        }
        start += run;
        if kept > first {
            note_received(turn, burst, &opened[first..kept], session);
        }
    }
    opened.truncate(kept);
    opened
}

/// What authenticated packets of one session tell: the peer is there, and where.
fn note_received(turn: &Turn<'_>, burst: &[Datagram], claims: &[Claim], session: &Session) {
    let peer = &session.peer;
    if session.keypair.confirm() {
        peer.raise_confirmed(&session.keypair, turn.attention);
    }
    let mut bytes = 0;
    let mut signals = 0;
    for claim in claims {
        let len = burst[claim.datagram].bytes().len();
        bytes += len;
        signals |= match len == data_len(0) {
            true => signal::KEEPALIVE_RECEIVED,
            false => signal::DATA_RECEIVED,
        };
    }
    peer.traffic.received(claims.len() as u64, bytes as u64);
    peer.raise(signals, turn.attention);
    if let Some(last) = claims.last() {
        let last = &burst[last.datagram];
        peer.note_source(last.source, last.local, turn.attention);
    }
}

/// The inner packet of an opened data message, padding included.
fn plaintext(datagram: &Datagram) -> &[u8] {
    let bytes = datagram.bytes();
    &bytes[DATA_HEADER_LEN..bytes.len() - culvert_aead::TAG_LEN]
}

fn plaintext_mut(datagram: &mut Datagram) -> &mut [u8] {
    let bytes = datagram.bytes_mut();
    let end = bytes.len() - culvert_aead::TAG_LEN;
    &mut bytes[DATA_HEADER_LEN..end]
}

/// Step 6, ring by ring.
fn deliver_all(turn: &Turn<'_>, tools: &mut Tools, burst: &[Datagram], arrivals: &[Arrival]) {
    let mut done = ArrayVec::<(PortIndex, u16), UPLINK_BURST>::new();
    for arrival in arrivals {
        let Destination::Ring(port, queue) = arrival.to else {
            continue;
        };
        if done.contains(&(port, queue)) {
            continue;
        }
        done.push((port, queue));
        deliver_to(turn, tools, burst, arrivals, port, queue);
    }
}

fn deliver_to(
    turn: &Turn<'_>,
    tools: &mut Tools,
    burst: &[Datagram],
    arrivals: &[Arrival],
    port: PortIndex,
    queue: u16,
) {
    let Some(port) = turn.snapshot.port(port) else {
        return;
    };
    let Some(network) = turn.snapshot.network(port.network) else {
        return;
    };
    let here = || {
        arrivals
            .iter()
            .filter(|a| a.to == Destination::Ring(port.index, queue))
    };
    let Some(mut outlet) = Outlet::open(port, queue, || here().count()) else {
        return;
    };
    let accept = deliver::accept(outlet.offloads());
    let ethernet = |v4: bool| {
        let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
        ether::header(port.mac, network.gateway_mac, ether_type)
    };
    if here().nth(1).is_none() || accept == Accept::NONE {
        // Nothing to join.
        for arrival in here() {
            let packet = &plaintext(&burst[arrival.datagram])[..arrival.headers.ip_len];
            let header = ethernet(matches!(arrival.headers.l3, L3::V4(_)));
            outlet.deliver(&VnetHeader::default(), &[&header, packet]);
        }
        return;
    }
    tools.coalescer.begin(accept, ETHERNET);
    for arrival in here() {
        let packet = plaintext(&burst[arrival.datagram]);
        let index = u32::try_from(arrival.datagram).unwrap_or(0);
        // It was made for a whole burst.
        let _ = tools.coalescer.push(index, &arrival.headers, packet);
    }
    for group in tools.coalescer.groups() {
        let first = group.members().next();
        let lead = first.map_or(&[][..], |m| plaintext(&burst[m.index as usize]));
        let header = ethernet(lead.first().is_some_and(|first| first >> 4 == 4));
        let mut parts = ArrayVec::<&[u8], { UPLINK_BURST + 2 }>::new();
        parts.push(&header);
        if !group.header.is_empty() {
            parts.push(group.header);
        }
        for member in group.members() {
            parts.push(&plaintext(&burst[member.index as usize])[member.range()]);
        }
        outlet.deliver(&group.vnet, &parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_where_a_message_does() {
        let divided = |messages: &[usize]| {
            let mut ends: Vec<bool> = messages
                .iter()
                .flat_map(|&count| (1..=count).map(move |index| index == count))
                .collect();
            let mut bursts = Vec::new();
            while !ends.is_empty() {
                let count = portion(ends.len(), |index| ends[index]);
                bursts.push(count);
                ends.drain(..count);
            }
            bursts
        };
        // Frames of 47 packets, of which a message holds 45.
        assert_eq!(divided(&[45, 2, 45, 2, 45, 2, 45, 2]), [94, 94]);
        assert_eq!(divided(&[1; 300]), [128, 128, 44]);
        assert_eq!(divided(&[200, 10]), [128, 82]);
        assert_eq!(divided(&[64, 64]), [128]);
    }
}
