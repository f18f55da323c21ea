//! A peer's cell: what changes by itself, beside the immutable snapshot.
//!
//! In: keypairs and paths published by the control core; traffic noted by the
//! workers. Out: the keypair and path to seal with; sticky signals for the
//! control core. Never: a lock or an allocation per packet (an endpoint that
//! moves takes a lock, once per burst).
//!
//! Threads: any worker reads and signals; the control core publishes and takes signals.
//! What an authentic packet proves (that its keypair may be sealed with, and where its
//! peer is) counts from the next packet on: there, a worker publishes ahead of the
//! control core, which hears of it and has the last word. A cell survives snapshots: a
//! rekey rebuilds nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwapOption, Guard};
use culvert_wireguard::{Instant, Keypair, PeerId, PublicKey};

use crate::{
    shared::{
        allowance::Allowance,
        asked::Asked,
        control_link::Attention,
        drops::PeerDrops,
        hop::{Hop, Link},
        ids::{PeerIndex, TunnelIndex, UplinkIndex},
        limits::MOVES_PER_SECOND,
        marks::Signals,
        path::Path,
    },
    uplink::Uplink,
};

/// What workers tell the control core about a peer: bits that stay set until
/// the control core has taken them.
pub mod signal {
    /// A data packet was sealed and sent.
    pub const DATA_SENT: u32 = 1;
    /// A data packet (not a keepalive) was opened.
    pub const DATA_RECEIVED: u32 = 1 << 1;
    /// A keepalive was opened.
    pub const KEEPALIVE_RECEIVED: u32 = 1 << 2;
    /// A packet waits for a key.
    pub const KEY_WANTED: u32 = 1 << 3;
    /// The first packet on the keypair `confirmed_index` was opened.
    pub const CONFIRMED: u32 = 1 << 4;
    /// An authenticated packet came from another endpoint, or to another address of ours. Some moves
    /// ring; who goes on moving is found by the sweeps.
    pub const MOVED: u32 = 1 << 5;
    /// A keepalive was sealed and sent.
    pub const KEEPALIVE_SENT: u32 = 1 << 6;
    /// Packets are waiting and the path has no next hop.
    pub const NEXT_HOP_WANTED: u32 = 1 << 7;
    /// A probe of the path was answered.
    pub const PROBE_ANSWERED: u32 = 1 << 8;

    /// What the control core should hear of at once, not at its next sweep.
    pub const URGENT: u32 = KEY_WANTED | CONFIRMED | NEXT_HOP_WANTED;
}

/// A peer's traffic, as `wg show` counts it: bytes of whole WireGuard messages.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Messages sent.
    pub tx_packets: AtomicU64,
    /// Bytes of messages sent.
    pub tx_bytes: AtomicU64,
    /// Messages received and authenticated.
    pub rx_packets: AtomicU64,
    /// Bytes of messages received and authenticated.
    pub rx_bytes: AtomicU64,
    /// IPv4 packets that were sent in fragments.
    pub fragmented: AtomicU64,
}

impl Traffic {
    /// Counts messages sent.
    pub fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts messages received.
    pub fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its sender's address.
    pub source: SocketAddr,
    /// The address of ours that it was sent to, if known.
    pub local: Option<IpAddr>,
    /// The uplink that it came by.
    pub uplink: UplinkIndex,
    /// When.
    pub at: Instant,
}

/// A peer as the workers see it.
#[derive(Debug)]
pub struct Peer {
    /// The peer's number over all tunnels.
    pub index: PeerIndex,
    /// The tunnel it belongs to.
    pub tunnel: TunnelIndex,
    /// Its slot in the tunnel's protocol state.
    pub id: PeerId,
    /// Who it is: whoever reads counters needs nobody to say whose they are.
    pub key: PublicKey,
    /// Messages and bytes.
    pub traffic: Traffic,
    /// Packets lost on the way to or from this peer.
    pub drops: PeerDrops,
    /// Frames that wait for a key, over all workers.
    pub staged: AtomicU64,
    /// ICMP errors that it may be sent.
    pub(crate) errors: Allowance,
    /// What the path lets through, for whoever sends along it, who need not look at the path for that.
    limit: AtomicU16,
    /// The identifier of probes, by which answers are known; 0 without any.
    probes: AtomicU16,
    /// What the last answer repeats.
    answered: AtomicU16,
    current: ArcSwapOption<Keypair>,
    path: ArcSwapOption<Path>,
    signals: Signals,
    /// For a key.
    asked_key: Asked,
    /// For a way, where there is no hop to ask for.
    asked_way: Asked,
    /// Moves that the control core is rung for.
    moves: Allowance,
    /// By which uplink it is reached is the control core's to choose.
    is_led: AtomicBool,
    confirmed_index: AtomicU32,
    /// Boxed: few move, and a cell is small.
    moved: Mutex<Option<Box<Origin>>>,
}

impl Peer {
    /// A peer without key or path.
    #[must_use]
    pub fn new(index: PeerIndex, tunnel: TunnelIndex, id: PeerId) -> Self {
        Self {
            index,
            tunnel,
            id,
            key: PublicKey::from_bytes([0; 32]),
            traffic: Traffic::default(),
            drops: PeerDrops::default(),
            staged: AtomicU64::new(0),
            errors: Allowance::default(),
            limit: AtomicU16::new(u16::MAX),
            probes: AtomicU16::new(0),
            answered: AtomicU16::new(0),
            current: ArcSwapOption::empty(),
            path: ArcSwapOption::empty(),
            signals: Signals::new(),
            asked_key: Asked::default(),
            asked_way: Asked::default(),
            moves: Allowance::default(),
            is_led: AtomicBool::new(false),
            confirmed_index: AtomicU32::new(0),
            moved: Mutex::new(None),
        }
    }

    /// The same with that key.
    #[must_use]
    pub fn with_key(self, key: PublicKey) -> Self {
        Self { key, ..self }
    }

    /// The keypair to seal with.
    pub fn keypair(&self) -> Guard<Option<Arc<Keypair>>> {
        self.current.load()
    }

    /// The way to the peer's endpoint.
    pub fn path(&self) -> Guard<Option<Arc<Path>>> {
        self.path.load()
    }

    /// Control core: as long as the peer stays where it is, the uplink that it is reached by is chosen, whatever it is
    /// heard by; or not.
    pub fn lead(&self, is_led: bool) {
        self.is_led.store(is_led, Ordering::Relaxed);
    }

    /// Control core: echo replies with this identifier answer probes; 0 is none.
    pub fn expect_answers(&self, id: u16) {
        self.probes.store(id, Ordering::Relaxed);
    }

    /// Worker: an echo reply came for us; whether it answers a probe.
    pub fn note_answer(&self, id: u16, token: u16, attention: &Attention) -> bool {
        if id == 0 || id != self.probes.load(Ordering::Relaxed) {
            return false;
        }
        self.answered.store(token, Ordering::Relaxed);
        self.raise(signal::PROBE_ANSWERED, attention);
        true
    }

    /// Control core: what the answer repeats that `PROBE_ANSWERED` speaks of.
    #[must_use]
    pub fn answered(&self) -> u16 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Worker: a frame waits for a key.
    pub fn note_staged(&self) {
        self.staged.fetch_add(1, Ordering::Relaxed);
    }

    /// Worker: `n` frames wait no longer.
    pub fn note_unstaged(&self, n: u64) {
        self.staged.fetch_sub(n, Ordering::Relaxed);
    }

    /// Control core: seal with `keypair` from now on.
    pub fn publish_keypair(&self, keypair: Option<Arc<Keypair>>) {
        self.current.store(keypair);
        self.ask_anew();
    }

    /// Control core: send along `path` from now on.
    pub fn publish_path(&self, path: Option<Path>) {
        self.leave_hop(self.path.swap(path.map(Arc::new)).as_deref());
        self.note_limit();
        self.ask_anew();
    }

    /// The largest inner packet that the path lets through, as far as that is known: the tunnel's MTU bounds it, too.
    #[inline]
    #[must_use]
    pub fn limit(&self) -> u16 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes the limit over from the path, whoever published that.
    pub fn note_limit(&self) {
        let limit = self
            .path
            .load()
            .as_ref()
            .map_or(u16::MAX, |path| path.limit());
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// If it was this peer that asked for the hop of its `old` path, nobody hears of that any more: whoever else is
    /// behind it asks anew.
    fn leave_hop(&self, old: Option<&Path>) {
        let path = self.path.load();
        let hop = path.as_ref().map(|path| &path.hop);
        if let Some(old) = old.filter(|old| Some(&old.hop) != hop) {
            old.hop.asked().anew();
        }
    }

    fn ask_anew(&self) {
        self.asked_key.anew();
        self.asked_way.anew();
    }

    /// Worker: raises `bits`, and the control core's attention if they are new.
    pub fn raise(&self, bits: u32, attention: &Attention) {
        self.signal(bits, bits & signal::URGENT != 0, attention);
    }

    fn signal(&self, bits: u32, urgent: bool, attention: &Attention) {
        if self.signals.raise(bits) {
            attention.mark(self.index, urgent);
        }
    }

    /// Worker: a packet lacks a key. The control core is asked once, and again after a while, however many packets
    /// there are: who sends to a dead peer doesn't keep it awake. A new key or path that the core publishes opens the
    /// question anew.
    pub fn want_key(&self, now: Instant, attention: &Attention) {
        if self.asked_key.again(now) {
            self.raise(signal::KEY_WANTED, attention);
        }
    }

    /// Worker: a packet lacks the neighbor of `hop`, or any way. The control core is asked as for a key; for a neighbor
    /// once for all peers behind it, and anew when it is lost again.
    pub fn want_next_hop(&self, hop: &Hop, now: Instant, attention: &Attention) {
        let asked = match hop.link() {
            Link::Ethernet(_) => hop.asked(),
            Link::Kernel | Link::Nowhere => &self.asked_way,
        };
        if asked.again(now) {
            self.raise(signal::NEXT_HOP_WANTED, attention);
        }
    }

    /// Worker: the first packet on the unconfirmed `keypair` came. The answer to it is
    /// sealed with that keypair already: the peer may have no older one.
    pub fn raise_confirmed(&self, keypair: &Arc<Keypair>, attention: &Attention) {
        self.current.rcu(|current| match current {
            Some(current) if current.created() >= keypair.created() => Some(Arc::clone(current)),
            Some(_) | None => Some(Arc::clone(keypair)),
        });
        self.confirmed_index
            .store(keypair.local_index(), Ordering::Relaxed);
        self.raise(signal::CONFIRMED, attention);
    }

    /// Worker: an authenticated packet came by `uplink` from `source`, sent to our
    /// address `local`. Unless that is how we send already, answers go there at once,
    /// from the address that was written to, and the control core is told. (An answer
    /// that still went the old way would move the peer's idea of us back.) It is rung for once in a while: whoever
    /// alternates between two addresses, or forwards a peer's packets from another one, doesn't keep it awake.
    pub fn note_source(
        &self,
        source: SocketAddr,
        local: Option<IpAddr>,
        uplink: &Uplink,
        now: Instant,
        attention: &Attention,
    ) {
        let path = self.path.load();
        let leads = |path: &&Arc<Path>| {
            path.uplink() == uplink.index
                && path.endpoint == source
                && (local.is_none() || path.source == local)
        };
        if let Some(path) = path.as_ref().filter(leads) {
            path.confirm_source();
            return;
        }
        // The queue of a tunnel that has left an uplink is about to go: no answer would leave by it.
        if !uplink.hears(self.tunnel) {
            return;
        }
        // What was under way by an uplink that was left for a better one does not lead back there.
        let stays = |path: &&Arc<Path>| path.endpoint == source && path.uplink() != uplink.index;
        if self.is_led.load(Ordering::Relaxed) && path.as_ref().is_some_and(|path| stays(&path)) {
            return;
        }
        let origin = Origin {
            source,
            local,
            uplink: uplink.index,
            at: now,
        };
        self.follow(origin, path.as_deref(), uplink, attention);
    }

    #[cold]
    fn follow(&self, origin: Origin, path: Option<&Path>, uplink: &Uplink, attention: &Attention) {
        let Origin { source, local, .. } = origin;
        let rings = self.moves.take(MOVES_PER_SECOND, origin.at);
        if let Some(path) = path {
            let same = path.uplink() == uplink.index;
            // Where the link layer is ours, another address may have another next
            // hop, which the control core finds.
            let hop = match uplink.hop.is_kernels() {
                true => Some(&uplink.hop),
                false => (same && path.endpoint.ip() == source.ip()).then_some(&path.hop),
            };
            if let Some(hop) = hop {
                let known = path
                    .source
                    .filter(|known| same && known.is_ipv4() == source.is_ipv4());
                let (port, hop) = (path.port, Arc::clone(hop));
                // What the old way let through holds until more is known.
                let path = Path::new(source, local.or(known), port, hop).with_mtu(path.mtu);
                let old = self.path.swap(Some(Arc::new(path)));
                self.note_limit();
                if rings {
                    self.leave_hop(old.as_deref());
                }
            }
        }
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(origin));
        self.signal(signal::MOVED, rings, attention);
    }

    /// Control core: takes the signals raised since the last call.
    #[must_use]
    pub fn take_signals(&self) -> u32 {
        self.signals.take()
    }

    /// Control core: the keypair that `CONFIRMED` speaks of.
    #[must_use]
    pub fn confirmed_index(&self) -> u32 {
        self.confirmed_index.load(Ordering::Relaxed)
    }

    /// Control core: what `MOVED` speaks of.
    #[must_use]
    pub fn take_moved(&self) -> Option<Origin> {
        self.moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .map(|origin| *origin)
    }
}

#[cfg(test)]
mod tests {
    use culvert_wire::MacAddr;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// An uplink where the kernel finds next hops.
    fn kernels() -> Uplink {
        Uplink {
            index: UplinkIndex(0),
            name: String::new(),
            addresses: Vec::new(),
            tunnels: vec![(1, TunnelIndex(0))],
            hop: Arc::new(Hop::kernel(UplinkIndex(0))),
            kernel: None,
            counters: Arc::default(),
        }
    }

    #[test]
    fn what_is_wanted_is_asked_for_once_a_second_or_when_something_has_changed() {
        let attention = Attention::new().unwrap();
        let peer = Peer::new(PeerIndex(7), TunnelIndex(0), PeerId(7));
        let asked = |from: u64, to: u64| {
            let mut asked = 0;
            for millis in from..to {
                peer.want_key(at(millis), &attention);
                asked += u32::from(peer.take_signals() & signal::KEY_WANTED != 0);
            }
            asked
        };
        assert_eq!(asked(10_000, 20_000), 10, "ten seconds of a dead peer");
        peer.publish_keypair(None);
        assert_eq!(asked(20_000, 20_500), 1, "its key is gone");
        peer.publish_path(None);
        assert_eq!(asked(20_500, 21_000), 1, "it is somewhere else");
        let nowhere = Hop::nowhere(UplinkIndex(0));
        peer.want_next_hop(&nowhere, at(21_000), &attention);
        assert_eq!(
            peer.take_signals(),
            signal::NEXT_HOP_WANTED,
            "another question"
        );
    }

    #[test]
    fn a_next_hop_is_asked_for_once_for_all_behind_it_and_at_once_when_it_is_lost_again() {
        let attention = Attention::new().unwrap();
        let [a, b] = [3, 4].map(|n| Peer::new(PeerIndex(n), TunnelIndex(0), PeerId(n)));
        let hop = Hop::ethernet(UplinkIndex(0), MacAddr([2; 6]), Some(MacAddr([4; 6])));
        let asked = |millis| {
            let asks = |peer: &Peer| {
                peer.want_next_hop(&hop, at(millis), &attention);
                peer.take_signals() == signal::NEXT_HOP_WANTED
            };
            [asks(&a), asks(&b)]
        };
        hop.set(None);
        assert_eq!(asked(5_000), [true, false]);
        hop.set(None);
        assert_eq!(asked(5_100), [false; 2], "nothing has changed");
        hop.set(Some(MacAddr([4; 6])));
        hop.set(None);
        assert_eq!(asked(5_200), [true, false], "it was found, and lost again");
        assert_eq!(asked(6_199), [false; 2]);
        assert_eq!(asked(6_200), [true, false]);
    }

    #[test]
    fn who_goes_leaves_the_question_for_its_hop_to_the_others() {
        let attention = Attention::new().unwrap();
        let kernels = kernels();
        let hop = Hop::ethernet(UplinkIndex(1), MacAddr([2; 6]), None);
        let (hop, other) = (Arc::new(hop), Arc::clone(&kernels.hop));
        let there: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let path = |hop: &Arc<Hop>| Some(Path::new(there, None, 7, Arc::clone(hop)));
        let [a, b] = [3, 4].map(|n| Peer::new(PeerIndex(n), TunnelIndex(0), PeerId(n)));
        b.publish_path(path(&hop));
        let asks = |peer: &Peer, millis| {
            peer.want_next_hop(&hop, at(millis), &attention);
            peer.take_signals() & signal::NEXT_HOP_WANTED != 0
        };
        let goes: [&dyn Fn(u64); 3] = [
            &|_| a.publish_path(path(&other)),
            &|_| a.publish_path(None),
            &|millis| a.note_source(there, None, &kernels, at(millis), &attention),
        ];
        for (millis, goes) in (5_000..).step_by(2_000).zip(goes) {
            a.publish_path(path(&hop));
            assert!(asks(&a, millis) && !asks(&b, millis));
            a.publish_path(path(&hop));
            assert!(!asks(&b, millis), "nothing has changed for the others");
            goes(millis);
            assert!(asks(&b, millis));
        }
    }

    #[test]
    fn who_is_heard_by_an_uplink_that_its_tunnel_has_left_is_not_followed_there() {
        let attention = Attention::new().unwrap();
        let [a, b] = [0, 1].map(|n| Peer::new(PeerIndex(n), TunnelIndex(n), PeerId(n)));
        let place: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let uplink = kernels();
        for peer in [&a, &b] {
            peer.note_source(place, None, &uplink, at(1), &attention);
        }
        assert!(a.take_moved().is_some());
        assert!(b.take_moved().is_none() && b.take_signals() == 0);
    }

    #[test]
    fn who_moves_without_end_rings_seldom_and_is_followed_all_the_way() {
        let attention = Attention::new().unwrap();
        let peer = Peer::new(PeerIndex(7), TunnelIndex(0), PeerId(7));
        let places = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap());
        let uplink = kernels();
        let hop = Arc::clone(&uplink.hop);
        peer.publish_path(Some(Path::new(places[0], None, 7, hop)));
        let mut rung = 0;
        for millis in 10_000..20_000 {
            attention.wake().announce();
            let place = places[usize::from(millis % 2 == 0)];
            peer.note_source(place, None, &uplink, at(millis), &attention);
            assert_eq!(peer.path().as_ref().unwrap().endpoint, place);
            rung += u32::from(attention.wake().is_rung());
            attention.wake().awake();
            // The core looks when it is rung, and every 100 ms.
            if millis % 100 == 99 {
                let mut marked = 0;
                attention.sweep(|_| marked += 1);
                assert_eq!(marked, 1, "who was not rung for is found");
                assert_eq!(peer.take_signals(), signal::MOVED);
                assert_eq!(peer.take_moved().unwrap().source, place);
            }
        }
        // A second's worth was saved.
        assert!((10..=88).contains(&rung), "{rung}");
    }
}
