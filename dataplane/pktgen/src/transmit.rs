//! The sending half of a seat's seam: what is due, and its bytes.
//!
//! In: a profile, the rate of each stream, the time. Out: frames, one after the other, into buffers that the seat has; what
//! was intended, offered, sent and unsent. Never: an allocation per frame, a packet that leaves later than the catch-up time
//! allows, a clock.
//!
//! A seat turns in a loop:
//!
//! ```ignore
//! while let Some(due) = transmit.next(now) {          // at most as many as it has buffers for
//!     transmit.write(&due, buffer, holds);            // the frame
//!     let vnet = transmit.vnet(&due);                 // if it has a virtio-net header
//!     if !device.takes(buffer) { transmit.refused(&due) }
//! }
//! transmit.close(now);                                // at the end, or when it is interrupted
//! ```

#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers that limits keep small, sequence numbers modulo their field"
)]

use culvert_wire::VnetHeader;
use serde::{Deserialize, Serialize};

use crate::frames::{Addresses, Made, Odometer, Signature, Template};
use crate::pace::Pace;
use crate::profile::{Profile, Stream};
use crate::timeline::Timeline;

/// One seat's streams, while a trial runs.
#[derive(Debug)]
pub struct Transmit {
    lanes: Vec<Lane>,
    trial: u8,
    /// What the device should have let through: what it was given, and what it did not take.
    timeline: Timeline,
    fault: Fault,
    /// The lane that is due first.
    first: usize,
}

/// A stream that this seat sends.
#[derive(Debug)]
struct Lane {
    /// Its place in the profile.
    stream: usize,
    pace: Pace,
    odometer: Odometer,
    templates: Vec<Template>,
    sequence: Vec<u8>,
    place: usize,
    flows: Vec<FlowSent>,
    first_flow: u32,
    sent: Sent,
    /// Packets that were made ahead and whose time passed.
    missed: u64,
    /// Of those by the generator's fault; and of frames that were stepped over.
    own_missed: u64,
    own_skipped: u64,
}

/// Whose fault it is when a packet's time passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// The generator's: nothing but itself kept it from sending.
    #[default]
    Generator,
    /// The device's: it had no room.
    Device,
}

/// What a flow has sent.
#[derive(Clone, Copy, Debug, Default)]
struct FlowSent {
    /// Packets made: the next one's sequence number.
    made: u64,
    refused: u32,
    /// The next one's sequence number of TCP.
    tcp_sequence: u32,
}

/// What a stream has sent, in packets: a super-frame is as many as it is cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Whose time came. `offered` and `unsent` and nothing else; of those, `sent` were taken.
    pub intended: u64,
    /// That were made and handed to the device.
    pub offered: u64,
    /// That the device took.
    pub sent: u64,
    /// That were not sent: too late, or not taken.
    pub unsent: u64,
    /// Of those, whose time passed by the generator's own fault.
    #[serde(default)]
    pub own_unsent: u64,
    /// Bytes of frames that the device took, without check sequences.
    pub bare_bytes: u64,
}

impl Sent {
    /// Adds what another seat sent.
    pub fn add(&mut self, other: &Self) {
        self.intended += other.intended;
        self.offered += other.offered;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.own_unsent += other.own_unsent;
        self.bare_bytes += other.bare_bytes;
    }
}

/// A frame that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    lane: u16,
    template: u16,
    made: Made,
}

/// What is kept of a frame that was made ahead of its time, in case that its time passes.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    intended_ns: u64,
    flow: u32,
    lane: u16,
    template: u16,
}

impl Kept {
    /// When it is to leave.
    #[inline]
    #[must_use]
    pub const fn intended_ns(&self) -> u64 {
        self.intended_ns
    }
}

impl Due {
    /// What has to be kept of it by whoever makes frames ahead.
    #[inline]
    #[must_use]
    pub const fn kept(&self) -> Kept {
        Kept {
            intended_ns: self.intended_ns(),
            flow: self.flow(),
            lane: self.lane,
            template: self.template,
        }
    }

    /// When it was to leave.
    #[inline]
    #[must_use]
    pub const fn intended_ns(&self) -> u64 {
        self.made.signature.intended_ns
    }

    /// Its flow, among those of all streams.
    #[inline]
    #[must_use]
    pub const fn flow(&self) -> u32 {
        self.made.signature.flow
    }

    /// Which template it is made of, among those of this seat. A buffer that has a frame of the same needs few bytes written.
    #[inline]
    #[must_use]
    pub const fn template(&self) -> (u16, u16) {
        (self.lane, self.template)
    }

    /// Where its source and its destination are in their ranges: of which peer, to which guest.
    #[inline]
    #[must_use]
    pub const fn places(&self) -> (u32, u32) {
        let Addresses {
            source_place,
            destination_place,
            ..
        } = self.made.addresses;
        (source_place, destination_place)
    }
}

impl Transmit {
    /// Those streams of a profile that a seat sends; `packets_per_s` has a rate for each stream of the profile, in packets.
    #[must_use]
    pub fn new(profile: &Profile, seat: &str, packets_per_s: &[f64], trial: u8) -> Self {
        let streams = profile.streams.iter().enumerate().zip(packets_per_s);
        let own = streams.filter(|((_, stream), _)| stream.from.is_empty() || stream.from == seat);
        let mut transmit = Self {
            lanes: own
                .map(|((place, stream), rate)| Lane::new(profile, place, stream, *rate))
                .collect(),
            trial,
            timeline: Timeline::new(profile.duration_ns),
            fault: Fault::Generator,
            first: 0,
        };
        transmit.choose();
        transmit
    }

    /// Begins another trial in the memory that it has: of the same streams, with other rates or another length.
    pub fn again(&mut self, profile: &Profile, packets_per_s: &[f64], trial: u8) {
        for lane in &mut self.lanes {
            let rate = packets_per_s.get(lane.stream).copied().unwrap_or(0.0);
            lane.again(profile, rate);
        }
        self.trial = trial;
        self.timeline = Timeline::new(profile.duration_ns);
        self.fault = Fault::Generator;
        self.first = 0;
        self.choose();
    }

    /// Whose fault it is if packets turn out to be too late from now on.
    #[inline]
    pub const fn blame(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// When the next frame is due: until then a seat may sleep.
    #[inline]
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        self.lanes.get(self.first)?.pace.due_ns()
    }

    /// The next frame whose time has come, if there is one.
    #[inline]
    pub fn next(&mut self, now_ns: u64) -> Option<Due> {
        if !self.expire(now_ns) {
            return None;
        }
        let lane = self.lanes.get(self.first)?;
        lane.pace.due_ns().filter(|&due| due <= now_ns)?;
        let due = self.lanes[self.first].take(self.first, self.trial);
        let segments = self.template(&due).segments();
        self.timeline.add(due.intended_ns(), segments);
        self.choose();
        Some(due)
    }

    /// Steps over what is too late, in every lane: what is behind it in another one may not be. Whoever has no room for a frame
    /// calls it, too, so that each packet is late by the fault of its time. False if there is more than one call steps over.
    #[inline]
    pub fn expire(&mut self, now_ns: u64) -> bool {
        while let Some(lane) = self.lanes.get_mut(self.first) {
            let is_late = |due: u64| due + lane.pace.catch_up_ns() < now_ns;
            if !lane.pace.due_ns().is_some_and(is_late) {
                break;
            }
            if !lane.skip(now_ns, self.fault, &mut self.timeline) {
                return false;
            }
            self.choose();
        }
        true
    }

    /// Writes a frame; gives its length. With `holds` the buffer has a frame of the same template from before.
    ///
    /// # Panics
    /// If the buffer is shorter than [`Transmit::longest`].
    #[inline]
    pub fn write(&self, due: &Due, buffer: &mut [u8], holds: bool) -> usize {
        let template = self.template(due);
        template.write(&due.made, buffer, holds);
        template.len()
    }

    /// What a virtio-net header says of a frame.
    #[inline]
    #[must_use]
    pub fn vnet(&self, due: &Due) -> VnetHeader {
        self.template(due).vnet()
    }

    /// The device did not take a frame, and it won't be offered again.
    #[inline]
    pub fn refused(&mut self, due: &Due) {
        self.take_back(&due.kept());
    }

    /// A frame that was made ahead was not offered: its time has passed.
    #[inline]
    pub fn missed(&mut self, kept: &Kept) {
        let segments = self.not_offered(kept);
        let lane = &mut self.lanes[usize::from(kept.lane)];
        lane.missed += u64::from(segments);
        if self.fault == Fault::Generator {
            lane.own_missed += u64::from(segments);
            self.timeline.take(kept.intended_ns, segments);
        }
    }

    /// A frame that was made ahead was not intended after all: the trial was ended before its time.
    pub fn withdrawn(&mut self, kept: &Kept) {
        let segments = self.not_offered(kept);
        self.timeline.take(kept.intended_ns, segments);
    }

    fn not_offered(&mut self, kept: &Kept) -> u32 {
        let segments = self.take_back(kept);
        self.lanes[usize::from(kept.lane)].sent.offered -= u64::from(segments);
        segments
    }

    /// A frame was not sent; gives how many packets it is.
    #[inline]
    fn take_back(&mut self, kept: &Kept) -> u32 {
        let lane = &mut self.lanes[usize::from(kept.lane)];
        let template = &lane.templates[usize::from(kept.template)];
        let segments = template.segments();
        lane.sent.sent -= u64::from(segments);
        lane.sent.bare_bytes -= template.len() as u64;
        let flow = &mut lane.flows[(kept.flow - lane.first_flow) as usize];
        flow.refused = flow.refused.saturating_add(segments);
        segments
    }

    /// Ends the trial at a time: what was intended before it and not offered is unsent.
    pub fn close(&mut self, now_ns: u64) {
        for lane in &mut self.lanes {
            lane.close(now_ns, self.fault, &mut self.timeline);
        }
    }

    /// What each stream of this seat has sent, with its place in the profile.
    pub fn sent(&self) -> impl Iterator<Item = (usize, Sent)> {
        self.lanes.iter().map(|lane| (lane.stream, lane.sent()))
    }

    /// How many packets a flow of this seat has sent; `None` if it is another seat's.
    #[must_use]
    pub fn sent_by(&self, flow: u32) -> Option<u64> {
        self.lanes.iter().find_map(|lane| {
            let flow = lane
                .flows
                .get(flow.checked_sub(lane.first_flow)? as usize)?;
            Some(flow.made - u64::from(flow.refused))
        })
    }

    pub(crate) const fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The longest frame, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        let templates = self.lanes.iter().flat_map(|lane| &lane.templates);
        templates.map(Template::len).max().unwrap_or(0)
    }

    fn template(&self, due: &Due) -> &Template {
        &self.lanes[usize::from(due.lane)].templates[usize::from(due.template)]
    }

    #[inline]
    fn choose(&mut self) {
        if self.lanes.len() > 1 {
            let due = |lane: &Lane| lane.pace.due_ns().unwrap_or(u64::MAX);
            let first = self
                .lanes
                .iter()
                .enumerate()
                .min_by_key(|(_, lane)| due(lane));
            self.first = first.map_or(0, |(place, _)| place);
        }
    }
}

impl Lane {
    fn new(profile: &Profile, place: usize, stream: &Stream, packets_per_s: f64) -> Self {
        let templates: Vec<Template> = stream
            .mix
            .sizes()
            .iter()
            .map(|&len| Template::new(stream, len))
            .collect();
        Self {
            stream: place,
            pace: pace(profile, place, packets_per_s),
            odometer: Odometer::new(stream),
            templates,
            sequence: stream.mix.sequence().to_vec(),
            place: 0,
            flows: vec![FlowSent::default(); stream.flows as usize],
            first_flow: stream.first_flow,
            sent: Sent::default(),
            missed: 0,
            own_missed: 0,
            own_skipped: 0,
        }
    }

    fn again(&mut self, profile: &Profile, packets_per_s: f64) {
        self.pace = pace(profile, self.stream, packets_per_s);
        self.odometer = Odometer::new(&profile.streams[self.stream]);
        self.place = 0;
        self.flows.fill(FlowSent::default());
        self.sent = Sent::default();
        (self.missed, self.own_missed, self.own_skipped) = (0, 0, 0);
    }

    /// Steps over what is too late. False if there is more of it than one call steps over.
    #[cold]
    fn skip(&mut self, now_ns: u64, fault: Fault, timeline: &mut Timeline) -> bool {
        let (from_ns, before) = (self.pace.due_ns(), self.pace.skipped());
        let is_all = self.pace.skip(now_ns);
        let limit_ns = now_ns.saturating_sub(self.pace.catch_up_ns());
        let to_ns = self.pace.due_ns().map_or(limit_ns, |it| it.min(limit_ns));
        self.passed((from_ns, to_ns), before, fault, timeline);
        is_all
    }

    fn close(&mut self, now_ns: u64, fault: Fault, timeline: &mut Timeline) {
        let (from_ns, before) = (self.pace.due_ns(), self.pace.skipped());
        self.pace.close(now_ns);
        self.passed((from_ns, now_ns), before, fault, timeline);
    }

    /// Frames were stepped over, by somebody's fault.
    fn passed(
        &mut self,
        (from_ns, to_ns): (Option<u64>, u64),
        before: u64,
        fault: Fault,
        timeline: &mut Timeline,
    ) {
        let frames = self.pace.skipped() - before;
        match (fault, from_ns) {
            (Fault::Generator, _) => self.own_skipped += frames,
            (Fault::Device, Some(from_ns)) => {
                timeline.spread(from_ns, to_ns, self.in_packets(frames));
            }
            (Fault::Device, None) => {}
        }
    }

    #[inline]
    fn take(&mut self, lane: usize, trial: u8) -> Due {
        let intended_ns = self.pace.take();
        let place = self.sequence[self.place];
        self.place += 1;
        if self.place == self.sequence.len() {
            self.place = 0;
        }
        let template = &self.templates[usize::from(place)];
        let flow = &mut self.flows[(self.odometer.flow() - self.first_flow) as usize];
        let made = Made {
            addresses: self.odometer.addresses(),
            signature: Signature {
                trial,
                flow: self.odometer.flow(),
                // Modulo 2³²: the receiver extends it.
                sequence: flow.made as u32,
                intended_ns,
            },
            tcp_sequence: flow.tcp_sequence,
        };
        let segments = u64::from(template.segments());
        flow.made += segments;
        flow.tcp_sequence = flow.tcp_sequence.wrapping_add(template.payload_len());
        self.odometer.advance();
        self.sent.offered += segments;
        self.sent.sent += segments;
        self.sent.bare_bytes += template.len() as u64;
        Due {
            // Their numbers are bounded by `limits`.
            lane: lane as u16,
            template: u16::from(place),
            made,
        }
    }

    fn sent(&self) -> Sent {
        let skipped = self.in_packets(self.pace.skipped()) + self.missed;
        let intended = self.sent.offered + skipped;
        Sent {
            intended,
            unsent: intended - self.sent.sent,
            own_unsent: self.in_packets(self.own_skipped) + self.own_missed,
            ..self.sent
        }
    }

    /// Frames that were stepped over, in packets: of the mean of the mix, as none of them was chosen.
    fn in_packets(&self, frames: u64) -> u64 {
        let packets: u64 = self
            .sequence
            .iter()
            .map(|&it| u64::from(self.templates[usize::from(it)].segments()))
            .sum();
        let all = u128::from(frames) * u128::from(packets) / self.sequence.len() as u128;
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

/// A stream's pace: of its frames, which may be several packets each.
fn pace(profile: &Profile, stream: usize, packets_per_s: f64) -> Pace {
    let it = &profile.streams[stream];
    let packets = it.mix.mean(|len| f64::from(it.segments(len)));
    // Streams with the same seed would draw the same gaps.
    let seed = profile.seed.wrapping_add((stream as u64) << 32);
    let (shape, rate) = (profile.shape, packets_per_s / packets);
    Pace::new(shape, rate, profile.duration_ns, profile.catch_up_ns, seed)
}

#[cfg(test)]
mod tests;
