//! Forward: packets that leave again, to other peers; the gateway's replies and errors.
//!
//! In: arrivals for a peer or the gateway, and those that can't go on. Out: batches bound for peers, for the egress;
//! the latter's senders are told. Never: a packet held until there is room; an error about our own packets.
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
    EtherType, MacAddr, VnetHeader, ether,
    icmp::{self, IcmpError},
    parse::{HEAD_LEN, Headers, L3, parse_frame},
};
use culvert_wireguard::message::DATA_HEADER_LEN;

use super::{Arrival, Destination, Sessions, plaintext, plaintext_mut};
use crate::{
    egress::{
        self, BATCH, Notes,
        departure::{Bound, Passage},
        staged::Sender,
    },
    gateway::error::{self, ERROR_MAX},
    guest::{
        deliver::ETHERNET,
        frames::{OwnFrame, OwnFrames},
    },
    loss::{Lost, lose},
    shared::{drops::DropReason, limits::UPLINK_BURST, peer::Peer},
    uplink::Datagram,
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Where the frame of a relayed packet begins in its datagram.
const START: usize = DATA_HEADER_LEN - ETHERNET;

/// Errors made at a time.
const ERRORS: usize = 16;

/// A packet that leaves again.
struct Relay<'s> {
    arrival: &'s Arrival,
    len: usize,
    headers: Headers,
    peer: &'s Arc<Peer>,
    passage: Passage,
}

/// A packet whose sender is told what hinders it.
type Told<'s> = (&'s Arrival, IcmpError);

/// A frame of our own memory that is bound for a peer.
struct Outgoing<'b, 's> {
    frame: &'b [u8],
    headers: &'b Headers,
    sender: Sender,
    peer: &'s Arc<Peer>,
    passage: Passage,
}

impl Outgoing<'_, '_> {
    fn lost(&self) -> Lost<'_> {
        Lost::Inner(&self.frame[ETHERNET..])
    }
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
        .filter(|arrival| !matches!(arrival.to, Destination::Ring(..)))
        .peekable();
    let mut told = ArrayVec::<Told<'_>, UPLINK_BURST>::new();
    while leaving.peek().is_some() {
        let mut batch = ArrayVec::<Relay<'_>, BATCH>::new();
        while !batch.is_full()
            && let Some(arrival) = leaving.next()
        {
            match arrival.to {
                Destination::Ring(..) => {}
                Destination::Sender(error) => told.push((arrival, error)),
                Destination::Peer(_) | Destination::Gateway => {
                    batch.extend(relay(turn, burst, arrival, sessions));
                }
            }
        }
        let outgoing: ArrayVec<_, BATCH> = batch
            .iter()
            .map(|relay| Outgoing {
                frame: &burst[relay.arrival.datagram].bytes()[START..][..relay.len],
                headers: &relay.headers,
                sender: Sender::Peer(sessions[relay.arrival.session].peer.index),
                peer: relay.peer,
                passage: relay.passage,
            })
            .collect();
        let notes = send(turn, tools, sending, &outgoing);
        let routed = |relay: &Relay<'_>| relay.passage == Passage::Routed;
        told.extend(notes.iter().filter_map(|note| {
            let relay = batch.get(note.frame).filter(|relay| routed(relay))?;
            Some((relay.arrival, note.tell?))
        }));
    }
    if !told.is_empty() {
        tell(turn, tools, sending, burst, &told, sessions);
    }
}

/// Makes a frame of a packet that leaves again; `None` if it is lost.
fn relay<'s>(
    turn: &Turn<'s>,
    burst: &mut [Datagram],
    arrival: &'s Arrival,
    sessions: &'s Sessions,
) -> Option<Relay<'s>> {
    let sender = &sessions[arrival.session].peer;
    let (target, passage) = match arrival.to {
        Destination::Peer(peer) => (turn.snapshot.peer(peer), Passage::Routed),
        Destination::Gateway => (Some(sender), Passage::Own),
        Destination::Ring(..) | Destination::Sender(_) => return None,
    };
    let Some(peer) = target else {
        let lost = Lost::Inner(plaintext(&burst[arrival.datagram]));
        lose(sender.books(), DropReason::NoRoute, lost);
        return None;
    };
    let datagram = &mut burst[arrival.datagram];
    let mut len = arrival.headers.ip_len;
    if passage == Passage::Own {
        match icmp::echo_reply_in_place(plaintext_mut(datagram)) {
            Some(reply) => len = reply,
            None => {
                let lost = Lost::Inner(plaintext(datagram));
                lose(peer.books(), DropReason::GatewayNotServed, lost);
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
    let Some(headers) = parse(frame) else {
        lose(
            peer.books(),
            DropReason::InnerMalformed,
            Lost::Inner(&frame[ETHERNET..]),
        );
        return None;
    };
    Some(Relay {
        arrival,
        len,
        headers,
        peer,
        passage,
    })
}

/// A whole frame's headers, as far as its head shows them.
fn parse(frame: &[u8]) -> Option<Headers> {
    let head = &frame[..frame.len().min(HEAD_LEN)];
    parse_frame(head, u32::try_from(frame.len()).unwrap_or(u32::MAX)).ok()
}

/// Sends a batch; what does not leave is lost, under its target's name.
fn send(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    batch: &[Outgoing<'_, '_>],
) -> Notes {
    let frames: ArrayVec<_, BATCH> = batch
        .iter()
        .map(|outgoing| OwnFrame {
            vnet: VnetHeader::default(),
            bytes: outgoing.frame,
        })
        .collect();
    let bound = batch.iter().enumerate().map(|(frame, outgoing)| Bound {
        frame,
        headers: outgoing.headers,
        sender: outgoing.sender,
        peer: outgoing.peer,
        passage: outgoing.passage,
    });
    let mut notes = Notes::new();
    let rest = egress::depart(turn, tools, sending, &OwnFrames(&frames), bound, &mut notes);
    for note in &notes {
        if let Some(reason) = note.lost {
            lose(
                batch[note.frame].peer.books(),
                reason,
                batch[note.frame].lost(),
            );
        }
    }
    for outgoing in &batch[rest.unwrap_or(batch.len())..] {
        let (books, lost) = (outgoing.peer.books(), outgoing.lost());
        lose(books, DropReason::UplinkFull, lost);
    }
    notes
}

/// Tells senders what hinders their packets, through the tunnel that those came by.
#[cold]
fn tell(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    burst: &[Datagram],
    told: &[Told<'_>],
    sessions: &Sessions,
) {
    for told in told.chunks(ERRORS) {
        let mut rooms = [[0; ERROR_MAX]; ERRORS];
        let errors: ArrayVec<_, ERRORS> = told
            .iter()
            .zip(&mut rooms)
            .filter_map(|(&(arrival, error), room)| {
                let sender = &sessions[arrival.session].peer;
                let packet = plaintext(&burst[arrival.datagram]);
                let about = (&arrival.headers, packet);
                let frame = error::write(turn, sender, about, error, room)?;
                Some((frame, parse(frame)?, sender))
            })
            .collect();
        let outgoing: ArrayVec<_, ERRORS> = errors
            .iter()
            .map(|(frame, headers, peer)| Outgoing {
                frame,
                headers,
                sender: Sender::Peer(peer.index),
                peer,
                passage: Passage::Own,
            })
            .collect();
        // What hinders an error, nobody is told.
        send(turn, tools, sending, &outgoing);
    }
}
