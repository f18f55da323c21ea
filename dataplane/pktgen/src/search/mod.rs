//! Searches: which load to try next, and what trials came to.
//!
//! In: goals, limits of the load, the outcome of each trial that was asked for. Out: the next trial, results. Never: a trial
//! of its own, a clock.
//!
//! Each search is a value with `ask`, which says what to try, or that it is done, and `tell`, which takes what came of it.
//! Loads are per interface, in packets per second of the frames that the generator sends.
//!
//! - [`Mlr`]: NDR, PDR and others at once, by MLRsearch (RFC 9971).
//! - [`LossCurve`], [`latency_loads`], [`Recovery`]: RFC 2544, sections 26.2, 26.3 and 26.5; 26.1 is [`Goal::rfc2544`].
//! - [`BackToBack`]: RFC 9004.
//! - [`Mrr`]: CSIT's maximum receive rate: short trials at the highest load.

mod burst;
mod classify;
mod goal;
mod grid;
mod judge;
mod mlr;
mod mrr;
mod rfc2544;
mod selector;

use serde::{Deserialize, Serialize};

pub use self::{
    burst::{BackToBack, Bursts},
    classify::{Class, Stat},
    goal::Goal,
    judge::{judge_goal, judge_mrr},
    mlr::{GoalResult, Limits, Mlr},
    mrr::{Mrr, MrrResult},
    rfc2544::{LossCurve, Recovery, latency_loads},
};

/// A trial that is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// At what load.
    pub packets_per_s: f64,
    /// For how long.
    pub duration_s: f64,
}

/// What came of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Packets lost or unsent, of those intended: 0 to 1.
    pub loss_ratio: f64,
    /// What the trial counts for: its duration, or with the time around it (RFC 9971, "Trial Effective Duration").
    pub effective_s: f64,
}

impl Outcome {
    /// One that counts for its duration.
    #[must_use]
    pub const fn of(loss_ratio: f64, effective_s: f64) -> Self {
        Self {
            loss_ratio,
            effective_s,
        }
    }
}

#[cfg(test)]
mod tests;
