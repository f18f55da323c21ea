//! What goes into a device and comes out of it.
//!
//! In: nothing. Out: the plain types of the device's interface. Never: state.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use crate::PeerId;
use crate::keypair::Keypair;
use crate::keys::{PresharedKey, PublicKey};
use crate::limits::UNDER_LOAD_BACKLOG;
use crate::message::INITIATION_LEN;
use crate::time::Instant;

/// What a device is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Slots of the receiver-index table: a power of two, of which `index & (slots - 1)` chooses the slot. A peer
    /// may hold four (a handshake and three keypairs); eight per peer keep allocation O(1). [`Device::grow`] adds more.
    ///
    /// [`Device::grow`]: super::Device::grow
    pub index_slots: u32,
    /// Waiting handshake messages from which the device counts as under load.
    pub under_load_backlog: usize,
}

impl Default for Config {
    /// Room for 8,192 peers, the kernel's threshold of load.
    fn default() -> Self {
        Self {
            index_slots: 1 << 16,
            under_load_backlog: UNDER_LOAD_BACKLOG,
        }
    }
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
    /// Where else it may be: calls without an answer go to the endpoint and to these places in turn.
    pub elsewhere: Option<Vec<SocketAddr>>,
    /// New places are called in their turn: what was called in vain before counts.
    pub patiently: bool,
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
    /// The device is down.
    Down,
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
    #[expect(clippy::cast_possible_truncation, reason = "asserted when compiled")]
    pub(super) fn new<const N: usize>(
        peer: Option<PeerId>,
        to: SocketAddr,
        tos: u8,
        message: &[u8; N],
    ) -> Self {
        const {
            assert!(
                N <= INITIATION_LEN,
                "no message is longer than an initiation"
            )
        };
        let mut bytes = [0; INITIATION_LEN];
        bytes[..N].copy_from_slice(message);
        Self {
            peer,
            to,
            tos,
            len: const { N as u8 },
            bytes,
        }
    }

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
    /// Another initiation is sent: so many stayed without an answer since the peer was heard last.
    Unanswered {
        /// The peer.
        peer: PeerId,
        /// How many.
        calls: u32,
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
    /// Initiations without an answer since the peer was heard last.
    pub unanswered: u32,
    /// The keypair that packets are sealed with.
    pub current: Option<&'a Arc<Keypair>>,
}
