//! Tunnels and their peers, from one configuration to the next.
//!
//! In: a checked configuration, sockets that were opened for it. Out: the tunnels as it has them.
//! Never: a session lost of a peer that stays; a peer's number given to another while frames for it may be staged.

use std::collections::{HashMap, HashSet};

use culvert_dataplane::{
    shared::{
        control_link::Command,
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::{UplinkQueue, udp::Marker},
};
use culvert_wireguard::Now;

use super::super::{Engine, GREETING, GREETING_STEP, endpoint_key, tunnels::TunnelState};
use super::{Manner, Sockets};
use crate::config::{self, Config, Name, WorkerIndex};

impl Engine {
    pub(super) fn change_tunnels(
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
        let mut state = TunnelState::new(tunnel.clone(), uplink);
        state.config.peers.clear();
        state.markers = markers(&opened.queues);
        let slot = self.tunnels.insert(state);
        let owners = new.uplink_of(tunnel).queue_workers.clone();
        self.attach(&owners, opened.queues);
        slot
    }

    /// Gives each worker a queue: those that the configuration names for a queue first,
    /// then the others, so that every worker can send.
    pub(in crate::engine) fn attach(&mut self, owners: &[WorkerIndex], queues: Vec<UplinkQueue>) {
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
        let Some(Sockets { queues, .. }) = opened else {
            return;
        };
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
        let nuances = manner.of(&new.name);
        let is_anew = |key: &_| nuances.is_some_and(|nuances| nuances.made_anew.contains(key));
        let endpoint_by_wg = |key: &_| nuances?.endpoints.get(key).copied();
        let mut present: HashMap<_, _> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.tunnel == slot)
            .map(|(place, peer)| (peer.config.public_key, place))
            .collect();
        let wanted: HashSet<_> = new.peers.iter().map(|peer| peer.public_key).collect();
        let tunnel_name = &new.name;
        present.retain(|key, place| {
            let stays = wanted.contains(key) && !is_anew(key);
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
                let endpoint = endpoint_by_wg(&peer.public_key);
                if let (Some(tunnel), Some(state)) = (tunnel, state)
                    && (state.config != *peer || endpoint.is_some())
                {
                    changes.push(format!("peer {tunnel_name}/{} changed", peer.name));
                    tunnel.update_peer(state, peer.clone(), endpoint, now);
                }
                continue;
            }
            let endpoint = match nuances {
                Some(_) => endpoint_by_wg(&peer.public_key),
                None => self.first_endpoint(tunnel_name, peer),
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
                    if endpoint.is_some() && nuances.is_none() {
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
        let uplink = self.tunnels.get(peer.tunnel).map(|tunnel| tunnel.uplink);
        let uplink = UplinkIndex::from_slot(uplink.unwrap_or_default());
        self.leaving.push((place, uplink));
        self.greetings.retain(|&(_, greeted)| greeted != place);
        if let Some(tunnel) = self.tunnels.get_mut(peer.tunnel) {
            let key = endpoint_key(&tunnel.name, &peer.config);
            self.endpoints.forget(&key);
            tunnel.device.remove_peer(peer.cell.id);
            // Another peer may get the number that they name.
            self.unrouted.retain(|(_, slot, message)| {
                *slot != peer.tunnel || message.peer != Some(peer.cell.id)
            });
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
        self.unrouted.retain(|(_, of, _)| *of != slot);
        let uplink = UplinkIndex::from_slot(tunnel.uplink);
        let index = TunnelIndex::from_slot(slot);
        self.tell_all(|| Command::DetachUplink(uplink, Some(index)));
    }
}

fn markers(queues: &[UplinkQueue]) -> Vec<Marker> {
    queues.iter().filter_map(UplinkQueue::marker).collect()
}
