//! MLRsearch (RFC 9971): several goals at once, short trials first.
//!
//! In: goals, the least and the highest load; outcomes. Out: what to try next; for each goal its bounds and conditional
//! throughput. Never: a load outside the limits; a goal that waits for another one's trials, which it sees as well.
//!
//! The beginning is that of CSIT's: a trial at the highest load (after a warm-up that does not count), then at what came
//! through, then a little beside that. Then every goal nominates a load, and the lowest is tried, for it is the one that is
//! most probably a bound of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::classify::{Class, Stat};
use super::goal::Target;
use super::grid::{Grid, Load};
use super::selector::{Bounds, Edges, Selector};
use super::{Ask, Goal, Outcome};
use crate::limits::{DISTURBED_MAX, TRIALS_MAX};
use crate::mistake::Wrong;

/// Between which loads is searched, and how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The least load; not zero, as widths are relative.
    pub min_packets_per_s: f64,
    /// The highest load.
    pub max_packets_per_s: f64,
    /// The length of a trial at the highest load before all others, which does not count; 0: none.
    pub warm_up_s: f64,
}

/// What a goal came to (RFC 9971, "Goal Result").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoalResult {
    /// The goal, with all its attributes.
    pub goal: Goal,
    /// The relevant lower bound, in packets per second.
    pub lower: Option<f64>,
    /// The relevant upper bound.
    pub upper: Option<f64>,
    /// What came through at the lower bound, as a rule.
    pub conditional_throughput: Option<f64>,
    /// Whether both bounds are there, and as close as the goal wants them.
    pub regular: bool,
    /// Why not: in words.
    pub why: Option<String>,
}

/// A search.
#[derive(Clone, Debug)]
pub struct Mlr {
    goals: Vec<Goal>,
    grid: Grid,
    targets: Vec<Target>,
    widths: Vec<u32>,
    /// Trials at each load, as each target sees them; for the last of a goal, as the goal does.
    loads: BTreeMap<Load, Vec<Stat>>,
    selectors: Vec<Selector>,
    phase: Phase,
    asked: Option<Asked>,
    trials: usize,
    /// In succession.
    disturbed: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    WarmUp(f64),
    First,
    Second { at: Load },
    Third { at: Load, second: Load },
    Main,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    load: Load,
    duration_s: f64,
    /// Whose nomination it is, in the main phase.
    selector: Option<usize>,
}

impl Mlr {
    /// A search that has tried nothing.
    ///
    /// # Errors
    /// What is wrong with goals or limits.
    pub fn new(goals: Vec<Goal>, limits: Limits) -> Result<Self, Wrong> {
        goals.iter().try_for_each(Goal::check)?;
        let narrowest = goals
            .iter()
            .map(|goal| goal.relative_width)
            .min_by(f64::total_cmp);
        let narrowest =
            narrowest.ok_or_else(|| Wrong::new("a search without a goal", "give one, as NDR"))?;
        check(limits)?;
        let grid = Grid::new(
            limits.min_packets_per_s,
            limits.max_packets_per_s,
            narrowest,
        );
        let mut search = Self {
            grid,
            targets: Vec::new(),
            widths: Vec::new(),
            loads: BTreeMap::new(),
            selectors: Vec::new(),
            phase: if limits.warm_up_s > 0.0 {
                Phase::WarmUp(limits.warm_up_s)
            } else {
                Phase::First
            },
            asked: None,
            trials: 0,
            disturbed: 0,
            goals,
        };
        search.lay_out();
        Ok(search)
    }

    fn lay_out(&mut self) {
        for goal in &self.goals {
            let first = self.targets.len();
            let width = self.grid.width(goal.relative_width);
            self.targets.extend(goal.targets());
            self.widths.extend(
                self.targets[first..]
                    .iter()
                    .map(|it| width.saturating_mul(it.widths)),
            );
            let places = (first..self.targets.len()).collect();
            self.selectors
                .push(Selector::new(places, Bounds::default()));
        }
    }

    /// What to try next; `None` when every goal is reached, or can't be. Asked again without an outcome, it says the same.
    pub fn ask(&mut self) -> Option<Ask> {
        if self.disturbed >= DISTURBED_MAX {
            return None;
        }
        if self.asked.is_none() {
            self.asked = self.choose();
        }
        let asked = self.asked.as_ref()?;
        Some(Ask {
            packets_per_s: self.grid.packets_per_s(asked.load),
            duration_s: asked.duration_s,
        })
    }

    /// The trial that was asked for was irregular: it is asked for again, a few times.
    pub const fn disturbed(&mut self) {
        self.disturbed += 1;
    }

    /// Takes what came of the trial that was asked for.
    pub fn tell(&mut self, outcome: Outcome) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        self.trials += 1;
        self.disturbed = 0;
        if let Phase::WarmUp(_) = self.phase {
            self.phase = Phase::First;
            return;
        }
        let stats = self
            .loads
            .entry(asked.load)
            .or_insert_with(|| vec![Stat::default(); self.targets.len()]);
        for (target, stat) in self.targets.iter().zip(stats) {
            stat.add_to(target, asked.duration_s, outcome);
        }
        match self.phase {
            Phase::WarmUp(_) | Phase::Main => self.tell_selector(&asked),
            Phase::First | Phase::Second { .. } | Phase::Third { .. } => {
                self.go_on(asked.load, outcome)
            }
        }
    }

    fn tell_selector(&mut self, asked: &Asked) {
        let Some(place) = asked.selector else {
            return;
        };
        let target = self.selectors[place].target();
        let after = self.bounds(target);
        let expansion = self.targets[target].expansion;
        self.selectors[place].tried(asked.load, after, expansion);
    }

    /// The first trials: the highest load, what came through of it, a little beside.
    fn go_on(&mut self, load: Load, outcome: Outcome) {
        let through = self.grid.packets_per_s(load) * (1.0 - outcome.loss_ratio)
            / (1.0 - self.first_loss_ratio());
        let at = self.grid.below(through);
        self.phase = match self.phase {
            Phase::First if at >= self.grid.top() => self.begin(load, load),
            Phase::First => Phase::Second { at },
            Phase::Second { .. } => {
                let width = self.first_width();
                let beside = if outcome.loss_ratio > self.first_loss_ratio() {
                    at.min(load.saturating_sub(width))
                } else {
                    load.saturating_add(width).min(self.grid.top())
                };
                match beside == load {
                    true => self.begin(load, load),
                    false => Phase::Third {
                        at: beside,
                        second: load,
                    },
                }
            }
            Phase::Third { second, .. } => self.begin(load.min(second), load.max(second)),
            Phase::WarmUp(_) | Phase::Main => self.phase,
        };
    }

    fn begin(&mut self, lower: Load, upper: Load) -> Phase {
        let from = Bounds {
            lower: Some(lower),
            upper: Some(upper),
        };
        for selector in &mut self.selectors {
            selector.advance_from(from);
        }
        Phase::Main
    }

    /// The targets that come first, of all goals.
    fn firsts(&self) -> impl Iterator<Item = (&Target, u32)> {
        self.selectors
            .iter()
            .map(|it| (&self.targets[it.first()], self.widths[it.first()]))
    }

    fn first_loss_ratio(&self) -> f64 {
        self.firsts()
            .map(|(it, _)| it.loss_ratio)
            .fold(1.0, f64::min)
    }

    fn first_width(&self) -> u32 {
        self.firsts().map(|(_, width)| width).max().unwrap_or(1)
    }

    fn choose(&mut self) -> Option<Asked> {
        let duration_s = self.firsts().map(|(it, _)| it.trial_s).fold(0.0, f64::max);
        let ask = |load, duration_s| {
            Some(Asked {
                load,
                duration_s,
                selector: None,
            })
        };
        match self.phase {
            Phase::WarmUp(warm_up_s) => ask(self.grid.top(), warm_up_s),
            Phase::First => ask(self.grid.top(), duration_s),
            Phase::Second { at } | Phase::Third { at, .. } => ask(at, duration_s),
            Phase::Main if self.trials >= TRIALS_MAX => None,
            Phase::Main => self.nominated(),
        }
    }

    /// The lowest load of all that goals nominate; of the same load the longest trial.
    fn nominated(&mut self) -> Option<Asked> {
        let nominations: Vec<Asked> = (0..self.selectors.len())
            .filter_map(|place| self.nominate(place))
            .collect();
        let order = |a: &Asked, b: &Asked| {
            a.load
                .cmp(&b.load)
                .then(b.duration_s.total_cmp(&a.duration_s))
        };
        nominations.into_iter().min_by(order)
    }

    fn nominate(&mut self, place: usize) -> Option<Asked> {
        let edges = Edges {
            top: self.grid.top(),
        };
        loop {
            let target = self.selectors[place].target();
            let bounds = self.bounds(target);
            let selector = &mut self.selectors[place];
            let spec = &self.targets[target];
            if let Some(load) = selector.nominate(bounds, spec, self.widths[target], edges) {
                return Some(Asked {
                    load,
                    duration_s: spec.trial_s,
                    selector: Some(place),
                });
            }
            if !selector.advance(bounds) {
                return None;
            }
        }
    }

    /// The relevant bounds of a target: the smallest upper bound, and the largest lower one below it.
    fn bounds(&self, target: usize) -> Bounds {
        let mut bounds = Bounds::default();
        for (load, stats) in &self.loads {
            match stats[target].class_for(&self.targets[target]) {
                Class::Undecided => {}
                Class::Lower => bounds.lower = Some(*load),
                Class::Upper => {
                    bounds.upper = Some(*load);
                    break;
                }
            }
        }
        bounds
    }

    /// What each goal came to: at the end, or so far.
    #[must_use]
    pub fn results(&self) -> Vec<GoalResult> {
        self.goals
            .iter()
            .zip(&self.selectors)
            .map(|(goal, selector)| self.result(goal, selector.last()))
            .collect()
    }

    fn result(&self, goal: &Goal, target: usize) -> GoalResult {
        let bounds = self.bounds(target);
        let ratio = bounds
            .lower
            .map(|load| self.loads[&load][target].conditional_loss_ratio(goal));
        let rate = |load| self.grid.packets_per_s(load);
        let why = match (bounds.lower, bounds.upper) {
            (Some(lower), Some(upper)) if upper - lower <= self.widths[target] => None,
            (Some(lower), None) if lower == self.grid.top() => {
                Some("the highest load is a lower bound: the device takes more")
            }
            (None, Some(0)) => Some("the least load is an upper bound: the device takes less"),
            _ if self.disturbed >= DISTURBED_MAX => Some("trial after trial was disturbed"),
            _ => Some("the search ended before the bounds were close"),
        };
        GoalResult {
            goal: goal.clone(),
            lower: bounds.lower.map(rate),
            upper: bounds.upper.map(rate),
            conditional_throughput: bounds
                .lower
                .zip(ratio)
                .map(|(load, ratio)| rate(load) * (1.0 - ratio)),
            regular: why.is_none(),
            why: why.map(String::from),
        }
    }

    /// Trials so far.
    #[must_use]
    pub const fn trials(&self) -> usize {
        self.trials
    }
}

fn check(limits: Limits) -> Result<(), Wrong> {
    let Limits {
        min_packets_per_s: min,
        max_packets_per_s: max,
        warm_up_s,
    } = limits;
    if min > 0.0 && max > min && max.is_finite() && warm_up_s >= 0.0 {
        return Ok(());
    }
    Err(Wrong::new(
        format!("a search from {min} to {max} packets/s"),
        "expected a least load of more than 0, and a highest above it",
    ))
}
