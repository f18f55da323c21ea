//! Seal and encap: frames for a tunnel become WireGuard data messages on an uplink.
//!
//! In: departures, each with its peer and its cutting plan. Out: sealed
//! datagrams handed to the uplink, in order. Never: a frame begun without room for
//! it, a counter used twice, a payload byte copied before it is sealed (unless it
//! lies scattered over more than `SOURCE_SEGMENTS` pieces).
//!
//! One sub-batch, in numbered steps:
//!
//! 1. choose wire packets for one queue, at most `SUB_BATCH`, and reserve
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

use std::ops::Range;

use arrayvec::ArrayVec;
use culvert_aead::{Engine, Jobs, PayloadSum, SealJob, Segments, TAG_LEN};
use culvert_wire::Checksum;
use culvert_wireguard::message::{DATA_HEADER_LEN, DataHeader, data_len};

use super::{admission::Way, departure::Departure};
use crate::{
    guest::frames::{Frames, SEGMENT_ROOM},
    loss::{Lost, lose, lose_all},
    shared::{drops::DropReason, limits::SUB_BATCH, peer::signal},
    uplink::{Tx, Uplink},
    worker::{
        queues::{QueueIndex, Sending},
        turn::Turn,
    },
};

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

/// Seals and sends departures in order; answers how many are done with, sent or
/// dropped by name. The rest found no room and may be tried again.
pub(crate) fn seal<F: Frames>(
    turn: &Turn<'_>,
    engine: &mut Engine,
    sending: &mut Sending<'_>,
    frames: &F,
    (departures, ways): (&[Departure<'_>], &[Way]),
) -> usize {
    let mut next = 0;
    let mut segment = 0;
    while let Some(first) = departures.get(next) {
        let queue = ways[first.way].queue;
        let found = queue.and_then(|queue| Some((queue, sending.outlet(turn.snapshot, queue)?)));
        let Some((queue, (uplink, tx))) = found else {
            let lost = Lost::Cut(frames, first.frame, first.plan.count());
            lose(first.peer.books(), DropReason::UplinkDown, lost);
            next += 1;
            continue;
        };
        let (wanted, longest) = wanted((&departures[next..], ways), segment, queue);
        let room = tx.reserve(wanted, longest);
        let mut packets = ArrayVec::new();
        let reached = choose(departures, (next, segment), room, wanted, &mut packets);
        if packets.is_empty() {
            if segment > 0 {
                // The uplink stalled in the middle of a frame.
                let lost = Lost::Cut(frames, first.frame, first.plan.count() - segment);
                lose(first.peer.books(), DropReason::UplinkFull, lost);
                next += 1;
            }
            return next;
        }
        let all = (departures, ways);
        sub_batch(turn, engine, (uplink, tx), frames, all, &mut packets);
        (next, segment) = reached;
    }
    next
}

/// How many packets a sub-batch that starts at `segment` of the first departure
/// could take: all of the following ones that go to the same queue. And the bytes of
/// the longest of their datagrams.
#[inline]
fn wanted(
    (departures, ways): (&[Departure<'_>], &[Way]),
    segment: usize,
    queue: QueueIndex,
) -> (usize, usize) {
    let (mut wanted, mut longest) = (0, 0);
    for departure in departures {
        if wanted >= SUB_BATCH || ways[departure.way].queue != Some(queue) {
            break;
        }
        wanted += departure.plan.count();
        // None of a frame's segments is longer than the first.
        let len = departure.packet_len(departure.plan.segment(0).len);
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
                len: departure.packet_len(cut.len),
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
    engine: &mut Engine,
    (uplink, tx): (&Uplink, &mut Tx),
    frames: &F,
    (departures, ways): (&[Departure<'_>], &[Way]),
    packets: &mut ArrayVec<Packet, SUB_BATCH>,
) {
    let mut runs = ArrayVec::<&Way, SUB_BATCH>::new();
    let (all, longest) = ((departures, ways), tx.datagram_max());
    reserve_counters(turn, frames, all, packets, &mut runs, longest);
    let built = build_and_seal(engine, tx, frames, departures, packets, &runs);
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
        let departure = &departures[packet.departure];
        let lost = Lost::Cut(frames, departure.frame, 1);
        lose(departure.peer.books(), DropReason::NotSealed, lost);
    }
    tx.flush(uplink);
}

/// Step 2: one range of counters per run; packets of a run that gets none are
/// dropped by name.
fn reserve_counters<'w, F: Frames>(
    turn: &Turn<'_>,
    frames: &F,
    (departures, ways): (&[Departure<'_>], &'w [Way]),
    packets: &mut ArrayVec<Packet, SUB_BATCH>,
    runs: &mut ArrayVec<&'w Way, SUB_BATCH>,
    datagram_max: usize,
) {
    // A tunnel's MTU may be more than the uplink's rooms hold.
    let too_long = |packet: &Packet| data_len(packet.len) > datagram_max;
    let mut kept = 0;
    let mut start = 0;
    while start < packets.len() {
        let Departure { peer, way, .. } = departures[packets[start].departure];
        let is_too_long = too_long(&packets[start]);
        let end = start
            + packets[start..]
                .iter()
                .take_while(|p| departures[p.departure].way == way)
                .take_while(|p| too_long(p) == is_too_long)
                .count();
        let way = &ways[way];
        let reserved = match is_too_long {
            true => Err(DropReason::TooBig),
            false => (way.keypair)
                .reserve(end - start, turn.now)
                .map_err(|_| DropReason::KeypairSpent),
        };
        match reserved {
            Ok(range) => {
                let run = runs.len();
                runs.push(way);
                for (from, counter) in (start..end).zip(range) {
                    if kept != from {
                        packets.swap(kept, from);
                    }
                    packets[kept].counter = counter;
                    packets[kept].run = run;
                    kept += 1;
                }
            }
            Err(reason) => {
                let lost = packets[start..end].iter().map(|packet| {
                    let frame = departures[packet.departure].frame;
                    Lost::Cut(frames, frame, 1)
                });
                lose_all(peer.books(), reason, lost);
            }
        }
        start = end;
    }
    packets.truncate(kept);
}

/// Steps 3 and 4; answers how many packets were sealed, from the first on.
fn build_and_seal<F: Frames>(
    engine: &mut Engine,
    tx: &mut Tx,
    frames: &F,
    departures: &[Departure<'_>],
    packets: &mut [Packet],
    runs: &[&Way],
) -> usize {
    let sums = tx.needs_sums();
    engine.sum_sealed(sums);
    let room = Segments::<SEGMENT_ROOM>::new();
    let mut jobs = Jobs::<SealJob<'_>, SUB_BATCH>::new();
    let needs_sum = packets
        .iter()
        .any(|p| departures[p.departure].plan.needs_sum());
    let write_head = |packet: &Packet, sum: Checksum, head: &mut [u8]| {
        departures[packet.departure].write_head(frames, packet.segment, sum, head);
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
        let head = departure.head_len(packet.segment);
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
        engine.seal_with(&mut jobs, |index, sum: PayloadSum, head| {
            let mut payload = Checksum::ZERO;
            payload.add_u16(sum.value());
            write_head(&packets[index], payload, head);
        });
    } else {
        engine.seal(&mut jobs);
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
