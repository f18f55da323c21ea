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

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    time::Duration,
};

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
    /// When all claims of a burst are due again, in nanoseconds.
    due: AtomicU64,
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The address is the port's.
    Own,
    /// It is another's.
    Taken,
    /// It was not looked at: there were too many before.
    NotDue,
}

impl LinkLocals {
    /// Whether the port owns the address.
    pub(crate) fn hold(&self, id: u64) -> bool {
        id != NONE && self.ids.iter().any(|own| own.load(Ordering::Relaxed) == id)
    }

    /// Claims an address that the port does not own; `taken` says whether another port does. After a burst of
    /// [`LINK_LOCALS`] at most one claim per period is looked at: it costs a look at each port of the network.
    pub(crate) fn claim(&self, id: u64, now: Instant, taken: impl Fn() -> bool) -> Claim {
        if id == NONE {
            return Claim::Taken;
        }
        if !self.is_due(now) {
            return Claim::NotDue;
        }
        if taken() {
            return Claim::Taken;
        }
        let next = self.next.load(Ordering::Relaxed);
        let place = &self.ids[next % LINK_LOCALS];
        let oldest = place.swap(id, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if taken() {
            place.store(oldest, Ordering::Relaxed);
            return Claim::Taken;
        }
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
        Claim::Own
    }

    /// Whether a claim is due; then it is this caller's alone.
    fn is_due(&self, now: Instant) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let period = nanos(LINK_LOCAL_CLAIM_PERIOD);
        let burst = LINK_LOCALS as u64 * period;
        let now = now.as_nanos();
        let due = self.due.load(Ordering::Relaxed);
        let next = due.max(now) + period;
        next <= now + burst
            && self
                .due
                .compare_exchange(due, next, Ordering::Acquire, Ordering::Relaxed)
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
            assert_eq!(own.claim(id, at(id * 1000), || false), Claim::Own);
        }
        for id in 0..=count + 4 {
            assert_eq!(own.hold(id), (4..=count + 3).contains(&id), "{id}");
        }
        assert_eq!(own.claim(99, at(1_000_000), || true), Claim::Taken);
        assert_eq!(own.claim(NONE, at(2_000_000), || false), Claim::Taken);
        assert!(own.hold(4) && !own.hold(99));
    }

    #[test]
    fn after_a_burst_claims_are_looked_at_now_and_then() {
        let own = LinkLocals::default();
        let count = u64::try_from(LINK_LOCALS).unwrap();
        let burst = |start: u64, time| {
            for id in start..start + count {
                assert_eq!(own.claim(id, at(time), || false), Claim::Own);
            }
        };
        let refused = |time| own.claim(99, at(time), || panic!("not due"));
        burst(1, 1000);
        assert_eq!(refused(1000), Claim::NotDue);
        assert_eq!(refused(1009), Claim::NotDue);
        assert_eq!(own.claim(2, at(1010), || false), Claim::Own);
        assert_eq!(refused(1010), Claim::NotDue);
        burst(1, 2000);
        assert_eq!(refused(2000), Claim::NotDue);
    }

    #[test]
    fn who_finds_that_another_was_first_withdraws() {
        let own = LinkLocals::default();
        assert_eq!(own.claim(1, at(0), || false), Claim::Own);
        for time in 1..=LINK_LOCALS as u64 {
            let looks = std::cell::Cell::new(0);
            let late = || looks.replace(looks.get() + 1) > 0;
            assert_eq!(own.claim(2, at(1000 * time), late), Claim::Taken);
            assert_eq!(looks.get(), 2);
        }
        assert!(own.hold(1) && !own.hold(2));
    }
}
