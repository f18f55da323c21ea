//! Calls: the handshakes that we begin, when many peers want one at once.
//!
//! In: peers that want to be called, and how they stand. Out: whose turn it is. Never: an X25519 beyond the budget,
//! which costs the control core as much as hundreds of packets.
//!
//! Who is heard is called first, whatever others wait; then those that were not tried yet; then the silent, the less
//! tried ones ahead of the others. So a peer that lost one packet does not wait behind a hundred thousand that are
//! gone, and each of those has its turn.

use core::time::Duration;
use std::collections::BTreeSet;

use crate::PeerId;
use crate::limits::{CALLS_AT_ONCE, CALLS_SPREAD, FIRST_CALLS_PER_SECOND, SILENT_CALLS_PER_SECOND};
use crate::time::Instant;

/// How a peer that wants to be called stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// There is a session, and nothing unanswered.
    Heard,
    /// It was not called since it was heard last.
    Untried,
    /// So many calls were not answered.
    Silent(u32),
}

impl Standing {
    pub(crate) fn new(has_session: bool, unanswered: u32) -> Self {
        match (has_session, unanswered) {
            (true, 0) => Self::Heard,
            (false, 0) => Self::Untried,
            (_, unanswered) => Self::Silent(unanswered.min(CALLS_SPREAD)),
        }
    }
}

/// How many calls may be made, over all devices of a process.
#[derive(Debug)]
pub struct Budget {
    untried: Bucket,
    silent: Bucket,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(FIRST_CALLS_PER_SECOND, SILENT_CALLS_PER_SECOND)
    }
}

impl Budget {
    /// So many calls per second, of peers that were not tried and of those that don't answer.
    #[must_use]
    pub fn new(untried: u32, silent: u32) -> Self {
        let [untried, silent] = [untried, silent].map(Bucket::new);
        Self { untried, silent }
    }

    fn take(&mut self, standing: Standing, now: Instant) -> bool {
        match standing {
            // The age of a session spreads these.
            Standing::Heard => true,
            Standing::Untried => self.untried.take(now),
            Standing::Silent(_) => self.silent.take(now),
        }
    }

    fn due(&self, standing: Standing) -> Instant {
        match standing {
            Standing::Heard => Instant::default(),
            Standing::Untried => self.untried.due(),
            Standing::Silent(_) => self.silent.due(),
        }
    }
}

/// A rate with a burst, as the time at which all that was taken is earned.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    earned: Instant,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            earned: Instant::default(),
        }
    }

    fn due(&self) -> Instant {
        let burst = self.interval * (CALLS_AT_ONCE - 1);
        let burst = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.earned.0.saturating_sub(burst))
    }

    fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due() <= now;
        if is_due {
            self.earned = self.earned.max(now) + self.interval;
        }
        is_due
    }
}

/// A peer's place in the queue.
pub(crate) type Ticket = (Standing, u64, PeerId);

/// Peers that wait to be called, in the order in which they are.
#[derive(Default)]
pub(crate) struct Calls {
    waiting: BTreeSet<Ticket>,
    tickets: u64,
}

impl Calls {
    /// Puts a peer at the end of its kind.
    pub(crate) fn enter(&mut self, standing: Standing, peer: PeerId) -> Ticket {
        self.tickets += 1;
        let ticket = (standing, self.tickets, peer);
        self.waiting.insert(ticket);
        ticket
    }

    pub(crate) fn leave(&mut self, ticket: &Ticket) {
        self.waiting.remove(ticket);
    }

    /// The next peer that the budget allows.
    pub(crate) fn next(&mut self, budget: &mut Budget, now: Instant) -> Option<PeerId> {
        let allowed = self
            .heads()
            .find(|(standing, ..)| budget.take(*standing, now))?;
        self.waiting.remove(&allowed);
        Some(allowed.2)
    }

    /// When the budget allows the next one.
    pub(crate) fn due(&self, budget: &Budget) -> Option<Instant> {
        self.heads()
            .map(|(standing, ..)| budget.due(standing))
            .min()
    }

    /// The first of each kind that has a budget of its own.
    fn heads(&self) -> impl Iterator<Item = Ticket> + use<> {
        let from = |standing| self.waiting.range((standing, 0, PeerId(0))..).next();
        let heads = [Standing::Heard, Standing::Untried, Standing::Silent(0)].map(from);
        let [heard, untried, silent] = heads.map(|ticket| ticket.copied());
        // Where a kind has none the search ends in the one behind it.
        let heard = heard.filter(|ticket| ticket.0 == Standing::Heard);
        let untried = untried.filter(|ticket| ticket.0 == Standing::Untried);
        [heard, untried, silent].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::default() + Duration::from_millis(1_000_000 + milliseconds)
    }

    fn all(calls: &mut Calls, budget: &mut Budget, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| calls.next(budget, now))
            .map(|peer| peer.0)
            .collect()
    }

    #[test]
    fn the_heard_come_first_then_the_untried_then_the_less_tried() {
        let (mut calls, mut budget) = (Calls::default(), Budget::default());
        for (standing, peer) in [
            (Standing::Silent(7), 1),
            (Standing::Silent(1), 2),
            (Standing::Untried, 3),
            (Standing::Heard, 4),
            (Standing::Silent(1), 5),
        ] {
            calls.enter(standing, PeerId(peer));
        }
        let gone = calls.enter(Standing::Heard, PeerId(6));
        calls.leave(&gone);
        assert_eq!(all(&mut calls, &mut budget, at(0)), [4, 3, 2, 5, 1]);
        assert_eq!(calls.due(&budget), None);
    }

    #[test]
    fn the_silent_share_a_budget_that_others_dont_wait_for() {
        let (mut calls, mut budget) = (Calls::default(), Budget::default());
        for peer in 0..1_000 {
            calls.enter(Standing::Silent(20), PeerId(peer));
        }
        let burst = all(&mut calls, &mut budget, at(0));
        assert_eq!(burst, (0..CALLS_AT_ONCE).collect::<Vec<_>>());
        let due = calls.due(&budget).unwrap();
        assert!(due > at(0) && due <= at(1_000 / u64::from(SILENT_CALLS_PER_SECOND)));
        calls.enter(Standing::Heard, PeerId(2_000));
        calls.enter(Standing::Untried, PeerId(2_001));
        assert!(calls.due(&budget).unwrap() < at(0));
        assert_eq!(all(&mut calls, &mut budget, at(0)), [2_000, 2_001]);
        let mut made = 0;
        for step in 1..=1_000 {
            made += all(&mut calls, &mut budget, at(step)).len();
        }
        assert_eq!(made, SILENT_CALLS_PER_SECOND as usize);
    }
}
