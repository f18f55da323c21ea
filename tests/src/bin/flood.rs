//! `scripts/bench wireguard`: what a flood of handshakes costs an established session.
//!
//! In: `--json`, `--rounds N`, `--seconds N`; the built `culvert`, root.
//! Out: throughput with the flood aimed at the tunnel, and with the same flood aimed at a socket that nobody reads,
//! in alternation; their ratio; the flood's rate, memory, and how long a newcomer took to get in.
//! Never: a judgement: the caller compares.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_tests::{Iperf, Part, Program, Scenario, Siege};
use serde_json::json;

struct Options {
    json: bool,
    rounds: u32,
    seconds: u32,
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| {
        let mut parts = Program::under_test().parts();
        parts.push(Part::Iperf);
        Scenario::run("flood", &parts, |scenario| measure(scenario, &options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flood: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options {
        json: false,
        rounds: 4,
        seconds: 3,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u32> {
            let value = words
                .next()
                .with_context(|| format!("{word} needs a value"))?;
            Ok(value.parse()?)
        };
        match word.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = number()?,
            "--seconds" => options.seconds = number()?,
            other => bail!("no option {other}"),
        }
    }
    Ok(options)
}

fn measure(scenario: &Scenario, options: &Options) -> Result<()> {
    let siege = Siege::lay(scenario, Program::under_test())?;
    let (a, b) = (&siege.pair.a, &siege.pair.b);
    let server = Iperf::serve(scenario, &b.namespace, 5201)?;
    let speed = || -> Result<f64> {
        let run = format!("-t {} -O 1", options.seconds);
        Ok(server.send(&a.namespace, "10.0.0.2", &run)?.bits_per_second / 1e6)
    };
    let calm = speed()?;
    let memory_before = b.tunnel.resident_kib()?;
    let (mut at_tunnel, mut at_sink, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        // Which comes first alternates, too.
        for turn in 0..2 {
            let tunnel = (round + turn) % 2 == 0;
            let flood = if tunnel {
                siege.flood_tunnel()?
            } else {
                siege.flood_sink()?
            };
            let speed = speed()?;
            let (sent, took) = flood.finish()?;
            #[expect(clippy::cast_precision_loss, reason = "millions")]
            let rate = sent as f64 / took.as_secs_f64() / 1e6;
            let name = if tunnel { "the tunnel" } else { "a sink" };
            scenario.say(format!(
                "flood at {name}: {speed:.0} Mbit/s, {rate:.3} Mpps"
            ));
            if tunnel { &mut at_tunnel } else { &mut at_sink }.push(speed);
            if tunnel {
                rates.push(rate);
            }
        }
    }
    let flood = siege.flood_tunnel()?;
    // Not before the tunnel is under load.
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    siege
        .newcomer
        .wait_ping("10.0.0.2", Duration::from_secs(90))?;
    let way_in = start.elapsed().as_secs_f64();
    drop(flood);
    let memory_after = b.tunnel.resident_kib()?;

    let (value, reference) = (median(&mut at_tunnel), median(&mut at_sink));
    if options.json {
        let line = |case: &str, unit: &str, value: f64| json!({"section": "wireguard", "case": case, "unit": unit, "value": value});
        let mut ratio = line("flood/established", "Mbit/s", value);
        ratio["reference"] = json!("the same flood at a sink");
        ratio["reference_value"] = json!(reference);
        ratio["ratio"] = json!(value / reference);
        println!("{ratio}");
        println!("{}", line("flood/no-flood", "Mbit/s", calm));
        println!("{}", line("flood/rate", "Mpps", median(&mut rates)));
        println!("{}", line("flood/newcomer", "s", way_in));
        #[expect(clippy::cast_precision_loss, reason = "kibibytes")]
        let grown = memory_after as f64 - memory_before as f64;
        println!("{}", line("flood/memory-growth", "KiB", grown));
    } else {
        println!("established session, no flood          {calm:8.0} Mbit/s");
        println!("established session, flood at a sink   {reference:8.0} Mbit/s");
        println!(
            "established session, flood at the port {value:8.0} Mbit/s, ratio {:.3}",
            value / reference
        );
        println!(
            "the flood                              {:8.3} Mpps",
            median(&mut rates)
        );
        println!("a newcomer was in after                {way_in:8.1} s");
        println!(
            "memory                                 {memory_before:8} KiB, then {memory_after} KiB"
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
