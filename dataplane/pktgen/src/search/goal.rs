//! What a search is to find: goals as RFC 9971 has them, and those that others use.
//!
//! In: attributes. Out: a checked goal, and the chain of coarser targets before it. Never: a goal that nothing reaches.

use serde::{Deserialize, Serialize};

use crate::mistake::Wrong;

/// A search goal (RFC 9971, "Search Goal").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// What results call it.
    pub name: String,
    /// A trial with more loss is a high-loss trial.
    pub loss_ratio: f64,
    /// The share of a lower bound's time that may be in high-loss trials.
    pub exceed_ratio: f64,
    /// How close the two bounds are to be: their difference as a share of the upper one.
    pub relative_width: f64,
    /// The shortest trials that are used.
    pub initial_trial_s: f64,
    /// The length of full-length trials.
    pub final_trial_s: f64,
    /// How long a load is tried in all, at least.
    pub duration_sum_s: f64,
    /// How many coarser targets are reached before it.
    pub preceding_targets: u32,
    /// By what a width grows while a bound is looked for.
    pub expansion: u32,
}

/// One step on the way to a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) loss_ratio: f64,
    pub(super) exceed_ratio: f64,
    pub(super) trial_s: f64,
    pub(super) duration_sum_s: f64,
    /// By how much it is wider than the goal.
    pub(super) widths: u32,
    pub(super) expansion: u32,
}

impl Goal {
    fn csit(name: &str, loss_ratio: f64) -> Self {
        Self {
            name: name.into(),
            loss_ratio,
            exceed_ratio: 0.5,
            relative_width: 0.005,
            initial_trial_s: 1.0,
            final_trial_s: 1.0,
            duration_sum_s: 21.0,
            preceding_targets: 2,
            expansion: 2,
        }
    }

    /// No loss, as CSIT searches it.
    #[must_use]
    pub fn ndr() -> Self {
        Self::csit("NDR", 0.0)
    }

    /// Half a percent of loss, as CSIT searches it.
    #[must_use]
    pub fn pdr() -> Self {
        Self::csit("PDR", 0.005)
    }

    /// Throughput as in RFC 2544, section 26.1: trials of a minute, not one packet lost.
    #[must_use]
    pub fn rfc2544() -> Self {
        Self {
            exceed_ratio: 0.0,
            final_trial_s: 60.0,
            duration_sum_s: 60.0,
            ..Self::csit("RFC 2544", 0.0)
        }
    }

    /// As in ETSI GS NFV-TST 009: two trials of a minute, of which one may lose.
    #[must_use]
    pub fn tst009() -> Self {
        Self {
            final_trial_s: 60.0,
            duration_sum_s: 120.0,
            ..Self::csit("TST009", 0.0)
        }
    }

    /// What is wrong with it.
    ///
    /// # Errors
    /// The attribute, and what would have been right.
    pub fn check(&self) -> Result<(), Wrong> {
        let ratio = |it: f64| (0.0..1.0).contains(&it);
        let rules = [
            (
                ratio(self.loss_ratio),
                "a loss ratio is 0 or more and less than 1",
            ),
            (
                ratio(self.exceed_ratio),
                "an exceed ratio is 0 or more and less than 1",
            ),
            (
                self.relative_width > 0.0 && self.relative_width < 1.0,
                "a width is a share of the load: more than 0, less than 1",
            ),
            (self.initial_trial_s > 0.0, "a trial takes time"),
            (
                self.final_trial_s >= self.initial_trial_s,
                "final trials are as long as initial ones, or longer",
            ),
            (
                self.duration_sum_s >= self.final_trial_s,
                "the sum of durations is as long as a final trial, or longer",
            ),
            (
                self.preceding_targets > 0 || self.initial_trial_s >= self.duration_sum_s,
                "trials shorter than the sum need a preceding target",
            ),
            (
                self.preceding_targets <= 16,
                "16 preceding targets are the most",
            ),
            (
                (2..=64).contains(&self.expansion),
                "a width grows by 2 to 64",
            ),
        ];
        match rules.iter().find(|(right, _)| !right) {
            None => Ok(()),
            Some((_, rule)) => Err(Wrong::new(
                format!("the goal {} can't be reached", self.name),
                *rule,
            )),
        }
    }

    /// The targets on the way, the coarsest first. Sums of durations grow from the first trial's to the goal's evenly, by a
    /// factor each; widths are halved.
    pub(super) fn targets(&self) -> Vec<Target> {
        let steps = self.preceding_targets;
        let target = |step: u32| {
            let share = f64::from(step) / f64::from(steps.max(1));
            let sum = match step {
                0 => self.duration_sum_s,
                _ if step == steps => self.initial_trial_s,
                _ => self.duration_sum_s * (self.initial_trial_s / self.duration_sum_s).powf(share),
            };
            Target {
                loss_ratio: self.loss_ratio,
                exceed_ratio: self.exceed_ratio,
                trial_s: self.final_trial_s.min(sum),
                duration_sum_s: sum,
                widths: 1 << step,
                expansion: self.expansion,
            }
        };
        (0..=steps).rev().map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_csit() {
        let targets = Goal::ndr().targets();
        let sums: Vec<_> = targets
            .iter()
            .map(|it| (it.duration_sum_s * 100.0).round() / 100.0)
            .collect();
        assert_eq!(sums, [1.0, 4.58, 21.0]);
        assert_eq!(
            targets.iter().map(|it| it.widths).collect::<Vec<_>>(),
            [4, 2, 1]
        );
        assert!(targets.iter().all(|it| it.trial_s <= 1.0));
        let targets = Goal::rfc2544().targets();
        assert_eq!(targets[2].trial_s, 60.0);
        assert!((targets[1].trial_s - 60f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn goals_that_nothing_reaches_are_refused() {
        for goal in [Goal::ndr(), Goal::pdr(), Goal::rfc2544(), Goal::tst009()] {
            assert_eq!(goal.check(), Ok(()));
        }
        let wrong = |goal: Goal| goal.check().unwrap_err().help;
        let ndr = Goal::ndr;
        assert!(
            wrong(Goal {
                loss_ratio: 1.0,
                ..ndr()
            })
            .contains("loss ratio")
        );
        assert!(
            wrong(Goal {
                exceed_ratio: f64::NAN,
                ..ndr()
            })
            .contains("exceed ratio")
        );
        assert!(
            wrong(Goal {
                relative_width: 0.0,
                ..ndr()
            })
            .contains("width")
        );
        assert!(
            wrong(Goal {
                final_trial_s: 0.5,
                ..ndr()
            })
            .contains("final trials")
        );
        assert!(
            wrong(Goal {
                duration_sum_s: 0.5,
                ..ndr()
            })
            .contains("sum of durations")
        );
        assert!(
            wrong(Goal {
                preceding_targets: 0,
                ..ndr()
            })
            .contains("preceding")
        );
        assert!(
            wrong(Goal {
                expansion: 1,
                ..ndr()
            })
            .contains("grows")
        );
    }
}
