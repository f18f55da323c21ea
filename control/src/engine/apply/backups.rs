//! A tunnel's further uplinks, as a plan has them.
//!
//! In: a plan. Out: its port on each of them, opened beside what is there; what it has on uplinks that it leaves, closed.
//! Never: sockets touched because the order of choice has changed.

use std::collections::HashMap;

use culvert_dataplane::{
    shared::{
        control_link::Command,
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::{
        Queue,
        udp::{Marker, OpenError},
    },
};

use super::super::{Engine, failover::mark_on, tunnels::Seat, uplinks::open_tunnel};
use super::{
    Left, Prepared,
    sockets::{Sockets, markers},
    tunnels::tunnels,
};
use crate::{
    config::{Name, Tunnel},
    plan::{Change, Edit},
};

/// Sockets on further uplinks, by these uplinks' places. A device needs none.
pub(super) type Opened = HashMap<usize, Vec<Queue>>;

/// Step 2.
impl Engine {
    /// Opens the ports of tunnels on uplinks where they are not open.
    pub(super) fn prepare_backups(
        &self,
        plan: &[Change],
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        for tunnel in self.with_backups(plan, prepared) {
            let present = self.tunnel_slot(&tunnel.name);
            let place = prepared.places.get(&tunnel.name).copied().or(present);
            let (Some(slot), Some(anchor)) = (place, self.anchor(&tunnel, prepared)) else {
                continue;
            };
            let port = self.port_of(&tunnel, prepared);
            let mut opened = Opened::new();
            for uplink in self.uplink_slots(&tunnel, prepared)? {
                if uplink == anchor || self.sits(present, uplink, port) {
                    continue;
                }
                let queues = self.open_backup((&tunnel, slot), uplink, port, prepared)?;
                opened.insert(uplink, queues);
            }
            prepared.backups.insert(tunnel.name.clone(), opened);
        }
        Ok(())
    }

    /// Tunnels that have several uplinks and that a plan changes, or whose uplinks are exchanged.
    fn with_backups(&self, plan: &[Change], prepared: &Prepared) -> Vec<Tunnel> {
        let planned = tunnels(plan).filter_map(Edit::after);
        let planned = planned.filter(|it| !it.backups.is_empty()).cloned();
        let mut all: Vec<_> = planned.collect();
        if !prepared.uplinks.is_empty() {
            let is_planned = |name: &Name| tunnels(plan).any(|edit| &edit.any().name == name);
            let others = self.tunnels.iter().map(|(_, tunnel)| &tunnel.config);
            let others = others.filter(|it| !it.backups.is_empty() && !is_planned(&it.name));
            all.extend(others.map(Tunnel::head));
        }
        all
    }

    /// The uplink to which a tunnel's first sockets belong.
    fn anchor(&self, tunnel: &Tunnel, prepared: &Prepared) -> Option<usize> {
        let seat = prepared.seats.get(&tunnel.name).copied();
        let slot = self.tunnel_slot(&tunnel.name);
        seat.or_else(|| Some(self.tunnels.get(slot?)?.uplink))
    }

    fn port_of(&self, tunnel: &Tunnel, prepared: &Prepared) -> u16 {
        let sockets = prepared.sockets.get(&tunnel.name);
        sockets.map_or(tunnel.listen_port, Sockets::port)
    }

    /// Whether the tunnel has that port on that uplink already.
    fn sits(&self, tunnel: Option<usize>, uplink: usize, port: u16) -> bool {
        let tunnel = tunnel.and_then(|slot| self.tunnels.get(slot));
        tunnel.is_some_and(|it| {
            it.config.listen_port == port && it.uplinks().any(|other| other == uplink)
        })
    }

    fn open_backup(
        &self,
        (tunnel, slot): (&Tunnel, usize),
        uplink: usize,
        port: u16,
        prepared: &Prepared,
    ) -> Result<Vec<Queue>, String> {
        let Some(config) = self.uplink_at(uplink, prepared) else {
            return Ok(Vec::new());
        };
        let seat = (UplinkIndex::from_slot(uplink), TunnelIndex::from_slot(slot));
        let mark = mark_on(tunnel, config);
        let open = |joins| open_tunnel(config, seat, port, mark, self.workers.count(), joins);
        let opened = open(false).or_else(|error| match error {
            // Its own sockets may be what is in the way, bound otherwise.
            OpenError::Taken { .. } if self.tunnel_slot(&tunnel.name).is_some() => open(true),
            error @ (OpenError::Taken { .. }
            | OpenError::Device { .. }
            | OpenError::Bind { .. }) => Err(error),
        });
        opened.map_err(|error| format!("tunnel {}: uplink {}: {error}", tunnel.name, config.name))
    }

    /// What sets the marks of a tunnel's sockets on an uplink where it sits beside its first ones.
    pub(super) fn promoted(&self, slot: usize, uplink: usize, port: u16) -> bool {
        self.tunnels.get(slot).is_some_and(|tunnel| {
            let mut seats = tunnel.backups.iter();
            tunnel.config.listen_port == port && seats.any(|seat| seat.uplink == uplink)
        })
    }
}

/// Step 3.
impl Engine {
    /// The sockets on an uplink, which were a further one's, are the first ones from now on.
    pub(super) fn promote(&mut self, slot: usize, uplink: usize) -> Vec<Marker> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else {
            return Vec::new();
        };
        let place = tunnel.backups.iter().position(|it| it.uplink == uplink);
        place.map_or_else(Vec::new, |place| tunnel.backups.remove(place).markers)
    }

    /// A tunnel goes, and closes its port on its further uplinks.
    pub(super) fn leave_backups(&mut self, slot: usize) -> Vec<String> {
        let seats = self.tunnels.get_mut(slot);
        let seats = seats.map(|tunnel| std::mem::take(&mut tunnel.backups));
        let mut failures = Vec::new();
        for seat in seats.unwrap_or_default() {
            failures.extend(self.detach(slot, seat.uplink));
        }
        failures
    }

    fn detach(&mut self, slot: usize, uplink: usize) -> Vec<String> {
        let seat = (
            UplinkIndex::from_slot(uplink),
            Some(TunnelIndex::from_slot(slot)),
        );
        let detach = || Command::DetachUplink(seat.0, seat.1);
        self.insist_all("a UDP port of a tunnel stays open", detach)
    }

    /// Gives tunnels their ports on their further uplinks, and notes the order of choice. Answers what failed.
    pub(super) fn commit_backups(
        &mut self,
        plan: &[Change],
        mut opened: HashMap<Name, Opened>,
        left: &mut Left,
    ) -> Vec<String> {
        let planned = tunnels(plan).filter_map(Edit::after);
        let planned = planned.filter_map(|it| self.tunnel_slot(&it.name));
        let mut slots: Vec<_> = planned.collect();
        slots.extend(opened.keys().filter_map(|name| self.tunnel_slot(name)));
        slots.extend(left.moved.iter().copied());
        slots.sort_unstable();
        slots.dedup();
        let mut failures = Vec::new();
        for slot in slots {
            let name = self.tunnels.get(slot).map(|tunnel| tunnel.name.clone());
            let opened = name.and_then(|name| opened.remove(&name));
            failures.extend(self.seat(slot, opened.unwrap_or_default(), left));
        }
        failures
    }

    fn seat(&mut self, slot: usize, mut opened: Opened, left: &mut Left) -> Vec<String> {
        let Some(tunnel) = self.tunnels.get(slot) else {
            return Vec::new();
        };
        let config = tunnel.config.head();
        let places = config.uplinks().filter_map(|name| self.uplinks.place(name));
        let order: Vec<_> = places.collect();
        let Some(tunnel) = self.tunnels.change(slot) else {
            return Vec::new();
        };
        let anchor = tunnel.uplink;
        let (mut seats, mut again, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for seat in std::mem::take(&mut tunnel.backups) {
            match (
                order.contains(&seat.uplink),
                opened.contains_key(&seat.uplink),
            ) {
                _ if seat.uplink == anchor => {}
                (true, false) => seats.push(seat),
                (true, true) => again.push(seat.uplink),
                (false, _) => gone.push(seat.uplink),
            }
        }
        let mut queues = Vec::new();
        for &uplink in order.iter().filter(|&&uplink| uplink != anchor) {
            if let Some(opened) = opened.remove(&uplink) {
                let markers = markers(&opened);
                seats.push(Seat { uplink, markers });
                queues.push((uplink, opened));
            }
        }
        (tunnel.backups, tunnel.order) = (seats, order);
        self.lead_home(slot, &gone, left);
        let mut failures = Vec::new();
        for uplink in again {
            failures.extend(self.detach(slot, uplink));
        }
        for (uplink, queues) in queues {
            let owners = self.uplinks.get(uplink);
            let owners = owners.map(|uplink| uplink.config.queue_workers.clone());
            failures.extend(self.attach(&owners.unwrap_or_default(), queues));
        }
        failures.extend(self.mark_seats(slot, &config));
        failures
    }

    /// Peers leave uplinks that their tunnel has left.
    fn lead_home(&mut self, slot: usize, gone: &[usize], left: &mut Left) {
        let tunnel = TunnelIndex::from_slot(slot);
        let seats = gone.iter().map(|&it| (UplinkIndex::from_slot(it), tunnel));
        left.seats.extend(seats);
        if !gone.is_empty() && !left.moved.contains(&slot) {
            left.moved.push(slot);
        }
        let Some(tunnel) = self.tunnels.get(slot) else {
            return;
        };
        let order = tunnel.order.clone();
        let is_open = |slot: &&usize| {
            let uplink = self.uplinks.get(**slot);
            uplink.is_some_and(|uplink| uplink.obstacle().is_none())
        };
        let first = order.iter().find(is_open).copied();
        let first = first.unwrap_or(tunnel.first_choice());
        let uplinks = &self.uplinks;
        let is_off = |slot| uplinks.get(slot).is_some_and(|it| !it.config.enabled);
        for &place in tunnel.peers.values() {
            let Some(peer) = self.peers.get_mut(place) else {
                continue;
            };
            if !order.contains(&peer.uplink) || is_off(peer.uplink) {
                (peer.uplink, peer.local, peer.follows) = (first, None, false);
            }
            // Another uplink may be the first choice.
            peer.outdate_path();
        }
    }

    /// The marks of a tunnel's sockets, each by its uplink.
    fn mark_seats(&mut self, slot: usize, config: &Tunnel) -> Vec<String> {
        let Some(tunnel) = self.tunnels.get(slot).filter(|it| !it.backups.is_empty()) else {
            return Vec::new();
        };
        let first = (tunnel.uplink, &tunnel.markers);
        let seats = tunnel.backups.iter();
        let seats = seats.map(|seat| (seat.uplink, &seat.markers));
        let mut failures = Vec::new();
        for (uplink, markers) in std::iter::once(first).chain(seats) {
            let Some(uplink) = self.uplinks.get(uplink) else {
                continue;
            };
            let mark = mark_on(config, &uplink.config);
            if let Err(error) = markers.iter().try_for_each(|marker| marker.mark(mark)) {
                let (tunnel, uplink) = (&config.name, &uplink.config.name);
                failures.push(format!(
                    "tunnel {tunnel}: can't mark packets on uplink {uplink} with {mark:#x}: {error}"
                ));
            }
        }
        failures
    }
}
