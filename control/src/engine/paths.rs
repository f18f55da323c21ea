//! The ways out: handshake messages to their next hops, and peers' paths when neighbors or endpoints change.
//!
//! In: messages, what host stacks made and learned. Out: commands to workers, published paths.
//! Never: more messages kept for an unknown next hop than `UNROUTED_MAX`, or longer than `UNROUTED_LIFE`.

use std::{sync::Arc, time::Duration};

use culvert_dataplane::shared::{
    control_link::{Command, Inline},
    drops::DropReason,
    ids::{TunnelIndex, UplinkIndex},
    path::Link,
};
use culvert_wireguard::{Instant, Now, Transmit};

use super::{Engine, uplinks::UplinkState};

/// Handshake messages that may wait for a next hop.
const UNROUTED_MAX: usize = 1_024;
/// How long they wait.
const UNROUTED_LIFE: Duration = Duration::from_secs(3);

impl Engine {
    /// Sends a handshake message, or keeps it until its next hop is known.
    pub(super) fn transmit(&mut self, slot: usize, message: Transmit, now: Instant) {
        let Some(tunnel) = self.tunnels.get(slot) else {
            return;
        };
        let peer = message.peer.and_then(|id| tunnel.peers.get(&id).copied());
        let local = peer.and_then(|peer| self.peers.get(peer)?.local);
        let uplink_slot = tunnel.uplink;
        let Some(uplink) = self.uplinks.get_mut(uplink_slot) else {
            return;
        };
        let port = tunnel.config.listen_port;
        let path = uplink.path(message.to, local, port, now);
        if path.link == Link::Unresolved {
            if self.unrouted.len() == UNROUTED_MAX {
                self.unrouted.pop_front();
            }
            self.unrouted
                .push_back((now + UNROUTED_LIFE, slot, message));
            return;
        }
        let Some(inline) = Inline::new(message.bytes()) else {
            return;
        };
        if let Some(peer) = peer.and_then(|peer| self.peers.get(peer)) {
            peer.cell.traffic.sent(1, message.bytes().len() as u64);
        }
        let worker = peer.unwrap_or(0) % self.workers.count();
        let command = Command::Handshake {
            tunnel: TunnelIndex::from_slot(slot),
            path: Arc::new(path),
            message: inline,
        };
        if !self.workers.send(worker, command)
            && let Some(uplink) = self.uplinks.get(uplink_slot)
        {
            uplink.counters.drops.add(DropReason::CommandQueueFull, 1);
        }
    }

    /// Sends what the host stacks made; neighbors that changed change paths.
    pub(super) fn drain_hosts(&mut self, now: Now) {
        let mut resolved = false;
        for slot in 0..self.uplinks.places() {
            let Some(host) = self.uplinks.get_mut(slot).and_then(UplinkState::host) else {
                continue;
            };
            while let Some(frame) = host.poll_frame() {
                let uplink = UplinkIndex::from_slot(slot);
                let frame = frame.into_boxed_slice();
                self.workers.send(0, Command::Frame { uplink, frame });
            }
            let mut changed = Vec::new();
            while let Some(culvert_dataplane::host::HostEvent::Neighbor { address }) =
                host.poll_event()
            {
                changed.push(address);
            }
            if changed.is_empty() {
                continue;
            }
            resolved = true;
            for (_, peer) in self.peers.iter_mut() {
                let tunnel = self.tunnels.get(peer.tunnel).filter(|t| t.uplink == slot);
                let endpoint = tunnel.and_then(|t| t.device.peer(peer.cell.id)?.endpoint);
                let next_hop = endpoint.and_then(|endpoint| host.next_hop(endpoint.ip()));
                if next_hop.is_some_and(|hop| changed.contains(&hop)) {
                    peer.outdate_path();
                }
            }
        }
        if resolved
            || self
                .unrouted
                .front()
                .is_some_and(|&(due, ..)| due <= now.monotonic)
        {
            for (due, tunnel, message) in std::mem::take(&mut self.unrouted) {
                if due > now.monotonic {
                    self.transmit(tunnel, message, now.monotonic);
                }
            }
        }
    }

    pub(super) fn rebuild_paths(&mut self, now: Instant) {
        for slot in self.outdated.take() {
            self.rebuild_path(slot, now);
        }
    }

    /// Publishes the way to a peer's present endpoint.
    pub(super) fn rebuild_path(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.renew_path(now);
        let Some(tunnel) = self.tunnels.get(peer.tunnel) else {
            return;
        };
        let Some(uplink) = self.uplinks.get_mut(tunnel.uplink) else {
            return;
        };
        let endpoint = tunnel
            .device
            .peer(peer.cell.id)
            .and_then(|status| status.endpoint);
        let port = tunnel.config.listen_port;
        let path = endpoint.map(|endpoint| uplink.path(endpoint, peer.local, port, now));
        if peer.cell.path().as_deref() != path.as_ref() {
            peer.cell.publish_path(path);
        }
    }
}
