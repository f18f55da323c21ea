//! The ways out: handshake messages to their next hops, hops when neighbors change, peers' paths when endpoints do.
//!
//! In: messages, what host stacks made and learned. Out: commands to workers, changed hops, published paths.
//! Never: more messages kept for an unknown next hop than `UNROUTED_MAX`, or longer than `UNROUTED_LIFE`.

use std::sync::Arc;

use culvert_dataplane::shared::{
    control_link::{Command, Inline},
    drops::DropReason,
    ids::{PeerIndex, Scope, TunnelIndex},
    limits::{UNROUTED_LIFE, UNROUTED_MAX},
};
use culvert_stack::HostEvent;
use culvert_wireguard::{Instant, Now};

use super::{
    Engine,
    hops::Hops,
    tunnels::{Outgoing, Way},
};

impl Engine {
    /// Sends a handshake message, or keeps it until its next hop is known.
    pub(super) fn transmit(&mut self, slot: usize, outgoing: Outgoing, now: Instant) {
        self.transmit_until(now + UNROUTED_LIFE, slot, outgoing, now);
    }

    /// A message that has waited is due as before: each neighbor that answers has all of them tried again.
    fn transmit_until(&mut self, due: Instant, slot: usize, outgoing: Outgoing, now: Instant) {
        let Some((uplink_slot, local)) = self.way_of(slot, &outgoing) else {
            return;
        };
        let Some(tunnel) = self.tunnels.get(slot) else {
            return;
        };
        let message = &outgoing.message;
        let place = message.peer.and_then(|id| tunnel.peers.get(&id).copied());
        let peer = place.and_then(|place| self.peers.get(place));
        let Some(uplink) = self.uplinks.get(uplink_slot) else {
            return;
        };
        let port = tunnel.config.listen_port;
        // Nobody else takes this path.
        let way = (&mut self.hosts, &mut Hops::default());
        let path = uplink.path(way, message.to, local, port, now);
        if !path.is_resolved() {
            self.await_next_hop((due, slot, outgoing));
            return;
        }
        let Some(inline) = Inline::new(message.bytes()) else {
            return;
        };
        if let Some(peer) = peer {
            peer.cell.traffic.sent(1, message.bytes().len() as u64);
        }
        let worker = place.unwrap_or(0) % self.workers.count();
        let command = Command::Handshake {
            tunnel: TunnelIndex::from_slot(slot),
            peer: place.map(PeerIndex::from_slot),
            path: Arc::new(path),
            message: inline,
        };
        if !self.workers.send(worker, command)
            && let Some(uplink) = self.uplinks.get(uplink_slot)
        {
            uplink.counters.drops.add(DropReason::CommandQueueFull, 1);
        }
    }

    /// The way that a message of the tunnel at `slot` leaves by: its peer's, or the one that a stranger's came by.
    fn way_of(&self, slot: usize, outgoing: &Outgoing) -> Option<Way> {
        let tunnel = self.tunnels.get(slot)?;
        let place = (outgoing.message.peer).and_then(|id| tunnel.peers.get(&id));
        let peer = place.and_then(|place| self.peers.get(*place));
        let way = peer.map(|peer| (peer.uplink, peer.local));
        Some(way.or(outgoing.came).unwrap_or((tunnel.uplink, None)))
    }

    /// Keeps a message until its next hop is known. Answers to strangers, whose addresses may be invented, take no
    /// room from messages to peers; what no route leads to would wait in vain.
    fn await_next_hop(&mut self, waiting: (Instant, usize, Outgoing)) {
        let (_, slot, outgoing) = &waiting;
        let message = &outgoing.message;
        let way = self.way_of(*slot, outgoing);
        let Some(uplink) = way.and_then(|(uplink, _)| self.uplinks.get(uplink)) else {
            return;
        };
        let host = uplink.scope().and_then(|scope| self.hosts.get(scope));
        let routed = host.is_some_and(|host| host.next_hop(message.to.ip()).is_some());
        let is_full = self.unrouted.len() >= UNROUTED_MAX;
        let lost = match (routed, is_full, message.peer) {
            (false, _, _) => DropReason::NoRoute,
            (true, true, None) => DropReason::NextHopUnresolved,
            (true, _, _) => {
                self.unrouted.push_back(waiting);
                if !is_full {
                    return;
                }
                self.unrouted.pop_front();
                DropReason::NextHopUnresolved
            }
        };
        uplink.counters.drops.add(lost, 1);
    }

    /// Sends what the host stacks made; neighbors that changed change their hops, and so all paths there.
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
        let (mut resolved, mut opened) = (false, false);
        while let Some((scope, HostEvent::Neighbor { address })) = self.hosts.poll_event() {
            let host = self.hosts.get(scope);
            let neighbor = host.and_then(|host| host.neighbor(address));
            self.hops.set((scope, address), neighbor);
            opened |= neighbor.is_some();
            resolved = true;
        }
        if opened {
            // With a key, frames waited for that in the end: workers know for whom.
            self.tell_all(|| Command::FlushAwaited);
        }
        if resolved
            || self
                .unrouted
                .front()
                .is_some_and(|&(due, ..)| due <= now.monotonic)
        {
            for (due, slot, outgoing) in std::mem::take(&mut self.unrouted) {
                if due > now.monotonic {
                    self.transmit_until(due, slot, outgoing, now.monotonic);
                } else if let Some((uplink, _)) = self.way_of(slot, &outgoing)
                    && let Some(uplink) = self.uplinks.get(uplink)
                {
                    uplink.counters.drops.add(DropReason::NextHopUnresolved, 1);
                }
            }
        }
    }

    pub(super) fn rebuild_paths(&mut self, now: Instant) {
        for slot in self.outdated.take_paths() {
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
        let Some(uplink) = self.uplinks.get(peer.uplink) else {
            return;
        };
        let endpoint = tunnel
            .device
            .peer(peer.cell.id)
            .and_then(|status| status.endpoint);
        let port = tunnel.config.listen_port;
        let way = (&mut self.hosts, &mut self.hops);
        let path = endpoint.map(|endpoint| uplink.path(way, endpoint, peer.local, port, now));
        if peer.cell.path().as_deref() != path.as_ref() {
            let opens = path.as_ref().is_some_and(|path| path.is_resolved());
            peer.cell.publish_path(path);
            if opens && peer.is_awaited() {
                self.tell_all(|| Command::FlushStaged(PeerIndex::from_slot(slot)));
            }
        }
    }
}
