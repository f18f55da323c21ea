//! Peers, as a plan has them.
//!
//! In: a plan. Out: the peers as it has them, their first handshakes planned. Never: a session lost of a peer that stays;
//! a place given to another before no frame can wait for its old peer.

use std::{collections::HashMap, sync::Arc};

use culvert_dataplane::shared::ids::UplinkIndex;
use culvert_wireguard::{Instant, Now};

use super::super::{Engine, GREETING, GREETING_STEP, networks::ONE_BY_ONE};
use super::Leaving;
use crate::{
    config::{Name, Peer},
    plan::{Change, Edit, PeerChange},
};

/// The peers that a plan changes. One that is disabled is none.
pub(super) fn peers(plan: &[Change]) -> impl Iterator<Item = (&PeerChange, Edit<&Arc<Peer>>)> {
    let changes = plan.iter().filter_map(Change::peer);
    changes.filter_map(|change| Some((change, change.edit.among(|peer| peer.enabled)?)))
}

impl Engine {
    /// Removes, changes and adds peers; answers what failed.
    pub(super) fn commit_peers(&mut self, plan: &[Change], by_wg: bool, now: Now) -> Vec<String> {
        let mut added: HashMap<&Name, usize> = HashMap::new();
        self.expect_many(plan);
        // With another key a tunnel wants more.
        self.drain_tunnels(now);
        for (change, edit) in peers(plan) {
            match edit {
                Edit::Remove(old) => {
                    let place = self.peer_place(&change.tunnel, &old.public_key);
                    place.into_iter().for_each(|place| self.remove_peer(place));
                }
                Edit::Add(_) => *added.entry(&change.tunnel).or_default() += 1,
                Edit::Change { .. } => {}
            }
        }
        self.forget_unrouted();
        for (name, added) in added {
            let slot = self.tunnel_slot(name);
            if let Some(tunnel) = slot.and_then(|slot| self.tunnels.change(slot)) {
                tunnel.make_room(tunnel.peers.len() + tunnel.device.parked() + added);
            }
        }
        let (mut failures, mut greeted) = (Vec::new(), Vec::new());
        for (change, edit) in peers(plan) {
            match self.commit_peer(change, edit, by_wg, now) {
                Ok(place) => greeted.extend(place),
                Err(error) => failures.push(error),
            }
        }
        self.meet_revived(now);
        if !self.lone && !by_wg {
            // What `wg` drives is silent until there is something to say.
            self.greet(&greeted, now.monotonic);
        }
        failures
    }

    /// Has tables of prefixes built anew where a plan changes so many peers that one by one would take longer.
    fn expect_many(&mut self, plan: &[Change]) {
        let mut counts: HashMap<&Name, usize> = HashMap::new();
        for (change, _) in peers(plan) {
            *counts.entry(&change.tunnel).or_default() += 1;
        }
        for (name, count) in counts {
            let slot = self.tunnel_slot(name);
            let tunnel = slot.and_then(|slot| self.tunnels.change(slot));
            let Some(tunnel) = tunnel.filter(|tunnel| count > tunnel.peers.len() / ONE_BY_ONE)
            else {
                continue;
            };
            tunnel.rebuild();
            self.networks.rebuild_behind(name);
        }
    }

    /// Messages of removed peers: others may get the numbers that they name.
    fn forget_unrouted(&mut self) {
        let tunnels = &self.tunnels;
        self.unrouted.retain(|(_, slot, outgoing)| {
            let tunnel = tunnels.get(*slot);
            let known = |id| tunnel.is_some_and(|tunnel| tunnel.peers.contains_key(&id));
            let peer = outgoing.message.peer;
            peer.map_or(tunnel.is_some(), known)
        });
    }

    /// Changes or adds a peer; answers the place of one that may be called.
    fn commit_peer(
        &mut self,
        change: &PeerChange,
        edit: Edit<&Arc<Peer>>,
        by_wg: bool,
        now: Now,
    ) -> Result<Option<usize>, String> {
        let Some(slot) = self.tunnel_slot(&change.tunnel) else {
            return Ok(None);
        };
        match edit {
            Edit::Remove(_) => Ok(None),
            Edit::Change { new, .. } => {
                let place = self.peer_place(&change.tunnel, &new.public_key);
                let peer = place.and_then(|place| self.peers.get_mut(place));
                if let (Some(tunnel), Some(peer)) = (self.tunnels.change(slot), peer) {
                    let old = Arc::clone(&peer.config);
                    tunnel.update_peer(peer, Arc::clone(new), change.moves, now);
                    let place = peer.cell.index.slot();
                    self.reroute(&change.tunnel, place, Some(&old), Some(new));
                }
                Ok(None)
            }
            Edit::Add(new) => {
                if by_wg {
                    self.wipe_peer(slot, new.public_key);
                } else if let Some(place) = self.revive_peer(slot, new, now) {
                    return Ok(Some(place));
                }
                let endpoint = match by_wg {
                    true => new
                        .endpoint
                        .as_ref()
                        .and_then(|endpoint| endpoint.address()),
                    false => self.first_endpoint(&change.tunnel, new),
                };
                let Some(tunnel) = self.tunnels.change(slot) else {
                    return Ok(None);
                };
                let table = (&mut self.peers, &self.outdated);
                let added = tunnel.add_peer(slot, Arc::clone(new), endpoint, table, now);
                // The check of the configuration leaves no reason for it.
                let place = added
                    .map_err(|error| format!("peer {}/{}: {error}", change.tunnel, new.name))?;
                let cell = self.peers.get(place).map(|peer| Arc::clone(&peer.cell));
                self.cells.set(place, cell);
                self.reroute(&change.tunnel, place, None, Some(new));
                Ok(endpoint.map(|_| place))
            }
        }
    }

    /// Plans the first handshakes of new peers, spread over time.
    fn greet(&mut self, peers: &[usize], now: Instant) {
        let count = u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX);
        let step = GREETING_STEP.min(GREETING / count);
        let mut due = now;
        for peer in peers.iter().filter_map(|&place| self.peers.get(place)) {
            self.greetings.push_back((due, Arc::clone(&peer.cell)));
            due = due + step;
        }
        if !peers.is_empty() {
            self.greetings
                .make_contiguous()
                .sort_by_key(|(due, _)| *due);
        }
    }

    pub(super) fn remove_peer(&mut self, place: usize) {
        let Some(mut peer) = self.peers.take(place) else {
            return;
        };
        let parks = self.parking.is_open();
        self.names.forget(&peer.places, place);
        if peer.places.is_kept() && !parks {
            self.endpoints.forget(place);
        }
        self.leaving.push_back(Leaving {
            place,
            cell: Arc::clone(&peer.cell),
            uplink: UplinkIndex::from_slot(peer.uplink),
            since: self.generation + 1,
        });
        if let Some(tunnel) = self.tunnels.change(peer.tunnel) {
            tunnel.forget_peer(place, &mut peer, parks);
            let name = tunnel.name.clone();
            // Its sessions. Whoever commits has drained the tunnels before: what it wants itself concerns nobody.
            tunnel.drain(&mut self.peers, &mut Vec::new());
            peer.cell.publish_keypair(None);
            self.reroute(&name, place, Some(&peer.config), None);
        }
        self.cells.set(place, None);
        if parks {
            let uplink = self.uplinks.get(peer.uplink);
            let uplink = uplink.map(|uplink| uplink.config.name.clone());
            self.parking.keep(peer, uplink);
        }
    }
}
