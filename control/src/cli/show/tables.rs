//! The tables of `show`: which columns each part has.
//!
//! In: a state, the rates if two were looked at. Out: tables. Never: more than 80 characters of usual names, unless all
//! columns are wanted.

use std::collections::BTreeMap;

use super::super::output::folded;
use super::super::units;
use super::named::Told;
use super::rates::{self, Passed, Rates};
use super::table::{Align, Layout, Table};
use crate::state::{
    Core, Drop, Log, Neighbor, Part, Peer, Port, PortVlan, Route, State, Traffic, Tunnel,
};

/// What is shown.
pub(super) struct View<'s> {
    pub(super) state: &'s State,
    /// Whose it is, for the lines ahead of the tables.
    pub(super) whose: Option<&'s Told>,
    pub(super) rates: Option<Rates>,
    /// With all columns.
    pub(super) is_wide: bool,
}

/// A column of a table of things.
pub(super) struct Column<T> {
    title: &'static str,
    align: Align,
    when: When,
    cell: fn(&View<'_>, &T) -> String,
}

/// When a column is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    Wide,
    /// Where what passed since the start is shown.
    Counts,
    WideCounts,
    /// Where what passes in a second is shown.
    Rates,
}

pub(super) const fn left<T>(title: &'static str, cell: fn(&View<'_>, &T) -> String) -> Column<T> {
    Column {
        title,
        align: Align::Left,
        when: When::Always,
        cell,
    }
}

pub(super) const fn right<T>(title: &'static str, cell: fn(&View<'_>, &T) -> String) -> Column<T> {
    Column {
        align: Align::Right,
        ..left(title, cell)
    }
}

pub(super) const fn only<T>(when: When, column: Column<T>) -> Column<T> {
    Column { when, ..column }
}

/// The network that a port has without a tag, and those by its VLANs: `inside, 10 blue, 20 red`.
fn networks(port: &Port) -> String {
    let native = Some(port.network.clone()).filter(|name| !name.is_empty());
    let vlan = |it: &PortVlan| format!("{} {}", it.vlan, it.network);
    let all: Vec<_> = native
        .into_iter()
        .chain(port.vlans.iter().map(vlan))
        .collect();
    all.join(", ")
}

const PORTS: &[Column<Port>] = &[
    left("PORT", |_, it| it.name.clone()),
    left("NETWORK", |_, it| networks(it)),
    left("LINK", |_, it| link(it).into()),
    only(
        When::Wide,
        right("QUEUES", |_, it| format!("{}/{}", it.queues, it.queues_max)),
    ),
    only(
        When::WideCounts,
        right("RX PACKETS", |_, it| it.rx.packets.to_string()),
    ),
    only(When::Counts, right("RX", |_, it| bytes(it.rx))),
    only(
        When::WideCounts,
        right("TX PACKETS", |_, it| it.tx.packets.to_string()),
    ),
    only(When::Counts, right("TX", |_, it| bytes(it.tx))),
    only(When::Counts, right("DROPS", |_, it| sum(&it.drops))),
    only(When::Rates, right("RX PPS", |v, it| pps(v.port(it).rx))),
    only(When::Rates, right("RX BIT/S", |v, it| bps(v.port(it).rx))),
    only(When::Rates, right("TX PPS", |v, it| pps(v.port(it).tx))),
    only(When::Rates, right("TX BIT/S", |v, it| bps(v.port(it).tx))),
    only(
        When::Rates,
        right("DROPS/S", |v, it| units::si(v.port(it).drops)),
    ),
    right("MTU", |_, it| it.mtu.to_string()),
    only(When::Wide, left("DRIVER", |_, it| it.driver.clone())),
    only(When::Wide, left("MAC", |_, it| it.mac.clone())),
    only(When::Wide, left("SOCKET", |_, it| it.socket.clone())),
    only(When::Wide, left("LABELS", |_, it| labels(&it.labels))),
];

/// A tunnel's uplink; of several each with the peers that it reaches.
fn uplinks(tunnel: &Tunnel) -> String {
    if tunnel.uplinks.len() < 2 {
        return tunnel.uplink.clone();
    }
    let each = tunnel.uplinks.iter();
    let each: Vec<_> = each
        .map(|(name, peers)| format!("{name}:{peers}"))
        .collect();
    each.join(", ")
}

const TUNNELS: &[Column<Tunnel>] = &[
    left("TUNNEL", |_, it| it.name.clone()),
    left("UPLINK", |_, it| uplinks(it)),
    right("PORT", |_, it| it.listen_port.to_string()),
    right("PEERS", |_, it| it.peers.to_string()),
    only(
        When::Wide,
        right("FWMARK", |_, it| match it.fwmark {
            0 => "-".into(),
            mark => format!("{mark:#x}"),
        }),
    ),
    only(When::Wide, right("MTU", |_, it| it.mtu.to_string())),
    only(
        When::Wide,
        left("WG", |_, it| it.uapi.clone().unwrap_or_else(dash)),
    ),
    left("PUBLIC KEY", |_, it| {
        it.public_key.clone().unwrap_or_else(dash)
    }),
];

const PEERS: &[Column<Peer>] = &[
    left("PEER", |_, it| format!("{}/{}", it.tunnel, it.name)),
    left("ENDPOINT", |_, it| {
        let known = it.endpoint.map(|endpoint| endpoint.to_string());
        known.unwrap_or_else(|| "unknown".into())
    }),
    left("UPLINK", |_, it| it.uplink.clone().unwrap_or_else(dash)),
    left("STATE", |_, it| it.state.clone()),
    left("HANDSHAKE", |_, it| {
        units::short_age(it.last_handshake_age_s)
    }),
    only(When::Wide, left("KEYPAIR", |_, it| it.keypair.clone())),
    only(
        When::Wide,
        right("KEEPALIVE", |_, it| {
            let seconds = it.persistent_keepalive_s.filter(|it| *it > 0);
            seconds.map_or_else(|| "off".into(), |seconds| format!("{seconds}s"))
        }),
    ),
    only(
        When::WideCounts,
        right("RX PACKETS", |_, it| it.rx.packets.to_string()),
    ),
    only(When::Counts, right("RX", |_, it| bytes(it.rx))),
    only(
        When::WideCounts,
        right("TX PACKETS", |_, it| it.tx.packets.to_string()),
    ),
    only(When::Counts, right("TX", |_, it| bytes(it.tx))),
    only(
        When::Wide,
        left("PATH MTU", |_, it| match it.path_mtu {
            Some(mtu) => format!("{mtu} ({})", it.path_mtu_known),
            None => it.path_mtu_known.clone(),
        }),
    ),
    only(
        When::Wide,
        left("LAST ERROR", |_, it| match &it.last_error {
            Some(error) => {
                let from = error.from.map_or_else(dash, |from| from.to_string());
                format!(
                    "{} from {from} {}",
                    error.what,
                    units::short_age(Some(error.age_s))
                )
            }
            None => dash(),
        }),
    ),
    only(When::Wide, right("STAGED", |_, it| it.staged.to_string())),
    only(When::WideCounts, right("DROPS", |_, it| sum(&it.drops))),
    only(When::Rates, right("RX BIT/S", |v, it| bps(v.peer(it).rx))),
    only(When::Rates, right("TX BIT/S", |v, it| bps(v.peer(it).tx))),
    only(
        When::Wide,
        left("ALLOWED IPS", |_, it| it.allowed_ips.join(", ")),
    ),
    only(
        When::Wide,
        left("PUBLIC KEY", |_, it| it.public_key.clone()),
    ),
    only(
        When::Wide,
        left("NAME", |_, it| {
            let name = it.endpoint_name.as_ref();
            name.map_or_else(dash, |it| format!("{} ({})", it.name, it.state))
        }),
    ),
    only(When::Wide, left("LABELS", |_, it| labels(&it.labels))),
];

const ROUTES: &[Column<Route>] = &[
    left("TABLE", |_, it| it.table.clone()),
    left("TO", |_, it| it.to.clone()),
    left("NEXT HOP", |_, it| it.next_hop.clone()),
    right("METRIC", |_, it| {
        it.metric.map_or_else(dash, |metric| metric.to_string())
    }),
    left("FROM", |_, it| it.source.clone()),
];

const NEIGHBORS: &[Column<Neighbor>] = &[
    left("PLACE", |_, it| it.place.clone()),
    left("ADDRESS", |_, it| it.address.to_string()),
    left("MAC", |_, it| it.mac.clone().unwrap_or_else(dash)),
    left("STATE", |_, it| it.state.clone()),
    left("CONFIRMED", |_, it| units::short_age(it.age_s)),
    left("PORT", |_, it| it.port.clone().unwrap_or_default()),
];

const CORES: &[Column<Core>] = &[
    left("CORE", |_, it| it.name.clone()),
    right("CPU", |_, it| {
        it.cpu.map_or_else(|| "any".into(), |cpu| cpu.to_string())
    }),
    right("BUSY", |_, it| {
        format!("{:.0} %", it.busy.clamp(0.0, 1.0) * 100.0)
    }),
    only(
        When::WideCounts,
        right("BURSTS", |_, it| it.bursts.to_string()),
    ),
    only(
        When::Counts,
        right("PACKETS", |_, it| it.packets.to_string()),
    ),
    only(When::Rates, right("PPS", |v, it| pps(v.core(it)))),
    right("PER BURST", |_, it| per_burst(it)),
    only(When::Counts, right("SLEEPS", |_, it| it.sleeps.to_string())),
    only(
        When::Wide,
        right("LONGEST", |_, it| match it.longest_us {
            Some(us) => format!("{us} us"),
            None => dash(),
        }),
    ),
    left("QUEUES", |_, it| it.queues.join(" ")),
];

const DROPS: &[Column<Drop>] = &[
    left("DROPPED AT", |_, it| it.scope.clone()),
    left("REASON", |_, it| it.reason.clone()),
    right("PACKETS", |_, it| it.packets.to_string()),
    only(
        When::Rates,
        right("PER SECOND", |v, it| {
            let rates = v.rates.as_ref();
            units::si(rates.map_or(0.0, |rates| rates.lost(&it.scope, &it.reason)))
        }),
    ),
];

impl View<'_> {
    /// All tables of a part; those of named things only as far as there are some.
    pub(super) fn text(&self, part: Option<Part>, has_names: bool, layout: Layout) -> String {
        let mut tables = match part {
            None => {
                let mut tables = vec![self.ports(), self.uplinks()];
                tables.extend([self.tunnels(), self.peers(), self.cores()]);
                if !self.state.drops.is_empty() {
                    tables.push(self.drops());
                }
                tables
            }
            Some(Part::Ports) => vec![self.ports(), self.uplinks()],
            Some(Part::Uplinks) => vec![self.uplinks(), self.learned()],
            Some(Part::Tunnels) => vec![self.tunnels()],
            Some(Part::Peers) => vec![self.tunnels(), self.peers()],
            Some(Part::Routes) => vec![self.table(ROUTES, &self.state.routes)],
            Some(Part::Neighbors) => vec![self.table(NEIGHBORS, &self.state.neighbors)],
            Some(Part::Cores) => vec![self.cores()],
            Some(Part::Drops) => vec![self.drops()],
        };
        if has_names {
            tables.retain(|table| !table.is_empty());
        }
        let rendered: Vec<_> = tables.iter().map(|table| table.render(layout)).collect();
        let tables = rendered.join("\n");
        match part {
            Some(_) => tables,
            None => {
                let head = folded(&self.headlines(), layout.width);
                format!("{head}\n{tables}")
            }
        }
    }

    /// The process and its file, and the interfaces beside.
    fn headlines(&self) -> String {
        let (main, tuns) = match self.whose {
            Some(told) => (told.main.is_some(), &*told.tuns),
            None => (true, &[][..]),
        };
        let tuns = tuns.iter().map(|(interface, state)| {
            format!("{interface} (pid {}, {})", state.pid, uptime(state))
        });
        let tuns: Vec<_> = tuns.collect();
        let mut text = match main {
            true => headline(self.state) + "\n",
            false => String::new(),
        };
        if !tuns.is_empty() {
            text += &format!("culvert tun: {}\n", tuns.join(", "));
        }
        text
    }

    pub(super) fn table<T>(&self, columns: &[Column<T>], things: &[T]) -> Table {
        let is_there = |column: &&Column<T>| match column.when {
            When::Always => true,
            When::Wide => self.is_wide,
            When::Counts => self.rates.is_none(),
            When::WideCounts => self.is_wide && self.rates.is_none(),
            When::Rates => self.rates.is_some(),
        };
        let columns: Vec<_> = columns.iter().filter(is_there).collect();
        let heads = columns.iter().map(|column| (column.title, column.align));
        let mut table = Table::new(heads.collect());
        for thing in things {
            let cells = columns.iter().map(|column| (column.cell)(self, thing));
            table.row(cells.collect());
        }
        table
    }

    pub(super) fn ports(&self) -> Table {
        let ports = &self.state.ports;
        let notes = ports.iter().filter_map(|port| {
            let what = port.hindrance.as_ref()?;
            Some(format!("{}: {what}", port.name))
        });
        let mut table = self.table(PORTS, ports);
        table.notes.extend(notes);
        table
    }

    fn tunnels(&self) -> Table {
        let mut table = self.table(TUNNELS, &self.state.tunnels);
        for tunnel in &self.state.tunnels {
            let name = &tunnel.name;
            let hindered = tunnel.uapi_hindrance.iter();
            let hindered = hindered.map(|why| format!("{name}: not to be found by wg: {why}"));
            table.notes.extend(hindered);
            table.notes.extend(drift(name, &tunnel.drift));
        }
        table
    }

    pub(super) fn peers(&self) -> Table {
        let mut table = self.table(PEERS, &self.state.peers);
        for peer in &self.state.peers {
            let name = format!("{}/{}", peer.tunnel, peer.name);
            table.notes.extend(drift(&name, &peer.drift));
            table.notes.extend(unfound(&name, peer));
        }
        table
    }

    fn cores(&self) -> Table {
        self.table(CORES, &self.state.cores)
    }

    fn drops(&self) -> Table {
        self.table(DROPS, &self.state.drops)
    }

    pub(super) fn rate(&self, name: &str) -> rates::Rate {
        let rates = self.rates.as_ref();
        rates.map_or_else(rates::Rate::default, |rates| rates.of(name))
    }

    fn port(&self, port: &Port) -> rates::Rate {
        self.rate(&rates::port(&port.name))
    }

    fn peer(&self, peer: &Peer) -> rates::Rate {
        self.rate(&rates::peer(&peer.tunnel, &peer.name))
    }

    fn core(&self, core: &Core) -> Passed {
        self.rate(&rates::core(&core.name)).rx
    }
}

fn uptime(state: &State) -> String {
    match state.uptime_s {
        0 => "just started".into(),
        seconds => format!("up {}", units::duration(seconds)),
    }
}

fn headline(state: &State) -> String {
    let uptime = uptime(state);
    let log = match state.log {
        Log {
            lost: 0,
            left_out: 0,
        } => String::new(),
        Log { lost, left_out } => {
            format!("\nlog: {lost} lines could not be written, {left_out} were left out")
        }
    };
    let revision = state
        .revision
        .map_or_else(String::new, |it| format!(", revision {it}"));
    let told = |line: Option<String>| line.map_or_else(String::new, |line| format!("\n{line}"));
    let pending = told(state.pending.as_ref().map(ToString::to_string));
    let notice = told(state.notice.clone());
    // What has no file has but one.
    let file = match &*state.config {
        "" => String::new(),
        file => format!("\n{file} (generation {}{revision})", state.generation),
    };
    format!(
        "{}: culvert {}, pid {}, {uptime}{file}{log}{pending}{notice}",
        state.node, state.version, state.pid
    )
}

/// Why the name of a peer's endpoint is not found.
fn unfound(peer: &str, of: &Peer) -> Option<String> {
    let name = of.endpoint_name.as_ref()?;
    let error = name.error.as_ref()?;
    let again = match name.asked_in_s {
        Some(seconds) => format!("asked again in {}", units::duration(seconds)),
        None => "asked again now".into(),
    };
    Some(format!(
        "{peer}: {} is not found: {error}; {again}",
        name.name
    ))
}

/// What `wg` changed; the file's next apply takes it back.
fn drift(name: &str, drift: &[String]) -> Option<String> {
    (!drift.is_empty()).then(|| format!("{name}: not as in the file: {}", drift.join(", ")))
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    let all = labels.iter().map(|(key, value)| format!("{key}={value}"));
    match labels.is_empty() {
        true => dash(),
        false => all.collect::<Vec<_>>().join(" "),
    }
}

fn link(port: &Port) -> &'static str {
    if port.disabled {
        return "disabled";
    }
    match (port.connected, port.link_up) {
        (_, true) => "up",
        (true, false) => "connected",
        (false, false) => "down",
    }
}

fn per_burst(core: &Core) -> String {
    match core.bursts {
        0 => dash(),
        bursts => {
            let tenths = core.packets.saturating_mul(10) / bursts;
            format!("{}.{}", tenths / 10, tenths % 10)
        }
    }
}

pub(super) fn bytes(traffic: Traffic) -> String {
    units::bytes(traffic.bytes)
}

pub(super) fn sum(drops: &BTreeMap<String, u64>) -> String {
    drops.values().sum::<u64>().to_string()
}

pub(super) fn pps(passed: Passed) -> String {
    units::si(passed.packets)
}

pub(super) fn bps(passed: Passed) -> String {
    units::si(passed.bits)
}

pub(super) fn dash() -> String {
    "-".into()
}
