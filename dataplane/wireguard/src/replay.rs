//! The sliding window that refuses replayed data packets (RFC 6479).
//!
//! In: counters of packets whose tag was verified. Out: whether each is new. Never: a counter that is not
//! authenticated: one forged packet could move the window.
//!
//! The bitmap is a ring of words; moving the window clears words instead of shifting bits. One word is always in
//! part ahead of the newest counter, so the usable window is the bitmap less one word.

use std::sync::MutexGuard;

use crate::limits::{REJECT_AFTER_MESSAGES, REPLAY_BITS, REPLAY_WINDOW};

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = (REPLAY_BITS / WORD_BITS) as usize;

/// A window over the counters that were accepted on one keypair.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One more than the greatest accepted counter; zero while there is none.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }

    /// Whether an authenticated packet with this counter is new; if so, it isn't any more.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES || self.is_exhausted() {
            return false;
        }
        // The ring is indexed by counter + 1, which leaves position 0 to "nothing seen yet".
        let position = counter + 1;
        if position + REPLAY_WINDOW < self.next {
            return false;
        }
        if position > self.next {
            self.advance(position);
        }
        let word = &mut self.seen[word_of(position)];
        let bit = 1 << (position % WORD_BITS);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Whether the greatest counter was reached: the keypair receives no more.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.next >= REJECT_AFTER_MESSAGES
    }

    /// The greatest accepted counter.
    #[must_use]
    pub const fn greatest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    fn advance(&mut self, position: u64) {
        let current = self.next / WORD_BITS;
        let words = (position / WORD_BITS - current).min(REPLAY_BITS / WORD_BITS);
        for step in 1..=words {
            self.seen[word_of((current + step) * WORD_BITS)] = 0;
        }
        self.next = position;
    }
}

const fn word_of(position: u64) -> usize {
    (position / WORD_BITS % (REPLAY_BITS / WORD_BITS)) as usize
}

/// A keypair's window, locked: take it once per burst.
#[derive(Debug)]
pub struct ReplayGuard<'a> {
    window: MutexGuard<'a, ReplayWindow>,
}

impl<'a> ReplayGuard<'a> {
    pub(crate) const fn new(window: MutexGuard<'a, ReplayWindow>) -> Self {
        Self { window }
    }

    /// Whether an authenticated packet with this counter is new; if so, it isn't any more.
    pub fn accept(&mut self, counter: u64) -> bool {
        self.window.accept(counter)
    }

    /// The greatest accepted counter.
    #[must_use]
    pub fn greatest(&self) -> Option<u64> {
        self.window.greatest()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_each_counter_once_in_any_order() {
        let mut window = ReplayWindow::new();
        for counter in [0, 1, 1, 9, 8, 7, 7, 6, 5, 4, 3, 2, 2] {
            window.accept(counter);
        }
        for counter in 0..=9 {
            assert!(!window.accept(counter), "{counter}");
        }
        assert!(window.accept(10));
    }

    #[test]
    fn the_edge_of_the_window_is_exact() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(20_000));
        assert!(window.accept(20_000 - REPLAY_WINDOW));
        assert!(!window.accept(20_000 - REPLAY_WINDOW - 1));
        assert!(!window.accept(20_000 - REPLAY_WINDOW));
    }

    #[test]
    fn a_jump_beyond_the_bitmap_forgets_everything() {
        let mut window = ReplayWindow::new();
        for counter in 0..REPLAY_BITS {
            assert!(window.accept(counter));
        }
        assert!(window.accept(10 * REPLAY_BITS));
        for counter in 10 * REPLAY_BITS - REPLAY_WINDOW..10 * REPLAY_BITS {
            assert!(window.accept(counter), "{counter}");
        }
    }

    #[test]
    fn the_last_counter_ends_the_keypair() {
        let mut window = ReplayWindow::new();
        assert!(!window.accept(REJECT_AFTER_MESSAGES));
        assert!(!window.accept(u64::MAX));
        assert!(!window.is_exhausted());
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(window.is_exhausted());
        assert!(!window.accept(REJECT_AFTER_MESSAGES - 2));
    }

    proptest! {
        /// Against a set that remembers everything: never twice, and always once within the window.
        #[test]
        fn agrees_with_a_set(
            base in prop_oneof![Just(0), Just(1 << 40), Just(REJECT_AFTER_MESSAGES - 40_000)],
            offsets in prop::collection::vec(
                prop_oneof![0_u64..100, 0_u64..9_000, 0_u64..30_000],
                1..400,
            ),
        ) {
            let mut window = ReplayWindow::new();
            let mut seen = HashSet::new();
            let mut greatest = 0;
            for counter in offsets.into_iter().map(|offset| base + offset) {
                let inside = counter + REPLAY_WINDOW >= greatest;
                let fresh = inside && seen.insert(counter);
                prop_assert_eq!(window.accept(counter), fresh);
                greatest = greatest.max(counter);
            }
        }
    }
}
