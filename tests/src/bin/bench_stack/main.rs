//! `scripts/bench stack`, its last part: what a host on the link of a DPDK uplink waits for answers, what waiting for it
//! costs a worker, what TCP of the stack's own costs ([`streams`]), and what the kernel carries beside it
//! ([`exception`]).
//!
//! In: `--json`; the built `culvert`, root, ping, arping and iperf3. Out: round trips of pings and of ARP, while nothing
//! else comes and while datagrams that are nobody's come as fast as one sender sends them; the share of a processor that an
//! idle worker takes; rates and processor seconds. Never: a judgement: the caller compares.
//!
//! ```text
//!   near: Culvert, net_af_packet on wan0, 192.0.2.7 ═══ veth ═══ 192.0.2.2 :far, Linux: ping, arping, the load
//! ```

#![forbid(unsafe_code)]
#![allow(
    clippy::cast_precision_loss,
    reason = "counts of the bench's own making"
)]

mod exception;
mod streams;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use culvert_tests::{Culvert, Keys, Namespace, Part, Scenario, Veth, eventually};

const ADDRESS: &str = "192.0.2.7";
const SOON: Duration = Duration::from_secs(60);
const GOAL_MS: f64 = 1.0;
const PINGS: usize = 500;
const ARPS: usize = 50;
/// What is looked at for the share of an idle worker, and what it may take in percent.
const IDLE: Duration = Duration::from_secs(5);
const GOAL_IDLE: f64 = 5.0;

fn main() -> ExitCode {
    let json = std::env::args().any(|word| word == "--json");
    let parts = [Part::Root, Part::Tun, Part::Arping, Part::Iperf];
    let done = Scenario::run("bench-stack", &parts, |scenario| {
        measure(scenario, json)?;
        exception::measure(scenario, json)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(scenario: &Scenario, json: bool) -> Result<()> {
    let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
    Veth::join(&near, &far)?.address(&far, "192.0.2.2/24")?;
    let key = Keys::generate(scenario, "bench")?.private_file;
    let yaml = format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         uplinks:\n  wan: {{ driver: dpdk, device: \"net_af_packet0,iface=wan0\", addresses: [{ADDRESS}/24], responder: {{ allow: [192.0.2.0/24] }} }}\n\
         tunnels:\n  t: {{ uplink: wan, uapi: off, listen_port: 51820, private_key_file: {}, peers: {{}} }}\n\
         networks: {{}}\nports: {{}}\n",
        key.display()
    );
    let mut culvert = Culvert::start(scenario, "near", Some(&near), &yaml)?;
    eventually("an answer of the uplink's", SOON, || {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", ADDRESS];
        Ok(far.run(&ping, SOON).ok().map(drop))
    })?;
    let share = idle_share(culvert.process().pid())?;
    tell(
        json,
        "idle/worker",
        "percent",
        share,
        Some(("goal", GOAL_IDLE)),
    );
    let idle = Waits::measure(&far)?;
    let plain = Plain::lay()?;
    let kernel = Waits::measure(&plain.far)?;
    idle.tell(json, "idle", &kernel);
    let best = part(&idle.pings, 99).context("a ping")?;
    tell(
        json,
        "ping/idle/p99-goal",
        "ms",
        best,
        Some(("goal", GOAL_MS)),
    );
    let responder = SocketAddr::new(ADDRESS.parse()?, 9);
    streams::measure((&far, &plain), responder, culvert.process().pid(), json)?;
    let ends = AtomicBool::new(false);
    thread::scope(|threads| -> Result<()> {
        let load = threads.spawn(|| far.enter(|| junk(&ends)));
        let waited = Waits::measure(&far);
        ends.store(true, Ordering::Relaxed);
        let rate = load.join().unwrap_or_else(|_| bail!("the load panicked"))?;
        if !json {
            println!("  loaded: {rate:.0} datagrams a second that are nobody's");
        }
        waited?.tell(json, "loaded", &kernel);
        Ok(())
    })?;
    if !json {
        println!("  lost meanwhile: {:?}", culvert.drops()?);
    }
    Ok(())
}

/// Two kernels on a cable, one of them where Culvert would be.
struct Plain {
    near: Namespace,
    far: Namespace,
}

impl Plain {
    fn lay() -> Result<Self> {
        let (near, far) = (
            Namespace::make("plain-near")?,
            Namespace::make("plain-far")?,
        );
        let wire = Veth::join(&near, &far)?;
        wire.address(&near, &format!("{ADDRESS}/24"))?;
        wire.address(&far, "192.0.2.2/24")?;
        Ok(Self { near, far })
    }
}

/// Datagrams to a tunnel's port that are none of its; answers how many a second were sent.
fn junk(ends: &AtomicBool) -> Result<f64> {
    let socket = UdpSocket::bind("192.0.2.2:0")?;
    socket.connect((ADDRESS, 51_820))?;
    let (start, mut sent) = (Instant::now(), 0_u32);
    while !ends.load(Ordering::Relaxed) {
        // What finds no room on the cable is not sent.
        sent += u32::from(socket.send(&[0; 148]).is_ok());
    }
    Ok(f64::from(sent) / start.elapsed().as_secs_f64())
}

/// What a host on the link waits for.
struct Waits {
    pings: Vec<f64>,
    arps: Vec<f64>,
}

impl Waits {
    fn measure(far: &Namespace) -> Result<Self> {
        let count = PINGS.to_string();
        let ping = ["ping", "-n", "-c", &count, "-i", "0.01", "-W", "2", ADDRESS];
        let pings = round_trips(&far.run(&ping, SOON)?);
        // It takes whole seconds between two.
        let arping = ["arping", "-c", "1", "-I", Veth::NAME, ADDRESS];
        let arps: String = (0..ARPS)
            .filter_map(|_| far.run(&arping, SOON).ok())
            .collect();
        let arps = round_trips(&arps);
        Ok(Self { pings, arps })
    }

    /// Beside those for a kernel's answers, by the same programs.
    fn tell(&self, json: bool, when: &str, kernel: &Self) {
        for (what, sent, times, others) in [
            ("ping", PINGS, &self.pings, &kernel.pings),
            ("arp", ARPS, &self.arps, &kernel.arps),
        ] {
            let answered = times.len() as f64 / sent as f64 * 100.0;
            let case = format!("{what}/{when}/answered");
            tell(json, &case, "percent", answered, None);
            for share in [50, 99] {
                let case = format!("{what}/{when}/p{share}");
                let reference = Some("kernel").zip(part(others, share));
                if let Some(time) = part(times, share) {
                    tell(json, &case, "ms", time, reference);
                }
            }
        }
    }
}

/// A percentile of what is in order.
fn part(times: &[f64], share: usize) -> Option<f64> {
    let place = (times.len() * share / 100).min(times.len().saturating_sub(1));
    times.get(place).copied()
}

/// In milliseconds, the least first: `time=0.123 ms` of ping, `0.123ms` at the end of arping's lines.
fn round_trips(out: &str) -> Vec<f64> {
    let times = out.lines().filter_map(|line| {
        let last = line.strip_suffix("ms")?.trim_end();
        last.rsplit([' ', '=']).next()?.parse().ok()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

/// The share of a processor that a worker takes while nothing comes, in percent.
fn idle_share(pid: u32) -> Result<f64> {
    let before = worker_nanos(pid)?;
    let start = Instant::now();
    thread::sleep(IDLE);
    let spent = worker_nanos(pid)? - before;
    Ok(spent / start.elapsed().as_secs_f64() / 1e9 * 100.0)
}

fn worker_nanos(pid: u32) -> Result<f64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = task?.path();
        if fs::read_to_string(folder.join("comm"))?.starts_with("worker-") {
            let text = fs::read_to_string(folder.join("schedstat"))?;
            let first = text.split(' ').next().context("a time")?;
            return Ok(first.parse()?);
        }
    }
    bail!("no worker's thread")
}

/// Prints a figure, and what it is compared with, which is better when it is less unless the unit is a rate.
fn tell(json: bool, case: &str, unit: &str, value: f64, reference: Option<(&str, f64)>) {
    let Some((reference, other)) = reference else {
        match json {
            true => println!(
                r#"{{"section":"stack","case":"{case}","unit":"{unit}","value":{value:.3}}}"#
            ),
            false => println!("{case:<40} {value:>8.3} {unit}"),
        }
        return;
    };
    let ratio = match unit.ends_with("bit/s") {
        true => value / other,
        false => other / value,
    };
    match json {
        true => println!(
            r#"{{"section":"stack","case":"{case}","unit":"{unit}","value":{value:.3},"reference":"{reference}","reference_value":{other:.3},"ratio":{ratio:.2}}}"#
        ),
        false => println!("{case:<40} {value:>8.3} {unit} ({reference} {other:.3})"),
    }
}
