//! As many trials as searches ask for, over one stage.
//!
//! In: a stage and its rig, what is to be found. Out: a [`Test`] with every trial. Never: a disturbed
//! trial in a figure; an end because one trial was disturbed.

use std::time::{Duration, Instant};

use culvert_pktgen::Profile;
use culvert_pktgen::receive::Latencies;
use culvert_pktgen::report::Test;
use culvert_pktgen::search::{Ask, Goal, Limits, Mlr, Mrr, judge_goal, judge_mrr, latency_loads};
use culvert_pktgen::trial::{Clue, Irregular, Trial, explain};

use super::device::since;
use super::rig::Rig;
use super::sealed::Left;
use super::stage::{Progress, STOLEN_MAX, Stage};

/// What is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The highest load without loss.
    Ndr,
    /// The highest load with half a percent.
    Pdr,
    /// Throughput by trials of a minute.
    Rfc2544,
    /// What comes through at the highest load.
    Mrr,
}

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Searches; none: trials at the profile's rate.
    pub searches: Vec<Search>,
    /// How many trials then.
    pub trials: u32,
}

/// CSIT's: ten trials of a second.
const MRR_TRIALS: usize = 10;
const MRR_TRIAL_S: f64 = 1.0;
/// Where a search begins, as a share of where it ends.
const LEAST_LOAD: f64 = 1e-3;
/// The trial at the highest load that does not count.
const WARM_UP_S: f64 = 1.0;
/// Ahead of the first trial of a session: so many packets a second, for so long, again and again, at most until then.
const GENTLE: f64 = 1000.0;
const WARM_UP_NS: u64 = 50_000_000;
const WARM_UP: Duration = Duration::from_secs(10);

/// A campaign.
pub struct Campaign<'c> {
    /// Where trials run.
    pub stage: &'c mut Stage,
    /// What they run by.
    pub rig: &'c mut Rig,
    /// Each stream's part of a load.
    pub shares: Vec<f64>,
    /// What is told meanwhile.
    pub progress: Progress<'c>,
    /// What came of it so far.
    pub test: Test,
    /// What the device dropped in all trials.
    pub drops: Vec<Clue>,
    /// Why it can't go on.
    pub failed: Option<String>,
}

impl Campaign<'_> {
    /// Does what is wanted; `packets_per_s` is the load of trials, and the highest of searches.
    pub fn run(&mut self, wanted: &Wanted, packets_per_s: f64) {
        let duration_s = self.stage.profile.duration_ns as f64 / 1e9;
        let ask = |packets_per_s, duration_s| Ask {
            packets_per_s,
            duration_s,
        };
        if wanted.searches.is_empty() {
            let mut all = Latencies::new();
            for _ in 0..wanted.trials {
                if self.is_over() {
                    return;
                }
                if self.trial(ask(packets_per_s, duration_s)).counts() {
                    all.add(&self.stage.latencies());
                }
                let name = format!("{:.3} Mpps", packets_per_s / 1e6);
                self.test.latency = vec![(name, all.summary())];
            }
            return;
        }
        let goals: Vec<Goal> = wanted.searches.iter().filter_map(|it| it.goal()).collect();
        if !goals.is_empty() {
            self.goals(goals, packets_per_s);
            self.latencies(duration_s);
        }
        if wanted.searches.contains(&Search::Mrr) {
            self.mrr(packets_per_s);
        }
    }

    fn is_over(&self) -> bool {
        self.is_ended() || self.failed.is_some()
    }

    fn is_ended(&self) -> bool {
        self.rig.setup().stop.is_asked()
    }

    fn goals(&mut self, goals: Vec<Goal>, max_packets_per_s: f64) {
        let limits = Limits {
            min_packets_per_s: max_packets_per_s * LEAST_LOAD,
            max_packets_per_s,
            warm_up_s: WARM_UP_S,
        };
        let mut search = match Mlr::new(goals, limits) {
            Ok(search) => search,
            Err(wrong) => {
                self.failed = Some(format!("{}: {}", wrong.message, wrong.help));
                return;
            }
        };
        let first = self.test.trials.len();
        while let Some(ask) = search.ask().filter(|_| !self.is_over()) {
            match self.trial(ask).outcome() {
                Some(outcome) => search.tell(outcome),
                None => search.disturbed(),
            }
        }
        mark_warm_ups(&mut self.test.trials[first..]);
        let trials = &self.test.trials;
        let results = search.results().into_iter();
        self.test.goals = results.map(|it| judge_goal(it, trials)).collect();
    }

    /// At shares of the PDR, or of what else was found.
    fn latencies(&mut self, duration_s: f64) {
        let found = |name: Option<&str>| {
            let mut goals = self.test.goals.iter();
            let goal = goals.find(|it| name.is_none_or(|name| it.goal.name == name))?;
            goal.conditional_throughput
        };
        let Some(base) = found(Some("PDR")).or_else(|| found(None)) else {
            return;
        };
        for (name, packets_per_s) in latency_loads(base) {
            if self.is_over() {
                return;
            }
            let trial = self.trial(Ask {
                packets_per_s,
                duration_s,
            });
            if trial.counts() {
                self.test.latency.push((name.into(), trial.latency));
            }
        }
    }

    fn mrr(&mut self, max_packets_per_s: f64) {
        let mut search = Mrr::new(max_packets_per_s, MRR_TRIAL_S, MRR_TRIALS);
        let (first, mut disturbed) = (self.test.trials.len(), 0);
        while let Some(ask) = search.ask().filter(|_| !self.is_over()) {
            match self.trial(ask).outcome() {
                Some(outcome) => search.tell(outcome),
                None if disturbed == MRR_TRIALS => break,
                None => disturbed += 1,
            }
        }
        let is_line = self.stage.profile.line.is_some();
        let mut trials = self.test.trials[first..].to_vec();
        trials.retain(Trial::counts);
        let judged = |result| judge_mrr(result, &trials, is_line);
        self.test.mrr = search.result().map(judged);
    }

    fn trial(&mut self, ask: Ask) -> Trial {
        self.see_to_session(ask.duration_s);
        if self.is_over() {
            return none();
        }
        let (before, left_before) = (self.rig.drops(), self.rig.left());
        self.stage.profile.duration_ns = whole(ask.duration_s * 1e9);
        let rates: Vec<f64> = self
            .shares
            .iter()
            .map(|share| share * ask.packets_per_s)
            .collect();
        let waited = self.rig.waited();
        let mut trial = match self.stage.trial(&rates, self.progress) {
            Ok(trial) => trial,
            Err(error) => {
                self.fail(&error);
                return none();
            }
        };
        let waited_ns = self.rig.waited().longest_since(&waited);
        trial.irregular.extend(kept_away(waited_ns, trial.whole_ns));
        if self.rig.is_told() {
            let both = left_before.zip(self.rig.left());
            match both.and_then(|(before, now)| now.since(before)) {
                Some(left) => trial.counted(left),
                None => trial.untold(),
            }
        }
        let has = |wanted: fn(&Irregular) -> bool| trial.irregular.iter().any(wanted);
        if has(|it| matches!(it, Irregular::LinkLost { .. })) {
            self.recover(&mut trial);
        } else {
            let clues = since(&before, self.rig.drops());
            let is_whole = !has(|it| matches!(it, Irregular::Interrupted | Irregular::Untold));
            if self.test.explanation.is_empty() && is_whole {
                self.test.explanation = explain(&trial, &clues);
            }
            self.remember(clues);
        }
        self.test.trials.push(trial.clone());
        trial
    }

    fn remember(&mut self, clues: Vec<Clue>) {
        for clue in clues {
            let same = |it: &&mut Clue| it.scope == clue.scope && it.reason == clue.reason;
            match self.drops.iter_mut().find(same) {
                Some(known) => known.packets += clue.packets,
                None => self.drops.push(clue),
            }
        }
    }

    /// A device that has ended meanwhile is started again, once.
    fn see_to_session(&mut self, duration_s: f64) {
        let trial = Duration::from_secs_f64(duration_s);
        let mut ready = self.rig.ready(trial);
        let is_lost = ready.is_err() && !self.is_ended();
        if is_lost && matches!(self.rig.recover(&mut self.stage.seats), Ok(true)) {
            ready = self.rig.ready(trial);
        }
        match ready {
            Ok(true) => self.warm_up(),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// What is missing since an end was asked for is nobody's failure.
    fn fail(&mut self, error: &dyn std::error::Error) {
        if !self.is_ended() {
            self.failed = Some(error.to_string());
        }
    }

    /// Until packets leave: a next hop is known a moment after somebody wants it. Whatever keeps them for longer is left to
    /// the trial, which explains it.
    fn warm_up(&mut self) {
        let until = Instant::now() + WARM_UP;
        let before = self.rig.left();
        let rates: Vec<f64> = self.shares.iter().map(|it| it * GENTLE).collect();
        let is_silent = |now: Option<Left>| {
            let both = before.zip(now);
            both.and_then(|(before, now)| now.since(before))
                .is_none_or(|it| it == 0)
        };
        while is_silent(self.rig.left()) && Instant::now() < until && !self.is_ended() {
            self.stage.profile.duration_ns = WARM_UP_NS;
            if let Err(error) = self.stage.warm_up(&rates) {
                self.fail(&error);
                return;
            }
        }
    }

    /// A device that has gone is waited for, or started again: the rest goes on.
    fn recover(&mut self, trial: &mut Trial) {
        match self.rig.recover(&mut self.stage.seats) {
            Ok(true) => trial.irregular.push(Irregular::DeviceRestarted),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }
}

/// Those ahead of what a search goes by: a warm-up that was disturbed is asked for again.
fn mark_warm_ups(trials: &mut [Trial]) {
    let disturbed = trials.iter().take_while(|it| !it.counts()).count();
    for trial in trials.iter_mut().take(disturbed + 1) {
        trial.is_warm_up = true;
    }
}

/// A worker that others keep from its processor is measured with them, as where its processor is stolen.
fn kept_away(waited_ns: u64, whole_ns: u64) -> Option<Irregular> {
    let share = waited_ns as f64 / whole_ns.max(1) as f64;
    (share > STOLEN_MAX).then_some(Irregular::Steal { share })
}

/// A trial that there was not.
fn none() -> Trial {
    Trial {
        irregular: vec![Irregular::Interrupted],
        ..Trial::default()
    }
}

impl Wanted {
    /// The longest trial that there will be, where one without a search takes so long.
    #[must_use]
    pub fn longest_s(&self, duration_s: f64) -> f64 {
        let of = |search: &Search| match search.goal() {
            // Latencies are measured besides.
            Some(goal) => goal.final_trial_s.max(duration_s),
            None => MRR_TRIAL_S,
        };
        let all = self.searches.iter().map(of);
        all.reduce(f64::max).unwrap_or(duration_s)
    }
}

impl Search {
    fn goal(self) -> Option<Goal> {
        match self {
            Self::Ndr => Some(Goal::ndr()),
            Self::Pdr => Some(Goal::pdr()),
            Self::Rfc2544 => Some(Goal::rfc2544()),
            Self::Mrr => None,
        }
    }
}

/// The sizes of a profile, in words.
#[must_use]
pub fn sizes(profile: &Profile) -> String {
    let mut words: Vec<String> = Vec::new();
    for stream in &profile.streams {
        let it = stream.mix.words();
        if !words.contains(&it) {
            words.push(it);
        }
    }
    words.join(", ")
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a duration that a search asks for: positive, and far from the end of 64 bits"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_that_was_disturbed_is_one_and_so_is_the_next() {
        let marked = |disturbed: &[bool]| -> Vec<bool> {
            let trial = |&is_disturbed: &bool| Trial {
                irregular: kept_away(u64::from(is_disturbed), 1).into_iter().collect(),
                ..Trial::default()
            };
            let mut trials: Vec<Trial> = disturbed.iter().map(trial).collect();
            mark_warm_ups(&mut trials);
            trials.iter().map(|it| it.is_warm_up).collect()
        };
        assert_eq!(marked(&[false, false, true]), [true, false, false]);
        assert_eq!(
            marked(&[true, true, false, false]),
            [true, true, true, false]
        );
        assert!(marked(&[]).is_empty());
    }

    #[test]
    fn a_trial_whose_worker_had_to_wait_says_nothing() {
        assert_eq!(kept_away(9_000_000, 1_000_000_000), None);
        let away = kept_away(20_000_000, 1_000_000_000).unwrap();
        assert_eq!(away, Irregular::Steal { share: 0.02 });
        assert!(!away.is_own());
    }
}
