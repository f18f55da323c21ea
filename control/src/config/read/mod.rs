//! The tree read by its tables: drafts whose values carry their spans.
//!
//! In: the tree, and the key files that it names. Out: drafts; what doesn't fit its table goes to
//! the report. Never: relations between sections.

mod api;
mod labels;
mod metrics;
mod networks;
mod ports;
mod preshared;
mod served;
mod tunnels;
mod uplinks;

use std::path::PathBuf;

pub(crate) use self::tunnels::shell_quoted;
use super::draft::{Cores, File, Memory, Places, Workers};
use super::keyfile::KeyFiles;
use super::raw::{Node, Value};
use super::report::{Report, Span};
use super::schema::{self, Form};
use super::section::{At, Section};
use super::{CpuId, Hugepages, Poll, limits, value};

/// Reads files by their tables.
pub(super) struct Reader<'r> {
    pub(super) report: &'r mut Report,
    pub(super) keys: &'r dyn KeyFiles,
    /// Where keys lie that have a name.
    key_directory: PathBuf,
}

impl<'r> Reader<'r> {
    pub(super) fn new(report: &'r mut Report, keys: &'r dyn KeyFiles) -> Self {
        Self {
            report,
            keys,
            key_directory: limits::KEY_DIRECTORY.into(),
        }
    }

    /// The whole tree.
    pub(super) fn file(&mut self, root: &Node) -> Option<File> {
        let start = Span {
            file: 0,
            line: 1,
            column: 1,
            width: 1,
        };
        let span = if root.span.line == 0 {
            start
        } else {
            root.span
        };
        let file = Section::open(root, "the file", span, &schema::FILE, self.report)?;
        let _ = file.integer("version", self.report);
        let node = file.get("node", self.report, value::name);
        let cores = self.cores(&file);
        let memory = self.memory(&file);
        let metrics = self.metrics(&file);
        let api = self.api(&file);
        let uplinks = file.named("uplinks", self.report);
        let tunnels = file.named("tunnels", self.report);
        let networks = file.named("networks", self.report);
        let ports = file.named("ports", self.report);
        Some(File {
            node,
            cores,
            memory,
            metrics,
            api,
            uplinks: uplinks
                .into_iter()
                .map(|(name, section)| self.uplink(name, section))
                .collect(),
            tunnels: tunnels
                .into_iter()
                .map(|(name, section)| self.tunnel(name, section))
                .collect(),
            networks: networks
                .into_iter()
                .map(|(name, section)| self.network(name, section))
                .collect(),
            ports: ports
                .into_iter()
                .filter_map(|(name, section)| self.port(name, section?))
                .collect(),
            places: Places::default(),
        })
    }

    fn cores(&mut self, file: &Section<'_>) -> Cores {
        let Some(section) = file.table("cores", self.report) else {
            return Cores::default();
        };
        let control = section.integer("control", self.report);
        let poll = section.choice("poll", self.report).map(|at| at.value);
        Cores {
            control: control.map(|at| At::new(CpuId(narrow(at.value)), at.span)),
            workers: self.workers(&section),
            poll: if poll == Some("busy") {
                Poll::Busy
            } else {
                Poll::Adaptive
            },
        }
    }

    fn workers(&mut self, section: &Section<'_>) -> Option<Workers> {
        let node = section.node("workers")?;
        let (Form::Integer { min, max }, Form::Integer { max: last_cpu, .. }) =
            (schema::WORKERS, schema::CPU)
        else {
            unreachable!("both are integers in the table")
        };
        if matches!(node.value, Value::Text(_)) {
            let count = value::integer(node, "the number of `workers`", min, max, self.report)?;
            return Some(Workers::Count(narrow(count)));
        }
        let cpus = section.list("workers", self.report, |item, what, report| {
            value::integer(item, &format!("a CPU in {what}"), 0, last_cpu, report)
                .map(|cpu| CpuId(narrow(cpu)))
        });
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            self.report
                .error(node.span, "`workers` of `cores` is empty")
                .help("expected the CPUs of the workers, as in `[1, 2]`, or a number of unpinned workers");
        } else if cpus.len() > max as usize {
            self.report.error(
                node.span,
                format!(
                    "`workers` of `cores` has {} CPUs, at most {max} are used",
                    cpus.len()
                ),
            );
        }
        Some(Workers::Pinned(cpus))
    }

    fn memory(&mut self, file: &Section<'_>) -> Memory {
        let Some(section) = file.table("memory", self.report) else {
            return Memory::default();
        };
        let hugepages = section.choice("hugepages", self.report).map(|at| at.value);
        Memory {
            hugepages: match hugepages {
                Some("required") => Hugepages::Required,
                Some("off") => Hugepages::Off,
                _ => Hugepages::Auto,
            },
            megabytes: section.integer("megabytes", self.report).map(|at| at.value),
            mtu_max: section.integer("mtu_max", self.report),
        }
    }

    fn enabled(&mut self, section: &Section<'_>) -> bool {
        let enabled = section.get("enabled", self.report, value::boolean);
        enabled.is_none_or(|at| at.value)
    }

    fn queue_workers(&mut self, section: &Section<'_>) -> Option<At<Vec<At<u32>>>> {
        let node = section.node("queue_workers")?;
        let Form::Integer { min, max } = schema::WORKER_INDEX else {
            unreachable!("an integer in the table")
        };
        let workers = section.list("queue_workers", self.report, |item, what, report| {
            value::integer(item, &format!("a worker in {what}"), min, max, report)
        });
        Some(At::new(workers, node.span))
    }

    /// Reports keys that are missing for one kind of section.
    fn need(&mut self, section: &Section<'_>, keys: &[&str], kind: &str) {
        for key in keys.iter().filter(|key| section.lacks(key)) {
            self.report
                .error(section.span, format!("{} has no `{key}`", section.title()))
                .help(format!("{kind} needs `{key}: {}`", section.example(key)));
        }
    }

    /// Reports keys that don't apply to one kind of section.
    fn refuse(&mut self, section: &Section<'_>, keys: &[&str], belongs: &str, mend: &str) {
        for key in keys {
            if let Some(span) = section.key_span(key) {
                self.report
                    .error(
                        span,
                        format!("`{key}` in {} is only {belongs}", section.title()),
                    )
                    .help(mend);
            }
        }
    }
}

/// A number that its table keeps within 16 bits.
fn narrow(value: u32) -> u16 {
    u16::try_from(value).expect("the tables keep these numbers below 65536")
}
