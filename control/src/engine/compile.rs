//! The snapshot compiler: from the configuration and what is open to what workers read.
//!
//! In: ports, networks, tunnels, peers, uplinks. Out: one immutable `Snapshot`. Never:
//! anything that can fail: what could has been opened before.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use culvert_dataplane::{
    shared::{
        ids::{AttachmentIndex, NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex},
        snapshot::{Attachment, Guard, Network, NextHop, Port, Snapshot, Tunnel},
    },
    uplink::Uplink,
};
use culvert_wire::{
    MacAddr,
    fib::{Fib, Prefix, Rank, Routes},
};
use ipnet::IpNet;

use super::Engine;
use crate::config::{self, NextHop as ConfigHop};

/// The largest inner packet that an uplink's rooms hold sealed.
const INNER_MAX: u16 = 9_168;

/// Which of a network's equal prefixes counts: that of the highest rank.
mod rank {
    use culvert_wire::fib::Rank;

    /// The gateway's prefixes.
    pub(super) const ON_LINK: Rank = 0;
    /// The peers' allowed IPs.
    pub(super) const PEER: Rank = 1;
    /// The operator's routes.
    pub(super) const ROUTE: Rank = 2;
    /// The ports' addresses.
    pub(super) const PORT: Rank = 3;
    /// The gateway's own address.
    pub(super) const GATEWAY: Rank = 4;
}

impl Engine {
    /// Compiles the present state of things as snapshot `generation`. Of peers and prefixes it shares what did not
    /// change with the snapshot before.
    pub(super) fn compile(&mut self, generation: u64) -> Snapshot {
        self.finish_routes();
        for (_, tunnel) in self.tunnels.iter_mut() {
            tunnel.finish(&self.peers);
        }
        self.assemble(generation)
    }

    fn assemble(&self, generation: u64) -> Snapshot {
        Snapshot {
            generation,
            ports: table(self.ports.places(), self.ports.iter(), |slot, port| {
                Some(Arc::new(compile_port(slot, port)))
            }),
            attachments: table(self.ports.places(), self.ports.iter(), |slot, port| {
                Some(Arc::new(self.compile_attachment(slot, port)?))
            }),
            networks: self
                .desired
                .file()
                .networks
                .iter()
                .map(|network| Some(self.compile_network(network)))
                .collect(),
            tunnels: table(self.tunnels.places(), self.tunnels.iter(), |_, tunnel| {
                Some(self.compile_tunnel(tunnel))
            }),
            peers: self.cells.clone(),
            uplinks: table(
                self.uplinks.places(),
                self.uplinks.iter(),
                |slot, uplink| Some(Arc::new(self.compile_uplink(slot, uplink))),
            ),
            workers: self.compile_workers(),
        }
    }

    /// What a port's guest is attached with: one per port, in the same place.
    fn compile_attachment(
        &self,
        slot: usize,
        port: &super::ports::PortState,
    ) -> Option<Attachment> {
        let config = &port.config;
        Some(Attachment {
            index: AttachmentIndex::from_slot(slot),
            port: PortIndex::from_slot(slot),
            network: self.network_index(&config.network)?,
            mac: MacAddr(config.mac.octets()),
            addresses: config.addresses.clone(),
            link_locals: Arc::clone(&port.link_locals),
            errors: Arc::clone(&port.errors),
            guard: match config.guard {
                config::Guard::Strict => Guard::Strict,
                config::Guard::Mac => Guard::Mac,
                config::Guard::Off => Guard::Off,
            },
        })
    }

    fn compile_network(&self, network: &config::Network) -> Network {
        let ports = || {
            let all = self.ports.iter();
            all.filter(|(_, port)| port.config.network == network.name)
        };
        let listeners = ports().filter(|(_, port)| !port.guest.is_ip_only());
        let listeners = listeners.count();
        let mut macs: Vec<_> = ports()
            .map(|(slot, port)| {
                (
                    MacAddr(port.config.mac.octets()),
                    AttachmentIndex::from_slot(slot),
                )
            })
            .collect();
        macs.sort_unstable_by_key(|&(mac, _)| mac);
        let tunnel = network
            .tunnel
            .as_ref()
            .and_then(|name| self.tunnel_slot(name));
        Network {
            name: network.name.to_string(),
            gateway_mac: MacAddr(network.gateway_mac.octets()),
            gateways: network.gateways.iter().map(IpNet::addr).collect(),
            prefixes: network
                .gateways
                .iter()
                .filter_map(|&net| prefix(net))
                .collect(),
            tunnel: tunnel.map(TunnelIndex::from_slot),
            macs,
            listeners,
            routes: self
                .routes_of
                .get(&network.name)
                .map_or_else(Fib::default, |routes| routes.finished().clone()),
            plain: self
                .plain_port(network)
                .map(|(slot, _)| AttachmentIndex::from_slot(slot)),
        }
    }

    /// The one port of a plain network.
    fn plain_port(&self, network: &config::Network) -> Option<(usize, &super::ports::PortState)> {
        self.ports
            .iter()
            .find(|(_, port)| network.is_plain() && port.config.network == network.name)
    }

    /// Builds the routes of networks anew whose ports, gateway or own routes changed.
    fn finish_routes(&mut self) {
        let file = Arc::clone(self.desired.file());
        let anew = std::mem::take(&mut self.unrouted_networks);
        if !anew.is_empty() {
            let all: HashSet<_> = file.networks.iter().map(|network| &network.name).collect();
            self.routes_of.retain(|name, _| all.contains(name));
        }
        for network in &file.networks {
            if anew.contains(&network.name) || !self.routes_of.contains_key(&network.name) {
                let tunnel = network.tunnel.as_ref();
                let tunnel = tunnel.and_then(|name| self.tunnel_slot(name));
                let routes = Routes::build(self.network_routes(network, tunnel));
                self.routes_of.insert(network.name.clone(), routes);
            }
        }
        self.routes_of.values_mut().for_each(Routes::finish);
    }

    /// Carries over to the routes of the network behind a tunnel that a peer's prefixes changed.
    pub(super) fn reroute(
        &mut self,
        tunnel: &config::Name,
        place: usize,
        old: &[IpNet],
        new: &[IpNet],
    ) {
        let network = self.desired.file().network_of_tunnel(tunnel);
        let Some(network) =
            network.filter(|network| !self.unrouted_networks.contains(&network.name))
        else {
            return;
        };
        let by_name = |route: &config::NetworkRoute| matches!(route.next_hop, ConfigHop::Peer(_));
        if network.routes.iter().any(by_name) {
            // They may lead elsewhere, too.
            self.unrouted_networks.insert(network.name.clone());
            return;
        }
        let Some(routes) = self.routes_of.get_mut(&network.name) else {
            return;
        };
        let next_hop = NextHop::Peer(PeerIndex::from_slot(place));
        let (gone, come) = apart(old, new);
        for prefix in gone {
            routes.unset(prefix, rank::PEER, next_hop);
        }
        for prefix in come {
            routes.set(prefix, rank::PEER, next_hop);
        }
    }

    /// A network's routes, with their ranks.
    pub(super) fn network_routes(
        &self,
        network: &config::Network,
        tunnel: Option<usize>,
    ) -> Vec<(Prefix, Rank, NextHop)> {
        let mut routes = Vec::new();
        let mut add = |net: IpNet, rank, next_hop| {
            routes.extend(prefix(net).map(|p| (p, rank, next_hop)));
        };
        for gateway in &network.gateways {
            add(gateway.trunc(), rank::ON_LINK, NextHop::Unreachable);
        }
        let state = tunnel.and_then(|slot| self.tunnels.get(slot));
        for &slot in state.into_iter().flat_map(|tunnel| tunnel.peers.values()) {
            let peer = self.peers.get(slot);
            for net in peer.into_iter().flat_map(|peer| &peer.config.allowed_ips) {
                add(*net, rank::PEER, NextHop::Peer(PeerIndex::from_slot(slot)));
            }
        }
        if network.is_plain() {
            return routes;
        }
        let ports = || {
            self.ports
                .iter()
                .filter(|(_, p)| p.config.network == network.name)
        };
        let guest = |address: IpAddr| {
            ports()
                .find(|(_, port)| port.config.addresses.contains(&address))
                .map(|(slot, _)| NextHop::Guest(AttachmentIndex::from_slot(slot)))
        };
        for route in &network.routes {
            let next_hop = match &route.next_hop {
                ConfigHop::Peer(name) => state
                    .and_then(|tunnel| tunnel.named(name))
                    .map(|slot| NextHop::Peer(PeerIndex::from_slot(slot))),
                ConfigHop::Guest(address) => guest(*address),
                ConfigHop::Unreachable => None,
            };
            add(
                route.to,
                rank::ROUTE,
                next_hop.unwrap_or(NextHop::Unreachable),
            );
        }
        for (slot, port) in ports() {
            for &address in &port.config.addresses {
                add(
                    IpNet::from(address),
                    rank::PORT,
                    NextHop::Guest(AttachmentIndex::from_slot(slot)),
                );
            }
        }
        for gateway in &network.gateways {
            add(IpNet::from(gateway.addr()), rank::GATEWAY, NextHop::Gateway);
        }
        routes
    }

    fn compile_tunnel(&self, tunnel: &super::tunnels::TunnelState) -> Tunnel {
        let network = self.desired.file().network_of_tunnel(&tunnel.name);
        Tunnel {
            name: tunnel.name.to_string(),
            mtu: self.tunnel_mtu(&tunnel.config, network),
            network: network.and_then(|network| self.network_index(&network.name)),
            allowed: tunnel.allowed().clone(),
            mac1: tunnel.device.mac1(),
            sessions: Arc::clone(&tunnel.sessions),
        }
    }

    /// A tunnel's MTU: of a plain network it is what its interface has now, as with the
    /// kernel's WireGuard interfaces.
    fn tunnel_mtu(&self, tunnel: &config::Tunnel, network: Option<&config::Network>) -> u16 {
        let interface = network
            .and_then(|network| self.plain_port(network))
            .and_then(|(_, port)| port.interface.as_ref());
        interface.map_or(tunnel.mtu, |interface| {
            u16::try_from(interface.mtu).map_or(INNER_MAX, |mtu| mtu.min(INNER_MAX))
        })
    }

    fn compile_uplink(&self, slot: usize, uplink: &super::uplinks::UplinkState) -> Uplink {
        let tunnels = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.uplink == slot)
            .map(|(index, tunnel)| (tunnel.config.listen_port, TunnelIndex::from_slot(index)))
            .collect();
        Uplink {
            index: UplinkIndex::from_slot(slot),
            name: uplink.config.name.to_string(),
            addresses: uplink.addresses(&self.hosts),
            tunnels,
            hop: Arc::clone(&uplink.hop),
            counters: Arc::clone(&uplink.counters),
        }
    }

    /// Which worker polls which guest ring.
    fn compile_workers(&self) -> Vec<Vec<(PortIndex, u16)>> {
        let mut workers = vec![Vec::new(); self.workers.count()];
        for (slot, port) in self.ports.iter() {
            for (queue, worker) in port.config.queue_workers.iter().enumerate() {
                let Ok(queue) = u16::try_from(queue) else {
                    continue;
                };
                if let Some(queues) = workers.get_mut(usize::from(worker.0)) {
                    queues.push((PortIndex::from_slot(slot), queue));
                }
            }
        }
        workers
    }

    fn network_index(&self, name: &config::Name) -> Option<NetworkIndex> {
        let place = self.desired.file().network_place(name)?;
        Some(NetworkIndex::from_slot(place))
    }
}

fn compile_port(slot: usize, port: &super::ports::PortState) -> Port {
    Port {
        index: PortIndex::from_slot(slot),
        name: port.config.name.to_string(),
        attachment: AttachmentIndex::from_slot(slot),
        guest: port.guest.clone(),
        queues: port.config.queues,
        drops: Arc::clone(&port.drops),
    }
}

/// A FIB prefix; host bits are cleared.
pub(super) fn prefix(net: IpNet) -> Option<Prefix> {
    Prefix::new(net.network(), net.prefix_len())
}

/// The prefixes that only the first of two sorted lists has, and those that only the second has.
pub(super) fn apart(old: &[IpNet], new: &[IpNet]) -> (Vec<Prefix>, Vec<Prefix>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => {
                gone.extend(old.next().and_then(|net| prefix(*net)));
            }
            (_, Some(_)) => come.extend(new.next().and_then(|net| prefix(*net))),
            (_, None) => return (gone, come),
        }
    }
}

fn table<'t, S: 't, T>(
    places: usize,
    items: impl Iterator<Item = (usize, &'t S)>,
    compile: impl Fn(usize, &'t S) -> Option<T>,
) -> Vec<Option<T>> {
    let mut table: Vec<Option<T>> = (0..places).map(|_| None).collect();
    for (slot, item) in items {
        table[slot] = compile(slot, item);
    }
    table
}
