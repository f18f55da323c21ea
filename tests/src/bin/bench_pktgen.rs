//! `scripts/bench throughput` and `latency`: guests and a tunnel, measured by `culvert pktgen`.
//!
//! In: the built `culvert`, two processors. Out: JSON lines. `throughput`: the maximum receive rate (CSIT's MRR) from guest
//! to guest and from a guest into a tunnel; with `--full` also NDR and PDR (MLRsearch, RFC 9971). `latency`: one way, from
//! guest to guest, of a worker that polls and of one that may sleep, each idle (1,000 packets a second) and at four fifths
//! of its own MRR. Never: a figure of a trial that was disturbed.
//!
//! ```text
//!   throughput:  culvert pktgen v2v | p2t, which starts its own device
//!   latency:     culvert pktgen run ── a.sock ── culvert run (poll: busy | adaptive) ── b.sock ── the same pktgen
//! ```
//! The generator is on the last processor and the worker on the first. What the generator does alone is measured with every
//! run of it, and printed: nothing through a device is better than that.
//!
//! Usage: culvert-bench-pktgen throughput|latency [--json] [--full] [--seconds S] [--trials N]

#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use culvert_pktgen::receive::LatencySummary;
use culvert_pktgen::report::{Results, Test};
use culvert_pktgen::trial::Irregular;
use culvert_tests::{Culvert, Part, Scenario, culvert_binary, run};
use serde_json::{Value, json};

/// A search of one point takes minutes, and some trials a while.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// What a guest sends that has nothing to do.
const IDLE: &str = "1kpps";
/// The load beside it, as a share of what comes through at most.
const LOAD: f64 = 0.8;
const SIZES: [&str; 2] = ["64", "1518"];

struct Options {
    section: Section,
    full: bool,
    /// Of each trial of a latency, and how many.
    seconds: u32,
    trials: u32,
}

#[derive(Clone, Copy)]
enum Section {
    Throughput,
    Latency,
}

fn main() -> ExitCode {
    let outcome = Options::parse().and_then(|options| {
        Scenario::run("bench-pktgen", &[Part::Root], |scenario| {
            match options.section {
                Section::Throughput => throughput(scenario, options.full),
                Section::Latency => latency(scenario, &options),
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse() -> Result<Self> {
        let mut words = std::env::args().skip(1);
        let section = match words.next().as_deref() {
            Some("throughput") => Section::Throughput,
            Some("latency") => Section::Latency,
            _ => bail!("`throughput` or `latency`; see the head of this program"),
        };
        let mut options = Self {
            section,
            full: false,
            seconds: 3,
            trials: 3,
        };
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} takes a value"))
            };
            match word.as_str() {
                // It prints nothing else.
                "--json" => {}
                "--full" => options.full = true,
                "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
                "--trials" => options.trials = value()?.parse().context("--trials")?,
                _ => bail!("no option {word}; see the head of this program"),
            }
        }
        ensure!(options.seconds > 0, "--seconds takes at least 1");
        Ok(options)
    }
}

fn throughput(scenario: &Scenario, full: bool) -> Result<()> {
    let searches = if full { "mrr,ndr,pdr" } else { "mrr" };
    let mut missing = Vec::new();
    for topology in ["v2v", "p2t"] {
        for size in SIZES {
            scenario.say(format!("{topology}, {size} bytes: {searches}"));
            let results = pktgen(&[topology, "--search", searches, "--size", size])?;
            let case = format!("{topology}/{size}");
            own(&results, "throughput", &case);
            for test in &results.tests {
                missing.extend(rates(test, &case));
            }
        }
    }
    ensure!(missing.is_empty(), "no figure of: {}", missing.join("; "));
    Ok(())
}

/// Prints what searches came to, and tells what has no figure: disturbed, or with bounds too far apart.
fn rates(test: &Test, case: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut tell = |name: &str, rate: Option<f64>, method: &str, why: &str| {
        let case = format!("{case}/{}", name.to_lowercase());
        match rate {
            Some(rate) => line("throughput", &case, "Mpps", rate / 1e6, method),
            None => missing.push(format!("{case}: {why}")),
        }
    };
    let mrr = test.mrr.as_ref();
    let method = format!(
        "MRR, mean of {} trials",
        mrr.map_or(0, |it| it.trials.len())
    );
    let rate = mrr.map(|it| it.packets_per_s);
    tell("MRR", rate, &method, "all trials were disturbed");
    for goal in &test.goals {
        let (name, rate) = (&goal.goal.name, goal.conditional_throughput);
        let why = goal.why.as_deref().unwrap_or("nothing came through");
        let rate = rate.filter(|_| goal.regular);
        tell(name, rate, &format!("{name}, MLRsearch"), why);
    }
    missing
}

/// What the generator does without a device.
fn own(results: &Results, section: &str, case: &str) {
    let Some(own) = &results.own else { return };
    let case = format!("{case}/generator alone");
    match section {
        "throughput" => line(
            section,
            &case,
            "Mpps",
            own.packets_per_s / 1e6,
            "most that it sends and checks",
        ),
        _ => percentiles(&case, &own.latency, "its own latency"),
    }
}

fn latency(scenario: &Scenario, options: &Options) -> Result<()> {
    let mut disturbed = Vec::new();
    for poll in ["busy", "adaptive"] {
        let device = Device::start(scenario, poll)?;
        let case = format!("v2v/64/{poll}");
        scenario.say(format!("{case}: mrr"));
        let most = device.measure(&["--search", "mrr"])?;
        own(&most, "latency", &case);
        let most = most.tests.first().and_then(|test| test.mrr.as_ref());
        let most = most.context("all trials of the MRR were disturbed")?;
        let most = most.packets_per_s;
        line("latency", &format!("{case}/mrr"), "Mpps", most / 1e6, "MRR");
        let load = format!("{:.0}pps", LOAD * most);
        let (seconds, trials) = (options.seconds.to_string(), options.trials.to_string());
        for (name, rate) in [("idle", IDLE), ("80 % of MRR", load.as_str())] {
            let case = format!("{case}/{name}");
            scenario.say(format!("{case}: {rate}"));
            let words = ["-m", rate, "-d", &seconds, "--trials", &trials];
            if !waits(&device.measure(&words)?, scenario, &case) {
                disturbed.push(case);
            }
        }
    }
    let cases = disturbed.join(", ");
    ensure!(
        disturbed.is_empty(),
        "all trials were disturbed of: {cases}"
    );
    Ok(())
}

/// A Culvert with two guests' ports, and what the generator calls them.
struct Device {
    seats: [String; 2],
    _culvert: Culvert,
}

impl Device {
    /// As `culvert pktgen v2v` would start it, but for its worker's way to wait.
    fn start(scenario: &Scenario, poll: &str) -> Result<Self> {
        let sockets = ["a", "b"].map(|name| scenario.path(&format!("{name}-{poll}.sock")));
        let [a, b] = sockets.each_ref().map(|path| path.display());
        let yaml = format!(
            "version: 1\ncores: {{ workers: [0], poll: {poll} }}\n\
             networks: {{ lan: {{ gateway: [198.19.255.254/15] }} }}\nports:\n  \
             a: {{ network: lan, socket: {a}, mac: \"52:54:00:00:00:01\", addresses: [198.18.0.1], guard: strict }}\n  \
             b: {{ network: lan, socket: {b}, mac: \"52:54:00:00:00:02\", addresses: [198.19.0.1], guard: strict }}\n"
        );
        Ok(Self {
            seats: [format!("a=vhost:{a}"), format!("b=vhost:{b}")],
            _culvert: Culvert::start(scenario, poll, None, &yaml)?,
        })
    }

    fn measure(&self, words: &[&str]) -> Result<Results> {
        let [a, b] = &self.seats;
        let mut all = vec!["run", "--size", "64", "--seat", a, "--seat", b];
        all.extend(words);
        pktgen(&all)
    }
}

/// Each trial is a sample; those that were disturbed are told, and left out. False if all were.
fn waits(results: &Results, scenario: &Scenario, case: &str) -> bool {
    let mut is_seen = false;
    for trial in results.tests.iter().flat_map(|test| &test.trials) {
        if !trial.is_regular() {
            let why: Vec<String> = trial.irregular.iter().map(Irregular::words).collect();
            scenario.say(format!(
                "{case}: trial {} doesn't count: {}",
                trial.number,
                why.join("; ")
            ));
            continue;
        }
        is_seen = true;
        percentiles(case, &trial.latency, "one way");
        line(
            "latency",
            &format!("{case}/lost"),
            "%",
            100.0 * trial.loss_ratio(),
            "unsent ones, too",
        );
    }
    is_seen
}

fn percentiles(case: &str, summary: &LatencySummary, method: &str) {
    let wanted = [(50.0, "p50"), (99.0, "p99"), (99.9, "p99.9")];
    for (percent, name) in wanted {
        let mut known = summary.percentiles.iter();
        let Some((_, ns)) = known.find(|(it, _)| (it - percent).abs() < 1e-9) else {
            continue;
        };
        line(
            "latency",
            &format!("{case}/{name}"),
            "µs",
            micros(*ns),
            method,
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds, for display")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn line(section: &str, case: &str, unit: &str, value: f64, method: &str) {
    let line: Value =
        json!({ "section": section, "case": case, "unit": unit, "value": value, "method": method });
    println!("{line}");
}

/// Runs the generator, and reads what it came to.
fn pktgen(words: &[&str]) -> Result<Results> {
    let mut command = Command::new(culvert_binary()?);
    command.arg("pktgen").args(words).arg("--json");
    let text = run(&mut command, PATIENCE)?;
    serde_json::from_str(&text).with_context(|| format!("no results: {text}"))
}
