//! The neighbor table: reachability as RFC 4861 section 7.3 describes it, for both
//! families.
//!
//! In: questions of the control core, what neighbors say, the time. Out: link-layer
//! addresses, solicitations to send, neighbors that changed. Never: a frame, a judgement
//! on who may be a neighbor (`routes`).
//!
//! ```text
//!   ask ─▶ Incomplete ──answer──▶ Reachable ──15 to 45 s──▶ Stale ──5 s──▶ Probing
//!              │ ▲ everyone is      ▲  │ doubted            (in use)       ▲ │  │ 3 × 1 s, of
//!              │ │ asked, 3 × 1 s   │  └───────────────────────────────────┘ │  │ one in doubt
//!              │ │                  └──────────────answer────────────────────┘  │ 3 × 0.3 s
//!              │ └──────────────────────────────────────────────────────────────┘
//!              ▼
//!           Failed ──ask, 1 s──▶ Incomplete
//! ```
//!
//! A neighbor is in use from the first question about it for as long as it answers, or until whoever asked lets go of it: the
//! paths that workers send by don't ask again. What was only heard of is kept too, as
//! stale, but is the first to go when the table is full; the routers of the
//! configuration never go.
//!
//! What nobody asked for moves no traffic. Who says unasked to be a neighbor that is in use has that neighbor asked, alone,
//! and is believed if it is silent and he answers when everyone is asked. RFC 4861, section 7.2.5, would go by his word
//! at once. A router is known by its answers alone. A static entry is never asked, nor anyone believed about it.

mod entry;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use self::entry::{ANSWER_WITHIN, Due, Entry, PROBE_AFTER, REACHABLE_FOR, SURE_FOR, Worth};
use super::{AwaitedNeighbor, NeighborInfo, NeighborState};
use crate::{limits, random::Random};

/// A question for a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Solicit {
    pub(super) address: IpAddr,
    /// Whom to ask; `None`: everyone.
    pub(super) mac: Option<MacAddr>,
}

/// What is known of a neighbor that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Known(MacAddr),
    /// Unknown: it must be asked now.
    Ask(Solicit),
    /// Unknown, and asked already.
    Waiting,
    /// Unknown, and no room to remember that it was asked.
    Full,
}

/// What a neighbor said of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) mac: Option<MacAddr>,
    /// Where the frame comes from that says so.
    pub(super) source: MacAddr,
    /// It answers a question.
    pub(super) solicited: bool,
    /// It replaces what is known.
    pub(super) replace: bool,
    /// It forwards packets of others.
    pub(super) is_router: bool,
}

/// Who has answered a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// Where it is.
    pub(super) mac: MacAddr,
    /// Its last answer said that it is a router (RFC 4861, section 7.2.5: who says so no more is none).
    pub(super) is_router: bool,
}

/// Why what was heard is not remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// Nobody asked for that neighbor.
    Unknown,
    /// It doesn't say what was asked.
    NoAddress,
    /// No room.
    Full,
    /// Another is that neighbor, as far as is known.
    Doubtful,
}

/// The table. All deadlines are at or after `next`.
pub(super) struct Neighbors {
    entries: BTreeMap<IpAddr, Entry>,
    routers: BTreeSet<IpAddr>,
    changed: BTreeSet<IpAddr>,
    /// Others are awaited than those that were told.
    awaits_others: bool,
    next: Option<Instant>,
    random: Random,
}

impl Neighbors {
    pub(super) const fn new(random: Random) -> Self {
        Self {
            entries: BTreeMap::new(),
            routers: BTreeSet::new(),
            changed: BTreeSet::new(),
            awaits_others: true,
            next: None,
            random,
        }
    }

    /// Forgets who is no neighbor any more; `routers` will never be evicted, nor will those of `fixed`, who are where
    /// that says.
    pub(super) fn reconfigure(
        &mut self,
        routers: &BTreeSet<IpAddr>,
        fixed: &[(IpAddr, MacAddr)],
        is_neighbor: impl Fn(IpAddr) -> bool,
        now: Instant,
    ) {
        self.awaits_others = true;
        self.routers.clone_from(routers);
        self.forget(|address, entry| {
            let is_fixed = fixed.iter().any(|&(it, _)| it == address);
            is_neighbor(address) && (is_fixed || entry.state != NeighborState::Static)
        });
        for &(address, mac) in fixed.iter().filter(|(address, _)| is_neighbor(*address)) {
            self.fix(address, mac, now);
        }
    }

    fn fix(&mut self, address: IpAddr, mac: MacAddr, now: Instant) {
        if !self.entries.contains_key(&address) && !self.make_room(address, true) {
            return;
        }
        let entry = self.entries.entry(address).or_insert(Entry::new(now));
        if entry.mac != Some(mac) && entry.used.is_some() {
            self.changed.insert(address);
        }
        *entry = Entry {
            state: NeighborState::Static,
            mac: Some(mac),
            used: entry.used,
            ..Entry::new(now)
        };
    }

    fn forget(&mut self, is_kept: impl Fn(IpAddr, &Entry) -> bool) {
        let changed = &mut self.changed;
        self.entries.retain(|&address, entry| {
            let kept = is_kept(address, entry);
            if !kept && entry.mac.is_some() && entry.used.is_some() {
                changed.insert(address);
            }
            kept
        });
    }

    /// Every known neighbor in use counts as changed.
    pub(super) fn touch_all(&mut self) {
        let known = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.mac.is_some() && entry.used.is_some());
        self.changed.extend(known.map(|(&address, _)| address));
    }

    /// Those that were asked in vain are asked again.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let waiting =
            (self.entries.values_mut()).filter(|entry| entry.state == NeighborState::Incomplete);
        for entry in waiting {
            (entry.tries, entry.deadline) = (0, Some(now));
            self.next = earlier(self.next, entry.deadline);
        }
    }

    /// Who was asked and has not answered, if that has changed since the last call.
    pub(super) fn take_awaited(&mut self) -> Option<Vec<AwaitedNeighbor>> {
        if !std::mem::take(&mut self.awaits_others) {
            return None;
        }
        let awaited = self.entries.iter().filter(|(_, entry)| entry.is_awaited());
        let awaited = awaited.map(|(&address, entry)| AwaitedNeighbor {
            address,
            mac: entry.mac,
            is_in_use: entry.used.is_some() || self.routers.contains(&address),
        });
        Some(awaited.collect())
    }

    /// Where `address` is; it is in use from now on.
    pub(super) fn ask(&mut self, address: IpAddr, now: Instant) -> Answer {
        if !self.entries.contains_key(&address) {
            if !self.make_room(address, true) {
                return Answer::Full;
            }
            self.entries.insert(address, Entry::new(now));
        }
        if let Some(entry) = self.entries.get_mut(&address) {
            self.awaits_others |= entry.used.is_none() && entry.is_awaited();
            entry.used = Some(now);
            if entry.state == NeighborState::Stale && entry.deadline.is_none() {
                entry.deadline = Some(now + PROBE_AFTER);
            }
        }
        self.question(address, now)
    }

    /// Where an entry's neighbor is, or the question for it.
    fn question(&mut self, address: IpAddr, now: Instant) -> Answer {
        let Some(entry) = self.entries.get_mut(&address) else {
            return Answer::Full;
        };
        let answer = match (entry.mac, entry.state) {
            (Some(mac), _) => Answer::Known(mac),
            (None, NeighborState::Failed) if entry.is_rested(now) => {
                self.awaits_others = true;
                Answer::Ask(entry.begin(address, now))
            }
            (None, _) => Answer::Waiting,
        };
        self.next = earlier(self.next, entry.deadline);
        answer
    }

    /// `address` is in use no more, until it is asked for again.
    pub(super) fn let_go(&mut self, address: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&address) {
            self.awaits_others |= entry.is_awaited();
            entry.used = None;
        }
    }

    /// The question whether `address`, which is known, is still there; `None`: it has said so lately, or is being asked.
    pub(super) fn verify(&mut self, address: IpAddr, now: Instant) -> Option<Solicit> {
        let entry = self.entries.get_mut(&address)?;
        let is_known = matches!(entry.state, NeighborState::Reachable | NeighborState::Stale);
        let confirmed = entry.confirmed;
        let is_sure = confirmed.is_some_and(|confirmed| !confirmed.is_older_than(SURE_FOR, now));
        if !is_known || is_sure {
            return None;
        }
        entry.state = NeighborState::Probing;
        entry.tries = 0;
        self.awaits_others = true;
        let solicit = entry.solicit(address, now);
        self.next = earlier(self.next, entry.deadline);
        Some(solicit)
    }

    /// The question whether `address`, known or not, is there, which takes no room of those in use, and does not have it
    /// in use.
    pub(super) fn probe(&mut self, address: IpAddr, now: Instant) -> Answer {
        if let Some(solicit) = self.verify(address, now) {
            return Answer::Ask(solicit);
        }
        if !self.entries.contains_key(&address) {
            self.make_room_among_probed();
            if !self.make_room(address, false) {
                return Answer::Full;
            }
            self.entries.insert(address, Entry::new(now));
        }
        self.question(address, now)
    }

    /// What `address` has answered since, or so shortly before that it was not asked again ([`Self::verify`]). A static
    /// entry is the operator's word, for a router's, too.
    pub(super) fn answered_since(&self, address: IpAddr, since: Instant) -> Option<Answered> {
        let entry = self.entries.get(&address)?;
        let (mac, is_static) = (entry.mac?, entry.state == NeighborState::Static);
        let has_answered = |at: Instant| !at.is_older_than(SURE_FOR, since);
        let is_known = is_static || entry.confirmed.is_some_and(has_answered);
        let is_router = is_static || entry.is_router;
        is_known.then_some(Answered { mac, is_router })
    }

    /// Whether `address` answers when it is asked; `None`: nothing is known yet.
    pub(super) fn answers(&self, address: IpAddr) -> Option<bool> {
        let entry = self.entries.get(&address)?;
        let has_answered = self.answered_since(address, Instant::from_nanos(0));
        match (entry.mac, entry.state) {
            _ if has_answered.is_some() => Some(true),
            (None, NeighborState::Failed) => Some(false),
            (None | Some(_), _) => None,
        }
    }

    /// Takes what `address`, known or not, said in asking for us.
    pub(super) fn hear_question(
        &mut self,
        address: IpAddr,
        mac: MacAddr,
        now: Instant,
    ) -> Result<(), Unheard> {
        if !self.entries.contains_key(&address) {
            if self.routers.contains(&address) {
                return Ok(());
            }
            if !self.make_room(address, false) {
                return Err(Unheard::Full);
            }
            self.entries.insert(address, Entry::new(now));
        }
        self.hear(
            address,
            Said {
                mac: Some(mac),
                source: mac,
                solicited: false,
                replace: true,
                is_router: false,
            },
            now,
        )
    }

    /// Takes what `address`, if known, said (RFC 4861, section 7.2.5).
    pub(super) fn hear(
        &mut self,
        address: IpAddr,
        said: Said,
        now: Instant,
    ) -> Result<(), Unheard> {
        let is_router = self.routers.contains(&address);
        let entry = self.entries.get_mut(&address).ok_or(Unheard::Unknown)?;
        entry.heard = now;
        let was_awaited = entry.is_awaited();
        // What we didn't ask for confirms nothing, whatever it says of itself, nor does what doesn't say where it is and
        // comes from elsewhere.
        let confirms = said.solicited
            && (said.mac.is_some() || entry.mac == Some(said.source))
            && entry
                .asked
                .is_some_and(|asked| !asked.is_older_than(ANSWER_WITHIN, now));
        let differs = said.mac.is_some_and(|mac| entry.mac != Some(mac));
        let heard = match entry.mac {
            None if said.mac.is_none() => Err(Unheard::NoAddress),
            None if is_router && !confirms => entry.ask_soon(now),
            Some(_) if differs && entry.state == NeighborState::Static => Err(Unheard::Doubtful),
            Some(_) if differs && !said.replace => {
                if entry.state == NeighborState::Reachable {
                    entry.stale(now);
                }
                Ok(())
            }
            // Who has answered, or is to be a router, is not moved by a mere word, in use or not.
            Some(_)
                if differs && (entry.used.is_some() || is_router || entry.confirmed.is_some()) =>
            {
                entry.doubt(now)
            }
            None | Some(_) => {
                entry.mac = said.mac.or(entry.mac);
                if differs && entry.used.is_some() {
                    self.changed.insert(address);
                }
                if confirms {
                    let [least, most] = REACHABLE_FOR;
                    entry.reachable(now, self.random.between(least, most));
                    // That a router is none any more it says itself, from where it is.
                    if said.is_router || entry.mac == Some(said.source) {
                        entry.is_router = said.is_router;
                    }
                } else if differs {
                    // What it answered from elsewhere says nothing of there.
                    (entry.confirmed, entry.is_router) = (None, false);
                    entry.stale(now);
                } else if said.is_router {
                    // The true answer, behind a forged one.
                    entry.is_router = true;
                }
                Ok(())
            }
        };
        self.awaits_others |= entry.is_awaited() != was_awaited;
        self.next = earlier(self.next, entry.deadline);
        heard
    }

    /// Does what is due, as far as there is `room` for solicitations.
    pub(super) fn expire(&mut self, now: Instant, room: usize) -> Vec<Solicit> {
        let mut solicits = Vec::new();
        let mut forgotten = Vec::new();
        self.next = None;
        for (&address, entry) in &mut self.entries {
            let due = entry.deadline.is_some_and(|deadline| deadline <= now);
            if due && solicits.len() < room {
                self.awaits_others = true;
                let had = entry.mac;
                let kept = self.routers.contains(&address);
                match entry.expire(address, now) {
                    Due::Solicit(solicit) => solicits.push(solicit),
                    Due::Forget if kept => {}
                    Due::Forget => forgotten.push(address),
                    Due::Nothing => {}
                }
                if had != entry.mac {
                    self.changed.insert(address);
                }
            }
            self.next = earlier(self.next, entry.deadline);
        }
        for address in forgotten {
            self.entries.remove(&address);
        }
        solicits
    }

    /// When [`Self::expire`] has something to do, or earlier.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whoever waits for news of `address`, which is known, is told where it is.
    pub(super) fn tell(&mut self, address: IpAddr) {
        self.changed.insert(address);
    }

    /// A neighbor in use whose link-layer address became known, changed or was lost.
    pub(super) fn poll_changed(&mut self) -> Option<IpAddr> {
        self.changed.pop_first()
    }

    /// Where `address` is, without a question.
    pub(super) fn mac(&self, address: IpAddr) -> Option<MacAddr> {
        self.entries.get(&address)?.mac
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = NeighborInfo> + '_ {
        self.entries.iter().map(|(&address, entry)| NeighborInfo {
            address,
            mac: entry.mac,
            state: entry.state,
            confirmed: entry.confirmed,
        })
    }

    /// Whoever says to be many routers leaves no more behind than so many of them that were asked.
    fn make_room_among_probed(&mut self) {
        let is_probed = |(address, entry): &(&IpAddr, &Entry)| {
            entry.mac.is_none() && entry.used.is_none() && !self.routers.contains(address)
        };
        let probed = self.entries.iter().filter(is_probed);
        if probed.clone().count() < limits::HOST_PROBED {
            return;
        }
        let oldest = probed.min_by_key(|(_, entry)| (Reverse(entry.tries), entry.asked));
        if let Some(oldest) = oldest.map(|(&address, _)| address) {
            self.evict(oldest);
        }
    }

    /// Room for one more, by evicting if need be; `asked`: by us, not by the network.
    fn make_room(&mut self, address: IpAddr, asked: bool) -> bool {
        if self.entries.len() < limits::HOST_NEIGHBORS {
            return true;
        }
        let worth_max = match (self.routers.contains(&address), asked) {
            (true, _) if self.changed.len() < limits::HOST_NEIGHBORS => Worth::InUse,
            (true, _) => Worth::Unanswered,
            (false, true) => Worth::Failed,
            (false, false) => Worth::Unused,
        };
        let victim = self
            .entries
            .iter()
            .filter(|(address, entry)| {
                !self.routers.contains(address) && entry.state != NeighborState::Static
            })
            .map(|(&address, entry)| (entry.worth(), address))
            .filter(|&((worth, _), _)| worth <= worth_max)
            .min();
        let Some((_, victim)) = victim else {
            return false;
        };
        self.evict(victim);
        true
    }

    fn evict(&mut self, victim: IpAddr) {
        let evicted = self.entries.remove(&victim);
        self.awaits_others |= evicted.is_some_and(|entry| entry.is_awaited());
        if evicted.is_some_and(|entry| entry.used.is_some() && entry.mac.is_some()) {
            self.changed.insert(victim);
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
