//! Names that peers are at: who is asked for them, when, and what is known of them.
//!
//! In: names that tunnels' peers want, answers, the time. Out: questions, each for one who can answer; addresses, and the
//! peers that they concern. Never: a name forgotten that a peer is at; an answer to an older question taken for the last
//! one's; more questions under way to one than he takes: one whose servers are silent holds up no other's.
//!
//! A tunnel's names are asked for by its uplinks: of the servers that a `dpdk` uplink knows, of the system for a `udp` one.
//! The first uplink that works is asked first, and the next one after each failure. Where no uplink knows any, the system is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use culvert_dataplane::shared::{control_link::Attention, ids::Scope};
use culvert_stack::{dns::Families, limits::NAMES};
use culvert_wireguard::Instant;

use super::{Engine, places::Places, resolver::Resolver, uplinks::UplinkState};
use crate::{
    config::UplinkDriver,
    netstack::{Answer, Asker, Question},
    report::look::NameSight,
    state::NameServer,
};

/// The least time between two questions for one name, and the least that an answer counts.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The longest that an answer counts: whoever gives a name a lifetime of days moves it some day all the same.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(3_600);
/// The first pause after a name was not found; it doubles each time.
const RETRY: Duration = Duration::from_secs(5);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Names that are asked for in a round.
const ASKS_PER_ROUND: usize = 512;
/// Names that the system is asked for at a time.
const OF_SYSTEM_MAX: usize = 64;

/// A name in a tunnel.
pub(super) type Key = (usize, String);

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    System,
    /// The servers that a scope's stack knows.
    Stack(Scope),
}

/// Names that peers are at.
pub(super) struct Names {
    pub(super) asker: Asker,
    pub(super) resolver: Resolver,
    pub(super) known: HashMap<Key, Entry>,
    pub(super) due: BTreeSet<(Instant, Key)>,
    /// Those that whoever is to be asked has no room for yet.
    waiting: BTreeMap<By, VecDeque<Key>>,
    /// Questions that are under way, by their numbers.
    asked: HashMap<u64, (By, Key)>,
    under_way: BTreeMap<By, usize>,
    /// Peers that the last answer concerns.
    pub(super) answered: VecDeque<usize>,
}

#[derive(Default)]
pub(super) struct Entry {
    /// Places of the peers that are there.
    pub(super) peers: BTreeSet<usize>,
    addresses: Vec<SocketAddr>,
    /// When it was asked for last, and when it is to be asked for next.
    pub(super) asked: Instant,
    due: Option<Instant>,
    /// The last question's number.
    question: Option<u64>,
    failures: u32,
    /// Why it was not found the last time.
    error: Option<String>,
}

impl By {
    const fn room(self) -> usize {
        match self {
            Self::System => OF_SYSTEM_MAX,
            Self::Stack(_) => NAMES,
        }
    }
}

impl Names {
    pub(super) fn new(attention: &Arc<Attention>) -> Self {
        Self {
            asker: Asker::new(attention),
            resolver: Resolver::default(),
            known: HashMap::new(),
            due: BTreeSet::new(),
            waiting: BTreeMap::new(),
            asked: HashMap::new(),
            under_way: BTreeMap::new(),
            answered: VecDeque::new(),
        }
    }

    /// A peer is at a name; answers what is known of it already.
    pub(super) fn want(&mut self, key: &Key, peer: usize, now: Instant) -> Vec<SocketAddr> {
        let is_new = !self.known.contains_key(key);
        let entry = self.known.entry(key.clone()).or_default();
        entry.peers.insert(peer);
        let addresses = entry.addresses.clone();
        if is_new {
            self.schedule(key, now);
        }
        addresses
    }

    /// Asks for a known name before its answer's lifetime ends, unless that was done just now.
    pub(super) fn doubt(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.known.get(key) else {
            return;
        };
        let at = (entry.asked + ASK_AGAIN).max(now);
        let is_sooner = entry.due.is_none_or(|due| at < due);
        if !entry.addresses.is_empty() && entry.failures == 0 && is_sooner {
            self.schedule(key, at);
        }
    }

    /// Whoever is asked for a tunnel's names is another, or was away: all of them are asked for now, or those that were not
    /// found.
    fn renew(&mut self, tunnels: &BTreeSet<usize>, all: bool, now: Instant) {
        let known = self.known.iter_mut();
        let concerned = known.filter(|((tunnel, _), entry)| {
            tunnels.contains(tunnel) && (all || entry.error.is_some())
        });
        let concerned = concerned.map(|(key, entry)| {
            // Whoever was asked first is again.
            entry.failures = 0;
            key.clone()
        });
        for key in concerned.collect::<Vec<_>>() {
            self.schedule(&key, now);
        }
    }

    /// What is known of a name.
    pub(super) fn sight(&self, key: &Key, now: Instant) -> Option<NameSight> {
        let entry = self.known.get(key)?;
        Some(NameSight {
            addresses: entry.addresses.iter().map(SocketAddr::ip).collect(),
            error: entry.error.clone(),
            asked_in: entry.due.map(|due| due.since(now)),
        })
    }

    pub(super) fn schedule(&mut self, key: &Key, at: Instant) {
        self.unschedule(key);
        if let Some(entry) = self.known.get_mut(key) {
            entry.due = Some(at);
            self.due.insert((at, key.clone()));
        }
    }

    fn unschedule(&mut self, key: &Key) {
        let due = self.known.get_mut(key).and_then(|entry| entry.due.take());
        if let Some(due) = due {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// The next name to ask for: one that waited for room, or one that is due.
    fn next(&mut self, now: Instant) -> Option<Key> {
        let under_way = &self.under_way;
        let has_room = |by: By| under_way.get(&by).copied().unwrap_or(0) < by.room();
        let mut waiting = self.waiting.iter_mut().filter(|(by, _)| has_room(**by));
        let waited = waiting.find_map(|(_, keys)| keys.pop_front());
        if waited.is_some() {
            return waited;
        }
        let (_, key) = self.due.first().filter(|(at, _)| *at <= now)?;
        let key = key.clone();
        self.unschedule(&key);
        Some(key)
    }

    /// Takes a question on its way to one of those who can be asked; `None`: it waits for room, or is none any more.
    fn begin(
        &mut self,
        key: Key,
        all: &[By],
        families: Families,
        now: Instant,
    ) -> Option<(By, Question)> {
        let entry = self.known.get_mut(&key)?;
        let place = usize::try_from(entry.failures).unwrap_or(0) % all.len().max(1);
        let by = all.get(place).copied().unwrap_or(By::System);
        let under_way = self.under_way.entry(by).or_default();
        if *under_way >= by.room() {
            self.waiting.entry(by).or_default().push_back(key);
            return None;
        }
        *under_way += 1;
        let question = self.asker.question(&key.1, families);
        entry.asked = now;
        entry.question = Some(question.number);
        self.asked.insert(question.number, (by, key));
        Some((by, question))
    }

    /// When a name has to be asked for next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the next answer down that is there, and is the last question's; gives the peers that it concerns.
    fn next_answered(&mut self, now: Instant) -> Option<Vec<usize>> {
        loop {
            let Answer { number, found } = self.asker.next_answer()?;
            let Some((by, key)) = self.asked.remove(&number) else {
                continue;
            };
            if let Some(under_way) = self.under_way.get_mut(&by) {
                *under_way = under_way.saturating_sub(1);
            }
            let entry = self.known.get(&key);
            if entry.is_some_and(|entry| entry.question == Some(number)) {
                return Some(self.note(&key, found, now));
            }
        }
    }

    /// A name that is found is asked for again when the answer's lifetime ends; one that is not, later and later.
    pub(super) fn note(
        &mut self,
        key: &Key,
        found: Result<(Vec<SocketAddr>, Duration), String>,
        now: Instant,
    ) -> Vec<usize> {
        self.unschedule(key);
        let name = &key.1;
        let Some(entry) = self.known.get_mut(key) else {
            return Vec::new();
        };
        entry.question = None;
        match found {
            Ok((addresses, lifetime)) => {
                if entry.failures > 0 || entry.addresses.is_empty() {
                    tracing::info!(name, ?addresses, "found an endpoint's name");
                }
                entry.failures = 0;
                entry.error = None;
                // The same in another order, as servers deal them, is nothing new.
                let is_same = entry.addresses.len() == addresses.len()
                    && addresses.iter().all(|it| entry.addresses.contains(it));
                let concerned = match is_same {
                    true => Vec::new(),
                    false => entry.peers.iter().copied().collect(),
                };
                if !is_same {
                    entry.addresses = addresses;
                }
                self.schedule(key, now + lifetime.clamp(ASK_AGAIN, LIFETIME_MAX));
                concerned
            }
            Err(error) => {
                let pause = (RETRY * (1 << entry.failures.min(8))).min(RETRY_MAX);
                if entry.failures == 0 {
                    tracing::warn!(
                        name,
                        error,
                        "can't resolve an endpoint's name: it is asked for again from time to time; what is known of the peer counts until then, or it has to call first"
                    );
                }
                entry.failures = entry.failures.saturating_add(1);
                entry.error = Some(error);
                self.schedule(key, now + pause);
                Vec::new()
            }
        }
    }

    /// A peer is gone: a name that no other is at is forgotten.
    pub(super) fn forget(&mut self, places: &Places, peer: usize) {
        if let Some(key) = &places.name {
            self.leave(key, peer);
        }
    }

    pub(super) fn leave(&mut self, key: &Key, peer: usize) {
        let Some(entry) = self.known.get_mut(key) else {
            return;
        };
        entry.peers.remove(&peer);
        if entry.peers.is_empty() {
            self.unschedule(key);
            self.known.remove(key);
        }
    }
}

impl Engine {
    /// The next peer that an answer concerns: one answer after the other, so that no more wait than one name has.
    pub(super) fn next_answered(&mut self, now: Instant) -> Option<usize> {
        while self.names.answered.is_empty() {
            let peers = self.names.next_answered(now)?;
            self.names.answered.extend(peers);
        }
        self.names.answered.pop_front()
    }

    /// Asks for what is due; whether there is more to do at once.
    pub(super) fn ask_for_names(&mut self, now: Instant) -> bool {
        self.renew_names(now);
        for _ in 0..ASKS_PER_ROUND {
            let Some(key) = self.names.next(now) else {
                return false;
            };
            // An address with a zone is the system's to read.
            let is_name = !key.1.contains([':', '%']);
            let (all, families) = match is_name {
                true => self.askable(key.0),
                false => (vec![By::System], Families::default()),
            };
            match self.names.begin(key, &all, families, now) {
                Some((By::System, question)) => self.names.resolver.ask(question),
                Some((By::Stack(scope), question)) => {
                    self.netstack.publish();
                    self.netstack.look_up(scope, question);
                }
                None => {}
            }
        }
        true
    }

    /// Uplinks whose servers are others now have all names asked for anew.
    fn renew_names(&mut self, now: Instant) {
        let renamed = self.netstack.take_renamed();
        if renamed.is_empty() {
            return;
        }
        let uplinks = self.uplinks.iter();
        let renamed = uplinks.filter(|(_, it)| it.scope().is_some_and(|it| renamed.contains(&it)));
        let renamed: Vec<_> = renamed.map(|(slot, _)| slot).collect();
        self.renew_names_by(&renamed, true, now);
    }

    /// Names of the tunnels on these uplinks are asked for now: all of them, or those that were not found.
    pub(super) fn renew_names_by(&mut self, uplinks: &[usize], all: bool, now: Instant) {
        let tunnels = self.tunnels.iter();
        let concerned =
            tunnels.filter(|(_, tunnel)| tunnel.uplinks().any(|it| uplinks.contains(&it)));
        let concerned = concerned.map(|(slot, _)| slot).collect();
        self.names.renew(&concerned, all, now);
    }

    /// Who can be asked for a tunnel's names, in order, and for which addresses.
    fn askable(&self, tunnel: usize) -> (Vec<By>, Families) {
        let tunnel = self.tunnels.get(tunnel);
        let slots = tunnel.into_iter().flat_map(|tunnel| tunnel.uplinks());
        let uplinks: Vec<_> = slots.filter_map(|slot| self.uplinks.get(slot)).collect();
        let askable = |works: bool| -> Vec<By> {
            let uplinks = uplinks.iter();
            let uplinks = uplinks.filter(|it| !works || it.obstacle().is_none());
            uplinks.filter_map(|uplink| uplink.asked_by()).collect()
        };
        let mut all = askable(true);
        if all.is_empty() {
            all = askable(false);
        }
        if all.is_empty() {
            all.push(By::System);
        }
        let own = uplinks.iter().flat_map(|it| it.addresses(&self.netstack));
        let mut families = Families::default();
        for address in own {
            match address {
                IpAddr::V4(_) => families.v4 = true,
                IpAddr::V6(address) => families.v6 |= !address.is_unicast_link_local(),
            }
        }
        (all, families)
    }
}

impl UplinkState {
    /// Who is asked for names of peers that are reached by it.
    fn asked_by(&self) -> Option<By> {
        match self.scope() {
            Some(scope) => (!self.nameservers().is_empty()).then_some(By::Stack(scope)),
            None => matches!(self.config.driver, UplinkDriver::Udp(_)).then_some(By::System),
        }
    }

    /// Servers that names are asked of: those of the file, or else what it has learned.
    pub(super) fn nameservers(&self) -> Vec<IpAddr> {
        let configured = self.config.nameservers.clone();
        configured.unwrap_or_else(|| self.taught.used().dns.clone())
    }

    /// The same, and who says so: routers tell those of IPv6, DHCP servers the others.
    pub(super) fn nameserver_sights(&self) -> Vec<NameServer> {
        let is_configured = self.config.nameservers.is_some();
        let all = self.nameservers().into_iter();
        let sight = |address: IpAddr| NameServer {
            address,
            source: match address {
                _ if is_configured => "config",
                IpAddr::V4(_) => "dhcp",
                IpAddr::V6(_) => "ra",
            }
            .into(),
        };
        all.map(sight).collect()
    }
}

#[cfg(test)]
mod tests;
