//! UDP uplinks that are bound to an interface, and that interface.
//!
//! In: the kernel's news of links. Out: other sockets on an interface that was made anew, the uplink's state.
//! Never: a look at an interface that no uplink names; an uplink shown as up that is bound to what is gone.

use culvert_dataplane::{
    shared::{
        control_link::Command,
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::Queue,
};
use culvert_wireguard::Now;

use super::{Engine, failover::mark_on, tunnels::TunnelState, uplinks::open_tunnel};
use crate::{
    config::UplinkDriver,
    events::Event,
    netlink::{Netlink, index_of},
};

impl Engine {
    /// Looks at the interfaces that uplinks name: after news of links, and while one could not be bound to.
    pub(super) fn follow_devices(&mut self, now: Now) {
        for slot in 0..self.uplinks.places() {
            let Some(uplink) = self.uplinks.get_mut(slot) else {
                continue;
            };
            let UplinkDriver::Udp(driver) = &uplink.config.driver else {
                continue;
            };
            if !uplink.config.enabled {
                continue;
            }
            let Some(device) = driver.device.clone() else {
                continue;
            };
            let found = index_of(&device);
            if uplink.device_index == found {
                if let Some(up) = found.and_then(runs).filter(|_| !uplink.is_refused) {
                    uplink.note_link(up);
                }
                continue;
            }
            let name = uplink.config.name.clone();
            let Some(found) = found else {
                uplink.device_index = None;
                uplink.link_up = Some(false);
                Event::UplinkGone {
                    uplink: name,
                    device,
                }
                .tell();
                continue;
            };
            let bound = self.bind_again(slot, &device);
            let Some(uplink) = self.uplinks.get_mut(slot) else {
                continue;
            };
            uplink.link_up = Some(bound.is_ok());
            let was_refused = std::mem::replace(&mut uplink.is_refused, bound.is_err());
            match bound {
                Ok(()) => {
                    uplink.device_index = Some(found);
                    Event::UplinkBack {
                        uplink: name,
                        device,
                    }
                    .tell();
                    self.call_again(slot, now);
                }
                Err(error) if !was_refused => {
                    Event::UplinkUnbound {
                        uplink: name,
                        device,
                        error,
                    }
                    .tell();
                }
                Err(_) => {}
            }
        }
    }

    /// Gives tunnels sockets on the interface that has this name now, as far as theirs are bound to another; answers
    /// why not, of the first that has none.
    fn bind_again(&mut self, uplink: usize, device: &str) -> Result<(), String> {
        let is_astray = |tunnel: &mut TunnelState| {
            let markers = tunnel.markers_on(uplink);
            markers.is_some_and(|markers| {
                let is_bound = markers.iter().all(|marker| marker.is_bound_to(device));
                markers.is_empty() || !is_bound
            })
        };
        let tunnels = self.tunnels.iter_mut();
        let astray: Vec<_> = tunnels
            .filter_map(|(slot, tunnel)| is_astray(tunnel).then_some(slot))
            .collect();
        let mut result = Ok(());
        for slot in astray {
            result = result.and(self.exchange_sockets(slot, uplink));
        }
        result
    }

    /// Opens a tunnel's port once more, beside its sockets on an interface that is gone, which are closed then.
    fn exchange_sockets(&mut self, slot: usize, at: usize) -> Result<(), String> {
        let workers = self.workers.count();
        let Some(tunnel) = self.tunnels.get_mut(slot) else {
            return Ok(());
        };
        let Some(uplink) = self.uplinks.get(at) else {
            return Ok(());
        };
        let port = tunnel.config.listen_port;
        let fwmark = mark_on(&tunnel.config, &uplink.config);
        let Some(markers) = tunnel.markers_on(at) else {
            return Ok(());
        };
        let (at, index) = (UplinkIndex::from_slot(at), TunnelIndex::from_slot(slot));
        let queues = open_tunnel(&uplink.config, (at, index), port, fwmark, workers, false);
        let queues = queues.map_err(|error| error.to_string())?;
        *markers = queues.iter().filter_map(Queue::marker).collect();
        let owners = uplink.config.queue_workers.clone();
        let detach = || Command::DetachUplink(at, Some(index));
        let mut failures = self.insist_all("it keeps sockets of an interface that is gone", detach);
        failures.extend(self.attach(&owners, queues));
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures.join("; ")),
        }
    }

    /// Peers that did not answer could not hear us.
    fn call_again(&mut self, uplink: usize, now: Now) {
        let mut here = Vec::new();
        for (place, peer) in self.peers.iter_mut() {
            if peer.uplink == uplink {
                peer.local = None;
                peer.outdate_path();
                here.push(place);
            }
        }
        for place in here {
            self.call_silent(place, now);
        }
    }
}

/// Whether packets can pass by an interface, if that can be found out.
fn runs(index: u32) -> Option<bool> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link_by_index(index));
    link.ok().flatten().map(|link| link.running)
}
