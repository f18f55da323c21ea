//! `culvert pktgen` as an operator starts it: it starts a Culvert, and measures that.
//!
//! ```text
//!   seat a ── port a ── Culvert ── port b ── seat b
//!      └───────── one process of pktgen ────────┘
//!
//!   seat wire ── net_vhost ── Culvert's tunnel ── port a ── seat a
//! ```
//!
//! Trials are short and their rates low. What has to hold is that counts add up and that nothing is lost or left behind; a
//! rate or a latency is asserted nowhere.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Limit, Part, Process, Scenario, bounded, culvert_binary, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LIMIT: Limit = Duration::from_secs(60);

/// Packets may leave late here: a machine that also builds something keeps the generator waiting.
const GENTLE: [&str; 8] = [
    "-m",
    "2kpps",
    "-d",
    "1",
    "--catch-up",
    "10s",
    "--late",
    "60s",
];

fn pktgen(scenario: &Scenario, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(culvert_binary()?);
    command
        .arg("pktgen")
        .args(words)
        .env("TMPDIR", scenario.scratch())
        .stdin(Stdio::null());
    Ok(command)
}

/// What a run printed as JSON. Nothing of it is left in its folder.
fn results(scenario: &Scenario, words: &[&str]) -> Result<Value> {
    let mut words = words.to_vec();
    words.push("--json");
    let (status, out, err) = bounded(&mut pktgen(scenario, &words)?, LIMIT)?;
    ensure!(
        status.success(),
        "{words:?} ended with {status}\n{out}{err}"
    );
    nothing_is_left(scenario)?;
    serde_json::from_str(&out).with_context(|| format!("not JSON: {out}"))
}

fn nothing_is_left(scenario: &Scenario) -> Result<()> {
    for entry in fs::read_dir(scenario.scratch())? {
        let name = entry?.file_name();
        ensure!(
            !name.to_string_lossy().starts_with("culvert-pktgen-"),
            "{name:?} is left"
        );
    }
    Ok(())
}

fn number(trial: &Value, path: &str) -> Result<u64> {
    let value = trial.pointer(path).and_then(Value::as_u64);
    value.with_context(|| format!("no {path} in {trial}"))
}

/// Every trial's counts add up; gives the trials.
fn adds_up(results: &Value) -> Result<Vec<Value>> {
    let trials = results["tests"][0]["trials"]
        .as_array()
        .context("no trials")?;
    for trial in trials {
        let count = |path: &str| number(trial, path);
        let (intended, offered) = (
            count("/total/sent/intended")?,
            count("/total/sent/offered")?,
        );
        let (sent, unsent) = (count("/total/sent/sent")?, count("/total/sent/unsent")?);
        let (received, lost) = (count("/total/received/received")?, count("/total/lost")?);
        ensure!(intended == sent + unsent && offered >= sent, "{trial}");
        ensure!(sent + count("/total/excess")? == received + lost, "{trial}");
        ensure!(
            count("/latency/count")? + count("/total/received/absurd")? == received,
            "{trial}"
        );
    }
    Ok(trials.clone())
}

/// The same, and every packet arrived as it was sent.
fn nothing_is_lost(results: &Value, packets: u64) -> Result<()> {
    for trial in adds_up(results)? {
        ensure!(number(&trial, "/total/sent/sent")? == packets, "{trial}");
        for zero in ["/total/received/duplicates", "/total/received/corrupted"] {
            ensure!(number(&trial, zero)? == 0, "{zero} of {trial}");
        }
        ensure!(
            number(&trial, "/total/lost")? as f64 <= lost_by_itself(&trial)?,
            "{trial}"
        );
    }
    Ok(())
}

/// What the generator may have lost while it was away: a machine that builds keeps it waiting.
fn lost_by_itself(trial: &Value) -> Result<f64> {
    let marks = trial["irregular"].as_array().context("no marks")?;
    let aways = marks.iter().filter(|it| it["kind"] == "away");
    let away_ns: u64 = aways.filter_map(|it| it["total_ns"].as_u64()).sum();
    let rate = trial["packets_per_s"].as_f64().context("no rate")?;
    Ok(2.0 * rate * away_ns as f64 / 1e9)
}

/// Guest to guest: rings of both layouts, several sizes and streams both ways, super-frames.
#[test]
fn pktgen_measures_a_guest_to_a_local_one() -> Result<()> {
    Scenario::run("pktgen_v2v", &[Part::Root], |scenario| {
        let run = |words: &[&str]| {
            let words: Vec<&str> = ["v2v"]
                .iter()
                .chain(&GENTLE)
                .chain(words)
                .copied()
                .collect();
            results(scenario, &words)
        };
        let html = scenario.path("report.html");
        let html_path = html.display().to_string();
        let got = run(&[
            "--trials",
            "2",
            "--source-port",
            "1024+10",
            "--html",
            &html_path,
        ])?;
        nothing_is_lost(&got, 2000)?;
        ensure!(adds_up(&got)?.len() == 2, "{got}");
        ensure!(
            got["own"]["packets_per_s"]
                .as_f64()
                .is_some_and(|it| it > 0.0),
            "{got}"
        );
        ensure!(
            got["configuration"]["device"]
                .as_str()
                .is_some_and(|it| it.contains("guard: strict"))
        );
        ensure!(fs::read_to_string(&html)?.contains("</html>"));
        nothing_is_lost(&run(&["--ring", "packed", "--size", "imix"])?, 2000)?;
        let streams = scenario.path("streams.yaml");
        fs::write(
            &streams,
            "streams:\n- { name: there, segment: 1000, size: 20000, protocol: tcp }\n\
             - { name: back, from: b, to: a, source: 198.19.0.1, destination: 198.18.0.1, \
               source_mac: 52:54:00:00:00:02, destination_mac: 52:54:00:00:00:01 }\n",
        )?;
        let got = run(&["-f", &streams.display().to_string()])?;
        for trial in adds_up(&got)? {
            ensure!(
                number(&trial, "/total/lost")? as f64 <= lost_by_itself(&trial)?,
                "{trial}"
            );
            for stream in [0, 1] {
                ensure!(
                    number(&trial["streams"][stream], "/counts/received/received")? > 900,
                    "{trial}"
                );
            }
        }
        scenario.say("what the device drops is told by its name");
        let got = run(&["--destination-mac", "52:54:00:00:00:01"])?;
        adds_up(&got)?;
        let told = &got["tests"][0]["explanation"][0];
        let told = told.as_str().unwrap_or_default();
        ensure!(
            told.contains("port a dropped 2000 packets as `mac-unknown`"),
            "{told}"
        );
        Ok(())
    })
}

/// Guest into a tunnel, sealed, on a null NIC: Culvert's own count stands for a receiver.
#[test]
fn pktgen_measures_a_guest_into_a_tunnel() -> Result<()> {
    Scenario::run("pktgen_p2t", &[Part::Root], |scenario| {
        let words = [
            "p2t",
            "--trials",
            "2",
            "--destination",
            "198.19.0.1+100/256",
        ];
        let words: Vec<&str> = words.iter().chain(&GENTLE).copied().collect();
        let got = results(scenario, &words)?;
        let trials = got["tests"][0]["trials"].as_array().context("no trials")?;
        ensure!(trials.len() == 2, "{got}");
        for trial in trials {
            let sent = number(trial, "/total/sent/sent")?;
            ensure!(
                sent == 2000 && number(trial, "/total/lost")? == 0,
                "{trial}"
            );
            ensure!(
                number(trial, "/total/received/received")? == 2000,
                "{trial}"
            );
        }
        let outer = got["tests"][0]["outer_bare_bytes"].as_f64();
        ensure!(outer.is_some_and(|it| it > 100.0), "{got}");
        let device = got["configuration"]["device"].as_str().unwrap_or_default();
        ensure!(
            device.contains("net_null0") && device.contains("tunnel: wan"),
            "{device}"
        );
        let wrong = pktgen(scenario, &["p2t", "-d", "200"])?.output()?;
        let told = String::from_utf8_lossy(&wrong.stderr);
        ensure!(
            !wrong.status.success() && told.contains("--duration: is longer than 150 s"),
            "{told}"
        );
        Ok(())
    })
}

/// Its own handshakes, which begin after fifteen seconds of silence, are no packets of the trial.
#[test]
fn pktgen_counts_no_handshakes_as_packets() -> Result<()> {
    Scenario::run("pktgen_handshakes", &[Part::Root], |scenario| {
        let words = ["p2t", "-m", "100pps", "-d", "22", "--catch-up", "10s"];
        let got = results(scenario, &words)?;
        let trial = &got["tests"][0]["trials"][0];
        for count in ["/total/sent/sent", "/total/received/received"] {
            ensure!(number(trial, count)? == 2200, "{count} of {trial}");
        }
        ensure!(number(trial, "/total/excess")? == 0, "{trial}");
        Ok(())
    })
}

/// Starts it with what it measures; gives it when that is there, with that one's process.
fn started(scenario: &Scenario, words: &[&str]) -> Result<(Process, u32)> {
    let mut command = pktgen(scenario, words)?;
    command.arg("--json");
    let mut process = Process::start("pktgen", scenario.scratch(), command)?;
    let device = eventually("the device", LIMIT, || {
        process.must_run()?;
        let folders = fs::read_dir(scenario.scratch())?.filter_map(Result::ok);
        let mut sockets = folders.map(|it| it.path().join("run/api.sock"));
        let is_there = sockets.any(|it| it.exists());
        Ok(child(process.pid()).filter(|_| is_there))
    })?;
    Ok((process, device))
}

fn child(pid: u32) -> Option<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().next()?.parse().ok()
}

/// What it printed, when it has ended.
fn ended(scenario: &Scenario, mut process: Process) -> Result<Value> {
    let status = process.wait(LIMIT)?;
    let log = process.log();
    ensure!(status.success(), "it ended with {status}\n{log}");
    nothing_is_left(scenario)?;
    serde_json::from_str(&log).with_context(|| format!("not JSON: {log}"))
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("no process")?, signal)?)
}

fn stopped_for(pid: u32, time: Duration) -> Result<()> {
    signal(pid, Signal::STOP)?;
    std::thread::sleep(time);
    signal(pid, Signal::CONT)
}

/// Whoever stands still in the middle of a trial, the other one is not blamed for it.
#[test]
fn pktgen_tells_its_own_faults_from_the_device_s() -> Result<()> {
    Scenario::run("pktgen_faults", &[Part::Root], |scenario| {
        let words = ["v2v", "-m", "1kpps", "-d", "6"];
        let (process, _) = started(scenario, &words)?;
        std::thread::sleep(Duration::from_secs(3));
        stopped_for(process.pid(), Duration::from_millis(400))?;
        let got = ended(scenario, process)?;
        let trial = &adds_up(&got)?[0];
        let marks = trial["irregular"].as_array().context("no marks")?;
        let away = marks.iter().find(|it| it["kind"] == "away");
        let away = away.with_context(|| format!("no absence in {trial}"))?;
        ensure!(number(away, "/longest_ns")? >= 390_000_000, "{trial}");
        let own = number(trial, "/total/sent/own_unsent")?;
        ensure!(own >= 350, "{trial}");
        ensure!(number(trial, "/total/sent/unsent")? == own, "{trial}");

        let words = [&words[..], &["--ring-size", "32"]].concat();
        let (process, device) = started(scenario, &words)?;
        std::thread::sleep(Duration::from_secs(3));
        stopped_for(device, Duration::from_millis(800))?;
        let got = ended(scenario, process)?;
        let trial = &adds_up(&got)?[0];
        let sent = |count: &str| number(trial, &format!("/total/sent/{count}"));
        // On a machine that builds, too, the generator is away for most of that, which is its own fault.
        ensure!(sent("unsent")? - sent("own_unsent")? >= 50, "{trial}");
        let holes = trial["holes"].as_array().context("no holes")?;
        let lost: u64 = holes.iter().filter_map(|it| it["lost"].as_u64()).sum();
        ensure!(lost >= 50, "{trial}");
        Ok(())
    })
}

/// A device that was killed comes back as it was: with a session of its own, on processors of its own.
#[test]
fn pktgen_goes_on_with_a_device_that_restarted() -> Result<()> {
    Scenario::run("pktgen_restart", &[Part::Root], |scenario| {
        let words = [
            "p2t",
            "--trials",
            "3",
            "-m",
            "1kpps",
            "-d",
            "3",
            "--catch-up",
            "10s",
        ];
        let (mut process, device) = started(scenario, &words)?;
        let cpus = |pid: u32| -> Result<String> {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status
                .lines()
                .find(|it| it.starts_with("Cpus_allowed_list"));
            Ok(line.context("no CPUs")?.to_owned())
        };
        let before = cpus(device)?;
        std::thread::sleep(Duration::from_secs(4));
        signal(device, Signal::KILL)?;
        let anew = eventually("another device", LIMIT, || {
            process.must_run()?;
            Ok(child(process.pid()).filter(|it| *it != device))
        })?;
        ensure!(cpus(anew)? == before, "{} instead of {before}", cpus(anew)?);
        let got = ended(scenario, process)?;
        let trials = got["tests"][0]["trials"].as_array().context("no trials")?;
        let marks = |it: &Value| it["irregular"].to_string();
        ensure!(
            trials
                .iter()
                .any(|it| marks(it).contains("device-restarted")),
            "{got}"
        );
        let last = trials.last().context("no trials")?;
        for count in ["/total/sent/sent", "/total/received/received"] {
            ensure!(number(last, count)? == 3000, "{count} of {last}");
        }
        Ok(())
    })
}

/// A socket at which somebody listens who says nothing.
#[test]
fn pktgen_ends_while_it_waits_for_a_silent_socket() -> Result<()> {
    Scenario::run("pktgen_silent", &[], |scenario| {
        let socket = scenario.path("silent.sock");
        let listener = UnixListener::bind(&socket)?;
        let seat = format!("a=vhost:{}", socket.display());
        let command = pktgen(scenario, &["run", "--seat", &seat, "-m", "1kpps"])?;
        let mut process = Process::start("pktgen", scenario.scratch(), command)?;
        let _held = listener.accept()?;
        std::thread::sleep(Duration::from_millis(300));
        process.signal(Signal::INT)?;
        ensure!(!process.wait(Duration::from_secs(5))?.success());
        Ok(())
    })
}

/// Guest into a tunnel, and each sealed packet opened at its far end: with latencies.
#[test]
fn pktgen_opens_what_a_guest_sends_into_a_tunnel() -> Result<()> {
    Scenario::run("pktgen_p2w", &[Part::Root], |scenario| {
        let words = [&["p2t", "--to", "wire", "--size", "imix"][..], &GENTLE].concat();
        nothing_is_lost(&results(scenario, &words)?, 2000)
    })
}

/// Sealed packets on a NIC's wire to a guest: valid ones, each by a counter of its own, so that none is dropped as a replay,
/// and what the device drops has its name.
#[test]
fn pktgen_measures_sealed_packets_into_a_guest() -> Result<()> {
    Scenario::run("pktgen_t2p", &[Part::Root], |scenario| {
        let run = |words: &[&str]| {
            let words = [&["t2p"][..], &GENTLE, words].concat();
            results(scenario, &words)
        };
        let got = run(&[
            "--trials",
            "2",
            "--source-port",
            "1024+10",
            "--memory",
            "64m",
        ])?;
        nothing_is_lost(&got, 2000)?;
        ensure!(adds_up(&got)?.len() == 2, "{got}");
        let notes = got["notes"].to_string();
        ensure!(!notes.contains("dropped"), "{notes}");
        let device = got["configuration"]["device"].as_str().unwrap_or_default();
        ensure!(
            device.contains("net_vhost0") && device.contains("guard: strict"),
            "{device}"
        );
        scenario.say("IPv6 outside, mixed sizes, to a hundred prefixes behind the guest");
        let words = [
            "--outer",
            "ipv6",
            "--size",
            "imix",
            "--destination",
            "10.0.0.1+100/256",
        ];
        nothing_is_lost(&run(&words)?, 2000)?;
        scenario.say("what the device drops is told by its name, and counts add up");
        let got = run(&["--ttl", "1"])?;
        adds_up(&got)?;
        let trial = &got["tests"][0]["trials"][0];
        let told = got["tests"][0]["explanation"][0].as_str();
        let told = told.unwrap_or_default();
        ensure!(number(trial, "/total/lost")? == 2000, "{trial}");
        ensure!(told.contains("dropped 2000 packets as"), "{told}");
        scenario.say("what the memory does not hold is said ahead");
        let words = ["t2p", "-m", "1mpps", "-d", "9", "--memory", "64m"];
        let wrong = pktgen(scenario, &words)?.output()?;
        let told = String::from_utf8_lossy(&wrong.stderr);
        ensure!(
            !wrong.status.success() && told.contains("64 MiB hold 0."),
            "{told}"
        );
        nothing_is_left(scenario)
    })
}

/// Ctrl-C ends a run with what was measured, and takes the Culvert that it started with it.
#[test]
fn pktgen_ends_with_what_was_measured() -> Result<()> {
    Scenario::run("pktgen_end", &[Part::Root], |scenario| {
        let mut command = pktgen(scenario, &["v2v", "-m", "1kpps", "-d", "600"])?;
        let html = scenario.path("early.html");
        command.arg("--html").arg(&html);
        let mut process = Process::start("pktgen", scenario.scratch(), command)?;
        eventually("the folder of the device", LIMIT, || {
            process.must_run()?;
            let folder = fs::read_dir(scenario.scratch())?
                .filter_map(Result::ok)
                .find(|it| {
                    let is_it = it
                        .file_name()
                        .to_string_lossy()
                        .starts_with("culvert-pktgen-");
                    is_it && it.path().join("run/api.sock").exists()
                });
            Ok(folder.map(drop))
        })?;
        std::thread::sleep(Duration::from_secs(3));
        process.signal(Signal::INT)?;
        let status = process.wait(LIMIT)?;
        ensure!(status.success(), "it ended with {status}");
        nothing_is_left(scenario)?;
        ensure!(fs::read_to_string(&html)?.contains("ended before its time"));
        Ok(())
    })
}
