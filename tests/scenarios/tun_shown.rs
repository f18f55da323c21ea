//! `culvert tun` as `culvert show` sees it: beside the machine's culvert, alone, and no more once it has gone.
//!
//! ```text
//!   namespace shown:  culvert tun IF     /run/culvert-tun/IF/{lock,api.sock}  ──  culvert show
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    Keys, Namespace, Part, Program, Scenario, Tunnel, bounded, culvert_binary, eventually,
};
use rustix::process::Signal;
use serde_json::Value;

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::WireguardGo];
const COMMAND: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// A command of an operator, who names no run directory.
fn culvert(words: &[&str]) -> Result<(ExitStatus, String, String)> {
    let mut command = Command::new(culvert_binary()?);
    command.args(words).env_remove("CULVERT_RUN_DIR");
    bounded(&mut command, COMMAND)
}

fn said(words: &[&str]) -> Result<String> {
    let (status, out, err) = culvert(words)?;
    ensure!(status.success(), "{words:?}: {status}\n{out}{err}");
    Ok(out)
}

fn folder(interface: &str) -> PathBuf {
    Path::new("/run/culvert-tun").join(interface)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

/// Whether `show` lists an interface; of one that is not there it may be that none is.
fn lists(interface: &str) -> Result<bool> {
    let (status, out, err) = culvert(&["show", "peers", "-o", "json"])?;
    if !status.success() {
        ensure!(err.contains("no culvert runs"), "{err}");
        return Ok(false);
    }
    let shown: Value = serde_json::from_str(&out)?;
    let tuns = shown["tun"].as_array().into_iter().flatten();
    Ok(tuns.into_iter().any(|it| it["interface"] == interface))
}

#[test]
fn culvert_tun_is_shown_while_it_runs() -> Result<()> {
    let name = "culvert_tun_is_shown_while_it_runs";
    Scenario::run(name, &PARTS, |scenario| {
        let namespace = Namespace::make("shown")?;
        let mut tunnel = Tunnel::start(scenario, &namespace, Program::Culvert)?;
        let interface = tunnel.interface().to_owned();
        let folder = folder(&interface);
        let (own, far) = (
            Keys::generate(scenario, "own")?,
            Keys::generate(scenario, "far")?,
        );
        tunnel.set(&format!(
            "private-key {} listen-port 0 peer {} allowed-ips 10.9.0.2/32 endpoint 192.0.2.7:51820",
            own.private_file.display(),
            far.public
        ))?;

        scenario.say("its folder is root's and its group's");
        ensure!(mode(&folder)? == 0o750, "{:o}", mode(&folder)?);
        let socket = folder.join("api.sock");
        ensure!(mode(&socket)? == 0o660, "{:o}", mode(&socket)?);

        scenario.say("it is listed, by its interface's name");
        let table = said(&["show"])?;
        ensure!(
            table.contains("culvert tun: ") && table.contains(&format!("{interface} (pid ")),
            "{table}"
        );
        let row = table.lines().find(|line| line.starts_with(&interface));
        ensure!(
            row.is_some_and(|row| row.contains("culvert tun") && row.contains(&own.public)),
            "{table}"
        );
        ensure!(table.contains("192.0.2.7:51820"), "{table}");
        let shown: Value = serde_json::from_str(&said(&["show", "-o", "json"])?)?;
        let tuns = shown["tun"].as_array().cloned().unwrap_or_default();
        let one = tuns.iter().find(|it| it["interface"] == *interface);
        ensure!(
            one.is_some_and(|it| it["peers"][0]["public_key"] == *far.public),
            "{shown}"
        );

        scenario.say("names mean its peers, too");
        let peers = said(&["show", "peers", &format!("{interface}/*")])?;
        ensure!(peers.contains("192.0.2.7:51820"), "{peers}");
        let keys: Value =
            serde_json::from_str(&said(&["peer", "list", &far.public, "-o", "json"])?)?;
        ensure!(keys[0]["tunnel"] == *interface, "{keys}");

        scenario.say("--tun picks it for commands that read");
        let alone: Value =
            serde_json::from_str(&said(&["show", "--tun", &interface, "-o", "json"])?)?;
        ensure!(alone["tunnels"][0]["public_key"] == *own.public, "{alone}");
        ensure!(alone["ports"][0]["name"] == *interface, "{alone}");
        let way = said(&["route", "get", "10.9.0.2", "--tun", &interface])?;
        ensure!(way.contains(&interface), "{way}");

        scenario.say("nothing can be changed by it");
        let words = ["port", "del", "x", "--run-dir", &folder.to_string_lossy()];
        let (status, _, err) = culvert(&words)?;
        ensure!(
            !status.success() && err.contains("nothing can be changed"),
            "{status} {err}"
        );

        scenario.say("what is not there is told with what is");
        let (status, _, err) = culvert(&["show", "--tun", "cvnone"])?;
        ensure!(
            !status.success()
                && err.contains("no `culvert tun cvnone` runs")
                && err.contains(&interface),
            "{err}"
        );

        scenario.say("after a crash it is not shown, and the next one takes its folder");
        tunnel.process().kill()?;
        ensure!(socket.exists(), "nothing was left behind");
        ensure!(!lists(&interface)?);
        let mut command = namespace.program(culvert_binary()?);
        command.args(["tun", "--foreground", &interface]);
        let mut again = culvert_tests::Process::start("again", scenario.scratch(), command)?;
        eventually("it to be shown again", PATIENCE, || {
            again.must_run()?;
            Ok(lists(&interface)?.then_some(()))
        })?;

        scenario.say("its end removes it");
        again.signal(Signal::TERM)?;
        ensure!(again.wait(PATIENCE)?.success(), "{}", again.log());
        ensure!(!folder.exists(), "the folder stays");
        ensure!(!lists(&interface)?);
        Ok(())
    })
}
