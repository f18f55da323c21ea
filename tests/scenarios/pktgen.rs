//! `culvert pktgen` as an operator starts it: it starts a Culvert, and measures that.
//!
//! ```text
//!   seat a ── port a ── Culvert ── port b ── seat b
//!      └───────── one process of pktgen ────────┘
//! ```
//!
//! Trials are short and their rates low. What has to hold is that counts add up and that nothing is lost or left behind; a
//! rate or a latency is asserted nowhere.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Limit, Part, Process, Scenario, bounded, culvert_binary, eventually};
use rustix::process::Signal;
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
        for zero in [
            "/total/lost",
            "/total/received/duplicates",
            "/total/received/corrupted",
        ] {
            ensure!(number(&trial, zero)? == 0, "{zero} of {trial}");
        }
    }
    Ok(())
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
            ensure!(number(&trial, "/total/lost")? == 0, "{trial}");
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
