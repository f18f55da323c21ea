//! What routers have said of the link: prefixes, addresses that are made of them, servers of names.
//!
//! In: what a router says, who it is, the time. Out: what of it counts. Never: one router's word in another's place; more of
//! one than its share ([`limits::RA_PREFIXES`] of each kind, [`limits::LEARNED_DNS`]); anything beyond its time.
//!
//! What several say lives as long as one of them says so. Whether new connections are made from an address is what those
//! say that are there; only if none of them is, what the silent ones have said.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::advertisement::{Advertisement, Prefix};
use crate::{
    learned::{Learned, LearnedAddress, Teacher, is_global_v6},
    limits, link_local,
};

/// Down to which whoever is on the link may shorten an address's life (RFC 4862, section 5.5.3).
const TWO_HOURS: Duration = Duration::from_secs(7_200);
/// The prefixes that addresses are made of.
const AUTONOMOUS_LEN: u8 = 64;
/// No end.
const FOREVER: u32 = u32::MAX;

/// When something is over; `None`: never.
type End = Option<Instant>;

/// A router's word.
struct Word<T> {
    by: Ipv6Addr,
    of: T,
    end: End,
}

/// An address of ours.
struct Own {
    address: Ipv6Addr,
    /// Until when new connections are made from it; `None`: none are any more.
    preferred: Option<End>,
}

/// All of them, each kind in the order in which it was learned.
pub(super) struct Words {
    mac: MacAddr,
    on_link: Vec<Word<(Ipv6Addr, u8)>>,
    own: Vec<Word<Own>>,
    dns: Vec<Word<Ipv6Addr>>,
}

impl Words {
    /// Addresses are made of that hardware address.
    pub(super) const fn new(mac: MacAddr) -> Self {
        Self {
            mac,
            on_link: Vec::new(),
            own: Vec::new(),
            dns: Vec::new(),
        }
    }

    /// Takes all that an advertisement says of the link; whether there was room.
    pub(super) fn take(&mut self, said: &Advertisement, now: Instant) -> bool {
        let mut has_room = true;
        for prefix in &said.prefixes {
            has_room &= self.take_on_link(said.router, prefix, now);
            has_room &= self.take_own(said.router, prefix, now);
        }
        let servers = said.dns.iter();
        for &(server, seconds) in servers.filter(|(server, _)| !server.is_multicast()) {
            let end = end(seconds, now);
            match word(&mut self.dns, said.router, |it| *it == server) {
                Some(known) => known.end = end,
                None if seconds == 0 => {}
                None => {
                    has_room &= add(
                        (&mut self.dns, limits::LEARNED_DNS),
                        said.router,
                        server,
                        end,
                    )
                }
            }
        }
        has_room
    }

    fn take_on_link(&mut self, by: Ipv6Addr, said: &Prefix, now: Instant) -> bool {
        if !said.on_link || !is_global_v6(said.address) {
            return true;
        }
        let (of, end) = ((said.address, said.len), end(said.valid, now));
        match word(&mut self.on_link, by, |it| *it == of) {
            Some(known) => known.end = end,
            None if said.valid == 0 => {}
            None => return add((&mut self.on_link, limits::RA_PREFIXES), by, of, end),
        }
        true
    }

    /// RFC 4862, section 5.5.3.
    fn take_own(&mut self, by: Ipv6Addr, said: &Prefix, now: Instant) -> bool {
        let address = own_address(said.address, self.mac);
        let is_good = said.autonomous
            && said.len == AUTONOMOUS_LEN
            && is_global_v6(address)
            && said.preferred <= said.valid;
        if !is_good {
            return true;
        }
        let (valid, preferred) = (end(said.valid, now), Some(end(said.preferred, now)));
        match word(&mut self.own, by, |it| it.address == address) {
            Some(known) => {
                known.end = valid_end(known.end, valid, now);
                known.of.preferred = preferred;
            }
            None if said.valid == 0 => {}
            None => {
                let own = Own { address, preferred };
                return add((&mut self.own, limits::RA_PREFIXES), by, own, valid);
            }
        }
        true
    }

    /// Whether anything is left that it has said.
    pub(super) fn has_of(&self, router: Ipv6Addr) -> bool {
        self.on_link.iter().any(|word| word.by == router)
            || self.own.iter().any(|word| word.by == router)
            || self.dns.iter().any(|word| word.by == router)
    }

    /// What it has said counts no more.
    pub(super) fn forget(&mut self, router: Ipv6Addr) {
        self.on_link.retain(|word| word.by != router);
        self.own.retain(|word| word.by != router);
        self.dns.retain(|word| word.by != router);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let own = self.own.iter();
        let own = own.flat_map(|word| [word.end, word.of.preferred.flatten()]);
        let on_link = self.on_link.iter().map(|word| word.end);
        let dns = self.dns.iter().map(|word| word.end);
        own.chain(on_link).chain(dns).flatten().min()
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.on_link.retain(|word| !is_over(word.end, now));
        self.dns.retain(|word| !is_over(word.end, now));
        self.own.retain(|word| !is_over(word.end, now));
        for word in &mut self.own {
            word.of.preferred = word.of.preferred.filter(|&end| !is_over(end, now));
        }
    }

    /// Adds what counts; `is_there`: a router answers.
    pub(super) fn tells(&self, is_there: impl Fn(Ipv6Addr) -> bool, learned: &mut Learned) {
        let own = unique(self.own.iter().map(|word| word.of.address));
        let (preferred, deprecated): (Vec<_>, Vec<_>) =
            (own.iter()).partition(|&&it| self.is_preferred(it, &is_there));
        for &address in preferred.into_iter().chain(deprecated) {
            let is_on_link = self.on_link.iter().any(|it| self.is_of(address, it.of));
            learned.addresses.push(LearnedAddress {
                address: address.into(),
                prefix_len: if is_on_link { AUTONOMOUS_LEN } else { 128 },
                teacher: Teacher::Router,
            });
        }
        let on_link = unique(self.on_link.iter().map(|word| word.of)).into_iter();
        let on_link = on_link.filter(|&it| !own.iter().any(|&own| self.is_of(own, it)));
        let none = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        (learned.routes).extend(on_link.map(|(prefix, len)| (prefix.into(), len, none)));
        let servers = unique(self.dns.iter().map(|word| word.of)).into_iter();
        let servers = servers.take(limits::LEARNED_DNS).map(IpAddr::V6);
        learned.dns.extend(servers);
    }

    fn is_preferred(&self, address: Ipv6Addr, is_there: impl Fn(Ipv6Addr) -> bool) -> bool {
        let of_it = || self.own.iter().filter(|word| word.of.address == address);
        let some_are = of_it().any(|word| is_there(word.by));
        let mut counting = of_it().filter(|word| !some_are || is_there(word.by));
        counting.any(|word| word.of.preferred.is_some())
    }

    /// Whether an address is of a prefix.
    fn is_of(&self, address: Ipv6Addr, (prefix, len): (Ipv6Addr, u8)) -> bool {
        len == AUTONOMOUS_LEN && address == own_address(prefix, self.mac)
    }
}

/// What `by` has said of that.
fn word<T>(
    words: &mut [Word<T>],
    by: Ipv6Addr,
    is_it: impl Fn(&T) -> bool,
) -> Option<&mut Word<T>> {
    words.iter_mut().find(|it| it.by == by && is_it(&it.of))
}

/// One more of a router's words, if it has fewer than its share.
fn add<T>((words, share): (&mut Vec<Word<T>>, usize), by: Ipv6Addr, of: T, end: End) -> bool {
    let has_room = words.iter().filter(|it| it.by == by).count() < share;
    if has_room {
        words.push(Word { by, of, end });
    }
    has_room
}

/// Each once, in the order in which they come first.
fn unique<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for it in all {
        if !once.contains(&it) {
            once.push(it);
        }
    }
    once
}

/// How long an address is good that was good until `known`, once a router says `said`: nobody on the link ends it at once.
fn valid_end(known: End, said: End, now: Instant) -> End {
    let two_hours = now + TWO_HOURS;
    let is_longer = said.is_none_or(|said| said > two_hours || known.is_some_and(|end| said > end));
    match known {
        _ if is_longer => said,
        Some(end) if end <= two_hours => known,
        Some(_) | None => Some(two_hours),
    }
}

/// The address of the host `mac` in a prefix.
fn own_address(prefix: Ipv6Addr, mac: MacAddr) -> Ipv6Addr {
    let host = link_local(mac).to_bits() & u128::from(u64::MAX);
    Ipv6Addr::from_bits(prefix.to_bits() & !u128::from(u64::MAX) | host)
}

fn end(seconds: u32, now: Instant) -> End {
    (seconds != FOREVER).then(|| now + Duration::from_secs(seconds.into()))
}

fn is_over(end: End, now: Instant) -> bool {
    end.is_some_and(|end| end <= now)
}
