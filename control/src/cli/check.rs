//! `culvert check FILE`.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::Path;

use super::{Failure, print, wants_color};
use crate::config::{Account, Config, PortDriver, Readings, Report};
use crate::process::accounts::{self, Kind};

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let config = load(path, &mut Readings::default())?;
    for missing in missing_accounts(&config) {
        eprintln!("warning: {missing}");
    }
    print(&format!("{}: ok: {}\n", path.display(), summary(&config)))
}

/// Users and groups that this machine doesn't have, each once. Another one may have them: no mistakes of the file.
fn missing_accounts(config: &Config) -> Vec<String> {
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
    let color = wants_color(&io::stderr());
    match readings.load(path) {
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

fn summary(config: &Config) -> String {
    let peers = config.tunnels.iter().map(|tunnel| tunnel.peers.len()).sum();
    [
        counted(config.cores.workers.len(), "worker", "workers"),
        counted(config.uplinks.len(), "uplink", "uplinks"),
        counted(config.tunnels.len(), "tunnel", "tunnels"),
        counted(peers, "peer", "peers"),
        counted(config.networks.len(), "network", "networks"),
        counted(config.ports.len(), "port", "ports"),
    ]
    .join(", ")
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
