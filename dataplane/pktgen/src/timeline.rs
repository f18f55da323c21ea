//! Packets by their intended times, in equal parts of a trial: where losses are, and how long they last.
//!
//! In: intended times. Out: counts, and holes: parts in succession in which packets are missing. Never: a place for a time
//! after the trial's end other than the last part.

use serde::{Deserialize, Serialize};

/// Parts of a trial at most: a minute in parts of 16.8 ms, as they are a power of two long.
const PARTS_MAX: u64 = 4096;

/// Holes that a result has: those with the most losses.
const HOLES_MAX: usize = 64;

/// Counts of equal parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timeline {
    /// A part is 2 to this power of nanoseconds long.
    shift: u32,
    counts: Vec<u32>,
}

/// A stretch of a trial in which the device lost packets or did not take them, by their intended times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// Where it begins, from the trial's beginning.
    pub from_ns: u64,
    /// Where it ends.
    pub to_ns: u64,
    /// Packets of it that were not received, less those that the generator itself did not send.
    pub lost: u64,
}

impl Timeline {
    pub(crate) fn new(duration_ns: u64) -> Self {
        let part = (duration_ns / PARTS_MAX).max(1).next_power_of_two();
        let parts = duration_ns.div_ceil(part).max(1);
        Self {
            shift: part.ilog2(),
            counts: vec![0; usize::try_from(parts).unwrap_or(1)],
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, intended_ns: u64, packets: u32) {
        let part = self.part(intended_ns);
        *part = part.saturating_add(packets);
    }

    /// Adds packets whose times lie evenly between two.
    pub(crate) fn spread(&mut self, from_ns: u64, to_ns: u64, packets: u64) {
        let end_ns = (self.counts.len() as u64) << self.shift;
        let to_ns = to_ns.min(end_ns).max(from_ns + 1);
        let before = |ns: u64| {
            let share = u128::from(packets) * u128::from(ns - from_ns);
            u64::try_from(share / u128::from(to_ns - from_ns)).unwrap_or(packets)
        };
        let mut at_ns = from_ns;
        while at_ns < to_ns {
            let next_ns = (((at_ns >> self.shift) + 1) << self.shift).min(to_ns);
            let more = before(next_ns) - before(at_ns);
            self.add(at_ns, u32::try_from(more).unwrap_or(u32::MAX));
            at_ns = next_ns;
        }
    }

    /// Takes back what was added.
    pub(crate) fn take(&mut self, intended_ns: u64, packets: u32) {
        let part = self.part(intended_ns);
        *part = part.saturating_sub(packets);
    }

    #[inline]
    fn part(&mut self, intended_ns: u64) -> &mut u32 {
        let place = usize::try_from(intended_ns >> self.shift).unwrap_or(usize::MAX);
        let last = self.counts.len() - 1;
        &mut self.counts[place.min(last)]
    }

    /// Adds another seat's.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    /// Where less was received than sent; the holes with the most losses, in the order of their times.
    pub(crate) fn holes(&self, received: &Self) -> Vec<Hole> {
        let mut holes: Vec<Hole> = Vec::new();
        for (place, (sent, received)) in self.counts.iter().zip(&received.counts).enumerate() {
            let lost = u64::from(sent.saturating_sub(*received));
            let from_ns = (place as u64) << self.shift;
            let to_ns = (place as u64 + 1) << self.shift;
            match holes.last_mut() {
                _ if lost == 0 => {}
                Some(last) if last.to_ns == from_ns => {
                    last.to_ns = to_ns;
                    last.lost += lost;
                }
                Some(_) | None => holes.push(Hole {
                    from_ns,
                    to_ns,
                    lost,
                }),
            }
        }
        holes.sort_by_key(|hole| std::cmp::Reverse(hole.lost));
        holes.truncate(HOLES_MAX);
        holes.sort_by_key(|hole| hole.from_ns);
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_where_packets_are_missing() {
        let (mut sent, mut received) = (Timeline::new(1_000_000_000), Timeline::new(1_000_000_000));
        assert_eq!(1u64 << sent.shift, 262_144);
        for packet in 0..1_000_000u64 {
            sent.add(packet * 1000, 1);
            if !(200_000..300_000).contains(&packet) && packet != 700_000 {
                received.add(packet * 1000, 1);
            }
        }
        let holes = sent.holes(&received);
        assert_eq!(
            holes.iter().map(|it| it.lost).collect::<Vec<_>>(),
            [100_000, 1]
        );
        assert!(
            holes[0].from_ns <= 200_000_000
                && holes[0].to_ns >= 300_000_000
                && holes[0].to_ns - holes[0].from_ns < 101_000_000
        );
        // What was not sent between 500 and 600 ms, in one piece.
        sent.spread(500_000_000, 600_000_000, 5_003);
        let holes = sent.holes(&received);
        assert_eq!(
            holes.iter().map(|it| it.lost).sum::<u64>(),
            100_000 + 1 + 5_003
        );
        assert!(holes[1].from_ns <= 500_000_000 && holes[1].to_ns >= 600_000_000);
        sent.spread(999_999_999, u64::MAX, 7);
        // A time beyond the end, as a spoiled packet may have, is in the last part.
        received.add(u64::MAX, 1);
        sent.take(0, 5);
        assert!(Timeline::new(1).counts.len() == 1 && Timeline::new(0).counts.len() == 1);
    }
}
