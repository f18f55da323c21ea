//! The ways out: handshake messages to their next hops, and peers' paths when neighbors or endpoints change.
//!
//! In: messages, what host stacks made and learned. Out: commands to workers, published paths.
//! Never: more messages kept for an unknown next hop than `UNROUTED_MAX`, or longer than `UNROUTED_LIFE`.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use culvert_dataplane::{
    host::HostEvent,
    shared::{
        control_link::{Command, Inline},
        drops::DropReason,
        ids::{Scope, TunnelIndex},
        limits::{UNROUTED_LIFE, UNROUTED_MAX},
        path::Link,
    },
};
use culvert_wireguard::{Instant, Now, Transmit};

use super::Engine;

impl Engine {
    /// Sends a handshake message, or keeps it until its next hop is known.
    pub(super) fn transmit(&mut self, slot: usize, message: Transmit, now: Instant) {
        let Some(tunnel) = self.tunnels.get(slot) else {
            return;
        };
        let peer = message.peer.and_then(|id| tunnel.peers.get(&id).copied());
        let local = peer.and_then(|peer| self.peers.get(peer)?.local);
        let uplink_slot = tunnel.uplink;
        let Some(uplink) = self.uplinks.get(uplink_slot) else {
            return;
        };
        let port = tunnel.config.listen_port;
        let path = uplink.path(&mut self.hosts, message.to, local, port, now);
        if path.link == Link::Unresolved {
            self.await_next_hop(slot, message, now);
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

    /// Keeps a message until its next hop is known. Answers to strangers, whose addresses may be invented, take no
    /// room from messages to peers; what no route leads to would wait in vain.
    fn await_next_hop(&mut self, slot: usize, message: Transmit, now: Instant) {
        let tunnel = self.tunnels.get(slot);
        let Some(uplink) = tunnel.and_then(|tunnel| self.uplinks.get(tunnel.uplink)) else {
            return;
        };
        let host = uplink.scope().and_then(|scope| self.hosts.get(scope));
        let routed = host.is_some_and(|host| host.next_hop(message.to.ip()).is_some());
        let is_full = self.unrouted.len() >= UNROUTED_MAX;
        let lost = match (routed, is_full, message.peer) {
            (false, _, _) => DropReason::NoRoute,
            (true, true, None) => DropReason::NextHopUnresolved,
            (true, _, _) => {
                let message = (now + UNROUTED_LIFE, slot, message);
                self.unrouted.push_back(message);
                if !is_full {
                    return;
                }
                self.unrouted.pop_front();
                DropReason::NextHopUnresolved
            }
        };
        uplink.counters.drops.add(lost, 1);
    }

    /// Sends what the host stacks made; neighbors that changed change paths.
    pub(super) fn drain_hosts(&mut self, now: Now) {
        while let Some((scope, frame)) = self.hosts.poll_frame() {
            let frame = frame.into_boxed_slice();
            let Scope::Uplink(uplink) = scope;
            if !self.workers.send(0, Command::Frame { scope, frame })
                && let Some(uplink) = self.uplinks.get(uplink.slot())
            {
                uplink.counters.drops.add(DropReason::CommandQueueFull, 1);
            }
        }
        let mut changed = BTreeSet::new();
        while let Some((scope, HostEvent::Neighbor { address })) = self.hosts.poll_event() {
            changed.insert((scope, address));
        }
        let resolved = !changed.is_empty();
        if resolved {
            self.outdate_paths_through(&changed);
        }
        if resolved
            || self
                .unrouted
                .front()
                .is_some_and(|&(due, ..)| due <= now.monotonic)
        {
            for (due, slot, message) in std::mem::take(&mut self.unrouted) {
                if due > now.monotonic {
                    self.transmit(slot, message, now.monotonic);
                } else if let Some(tunnel) = self.tunnels.get(slot)
                    && let Some(uplink) = self.uplinks.get(tunnel.uplink)
                {
                    uplink.counters.drops.add(DropReason::NextHopUnresolved, 1);
                }
            }
        }
    }

    /// The paths of peers whose next hop is among `changed` have to be made anew.
    fn outdate_paths_through(&mut self, changed: &BTreeSet<(Scope, IpAddr)>) {
        for (_, peer) in self.peers.iter_mut() {
            let tunnel = self.tunnels.get(peer.tunnel);
            let scope = tunnel.and_then(|tunnel| self.uplinks.get(tunnel.uplink)?.scope());
            let endpoint = tunnel.and_then(|t| t.device.peer(peer.cell.id)?.endpoint);
            if let (Some(scope), Some(endpoint)) = (scope, endpoint)
                && let Some(host) = self.hosts.get(scope)
                && let Some(hop) = host.next_hop(endpoint.ip())
                && changed.contains(&(scope, hop))
            {
                peer.outdate_path();
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
        let Some(uplink) = self.uplinks.get(tunnel.uplink) else {
            return;
        };
        let endpoint = tunnel
            .device
            .peer(peer.cell.id)
            .and_then(|status| status.endpoint);
        let port = tunnel.config.listen_port;
        let hosts = &mut self.hosts;
        let path = endpoint.map(|endpoint| uplink.path(hosts, endpoint, peer.local, port, now));
        if peer.cell.path().as_deref() != path.as_ref() {
            peer.cell.publish_path(path);
        }
    }
}
