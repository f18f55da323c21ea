//! Whether a thread may be asleep: the part of a doorbell that is no system call.
//!
//! In: the owner's announcement, producers' calls. Out: who must ring. Never: a wake-up that is lost.
//!
//! Every change is a swap, each of which follows the last: loom, which tries this in all orders (`tests/model`), knows
//! no order between plain stores. A sleep can afford it.
//!
//! The owner announces its sleep, fences, and looks at its inputs once more; a producer publishes, fences, then looks
//! for the announcement. One of the two sees the other. Of several producers one rings.

use super::sync::{AtomicBool, Ordering, fence};

/// One thread's announcement.
#[derive(Debug)]
pub(crate) struct Bell {
    asleep: AtomicBool,
}

impl Bell {
    /// Its owner is awake.
    pub(crate) fn new() -> Self {
        Self {
            asleep: AtomicBool::new(false),
        }
    }

    /// Producer, after publishing: whether the owner must be rung for.
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.swap(false, Ordering::Relaxed)
    }

    /// Owner: about to sleep, and to look at all inputs once more before.
    pub(crate) fn announce(&self) {
        self.asleep.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Owner: awake again.
    pub(crate) fn awake(&self) {
        self.asleep.swap(false, Ordering::Relaxed);
    }
}
