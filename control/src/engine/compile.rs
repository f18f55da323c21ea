//! The snapshot compiler: from the configuration and what is open to what workers read.
//!
//! In: ports, networks, tunnels, peers, uplinks, and which of them changed. Out: one immutable `Snapshot`, which shares
//! with the last one what did not. Never: anything that can fail: what could has been opened before; a look at what
//! did not change.
//!
//! 1. Ports with their attachments; networks lose and gain those.
//! 2. Networks: also those whose tunnels changed. What a network knows of its ports it has from the last snapshot.
//! 3. Tunnels: also those whose networks changed.
//! 4. Uplinks whose tunnels came, went or moved to another UDP port.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use culvert_dataplane::{
    shared::{
        ids::{AttachmentIndex, NetworkIndex, PortIndex, TunnelIndex, UplinkIndex},
        snapshot::{Attachment, Guard, GuestQueues, Network, Port, Snapshot, Tunnel},
    },
    uplink::Uplink,
};
use culvert_wire::MacAddr;
use ipnet::IpNet;

use super::{
    Engine,
    attachments::Generations,
    guests::services,
    networks::{Moves, prefix},
    ports::PortState,
    tunnels::TunnelState,
};
use crate::config;

/// The largest inner packet that an uplink's rooms hold sealed.
const INNER_MAX: u16 = 9_168;

/// The places of what is to be compiled.
pub(super) struct Changed {
    ports: BTreeSet<usize>,
    /// Of those ports: what they have and had.
    attachments: BTreeSet<usize>,
    networks: BTreeSet<usize>,
    tunnels: BTreeSet<usize>,
    uplinks: BTreeSet<usize>,
}

/// Who has which MAC address in a network.
pub(super) type Macs = Arc<[(MacAddr, AttachmentIndex)]>;

impl Engine {
    /// Compiles the present state of things as snapshot `generation`: the last one, with what changed since.
    pub(super) fn compile(&mut self, generation: u64) -> Snapshot {
        self.attachments.vacate(Generations {
            workers: self.workers.adopted(),
            stacks: self.netstack.adopted(),
        });
        let ports = self.ports.take_changed();
        let changed = Changed {
            attachments: self.seat_attachments(&ports),
            ports,
            networks: self.networks.table.take_changed(),
            tunnels: self.tunnels.take_changed(),
            uplinks: self.uplinks.take_changed(),
        };
        self.provide(&changed.attachments, &changed.networks);
        self.attachments.tell(Generations {
            workers: generation,
            stacks: self.netstack.generation(),
        });
        let last = self.snapshots.load_full();
        self.compile_upon(&last, changed, generation)
    }

    /// Has changed ports have a place for each of their attachments; answers those, and those of what went.
    fn seat_attachments(&mut self, ports: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut touched = BTreeSet::new();
        for &slot in ports {
            let attached = self.ports.get(slot).into_iter();
            let attached = attached.flat_map(|port| &port.config.attachments);
            let vlans = attached.map(|it| it.vlan);
            touched.extend(self.attachments.seat(slot, vlans));
        }
        touched
    }

    fn compile_upon(&mut self, last: &Snapshot, mut changed: Changed, generation: u64) -> Snapshot {
        let mut new = Snapshot {
            generation,
            peers: self.cells.clone(),
            ..last.clone()
        };
        self.compile_ports(&mut new, &changed.ports);
        let moves = self.compile_attachments(last, &mut new, &changed.attachments);
        changed.networks.extend(moves.keys());
        self.spread(last, &mut changed);
        for &slot in &changed.networks {
            let network = self.compile_network(slot, moves.get(&slot), last, &new);
            new.networks.set(slot, network.map(Arc::new));
        }
        for &slot in &changed.tunnels {
            let tunnel = self.compile_tunnel(slot, &new);
            new.tunnels.set(slot, tunnel.map(Arc::new));
        }
        self.spread_to_uplinks(last, &mut changed);
        self.compile_uplinks(&mut new, &changed.uplinks);
        new.workers = self.compile_workers(last, &changed.ports);
        new
    }

    /// A tunnel's snapshot tells of its network, and a network's of its tunnel.
    fn spread(&self, last: &Snapshot, changed: &mut Changed) {
        for &slot in &changed.tunnels {
            let before = last.tunnel(TunnelIndex::from_slot(slot));
            let before = before.and_then(|tunnel| tunnel.network);
            let now = self.tunnels.get(slot);
            let now = now.and_then(|tunnel| self.networks.behind(&tunnel.name));
            changed.networks.extend(before.map(NetworkIndex::slot));
            changed.networks.extend(now);
        }
        for &slot in &changed.networks {
            let before = last.network(NetworkIndex::from_slot(slot));
            let before = before.and_then(|network| network.tunnel);
            changed.tunnels.extend(before.map(TunnelIndex::slot));
            changed.tunnels.extend(self.tunnel_behind(slot));
        }
    }

    /// The place of a network's tunnel.
    fn tunnel_behind(&self, network: usize) -> Option<usize> {
        let network = self.networks.table.get(network)?;
        self.tunnels.place(network.config.tunnel.as_ref()?)
    }

    fn compile_ports(&self, new: &mut Snapshot, changed: &BTreeSet<usize>) {
        for &slot in changed {
            let port = self.ports.get(slot);
            let port = port.map(|port| Arc::new(self.compile_port(slot, port)));
            new.ports.set(slot, port);
        }
    }

    fn compile_port(&self, slot: usize, port: &PortState) -> Port {
        let attached = self.attachments.of(slot);
        let mut native = attached.clone().filter(|(vlan, _)| vlan.is_none());
        Port {
            index: PortIndex::from_slot(slot),
            name: port.config.name.to_string(),
            attachment: native.next().map(|(_, index)| index),
            vlans: attached
                .filter_map(|(vlan, index)| Some((vlan?, index)))
                .collect(),
            guest: port.guest.clone(),
            queues: port.config.queues,
            drops: Arc::clone(&port.drops),
        }
    }

    /// Compiles what guests are attached with. Answers what networks lose and gain by it.
    fn compile_attachments(
        &self,
        last: &Snapshot,
        new: &mut Snapshot,
        changed: &BTreeSet<usize>,
    ) -> BTreeMap<usize, Moves> {
        let mut moves: BTreeMap<usize, Moves> = BTreeMap::new();
        for &slot in changed {
            let attachment = self.compile_attachment(slot).map(Arc::new);
            if let Some(gone) = last.attachment(AttachmentIndex::from_slot(slot)) {
                let network = moves.entry(gone.network.slot()).or_default();
                network.gone.push(Arc::clone(gone));
            }
            if let Some(come) = &attachment {
                let network = moves.entry(come.network.slot()).or_default();
                network.come.push(Arc::clone(come));
            }
            new.attachments.set(slot, attachment);
        }
        moves
    }

    fn compile_attachment(&self, slot: usize) -> Option<Attachment> {
        let (port, vlan) = self.attachments.owner(slot)?;
        let state = self.ports.get(port)?;
        let (config, attached) = state.attached(vlan)?;
        let network = self.networks.table.place(&config.network)?;
        Some(Attachment {
            index: AttachmentIndex::from_slot(slot),
            port: PortIndex::from_slot(port),
            vlan,
            network: NetworkIndex::from_slot(network),
            mac: MacAddr(state.config.mac.octets()),
            addresses: config.addresses.clone(),
            link_locals: Arc::clone(&attached.link_locals),
            errors: Arc::clone(&attached.errors),
            questions: Arc::clone(&attached.questions),
            is_served: config.dhcp,
            guard: match config.guard {
                config::Guard::Strict => Guard::Strict,
                config::Guard::Mac => Guard::Mac,
                config::Guard::Off => Guard::Off,
            },
        })
    }

    fn compile_network(
        &mut self,
        slot: usize,
        moves: Option<&Moves>,
        last: &Snapshot,
        new: &Snapshot,
    ) -> Option<Network> {
        let before = last.network(NetworkIndex::from_slot(slot));
        let macs = macs(before, moves);
        self.route(slot, moves, &macs, new);
        let tunnel = self.tunnel_behind(slot);
        let state = self.networks.table.get(slot)?;
        let network = &state.config;
        Some(Network {
            name: network.name.to_string(),
            gateway_mac: MacAddr(network.gateway_mac.octets()),
            gateways: network.gateways.iter().map(IpNet::addr).collect(),
            prefixes: network
                .gateways
                .iter()
                .filter_map(|&net| prefix(net))
                .collect(),
            tunnel: tunnel.map(TunnelIndex::from_slot),
            listeners: listeners(before, moves, last, new),
            routes: state.routes.finished().clone(),
            plain: macs
                .iter()
                .map(|&(_, at)| at)
                .min()
                .filter(|_| network.is_plain()),
            services: services(network),
            macs,
        })
    }

    fn compile_tunnel(&mut self, slot: usize, new: &Snapshot) -> Option<Tunnel> {
        let tunnel = self.tunnels.get_mut(slot)?;
        tunnel.finish(&self.peers);
        let tunnel = self.tunnels.get(slot)?;
        let network = self.networks.behind(&tunnel.name);
        let network = network.map(NetworkIndex::from_slot);
        Some(Tunnel {
            name: tunnel.name.to_string(),
            mtu: self.tunnel_mtu(tunnel, network.and_then(|network| new.network(network))),
            mss_clamp: network
                .and_then(|network| self.networks.table.get(network.slot()))
                .is_some_and(|network| network.config.mss_clamp),
            network,
            allowed: tunnel.allowed().clone(),
            mac1: tunnel.device.mac1(),
            sessions: Arc::clone(&tunnel.sessions),
        })
    }

    /// A tunnel's MTU: of a plain network it is what its interface has now, as with the
    /// kernel's WireGuard interfaces.
    fn tunnel_mtu(&self, tunnel: &TunnelState, network: Option<&Network>) -> u16 {
        let interface = network
            .and_then(|network| self.attachments.owner(network.plain?.slot()))
            .and_then(|(port, _)| self.ports.get(port))
            .and_then(|port| port.interface.as_ref());
        interface.map_or(tunnel.config.mtu, |interface| {
            u16::try_from(interface.mtu).map_or(INNER_MAX, |mtu| mtu.min(INNER_MAX))
        })
    }

    /// An uplink tells which tunnel listens on which UDP port.
    fn spread_to_uplinks(&self, last: &Snapshot, changed: &mut Changed) {
        let is_known = |slot: usize| {
            let index = TunnelIndex::from_slot(slot);
            let Some(now) = self.tunnels.get(slot) else {
                return last.tunnel(index).is_none();
            };
            let uplinks = 0..self.uplinks.places();
            let hearing = uplinks.filter(|&uplink| {
                let uplink = last.uplink(UplinkIndex::from_slot(uplink));
                uplink.is_some_and(|uplink| uplink.hears(index))
            });
            let listens = |uplink: usize| {
                let uplink = last.uplink(UplinkIndex::from_slot(uplink));
                uplink.and_then(|uplink| uplink.tunnel(now.config.listen_port)) == Some(index)
            };
            hearing.count() == now.uplinks().count() && now.uplinks().all(listens)
        };
        if !changed.tunnels.iter().copied().all(is_known) {
            changed.uplinks.extend(0..self.uplinks.places());
        }
    }

    fn compile_uplinks(&self, new: &mut Snapshot, changed: &BTreeSet<usize>) {
        if changed.is_empty() {
            return;
        }
        let mut listening: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (slot, tunnel) in self.tunnels.iter() {
            let listener = (tunnel.config.listen_port, TunnelIndex::from_slot(slot));
            for uplink in tunnel.uplinks() {
                listening.entry(uplink).or_default().push(listener);
            }
        }
        for &slot in changed {
            let mut tunnels = listening.remove(&slot).unwrap_or_default();
            tunnels.sort_unstable();
            let uplink = self.uplinks.get(slot).map(|uplink| Uplink {
                index: UplinkIndex::from_slot(slot),
                name: uplink.config.name.to_string(),
                addresses: uplink.addresses(&self.netstack),
                tunnels,
                hop: Arc::clone(&uplink.hop),
                kernel: (uplink.kernel.as_ref()).map(|kernel| Arc::clone(&kernel.ports)),
                counters: Arc::clone(&uplink.counters),
            });
            new.uplinks.set(slot, uplink.map(Arc::new));
        }
    }

    /// Which worker polls which guest ring.
    fn compile_workers(&self, last: &Snapshot, changed: &BTreeSet<usize>) -> Vec<Arc<GuestQueues>> {
        let mut come = vec![Vec::new(); self.workers.count()];
        for &slot in changed {
            let port = self.ports.get(slot);
            let owners = port.map_or(&[][..], |port| &port.config.queue_workers);
            for (queue, worker) in (0..).zip(owners) {
                if let Some(queues) = come.get_mut(usize::from(worker.0)) {
                    queues.push((PortIndex::from_slot(slot), queue));
                }
            }
        }
        let queues = |(worker, mut queues): (usize, GuestQueues)| {
            let before = last.workers.get(worker).cloned().unwrap_or_default();
            if changed.is_empty() {
                return before;
            }
            let stay = before.iter().copied();
            queues.extend(stay.filter(|(port, _)| !changed.contains(&port.slot())));
            queues.sort_unstable();
            match queues == *before {
                true => before,
                false => Arc::new(queues),
            }
        };
        come.into_iter().enumerate().map(queues).collect()
    }
}

fn macs(before: Option<&Network>, moves: Option<&Moves>) -> Macs {
    let before = before.map(|network| Arc::clone(&network.macs));
    let before = before.unwrap_or_default();
    let Some(moves) = moves else {
        return before;
    };
    let gone: HashSet<_> = moves.gone.iter().map(|gone| gone.index).collect();
    let stay = before.iter().filter(|(_, at)| !gone.contains(at)).copied();
    let come = moves.come.iter().map(|come| (come.mac, come.index));
    let mut macs: Vec<_> = stay.chain(come).collect();
    macs.sort_unstable();
    macs.into()
}

/// How many of a network's guests hear broadcasts.
fn listeners(
    before: Option<&Network>,
    moves: Option<&Moves>,
    last: &Snapshot,
    new: &Snapshot,
) -> usize {
    let before = before.map_or(0, |network| network.listeners);
    let hear = |all: &[Arc<Attachment>], snapshot: &Snapshot| {
        let hears = |it: &&Arc<Attachment>| {
            let port = snapshot.port(it.port);
            port.is_some_and(|port| !port.guest.is_ip_only())
        };
        all.iter().filter(hears).count()
    };
    moves.map_or(before, |moves| {
        before + hear(&moves.come, new) - hear(&moves.gone, last)
    })
}

#[cfg(test)]
impl Engine {
    /// What compiling everything makes of the present state of things, with routes built anew.
    pub(super) fn compile_all(&mut self) -> Snapshot {
        let all = |places: usize| (0..places).collect();
        let changed = Changed {
            ports: all(self.ports.places()),
            attachments: all(self.attachments.places()),
            networks: all(self.networks.table.places()),
            tunnels: all(self.tunnels.places()),
            uplinks: all(self.uplinks.places()),
        };
        let tables = self.networks.table.iter_mut();
        let kept: Vec<_> = tables.map(|(_, network)| network.rebuild()).collect();
        let new = self.compile_upon(&Snapshot::default(), changed, self.generation);
        for ((_, network), routes) in self.networks.table.iter_mut().zip(kept) {
            network.routes = routes;
        }
        new
    }
}
