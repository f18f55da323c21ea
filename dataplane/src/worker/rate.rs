//! How often something may be done: so many times per second, and more at once after a quiet time.
//!
//! In: the time. Out: credit. Never: a wait; a clock of its own.

use culvert_wireguard::Instant;

/// Credit that grows with time, up to a bound.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    credit: u32,
    burst: u32,
    /// The time up to which credit was given.
    counted: Instant,
}

impl Rate {
    /// Full credit: `burst`.
    pub(crate) fn new(burst: u32, now: Instant) -> Self {
        Self {
            credit: burst,
            burst,
            counted: now,
        }
    }

    /// Gives what was earned since the last time, at this many per second; answers what there is.
    pub(crate) fn refill(&mut self, per_second: u32, now: Instant) -> u32 {
        let price = 1_000_000_000 / u64::from(per_second.max(1));
        let elapsed = now.as_nanos().saturating_sub(self.counted.as_nanos());
        let earned = elapsed / price;
        let missing = self.burst - self.credit;
        if earned >= u64::from(missing) {
            self.credit = self.burst;
            self.counted = now;
        } else {
            // Less than is missing, which is a `u32`.
            self.credit += u32::try_from(earned).unwrap_or(missing);
            // What was not enough for one more counts next time.
            self.counted = Instant::from_nanos(now.as_nanos() - elapsed % price);
        }
        self.credit
    }

    /// Spends one; `false` when there is none.
    pub(crate) fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let some = self.refill(per_second, now) > 0;
        self.spend(1);
        some
    }

    /// Spends; more than there is spends all.
    pub(crate) fn spend(&mut self, count: u32) {
        self.credit = self.credit.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn credit_is_earned_and_bounded() {
        let mut rate = Rate::new(10, at(0));
        assert_eq!(rate.refill(1_000, at(0)), 10);
        rate.spend(10);
        assert_eq!(rate.refill(1_000, at(0)), 0);
        assert_eq!(rate.refill(1_000, at(3)), 3);
        rate.spend(99);
        assert_eq!(rate.refill(1_000, at(3)), 0);
        assert_eq!(rate.refill(1_000, at(1_000)), 10);
    }

    #[test]
    fn nothing_is_lost_to_frequent_looks() {
        let mut rate = Rate::new(1_000, at(0));
        rate.spend(1_000);
        let mut given = 0;
        for micros in 1..=1_000_000_u64 / 7 {
            given = rate.refill(300, Instant::from_nanos(micros * 7_000));
        }
        assert_eq!(given, 299, "an attempt every 7 µs, a second long");
    }

    #[test]
    fn the_rate_may_change() {
        let mut rate = Rate::new(100, at(0));
        rate.spend(100);
        assert_eq!(rate.refill(1_000, at(10)), 10);
        assert_eq!(rate.refill(4_000, at(20)), 50);
    }
}
