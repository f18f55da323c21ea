//! Awaited: what an uplink's host stack waits for, so that workers tell it from what nobody asked for.
//!
//! In: from the stacks' thread, the exchange of its DHCP client, neighbors that it has asked, the number of its BFD
//! session. Out: to workers, whether a frame is of these. Never: a lock, a wait, an allocation of a worker's.
//!
//! Whoever floods a class of punts with what nobody waits for takes nothing from what is: that has a class of its own
//! (`punt`). A neighbor that is asked whether it is still there is awaited from where it is known to be, and from
//! nowhere else: with its own hardware address whoever forges its answer says what is true. One that is nowhere yet is
//! awaited from anywhere, [`AWAITED_PER_SECOND`] times a second.
//!
//! Addresses are found by a hash that nobody else can compute. A value that is read while it is replaced is taken for
//! unawaited, or for its neighbor's in the table: the frame goes another way, once.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use crate::shared::{
    allowance::Allowance,
    limits::{AWAITED_NEIGHBORS, AWAITED_PER_SECOND},
};

/// Places for addresses with one beginning of their hashes. Who finds none is not told apart.
const BUCKET: usize = 8;

/// All that a stack waits for.
#[derive(Debug, Default)]
pub struct Awaited {
    /// Of DHCP servers.
    pub lease: Exchange,
    /// Of neighbors.
    pub neighbors: Neighbors,
    /// Of the neighbor whose life is watched.
    pub session: Session,
}

/// The exchange in which a DHCP client waits for an answer.
#[derive(Debug, Default)]
pub struct Exchange(AtomicU64);

impl Exchange {
    /// Above any number of an exchange.
    const WAITS: u64 = 1 << 32;

    /// The exchange from here on; `None`: it waits for nothing.
    pub fn set(&self, exchange: Option<u32>) {
        let waits = exchange.map_or(0, |exchange| Self::WAITS | u64::from(exchange));
        self.0.store(waits, Relaxed);
    }

    /// Whether that exchange's answers are waited for.
    #[must_use]
    pub fn is(&self, exchange: u32) -> bool {
        self.0.load(Relaxed) == Self::WAITS | u64::from(exchange)
    }
}

/// The BFD session of a stack: whose packets, and by which number of ours.
#[derive(Debug, Default)]
pub struct Session {
    key: RandomState,
    hash: AtomicU64,
}

impl Session {
    /// The session from here on, if there is one.
    pub fn set(&self, session: Option<(IpAddr, u32)>) {
        let hash = session.map_or(0, |session| hash(&self.key, session));
        self.hash.store(hash, Relaxed);
    }

    /// Whether that neighbor's packets to that number are the session's.
    #[must_use]
    pub fn is(&self, neighbor: IpAddr, number: u32) -> bool {
        let known = self.hash.load(Relaxed);
        known != 0 && known == hash(&self.key, (neighbor, number))
    }
}

/// Neighbors that were asked and have not answered.
#[derive(Debug)]
pub struct Neighbors {
    key: RandomState,
    count: AtomicUsize,
    places: Box<[Place]>,
}

/// A neighbor that is awaited.
#[derive(Debug, Default)]
pub struct Place {
    /// Its address's; 0: nobody's place.
    hash: AtomicU64,
    /// Where it is known to be; 0: anywhere.
    mac: AtomicU64,
    allowance: Allowance,
}

impl Default for Neighbors {
    fn default() -> Self {
        Self {
            key: RandomState::new(),
            count: AtomicUsize::new(0),
            places: (0..AWAITED_NEIGHBORS).map(|_| Place::default()).collect(),
        }
    }
}

impl Neighbors {
    /// Stacks' thread: these from here on, each where it is known to be.
    pub fn set(&self, awaited: impl IntoIterator<Item = (IpAddr, Option<MacAddr>)>) {
        let awaited = awaited.into_iter();
        let mut awaited: Vec<_> = awaited
            .map(|(address, mac)| (hash(&self.key, address), mac.map_or(0, word)))
            .collect();
        awaited.sort_unstable();
        for place in &self.places {
            let known = place.hash.load(Relaxed);
            match awaited.binary_search_by_key(&known, |&(hash, _)| hash) {
                Ok(at) => place.mac.store(awaited.remove(at).1, Relaxed),
                Err(_) if known != 0 => place.hash.store(0, Relaxed),
                Err(_) => {}
            }
        }
        for (hash, mac) in awaited {
            let mut bucket = self.bucket(hash).iter();
            if let Some(place) = bucket.find(|place| place.hash.load(Relaxed) == 0) {
                place.mac.store(mac, Relaxed);
                place.hash.store(hash, Relaxed);
            }
        }
        let taken = |place: &&Place| place.hash.load(Relaxed) != 0;
        let count = self.places.iter().filter(taken).count();
        self.count.store(count, Relaxed);
    }

    /// The place of a neighbor that is awaited. Whether a frame is its answer is to be looked at then.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&Place> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let hash = hash(&self.key, address);
        let mut bucket = self.bucket(hash).iter();
        bucket.find(|place| place.hash.load(Relaxed) == hash)
    }

    fn bucket(&self, hash: u64) -> &[Place] {
        let buckets = AWAITED_NEIGHBORS / BUCKET;
        // Less than there are.
        let at = usize::try_from(hash % buckets as u64).unwrap_or(0) * BUCKET;
        &self.places[at..at + BUCKET]
    }
}

impl Place {
    /// Worker: whether an answer that says `mac` is awaited.
    #[must_use]
    pub fn takes(&self, mac: MacAddr, now: Instant) -> bool {
        let known = self.mac.load(Relaxed);
        (known == 0 || known == word(mac)) && self.allowance.take(AWAITED_PER_SECOND, now)
    }
}

fn word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn hash(key: &RandomState, what: impl std::hash::Hash) -> u64 {
    key.hash_one(what).max(1)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_exchange_is_awaited_by_its_number() {
        let lease = Exchange::default();
        assert!(!lease.is(0));
        lease.set(Some(7));
        assert!(lease.is(7) && !lease.is(8));
        lease.set(None);
        assert!(!lease.is(7));
    }

    #[test]
    fn a_session_is_known_by_neighbor_and_number() {
        let session = Session::default();
        assert!(!session.is(ip("192.0.2.1"), 0));
        session.set(Some((ip("192.0.2.1"), 7)));
        assert!(session.is(ip("192.0.2.1"), 7));
        assert!(!session.is(ip("192.0.2.1"), 0) && !session.is(ip("192.0.2.2"), 7));
        session.set(None);
        assert!(!session.is(ip("192.0.2.1"), 7));
    }

    #[test]
    fn who_is_known_is_awaited_from_there_alone_and_who_is_not_from_anywhere() {
        let neighbors = Neighbors::default();
        let takes = |address: &str, mac| {
            let place = neighbors.find(ip(address));
            place.is_some_and(|place| place.takes(mac, at(5_000)))
        };
        assert!(!takes("192.0.2.1", MAC));
        neighbors.set([(ip("192.0.2.1"), Some(MAC)), (ip("2001:db8::1"), None)]);
        assert!(takes("192.0.2.1", MAC) && !takes("192.0.2.1", OTHER));
        assert!(takes("2001:db8::1", MAC) && takes("2001:db8::1", OTHER));
        assert!(!takes("192.0.2.2", MAC));
        // It did not answer: others may.
        neighbors.set([(ip("192.0.2.1"), None)]);
        assert!(takes("192.0.2.1", OTHER) && !takes("2001:db8::1", MAC));
        neighbors.set([]);
        assert!(!takes("192.0.2.1", MAC));
    }

    #[test]
    fn of_each_so_many_are_awaited_in_a_second() {
        let neighbors = Neighbors::default();
        neighbors.set([(ip("192.0.2.1"), None), (ip("192.0.2.2"), None)]);
        let taken = |address: &str, now: u64| {
            let place = neighbors.find(ip(address)).unwrap();
            (0..1_000).filter(|_| place.takes(MAC, at(now))).count()
        };
        let most = AWAITED_PER_SECOND as usize;
        assert_eq!(taken("192.0.2.1", 5_000), most);
        assert_eq!(taken("192.0.2.2", 5_000), most);
        assert_eq!(taken("192.0.2.1", 5_500), most / 2);
    }

    #[test]
    fn a_full_table_lacks_few_and_forgets_all() {
        let neighbors = Neighbors::default();
        let all = |from: u32| (from..from + 512).map(|n| IpAddr::from(Ipv4Addr::from_bits(n)));
        let found = |from| all(from).filter(|&it| neighbors.find(it).is_some()).count();
        for from in [0, 256, 10_000] {
            neighbors.set(all(from).map(|it| (it, None)));
            assert!(found(from) > 490, "{}", found(from));
        }
        assert_eq!(found(0), 0);
        neighbors.set((0..100_000).map(|n| (IpAddr::from(Ipv4Addr::from_bits(n)), None)));
        assert_eq!(neighbors.count.load(Relaxed), AWAITED_NEIGHBORS);
        neighbors.set([]);
        assert_eq!(found(0), 0);
    }
}
