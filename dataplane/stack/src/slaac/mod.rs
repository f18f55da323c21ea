//! Routers and addresses of a link, as a host learns them (RFC 4861, section 6.3; RFC 4862).
//!
//! In: router advertisements, the time. Out: router solicitations, what was learned. Never: an address, a prefix or a
//! router beyond its time; anything of who does not answer; more of them than the limits say: those that are known stay;
//! redirects, router's wishes about hop limits and timers.
//!
//! Whoever says to be a router is asked whether it is there, as any neighbor is, and what it says counts once it has
//! answered ([`claims`]): whoever forges many at random takes nobody's room. Of routers those that answer come first, then
//! the better ones; while none answers they take turns (RFC 4861, section 6.3.6). Who forges and answers is a router.
//!
//! An address is made of the prefix and the device's hardware address (RFC 4291, appendix A), as the link-local one is: it
//! is the same after a restart, and an operator can know it in advance. Who wants none of a machine's identity in its
//! addresses (RFC 7217) gives it a fixed one.

mod advertisement;
mod claims;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::{MacAddr, parse::Headers};
use culvert_wireguard::Instant;

pub(crate) use self::advertisement::ROUTER_ADVERTISEMENT;
use self::{
    advertisement::{Advertisement, Preference, Prefix},
    claims::Claims,
};
use super::{
    HostDrop,
    guests::frame,
    learned::{Learned, LearnedAddress, Teacher, is_global_v6},
    limits, link_local,
};

/// The first wait for a router, and the longest: it doubles (RFC 7559, section 2).
const ANSWER: Duration = Duration::from_secs(4);
const ANSWER_MAX: Duration = Duration::from_secs(3_600);
/// The wait ahead of the first solicitation (RFC 4861, section 10: `MAX_RTR_SOLICITATION_DELAY`).
const DELAY: Duration = Duration::from_secs(1);

/// How long each of several routers of which none answers is tried: three questions, a second apart, and a while.
const TURN: Duration = Duration::from_secs(10);

/// Down to which whoever is on the link may shorten an address's life (RFC 4862, section 5.5.3).
const TWO_HOURS: Duration = Duration::from_secs(7_200);
/// The prefixes that addresses are made of.
const AUTONOMOUS_LEN: u8 = 64;
/// The least MTU of IPv6.
const MTU_MIN: u32 = 1_280;
/// No end.
const FOREVER: u32 = u32::MAX;

const ROUTER_SOLICITATION: u8 = 133;
const OPTION_SOURCE: u8 = 1;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// When something is over; `None`: never.
type End = Option<Instant>;

struct Router {
    address: Ipv6Addr,
    preference: Preference,
    end: Instant,
    /// Of its last advertisement.
    mtu: Option<u16>,
    /// It answers no more; the number of its last turn.
    silent: Option<u32>,
}

impl Router {
    /// The first counts; of equal ones the first in the order of their addresses, whoever speaks first.
    fn rank(&self) -> impl Ord + use<> {
        let preference = std::cmp::Reverse(self.preference);
        (self.silent, preference, self.address)
    }
}

struct OnLink {
    prefix: Ipv6Addr,
    len: u8,
    end: End,
}

struct Own {
    address: Ipv6Addr,
    valid: End,
    /// Until when new connections are made from it; `None`: none are any more.
    preferred: Option<End>,
}

/// The client. Feed it with `handle_*`, then take what [`Client::poll_frame`] has and look at what it [`Client::tells`].
pub(crate) struct Client {
    mac: MacAddr,
    key: RandomState,
    draws: u64,
    claims: Claims,
    routers: Vec<Router>,
    on_link: Vec<OnLink>,
    own: Vec<Own>,
    dns: Vec<(Ipv6Addr, End)>,
    /// When routers are asked for next, and the wait that led there; `None`: one is known.
    solicit: Option<(Instant, Duration)>,
    /// When the next router has its turn, while none answers.
    turn: Option<Instant>,
    output: Option<Vec<u8>>,
    /// Who is to be asked whether it is there.
    questions: BTreeSet<Ipv6Addr>,
}

impl Client {
    /// Begins to look for routers.
    pub(crate) fn new(mac: MacAddr, key: RandomState, now: Instant) -> Self {
        let mut client = Self {
            mac,
            key,
            draws: 0,
            claims: Claims::default(),
            routers: Vec::new(),
            on_link: Vec::new(),
            own: Vec::new(),
            dns: Vec::new(),
            solicit: None,
            turn: None,
            output: None,
            questions: BTreeSet::new(),
        };
        let delay = client.chance(DELAY);
        client.solicit = Some((now + delay, Duration::ZERO));
        client
    }

    /// The next frame to send.
    pub(crate) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.output.take()
    }

    /// Who is to be asked next whether it is there ([`Self::look`]).
    pub(crate) fn poll_question(&mut self) -> Option<IpAddr> {
        self.questions.pop_first().map(IpAddr::V6)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let ends = (self.own.iter()).flat_map(|own| [own.valid, own.preferred.flatten()]);
        let ends = ends.chain(self.on_link.iter().map(|it| it.end));
        let ends = ends.chain(self.dns.iter().map(|&(_, end)| end)).flatten();
        let ends = ends.chain(self.routers.iter().map(|router| router.end));
        let ends = ends.chain(self.claims.poll_timeout()).chain(self.turn);
        ends.chain(self.solicit.map(|(at, _)| at)).min()
    }

    /// Forgets what is over, and asks for routers while none answers.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.claims.expire(now);
        self.routers.retain(|router| router.end > now);
        self.on_link.retain(|it| !is_over(it.end, now));
        self.dns.retain(|&(_, end)| !is_over(end, now));
        self.own.retain(|own| !is_over(own.valid, now));
        for own in &mut self.own {
            own.preferred = own.preferred.filter(|&end| !is_over(end, now));
        }
        if self.routers.iter().any(|router| router.silent.is_none()) {
            (self.solicit, self.turn) = (None, None);
        } else {
            self.solicit.get_or_insert((now + ANSWER, ANSWER));
            self.take_turns(now);
        }
        if let Some((at, waited)) = self.solicit
            && at <= now
        {
            self.output = Some(self.solicitation());
            let wait = self.patience(waited);
            self.solicit = Some((now + wait, wait));
        }
    }

    /// While none answers, each in its turn is the one that counts, and is asked.
    fn take_turns(&mut self, now: Instant) {
        if self.turn.is_some_and(|turn| turn > now) {
            return;
        }
        let last = self.routers.iter().filter_map(|router| router.silent).max();
        if let (Some(first), Some(last), Some(_)) = (self.routers.first_mut(), last, self.turn) {
            first.silent = Some(last.saturating_add(1));
            self.routers.sort_by_key(Router::rank);
        }
        let first = self.routers.first().map(|router| router.address);
        self.turn = first.map(|_| now + TURN);
        self.questions.extend(first);
    }

    /// Takes an advertisement, whose sender is to be asked. `frame` is what `headers` were parsed from.
    pub(crate) fn handle_advertisement(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), HostDrop> {
        let said = advertisement::read(headers, frame).ok_or(HostDrop::Malformed)?;
        self.questions.insert(said.router);
        let taken = match self.routers.iter().any(|it| it.address == said.router) {
            true => self.take(&said, now),
            false => self.claims.add(said, now),
        };
        self.questions.retain(|it| {
            let is_router = self.routers.iter().any(|router| router.address == *it);
            is_router || self.claims.has(*it)
        });
        self.handle_timeout(now);
        taken
    }

    /// Goes by who of those that were asked `answers`; `None`: nothing is known yet. Answers what found no room.
    pub(crate) fn look(
        &mut self,
        answers: impl Fn(IpAddr) -> Option<bool>,
        now: Instant,
    ) -> Result<(), HostDrop> {
        for router in &mut self.routers {
            router.silent = match answers(router.address.into()) {
                Some(true) => None,
                Some(false) => router.silent.or(Some(0)),
                None => router.silent,
            };
        }
        self.routers.sort_by_key(Router::rank);
        let mut taken = Ok(());
        for (said, heard) in self.claims.take_answered(|it| answers(it.into())) {
            taken = taken.and(self.take(&said, heard));
        }
        self.handle_timeout(now);
        taken
    }

    /// How many did not answer since the last call.
    pub(crate) fn take_unanswered(&mut self) -> usize {
        self.claims.take_unanswered()
    }

    /// Takes what a router says that is there.
    fn take(&mut self, said: &Advertisement, now: Instant) -> Result<(), HostDrop> {
        let mut has_room = self.take_router(said, now);
        for prefix in &said.prefixes {
            has_room &= self.take_on_link(prefix, now);
            has_room &= self.take_own(prefix, now);
        }
        for &(server, seconds) in &said.dns {
            self.take_server(server, seconds, now);
        }
        has_room.then_some(()).ok_or(HostDrop::AdvertisedFull)
    }

    /// Whether there was room.
    fn take_router(&mut self, said: &Advertisement, now: Instant) -> bool {
        let known = self.routers.iter().position(|it| it.address == said.router);
        let known = known.map(|at| self.routers.remove(at));
        if said.lifetime == 0 {
            return true;
        }
        if self.routers.len() >= limits::RA_ROUTERS
            && self.routers.pop_if(|last| last.silent.is_some()).is_none()
        {
            return false;
        }
        let mtu = said.mtu.filter(|&mtu| mtu >= MTU_MIN);
        self.routers.push(Router {
            address: said.router,
            preference: said.preference,
            end: now + Duration::from_secs(said.lifetime.into()),
            mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            silent: known.and_then(|router| router.silent),
        });
        self.routers.sort_by_key(Router::rank);
        true
    }

    fn take_on_link(&mut self, said: &Prefix, now: Instant) -> bool {
        if !said.on_link || !is_global_v6(said.address) {
            return true;
        }
        let is_it = |it: &OnLink| (it.prefix, it.len) == (said.address, said.len);
        let end = end(said.valid, now);
        let has_room = self.on_link.len() < limits::RA_PREFIXES;
        match self.on_link.iter_mut().find(|it| is_it(it)) {
            Some(known) => known.end = end,
            None if has_room => self.on_link.push(OnLink {
                prefix: said.address,
                len: said.len,
                end,
            }),
            None => return said.valid == 0,
        }
        true
    }

    /// RFC 4862, section 5.5.3.
    fn take_own(&mut self, said: &Prefix, now: Instant) -> bool {
        let address = own_address(said.address, self.mac);
        let is_good = said.autonomous
            && said.len == AUTONOMOUS_LEN
            && is_global_v6(address)
            && said.preferred <= said.valid;
        if !is_good {
            return true;
        }
        let (valid, preferred) = (end(said.valid, now), Some(end(said.preferred, now)));
        let own = Own {
            address,
            valid,
            preferred,
        };
        let has_room = self.own.len() < limits::RA_PREFIXES;
        match self.own.iter_mut().find(|it| it.address == address) {
            Some(known) => {
                known.valid = valid_end(known.valid, valid, now);
                known.preferred = preferred;
            }
            None if said.valid > 0 && has_room => self.own.push(own),
            None => return said.valid == 0,
        }
        true
    }

    fn take_server(&mut self, server: Ipv6Addr, seconds: u32, now: Instant) {
        let end = end(seconds, now);
        let has_room = self.dns.len() < limits::LEARNED_DNS;
        match self.dns.iter_mut().find(|(known, _)| *known == server) {
            Some((_, known)) => *known = end,
            None if has_room && !server.is_multicast() => {
                self.dns.push((server, end));
            }
            None => {}
        }
    }

    /// Adds what it has learned.
    pub(crate) fn tells(&self, learned: &mut Learned) {
        let (preferred, deprecated): (Vec<_>, Vec<_>) =
            self.own.iter().partition(|own| own.preferred.is_some());
        for own in preferred.into_iter().chain(deprecated) {
            let on_link = self.on_link.iter().any(|it| self.is_of(own, it));
            learned.addresses.push(LearnedAddress {
                address: own.address.into(),
                prefix_len: if on_link { AUTONOMOUS_LEN } else { 128 },
                teacher: Teacher::Router,
            });
        }
        let none = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let on_link = self.on_link.iter();
        let on_link = on_link.filter(|it| !self.own.iter().any(|own| self.is_of(own, it)));
        let on_link = on_link.map(|it| (it.prefix.into(), it.len, none));
        let routers = self.routers.iter();
        let routers = routers.map(|router| (none, 0, router.address.into()));
        learned.routes.extend(on_link.chain(routers));
        let servers = self.dns.iter();
        learned
            .dns
            .extend(servers.map(|&(server, _)| IpAddr::V6(server)));
        for router in &self.routers {
            learned.take_mtu(router.mtu);
        }
    }

    /// Whether an address is of a prefix.
    fn is_of(&self, own: &Own, on_link: &OnLink) -> bool {
        let address = own_address(on_link.prefix, self.mac);
        on_link.len == AUTONOMOUS_LEN && own.address == address
    }

    fn solicitation(&self) -> Vec<u8> {
        let mut message = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0, OPTION_SOURCE, 1];
        message.extend_from_slice(&self.mac.0);
        let group = MacAddr::from_ipv6_multicast(ALL_ROUTERS);
        frame::icmp6(
            (self.mac, group),
            (link_local(self.mac), ALL_ROUTERS),
            message,
        )
    }

    /// The wait behind one of `waited`: twice as long, a tenth off either way.
    fn patience(&mut self, waited: Duration) -> Duration {
        let wait = (2 * waited).clamp(ANSWER, ANSWER_MAX);
        wait - wait / 10 + self.chance(wait / 5)
    }

    fn chance(&mut self, spread: Duration) -> Duration {
        self.draws = self.draws.wrapping_add(1);
        let nanos = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.key.hash_one(self.draws) % nanos.max(1))
    }
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
