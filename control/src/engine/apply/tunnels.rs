//! Tunnels, as a plan has them.
//!
//! In: a plan. Out: sockets that are opened for it, or handed from one tunnel to another; the tunnels as it has them.
//! Never: a session lost of a peer that stays; a UDP port closed that another tunnel is to have.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_dataplane::{
    shared::{
        control_link::{Command, Seat},
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::{
        Queue,
        udp::{self, Marker},
    },
};
use ipnet::IpNet;

use super::super::{
    Engine,
    tunnels::TunnelState,
    uplinks::{free_port, open_tunnel},
};
use super::{Left, Prepared};
use crate::{
    config::{self, Name, Tunnel, UplinkDriver, WorkerIndex},
    keys::PrivateKey,
    plan::{Change, Edit},
};

/// How long workers may take to give up sockets: they do at their next turn.
const CLOSING: Duration = Duration::from_secs(1);
/// Ports that are tried when any will do.
const PORT_TRIES: usize = 20;

/// A tunnel's port.
pub(super) enum Sockets {
    /// On a UDP uplink bound.
    Opened { port: u16, queues: Vec<Queue> },
    /// That of the tunnel at this place, which gives it up.
    Inherited { port: u16, from: usize },
}

/// Why a port can't be had.
#[derive(Default)]
struct Refusal {
    /// Somebody has it.
    is_taken: bool,
    error: String,
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

/// A tunnel that is to have a port, and the place of its uplink.
pub(super) struct Moving {
    tunnel: Tunnel,
    uplink: usize,
}

/// A tunnel that can have its port only when those at these places have closed theirs.
pub(super) type Late = (Moving, Vec<usize>);

/// What a port is a port of: ports of different ones don't meet, though the kernel may object.
#[derive(PartialEq, Eq, Hash)]
enum Binding {
    /// Sockets that are bound to these addresses, by way of this interface.
    Sockets(Vec<IpAddr>, Option<String>),
    /// That uplink's device.
    Device(usize),
}

fn binding(slot: usize, uplink: &config::Uplink) -> Binding {
    match &uplink.driver {
        UplinkDriver::Dpdk(_) => Binding::Device(slot),
        UplinkDriver::Udp(driver) => {
            let addresses: Vec<_> = uplink.addresses.iter().map(IpNet::addr).collect();
            Binding::Sockets(udp::binds(&addresses), driver.device.clone())
        }
    }
}

/// Step 2.
impl Engine {
    /// Sees to the ports of new tunnels, and of those that move: each is inherited from a tunnel that gives it up, or
    /// opened beside the old ones. Answers those that can't be while an old one is open.
    pub(super) fn prepare_tunnels(
        &mut self,
        plan: &[Change],
        prepared: &mut Prepared,
    ) -> Result<Vec<Late>, String> {
        let mut late = Vec::new();
        let moving = self.moving(plan, prepared)?;
        for Moving { tunnel, uplink } in &moving {
            prepared.seats.insert(tunnel.name.clone(), *uplink);
        }
        let given_up = self.given_up(plan, prepared);
        for moving in moving {
            let new = &moving.tunnel;
            let slot = match self.tunnel_slot(&new.name) {
                Some(slot) => slot,
                None => {
                    let parked = self.parking.place(&new.name);
                    let slot = parked.unwrap_or_else(|| self.tunnels.reserve());
                    prepared.places.insert(new.name.clone(), slot);
                    slot
                }
            };
            let inherited = self.inherited(slot, &moving, &given_up, prepared);
            let sockets = match inherited {
                Some(from) => Ok(Sockets::Inherited {
                    port: new.listen_port,
                    from,
                }),
                None => self.open_sockets(&moving, slot, prepared, false),
            };
            match sockets {
                Ok(sockets) => {
                    prepared.sockets.insert(new.name.clone(), sockets);
                }
                Err(Refusal { is_taken, error }) => {
                    let holders = given_up
                        .iter()
                        .filter(|&&from| self.has_socket(from, new.listen_port));
                    let holders: Vec<_> = holders.copied().collect();
                    if !is_taken || holders.is_empty() {
                        return Err(error);
                    }
                    late.push((moving, holders));
                }
            }
        }
        Ok(late)
    }

    /// Tunnels that are to have ports: those that a plan adds or moves, and those whose uplink is exchanged.
    fn moving(&self, plan: &[Change], prepared: &Prepared) -> Result<Vec<Moving>, String> {
        let mut moving = Vec::new();
        for edit in tunnels(plan) {
            let Some(new) = edit.after() else { continue };
            let uplink = self.uplink_of(new, prepared)?;
            let present = self
                .tunnel_slot(&new.name)
                .and_then(|slot| self.tunnels.get(slot));
            if moves(edit) || present.is_none_or(|tunnel| tunnel.uplink != uplink) {
                let tunnel = new.clone();
                moving.push(Moving { tunnel, uplink });
            }
        }
        if prepared.uplinks.is_empty() {
            return Ok(moving);
        }
        let planned: HashSet<_> = tunnels(plan).map(|edit| &edit.any().name).collect();
        let unplanned = self
            .tunnels
            .iter()
            .filter(|(_, it)| !planned.contains(&it.name));
        moving.extend(unplanned.filter_map(|(_, it)| {
            let uplink = prepared.uplinks.get(&it.config.uplink)?.slot;
            let tunnel = it.config.clone();
            Some(Moving { tunnel, uplink })
        }));
        Ok(moving)
    }

    /// Tunnels that give up the sockets that they have.
    fn given_up(&self, plan: &[Change], prepared: &Prepared) -> Vec<usize> {
        let removed = tunnels(plan).filter_map(|edit| match edit {
            Edit::Remove(old) => Some(&old.name),
            Edit::Add(_) | Edit::Change { .. } => None,
        });
        let all = removed.chain(prepared.seats.keys());
        all.filter_map(|name| self.tunnel_slot(name)).collect()
    }

    /// The place of the tunnel that leaves its sockets to the one at `slot`. To another uplink a tunnel takes its own
    /// along, or none.
    fn inherited(
        &self,
        slot: usize,
        moving: &Moving,
        given_up: &[usize],
        prepared: &Prepared,
    ) -> Option<usize> {
        let (port, wanted) = (
            moving.tunnel.listen_port,
            self.uplink_at(moving.uplink, prepared)?,
        );
        let wanted = binding(moving.uplink, wanted);
        given_up.iter().copied().find(|&from| {
            let Some(tunnel) = self.tunnels.get(from) else {
                return false;
            };
            let there = self.uplinks.get(tunnel.uplink);
            let there = there.map(|uplink| binding(tunnel.uplink, &uplink.config));
            let is_near = tunnel.uplink == moving.uplink || from == slot;
            is_near && tunnel.config.listen_port == port && there.as_ref() == Some(&wanted)
        })
    }

    /// Whether the kernel has a socket of that tunnel on that port.
    fn has_socket(&self, slot: usize, port: u16) -> bool {
        let tunnel = self.tunnels.get(slot);
        tunnel.is_some_and(|it| it.config.listen_port == port && !it.markers.is_empty())
    }

    /// The place that the uplink of a tunnel has when the plan is carried out.
    fn uplink_of(&self, tunnel: &Tunnel, prepared: &Prepared) -> Result<usize, String> {
        let coming = prepared
            .uplinks
            .get(&tunnel.uplink)
            .map(|coming| coming.slot);
        let found = coming.or_else(|| self.uplinks.place(&tunnel.uplink));
        found.ok_or_else(|| format!("tunnel {}: no uplink {}", tunnel.name, tunnel.uplink))
    }

    fn uplink_at<'a>(&'a self, slot: usize, prepared: &'a Prepared) -> Option<&'a config::Uplink> {
        let coming = prepared.uplinks.values().find(|coming| coming.slot == slot);
        let coming = coming.map(|coming| &coming.config);
        coming.or_else(|| self.uplinks.get(slot).map(|uplink| &uplink.config))
    }

    fn open_sockets(
        &self,
        Moving { tunnel, uplink }: &Moving,
        slot: usize,
        prepared: &Prepared,
        joins: bool,
    ) -> Result<Sockets, Refusal> {
        let refused = |error: String, is_taken| Refusal {
            is_taken,
            error: format!("tunnel {}: {error}", tunnel.name),
        };
        let Some(config) = self.uplink_at(*uplink, prepared) else {
            return Err(refused("its uplink is gone".into(), false));
        };
        let seat = (
            UplinkIndex::from_slot(*uplink),
            TunnelIndex::from_slot(slot),
        );
        let open = |port| -> Result<Sockets, Refusal> {
            let workers = self.workers.count();
            let queues = open_tunnel(config, seat, port, tunnel.fwmark, workers, joins);
            let queues = queues.map_err(|error| {
                let is_taken = matches!(error, udp::OpenError::Taken { .. });
                refused(format!("uplink {}: {error}", config.name), is_taken)
            })?;
            Ok(Sockets::Opened { port, queues })
        };
        if tunnel.listen_port == 0 {
            return self.choose_port(*uplink, config, open);
        }
        open(tunnel.listen_port)
    }

    /// Opens sockets that only the tunnel's own stand in the way of, then closes others and opens those that can't be open
    /// beside them.
    pub(super) fn displace_sockets(
        &mut self,
        mut late: Vec<Late>,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        late.retain(|(moving, holders)| {
            let name = &moving.tunnel.name;
            let own = self.tunnel_slot(name).filter(|own| holders == &[*own]);
            // Bound otherwise, both are of use: what comes by either is the tunnel's.
            let joined = own.map(|slot| self.open_sockets(moving, slot, prepared, true));
            let joined = joined.and_then(Result::ok);
            let is_late = joined.is_none();
            prepared
                .sockets
                .extend(joined.map(|sockets| (name.clone(), sockets)));
            is_late
        });
        for holder in late.iter().flat_map(|(_, holders)| holders) {
            if !prepared.unseated.contains(holder) {
                prepared.unseated.push(*holder);
                self.unseat(*holder)?;
            }
        }
        for (moving, _) in late {
            let name = &moving.tunnel.name;
            let place = prepared.places.get(name).copied();
            let Some(slot) = place.or_else(|| self.tunnel_slot(name)) else {
                continue;
            };
            let sockets = self.open_sockets(&moving, slot, prepared, false);
            let sockets = sockets.map_err(|refusal| refusal.error)?;
            prepared.sockets.insert(name.clone(), sockets);
        }
        Ok(())
    }

    /// Has workers give up a tunnel's sockets, and closes them.
    fn unseat(&mut self, slot: usize) -> Result<(), String> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else {
            return Ok(());
        };
        let seat = (
            UplinkIndex::from_slot(tunnel.uplink),
            TunnelIndex::from_slot(slot),
        );
        let (name, port) = (tunnel.name.clone(), tunnel.config.listen_port);
        let markers = std::mem::take(&mut tunnel.markers);
        let lost = format!("UDP port {port} of tunnel {name} stays open");
        let failures = self.insist_all(&lost, || Command::DetachUplink(seat.0, Some(seat.1)));
        let end = Instant::now() + CLOSING;
        while failures.is_empty() && !markers.iter().all(Marker::is_last) {
            if Instant::now() >= end {
                return Err(lost);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures.join("; ")),
        }
    }

    /// Undoes that; answers what could not be undone.
    pub(super) fn restore_sockets(&mut self, prepared: &mut Prepared) -> Vec<String> {
        // They may stand in the way.
        prepared.sockets.clear();
        let mut left = Vec::new();
        for slot in std::mem::take(&mut prepared.unseated) {
            left.extend(self.seat_again(slot).err());
        }
        left
    }

    fn seat_again(&mut self, slot: usize) -> Result<(), String> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else {
            return Ok(());
        };
        let Some(uplink) = self.uplinks.get(tunnel.uplink) else {
            return Ok(());
        };
        let seat = (
            UplinkIndex::from_slot(tunnel.uplink),
            TunnelIndex::from_slot(slot),
        );
        let (port, fwmark) = (tunnel.config.listen_port, tunnel.config.fwmark);
        let workers = self.workers.count();
        let queues = open_tunnel(&uplink.config, seat, port, fwmark, workers, false);
        let queues =
            queues.map_err(|error| format!("tunnel {} has no port: {error}", tunnel.name))?;
        tunnel.markers = markers(&queues);
        let owners = uplink.config.queue_workers.clone();
        let failures = self.attach(&owners, queues);
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures.join("; ")),
        }
    }

    /// Opens a port that is free. Somebody may take it between the look and the bind: then another.
    fn choose_port(
        &self,
        index: usize,
        uplink: &config::Uplink,
        open: impl Fn(u16) -> Result<Sockets, Refusal>,
    ) -> Result<Sockets, Refusal> {
        let mut refused = Refusal::default();
        for _ in 0..PORT_TRIES {
            let port = free_port(uplink).map_err(|error| Refusal {
                is_taken: false,
                error,
            })?;
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
        for edit in tunnels(plan) {
            if let Edit::Remove(old) = edit
                && let Some(slot) = self.tunnel_slot(&old.name)
            {
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
                Sockets::Opened { .. } => None,
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
                    (peer.uplink, peer.local) = (tunnel.uplink, None);
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

fn markers(queues: &[Queue]) -> Vec<Marker> {
    queues.iter().filter_map(Queue::marker).collect()
}
