//! The generator alone: its ceiling, its latency, its gaps, over a loop in memory, before anything else is measured.
//!
//! In: a profile. Out: what is printed with every result. Never: a figure of a device.

use culvert_pktgen::Profile;
use culvert_pktgen::limits::{CATCH_UP_NS, SUPER_BYTES_MAX};
use culvert_pktgen::pace::Shape;
use culvert_pktgen::report::Own;

use super::memory::Memory;
use super::seat::{Place, Seat};
use super::stage::{Manner, Stage};

/// More than any processor makes: what is left is what it can.
const TOO_MUCH: f64 = 1e8;
/// How long each of the two trials takes.
const TRIAL_NS: u64 = 300_000_000;
/// Latency and gaps are measured at a rate that leaves the loop idle most of the time.
const SHARE: f64 = 0.05;
/// And at no more than this.
const GENTLE: f64 = 100_000.0;

/// Measures the generator alone. The sums of `shares` are those of the streams' rates.
#[must_use]
pub fn measure(profile: &Profile, shares: &[f64], manner: &Manner) -> Own {
    let mut profile = profile.clone();
    // The loop sends and receives everything.
    for stream in &mut profile.streams {
        stream.from.clear();
        stream.to.clear();
    }
    profile.shape = Shape::Constant;
    profile.duration_ns = TRIAL_NS;
    // Whatever an operator allows the device: what is late here is beyond the ceiling.
    profile.catch_up_ns = CATCH_UP_NS;
    let rates = |load: f64| -> Vec<f64> { shares.iter().map(|share| share * load).collect() };
    let longest = longest(&profile);
    let seat = Seat::new("own", Place::Memory(Memory::new(longest)), &profile);
    let size = super::campaign::sizes(&profile);
    let mut stage = Stage::new(vec![seat], profile, manner.clone());
    let mut trial = |load| {
        let trial = stage.trial(&rates(load), &mut |_| {});
        trial.expect("a loop in memory is ready at once")
    };
    let most = trial(TOO_MUCH);
    let packets_per_s = most.total.received.received as f64 * 1e9 / most.sent_for_ns.max(1) as f64;
    let gaps_at = (packets_per_s * SHARE).clamp(1.0, GENTLE);
    let gentle = trial(gaps_at);
    let gaps = match &stage.seats[0].place {
        Place::Memory(memory) => memory.gaps.summary(),
        Place::Guest(_) | Place::Wire(_) => unreachable!("the seat is the loop"),
    };
    Own {
        packets_per_s,
        size,
        latency: gentle.latency,
        gaps,
        gaps_at,
    }
}

/// The longest frame of a profile, in bytes.
#[must_use]
pub fn longest(profile: &Profile) -> usize {
    let sizes = profile
        .streams
        .iter()
        .map(|stream| stream.mix.longest().bare_bytes());
    sizes.max().unwrap_or(SUPER_BYTES_MAX) as usize
}
