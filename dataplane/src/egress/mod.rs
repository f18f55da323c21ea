//! Egress: frames that leave through a tunnel, whoever sent them.
//!
//! In: a batch of frames, each bound for a peer: a guest's, another peer's, our own answers, those that waited for a key.
//! Out: sealed datagrams on an uplink ([`seal`]), or frames that wait for a key ([`staged`]); notes on the others, for
//! whoever knows their sender. Never: a decision on where a frame goes; a frame that overtakes one which waits for the
//! same peer.
//!
//! One batch:
//!
//! 1. [`departure::plan`]: how each frame is cut, what its outer header says; [`admission`]: whether its peer can be
//!    sent to now, asked once per run of frames for one peer. What waited for that peer leaves first.
//! 2. [`seal::seal`]: all that may leave, in order, until there is no more room.
//! 3. Of the frames that were reached, those without a key are staged, the others noted.

pub(crate) mod admission;
pub(crate) mod departure;
pub(crate) mod keepalive;
pub(crate) mod probe;
pub(crate) mod seal;
pub(crate) mod staged;

use std::sync::{Arc, atomic::Ordering};

use arrayvec::ArrayVec;
use culvert_wire::{icmp::IcmpError, parse::parse_frame};

use self::{
    admission::{Unready, Way, admission},
    departure::{Bound, Departure, Passage},
    staged::{Sender, Whom},
};
use crate::{
    gateway::Refusal,
    guest::frames::{Frames, OwnFrame, OwnFrames},
    loss::{Lost, lose, lose_own},
    shared::{drops::DropReason, limits::SUB_BATCH, peer::Peer, snapshot::Network},
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Frames in one batch, at the most.
pub(crate) const BATCH: usize = SUB_BATCH;

/// What the sender's side is to do about a frame.
#[derive(Clone, Copy)]
pub(crate) struct Note {
    /// Its place in the batch.
    pub(crate) frame: usize,
    /// Why it was lost; `None` if it left all the same.
    pub(crate) lost: Option<DropReason>,
    /// What its sender should hear.
    pub(crate) tell: Option<IcmpError>,
}

/// Notes on a batch.
pub(crate) type Notes = ArrayVec<Note, BATCH>;

/// A frame that does not leave now.
#[derive(Clone, Copy)]
enum Left<'s> {
    /// It waits for the peer's key.
    Waits(&'s Arc<Peer>, Sender),
    /// It can't leave.
    Refused(Refusal),
}

/// Sends a batch of frames. Answers the first one that found no room, if any: it and all behind it are as they were, and
/// may be tried again.
pub(crate) fn depart<'h, 's, F: Frames>(
    turn: &Turn<'s>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    frames: &F,
    bound: impl Iterator<Item = Bound<'h, 's>>,
    notes: &mut Notes,
) -> Option<usize> {
    // 1. What may leave.
    let mut departures = ArrayVec::<Departure<'s>, BATCH>::new();
    let mut left = ArrayVec::<(usize, Left<'s>), BATCH>::new();
    let mut ways = ArrayVec::<Way, BATCH>::new();
    let mut recut = false;
    let mut run: Option<(&Arc<Peer>, Result<usize, Unready>)> = None;
    for bound in bound.take(BATCH) {
        let mut departure = match departure::plan(turn, frames, &bound) {
            Ok(departure) => departure,
            Err(refusal) => {
                left.push((bound.frame, Left::Refused(refusal)));
                continue;
            }
        };
        let admission = match run {
            Some((peer, admission)) if Arc::ptr_eq(peer, bound.peer) => admission,
            _ => {
                let admission = enter(turn, tools, sending, bound.peer, &left).map(|way| {
                    ways.push(way);
                    ways.len() - 1
                });
                run = Some((bound.peer, admission));
                admission
            }
        };
        match admission {
            Ok(way) => {
                departure.way = way;
                recut |= departure.plan.is_recut();
                departures.push(departure);
            }
            Err(Unready::KeyWanted) => {
                left.push((bound.frame, Left::Waits(bound.peer, bound.sender)));
            }
            Err(Unready::Refused(reason)) => {
                left.push((bound.frame, Left::Refused(admission::refusal(reason))));
            }
        }
    }

    // 2. All of it, as far as there is room.
    let gone = seal::seal(
        turn,
        &mut tools.engine,
        sending,
        frames,
        (&departures, &ways),
    );
    let rest = departures.get(gone).map(|first| first.frame);

    // 3. What stays behind, as far as it was reached.
    if recut {
        notes.extend(departures[..gone].iter().filter_map(note_cut));
    }
    for &(frame, left) in &left {
        if rest.is_some_and(|rest| frame > rest) {
            continue;
        }
        match left {
            Left::Waits(peer, sender) => stage(turn, tools, (frames, frame), peer, sender),
            Left::Refused(Refusal { reason, tell }) => notes.push(Note {
                frame,
                lost: Some(reason),
                tell,
            }),
        }
    }
    rest
}

/// It went out in smaller pieces: fragments are counted, and of smaller segments their sender should know why.
#[cold]
fn note_cut(departure: &Departure<'_>) -> Option<Note> {
    if departure.plan.is_fragmented() {
        let fragmented = &departure.peer.traffic.fragmented;
        fragmented.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let mtu = u32::try_from(departure.mtu).unwrap_or(u32::MAX);
    departure.plan.is_recut().then_some(Note {
        frame: departure.frame,
        lost: None,
        tell: Some(IcmpError::TooBig { mtu }),
    })
}

/// Whether a run of frames for `peer` may leave; what waited for it has left then.
#[inline]
fn enter<'s>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Arc<Peer>,
    left: &[(usize, Left<'s>)],
) -> Result<Way, Unready> {
    let way = admission(turn, sending, peer)?;
    if !tools.staged.is_empty() && tools.staged.holds(peer.index) {
        flush(turn, tools, sending, peer);
    }
    // A key that came in the middle of the batch, or went: no frame overtakes those that wait; the control core's word
    // to flush is on its way.
    let overtakes = left
        .iter()
        .any(|(_, left)| matches!(left, Left::Waits(waiting, _) if Arc::ptr_eq(waiting, peer)));
    if overtakes || (!tools.staged.is_empty() && tools.staged.holds(peer.index)) {
        return Err(Unready::KeyWanted);
    }
    Ok(way)
}

/// Copies a frame to those that wait for a key.
#[cold]
fn stage<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    (frames, frame): (&F, usize),
    peer: &Arc<Peer>,
    sender: Sender,
) {
    let overflow = |(index, uplink): Whom, vnet, bytes: &[u8]| {
        if let Some(peer) = turn.snapshot.peer(index) {
            peer.note_unstaged(1);
            lose_own(peer.books(), DropReason::StagedOverflow, vnet, bytes);
        } else if let Some(uplink) = uplink.and_then(|uplink| turn.snapshot.uplink(uplink)) {
            // It is gone, and the control core's word to forget its frames on the way.
            lose_own(uplink.books(), DropReason::PeerRemoved, vnet, bytes);
        }
    };
    let whom = (peer.index, peer.path().as_ref().map(|path| path.uplink()));
    let staged = &mut tools.staged;
    if staged.push(whom, sender, frames, frame, overflow) {
        peer.note_staged();
    } else {
        lose(
            peer.books(),
            DropReason::FrameTooLarge,
            Lost::Guest(frames, frame),
        );
    }
}

/// Sends what waited for `peer`, oldest first; answers how many packets have left.
#[cold]
pub(crate) fn flush(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Arc<Peer>,
) -> u64 {
    let Some(tunnel) = turn.snapshot.tunnel(peer.tunnel) else {
        return 0;
    };
    let sent = || peer.traffic.tx_packets.load(Ordering::Relaxed);
    let before = sent();
    let network = tunnel.network.and_then(|n| turn.snapshot.network(n));
    let passage = match network.is_some_and(|network| network.plain.is_some()) {
        true => Passage::Plain,
        false => Passage::Routed,
    };
    // With nothing to send, no key is wanted.
    while tools.staged.holds(peer.index)
        && let Ok(way) = admission(turn, sending, peer)
    {
        let Tools { engine, staged, .. } = tools;
        let mut taken = ArrayVec::<_, BATCH>::new();
        while !taken.is_full()
            && let Some(waiting) = staged.take(peer.index)
        {
            taken.push(waiting);
        }
        peer.note_unstaged(taken.len() as u64);
        let list: ArrayVec<_, BATCH> = taken
            .iter()
            .map(|(_, vnet, place)| OwnFrame {
                vnet: *vnet,
                bytes: staged.bytes(place.clone()),
            })
            .collect();
        let frames = OwnFrames(&list);
        let mut departures = ArrayVec::<_, BATCH>::new();
        for (frame, &(sender, ..)) in taken.iter().enumerate() {
            let departure = match network.is_some_and(|network| is_in(turn, network, sender)) {
                true => parse(turn, &frames, frame, peer, passage),
                false => Err(DropReason::GuestRemoved),
            };
            match departure {
                Ok(departure) => departures.push(departure),
                Err(reason) => lose(peer.books(), reason, Lost::Guest(&frames, frame)),
            }
        }
        let gone = seal::seal(turn, engine, sending, &frames, (&departures, &[way]));
        // Who is told of a smaller MTU now has sent on long since, and is told for that.
        departures[..gone].iter().for_each(|departure| {
            note_cut(departure);
        });
        // They have been waiting for long: the uplink's queue is not for them as well.
        for departure in &departures[gone..] {
            let lost = Lost::Cut(&frames, departure.frame, departure.plan.count());
            lose(peer.books(), DropReason::UplinkFull, lost);
        }
    }
    // Another worker's count as well.
    sent().wrapping_sub(before)
}

/// Whether who sent a frame that waited is in the network still. Its guest is known by its MAC address there, and of a
/// peer's frames the tunnel has been the network's all along.
fn is_in(turn: &Turn<'_>, network: &Network, sender: Sender) -> bool {
    let Sender::Port(index) = sender else {
        return true;
    };
    let port = turn.snapshot.port(index);
    let attachment = |at| turn.snapshot.attachment(at);
    let any = port.and_then(|port| port.attachments().find_map(attachment));
    let its = any.and_then(|any| attachment(network.by_mac(any.mac)?));
    its.is_some_and(|it| it.port == index)
}

/// The departure of a frame that waited.
fn parse<'s>(
    turn: &Turn<'_>,
    frames: &OwnFrames<'_>,
    frame: usize,
    peer: &'s Arc<Peer>,
    passage: Passage,
) -> Result<Departure<'s>, DropReason> {
    let len = u32::try_from(frames.len(frame)).unwrap_or(u32::MAX);
    let headers = parse_frame(frames.head(frame), len).map_err(|_| DropReason::FrameMalformed)?;
    let bound = Bound {
        frame,
        headers: &headers,
        sender: Sender::Peer(peer.index),
        peer,
        passage,
    };
    departure::plan(turn, frames, &bound).map_err(|refusal| refusal.reason)
}
