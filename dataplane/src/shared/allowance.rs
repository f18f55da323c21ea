//! Allowance: how often something may be done for one port or peer, by whichever worker.
//!
//! In: the time. Out: yes or no. Never: a wait; a lock.
//!
//! Kept as the time up to which it is spent (the generic cell rate algorithm): one word that workers exchange.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_wireguard::Instant;

/// What may be saved up, in nanoseconds' worth.
const SAVED: u64 = 1_000_000_000;

/// Saves up to a second's worth.
#[derive(Debug, Default)]
pub struct Allowance {
    spent_until: AtomicU64,
}

impl Allowance {
    /// Spends one of `per_second`; `false` when there is none.
    pub(crate) fn take(&self, per_second: u32, now: Instant) -> bool {
        let price = SAVED / u64::from(per_second.max(1));
        let now = now.as_nanos();
        let spend = |spent: u64| {
            let spent = spent.max(now) + price;
            (spent <= now + SAVED).then_some(spent)
        };
        self.spent_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
    }

    /// Another of which as much is spent.
    pub(crate) fn copy(&self) -> Self {
        let spent_until = self.spent_until.load(Ordering::Relaxed).into();
        Self { spent_until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_is_saved_and_earned_again() {
        let allowance = Allowance::default();
        let taken = |at: u64, wanted: usize| {
            let now = Instant::from_nanos(at * 1_000_000);
            (0..wanted).filter(|_| allowance.take(100, now)).count()
        };
        assert_eq!(taken(5_000, 150), 100);
        assert_eq!(taken(5_000, 1), 0);
        assert_eq!(taken(5_050, 150), 5);
        assert_eq!(taken(99_000, 150), 100);
    }
}
