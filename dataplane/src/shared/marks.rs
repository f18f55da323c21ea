//! Signals that can't be lost: bits that stay until they are taken, and a map of whose are set.
//!
//! In: bits that workers raise, places that they mark. Out: the same, once, to the control core. Never: a queue, which
//! would have an end; a bit that is set while its place is unmarked and nobody is about to mark it.
//!
//! A worker raises bits, then marks; the core takes a mark, then the bits. What is raised in between is taken now, and
//! its mark is found later, with nothing behind it.

use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Bits of one place.
#[derive(Debug)]
pub(crate) struct Signals(AtomicU32);

impl Signals {
    /// None raised.
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Worker: whether the place must be marked; not if all of `bits` wait to be taken already.
    pub(crate) fn raise(&self, bits: u32) -> bool {
        if self.0.load(Ordering::Relaxed) & bits == bits {
            return false;
        }
        self.0.fetch_or(bits, Ordering::Release);
        true
    }

    /// Control core: what was raised since the last call.
    pub(crate) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Acquire)
    }
}

/// Places with signals.
///
/// The core sweeps now and then. Before it ceases to, it asks to hear of any mark, and sweeps once more.
#[derive(Debug)]
pub(crate) struct Marks {
    words: Box<[AtomicU64]>,
    /// A place was marked since the last sweep.
    any: AtomicBool,
    /// The core wants to hear of any mark.
    watched: AtomicBool,
}

impl Marks {
    /// Room for this many places, none marked.
    pub(crate) fn new(places: usize) -> Self {
        let words = (0..places.div_ceil(64)).map(|_| AtomicU64::new(0));
        Self {
            words: words.collect(),
            any: AtomicBool::new(false),
            watched: AtomicBool::new(false),
        }
    }

    /// Worker: marks `place`; whether the core wants to hear of it, urgent or not.
    pub(crate) fn mark(&self, place: usize) -> bool {
        if let Some(word) = self.words.get(place / 64) {
            word.fetch_or(1 << (place % 64), Ordering::Release);
        }
        // A swap and no store: see `bell`.
        self.any.swap(true, Ordering::Release);
        // Either the core's next sweep sees the mark, or it is seen here that there is none soon.
        fence(Ordering::SeqCst);
        self.watched.load(Ordering::Relaxed)
    }

    /// Control core: whether to tell it of any mark. It has to sweep once more before it relies on that.
    pub(crate) fn watch(&self, any: bool) {
        self.watched.store(any, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Control core: whether it is told of any mark.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Control core: calls `visit` for each marked place and unmarks it; whether any was marked.
    pub(crate) fn sweep(&self, mut visit: impl FnMut(usize)) -> bool {
        if !self.any.swap(false, Ordering::Acquire) {
            return false;
        }
        for (position, word) in self.words.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                visit(position * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        true
    }
}
