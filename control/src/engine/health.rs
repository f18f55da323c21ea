//! Whether something that may fail is relied on: an uplink, a next hop.
//!
//! In: whether it works, the time. Out: how far it is relied on. Never: what has just come back preferred to what works:
//! it is held down first, the longer the more often it fails.

use std::time::Duration;

use culvert_wireguard::Instant;

/// What comes back is held down for so long.
const HOLD: Duration = Duration::from_secs(5);
/// At the longest, however often it failed.
const HOLD_MAX: Duration = Duration::from_secs(160);
/// What has worked for so much longer than it was held down has not failed often.
const CALM: Duration = Duration::from_secs(60);

/// How far something is relied on, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    /// It does not work.
    Fails,
    /// It works, but was away lately, or was never tried: better than nothing.
    Held,
    /// It works.
    Works,
}

/// Whether it works, since when, and for how long it is held down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    fails: bool,
    since: Instant,
    hold: Duration,
}

impl Health {
    /// It works or it does not, from now on; whether that is new.
    pub(super) fn set(&mut self, works: bool, now: Instant) -> bool {
        if works != self.fails {
            return false;
        }
        if !works {
            let calm = now.since(self.since) >= self.hold + CALM;
            self.hold = match calm || self.hold.is_zero() {
                true => HOLD,
                false => (2 * self.hold).min(HOLD_MAX),
            };
        }
        (self.fails, self.since) = (!works, now);
        true
    }

    /// How far it is relied on.
    pub(super) fn grade(&self, now: Instant) -> Grade {
        match self.fails {
            true => Grade::Fails,
            false if now.since(self.since) < self.hold => Grade::Held,
            false => Grade::Works,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos((1_000 + seconds) * 1_000_000_000)
    }

    #[test]
    fn what_comes_back_is_held_down_and_longer_each_time() {
        let mut health = Health::default();
        assert_eq!(health.grade(at(0)), Grade::Works);
        assert!(!health.set(true, at(0)) && health.set(false, at(1)) && !health.set(false, at(2)));
        assert_eq!(health.grade(at(60)), Grade::Fails);
        let mut now = 60;
        for hold in [5, 10, 20, 40, 80, 160, 160] {
            assert!(health.set(true, at(now)));
            assert_eq!(health.grade(at(now + hold - 1)), Grade::Held, "{hold}");
            assert_eq!(health.grade(at(now + hold)), Grade::Works, "{hold}");
            now += hold + 1;
            assert!(health.set(false, at(now)));
        }
        // What has worked for a while is as good as new.
        health.set(true, at(now));
        now += 160 + 60;
        health.set(false, at(now));
        health.set(true, at(now));
        assert_eq!(health.grade(at(now + 5)), Grade::Works);
    }

    #[test]
    fn what_never_failed_is_never_held_down() {
        assert_eq!(Health::default().grade(Instant::default()), Grade::Works);
        assert!(Grade::Fails < Grade::Held && Grade::Held < Grade::Works);
    }
}
