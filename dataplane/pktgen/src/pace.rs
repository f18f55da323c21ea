//! When packets are to leave: computed from the trial's beginning, never from when the last one left.
//!
//! In: a shape, a rate, a length, the time. Out: intended times, one after the other, and how many passed unused.
//! Never: a longer trial because packets could not be sent in time; a sleep.
//!
//! Time is in nanoseconds since the trial began. A packet that is not taken within the catch-up time after it was intended
//! is *unsent*, and counted: what a device under test pushes back is not hidden in a stretched duration.

use crate::limits::SKIPPED_AT_ONCE;
use crate::mistake::Wrong;
use crate::number;

/// How packets follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// At equal distances.
    Constant,
    /// So many at once, at the same rate in the mean.
    Burst(u32),
    /// From a share of the rate to the rate, evenly over the trial.
    Ramp {
        /// The share it begins with, 0 to 1.
        from: f64,
    },
    /// At the rate for half of the time, then at a share of it: a recovery from overload.
    Drop {
        /// The share in the second half, 0 to 1.
        to: f64,
    },
    /// At distances that are drawn: independent, exponential.
    Poisson,
}

impl Shape {
    /// Reads a shape: `constant`, `burst 32`, `ramp`, `ramp 10%`, `drop 50%`,
    /// `poisson`.
    ///
    /// # Errors
    /// That it is none.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let mut words = text.split_whitespace();
        let (word, value) = (words.next().unwrap_or_default(), words.next());
        let percent = |default: f64| {
            let percent = value.map_or(Some(default), |it| it.strip_suffix('%')?.parse().ok());
            percent
                .filter(|it| (0.0..=100.0).contains(it))
                .map(|it| it / 100.0)
        };
        let shape = match (word, value) {
            ("constant", None) => Some(Self::Constant),
            ("poisson", None) => Some(Self::Poisson),
            ("burst", Some(packets)) => packets.parse().ok().filter(|&it| it > 0).map(Self::Burst),
            ("ramp", _) => percent(1.0).map(|from| Self::Ramp { from }),
            ("drop", _) => percent(50.0).map(|to| Self::Drop { to }),
            _ => None,
        };
        shape.filter(|_| words.next().is_none()).ok_or_else(|| {
            Wrong::new(
                format!("`{text}` is no pattern"),
                "expected constant, poisson, burst 32, ramp, ramp 10% or drop 50%",
            )
        })
    }
}

/// One stream's intended times.
///
/// Call [`Pace::skip`] with the time, then [`Pace::due_ns`]; [`Pace::take`] what is due; [`Pace::close`] at the end.
#[derive(Clone, Debug)]
pub struct Pace {
    shape: Shape,
    /// Between two packets at the full rate: nanoseconds times 2⁴⁸.
    interval: u128,
    packets_per_s: f64,
    /// What it was to last; a ramp and a drop are shares of it, wherever it is ended.
    length_ns: u64,
    end_ns: u64,
    catch_up_ns: u64,
    /// How many there were before the next.
    index: u64,
    next_ns: u64,
    skipped: u64,
    /// The next one's intended time with its fraction, of a Poisson process alone.
    drawn_ns: f64,
    random: u64,
}

impl Pace {
    /// A pace. A rate of zero has no packets.
    #[must_use]
    pub fn new(
        shape: Shape,
        packets_per_s: f64,
        duration_ns: u64,
        catch_up_ns: u64,
        seed: u64,
    ) -> Self {
        let mut pace = Self {
            shape,
            interval: interval(packets_per_s),
            packets_per_s,
            length_ns: duration_ns,
            end_ns: if packets_per_s > 0.0 { duration_ns } else { 0 },
            catch_up_ns,
            index: 0,
            next_ns: 0,
            skipped: 0,
            drawn_ns: 0.0,
            random: seed,
        };
        if shape == Shape::Poisson {
            pace.draw();
        }
        pace
    }

    /// When the next packet is to leave, if there is one more.
    #[inline]
    #[must_use]
    pub const fn due_ns(&self) -> Option<u64> {
        if self.next_ns < self.end_ns {
            Some(self.next_ns)
        } else {
            None
        }
    }

    /// Takes the next one: its intended time.
    #[inline]
    pub fn take(&mut self) -> u64 {
        let intended = self.next_ns;
        self.advance();
        intended
    }

    /// Steps over what is too late. False if there is more of it than one call steps over.
    #[inline]
    pub fn skip(&mut self, now_ns: u64) -> bool {
        let limit = now_ns.saturating_sub(self.catch_up_ns).min(self.end_ns);
        if self.next_ns >= limit {
            return true;
        }
        self.skip_to(limit)
    }

    /// Ends it at a time: what was intended before and not taken is unsent, what comes later was never intended.
    pub fn close(&mut self, now_ns: u64) {
        let end = self.end_ns.min(now_ns);
        if self.shape == Shape::Poisson && self.next_ns < end {
            // As many as there are in the mean, instead of drawing hours of them.
            let rest = number::whole((end - self.next_ns) as f64 * self.packets_per_s / 1e9).max(1);
            self.skipped += rest;
            self.index += rest;
        } else if self.next_ns < end {
            self.skip_to(end);
        }
        self.end_ns = self.next_ns.min(end);
    }

    /// How late a packet may leave.
    #[inline]
    #[must_use]
    pub const fn catch_up_ns(&self) -> u64 {
        self.catch_up_ns
    }

    /// Packets whose time came: those taken, and those stepped over.
    #[must_use]
    pub const fn intended(&self) -> u64 {
        self.index
    }

    /// Those stepped over.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    #[cold]
    fn skip_to(&mut self, limit: u64) -> bool {
        if self.shape == Shape::Poisson {
            for _ in 0..SKIPPED_AT_ONCE {
                if self.next_ns >= limit {
                    return true;
                }
                self.advance();
                self.skipped += 1;
            }
            return false;
        }
        let before = self.index;
        self.index = self.first_at(limit).max(before + 1);
        self.skipped += self.index - before;
        self.next_ns = self.time_of(self.index);
        true
    }

    #[inline]
    fn advance(&mut self) {
        self.index += 1;
        match self.shape {
            Shape::Constant => self.next_ns = scaled(self.index, self.interval),
            Shape::Burst(_) | Shape::Ramp { .. } | Shape::Drop { .. } => {
                self.next_ns = self.time_of(self.index);
            }
            Shape::Poisson => self.draw(),
        }
    }

    fn draw(&mut self) {
        self.drawn_ns -= uniform(&mut self.random).ln() * 1e9 / self.packets_per_s;
        self.next_ns = number::whole(self.drawn_ns);
    }

    /// The intended time of a packet, by its number.
    fn time_of(&self, index: u64) -> u64 {
        match self.shape {
            Shape::Constant | Shape::Poisson => scaled(index, self.interval),
            Shape::Burst(packets) => scaled(index - index % u64::from(packets), self.interval),
            Shape::Ramp { from } => self.ramp_time(from, index),
            Shape::Drop { to } => self.drop_time(to, index),
        }
    }

    /// The first packet that is not before a time.
    fn first_at(&self, ns: u64) -> u64 {
        let first = first_after(ns, self.interval);
        match self.shape {
            Shape::Constant | Shape::Poisson => first,
            Shape::Burst(packets) => first.next_multiple_of(u64::from(packets)),
            Shape::Ramp { from } => self.ramp_count(from, ns),
            Shape::Drop { to } => self.drop_count(to, ns),
        }
    }

    /// How many packets there are before the change, when it is, and the distance after it.
    fn change(&self, to: f64) -> (u64, u64, u128) {
        let at = self.length_ns / 2;
        (
            first_after(at, self.interval),
            at,
            interval(self.packets_per_s * to),
        )
    }

    fn drop_time(&self, to: f64, index: u64) -> u64 {
        let (before, at, interval) = self.change(to);
        match index.checked_sub(before) {
            None => scaled(index, self.interval),
            Some(after) => at.saturating_add(scaled(after, interval)),
        }
    }

    fn drop_count(&self, to: f64, ns: u64) -> u64 {
        let (before, at, interval) = self.change(to);
        match ns.checked_sub(at) {
            None | Some(0) => first_after(ns, self.interval),
            Some(after) => before.saturating_add(first_after(after, interval)),
        }
    }

    /// A ramp sends `first·t + slope·t²/2` packets until t.
    fn ramp(&self, from: f64) -> (f64, f64) {
        let first = self.packets_per_s * from;
        (
            first,
            (self.packets_per_s - first) / (self.end_ns as f64 / 1e9),
        )
    }

    fn ramp_time(&self, from: f64, index: u64) -> u64 {
        let (first, slope) = self.ramp(from);
        // The root's other form, which loses no digits where the slope is small.
        let seconds =
            2.0 * index as f64 / (first + (first * first + 2.0 * slope * index as f64).sqrt());
        if index == 0 {
            0
        } else {
            number::whole(seconds * 1e9)
        }
    }

    fn ramp_count(&self, from: f64, ns: u64) -> u64 {
        let (first, slope) = self.ramp(from);
        let seconds = ns as f64 / 1e9;
        let mut index = number::whole((first + slope * seconds / 2.0) * seconds);
        // What rounding leaves, either way.
        while index > 0 && self.ramp_time(from, index - 1) >= ns {
            index -= 1;
        }
        while self.ramp_time(from, index) < ns {
            index += 1;
        }
        index
    }
}

/// Bits behind the point: as many as the division of two floating-point numbers gives.
const FRACTION: u32 = 48;
const HALF: u128 = 1 << (FRACTION - 1);

/// Nanoseconds times 2⁴⁸ between two packets, at least one of these units.
fn interval(packets_per_s: f64) -> u128 {
    let ns = 1e9 / packets_per_s;
    let whole = ns.floor();
    let fraction = number::whole((ns - whole) * (1u64 << FRACTION) as f64);
    ((u128::from(number::whole(whole)) << FRACTION) + u128::from(fraction)).max(1)
}

/// How many times come before one, at equal distances from 0.
fn first_after(ns: u64, interval: u128) -> u64 {
    let least = (u128::from(ns) << FRACTION).saturating_sub(HALF);
    u64::try_from(least.div_ceil(interval)).unwrap_or(u64::MAX)
}

#[inline]
fn scaled(index: u64, interval: u128) -> u64 {
    let ns = u128::from(index)
        .saturating_mul(interval)
        .saturating_add(HALF)
        >> FRACTION;
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// A number above 0, up to 1 (splitmix64: Steele, Lea, Flood 2014).
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 11) + 1) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
