//! The program under test: its keys, its configuration, its life.
//!
//! In: YAML, a namespace. Out: a running `culvert` with its run directory under the scenario's scratch folder.
//! Never: anything but the command line that an operator has.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::needs::target;
use crate::network::Namespace;
use crate::process::{Limit, Process, bounded, eventually, program, run};
use crate::scenario::Scenario;

/// EAL's start and a first burst, on a machine whose two cores also boot guests.
const START: Limit = Duration::from_secs(30);
const ANSWER: Limit = Duration::from_secs(10);

/// A WireGuard key pair.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The private key's file, mode 0600.
    pub private_file: PathBuf,
    /// The public key in base64.
    pub public: String,
}

impl Keys {
    /// Makes a pair with `wg`, so that Culvert's own key commands are not what proves them.
    pub fn generate(scenario: &Scenario, name: &str) -> Result<Self> {
        let private_file = secret(scenario, &format!("{name}.key"), "genkey")?;
        let public = run(
            Command::new("sh")
                .args(["-c", "wg pubkey <\"$0\""])
                .arg(&private_file),
            ANSWER,
        )?;
        Ok(Self {
            private_file,
            public: public.trim().to_owned(),
        })
    }
}

impl Keys {
    /// A fresh key to be shared with a peer: its file, mode 0600.
    pub fn preshared(&self, scenario: &Scenario) -> Result<PathBuf> {
        let name = self.private_file.with_extension("psk");
        let name = name.file_name().context("a key file has a name")?;
        secret(scenario, &name.to_string_lossy(), "genpsk")
    }
}

/// Writes what `wg <verb>` prints to a file that only its owner reads.
fn secret(scenario: &Scenario, name: &str, verb: &str) -> Result<PathBuf> {
    let text = run(Command::new("wg").arg(verb), ANSWER)?;
    let file = scenario.path(name);
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// The built program: `CULVERT_BIN`, else the release build.
pub fn culvert_binary() -> Result<PathBuf> {
    let path = std::env::var_os("CULVERT_BIN")
        .map_or_else(|| target().join("release/culvert"), PathBuf::from);
    ensure!(
        path.is_file(),
        "no {}; run: cargo build --release -p culvert",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// A running `culvert`.
#[derive(Debug)]
pub struct Culvert {
    name: String,
    process: Process,
    run_dir: PathBuf,
    config: PathBuf,
}

impl Culvert {
    /// Writes the configuration, starts the program and waits until it answers `show`.
    pub fn start(
        scenario: &Scenario,
        name: &str,
        namespace: Option<&Namespace>,
        yaml: &str,
    ) -> Result<Self> {
        let mut culvert = Self::launch(scenario, name, namespace, yaml)?;
        culvert.wait_ready()?;
        Ok(culvert)
    }

    /// Writes the configuration and starts the program, without waiting for anything.
    pub fn launch(
        scenario: &Scenario,
        name: &str,
        namespace: Option<&Namespace>,
        yaml: &str,
    ) -> Result<Self> {
        let config = scenario.path(&format!("{name}.yaml"));
        fs::write(&config, yaml)?;
        let run_dir = scenario.path(&format!("{name}.run"));
        let mut command = program(namespace.map(Namespace::name), culvert_binary()?);
        command
            .arg("run")
            .arg("-c")
            .arg(&config)
            .arg("--run-dir")
            .arg(&run_dir);
        let process = Process::start(name, scenario.scratch(), command)?;
        Ok(Self {
            name: name.to_owned(),
            process,
            run_dir,
            config,
        })
    }

    /// Waits until it answers `show`.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("an answer of {} to `culvert show`", self.name);
        eventually(&what, START, || {
            self.process.must_run()?;
            Ok(self.show().ok().map(drop))
        })
    }

    /// Everything that `culvert show --json` says.
    pub fn show(&self) -> Result<Value> {
        let text = self.call(&["show", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Runs one of the client commands against this instance; it must succeed.
    pub fn call(&self, words: &[&str]) -> Result<String> {
        run(&mut self.client(words)?, ANSWER)
    }

    /// The counters of one port.
    pub fn port(&self, name: &str) -> Result<PortCounts> {
        let show = self.show()?;
        let port = named(&show, "ports", name)?;
        let packets = |way: &str| {
            let count = port[way]["packets"].as_u64();
            count.with_context(|| format!("no {way}.packets in {port}"))
        };
        Ok(PortCounts {
            from_guest: packets("rx")?,
            to_guest: packets("tx")?,
            drops: counts(port),
        })
    }

    /// Seconds since the last handshake with a peer, if there was one.
    pub fn handshake_age(&self, peer: &str) -> Result<Option<u64>> {
        let show = self.show()?;
        Ok(named(&show, "peers", peer)?["last_handshake_age_s"].as_u64())
    }

    /// Every drop counter by reason, summed over ports, peers, uplinks and workers.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let show = self.show()?;
        let mut sums = BTreeMap::new();
        for entry in show["drops"].as_array().context("no list of drops")? {
            let reason = entry["reason"]
                .as_str()
                .context("a drop without a reason")?;
            *sums.entry(reason.to_owned()).or_default() += entry["packets"].as_u64().unwrap_or(0);
        }
        Ok(sums)
    }

    /// Applies another configuration.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let (status, out, err) = self.try_apply(yaml)?;
        ensure!(
            status.success(),
            "apply ended with {status}\n{out}{err}\n{yaml}"
        );
        Ok(())
    }

    /// Applies another configuration that may be refused.
    pub fn try_apply(&self, yaml: &str) -> Result<(ExitStatus, String, String)> {
        let path = self.config.with_extension("next.yaml");
        fs::write(&path, yaml)?;
        bounded(self.client(&["apply"])?.arg(&path), ANSWER)
    }

    /// Replaces the file that it was started with, as an operator would before a SIGHUP.
    pub fn rewrite(&self, yaml: &str) -> Result<()> {
        Ok(fs::write(&self.config, yaml)?)
    }

    /// SIGTERM, and how long it took to end; it must end with status 0.
    pub fn stop(&mut self, limit: Limit) -> Result<Duration> {
        let start = Instant::now();
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(limit)?;
        let took = start.elapsed();
        ensure!(
            status.success(),
            "{} ended with {status} on SIGTERM",
            self.name
        );
        Ok(took)
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after [`Culvert::kill`] or [`Culvert::stop`], with the same file and run directory.
    pub fn restart(self, scenario: &Scenario, namespace: Option<&Namespace>) -> Result<Self> {
        let yaml = fs::read_to_string(&self.config)?;
        let name = self.name.clone();
        drop(self);
        Self::launch(scenario, &name, namespace, &yaml)
    }

    /// Starts another instance beside this one, which must be refused: it ends by itself, not with 0. Gives its log.
    pub fn second(&self, namespace: &Namespace, run_dir: &Path, yaml: &str) -> Result<String> {
        let config = self.config.with_extension("second.yaml");
        fs::write(&config, yaml)?;
        let mut command = namespace.program(culvert_binary()?);
        command
            .arg("run")
            .arg("-c")
            .arg(&config)
            .arg("--run-dir")
            .arg(run_dir);
        let (status, out, err) = bounded(&mut command, ANSWER)?;
        ensure!(
            !status.success(),
            "a second instance ended with {status}\n{out}{err}"
        );
        Ok(format!("{out}{err}"))
    }

    /// Its run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn client(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(culvert_binary()?);
        command
            .args(words)
            .arg("--run-dir")
            .arg(&self.run_dir)
            .stdin(Stdio::null());
        Ok(command)
    }
}

impl Drop for Culvert {
    fn drop(&mut self) {
        // Its last words, for the logs of a scenario that failed.
        if let Ok(text) = self.call(&["show"]) {
            let _ = fs::write(self.config.with_extension("show.log"), text);
        }
    }
}

/// What `show --json` tells of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Frames from the guest.
    pub from_guest: u64,
    /// Frames to the guest.
    pub to_guest: u64,
    /// Lost frames by name, both ways.
    pub drops: BTreeMap<String, u64>,
}

impl PortCounts {
    /// How many were lost for a reason.
    pub fn drop_count(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or(0)
    }
}

/// The names in one of the lists of `show --json`, in its order.
pub fn names(show: &Value, section: &str) -> Vec<String> {
    let entries = show[section]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| entry["name"].as_str().map(str::to_owned))
        .collect()
}

fn named<'a>(show: &'a Value, section: &str, name: &str) -> Result<&'a Value> {
    show[section]
        .as_array()
        .and_then(|entries| entries.iter().find(|entry| entry["name"] == name))
        .with_context(|| format!("no {section} '{name}' in {show}"))
}

fn counts(entry: &Value) -> BTreeMap<String, u64> {
    let entries = entry["drops"].as_object().into_iter().flatten();
    entries
        .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0)))
        .collect()
}
