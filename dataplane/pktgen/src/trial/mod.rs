//! What a trial came to: one value, with everything that a reader needs to believe it.
//!
//! In: both halves of each seat's seam, how long it took, what happened meanwhile. Out: counts that add up, latencies, the
//! flows that fared worst, holes, marks of what was not as it should be. Never: an average over a hole, a negative loss.
//!
//! ```text
//!   intended = offered + skipped      (skipped: its time passed)
//!   offered  = sent + refused         (refused: the device did not take it)
//!   unsent   = skipped + refused
//!   sent     = received + lost        (received: each packet once)
//!   failed   = unsent + lost + corrupted; the loss ratio is failed / intended
//! ```

mod explain;

use serde::{Deserialize, Serialize};

use crate::limits::{CATCH_UP_NS, FLOWS_NAMED_MAX};
use crate::profile::Profile;
use crate::receive::{Latencies, LatencySummary, Receive, Received, Strange};
use crate::search::Outcome;
use crate::timeline::{Hole, Timeline};
use crate::transmit::{Sent, Transmit};

pub use self::explain::{Clue, explain};

/// What is known of a trial beside its packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Around {
    /// The trial's number.
    pub number: u64,
    /// The load that was asked for, of all streams.
    pub packets_per_s: f64,
    /// How long packets were sent for: until the last one left, if that was after the trial's end.
    pub sent_for_ns: u64,
    /// The whole trial, with waiting before and after.
    pub whole_ns: u64,
    /// The share of that time in which the generator had something to do.
    pub busy_share: f64,
    /// What was not as it should be.
    pub irregular: Vec<Irregular>,
}

/// Why a trial says less than it seems to. What [`Irregular::is_own`] says something of the generator alone: such a trial
/// counts, and a figure that rests on it is marked. With any other a trial is shown and not counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Irregular {
    /// The device under test began anew.
    DeviceRestarted,
    /// A link went down.
    LinkLost {
        /// Which.
        seat: String,
    },
    /// The device did not tell what came through.
    Untold,
    /// Others had the processor.
    Steal {
        /// The share of the time.
        share: f64,
    },
    /// The generator was not in time by itself, though nothing pushed back.
    Behind {
        /// Packets whose time passed.
        packets: u64,
    },
    /// The generator was away for longer than rings hold what comes and goes: it was stopped, or others had its processor.
    Away {
        /// How often.
        times: u64,
        /// In all.
        total_ns: u64,
        /// The longest time.
        longest_ns: u64,
        /// How long the kernel let it wait for its processor, in the whole trial.
        waited_ns: u64,
    },
    /// The generator had more to do than it could, turn after turn: it was the bottleneck.
    Saturated {
        /// In this share of the time.
        share: f64,
    },
    /// It was ended before its time.
    Interrupted,
    /// A clock went back, or two clocks differ: packets arrived before they were intended.
    Clock {
        /// How many.
        packets: u64,
    },
    /// More was received than sent: something counts wrongly.
    Excess {
        /// How many more.
        packets: u64,
    },
}

impl Irregular {
    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::DeviceRestarted => "the device under test restarted".into(),
            Self::LinkLost { seat } => format!("the link of {seat} went down"),
            Self::Untold => "the device did not tell what came through".into(),
            Self::Steal { share } => format!("others had {:.1} % of the processor", share * 100.0),
            Self::Behind { packets } => {
                format!("the generator itself was late for {packets} packets")
            }
            Self::Away {
                times,
                longest_ns,
                waited_ns,
                ..
            } => {
                let ms = |ns: &u64| *ns as f64 / 1e6;
                format!(
                    "the generator was away {times} times, for {:.3} ms at most (it waited {:.3} ms for its processor)",
                    ms(longest_ns),
                    ms(waited_ns)
                )
            }
            Self::Saturated { share } => {
                format!(
                    "the generator was the bottleneck for {:.0} % of the time",
                    share * 100.0
                )
            }
            Self::Interrupted => "it was ended before its time".into(),
            Self::Clock { packets } => {
                format!("{packets} packets arrived before they were intended: clocks differ")
            }
            Self::Excess { packets } => format!("{packets} packets more were received than sent"),
        }
    }

    /// Whether it says something of the generator alone, and nothing of the device.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        matches!(
            self,
            Self::Behind { .. } | Self::Away { .. } | Self::Saturated { .. }
        )
    }

    /// Whether a trial's own counts show it.
    const fn is_counted(&self) -> bool {
        matches!(
            self,
            Self::Behind { .. } | Self::Clock { .. } | Self::Excess { .. }
        )
    }
}

/// What a trial came to. Counts are packets, each segment of a super-frame one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Its number.
    pub number: u64,
    /// The load that was asked for, of all streams, in one direction.
    pub packets_per_s: f64,
    /// How long it was to send.
    pub duration_ns: u64,
    /// How long it sent: until the last packet left, if that was later.
    pub sent_for_ns: u64,
    /// How long it took, with waiting before and after.
    pub whole_ns: u64,
    /// Of all streams.
    pub total: Counts,
    /// What arrived and belongs to no stream.
    pub strange: Strange,
    /// Of all streams.
    pub latency: LatencySummary,
    /// Each stream.
    pub streams: Vec<StreamTrial>,
    /// The flows with the most losses, if there are any.
    pub worst: Vec<FlowTrial>,
    /// Where packets are missing that the device lost or did not take.
    pub holes: Vec<Hole>,
    /// In how many packets' distance duplicates are seen.
    pub window: usize,
    /// The share of the time in which the generator had something to do, while it sent.
    #[serde(default)]
    pub busy_share: f64,
    /// What was not as it should be.
    pub irregular: Vec<Irregular>,
    /// Whether it came ahead of a search, and counts in no figure.
    #[serde(default)]
    pub is_warm_up: bool,
}

/// Counts that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// What left.
    pub sent: Sent,
    /// What arrived.
    pub received: Received,
    /// Sent and not received.
    pub lost: u64,
    /// Received beyond what was sent.
    pub excess: u64,
}

/// A stream's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamTrial {
    /// Its name.
    pub name: String,
    /// Its counts.
    pub counts: Counts,
    /// Its latencies.
    pub latency: LatencySummary,
}

/// A flow's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTrial {
    /// Its number among those of all streams.
    pub flow: u32,
    /// Packets sent,
    pub sent: u64,
    /// and lost.
    pub lost: u64,
}

impl Counts {
    fn of(sent: Sent, received: Received) -> Self {
        Self {
            sent,
            received,
            lost: sent.sent.saturating_sub(received.received),
            excess: received.received.saturating_sub(sent.sent),
        }
    }

    fn join(&mut self, other: &Self) {
        self.sent.add(&other.sent);
        self.received.add(&other.received);
        *self = Self::of(self.sent, self.received);
    }

    /// Packets that were not forwarded as they were intended.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.sent.unsent + self.lost + self.received.corrupted
    }

    /// Their share; of nothing intended 0.
    #[must_use]
    pub fn loss_ratio(&self) -> f64 {
        match self.sent.intended {
            0 => 0.0,
            intended => (self.failed() as f64 / intended as f64).min(1.0),
        }
    }
}

impl Trial {
    /// Puts a trial together, when the last packet was waited for.
    #[must_use]
    pub fn of(
        profile: &Profile,
        transmits: &[&Transmit],
        receives: &[&Receive],
        around: Around,
    ) -> Self {
        let streams = streams(profile, transmits, receives);
        let mut total = (Sent::default(), Received::default());
        let mut latencies = Latencies::new();
        for (sent, received, latency) in &streams {
            total.0.add(sent);
            total.1.add(received);
            latencies.add(latency);
        }
        let mut strange = Strange::default();
        receives.iter().for_each(|it| strange.add(&it.strange()));
        let named =
            profile
                .streams
                .iter()
                .zip(&streams)
                .map(|(stream, (sent, received, latency))| StreamTrial {
                    name: stream.name.clone(),
                    counts: Counts::of(*sent, *received),
                    latency: latency.summary(),
                });
        let mut trial = Self {
            number: around.number,
            packets_per_s: around.packets_per_s,
            duration_ns: profile.duration_ns,
            sent_for_ns: around.sent_for_ns,
            whole_ns: around.whole_ns,
            total: Counts::of(total.0, total.1),
            strange,
            latency: latencies.summary(),
            streams: named.collect(),
            worst: worst(profile, transmits, receives),
            holes: holes(profile, transmits, receives),
            window: receives.iter().map(|it| it.window()).min().unwrap_or(0),
            busy_share: around.busy_share,
            irregular: around.irregular,
            is_warm_up: false,
        };
        trial.mark();
        trial
    }

    /// Puts the halves of a trial together whose seats are in two processes: `other` has what the far one sent and received.
    ///
    /// Latencies are those of the half that has more of them, for percentiles don't add up. Holes and the worst flows need
    /// both halves in one process, and are left out.
    pub fn join(&mut self, other: &Self) {
        let theirs = other.irregular.iter().filter(|it| !it.is_counted());
        self.irregular.extend(theirs.cloned());
        self.total.join(&other.total);
        for stream in &mut self.streams {
            if let Some(theirs) = other.streams.iter().find(|it| it.name == stream.name) {
                stream.counts.join(&theirs.counts);
                more(&mut stream.latency, &theirs.latency);
            }
        }
        more(&mut self.latency, &other.latency);
        self.strange.add(&other.strange);
        self.holes.clear();
        self.worst.clear();
        self.mark();
    }

    /// Takes the device's own word for what came through, where it goes to nobody who could receive it. Nothing is known then
    /// of latencies, holes and flows; of streams, if there are several, not what each has lost.
    pub fn counted(&mut self, received: u64) {
        self.total.received.received = received;
        self.total = Counts::of(self.total.sent, self.total.received);
        match &mut self.streams[..] {
            [only] => only.counts = self.total,
            _ => self.streams.clear(),
        }
        self.holes.clear();
        self.worst.clear();
        self.mark();
    }

    /// The same where the device should have told, and did not: what came through is not known, and is not nothing.
    pub fn untold(&mut self) {
        self.counted(self.total.sent.sent);
        self.irregular.push(Irregular::Untold);
    }

    /// Marks what its own counts show to be wrong.
    fn mark(&mut self) {
        self.irregular.retain(|it| !it.is_counted());
        let Received { early, .. } = self.total.received;
        let packets = self.total.sent.own_unsent;
        if packets > 0 {
            self.irregular.push(Irregular::Behind { packets });
        }
        if early > 0 {
            self.irregular.push(Irregular::Clock { packets: early });
        }
        if self.total.excess > 0 {
            self.irregular.push(Irregular::Excess {
                packets: self.total.excess,
            });
        }
    }

    /// Whether all was as it should be.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.irregular.is_empty()
    }

    /// Whether it says something of the device, if the generator alone was not as it should be.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.irregular.iter().all(Irregular::is_own)
    }

    /// Packets that were not forwarded, of those intended.
    #[must_use]
    pub fn loss_ratio(&self) -> f64 {
        self.total.loss_ratio()
    }

    /// Whether a loss beyond a goal's may be the generator's own: without what it did not send, and without what may have
    /// been lost while it was away, the trial would keep to the goal.
    #[must_use]
    pub fn is_own_loss(&self, goal: f64) -> bool {
        let marks = self.irregular.iter();
        let own = marks.fold(self.total.sent.own_unsent, |own, mark| {
            own.saturating_add(self.lost_at_most(mark))
        });
        let intended = self.total.sent.intended.max(1) as f64;
        let of_device = self.total.failed().saturating_sub(own) as f64 / intended;
        self.loss_ratio() > goal && of_device <= goal
    }

    /// How much the generator may have lost in what a mark says of it, beside what it did not send.
    fn lost_at_most(&self, mark: &Irregular) -> u64 {
        if let Irregular::Away { total_ns, .. } = mark {
            // What came meanwhile, and what left at once afterwards.
            let packets = 2.0 * self.packets_per_s * *total_ns as f64 / 1e9;
            return crate::number::whole(packets.ceil());
        }
        let is_all = matches!(mark, Irregular::Saturated { .. });
        if is_all { u64::MAX } else { 0 }
    }

    /// Packets per second that came through, in the time in which packets left.
    #[must_use]
    pub fn forwarded_per_s(&self) -> f64 {
        let longer = self.sent_for_ns.max(self.duration_ns).max(1) as f64;
        let share = (self.duration_ns.max(1) as f64 / longer).min(1.0);
        self.packets_per_s * (1.0 - self.loss_ratio()) * share
    }

    /// For a search, with the time around the trial in its duration, as CSIT counts it; packets that the generator itself
    /// did not send count as lost (RFC 9971 counts unsent ones so): without that, a search above its ceiling would never end.
    /// `None` if it does not count.
    ///
    /// Where packets left for longer than the trial was to last, the load was a lower one, and the rest of it counts as
    /// lost: no `catch_up` makes overload look like none.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let is_longer = self.sent_for_ns > self.duration_ns + CATCH_UP_NS;
        let loss_ratio = match is_longer {
            true => 1.0 - self.forwarded_per_s() / self.packets_per_s.max(f64::MIN_POSITIVE),
            false => self.loss_ratio(),
        };
        self.counts()
            .then(|| Outcome::of(loss_ratio, self.whole_ns.max(1) as f64 / 1e9))
    }

    /// How long the device was blocked: losses over load, as CSIT counts a reconfiguration.
    #[must_use]
    pub fn blocked_ns(&self) -> u64 {
        crate::number::whole(
            self.total.failed() as f64 / self.packets_per_s.max(f64::MIN_POSITIVE) * 1e9,
        )
    }
}

fn more(summary: &mut LatencySummary, other: &LatencySummary) {
    if other.count > summary.count {
        summary.clone_from(other);
    }
}

fn streams(
    profile: &Profile,
    transmits: &[&Transmit],
    receives: &[&Receive],
) -> Vec<(Sent, Received, Latencies)> {
    let mut streams =
        vec![(Sent::default(), Received::default(), Latencies::new()); profile.streams.len()];
    for (stream, sent) in transmits.iter().flat_map(|it| it.sent()) {
        streams[stream].0.add(&sent);
    }
    for receive in receives {
        for (stream, (received, latencies)) in streams.iter_mut().zip(receive.received()) {
            stream.1.add(received);
            stream.2.add(latencies);
        }
    }
    streams
}

/// The flows with the most losses.
fn worst(profile: &Profile, transmits: &[&Transmit], receives: &[&Receive]) -> Vec<FlowTrial> {
    let mut worst: Vec<FlowTrial> = Vec::new();
    for flow in 0..profile.flows() {
        let sent: u64 = transmits.iter().filter_map(|it| it.sent_by(flow)).sum();
        let received: u64 = receives
            .iter()
            .filter_map(|it| it.received_of(flow))
            .map(|it| it.received)
            .sum();
        let lost = sent.saturating_sub(received);
        let least = worst
            .last()
            .filter(|_| worst.len() == FLOWS_NAMED_MAX)
            .map_or(0, |it| it.lost);
        if lost > least {
            let place = worst.partition_point(|it| it.lost >= lost);
            worst.truncate(FLOWS_NAMED_MAX - 1);
            worst.insert(place, FlowTrial { flow, sent, lost });
        }
    }
    worst
}

fn holes(profile: &Profile, transmits: &[&Transmit], receives: &[&Receive]) -> Vec<Hole> {
    let (mut sent, mut received) = (
        Timeline::new(profile.duration_ns),
        Timeline::new(profile.duration_ns),
    );
    transmits.iter().for_each(|it| sent.merge(it.timeline()));
    receives.iter().for_each(|it| received.merge(it.timeline()));
    sent.holes(&received)
}

#[cfg(test)]
mod tests;
