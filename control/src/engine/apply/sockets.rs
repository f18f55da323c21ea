//! The sockets of tunnels, as a plan has them.
//!
//! In: a plan. Out: sockets that are opened for it, beside those that are there or in their place; undone, if what comes
//! after fails. Never: a UDP port closed that another tunnel is to have.

use std::{
    collections::HashSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use culvert_dataplane::{
    shared::{
        control_link::Command,
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
    uplinks::{free_port, open_tunnel},
};
use super::{
    Prepared,
    tunnels::{moves, tunnels},
};
use crate::{
    config::{self, Tunnel, UplinkDriver},
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
    /// What the tunnel has on that uplink already, as one of several.
    Promoted { port: u16 },
}

/// Why a port can't be had.
#[derive(Default)]
struct Refusal {
    /// Somebody has it.
    is_taken: bool,
    error: String,
}

impl Sockets {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Opened { port, .. } | Self::Inherited { port, .. } | Self::Promoted { port } => {
                *port
            }
        }
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
        // What is switched off has no sockets to inherit or to leave.
        UplinkDriver::Udp(_) if !uplink.enabled => Binding::Device(slot),
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
                _ if self.promoted(slot, moving.uplink, new.listen_port) => Ok(Sockets::Promoted {
                    port: new.listen_port,
                }),
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
            let uplink = self.uplink_of(&it.config, prepared).ok()?;
            let tunnel = it.config.clone();
            (uplink != it.uplink).then_some(Moving { tunnel, uplink })
        }));
        Ok(moving)
    }

    /// Tunnels that give up the sockets that they have.
    pub(super) fn given_up(&self, plan: &[Change], prepared: &Prepared) -> Vec<usize> {
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

    /// The place of the uplink to which a tunnel's first sockets belong when the plan is carried out: of several the one
    /// where they are, if that stays.
    fn uplink_of(&self, tunnel: &Tunnel, prepared: &Prepared) -> Result<usize, String> {
        let slots = self.uplink_slots(tunnel, prepared)?;
        let present = self.tunnel_slot(&tunnel.name);
        let present = present.and_then(|slot| Some(self.tunnels.get(slot)?.uplink));
        let present = present.filter(|present| slots.contains(present));
        let found = present.or_else(|| slots.first().copied());
        found.ok_or_else(|| format!("tunnel {}: no uplink {}", tunnel.name, tunnel.uplink))
    }

    /// The places that the uplinks of a tunnel have then, the first choice first.
    pub(super) fn uplink_slots(
        &self,
        tunnel: &Tunnel,
        prepared: &Prepared,
    ) -> Result<Vec<usize>, String> {
        let slot = |name: &config::Name| {
            let coming = prepared.uplinks.get(name).map(|coming| coming.slot);
            let found = coming.or_else(|| self.uplinks.place(name));
            found.ok_or_else(|| format!("tunnel {}: no uplink {name}", tunnel.name))
        };
        tunnel.uplinks().map(slot).collect()
    }

    pub(super) fn uplink_at<'a>(
        &'a self,
        slot: usize,
        prepared: &'a Prepared,
    ) -> Option<&'a config::Uplink> {
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
        prepared.backups.clear();
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
                // Each seat of several is marked by its uplink, later.
                Some(Sockets::Opened { .. } | Sockets::Promoted { .. }) => continue,
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

pub(super) fn markers(queues: &[Queue]) -> Vec<Marker> {
    queues.iter().filter_map(Queue::marker).collect()
}
