//! The configuration file: text in, types out.
//!
//! In: a YAML file and the key files that it names. Out: a [`Config`] in which every reference
//! resolves and every value is in range, or a [`Report`] of every mistake in the file. Never:
//! devices, sockets or DNS: a file can be checked on any machine.
//!
//! The way of a file: `raw` makes a tree with spans of the text; `read` reads the tree by the tables
//! of [`schema`] into drafts whose values carry their spans; `cross` compares drafts with each other;
//! `build` turns a file without a mistake into a [`Config`]; `write` makes a file of one again. `readings` knows the last
//! long file, of which mostly a part was edited.

mod build;
mod cross;
mod device;
mod draft;
mod keyfile;
mod limits;
mod model;
mod places;
mod raw;
mod read;
mod readings;
mod report;
pub mod schema;
mod section;
mod value;
mod write;

use std::path::Path;

pub use ipnet::IpNet;

pub use keyfile::{Disk, KeyFileError, KeyFiles};
pub use model::{
    Account, Config, Cores, CpuId, DpdkBus, DpdkDevice, DpdkUplink, Endpoint, Guard, Hugepages,
    MacAddr, Memory, Metrics, Name, Network, NetworkRoute, NextHop, Offloads, Peer, Poll, Port,
    PortDriver, SocketMode, SocketPath, Tunnel, Uapi, UdpUplink, Uplink, UplinkDriver, UplinkRoute,
    VhostUserPort, WorkerCore, WorkerIndex,
};
pub use places::Places;
pub use readings::Readings;
pub use report::{Mistake, Report, Severity, Shown, Span};
pub use value::is_interface_name;
pub use write::to_yaml;

/// Reads and checks a file.
///
/// # Errors
///
/// Every mistake in it. The report that comes with a [`Config`] holds warnings only.
pub fn load(path: &Path) -> Result<(Config, Report), Report> {
    Readings::default().load(path)
}

impl Readings {
    /// Reads and checks a file, as [`load`] does.
    ///
    /// # Errors
    ///
    /// Every mistake in it.
    pub fn load(&mut self, path: &Path) -> Result<(Config, Report), Report> {
        self.parse(&text_of(path)?, path, &Disk)
    }
}

fn text_of(path: &Path) -> Result<String, Report> {
    read_text(path).map_err(|error| {
        let mut report = Report::new(path, "");
        let mistake = report.error(Span::default(), format!("can't read the file: {error}"));
        mistake.help(
            "expected the path of a YAML file, as in `culvert check /etc/culvert/culvert.yaml`",
        );
        report
    })
}

/// Checks a text as if it stood in the file `path`.
///
/// # Errors
///
/// Every mistake in it. The report that comes with a [`Config`] holds warnings only.
pub fn parse(text: &str, path: &Path, keys: &dyn KeyFiles) -> Result<(Config, Report), Report> {
    let (config, _, report) = parse_whole(text, path, keys)?;
    Ok((config, report))
}

/// The same, with the drafts.
fn parse_whole(
    text: &str,
    path: &Path,
    keys: &dyn KeyFiles,
) -> Result<(Config, draft::File, Report), Report> {
    let mut report = Report::new(path, text);
    let checked = check(text, path, keys, &mut report);
    report.sort();
    match checked {
        Some((config, file)) if report.errors() == 0 => Ok((config, file, report)),
        _ => Err(report),
    }
}

fn check(
    text: &str,
    path: &Path,
    keys: &dyn KeyFiles,
    report: &mut Report,
) -> Option<(Config, draft::File)> {
    let root = raw::read(text, report)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut reader = read::Reader {
        report,
        keys,
        folder,
    };
    let file = reader.file(&root)?;
    let config = compare_and_build(&file, path, report)?;
    Some((config, file))
}

fn compare_and_build(file: &draft::File, path: &Path, report: &mut Report) -> Option<Config> {
    cross::check(file, report);
    if report.errors() > 0 {
        return None;
    }
    let config = build::config(file, path);
    if config.is_none() {
        // Every gap in a draft has been reported; if one was not, say so rather than panic.
        report.error(
            Span::default(),
            "the file is incomplete in a way this program can't name",
        );
    }
    config
}

fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let limit = u64::try_from(raw::MAX_TEXT_LEN).unwrap_or(u64::MAX);
    let mut text = String::new();
    // One byte more than the limit, so that a file of any length ends with the right message.
    std::fs::File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    Ok(text)
}
