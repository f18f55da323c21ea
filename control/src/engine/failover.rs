//! Several uplinks of a tunnel: by which of them each of its peers is reached.
//!
//! In: which uplinks work, where peers are, the kernel's routes and our own, neighbors. Out: peers that move to another
//! uplink, with their sessions: a new path, and an empty packet, by which the far end hears from where it is spoken to
//! now. Never: a peer moved to what does not work while something does; a choice for all peers at once, or one without
//! end: a round has a share of them; what has just come back preferred to what works ([`super::health`]).
//!
//! ```text
//!   uplink's link, its session (BFD) ─┐
//!   route to the endpoint ────────────┼─▶ grade of each uplink ──▶ the first of the best ──▶ path, empty packet
//!   gateway's neighbor (dpdk) ────────┘        for one peer
//! ```
//!
//! A peer that was heard from a new place is answered by the uplink where it was heard, as long as that works: it has
//! moved, and knows why. One that stays where it was is led by us alone: what still comes by the uplink that was left
//! must not lead back there (`Peer::is_led`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use culvert_dataplane::{shared::limits::WAYS_PER_ROUND, uplink::udp};
use culvert_wireguard::{Instant, Now, PeerUpdate};

use super::{Engine, health::Grade, hops::For, tunnels::TunnelState, uplinks::UplinkState};
use crate::{
    config::{self, UplinkDriver},
    events::Event,
    netlink::{
        LinkNews, Netlink,
        route::{Bound, Way},
    },
};

/// Peers beside their first choice that are looked at in a second.
const RETURNS_PER_SECOND: usize = 4_096;
/// Next hops that are asked whether they are still there.
const VERIFIED: usize = 256;
/// How often they are.
const VERIFY_AGAIN: Duration = Duration::from_secs(3);

/// Peers that wait for a choice, and what came of those before.
#[derive(Default)]
pub(super) struct Failover {
    waiting: VecDeque<usize>,
    listed: HashSet<usize>,
    /// Peers that are not reached by their first choice, and may come back.
    away: BTreeSet<usize>,
    /// Where the last look at those ended.
    looked: usize,
    /// Peers that are spoken to from elsewhere, and were not told yet.
    untold: BTreeSet<usize>,
    /// Where the last look at those ended.
    told: usize,
    /// Peers that have moved since it was told: how many, and why the first.
    moves: BTreeMap<Move, (usize, String)>,
    verify_due: Instant,
    kernel: Option<Netlink>,
    /// Interfaces of the kernel's by which packets can't pass, as far as it has told.
    stopped: HashSet<u32>,
}

/// A tunnel, the uplink that was left and the one that is taken, by their names.
type Move = (config::Name, config::Name, config::Name);

impl Failover {
    /// A peer's uplink is to be chosen again.
    pub(super) fn list(&mut self, place: usize) {
        if self.listed.insert(place) {
            self.waiting.push_back(place);
        }
    }

    /// The kernel has news of an interface; whether a route over it may work now or not any more. Most news are of
    /// interfaces that come, and of other things than their links.
    pub(super) fn heard(&mut self, news: &LinkNews) -> bool {
        match news {
            LinkNews::Changed(link) if link.running => self.stopped.remove(&link.index),
            LinkNews::Changed(link) => self.stopped.insert(link.index),
            LinkNews::Deleted(link) => !self.stopped.remove(&link.index),
            LinkNews::Missed => true,
        }
    }

    fn next(&mut self) -> Option<usize> {
        let place = self.waiting.pop_front()?;
        self.listed.remove(&place);
        Some(place)
    }

    /// The way that the kernel would send; an error is no way of knowing.
    fn way(&mut self, to: IpAddr, bound: Bound) -> Option<Way> {
        if self.kernel.is_none() {
            self.kernel = Netlink::open().ok();
        }
        self.kernel.as_mut()?.way(to, bound).ok()
    }

    /// Those that may come back, some at a time.
    fn returning(&mut self) -> Vec<usize> {
        in_turn(&self.away, &mut self.looked, RETURNS_PER_SECOND)
    }

    /// A peer hears from where it is spoken to now, soon: it answers to where it heard us last.
    pub(super) fn tell(&mut self, place: usize) {
        self.untold.insert(place);
    }
}

/// Some places, from where the last look ended.
fn in_turn(all: &BTreeSet<usize>, looked: &mut usize, most: usize) -> Vec<usize> {
    let places = all.range(*looked..).chain(all.range(..*looked));
    let places: Vec<_> = places.take(most).copied().collect();
    *looked = places.last().map_or(0, |last| last + 1);
    places
}

/// What is in the way of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Nothing.
    None,
    /// The uplink itself: why.
    Uplink(&'static str),
    /// No route leads to the endpoint, or by an interface that is down.
    NoRoute(IpAddr),
    /// The next hop does not answer.
    Silent(IpAddr),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("a better one works"),
            Self::Uplink(why) => f.write_str(why),
            Self::NoRoute(to) => write!(f, "no route to {to}"),
            Self::Silent(hop) => write!(f, "{hop} does not answer"),
        }
    }
}

/// The uplink for a peer that is on `present`, of uplinks with their grades in the order of choice; `None`: all fail. One
/// that it is on is not held down.
fn choose(present: usize, graded: &[(usize, Grade)]) -> Option<usize> {
    let grade = |&(slot, grade): &(usize, Grade)| match grade {
        Grade::Held if slot == present => Grade::Works,
        Grade::Fails | Grade::Held | Grade::Works => grade,
    };
    let best = graded.iter().map(grade).max()?;
    let mut good = graded.iter().filter(|it| grade(it) == best);
    let chosen = good.next().filter(|_| best > Grade::Fails);
    chosen.map(|&(slot, _)| slot)
}

/// What sockets on an uplink are bound to, for a destination of one family; `None`: they have none of that family.
fn bound(uplink: &UplinkState, mark: u32, to: IpAddr) -> Option<Bound> {
    let addresses: Vec<_> = uplink
        .config
        .addresses
        .iter()
        .map(|net| net.addr())
        .collect();
    let binds = udp::binds(&addresses);
    let source = binds.iter().find(|it| it.is_ipv4() == to.is_ipv4())?;
    Some(Bound {
        source: Some(*source).filter(|source| !source.is_unspecified()),
        interface: uplink.device_index,
        mark,
    })
}

/// The mark on a tunnel's packets on one of its uplinks: behind the first, the uplink's own counts.
pub(super) fn mark_on(tunnel: &config::Tunnel, uplink: &config::Uplink) -> u32 {
    mark((&tunnel.uplink, tunnel.fwmark), uplink)
}

fn mark((first, fwmark): (&config::Name, u32), uplink: &config::Uplink) -> u32 {
    match &uplink.driver {
        UplinkDriver::Udp(udp) if uplink.name != *first => udp.fwmark.unwrap_or(fwmark),
        UplinkDriver::Udp(_) | UplinkDriver::Dpdk(_) => fwmark,
    }
}

impl Engine {
    /// Has the uplinks of a tunnel's peers chosen again, if it has several and `concerns` is true of it.
    pub(super) fn reconsider(&mut self, concerns: impl Fn(&TunnelState) -> bool) {
        for (_, tunnel) in self.tunnels.iter() {
            if tunnel.order.len() > 1 && concerns(tunnel) {
                tunnel
                    .peers
                    .values()
                    .for_each(|&place| self.failover.list(place));
            }
        }
    }

    /// Notes which uplinks work by themselves, and has peers move that this concerns.
    pub(super) fn note_uplinks(&mut self, now: Instant) {
        let mut changed = Vec::new();
        for (slot, uplink) in self.uplinks.iter_mut() {
            uplink.tell_liveness();
            let works = uplink.obstacle().is_none();
            if uplink.health.set(works, now) {
                changed.push(slot);
            }
        }
        if !changed.is_empty() {
            self.reconsider(|tunnel| tunnel.order.iter().any(|slot| changed.contains(slot)));
        }
    }

    /// The kernel's routes have changed, or its interfaces.
    pub(super) fn reconsider_kernels(&mut self) {
        let uplinks = self.uplinks.iter();
        let kernels = uplinks.filter(|(_, uplink)| uplink.scope().is_none());
        let kernels: BTreeSet<_> = kernels.map(|(slot, _)| slot).collect();
        self.reconsider(|tunnel| tunnel.order.iter().any(|slot| kernels.contains(slot)));
    }

    /// Chooses for some of the peers that wait for it; whether more do.
    pub(super) fn choose_ways(&mut self, now: Now) -> bool {
        for _ in 0..WAYS_PER_ROUND {
            let Some(place) = self.failover.next() else {
                break;
            };
            self.choose_way(place, now);
        }
        let more = !self.failover.waiting.is_empty();
        if !more {
            self.tell_moves();
        }
        more
    }

    fn choose_way(&mut self, place: usize, now: Now) {
        self.failover.away.remove(&place);
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        let (present, tunnel) = (peer.uplink, peer.tunnel);
        // It was heard there, or has moved lately: while that works it stays.
        let stays = peer.follows || peer.moves.grade(now.monotonic) == Grade::Held;
        let Some(tunnel) = self.tunnels.get(tunnel).filter(|it| it.order.len() > 1) else {
            return;
        };
        let status = tunnel.device.peer(peer.cell.id);
        let Some(endpoint) = status.and_then(|status| status.endpoint) else {
            return;
        };
        let order = tunnel.order.clone();
        let (first, fwmark) = (tunnel.config.uplink.clone(), tunnel.config.fwmark);
        let marked = (&first, fwmark);
        let (own, obstacle) = match order.contains(&present) {
            true => self.grade(present, marked, endpoint, now.monotonic),
            false => (Grade::Fails, Obstacle::Uplink("the tunnel has left it")),
        };
        let mut chosen = present;
        if own == Grade::Fails || !stays {
            let mut graded = Vec::with_capacity(order.len());
            for &slot in &order {
                let (grade, _) = match slot == present {
                    true => (own, obstacle),
                    false => self.grade(slot, marked, endpoint, now.monotonic),
                };
                graded.push((slot, grade));
                // Each look may take system calls, and none is better.
                if grade == Grade::Works {
                    break;
                }
            }
            chosen = choose(present, &graded).unwrap_or(present);
        }
        if chosen != present {
            self.move_peer(place, chosen, obstacle, now);
        }
        let follows = self.peers.get(place).is_some_and(|peer| peer.follows);
        if order.first() != Some(&chosen) && !follows {
            self.failover.away.insert(place);
        }
    }

    /// How far an uplink is relied on to reach `endpoint`, and what is in its way.
    fn grade(
        &mut self,
        slot: usize,
        marked: (&config::Name, u32),
        endpoint: SocketAddr,
        now: Instant,
    ) -> (Grade, Obstacle) {
        let Some(uplink) = self.uplinks.get(slot) else {
            return (Grade::Fails, Obstacle::Uplink("it is gone"));
        };
        if let Some(why) = uplink.obstacle() {
            return (Grade::Fails, Obstacle::Uplink(why));
        }
        let (grade, to) = (uplink.health.grade(now), endpoint.ip());
        let no_route = (Grade::Fails, Obstacle::NoRoute(to));
        let Some(scope) = uplink.scope() else {
            let mark = mark(marked, &uplink.config);
            let Some(bound) = bound(uplink, mark, to) else {
                return no_route;
            };
            return match self.failover.way(to, bound) {
                Some(Way::None) => no_route,
                Some(Way::By { .. }) | None => (grade, Obstacle::None),
            };
        };
        let Some(host) = self.netstack.get(scope) else {
            return no_route;
        };
        let (ours, way) = (host.config.mac, host.routes.way(to));
        let Some(way) = way else {
            return no_route;
        };
        let at = (scope, way.next_hop);
        let netstack = &mut self.netstack;
        let ask = || netstack.ask(scope, way.next_hop);
        if self.hops.over(at, ours, For::Peer, now, ask).is_none() {
            return (grade, Obstacle::None);
        }
        match self.hops.grade(at, now) {
            Grade::Fails => (Grade::Fails, Obstacle::Silent(way.next_hop)),
            hop @ (Grade::Held | Grade::Works) => (grade.min(hop), Obstacle::None),
        }
    }

    /// A peer is reached by another uplink from now on; its session goes on.
    fn move_peer(&mut self, place: usize, to: usize, why: Obstacle, now: Now) {
        let Some(peer) = self.peers.get_mut(place) else {
            return;
        };
        let from = std::mem::replace(&mut peer.uplink, to);
        (peer.local, peer.follows) = (None, false);
        if why != Obstacle::None {
            // It comes back the later the more often it had to move.
            peer.moves.set(false, now.monotonic);
            peer.moves.set(true, now.monotonic);
        }
        let tunnel = peer.tunnel;
        self.rebuild_path(place, now.monotonic);
        self.failover.tell(place);
        self.call_silent(place, now);
        let name = |slot| self.uplinks.get(slot).map(|it| it.config.name.clone());
        let tunnel = self.tunnels.get(tunnel).map(|it| it.name.clone());
        if let (Some(tunnel), Some(from), Some(to)) = (tunnel, name(from), name(to)) {
            let moves = self.failover.moves.entry((tunnel, from, to));
            moves.or_insert_with(|| (0, why.to_string())).0 += 1;
        }
    }

    /// Who is spoken to from elsewhere is told by an empty packet, as soon as one can go that way: the far end follows whom
    /// it hears. Whether more may be told at once.
    pub(super) fn tell_untold(&mut self) -> bool {
        let Failover { untold, told, .. } = &mut self.failover;
        let waited = untold.len();
        for place in in_turn(untold, told, WAYS_PER_ROUND) {
            let cell = self.peers.get(place).map(|peer| &peer.cell);
            let path = cell.and_then(|cell| cell.path().as_deref().map(|it| it.is_resolved()));
            let has_key = cell.is_some_and(|cell| cell.keypair().is_some());
            if path == Some(false) {
                continue;
            }
            self.failover.untold.remove(&place);
            if has_key && path == Some(true) {
                self.keep_alive(place);
            }
        }
        (1..waited).contains(&self.failover.untold.len())
    }

    fn tell_moves(&mut self) {
        for ((tunnel, from, to), (peers, reason)) in std::mem::take(&mut self.failover.moves) {
            let event = Event::UplinkChanged {
                tunnel,
                from,
                to,
                peers,
                reason,
            };
            event.tell();
        }
    }

    /// A peer that has not answered could not hear us: it is called again, at once.
    pub(super) fn call_silent(&mut self, place: usize, now: Now) {
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(peer.tunnel) else {
            return;
        };
        let status = tunnel.device.peer(peer.cell.id);
        let silent = status.filter(|status| status.unanswered > 0);
        if let Some(endpoint) = silent.and_then(|status| status.endpoint) {
            let update = PeerUpdate {
                endpoint: Some(endpoint),
                ..PeerUpdate::default()
            };
            tunnel.device.update_peer(peer.cell.id, update, now);
        }
    }

    /// What has time: peers that may come back, next hops that are to be there when they are needed.
    pub(super) fn watch_ways(&mut self, now: Instant) {
        let returning = self.failover.returning();
        returning
            .into_iter()
            .for_each(|place| self.failover.list(place));
        if now < self.failover.verify_due {
            return;
        }
        self.failover.verify_due = now + VERIFY_AGAIN;
        let several = self.tunnels.iter().filter(|(_, it)| it.order.len() > 1);
        let slots: BTreeSet<_> = several
            .flat_map(|(_, it)| it.order.iter().copied())
            .collect();
        let mut wanted = Vec::new();
        for uplink in slots.iter().filter_map(|&slot| self.uplinks.get(slot)) {
            let Some(scope) = uplink.scope() else {
                continue;
            };
            let routes = uplink.config.routes.iter();
            let routers: BTreeSet<_> = routes.map(|route| (scope, route.via)).collect();
            wanted.extend(routers);
            wanted.extend(self.hops.graded(scope, now));
        }
        for (scope, hop) in wanted.into_iter().take(VERIFIED) {
            self.netstack.verify(scope, hop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Grade::{Fails, Held, Works};

    #[test]
    fn the_first_that_works_is_taken_and_what_is_held_down_is_better_than_nothing() {
        for (present, graded, chosen) in [
            (0, [Works, Works, Works], Some(0)),
            (0, [Fails, Works, Works], Some(1)),
            (0, [Fails, Fails, Works], Some(2)),
            (0, [Fails, Fails, Fails], None),
            // What came back is held down, unless nothing else works.
            (1, [Held, Works, Works], Some(1)),
            (1, [Held, Fails, Fails], Some(0)),
            (2, [Works, Works, Works], Some(0)),
            // Where a peer is, nothing is held down.
            (1, [Fails, Held, Works], Some(1)),
            (0, [Held, Works, Works], Some(0)),
        ] {
            let graded: Vec<_> = graded.into_iter().enumerate().collect();
            assert_eq!(choose(present, &graded), chosen, "{present} {graded:?}");
        }
        // An uplink that is not the tunnel's any more is none.
        assert_eq!(choose(7, &[(0, Works), (1, Works)]), Some(0));
    }

    #[test]
    fn those_who_may_come_back_take_turns() {
        let mut failover = Failover {
            away: (0..RETURNS_PER_SECOND + 2).collect(),
            ..Failover::default()
        };
        assert_eq!(failover.returning().len(), RETURNS_PER_SECOND);
        let next = failover.returning();
        assert_eq!(next[..3], [RETURNS_PER_SECOND, RETURNS_PER_SECOND + 1, 0]);
        failover.away.clear();
        assert!(failover.returning().is_empty());
        failover.list(3);
        failover.list(3);
        assert_eq!((failover.next(), failover.next()), (Some(3), None));
    }
}
