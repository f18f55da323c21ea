//! Routers and addresses of a link, as a host learns them (RFC 4861, section 6.3; RFC 4862).
//!
//! In: router advertisements, the time. Out: router solicitations, what was learned. Never: an address, a prefix or a
//! router beyond its time; anything of who does not answer; more of them than the limits say: those that are known stay;
//! redirects, router's wishes about hop limits and timers.
//!
//! Whoever says to be a router is asked whether it is there, as any neighbor is, and what it says counts once it has
//! answered from where it said so, and that it is a router ([`claims`]): whoever forges many at random takes nobody's room.
//! A router is its address and the hardware address by which it has answered. What comes in its name from elsewhere is a
//! claim like a stranger's, has the router asked, and counts only if it is there that the address answers now: then the
//! router was replaced, and what it had said is forgotten. Of routers those that answer come first, then the better ones;
//! while none answers they take turns (RFC 4861, section 6.3.6). Who forges and answers is a router.
//!
//! What routers say of the link ([`words`]) has its own time, which a router's end as a default router, its lifetime of 0 and
//! its silence leave alone: RFC 4861, section 6.3.4, has that lifetime say nothing of prefixes, there are routers that are
//! none for everything and announce some, and an address whose router is silent still reaches the link, and the world by
//! another router. It ends early where somebody else proves to be that router, and where a silent one makes room for one
//! that answers.
//!
//! An address is made of the prefix and the device's hardware address (RFC 4291, appendix A), as the link-local one is: it
//! is the same after a restart, and an operator can know it in advance. Who wants none of a machine's identity in its
//! addresses (RFC 7217) gives it a fixed one.

mod advertisement;
mod claims;
#[cfg(test)]
mod tests;
mod words;

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
    advertisement::{Advertisement, Preference},
    claims::Claims,
    words::Words,
};
use super::{HostDrop, guests::frame, learned::Learned, limits, link_local, neighbors::Answered};

/// The first wait for a router, and the longest: it doubles (RFC 7559, section 2).
const ANSWER: Duration = Duration::from_secs(4);
const ANSWER_MAX: Duration = Duration::from_secs(3_600);
/// The wait ahead of the first solicitation (RFC 4861, section 10: `MAX_RTR_SOLICITATION_DELAY`).
const DELAY: Duration = Duration::from_secs(1);

/// How long each of several routers of which none answers is tried: three questions, a second apart, and a while.
const TURN: Duration = Duration::from_secs(10);

/// Who has answered just before somebody else spoke in its name is asked again then.
const ASKED_AGAIN: Duration = Duration::from_secs(3);

/// The least MTU of IPv6.
const MTU_MIN: u32 = 1_280;

const ROUTER_SOLICITATION: u8 = 133;
const OPTION_SOURCE: u8 = 1;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What is known of whoever was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing yet.
    Unknown,
    /// It does not answer.
    Silent,
    /// It has.
    There(Answered),
}

struct Router {
    address: Ipv6Addr,
    /// From where it has answered.
    mac: MacAddr,
    preference: Preference,
    /// Until when it is a router for everything; `None`: it is none, and has said something else.
    end: Option<Instant>,
    /// Of its last advertisement.
    mtu: Option<u16>,
    /// It answers no more; the number of its last turn.
    silent: Option<u32>,
    /// Somebody else has spoken in its name: when it is asked again.
    ask: Option<Instant>,
}

impl Router {
    /// The first counts; of equal ones the first in the order of their addresses, whoever speaks first.
    fn rank(&self) -> impl Ord + use<> {
        let preference = std::cmp::Reverse(self.preference);
        (self.end.is_none(), self.silent, preference, self.address)
    }

    const fn answers(&self) -> bool {
        self.silent.is_none()
    }
}

/// The client. Feed it with `handle_*`, then take what [`Client::poll_frame`] has and look at what it [`Client::tells`].
pub(crate) struct Client {
    mac: MacAddr,
    key: RandomState,
    draws: u64,
    claims: Claims,
    routers: Vec<Router>,
    words: Words,
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
            words: Words::new(mac),
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
        let routers = self.routers.iter();
        let ends = routers.flat_map(|router| [router.end, router.ask]);
        let ends = ends.chain([self.words.poll_timeout(), self.claims.poll_timeout()]);
        let ends = ends.chain([self.turn, self.solicit.map(|(at, _)| at)]);
        ends.flatten().min()
    }

    /// Forgets what is over, and asks for routers while none answers.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.claims.expire(now);
        self.words.expire(now);
        for router in &mut self.routers {
            router.end = router.end.filter(|&end| end > now);
            if router.ask.take_if(|at| *at <= now).is_some() {
                self.questions.insert(router.address);
            }
        }
        let words = &self.words;
        (self.routers).retain(|it| it.end.is_some() || words.has_of(it.address));
        self.routers.sort_by_key(Router::rank);
        if self.defaults().any(Router::answers) {
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

    /// Routers for everything.
    fn defaults(&self) -> impl Iterator<Item = &Router> {
        self.routers.iter().filter(|router| router.end.is_some())
    }

    /// While none answers, each in its turn is the one that counts, and is asked.
    fn take_turns(&mut self, now: Instant) {
        if self.turn.is_some_and(|turn| turn > now) {
            return;
        }
        let last = self.defaults().filter_map(|router| router.silent).max();
        if let (Some(first), Some(last), Some(_)) = (self.routers.first_mut(), last, self.turn) {
            first.silent = Some(last.saturating_add(1));
            self.routers.sort_by_key(Router::rank);
        }
        let first = self.defaults().next().map(|router| router.address);
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
        let mac = headers.ether.source;
        self.questions.insert(said.router);
        let mut routers = self.routers.iter_mut();
        let taken = match routers.find(|it| it.address == said.router) {
            Some(known) if known.mac == mac => self.take(&said, mac, now),
            known => {
                if let Some(known) = known {
                    known.ask = Some(now + ASKED_AGAIN);
                }
                self.claims.add(said, mac, now)
            }
        };
        self.questions.retain(|it| {
            let is_router = self.routers.iter().any(|router| router.address == *it);
            is_router || self.claims.has(*it)
        });
        self.handle_timeout(now);
        taken
    }

    /// Goes by what those that were asked are known to have answered since a time, or just before. Answers what found no
    /// room.
    pub(crate) fn look(
        &mut self,
        known: impl Fn(Ipv6Addr, Instant) -> Presence,
        now: Instant,
    ) -> Result<(), HostDrop> {
        let mut replaced = Vec::new();
        for router in &mut self.routers {
            match known(router.address, Instant::from_nanos(0)) {
                Presence::There(answered) if answered.mac != router.mac => {
                    replaced.push(router.address);
                }
                // Who says so no more is no router (RFC 4861, section 7.2.5).
                Presence::There(answered) => {
                    router.silent = None;
                    router.end = router.end.filter(|_| answered.is_router);
                }
                Presence::Silent => router.silent = router.silent.or(Some(0)),
                Presence::Unknown => {}
            }
        }
        for address in replaced {
            self.forget(address);
            // Whoever is it now is asked what it says.
            self.solicit = Some((now, Duration::ZERO));
        }
        let mut taken = Ok(());
        for (said, mac, heard) in self.claims.take_answered(known) {
            taken = taken.and(self.take(&said, mac, heard));
        }
        self.handle_timeout(now);
        taken
    }

    fn forget(&mut self, address: Ipv6Addr) {
        self.routers.retain(|router| router.address != address);
        self.words.forget(address);
    }

    /// What was lost since the last call of those that did not answer, or otherwise than they had said.
    pub(crate) fn poll_lost(&mut self) -> Option<HostDrop> {
        self.claims.poll_lost()
    }

    /// Takes what a router says that is there.
    fn take(&mut self, said: &Advertisement, mac: MacAddr, now: Instant) -> Result<(), HostDrop> {
        let is_known = self.routers.iter().any(|it| it.address == said.router);
        // Who says nothing that lasts takes nobody's place.
        if !is_known && !said.says_anything() {
            return Ok(());
        }
        let has_room = self.take_router(said, mac, now) && self.words.take(said, now);
        has_room.then_some(()).ok_or(HostDrop::AdvertisedFull)
    }

    /// Whether there was room.
    fn take_router(&mut self, said: &Advertisement, mac: MacAddr, now: Instant) -> bool {
        let known = self.routers.iter().position(|it| it.address == said.router);
        let known = known.map(|at| self.routers.remove(at));
        if self.routers.len() >= limits::RA_ROUTERS && !self.make_room() {
            return false;
        }
        let lasts = Duration::from_secs(said.lifetime.into());
        let mtu = said.mtu.filter(|&mtu| mtu >= MTU_MIN);
        self.routers.push(Router {
            address: said.router,
            mac,
            preference: said.preference,
            end: (said.lifetime > 0).then(|| now + lasts),
            mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            silent: known.as_ref().and_then(|router| router.silent),
            ask: known.and_then(|router| router.ask),
        });
        self.routers.sort_by_key(Router::rank);
        true
    }

    /// The last of those that don't answer makes room.
    fn make_room(&mut self) -> bool {
        let silent = self.routers.iter().rfind(|router| !router.answers());
        let silent = silent.map(|router| router.address);
        silent.inspect(|&router| self.forget(router)).is_some()
    }

    /// Routers that have answered, and from where.
    pub(crate) fn routers(&self) -> impl Iterator<Item = (IpAddr, MacAddr)> {
        self.routers
            .iter()
            .map(|router| (router.address.into(), router.mac))
    }

    /// Adds what it has learned.
    pub(crate) fn tells(&self, learned: &mut Learned) {
        let there = self.routers.iter().filter(|router| router.answers());
        self.words.tells(
            |router| there.clone().any(|it| it.address == router),
            learned,
        );
        let none = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let routes = self
            .defaults()
            .map(|router| (none, 0, router.address.into()));
        learned.routes.extend(routes);
        for router in self.defaults() {
            learned.take_mtu(router.mtu);
        }
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
