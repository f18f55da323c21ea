//! Pace: the time as smoltcp is told it.
//!
//! In: the time, and how fast it is to pass. Out: smoltcp's instants, and what they are here. Never: an instant that goes
//! back.
//!
//! smoltcp waits a second at least before it sends again what was lost (RFC 6298, section 2.4); Linux waits 200 ms, which
//! is what its peers are made for. There is no setting; but there is no clock in it either. Once a connection is open, its
//! time passes [`OPEN`] times as fast, and what smoltcp is told of durations is as much longer.

use std::time::Duration;

use culvert_wireguard::Instant;

/// How fast the time of an open connection passes.
pub(super) const OPEN: u32 = 5;
/// As it does: for connections that begin (RFC 6298, section 2.1, wants a second) or are over.
pub(super) const PLAIN: u32 = 1;

/// A connection's time.
pub(super) struct Pace {
    rate: u32,
    at: Instant,
    told_nanos: u64,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            rate: PLAIN,
            at: now,
            told_nanos: 0,
        }
    }

    /// What `now` is to smoltcp.
    pub(super) fn told(&mut self, now: Instant) -> smoltcp::time::Instant {
        let passed = now.since(self.at).saturating_mul(self.rate);
        let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        self.told_nanos = self.told_nanos.saturating_add(passed);
        self.at = self.at.max(now);
        let micros = i64::try_from(self.told_nanos / 1_000).unwrap_or(i64::MAX);
        smoltcp::time::Instant::from_micros(micros)
    }

    /// From here on time passes so fast.
    pub(super) fn set(&mut self, rate: u32) {
        self.rate = rate;
    }

    /// The latest that was told.
    pub(super) const fn last(&self) -> Instant {
        self.at
    }

    /// When smoltcp's `told` is; not before it.
    pub(super) fn real(&self, told: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(told.total_micros()).unwrap_or(0);
        let ahead = micros.saturating_mul(1_000).saturating_sub(self.told_nanos);
        self.at + Duration::from_nanos(ahead.div_ceil(self.rate.into()))
    }
}

/// A duration of ours as smoltcp is told it, for connections that are open.
pub(super) fn lasting(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(
        u64::try_from(duration.saturating_mul(OPEN).as_micros()).unwrap_or(u64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_never_taken_for_an_earlier_one() {
        let start = Instant::from_nanos(1_000_000_007);
        let mut pace = Pace::new(start);
        for (passed, rate) in [(0, PLAIN), (999, OPEN), (1_000_001, OPEN), (77, PLAIN)] {
            pace.set(rate);
            let now = pace.at + Duration::from_nanos(passed);
            let told = pace.told(now);
            let due = told + smoltcp::time::Duration::from_micros(1_001);
            let real = pace.real(due);
            assert!(real > now);
            assert!(pace.told(real) >= due);
        }
    }
}
