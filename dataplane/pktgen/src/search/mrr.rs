//! CSIT's maximum receive rate: what comes through in short trials at the highest load.
//!
//! In: how many trials, outcomes. Out: trials, then mean and deviation. Never: a claim that nothing was lost.

use serde::{Deserialize, Serialize};

use super::{Ask, Outcome};

/// Short trials at the highest load.
#[derive(Clone, Debug)]
pub struct Mrr {
    max_packets_per_s: f64,
    trial_s: f64,
    trials: usize,
    received: Vec<f64>,
}

/// What came through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MrrResult {
    /// Packets per second in the mean of all trials.
    pub packets_per_s: f64,
    /// The standard deviation between trials (of the sample).
    pub deviation: f64,
    /// Each trial's.
    pub trials: Vec<f64>,
    /// Why it says less of the device than it seems to: in words; `None`: it is the device's.
    #[serde(default)]
    pub why: Option<String>,
}

impl Mrr {
    /// As many trials of a length.
    #[must_use]
    pub const fn new(max_packets_per_s: f64, trial_s: f64, trials: usize) -> Self {
        Self {
            max_packets_per_s,
            trial_s,
            trials,
            received: Vec::new(),
        }
    }

    /// What to try next.
    #[must_use]
    pub fn ask(&self) -> Option<Ask> {
        (self.received.len() < self.trials).then_some(Ask {
            packets_per_s: self.max_packets_per_s,
            duration_s: self.trial_s,
        })
    }

    /// Takes what came of a trial.
    pub fn tell(&mut self, outcome: Outcome) {
        self.received
            .push(self.max_packets_per_s * (1.0 - outcome.loss_ratio));
    }

    /// What came through, in the mean; `None` before the first trial.
    #[must_use]
    pub fn result(&self) -> Option<MrrResult> {
        let (mean, deviation) = mean_and_deviation(&self.received)?;
        Some(MrrResult {
            packets_per_s: mean,
            deviation,
            trials: self.received.clone(),
            why: None,
        })
    }
}

/// The mean, and the deviation of a sample; `None` of nothing.
pub(super) fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|it| (it - mean) * (it - mean)).sum();
    Some((mean, (squares / (count - 1.0).max(1.0)).sqrt()))
}
