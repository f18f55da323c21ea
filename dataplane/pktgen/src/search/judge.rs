//! Whether a figure is the device's, or the generator's.
//!
//! In: what a search came to, the trials that it rests on. Out: the same, marked where it would be another one without
//! trials in which the generator itself was not as it should be. Never: a figure that is changed.

use super::classify::{Class, Stat};
use super::{GoalResult, MrrResult};
use crate::trial::{Irregular, Trial};

/// How close two loads are that are the same.
const SAME: f64 = 1e-6;

/// An upper bound has to stand by trials whose losses are the device's.
#[must_use]
pub fn judge_goal(mut result: GoalResult, trials: &[Trial]) -> GoalResult {
    let Some(upper) = result.upper.filter(|_| result.regular) else {
        return result;
    };
    let goal = &result.goal;
    let at_upper = |it: &&Trial| !it.is_warm_up && (it.packets_per_s - upper).abs() <= upper * SAME;
    let (own, others): (Vec<&Trial>, Vec<&Trial>) = trials
        .iter()
        .filter(at_upper)
        .partition(|it| it.is_own_loss(goal.loss_ratio));
    let mut stat = Stat::default();
    for trial in others {
        if let Some(outcome) = trial.outcome() {
            stat.add(goal, trial.duration_ns as f64 / 1e9, outcome);
        }
    }
    if !own.is_empty() && stat.class(goal) != Class::Upper {
        let why = "at the upper bound the generator failed by itself: the device may take more";
        result.regular = false;
        result.why = Some(why.into());
    }
    result
}

/// A highest rate has to be one at which the device lost something, or the line's; and not what the generator can.
#[must_use]
pub fn judge_mrr(mut result: MrrResult, trials: &[Trial], is_line: bool) -> MrrResult {
    let own = |it: &&Trial| it.irregular.iter().any(Irregular::is_own);
    let (failed, all) = (trials.iter().filter(own).count(), trials.len());
    let is_lossless = trials.iter().all(|it| it.total.failed() == 0);
    result.why = if failed > 0 {
        Some(format!(
            "in {failed} of {all} trials the generator failed by itself: the device may take more"
        ))
    } else if is_lossless && !is_line {
        Some("nothing was lost at the highest load: the device may take more".into())
    } else {
        None
    };
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Goal;

    fn trial(intended: u64, lost: u64, own_unsent: u64, irregular: Vec<Irregular>) -> Trial {
        let mut trial = Trial {
            packets_per_s: intended as f64,
            duration_ns: 1_000_000_000,
            sent_for_ns: 1_000_000_000,
            whole_ns: 1_000_000_000,
            irregular,
            ..Trial::default()
        };
        let sent = &mut trial.total.sent;
        (sent.intended, sent.unsent, sent.own_unsent) = (intended, own_unsent, own_unsent);
        trial.total.lost = lost;
        trial
    }

    fn bound(upper: f64) -> GoalResult {
        GoalResult {
            goal: Goal::ndr(),
            lower: Some(upper * 0.996),
            upper: Some(upper),
            conditional_throughput: Some(upper * 0.996),
            regular: true,
            why: None,
        }
    }

    #[test]
    fn a_bound_is_the_device_s_only_if_it_stands_without_what_the_generator_did() {
        let judged = |trials: &[Trial]| judge_goal(bound(1e6), trials).regular;
        let of_device = trial(1_000_000, 50, 0, vec![]);
        assert!(judged(&vec![of_device.clone(); 21]));
        // A single packet that the generator did not send is a loss of the whole goal.
        let behind = trial(1_000_000, 0, 1, vec![Irregular::Behind { packets: 1 }]);
        assert_eq!(behind.outcome().map(|it| it.loss_ratio > 0.0), Some(true));
        assert!(!judged(&vec![behind.clone(); 21]));
        let warm_up = Trial {
            is_warm_up: true,
            ..behind.clone()
        };
        assert!(judged(
            &[vec![warm_up], vec![of_device.clone(); 11]].concat()
        ));
        // Few of them take a bound away from nobody, many do.
        let mixed = |own: usize| {
            let mut trials = vec![of_device.clone(); 21 - own];
            trials.extend(vec![behind.clone(); own]);
            judged(&trials)
        };
        assert!(mixed(3) && !mixed(12));
        // While it was away for a millisecond, two thousand packets may have been lost, and not more.
        let away = Irregular::Away {
            times: 1,
            total_ns: 1_000_000,
            longest_ns: 1_000_000,
            waited_ns: 0,
        };
        assert!(!judged(&vec![
            trial(1_000_000, 1_900, 0, vec![away.clone()]);
            21
        ]));
        assert!(judged(&vec![trial(1_000_000, 2_100, 0, vec![away]); 21]));
        let saturated = Irregular::Saturated { share: 1.0 };
        assert!(!judged(&vec![
            trial(1_000_000, 400_000, 0, vec![saturated]);
            21
        ]));
    }

    #[test]
    fn a_highest_rate_that_is_the_generator_s_says_so() {
        let result = MrrResult {
            packets_per_s: 1e6,
            deviation: 0.0,
            trials: vec![1e6; 2],
            why: None,
        };
        let why = |trials: &[Trial], is_line| judge_mrr(result.clone(), trials, is_line).why;
        let lossy = trial(1_000_000, 5_000, 0, vec![]);
        assert_eq!(why(&[lossy.clone(), lossy.clone()], false), None);
        let whole = trial(1_000_000, 0, 0, vec![]);
        assert!(
            why(std::slice::from_ref(&whole), false)
                .is_some_and(|it| it.contains("nothing was lost"))
        );
        assert_eq!(why(&[whole], true), None);
        let busy = trial(1_000_000, 9, 0, vec![Irregular::Saturated { share: 0.97 }]);
        let told = why(&[lossy, busy], false).unwrap();
        assert!(told.starts_with("in 1 of 2 trials the generator"), "{told}");
    }
}
