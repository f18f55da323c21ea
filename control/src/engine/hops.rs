//! The next hops of paths, each once.
//!
//! In: where paths lead, what neighbors became. Out: the cell that all paths through a next hop share; when to ask where
//! it is; how far it is relied on. Never: a hop kept for long that no path leads through; more of strangers than `STRANGERS_HOPS`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use culvert_dataplane::shared::{
    hop::{Hop, Link},
    ids::{Scope, UplinkIndex},
    limits::{STRANGERS_HOPS, UNROUTED_LIFE},
};
use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::health::{Grade, Health};

/// A next hop that was never there is given so long to answer: three questions, a second apart.
const ANSWERS_WITHIN: Duration = Duration::from_millis(3_500);
/// Whoever was asked how far a hop is relied on still wants to know for so long: peers that are sent to ask every 5 s.
const GRADED_FOR: Duration = Duration::from_secs(15);
/// How often the stack is asked for a hop that is wanted: workers want one that they don't know once a second
/// (`WANTED_AGAIN`), and a known one stays in use by that.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Who wants a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Someone configured.
    Peer,
    /// Someone who may have invented the address.
    Stranger,
}

/// All of them.
#[derive(Default)]
pub(super) struct Hops {
    known: BTreeMap<(Scope, IpAddr), Known>,
    /// How many of them strangers alone have wanted.
    strangers: usize,
}

struct Known {
    hop: Arc<Hop>,
    /// When the stack was asked last.
    asked: Option<Instant>,
    standing: Standing,
    /// When somebody wanted to know how far it is relied on.
    graded: Option<Instant>,
}

/// Whether a hop has ever answered.
enum Standing {
    /// Not yet; it was wanted first then.
    Untried(Instant),
    /// It has.
    Tried(Health),
}

impl Known {
    fn new(uplink: UplinkIndex, source: MacAddr, now: Instant) -> Self {
        Self {
            hop: Arc::new(Hop::ethernet(uplink, source, None)),
            asked: None,
            standing: Standing::Untried(now),
            graded: None,
        }
    }

    fn note(&mut self, is_there: bool, now: Instant) {
        match &mut self.standing {
            Standing::Tried(health) => {
                health.set(is_there, now);
            }
            Standing::Untried(_) if is_there => self.standing = Standing::Tried(Health::default()),
            Standing::Untried(_) => {}
        }
    }
}

impl Hops {
    /// The hop over `address` from our address `source`; whoever wants it has the stack asked by `ask`, now and then,
    /// which answers whether it could be asked. `None`: too many strangers are being answered, or
    /// guests are behind the scope, who have no hops.
    pub(super) fn over(
        &mut self,
        (scope, address): (Scope, IpAddr),
        source: MacAddr,
        whose: For,
        now: Instant,
        ask: impl FnOnce() -> bool,
    ) -> Option<Arc<Hop>> {
        let Scope::Uplink(uplink) = scope else {
            return None;
        };
        let is_new = !self.known.contains_key(&(scope, address));
        if is_new && whose == For::Stranger {
            if self.strangers >= STRANGERS_HOPS {
                return None;
            }
            self.strangers += 1;
        }
        let known =
            (self.known.entry((scope, address))).or_insert_with(|| Known::new(uplink, source, now));
        if known.hop.link() != Link::Ethernet(source) {
            *known = Known::new(uplink, source, now);
        }
        let is_due = (known.asked).is_none_or(|asked| now.since(asked) >= ASK_AGAIN);
        if is_due && ask() {
            known.asked = Some(now);
        }
        Some(Arc::clone(&known.hop))
    }

    /// The neighbor `address` is there now, for all paths at once; whether that is new to one of them.
    pub(super) fn set(
        &mut self,
        at: (Scope, IpAddr),
        neighbor: Option<MacAddr>,
        now: Instant,
    ) -> bool {
        let known = self.known.get_mut(&at);
        known.is_some_and(|known| {
            known.note(neighbor.is_some(), now);
            known.hop.set(neighbor)
        })
    }

    /// How far a hop is relied on. One that was never there may still answer.
    pub(super) fn grade(&mut self, at: (Scope, IpAddr), now: Instant) -> Grade {
        let Some(known) = self.known.get_mut(&at) else {
            return Grade::Held;
        };
        known.graded = Some(now);
        match &known.standing {
            Standing::Tried(health) => health.grade(now),
            Standing::Untried(since) if now.since(*since) < ANSWERS_WITHIN => Grade::Held,
            Standing::Untried(_) => Grade::Fails,
        }
    }

    /// Those of a scope of which somebody wants to know that.
    pub(super) fn graded(
        &self,
        scope: Scope,
        now: Instant,
    ) -> impl Iterator<Item = (Scope, IpAddr)> {
        let is_wanted = move |known: &Known| {
            let graded = known.graded;
            graded.is_some_and(|graded| now.since(graded) < GRADED_FOR)
        };
        let known = self.known.iter();
        let known = known.filter(move |((of, _), known)| *of == scope && is_wanted(known));
        known.map(|(at, _)| *at)
    }

    /// Another stack serves a scope, which knows none of its neighbors yet.
    pub(super) fn forget_neighbors(&mut self, scope: Scope) {
        let known = self.known.iter_mut();
        for (_, known) in known.filter(|((of, _), _)| *of == scope) {
            known.hop.set(None);
            known.asked = None;
            if let Standing::Tried(_) = known.standing {
                known.standing = Standing::Tried(Health::default());
            }
        }
    }

    /// Forgets all of a scope that is no more.
    pub(super) fn forget(&mut self, scope: Scope) {
        self.known.retain(|(of, _), _| *of != scope);
    }

    /// Forgets those that no path leads through, and that nobody has wanted lately, once the stack has been told by
    /// `let_go`, which answers whether it could be: else who invents addresses fills its table with them.
    pub(super) fn prune(&mut self, now: Instant, mut let_go: impl FnMut(Scope, IpAddr) -> bool) {
        let is_wanted = |asked: Instant| now.since(asked) < UNROUTED_LIFE;
        self.strangers = 0;
        self.known.retain(|&(scope, address), known| {
            let is_used = Arc::strong_count(&known.hop) > 1;
            let is_kept = is_used || known.asked.is_some_and(is_wanted);
            let stays = is_kept || known.asked.is_some() && !let_go(scope, address);
            self.strangers += usize::from(stays && !is_used);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::shared::ids::UplinkIndex;

    use super::*;

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    fn at(uplink: u32, host: u8) -> (Scope, IpAddr) {
        let address = IpAddr::from([192, 0, 2, host]);
        (Scope::Uplink(UplinkIndex(uplink)), address)
    }

    fn after(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    fn over(hops: &mut Hops, at: (Scope, IpAddr), source: u8) -> Arc<Hop> {
        let hop = hops.over(at, mac(source), For::Peer, after(0), || true);
        hop.unwrap()
    }

    #[test]
    fn paths_over_one_neighbor_share_a_hop_until_none_is_left() {
        let mut hops = Hops::default();
        let [a, b] = [(); 2].map(|()| over(&mut hops, at(0, 1), 1));
        let [other, elsewhere] = [at(0, 2), at(1, 1)].map(|at| over(&mut hops, at, 1));
        assert!(
            hops.set(at(0, 1), Some(mac(9)), after(0))
                && !hops.set(at(0, 1), Some(mac(9)), after(0))
        );
        assert_eq!(
            [&a, &b, &other, &elsewhere].map(|hop| hop.neighbor().mac()),
            [Some(mac(9)), Some(mac(9)), None, None]
        );
        drop((a, other, elsewhere));
        hops.prune(after(2_999), |_, _| unreachable!("they are wanted"));
        assert_eq!(hops.known.len(), 3);
        // The stack is told, now or another time.
        hops.prune(after(3_000), |_, _| false);
        assert_eq!(hops.known.len(), 3);
        let mut released = 0;
        hops.prune(after(3_000), |_, _| {
            released += 1;
            true
        });
        assert_eq!((hops.known.len(), released), (1, 2));
        // Another address of ours makes another hop.
        let c = over(&mut hops, at(0, 1), 2);
        assert!(!Arc::ptr_eq(&b, &c) && c.link() == Link::Ethernet(mac(2)));
        hops.set(at(0, 1), Some(mac(9)), after(0));
        hops.forget_neighbors(at(0, 1).0);
        assert!(!c.is_resolved());
    }

    #[test]
    fn a_hop_that_many_want_is_asked_for_now_and_then_and_again_when_it_could_not_be() {
        let mut hops = Hops::default();
        let mut asked = Vec::new();
        let mut want = |millis, can| {
            let ask = || {
                asked.push(millis);
                can
            };
            hops.over(at(0, 1), mac(1), For::Peer, after(millis), ask)
        };
        want(0, false);
        want(0, true);
        for millis in (0..1_000).step_by(10) {
            want(millis, true);
        }
        assert_eq!(asked, [0, 0, 500]);
    }

    #[test]
    fn strangers_leave_peers_their_room() {
        let mut hops = Hops::default();
        let own = over(&mut hops, at(0, 1), 1);
        let stranger = |n: u32| (at(0, 0).0, IpAddr::from((10 << 24 | n).to_be_bytes()));
        let want = |hops: &mut Hops, n, whose, millis| {
            let hop = hops.over(stranger(n), mac(1), whose, after(millis), || true);
            hop.is_some()
        };
        let answered = (0..5_000).filter(|&n| want(&mut hops, n, For::Stranger, 0));
        assert_eq!(answered.count(), STRANGERS_HOPS);
        assert!(want(&mut hops, 0, For::Stranger, 0) && want(&mut hops, 9_000, For::Peer, 0));
        assert!(Arc::ptr_eq(&own, &over(&mut hops, at(0, 1), 1)));
        hops.prune(after(4_000), |_, _| true);
        assert!(want(&mut hops, 4_000, For::Stranger, 4_000));
        assert_eq!(hops.known.len(), 2);
    }
}
