//! Own addresses: which of them may be used (RFC 4862, section 5.4; RFC 5227, section 2).
//!
//! In: the addresses that are to be ours, what others say of them, the time. Out: what to say of them, and how each of
//! them stands. Never: a frame; an address that is in use given up because another says to have it: anyone on the link
//! could take a host off it so.
//!
//! ```text
//!   new ─▶ Tentative ─ asked 3 times, 200 ms apart: nobody ─▶ InUse ◀─ 60 s of silence ─ Contested
//!              │                                                ▲ └── another claims it ────▲
//!              └─ another has it ─▶ Duplicate ──────────────────┘ nobody has it any more
//!                                      ▲│ asked again once the other was silent for 60 s
//! ```
//!
//! RFC 5227 takes up to nine seconds for that, which every tunnel would stand still at each start. Who is there answers
//! within milliseconds; three questions are so that two of them may be lost.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use crate::random::Random;

/// RFC 5227, section 1.1: `PROBE_NUM`.
const PROBES: u8 = 3;
/// Between two probes, and behind the last.
const PROBE_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(250)];
/// RFC 5227, section 1.1: `ANNOUNCE_NUM`, `ANNOUNCE_INTERVAL`.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// RFC 5227, section 1.1: `DEFEND_INTERVAL`.
const DEFEND_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long another is taken to be there still (RFC 5227, section 1.1: `RATE_LIMIT_INTERVAL`).
const RIVAL_KEPT: Duration = Duration::from_secs(60);

/// How an address of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Others are asked whether they have it. Not used yet.
    Tentative,
    /// Used.
    InUse,
    /// Used, and another says to have it.
    Contested(MacAddr),
    /// Another had it first. Not used.
    Duplicate(MacAddr),
}

impl Standing {
    /// Whether it may be spoken from and answered for.
    #[must_use]
    pub const fn is_used(self) -> bool {
        matches!(self, Self::InUse | Self::Contested(_))
    }

    /// Who else has it.
    #[must_use]
    pub const fn rival(self) -> Option<MacAddr> {
        match self {
            Self::Tentative | Self::InUse => None,
            Self::Contested(mac) | Self::Duplicate(mac) => Some(mac),
        }
    }
}

/// What is to be said of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Does anyone have it?
    Probe(IpAddr),
    /// We have it.
    Announce(IpAddr),
}

/// What comes next for an address, so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rest,
    Probe(u8),
    Announce(u8),
}

struct Address {
    address: IpAddr,
    standing: Standing,
    step: Step,
    /// When that is.
    due: Option<Instant>,
    /// When another said last to have it.
    claimed: Option<Instant>,
    defended: Option<Instant>,
}

/// All of them, in the order of the configuration.
#[derive(Default)]
pub(super) struct Own {
    addresses: Vec<Address>,
    changed: BTreeSet<IpAddr>,
}

impl Own {
    /// From now on these are to be ours. Those that were stay as they stand; of new ones, those that are `known` to be
    /// ours are used at once.
    pub(super) fn set(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        known: impl Fn(IpAddr) -> bool,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.addresses);
        self.addresses.extend(addresses.map(|address| {
            let place = before.iter().position(|it| it.address == address);
            match place {
                Some(place) => before.swap_remove(place),
                None => Address::new(address, known(address), now),
            }
        }));
    }

    /// Where they lead has changed, or may have: says so of all that are used, and asks for the others at once.
    pub(super) fn announce(&mut self, now: Instant) {
        for it in &mut self.addresses {
            it.step = match it.standing.is_used() {
                true => Step::Announce(ANNOUNCEMENTS),
                false => Step::Probe(PROBES),
            };
            it.due = Some(now);
        }
    }

    /// How an address stands; `None`: it isn't ours.
    pub(super) fn standing(&self, address: IpAddr) -> Option<Standing> {
        self.get(address).map(|it| it.standing)
    }

    /// Whether it may be spoken from and answered for.
    pub(super) fn uses(&self, address: IpAddr) -> bool {
        self.standing(address).is_some_and(Standing::is_used)
    }

    /// Whether nobody may use it: others are left to it.
    pub(super) fn is_anothers(&self, address: IpAddr) -> bool {
        matches!(self.standing(address), Some(Standing::Duplicate(_)))
    }

    /// Whether others are being asked for it: whoever asks the same would have it, too.
    pub(super) fn is_sought(&self, address: IpAddr) -> bool {
        self.get(address)
            .is_some_and(|it| matches!(it.step, Step::Probe(_)))
    }

    /// `mac` says to have `address`: `None` if that isn't ours, else whether to say that it is.
    pub(super) fn claim(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Option<bool> {
        let it = self.addresses.iter_mut().find(|it| it.address == address)?;
        let before = std::mem::discriminant(&it.standing);
        it.claimed = Some(now);
        let is_defended = it.standing.is_used() && it.defends(now);
        if it.standing.is_used() {
            it.standing = Standing::Contested(mac);
        } else {
            it.standing = Standing::Duplicate(mac);
            (it.step, it.due) = (Step::Rest, Some(now + RIVAL_KEPT));
        }
        if std::mem::discriminant(&it.standing) != before {
            self.changed.insert(address);
        }
        Some(is_defended)
    }

    /// Does what is due; answers what to say.
    pub(super) fn expire(&mut self, now: Instant, random: &mut Random) -> Vec<Say> {
        let mut says = Vec::new();
        for it in &mut self.addresses {
            let before = it.standing;
            if it.is_left_alone(now) {
                it.standing = Standing::InUse;
            }
            if it.due.is_some_and(|due| due <= now) {
                says.extend(it.next(now, random));
            }
            if it.standing != before {
                self.changed.insert(it.address);
            }
        }
        says
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.addresses.iter().flat_map(Address::deadlines);
        due.flatten().min()
    }

    /// An address that stands otherwise than it did.
    pub(super) fn poll_changed(&mut self) -> Option<(IpAddr, Standing)> {
        loop {
            let address = self.changed.pop_first()?;
            if let Some(standing) = self.standing(address) {
                return Some((address, standing));
            }
        }
    }

    /// Whether any stands otherwise than [`Self::poll_changed`] has told.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Standing)> + '_ {
        self.addresses.iter().map(|it| (it.address, it.standing))
    }

    fn get(&self, address: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|it| it.address == address)
    }
}

impl Address {
    const fn new(address: IpAddr, is_known: bool, now: Instant) -> Self {
        let (standing, step) = match is_known {
            true => (Standing::InUse, Step::Announce(ANNOUNCEMENTS)),
            false => (Standing::Tentative, Step::Probe(PROBES)),
        };
        Self {
            address,
            standing,
            step,
            due: Some(now),
            claimed: None,
            defended: None,
        }
    }

    fn next(&mut self, now: Instant, random: &mut Random) -> Option<Say> {
        let [least, most] = PROBE_AGAIN_AFTER;
        match (self.step, self.standing.is_used()) {
            (Step::Probe(0), _) => {
                self.standing = Standing::InUse;
                self.announce(ANNOUNCEMENTS, now)
            }
            (Step::Announce(left), _) => self.announce(left, now),
            // Another's that was silent for long.
            (Step::Rest, false) => self.probe(PROBES, now + random.between(least, most)),
            (Step::Probe(left), _) => self.probe(left, now + random.between(least, most)),
            (Step::Rest, true) => {
                self.due = None;
                None
            }
        }
    }

    fn probe(&mut self, left: u8, again: Instant) -> Option<Say> {
        (self.step, self.due) = (Step::Probe(left - 1), Some(again));
        Some(Say::Probe(self.address))
    }

    fn announce(&mut self, left: u8, now: Instant) -> Option<Say> {
        (self.step, self.due) = match left {
            0 | 1 => (Step::Rest, None),
            _ => (Step::Announce(left - 1), Some(now + ANNOUNCE_AGAIN_AFTER)),
        };
        Some(Say::Announce(self.address))
    }

    fn defends(&mut self, now: Instant) -> bool {
        let rested = self
            .defended
            .is_none_or(|at| at.is_older_than(DEFEND_AGAIN_AFTER, now));
        if rested {
            self.defended = Some(now);
        }
        rested
    }

    fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone_at().is_some_and(|at| at <= now)
    }

    fn left_alone_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Contested(_) => self.claimed.map(|at| at + RIVAL_KEPT),
            Standing::Tentative | Standing::InUse | Standing::Duplicate(_) => None,
        }
    }

    fn deadlines(&self) -> [Option<Instant>; 2] {
        [self.due, self.left_alone_at()]
    }
}
