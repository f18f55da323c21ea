//! UDP uplinks that are bound to an interface, and that interface.
//!
//! In: the kernel's news of links. Out: sockets bound again to an interface that was made anew, the uplink's state.
//! Never: a look at an interface that no uplink names; an uplink shown as up that is bound to what is gone.

use culvert_wireguard::{Now, PeerUpdate};

use super::Engine;
use crate::{config::UplinkDriver, netlink::index_of};

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
            let Some(device) = driver.device.clone() else {
                continue;
            };
            let found = index_of(&device);
            if uplink.device_index == found {
                continue;
            }
            let name = uplink.config.name.clone();
            let Some(found) = found else {
                uplink.device_index = None;
                uplink.link_up = Some(false);
                tracing::warn!(uplink = %name, device, "the interface is gone: nothing passes until it is there again");
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
                    tracing::info!(uplink = %name, device, "the interface is there again: bound to it anew");
                    self.call_again(slot, now);
                }
                Err(error) if !was_refused => {
                    tracing::error!(uplink = %name, device, %error, "can't bind to the interface anew (it takes CAP_NET_RAW): nothing passes; it is tried again every second, and a restart mends it");
                }
                Err(_) => {}
            }
        }
    }

    fn bind_again(&self, uplink: usize, device: &str) -> std::io::Result<()> {
        let tunnels = self.tunnels.iter().map(|(_, tunnel)| tunnel);
        tunnels
            .filter(|tunnel| tunnel.uplink == uplink)
            .flat_map(|tunnel| &tunnel.markers)
            .try_for_each(|marker| marker.bind_to_device(device))
    }

    /// Peers that did not answer could not hear us.
    fn call_again(&mut self, uplink: usize, now: Now) {
        for (_, peer) in self.peers.iter_mut() {
            let tunnel = self.tunnels.get_mut(peer.tunnel);
            let Some(tunnel) = tunnel.filter(|tunnel| tunnel.uplink == uplink) else {
                continue;
            };
            peer.local = None;
            peer.outdate_path();
            let status = tunnel.device.peer(peer.cell.id);
            let silent = status.filter(|status| status.unanswered > 0);
            if let Some(endpoint) = silent.and_then(|status| status.endpoint) {
                let update = PeerUpdate {
                    endpoint: Some(endpoint),
                    ..PeerUpdate::default()
                };
                tunnel.device.update_peer(peer.cell.id, update, now);
            }
        }
    }
}
