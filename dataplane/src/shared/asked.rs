//! Asked: when the control core was last asked something, so that it is asked once, however many packets want it.
//!
//! In: the time; that something has changed. Out: whether to ask now. Never: a wait; a lock.
//!
//! Two workers that ask at the same moment may both be told to: what they raise is one bit, or for a hop that of two
//! peers.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_wireguard::Instant;

use crate::shared::limits::WANTED_AGAIN;

/// A question that is asked once, and again after [`WANTED_AGAIN`].
#[derive(Debug, Default)]
pub(crate) struct Asked(AtomicU64);

impl Asked {
    /// Worker: whether to ask now, which is noted.
    pub(crate) fn again(&self, now: Instant) -> bool {
        let last = Instant::from_nanos(self.0.load(Ordering::Relaxed));
        let is_due = last.as_nanos() == 0 || now.since(last) >= WANTED_AGAIN;
        if is_due {
            self.0.store(now.as_nanos(), Ordering::Relaxed);
        }
        is_due
    }

    /// Control core: something has changed, and the question is another one.
    pub(crate) fn anew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
