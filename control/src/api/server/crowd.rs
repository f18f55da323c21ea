//! Who has how many connections, handshakes, streams; how many there are, and whose.
//!
//! In: who comes. Out: a [`Place`] for each that fits. Never: all places for one user or address, or those of one door
//! for another's.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::caller::{Caller, Who};

/// Connections of one door.
pub(super) const DOOR: usize = 512;

/// Of them, those of one user or address: half are others'.
pub(super) const SHARE: usize = DOOR / 2;

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    User(u32),
    /// IPv4.
    Address(IpAddr),
    /// IPv6, by the /64, all of whose addresses a machine may take (RFC 8981).
    Prefix(Ipv6Addr),
    /// A certificate's.
    Name(String),
}

impl Whose {
    /// Of who comes from there.
    pub(super) fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            address @ IpAddr::V4(_) => Self::Address(address),
            IpAddr::V6(address) => Self::Prefix((address.to_bits() >> 64 << 64).into()),
        }
    }

    /// Of who asks.
    pub(super) fn of(caller: &Caller) -> Self {
        match &caller.who {
            Who::Local { uid, .. } => Self::User(*uid),
            Who::Certificate(name) => Self::Name(name.clone()),
        }
    }
}

/// So many places, and how many of them one may have.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    places: Arc<Mutex<HashMap<Whose, usize>>>,
    all: usize,
    share: usize,
}

/// A place, which is free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    whose: Whose,
}

impl Crowd {
    pub(super) fn new(all: usize, share: usize) -> Self {
        Self {
            places: Arc::default(),
            all,
            share,
        }
    }

    /// A place for one more, if there is one.
    pub(super) fn place(&self, whose: Whose) -> Option<Place> {
        let mut places = self.places();
        let all: usize = places.values().sum();
        let own = places.get(&whose).copied().unwrap_or(0);
        if own >= self.share || all >= self.all {
            return None;
        }
        places.insert(whose.clone(), own + 1);
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
        let crowd = Crowd::new(DOOR, SHARE);
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

    #[test]
    fn a_machine_s_addresses_are_one() {
        let at = |text: &str| Whose::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:0:0:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
