//! One page that shows everything, and needs nothing else.
//!
//! In: results. Out: HTML. Never: a script, a font or a picture from elsewhere; markup out of a name that an operator chose.

use std::fmt::Write as _;

use super::page::page;
use super::sections;
use super::words::{count, digits, escaped, gbit, mpps, percent, time};
use super::{Figure, Own, Results, Test};
use crate::receive::LatencySummary;
use crate::trial::Trial;

/// The whole page.
#[must_use]
pub fn html(results: &Results) -> String {
    let mut out = String::new();
    warnings(results, &mut out);
    summary(results, &mut out);
    sections::plots(results, &mut out);
    own(results.own.as_ref(), &mut out);
    method(results, &mut out);
    trials(results, &mut out);
    let when = format!("{} · {}", results.program, results.started);
    page(&results.title, &when, &out)
}

/// What a reader has to see first: tests that lost all, trials that don't count.
fn warnings(results: &Results, out: &mut String) {
    for test in &results.tests {
        for sentence in &test.explanation {
            // A String takes everything; so below.
            let _ = write!(
                out,
                "<p class=\"warn\"><b>{}</b>: {}</p>",
                escaped(&test.name),
                escaped(sentence)
            );
        }
    }
    for test in &results.tests {
        for (name, why) in test.irregular() {
            let name = escaped(&format!("{}, {name}", test.name));
            let _ = write!(out, "<p class=\"warn\"><b>{name}</b>: {}</p>", escaped(why));
        }
    }
    let all: Vec<&Trial> = results.tests.iter().flat_map(|it| &it.trials).collect();
    let disturbed = all.iter().filter(|it| !it.counts()).count();
    if disturbed > 0 {
        let _ = write!(
            out,
            "<p class=\"warn\">{disturbed} of {} trials were disturbed. They are shown hollow, and counted in no figure.</p>",
            all.len()
        );
    }
    let own = all
        .iter()
        .filter(|it| it.counts() && !it.is_regular())
        .count();
    if own > 0 {
        let _ = write!(
            out,
            "<p class=\"warn\">In {own} of {} trials the generator failed by itself. They are hollow, too, and figures that rest on them are marked.</p>",
            all.len()
        );
    }
}

/// A line for each test.
fn summary(results: &Results, out: &mut String) {
    let names = sections::figure_names(results);
    out.push_str(
        "<h2>Results</h2><div class=\"wide\"><table><thead><tr><th>Test</th><th class=\"left\">Way</th><th>Size<br><small>bytes with FCS</small></th>",
    );
    for name in &names {
        let _ = write!(
            out,
            "<th>{}<br><small>Mpps, Gbit/s in | out</small></th>",
            escaped(name)
        );
    }
    out.push_str("<th>Latency<br><small>median</small></th><th>Latency<br><small>99 %</small></th><th>Trials</th></tr></thead><tbody>");
    results
        .tests
        .iter()
        .for_each(|test| line(test, &names, out));
    out.push_str("</tbody></table></div>");
}

fn line(test: &Test, names: &[String], out: &mut String) {
    let _ = write!(
        out,
        "<tr><td>{}</td><td class=\"left\">{}</td><td>{}</td>",
        escaped(&test.name),
        escaped(&test.topology),
        escaped(&test.size)
    );
    let figures = test.figures();
    for name in names {
        match figures.iter().find(|it| it.name == *name) {
            Some(figure) => cell(test, figure, out),
            None => out.push_str("<td>–</td>"),
        }
    }
    let latency = sections::latency_of(test);
    let percentile = |percent| {
        latency
            .and_then(|it| sections::percentile(it, percent))
            .map_or("–".into(), |ns| time(ns as f64))
    };
    let regular = test
        .trials
        .iter()
        .filter(|trial| trial.is_regular())
        .count();
    let trials = if regular == test.trials.len() {
        regular.to_string()
    } else {
        format!("{regular} of {}", test.trials.len())
    };
    let _ = write!(
        out,
        "<td>{}</td><td>{}</td><td>{trials}</td></tr>",
        percentile(50.0),
        percentile(99.0)
    );
}

fn cell(test: &Test, figure: &Figure, out: &mut String) {
    let (inner, outer) = test.bits_per_s(figure.packets_per_s);
    let (class, mark) = match figure.regular {
        true => ("", ""),
        false => (
            " class=\"warn\" title=\"irregular: see the search's bounds below\"",
            " *",
        ),
    };
    let _ = write!(
        out,
        "<td{class}><b>{}</b>{mark}<br><small>{} | {}</small></td>",
        mpps(figure.packets_per_s),
        gbit(inner),
        gbit(outer)
    );
}

/// The generator alone: nothing that it measures is better than this.
fn own(own: Option<&Own>, out: &mut String) {
    out.push_str("<h2>The generator itself</h2>");
    let Some(own) = own else {
        out.push_str("<p class=\"warn\">Its own ceiling and latency were not measured: figures near them are its own.</p>");
        return;
    };
    let _ = write!(
        out,
        "<p>Over its own loop, without a device, it sends and checks <b>{} Mpps</b> of {} bytes. Its own latency is in every latency \
         above. Gaps between packets were measured at {} Mpps.</p>",
        mpps(own.packets_per_s),
        escaped(&own.size),
        mpps(own.gaps_at)
    );
    out.push_str("<div class=\"wide\"><table><thead><tr><th></th><th>least</th><th>median</th><th>99 %</th><th>99.9 %</th><th>largest</th></tr></thead><tbody>");
    for (name, summary) in [
        ("Own latency", &own.latency),
        ("Gap between packets", &own.gaps),
    ] {
        summary_row(name, summary, out);
    }
    out.push_str("</tbody></table></div>");
}

pub(super) fn summary_row(name: &str, summary: &LatencySummary, out: &mut String) {
    let at =
        |percent| sections::percentile(summary, percent).map_or("–".into(), |ns| time(ns as f64));
    let _ = write!(
        out,
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        escaped(name),
        time(summary.min_ns as f64),
        at(50.0),
        at(99.0),
        at(99.9),
        time(summary.max_ns as f64)
    );
}

fn method(results: &Results, out: &mut String) {
    out.push_str("<h2>On what, and how</h2><table class=\"facts\"><tbody>");
    for (name, value) in &results.machine {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td></tr>",
            escaped(name),
            escaped(value)
        );
    }
    out.push_str("</tbody></table>");
    for note in &results.notes {
        let _ = write!(out, "<p>{}</p>", escaped(note));
    }
    sections::goals(results, out);
    let configuration = serde_json::to_string_pretty(&results.configuration).unwrap_or_default();
    let _ = write!(
        out,
        "<details><summary>The whole configuration</summary><pre>{}</pre></details>",
        escaped(&configuration)
    );
}

/// Every trial, so that nobody has to believe a mean.
fn trials(results: &Results, out: &mut String) {
    out.push_str("<h2>Every trial</h2>");
    for test in results.tests.iter().filter(|test| !test.trials.is_empty()) {
        let _ = write!(
            out,
            "<details><summary>{}, {}: {} trials</summary><div class=\"wide\"><table><thead><tr><th>Trial</th><th>Load<br><small>Mpps</small></th>\
             <th>Seconds</th><th>Intended</th><th>Sent</th><th>Unsent</th><th>Received</th><th>Lost</th><th>Again</th><th>Reordered</th>\
             <th>Late</th><th>Spoiled</th><th>Busy</th><th class=\"left\">Disturbed by</th></tr></thead><tbody>",
            escaped(&test.name),
            escaped(&test.size),
            test.trials.len()
        );
        for trial in &test.trials {
            let (sent, received) = (trial.total.sent, trial.total.received);
            let counts = [
                sent.intended,
                sent.sent,
                sent.unsent,
                received.received,
                trial.total.lost,
                received.duplicates,
                received.reordered,
                received.late,
                received.corrupted,
            ];
            let cells: String = counts
                .iter()
                .map(|it| format!("<td>{}</td>", count(*it)))
                .collect();
            let warm_up = trial.is_warm_up.then(|| "a warm-up".to_owned());
            let why = trial.irregular.iter().map(|it| escaped(&it.words()));
            let why: Vec<String> = warm_up.into_iter().chain(why).collect();
            let _ = write!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td>{cells}<td>{}</td><td class=\"left\">{}</td></tr>",
                trial.number,
                mpps(trial.packets_per_s),
                digits(trial.duration_ns as f64 / 1e9),
                percent(trial.busy_share),
                why.join("; ")
            );
        }
        out.push_str("</tbody></table></div></details>");
    }
}
