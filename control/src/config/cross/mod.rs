//! Relations between values: references, collisions, and what can't work together.
//!
//! In: drafts. Out: mistakes in the report. Never: a value that was reported already (it is absent
//! from its draft), a device, a socket.

mod apart;
mod networks;
mod ports;
mod served;
mod service;
mod tunnels;
mod uplinks;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;

pub(crate) use self::ports::is_taken;
use super::build;
use super::draft::{File, Workers};
use super::report::{Mistake, Report, Span};
use super::section::{At, list, nearest};
use super::{CpuId, Name};

/// Compares everything with everything that it has to agree with.
pub(super) fn check(file: &File, report: &mut Report) {
    cores(file, report);
    memory(file, report);
    uplinks::check(file, report);
    served::check(file, report);
    tunnels::check(file, report);
    networks::check(file, report);
    ports::check(file, report);
}

/// Compares a port with its network alone.
pub(super) fn port(file: &File, report: &mut Report) {
    networks::check_plain(file, report);
    ports::check(file, report);
}

/// Compares a peer with its tunnel and uplink alone.
pub(super) fn peer(file: &File, report: &mut Report) {
    tunnels::check_peers(file, report);
    networks::check_shadowed(file, report);
}

/// Compares a route with its network alone.
pub(super) fn route(file: &File, report: &mut Report) {
    networks::check_routes(file, report);
}

fn cores(file: &File, report: &mut Report) {
    let Some(Workers::Pinned(workers)) = &file.cores.workers else {
        return;
    };
    let mut seen = Seen::default();
    for cpu in workers {
        if let Some(first) = seen.insert(cpu.value, cpu.span) {
            let first = report.line(first);
            report
                .error(
                    cpu.span,
                    format!("CPU {} has a worker already", cpu.value.0),
                )
                .help(format!(
                    "the first stands in {first}: expected one worker a CPU"
                ));
        }
    }
    if let Some(control) = file.cores.control
        && let Some(worker) = seen.span(&CpuId(control.value.0))
    {
        let cpu = control.value.0;
        let line = report.line(worker);
        report
            .warning(
                control.span,
                format!("the control core and a worker share CPU {cpu}"),
            )
            .help("handshakes will delay packets and the other way round")
            .help(format!(
                "leave CPU {cpu} out of `workers` in {line}, or choose another for `control`"
            ));
    }
}

fn memory(file: &File, report: &mut Report) {
    let Some(limit) = file.memory.mtu_max else {
        return;
    };
    let uplinks = file.uplinks.iter().map(|uplink| {
        (
            &uplink.name,
            "uplink",
            uplink.mtu.map_or(uplink.name.span, |at| at.span),
            build::uplink_mtu(uplink),
        )
    });
    let networks = file.networks.iter().map(|network| {
        (
            &network.name,
            "network",
            network.mtu.map_or(network.name.span, |at| at.span),
            build::network_mtu(network, file),
        )
    });
    for (name, kind, span, mtu) in uplinks.chain(networks) {
        if mtu > limit.value {
            let line = report.line(limit.span);
            report
                .error(
                    span,
                    format!(
                        "{kind} `{}` has an MTU of {mtu}, more than `mtu_max`",
                        name.value
                    ),
                )
                .help(format!(
                    "`mtu_max` in {line} is {}: raise it, or lower this",
                    limit.value
                ));
        }
    }
}

/// Reports a `queue_workers` that doesn't fit its queues or the workers.
fn queue_workers(
    title: &str,
    assigned: Option<&At<Vec<At<u32>>>>,
    queues: usize,
    file: &File,
    report: &mut Report,
) {
    let Some(assigned) = assigned else { return };
    let workers = build::worker_count(&file.cores);
    for worker in &assigned.value {
        if worker.value as usize >= workers {
            let last = workers.saturating_sub(1);
            report
                .error(
                    worker.span,
                    format!("{title} has no worker {}", worker.value),
                )
                .help(format!(
                    "`cores` has {workers}: expected a number from 0 to {last}"
                ));
        }
    }
    if assigned.value.len() != queues {
        report
            .error(
                assigned.span,
                format!(
                    "`queue_workers` of {title} has {} workers for {queues} queues",
                    assigned.value.len()
                ),
            )
            .help("expected one worker for each queue, or leave it out for round robin");
    }
}

/// Reports a name that nothing has.
fn dangling<'n>(
    reference: &At<Name>,
    kind: &str,
    by: &str,
    known: impl Iterator<Item = &'n Name> + Clone,
    report: &mut Report,
) {
    let mistake = report.error(
        reference.span,
        format!(
            "{by} names the {kind} `{}`, which there is not",
            reference.value
        ),
    );
    suggest(
        mistake,
        reference.value.as_str(),
        kind,
        known.map(Name::as_str),
    );
}

fn suggest<'n>(
    mistake: &mut Mistake,
    word: &str,
    kind: &str,
    known: impl Iterator<Item = &'n str> + Clone,
) {
    if let Some(near) = nearest(word, known.clone()) {
        mistake.help(format!("did you mean `{near}`?"));
    } else if known.clone().next().is_some() {
        mistake.help(format!("expected one of: {}", list(known)));
    } else {
        mistake.help(format!("there is no {kind} at all: add one"));
    }
}

/// The first place of each value.
struct Seen<K>(HashMap<K, Span>);

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Seen<K> {
    /// Notes a value; the place of an earlier equal one.
    fn insert(&mut self, key: K, span: Span) -> Option<Span> {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(span);
                None
            }
        }
    }

    fn span(&self, key: &K) -> Option<Span> {
        self.0.get(key).copied()
    }
}

/// The first thing of many with each value, by its number.
struct Firsts<K>(HashMap<K, u32>);

impl<K: Eq + Hash> Firsts<K> {
    /// Room for so many, made once.
    fn of(count: usize) -> Self {
        Self(HashMap::with_capacity(count))
    }

    /// Notes a value of a thing; the number of an earlier one with that value.
    fn insert(&mut self, key: K, number: usize) -> Option<usize> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get() as usize),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(number);
                None
            }
        }
    }
}

/// Why an address of a prefix is no host's, in words (RFC 1122 section 3.2.1.3).
fn reserved(net: &IpNet) -> Option<&'static str> {
    let IpNet::V4(v4) = net else { return None };
    if v4.prefix_len() >= 31 {
        return None;
    }
    if v4.addr() == v4.network() {
        Some("the address of its network")
    } else if v4.addr() == v4.broadcast() {
        Some("the broadcast address of its network")
    } else {
        None
    }
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

fn is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// The prefixes in words: "`10.1.1.0/24`, `fd00:1::/64`".
fn prefixes<'n>(nets: impl Iterator<Item = &'n IpNet>) -> String {
    let texts: Vec<String> = nets.map(|net| net.trunc().to_string()).collect();
    list(texts.iter().map(String::as_str))
}

/// An address beside `net`'s own that a host of its prefix could have.
fn other_host(net: &IpNet) -> Option<IpAddr> {
    net.hosts().take(3).find(|host| *host != net.addr())
}
