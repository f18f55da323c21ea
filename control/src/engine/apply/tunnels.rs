//! Tunnels, as a plan has them.
//!
//! In: a plan, with the sockets that were opened for it. Out: the tunnels as it has them, sockets handed from one to another.
//! Never: a session lost of a peer that stays; a UDP port closed that another tunnel is to have.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use culvert_dataplane::{
    shared::{
        control_link::{Command, Seat},
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::Queue,
};

use super::super::{Engine, tunnels::TunnelState};
use super::{
    Left, Prepared,
    sockets::{Sockets, markers},
};
use crate::{
    config::{Name, Tunnel, WorkerIndex},
    keys::PrivateKey,
    plan::{Change, Edit},
};

/// The tunnels that a plan changes, without their peers.
pub(super) fn tunnels(plan: &[Change]) -> impl Iterator<Item = &Edit<Tunnel>> {
    plan.iter().filter_map(Change::tunnel)
}

/// Whether a tunnel is to have another port than it has.
pub(super) fn moves(edit: &Edit<Tunnel>) -> bool {
    match edit {
        Edit::Add(_) => true,
        Edit::Change { old, new } => old.listen_port != new.listen_port,
        Edit::Remove(_) => false,
    }
}

/// Step 3.
impl Engine {
    /// Exchanges the tunnels; whether a port is closed for it, and what failed. What is on uplinks that tunnels leave goes
    /// to `left`.
    pub(super) fn commit_tunnels(
        &mut self,
        plan: &mut [Change],
        prepared: &mut Prepared,
        left: &mut Left,
    ) -> (bool, Vec<String>) {
        for change in plan.iter_mut() {
            // From here on the plan has the number that was chosen.
            if let Change::Tunnel(Edit::Add(new) | Edit::Change { new, .. }) = change
                && let Some(sockets) = prepared.sockets.get(&new.name)
            {
                new.listen_port = sockets.port();
            }
        }
        let (closed, mut failures) = self.give_up_ports(plan, prepared, left);
        failures.extend(self.hand_ports_over(prepared, left));
        for edit in tunnels(plan) {
            match edit {
                Edit::Add(new) => self.add_tunnel(new, prepared),
                Edit::Change { new, .. } => self.change_tunnel(new),
                Edit::Remove(_) => {}
            }
        }
        let sockets = std::mem::take(&mut prepared.sockets);
        failures.extend(self.take_ports(sockets, &prepared.seats, left));
        let backups = std::mem::take(&mut prepared.backups);
        failures.extend(self.commit_backups(plan, backups, left));
        for edit in tunnels(plan) {
            if let Edit::Remove(old) = edit
                && let Some(slot) = self.tunnel_slot(&old.name)
            {
                failures.extend(self.leave_backups(slot));
                self.remove_tunnel(slot);
            }
        }
        (closed, failures)
    }

    /// Has workers close the sockets that nobody inherits, once no path leads out by them; whether there are such, and
    /// what failed.
    fn give_up_ports(
        &mut self,
        plan: &[Change],
        prepared: &Prepared,
        left: &mut Left,
    ) -> (bool, Vec<String>) {
        let inherited: HashSet<usize> = prepared
            .sockets
            .values()
            .filter_map(|sockets| match sockets {
                Sockets::Inherited { from, .. } => Some(*from),
                Sockets::Opened { .. } | Sockets::Promoted { .. } => None,
            })
            .collect();
        let mut going = self.given_up(plan, prepared);
        going.retain(|slot| !inherited.contains(slot) && !prepared.unseated.contains(slot));
        let mut failures = Vec::new();
        for &slot in &going {
            let Some(tunnel) = self.tunnels.get_mut(slot) else {
                continue;
            };
            tunnel.markers = Vec::new();
            let uplink = UplinkIndex::from_slot(tunnel.uplink);
            let index = TunnelIndex::from_slot(slot);
            let seat = prepared.seats.get(&tunnel.name);
            if seat.is_some_and(|seat| *seat != tunnel.uplink) {
                left.seats.push((uplink, index));
                continue;
            }
            let port = tunnel.config.listen_port;
            let lost = format!("UDP port {port} of tunnel {} stays open", tunnel.name);
            let detach = || Command::DetachUplink(uplink, Some(index));
            failures.extend(self.insist_all(&lost, detach));
        }
        (!going.is_empty(), failures)
    }

    /// Tells workers whose the sockets are that are inherited; answers what failed. What goes to another uplink goes
    /// later: workers don't know that yet.
    fn hand_ports_over(&mut self, prepared: &Prepared, left: &mut Left) -> Vec<String> {
        let mut pairs: Vec<(Seat, Seat)> = Vec::new();
        for (name, sockets) in &prepared.sockets {
            let Sockets::Inherited { from, .. } = sockets else {
                continue;
            };
            let place = prepared.places.get(name).copied();
            let heir = place.or_else(|| self.tunnel_slot(name));
            let (Some(heir), Some(tunnel)) = (heir, self.tunnels.get(*from)) else {
                continue;
            };
            let there = prepared.seats.get(name).copied().unwrap_or(tunnel.uplink);
            let seat = |uplink, tunnel| {
                (
                    UplinkIndex::from_slot(uplink),
                    TunnelIndex::from_slot(tunnel),
                )
            };
            let pair = (seat(tunnel.uplink, *from), seat(there, heir));
            match there == tunnel.uplink {
                true => pairs.push(pair),
                false => left.heirs.push(pair),
            }
        }
        if pairs.is_empty() {
            return Vec::new();
        }
        let pairs: Arc<[_]> = pairs.into();
        let lost = "UDP ports stay with the tunnels that they were of";
        self.insist_all(lost, || Command::HandOver(Arc::clone(&pairs)))
    }

    /// Gives tunnels their new ports. All are taken from their old owners first: two may swap. Answers
    /// what failed.
    fn take_ports(
        &mut self,
        sockets: HashMap<Name, Sockets>,
        seats: &HashMap<Name, usize>,
        left: &mut Left,
    ) -> Vec<String> {
        let mut failures = Vec::new();
        let taken: Vec<_> = sockets
            .into_iter()
            .map(|(name, sockets)| match sockets {
                Sockets::Opened { queues, .. } => (name, markers(&queues), queues),
                Sockets::Promoted { .. } => {
                    let place = self.tunnel_slot(&name).zip(seats.get(&name));
                    let markers = place.map(|(slot, &uplink)| self.promote(slot, uplink));
                    (name, markers.unwrap_or_default(), Vec::new())
                }
                Sockets::Inherited { from, .. } => {
                    let owner = self.tunnels.get_mut(from);
                    let markers = owner.map(|owner| std::mem::take(&mut owner.markers));
                    (name, markers.unwrap_or_default(), Vec::new())
                }
            })
            .collect();
        for (name, markers, queues) in taken {
            let slot = self.tunnel_slot(&name);
            let Some((slot, tunnel)) = slot.and_then(|at| Some((at, self.tunnels.change(at)?)))
            else {
                continue;
            };
            tunnel.markers = markers;
            let mut lost = None;
            let kept: Vec<_> = tunnel.backups.iter().map(|seat| seat.uplink).collect();
            if let Some(&seat) = seats.get(&name) {
                let from = std::mem::replace(&mut tunnel.uplink, seat);
                if from != seat {
                    left.moved.push(slot);
                    lost = Some((from, std::mem::take(&mut tunnel.drops)));
                }
            }
            let uplink = self.uplinks.get(tunnel.uplink);
            let owners = uplink.map(|uplink| uplink.config.queue_workers.clone());
            for place in tunnel.peers.values() {
                // The port is part of a path, and the kernel chooses the source anew (as `set_port` of wireguard's).
                if let Some(peer) = self.peers.get_mut(*place) {
                    if !kept.contains(&peer.uplink) {
                        peer.uplink = tunnel.uplink;
                    }
                    peer.local = None;
                    peer.outdate_path();
                }
            }
            if let Some((from, lost)) = lost {
                self.keep_drops(from, lost);
            }
            failures.extend(self.attach(&owners.unwrap_or_default(), queues));
        }
        failures
    }

    fn add_tunnel(&mut self, new: &Tunnel, prepared: &mut Prepared) {
        let seat = prepared.seats.get(&new.name).copied();
        let (Some(slot), Some(uplink)) = (prepared.places.remove(&new.name), seat) else {
            // `prepare_tunnels` sees to both.
            return;
        };
        let revived = self.revive_tunnel(new, uplink);
        let state = revived.unwrap_or_else(|| TunnelState::new(new.clone(), uplink));
        self.tunnels.put(slot, state);
        self.networks.rebuild_behind(&new.name);
    }

    /// Gives each worker a queue: those that the configuration names for a queue first,
    /// then the others, so that every worker can send. Answers what failed.
    pub(in crate::engine) fn attach(
        &mut self,
        owners: &[WorkerIndex],
        queues: Vec<Queue>,
    ) -> Vec<String> {
        let mut order: Vec<usize> = Vec::new();
        let named = owners.iter().map(|worker| usize::from(worker.0));
        for worker in named.chain(0..self.workers.count()) {
            if worker < self.workers.count() && !order.contains(&worker) {
                order.push(worker);
            }
        }
        let attach = |(worker, queue)| {
            let command = Command::AttachUplink(Box::new(queue));
            self.insist(worker, "a new UDP port is not served by it", command)
        };
        order.into_iter().zip(queues).filter_map(attach).collect()
    }

    fn change_tunnel(&mut self, new: &Tunnel) {
        // The protocol drops a peer with its own new key: what else is known of it goes first, while it is found.
        let own = new.private_key.as_ref().map(PrivateKey::public_key);
        let own = own.and_then(|key| self.peer_place(&new.name, &key));
        own.into_iter().for_each(|place| self.remove_peer(place));
        let slot = self.tunnel_slot(&new.name);
        let Some(tunnel) = slot.and_then(|slot| self.tunnels.change(slot)) else {
            return;
        };
        if tunnel.config.private_key != new.private_key {
            tunnel.device.set_private_key(new.private_key.clone());
        }
        let old = std::mem::replace(&mut tunnel.config, new.clone());
        if (old.pmtu, old.mtu) != (new.pmtu, new.mtu) {
            for place in tunnel.peers.values() {
                if let Some(peer) = self.peers.get_mut(*place) {
                    peer.forget_path_mtu();
                }
            }
        }
    }

    fn remove_tunnel(&mut self, slot: usize) {
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.rebuild();
            self.networks.rebuild_behind(&tunnel.name);
        }
        let places = self.tunnels.get(slot).map(|tunnel| &tunnel.peers);
        let places: Vec<_> = places
            .into_iter()
            .flat_map(HashMap::values)
            .copied()
            .collect();
        for place in places {
            self.remove_peer(place);
        }
        self.unrouted.retain(|(_, of, _)| *of != slot);
        let Some(mut tunnel) = self.tunnels.take(slot) else {
            return;
        };
        self.keep_drops(tunnel.uplink, std::mem::take(&mut tunnel.drops));
        if self.parking.is_open() {
            (tunnel.served, tunnel.unserved) = (None, None);
            self.parking.keep_tunnel(slot, tunnel);
        } else {
            tunnel.device.bring_down();
            self.tunnels.vacate(slot);
        }
    }
}
