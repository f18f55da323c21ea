//! What `show` prints, gathered.
//!
//! In: counters and states of everything. Out: one `State`. Never: a secret, a change.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use culvert_dataplane::{
    host::{HostStack, NeighborState},
    shared::{drops::Drops, snapshot::Guest},
    worker::WorkerStats,
};
use culvert_vhost::{Obstacle, PortDrop, PortStatus, RingCounters};
use culvert_wireguard::{Instant, Now, PeerStatus};

use super::{
    Engine, peers::PeerState, places::SILENT_AFTER, uplinks::UplinkState, workers::Workers,
};
use crate::{
    config::{self, PortDriver, UplinkDriver},
    state::{Core, Drop, Neighbor, Peer, Port, Route, State, Traffic, Tunnel, Uplink},
};

/// Virtio feature bits worth showing (virtio 1.2, sections 5.1.3 and 6).
const FEATURES: [(u32, &str); 20] = [
    (0, "CSUM"),
    (1, "GUEST_CSUM"),
    (3, "MTU"),
    (5, "MAC"),
    (7, "GUEST_TSO4"),
    (8, "GUEST_TSO6"),
    (9, "GUEST_ECN"),
    (11, "HOST_TSO4"),
    (12, "HOST_TSO6"),
    (13, "HOST_ECN"),
    (15, "MRG_RXBUF"),
    (16, "STATUS"),
    (17, "CTRL_VQ"),
    (22, "MQ"),
    (28, "INDIRECT_DESC"),
    (29, "EVENT_IDX"),
    (34, "RING_PACKED"),
    (35, "IN_ORDER"),
    (54, "GUEST_USO4"),
    (56, "HOST_USO"),
];

/// The workers' load over the last second or so.
pub(super) struct Meters {
    last: Vec<(u64, u64)>,
    busy: Vec<f64>,
    read: Instant,
}

impl Meters {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            last: vec![(0, 0); workers],
            busy: vec![0.0; workers],
            read: Instant::default(),
        }
    }

    /// Takes a reading.
    #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
    pub(super) fn read(&mut self, workers: &Workers, now: Instant) {
        self.read = now;
        for (slot, worker) in workers.0.iter().enumerate() {
            let stats = &worker.stats;
            let busy = stats.busy_nanos.load(Ordering::Relaxed);
            let total = busy
                + stats.idle_nanos.load(Ordering::Relaxed)
                + stats.sleep_nanos.load(Ordering::Relaxed);
            let (busy_before, total_before) = self.last[slot];
            let span = total.saturating_sub(total_before);
            if span > 0 {
                self.busy[slot] = busy.saturating_sub(busy_before) as f64 / span as f64;
            }
            self.last[slot] = (busy, total);
        }
    }
}

impl Engine {
    /// The state of everything.
    pub(super) fn report(&self, now: Now) -> State {
        let mut state = State {
            node: self.desired.file().node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            config: self.desired.file().source.display().to_string(),
            generation: self.generation,
            uptime_s: now.monotonic.since(self.started).as_secs(),
            ports: self.report_ports(),
            uplinks: self.report_uplinks(),
            tunnels: self.report_tunnels(),
            peers: self.report_peers(now),
            routes: self.report_routes(),
            neighbors: self.report_neighbors(now.monotonic),
            cores: self.report_cores(),
            drops: Vec::new(),
            log: crate::process::log::missing(),
        };
        state.drops = all_drops(&state);
        state
    }

    fn report_ports(&self) -> Vec<Port> {
        let port = |config: &config::Port| {
            let down = self
                .down
                .iter()
                .find(|down| down.config.name == config.name);
            let (socket, driver) = match &config.driver {
                PortDriver::VhostUser(vhost) => (
                    vhost.socket.resolve(&self.run_dir).display().to_string(),
                    "vhost-user",
                ),
                PortDriver::Tun { interface } => (interface.clone(), "tun"),
                PortDriver::Tap { interface } => (interface.clone(), "tap"),
            };
            if let Some(down) = down {
                return Some(Port {
                    name: config.name.to_string(),
                    network: config.network.to_string(),
                    driver: driver.into(),
                    socket,
                    mac: config.mac.to_string(),
                    mtu: config.mtu,
                    queues_max: config.queues,
                    hindrance: Some(format!("not open: {}", down.error)),
                    ..Port::default()
                });
            }
            let port = self.ports.named(&config.name)?;
            let queues = || 0..config.queues;
            let mut drops = named(&port.drops);
            let (mut rx, mut tx) = (Traffic::default(), Traffic::default());
            match &port.guest {
                Guest::Vhost(guest) => {
                    for queue in queues() {
                        add_ring_drops(&mut drops, guest.guest_tx(queue).counters());
                        add_ring_drops(&mut drops, guest.guest_rx(queue).counters());
                    }
                    rx = ring_traffic(queues().map(|q| guest.guest_tx(q).counters()));
                    tx = ring_traffic(queues().map(|q| guest.guest_rx(q).counters()));
                }
                Guest::Tun(tun) => {
                    for (from, to) in queues().filter_map(|q| tun.traffic(q)) {
                        for (sum, part) in [(&mut rx, from), (&mut tx, to)] {
                            sum.packets += part.frames();
                            sum.bytes += part.bytes();
                        }
                    }
                }
            }
            // What the session says itself: news of it may have been lost.
            let status = port.guest.vhost().map(|guest| guest.status());
            let (connected, link_up, features, queues) = match &status {
                Some(vhost) => (
                    vhost.is_connected,
                    vhost.queue_pairs > 0,
                    vhost.features,
                    vhost.queue_pairs,
                ),
                None => (port.connected, port.link_up, port.features, port.queues),
            };
            Some(Port {
                name: config.name.to_string(),
                network: config.network.to_string(),
                driver: driver.into(),
                socket,
                connected,
                link_up,
                hindrance: status.and_then(hindrance),
                features: FEATURES
                    .iter()
                    .filter(|(bit, _)| link_up && features >> bit & 1 == 1)
                    .map(|&(_, name)| name.to_owned())
                    .collect(),
                queues,
                queues_max: config.queues,
                mac: config.mac.to_string(),
                mtu: port.interface.as_ref().map_or(config.mtu, |interface| {
                    u16::try_from(interface.mtu).unwrap_or(u16::MAX)
                }),
                rx,
                tx,
                drops,
            })
        };
        self.desired.file().ports.iter().filter_map(port).collect()
    }

    fn report_uplinks(&self) -> Vec<Uplink> {
        let uplink = |(slot, uplink): (usize, &UplinkState)| {
            let config = &uplink.config;
            let counters = &uplink.counters;
            let mut drops = named(&counters.drops);
            for (_, tunnel) in self
                .tunnels
                .iter()
                .filter(|(_, tunnel)| tunnel.uplink == slot)
            {
                for (name, count) in &tunnel.drops {
                    *drops.entry((*name).to_owned()).or_default() += count;
                }
            }
            for (name, count) in self.host(uplink).into_iter().flat_map(HostStack::drops) {
                drops.insert(format!("host-{name}"), count);
            }
            let (driver, device) = match &config.driver {
                UplinkDriver::Dpdk(dpdk) => ("dpdk", dpdk.device.devargs()),
                UplinkDriver::Udp(udp) => ("udp", udp.device.clone().unwrap_or_default()),
            };
            Uplink {
                name: config.name.to_string(),
                driver: driver.into(),
                device,
                link_up: uplink.link_up.unwrap_or(true),
                speed_mbps: uplink.speed_mbps,
                addresses: config.addresses.iter().map(ToString::to_string).collect(),
                mtu: config.mtu,
                queues: config.queues,
                rx: Traffic {
                    packets: counters.rx_packets.load(Ordering::Relaxed),
                    bytes: counters.rx_bytes.load(Ordering::Relaxed),
                },
                tx: Traffic {
                    packets: counters.tx_packets.load(Ordering::Relaxed),
                    bytes: counters.tx_bytes.load(Ordering::Relaxed),
                },
                drops,
            }
        };
        self.uplinks.iter().map(uplink).collect()
    }

    fn report_tunnels(&self) -> Vec<Tunnel> {
        let tunnel = |config: &config::Tunnel| {
            let state = self.tunnel_slot(&config.name);
            let state = state.and_then(|slot| self.tunnels.get(slot))?;
            let config = &state.config;
            Some(Tunnel {
                name: config.name.to_string(),
                uplink: config.uplink.to_string(),
                public_key: state.device.public_key().map(|key| key.to_base64()),
                listen_port: config.listen_port,
                fwmark: config.fwmark,
                mtu: config.mtu,
                peers: state.peers.len(),
                uapi: state
                    .served
                    .as_ref()
                    .map(|(_, served)| served.display().to_string()),
                uapi_hindrance: state.unserved.clone(),
                drift: match self.lone {
                    true => Vec::new(),
                    false => self.desired.tunnel_drift(&config.name),
                },
            })
        };
        self.desired
            .file()
            .tunnels
            .iter()
            .filter_map(tunnel)
            .collect()
    }

    fn report_peers(&self, now: Now) -> Vec<Peer> {
        let mut peers = Vec::new();
        for tunnel in &self.desired.file().tunnels {
            let slot = self.tunnel_slot(&tunnel.name);
            let Some(state) = slot.and_then(|slot| self.tunnels.get(slot)) else {
                continue;
            };
            for config in self.desired.peers(&tunnel.name) {
                let place = state.place(&config.public_key);
                if let Some(peer) = place.and_then(|place| self.peers.get(place))
                    && let Some(status) = state.device.peer(peer.cell.id)
                {
                    let mut told = report_peer(tunnel.name.to_string(), peer, &status, now);
                    if !self.lone {
                        told.drift = self.desired.peer_drift(&tunnel.name, &config.public_key);
                    }
                    peers.push(told);
                }
            }
        }
        peers
    }

    fn report_routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        for network in &self.desired.file().networks {
            let table = format!("network {}", network.name);
            let mut add = |to: String, next_hop: String, source: &str| {
                routes.push(Route {
                    table: table.clone(),
                    to,
                    next_hop,
                    source: source.into(),
                });
            };
            for gateway in &network.gateways {
                add(gateway.trunc().to_string(), "on-link".into(), "gateway");
            }
            let tunnel = network.tunnel.as_ref();
            for (name, peer) in tunnel.into_iter().flat_map(|name| {
                let peers = self.desired.peers(name);
                peers.map(move |peer| (name, peer))
            }) {
                for net in &peer.allowed_ips {
                    add(
                        net.to_string(),
                        format!("peer {} ({name})", peer.name),
                        "allowed-ips",
                    );
                }
            }
            for route in &network.routes {
                let next_hop = match &route.next_hop {
                    config::NextHop::Peer(peer) => format!("peer {peer}"),
                    config::NextHop::Guest(address) => format!("via {address}"),
                    config::NextHop::Unreachable => "unreachable".into(),
                };
                add(route.to.to_string(), next_hop, "config");
            }
        }
        for (_, uplink) in self.uplinks.iter() {
            let table = format!("uplink {}", uplink.config.name);
            for net in &uplink.config.addresses {
                routes.push(Route {
                    table: table.clone(),
                    to: net.trunc().to_string(),
                    next_hop: "on-link".into(),
                    source: "config".into(),
                });
            }
            for route in &uplink.config.routes {
                routes.push(Route {
                    table: table.clone(),
                    to: route.to.to_string(),
                    next_hop: format!("via {}", route.via),
                    source: "config".into(),
                });
            }
        }
        routes
    }

    fn host(&self, uplink: &UplinkState) -> Option<&HostStack> {
        self.hosts.get(uplink.scope()?)
    }

    fn report_neighbors(&self, now: Instant) -> Vec<Neighbor> {
        let mut neighbors = Vec::new();
        for (_, uplink) in self.uplinks.iter() {
            let Some(host) = self.host(uplink) else {
                continue;
            };
            neighbors.extend(host.neighbors().map(|neighbor| {
                Neighbor {
                    place: format!("uplink {}", uplink.config.name),
                    address: neighbor.address,
                    mac: neighbor.mac.map(|mac| mac.to_string()),
                    state: match neighbor.state {
                        NeighborState::Incomplete => "incomplete",
                        NeighborState::Reachable => "reachable",
                        NeighborState::Stale => "stale",
                        NeighborState::Probing => "probing",
                        NeighborState::Failed => "failed",
                    }
                    .into(),
                    age_s: neighbor.confirmed.map(|at| now.since(at).as_secs()),
                    port: None,
                }
            }));
        }
        for (_, port) in self.ports.iter() {
            neighbors.extend(port.config.addresses.iter().map(|&address| Neighbor {
                place: format!("network {}", port.config.network),
                address,
                mac: Some(port.config.mac.to_string()),
                state: "static".into(),
                age_s: None,
                port: Some(port.config.name.to_string()),
            }));
        }
        neighbors
    }

    fn report_cores(&self) -> Vec<Core> {
        let core = |(index, worker): (usize, &super::workers::WorkerHandle)| {
            let stats: &WorkerStats = &worker.stats;
            let guests = self.ports.iter().flat_map(|(_, port)| {
                let owners = port.config.queue_workers.iter().enumerate();
                owners
                    .filter(move |(_, owner)| usize::from(owner.0) == index)
                    .map(|(queue, _)| format!("{}:{queue}", port.config.name))
            });
            let uplinks = self
                .uplinks
                .iter()
                .map(|(_, uplink)| format!("{}:{index}", uplink.config.name));
            Core {
                name: format!("worker {index}"),
                cpu: worker.cpu.map(|cpu| cpu.0),
                busy: self.meters.busy.get(index).copied().unwrap_or(0.0),
                bursts: stats.busy_turns.load(Ordering::Relaxed),
                packets: stats.guest_frames.load(Ordering::Relaxed)
                    + stats.datagrams.load(Ordering::Relaxed),
                sleeps: stats.sleeps.load(Ordering::Relaxed),
                queues: guests.chain(uplinks).collect(),
            }
        };
        let control = Core {
            name: "control".into(),
            cpu: self.desired.file().cores.control.map(|cpu| cpu.0),
            // It sleeps between its rounds.
            sleeps: self.rounds,
            ..Core::default()
        };
        let workers = self.workers.0.iter().enumerate().map(core);
        std::iter::once(control).chain(workers).collect()
    }
}

fn report_peer(tunnel: String, peer: &PeerState, status: &PeerStatus<'_>, now: Now) -> Peer {
    let traffic = &peer.cell.traffic;
    let sendable = peer
        .cell
        .keypair()
        .as_ref()
        .map(|k| k.sendable(now.monotonic).is_ok());
    let at = status.last_handshake;
    Peer {
        tunnel,
        name: peer.config.name.to_string(),
        public_key: peer.config.public_key.to_base64(),
        preshared_key: peer.config.preshared_key.is_some(),
        endpoint: status.endpoint,
        allowed_ips: peer
            .config
            .allowed_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        last_handshake_unix: at.map(|at| at.as_secs()),
        last_handshake_age_s: at.map(|at| now.unix.saturating_sub(at).as_secs()),
        keypair: match sendable {
            Some(true) => "current",
            Some(false) => "expired",
            None => "none",
        }
        .into(),
        state: match (status.unanswered, sendable, status.endpoint) {
            (SILENT_AFTER.., ..) => "silent",
            (_, Some(true), _) => "up",
            (1.., ..) => "calling",
            (0, _, None) => "unknown",
            (0, _, Some(_)) => "idle",
        }
        .into(),
        unanswered: status.unanswered,
        persistent_keepalive_s: peer.config.persistent_keepalive,
        rx: Traffic {
            packets: traffic.rx_packets.load(Ordering::Relaxed),
            bytes: traffic.rx_bytes.load(Ordering::Relaxed),
        },
        tx: Traffic {
            packets: traffic.tx_packets.load(Ordering::Relaxed),
            bytes: traffic.tx_bytes.load(Ordering::Relaxed),
        },
        staged: peer.cell.staged.load(Ordering::Relaxed),
        drops: named(&peer.cell.drops),
        drift: Vec::new(),
    }
}

/// What stands in the way of a guest, or of another, in a few words.
fn hindrance(status: PortStatus) -> Option<String> {
    let obstacle = status.obstacle.map(|obstacle| match obstacle {
        Obstacle::Broken(fault) => format!("{}: {}", obstacle.name(), fault.name()),
        Obstacle::MemoryNotShared | Obstacle::LegacyDriver => obstacle.name().to_owned(),
    });
    let another = status.another_waits.then(|| "another VMM waits".to_owned());
    match (obstacle, another) {
        (Some(obstacle), Some(another)) => Some(format!("{obstacle}; {another}")),
        (obstacle, another) => obstacle.or(another),
    }
}

fn named(drops: &Drops) -> BTreeMap<String, u64> {
    drops
        .iter()
        .map(|(reason, n)| (reason.name().to_owned(), n))
        .collect()
}

fn add_ring_drops(drops: &mut BTreeMap<String, u64>, counters: &RingCounters) {
    for reason in PortDrop::ALL {
        let count = counters.drops(reason);
        if count > 0 {
            *drops.entry(reason.name().replace('_', "-")).or_default() += count;
        }
    }
}

fn ring_traffic<'c>(rings: impl Iterator<Item = &'c RingCounters>) -> Traffic {
    rings.fold(Traffic::default(), |sum, ring| Traffic {
        packets: sum.packets + ring.frames(),
        bytes: sum.bytes + ring.bytes(),
    })
}

/// Every counter that is not zero, with its scope.
fn all_drops(state: &State) -> Vec<Drop> {
    let ports = state
        .ports
        .iter()
        .map(|p| (format!("port {}", p.name), &p.drops));
    let peers = state
        .peers
        .iter()
        .map(|p| (format!("peer {}/{}", p.tunnel, p.name), &p.drops));
    let uplinks = state
        .uplinks
        .iter()
        .map(|u| (format!("uplink {}", u.name), &u.drops));
    ports
        .chain(peers)
        .chain(uplinks)
        .flat_map(|(scope, drops)| {
            drops.iter().map(move |(reason, &packets)| Drop {
                scope: scope.clone(),
                reason: reason.clone(),
                packets,
            })
        })
        .collect()
}
