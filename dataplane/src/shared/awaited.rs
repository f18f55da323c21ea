//! Awaited: what an uplink's host stack waits for, so that workers tell it from what nobody asked for.
//!
//! In: from the stacks' thread, the exchange of its DHCP client, neighbors that it has asked, routers that it knows, the
//! number of its BFD session and where that one's neighbor is. Out: to workers, whether a frame is of these. Never: a lock,
//! a wait, an allocation of a worker's.
//!
//! Whoever floods a class of punts with what nobody waits for takes nothing from what is: that has a class of its own
//! (`punt`). A neighbor that is asked whether it is still there is awaited from where it is known to be, and from
//! nowhere else: with its own hardware address whoever forges its answer says what is true. One that is nowhere yet is
//! awaited from anywhere, if it says where it is. Of each [`AWAITED_PER_SECOND`] answers a second are awaited, of all of
//! an uplink as many as its allowances say, one for those in use and one for the others: so whoever has strangers asked, and
//! answers for them, takes nothing from a router.
//!
//! Routers that are known are awaited in the same way, whenever they speak, from where they have answered. What others
//! advertise has one allowance of the uplink's: with one of each worker's, claims would push each other out ahead of any
//! answer.
//!
//! Neighbors are one value that is replaced, so that it lacks nobody; the last that holds an old one may be a worker. A
//! session's is a hash that nobody else can compute: read while it is replaced, a frame is taken for none of it, once.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use crate::shared::{
    allowance::Allowance,
    limits::{
        AWAITED_IN_USE_PER_SECOND, AWAITED_OTHERS_PER_SECOND, AWAITED_PER_SECOND,
        LIVENESS_BEGINNINGS_PER_SECOND, STRANGE_ROUTERS_PER_SECOND,
    },
};

/// All that a stack waits for.
#[derive(Debug, Default)]
pub struct Awaited {
    /// Of DHCP servers.
    pub lease: Exchange,
    /// Of neighbors.
    pub neighbors: Neighbors,
    /// Of routers that have answered.
    pub routers: Neighbors,
    /// Of others that say to be routers.
    pub strangers: Strangers,
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

/// The BFD session of a stack: whose packets, and by which number of ours. Who names none may begin it, from where the
/// neighbor is: everyone else would keep it down.
#[derive(Debug, Default)]
pub struct Session {
    key: RandomState,
    named: AtomicU64,
    unnamed: AtomicU64,
    beginnings: Allowance,
}

/// Whose life a session watches.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// The neighbor.
    pub neighbor: IpAddr,
    /// Where it has answered from.
    pub mac: Option<MacAddr>,
    /// The session's number here.
    pub number: u32,
}

impl Session {
    /// The session from here on, if there is one.
    pub fn set(&self, watched: Option<Watched>) {
        let hash_of = |watched: Watched| {
            let named = hash(&self.key, (watched.neighbor, watched.number));
            let unnamed = watched
                .mac
                .map(|mac| hash(&self.key, (watched.neighbor, mac)));
            (named, unnamed.unwrap_or(0))
        };
        let (named, unnamed) = watched.map_or((0, 0), hash_of);
        self.named.store(named, Relaxed);
        self.unnamed.store(unnamed, Relaxed);
    }

    /// Whether that neighbor's packets to that number are the session's.
    #[must_use]
    pub fn is(&self, neighbor: IpAddr, number: u32) -> bool {
        let known = self.named.load(Relaxed);
        known != 0 && known == hash(&self.key, (neighbor, number))
    }

    /// Worker: whether packets of that neighbor, which come from there, may begin the session.
    #[must_use]
    pub fn may_begin(&self, neighbor: IpAddr, source: MacAddr, now: Instant) -> bool {
        let known = self.unnamed.load(Relaxed);
        known != 0
            && known == hash(&self.key, (neighbor, source))
            && self.beginnings.take(LIVENESS_BEGINNINGS_PER_SECOND, now)
    }
}

/// Who says to be a router, and has not answered.
#[derive(Debug, Default)]
pub struct Strangers(Allowance);

impl Strangers {
    /// Worker: whether one more is heard.
    pub fn take(&self, now: Instant) -> bool {
        self.0.take(STRANGE_ROUTERS_PER_SECOND, now)
    }
}

/// Neighbors that were asked and have not answered, or that speak unasked.
#[derive(Debug, Default)]
pub struct Neighbors {
    /// In the order of their addresses.
    places: ArcSwap<Vec<Place>>,
    in_use: Allowance,
    others: Allowance,
}

/// A neighbor that was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its address.
    pub address: IpAddr,
    /// Where it is known to be; `None`: nowhere.
    pub mac: Option<MacAddr>,
    /// Something is sent there, or is to be.
    pub is_in_use: bool,
}

/// Where an answer says that its neighbor is.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What it says.
    pub mac: Option<MacAddr>,
    /// Where its frame comes from.
    pub source: MacAddr,
}

#[derive(Debug)]
struct Place {
    asked: Asked,
    allowance: Allowance,
}

impl Neighbors {
    /// Stacks' thread: these from here on. Who stays has spent what it has.
    pub fn set(&self, awaited: impl IntoIterator<Item = Asked>) {
        let before = self.places.load();
        let place = |asked: Asked| Place {
            allowance: find(&before, asked.address)
                .map_or_else(Allowance::default, |place| place.allowance.copy()),
            asked,
        };
        let mut places: Vec<_> = awaited.into_iter().map(place).collect();
        places.sort_unstable_by_key(|place| place.asked.address);
        self.places.store(Arc::new(places));
    }

    /// Worker: whether an answer for `address` is awaited. It is read through only once it is known that somebody asked.
    pub fn take(
        &self,
        address: IpAddr,
        read: impl FnOnce() -> Option<Answer>,
        now: Instant,
    ) -> bool {
        let places = self.places.load();
        let Some(place) = find(&places, address) else {
            return false;
        };
        let (all, per_second) = match place.asked.is_in_use {
            true => (&self.in_use, AWAITED_IN_USE_PER_SECOND),
            false => (&self.others, AWAITED_OTHERS_PER_SECOND),
        };
        read().is_some_and(|answer| place.asked.is_answered_by(answer))
            && place.allowance.take(AWAITED_PER_SECOND, now)
            && all.take(per_second, now)
    }
}

impl Asked {
    /// Who is nowhere yet is to say where it is (RFC 4861, section 7.2.5: else the answer is passed over).
    fn is_answered_by(&self, answer: Answer) -> bool {
        match self.mac {
            Some(known) => answer.mac.unwrap_or(answer.source) == known,
            None => answer.mac.is_some(),
        }
    }
}

fn find(places: &[Place], address: IpAddr) -> Option<&Place> {
    let at = places.binary_search_by_key(&address, |place| place.asked.address);
    places.get(at.ok()?)
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

    fn asked(address: &str, mac: Option<MacAddr>) -> Asked {
        Asked {
            address: ip(address),
            mac,
            is_in_use: true,
        }
    }

    /// An answer that says and comes from `mac`.
    fn from(mac: MacAddr) -> Option<Answer> {
        Some(Answer {
            mac: Some(mac),
            source: mac,
        })
    }

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
        session.set(Some(watched(None)));
        assert!(session.is(ip("192.0.2.1"), 7));
        assert!(!session.is(ip("192.0.2.1"), 0) && !session.is(ip("192.0.2.2"), 7));
        session.set(None);
        assert!(!session.is(ip("192.0.2.1"), 7));
    }

    fn watched(mac: Option<MacAddr>) -> Watched {
        Watched {
            neighbor: ip("192.0.2.1"),
            mac,
            number: 7,
        }
    }

    #[test]
    fn a_session_is_begun_by_its_neighbor_from_where_that_is_and_so_often() {
        let session = Session::default();
        let begins = |address: &str, mac, millis| session.may_begin(ip(address), mac, at(millis));
        assert!(!begins("192.0.2.1", MAC, 0));
        session.set(Some(watched(None)));
        assert!(!begins("192.0.2.1", MAC, 0), "it is nowhere yet");
        session.set(Some(watched(Some(MAC))));
        let forged =
            (0..1_000).any(|_| begins("192.0.2.1", OTHER, 0) || begins("192.0.2.2", MAC, 0));
        assert!(!forged);
        let taken = (0..1_000).filter(|_| begins("192.0.2.1", MAC, 5_000));
        assert_eq!(taken.count(), LIVENESS_BEGINNINGS_PER_SECOND as usize);
        assert!(begins("192.0.2.1", MAC, 6_000));
        session.set(None);
        assert!(!begins("192.0.2.1", MAC, 9_000));
    }

    #[test]
    fn who_is_known_is_awaited_from_there_alone_and_who_is_not_from_anywhere() {
        let neighbors = Neighbors::default();
        let takes = |address: &str, mac| neighbors.take(ip(address), || from(mac), at(5_000));
        assert!(!takes("192.0.2.1", MAC));
        neighbors.set([asked("192.0.2.1", Some(MAC)), asked("2001:db8::1", None)]);
        assert!(takes("192.0.2.1", MAC) && !takes("192.0.2.1", OTHER));
        assert!(takes("2001:db8::1", MAC) && takes("2001:db8::1", OTHER));
        assert!(!takes("192.0.2.2", MAC));
        // It did not answer: others may.
        neighbors.set([asked("192.0.2.1", None)]);
        assert!(takes("192.0.2.1", OTHER) && !takes("2001:db8::1", MAC));
        neighbors.set([]);
        assert!(!takes("192.0.2.1", MAC));
    }

    #[test]
    fn who_does_not_say_where_it_is_is_awaited_from_where_it_is_known_to_be() {
        let neighbors = Neighbors::default();
        let takes = |source| {
            let read = || Some(Answer { mac: None, source });
            neighbors.take(ip("2001:db8::1"), read, at(5_000))
        };
        neighbors.set([asked("2001:db8::1", None)]);
        assert!(!takes(MAC));
        neighbors.set([asked("2001:db8::1", Some(MAC))]);
        assert!(takes(MAC) && !takes(OTHER));
    }

    #[test]
    fn of_each_so_many_are_awaited_in_a_second_however_often_others_are_asked() {
        let neighbors = Neighbors::default();
        let taken = |address: &str, now: u64| {
            let take = |_: &i32| neighbors.take(ip(address), || from(MAC), at(now));
            (0..1_000).filter(take).count()
        };
        let most = AWAITED_PER_SECOND as usize;
        neighbors.set([asked("192.0.2.1", None), asked("192.0.2.2", None)]);
        assert_eq!(taken("192.0.2.1", 5_000), most);
        assert_eq!(taken("192.0.2.2", 5_000), most);
        // Who stays has spent what it has, and who comes has not.
        neighbors.set([asked("192.0.2.0", None), asked("192.0.2.2", None)]);
        assert_eq!(taken("192.0.2.2", 5_000), 0);
        assert_eq!(taken("192.0.2.0", 5_000), most);
        assert_eq!(taken("192.0.2.2", 5_500), most / 2);
    }

    #[test]
    fn who_has_strangers_asked_takes_nothing_from_those_in_use() {
        let neighbors = Neighbors::default();
        let others = all(0).map(|address| Asked {
            is_in_use: false,
            ..of(address)
        });
        neighbors.set(others.chain([asked("192.0.2.1", Some(MAC))]));
        let forged = (0..32_000).filter(|n| {
            let address = Ipv4Addr::from_bits(n % 1_024);
            neighbors.take(address.into(), || from(OTHER), at(5_000))
        });
        assert_eq!(forged.count(), AWAITED_OTHERS_PER_SECOND as usize);
        assert!(neighbors.take(ip("192.0.2.1"), || from(MAC), at(5_000)));
    }

    #[test]
    fn a_full_table_lacks_nobody_and_forgets_all() {
        let neighbors = Neighbors::default();
        let mut now = 0;
        let mut found = |from| {
            now += 10_000;
            let is_found = |&it: &IpAddr| neighbors.take(it, || self::from(MAC), at(now));
            all(from).filter(is_found).count()
        };
        for from in [0, 256, 10_000] {
            neighbors.set(all(from).map(of));
            assert_eq!(found(from), 1_024);
        }
        assert_eq!(found(0), 0);
        neighbors.set([]);
        assert_eq!(found(10_000), 0);
    }

    /// As many as a stack knows.
    fn all(from: u32) -> impl Iterator<Item = IpAddr> {
        (from..from + 1_024).map(|n| Ipv4Addr::from_bits(n).into())
    }

    fn of(address: IpAddr) -> Asked {
        Asked {
            address,
            mac: None,
            is_in_use: true,
        }
    }
}
