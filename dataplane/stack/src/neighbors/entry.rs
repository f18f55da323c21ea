//! One neighbor of the table.
//!
//! In: what the table is asked and hears of it, the time. Out: what it is to be asked, what it is worth. Never: another entry.

use std::{net::IpAddr, time::Duration};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::{super::NeighborState, Solicit, Unheard};

/// RFC 4861, section 10: `MAX_MULTICAST_SOLICIT` and `MAX_UNICAST_SOLICIT`.
const TRIES_MAX: u8 = 3;
/// RFC 4861, section 10: `RETRANS_TIMER`.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// RFC 4861, section 10: `REACHABLE_TIME` times `MIN_RANDOM_FACTOR` and `MAX_RANDOM_FACTOR`.
pub(super) const REACHABLE_FOR: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(45)];
/// Between two questions to a neighbor that another says to be: it has long answered, if it is there.
const DOUBT_AGAIN: Duration = Duration::from_millis(300);
/// How long nobody's word casts doubt on an answer: so often at most a neighbor is asked for what others say.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// RFC 4861, section 10: `DELAY_FIRST_PROBE_TIME`.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(5);
/// Who has answered so lately is not asked whether it is still there.
pub(super) const SURE_FOR: Duration = Duration::from_secs(2);
/// How long after a question an answer still confirms: all of its tries.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long a neighbor that doesn't answer is remembered for operators to see.
const FAILED_KEPT: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) state: NeighborState,
    pub(super) mac: Option<MacAddr>,
    /// When it last answered.
    pub(super) confirmed: Option<Instant>,
    /// Its last answer said that it is a router.
    pub(super) is_router: bool,
    /// When it was last resolved; `None`: only heard of.
    pub(super) used: Option<Instant>,
    pub(super) heard: Instant,
    /// When it was last asked, and how often since it last answered.
    pub(super) asked: Option<Instant>,
    pub(super) tries: u8,
    /// Another says to be it.
    pub(super) is_doubted: bool,
    pub(super) deadline: Option<Instant>,
}

/// What an entry is worth to us, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// Heard of, never resolved.
    Unused,
    /// Resolved, but it doesn't answer.
    Failed,
    /// Asked, may still answer.
    Unanswered,
    /// Paths lead through it.
    InUse,
}

/// What an entry's deadline asks for.
pub(super) enum Due {
    Solicit(Solicit),
    Forget,
    Nothing,
}

impl Entry {
    /// One of which nothing is known: as if it had failed long ago.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            state: NeighborState::Failed,
            mac: None,
            confirmed: None,
            is_router: false,
            used: None,
            heard: now,
            asked: None,
            tries: 0,
            is_doubted: false,
            deadline: None,
        }
    }

    pub(super) const fn is_awaited(&self) -> bool {
        matches!(
            self.state,
            NeighborState::Incomplete | NeighborState::Probing
        )
    }

    pub(super) fn worth(&self) -> (Worth, Instant) {
        match (self.used, self.state) {
            (None, _) => (Worth::Unused, self.heard),
            (Some(used), NeighborState::Failed) => (Worth::Failed, used),
            (Some(used), NeighborState::Incomplete) => (Worth::Unanswered, used),
            (
                Some(used),
                NeighborState::Reachable
                | NeighborState::Stale
                | NeighborState::Probing
                | NeighborState::Static,
            ) => (Worth::InUse, used),
        }
    }

    /// Whether it was not asked so lately.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        self.asked
            .is_none_or(|asked| asked.is_older_than(RETRY_AFTER, now))
    }

    /// The first question.
    pub(super) fn begin(&mut self, address: IpAddr, now: Instant) -> Solicit {
        (self.state, self.tries) = (NeighborState::Incomplete, 0);
        self.solicit(address, now)
    }

    pub(super) fn solicit(&mut self, address: IpAddr, now: Instant) -> Solicit {
        self.tries += 1;
        self.asked = Some(now);
        let again = if self.is_doubted {
            DOUBT_AGAIN
        } else {
            RETRY_AFTER
        };
        self.deadline = Some(now + again);
        Solicit {
            address,
            mac: self.mac,
        }
    }

    pub(super) fn reachable(&mut self, now: Instant, lasts: Duration) {
        self.state = NeighborState::Reachable;
        self.confirmed = Some(now);
        self.asked = None;
        self.is_doubted = false;
        self.deadline = Some(now + lasts);
    }

    /// Another says to be this neighbor: it is asked itself.
    pub(super) fn doubt(&mut self, now: Instant) -> Result<(), Unheard> {
        let has_just_answered = self
            .confirmed
            .is_some_and(|at| !at.is_older_than(BELIEVED_FOR, now));
        if !has_just_answered && !self.is_doubted {
            self.is_doubted = true;
            self.state = NeighborState::Probing;
            (self.tries, self.deadline) = (0, Some(now));
        }
        Err(Unheard::Doubtful)
    }

    /// It may be there again, who is in use and did not answer.
    pub(super) fn ask_soon(&mut self, now: Instant) -> Result<(), Unheard> {
        if self.state == NeighborState::Failed && self.used.is_some() {
            self.everyone(now);
            self.deadline = Some(now);
        }
        Err(Unheard::Doubtful)
    }

    /// Whoever is there now is asked for.
    fn everyone(&mut self, now: Instant) {
        self.state = NeighborState::Incomplete;
        (self.mac, self.tries, self.is_doubted) = (None, 0, false);
        self.asked = Some(now);
    }

    /// What is in use is probed soon (the RFC's DELAY), the rest when it is resolved.
    pub(super) fn stale(&mut self, now: Instant) {
        self.state = NeighborState::Stale;
        self.deadline = self.used.map(|_| now + PROBE_AFTER);
    }

    pub(super) fn expire(&mut self, address: IpAddr, now: Instant) -> Due {
        match self.state {
            NeighborState::Incomplete | NeighborState::Probing if self.tries < TRIES_MAX => {
                Due::Solicit(self.solicit(address, now))
            }
            NeighborState::Probing => {
                self.everyone(now);
                Due::Solicit(self.solicit(address, now))
            }
            NeighborState::Incomplete => {
                self.state = NeighborState::Failed;
                self.deadline = Some(now + FAILED_KEPT);
                Due::Nothing
            }
            NeighborState::Reachable => {
                self.stale(now);
                Due::Nothing
            }
            NeighborState::Stale => {
                self.state = NeighborState::Probing;
                self.tries = 0;
                Due::Solicit(self.solicit(address, now))
            }
            NeighborState::Failed => {
                self.deadline = None;
                Due::Forget
            }
            NeighborState::Static => {
                self.deadline = None;
                Due::Nothing
            }
        }
    }
}
