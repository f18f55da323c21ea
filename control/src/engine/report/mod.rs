//! What the control core tells those who read: what only it knows, and where the counters are.
//!
//! In: looks. Out: their answers. Never: a secret, a change; work that grows with the peers.
//!
//! Rooms: [`ports`] guests, [`meters`] the load of the cores. What is made of it: [`crate::report`].

mod meters;
mod ports;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use culvert_dataplane::shared::ids::TunnelIndex;
use culvert_wireguard::Instant;

pub(super) use self::{meters::Meters, ports::losses};
use super::{
    Engine, exceptions::exception, places::SILENT_AFTER, tunnels::TunnelState,
    uplinks::UplinkState, workers::Workers,
};
use crate::{
    config::{Name, UplinkDriver},
    exception::Learned,
    keys::PublicKey,
    report::{
        look::{Asked, Cells, CoreLoad, Head, Look, OfKernel, PeerSight, WorkerSight},
        named,
    },
    state::{Traffic, Tunnel, Uplink},
};

impl Engine {
    /// Answers a look.
    pub(super) fn look(&mut self, look: Look, now: Instant) {
        match look {
            Look::Head(reply) => reply.send(Box::new(self.tell_head(now))),
            Look::Ports(mut asked, reply) => {
                self.tell_ports(&mut asked);
                reply.send(asked);
            }
            Look::Losses(mut asked, reply) => {
                let lost = |name: &_| self.ports.named(name).map(losses);
                fill(&mut asked, lost);
                reply.send(asked);
            }
            Look::Tunnels(mut asked, reply) => {
                fill(&mut asked, |name| self.tell_tunnel(name));
                reply.send(asked);
            }
            Look::Peers(tunnel, mut asked, reply) => {
                self.tell_sights(&tunnel, &mut asked, now);
                reply.send(asked);
            }
            Look::Cells(reply) => reply.send(self.tell_cells()),
            // It is kept among the retired ones until nobody holds it.
            Look::Snapshot(reply) => reply.send(self.snapshots.load_full()),
            Look::Neighbors(reply) => self.netstack.tell_neighbors(reply),
        }
    }

    fn tell_head(&self, now: Instant) -> Head {
        let workers = self.workers.0.iter().enumerate();
        Head {
            desired: self.desired.clone(),
            is_lone: self.lone,
            generation: self.generation,
            started: self.started.unix,
            uptime: now.since(self.started.monotonic),
            uplinks: self.tell_uplinks(now),
            of_kernel: OfKernel(self.tell_routes()),
            down: self.shut_ports(),
            deaf: self.deaf(),
            core: CoreLoad {
                // It sleeps between its rounds.
                sleeps: self.rounds,
                ..self.meters.core()
            },
            workers: workers
                .map(|(index, worker)| WorkerSight {
                    cpu: worker.cpu,
                    busy: self.meters.worker(index),
                    longest: self.meters.longest(index),
                    stats: Arc::clone(&worker.stats),
                })
                .collect(),
        }
    }

    /// A device of DPDK's hears all ports by itself.
    pub(super) fn deaf(&self) -> Vec<Name> {
        let tunnels = self.tunnels.iter().map(|(_, tunnel)| tunnel);
        let by_sockets = |uplink| {
            let uplink = self.uplinks.get(uplink);
            uplink.is_none_or(|it| {
                it.config.enabled && matches!(it.config.driver, UplinkDriver::Udp(_))
            })
        };
        let deaf = tunnels.filter(|it| it.markers.is_empty() && by_sockets(it.uplink));
        deaf.map(|tunnel| tunnel.name.clone()).collect()
    }

    /// What is shared: a table may be long.
    fn tell_routes(&self) -> Vec<(Name, Arc<Learned>)> {
        let followed = self.uplinks.iter().map(|(_, uplink)| uplink);
        let followed = followed.filter(|it| !it.learned.routes.is_empty());
        followed
            .map(|it| (it.config.name.clone(), Arc::clone(&it.learned)))
            .collect()
    }

    fn tell_uplinks(&self, now: Instant) -> Vec<Uplink> {
        let uplink = |(_, uplink): (usize, &UplinkState)| {
            let config = &uplink.config;
            let counters = &uplink.counters;
            let (driver, device) = match &config.driver {
                UplinkDriver::Dpdk(dpdk) => ("dpdk", dpdk.named()),
                UplinkDriver::Udp(udp) => ("udp", udp.device.clone().unwrap_or_default()),
            };
            let exception = exception(config);
            let table = exception.and_then(|it| it.routes_from);
            Uplink {
                name: config.name.to_string(),
                driver: driver.into(),
                device,
                link_up: config.enabled && uplink.link_up.unwrap_or(true),
                disabled: !config.enabled,
                bfd: config.bfd.map(|_| uplink.liveness.state().name().into()),
                speed_mbps: uplink.speed_mbps,
                conflicts: uplink.conflicts(),
                addresses: uplink.address_texts(),
                nameservers: uplink.nameserver_sights(),
                learned: uplink.learns().then(|| uplink.taught.sight(now)),
                mtu: config.mtu,
                queues: config.queues,
                exception: exception.map(|it| it.interface.clone()),
                routes_learned: table.map(|_| uplink.learned.routes.len()),
                routes_refused: table.map(|_| uplink.learned.refused),
                rx: Traffic {
                    packets: counters.rx_packets.load(Ordering::Relaxed),
                    bytes: counters.rx_bytes.load(Ordering::Relaxed),
                },
                tx: Traffic {
                    packets: counters.tx_packets.load(Ordering::Relaxed),
                    bytes: counters.tx_bytes.load(Ordering::Relaxed),
                },
                fragmented: counters.tx_fragmented.load(Ordering::Relaxed),
                nic: uplink.nic(),
                drops: self.tell_drops(uplink),
            }
        };
        self.uplinks.iter().map(uplink).collect()
    }

    /// What an uplink has lost, with its host stack and what tunnels lost while they were on it.
    pub(super) fn tell_drops(&self, uplink: &UplinkState) -> BTreeMap<String, u64> {
        let mut drops = named(uplink.counters.drops.iter());
        add(&mut drops, &uplink.lost);
        let present = self.uplinks.place(&uplink.config.name);
        let tunnels = self.tunnels.iter().map(|(_, tunnel)| tunnel);
        for tunnel in tunnels.filter(|tunnel| Some(tunnel.uplink) == present) {
            let lost = tunnel.drops.iter();
            add(&mut drops, lost.map(|(name, count)| (*name, count)));
        }
        let hosts = uplink.host_drops.iter();
        let hosts = hosts.map(|(name, count)| (format!("host-{name}"), count));
        add(&mut drops, &hosts.collect::<BTreeMap<_, _>>());
        drops
    }

    /// Something that was on the uplink at `slot` leaves it: what it has lost there stays with whoever has the uplink's
    /// name now.
    pub(super) fn keep_drops<N: AsRef<str>>(
        &mut self,
        slot: usize,
        lost: impl IntoIterator<Item = (N, u64)>,
    ) {
        let name = self.uplinks.get(slot).map(|it| it.config.name.clone());
        let heir = name.and_then(|name| self.uplinks.place(&name));
        let Some(uplink) = self.uplinks.get_mut(heir.unwrap_or(slot)) else {
            return;
        };
        for (name, count) in lost {
            *uplink.lost.entry(name.as_ref().to_owned()).or_default() += count;
        }
    }

    fn tell_tunnel(&self, name: &Name) -> Option<Tunnel> {
        let state = self.tunnels.get(self.tunnel_slot(name)?)?;
        let config = &state.config;
        Some(Tunnel {
            name: config.name.to_string(),
            uplink: config.uplink.to_string(),
            uplinks: self.tell_carried(state),
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
            drift: Vec::new(),
        })
    }

    /// By which of its uplinks how many of a tunnel's peers are reached.
    fn tell_carried(&self, tunnel: &TunnelState) -> BTreeMap<String, usize> {
        let carried = |slot| tunnel.carried.get(&slot).copied().unwrap_or_default();
        let told = tunnel.uplinks().filter_map(|slot| {
            let uplink = self.uplinks.get(slot)?;
            Some((uplink.config.name.to_string(), carried(slot)))
        });
        told.collect()
    }

    fn tell_sights(&self, tunnel: &Name, asked: &mut Asked<PublicKey, PeerSight>, now: Instant) {
        let slot = self.tunnel_slot(tunnel);
        if let Some(state) = slot.and_then(|slot| self.tunnels.get(slot)) {
            fill(asked, |key| self.tell_sight(state, key, now));
        }
    }

    fn tell_sight(&self, tunnel: &TunnelState, key: &PublicKey, now: Instant) -> Option<PeerSight> {
        let peer = self.peers.get(tunnel.place(key)?)?;
        let status = tunnel.device.peer(peer.cell.id)?;
        Some(PeerSight {
            cell: Arc::clone(&peer.cell),
            endpoint: status.endpoint,
            uplink: (self.uplinks.get(peer.uplink)).map(|uplink| uplink.config.name.clone()),
            last_handshake: status.last_handshake,
            unanswered: status.unanswered,
            is_silent: status.unanswered >= SILENT_AFTER,
            path: peer.path_mtu_sight(&tunnel.config, self.uplinks.get(peer.uplink)),
            last_error: peer.last_error.as_deref().copied(),
            name: (peer.places.name.as_ref()).and_then(|name| self.names.sight(name, now)),
        })
    }

    /// A reference for each leaf of them.
    fn tell_cells(&self) -> Cells {
        let tunnels = self.tunnels.iter();
        let tunnels = tunnels.map(|(slot, it)| (TunnelIndex::from_slot(slot), it.name.clone()));
        Cells {
            peers: self.cells.clone(),
            tunnels: tunnels.collect(),
        }
    }
}

/// Tells of each what is known of it.
fn fill<K, T>(asked: &mut Asked<K, T>, tell: impl Fn(&K) -> Option<T>) {
    for (key, told) in asked {
        *told = tell(key);
    }
}

fn add<'l, N: AsRef<str>>(
    drops: &mut BTreeMap<String, u64>,
    lost: impl IntoIterator<Item = (N, &'l u64)>,
) {
    for (name, count) in lost {
        *drops.entry(name.as_ref().to_owned()).or_default() += count;
    }
}
