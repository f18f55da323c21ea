//! How often something may be done that others cause.
//!
//! In: the time, as what has passed since any fixed moment. Out: leave, or how long until there is
//! leave again.
//! Never: a wait, a clock of its own.

use std::time::Duration;

/// So many times at once, and once more in each step of time.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    step: Duration,
    /// What may be used up ahead of time: all that may come at once, but one.
    ahead: Duration,
    /// The time up to which it is used up.
    used: Duration,
}

impl Pace {
    /// `at_once` times at once (at least one), and once more in each `step`.
    pub(crate) fn new(at_once: u32, step: Duration) -> Self {
        Self {
            step,
            ahead: step.saturating_mul(at_once.saturating_sub(1)),
            used: Duration::ZERO,
        }
    }

    /// Takes leave, or says how long there is none.
    pub(crate) fn take(&mut self, now: Duration) -> Result<(), Duration> {
        match self.left(now) {
            Duration::ZERO => {
                self.used = self.used.max(now).saturating_add(self.step);
                Ok(())
            }
            left => Err(left),
        }
    }

    /// How long there is no leave; nothing is taken.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.used.saturating_sub(now.saturating_add(self.ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    #[test]
    fn so_many_at_once_then_one_a_step() {
        let mut pace = Pace::new(3, STEP);
        let start = Duration::from_secs(1000);
        let taken = (0..10).filter(|_| pace.take(start).is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(pace.take(start), Err(STEP));
        assert_eq!(pace.take(start + STEP / 2), Err(STEP / 2));
        assert_eq!(pace.take(start + STEP), Ok(()));
        assert_eq!(pace.take(start + STEP), Err(STEP));
        // What was not used is not saved up.
        let later = start + 1000 * STEP;
        let taken = (0..10).filter(|_| pace.take(later).is_ok()).count();
        assert_eq!(taken, 3);
    }
}
