//! `scripts/bench throughput` and `latency`: guests and a tunnel, measured by `culvert pktgen`.
//!
//! In: the built `culvert`, two processors. Out: JSON lines. `throughput`: the maximum receive rate (CSIT's MRR) from guest
//! to guest and from a guest into a tunnel; with `--full` also NDR and PDR (MLRsearch, RFC 9971). `latency`: one way, from
//! guest to guest, of a worker that polls and of one that may sleep, each idle (1,000 packets a second) and at four fifths
//! of its own MRR, medians of trials. Never: a latency of a trial that was disturbed, or in which the generator was not as it
//! should be; a rate of the generator's that is told as Culvert's.
//!
//! ```text
//!   throughput:  culvert pktgen v2v | p2t, which starts its own device
//!   latency:     culvert pktgen run ── a.sock ── culvert run (poll: busy | adaptive) ── b.sock ── the same pktgen
//! ```
//! `throughput` leaves it to the generator to choose two processors, of two cores if there are two. `latency` has the worker
//! on the first and the generator on the last one: it starts the device itself. What the generator does alone is measured with
//! every run of it, and printed: nothing through a device is better than that.
//!
//! Usage: culvert-bench-pktgen throughput|latency [--json] [--full] [--seconds S] [--trials N]

#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use culvert_pktgen::receive::LatencySummary;
use culvert_pktgen::report::{Results, Test};
use culvert_pktgen::search::MrrResult;
use culvert_pktgen::trial::{Irregular, Trial};
use culvert_tests::{Culvert, Part, Scenario, culvert_binary, median, run};
use serde_json::{Value, json};

/// A search of one point takes minutes, and some trials a while.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// What a guest sends that has nothing to do.
const IDLE: &str = "1kpps";
/// The load beside it, as a share of what comes through at most.
const LOAD: f64 = 0.8;
const SIZES: [&str; 2] = ["64", "1518"];
const PERCENTILES: [(f64, &str); 3] = [(50.0, "p50"), (99.0, "p99"), (99.9, "p99.9")];

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
            Some(rate) => line(
                "throughput",
                &case,
                "Mpps",
                rate / 1e6,
                json!({ "method": method }),
            ),
            None => missing.push(format!("{case}: {why}")),
        }
    };
    let mrr = test.mrr.as_ref();
    let method = mrr.map(method).unwrap_or_default();
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

/// How an MRR came about; where it is the generator's ceiling, that Culvert's is not known.
fn method(mrr: &MrrResult) -> String {
    let method = format!("MRR, mean of {} trials", mrr.trials.len());
    match &mrr.why {
        None => method,
        Some(why) => format!("at least: {method} ({why})"),
    }
}

/// What the generator does without a device.
fn own(results: &Results, section: &str, case: &str) {
    let Some(own) = &results.own else { return };
    let case = format!("{case}/generator alone");
    if section == "throughput" {
        let how = json!({ "method": "most that it sends and checks" });
        return line(section, &case, "Mpps", own.packets_per_s / 1e6, how);
    }
    let how = json!({ "method": "its own latency" });
    percentiles(&case, &[&own.latency], &how);
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
        let (method, load) = (method(most), LOAD * most.packets_per_s);
        let mpps = most.packets_per_s / 1e6;
        line(
            "latency",
            &format!("{case}/mrr"),
            "Mpps",
            mpps,
            json!({ "method": method }),
        );
        // Of the generator's ceiling it is less of the device's, which is not known.
        let of_most = match most.why {
            None => "one way",
            Some(_) => {
                "one way, of an MRR that is the generator's: Culvert's load is less than it says"
            }
        };
        let loads = [
            ("idle", IDLE.into(), "one way"),
            ("80 % of MRR", format!("{load:.0}pps"), of_most),
        ];
        let (seconds, trials) = (options.seconds.to_string(), options.trials.to_string());
        for (name, rate, method) in loads {
            let case = format!("{case}/{name}");
            scenario.say(format!("{case}: {rate}"));
            let words = ["-m", &rate, "-d", &seconds, "--trials", &trials];
            if !waits(&device.measure(&words)?, scenario, &case, method) {
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

/// The medians of those trials that were as they should be; others are told, and left out. False if all were.
fn waits(results: &Results, scenario: &Scenario, case: &str, method: &str) -> bool {
    let trials = results.tests.iter().flat_map(|test| &test.trials);
    let (regular, others): (Vec<&Trial>, Vec<&Trial>) = trials.partition(|it| it.is_regular());
    for trial in &others {
        let why: Vec<String> = trial.irregular.iter().map(Irregular::words).collect();
        scenario.say(format!(
            "{case}: trial {} doesn't count: {}",
            trial.number,
            why.join("; ")
        ));
    }
    if regular.is_empty() {
        return false;
    }
    let turns = regular.len() + others.len();
    let how = |method| json!({ "method": method, "quiet": regular.len(), "turns": turns });
    let latencies: Vec<&LatencySummary> = regular.iter().map(|it| &it.latency).collect();
    percentiles(case, &latencies, &how(method));
    let lost = median(regular.iter().map(|it| 100.0 * it.loss_ratio()));
    let case = format!("{case}/lost");
    line("latency", &case, "%", lost, how("unsent ones, too"));
    true
}

/// Each in the median of trials: how far those are apart says nothing of another run.
fn percentiles(case: &str, trials: &[&LatencySummary], how: &Value) {
    for (percent, name) in PERCENTILES {
        let of = |it: &&LatencySummary| {
            let mut known = it.percentiles.iter();
            let found = known.find(|(it, _)| (it - percent).abs() < 1e-9);
            found.map(|(_, ns)| micros(*ns))
        };
        let all: Vec<f64> = trials.iter().filter_map(of).collect();
        if !all.is_empty() {
            line(
                "latency",
                &format!("{case}/{name}"),
                "µs",
                median(all),
                how.clone(),
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds, for display")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// `how` it came about: its `method`, and of how many turns it is the median.
fn line(section: &str, case: &str, unit: &str, value: f64, mut how: Value) {
    for (name, of) in [("section", section), ("case", case), ("unit", unit)] {
        how[name] = of.into();
    }
    how["value"] = value.into();
    println!("{how}");
}

/// Runs the generator, and reads what it came to.
fn pktgen(words: &[&str]) -> Result<Results> {
    let mut command = Command::new(culvert_binary()?);
    command.arg("pktgen").args(words).arg("--json");
    let text = run(&mut command, PATIENCE)?;
    serde_json::from_str(&text).with_context(|| format!("no results: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_of_the_generator_s_is_told_as_one() {
        let mut mrr = MrrResult {
            packets_per_s: 1e6,
            deviation: 0.0,
            trials: vec![1e6; 10],
            why: None,
        };
        assert_eq!(method(&mrr), "MRR, mean of 10 trials");
        mrr.why = Some("in 3 of 10 trials the generator failed by itself".into());
        let told =
            "at least: MRR, mean of 10 trials (in 3 of 10 trials the generator failed by itself)";
        assert_eq!(method(&mrr), told);
    }
}
