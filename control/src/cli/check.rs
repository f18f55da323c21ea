//! `culvert check FILE`.

use std::io::{self, Write as _};
use std::path::Path;

use super::{Failure, print, wants_color};
use crate::config::{Config, Readings, Report};

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let config = load(path, &mut Readings::default())?;
    print(&format!("{}: ok: {}\n", path.display(), summary(&config)))
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
