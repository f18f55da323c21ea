//! The workers' clock: nanoseconds since boot (suspension counts: keys age then, too), read once per turn.
//!
//! In: the kernel's monotonic clock. Out: the protocol's `Instant` and `Now`.
//! Never: read per packet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_wireguard::{Instant, Now};
use rustix::time::{ClockId, clock_gettime};

/// The monotonic time.
#[must_use]
pub fn monotonic() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// What the calling thread has had of a processor.
#[must_use]
pub fn spent() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The monotonic and the wall-clock time (a clock before 1970 counts as 1970).
#[must_use]
pub fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Now {
        monotonic: monotonic(),
        unix,
    }
}
