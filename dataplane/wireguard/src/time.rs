//! Time as an argument: a monotonic instant, a pair of clocks, and TAI64N timestamps.
//!
//! In: nanoseconds from the caller's clocks. Out: comparable instants, timestamp bytes. Never: a clock.

use core::time::Duration;

use crate::limits::TIMESTAMP_GRANULARITY_NS;

/// Nanoseconds of a monotonic clock with an arbitrary origin (one that also runs while the machine is suspended
/// is best: keys age then, too).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant `nanoseconds` after the clock's origin.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the clock's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whether `age` has passed since this instant (an exact hit counts).
    #[must_use]
    pub const fn is_older_than(self, age: Duration, now: Self) -> bool {
        now.0 >= self.after(age).0
    }

    /// The instant `delay` later, saturating.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(delay)))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        self.after(delay)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "guarded by the comparison")]
const fn nanoseconds(duration: Duration) -> u64 {
    let nanoseconds = duration.as_nanos();
    if nanoseconds > u64::MAX as u128 {
        u64::MAX
    } else {
        nanoseconds as u64
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: all timers.
    pub monotonic: Instant,
    /// Time since the Unix epoch: handshake timestamps and "latest handshake".
    pub unix: Duration,
}

/// A TAI64N timestamp as it travels in an initiation: its bytes compare in time's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tai64n([u8; Self::LEN]);

impl Tai64n {
    /// Bytes on the wire.
    pub const LEN: usize = 12;

    /// The Unix epoch's TAI64 label, with the ten leap seconds of 1972.
    const UNIX_EPOCH: u64 = 0x4000_0000_0000_000a;

    /// The timestamp of a Unix time, rounded down so that it doesn't leak the clock.
    #[must_use]
    pub fn from_unix(unix: Duration) -> Self {
        let nanoseconds = unix.subsec_nanos() & !(TIMESTAMP_GRANULARITY_NS - 1);
        Self::from_parts(Self::UNIX_EPOCH.saturating_add(unix.as_secs()), nanoseconds)
    }

    /// The next timestamp that any peer accepts after this one.
    #[must_use]
    pub fn successor(self) -> Self {
        let (seconds, nanoseconds) = self.parts();
        let next = nanoseconds.saturating_add(TIMESTAMP_GRANULARITY_NS);
        if next < 1_000_000_000 {
            Self::from_parts(seconds, next)
        } else {
            Self::from_parts(seconds.saturating_add(1), 0)
        }
    }

    /// A timestamp off the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    fn from_parts(seconds: u64, nanoseconds: u32) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    fn parts(self) -> (u64, u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.0;
        (
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u32::from_be_bytes([i, j, k, l]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_carry_the_tai_label_and_rounded_nanoseconds() {
        let stamp = Tai64n::from_unix(Duration::new(1, 0x0123_4567));
        assert_eq!(
            stamp.as_bytes(),
            &[0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0x01, 0, 0, 0]
        );
    }

    #[test]
    fn timestamps_order_as_time_does() {
        let early = Tai64n::from_unix(Duration::new(5, 999_999_999));
        let late = Tai64n::from_unix(Duration::new(6, 0));
        assert!(early < late);
    }

    #[test]
    fn a_successor_is_strictly_later_and_stays_within_a_second() {
        let mut stamp = Tai64n::from_unix(Duration::from_secs(7));
        for _ in 0..200 {
            let next = stamp.successor();
            assert!(next > stamp);
            assert!(next.parts().1 < 1_000_000_000);
            stamp = next;
        }
        assert_eq!(stamp.parts().0, Tai64n::UNIX_EPOCH + 7 + 3);
    }

    #[test]
    fn ages_are_reached_exactly_and_never_overflow() {
        let born = Instant(10);
        assert!(!born.is_older_than(Duration::from_nanos(5), Instant(14)));
        assert!(born.is_older_than(Duration::from_nanos(5), Instant(15)));
        assert_eq!(
            Instant(u64::MAX).after(Duration::from_secs(1)),
            Instant(u64::MAX)
        );
        assert_eq!(Instant(3).since(Instant(9)), Duration::ZERO);
    }
}
