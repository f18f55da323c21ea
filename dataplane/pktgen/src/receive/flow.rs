//! One flow's packets: which came, which came again, which came behind others.
//!
//! In: sequence numbers modulo 2³². Out: a verdict for each. Never: a number taken for one 2³² further on because of a
//! packet that came late: what is less than 2³¹ ahead is ahead, the rest is behind.

#![allow(
    clippy::cast_possible_truncation,
    reason = "sequence numbers modulo their field, places in a window"
)]

use serde::{Deserialize, Serialize};

use crate::limits::{WINDOW_BITS_MAX, WINDOW_BITS_MIN, WINDOW_BYTES_MAX};

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The largest number so far.
    InOrder,
    /// Behind a larger one, the first time.
    Reordered {
        /// By how many numbers.
        displaced: u64,
    },
    /// It was here before.
    Duplicate,
    /// So far behind that the window has forgotten.
    Beyond,
    /// A number that was never sent.
    Unknown,
}

/// What a flow received, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReceived {
    /// Each once.
    pub received: u64,
    /// Again.
    pub duplicates: u32,
    /// Behind one with a larger number.
    pub reordered: u32,
    /// Too far behind to tell.
    pub beyond: u32,
}

/// The flows of a seat.
#[derive(Debug)]
pub(super) struct Flows {
    states: Vec<State>,
    /// A window for each, of `words` words.
    bits: Vec<u64>,
    words: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The number behind the largest one, with all its bits.
    next: u64,
    received: FlowReceived,
}

impl Flows {
    pub(super) fn new(flows: usize) -> Self {
        let fair = (WINDOW_BYTES_MAX * 8 / flows.max(1)).clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        // The power of two below: places in a window are masked.
        let words = (1 << fair.ilog2()) / 64;
        Self {
            states: vec![State::default(); flows],
            bits: vec![0; flows * words],
            words,
        }
    }

    pub(super) fn clear(&mut self) {
        self.states.fill(State::default());
        self.bits.fill(0);
    }

    pub(super) const fn window(&self) -> usize {
        self.words * 64
    }

    pub(super) fn received(&self, flow: usize) -> FlowReceived {
        self.states[flow].received
    }

    #[inline]
    pub(super) fn take(&mut self, flow: usize, sequence: u32) -> Verdict {
        let state = &mut self.states[flow];
        let bits = &mut self.bits[flow * self.words..][..self.words];
        // The low half of `next` decides; the difference is signed.
        let ahead = sequence.wrapping_sub(state.next as u32).cast_signed();
        let verdict = if ahead >= 0 {
            let number = state.next + u64::from(ahead.unsigned_abs());
            clear(bits, state.next, number);
            set(bits, number);
            state.next = number + 1;
            Verdict::InOrder
        } else {
            state.behind(bits, u64::from(ahead.unsigned_abs()))
        };
        state.count(verdict);
        verdict
    }
}

impl State {
    fn behind(&self, bits: &mut [u64], distance: u64) -> Verdict {
        let Some(number) = self.next.checked_sub(distance) else {
            return Verdict::Unknown;
        };
        if distance > bits.len() as u64 * 64 {
            return Verdict::Beyond;
        }
        match set(bits, number) {
            true => Verdict::Duplicate,
            false => Verdict::Reordered {
                displaced: distance - 1,
            },
        }
    }

    #[inline]
    const fn count(&mut self, verdict: Verdict) {
        let count = &mut self.received;
        match verdict {
            Verdict::InOrder => count.received += 1,
            Verdict::Reordered { .. } => {
                count.received += 1;
                count.reordered = count.reordered.saturating_add(1);
            }
            Verdict::Duplicate => count.duplicates = count.duplicates.saturating_add(1),
            Verdict::Beyond => count.beyond = count.beyond.saturating_add(1),
            Verdict::Unknown => {}
        }
    }
}

/// Sets a number's bit; whether it was set.
#[inline]
fn set(bits: &mut [u64], number: u64) -> bool {
    // As many words as are a power of two.
    let word = &mut bits[(number / 64) as usize & (bits.len() - 1)];
    let bit = 1 << (number % 64);
    let was = *word & bit != 0;
    *word |= bit;
    was
}

/// Forgets what was where the numbers up to one are now.
#[inline]
fn clear(bits: &mut [u64], from: u64, to: u64) {
    if to - from >= bits.len() as u64 * 64 {
        bits.fill(0);
        return;
    }
    for number in from..=to {
        bits[(number / 64) as usize & (bits.len() - 1)] &= !(1 << (number % 64));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_share_their_memory() {
        assert_eq!(Flows::new(1).window(), WINDOW_BITS_MAX);
        assert_eq!(Flows::new(0).window(), WINDOW_BITS_MAX);
        let many = Flows::new(1 << 20);
        assert_eq!(many.window(), 512);
        assert!(many.bits.len() * 8 <= WINDOW_BYTES_MAX);
        assert_eq!(Flows::new(1_000_001).window(), 512);
    }

    #[test]
    fn sequences_go_on_past_their_32_bits() {
        let mut flows = Flows::new(1);
        // Half of the way at once is the most that is ahead.
        for start in [0, 0x7fff_ffff, 0xffff_fff0] {
            assert_eq!(flows.take(0, start), Verdict::InOrder);
        }
        for number in 0xffff_fff1u64..0x1_0000_0100 {
            assert_eq!(
                flows.take(0, number as u32),
                Verdict::InOrder,
                "{number:#x}"
            );
        }
        assert_eq!(flows.take(0, 0xffff_ffff), Verdict::Duplicate);
        assert_eq!(flows.received(0).received, 3 + 0x10f);
    }

    #[test]
    fn what_was_never_sent_is_unknown() {
        let mut flows = Flows::new(1);
        assert_eq!(flows.take(0, 5), Verdict::InOrder);
        assert_eq!(flows.take(0, u32::MAX), Verdict::Unknown);
        assert_eq!(flows.take(0, 0), Verdict::Reordered { displaced: 5 });
    }

    proptest! {
        /// Against a set that forgets nothing.
        #[test]
        fn verdicts_are_those_of_a_set(steps in prop::collection::vec((any::<prop::sample::Index>(), 0u64..400, 0u32..8), 1..600)) {
            let mut flows = Flows { states: vec![State::default(); 2], bits: vec![0; 4], words: 2 };
            let (mut seen, mut next) = (HashSet::new(), 0u64);
            for (index, jump, kind) in steps {
                // Mostly ahead by one, now and then far ahead, or anywhere behind.
                let number = match kind {
                    0..4 => next,
                    4 => next + jump,
                    _ if next > 0 => index.index(next as usize) as u64,
                    _ => 0,
                };
                let verdict = flows.take(1, number as u32);
                let expected = if number >= next {
                    Verdict::InOrder
                } else if next - number > 128 {
                    Verdict::Beyond
                } else if seen.contains(&number) {
                    Verdict::Duplicate
                } else {
                    Verdict::Reordered { displaced: next - 1 - number }
                };
                prop_assert_eq!(verdict, expected, "{} after {}", number, next);
                if verdict != Verdict::Beyond {
                    seen.insert(number);
                }
                next = next.max(number + 1);
            }
        }
    }
}
