//! `culvert check [FILE]`.
//!
//! In: a file, or standard input; keys that are revoked, where they may be read. Out: what is wrong with it, or how much it
//! has. Never: a device, or a running Culvert, unless it is asked for its file.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::args::{FileArgs, Place, StateArgs};
use super::output::{OutputArgs, folded, width};
use super::{Failure, print, wants_color};
use crate::api::server::check_tls;
use crate::config::{
    Account, Config, Disk, Mistake, PortDriver, Readings, Report, Severity, Texts, parse_and_open,
};
use crate::history;
use crate::process::accounts::{self, Kind};

/// `culvert check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: Check) -> Result<(), Failure> {
    let path = args.file.path(&args.place.client())?;
    let read = read(&path, &args.state.path(&args.place.run_dir));
    if args.output.is_for_programs() {
        return for_programs(&path, &read, args.output);
    }
    let config = told_of(&path, read)?;
    for missing in missing(&config) {
        let line = format!("warning: {missing}\n");
        eprint!("{}", folded(&line, width(&io::stderr())));
    }
    print(&format!("{}: ok: {}\n", path.display(), summary(&config)))
}

/// As a `run` and an `apply` would have it: a revoked key is a mistake, and a file of `api.tls` that can't be used. `-` is standard input.
fn read(path: &Path, state_dir: &Path) -> Result<(Config, Report), Report> {
    let texts = match path == Path::new("-") {
        true => Texts::read_handed(path, io::stdin())?,
        false => Texts::read(path)?,
    };
    let (config, mut report) = parse_and_open(&texts, &Disk, |tls| {
        let error = check_tls(tls).err()?;
        let (key, expected) = (error.key, error.expected());
        Some((error, key, expected))
    })?;
    history::refuse_revoked_of(state_dir, &config, &mut report);
    match report.errors() {
        0 => Ok((config, report)),
        _ => Err(report),
    }
}

/// Users and groups that this machine doesn't have, each once. Another one may have them: no mistakes of the file.
fn missing(config: &Config) -> Vec<String> {
    let mut asked = HashSet::new();
    let mut missing = Vec::new();
    for (place, account, kind) in accounts_of(config) {
        if asked.insert((account, kind))
            && let Err(error) = accounts::number(account, kind)
        {
            missing.push(format!("{place}: {error}"));
        }
    }
    missing
}

/// Every account that the file names: where it stands, which it is.
fn accounts_of(config: &Config) -> impl Iterator<Item = (String, &Account, Kind)> {
    let api = &config.api;
    let api = [
        ("owner", &api.socket.owner, Kind::User),
        ("group", &api.socket.group, Kind::Group),
        ("readers", &api.readers, Kind::Group),
    ];
    let of_api = api.map(|(key, account, kind)| ("api".to_owned(), key, account, kind));
    let of_ports = config.ports.iter().flat_map(|port| {
        let PortDriver::VhostUser(at) = &port.driver else {
            return Vec::new();
        };
        let title = format!("port `{}`", port.name);
        vec![
            (title.clone(), "socket_owner", &at.owner, Kind::User),
            (title, "socket_group", &at.group, Kind::Group),
        ]
    });
    of_api
        .into_iter()
        .chain(of_ports)
        .filter_map(|(of, key, account, kind)| {
            Some((format!("{of}: `{key}`"), account.as_ref()?, kind))
        })
}

/// Loads a configuration; warnings go to stderr, mistakes into the failure.
pub(super) fn load(path: &Path, readings: &mut Readings) -> Result<Config, Failure> {
    told_of(path, readings.load(path))
}

fn told_of(path: &Path, read: Result<(Config, Report), Report>) -> Result<Config, Failure> {
    let color = wants_color(&io::stderr());
    match read {
        Ok((config, report)) => {
            let _ = io::stderr().write_all(report.render(color).as_bytes());
            Ok(config)
        }
        Err(report) => Err(Failure::Report(
            report.render(color) + &verdict(path, &report),
        )),
    }
}

fn verdict(path: &Path, report: &Report) -> String {
    let errors = counted(report.errors(), "mistake", "mistakes");
    let warnings = match report.warnings() {
        0 => String::new(),
        n => format!(", {}", counted(n, "warning", "warnings")),
    };
    format!("{}: {errors}{warnings}\n", path.display())
}

/// What was found out.
#[derive(Serialize)]
struct Checked<'r> {
    file: &'r Path,
    ok: bool,
    mistakes: Vec<Told<'r>>,
    #[serde(flatten)]
    counts: Option<Counts>,
}

/// A mistake.
#[derive(Serialize)]
struct Told<'r> {
    severity: &'static str,
    /// `FILE:LINE:COLUMN`.
    place: String,
    message: &'r str,
    help: &'r [String],
}

fn for_programs(
    path: &Path,
    read: &Result<(Config, Report), Report>,
    output: OutputArgs,
) -> Result<(), Failure> {
    let (counts, report) = match read {
        Ok((config, report)) => (Some(Counts::of(config)), report),
        Err(report) => (None, report),
    };
    let told = |mistake| told(report, mistake);
    let config = read.as_ref().ok().map(|(config, _)| config);
    let missing = config.into_iter().flat_map(missing);
    let missing: Vec<_> = missing.collect();
    let missing = missing.iter().map(|message| Told {
        severity: "warning",
        place: path.display().to_string(),
        message,
        help: &[],
    });
    let checked = Checked {
        file: path,
        ok: counts.is_some(),
        mistakes: report.mistakes().iter().map(told).chain(missing).collect(),
        counts,
    };
    output.print(&checked, String::new)?;
    match checked.ok {
        true => Ok(()),
        false => Err(Failure::Told),
    }
}

fn told<'r>(report: &Report, mistake: &'r Mistake) -> Told<'r> {
    Told {
        severity: match mistake.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        place: report.place(mistake),
        message: &mistake.message,
        help: &mistake.help,
    }
}

/// How much a configuration has.
#[derive(Serialize)]
struct Counts {
    workers: usize,
    uplinks: usize,
    tunnels: usize,
    peers: usize,
    networks: usize,
    ports: usize,
}

impl Counts {
    fn of(config: &Config) -> Self {
        Self {
            workers: config.cores.workers.len(),
            uplinks: config.uplinks.len(),
            tunnels: config.tunnels.len(),
            peers: config.tunnels.iter().map(|it| it.peers.len()).sum(),
            networks: config.networks.len(),
            ports: config.ports.len(),
        }
    }
}

fn summary(config: &Config) -> String {
    let counts = Counts::of(config);
    [
        counted(counts.workers, "worker", "workers"),
        counted(counts.uplinks, "uplink", "uplinks"),
        counted(counts.tunnels, "tunnel", "tunnels"),
        counted(counts.peers, "peer", "peers"),
        counted(counts.networks, "network", "networks"),
        counted(counts.ports, "port", "ports"),
    ]
    .join(", ")
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
