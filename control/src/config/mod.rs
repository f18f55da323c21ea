//! The configuration file: text in, types out.
//!
//! In: a YAML file and the key files that it names. Out: a [`Config`] in which every reference
//! resolves and every value is in range, or a [`Report`] of every mistake in the file. Never:
//! devices, sockets or DNS: a file can be checked on any machine.
//!
//! The way of a file: `texts` are read; `raw` makes a tree with spans of a text; `include` makes one tree of several;
//! `read` reads the tree by the tables of [`schema`] into drafts whose values carry their spans; `cross` compares drafts with each other;
//! `build` turns a file without a mistake into a [`Config`]; `write` makes a file of one again; [`object`] reads one thing by itself. `readings` knows the last
//! long file, of which mostly a part was edited.

mod build;
mod cross;
mod device;
mod draft;
pub(crate) mod followed;
mod include;
mod keyfile;
mod limits;
mod model;
pub mod object;
mod places;
mod raw;
mod read;
mod readings;
mod report;
pub mod schema;
mod section;
mod texts;
mod value;
mod write;

use std::path::Path;

pub use ipnet::IpNet;

pub(crate) use cross::is_taken;
pub use keyfile::{Disk, KeyFile, KeyFileError, KeyFiles};
pub use model::{
    Account, Api, ApiSocket, ApiTls, Attachment, Bfd, Config, Cores, CpuId, Dhcp, Door, DpdkBus,
    DpdkDevice, DpdkUplink, Endpoint, Exception, Guard, Hugepages, Labels, MacAddr, Memory,
    Metrics, Name, Network, NetworkRoute, NextHop, Offloads, Peer, Pmtu, Poll, Port, PortDriver,
    RESPONDER_PORTS, Ra, Role, Served, SocketMode, SocketPath, Tunnel, Uapi, UdpUplink, Uplink,
    UplinkDriver, UplinkNeighbor, UplinkRoute, VhostUserPort, WorkerCore, WorkerIndex,
    metrics_label,
};
pub(crate) use model::{OwnUdp, common_ends, is_same};
pub use places::Places;
pub(crate) use raw::{Node as RawNode, Value as RawValue, read as raw_tree};
pub(crate) use read::shell_quoted;
pub use readings::Readings;
pub use report::{Mistake, Report, Severity, Shown, Span};
pub use texts::{Included, SourceText, Texts};
pub use value::is_interface_name;
pub(crate) use value::{is_unseen, table_name};
pub use write::to_yaml;
pub(crate) use write::{First, Part, parts};

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
        self.parse_texts(&Texts::read(path)?, &Disk)
    }

    /// Checks a text and those that it includes.
    ///
    /// # Errors
    ///
    /// Every mistake in them.
    pub fn parse_texts(
        &mut self,
        texts: &Texts,
        keys: &dyn KeyFiles,
    ) -> Result<(Config, Report), Report> {
        if texts.included.is_empty() {
            return self.parse(&texts.text, &texts.path, keys);
        }
        let (config, _, report) = parse_whole(texts, keys)?;
        Ok((config, report))
    }
}

/// Checks a text as if it stood in the file `path`. It can't include others.
///
/// # Errors
///
/// Every mistake in it. The report that comes with a [`Config`] holds warnings only.
pub fn parse(text: &str, path: &Path, keys: &dyn KeyFiles) -> Result<(Config, Report), Report> {
    parse_texts(&Texts::alone(path, text.to_owned()), keys)
}

/// Checks a text and those that it includes.
///
/// # Errors
///
/// Every mistake in them. The report that comes with a [`Config`] holds warnings only.
pub fn parse_texts(texts: &Texts, keys: &dyn KeyFiles) -> Result<(Config, Report), Report> {
    let (config, _, report) = parse_whole(texts, keys)?;
    Ok((config, report))
}

/// The same, and the files of `api.tls`, which are read where the API is served: `unusable` says which of them can't be
/// used, why, and what is expected.
pub(crate) fn parse_and_open<E: std::fmt::Display>(
    texts: &Texts,
    keys: &dyn KeyFiles,
    unusable: impl FnOnce(&ApiTls) -> Option<(E, &'static str, &'static str)>,
) -> Result<(Config, Report), Report> {
    let (config, file, mut report) = parse_whole(texts, keys)?;
    if let (Some(tls), Some(draft)) = (&config.api.tls, &file.api.tls)
        && let Some((error, key, expected)) = unusable(tls)
    {
        report
            .error(draft.place(key), error.to_string())
            .help(expected);
        report.sort();
        return Err(report);
    }
    Ok((config, report))
}

/// The same, with the drafts.
fn parse_whole(
    texts: &Texts,
    keys: &dyn KeyFiles,
) -> Result<(Config, draft::File, Report), Report> {
    let mut report = Report::new(&texts.path, &texts.text);
    let checked = check(texts, keys, &mut report);
    report.sort();
    match checked {
        Some((config, file)) if report.errors() == 0 => Ok((config, file, report)),
        _ => Err(report),
    }
}

fn check(texts: &Texts, keys: &dyn KeyFiles, report: &mut Report) -> Option<(Config, draft::File)> {
    let root = include::tree(texts, report)?;
    let file = read::Reader::new(report, keys).file(&root)?;
    // What stays would be laid into the gaps of the tree, and keep its pages when it is free.
    drop(root);
    let config = compare_and_build(&file, &texts.path, report)?;
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
