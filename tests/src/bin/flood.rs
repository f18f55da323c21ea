//! `scripts/bench wireguard`: what a flood of handshakes costs an established session.
//!
//! In: `--json`, `--rounds N`, `--millis N` (what is measured at a time); the built `culvert`, root.
//! Out: throughput of one stream with the flood aimed at the tunnel, and with the same flood aimed at a socket that
//! nobody reads, in turns; the median of the rounds' ratios and their quartiles; the flood's rate, memory, and how long
//! a newcomer took to get in.
//! Never: a judgement: the caller compares.
//!
//! The flood has a core of its own either way, all else keeps to the others. A machine that changes its speed changes
//! it for both halves of most rounds: a round is short.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_tests::{Iperf, Part, Program, Scenario, Siege};
use serde_json::json;

struct Options {
    json: bool,
    rounds: u32,
    millis: u64,
}

/// What a stream needs to find its speed.
const SETTLE: Duration = Duration::from_millis(250);

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
        rounds: 30,
        millis: 500,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            let value = words.next();
            value.with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--json" => options.json = true,
            "--rounds" => options.rounds = value()?.parse()?,
            "--millis" => options.millis = value()?.parse()?,
            other => bail!("no option {other}"),
        }
    }
    Ok(options)
}

/// What a run of rounds saw, a value per round.
#[derive(Default)]
struct Seen {
    calm: f64,
    at_tunnel: Vec<f64>,
    at_sink: Vec<f64>,
    ratios: Vec<f64>,
    rates: Vec<f64>,
}

fn measure(scenario: &Scenario, options: &Options) -> Result<()> {
    let siege = Siege::lay(scenario, Program::under_test())?;
    let (a, b) = (&siege.pair.a, &siege.pair.b);
    let memory_before = b.tunnel.resident_kib()?;
    let server = Iperf::serve(scenario, &b.namespace, 5201)?;
    let turn = SETTLE + Duration::from_millis(options.millis);
    let long = turn * (2 * options.rounds + 2) + Duration::from_secs(5);
    let run = format!("-t {}", long.as_secs());
    let mut seen = std::thread::scope(|threads| {
        let stream = threads.spawn(|| server.send_for(&a.namespace, "10.0.0.2", &run, long));
        let seen = rounds(scenario, &siege, options);
        let stream = stream.join();
        stream.map_err(|_| anyhow::anyhow!("the stream panicked"))??;
        seen
    })?;
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

    let (value, reference) = (
        quantile(&mut seen.at_tunnel, 2),
        quantile(&mut seen.at_sink, 2),
    );
    let ratio = quantile(&mut seen.ratios, 2);
    let (low, high) = (quantile(&mut seen.ratios, 1), quantile(&mut seen.ratios, 3));
    let rate = quantile(&mut seen.rates, 2);
    if options.json {
        let line = |case: &str, unit: &str, value: f64| json!({"section": "wireguard", "case": case, "unit": unit, "value": value});
        let mut established = line("flood/established", "Mbit/s", value);
        established["reference"] = json!("the same flood at a sink");
        established["reference_value"] = json!(reference);
        established["ratio"] = json!(ratio);
        established["ratio_quartiles"] = json!([low, high]);
        println!("{established}");
        println!("{}", line("flood/no-flood", "Mbit/s", seen.calm));
        println!("{}", line("flood/rate", "Mpps", rate));
        println!("{}", line("flood/newcomer", "s", way_in));
        #[expect(clippy::cast_precision_loss, reason = "kibibytes")]
        let grown = memory_after as f64 - memory_before as f64;
        println!("{}", line("flood/memory-growth", "KiB", grown));
    } else {
        let calm = seen.calm;
        println!("established session, no flood          {calm:8.0} Mbit/s");
        println!("established session, flood at a sink   {reference:8.0} Mbit/s");
        println!("established session, flood at the port {value:8.0} Mbit/s");
        println!(
            "ratio, median of {:3} rounds            {ratio:8.3}, quartiles {low:.3} and {high:.3}",
            options.rounds
        );
        println!("the flood                              {rate:8.3} Mpps");
        println!("a newcomer was in after                {way_in:8.1} s");
        println!(
            "memory                                 {memory_before:8} KiB, then {memory_after} KiB"
        );
    }
    Ok(())
}

/// The rounds, while a stream runs.
fn rounds(scenario: &Scenario, siege: &Siege, options: &Options) -> Result<Seen> {
    let speed = || -> Result<f64> {
        std::thread::sleep(SETTLE);
        let b = &siege.pair.b;
        let (interface, start) = (b.tunnel.interface(), Instant::now());
        let before = b.namespace.received_bytes(interface)?;
        std::thread::sleep(Duration::from_millis(options.millis));
        let bytes = b.namespace.received_bytes(interface)? - before;
        #[expect(clippy::cast_precision_loss, reason = "gigabytes")]
        let bits = bytes as f64 * 8.0;
        Ok(bits / 1e6 / start.elapsed().as_secs_f64())
    };
    // A stream's first second is slower.
    std::thread::sleep(Duration::from_secs(1));
    let mut seen = Seen {
        calm: speed()?,
        ..Seen::default()
    };
    for round in 0..options.rounds {
        let mut speeds = [0.0; 2];
        // Which comes first alternates, too.
        for turn in 0..2 {
            let tunnel = (round + turn) % 2 == 0;
            let flood = if tunnel {
                siege.flood_tunnel()?
            } else {
                siege.flood_sink()?
            };
            speeds[usize::from(tunnel)] = speed()?;
            let (sent, took) = flood.finish()?;
            if tunnel {
                #[expect(clippy::cast_precision_loss, reason = "millions")]
                seen.rates.push(sent as f64 / took.as_secs_f64() / 1e6);
            }
        }
        let [sink, tunnel] = speeds;
        scenario.say(format!(
            "flood at the tunnel {tunnel:.0} Mbit/s, at a sink {sink:.0}"
        ));
        seen.at_sink.push(sink);
        seen.at_tunnel.push(tunnel);
        seen.ratios.push(tunnel / sink);
    }
    Ok(seen)
}

/// The value that so many quarters are not above.
fn quantile(values: &mut [f64], quarters: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len() * quarters / 4;
    values.get(at).copied().unwrap_or(f64::NAN)
}
