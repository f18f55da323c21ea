//! Results for a terminal: a few lines that say what came of it.
//!
//! In: results. Out: text of 100 characters at most, but for sentences. Never: a figure without what the generator does
//! alone; colours.

use std::fmt::Write as _;

use super::words::{count, digits, mpps, time};
use super::{Results, Test};
use crate::receive::LatencySummary;
use crate::trial::{Irregular, Trial};

/// Trials that are listed; of more, the last ones.
const TRIALS_LISTED: usize = 12;

/// All of it.
#[must_use]
pub fn text(results: &Results) -> String {
    let mut out = String::new();
    for test in &results.tests {
        // A String takes everything; so below.
        let _ = writeln!(out, "{}", test.name);
        figures(test, &mut out);
        trials(test, &mut out);
        latency(test, &mut out);
        for sentence in &test.explanation {
            let _ = writeln!(out, "  ! {sentence}");
        }
        out.push('\n');
    }
    if let Some(own) = &results.own {
        let _ = writeln!(
            out,
            "generator alone   {} Mpps of {}; latency {} median, {} at most; gaps {} median, {} at most, of {} meant",
            mpps(own.packets_per_s),
            own.size,
            ns(own.latency.percentiles.first().map(|it| it.1)),
            ns(Some(own.latency.max_ns)),
            ns(own.gaps.percentiles.first().map(|it| it.1)),
            ns(Some(own.gaps.max_ns)),
            time(1e9 / own.gaps_at.max(f64::MIN_POSITIVE)),
        );
    }
    for fact in ["pinning", "cores", "build"] {
        if let Some(text) = results.machine.get(fact) {
            let _ = writeln!(out, "{fact:<17} {text}");
        }
    }
    for note in &results.notes {
        let _ = writeln!(out, "- {note}");
    }
    out
}

fn figures(test: &Test, out: &mut String) {
    for figure in test.figures() {
        let (inner, outer) = test.bits_per_s(figure.packets_per_s);
        let mut bits = format!("{} Gbit/s", digits(inner / 1e9));
        if outer > inner {
            let _ = write!(bits, ", {} sealed", digits(outer / 1e9));
        }
        let goal = test.goals.iter().find(|it| it.goal.name == figure.name);
        let bounds = goal.map_or(String::new(), |it| {
            let rate = |rate: Option<f64>| rate.map_or("none".into(), mpps);
            format!("  bounds {} and {}", rate(it.lower), rate(it.upper))
        });
        let spread = test.mrr.as_ref().filter(|_| goal.is_none());
        let spread = spread.map_or(String::new(), |it| {
            format!("  ± {} over {} trials", mpps(it.deviation), it.trials.len())
        });
        let _ = writeln!(
            out,
            "  {:<9} {:>7} Mpps  {bits}{bounds}{spread}",
            figure.name,
            mpps(figure.packets_per_s)
        );
    }
    for (name, why) in test.irregular() {
        let _ = writeln!(out, "  {name:<9} irregular: {why}");
    }
}

fn trials(test: &Test, out: &mut String) {
    let _ = writeln!(
        out,
        "  trial  load Mpps    time      intended        unsent          sent      received          lost   loss"
    );
    let left_out = test.trials.len().saturating_sub(TRIALS_LISTED);
    if left_out > 0 {
        let _ = writeln!(out, "      … {left_out} trials before");
    }
    for trial in &test.trials[left_out..] {
        line(trial, out);
    }
    let busy = test
        .trials
        .iter()
        .map(|it| it.busy_share)
        .fold(0.0, f64::max);
    if busy > 0.0 {
        let percent = busy * 100.0;
        let _ = writeln!(
            out,
            "  the generator had something to do in {percent:.0} % of a trial's time at most"
        );
    }
}

fn line(trial: &Trial, out: &mut String) {
    let (sent, received) = (trial.total.sent, trial.total.received);
    let counts = [
        sent.intended,
        sent.unsent,
        sent.sent,
        received.received,
        trial.total.lost,
    ];
    let mut counts = counts.map(count);
    let mut loss = share(trial.loss_ratio());
    if trial.irregular.contains(&Irregular::Untold) {
        (counts[3], counts[4], loss) = ("unknown".into(), "unknown".into(), "unknown".into());
    }
    let counts = counts.map(|it| format!("{it:>13}"));
    let _ = writeln!(
        out,
        "  {:>5}  {:>9}  {:>6}  {}  {}",
        trial.number,
        mpps(trial.packets_per_s),
        time(trial.sent_for_ns as f64),
        counts.join(" "),
        loss,
    );
    let more = [
        (received.duplicates, "came again"),
        (received.reordered, "reordered"),
        (received.late, "late"),
        (received.corrupted, "spoiled"),
        (trial.strange.foreign, "frames of others"),
    ];
    let more = more.iter().filter(|(count, _)| *count > 0);
    let mut told: Vec<String> = more
        .map(|(it, what)| format!("{} {what}", count(*it)))
        .collect();
    told.extend(
        trial
            .is_warm_up
            .then(|| "a warm-up, which counts in no figure".into()),
    );
    told.extend(trial.irregular.iter().map(Irregular::words));
    if !told.is_empty() {
        let _ = writeln!(out, "         {}", told.join("; "));
    }
}

fn share(ratio: f64) -> String {
    match ratio * 100.0 {
        0.0 => "none".into(),
        percent if percent < 0.0001 => "<0.0001 %".into(),
        percent => format!("{} %", digits(percent)),
    }
}

fn latency(test: &Test, out: &mut String) {
    let measured: Vec<_> = test.latency.iter().filter(|(_, it)| it.count > 0).collect();
    if measured.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "  latency at        least      median        99 %      99.9 %     99.99 %        most"
    );
    for (name, summary) in measured {
        let columns: Vec<String> = [50.0, 99.0, 99.9, 99.99]
            .map(|it| percentile(summary, it))
            .into_iter()
            .chain([Some(summary.max_ns)])
            .map(|it| format!("{:>11}", ns(it)))
            .collect();
        let _ = writeln!(
            out,
            "  {name:<11} {:>11} {}",
            ns(Some(summary.min_ns)),
            columns.join(" ")
        );
    }
}

fn percentile(summary: &LatencySummary, percent: f64) -> Option<u64> {
    super::sections::percentile(summary, percent)
}

fn ns(value: Option<u64>) -> String {
    value.map_or("–".into(), |ns| time(ns as f64))
}
