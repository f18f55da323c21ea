//! Changes: from the running configuration to a new one.
//!
//! In: a checked configuration. Out: the new state of things, or an error and no change
//! at all. Never: a session interrupted that the change does not concern.
//!
//! 1. What is fixed while the process runs is compared; a difference needs a restart.
//! 2. What can fail (sockets, ports) is opened beside the old things.
//! 3. Nothing fails from here on: peers and tunnels are changed, a snapshot is
//!    published, workers adopt it at their next burst.
//! 4. When all workers have, the old things are closed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use culvert_dataplane::{
    control_link::Command,
    ids::{NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex},
    limits::PEER_PLACES,
    uplink::{UplinkQueue, udp::Marker},
};
use culvert_wireguard::Now;

use super::{
    Engine, GREETING, GREETING_STEP, interfaces::Keeper, ports::PortState, tunnels::TunnelState,
    uplinks::UplinkState,
};
use crate::{
    api::ApplyError,
    config::{self, Config, Name, WorkerIndex},
    process::{UdpLock, lock_udp},
    state::Applied,
    uapi::carry::Nuances,
};

/// How long workers may take to adopt a snapshot: they do at their next burst.
const ADOPTION: Duration = Duration::from_secs(1);

/// Ports that are tried when any will do.
const PORT_TRIES: usize = 20;

/// What was opened before anything was changed.
#[derive(Default)]
struct Prepared {
    /// Ports by their name.
    ports: Vec<PortState>,
    /// Ports whose socket an old port still has: they open when that one is closed.
    late: Vec<config::Port>,
    /// Sockets of new tunnels, and of tunnels that move to another port.
    tunnels: Vec<(Name, Sockets)>,
}

/// A tunnel's port: locked, and on a UDP uplink bound.
struct Sockets {
    port: u16,
    lock: UdpLock,
    queues: Vec<UplinkQueue>,
}

/// How a change is meant.
#[derive(Default)]
pub(super) struct Manner {
    /// `wg` asked for it: only what it says is done. New peers are not called, and where they were heard last
    /// doesn't count.
    pub(super) by_wg: bool,
    /// What the configuration can't say.
    pub(super) nuances: Nuances,
}

impl Engine {
    /// Applies a configuration, logs what changed.
    pub(super) fn apply(&mut self, config: Config, now: Now) -> Result<Applied, ApplyError> {
        let ruled = config.clone();
        let applied = self.change(config, &Manner::default(), now)?;
        self.ruled = Some(ruled);
        crate::api::log_applied(&applied);
        Ok(applied)
    }

    /// Steps 1 to 4.
    pub(super) fn change(
        &mut self,
        mut config: Config,
        manner: &Manner,
        now: Now,
    ) -> Result<Applied, ApplyError> {
        let fixed = self.fixed_differences(&config);
        if !fixed.is_empty() {
            return Err(ApplyError::NeedsRestart(fixed));
        }
        let same = Config {
            source: self.config.source.clone(),
            ..config.clone()
        } == self.config;
        let whole = self.ports.iter().all(|(_, port)| !port.is_gone());
        let plain = manner.nuances == Nuances::default();
        if same && whole && plain && self.generation > 0 {
            return Ok(Applied {
                generation: self.generation,
                changes: Vec::new(),
            });
        }
        let prepared = self.prepare(&config).map_err(ApplyError::Failed)?;
        let mut changes = Vec::new();
        for (name, sockets) in &prepared.tunnels {
            // From here on the configuration has the number that was chosen.
            let tunnel = config.tunnels.iter_mut().find(|t| &t.name == name);
            if let Some(tunnel) = tunnel {
                tunnel.listen_port = sockets.port;
            }
        }
        self.change_tunnels(&config, prepared.tunnels, manner, now, &mut changes);
        let moved = self.moves(&config);
        let closing = self.change_ports(&config, prepared.ports, &prepared.late, &mut changes);
        self.note_other_changes(&config, &mut changes);
        self.config = config;
        self.publish();
        for command in moved {
            self.workers.send(0, command);
        }
        drop(closing);
        self.serve_wg();
        if !prepared.late.is_empty() {
            self.open_late(prepared.late, &mut changes);
            self.publish();
        }
        Ok(Applied {
            generation: self.generation,
            changes,
        })
    }

    /// Step 1: what differs and can't be changed while the process runs.
    fn fixed_differences(&self, new: &Config) -> Vec<String> {
        let old = &self.config;
        let mut differences = Vec::new();
        let mut fixed = |differs: bool, what: String| {
            if differs {
                differences.push(what);
            }
        };
        fixed(old.cores != new.cores, "`cores` changed".into());
        fixed(old.memory != new.memory, "`memory` changed".into());
        for uplink in &new.uplinks {
            match self
                .uplinks
                .iter()
                .find(|(_, u)| u.config.name == uplink.name)
            {
                None => fixed(true, format!("uplink {} is new", uplink.name)),
                Some((_, old)) => {
                    fixed(
                        old.config != *uplink,
                        format!("uplink {} changed", uplink.name),
                    );
                }
            }
        }
        for (_, uplink) in self.uplinks.iter() {
            let name = &uplink.config.name;
            fixed(new.uplink(name).is_none(), format!("uplink {name} is gone"));
        }
        for tunnel in &new.tunnels {
            if let Some((_, old)) = self.tunnels.iter().find(|(_, t)| t.name == tunnel.name) {
                fixed(
                    old.config.uplink != tunnel.uplink,
                    format!("tunnel {} moves to another uplink", tunnel.name),
                );
            }
        }
        differences
    }

    /// Step 2.
    fn prepare(&self, new: &Config) -> Result<Prepared, String> {
        let peers: usize = new.tunnels.iter().map(|tunnel| tunnel.peers.len()).sum();
        if self.peers.iter().count() + self.leaving.len() + peers > PEER_PLACES {
            return Err(
                "the peers of an earlier change are leaving still: try again in a second".into(),
            );
        }
        let mut prepared = Prepared::default();
        let mut next_tunnel = self.tunnels.next();
        for tunnel in &new.tunnels {
            let old = self.tunnels.iter().find(|(_, t)| t.name == tunnel.name);
            let slot = match old {
                Some((_, old)) if old.config.listen_port == tunnel.listen_port => continue,
                Some((slot, _)) => slot,
                None => next_tunnel,
            };
            if old.is_none() {
                next_tunnel = self.tunnels.places().max(next_tunnel + 1);
            }
            let (index, uplink) = self
                .uplinks
                .iter()
                .find(|(_, uplink)| uplink.config.name == tunnel.uplink)
                .ok_or_else(|| format!("tunnel {}: no uplink {}", tunnel.name, tunnel.uplink))?;
            let open = |port| -> Result<Sockets, String> {
                let addresses: Vec<_> = uplink.config.addresses.iter().map(|n| n.addr()).collect();
                let lock = lock_udp(&addresses, port)
                    .map_err(|error| format!("tunnel {}: {error}", tunnel.name))?;
                let queues = uplink.open_tunnel(
                    UplinkIndex::from_slot(index),
                    TunnelIndex::from_slot(slot),
                    port,
                    tunnel.fwmark,
                    self.workers.count(),
                )?;
                Ok(Sockets { port, lock, queues })
            };
            let sockets = match tunnel.listen_port {
                0 => self.choose_port(index, uplink, open)?,
                port => open(port)?,
            };
            prepared.tunnels.push((tunnel.name.clone(), sockets));
        }
        self.check_wg_names(new)?;
        for port in &new.ports {
            match self.ports.iter().find(|(_, p)| p.config.name == port.name) {
                Some((_, old)) if !old.needs_reopening(port) => {}
                _ if self.ports.iter().any(|(_, p)| p.occupies(port)) => {
                    prepared.late.push(port.clone());
                }
                _ => {
                    let network = new.network_of(port);
                    let opened = self.open_port(port.clone(), network)?;
                    prepared.ports.push(opened);
                }
            }
        }
        Ok(prepared)
    }

    /// Opens a port that is free. Somebody may take it between the look and the bind: then another.
    fn choose_port(
        &self,
        index: usize,
        uplink: &UplinkState,
        open: impl Fn(u16) -> Result<Sockets, String>,
    ) -> Result<Sockets, String> {
        let mut refused = String::new();
        for _ in 0..PORT_TRIES {
            let port = uplink.free_port()?;
            let mut own = self.tunnels.iter().filter(|(_, t)| t.uplink == index);
            if own.any(|(_, tunnel)| tunnel.config.listen_port == port) {
                continue;
            }
            match open(port) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn change_tunnels(
        &mut self,
        new: &Config,
        mut sockets: Vec<(Name, Sockets)>,
        manner: &Manner,
        now: Now,
        changes: &mut Vec<String>,
    ) {
        let gone: Vec<_> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| new.tunnel(&tunnel.name).is_none())
            .map(|(slot, tunnel)| (slot, tunnel.name.clone()))
            .collect();
        // New ones first: `prepare` gave them the places that are vacant now.
        for tunnel in &new.tunnels {
            let opened = sockets
                .iter()
                .position(|(name, _)| name == &tunnel.name)
                .map(|position| sockets.swap_remove(position).1);
            let slot = match (self.tunnel_slot(&tunnel.name), opened) {
                (Some(slot), opened) => {
                    self.change_tunnel(slot, tunnel, opened, changes);
                    slot
                }
                (None, Some(opened)) => {
                    changes.push(format!("tunnel {} added", tunnel.name));
                    self.add_tunnel(new, tunnel, opened)
                }
                // `prepare` opens every new tunnel.
                (None, None) => continue,
            };
            self.change_peers(slot, tunnel, manner, now, changes);
        }
        for (slot, name) in gone {
            changes.push(format!("tunnel {name} removed"));
            self.remove_tunnel(slot);
        }
    }

    fn add_tunnel(&mut self, new: &Config, tunnel: &config::Tunnel, opened: Sockets) -> usize {
        let uplink = self
            .uplinks
            .iter()
            .find(|(_, u)| u.config.name == tunnel.uplink);
        let uplink = uplink.map_or(0, |(slot, _)| slot);
        let mut state = TunnelState::new(tunnel.clone(), uplink, opened.lock);
        state.config.peers.clear();
        state.markers = markers(&opened.queues);
        let slot = self.tunnels.insert(state);
        let owners = new.uplink_of(tunnel).queue_workers.clone();
        self.attach(&owners, opened.queues);
        slot
    }

    /// Gives each worker a queue: those that the configuration names for a queue first,
    /// then the others, so that every worker can send.
    pub(super) fn attach(&mut self, owners: &[WorkerIndex], queues: Vec<UplinkQueue>) {
        let mut order: Vec<usize> = Vec::new();
        let named = owners.iter().map(|worker| usize::from(worker.0));
        for worker in named.chain(0..self.workers.count()) {
            if worker < self.workers.count() && !order.contains(&worker) {
                order.push(worker);
            }
        }
        for (worker, queue) in order.into_iter().zip(queues) {
            self.workers
                .send(worker, Command::AttachUplink(Box::new(queue)));
        }
    }

    fn change_tunnel(
        &mut self,
        slot: usize,
        new: &config::Tunnel,
        opened: Option<Sockets>,
        changes: &mut Vec<String>,
    ) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else {
            return;
        };
        let uplink = tunnel.uplink;
        if tunnel.config.private_key != new.private_key {
            tunnel.device.set_private_key(new.private_key.clone());
            changes.push(format!("tunnel {}: private key changed", new.name));
        }
        if tunnel.config.mtu != new.mtu {
            changes.push(format!("tunnel {}: mtu {}", new.name, new.mtu));
        }
        if tunnel.config.listen_port != new.listen_port {
            changes.push(format!(
                "tunnel {}: listen port {}",
                new.name, new.listen_port
            ));
        }
        if tunnel.config.fwmark != new.fwmark {
            changes.push(format!("tunnel {}: fwmark {}", new.name, new.fwmark));
            for marker in &tunnel.markers {
                if let Err(error) = marker.mark(new.fwmark) {
                    tracing::warn!(tunnel = %new.name, fwmark = new.fwmark, %error, "can't mark packets");
                }
            }
        }
        let peers = std::mem::take(&mut tunnel.config.peers);
        tunnel.config = config::Tunnel {
            peers,
            ..new.clone()
        };
        let Some(Sockets { lock, queues, .. }) = opened else {
            return;
        };
        tunnel.lock = lock;
        tunnel.markers = markers(&queues);
        for (_, peer) in self.peers.iter_mut().filter(|(_, p)| p.tunnel == slot) {
            // The port is part of a path, and the kernel chooses the source anew (as `set_port` of wireguard's).
            peer.local = None;
            peer.outdate_path();
        }
        if !queues.is_empty() {
            let index = TunnelIndex::from_slot(slot);
            self.tell_all(|| Command::DetachUplink(UplinkIndex::from_slot(uplink), Some(index)));
            let owners = self
                .uplinks
                .get(uplink)
                .map(|u| u.config.queue_workers.clone());
            self.attach(&owners.unwrap_or_default(), queues);
        }
    }

    fn change_peers(
        &mut self,
        slot: usize,
        new: &config::Tunnel,
        manner: &Manner,
        now: Now,
        changes: &mut Vec<String>,
    ) {
        let anew = &manner.nuances.made_anew;
        let mut present: HashMap<_, _> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.tunnel == slot)
            .map(|(place, peer)| (peer.config.public_key, place))
            .collect();
        let wanted: HashSet<_> = new.peers.iter().map(|peer| peer.public_key).collect();
        let tunnel_name = &new.name;
        present.retain(|key, place| {
            let stays = wanted.contains(key) && !anew.contains(key);
            if !stays {
                let name = self.peers.get(*place).map(|peer| peer.config.name.clone());
                changes.extend(name.map(|name| format!("peer {tunnel_name}/{name} removed")));
                self.remove_peer(*place);
            }
            stays
        });
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.make_room(new.peers.len());
        }
        let mut added = Vec::new();
        for peer in &new.peers {
            if let Some(&place) = present.get(&peer.public_key) {
                let (tunnel, state) = (self.tunnels.get_mut(slot), self.peers.get_mut(place));
                let endpoint = manner.nuances.endpoints.get(&peer.public_key).copied();
                if let (Some(tunnel), Some(state)) = (tunnel, state)
                    && (state.config != *peer || endpoint.is_some())
                {
                    changes.push(format!("peer {tunnel_name}/{} changed", peer.name));
                    tunnel.update_peer(state, peer.clone(), endpoint, now);
                }
                continue;
            }
            let endpoint = if manner.by_wg {
                manner.nuances.endpoints.get(&peer.public_key).copied()
            } else {
                self.first_endpoint(tunnel_name, peer)
            };
            let Some(tunnel) = self.tunnels.get_mut(slot) else {
                continue;
            };
            match tunnel.add_peer(
                slot,
                peer.clone(),
                endpoint,
                (&mut self.peers, &self.outdated),
                now,
            ) {
                Ok(place) => {
                    changes.push(format!("peer {tunnel_name}/{} added", peer.name));
                    if endpoint.is_some() && !manner.by_wg {
                        added.push(place);
                    }
                }
                // The check of the configuration leaves no reason for it.
                Err(error) => {
                    changes.push(format!("peer {tunnel_name}/{}: {error}", peer.name));
                }
            }
        }
        if !self.lone {
            // What `wg` drives is silent until there is something to say.
            self.greet(&added, now);
        }
    }

    /// Plans the first handshakes of new peers, spread over time.
    fn greet(&mut self, peers: &[usize], now: Now) {
        let count = u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX);
        let step = GREETING_STEP.min(GREETING / count);
        let mut due = now.monotonic;
        for &peer in peers {
            self.greetings.push_back((due, peer));
            due = due + step;
        }
        self.greetings
            .make_contiguous()
            .sort_by_key(|&(due, _)| due);
    }

    fn remove_peer(&mut self, place: usize) {
        let Some(peer) = self.peers.take(place) else {
            return;
        };
        self.leaving.push(place);
        self.greetings.retain(|&(_, greeted)| greeted != place);
        if let Some(tunnel) = self.tunnels.get_mut(peer.tunnel) {
            let key = super::endpoint_key(&tunnel.name, &peer.config);
            self.endpoints.forget(&key);
            tunnel.device.remove_peer(peer.cell.id);
            let mut wishes = Vec::new();
            tunnel.drain(&mut self.peers, &mut wishes);
            tunnel.peers.remove(&peer.cell.id);
            peer.cell.publish_keypair(None);
        }
    }

    fn remove_tunnel(&mut self, slot: usize) {
        let places: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.tunnel == slot)
            .map(|(place, _)| place)
            .collect();
        for place in places {
            self.remove_peer(place);
        }
        let Some(mut tunnel) = self.tunnels.remove(slot) else {
            return;
        };
        tunnel.device.bring_down();
        let uplink = UplinkIndex::from_slot(tunnel.uplink);
        let index = TunnelIndex::from_slot(slot);
        self.tell_all(|| Command::DetachUplink(uplink, Some(index)));
    }

    /// What the ports of a network are to hear of a change. Running guests whose addresses were
    /// not theirs before: others may know those at the gateway's MAC address, if they were behind
    /// a peer. And addresses that are no port's any more: they may be behind a peer now.
    fn moves(&self, new: &Config) -> Vec<Command> {
        let arrived = self.ports.iter().filter(|(_, port)| {
            let old = &port.config;
            let gained = new.port(&old.name).is_some_and(|new| {
                let is_new = |address| !old.addresses.contains(address);
                let gained = new.network != old.network || new.addresses.iter().any(is_new);
                gained && !port.needs_reopening(new)
            });
            port.interface.is_none() && port.link_up && gained
        });
        let mut commands: Vec<_> = arrived
            .map(|(slot, _)| Command::Announce(PortIndex::from_slot(slot)))
            .collect();
        let owns = |port: &config::Port, network: &Name, address| {
            port.network == *network && port.addresses.contains(address)
        };
        for old in &self.config.ports {
            // The snapshot has networks in the configuration's order.
            let place = new.networks.iter().position(|n| n.name == old.network);
            let Some(place) = place else { continue };
            let network = NetworkIndex::from_slot(place);
            let gone = old.addresses.iter().filter(|address| {
                let mut ports = new.ports.iter();
                !ports.any(|port| owns(port, &old.network, address))
            });
            commands.extend(gone.map(|&address| Command::AnnounceGone(network, address)));
        }
        commands
    }

    /// Exchanges ports; answers those to be closed once no worker knows them.
    fn change_ports(
        &mut self,
        new: &Config,
        mut opened: Vec<PortState>,
        late: &[config::Port],
        changes: &mut Vec<String>,
    ) -> Vec<PortState> {
        let mut closing = Vec::new();
        let present: Vec<_> = self
            .ports
            .iter()
            .map(|(slot, port)| (slot, port.config.name.clone()))
            .collect();
        for (slot, name) in present {
            let reopened = opened.iter().any(|port| port.config.name == name)
                || late.iter().any(|port| port.name == name);
            match new.port(&name) {
                None => changes.push(format!("port {name} removed")),
                Some(_) if reopened => changes.push(format!("port {name} reopened")),
                Some(config) => {
                    if let Some(port) = self.ports.get_mut(slot)
                        && port.config != *config
                    {
                        changes.push(format!("port {name} changed"));
                        let old = std::mem::replace(&mut port.config, config.clone());
                        adjust(port, (&old, &self.config), (config, new), changes);
                    }
                    continue;
                }
            }
            closing.extend(self.ports.remove(slot));
        }
        for port in opened.drain(..) {
            if !changes.contains(&format!("port {} reopened", port.config.name)) {
                changes.push(format!("port {} added", port.config.name));
            }
            self.ports.insert(port);
        }
        closing
    }

    fn open_port(
        &self,
        port: config::Port,
        network: &config::Network,
    ) -> Result<PortState, String> {
        let keeper = if self.lone {
            Keeper::Host(self.lone_tun.clone())
        } else {
            Keeper::Configuration
        };
        PortState::open(port, network, &self.run_dir, &self.ears, keeper)
    }

    /// Opens ports whose sockets were taken by ports that are closed now.
    fn open_late(&mut self, late: Vec<config::Port>, changes: &mut Vec<String>) {
        for config in late {
            let name = config.name.clone();
            let network = self.config.network_of(&config).clone();
            match self.open_port(config, &network) {
                Ok(port) => {
                    self.ports.insert(port);
                }
                Err(error) => {
                    tracing::error!(port = %name, error, "can't reopen a port");
                    changes.push(format!("port {name} is down: {error}"));
                }
            }
        }
    }

    fn note_other_changes(&self, new: &Config, changes: &mut Vec<String>) {
        for network in &new.networks {
            match self.config.network(&network.name) {
                None => changes.push(format!("network {} added", network.name)),
                Some(old) if old != network => {
                    changes.push(format!("network {} changed", network.name));
                }
                Some(_) => {}
            }
        }
        for network in &self.config.networks {
            if new.network(&network.name).is_none() {
                changes.push(format!("network {} removed", network.name));
            }
        }
    }

    /// Lets new peers have the numbers of removed ones. No worker can stage a frame for
    /// them any more, and none is left when this command is done: a frame for one peer
    /// is never sent to another that got its number.
    fn release_peers(&mut self) {
        for place in std::mem::take(&mut self.leaving) {
            if self.tell_all(|| Command::DropStaged(PeerIndex::from_slot(place))) {
                self.peers.vacate(place);
            } else {
                self.leaving.push(place);
            }
        }
    }

    /// Publishes a snapshot and waits until all workers go by it, so that what only
    /// older ones knew can be closed.
    pub(super) fn publish(&mut self) {
        self.generation += 1;
        let old = self.snapshots.swap(Arc::new(self.compile(self.generation)));
        self.workers.wake_all();
        if self.workers.await_generation(self.generation, ADOPTION) {
            self.release_peers();
        } else {
            tracing::warn!("a worker is slow to adopt the new configuration");
        }
        self.retired.push(old);
        self.retired
            .retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

fn markers(queues: &[UplinkQueue]) -> Vec<Marker> {
    queues.iter().filter_map(UplinkQueue::marker).collect()
}

impl PortState {
    /// Whether it has the socket or the interface that `other` wants.
    fn occupies(&self, other: &config::Port) -> bool {
        use config::PortDriver::{Tap, Tun, VhostUser};
        match (&self.config.driver, &other.driver) {
            (VhostUser(a), VhostUser(b)) => a.socket == b.socket,
            (
                Tun { interface: a } | Tap { interface: a },
                Tun { interface: b } | Tap { interface: b },
            ) => a == b && !self.is_gone(),
            (VhostUser(_), _) | (_, VhostUser(_)) => false,
        }
    }
}

/// Carries a change of a port over to its interface, if it has one.
fn adjust(
    port: &mut PortState,
    (old, old_config): (&config::Port, &Config),
    (new, new_config): (&config::Port, &Config),
    changes: &mut Vec<String>,
) {
    let Some(interface) = &mut port.interface else {
        return;
    };
    let old = (old, old_config.network_of(old));
    let new = (new, new_config.network_of(new));
    if let Err(error) = interface.adjust(old, new) {
        let name = &port.config.name;
        tracing::warn!(port = %name, error, "can't change an interface");
        changes.push(format!("port {name}: {error}"));
    }
}
