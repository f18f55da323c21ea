//! Peers that are out of force and may come back as they were.
//!
//! In: peers of the device. Out: the same peers, with their sessions. Never: a packet or a message of one that is parked;
//! a counter used twice; a keypair that has grown too old meanwhile, or whose identity is gone.
//!
//! A parked peer keeps its slot and its keypairs' receiver indices, so that nobody else is found under them. Its clock
//! runs on: what has to be wiped by then is wiped when it comes back, and whoever parks sees to it that nothing stays
//! parked for longer than its keypairs are of use.

use super::api::Event;
use super::common::Core;
use super::peer::Peer;
use super::{Device, PublicKey};
use crate::PeerId;
use crate::keypair::Keypair;
use crate::limits::REJECT_AFTER_TIME;
use crate::time::{Instant, Now};

impl Device {
    /// Removes a peer, and keeps what is known of it until [`Device::revive_peer`] or [`Device::wipe_parked`]. Nothing of
    /// it is accepted or sent meanwhile.
    pub fn park_peer(&mut self, peer: PeerId) {
        let Some(mut gone) = self.take_out(peer) else {
            return;
        };
        gone.park(&mut self.core);
        self.core.events.push_back(Event::PeerRemoved { peer });
        if let Some(older) = self.parked.insert(*gone.public_key(), gone) {
            self.wipe(older);
        }
    }

    /// Takes a parked peer back under its old number. `None`: it is not parked, or somebody else has its key by now.
    pub fn revive_peer(&mut self, public_key: &PublicKey, now: Now) -> Option<PeerId> {
        if self.public_key() == Some(*public_key) || self.by_key.contains_key(public_key) {
            return None;
        }
        let mut peer = self.parked.remove(public_key)?;
        let id = peer.id();
        peer.revive(&mut self.core, now.monotonic);
        peer.enter_deadline(&mut self.core);
        self.by_key.insert(*public_key, id);
        self.peers[id.slot()] = Some(peer);
        Some(id)
    }

    /// Forgets a parked peer, with its keypairs.
    pub fn wipe_parked(&mut self, public_key: &PublicKey) {
        if let Some(gone) = self.parked.remove(public_key) {
            self.wipe(gone);
        }
    }

    /// How many peers are parked: each may hold three receiver indices.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}

impl Peer {
    fn park(&mut self, core: &mut Core) {
        // The answer would be a stranger's.
        self.close_initiation(core);
        if self.current.is_some() {
            core.events.push_back(Event::CurrentKeypair {
                peer: self.id,
                keypair: None,
            });
        }
        for keypair in [&self.next, &self.previous, &self.current]
            .into_iter()
            .flatten()
        {
            keypair.park();
            core.events.push_back(Event::KeypairRemoved {
                peer: self.id,
                local_index: keypair.local_index(),
            });
        }
    }

    fn revive(&mut self, core: &mut Core, now: Instant) {
        // What was waited for then says nothing now.
        self.timers.retransmit_handshake = None;
        self.timers.send_keepalive = None;
        self.timers.new_handshake = None;
        self.start_persistent_keepalive(core, now);
        let is_old =
            |it: &mut std::sync::Arc<Keypair>| it.created().is_older_than(REJECT_AFTER_TIME, now);
        for old in [
            self.next.take_if(is_old),
            self.previous.take_if(is_old),
            self.current.take_if(is_old),
        ] {
            self.discard(core, old);
        }
        for keypair in [&self.previous, &self.current, &self.next]
            .into_iter()
            .flatten()
        {
            keypair.unpark();
            core.events.push_back(Event::KeypairAdded {
                peer: self.id,
                keypair: keypair.clone(),
            });
        }
        if let Some(keypair) = &self.current {
            core.events.push_back(Event::CurrentKeypair {
                peer: self.id,
                keypair: Some(keypair.clone()),
            });
        }
    }
}
