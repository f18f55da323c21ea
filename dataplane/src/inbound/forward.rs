//! Forward: packets that leave again, to other peers, and the gateway's replies.
//!
//! In: arrivals for a peer or the gateway. Out: batches bound for peers, for the egress. Never: a packet held until
//! there is room.
//!
//! The plaintext lies behind the 16 bytes of the data header; an Ethernet header that nobody sees takes the last 14 of
//! them, so that the packet looks like any frame.
//!
//! ```text
//!  datagram  | data header (16)        | plaintext: IP packet, padding | tag |
//!            |  2  | Ethernet (14)     | IP packet |
//! ```

use std::sync::Arc;

use arrayvec::ArrayVec;
use culvert_wire::{
    EtherType, MacAddr, VnetHeader, ether, icmp,
    parse::{HEAD_LEN, Headers, L3, parse_frame},
};
use culvert_wireguard::message::DATA_HEADER_LEN;

use super::{Arrival, Destination, Sessions, plaintext_mut};
use crate::{
    egress::{
        self, BATCH, Notes,
        departure::{Bound, Passage},
    },
    guest::{
        deliver::ETHERNET,
        frames::{OwnFrame, OwnFrames},
    },
    shared::{drops::DropReason, peer::Peer},
    uplink::Datagram,
    worker::turn::{Sending, Tools, Turn},
};

/// Where the frame of a relayed packet begins in its datagram.
const START: usize = DATA_HEADER_LEN - ETHERNET;

/// A packet that leaves again.
struct Relay<'s> {
    datagram: usize,
    len: usize,
    headers: Headers,
    peer: &'s Arc<Peer>,
    passage: Passage,
}

/// Sends what leaves again, in batches.
pub(super) fn forward(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    burst: &mut [Datagram],
    arrivals: &[Arrival],
    sessions: &Sessions,
) {
    let mut leaving = arrivals
        .iter()
        .filter(|arrival| !matches!(arrival.to, Destination::Ring(..)));
    loop {
        let batch: ArrayVec<_, BATCH> = leaving
            .by_ref()
            .filter_map(|arrival| relay(turn, burst, arrival, sessions))
            .take(BATCH)
            .collect();
        if batch.is_empty() {
            return;
        }
        send(turn, tools, sending, burst, &batch);
    }
}

/// Makes a frame of a packet that leaves again; `None` if it is lost.
fn relay<'s>(
    turn: &Turn<'s>,
    burst: &mut [Datagram],
    arrival: &Arrival,
    sessions: &'s Sessions,
) -> Option<Relay<'s>> {
    let sender = &sessions[arrival.session].peer;
    let (target, passage) = match arrival.to {
        Destination::Ring(..) => return None,
        Destination::Peer(peer) => (turn.snapshot.peer(peer), Passage::Routed),
        Destination::Gateway => (Some(sender), Passage::Own),
    };
    let Some(peer) = target else {
        sender.drops.add(DropReason::NoRoute, 1);
        return None;
    };
    let datagram = &mut burst[arrival.datagram];
    let mut len = arrival.headers.ip_len;
    if passage == Passage::Own {
        match icmp::echo_reply_in_place(plaintext_mut(datagram)) {
            Some(reply) => len = reply,
            None => {
                peer.drops.add(DropReason::GatewayNotServed, 1);
                return None;
            }
        }
    }
    let len = ETHERNET + len;
    let frame = &mut datagram.bytes_mut()[START..][..len];
    let ether_type = match arrival.headers.l3 {
        L3::V4(_) => EtherType::IPV4,
        L3::V6(_) | L3::Arp | L3::Other => EtherType::IPV6,
    };
    let nobody = MacAddr::ZERO;
    frame[..ETHERNET].copy_from_slice(&ether::header(nobody, nobody, ether_type));
    let head = &frame[..len.min(HEAD_LEN)];
    let Ok(headers) = parse_frame(head, u32::try_from(len).unwrap_or(u32::MAX)) else {
        peer.drops.add(DropReason::InnerMalformed, 1);
        return None;
    };
    Some(Relay {
        datagram: arrival.datagram,
        len,
        headers,
        peer,
        passage,
    })
}

fn send(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    burst: &[Datagram],
    batch: &[Relay<'_>],
) {
    let frames: ArrayVec<_, BATCH> = batch
        .iter()
        .map(|relay| OwnFrame {
            vnet: VnetHeader::default(),
            bytes: &burst[relay.datagram].bytes()[START..][..relay.len],
        })
        .collect();
    let bound = batch.iter().enumerate().map(|(frame, relay)| Bound {
        frame,
        headers: &relay.headers,
        peer: relay.peer,
        passage: relay.passage,
    });
    let mut notes = Notes::new();
    let rest = egress::depart(turn, tools, sending, &OwnFrames(&frames), bound, &mut notes);
    for note in &notes {
        if let Some(reason) = note.lost {
            batch[note.frame].peer.drops.add(reason, 1);
        }
    }
    for relay in &batch[rest.unwrap_or(batch.len())..] {
        relay.peer.drops.add(DropReason::UplinkFull, 1);
    }
}
