//! Limit: how many errors leave (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 f).
//!
//! In: for whom an error is, the time. Out: whether it leaves. Never: memory that grows with those for whom: a host has one of
//! so many places, by a hash that nobody knows, and shares it with a few.

use std::{hash::BuildHasher, hash::RandomState, net::IpAddr};

use culvert_wireguard::Instant;

use crate::{input::Budget, limits};

const PLACES: usize = 256;

/// Errors that may still leave.
pub(crate) struct Limits {
    key: RandomState,
    hosts: Box<[Budget; PLACES]>,
    all: Budget,
}

impl Limits {
    pub(crate) fn new(key: RandomState, now: Instant) -> Self {
        Self {
            key,
            hosts: Box::new([Budget::new(limits::HOST_ERRORS_TO_ONE, now); PLACES]),
            all: Budget::new(limits::HOST_ERRORS_PER_SECOND, now),
        }
    }

    /// One host's share first: what it may not have takes nothing from others.
    pub(crate) fn take(&mut self, host: IpAddr, now: Instant) -> bool {
        let [place, ..] = self.key.hash_one(host).to_le_bytes();
        self.hosts[usize::from(place)].take(now) && self.all.take(now)
    }
}
