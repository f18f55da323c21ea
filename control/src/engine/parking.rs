//! What a change removed that waits for its confirmation: peers with their sessions, tunnels with theirs.
//!
//! In: peers and tunnels that such a change removes. Out: the same, when it is taken back; nothing, once it is confirmed or
//! no keypair among them is of use any more. Never: a packet of what is parked, either way; a place of it given to another.
//!
//! A parked peer keeps its place, its cell and its number in the protocol. It leaves the workers as any removed peer does:
//! its place is vacated beside the rounds, unless it is parked still. There are at most as many as the file before had,
//! and none for longer than [`REJECT_AFTER_TIME`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use culvert_wireguard::{Instant, Now, limits::REJECT_AFTER_TIME};

use super::{Engine, peers::PeerState, tunnels::TunnelState};
use crate::{
    config::{Name, Peer, Tunnel},
    keys::PublicKey,
};

/// Everything that is parked.
#[derive(Default)]
pub(super) struct Parking {
    /// Since when what is removed is parked: as long as a change is carried out that waits for its confirmation.
    open: Option<Instant>,
    /// By the place of the tunnel, and the key.
    peers: HashMap<(usize, PublicKey), Parked>,
    /// Their places.
    places: HashSet<usize>,
    tunnels: HashMap<Name, (usize, TunnelState)>,
    /// Places of peers that have come back just now.
    revived: Vec<usize>,
    /// When all keypairs are too old.
    over: Instant,
}

struct Parked {
    peer: PeerState,
    /// The uplink that it was reached by.
    uplink: Option<Name>,
}

impl Parking {
    /// What is removed from now on is parked.
    pub(super) fn open(&mut self, now: Instant) {
        self.open = Some(now);
    }

    pub(super) fn close(&mut self) {
        self.open = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether nothing that is parked is of use any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let is_empty = self.peers.is_empty() && self.tunnels.is_empty();
        !is_empty && now >= self.over
    }

    /// Keeps a peer, and by which uplink it was reached.
    pub(super) fn keep(&mut self, peer: PeerState, uplink: Option<Name>) {
        self.note_end();
        let key = (peer.tunnel, peer.config.public_key);
        self.places.insert(peer.cell.index.slot());
        self.peers.insert(key, Parked { peer, uplink });
    }

    fn take(&mut self, slot: usize, key: PublicKey) -> Option<Parked> {
        let parked = self.peers.remove(&(slot, key))?;
        self.places.remove(&parked.peer.cell.index.slot());
        Some(parked)
    }

    /// Keeps a tunnel, its peers parked before.
    pub(super) fn keep_tunnel(&mut self, slot: usize, tunnel: TunnelState) {
        self.note_end();
        self.tunnels.insert(tunnel.name.clone(), (slot, tunnel));
    }

    fn note_end(&mut self) {
        self.over = self.open.map_or(self.over, |at| at + REJECT_AFTER_TIME);
    }

    /// The place of a parked tunnel.
    pub(super) fn place(&self, tunnel: &Name) -> Option<usize> {
        self.tunnels.get(tunnel).map(|(slot, _)| *slot)
    }

    /// Whether the place of a removed peer is its own still.
    pub(super) fn has_place(&self, place: usize) -> bool {
        self.places.contains(&place)
    }
}

/// Back in force, or gone for good.
impl Engine {
    /// A tunnel that comes back is what it was, in its old place.
    pub(super) fn revive_tunnel(&mut self, new: &Tunnel, uplink: usize) -> Option<TunnelState> {
        let (_, mut tunnel) = self.parking.tunnels.remove(&new.name)?;
        tunnel.device.set_private_key(new.private_key.clone());
        tunnel.config = new.clone();
        (tunnel.uplink, tunnel.order) = (uplink, vec![uplink]);
        Some(tunnel)
    }

    /// A peer that comes back is what it was, with its session; answers its place.
    pub(super) fn revive_peer(&mut self, slot: usize, new: &Arc<Peer>, now: Now) -> Option<usize> {
        let Parked { mut peer, uplink } = self.parking.take(slot, new.public_key)?;
        let uplink = uplink.and_then(|name| self.uplinks.place(&name));
        let place = peer.cell.index.slot();
        let name = self.tunnels.change(slot).and_then(|tunnel| {
            let told = peer.come_back(uplink.unwrap_or(tunnel.uplink));
            let revived = tunnel.revive_peer(&mut peer, new, now);
            if revived {
                tunnel.signals(&mut peer, told, now);
            }
            revived.then(|| tunnel.name.clone())
        });
        let Some(name) = name else {
            self.wipe([peer]);
            return None;
        };
        self.cells.set(place, Some(Arc::clone(&peer.cell)));
        self.peers.put(place, peer);
        self.reroute(&name, place, None, Some(new));
        self.parking.revived.push(place);
        Some(place)
    }

    /// Has peers that came back found, before workers know of them: sessions, and the ways out. They don't leave any more,
    /// so that nobody forgets what waits for them.
    pub(super) fn meet_revived(&mut self, now: Now) {
        let revived = std::mem::take(&mut self.parking.revived);
        if revived.is_empty() {
            return;
        }
        self.drain_tunnels(now);
        for &place in &revived {
            self.rebuild_path(place, now.monotonic);
        }
        let revived: HashSet<_> = revived.into_iter().collect();
        self.leaving.retain(|it| !revived.contains(&it.place));
    }

    /// Whoever has a parked peer's key now is another.
    pub(super) fn wipe_peer(&mut self, slot: usize, key: PublicKey) {
        let parked = self.parking.take(slot, key);
        self.wipe(parked.map(|parked| parked.peer));
    }

    /// Nothing that is parked comes back.
    pub(super) fn wipe_parked(&mut self) {
        let Parking { peers, tunnels, .. } = std::mem::take(&mut self.parking);
        self.wipe(peers.into_values().map(|parked| parked.peer));
        for (slot, _) in tunnels.into_values() {
            self.tunnels.vacate(slot);
        }
    }

    fn wipe(&mut self, peers: impl IntoIterator<Item = PeerState>) {
        let mut leaving = None;
        for peer in peers {
            if let Some(tunnel) = self.tunnels.get_mut(peer.tunnel) {
                tunnel.device.wipe_parked(&peer.config.public_key);
            }
            let place = peer.cell.index.slot();
            if peer.places.is_kept() {
                self.endpoints.forget(place);
            }
            let leaving: &HashSet<_> = leaving.get_or_insert_with(|| {
                let all = self.leaving.iter();
                all.map(|it| it.place).collect()
            });
            if !leaving.contains(&place) {
                self.peers.vacate(place);
            }
        }
    }
}
