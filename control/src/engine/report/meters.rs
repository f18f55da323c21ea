//! The load of the workers and of the control core itself, over the last second or so.
//!
//! In: the workers' clocks, how long each of the core's rounds took. Out: shares of the time, the longest round, how
//! many were long. Never: a clock of its own.

use std::{sync::atomic::Ordering, time::Duration};

use culvert_wireguard::Instant;

use super::Workers;
use crate::report::look::CoreLoad;

/// Longer rounds than these are counted.
const LONG: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// The meters.
pub(in crate::engine) struct Meters {
    workers: Vec<Share>,
    core: Share,
    started: Instant,
    /// What the core has worked.
    worked: Duration,
    /// The core's longest round since the last reading, and between that and the one before.
    longest: [Duration; 2],
    /// The same by what a round took of a processor: others may have had it in between.
    heaviest: [Duration; 2],
    long: [u64; LONG.len()],
}

/// Which share of a time was busy, between the last two readings; and the longest turn since the last one, and between
/// that and the one before.
#[derive(Clone, Default)]
struct Share {
    busy: u64,
    total: u64,
    value: f64,
    longest: [Duration; 2],
}

impl Share {
    #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
    fn read(&mut self, busy: u64, total: u64) {
        let span = total.saturating_sub(self.total);
        if span > 0 {
            self.value = busy.saturating_sub(self.busy) as f64 / span as f64;
        }
        (self.busy, self.total) = (busy, total);
    }
}

impl Meters {
    pub(in crate::engine) fn new(workers: usize, now: Instant) -> Self {
        Self {
            workers: vec![Share::default(); workers],
            core: Share::default(),
            started: now,
            worked: Duration::ZERO,
            longest: [Duration::ZERO; 2],
            heaviest: [Duration::ZERO; 2],
            long: [0; LONG.len()],
        }
    }

    /// The core has worked for so long since it looked at what was due, and has had a processor for so much of that.
    pub(in crate::engine) fn worked(&mut self, time: Duration, spent: Duration) {
        self.worked += time;
        self.longest[0] = self.longest[0].max(time);
        self.heaviest[0] = self.heaviest[0].max(spent);
        for (count, bound) in self.long.iter_mut().zip(LONG) {
            *count += u64::from(time > bound);
        }
    }

    /// Takes a reading.
    pub(in crate::engine) fn read(&mut self, workers: &Workers, now: Instant) {
        for (share, worker) in self.workers.iter_mut().zip(&workers.0) {
            let stats = &worker.stats;
            let busy = stats.busy_nanos.load(Ordering::Relaxed);
            let rest = stats.idle_nanos.load(Ordering::Relaxed)
                + stats.sleep_nanos.load(Ordering::Relaxed);
            share.read(busy, busy + rest);
            let longest = stats.longest_nanos.swap(0, Ordering::Relaxed);
            share.longest = [Duration::from_nanos(longest), share.longest[0]];
        }
        let total = now.since(self.started);
        self.core.read(nanos(self.worked), nanos(total));
        for longest in [&mut self.longest, &mut self.heaviest] {
            *longest = [Duration::ZERO, longest[0]];
        }
    }

    pub(super) fn worker(&self, index: usize) -> f64 {
        self.workers.get(index).map_or(0.0, |share| share.value)
    }

    /// A worker's longest turn.
    pub(super) fn longest(&self, index: usize) -> Duration {
        let longest = self.workers.get(index).map(|share| share.longest);
        longest
            .unwrap_or_default()
            .into_iter()
            .max()
            .unwrap_or_default()
    }

    /// The core's own load; how often it slept is not known here.
    pub(in crate::engine) fn core(&self) -> CoreLoad {
        CoreLoad {
            busy: self.core.value,
            worked: self.worked,
            longest: self.longest[0].max(self.longest[1]),
            heaviest: self.heaviest[0].max(self.heaviest[1]),
            long: self.long,
            ..CoreLoad::default()
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_the_longest_round_are_those_of_the_last_readings() {
        let (workers, second) = (Workers(Vec::new()), Duration::from_secs(1));
        let mut now = Instant::default();
        let mut meters = Meters::new(0, now);
        meters.worked(Duration::from_millis(250), Duration::from_micros(40));
        meters.worked(Duration::from_micros(50), Duration::from_micros(50));
        now = now + second;
        meters.read(&workers, now);
        let load = meters.core();
        assert!((0.24..0.26).contains(&load.busy), "{}", load.busy);
        assert_eq!(load.longest, Duration::from_millis(250));
        assert_eq!(load.heaviest, Duration::from_micros(50));
        assert_eq!(load.long, [1, 1, 1, 0]);
        // What was before the reading before is forgotten, but in the counts.
        meters.worked(Duration::from_millis(2), Duration::from_millis(1));
        now = now + second;
        meters.read(&workers, now);
        assert_eq!(meters.core().longest, Duration::from_millis(2));
        assert_eq!(meters.core().heaviest, Duration::from_millis(1));
        assert_eq!(meters.core().long, [2, 1, 1, 0]);
        now = now + second;
        meters.read(&workers, now);
        assert_eq!(meters.core().longest, Duration::ZERO);
        assert!(meters.core().busy.abs() < 0.01);
    }
}
