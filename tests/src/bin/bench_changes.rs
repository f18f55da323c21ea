//! `scripts/bench changes`: what changes cost packets under load.
//!
//! In: `--json`, `--seconds N` (of a kind of change, and of each half of a pair), `--pairs N`, `--apart MS` (between two
//! changes), `--rate PPS` (of a flow, in the place of half of the highest); the built `culvert`, root.
//! Out: per kind of change the packets lost for each, those of all that have a name, and the longest gap, beside as long
//! without a change and with all kinds in turn; then pairs of as long with an apply and without, at half of the highest
//! rate: the blocked time of each by CSIT's definition (packets lost / rate), and the medians. Kinds take turns in pairs:
//! a median is of all of them if there are seven pairs, or a multiple.
//! Never: a judgement: the caller compares.
//!
//! A flow each way, of packets of 512 bytes, from one interface of the host's to another through both Culverts. Under full
//! load so many packets are in flight as no queue on the way is too short for: what is lost, a change has cost.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_tests::{Changing, Kind, Pace, Part, Scenario, Seen, WINDOW, median};
use serde_json::json;

struct Options {
    json: bool,
    time: Duration,
    pairs: u32,
    apart: Duration,
    rate: Option<u64>,
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| {
        let parts = [Part::Root, Part::Tun];
        Scenario::run("changes", &parts, |scenario| measure(scenario, &options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("changes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        json: false,
        time: Duration::from_secs(60),
        // Each kind three times.
        pairs: 21,
        apart: Duration::from_millis(500),
        rate: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            let value = words.next();
            value.with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--json" => options.json = true,
            "--seconds" => options.time = Duration::from_secs(value()?.parse()?),
            "--pairs" => options.pairs = value()?.parse()?,
            "--apart" => options.apart = Duration::from_millis(value()?.parse()?),
            "--rate" => options.rate = Some(value()?.parse()?),
            other => bail!("no option {other}"),
        }
    }
    Ok(options)
}

/// What the highest rate is looked for.
const LOOK: Duration = Duration::from_secs(5);

fn measure(scenario: &Scenario, options: &Options) -> Result<()> {
    let mut ground = Changing::lay(scenario)?;
    let pace = Pace::Window(WINDOW);
    if !options.json {
        println!(
            "{:<12} {:>8} {:>12} {:>8} {:>8} {:>6} {:>10} {:>9}",
            "kind", "changes", "sent", "lost", "named", "twice", "overtaken", "gap ms"
        );
    }
    let calm = ground.watch(options.time, pace, options.time, |_| Ok(false))?;
    tell(options, "none", &calm);
    for kind in Kind::ALL {
        let seen = ground.watch(options.time, pace, options.apart, |ground| {
            ground.change(kind)?;
            Ok(true)
        })?;
        tell(options, kind.name(), &seen);
    }
    let mut kinds = Kind::ALL.into_iter().cycle();
    let seen = ground.watch(options.time, pace, options.apart, |ground| {
        kinds.next().map_or(Ok(()), |kind| ground.change(kind))?;
        Ok(true)
    })?;
    tell(options, "all in turn", &seen);
    pairs(&mut ground, options)
}

fn tell(options: &Options, case: &str, seen: &Seen) {
    let flows = &seen.flows;
    let gap = flows.gap.as_secs_f64() * 1e3;
    if options.json {
        let line = |what: &str, unit: &str, value: f64| {
            let case = format!("{case}/{what}");
            println!(
                "{}",
                json!({ "section": "changes", "case": case, "unit": unit, "value": value })
            );
        };
        // Without a change: in as long as there is for one.
        let times = match seen.changes {
            0 => options.time.as_secs_f64() / options.apart.as_secs_f64(),
            changes => changes as f64,
        };
        line("lost", "lost/change", flows.lost() as f64 / times.max(1.0));
        line("longest gap", "ms", gap);
        return;
    }
    println!(
        "{case:<12} {:>8} {:>12} {:>8} {:>8} {:>6} {:>10} {gap:>9.2}",
        seen.changes,
        flows.sent,
        flows.lost(),
        seen.explained(),
        flows.duplicates,
        flows.overtaken,
    );
    for (name, count) in &seen.named {
        println!("             {name}: {count}");
    }
}

/// As long with one apply as without, in turns.
fn pairs(ground: &mut Changing, options: &Options) -> Result<()> {
    let rate = match options.rate {
        Some(rate) => rate,
        None => ground.highest_rate(LOOK)? / 2,
    };
    if !options.json {
        println!("\n{rate} packets/s each way; blocked time in ms");
        println!("{:>4} {:>12} {:>12}", "pair", "with apply", "without");
    }
    let mut kinds = Kind::ALL.into_iter().cycle();
    let mut blocked: [Vec<f64>; 2] = Default::default();
    for pair in 0..options.pairs {
        for (with, blocked) in [true, false].into_iter().zip(&mut blocked) {
            let mut kind = with.then(|| kinds.next()).flatten();
            // The apply is in the middle.
            let mut is_middle = false;
            let half = options.time / 2;
            let seen = ground.watch(options.time, Pace::Rate(rate), half, |ground| {
                let due = kind.take_if(|_| std::mem::replace(&mut is_middle, true));
                due.map_or(Ok(false), |kind| ground.change(kind).map(|()| true))
            })?;
            blocked.push(seen.flows.lost() as f64 / (2 * rate) as f64 * 1e3);
        }
        if !options.json {
            let [with, without] = blocked.each_ref().map(|all| all.last().copied());
            let [with, without] = [with, without].map(Option::unwrap_or_default);
            println!("{:>4} {with:>12.3} {without:>12.3}", pair + 1);
        }
    }
    let [with, without] = blocked.map(median);
    if options.json {
        println!(
            "{}",
            json!({
                "section": "changes", "case": "blocked time of an apply", "unit": "ms", "value": with,
                "reference": "without an apply", "reference_value": without, "pairs": options.pairs,
            })
        );
    } else {
        println!("median {with:>10.3} {without:>12.3}");
    }
    Ok(())
}
