//! Admission: who may begin a connection.
//!
//! In: SYNs, the time. Out: for which listener one is let in, or why not. Never: a look at a segment beyond its ends;
//! memory that grows with those who ask.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

use culvert_wire::fib::Prefix;
use culvert_wireguard::Instant;

use crate::{HostDrop, input::Budget, limits};

/// Sources share so many places, by a hash that nobody knows.
const PLACES: usize = 256;

/// A port that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// Whom it is for.
    pub allow: Vec<Prefix>,
}

/// How often connections may still be begun in this second.
pub(super) struct Openings {
    key: RandomState,
    sources: Box<[Budget; PLACES]>,
    all: Budget,
}

impl Openings {
    pub(super) fn new(key: RandomState, now: Instant) -> Self {
        let one = Budget::new(limits::OPENINGS_OF_ONE_PER_SECOND, now);
        Self {
            key,
            sources: Box::new([one; PLACES]),
            all: Budget::new(limits::OPENINGS_PER_SECOND, now),
        }
    }

    /// Whether `source` may begin a connection to one of these. Who isn't allowed takes nothing from others, and one
    /// source's share comes first.
    ///
    /// # Errors
    /// Why not. Who asks for a port that is not for him, or nobody's, may be told so.
    pub(super) fn admit(
        &mut self,
        listener: Option<&Listener>,
        source: IpAddr,
        now: Instant,
    ) -> Result<(), HostDrop> {
        let listener = listener.ok_or(HostDrop::TcpPortClosed)?;
        if !listener.allow.iter().any(|prefix| prefix.contains(source)) {
            return Err(HostDrop::TcpNotAllowed);
        }
        let [place, ..] = self.key.hash_one(source).to_le_bytes();
        match self.sources[usize::from(place)].take(now) && self.all.take(now) {
            true => Ok(()),
            false => Err(HostDrop::TcpOpeningsLimited),
        }
    }
}
