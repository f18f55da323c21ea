//! What `wg` set at one tunnel, over the file.
//!
//! In: changes that were carried out for `wg`. Out: what it set; between two states of it, what was touched. Never:
//! more kept than what `wg` touched; a peer copied that a change doesn't concern: a copy shares all parts, and a change
//! copies the one that it touches.

use std::{array, collections::HashMap, sync::Arc};

use crate::{
    config::{Peer, Tunnel},
    keys::PublicKey,
};

/// Parts of a tunnel's peers: of 100,000 that `wg` set a change copies 400.
const PARTS: usize = 256;

type Part = HashMap<PublicKey, Overlaid>;

/// What `wg` set at one tunnel.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    /// The tunnel itself, if it was touched.
    pub(super) head: Option<Tunnel>,
    /// Its peers, by their keys.
    parts: Box<[Arc<Part>; PARTS]>,
}

/// A peer that `wg` touched.
#[derive(Clone, Debug)]
pub(super) struct Overlaid {
    /// What the file says; `None`: it hasn't the peer.
    pub(super) file: Option<Arc<Peer>>,
    /// What counts; `None`: the peer is removed.
    pub(super) wg: Option<Arc<Peer>>,
    /// When it was touched first, among the others.
    pub(super) turn: u64,
}

impl Default for Overlay {
    fn default() -> Self {
        let empty = Arc::default();
        Self {
            head: None,
            parts: Box::new(array::from_fn(|_| Arc::clone(&empty))),
        }
    }
}

fn part(key: &PublicKey) -> usize {
    let sum = key.as_bytes().iter().fold(0, |sum, byte| sum ^ byte);
    usize::from(sum) % PARTS
}

impl Overlay {
    /// What `wg` made of a peer.
    pub(super) fn get(&self, key: &PublicKey) -> Option<&Overlaid> {
        self.parts[part(key)].get(key)
    }

    /// All peers that were touched.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Overlaid> {
        self.parts.iter().flat_map(|part| part.values())
    }

    /// Takes note of what becomes of a peer, and of what it was, if it is touched for the first time.
    pub(super) fn set(
        &mut self,
        key: PublicKey,
        before: Option<&Arc<Peer>>,
        after: Option<&Arc<Peer>>,
        turn: u64,
    ) {
        let peers = Arc::make_mut(&mut self.parts[part(&key)]);
        let overlaid = peers.entry(key).or_insert_with(|| Overlaid {
            file: before.cloned(),
            wg: None,
            turn,
        });
        overlaid.wg = after.cloned();
        if overlaid.wg == overlaid.file {
            peers.remove(&key);
        }
    }

    /// What `wg` made of a peer counts no more.
    pub(super) fn forget(&mut self, key: &PublicKey) {
        if self.get(key).is_some() {
            Arc::make_mut(&mut self.parts[part(key)]).remove(key);
        }
    }

    /// The peers that were touched since an earlier state of it.
    pub(super) fn touched(&self, before: &Self) -> Vec<Touched> {
        let mut touched = Vec::new();
        let parts = before.parts.iter().zip(self.parts.iter());
        for (before, now) in parts.filter(|(before, now)| !Arc::ptr_eq(before, now)) {
            let gone = before.keys().filter(|key| !now.contains_key(*key));
            for key in now.keys().chain(gone) {
                touched.extend(Touched::between(key, before.get(key), now.get(key)));
            }
        }
        touched
    }
}

/// A peer that was touched: what it was, and what it is now.
pub(super) struct Touched {
    pub(super) key: PublicKey,
    pub(super) was: Option<Arc<Peer>>,
    pub(super) is: Option<Arc<Peer>>,
}

impl Touched {
    /// Where `wg` has not touched a peer, it is as the file has it.
    fn between(key: &PublicKey, before: Option<&Overlaid>, now: Option<&Overlaid>) -> Option<Self> {
        let file = before.or(now)?.file.as_ref();
        let (was, is) = (
            before.map_or(file, |it| it.wg.as_ref()),
            now.map_or(file, |it| it.wg.as_ref()),
        );
        let same = was.map(Arc::as_ptr) == is.map(Arc::as_ptr);
        (!same).then(|| Self {
            key: *key,
            was: was.cloned(),
            is: is.cloned(),
        })
    }
}
