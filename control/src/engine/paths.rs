//! The ways out: handshake messages to their next hops, hops when neighbors change, peers' paths when endpoints do.
//!
//! In: messages, what host stacks have learned. Out: commands to workers, changed hops, published paths.
//! Never: more messages kept for an unknown next hop than `UNROUTED_MAX`, or longer than `UNROUTED_LIFE`.

use std::{collections::BTreeSet, sync::Arc};

use culvert_dataplane::shared::{
    control_link::{Command, Inline},
    drops::DropReason,
    ids::{PeerIndex, TunnelIndex, UplinkIndex},
    limits::{PATHS_PER_ROUND, UNROUTED_LIFE, UNROUTED_MAX},
};
use culvert_wireguard::{Instant, Now};

use super::{
    Engine,
    hops::For,
    tunnels::{Outgoing, Way},
};
use crate::netstack::Learned;

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
        let whose = message.peer.map_or(For::Stranger, |_| For::Peer);
        let ways = (&mut self.netstack, &mut self.hops, whose);
        let path = uplink.path(ways, message.to, local, port, now);
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
        let host = uplink.scope().and_then(|scope| self.netstack.get(scope));
        let routed = host.is_some_and(|host| host.routes.way(message.to.ip()).is_some());
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

    /// Neighbors that changed change their hops, and so all paths there.
    pub(super) fn hear_neighbors(&mut self, now: Now) {
        let (mut resolved, mut opened) = (false, false);
        let mut scopes = BTreeSet::new();
        while let Some(news) = self.netstack.next_news() {
            match news.learned {
                Learned::Neighbor { address, mac } => {
                    let is_new = (self.hops).set((news.scope, address), mac, now.monotonic);
                    opened |= is_new && mac.is_some();
                    resolved |= is_new;
                    if is_new {
                        scopes.insert(news.scope);
                    }
                }
                Learned::Own { address, standing } => {
                    self.hear_own(news.scope, address, standing);
                }
            }
        }
        if !scopes.is_empty() {
            let uplinks = &self.uplinks;
            let concerned = uplinks.iter().filter(|(_, it)| {
                let scope = it.scope();
                scope.is_some_and(|scope| scopes.contains(&scope))
            });
            let slots: BTreeSet<_> = concerned.map(|(slot, _)| slot).collect();
            self.reconsider(|tunnel| tunnel.order.iter().any(|slot| slots.contains(slot)));
        }
        if opened {
            // With a key, frames waited for that in the end: workers know for whom.
            self.tell_all(|| Command::FlushAwaited);
        }
        let first = self.unrouted.front().map(|&(due, ..)| due);
        if resolved || first.is_some_and(|due| due <= now.monotonic) {
            self.retry_unrouted(now.monotonic);
        }
    }

    /// Sends messages whose next hop is known by now; those that have waited for too long are lost.
    pub(super) fn retry_unrouted(&mut self, now: Instant) {
        for (due, slot, outgoing) in std::mem::take(&mut self.unrouted) {
            if due > now {
                self.transmit_until(due, slot, outgoing, now);
            } else if let Some((uplink, _)) = self.way_of(slot, &outgoing)
                && let Some(uplink) = self.uplinks.get(uplink)
            {
                uplink.counters.drops.add(DropReason::NextHopUnresolved, 1);
            }
        }
    }

    /// Gives all peers that are to have new paths theirs.
    pub(super) fn rebuild_paths(&mut self, now: Instant) {
        self.rebuild_up_to(usize::MAX, now);
    }

    /// Gives some of them theirs; whether more wait.
    pub(super) fn rebuild_some_paths(&mut self, now: Instant) -> bool {
        self.rebuild_up_to(PATHS_PER_ROUND, now)
    }

    fn rebuild_up_to(&mut self, most: usize, now: Instant) -> bool {
        let (some, more) = self.outdated.take_paths(most);
        for slot in some {
            self.rebuild_path(slot, now);
        }
        more
    }

    /// Publishes the way to a peer's present endpoint.
    pub(super) fn rebuild_path(&mut self, slot: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.renew_path(now);
        let Some(tunnel) = self.tunnels.untouched(peer.tunnel) else {
            return;
        };
        tunnel.carry(peer, Some(peer.uplink));
        // Where it is now, another uplink may be the better one.
        let is_led = tunnel.order.len() > 1;
        if is_led {
            self.failover.list(slot);
        }
        peer.cell.lead(is_led);
        let Some(uplink) = self.uplinks.get(peer.uplink) else {
            return;
        };
        let endpoint = tunnel
            .device
            .peer(peer.cell.id)
            .and_then(|status| status.endpoint);
        peer.known_at = endpoint;
        let port = tunnel.config.listen_port;
        let ways = (&mut self.netstack, &mut self.hops, For::Peer);
        let way = (UplinkIndex::from_slot(peer.uplink), port, endpoint);
        self.quotable.note(slot, way);
        let path = endpoint.map(|endpoint| {
            let path = uplink.path(ways, endpoint, peer.local, port, now);
            let mtu = peer.path_mtu(&tunnel.config, uplink, &path);
            let cut = peer.cut(&path, now);
            path.with_mtu(mtu).with_cut(cut)
        });
        let is_probed = peer.probed.is_some();
        let before = peer.cell.path();
        if before.as_deref() != path.as_ref() {
            // Whoever wrote to another address of ours knows it.
            let source = path.as_ref().and_then(|path| path.source);
            if peer.local.is_none()
                && source.is_some()
                && source != before.as_deref().and_then(|it| it.source)
            {
                self.failover.tell(slot);
            }
            let opens = path.as_ref().is_some_and(|path| path.is_resolved());
            peer.cell.publish_path(path);
            if opens && peer.is_awaited() {
                self.tell_all(|| Command::FlushStaged(PeerIndex::from_slot(slot)));
            }
        } else {
            // A worker may have been between the two.
            peer.cell.note_limit();
        }
        if is_probed {
            // It may have waited for that.
            self.probe_path(slot, now);
        }
    }
}
