//! What changed between two runs, and whether it is more than noise.
//!
//! In: results of before and of now. Out: a line for each figure that both have, and the names of those that one lacks. Never:
//! a comparison of tests whose size or way differ, a claim on less than the figure's own width.

use serde::{Deserialize, Serialize};

use super::{Results, Test};

/// A figure, then and now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The test's name.
    pub test: String,
    /// NDR, PDR, MRR, or a latency's name.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// Before.
    pub old: f64,
    /// Now.
    pub new: f64,
    /// By what share it has to differ to say anything: the widths of both searches, or three deviations of the trials.
    pub noise: f64,
    /// Whether it does.
    pub beyond_noise: bool,
}

/// A comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Figures that both have, in the order of now.
    pub changes: Vec<Change>,
    /// Tests that one alone has: "before" or "now", and the name.
    pub alone: Vec<(String, String)>,
    /// Facts of the machine that differ: with them, figures may differ for that reason alone.
    pub machine: Vec<(String, String, String)>,
}

/// A figure of one run, with the share of it that is noise.
struct Measured {
    figure: String,
    unit: &'static str,
    value: f64,
    noise: f64,
}

/// Latencies differ from run to run by this share without a reason, where nothing else is known of them.
const LATENCY_NOISE: f64 = 0.1;

/// Compares two runs.
#[must_use]
pub fn compare(old: &Results, new: &Results) -> Comparison {
    let mut comparison = Comparison::default();
    for test in &new.tests {
        match old.tests.iter().find(|it| is_same(it, test)) {
            Some(before) => changes(before, test, &mut comparison.changes),
            None => comparison.alone.push(("now".into(), test.name.clone())),
        }
    }
    for test in &old.tests {
        if !new.tests.iter().any(|it| is_same(it, test)) {
            comparison.alone.push(("before".into(), test.name.clone()));
        }
    }
    for (fact, now) in &new.machine {
        let before = old.machine.get(fact).map_or("", String::as_str);
        if before != now {
            comparison
                .machine
                .push((fact.clone(), before.into(), now.clone()));
        }
    }
    comparison
}

fn is_same(a: &Test, b: &Test) -> bool {
    a.name == b.name && a.topology == b.topology && a.size == b.size
}

fn changes(before: &Test, now: &Test, out: &mut Vec<Change>) {
    let old = measured(before);
    for new in measured(now) {
        let Some(old) = old.iter().find(|it| it.figure == new.figure) else {
            continue;
        };
        let noise = old.noise + new.noise;
        let share = (new.value - old.value).abs() / old.value.abs().max(f64::MIN_POSITIVE);
        out.push(Change {
            test: now.name.clone(),
            figure: new.figure,
            unit: new.unit.into(),
            old: old.value,
            new: new.value,
            noise,
            beyond_noise: share > noise,
        });
    }
}

fn measured(test: &Test) -> Vec<Measured> {
    let goals = test.goals.iter().filter(|it| it.regular).filter_map(|it| {
        Some(Measured {
            figure: it.goal.name.clone(),
            unit: "packets/s",
            value: it.conditional_throughput?,
            noise: it.goal.relative_width,
        })
    });
    let mrr = test.mrr.iter().map(|it| Measured {
        figure: "MRR".into(),
        unit: "packets/s",
        value: it.packets_per_s,
        noise: 3.0 * it.deviation / it.packets_per_s.max(f64::MIN_POSITIVE),
    });
    let latency = test.latency.iter().flat_map(|(load, summary)| {
        [50.0, 99.0].into_iter().filter_map(move |percent| {
            let (_, ns) = summary
                .percentiles
                .iter()
                .find(|(it, _)| (*it - percent).abs() < 1e-9)?;
            Some(Measured {
                figure: format!("latency {load}, {percent} %"),
                unit: "ns",
                value: *ns as f64,
                noise: LATENCY_NOISE,
            })
        })
    });
    goals.chain(mrr).chain(latency).collect()
}
