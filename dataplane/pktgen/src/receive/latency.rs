//! How long packets took: a histogram with three digits, from a nanosecond to a minute.
//!
//! In: latencies in nanoseconds. Out: counts, percentiles. Never: a value that is put into its range.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::limits::LATENCY_NS_MAX;

/// Latencies of a stream's packets; or other times, as the gaps between packets.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// The shares of packets that a summary has the latency of, and what results call them.
pub const PERCENTILES: [f64; 8] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 99.999, 100.0];

/// What results say of latencies, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Packets that have one.
    pub count: u64,
    /// The least.
    pub min_ns: u64,
    /// In the mean.
    pub mean_ns: f64,
    /// The largest.
    pub max_ns: u64,
    /// Percent of the packets, and what none of them took longer than.
    pub percentiles: Vec<(f64, u64)>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Self {
            histogram: histogram.expect("the bounds are constants, and right"),
        }
    }

    /// One more; false, and not among them, if it is more than [`LATENCY_NS_MAX`].
    #[inline]
    pub fn record(&mut self, latency_ns: u64) -> bool {
        latency_ns <= LATENCY_NS_MAX && self.histogram.record(latency_ns).is_ok()
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "all have the same bounds");
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// What results say of them.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        if self.histogram.is_empty() {
            return LatencySummary::default();
        }
        let percentile = |percent| (percent, self.histogram.value_at_percentile(percent));
        LatencySummary {
            count: self.histogram.len(),
            min_ns: self.histogram.min(),
            mean_ns: self.histogram.mean(),
            max_ns: self.histogram.max(),
            percentiles: PERCENTILES.map(percentile).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_three_digits() {
        let mut latencies = Latencies::new();
        (1..=100_000u64).for_each(|us| assert!(latencies.record(us * 1000)));
        let summary = latencies.summary();
        assert_eq!((summary.count, summary.min_ns / 1000), (100_000, 1));
        for (percent, ns) in &summary.percentiles {
            let exact = percent / 100.0 * 1e8;
            assert!(
                (*ns as f64 - exact).abs() <= exact / 500.0,
                "{percent} %: {ns}"
            );
        }
        let mut both = latencies.clone();
        both.add(&latencies);
        assert_eq!(both.summary().percentiles, summary.percentiles);
        assert_eq!(Latencies::new().summary(), LatencySummary::default());
    }

    #[test]
    fn both_ends_of_the_range_are_taken() {
        let mut latencies = Latencies::new();
        assert!(latencies.record(0) && latencies.record(LATENCY_NS_MAX));
        assert!(!latencies.record(LATENCY_NS_MAX + 1));
        assert_eq!((latencies.count(), latencies.summary().min_ns), (2, 0));
        assert!(latencies.summary().max_ns >= LATENCY_NS_MAX);
    }
}
