//! Link-locals: the IPv6 link-local addresses that a port has come to own.
//!
//! In: interface identifiers that its guest uses. Out: whether they are the port's. Never: growth; the
//! oldest claim makes room for the newest.
//!
//! A guest makes its link-local addresses itself, and not always of its MAC address (RFC 7217). So they are
//! owned as RFC 6620 has it: whose first, while the port is there.
//!
//! Threads: any worker asks and claims. Two that claim one address for two ports both publish first and then look: at
//! least one of them sees the other and withdraws. A guest whose claim fell to that repeats itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use culvert_wireguard::Instant;

use crate::shared::limits::{LINK_LOCAL_CLAIM_PERIOD, LINK_LOCALS};

/// No address: fe80:: is a router's anycast address.
const NONE: u64 = 0;

/// One port's, by their last 64 bits.
#[derive(Debug, Default)]
pub struct LinkLocals {
    ids: [AtomicU64; LINK_LOCALS],
    /// Where the next claim goes: the oldest is there.
    next: AtomicUsize,
    /// When the next claim may come, in nanoseconds.
    due: AtomicU64,
}

impl LinkLocals {
    /// Whether the port owns the address.
    pub(crate) fn hold(&self, id: u64) -> bool {
        id != NONE && self.ids.iter().any(|own| own.load(Ordering::Relaxed) == id)
    }

    /// Claims an address that the port does not own; `taken` says whether another port does. At most one claim per
    /// period is looked at: it costs a look at each port of the network.
    pub(crate) fn claim(&self, id: u64, now: Instant, taken: impl Fn() -> bool) -> bool {
        if id == NONE || !self.is_due(now) || taken() {
            return false;
        }
        let next = self.next.load(Ordering::Relaxed);
        let place = &self.ids[next % LINK_LOCALS];
        let oldest = place.swap(id, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if taken() {
            place.store(oldest, Ordering::Relaxed);
            return false;
        }
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
        true
    }

    /// Whether a claim is due; then it is this caller's alone.
    fn is_due(&self, now: Instant) -> bool {
        let now = now.as_nanos();
        let due = self.due.load(Ordering::Relaxed);
        let period = u64::try_from(LINK_LOCAL_CLAIM_PERIOD.as_nanos()).unwrap_or(u64::MAX);
        now >= due
            && self
                .due
                .compare_exchange(due, now + period, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn the_oldest_claim_makes_room_and_others_are_left_alone() {
        let own = LinkLocals::default();
        let count = u64::try_from(LINK_LOCALS).unwrap();
        for id in 1..=count + 3 {
            assert!(own.claim(id, at(id * 1000), || false));
        }
        for id in 0..=count + 4 {
            assert_eq!(own.hold(id), (4..=count + 3).contains(&id), "{id}");
        }
        assert!(!own.claim(99, at(1_000_000), || true));
        assert!(!own.claim(NONE, at(2_000_000), || false));
        assert!(own.hold(4) && !own.hold(99));
    }

    #[test]
    fn claims_are_looked_at_now_and_then() {
        let own = LinkLocals::default();
        assert!(own.claim(1, at(1000), || false));
        assert!(!own.claim(2, at(1000), || panic!("not due")));
        assert!(own.claim(2, at(1010), || false));
    }

    #[test]
    fn who_finds_that_another_was_first_withdraws() {
        let own = LinkLocals::default();
        assert!(own.claim(1, at(0), || false));
        let looks = std::cell::Cell::new(0);
        let late = || looks.replace(looks.get() + 1) > 0;
        for _ in 0..LINK_LOCALS {
            assert!(!own.claim(2, at(1000), late));
        }
        assert!(own.hold(1) && !own.hold(2));
    }
}
