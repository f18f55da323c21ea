//! The receiving half of a seat's seam: what arrived, per flow.
//!
//! In: frames with the time of their arrival. Out: per flow received, duplicated, reordered, late; per stream latencies;
//! apart from them, what is not ours, of another trial, for another seat, or not as it was sent. Never: an allocation per
//! frame, a value put right in silence.
//!
//! Definitions, where others differ:
//! - *received* counts a packet once. A second one with the same number is a *duplicate*, and hides no loss.
//! - *lost* is what was sent less what was received, per flow; it is told when a trial is over (`trial`).
//! - *reordered*: a packet whose number is smaller than one of its flow that came before it (RFC 4737, section 3.3).
//!   *Displaced* is by how many numbers at most (RFC 5236, section 3: there by places of arrival).
//! - *late*: more than the profile's `late` after it was intended. It was received.
//! - *beyond*: so far behind that the window no longer tells whether it is a duplicate. It is in no other count.
//! - Latency is from the intended time: time that a packet waited for its sender is the device's, if it pushed back.

mod flow;
mod latency;

use culvert_wire::parse::{HEAD_LEN, L4};
use culvert_wire::parse_frame;
use serde::{Deserialize, Serialize};

use self::flow::{Flows, Verdict};
use crate::frames::{Signature, payload_byte, signature};
use crate::limits::SUPER_BYTES_MAX;
use crate::profile::Profile;
use crate::timeline::Timeline;

pub use self::{
    flow::FlowReceived,
    latency::{Latencies, LatencySummary, PERCENTILES},
};

/// What a seat receives, while a trial runs.
#[derive(Debug)]
pub struct Receive {
    trial: u8,
    lanes: Vec<Lane>,
    flows: Flows,
    /// The payload that every segment has, by its place; empty if payload is not compared.
    pattern: Vec<u8>,
    late_ns: u64,
    strange: Strange,
    timeline: Timeline,
}

/// A stream of the profile.
#[derive(Debug)]
struct Lane {
    first_flow: u32,
    flows: u32,
    /// Where its flows are among those of this seat, if it is to receive them.
    place: Option<usize>,
    received: Received,
    latencies: Latencies,
}

/// What of a stream arrived, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Each once.
    pub received: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Again.
    pub duplicates: u64,
    /// Behind one with a larger number.
    pub reordered: u64,
    /// By how many numbers at most.
    pub displaced: u64,
    /// Too far behind to tell.
    pub beyond: u64,
    /// After the time that counts as late.
    pub late: u64,
    /// Their signature is right, and what follows it is not.
    pub corrupted: u64,
    /// Before they were intended: clocks that differ. Not among the latencies.
    pub early: u64,
    /// After more than a minute. Not among the latencies.
    pub absurd: u64,
}

impl Received {
    /// Adds what another seat received.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.payload_bytes += other.payload_bytes;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.displaced = self.displaced.max(other.displaced);
        self.beyond += other.beyond;
        self.late += other.late;
        self.corrupted += other.corrupted;
        self.early += other.early;
        self.absurd += other.absurd;
    }
}

/// What arrived and belongs to no stream of this seat's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strange {
    /// Frames without a signature: ARP, neighbors, what others send.
    pub foreign: u64,
    /// Packets of a trial before.
    pub stale: u64,
    /// Packets that another seat was to receive.
    pub astray: u64,
    /// Packets with a flow or a number that nobody sent.
    pub unknown: u64,
}

impl Strange {
    /// Adds what another seat received.
    pub fn add(&mut self, other: &Self) {
        self.foreign += other.foreign;
        self.stale += other.stale;
        self.astray += other.astray;
        self.unknown += other.unknown;
    }
}

impl Receive {
    /// For a seat that receives those streams of a profile that are sent to it.
    #[must_use]
    pub fn new(profile: &Profile, seat: &str, trial: u8) -> Self {
        let mut flows = 0;
        let lanes = profile.streams.iter().map(|stream| {
            let own = stream.to.is_empty() || stream.to == seat;
            let place = own.then_some(flows);
            flows += if own { stream.flows as usize } else { 0 };
            Lane {
                first_flow: stream.first_flow,
                flows: stream.flows,
                place,
                received: Received::default(),
                latencies: Latencies::new(),
            }
        });
        let lanes = lanes.collect();
        let longest = if profile.verify {
            SUPER_BYTES_MAX as usize
        } else {
            0
        };
        Self {
            trial,
            lanes,
            flows: Flows::new(flows),
            pattern: (0..longest).map(payload_byte).collect(),
            late_ns: profile.late_ns,
            strange: Strange::default(),
            timeline: Timeline::new(profile.duration_ns),
        }
    }

    /// Begins another trial in the memory that it has: of the same streams, of another length.
    pub fn again(&mut self, profile: &Profile, trial: u8) {
        for lane in &mut self.lanes {
            lane.received = Received::default();
            lane.latencies.clear();
        }
        self.trial = trial;
        self.flows.clear();
        self.strange = Strange::default();
        self.timeline = Timeline::new(profile.duration_ns);
    }

    /// Takes a frame that arrived at a time. `segment` is the size of its segments if it is a super-frame (the gso_size of
    /// its virtio-net header), else 0.
    #[inline]
    pub fn frame(&mut self, frame: &[u8], segment: u16, now_ns: u64) {
        let head = &frame[..frame.len().min(HEAD_LEN)];
        let payload = u32::try_from(frame.len()).ok().and_then(|len| {
            let headers = parse_frame(head, len).ok()?;
            let known = matches!(headers.l4, L4::Udp(_) | L4::Tcp(_));
            known.then(|| headers.payload_offset..headers.l3_offset + headers.ip_len)
        });
        match payload.and_then(|payload| frame.get(payload)) {
            Some(payload) => self.payload(payload, segment, now_ns),
            None => self.strange.foreign += 1,
        }
    }

    /// Takes a payload of UDP or TCP, as a socket has it.
    #[inline]
    pub fn payload(&mut self, payload: &[u8], segment: u16, now_ns: u64) {
        let size = if segment == 0 {
            payload.len().max(1)
        } else {
            usize::from(segment)
        };
        if payload.is_empty() {
            self.strange.foreign += 1;
        }
        for segment in payload.chunks(size) {
            match segment.first_chunk().and_then(Signature::read) {
                Some(signature) => self.packet(&signature, segment, now_ns),
                None => self.strange.foreign += 1,
            }
        }
    }

    #[inline]
    fn packet(&mut self, signature: &Signature, payload: &[u8], now_ns: u64) {
        if signature.trial != self.trial {
            self.strange.stale += 1;
            return;
        }
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.has(signature.flow)) else {
            self.strange.unknown += 1;
            return;
        };
        let Some(place) = lane.place else {
            self.strange.astray += 1;
            return;
        };
        let flow = place + (signature.flow - lane.first_flow) as usize;
        let verdict = self.flows.take(flow, signature.sequence);
        if verdict == Verdict::Unknown {
            self.strange.unknown += 1;
            return;
        }
        lane.count(verdict, payload.len());
        lane.received.corrupted += u64::from(!is_whole(payload, &self.pattern));
        if matches!(verdict, Verdict::InOrder | Verdict::Reordered { .. }) {
            lane.time(signature.intended_ns, now_ns, self.late_ns);
            self.timeline.add(signature.intended_ns, 1);
        }
    }

    /// What of each stream arrived here, in the profile's order, and how long it took.
    pub fn received(&self) -> impl Iterator<Item = (&Received, &Latencies)> {
        self.lanes
            .iter()
            .map(|lane| (&lane.received, &lane.latencies))
    }

    /// What belongs to no stream.
    #[must_use]
    pub const fn strange(&self) -> Strange {
        self.strange
    }

    /// What a flow received here; `None` if it is another seat's.
    #[must_use]
    pub fn received_of(&self, flow: u32) -> Option<FlowReceived> {
        let lane = self.lanes.iter().find(|lane| lane.has(flow))?;
        Some(
            self.flows
                .received(lane.place? + (flow - lane.first_flow) as usize),
        )
    }

    pub(crate) const fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Packets in whose distance duplicates are seen.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.flows.window()
    }
}

impl Lane {
    #[inline]
    const fn has(&self, flow: u32) -> bool {
        flow >= self.first_flow && flow - self.first_flow < self.flows
    }

    #[inline]
    fn count(&mut self, verdict: Verdict, payload_len: usize) {
        let count = &mut self.received;
        match verdict {
            Verdict::InOrder => {}
            Verdict::Reordered { displaced } => {
                count.reordered += 1;
                count.displaced = count.displaced.max(displaced);
            }
            Verdict::Duplicate => {
                count.duplicates += 1;
                return;
            }
            Verdict::Beyond => {
                count.beyond += 1;
                return;
            }
            Verdict::Unknown => return,
        }
        count.received += 1;
        count.payload_bytes += payload_len as u64;
    }

    #[inline]
    fn time(&mut self, intended_ns: u64, now_ns: u64, late_ns: u64) {
        let Some(latency_ns) = now_ns.checked_sub(intended_ns) else {
            self.received.early += 1;
            return;
        };
        self.received.late += u64::from(latency_ns > late_ns);
        self.received.absurd += u64::from(!self.latencies.record(latency_ns));
    }
}

#[inline]
fn is_whole(payload: &[u8], pattern: &[u8]) -> bool {
    // An empty pattern is none to compare with.
    let expected = pattern.get(signature::LEN..payload.len());
    expected.is_none_or(|expected| payload[signature::LEN..] == *expected)
}

#[cfg(test)]
mod tests;
