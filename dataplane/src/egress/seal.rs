//! Seal and encap: frames for a tunnel become WireGuard data messages on an uplink.
//!
//! In: frames that were routed to a peer, each with its cutting plan. Out: sealed
//! datagrams handed to the uplink, in order. Never: a frame begun without room for
//! it, a counter used twice, a payload byte copied before it is sealed (unless it
//! lies scattered over more than `SOURCE_SEGMENTS` pieces).
//!
//! One sub-batch, in numbered steps:
//!
//! 1. choose wire packets for one uplink queue, at most `SUB_BATCH`, and reserve
//!    their rooms; a frame starts only if all of it fits (or a whole sub-batch does);
//! 2. reserve one range of counters per run of packets of one keypair;
//! 3. describe each packet: data header, head, payload where it lies;
//! 4. seal all of them at once; heads come last, when the payload's sum is known;
//! 5. commit and flush.
//!
//! ```text
//!  room  | data header (16) | inner IP + L4 head | payload | padding | tag (16) |
//!                           |<----------- padded to 16, sealed ---->|
//! ```

use std::{ops::Range, sync::Arc};

use arrayvec::ArrayVec;
use culvert_aead::{Jobs, PayloadSum, SealJob, Segments, TAG_LEN};
use culvert_wire::{Checksum, segment::Plan};
use culvert_wireguard::{
    Keypair,
    message::{DATA_HEADER_LEN, DataHeader, data_len},
    padding::padded_len,
};

use crate::{
    guest::frames::{Frames, SEGMENT_ROOM},
    shared::{
        drops::DropReason,
        limits::SUB_BATCH,
        path::Path,
        peer::{Peer, signal},
    },
    uplink::{Outer, Tx},
    worker::turn::{Sending, Tools, Turn},
};

/// A frame that leaves through a tunnel.
pub(crate) struct Departure<'s> {
    /// Its place in the burst.
    pub(crate) frame: usize,
    /// Who gets it.
    pub(crate) peer: &'s Arc<Peer>,
    /// How it is cut.
    pub(crate) plan: Plan,
    /// The tunnel's MTU: padding stays within it.
    pub(crate) mtu: usize,
    /// The outer IP header's part: the inner ECN bits.
    pub(crate) outer: Outer,
    /// The frame was routed, so its hop limit falls by one.
    pub(crate) routed: bool,
}

/// One wire packet of a sub-batch.
struct Packet {
    departure: usize,
    segment: usize,
    /// Where its payload lies in the frame.
    payload: Range<usize>,
    /// Its plaintext's length with padding.
    len: usize,
    counter: u64,
    /// Which of the sub-batch's runs it belongs to.
    run: usize,
    /// The sealed datagram's sum, where sealing made it by the way.
    sum: Option<Checksum>,
}

/// Consecutive packets for one peer: one keypair, one path.
struct Run {
    keypair: Arc<Keypair>,
    path: Arc<Path>,
}

/// Whether a peer can be sent to now.
pub(crate) enum Admission {
    /// It has a key and a way.
    Ready,
    /// It has no usable key: the frame may wait for one.
    KeyWanted,
    /// It can't be sent to.
    Refused(DropReason),
}

/// Looks at a peer's key and way, and asks the control core for what is missing.
pub(crate) fn admission(turn: &Turn<'_>, peer: &Peer) -> Admission {
    {
        let path = peer.path();
        let Some(path) = path.as_ref() else {
            return Admission::Refused(DropReason::NoEndpoint);
        };
        if path.link == crate::shared::path::Link::Unresolved {
            peer.want(signal::NEXT_HOP_WANTED, turn.now, turn.attention);
            return Admission::Refused(DropReason::NextHopUnresolved);
        }
    }
    let keypair = peer.keypair();
    match keypair.as_ref() {
        Some(keypair) if keypair.sendable(turn.now).is_ok() => Admission::Ready,
        Some(_) | None => {
            peer.want(signal::KEY_WANTED, turn.now, turn.attention);
            Admission::KeyWanted
        }
    }
}

/// Seals and sends departures in order; answers how many are done with, sent or
/// dropped by name. The rest found no room and may be tried again.
pub(crate) fn seal<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    frames: &F,
    departures: &[Departure<'_>],
) -> usize {
    let mut next = 0;
    let mut segment = 0;
    while let Some(first) = departures.get(next) {
        let Some(position) = sending.position(first.peer.tunnel) else {
            first
                .peer
                .drops
                .add(DropReason::UplinkDown, first.plan.count() as u64);
            next += 1;
            continue;
        };
        let (wanted, longest) = wanted(sending, &departures[next..], segment, position);
        let Some(tx) = sending.queue(position) else {
            return next;
        };
        let room = tx.reserve(wanted, longest);
        let mut packets = ArrayVec::new();
        let reached = choose(departures, (next, segment), room, wanted, &mut packets);
        if packets.is_empty() {
            if segment > 0 {
                // The uplink stalled in the middle of a frame.
                let lost = first.plan.count() - segment;
                first.peer.drops.add(DropReason::UplinkFull, lost as u64);
                next += 1;
            }
            return next;
        }
        sub_batch(turn, tools, tx, frames, departures, &mut packets);
        (next, segment) = reached;
    }
    next
}

/// How many packets a sub-batch that starts at `segment` of the first departure
/// could take: all of the following ones that go to the same queue. And the bytes of
/// the longest of their datagrams.
fn wanted(
    sending: &Sending<'_>,
    departures: &[Departure<'_>],
    segment: usize,
    position: usize,
) -> (usize, usize) {
    let (mut wanted, mut longest) = (0, 0);
    for departure in departures {
        if wanted >= SUB_BATCH || sending.position(departure.peer.tunnel) != Some(position) {
            break;
        }
        wanted += departure.plan.count();
        // None of a frame's segments is longer than the first.
        let len = padded_len(departure.plan.segment(0).len, departure.mtu);
        longest = longest.max(data_len(len));
    }
    ((wanted - segment).min(SUB_BATCH), longest)
}

/// Step 1: the packets that `room` rooms hold. Answers where the next sub-batch
/// starts.
fn choose(
    departures: &[Departure<'_>],
    (mut next, mut segment): (usize, usize),
    room: usize,
    wanted: usize,
    packets: &mut ArrayVec<Packet, SUB_BATCH>,
) -> (usize, usize) {
    let mut left = room.min(wanted);
    while let Some(departure) = departures.get(next) {
        let rest = departure.plan.count() - segment;
        // A frame begins only if all of it fits; one that is larger than a
        // sub-batch begins with a whole one, and goes on with what there is.
        let begins = segment == 0;
        if left == 0 || (begins && rest > left && !(packets.is_empty() && left == SUB_BATCH)) {
            break;
        }
        let take = rest.min(left);
        for index in segment..segment + take {
            let cut = departure.plan.segment(index);
            packets.push(Packet {
                departure: next,
                segment: index,
                payload: cut.payload,
                len: padded_len(cut.len, departure.mtu),
                counter: 0,
                run: 0,
                sum: None,
            });
        }
        left -= take;
        if take < rest {
            return (next, segment + take);
        }
        next += 1;
        segment = 0;
    }
    (next, segment)
}

/// Steps 2 to 5.
fn sub_batch<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    tx: &mut Tx,
    frames: &F,
    departures: &[Departure<'_>],
    packets: &mut ArrayVec<Packet, SUB_BATCH>,
) {
    let mut runs = ArrayVec::<Run, SUB_BATCH>::new();
    reserve_counters(turn, departures, packets, &mut runs, tx.datagram_max());
    let built = build_and_seal(tools, tx, frames, departures, packets, &runs);
    for packet in packets.iter().take(built) {
        let outer = departures[packet.departure].outer;
        tx.commit(
            data_len(packet.len),
            &runs[packet.run].path,
            outer,
            packet.sum,
        );
    }
    note_sent(turn, departures, &packets[..built]);
    for packet in &packets[built..] {
        let peer = departures[packet.departure].peer;
        peer.drops.add(DropReason::NotSealed, 1);
    }
    let uplink = departures
        .first()
        .and_then(|departure| turn.snapshot.tunnel(departure.peer.tunnel))
        .and_then(|tunnel| turn.snapshot.uplink(tunnel.uplink));
    if let Some(uplink) = uplink {
        tx.flush(&uplink.counters);
    }
}

/// Step 2: one range of counters per run; packets of a run that gets none are
/// dropped by name.
fn reserve_counters(
    turn: &Turn<'_>,
    departures: &[Departure<'_>],
    packets: &mut ArrayVec<Packet, SUB_BATCH>,
    runs: &mut ArrayVec<Run, SUB_BATCH>,
    datagram_max: usize,
) {
    // A tunnel's MTU may be more than the uplink's rooms hold.
    let too_long = |packet: &Packet| data_len(packet.len) > datagram_max;
    let mut kept = 0;
    let mut start = 0;
    while start < packets.len() {
        let peer = departures[packets[start].departure].peer;
        let is_too_long = too_long(&packets[start]);
        let end = start
            + packets[start..]
                .iter()
                .take_while(|p| Arc::ptr_eq(departures[p.departure].peer, peer))
                .take_while(|p| too_long(p) == is_too_long)
                .count();
        let keypair = peer.keypair();
        let path = peer.path();
        let reserved = match (keypair.as_ref(), path.as_ref()) {
            _ if is_too_long => Err(DropReason::TooBig),
            (None, _) => Err(DropReason::KeypairSpent),
            (_, None) => Err(DropReason::NoEndpoint),
            (Some(keypair), Some(path)) => keypair
                .reserve(end - start, turn.now)
                .map(|range| (range, keypair, path))
                .map_err(|_| DropReason::KeypairSpent),
        };
        match reserved {
            Ok((range, keypair, path)) => {
                let run = runs.len();
                runs.push(Run {
                    keypair: Arc::clone(keypair),
                    path: Arc::clone(path),
                });
                for (from, counter) in (start..end).zip(range) {
                    if kept != from {
                        packets.swap(kept, from);
                    }
                    packets[kept].counter = counter;
                    packets[kept].run = run;
                    kept += 1;
                }
            }
            Err(reason) => peer.drops.add(reason, (end - start) as u64),
        }
        start = end;
    }
    packets.truncate(kept);
}

/// Steps 3 and 4; answers how many packets were sealed, from the first on.
fn build_and_seal<F: Frames>(
    tools: &mut Tools,
    tx: &mut Tx,
    frames: &F,
    departures: &[Departure<'_>],
    packets: &mut [Packet],
    runs: &[Run],
) -> usize {
    let sums = tx.needs_sums();
    tools.engine.sum_sealed(sums);
    let room = Segments::<SEGMENT_ROOM>::new();
    let mut jobs = Jobs::<SealJob<'_>, SUB_BATCH>::new();
    let needs_sum = packets
        .iter()
        .any(|p| departures[p.departure].plan.needs_sum());
    let write_head = |packet: &Packet, sum: Checksum, head: &mut [u8]| {
        let departure = &departures[packet.departure];
        departure
            .plan
            .write_headers(packet.segment, frames.head(departure.frame), sum, head);
        if departure.routed {
            decrement_hop_limit(head);
        }
    };
    for (packet, slot) in packets.iter_mut().zip(tx.rooms()) {
        let departure = &departures[packet.departure];
        let keypair = &runs[packet.run].keypair;
        let Some((header, body)) = slot.bytes_mut().split_first_chunk_mut::<DATA_HEADER_LEN>()
        else {
            break;
        };
        DataHeader {
            receiver: keypair.remote_index(),
            counter: packet.counter,
        }
        .write(header);
        packet.sum = sums.then(|| Checksum::of(header));
        let head = departure.plan.header_len();
        let (len, payload) = (packet.len, &packet.payload);
        if body.len() < len + TAG_LEN + culvert_aead::TAILROOM {
            break;
        }
        if !needs_sum {
            write_head(packet, Checksum::ZERO, &mut body[..head]);
        }
        let key = keypair.sending_key();
        let source = frames.segments(departure.frame, payload.clone(), &room);
        let job = match source {
            Some(source) => SealJob::gather(key, packet.counter, head, source, body, len),
            None => {
                // Scattered: gather it here first.
                let end = head + payload.len();
                frames.copy(departure.frame, payload.start, &mut body[head..end]);
                body[end..len].fill(0);
                SealJob::in_place(key, packet.counter, body, len).and_then(|j| j.with_head(head))
            }
        };
        let Ok(job) = job else { break };
        if jobs.push(job).is_err() {
            break;
        }
    }
    let built = jobs.len();
    if needs_sum {
        tools
            .engine
            .seal_with(&mut jobs, |index, sum: PayloadSum, head| {
                let mut payload = Checksum::ZERO;
                payload.add_u16(sum.value());
                write_head(&packets[index], payload, head);
            });
    } else {
        tools.engine.seal(&mut jobs);
    }
    if sums {
        for (packet, job) in packets.iter_mut().zip(jobs.iter()) {
            packet.sum = job.sealed_sum().and_then(|sealed| {
                let mut sum = packet.sum?;
                sum.add_u16(sealed.value());
                Some(sum)
            });
        }
    }
    built
}

/// Counts what was sealed for each peer and tells the control core of it.
fn note_sent(turn: &Turn<'_>, departures: &[Departure<'_>], packets: &[Packet]) {
    for run in packets.chunk_by(|a, b| a.run == b.run) {
        let peer = departures[run[0].departure].peer;
        let bytes: usize = run.iter().map(|packet| data_len(packet.len)).sum();
        peer.traffic.sent(run.len() as u64, bytes as u64);
        peer.raise(signal::DATA_SENT, turn.attention);
    }
}

/// Seals and sends one empty packet: a keepalive.
pub(crate) fn keepalive(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    peer: &Arc<Peer>,
) {
    let (keypair, path) = (peer.keypair(), peer.path());
    let (Some(keypair), Some(path)) = (keypair.as_ref(), path.as_ref()) else {
        return;
    };
    let Some(position) = sending.position(peer.tunnel) else {
        return;
    };
    let Some(tx) = sending.queue(position) else {
        return;
    };
    let tunnel = turn.snapshot.tunnel(peer.tunnel);
    let Some(uplink) = tunnel.and_then(|tunnel| turn.snapshot.uplink(tunnel.uplink)) else {
        return;
    };
    if tx.reserve(1, data_len(0)) == 0 {
        peer.drops.add(DropReason::UplinkFull, 1);
        return;
    }
    let Ok(mut range) = keypair.reserve(1, turn.now) else {
        peer.want(signal::KEY_WANTED, turn.now, turn.attention);
        return;
    };
    let (Some(counter), Some(room)) = (range.next(), tx.rooms().first_mut()) else {
        return;
    };
    let Some((header, body)) = room.bytes_mut().split_first_chunk_mut::<DATA_HEADER_LEN>() else {
        return;
    };
    DataHeader {
        receiver: keypair.remote_index(),
        counter,
    }
    .write(header);
    let Ok(job) = SealJob::in_place(keypair.sending_key(), counter, body, 0) else {
        return;
    };
    tools.engine.seal(&mut [job]);
    tx.commit(data_len(0), path, Outer::default(), None);
    tx.flush(&uplink.counters);
    peer.traffic.sent(1, data_len(0) as u64);
    peer.raise(signal::KEEPALIVE_SENT, turn.attention);
}

/// Lowers the hop limit of the IP packet that begins with `head` by one. Its caller
/// made sure that it is above one.
pub(crate) fn decrement_hop_limit(head: &mut [u8]) {
    match head.first().map(|first| first >> 4) {
        Some(4) if head.len() >= 20 => {
            let old = u16::from_be_bytes([head[8], head[9]]);
            head[8] = head[8].wrapping_sub(1);
            let new = u16::from_be_bytes([head[8], head[9]]);
            let field = u16::from_be_bytes([head[10], head[11]]);
            let field = culvert_wire::checksum::update(field, old, new);
            head[10..12].copy_from_slice(&field.to_be_bytes());
        }
        Some(6) if head.len() >= 8 => head[7] = head[7].wrapping_sub(1),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_hop_limit_keeps_the_header_checksum_right() {
        for ttl in [2, 64, 255] {
            let mut header = [
                0x45, 0, 0, 84, 1, 2, 0x40, 0, ttl, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            let sum = Checksum::of(&header).complement();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            decrement_hop_limit(&mut header);
            assert_eq!(header[8], ttl - 1);
            assert!(Checksum::of(&header).is_valid());
        }
    }
}
