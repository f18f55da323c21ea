//! How long turns took.
//!
//! In: a turn's nanoseconds, from its worker. Out: how many took at most so long, for whoever reads. Never: a cost beyond
//! that of a counter: a turn is counted in one place.

use std::sync::atomic::{AtomicU64, Ordering};

/// The longest turn of the first class is 2^10 ns.
const FIRST: u32 = 10;
/// Each class is of turns up to twice as long as those of the one before; the last one, of all that took longer.
const CLASSES: usize = 16;

/// Turns by how long they took. One worker writes.
#[derive(Debug, Default)]
pub struct TurnTimes([AtomicU64; CLASSES]);

impl TurnTimes {
    #[inline]
    pub(super) fn count(&self, nanos: u64) {
        let doublings = u64::BITS - (nanos.saturating_sub(1) >> FIRST).leading_zeros();
        let class = (doublings as usize).min(CLASSES - 1);
        let counter = &self.0[class];
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// All turns.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let counts = self.0.iter().map(|class| class.load(Ordering::Relaxed));
        counts.fold(0, u64::wrapping_add)
    }

    /// For each class but the last: its longest turn in nanoseconds, and how many turns took at most so long. Then all
    /// turns.
    #[must_use]
    pub fn at_most(&self) -> (Vec<(u64, u64)>, u64) {
        let mut sum = 0u64;
        let mut add = |class: &AtomicU64| {
            sum = sum.wrapping_add(class.load(Ordering::Relaxed));
            sum
        };
        let (last, classes) = (&self.0[CLASSES - 1], &self.0[..CLASSES - 1]);
        let bounds = (FIRST..).map(|power| 1 << power);
        let at_most = bounds.zip(classes.iter().map(&mut add)).collect();
        (at_most, add(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_of_the_class_that_it_just_fits() {
        let times = TurnTimes::default();
        for nanos in [
            0,
            1,
            1_024,
            1_025,
            2_048,
            2_049,
            1 << 24,
            (1 << 24) + 1,
            u64::MAX,
        ] {
            times.count(nanos);
        }
        let (at_most, all) = times.at_most();
        assert_eq!((times.sum(), all), (9, 9));
        assert_eq!(at_most[..3], [(1_024, 3), (2_048, 5), (4_096, 6)]);
        assert_eq!(at_most[CLASSES - 3..], [(1 << 23, 6), (1 << 24, 7)]);
    }
}
