//! How often something may be done that others cause, and log lines about it.
//!
//! In: the time, as what has passed since any fixed moment. Out: leave, or how long until there is
//! leave again; how many lines were left out.
//! Never: a wait, a clock of its own, a line written.

use std::time::Duration;

/// So many times at once, and once more in each step of time.
#[derive(Clone, Debug)]
pub struct Pace {
    step: Duration,
    /// What may be used up ahead of time: all that may come at once, but one.
    ahead: Duration,
    /// The time up to which it is used up.
    used: Duration,
}

impl Pace {
    /// `at_once` times at once (at least one), and once more in each `step`.
    #[must_use]
    pub fn new(at_once: u32, step: Duration) -> Self {
        Self {
            step,
            ahead: step.saturating_mul(at_once.saturating_sub(1)),
            used: Duration::ZERO,
        }
    }

    /// Takes leave, or says how long there is none.
    ///
    /// # Errors
    /// How long there is none.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        match self.left(now) {
            Duration::ZERO => {
                self.used = self.used.max(now).saturating_add(self.step);
                Ok(())
            }
            left => Err(left),
        }
    }

    /// How long there is no leave; nothing is taken.
    #[must_use]
    pub fn left(&self, now: Duration) -> Duration {
        self.used.saturating_sub(now.saturating_add(self.ahead))
    }
}

/// The log lines of one cause. When too many come, all are left out and counted until the
/// count has been told.
#[derive(Clone, Debug)]
pub struct Lines {
    pace: Pace,
    left_out: u64,
}

impl Lines {
    /// `at_once` lines at once, and one more in each `step`.
    #[must_use]
    pub fn new(at_once: u32, step: Duration) -> Self {
        Self {
            pace: Pace::new(at_once, step),
            left_out: 0,
        }
    }

    /// Whether a line may be written; it is counted if not.
    pub fn may(&mut self, now: Duration) -> bool {
        let may = self.left_out == 0 && self.pace.take(now).is_ok();
        self.left_out += u64::from(!may);
        may
    }

    /// How many lines were left out, if it is time to tell. Ask every now and then.
    pub fn left_out(&mut self, now: Duration) -> Option<u64> {
        let is_due = self.left_out > 0 && self.pace.take(now).is_ok();
        is_due.then(|| std::mem::take(&mut self.left_out))
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

    #[test]
    fn lines_that_are_left_out_are_counted_and_told_and_none_is_lost() {
        let mut lines = Lines::new(5, STEP);
        let (mut written, mut told, mut tellings) = (0, 0, 0);
        // A hundred a second for a minute, then silence.
        for tick in 0..100 * 100 {
            let now = Duration::from_millis(10 * tick);
            if tick < 60 * 100 {
                written += u64::from(lines.may(now));
            }
            if tick.is_multiple_of(100)
                && let Some(count) = lines.left_out(now)
            {
                told += count;
                tellings += 1;
            }
        }
        assert_eq!(written + told, 60 * 100);
        assert!(written <= 5 + 1 && tellings <= 7, "{written} {tellings}");
        let quiet = Duration::from_secs(1000);
        assert_eq!(lines.left_out(quiet), None);
        assert!(lines.may(quiet));
    }
}
