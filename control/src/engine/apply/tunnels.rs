//! Tunnels, as a plan has them.
//!
//! In: a plan. Out: sockets that are opened for it, or handed from one tunnel to another; the tunnels as it has them.
//! Never: a session lost of a peer that stays; a UDP port closed that another tunnel is to have.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use culvert_dataplane::{
    shared::{
        control_link::Command,
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::{Queue, udp::Marker},
};

use super::super::{Engine, tunnels::TunnelState, uplinks::UplinkState};
use super::Prepared;
use crate::{
    config::{Name, Tunnel, WorkerIndex},
    keys::PrivateKey,
    plan::{Change, Edit},
};

/// Ports that are tried when any will do.
const PORT_TRIES: usize = 20;

/// A tunnel's port.
pub(super) enum Sockets {
    /// On a UDP uplink bound.
    Opened { port: u16, queues: Vec<Queue> },
    /// That of the tunnel at this place, which gives it up.
    Inherited { port: u16, from: usize },
}

impl Sockets {
    fn port(&self) -> u16 {
        match self {
            Self::Opened { port, .. } | Self::Inherited { port, .. } => *port,
        }
    }
}

/// The tunnels that a plan changes, without their peers.
fn tunnels(plan: &[Change]) -> impl Iterator<Item = &Edit<Tunnel>> {
    plan.iter().filter_map(Change::tunnel)
}

/// Whether a tunnel is to have another port than it has.
fn moves(edit: &Edit<Tunnel>) -> bool {
    match edit {
        Edit::Add(_) => true,
        Edit::Change { old, new } => old.listen_port != new.listen_port,
        Edit::Remove(_) => false,
    }
}

/// Step 2.
impl Engine {
    /// Sees to the ports of new tunnels, and of those that move: each is inherited from a tunnel that gives it up, or
    /// opened beside the old ones.
    pub(super) fn prepare_tunnels(
        &mut self,
        plan: &[Change],
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        let given_up = self.given_up(plan);
        for edit in tunnels(plan).filter(|edit| moves(edit)) {
            let Some(new) = edit.after() else { continue };
            let slot = match self.tunnel_slot(&new.name) {
                Some(slot) => slot,
                None => {
                    let slot = self.tunnels.reserve();
                    prepared.places.insert(new.name.clone(), slot);
                    slot
                }
            };
            let (uplink, _) = self.uplink_of(new)?;
            let sockets = match given_up.get(&(uplink, new.listen_port)) {
                Some(&from) => Sockets::Inherited {
                    port: new.listen_port,
                    from,
                },
                None => self.open_sockets(new, slot, &given_up)?,
            };
            prepared.sockets.insert(new.name.clone(), sockets);
        }
        Ok(())
    }

    /// Ports that their tunnels give up, by uplink and number.
    fn given_up(&self, plan: &[Change]) -> HashMap<(usize, u16), usize> {
        let going = tunnels(plan).filter(|edit| match edit {
            Edit::Remove(_) => true,
            Edit::Add(_) | Edit::Change { .. } => moves(edit),
        });
        let slots = going.filter_map(|edit| self.tunnel_slot(&edit.before()?.name));
        slots
            .filter_map(|slot| {
                let tunnel = self.tunnels.get(slot)?;
                Some(((tunnel.uplink, tunnel.config.listen_port), slot))
            })
            .collect()
    }

    fn uplink_of(&self, tunnel: &Tunnel) -> Result<(usize, &UplinkState), String> {
        let named = |(_, uplink): &(usize, &UplinkState)| uplink.config.name == tunnel.uplink;
        let found = self.uplinks.iter().find(named);
        found.ok_or_else(|| format!("tunnel {}: no uplink {}", tunnel.name, tunnel.uplink))
    }

    fn open_sockets(
        &self,
        tunnel: &Tunnel,
        slot: usize,
        given_up: &HashMap<(usize, u16), usize>,
    ) -> Result<Sockets, String> {
        let (index, uplink) = self.uplink_of(tunnel)?;
        let open = |port| -> Result<Sockets, String> {
            let queues = uplink.open_tunnel(
                UplinkIndex::from_slot(index),
                TunnelIndex::from_slot(slot),
                port,
                tunnel.fwmark,
                self.workers.count(),
            );
            let queues = queues.map_err(|error| format!("tunnel {}: {error}", tunnel.name))?;
            Ok(Sockets::Opened { port, queues })
        };
        if tunnel.listen_port == 0 {
            return self.choose_port(index, uplink, open);
        }
        open(tunnel.listen_port).map_err(|error| {
            let mut holders = given_up.iter();
            let holder = holders.find(|((_, port), _)| *port == tunnel.listen_port);
            let holder = holder.and_then(|(_, &slot)| self.tunnels.get(slot));
            holder.map_or(error, |holder| {
                format!("tunnel {}: port {} is that of tunnel {} on another uplink until this change is done: take it away in a change of its own first", tunnel.name, tunnel.listen_port, holder.name)
            })
        })
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

    /// Has sockets that stay mark packets as the plan wants them.
    pub(super) fn mark_packets(
        &self,
        plan: &[Change],
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        for new in tunnels(plan).filter_map(Edit::after) {
            let stays = match prepared.sockets.get(&new.name) {
                Some(Sockets::Opened { .. }) => continue,
                Some(Sockets::Inherited { from, .. }) => Some(*from),
                None => self.tunnel_slot(&new.name),
            };
            let Some(tunnel) = stays.and_then(|slot| self.tunnels.get(slot)) else {
                continue;
            };
            if tunnel.config.fwmark == new.fwmark {
                continue;
            }
            prepared.marked.extend(stays);
            mark(&tunnel.markers, new.fwmark).map_err(|error| {
                format!(
                    "tunnel {}: can't mark packets with {:#x}: {error} (it takes CAP_NET_ADMIN)",
                    new.name, new.fwmark
                )
            })?;
        }
        Ok(())
    }

    /// Undoes that; answers what could not be undone.
    pub(super) fn unmark_packets(&self, marked: &[usize]) -> Vec<String> {
        let tunnels = marked.iter().filter_map(|&slot| self.tunnels.get(slot));
        tunnels
            .filter_map(|tunnel| {
                let error = mark(&tunnel.markers, tunnel.config.fwmark).err()?;
                let (name, mark) = (&tunnel.name, tunnel.config.fwmark);
                Some(format!(
                    "tunnel {name}: can't mark packets with {mark:#x} again: {error}"
                ))
            })
            .collect()
    }
}

fn mark(markers: &[Marker], mark: u32) -> std::io::Result<()> {
    markers.iter().try_for_each(|marker| marker.mark(mark))
}

/// Step 3.
impl Engine {
    /// Exchanges the tunnels; whether a port is closed for it, and what failed.
    pub(super) fn commit_tunnels(
        &mut self,
        plan: &mut [Change],
        prepared: &mut Prepared,
    ) -> (bool, Vec<String>) {
        for change in plan.iter_mut() {
            // From here on the plan has the number that was chosen.
            if let Change::Tunnel(Edit::Add(new) | Edit::Change { new, .. }) = change
                && let Some(sockets) = prepared.sockets.get(&new.name)
            {
                new.listen_port = sockets.port();
            }
        }
        let (closed, mut failures) = self.give_up_ports(plan, prepared);
        failures.extend(self.hand_ports_over(prepared));
        for edit in tunnels(plan) {
            match edit {
                Edit::Add(new) => self.add_tunnel(new, prepared),
                Edit::Change { new, .. } => self.change_tunnel(new),
                Edit::Remove(_) => {}
            }
        }
        failures.extend(self.take_ports(std::mem::take(&mut prepared.sockets)));
        for edit in tunnels(plan) {
            if let Edit::Remove(old) = edit
                && let Some(slot) = self.tunnel_slot(&old.name)
            {
                self.remove_tunnel(slot);
            }
        }
        (closed, failures)
    }

    /// Has workers close the sockets that nobody inherits; whether there are such, and what failed.
    fn give_up_ports(&mut self, plan: &[Change], prepared: &Prepared) -> (bool, Vec<String>) {
        let inherited: HashSet<usize> = prepared
            .sockets
            .values()
            .filter_map(|sockets| match sockets {
                Sockets::Inherited { from, .. } => Some(*from),
                Sockets::Opened { .. } => None,
            })
            .collect();
        let mut going: Vec<_> = self.given_up(plan).into_values().collect();
        going.retain(|slot| !inherited.contains(slot));
        let mut failures = Vec::new();
        for &slot in &going {
            let Some(tunnel) = self.tunnels.get_mut(slot) else {
                continue;
            };
            tunnel.markers = Vec::new();
            let uplink = UplinkIndex::from_slot(tunnel.uplink);
            let index = TunnelIndex::from_slot(slot);
            let port = tunnel.config.listen_port;
            let lost = format!("UDP port {port} of tunnel {} stays open", tunnel.name);
            let detach = || Command::DetachUplink(uplink, Some(index));
            failures.extend(self.insist_all(&lost, detach));
        }
        (!going.is_empty(), failures)
    }

    /// Tells workers whose the sockets are that are inherited; answers what failed.
    fn hand_ports_over(&mut self, prepared: &Prepared) -> Vec<String> {
        let mut pairs: HashMap<usize, Vec<(TunnelIndex, TunnelIndex)>> = HashMap::new();
        for (name, sockets) in &prepared.sockets {
            let Sockets::Inherited { from, .. } = sockets else {
                continue;
            };
            let place = prepared.places.get(name).copied();
            let heir = place.or_else(|| self.tunnel_slot(name));
            if let (Some(heir), Some(tunnel)) = (heir, self.tunnels.get(*from)) {
                let pair = (TunnelIndex::from_slot(*from), TunnelIndex::from_slot(heir));
                pairs.entry(tunnel.uplink).or_default().push(pair);
            }
        }
        let mut failures = Vec::new();
        for (uplink, pairs) in pairs {
            let pairs: Arc<[_]> = pairs.into();
            let uplink = UplinkIndex::from_slot(uplink);
            let lost = "UDP ports stay with the tunnels that they were of";
            let hand_over = || Command::HandOver(uplink, Arc::clone(&pairs));
            failures.extend(self.insist_all(lost, hand_over));
        }
        failures
    }

    /// Gives tunnels their new ports. All are taken from their old owners first: two may swap. Answers
    /// what failed.
    fn take_ports(&mut self, sockets: HashMap<Name, Sockets>) -> Vec<String> {
        let mut failures = Vec::new();
        let taken: Vec<_> = sockets
            .into_iter()
            .map(|(name, sockets)| match sockets {
                Sockets::Opened { queues, .. } => (name, markers(&queues), queues),
                Sockets::Inherited { from, .. } => {
                    let owner = self.tunnels.get_mut(from);
                    let markers = owner.map(|owner| std::mem::take(&mut owner.markers));
                    (name, markers.unwrap_or_default(), Vec::new())
                }
            })
            .collect();
        for (name, markers, queues) in taken {
            let slot = self.tunnel_slot(&name);
            let Some(tunnel) = slot.and_then(|slot| self.tunnels.get_mut(slot)) else {
                continue;
            };
            tunnel.markers = markers;
            let uplink = self.uplinks.get(tunnel.uplink);
            let owners = uplink.map(|uplink| uplink.config.queue_workers.clone());
            for place in tunnel.peers.values() {
                // The port is part of a path, and the kernel chooses the source anew (as `set_port` of wireguard's).
                if let Some(peer) = self.peers.get_mut(*place) {
                    peer.local = None;
                    peer.outdate_path();
                }
            }
            failures.extend(self.attach(&owners.unwrap_or_default(), queues));
        }
        failures
    }

    fn add_tunnel(&mut self, new: &Tunnel, prepared: &mut Prepared) {
        let (Some(slot), Ok((uplink, _))) =
            (prepared.places.remove(&new.name), self.uplink_of(new))
        else {
            // `prepare_tunnels` sees to both.
            return;
        };
        let state = TunnelState::new(new.clone(), uplink);
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
        tunnel.config = new.clone();
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
        if let Some(mut tunnel) = self.tunnels.remove(slot) {
            tunnel.device.bring_down();
        }
    }
}

fn markers(queues: &[Queue]) -> Vec<Marker> {
    queues.iter().filter_map(Queue::marker).collect()
}
