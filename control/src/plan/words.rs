//! Changes in words.
//!
//! In: changes. Out: what differs key by key, and lines for an operator. Never: a key that is secret.

use std::fmt::{Debug, Display};
use std::path::PathBuf;

use culvert_wire::ether::VlanId;

use super::{Change, Edit, Impact};
use crate::config::{
    Account, Api, ApiTls, Attachment, Cores, Dhcp, Door, Guard, Labels, Memory, Metrics, Network,
    NetworkRoute, NextHop, Offloads, Peer, Port, PortDriver, Role, SocketMode, SocketPath, Tunnel,
    Uapi, Uplink, UplinkDriver, WorkerIndex, table_name,
};

/// Values of a list that are written out.
const LISTED: usize = 8;

/// A key of the file whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: &'static str,
    /// The value that was; of a secret, that it is one.
    pub old: String,
    /// The value that comes.
    pub new: String,
}

impl Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.old, self.new)
    }
}

impl Display for Impact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::DropsSession => "drops session",
            Self::ReopensPort => "reopens port",
            Self::ClosesPort => "closes port",
            Self::RestartsUplink => "restarts uplink",
            Self::NeedsRestart => "needs a restart",
        })
    }
}

/// Collects what differs between two things.
struct Differences<'t, T> {
    old: &'t T,
    new: &'t T,
    found: Vec<Difference>,
}

impl<'t, T> Differences<'t, T> {
    fn between(old: &'t T, new: &'t T) -> Self {
        let found = Vec::new();
        Self { old, new, found }
    }

    fn key<V: PartialEq>(
        mut self,
        key: &'static str,
        value: impl Fn(&T) -> V,
        text: impl Fn(&V) -> String,
    ) -> Self {
        let (old, new) = (value(self.old), value(self.new));
        if old != new {
            let (old, new) = (text(&old), text(&new));
            self.found.push(Difference { key, old, new });
        }
        self
    }
}

fn text(value: &impl Display) -> String {
    value.to_string()
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn list(values: &[impl Display]) -> String {
    let shown = values.iter().take(LISTED).map(ToString::to_string);
    let more = values.len().saturating_sub(LISTED);
    let more = (more > 0).then(|| format!("… {more} more"));
    format!("[{}]", shown.chain(more).collect::<Vec<_>>().join(", "))
}

fn optional<V: Display>(value: &Option<V>) -> String {
    value.as_ref().map_or_else(|| "none".into(), text)
}

fn path(path: &Option<PathBuf>) -> String {
    optional(&path.as_ref().map(|path| path.display()))
}

fn labels(labels: &Labels) -> String {
    format!("{{{labels}}}")
}

fn secret<V>(value: &Option<V>) -> String {
    let words = value.as_ref().map(|_| "(secret)");
    words.unwrap_or("none").to_owned()
}

fn cores(old: &Cores, new: &Cores) -> Vec<Difference> {
    let cpu = |core: &crate::config::WorkerCore| core.cpu.map_or(-1, |cpu| i32::from(cpu.0));
    Differences::between(old, new)
        .key("control", |it| it.control.map(|cpu| cpu.0), optional)
        .key(
            "workers",
            |it| it.workers.iter().map(cpu).collect::<Vec<_>>(),
            |cpus| match cpus.iter().all(|&cpu| cpu < 0) {
                true => cpus.len().to_string(),
                false => list(cpus),
            },
        )
        .key("poll", |it| it.poll, |poll| debug(poll).to_lowercase())
        .found
}

fn memory(old: &Memory, new: &Memory) -> Vec<Difference> {
    Differences::between(old, new)
        .key(
            "hugepages",
            |it| it.hugepages,
            |it| debug(it).to_lowercase(),
        )
        .key("megabytes", |it| it.megabytes, text)
        .key("mtu_max", |it| it.mtu_max, optional)
        .found
}

fn metrics(old: &Metrics, new: &Metrics) -> Vec<Difference> {
    Differences::between(old, new)
        .key("listen", |it| it.listen, optional)
        .key("wireguard_exporter", |it| it.wireguard_exporter, text)
        .key(
            "wireguard_exporter_peers",
            |it| it.wireguard_exporter_peers,
            text,
        )
        .key("labels", |it| it.labels.clone(), |keys| list(keys))
        .found
}

fn api(old: &Api, new: &Api) -> Vec<Difference> {
    let file = |file: fn(&ApiTls) -> &PathBuf| move |it: &Api| it.tls.as_ref().map(file).cloned();
    let role = |(name, role): &(String, Role)| format!("{name}: {}", role.name());
    let roles = |it: &Api| match &it.tls {
        Some(tls) => tls.roles.iter().map(role).collect::<Vec<_>>(),
        None => Vec::new(),
    };
    Differences::between(old, new)
        .key("socket.owner", |it| it.socket.owner.clone(), optional)
        .key("socket.group", |it| it.socket.group.clone(), optional)
        .key(
            "socket.mode",
            |it| it.socket.permissions,
            |bits| format!("{bits:04o}"),
        )
        .key("readers.group", |it| it.readers.clone(), optional)
        .key(
            "listen",
            |it| it.tls.as_ref().and_then(|tls| tls.listen),
            optional,
        )
        .key("tls.certificate", file(|tls| &tls.certificate), path)
        .key("tls.key", file(|tls| &tls.key), path)
        .key("tls.client_ca", file(|tls| &tls.client_ca), path)
        .key("tls.roles", roles, |roles| list(roles))
        .key("body_megabytes", |it| it.body_megabytes, text)
        .key("key_directory", |it| Some(it.key_directory.clone()), path)
        .found
}

fn owners(workers: &[WorkerIndex]) -> String {
    let numbers: Vec<_> = workers.iter().map(|worker| worker.0).collect();
    list(&numbers)
}

/// Which is a key of its own.
fn without_exception(driver: &UplinkDriver) -> UplinkDriver {
    let mut driver = driver.clone();
    if let UplinkDriver::Dpdk(dpdk) = &mut driver {
        dpdk.exception = None;
    }
    driver
}

fn uplink(old: &Uplink, new: &Uplink) -> Vec<Difference> {
    let driver = |driver: &UplinkDriver| match driver {
        UplinkDriver::Dpdk(dpdk) => format!(
            "dpdk {} ({} rx, {} tx descriptors)",
            dpdk.named(),
            dpdk.rx_descriptors,
            dpdk.tx_descriptors
        ),
        UplinkDriver::Udp(udp) => {
            let device = udp.device.as_ref().map(|device| format!(" on {device}"));
            let mark = udp.fwmark.map(|mark| format!(" with fwmark {mark:#x}"));
            format!(
                "udp{}{}",
                device.unwrap_or_default(),
                mark.unwrap_or_default()
            )
        }
    };
    let exception = |it: &Uplink| match &it.driver {
        UplinkDriver::Dpdk(dpdk) => dpdk.exception.clone(),
        UplinkDriver::Udp(_) => None,
    };
    let interface = move |it: &Uplink| exception(it).map(|it| it.interface);
    let table = move |it: &Uplink| exception(it)?.routes_from;
    Differences::between(old, new)
        .key("driver", |it| without_exception(&it.driver), driver)
        .key("exception", interface, |it| {
            it.clone().unwrap_or("none".into())
        })
        .key("routes_from", table, |it| {
            it.map_or("none".into(), table_name)
        })
        .key("addresses", |it| it.addresses.clone(), |nets| list(nets))
        .key("dhcp4", |it| it.dhcp4, text)
        .key("accept_ra", |it| it.accept_ra, text)
        .key(
            "routes",
            |it| it.routes.clone(),
            |routes| {
                let route = |r: &crate::config::UplinkRoute| {
                    let metric = (r.metric > 0).then(|| format!(" metric {}", r.metric));
                    let from = r.from.map(|from| format!(" from {from}"));
                    let [metric, from] = [metric, from].map(Option::unwrap_or_default);
                    format!("{} via {}{metric}{from}", r.to, r.via)
                };
                list(&routes.iter().map(route).collect::<Vec<_>>())
            },
        )
        .key(
            "neighbors",
            |it| it.neighbors.clone(),
            |neighbors| {
                let neighbor =
                    |n: &crate::config::UplinkNeighbor| format!("{} at {}", n.address, n.mac);
                list(&neighbors.iter().map(neighbor).collect::<Vec<_>>())
            },
        )
        .key(
            "nameservers",
            |it| it.nameservers.clone(),
            |servers| match servers {
                Some(servers) => list(servers),
                None => "as learned".into(),
            },
        )
        .key("mtu", |it| it.mtu, text)
        .key("queues", |it| it.queues, text)
        .key(
            "queue_workers",
            |it| it.queue_workers.clone(),
            |all| owners(all),
        )
        .key(
            "bfd",
            |it| it.bfd,
            |bfd| match bfd {
                Some(bfd) => format!("{} {}ms × {}", bfd.peer, bfd.interval_ms, bfd.multiplier),
                None => "none".into(),
            },
        )
        .key("enabled", |it| it.enabled, text)
        .key("api", |it| it.serves.api.clone(), door)
        .key("metrics", |it| it.serves.metrics.clone(), door)
        .key(
            "responder",
            |it| it.serves.responder.clone(),
            |nets| list(nets),
        )
        .found
}

fn door(door: &Option<Door>) -> String {
    let words = |door: &Door| format!("port {} for {}", door.port, list(&door.allow));
    door.as_ref().map_or_else(|| "none".into(), words)
}

fn tunnel(old: &Tunnel, new: &Tunnel) -> Vec<Difference> {
    Differences::between(old, new)
        .key(
            "uplink",
            |it| it.uplinks().cloned().collect::<Vec<_>>(),
            |all| match all.as_slice() {
                [one] => one.to_string(),
                all => list(all),
            },
        )
        .key("private_key", |it| it.private_key.clone(), secret)
        .key(
            "private_key_file",
            |it| Some(it.private_key_file.clone()),
            path,
        )
        .key(
            "preshared_keys_file",
            |it| it.preshared_keys_file.clone(),
            path,
        )
        .key("mtu", |it| it.mtu, text)
        .key("pmtu", |it| it.pmtu, text)
        .key("listen_port", |it| it.listen_port, text)
        .key("fwmark", |it| it.fwmark, |mark| format!("{mark:#x}"))
        .key("uapi", |it| it.uapi.clone(), uapi)
        .found
}

fn peer(old: &Peer, new: &Peer) -> Vec<Difference> {
    Differences::between(old, new)
        .key("name", |it| it.name.clone(), text)
        .key("preshared_key", |it| it.preshared_key.clone(), secret)
        .key(
            "preshared_key_file",
            |it| it.preshared_key_file.clone(),
            path,
        )
        .key("endpoint", |it| it.endpoint.clone(), optional)
        .key(
            "allowed_ips",
            |it| it.allowed_ips.clone(),
            |nets| list(nets),
        )
        .key(
            "persistent_keepalive",
            |it| it.persistent_keepalive,
            optional,
        )
        .key("pmtu", |it| it.pmtu, optional)
        .key("probe", |it| it.probe, optional)
        .key("enabled", |it| it.enabled, text)
        .key("labels", |it| it.labels.clone(), labels)
        .found
}

fn network(old: &Network, new: &Network) -> Vec<Difference> {
    Differences::between(old, new)
        .key("gateway", |it| it.gateways.clone(), |nets| list(nets))
        .key("gateway_mac", |it| it.gateway_mac, text)
        .key("tunnel", |it| it.tunnel.clone(), optional)
        .key(
            "routes",
            |it| it.routes.clone(),
            |all| list(&all.iter().map(route).collect::<Vec<_>>()),
        )
        .key("mtu", |it| it.mtu, text)
        .key("mss_clamp", |it| it.mss_clamp, text)
        .key("dhcp", |it| it.dhcp.clone(), dhcp)
        .key("ra", |it| it.ra, |ra| ra.name().into())
        .found
}

fn dhcp(dhcp: &Option<Dhcp>) -> String {
    match dhcp {
        None => "false".into(),
        Some(Dhcp { dns, domain, lease }) => format!(
            "{{dns: {}, domain: {}, lease: {lease}s}}",
            list(dns),
            optional(domain)
        ),
    }
}

fn uapi(uapi: &Uapi) -> String {
    match uapi {
        Uapi::Auto => "auto".into(),
        Uapi::Name(name) => name.to_string(),
        Uapi::Off => "off".into(),
    }
}

/// As a file may have them: all, none, or what is not offered.
fn offloads(offered: &Offloads) -> String {
    match *offered {
        Offloads::ALL => "all".into(),
        Offloads::NONE => "none".into(),
        _ => {
            let off = offered.each().into_iter().filter(|(_, on)| !on);
            let off = off.map(|(key, _)| format!("{key}: false"));
            format!("{{{}}}", off.collect::<Vec<_>>().join(", "))
        }
    }
}

fn place(driver: &PortDriver) -> String {
    match driver {
        PortDriver::VhostUser(at) => {
            let (owner, group) = (account(at.owner.as_ref()), account(at.group.as_ref()));
            let socket = match &at.socket {
                SocketPath::Absolute(path) | SocketPath::InRunDir(path) => path.display(),
            };
            match at.mode {
                // It is the VMM's.
                SocketMode::Client => format!("vhost-user {socket} (client)"),
                SocketMode::Server => format!(
                    "vhost-user {socket} (server, {owner}:{group} {:04o})",
                    at.permissions
                ),
            }
        }
        PortDriver::Tun { interface } => format!("tun {interface}"),
        PortDriver::Tap { interface } => format!("tap {interface}"),
    }
}

fn account(account: Option<&Account>) -> String {
    match account {
        None => "-".into(),
        Some(Account::Id(id)) => id.to_string(),
        Some(Account::Name(name)) => name.clone(),
    }
}

fn route(route: &NetworkRoute) -> String {
    match &route.next_hop {
        NextHop::Peer(peer) => format!("{} by {peer}", route.to),
        NextHop::Guest(address) => format!("{} via {address}", route.to),
        NextHop::Unreachable => format!("{} unreachable", route.to),
    }
}

fn port(old: &Port, new: &Port) -> Vec<Difference> {
    Differences::between(old, new)
        .key("driver", |it| it.driver.clone(), place)
        .key("queues", |it| it.queues, text)
        .key(
            "queue_workers",
            |it| it.queue_workers.clone(),
            |all| owners(all),
        )
        .key("network", native(|it| it.network.clone()), optional)
        .key("vlans", vlans, |all| list(all))
        .key("mac", |it| it.mac, text)
        .key("addresses", native(|it| it.addresses.clone()), |all| {
            list(all.as_deref().unwrap_or_default())
        })
        .key(
            "prefixes",
            |it| it.interface_addresses.clone(),
            |all| list(all),
        )
        .key("guard", native(|it| it.guard), |guard| match guard {
            Some(guard) => debug(guard).to_lowercase(),
            None => "none".into(),
        })
        .key("dhcp", native(|it| it.dhcp), optional)
        .key("mtu", |it| it.mtu, text)
        .key("offloads", |it| it.offloads, offloads)
        .key("enabled", |it| it.enabled, text)
        .key("labels", |it| it.labels.clone(), labels)
        .found
}

/// What a port's guest is attached with without a VLAN.
fn native<V>(value: impl Fn(&Attachment) -> V) -> impl Fn(&Port) -> Option<V> {
    move |port| port.native().map(&value)
}

/// A port's VLANs, each in words.
fn vlans(port: &Port) -> Vec<String> {
    let vlan = |(number, it): (VlanId, &Attachment)| {
        let addresses = (!it.addresses.is_empty()).then(|| format!(" {}", list(&it.addresses)));
        let guard = (it.guard != Guard::Strict)
            .then(|| format!(" guard {}", debug(&it.guard).to_lowercase()));
        let dhcp = (!it.dhcp).then_some(" no dhcp");
        format!(
            "{number}: {}{}{}{}",
            it.network,
            addresses.unwrap_or_default(),
            guard.unwrap_or_default(),
            dhcp.unwrap_or_default()
        )
    };
    port.vlans().map(vlan).collect()
}

fn of_edit<T>(edit: &Edit<T>, differences: impl Fn(&T, &T) -> Vec<Difference>) -> Vec<Difference> {
    match edit {
        Edit::Change { old, new } => differences(old, new),
        Edit::Add(_) | Edit::Remove(_) => Vec::new(),
    }
}

/// What becomes of a thing, in one word.
fn verb<T>(edit: &Edit<T>) -> &'static str {
    match edit {
        Edit::Add(_) => "added",
        Edit::Change { .. } => "changed",
        Edit::Remove(_) => "removed",
    }
}

impl Change {
    /// The object, as an operator calls it.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::Cores { .. } => "cores".into(),
            Self::Memory { .. } => "memory".into(),
            Self::Metrics { .. } => "metrics".into(),
            Self::Api { .. } => "api".into(),
            Self::Uplink(edit) => format!("uplink {}", edit.any().name),
            Self::Tunnel(edit) => format!("tunnel {}", edit.any().name),
            Self::Peer(change) => format!("peer {}/{}", change.tunnel, change.edit.any().name),
            Self::Network(edit) => format!("network {}", edit.any().name),
            Self::Route { network, edit } => format!("route {network}/{}", edit.any().to),
            Self::Port { edit, .. } => format!("port {}", edit.any().name),
        }
    }

    /// The keys whose values differ, of an object that changes.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        match self {
            Self::Cores { old, new } => cores(old, new),
            Self::Memory { old, new, .. } => memory(old, new),
            Self::Metrics { old, new } => metrics(old, new),
            Self::Api { old, new } => api(old, new),
            Self::Uplink(edit) => of_edit(edit, uplink),
            Self::Tunnel(edit) => of_edit(edit, tunnel),
            Self::Peer(change) => of_edit(&change.edit, |old, new| peer(old, new)),
            Self::Network(edit) => of_edit(edit, network),
            Self::Route { edit, .. } => of_edit(edit, |old, new| {
                let differences = Differences::between(old, new);
                differences.key("leads", |it| it.clone(), route).found
            }),
            Self::Port { edit, .. } => of_edit(edit, port),
        }
    }

    /// What becomes of the object, in one word.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Cores { .. } | Self::Memory { .. } | Self::Metrics { .. } | Self::Api { .. } => {
                "changed"
            }
            Self::Uplink(_) if self.impact() == Impact::RestartsUplink => "reopened",
            Self::Uplink(edit) => verb(edit),
            Self::Tunnel(edit) => verb(edit),
            Self::Peer(change) => verb(&change.edit),
            Self::Network(edit) => verb(edit),
            Self::Route { edit, .. } => verb(edit),
            Self::Port { .. } if self.impact() == Impact::ReopensPort => "reopened",
            Self::Port { edit, .. } => verb(edit),
        }
    }

    /// What of it needs a restart, key by key.
    #[must_use]
    pub fn fixed(&self) -> Vec<String> {
        if self.impact() != Impact::NeedsRestart {
            return Vec::new();
        }
        let (object, keys) = (self.object(), self.differences());
        // The rest of `memory` is read when DPDK starts.
        let is_read_later = matches!(self, Self::Memory { is_taken, .. } if !is_taken);
        let is_fixed = |key: &&Difference| !is_read_later || key.key == "mtu_max";
        let keys = keys.iter().filter(is_fixed);
        keys.map(|key| format!("{object}.{key}")).collect()
    }

    /// What is done, in one line: the object, what becomes of it, the old and new value of each key that differs.
    #[must_use]
    pub fn line(&self) -> String {
        let differences = self.differences();
        let texts: Vec<_> = differences.iter().map(ToString::to_string).collect();
        let texts = if texts.is_empty() {
            String::new()
        } else {
            format!(" ({})", texts.join("; "))
        };
        format!("{} {}{texts}", self.object(), self.action())
    }
}
