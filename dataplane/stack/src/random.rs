//! Chance: what timers are spread by, and what others must not guess.
//!
//! In: a key that nobody else knows. Out: durations and numbers that nobody can foretell. Never: the system's randomness, a clock.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// One draw after the other.
pub(crate) struct Random {
    key: RandomState,
    drawn: u64,
}

impl Random {
    pub(crate) const fn new(key: RandomState) -> Self {
        Self { key, drawn: 0 }
    }

    /// Something from `least` up to `most`, in microseconds.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let width = micros(most.saturating_sub(least)).saturating_add(1);
        least + Duration::from_micros(self.draw() % width)
    }

    /// A number.
    pub(crate) fn word(&mut self) -> u16 {
        let [first, second, ..] = self.draw().to_ne_bytes();
        u16::from_ne_bytes([first, second])
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.key.hash_one(self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_fill_their_range_and_nothing_beyond() {
        let mut random = Random::new(RandomState::new());
        let [least, most] = [15, 45].map(Duration::from_secs);
        let mut seen = [0; 3];
        for _ in 0..3_000 {
            let drawn = random.between(least, most);
            assert!((least..=most).contains(&drawn));
            let third = drawn.saturating_sub(least).as_secs() / 10;
            seen[usize::try_from(third.min(2)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 800), "{seen:?}");
        assert_eq!(random.between(least, least), least);
    }
}
