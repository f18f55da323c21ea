//! A configuration as the text of a file.
//!
//! In: a [`Config`]. Out: YAML of which [`super::parse`] makes the same configuration; what holds anyway is left out.
//! Never: a key that is secret: the files that hold them are named.

mod parts;

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_saphyr::FlowSeq;

use super::build::derived_queue_workers;
use super::limits::{
    self, API_PORT, MEGABYTES_DEFAULT, METRICS_PORT, PERMISSIONS_DEFAULT, RING_DEFAULT,
};
use super::{
    Api, ApiSocket, ApiTls, Attachment, Bfd, Config, Cores, Dhcp, Door, Guard, Hugepages, Labels,
    MacAddr, Memory, Metrics, Network, NetworkRoute, NextHop, Offloads, Peer, Pmtu, Poll, Port,
    PortDriver, Ra, SocketMode, SocketPath, Tunnel, Uapi, Uplink, UplinkDriver, VhostUserPort,
    WorkerIndex,
};
pub(crate) use parts::{First, Part, parts};

/// The text of a file that says the same. Keys that lie in no file, for `wg` has set them, are named in comments ahead
/// of it.
#[must_use]
pub fn to_yaml(config: &Config) -> String {
    parts(config).iter().map(Part::text).collect()
}

fn yaml(map: &Map) -> String {
    let options =
        serde_saphyr::ser_options! { prefer_block_scalars: false, compact_list_indent: false };
    serde_saphyr::to_string_with_options(map, options)
        .expect("maps of texts and numbers are written to memory: nothing of that fails")
}

/// The keys that make a port, as [`super::object`] takes them; which worker serves which queue is written out.
pub(super) fn port_keys(it: &Port, is_plain: bool) -> super::object::Keys {
    json(port(it, is_plain, &[]))
}

/// The keys that make a peer, but for a preshared key.
pub(super) fn peer_keys(it: &Peer) -> super::object::Keys {
    let mut keys = json(peer(it, None));
    keys.remove("preshared_key_file");
    keys
}

fn json(map: Map) -> super::object::Keys {
    let keys = map.0.into_iter();
    keys.map(|(key, value)| (key, value.into())).collect()
}

impl From<Yaml> for serde_json::Value {
    fn from(value: Yaml) -> Self {
        match value {
            Yaml::Text(text) => Self::String(text),
            Yaml::Number(number) => number.into(),
            Yaml::Bool(truth) => truth.into(),
            Yaml::List(items) => items.into_iter().map(Self::from).collect(),
            Yaml::Tables(items) => items.into_iter().map(json).map(Self::Object).collect(),
            Yaml::Map(map) => Self::Object(json(map)),
        }
    }
}

/// Keys that can't be told where they came from.
fn missing_keys(config: &Config) -> impl Iterator<Item = String> {
    config.tunnels.iter().flat_map(|tunnel| {
        let is_missing = tunnel.private_key.is_some() && tunnel.private_key_file == Path::new("");
        let own = is_missing.then(|| format!("the private key of tunnel {}", tunnel.name));
        let peers = tunnel.peers.iter();
        let peers =
            peers.filter(|it| it.preshared_key.is_some() && it.preshared_key_file.is_none());
        let name =
            |peer: &Arc<Peer>| format!("the preshared key of peer {}/{}", tunnel.name, peer.name);
        own.into_iter().chain(peers.map(name))
    })
}

/// A value of the file.
enum Yaml {
    Text(String),
    Number(u32),
    Bool(bool),
    /// On one line.
    List(Vec<Yaml>),
    /// An item to a line.
    Tables(Vec<Map>),
    Map(Map),
}

impl Serialize for Yaml {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u32(*number),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::List(items) => FlowSeq(items).serialize(serializer),
            Self::Tables(items) => items.serialize(serializer),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

/// Keys with their values, in order.
#[derive(Default)]
struct Map(Vec<(String, Yaml)>);

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Map {
    fn put(mut self, key: &str, value: Yaml) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    fn text(self, key: &str, value: impl Display) -> Self {
        self.put(key, Yaml::Text(value.to_string()))
    }

    fn number(self, key: &str, value: impl Into<u32>) -> Self {
        self.put(key, Yaml::Number(value.into()))
    }

    /// Unless it is what holds anyway.
    fn number_but(self, key: &str, value: impl Into<u32>, default: impl Into<u32>) -> Self {
        let (value, default) = (value.into(), default.into());
        match value == default {
            true => self,
            false => self.number(key, value),
        }
    }

    /// Unless it is what holds anyway.
    fn bool_but(self, key: &str, value: bool, default: bool) -> Self {
        match value == default {
            true => self,
            false => self.put(key, Yaml::Bool(value)),
        }
    }

    /// If there is one.
    fn maybe(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// Unless it is empty.
    fn list<T: Display>(self, key: &str, values: &[T]) -> Self {
        if values.is_empty() {
            return self;
        }
        let texts = values.iter().map(|value| Yaml::Text(value.to_string()));
        self.put(key, Yaml::List(texts.collect()))
    }

    /// Unless it is empty.
    fn tables(self, key: &str, tables: Vec<Self>) -> Self {
        match tables.is_empty() {
            true => self,
            false => self.put(key, Yaml::Tables(tables)),
        }
    }

    /// Unless it is empty.
    fn map(self, key: &str, map: Self) -> Self {
        match map.0.is_empty() {
            true => self,
            false => self.put(key, Yaml::Map(map)),
        }
    }

    fn pmtu(self, pmtu: Option<Pmtu>) -> Self {
        match pmtu {
            Some(Pmtu::Fixed(mtu)) => self.number("pmtu", mtu.get()),
            Some(Pmtu::Off | Pmtu::Probe) | None => self.maybe("pmtu", pmtu),
        }
    }

    /// What is off unless it is written.
    fn switched(self, key: &'static str, on: bool) -> Self {
        match on {
            true => self.put(key, Yaml::Bool(true)),
            false => self,
        }
    }

    fn nameservers(self, servers: Option<&[IpAddr]>) -> Self {
        let Some(servers) = servers else { return self };
        let texts = servers.iter().map(|it| Yaml::Text(it.to_string()));
        let map = Self::default().put("addresses", Yaml::List(texts.collect()));
        self.map("nameservers", map)
    }

    fn bfd(self, bfd: Option<&Bfd>) -> Self {
        let Some(bfd) = bfd else { return self };
        let interval = (bfd.interval_ms != limits::BFD_INTERVAL).then_some(bfd.interval_ms);
        let map = Self::default()
            .text("peer", bfd.peer)
            .maybe("interval", interval.map(|millis| format!("{millis}ms")))
            .number_but("multiplier", bfd.multiplier, limits::BFD_MULTIPLIER);
        self.map("bfd", map)
    }

    fn enabled(self, enabled: bool) -> Self {
        match enabled {
            true => self,
            false => self.put("enabled", Yaml::Bool(false)),
        }
    }

    fn labels(self, labels: &Labels) -> Self {
        let all = labels.iter();
        let all = all.fold(Self::default(), |map, (key, value)| map.text(key, value));
        self.map("labels", all)
    }

    fn workers(self, key: &str, workers: &[WorkerIndex], derived: &[WorkerIndex]) -> Self {
        if workers == derived {
            return self;
        }
        let numbers = workers.iter().map(|it| Yaml::Number(it.0.into()));
        self.put(key, Yaml::List(numbers.collect()))
    }
}

/// Maps under their names.
fn named(items: impl IntoIterator<Item = (String, Map)>) -> Map {
    let items = items.into_iter();
    Map(items.map(|(name, map)| (name, Yaml::Map(map))).collect())
}

/// What stands ahead of tunnels, networks and ports.
fn top(config: &Config) -> Map {
    let workers = config.cores.workers.len();
    let uplinks = config.uplinks.iter();
    let uplinks = uplinks.map(|it| (it.name.to_string(), uplink(it, workers)));
    Map::default()
        .number("version", 1_u32)
        .text("node", &config.node)
        .map("cores", cores(&config.cores))
        .map("memory", memory(config.memory))
        .map("metrics", metrics(&config.metrics))
        .map("api", api(&config.api))
        .map("uplinks", named(uplinks))
}

fn cores(cores: &Cores) -> Map {
    let control = cores.control.map(|cpu| cpu.0);
    let pinned: Vec<_> = cores.workers.iter().filter_map(|it| it.cpu).collect();
    let map = Map::default();
    let map = match control {
        Some(cpu) => map.number("control", cpu),
        None => map,
    };
    let map = match (pinned.is_empty(), u32::try_from(cores.workers.len())) {
        (true, Ok(count)) => map.number_but("workers", count, 1_u32),
        _ => {
            let cpus = pinned.iter().map(|cpu| Yaml::Number(cpu.0.into()));
            map.put("workers", Yaml::List(cpus.collect()))
        }
    };
    map.maybe("poll", (cores.poll == Poll::Busy).then_some("busy"))
}

fn memory(memory: Memory) -> Map {
    let hugepages = match memory.hugepages {
        Hugepages::Auto => None,
        Hugepages::Required => Some("required"),
        Hugepages::Off => Some("off"),
    };
    let map = Map::default().maybe("hugepages", hugepages).number_but(
        "megabytes",
        memory.megabytes,
        MEGABYTES_DEFAULT,
    );
    match memory.mtu_max {
        Some(mtu) => map.number("mtu_max", mtu),
        None => map,
    }
}

fn metrics(metrics: &Metrics) -> Map {
    let default = Metrics::default();
    let map = Map::default().maybe("listen", metrics.listen);
    let map = match metrics.wireguard_exporter {
        true => map.put("wireguard_exporter", Yaml::Bool(true)),
        false => map,
    };
    map.number_but(
        "wireguard_exporter_peers",
        metrics.wireguard_exporter_peers,
        default.wireguard_exporter_peers,
    )
    .list("labels", &metrics.labels)
}

fn api(api: &Api) -> Map {
    let default = Api::default();
    let map = Map::default()
        .map("socket", api_socket(&api.socket, &default.socket))
        .map(
            "readers",
            Map::default().maybe("group", api.readers.as_ref()),
        );
    let map = match &api.tls {
        Some(tls) => map.maybe("listen", tls.listen).map("tls", api_tls(tls)),
        None => map,
    };
    let keys = Some(&api.key_directory).filter(|path| **path != default.key_directory);
    map.number_but("body_megabytes", api.body_megabytes, default.body_megabytes)
        .maybe("key_directory", keys.map(|path| path.display()))
}

fn api_socket(socket: &ApiSocket, default: &ApiSocket) -> Map {
    let bits = socket.permissions;
    let bits = (bits != default.permissions).then(|| format!("{bits:04o}"));
    Map::default()
        .maybe("owner", socket.owner.as_ref())
        .maybe("group", socket.group.as_ref())
        .maybe("mode", bits)
}

fn api_tls(tls: &ApiTls) -> Map {
    let roles = tls.roles.iter();
    let roles = roles.map(|(name, role)| (name.clone(), Yaml::Text(role.name().into())));
    Map::default()
        .text("certificate", tls.certificate.display())
        .text("key", tls.key.display())
        .text("client_ca", tls.client_ca.display())
        .put("roles", Yaml::Map(Map(roles.collect())))
}

fn uplink(uplink: &Uplink, workers: usize) -> Map {
    let map = Map::default();
    let map = match &uplink.driver {
        UplinkDriver::Dpdk(dpdk) => {
            let exception = dpdk.exception.as_ref();
            let routes_from = exception.and_then(|it| it.routes_from);
            let members: Vec<_> = dpdk.members.iter().map(|it| it.devargs()).collect();
            map.text("driver", "dpdk")
                .text("device", dpdk.device.devargs())
                .list("members", &members)
                .number_but("rx_descriptors", dpdk.rx_descriptors, RING_DEFAULT)
                .number_but("tx_descriptors", dpdk.tx_descriptors, RING_DEFAULT)
                .maybe("exception", exception.map(|it| &it.interface))
                .maybe(
                    "routes_from",
                    routes_from.map(super::value::table_name).as_ref(),
                )
        }
        UplinkDriver::Udp(udp) => {
            let map = map
                .text("driver", "udp")
                .maybe("device", udp.device.as_ref());
            match udp.fwmark {
                Some(mark) => map.number("fwmark", mark),
                None => map,
            }
        }
    };
    let routes = uplink.routes.iter();
    let routes = routes.map(|it| {
        let map = Map::default().text("to", it.to).text("via", it.via);
        map.number_but("metric", it.metric, 0u32)
            .maybe("from", it.from)
    });
    let neighbors = uplink.neighbors.iter();
    let neighbors = neighbors.map(|it| {
        Map::default()
            .text("address", it.address)
            .text("mac", it.mac)
    });
    let queues = uplink.queues;
    let derived = derived_queue_workers(queues.into(), workers, &mut 0);
    map.list("addresses", &uplink.addresses)
        .bool_but("dhcp4", uplink.dhcp4, false)
        .bool_but("accept_ra", uplink.accept_ra, false)
        .tables("routes", routes.collect())
        .tables("neighbors", neighbors.collect())
        .nameservers(uplink.nameservers.as_deref())
        .number_but("mtu", uplink.mtu, limits::MTU_DEFAULT)
        .number_but("queues", queues, u32::try_from(workers).unwrap_or(0))
        .workers("queue_workers", &uplink.queue_workers, &derived)
        .bfd(uplink.bfd.as_ref())
        .enabled(uplink.enabled)
        .map("api", door(uplink.serves.api.as_ref(), API_PORT))
        .map(
            "metrics",
            door(uplink.serves.metrics.as_ref(), METRICS_PORT),
        )
        .map(
            "responder",
            Map::default().list("allow", &uplink.serves.responder),
        )
}

fn door(door: Option<&Door>, default: u16) -> Map {
    door.map_or_else(Map::default, |door| {
        let map = Map::default().list("allow", &door.allow);
        map.number_but("port", door.port, u32::from(default))
    })
}

/// A tunnel without its peers, which stand behind it.
fn tunnel(tunnel: &Tunnel, config: &Config) -> Map {
    let mark = match &config.uplink_of(tunnel).driver {
        UplinkDriver::Udp(udp) => udp.fwmark.unwrap_or(0),
        UplinkDriver::Dpdk(_) => 0,
    };
    let key_file = Some(&tunnel.private_key_file).filter(|path| *path != Path::new(""));
    let keys_file = tunnel.preshared_keys_file.as_deref();
    let outside = config.uplinks_of(tunnel).map(|uplink| uplink.mtu).min();
    let mtu = super::build::derived_tunnel_mtu(outside.unwrap_or_default().into());
    let map = match tunnel.backups.as_slice() {
        [] => Map::default().text("uplink", &tunnel.uplink),
        _ => Map::default().list("uplinks", &tunnel.uplinks().cloned().collect::<Vec<_>>()),
    };
    let map = map
        .number("listen_port", tunnel.listen_port)
        .maybe("private_key_file", key_file.map(|path| path.display()))
        .maybe("preshared_keys_file", keys_file.map(|path| path.display()))
        .number_but("mtu", tunnel.mtu, mtu)
        .pmtu(Some(tunnel.pmtu).filter(|pmtu| *pmtu != Pmtu::Off))
        .number_but("fwmark", tunnel.fwmark, mark);
    match &tunnel.uapi {
        Uapi::Auto => map,
        Uapi::Name(name) => map.text("uapi", name),
        Uapi::Off => map.put("uapi", Yaml::Bool(false)),
    }
}

/// Whose preshared key lies in the file of all names none of its own.
fn peer(peer: &Peer, keys_file: Option<&Path>) -> Map {
    let keepalive = peer
        .persistent_keepalive
        .map(|seconds| format!("{seconds}s"));
    let file = peer.preshared_key_file.as_deref();
    let file = file.filter(|file| keys_file != Some(*file));
    Map::default()
        .text("public_key", peer.public_key.to_base64())
        .maybe("preshared_key_file", file.map(|path| path.display()))
        .maybe("endpoint", peer.endpoint.as_ref())
        .list("allowed_ips", &peer.allowed_ips)
        .maybe("persistent_keepalive", keepalive)
        .pmtu(peer.pmtu)
        .maybe("probe", peer.probe)
        .enabled(peer.enabled)
        .labels(&peer.labels)
}

fn network(network: &Network, config: &Config) -> Map {
    let tunnel = network.tunnel.as_ref();
    let derived = tunnel.and_then(|name| config.tunnel(name));
    let derived = derived.map_or(limits::MTU_DEFAULT, |tunnel| tunnel.mtu.into());
    let mac = (network.gateway_mac != MacAddr::derived(network.name.as_str()))
        .then_some(network.gateway_mac);
    Map::default()
        .list("gateway", &network.gateways)
        .maybe("gateway_mac", mac)
        .maybe("tunnel", tunnel)
        .number_but("mtu", network.mtu, derived)
        .switched("mss_clamp", network.mss_clamp)
        .dhcp(network.dhcp.as_ref())
        .maybe("ra", own_ra(network))
        .tables("routes", network.routes.iter().map(route).collect())
}

fn own_ra(network: &Network) -> Option<&'static str> {
    let default = Ra::by(network.dhcp.as_ref());
    (network.ra != default).then(|| network.ra.name())
}

fn route(route: &NetworkRoute) -> Map {
    let map = Map::default().text("to", route.to);
    match &route.next_hop {
        NextHop::Peer(peer) => map.text("peer", peer),
        NextHop::Guest(address) => map.text("via", address),
        NextHop::Unreachable => map.put("unreachable", Yaml::Bool(true)),
    }
}

fn port(port: &Port, is_plain: bool, workers: &[WorkerIndex]) -> Map {
    let map = match &port.driver {
        PortDriver::VhostUser(at) => socket(at, port),
        PortDriver::Tun { interface } => kernel("tun", interface, port),
        PortDriver::Tap { interface } => kernel("tap", interface, port),
    };
    let derived = MacAddr::derived(port.name.as_str());
    let is_tun = matches!(port.driver, PortDriver::Tun { .. });
    let mac = (!is_tun || port.mac != derived).then_some(port.mac);
    let native = port.native();
    // Of a port without a network of its own VLANs have what holds anyway.
    let own = native.map_or((Guard::Strict, true), |it| (it.guard, it.dhcp));
    map.maybe("network", native.map(|it| &it.network))
        .vlans(port, own)
        .maybe("mac", mac)
        .list("addresses", native.map_or(&[], |it| &it.addresses))
        .maybe("guard", native.and_then(|it| guard(it.guard, is_plain)))
        .bool_but("dhcp", own.1, true)
        .number_but("queues", port.queues, 1_u32)
        .workers("queue_workers", &port.queue_workers, workers)
        .offloads(port.offloads)
        .enabled(port.enabled)
        .labels(&port.labels)
}

fn kernel(driver: &str, interface: &str, port: &Port) -> Map {
    let own = (interface != port.name.as_str()).then_some(interface);
    Map::default()
        .text("driver", driver)
        .maybe("interface", own)
}

fn socket(at: &VhostUserPort, port: &Port) -> Map {
    let path = match &at.socket {
        SocketPath::Absolute(path) | SocketPath::InRunDir(path) => path,
    };
    let derived = SocketPath::InRunDir(format!("{}.sock", port.name).into());
    let own = (at.socket != derived).then(|| path.display());
    let bits = (at.permissions != PERMISSIONS_DEFAULT).then(|| format!("{:04o}", at.permissions));
    let client = (at.mode == SocketMode::Client).then_some("client");
    Map::default()
        .maybe("socket", own)
        .maybe("socket_mode", client)
        .maybe("socket_owner", at.owner.as_ref())
        .maybe("socket_group", at.group.as_ref())
        .maybe("socket_permissions", bits)
}

fn guard(guard: Guard, plain: bool) -> Option<&'static str> {
    match (guard, plain) {
        (Guard::Strict, false) | (Guard::Off, true) => None,
        (Guard::Strict, true) => Some("strict"),
        (Guard::Mac, _) => Some("mac"),
        (Guard::Off, false) => Some("off"),
    }
}

/// A VLAN of a port whose guard and DHCP are those, unless it says others.
fn vlan(it: &Attachment, (guard, dhcp): (Guard, bool)) -> Yaml {
    let own = (it.guard != guard).then_some(match it.guard {
        Guard::Strict => "strict",
        Guard::Mac => "mac",
        Guard::Off => "off",
    });
    let map = Map::default()
        .text("network", &it.network)
        .list("addresses", &it.addresses)
        .maybe("guard", own)
        .bool_but("dhcp", it.dhcp, dhcp);
    match map.0.len() {
        1 => Yaml::Text(it.network.to_string()),
        _ => Yaml::Map(map),
    }
}

impl Map {
    fn vlans(self, port: &Port, own: (Guard, bool)) -> Self {
        let vlans = port.vlans();
        let vlans = vlans.map(|(number, it)| (number.to_string(), vlan(it, own)));
        match Self(vlans.collect()) {
            none if none.0.is_empty() => self,
            all => self.put("vlans", Yaml::Map(all)),
        }
    }

    fn dhcp(self, dhcp: Option<&Dhcp>) -> Self {
        let Some(dhcp) = dhcp else {
            return self.put("dhcp", Yaml::Bool(false));
        };
        if *dhcp == Dhcp::default() {
            return self;
        }
        let lease = (dhcp.lease != limits::LEASE_DEFAULT).then(|| format!("{}s", dhcp.lease));
        let map = Self::default()
            .list("dns", &dhcp.dns)
            .maybe("domain", dhcp.domain.as_ref())
            .maybe("lease", lease);
        self.map("dhcp", map)
    }

    fn offloads(self, offloads: Offloads) -> Self {
        if offloads == Offloads::ALL {
            return self;
        }
        if offloads == Offloads::NONE {
            return self.text("offloads", "none");
        }
        let map = offloads
            .each()
            .into_iter()
            .fold(Self::default(), |map, (key, on)| {
                map.put(key, Yaml::Bool(on))
            });
        self.map("offloads", map)
    }
}
