//! Whether a load is a bound: the classification of RFC 9971, and conditional throughput.
//!
//! In: trials at one load. Out: a class, a loss ratio. Never: a class that later trials within the sum could overturn.

use super::goal::Target;
use super::{Goal, Outcome};

/// What a load is to a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It keeps to the goal, whatever trials are still to come.
    Lower,
    /// It does not.
    Upper,
    /// More trials are needed.
    Undecided,
}

/// All trials at one load, as one goal sees them: seconds of each kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stat {
    good_full_s: f64,
    bad_full_s: f64,
    good_short_s: f64,
    bad_short_s: f64,
    /// Loss ratios of full-length trials, each with the seconds it counts for; the least first.
    losses: Vec<(f64, f64)>,
}

impl Stat {
    /// Adds a trial, as a goal sees it.
    pub fn add(&mut self, goal: &Goal, duration_s: f64, outcome: Outcome) {
        self.take(goal.loss_ratio, goal.final_trial_s, duration_s, outcome);
    }

    /// What the load is to the goal.
    #[must_use]
    pub fn class(&self, goal: &Goal) -> Class {
        self.judge(goal.exceed_ratio, goal.duration_sum_s)
    }

    /// The loss ratio that conditional throughput is computed with: the quantile of the full-length trials at the exceed
    /// ratio, where time that is missing of the sum counts as all lost.
    #[must_use]
    pub fn conditional_loss_ratio(&self, goal: &Goal) -> f64 {
        let whole = goal.duration_sum_s.max(self.good_full_s + self.bad_full_s);
        let mut remaining = whole * (1.0 - goal.exceed_ratio);
        let mut ratio = None;
        for (loss, seconds) in &self.losses {
            if ratio.is_some() && remaining <= 0.0 {
                return ratio.unwrap_or(1.0);
            }
            ratio = Some(*loss);
            remaining -= seconds;
        }
        if remaining > 0.0 {
            1.0
        } else {
            ratio.unwrap_or(1.0)
        }
    }

    pub(super) fn add_to(&mut self, target: &Target, duration_s: f64, outcome: Outcome) {
        self.take(target.loss_ratio, target.trial_s, duration_s, outcome);
    }

    pub(super) fn class_for(&self, target: &Target) -> Class {
        self.judge(target.exceed_ratio, target.duration_sum_s)
    }

    fn take(&mut self, loss_ratio: f64, full_s: f64, duration_s: f64, outcome: Outcome) {
        let bad = outcome.loss_ratio > loss_ratio;
        let sum = match (duration_s >= full_s, bad) {
            (true, false) => &mut self.good_full_s,
            (true, true) => &mut self.bad_full_s,
            (false, false) => &mut self.good_short_s,
            (false, true) => &mut self.bad_short_s,
        };
        *sum += outcome.effective_s;
        if duration_s >= full_s {
            let place = self
                .losses
                .partition_point(|(loss, _)| *loss < outcome.loss_ratio);
            self.losses
                .insert(place, (outcome.loss_ratio, outcome.effective_s));
        }
    }

    /// RFC 9971, "Load Classification Code": short trials that lost count as far as those that did not don't make up for
    /// them.
    fn judge(&self, exceed_ratio: f64, duration_sum_s: f64) -> Class {
        let made_up = self.good_short_s * exceed_ratio / (1.0 - exceed_ratio);
        let bad = self.bad_full_s + (self.bad_short_s - made_up).max(0.0);
        let whole = (self.good_full_s + bad).max(duration_sum_s);
        let quantile = whole * exceed_ratio;
        if whole - self.good_full_s <= quantile {
            Class::Lower
        } else if bad > quantile {
            Class::Upper
        } else {
            Class::Undecided
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stat(goal: &Goal, trials: &[(f64, f64)]) -> Stat {
        let mut stat = Stat::default();
        for (duration_s, loss) in trials {
            stat.add(goal, *duration_s, Outcome::of(*loss, *duration_s));
        }
        stat
    }

    #[test]
    fn half_of_the_sum_decides() {
        let ndr = Goal::ndr();
        let trials = |count, loss| stat(&ndr, &vec![(1.0, loss); count]);
        assert_eq!(trials(10, 0.0).class(&ndr), Class::Undecided);
        assert_eq!(trials(11, 0.0).class(&ndr), Class::Lower);
        assert_eq!(trials(10, 0.1).class(&ndr), Class::Undecided);
        assert_eq!(trials(11, 0.1).class(&ndr), Class::Upper);
        // Ten seconds are missing of the sum, and count as lost.
        assert_eq!(trials(11, 0.0).conditional_loss_ratio(&ndr), 0.0);
        assert_eq!(trials(10, 0.0).conditional_loss_ratio(&ndr), 1.0);
    }

    #[test]
    fn one_lost_packet_decides_without_tolerance() {
        let strict = Goal::rfc2544();
        assert_eq!(stat(&strict, &[(60.0, 1e-9)]).class(&strict), Class::Upper);
        assert_eq!(stat(&strict, &[(1.0, 1e-9)]).class(&strict), Class::Upper);
        assert_eq!(
            stat(&strict, &[(1.0, 0.0)]).class(&strict),
            Class::Undecided
        );
        assert_eq!(stat(&strict, &[(60.0, 0.0)]).class(&strict), Class::Lower);
    }

    #[test]
    fn short_trials_without_loss_make_up_for_those_with() {
        let goal = Goal {
            final_trial_s: 10.0,
            duration_sum_s: 20.0,
            ..Goal::ndr()
        };
        assert_eq!(stat(&goal, &[(5.0, 0.5); 3]).class(&goal), Class::Upper);
        let mixed = [
            (5.0, 0.5),
            (5.0, 0.0),
            (5.0, 0.5),
            (5.0, 0.0),
            (5.0, 0.5),
            (5.0, 0.0),
        ];
        assert_eq!(stat(&goal, &mixed).class(&goal), Class::Undecided);
    }

    proptest! {
        /// "Whatever trials are still to come": those that are missing of the sum, all good or all bad.
        #[test]
        fn no_trial_within_the_sum_overturns_a_class(
            trials in prop::collection::vec((prop::sample::select(vec![0.5, 1.0]), prop::sample::select(vec![0.0, 0.003, 0.1])), 0..30),
            exceed in 0.0f64..0.9,
        ) {
            let goal = Goal { exceed_ratio: exceed, ..Goal::pdr() };
            let now = stat(&goal, &trials);
            let class = now.class(&goal);
            let missing = goal.duration_sum_s - now.good_full_s - now.bad_full_s - now.bad_short_s;
            if class != Class::Undecided && missing > 0.0 {
                for loss in [0.0, 1.0] {
                    let mut then = now.clone();
                    then.add(&goal, 1.0, Outcome::of(loss, missing));
                    prop_assert_eq!(then.class(&goal), class);
                }
            }
            if class == Class::Lower {
                prop_assert!(now.conditional_loss_ratio(&goal) <= goal.loss_ratio);
            }
        }
    }
}
