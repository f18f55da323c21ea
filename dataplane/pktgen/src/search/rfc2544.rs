//! RFC 2544 beside throughput: latency (26.2), loss rate (26.3), recovery (26.5).
//!
//! In: a base rate, outcomes. Out: loads to try, the curve, how long a recovery took. Never: a throughput of its own.

use serde::{Deserialize, Serialize};

use super::{Ask, Outcome};
use crate::timeline::Hole;

/// Loads at which latency is measured: idle (a probe a millisecond, 9,000 a second in CSIT's way), and shares of a base,
/// which results name: RFC 2544 has the throughput, CSIT 10, 50 and 90 % of PDR.
#[must_use]
pub fn latency_loads(base_packets_per_s: f64) -> [(&'static str, f64); 4] {
    [
        ("idle", 9000.0_f64.min(base_packets_per_s)),
        ("10%", 0.1 * base_packets_per_s),
        ("50%", 0.5 * base_packets_per_s),
        ("90%", 0.9 * base_packets_per_s),
    ]
}

/// Loss by load, from the highest down in tenths, until two trials in succession lost nothing.
#[derive(Clone, Debug)]
pub struct LossCurve {
    max_packets_per_s: f64,
    duration_s: f64,
    points: Vec<(f64, f64)>,
}

/// In steps of so many percent of the highest load; RFC 2544 allows 10 at most.
const STEP: u32 = 10;

impl LossCurve {
    /// A curve of trials of a length.
    #[must_use]
    pub const fn new(max_packets_per_s: f64, duration_s: f64) -> Self {
        Self {
            max_packets_per_s,
            duration_s,
            points: Vec::new(),
        }
    }

    /// What to try next.
    #[must_use]
    pub fn ask(&self) -> Option<Ask> {
        let ended = self
            .points
            .last_chunk::<2>()
            .is_some_and(|last| last.iter().all(|(_, loss)| *loss == 0.0));
        let share = 100u32
            .checked_sub(STEP * u32::try_from(self.points.len()).unwrap_or(u32::MAX).min(10))?;
        (!ended && share > 0).then_some(Ask {
            packets_per_s: self.max_packets_per_s * f64::from(share) / 100.0,
            duration_s: self.duration_s,
        })
    }

    /// Takes what came of a trial.
    pub fn tell(&mut self, outcome: Outcome) {
        if let Some(ask) = self.ask() {
            self.points.push((ask.packets_per_s, outcome.loss_ratio));
        }
    }

    /// Loads and the share that was lost at each.
    #[must_use]
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }
}

/// Recovery from overload: 110 % of the throughput, then half of it; from the change to the last loss.
///
/// It is one trial with the pattern `drop`, whose holes tell when packets were lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The rate of the first half.
    pub overload_packets_per_s: f64,
    /// The share of it in the second half.
    pub then: f64,
    /// The whole trial's length: a minute each.
    pub duration_s: f64,
}

impl Recovery {
    /// For a device of some throughput, on a line of some rate.
    #[must_use]
    pub fn of(throughput: f64, max_packets_per_s: f64) -> Self {
        let overload = (1.1 * throughput).min(max_packets_per_s);
        Self {
            overload_packets_per_s: overload,
            then: 0.5 * throughput / overload,
            duration_s: 120.0,
        }
    }

    /// How long after the change packets were lost still, of a trial's holes; 0 if none was.
    #[must_use]
    pub fn took_ns(&self, holes: &[Hole]) -> u64 {
        let change_ns = crate::number::whole(self.duration_s * 5e8);
        let last = holes.iter().map(|hole| hole.to_ns).max();
        last.map_or(0, |end_ns| end_ns.saturating_sub(change_ns))
    }
}
