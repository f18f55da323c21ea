//! What all peers together may be probed.
//!
//! In: the time. Out: whether one more probe may leave. Never: more saved than a second's worth.

use culvert_wireguard::Instant;

use crate::limits::PROBES_PER_SECOND;

const NANOS_PER_PROBE: u64 = 1_000_000_000 / PROBES_PER_SECOND;

/// Probes that may leave, of all peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When it would be full again, if nothing were taken any more.
    full: Instant,
}

impl Bucket {
    /// Whether one more may leave now.
    pub fn take(&mut self, now: Instant) -> bool {
        let full = self.full.as_nanos().max(now.as_nanos()) + NANOS_PER_PROBE;
        let may = full - now.as_nanos() <= PROBES_PER_SECOND * NANOS_PER_PROBE;
        if may {
            self.full = Instant::from_nanos(full);
        }
        may
    }
}
