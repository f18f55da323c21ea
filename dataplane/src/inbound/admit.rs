//! What an opened packet may do: whether its peer may send it, and where it goes.
//!
//! In: opened datagrams, in order. Out: arrivals, congestion marks carried inward, hop limits lowered for guests.
//! Never: a look at more than headers; a decision that outlives the burst.

use std::net::IpAddr;

use culvert_wire::{
    icmp::IcmpError,
    parse::{Headers, L3, parse_ip},
    scope::is_routable,
    tcp,
};
use culvert_wireguard::message::data_len;

use super::{Arrival, Arrivals, Claim, Destination, Sessions, plaintext, plaintext_mut};
use crate::{
    egress::departure::decrement_hop_limit,
    gateway::{Refusal, answer, mss},
    guest::deliver,
    loss::{Lost, lose},
    shared::{drops::DropReason, ids::AttachmentIndex, peer::Peer, snapshot::NextHop},
    uplink::Datagram,
    worker::turn::Turn,
};

/// Steps 4 and 5.
pub(super) fn admit(
    turn: &Turn<'_>,
    burst: &mut [Datagram],
    accepted: &[Claim],
    sessions: &Sessions,
    arrivals: &mut Arrivals,
) {
    let mut last = None;
    for &claim in accepted {
        let Claim {
            datagram: index,
            session,
            ..
        } = claim;
        let datagram = &mut burst[index];
        if datagram.bytes().len() == data_len(0) {
            continue;
        }
        let peer = &sessions[session].peer;
        match admit_one(turn, datagram, (session, peer), &mut last) {
            Ok((headers, to)) => arrivals.push(Arrival {
                datagram: index,
                session,
                headers,
                to,
            }),
            Err(Refusal { reason, .. })
                if reason == DropReason::GatewayNotServed
                    && answers_probe(turn, datagram, peer) => {}
            Err(Refusal { reason, tell }) => {
                lose(peer.books(), reason, Lost::Inner(plaintext(datagram)));
                if let Some(error) = tell
                    && let Ok(headers) = parse_ip(plaintext(datagram))
                {
                    arrivals.push(Arrival {
                        datagram: index,
                        session,
                        headers,
                        to: Destination::Sender(error),
                    });
                }
            }
        }
    }
}

/// The way of one flow's packets: what was found for the last one is right for the next.
#[derive(Clone, Copy)]
struct Way {
    session: usize,
    addresses: (IpAddr, IpAddr),
    ports: Option<(u16, u16)>,
    to: Destination,
    /// Through the router: the hop limit falls.
    routed: bool,
}

fn admit_one(
    turn: &Turn<'_>,
    datagram: &mut Datagram,
    (session, peer): (usize, &Peer),
    last: &mut Option<Way>,
) -> Result<(Headers, Destination), Refusal> {
    let ecn = datagram.ecn;
    let packet = plaintext_mut(datagram);
    let headers = parse_ip(packet).map_err(|_| DropReason::InnerMalformed)?;
    let addresses = headers.addresses().ok_or(DropReason::InnerMalformed)?;
    let ports = headers.ports();
    let way = match last {
        Some(way) if way.session == session && way.addresses == addresses && way.ports == ports => {
            *way
        }
        _ => {
            let (to, routed) = find(turn, &headers, addresses, peer)?;
            let way = Way {
                session,
                addresses,
                ports,
                to,
                routed,
            };
            // What goes to the gateway is looked at each time.
            *last = (to != Destination::Gateway).then_some(way);
            way
        }
    };
    decapsulate_ecn(packet, &headers, ecn)?;
    if way.routed {
        let hop_limit = match &headers.l3 {
            L3::V4(ip) => ip.ttl,
            L3::V6(ip) => ip.hop_limit,
            L3::Arp | L3::Other => return Err(DropReason::InnerMalformed.into()),
        };
        if hop_limit <= 1 {
            return Err(Refusal {
                reason: DropReason::TtlExceeded,
                tell: Some(IcmpError::TimeExceeded),
            });
        }
        if matches!(way.to, Destination::Ring(..)) {
            decrement_hop_limit(packet);
        }
        if mss::is_syn(&headers) {
            clamp(turn, peer, &headers, packet);
        }
    }
    Ok((headers, way.to))
}

/// Whether a packet for the gateway is what a probe of the peer's path asked for.
#[cold]
fn answers_probe(turn: &Turn<'_>, datagram: &Datagram, peer: &Peer) -> bool {
    let headers = parse_ip(plaintext(datagram));
    let reply = headers
        .ok()
        .and_then(|headers| answer::echo_reply(&headers));
    reply.is_some_and(|(id, token)| peer.note_answer(id, token, turn.attention))
}

/// Lowers the MSS that a SYN from `peer` offers, where the network wants that.
#[cold]
fn clamp(turn: &Turn<'_>, peer: &Peer, headers: &Headers, packet: &mut [u8]) {
    let tunnel = turn.snapshot.tunnel(peer.tunnel);
    if let Some(tunnel) = tunnel.filter(|tunnel| tunnel.mss_clamp)
        && let Some(header) = packet.get_mut(headers.l4_offset..headers.payload_offset)
    {
        tcp::clamp_mss(header, mss::most(tunnel, peer, headers));
    }
}

/// Whether the peer may send this, where it goes, and whether through the router.
fn find(
    turn: &Turn<'_>,
    headers: &Headers,
    (source, destination): (IpAddr, IpAddr),
    peer: &Peer,
) -> Result<(Destination, bool), Refusal> {
    let tunnel = turn
        .snapshot
        .tunnel(peer.tunnel)
        .ok_or(DropReason::NoRoute)?;
    if tunnel.allowed.lookup(source) != Some(peer.index) {
        return Err(DropReason::SourceNotAllowed.into());
    }
    let network = tunnel
        .network
        .and_then(|network| turn.snapshot.network(network));
    let network = network.ok_or(DropReason::NoRoute)?;
    if let Some(guest) = network.plain {
        let queue = queue(turn, guest, headers, source, destination)?;
        return Ok((Destination::Ring(guest, queue), false));
    }
    if !is_routable(source) || !is_routable(destination) {
        return Err(DropReason::AddressUnroutable.into());
    }
    // A wide prefix makes no peer a guest. All that guests and gateway have is on the network's link: who has what there
    // the most specific route says, and most sources aren't worth that look.
    if network.is_on_link(source)
        && let Some(NextHop::Guest(_) | NextHop::Gateway) = network.routes.lookup(source)
    {
        return Err(DropReason::SourceLocal.into());
    }
    let next_hop = network.routes.lookup(destination);
    match next_hop.unwrap_or(NextHop::Unreachable) {
        NextHop::Gateway if answer::is_echo_request(headers) => Ok((Destination::Gateway, false)),
        NextHop::Gateway => Err(DropReason::GatewayNotServed.into()),
        NextHop::Unreachable => Err(Refusal {
            reason: DropReason::NoRoute,
            tell: Some(IcmpError::Unreachable),
        }),
        // Its hop limit falls when it leaves.
        NextHop::Peer(peer) => Ok((Destination::Peer(peer), true)),
        NextHop::Guest(guest) => {
            let queue = queue(turn, guest, headers, source, destination)?;
            Ok((Destination::Ring(guest, queue), true))
        }
    }
}

/// RFC 6040, section 4.2: what was noted of congestion outside is noted inside; a packet that can't carry the note is
/// dropped for it.
///
/// | inner \ outer | Not-ECT | ECT(0)  | ECT(1)  | CE   |
/// |---------------|---------|---------|---------|------|
/// | Not-ECT       | Not-ECT | Not-ECT | Not-ECT | drop |
/// | ECT(0)        | ECT(0)  | ECT(0)  | ECT(1)  | CE   |
/// | ECT(1)        | ECT(1)  | ECT(1)  | ECT(1)  | CE   |
/// | CE            | CE      | CE      | CE      | CE   |
fn decapsulate_ecn(packet: &mut [u8], headers: &Headers, outer: u8) -> Result<(), DropReason> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    if outer & ECT_1 == 0 {
        return Ok(());
    }
    match (headers.traffic_class().unwrap_or(0) & 3, outer) {
        (NOT_ECT, CE) => return Err(DropReason::CongestionUnmarkable),
        (ECT_0, _) | (ECT_1, CE) => mark_congestion(packet, outer),
        _ => {}
    }
    Ok(())
}

fn mark_congestion(packet: &mut [u8], mark: u8) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            packet[1] = packet[1] & !3 | mark;
            let new = u16::from_be_bytes([packet[0], packet[1]]);
            let field = u16::from_be_bytes([packet[10], packet[11]]);
            let field = culvert_wire::checksum::update(field, old, new);
            packet[10..12].copy_from_slice(&field.to_be_bytes());
        }
        Some(6) if packet.len() >= 2 => packet[1] = packet[1] & !0x30 | mark << 4,
        _ => {}
    }
}

/// The queue of the port that this flow goes to.
#[inline]
fn queue(
    turn: &Turn<'_>,
    guest: AttachmentIndex,
    headers: &Headers,
    source: IpAddr,
    destination: IpAddr,
) -> Result<u16, DropReason> {
    let guest = turn.snapshot.attached(guest).ok_or(DropReason::NoRoute)?;
    let port = guest.port;
    if port.queues <= 1 {
        return Ok(0);
    }
    Ok(deliver::queue(
        port,
        deliver::flow_hash(source, destination, headers.ports()),
    ))
}

#[cfg(test)]
mod tests {
    use culvert_wire::Checksum;

    use super::*;

    #[test]
    fn congestion_marks_are_carried_inward_as_the_table_says() {
        // By inner, then outer field: Not-ECT, ECT(1), ECT(0), CE.
        const TABLE: [[Option<u8>; 4]; 4] = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        let mut v4 = [
            0x45, 0xa8, 0, 20, 1, 2, 0x40, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let mut v6 = [0; 40];
        v6[..8].copy_from_slice(&[0x6a, 0x8f, 1, 2, 0, 0, 59, 64]);
        for (inner, row) in (0..).zip(TABLE) {
            for (outer, expected) in (0..).zip(row) {
                v4[1] = 0xa8 | inner;
                v4[10..12].fill(0);
                let sum = Checksum::of(&v4).complement();
                v4[10..12].copy_from_slice(&sum.to_be_bytes());
                v6[1] = 0x8f | inner << 4;
                for packet in [&mut v4[..], &mut v6[..]] {
                    let headers = parse_ip(packet).unwrap();
                    let done = decapsulate_ecn(packet, &headers, outer);
                    assert_eq!(done.is_ok(), expected.is_some());
                    let class = parse_ip(packet).unwrap().traffic_class().unwrap();
                    assert_eq!(class, 0xa8 | expected.unwrap_or(inner));
                }
                assert!(Checksum::of(&v4).is_valid());
                assert_eq!(v6[1] & 0xf, 0xf, "the flow label stays");
            }
        }
    }
}
