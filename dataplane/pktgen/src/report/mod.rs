//! Results: what was measured, on what, how; as JSON, as CSV, as one page of HTML, as text for a terminal.
//!
//! In: trials, what searches came to, facts of the machine. Out: texts. Never: a figure without the trials that it comes
//! from, a file, the network: the page has all that it shows in itself.
//!
//! The JSON's shape is that of [`Results`]; a change that a reader of older files would not understand changes
//! [`FORMAT`]. Counts are packets, times nanoseconds (`_ns`) or seconds (`_s`), rates packets per second in one direction,
//! of the frames that the generator sends.

mod compare;
mod csv;
mod html;
mod page;
mod plot;
mod sections;
mod text;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rate::{Layer, bits};
use crate::receive::LatencySummary;
use crate::search::{Bursts, GoalResult, MrrResult};
use crate::trial::Trial;

pub use self::{
    compare::{Change, Comparison, compare},
    csv::csv,
    html::html,
    page::page,
    text::text,
    words::{digits, escaped},
};

/// The version of the JSON's shape.
pub const FORMAT: u32 = 1;

/// Everything that a run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// What was run, in words.
    pub title: String,
    /// The program and its version.
    pub program: String,
    /// When, as RFC 3339 writes it.
    pub started: String,
    /// What it ran on: processor, microcode, kernel, hugepages, pinning, versions, near or far cores, stolen time.
    pub machine: BTreeMap<String, String>,
    /// The whole configuration, as it was read: profile, topology, the device's.
    pub configuration: Value,
    /// The generator alone, over its own loop, before anything else.
    pub own: Option<Own>,
    /// How it differs from what standards say, and what a reader has to know.
    pub notes: Vec<String>,
    /// What was measured, in order.
    pub tests: Vec<Test>,
}

/// What the generator does without a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// Its own ceiling.
    pub packets_per_s: f64,
    /// Of what size, in words.
    pub size: String,
    /// Its own latency, which is in every other.
    pub latency: LatencySummary,
    /// Between two packets, at the rate that `gaps_at` has.
    pub gaps: LatencySummary,
    /// The rate at which gaps were measured.
    pub gaps_at: f64,
}

/// One test: a topology, a size, all its trials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// What tables call it.
    pub name: String,
    /// From where to where.
    pub topology: String,
    /// The size or mix, in words, with check sequences.
    pub size: String,
    /// The mean length of packets without check sequences: the guest's,
    pub inner_bare_bytes: f64,
    /// and the sealed ones on the wire.
    pub outer_bare_bytes: f64,
    /// Every trial, in order.
    pub trials: Vec<Trial>,
    /// What a search came to.
    pub goals: Vec<GoalResult>,
    /// The maximum receive rate, if that was measured.
    pub mrr: Option<MrrResult>,
    /// Back-to-back bursts, if they were.
    pub bursts: Option<Bursts>,
    /// Latencies by load, with the load's name.
    pub latency: Vec<(String, LatencySummary)>,
    /// Cycles per packet by stage, in the packet's order, if the device tells.
    pub cycles: Vec<(String, f64)>,
    /// Why nothing came through, if nothing did.
    pub explanation: Vec<String>,
}

/// A figure of a test: a rate under a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// NDR, PDR, MRR.
    pub(crate) name: String,
    pub(crate) packets_per_s: f64,
    /// Whether it is what its name says; an irregular one is marked wherever it stands.
    pub(crate) regular: bool,
}

impl Results {
    /// As JSON, indented.
    #[must_use]
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("keys are strings, and nothing else fails in memory")
    }
}

impl Test {
    /// Its rates, in the order of a table's columns.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let goals = self.goals.iter().filter_map(|it| {
            Some(Figure {
                name: it.goal.name.clone(),
                packets_per_s: it.conditional_throughput?,
                regular: it.regular,
            })
        });
        let mrr = self.mrr.iter().map(|it| Figure {
            name: "MRR".into(),
            packets_per_s: it.packets_per_s,
            regular: it.why.is_none(),
        });
        goals.chain(mrr).collect()
    }

    /// Figures that say less than they seem to, and why.
    pub(crate) fn irregular(&self) -> impl Iterator<Item = (&str, &str)> {
        let goals = self
            .goals
            .iter()
            .filter_map(|it| Some((&*it.goal.name, it.why.as_deref()?)));
        let mrr = self
            .mrr
            .iter()
            .filter_map(|it| Some(("MRR", it.why.as_deref()?)));
        goals.chain(mrr)
    }

    /// A rate in bits per second of frames with their check sequences: the guest's, and those on the wire.
    pub(crate) fn bits_per_s(&self, packets_per_s: f64) -> (f64, f64) {
        let rate = |bare_bytes| packets_per_s * bits(bare_bytes, Layer::L2);
        (rate(self.inner_bare_bytes), rate(self.outer_bare_bytes))
    }
}

#[cfg(test)]
mod tests;
