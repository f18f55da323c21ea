//! Losses that begin and end, for those who follow events.
//!
//! In: drop counters, as they stand. Out: events. Never: a counter of its own on a packet's way; a look at more than
//! [`PEERS_AT_ONCE`] peers and [`PORTS_AT_ONCE`] ports at once, or sooner than [`PAUSE`] after the one before: where there
//! are more, each has its turn.
//!
//! A reason begins with ten packets a second between two looks, and ends when there was less than one a second for ten
//! seconds: a stray packet is no event, and a loss that comes and goes is one. What was lost before a thing was looked
//! at first, or before its counters were others, is nothing new.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use culvert_wireguard::Instant;

use super::Engine;
use crate::{config::Name, events::Event, report::named};

/// Some 100 ns each while nothing is lost, and a microsecond where none of it is in a cache.
const PEERS_AT_ONCE: usize = 256;
/// A microsecond or two each: counters of their rings are summed.
const PORTS_AT_ONCE: usize = 32;
/// Between two looks at some.
const PAUSE: Duration = Duration::from_millis(125);
/// Nothing is looked at more often.
const TURN: Duration = Duration::from_secs(1);
/// Packets a second.
const BEGINS: u64 = 10;
/// Packets a second.
const GOES_ON: u64 = 1;
const ENDS_AFTER: Duration = Duration::from_secs(10);
/// Things that have lost anything. What is beyond them has no events.
const WATCHED: usize = 16_384;

/// Who lost packets, and how many by the last look.
#[derive(Default)]
pub(super) struct Losses {
    watched: HashMap<Scope, Watched>,
    next_peer: usize,
    next_port: usize,
    /// When the turn began that is under way.
    begun: Instant,
    /// When some are looked at again.
    pub(super) due: Instant,
    /// There was no room for something in this turn, in the one before: what is found now may have lost long ago.
    is_crowded: bool,
    was_crowded: bool,
    /// When everything had had its turn last, and how long that took.
    passed: Option<Instant>,
    cycle: Duration,
}

/// Whose books they are. Ports and uplinks may get other places with the counters that they have; a peer keeps its
/// own, and may get another name.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Scope {
    Port(Name),
    Peer(usize),
    Uplink(Name),
}

struct Watched {
    name: String,
    at: Instant,
    total: u64,
    reasons: BTreeMap<String, Loss>,
}

#[derive(Default)]
struct Loss {
    packets: u64,
    episode: Option<Episode>,
}

struct Episode {
    /// What had been lost before.
    before: u64,
    /// Since when hardly anything is lost.
    quiet: Option<Instant>,
}

impl Losses {
    /// Looks at the counters of one thing. `name` is asked for if it has lost anything, `counts` if that has changed.
    fn look(
        &mut self,
        scope: Scope,
        total: u64,
        counts: impl FnOnce() -> BTreeMap<String, u64>,
        name: impl FnOnce() -> String,
        now: Instant,
    ) {
        if total == 0 {
            return self.forget(&scope);
        }
        let name = name();
        let Some(watched) = self.watched.get_mut(&scope) else {
            return self.begin(scope, name, counts(), total, now);
        };
        if watched.name != name || watched.total > total {
            // Another is in its place, or it counts from the beginning. Since when, nobody knows.
            watched.end();
            *watched = Watched::known(name, counts(), total, now);
            return;
        }
        let rests = watched.reasons.values().all(|loss| loss.episode.is_none());
        if watched.total != total || !rests {
            watched.look(counts(), now);
        }
        (watched.total, watched.at) = (total, now);
    }

    /// Watches something that has lost packets and was not watched yet.
    fn begin(
        &mut self,
        scope: Scope,
        name: String,
        counts: BTreeMap<String, u64>,
        total: u64,
        now: Instant,
    ) {
        if self.watched.len() >= WATCHED {
            self.is_crowded = true;
            return;
        }
        let is_known = self.is_crowded || self.was_crowded;
        let watched = if is_known {
            Watched::known(name, counts, total, now)
        } else {
            // It was looked at one turn before, and had lost nothing, or was not there.
            let cycle = u64::try_from(self.cycle.as_nanos()).unwrap_or_default();
            let before = Instant::from_nanos(now.as_nanos().saturating_sub(cycle));
            let mut watched = Watched::known(name, BTreeMap::new(), total, before);
            watched.look(counts, now);
            watched.at = now;
            watched
        };
        self.watched.insert(scope, watched);
    }

    fn forget(&mut self, scope: &Scope) {
        if let Some(mut watched) = self.watched.remove(scope) {
            watched.end();
        }
    }

    /// All had their turn. What is gone by now is forgotten.
    fn pass(&mut self, is_there: impl Fn(&Scope) -> bool, now: Instant) {
        self.was_crowded = std::mem::take(&mut self.is_crowded);
        self.cycle = self.passed.map_or(self.cycle, |passed| now.since(passed));
        self.passed = Some(now);
        let gone = self.watched.extract_if(|scope, _| !is_there(scope));
        gone.for_each(|(_, mut watched)| watched.end());
    }
}

impl Watched {
    /// Something that has lost so many already.
    fn known(name: String, counts: BTreeMap<String, u64>, total: u64, at: Instant) -> Self {
        let known = |(reason, packets)| {
            let episode = None;
            (reason, Loss { packets, episode })
        };
        Self {
            name,
            at,
            total,
            reasons: counts.into_iter().map(known).collect(),
        }
    }

    fn look(&mut self, counts: BTreeMap<String, u64>, now: Instant) {
        // Looks are a second apart at least.
        let millis = now.since(self.at).as_millis().max(1_000);
        for (reason, packets) in counts {
            let loss = self.reasons.entry(reason.clone()).or_default();
            let new = packets.saturating_sub(loss.packets);
            let rate = u64::try_from(u128::from(new) * 1_000 / millis).unwrap_or(u64::MAX);
            let before = std::mem::replace(&mut loss.packets, packets);
            match &mut loss.episode {
                None if rate >= BEGINS => {
                    loss.episode = Some(Episode {
                        before,
                        quiet: None,
                    });
                    let scope = self.name.clone();
                    Event::DropsBegan {
                        scope,
                        reason,
                        rate,
                    }
                    .tell();
                }
                None => {}
                Some(episode) if rate >= GOES_ON => episode.quiet = None,
                Some(episode) => {
                    let since = *episode.quiet.get_or_insert(now);
                    if now.since(since) >= ENDS_AFTER {
                        loss.end(&self.name, reason);
                    }
                }
            }
        }
    }

    fn end(&mut self) {
        for (reason, loss) in &mut self.reasons {
            loss.end(&self.name, reason.clone());
        }
    }
}

impl Loss {
    fn end(&mut self, scope: &str, reason: String) {
        if let Some(episode) = self.episode.take() {
            Event::DropsEnded {
                scope: scope.to_owned(),
                reason,
                packets: self.packets.saturating_sub(episode.before),
            }
            .tell();
        }
    }
}

impl Engine {
    /// Looks at those whose turn it is.
    pub(super) fn watch_losses(&mut self, now: Instant) {
        let mut losses = std::mem::take(&mut self.losses);
        losses.due = now + PAUSE;
        if (losses.next_port, losses.next_peer) == (0, 0) {
            losses.begun = now;
            self.watch_uplinks(&mut losses, now);
        }
        let ports = losses.next_port..self.ports.places();
        losses.next_port += PORTS_AT_ONCE;
        for slot in ports.take(PORTS_AT_ONCE) {
            let Some(port) = self.ports.get(slot) else {
                continue;
            };
            let drops = super::report::losses(port);
            let total = drops.values().sum();
            let name = || format!("port {}", port.config.name);
            let scope = Scope::Port(port.config.name.clone());
            losses.look(scope, total, || drops, name, now);
        }
        let peers = losses.next_peer..self.peers.places();
        losses.next_peer += PEERS_AT_ONCE;
        for slot in peers.take(PEERS_AT_ONCE) {
            let Some(peer) = self.peers.get(slot) else {
                continue;
            };
            let tunnel = || self.tunnels.get(peer.tunnel).map(|it| it.name.to_string());
            let name = || {
                let tunnel = tunnel().unwrap_or_default();
                format!("peer {tunnel}/{}", peer.config.name)
            };
            let drops = &peer.cell.drops;
            losses.look(
                Scope::Peer(slot),
                drops.total(),
                || named(drops.iter()),
                name,
                now,
            );
        }
        let ports_left = losses.next_port < self.ports.places();
        let peers_left = losses.next_peer < self.peers.places();
        if !ports_left && !peers_left {
            let is_there = |scope: &Scope| match scope {
                Scope::Port(name) => self.ports.named(name).is_some(),
                Scope::Peer(slot) => self.peers.get(*slot).is_some(),
                Scope::Uplink(name) => self.uplinks.named(name).is_some(),
            };
            losses.pass(is_there, now);
            (losses.next_port, losses.next_peer) = (0, 0);
            losses.due = losses.due.max(losses.begun + TURN);
        }
        self.losses = losses;
    }

    fn watch_uplinks(&self, losses: &mut Losses, now: Instant) {
        for (_, uplink) in self.uplinks.iter() {
            let drops = self.tell_drops(uplink);
            let total = drops.values().sum();
            let name = || format!("uplink {}", uplink.config.name);
            let scope = Scope::Uplink(uplink.config.name.clone());
            losses.look(scope, total, || drops, name, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EVENTS;

    /// What was told of one scope since a number.
    fn told(since: u64, scope: &str) -> Vec<Event> {
        let records = EVENTS.behind(since, usize::MAX).records;
        let events = records.iter().map(|record| record.event.clone());
        events.filter(|event| event.object() == scope).collect()
    }

    #[test]
    fn a_loss_begins_once_and_ends_after_a_pause() {
        let scope = "port losses-test";
        let since = EVENTS.last();
        let mut losses = Losses::default();
        let second = Duration::from_secs(1);
        let mut now = Instant::default() + Duration::from_secs(100);
        let mut total = 0;
        let mut pass = |new: u64| {
            total += new;
            let counts = || BTreeMap::from([("replayed".to_owned(), total)]);
            losses.look(Scope::Peer(1), total, counts, || scope.into(), now);
            losses.pass(|_| true, now);
            now = now + second;
        };
        // A stray packet now and then is no event.
        [0, 0, 1, 0, 2, 0, 9].into_iter().for_each(&mut pass);
        assert!(told(since, scope).is_empty());
        // It falters, and goes on.
        [500, 400, 0, 0, 3, 0].into_iter().for_each(&mut pass);
        let (scope_, reason) = (scope.to_owned(), "replayed".to_owned());
        let began = Event::DropsBegan {
            scope: scope_.clone(),
            reason: reason.clone(),
            rate: 500,
        };
        assert_eq!(told(since, scope), std::slice::from_ref(&began));
        (0..11).for_each(|_| pass(0));
        let ended = Event::DropsEnded {
            scope: scope_,
            reason,
            packets: 903,
        };
        assert_eq!(told(since, scope), [began, ended]);
        (0..20).for_each(|_| pass(0));
        assert_eq!(told(since, scope).len(), 2);
    }

    #[test]
    fn who_is_gone_loses_nothing_more() {
        let scope = "peer losses/test";
        let since = EVENTS.last();
        let mut losses = Losses::default();
        let mut now = Instant::default() + Duration::from_secs(100);
        for total in [0, 0, 50, 80] {
            let counts = || BTreeMap::from([("no-endpoint".to_owned(), total)]);
            losses.look(Scope::Peer(3), total, counts, || scope.into(), now);
            losses.pass(|_| true, now);
            now = now + Duration::from_secs(1);
        }
        losses.pass(|_| false, now);
        assert!(losses.watched.is_empty());
        let told = told(since, scope);
        assert!(
            matches!(told[1], Event::DropsEnded { packets: 80, .. }),
            "{told:?}"
        );
    }

    /// What is told in two looks at places, each with its name and total; a second lies between them.
    fn told_of(watch: &mut Losses, looks: &[(Scope, &str, u64)], object: &str) -> Vec<Event> {
        let since = EVENTS.last();
        let mut now = Instant::default() + Duration::from_secs(100);
        for (scope, name, total) in looks {
            let counts = || BTreeMap::from([("replayed".to_owned(), *total)]);
            watch.look(scope.clone(), *total, counts, || (*name).into(), now);
            watch.pass(|_| true, now);
            now = now + Duration::from_secs(1);
        }
        told(since, object)
    }

    #[test]
    fn what_was_lost_before_is_nothing_new() {
        let port = Scope::Port(Name::new("losses-old").unwrap());
        let object = "port losses-old";
        // Its counters begin anew, in the middle of a look.
        let looks = [0, 5, 9, 900_000, 800_000, 800_001];
        let looks = looks.map(|total| (port.clone(), object, total));
        let events = told_of(&mut Losses::default(), &looks, object);
        assert!(
            matches!(
                events[..],
                [
                    Event::DropsBegan { rate: 899_991, .. },
                    Event::DropsEnded {
                        packets: 899_991,
                        ..
                    }
                ]
            ),
            "{events:?}"
        );
        // Another one has its place: it is told under its own name, from there on.
        let (peer, first, second) = (Scope::Peer(1), "peer losses/a", "peer losses/b");
        let looks = [(first, 5), (second, 800_000), (second, 800_050)];
        let looks = looks.map(|(name, total)| (peer.clone(), name, total));
        let mut losses = Losses::default();
        let events = told_of(&mut losses, &looks, second);
        assert!(
            matches!(events[..], [Event::DropsBegan { rate: 50, .. }]),
            "{events:?}"
        );
    }

    #[test]
    fn what_there_was_no_room_for_is_not_lost_at_once() {
        let mut losses = Losses::default();
        let full = (0..=WATCHED).map(|place| (Scope::Peer(place), "peer losses/any", 1));
        for (scope, name, total) in full {
            losses.look(
                scope,
                total,
                BTreeMap::new,
                || name.into(),
                Instant::default(),
            );
        }
        losses.watched.clear();
        let object = "peer losses/late";
        let late = [(Scope::Peer(WATCHED), object, 800_000); 1];
        assert!(told_of(&mut losses, &late, object).is_empty());
    }
}
