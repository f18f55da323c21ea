//! The device: peers, their handshakes and their timers, as one state machine.
//!
//! In: `handle_*` calls with the time. Out: `poll_*`. Never: I/O, packets of data, a wait.
//!
//! Threads: one owner, the control core.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use rand_core::CryptoRng;

use crate::PeerId;
use crate::keypair::Keypair;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::message::INITIATION_LEN;
use crate::time::{Instant, Now};

/// What a device is made of, fixed for its life.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Slots of the receiver-index table: a power of two, of which `index & (slots - 1)` chooses the slot. A peer
    /// may hold four (a handshake and three keypairs); eight per peer keep allocation O(1).
    pub index_slots: u32,
    /// Waiting handshake messages from which the device counts as under load.
    pub under_load_backlog: usize,
}

/// A peer to add.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its identity.
    pub public_key: PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: PresharedKey,
    /// Interval of persistent keepalives; `None` or zero for none.
    pub persistent_keepalive: Option<Duration>,
    /// Where it is, if that is known before it calls.
    pub endpoint: Option<SocketAddr>,
}

/// Changes to a peer; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct PeerUpdate {
    /// A new preshared key: it counts from the next handshake.
    pub preshared_key: Option<PresharedKey>,
    /// A new interval; zero ends persistent keepalives, switching them on sends one at once.
    pub persistent_keepalive: Option<Duration>,
    /// A new endpoint.
    pub endpoint: Option<SocketAddr>,
}

/// What can be wrong with a peer to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The key is the device's own.
    #[error("a peer's public key is this device's own")]
    OwnKey,
    /// The device has this peer already.
    #[error("the device already has a peer with this public key")]
    Exists(PeerId),
    /// No room for another peer.
    #[error("the device has its largest number of peers")]
    TooManyPeers,
}

/// What became of a handshake datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// A valid initiation: a response is ready to be sent.
    InitiationAccepted(PeerId),
    /// A valid response: there is a new current keypair.
    ResponseAccepted(PeerId),
    /// A valid cookie: it goes into the next initiation.
    CookieAccepted(PeerId),
    /// Under load, and the source is not proven: a cookie reply is ready to be sent.
    CookieSent,
    /// Nothing was changed, nothing is answered.
    Dropped(HandshakeDrop),
}

/// Why a handshake datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeDrop {
    /// No handshake message: wrong length or type.
    Malformed,
    /// The device has no private key.
    NoIdentity,
    /// mac1 is not made with our public key.
    InvalidMac1,
    /// Under load, mac2 is valid, but the source sends too much.
    RateLimited,
    /// A tag doesn't match, or the key exchange is void.
    Undecryptable,
    /// The initiator is no peer of this device.
    UnknownPeer,
    /// The timestamp is not later than the last one of this peer.
    ReplayedTimestamp,
    /// Less than 20 ms since the last initiation of this peer.
    InitiationFlood,
    /// The receiver index is not one of ours.
    UnknownIndex,
    /// A response to no initiation that is still open.
    UnexpectedResponse,
    /// A cookie for no message that is still open.
    UnexpectedCookie,
    /// All receiver indices are taken.
    NoFreeIndex,
}

/// What the workers did for a peer since the last report: the time of the newest packet of each kind.
///
/// Two packets of one kind in one report count as one. Times order sent before received; an exact tie counts as
/// sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The newest data packet sent.
    pub data_sent: Option<Instant>,
    /// The newest authentic, new data packet received.
    pub data_received: Option<Instant>,
    /// The newest keepalive sent.
    pub keepalive_sent: Option<Instant>,
    /// The newest authentic, new keepalive received.
    pub keepalive_received: Option<Instant>,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Whose it is; `None` for a cookie reply.
    pub peer: Option<PeerId>,
    /// Where it goes.
    pub to: SocketAddr,
    /// Traffic class of the outer packet.
    pub tos: u8,
    len: u8,
    bytes: [u8; INITIATION_LEN],
}

impl Transmit {
    /// The datagram.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What the workers and the rest of the control core must learn, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Packets with this keypair's local index are opened with it from now on.
    KeypairAdded {
        /// Whose keypair.
        peer: PeerId,
        /// The keypair.
        keypair: Arc<Keypair>,
    },
    /// The index is free: no packet is opened with that keypair any more.
    KeypairRemoved {
        /// Whose keypair.
        peer: PeerId,
        /// Its local index.
        local_index: u32,
    },
    /// Packets to the peer are sealed with this keypair from now on; `None`: they are staged.
    CurrentKeypair {
        /// The peer.
        peer: PeerId,
        /// The keypair.
        keypair: Option<Arc<Keypair>>,
    },
    /// Send what is staged, or an empty packet if nothing is.
    SendKeepalive {
        /// The peer.
        peer: PeerId,
    },
    /// Send what is staged.
    FlushStaged {
        /// The peer.
        peer: PeerId,
    },
    /// Drop what is staged, and count it: no handshake succeeds.
    DropStaged {
        /// The peer.
        peer: PeerId,
    },
    /// The peer is here from now on.
    EndpointMoved {
        /// The peer.
        peer: PeerId,
        /// Its new place.
        endpoint: SocketAddr,
    },
    /// Forget the cached source address towards the peer: it may be the cause of the silence.
    SourceStale {
        /// The peer.
        peer: PeerId,
    },
    /// A session is up.
    HandshakeCompleted {
        /// The peer.
        peer: PeerId,
        /// When, since the Unix epoch.
        at: Duration,
    },
    /// Twenty initiations stayed without an answer.
    HandshakeGivenUp {
        /// The peer.
        peer: PeerId,
    },
    /// The peer is gone: it was removed, or its key became our own.
    PeerRemoved {
        /// The peer.
        peer: PeerId,
    },
}

/// A peer as `wg show` would print it.
#[derive(Clone, Debug)]
pub struct PeerStatus<'a> {
    /// Its slot.
    pub peer: PeerId,
    /// Its identity.
    pub public_key: PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: &'a PresharedKey,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Interval of persistent keepalives.
    pub persistent_keepalive: Option<Duration>,
    /// When the last session came up, since the Unix epoch.
    pub last_handshake: Option<Duration>,
    /// The keypair that packets are sealed with.
    pub current: Option<&'a Arc<Keypair>>,
}

/// A WireGuard device.
///
/// After every call of a `handle_*`, `add_*`, `update_*`, `remove_*`, `set_*` or `initiate` method, drain
/// [`Device::poll_event`], then [`Device::poll_transmit`], then arm a timer for [`Device::poll_timeout`].
pub struct Device {}

#[expect(unused_variables, clippy::unused_self, reason = "bodies to come")]
impl Device {
    /// A device without peers, up. All randomness comes from `rng`: keys, indices, nonces, jitter.
    #[must_use]
    pub fn new(
        config: Config,
        private_key: Option<PrivateKey>,
        rng: Box<dyn CryptoRng + Send>,
        now: Now,
    ) -> Self {
        todo!()
    }

    /// Adds a peer.
    ///
    /// # Errors
    ///
    /// The peer is the device itself, exists, or is one too many.
    pub fn add_peer(&mut self, config: PeerConfig, now: Now) -> Result<PeerId, ConfigError> {
        todo!()
    }

    /// Changes a peer.
    pub fn update_peer(&mut self, peer: PeerId, update: PeerUpdate, now: Now) {
        todo!()
    }

    /// Removes a peer with its keypairs.
    pub fn remove_peer(&mut self, peer: PeerId) {
        todo!()
    }

    /// Changes the identity. A peer that equals the new identity is removed; no session sends any more, and each
    /// peer may be called at once.
    pub fn set_private_key(&mut self, private_key: Option<PrivateKey>, now: Now) {
        todo!()
    }

    /// Stops everything: timers, handshakes, keypairs, staged packets.
    pub fn bring_down(&mut self) {
        todo!()
    }

    /// Starts again: staged packets and persistent keepalives.
    pub fn bring_up(&mut self, now: Now) {
        todo!()
    }

    /// Our private key.
    #[must_use]
    pub fn private_key(&self) -> Option<&PrivateKey> {
        todo!()
    }

    /// Our identity.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        todo!()
    }

    /// The peer with this key.
    #[must_use]
    pub fn find(&self, public_key: &PublicKey) -> Option<PeerId> {
        todo!()
    }

    /// A peer's state.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<PeerStatus<'_>> {
        todo!()
    }

    /// All peers, by slot.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        core::iter::empty()
    }

    /// A key is needed: a packet was staged, or a keypair refused to send. At most one initiation leaves per 5 s.
    pub fn initiate(&mut self, peer: PeerId, now: Now) {
        todo!()
    }

    /// A handshake datagram arrived; `backlog` more wait behind it.
    pub fn handle_handshake(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        backlog: usize,
        now: Now,
    ) -> Handshake {
        todo!()
    }

    /// The workers sent or received for this peer.
    pub fn handle_traffic(&mut self, peer: PeerId, traffic: Traffic, now: Now) {
        todo!()
    }

    /// The first valid packet arrived on a responder's keypair.
    pub fn handle_confirmed(&mut self, peer: PeerId, local_index: u32, now: Now) {
        todo!()
    }

    /// An authentic, new data packet came from another place.
    pub fn handle_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr) {
        todo!()
    }

    /// Works off timers that are due, of at most 64 peers; call again while `poll_timeout` is not in the future.
    pub fn handle_timeout(&mut self, now: Now) {
        todo!()
    }

    /// When `handle_timeout` is due next (or a little earlier than anything is due).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }
}
