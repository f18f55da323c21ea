//! A tunnel between two hosts, carried by Culvert and by every other userspace WireGuard, in turn.
//!
//! In: root, `/dev/net/tun`, the release build, iperf3, Debian's wireguard-go, and gotatun and boringtun-cli where
//! cargo installs them. Out: throughput, bytes and packets per CPU-second, as medians, and the median of the paired
//! ratios.
//! Never: a comparison of runs that were not next to each other in time; two programs at work at once; a round in which
//! another guest of the machine took our processors (`quiet` says how many of the rounds do count; if hardly any, all
//! do, and the line says `disturbed`).
//!
//! ```text
//!   iperf3 ── tun 10.0.0.1 ── PROGRAM ── veth 192.0.2.1 ═══ 192.0.2.2 veth ── PROGRAM ── tun 10.0.0.2 ── iperf3
//!             namespace a                                                    namespace b
//! ```
//! Each program has namespaces and a cable of its own, with the kernel's usual offloads; all of them live through the
//! whole run and take turns. CPU-seconds are user and system time of the program's two processes, as the kernel
//! counts them: its own work for a packet is most of it.
//!
//! Usage: culvert-bench-gso [--json] [--rounds N] [--seconds S] [--only NAME,NAME] [--case TEXT]

#![forbid(unsafe_code)]
#![allow(
    clippy::cast_precision_loss,
    reason = "counts of bytes and packets, for display"
)]

use std::{
    collections::BTreeMap,
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::{Iperf, Outer, Pair, Part, Program, Scenario, Veth, median};

/// Clock ticks of `/proc/PID/stat`: USER_HZ is 100 on every architecture that we know.
const TICKS_PER_SECOND: f64 = 100.0;
/// Part of the processors' time that others may have had (steal, as the kernel counts it) in a round that counts.
const STOLEN_MOST: f64 = 0.01;
/// Rounds at the most, for each that is asked for.
const TRIES: usize = 3;
/// How long the first packet may take.
const START: Duration = Duration::from_secs(20);

struct Options {
    json: bool,
    rounds: usize,
    seconds: u32,
    only: Vec<String>,
    case: String,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            json: false,
            rounds: 5,
            seconds: 3,
            only: Vec::new(),
            case: String::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} takes a value"))
            };
            match word.as_str() {
                "--json" => options.json = true,
                "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
                "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--case" => options.case = value()?,
                _ => bail!("no option {word}; see the head of this program"),
            }
        }
        ensure!(options.rounds > 0, "--rounds takes at least 1");
        ensure!(options.seconds > 0, "--seconds takes at least 1");
        Ok(options)
    }
}

/// What is sent through a tunnel.
struct Load {
    name: &'static str,
    options: &'static str,
    /// Datagrams, not bytes, are counted.
    datagrams: Option<u64>,
}

const LOADS: [Load; 3] = [
    Load {
        name: "tcp",
        options: "",
        datagrams: None,
    },
    // 50,000 and 150,000 datagrams per second.
    Load {
        name: "udp-64/50k",
        options: "-u -l 64 -b 25.6M",
        datagrams: Some(64),
    },
    Load {
        name: "udp-64/150k",
        options: "-u -l 64 -b 76.8M",
        datagrams: Some(64),
    },
];

/// What is wanted of Culvert: so many times what the other reaches. Nothing where all of them carry
/// all that is sent.
fn target(load: &str, measure: &str, other: &str) -> Option<f64> {
    match (load, measure, other) {
        ("tcp", "bytes-per-cpu", "wireguard-go") => Some(8.0),
        ("tcp", "bytes-per-cpu", "gotatun") => Some(4.0),
        (_, "packets-per-cpu", _) => Some(2.0),
        ("udp-64/50k", "throughput", _) => None,
        _ => Some(1.0),
    }
}

/// One run of one program under one load.
#[derive(Clone, Copy)]
struct Figures {
    /// Gbit/s, or thousands of packets per second.
    rate: f64,
    /// Megabytes, or thousands of packets, per CPU-second of both processes.
    per_cpu: f64,
    /// CPU-seconds per second, sender and receiver.
    cpu: [f64; 2],
    /// Part of all processors' time that the machine's other guests had.
    stolen: f64,
}

struct Rig {
    pair: Pair,
    server: Iperf,
}

impl Rig {
    fn lay(scenario: &Scenario, program: Program) -> Result<Self> {
        let pair = Pair::lay_as(scenario, program.name(), [program; 2])?;
        for end in [&pair.a, &pair.b] {
            // As the kernel makes a veth.
            let mut words = vec!["ethtool", "-K", Veth::NAME];
            for feature in ["tx", "rx", "gso", "tso"] {
                words.extend([feature, "on"]);
            }
            end.namespace.run(&words, START)?;
        }
        pair.meet(Outer::V4)?;
        pair.a.wait_ping("10.0.0.2", START)?;
        let server = Iperf::serve(scenario, &pair.b.namespace, 5201)?;
        Ok(Self { pair, server })
    }

    fn measure(&mut self, load: &Load, seconds: u32) -> Result<Figures> {
        let options = format!("{} -t {seconds}", load.options);
        let before = self.cpu()?;
        let ticks = Ticks::now()?;
        let start = Instant::now();
        let flow = self
            .server
            .send(&self.pair.a.namespace, "10.0.0.2", &options)?;
        let elapsed = start.elapsed().as_secs_f64();
        let after = self.cpu()?;
        let spent = [after[0] - before[0], after[1] - before[1]];
        let total = (spent[0] + spent[1]).max(1.0 / TICKS_PER_SECOND);
        let (rate, amount) = match load.datagrams {
            None => (flow.bits_per_second / 1e9, flow.received as f64 / 1e6),
            Some(size) => {
                let received = (flow.received / size) as f64;
                (received / f64::from(seconds) / 1e3, received / 1e3)
            }
        };
        Ok(Figures {
            rate,
            per_cpu: amount / total,
            cpu: spent.map(|spent| spent / elapsed),
            stolen: Ticks::now()?.stolen_since(&ticks),
        })
    }

    /// CPU-seconds of the two processes so far.
    fn cpu(&mut self) -> Result<[f64; 2]> {
        let of = |pid: u32| -> Result<f64> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The program's name may hold blanks; it ends with the last parenthesis.
            let (_, fields) = stat.rsplit_once(')').context("a stat line")?;
            let ticks: Vec<u64> = fields
                .split_whitespace()
                .skip(11)
                .take(2)
                .flat_map(str::parse)
                .collect();
            Ok(ticks.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
        };
        Ok([
            of(self.pair.a.tunnel.process().pid())?,
            of(self.pair.b.tunnel.process().pid())?,
        ])
    }
}

/// Clock ticks of all processors: in all, and those that others had.
struct Ticks {
    all: f64,
    stolen: f64,
}

impl Ticks {
    /// From the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. What follows is in
    /// the first two.
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("a line of all processors")?;
        let ticks: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .flat_map(str::parse)
            .collect();
        Ok(Self {
            all: ticks.iter().sum(),
            stolen: *ticks.get(7).context("a count of steal")?,
        })
    }

    /// The part that others had since `before`.
    fn stolen_since(&self, before: &Self) -> f64 {
        (self.stolen - before.stolen) / (self.all - before.all).max(1.0)
    }
}

fn main() -> ExitCode {
    let outcome = Options::parse().and_then(|options| {
        let mut parts = vec![Part::Root, Part::Tun, Part::Iperf];
        parts.extend(programs(&options).iter().flat_map(|p| p.parts()));
        Scenario::run("bench-gso", &parts, |scenario| bench(scenario, &options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn programs(options: &Options) -> Vec<Program> {
    let all = [
        Program::Culvert,
        Program::WireguardGo,
        Program::Gotatun,
        Program::Boringtun,
    ];
    let wanted = |program: &Program| {
        options.only.is_empty() || options.only.iter().any(|name| name == program.name())
    };
    all.into_iter().filter(wanted).collect()
}

fn bench(scenario: &Scenario, options: &Options) -> Result<()> {
    let mut rigs = Vec::new();
    for program in programs(options) {
        scenario.say(format!("laying a pair of {}", program.name()));
        rigs.push((program, Rig::lay(scenario, program)?));
    }
    for load in LOADS
        .iter()
        .filter(|load| load.name.contains(&options.case))
    {
        let mut rounds = Rounds::default();
        while rounds.quiet() < options.rounds && rounds.0.len() < TRIES * options.rounds {
            // Who comes first changes.
            let (count, round) = (rigs.len(), rounds.0.len());
            let mut figures_of = BTreeMap::new();
            for turn in 0..count {
                let (program, rig) = &mut rigs[(turn + round) % count];
                let figures = rig.measure(load, options.seconds)?;
                scenario.say(format!(
                    "{:12} {:12} {:8.2} {}  {:8.1} per CPU-second  CPU {:.2} + {:.2}  stolen {:.1} %",
                    load.name,
                    program.name(),
                    figures.rate,
                    unit(load).0,
                    figures.per_cpu,
                    figures.cpu[0],
                    figures.cpu[1],
                    100.0 * figures.stolen,
                ));
                figures_of.insert(program.name(), figures);
            }
            rounds.0.push(figures_of);
        }
        report(load, &rounds, options);
    }
    Ok(())
}

/// What every program reached, round by round.
#[derive(Default)]
struct Rounds(Vec<BTreeMap<&'static str, Figures>>);

impl Rounds {
    fn is_quiet(round: &BTreeMap<&str, Figures>) -> bool {
        round.values().all(|figures| figures.stolen <= STOLEN_MOST)
    }

    fn quiet(&self) -> usize {
        self.0.iter().filter(|round| Self::is_quiet(round)).count()
    }

    /// A program's figures in the rounds that count.
    fn of(&self, program: &str, all: bool) -> Vec<Figures> {
        let counts = |round: &&BTreeMap<&str, Figures>| all || Self::is_quiet(round);
        self.0
            .iter()
            .filter(counts)
            .filter_map(|round| round.get(program).copied())
            .collect()
    }
}

fn unit(load: &Load) -> (&'static str, &'static str) {
    match load.datagrams {
        None => ("Gbit/s", "MB/CPU-second"),
        Some(_) => ("kpps", "kpackets/CPU-second"),
    }
}

fn report(load: &Load, rounds: &Rounds, options: &Options) {
    let quiet = rounds.quiet();
    let is_disturbed = 2 * quiet < options.rounds;
    let own = rounds.of(Program::Culvert.name(), is_disturbed);
    let of_all = rounds.0.len();
    let others = rounds.0.first().into_iter().flat_map(BTreeMap::keys);
    let others: Vec<&str> = others
        .copied()
        .filter(|&name| name != Program::Culvert.name())
        .collect();
    if own.is_empty() {
        return;
    }
    let (rate, per_cpu) = unit(load);
    let what = match load.datagrams {
        None => ["throughput", "bytes-per-cpu"],
        Some(_) => ["throughput", "packets-per-cpu"],
    };
    type Read = fn(&Figures) -> f64;
    let measures: [(&str, &str, Read); 2] = [
        (what[0], rate, |figures| figures.rate),
        (what[1], per_cpu, |figures| figures.per_cpu),
    ];
    for (measure, unit, read) in measures {
        for other in &others {
            let figures = rounds.of(other, is_disturbed);
            let value = median(own.iter().map(read));
            let reference = median(figures.iter().map(read));
            let ratio = median(own.iter().zip(&figures).map(|(a, b)| read(a) / read(b)));
            if options.json {
                println!(
                    "{{\"section\":\"gso\",\"case\":\"{}/{measure}/{other}\",\"unit\":\"{unit}\",\"value\":{value:.3},\
                     \"reference\":\"{other}\",\"reference_value\":{reference:.3},\"ratio\":{ratio:.3},\"quiet\":{quiet},\
                     \"rounds\":{of_all}}}",
                    load.name
                );
            } else {
                let target = match target(load.name, measure, other) {
                    Some(target) if ratio < target => format!("target {target:.1}  short"),
                    Some(target) => format!("target {target:.1}"),
                    None => String::new(),
                };
                let disturbed = if is_disturbed { "  disturbed" } else { "" };
                let line = format!(
                    "{:12} {measure:16} {value:9.2} {unit:20} {other:13} {reference:9.2}  ratio {ratio:6.2}  \
                     quiet {quiet} of {of_all}  {target}{disturbed}",
                    load.name
                );
                println!("{}", line.trim_end());
            }
        }
    }
}
