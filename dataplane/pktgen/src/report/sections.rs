//! The page's plots: throughput by size, latency by percentile, loss against load, cycles by stage; and the searches' bounds.
//!
//! In: results. Out: figures. Never: a plot of nothing: what was not measured has no figure.

use std::fmt::Write as _;

use super::plot::{Axis, Plot, legend};
use super::words::{digits, escaped, mpps, percent, time, trimmed};
use super::{Results, Test};
use crate::receive::LatencySummary;
use crate::trial::Trial;

/// Loss below this is drawn at the bottom, where "none" stands.
const NO_LOSS: f64 = 1e-7;

/// Names of all figures, in the order in which tests have them.
pub(super) fn figure_names(results: &Results) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for figure in results.tests.iter().flat_map(Test::figures) {
        if !names.contains(&figure.name) {
            names.push(figure.name);
        }
    }
    names
}

/// The latency that a table has of a test: at half of its load, or the only one.
pub(super) fn latency_of(test: &Test) -> Option<&LatencySummary> {
    let half = test.latency.iter().find(|(load, _)| load.starts_with("50"));
    half.or(test.latency.first())
        .map(|(_, summary)| summary)
        .filter(|it| it.count > 0)
}

pub(super) fn percentile(summary: &LatencySummary, percent: f64) -> Option<u64> {
    let found = summary
        .percentiles
        .iter()
        .find(|(it, _)| (*it - percent).abs() < 1e-9);
    found.map(|(_, ns)| *ns)
}

pub(super) fn plots(results: &Results, out: &mut String) {
    if !figure_names(results).is_empty() {
        out.push_str("<h2>Throughput by size</h2><div class=\"plots\">");
        let (inner, outer) = ("Gbit/s, inner, with FCS", "Gbit/s, outer, with FCS");
        throughput(results, "Packets", "Mpps", |_, rate| rate / 1e6, out);
        throughput(
            results,
            "Bits of the guests' frames",
            inner,
            |test, rate| test.bits_per_s(rate).0 / 1e9,
            out,
        );
        throughput(
            results,
            "Bits on the wire",
            outer,
            |test, rate| test.bits_per_s(rate).1 / 1e9,
            out,
        );
        out.push_str("</div>");
    }
    section(results, "Loss against load", loss, out);
    section(results, "Latency", latency, out);
    cycles(results, out);
}

fn section(results: &Results, title: &str, figure: fn(&Test) -> Option<String>, out: &mut String) {
    let figures: String = results.tests.iter().filter_map(figure).collect();
    if !figures.is_empty() {
        let _ = write!(out, "<h2>{title}</h2><div class=\"plots\">{figures}</div>");
    }
}

fn figure(title: &str, caption: &str, legend: &str, plot: &Plot) -> String {
    format!(
        "<figure><h3>{}</h3><figcaption>{caption}</figcaption>{legend}{}</figure>",
        escaped(title),
        plot.svg()
    )
}

/// What a plot of throughput shows of a test and a rate.
type Value = fn(&Test, f64) -> f64;

/// One way and figure, over sizes.
struct Line {
    name: String,
    points: Vec<Point>,
}

struct Point {
    size: f64,
    value: f64,
    regular: bool,
}

/// A line for each way and figure, over sizes from the smallest.
fn throughput(results: &Results, title: &str, unit: &str, value: Value, out: &mut String) {
    let sizes = sizes(results);
    let lines = lines(results, &sizes, value);
    let values = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|it| it.value));
    let x = Axis::names("size in bytes, with FCS", &sizes);
    let mut plot = Plot::new(title, x, Axis::linear(unit, values));
    for (series, line) in lines.iter().enumerate() {
        let path: Vec<(f64, f64)> = line.points.iter().map(|it| (it.size, it.value)).collect();
        plot.line(&path, series, false);
        for point in &line.points {
            let says = format!("{}: {} {unit}", line.name, digits(point.value));
            plot.dot((point.size, point.value), series, !point.regular, &says);
        }
    }
    let names: Vec<String> = lines.into_iter().map(|line| line.name).collect();
    out.push_str(&figure(title, unit, &legend(&names), &plot));
}

fn sizes(results: &Results) -> Vec<String> {
    let mut tests: Vec<&Test> = results
        .tests
        .iter()
        .filter(|test| !test.figures().is_empty())
        .collect();
    tests.sort_by(|a, b| a.inner_bare_bytes.total_cmp(&b.inner_bare_bytes));
    let mut sizes: Vec<String> = Vec::new();
    for test in tests {
        if !sizes.contains(&test.size) {
            sizes.push(test.size.clone());
        }
    }
    sizes
}

fn lines(results: &Results, sizes: &[String], value: Value) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for test in &results.tests {
        for figure in test.figures() {
            let name = format!("{} {}", test.topology, figure.name);
            let place = lines
                .iter()
                .position(|it| it.name == name)
                .unwrap_or_else(|| {
                    lines.push(Line {
                        name,
                        points: Vec::new(),
                    });
                    lines.len() - 1
                });
            let size = sizes.iter().position(|it| *it == test.size).unwrap_or(0);
            lines[place].points.push(Point {
                size: size as f64,
                value: value(test, figure.packets_per_s),
                regular: figure.regular,
            });
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.size.total_cmp(&b.size));
    }
    lines
}

/// Every trial as a dot, and the bounds that searches found.
fn loss(test: &Test) -> Option<String> {
    if test.trials.is_empty() {
        return None;
    }
    let load = |trial: &Trial| trial.packets_per_s / 1e6;
    let ratios = test
        .trials
        .iter()
        .map(|it| it.loss_ratio().max(NO_LOSS))
        .chain([NO_LOSS, 1.0]);
    let y = Axis::log("loss", ratios, |ratio| {
        if ratio <= NO_LOSS * 1.01 {
            "none".into()
        } else {
            plain_percent(ratio)
        }
    });
    let mut plot = Plot::new(
        &format!("Loss against load, {}", test.name),
        Axis::linear("load in Mpps", test.trials.iter().map(load)),
        y,
    );
    for (series, goal) in test.goals.iter().enumerate() {
        if let Some(lower) = goal.lower {
            plot.upright(lower / 1e6, series + 1, &goal.goal.name);
        }
    }
    for trial in &test.trials {
        let point = (load(trial), trial.loss_ratio().max(NO_LOSS));
        let says = format!(
            "trial {}: {} Mpps for {} s, lost {}",
            trial.number,
            mpps(trial.packets_per_s),
            digits(trial.duration_ns as f64 / 1e9),
            percent(trial.loss_ratio()).replace("&lt;", "<")
        );
        plot.dot(point, 0, !trial.is_regular(), &says);
    }
    let caption =
        "every trial; hollow ones were disturbed, or the generator failed; upright: lower bounds";
    Some(figure(&test.name, caption, "", &plot))
}

/// A power of ten in percent, with all its zeros.
fn plain_percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let places = crate::number::whole(-percent.log10());
    format!("{percent:.0$} %", usize::try_from(places).unwrap_or(0))
}

/// Latency over percentiles, a line for each load.
fn latency(test: &Test) -> Option<String> {
    let series: Vec<(&str, &LatencySummary)> = test
        .latency
        .iter()
        .filter(|(_, it)| it.count > 0)
        .map(|(load, it)| (load.as_str(), it))
        .collect();
    if series.is_empty() {
        return None;
    }
    // Rare packets are what is looked at: an axis of nines.
    let rare = |percent: f64| 1.0 / (1.0 - percent / 100.0).max(1e-6);
    let shown = |summary: &LatencySummary| -> Vec<(f64, u64)> {
        summary
            .percentiles
            .iter()
            .copied()
            .filter(|(percent, _)| *percent < 100.0)
            .collect()
    };
    let values = series
        .iter()
        .flat_map(|(_, it)| shown(it))
        .map(|(_, ns)| ns as f64);
    let y = Axis::log("one way, from the intended time", values, |ns| {
        trimmed(&time(ns))
    });
    let x = Axis::log(
        "packets that took no longer",
        [2.0, 1e5].into_iter(),
        digits,
    )
    .with_ticks(
        [50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
            .map(|it| (rare(it), format!("{it} %")))
            .to_vec(),
    );
    let mut plot = Plot::new(&format!("Latency, {}", test.name), x, y);
    for (place, (name, summary)) in series.iter().enumerate() {
        let points: Vec<(f64, f64)> = shown(summary)
            .iter()
            .map(|(percent, ns)| (rare(*percent), *ns as f64))
            .collect();
        plot.line(&points, place, false);
        for ((percent, ns), point) in shown(summary).iter().zip(&points) {
            plot.dot(
                *point,
                place,
                false,
                &format!("{name}: {percent} % took {} at most", time(*ns as f64)),
            );
        }
    }
    let names: Vec<String> = series.iter().map(|(name, _)| (*name).into()).collect();
    let mut table = String::from(
        "<div class=\"wide\"><table><thead><tr><th>Load</th><th>least</th><th>median</th><th>99 %</th><th>99.9 %</th><th>largest</th></tr></thead><tbody>",
    );
    series
        .iter()
        .for_each(|(name, summary)| super::html::summary_row(name, summary, &mut table));
    table.push_str("</tbody></table></div>");
    let drawn = figure(
        &test.name,
        "three digits; a histogram of every packet",
        &legend(&names),
        &plot,
    );
    Some(drawn.replace("</figure>", &format!("{table}</figure>")))
}

/// Where cycles go, stage on stage.
fn cycles(results: &Results, out: &mut String) {
    let tests: Vec<&Test> = results
        .tests
        .iter()
        .filter(|test| !test.cycles.is_empty())
        .collect();
    if tests.is_empty() {
        return;
    }
    let mut stages: Vec<String> = Vec::new();
    for (stage, _) in tests.iter().flat_map(|test| &test.cycles) {
        if !stages.contains(stage) {
            stages.push(stage.clone());
        }
    }
    let names: Vec<String> = tests.iter().map(|test| test.name.clone()).collect();
    let sums = tests
        .iter()
        .map(|test| test.cycles.iter().map(|it| it.1).sum());
    let mut plot = Plot::new(
        "Cycles per packet",
        Axis::names("", &names),
        Axis::linear("cycles per packet", sums),
    );
    for (place, test) in tests.iter().enumerate() {
        let mut from = 0.0;
        for (stage, cycles) in &test.cycles {
            let series = stages.iter().position(|it| it == stage).unwrap_or(0);
            plot.bar(
                place as f64,
                from,
                from + cycles,
                series,
                &format!("{stage}: {} cycles", digits(*cycles)),
            );
            from += cycles;
        }
    }
    let _ = write!(
        out,
        "<h2>Cycles per packet</h2><div class=\"plots\">{}</div>",
        figure(
            "By stage",
            "from the first at the bottom to the last",
            &legend(&stages),
            &plot
        )
    );
}

/// What RFC 9971 has a report say of each goal.
pub(super) fn goals(results: &Results, out: &mut String) {
    if results.tests.iter().all(|test| test.goals.is_empty()) {
        return;
    }
    out.push_str(
        "<div class=\"wide\"><table><thead><tr><th>Search</th><th class=\"left\">Goal</th><th>Loss<br><small>at most</small></th>\
         <th>Exceed<br><small>share of the time</small></th><th>Trials<br><small>seconds</small></th><th>Sum<br><small>seconds</small></th>\
         <th>Width<br><small>of the upper bound</small></th><th>Lower bound<br><small>Mpps</small></th><th>Upper bound<br><small>Mpps</small></th>\
         <th>Conditional throughput<br><small>Mpps</small></th><th class=\"left\"></th></tr></thead><tbody>",
    );
    for test in &results.tests {
        for it in &test.goals {
            let rate = |rate: Option<f64>| rate.map_or("–".into(), mpps);
            let why = it
                .why
                .as_deref()
                .map_or(String::new(), |why| format!("irregular: {}", escaped(why)));
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"left\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td class=\"left\">{why}</td></tr>",
                escaped(&test.name),
                escaped(&it.goal.name),
                percent(it.goal.loss_ratio),
                percent(it.goal.exceed_ratio),
                digits(it.goal.final_trial_s),
                digits(it.goal.duration_sum_s),
                percent(it.goal.relative_width),
                rate(it.lower),
                rate(it.upper),
                rate(it.conditional_throughput)
            );
        }
    }
    out.push_str(
        "</tbody></table></div><p class=\"soft\">MLRsearch (RFC 9971). Loads are of one direction, in packets per second of the guests' frames; \
         the width is the bounds' difference as a share of the upper one; unsent and spoiled packets count as lost; a trial's effective \
         duration is the whole trial's, with the time before and after it.</p>",
    );
}
