//! What a peer's path lets through (RFC 8899), found by probes that the peer answers.
//!
//! In: the time, that a peer is sent to, answers, what ICMP claims. Out: probes to send, the path's MTU. Never: a clock,
//! a packet; a probe without traffic, or more of them than the [`Bucket`] of all peers lets pass; a word of ICMP that is
//! believed: it says which size to try next.
//!
//! Sizes are those of whole IP packets on the wire. What is not known costs fragments and no packet, since data leaves
//! without DF: so a search begins with what is true of most paths, and says nothing before it has ended.
//!
//! ```text
//!  Base ──1280 passed──▶ Search ──nothing left to try──▶ Done ──a size that passed no longer does──▶ Base
//!   │  ▲                    ▲                             │
//!   │  └── 600 s ── Silent  └──────────── 600 s ──────────┘
//!   └─ unanswered ────▲
//! ```

mod bucket;
mod quiet;
#[cfg(test)]
mod tests;

use std::time::Duration;

use culvert_wireguard::Instant;

pub use self::{bucket::Bucket, quiet::Quiet};

/// What every path lets through: the least MTU of IPv6 (RFC 8899, section 5.1.2: `BASE_PLPMTU`).
pub const BASE: u16 = 1280;
/// Sizes that paths have: 80 bytes of tunnels less, `PPPoE`, Ethernet, jumbo frames.
const LADDER: [u16; 8] = [1360, 1400, 1420, 1460, 1492, 1500, 8900, 9000];
/// What is known so exactly is known: datagrams are padded to multiples of it.
const GRAIN: u16 = 16;
/// Probes of one size before it counts as too large (RFC 8899, section 5.1.2: `MAX_PROBES`).
const TRIES: u8 = 3;
/// How long an answer is waited for (`PROBE_TIMER`; not less than a second).
const ANSWER: Duration = Duration::from_secs(1);
/// How long what was found is believed under traffic.
const CONFIRM: Duration = Duration::from_secs(60);
/// How long until more is tried again (`PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);
/// A peer that was sent to so long ago is not probed.
const IDLE: Duration = Duration::from_secs(10);
/// How soon to ask again for a probe that the bucket has not.
const REFUSED: Duration = Duration::from_millis(100);

/// One probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Bytes of the IP packet on the wire.
    pub size: u16,
    /// What the answer to it repeats.
    pub token: u16,
}

/// What is done about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whether anybody answers.
    Base,
    /// How much passes.
    Search,
    /// It is known.
    Done,
    /// Nobody answers.
    Silent,
}

/// The search along one peer's path.
#[derive(Clone, Debug)]
pub struct Search {
    phase: Phase,
    /// The most that is worth trying.
    ceiling: u16,
    /// The largest size that passed; 0 before any did.
    floor: u16,
    /// The smallest that did not, or one more than the ceiling.
    failed: u16,
    /// What is told of the path.
    known: Option<u16>,
    /// What ICMP claimed.
    hint: Option<u16>,
    waiting: Option<Waiting>,
    token: u16,
    /// Nothing is sent before.
    next: Instant,
    /// When what was found is tried again, and when more is.
    confirm: Instant,
    raise: Instant,
    /// Until when the peer counts as one that is sent to.
    busy: Instant,
}

/// Probes of one size that are on their way.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    size: u16,
    first: u16,
    tries: u8,
}

impl Search {
    /// A path of which nothing is known; more than `ceiling` is never sent there. Tokens follow `token`.
    #[must_use]
    pub fn new(ceiling: u16, token: u16) -> Self {
        let (at, ceiling) = (Instant::default(), ceiling.max(BASE));
        Self {
            phase: Phase::Base,
            ceiling,
            floor: 0,
            failed: ceiling.saturating_add(1),
            known: None,
            hint: None,
            waiting: None,
            token,
            next: at,
            confirm: at,
            raise: at,
            busy: at,
        }
    }

    /// The path's MTU, as far as it is known.
    #[must_use]
    pub const fn mtu(&self) -> Option<u16> {
        self.known
    }

    /// What is done about it.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The path leads elsewhere, or more or less is sent there: what was found says nothing any more.
    pub fn restart(&mut self, ceiling: u16) {
        let busy = self.busy;
        *self = Self::new(ceiling, self.token);
        self.busy = busy;
    }

    /// The most that is worth trying.
    #[must_use]
    pub const fn ceiling(&self) -> u16 {
        self.ceiling
    }

    /// The peer was sent to.
    pub fn handle_traffic(&mut self, now: Instant) {
        self.busy = now + IDLE;
    }

    /// The peer answered a probe.
    pub fn handle_answer(&mut self, token: u16, now: Instant) {
        let Some(waiting) = self.waiting else { return };
        if token.wrapping_sub(waiting.first) >= u16::from(waiting.tries) {
            return;
        }
        self.waiting = None;
        self.next = now;
        match self.phase {
            Phase::Base | Phase::Silent => {
                self.floor = BASE;
                self.phase = Phase::Search;
            }
            Phase::Search => {
                self.floor = self.floor.max(waiting.size);
                // What is told already grows with what passes.
                self.known = self.known.map(|known| known.max(self.floor));
            }
            Phase::Done => (self.confirm, self.next) = (now + CONFIRM, now + ANSWER),
        }
    }

    /// ICMP claims that no more than `mtu` bytes pass; whether that is worth a probe, which is all that it brings. Who has
    /// `proven` to have seen what we sent is on the path: what is longer, and on its way, is not waited for.
    pub fn handle_hint(&mut self, mtu: u16, proven: bool, now: Instant) -> bool {
        let mtu = mtu.max(BASE);
        let lost = (self.waiting).take_if(|waiting| proven && waiting.size > mtu);
        let is_narrower = match self.phase {
            Phase::Base => mtu < self.failed && self.hint != Some(mtu),
            Phase::Search => {
                (self.floor + 1..self.failed).contains(&mtu) || (proven && mtu < self.floor)
            }
            Phase::Done => mtu < self.floor,
            Phase::Silent => false,
        };
        if let Some(lost) = lost {
            self.lose(lost.size, now);
            self.next = now;
        }
        if is_narrower {
            self.hint = Some(mtu);
            self.confirm = self.confirm.min(now);
            if self.phase == Phase::Search && mtu < self.floor {
                self.fall(self.floor);
            }
            if proven && self.phase != Phase::Done {
                self.failed = self.failed.min(mtu + 1);
                // Senders that are told of less remember that for long.
                self.known = self.known.map(|_| mtu);
            }
        }
        is_narrower || lost.is_some()
    }

    /// When to look again; none while nothing is sent to the peer.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let next = match (self.phase, self.waiting) {
            (Phase::Done, None) => self.confirm.min(self.raise).max(self.next),
            (Phase::Silent, None) => self.raise,
            _ => self.next,
        };
        (self.busy > now && next <= self.busy).then_some(next)
    }

    /// The next probe, if one is due.
    pub fn poll_probe(&mut self, now: Instant, bucket: &mut Bucket) -> Option<Probe> {
        if now < self.next || self.busy <= now {
            return None;
        }
        if let Some(lost) = self.waiting.take_if(|waiting| waiting.tries >= TRIES) {
            self.lose(lost.size, now);
        }
        let size = match self.waiting {
            Some(waiting) => waiting.size,
            None => self.choose(now)?,
        };
        if !bucket.take(now) {
            self.next = now + REFUSED;
            return None;
        }
        self.token = self.token.wrapping_add(1);
        let token = self.token;
        let waiting = self.waiting.get_or_insert(Waiting {
            size,
            first: token,
            tries: 0,
        });
        waiting.tries += 1;
        self.next = now + ANSWER;
        Some(Probe { size, token })
    }

    /// What to try, if anything.
    fn choose(&mut self, now: Instant) -> Option<u16> {
        if self.phase == Phase::Silent && self.raise <= now {
            self.phase = Phase::Base;
        }
        if self.phase == Phase::Done && self.raise <= now {
            self.failed = self.ceiling.saturating_add(1);
            self.phase = Phase::Search;
        }
        if self.phase == Phase::Search {
            if let Some(size) = self.untried() {
                return Some(size);
            }
            self.phase = Phase::Done;
            self.known = Some(self.floor);
            (self.confirm, self.raise) = (now + CONFIRM, now + RAISE);
        }
        match self.phase {
            Phase::Base => Some(BASE),
            Phase::Done => (self.confirm <= now).then_some(self.floor),
            Phase::Search | Phase::Silent => None,
        }
    }

    /// A size between what passes and what does not: what ICMP claims, all of it, one that paths have, the middle.
    fn untried(&mut self) -> Option<u16> {
        let (floor, failed, ceiling) = (self.floor, self.failed, self.ceiling);
        let is_open = |size: &u16| (floor + 1..failed).contains(size);
        let hint = self.hint.take().filter(is_open);
        let most = Some(ceiling).filter(is_open);
        let known = LADDER.into_iter().find(|size| is_open(size));
        let middle = floor + (failed - floor) / 2;
        let middle = (failed - floor > GRAIN).then_some(middle);
        hint.or(most).or(known).or(middle)
    }

    /// No probe of this size was answered.
    fn lose(&mut self, size: u16, now: Instant) {
        match self.phase {
            Phase::Base | Phase::Silent => {
                // Nobody answers: what does not pass, is not known.
                self.phase = Phase::Silent;
                self.known = None;
                self.failed = self.ceiling.saturating_add(1);
                self.raise = now + RAISE;
            }
            Phase::Search => {
                self.failed = size;
                self.known = self
                    .known
                    .map(|known| if known < size { known } else { self.floor });
            }
            Phase::Done => self.fall(size),
        }
    }

    /// What passed does not any more.
    fn fall(&mut self, failed: u16) {
        self.phase = Phase::Base;
        self.known = self.known.map(|_| BASE);
        (self.floor, self.failed) = (0, failed);
    }
}
