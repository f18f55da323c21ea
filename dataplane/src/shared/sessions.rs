//! A tunnel's receiver-index table: from the index in a data header to the
//! keypair that opens it and the peer it belongs to.
//!
//! In: sessions published and removed by the control core. Out: O(1) look-up
//! for workers. Never: growth in place; a larger table is another one, with the same sessions.
//!
//! The protocol chooses indices so that their low bits name a free slot, and
//! fills the rest with random bits; a look-up compares all 32.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use culvert_wireguard::Keypair;

use crate::shared::{limits, peer::Peer};

/// A keypair with the peer it belongs to.
#[derive(Debug)]
pub struct Session {
    /// The keypair.
    pub keypair: Arc<Keypair>,
    /// Its peer.
    pub peer: Arc<Peer>,
}

/// The table.
#[derive(Debug)]
pub struct SessionTable {
    slots: Box<[ArcSwapOption<Session>]>,
}

impl SessionTable {
    /// A table of `slots`, rounded up to a power of two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let slots = slots.max(limits::SESSION_SLOTS_MIN).next_power_of_two();
        Self {
            slots: (0..slots).map(|_| ArcSwapOption::empty()).collect(),
        }
    }

    /// The number of slots: a power of two.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Control core: a table of `slots` with the same sessions. Their indices differ in the low bits that
    /// counted so far, so they do in more.
    #[must_use]
    pub fn grown(&self, slots: usize) -> Self {
        let grown = Self::new(slots.max(self.slots()));
        for session in self.slots.iter().filter_map(ArcSwapOption::load_full) {
            grown
                .slot(session.keypair.local_index())
                .store(Some(session));
        }
        grown
    }

    /// The session for a receiver index, if there is one.
    #[must_use]
    pub fn find(&self, index: u32) -> Option<Guard<Option<Arc<Session>>>> {
        let session = self.slot(index).load();
        session
            .as_ref()
            .is_some_and(|s| s.keypair.local_index() == index)
            .then_some(session)
    }

    /// Control core: makes a session findable.
    pub fn publish(&self, session: Session) {
        self.slot(session.keypair.local_index())
            .store(Some(Arc::new(session)));
    }

    /// Control core: removes the session for `index`, if it is there.
    pub fn remove(&self, index: u32) {
        let slot = self.slot(index);
        if slot
            .load()
            .as_ref()
            .is_some_and(|s| s.keypair.local_index() == index)
        {
            slot.store(None);
        }
    }

    fn slot(&self, index: u32) -> &ArcSwapOption<Session> {
        &self.slots[index as usize & (self.slots.len() - 1)]
    }
}
