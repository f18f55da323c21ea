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
//! 5. The way: to a port of the tunnel's network, to the gateway, to another peer; of a
//!    plain network always to its one port, untouched.
//! 6. `forward`: what leaves again, and what peers are told.
//! 7. `deliver`: per guest ring or interface queue, coalesced as far as it is taken.

mod admit;
mod claim;
mod deliver;
mod forward;
mod open;

use std::sync::Arc;

use arrayvec::ArrayVec;
use culvert_wire::{icmp::IcmpError, parse::Headers};
use culvert_wireguard::message::DATA_HEADER_LEN;

pub(crate) use self::claim::Punt;
use self::{
    admit::admit,
    claim::claim,
    deliver::deliver,
    forward::forward,
    open::{accept, open},
};
use crate::{
    shared::{
        ids::{AttachmentIndex, PeerIndex},
        limits::UPLINK_BURST,
        sessions::Session,
    },
    uplink::{Datagram, Uplink},
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
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

/// The claims of a burst, of which each step keeps what passes: three kilobytes that stay where they are.
type Claims = ArrayVec<Claim, UPLINK_BURST>;

/// A packet that was opened and is not a keepalive.
struct Arrival {
    datagram: usize,
    session: usize,
    headers: Headers,
    to: Destination,
}

/// The arrivals of a burst: eighteen kilobytes that stay where they are.
type Arrivals = ArrayVec<Arrival, UPLINK_BURST>;

/// Where an inner packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// A guest: a ring of its port, or a queue of its interface.
    Ring(AttachmentIndex, u16),
    /// Another peer of the same tunnel, or this one.
    Peer(PeerIndex),
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
        let (mut sessions, mut claims) = (Sessions::new(), Claims::new());
        claim(turn, tools, link, uplink, burst, &mut sessions, &mut claims);
        open(tools, burst, &mut claims, &sessions);
        accept(turn, uplink, burst, &mut claims, &sessions);
        let mut arrivals = Arrivals::new();
        admit(turn, burst, &claims, &sessions, &mut arrivals);
        forward(turn, tools, sending, burst, &arrivals, &sessions);
        deliver(turn, tools, burst, &arrivals);
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

/// The inner packet of an opened data message, padding included.
#[inline]
fn plaintext(datagram: &Datagram) -> &[u8] {
    let bytes = datagram.bytes();
    &bytes[DATA_HEADER_LEN..bytes.len() - culvert_aead::TAG_LEN]
}

fn plaintext_mut(datagram: &mut Datagram) -> &mut [u8] {
    let bytes = datagram.bytes_mut();
    let end = bytes.len() - culvert_aead::TAG_LEN;
    &mut bytes[DATA_HEADER_LEN..end]
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
