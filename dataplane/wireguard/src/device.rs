//! The device: peers, their handshakes and their timers, as one state machine.
//!
//! In: `handle_*` calls with the time. Out: `poll_*`. Never: I/O, packets of data, a wait.
//!
//! Threads: one owner, the control core. Invariants: every live index belongs to one peer, as its open initiation
//! or one of its three keypairs; a peer with any timer set has an entry in the deadlines that is not later.
//!
//! Rooms: [`api`] has the plain types, `common` what all peers share, `peer` one peer's configuration and keypairs,
//! `handshake` the messages, `timing` the timers, `parking` peers that are out of force.

mod api;
mod common;
mod handshake;
mod parking;
mod peer;
mod timing;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use rand_core::CryptoRng;

use self::common::{Core, Identity};
use self::peer::Peer;
use crate::PeerId;
use crate::calls::Budget;
use crate::cookie::Mac1;
use crate::keys::{PrivateKey, PublicKey};
use crate::limits::{MAX_PEERS, TIMEOUTS_PER_CALL};
use crate::time::{Instant, Now};

pub use self::api::{
    Config, ConfigError, Event, Handshake, HandshakeDrop, PeerConfig, PeerStatus, PeerUpdate,
    Traffic, Transmit,
};

/// A WireGuard device.
///
/// After every call of a `handle_*`, `add_*`, `update_*`, `remove_*`, `set_*`, `bring_*` or `initiate` method, call
/// [`Device::handle_calls`], drain [`Device::poll_event`], then [`Device::poll_transmit`], then arm a timer for
/// [`Device::poll_timeout`] and [`Device::poll_calls`]. Events and messages are few per call (a handful per peer
/// concerned) but wait without a bound: drain them.
///
/// Calls for a peer that doesn't exist (any more) do nothing: workers may lag behind.
pub struct Device {
    peers: Vec<Option<Box<Peer>>>,
    /// Slots of removed peers, the longest unused first.
    vacant: VecDeque<u32>,
    by_key: HashMap<PublicKey, PeerId>,
    /// Peers that are out of force. Their slots and receiver indices stay theirs.
    parked: HashMap<PublicKey, Box<Peer>>,
    core: Core,
}

impl Device {
    /// A device without peers, up. All randomness comes from `rng`: keys, indices, nonces, jitter. In production it
    /// is the operating system's, so that no state in this process lets past keys be computed.
    #[must_use]
    pub fn new(
        config: Config,
        private_key: Option<PrivateKey>,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        Self {
            peers: Vec::new(),
            vacant: VecDeque::new(),
            by_key: HashMap::new(),
            parked: HashMap::new(),
            core: Core::new(config, private_key.map(Identity::new), rng),
        }
    }

    /// Makes the receiver-index table larger, if it has fewer than so many slots; live indices stay. See
    /// [`Config::index_slots`]. A table of keypairs that goes by the same low bits must grow along, before an index
    /// is given out.
    pub fn grow(&mut self, index_slots: u32) {
        self.core.indices.grow(index_slots);
    }

    /// Adds a peer. With persistent keepalives, the first one is due at once.
    ///
    /// # Errors
    ///
    /// The peer is the device itself, exists, or is one too many.
    pub fn add_peer(&mut self, config: PeerConfig, now: Now) -> Result<PeerId, ConfigError> {
        if self.public_key() == Some(config.public_key) {
            return Err(ConfigError::OwnKey);
        }
        if let Some(peer) = self.find(&config.public_key) {
            return Err(ConfigError::Exists(peer));
        }
        if self.by_key.len() + self.parked.len() >= MAX_PEERS {
            return Err(ConfigError::TooManyPeers);
        }
        let id = self.vacate();
        self.by_key.insert(config.public_key, id);
        let mut peer = Box::new(Peer::new(id, config));
        peer.start_persistent_keepalive(&self.core, now.monotonic);
        peer.enter_deadline(&mut self.core);
        self.peers[id.slot()] = Some(peer);
        Ok(id)
    }

    /// Changes a peer.
    pub fn update_peer(&mut self, peer: PeerId, update: PeerUpdate, now: Now) {
        self.with(peer, |peer, core| peer.update(core, update, now));
    }

    /// Forgets where a peer is: until it calls or is given an endpoint, nothing is sent to it.
    pub fn forget_endpoint(&mut self, peer: PeerId) {
        self.with(peer, |peer, _| peer.endpoint = None);
    }

    /// Removes a peer with its keypairs.
    pub fn remove_peer(&mut self, peer: PeerId) {
        if let Some(gone) = self.take_out(peer) {
            self.wipe(gone);
            self.core.events.push_back(Event::PeerRemoved { peer });
        }
    }

    /// Takes a peer out: it is found no more, and nothing wakes it.
    fn take_out(&mut self, peer: PeerId) -> Option<Box<Peer>> {
        let mut gone = self.peers.get_mut(peer.slot())?.take()?;
        self.by_key.remove(gone.public_key());
        gone.leave_queue(&mut self.core);
        self.core.deadlines.remove(peer);
        Some(gone)
    }

    /// Forgets a peer that was taken out, with its keypairs; another gets its slot.
    fn wipe(&mut self, mut gone: Box<Peer>) {
        gone.clear(&mut self.core);
        self.vacant.push_back(gone.id().0);
    }

    /// Changes the identity. A peer that equals the new identity is removed; no session sends any more, and each
    /// peer may be called at once. Setting the same key again changes nothing.
    pub fn set_private_key(&mut self, private_key: Option<PrivateKey>) {
        if self.private_key() == private_key.as_ref() {
            return;
        }
        let had_identity = self.core.identity.is_some();
        let identity = private_key.map(Identity::new);
        if let Some(own) = identity
            .as_ref()
            .and_then(|identity| self.find(&identity.public_key))
        {
            self.remove_peer(own);
        }
        self.core.identity = identity;
        let parked = self.parked.values_mut();
        for peer in self.peers.iter_mut().flatten().chain(parked) {
            peer.change_identity(&mut self.core, !had_identity);
        }
    }

    /// Stops everything: timers, handshakes, keypairs, staged packets. Until [`Device::bring_up`], nothing is sent
    /// and nothing is answered.
    pub fn bring_down(&mut self) {
        self.core.up = false;
        let parked = self.parked.values_mut();
        for peer in self.peers.iter_mut().flatten().chain(parked) {
            peer.bring_down(&mut self.core);
        }
    }

    /// Starts again: staged packets, and persistent keepalives at once.
    pub fn bring_up(&mut self, now: Now) {
        if self.core.up {
            return;
        }
        self.core.up = true;
        for peer in self.peers.iter_mut().flatten() {
            self.core
                .events
                .push_back(Event::FlushStaged { peer: peer.id() });
            peer.start_persistent_keepalive(&self.core, now.monotonic);
            peer.enter_deadline(&mut self.core);
        }
    }

    /// Our private key.
    #[must_use]
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.core
            .identity
            .as_ref()
            .map(|identity| &identity.private_key)
    }

    /// Our identity.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.core
            .identity
            .as_ref()
            .map(|identity| identity.public_key)
    }

    /// The check of mac1 for workers, to be replaced when the identity changes.
    #[must_use]
    pub fn mac1(&self) -> Option<Mac1> {
        self.public_key().map(|key| Mac1::new(&key))
    }

    /// The peer with this key.
    #[must_use]
    pub fn find(&self, public_key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(public_key).copied()
    }

    /// A peer's state.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<PeerStatus<'_>> {
        Some(self.peers.get(peer.slot())?.as_ref()?.status())
    }

    /// All peers, by slot.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers.iter().flatten().map(|peer| peer.status())
    }

    /// A key is needed: a packet was staged, or a keypair refused to send. The peer is called in its turn, at most
    /// once per 5 s. If there is a key by now, the answer is [`Event::FlushStaged`].
    pub fn initiate(&mut self, peer: PeerId, now: Now) {
        self.with(peer, |peer, core| peer.need_key(core, now));
    }

    /// A sign of life is wanted: the peer is called in its turn, at most once per 5 s, though there may be a key, which
    /// goes on until there is another.
    pub fn renew(&mut self, peer: PeerId, now: Now) {
        self.with(peer, |peer, core| peer.renew(core, now));
    }

    /// A handshake datagram arrived; `backlog` more wait behind it.
    pub fn handle_handshake(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        backlog: usize,
        now: Now,
    ) -> Handshake {
        self.receive_handshake(datagram, source, backlog, now)
            .unwrap_or_else(Handshake::Dropped)
    }

    /// The workers sent or received for this peer.
    pub fn handle_traffic(&mut self, peer: PeerId, traffic: Traffic, now: Now) {
        self.with(peer, |peer, core| peer.traffic(core, traffic, now));
    }

    /// The first valid packet arrived on a responder's keypair.
    pub fn handle_confirmed(&mut self, peer: PeerId, local_index: u32, now: Now) {
        self.with(peer, |peer, core| peer.confirmed(core, local_index, now));
    }

    /// An authentic, new data packet came from this place.
    pub fn handle_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr) {
        self.with(peer, |peer, core| peer.move_endpoint(core, endpoint));
    }

    /// Works off timers that are due, of at most 64 peers; call again while `poll_timeout` is not in the future.
    pub fn handle_timeout(&mut self, now: Now) {
        self.core.limiter.collect(now.monotonic);
        for _ in 0..TIMEOUTS_PER_CALL {
            let Some((at, peer)) = self.core.deadlines.first() else {
                return;
            };
            if at > now.monotonic {
                return;
            }
            self.core.deadlines.remove(peer);
            self.with(peer, |peer, core| peer.fire_timers(core, now));
        }
    }

    /// When `handle_timeout` is due next: never later than anything is due, at times earlier.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = self.core.deadlines.first().map(|(at, _)| at);
        timers
            .into_iter()
            .chain(self.core.limiter.collect_at())
            .min()
    }

    /// Calls peers that are to be called, `limit` at the most and as many as the budget allows; answers how many.
    pub fn handle_calls(&mut self, budget: &mut Budget, limit: usize, now: Now) -> usize {
        for made in 0..limit {
            let Some(peer) = self.core.calls.next(budget, now.monotonic) else {
                return made;
            };
            self.with(peer, |peer, core| peer.call(core, now));
        }
        limit
    }

    /// When `handle_calls` is due next.
    #[must_use]
    pub fn poll_calls(&self, budget: &Budget) -> Option<Instant> {
        self.core.calls.due(budget)
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.core.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.core.events.pop_front()
    }

    /// Calls `act` with a peer, then sees to it that the peer is woken in time.
    fn with<R>(&mut self, peer: PeerId, act: impl FnOnce(&mut Peer, &mut Core) -> R) -> Option<R> {
        let peer = self.peers.get_mut(peer.slot())?.as_mut()?;
        let result = act(peer, &mut self.core);
        peer.enter_deadline(&mut self.core);
        Some(result)
    }

    /// A slot for a new peer: one that was never used while there are few, else the longest unused.
    fn vacate(&mut self) -> PeerId {
        PeerId(self.vacant.pop_front().unwrap_or_else(|| {
            self.peers.push(None);
            u32::try_from(self.peers.len() - 1).expect("MAX_PEERS is far below 2^32")
        }))
    }
}
