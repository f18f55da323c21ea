//! When which tunnel is to be driven next.
//!
//! In: what each tunnel waits for, after it was driven. Out: those that are due, the next deadline. Never: a look at a
//! tunnel that waits for nothing.

use std::collections::{BTreeMap, BTreeSet};

use culvert_wireguard::Instant;

/// All tunnels that wait for something, by their places.
#[derive(Debug, Default)]
pub(super) struct Due {
    timers: BTreeSet<(Instant, usize)>,
    /// The same by place.
    by_place: BTreeMap<usize, Instant>,
    callers: BTreeSet<usize>,
}

impl Due {
    /// Notes what the tunnel at `place` waits for: a time, and its turn to call peers.
    pub(super) fn note(&mut self, place: usize, timer: Option<Instant>, calls: bool) {
        let before = match timer {
            Some(at) => self.by_place.insert(place, at),
            None => self.by_place.remove(&place),
        };
        if before != timer {
            before.map(|at| self.timers.remove(&(at, place)));
            self.timers.extend(timer.map(|at| (at, place)));
        }
        match calls {
            true => self.callers.insert(place),
            false => self.callers.remove(&place),
        };
    }

    /// When the first one's time comes.
    pub(super) fn first(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Those whose time has come.
    pub(super) fn passed(&self, now: Instant) -> Vec<usize> {
        let passed = self.timers.range(..=(now, usize::MAX));
        passed.map(|&(_, place)| place).collect()
    }

    /// Those that have peers to call, from the one behind `last` on.
    pub(super) fn callers_behind(&self, last: usize) -> Vec<usize> {
        let behind = self.callers.range(last + 1..);
        let others = self.callers.range(..=last);
        behind.chain(others).copied().collect()
    }

    /// The same, in any order.
    pub(super) fn callers(&self) -> impl Iterator<Item = usize> {
        self.callers.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    #[test]
    fn tunnels_are_due_at_the_last_time_noted() {
        let mut due = Due::default();
        due.note(3, Some(at(5)), false);
        due.note(1, Some(at(7)), false);
        due.note(2, None, false);
        assert_eq!((due.first(), due.passed(at(4))), (Some(at(5)), vec![]));
        assert_eq!(due.passed(at(7)), [3, 1]);
        due.note(3, Some(at(9)), false);
        assert_eq!((due.first(), due.passed(at(8))), (Some(at(7)), vec![1]));
        due.note(1, None, false);
        due.note(3, Some(at(9)), false);
        assert_eq!((due.first(), due.passed(at(9))), (Some(at(9)), vec![3]));
        due.note(3, None, false);
        assert_eq!((due.first(), due.passed(at(99))), (None, vec![]));
    }

    #[test]
    fn callers_take_turns() {
        let mut due = Due::default();
        for place in [4, 2, 7] {
            due.note(place, None, true);
        }
        assert_eq!(due.callers_behind(0), [2, 4, 7]);
        assert_eq!(due.callers_behind(4), [7, 2, 4]);
        due.note(2, Some(at(1)), false);
        assert_eq!(due.callers_behind(9), [4, 7]);
    }
}
