//! Back-to-back frames (RFC 9004): the longest burst at line rate that loses nothing, and the buffer that it implies.
//!
//! In: the highest frame rate, the throughput at this size, whether a burst lost something. Out: bursts to try, then means.
//! Never: a size whose throughput is the line rate: there a burst says nothing about buffers (section 5.1).

use serde::{Deserialize, Serialize};

use super::mrr::mean_and_deviation;
use super::{Ask, Outcome};
use crate::mistake::Wrong;
use crate::number;

/// Halving ends when both ends of the interval are this close, as a share of the burst.
const RESOLUTION: u64 = 1000;

/// Searches for the longest burst, again and again.
#[derive(Clone, Debug)]
pub struct BackToBack {
    max_packets_per_s: f64,
    throughput: f64,
    repeats: usize,
    longest: u64,
    /// The longest burst so far that lost nothing, and the shortest that did.
    passed: u64,
    failed: Option<u64>,
    found: Vec<f64>,
}

/// What bursts came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bursts {
    /// The longest burst without loss in the mean of all searches, in frames.
    pub frames: f64,
    /// The standard deviation between searches.
    pub deviation: f64,
    /// The shortest of them.
    pub min: f64,
    /// The longest of them.
    pub max: f64,
    /// How many searches.
    pub searches: usize,
    /// The time that such a burst takes: what a buffer seems to hold.
    pub implied_buffer_s: f64,
    /// Less what the device forwarded meanwhile (section 5.4).
    pub corrected_buffer_s: f64,
    /// Whether even the longest burst that was tried lost nothing: then the figures are lower bounds.
    pub unbounded: bool,
}

impl BackToBack {
    /// Searches at a size; `longest_s` bounds a burst (RFC 9004 has 2 s and more).
    ///
    /// # Errors
    /// That the throughput is the line rate.
    pub fn new(
        max_packets_per_s: f64,
        throughput: f64,
        longest_s: f64,
        repeats: usize,
    ) -> Result<Self, Wrong> {
        if throughput >= max_packets_per_s {
            return Err(Wrong::new(
                "the throughput at this size is the line rate: bursts say nothing about buffers",
                "choose a size whose throughput is below it (RFC 9004, section 5.1)",
            ));
        }
        Ok(Self {
            max_packets_per_s,
            throughput,
            repeats,
            longest: number::whole(max_packets_per_s * longest_s).max(1),
            passed: 0,
            failed: None,
            found: Vec::new(),
        })
    }

    /// The next burst: a trial at the highest rate, as long as the burst takes.
    #[must_use]
    pub fn ask(&self) -> Option<Ask> {
        (self.found.len() < self.repeats).then(|| Ask {
            packets_per_s: self.max_packets_per_s,
            duration_s: self.burst() as f64 / self.max_packets_per_s,
        })
    }

    /// Takes what came of a burst.
    pub fn tell(&mut self, outcome: Outcome) {
        let burst = self.burst();
        if outcome.loss_ratio > 0.0 {
            self.failed = Some(burst);
        } else {
            self.passed = burst;
        }
        let failed = self.failed.unwrap_or(self.longest);
        if failed <= self.passed + (failed / RESOLUTION).max(1) || self.passed == self.longest {
            self.found.push(self.passed as f64);
            self.passed = 0;
            self.failed = None;
        }
    }

    /// The longest first, then the middle.
    fn burst(&self) -> u64 {
        self.failed
            .map_or(self.longest, |failed| {
                self.passed + (failed - self.passed) / 2
            })
            .max(1)
    }

    /// What all searches came to; `None` before the first has ended.
    #[must_use]
    pub fn result(&self) -> Option<Bursts> {
        let (frames, deviation) = mean_and_deviation(&self.found)?;
        let implied_buffer_s = frames / self.max_packets_per_s;
        Some(Bursts {
            frames,
            deviation,
            min: self.found.iter().copied().fold(f64::INFINITY, f64::min),
            max: self.found.iter().copied().fold(0.0, f64::max),
            searches: self.found.len(),
            implied_buffer_s,
            corrected_buffer_s: implied_buffer_s * (1.0 - self.throughput / self.max_packets_per_s),
            unbounded: self.found.contains(&(self.longest as f64)),
        })
    }
}
