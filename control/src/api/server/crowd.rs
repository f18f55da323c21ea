//! How many connections there are, and whose.
//!
//! In: who comes. Out: a [`Place`] for each that fits. Never: all places for one user or address, or those of one door
//! for another's.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one door.
pub(super) const DOOR: usize = 512;

/// Of them, those of one user or address: half are others'.
pub(super) const SHARE: usize = DOOR / 2;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    User(u32),
    Address(IpAddr),
}

/// The connections of one door.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    places: Arc<Mutex<HashMap<Whose, usize>>>,
    most: usize,
    share: usize,
}

impl Default for Crowd {
    fn default() -> Self {
        Self::of(DOOR, SHARE)
    }
}

/// A connection's place, which is free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    whose: Whose,
}

impl Crowd {
    /// So many at most, and so many of one user or address.
    pub(super) fn of(most: usize, share: usize) -> Self {
        Self {
            places: Arc::default(),
            most,
            share,
        }
    }

    /// A place for one more, if there is one.
    pub(super) fn place(&self, whose: Whose) -> Option<Place> {
        let mut places = self.places();
        let all: usize = places.values().sum();
        let own = places.get(&whose).copied().unwrap_or(0);
        if own >= self.share || all >= self.most {
            return None;
        }
        places.insert(whose, own + 1);
        let crowd = self.clone();
        Some(Place { crowd, whose })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Whose, usize>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.crowd.places();
        if let Some(own) = places.get_mut(&self.whose) {
            *own -= 1;
            if *own == 0 {
                places.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_places() {
        let crowd = Crowd::default();
        let own: Vec<_> = (0..DOOR)
            .map_while(|_| crowd.place(Whose::User(7)))
            .collect();
        assert_eq!(own.len(), SHARE);
        let others: Vec<_> = (0..u32::MAX)
            .map_while(|user| crowd.place(Whose::User(100 + user)))
            .collect();
        assert_eq!(others.len(), DOOR - SHARE);
        drop(own);
        assert!(crowd.place(Whose::User(7)).is_some());
        drop(others);
        assert!(crowd.places().is_empty());
    }
}
