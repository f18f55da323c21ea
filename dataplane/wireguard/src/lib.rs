//! The WireGuard protocol, sans-IO.
//!
//! In: handshake datagrams, reports of what the workers sent and received, deadlines, configuration; always with
//! the time as an argument. Out: messages to send, keypairs, events. Never: a socket, a clock, a thread, ambient
//! randomness that shows, unsafe code.
//!
//! Two users share this crate:
//!
//! - the control core owns a [`Device`]: peers, handshakes, cookies and every timer. It feeds `handle_*` and drains
//!   `poll_*`; the order is in [`Device`]'s documentation;
//! - workers hold [`Keypair`]s by `Arc`: they reserve counters, check expiry and replay, and seal and open data
//!   packets with whatever AEAD they have. Data packets never enter this crate, only [`Traffic`] reports about them.
//!
//! The rules follow the WireGuard whitepaper and, where that is silent, the Linux kernel's implementation.

#![forbid(unsafe_code)]

pub mod cookie;
pub mod keypair;
pub mod keys;
pub mod limits;
pub mod message;
pub mod padding;
pub mod replay;
pub mod time;

mod calls;
mod crypto;
mod device;
mod index;
mod noise;
mod ratelimiter;
mod timers;

pub use calls::Budget;
pub use device::{
    Config, ConfigError, Device, Event, Handshake, HandshakeDrop, PeerConfig, PeerStatus,
    PeerUpdate, Traffic, Transmit,
};
pub use keypair::{Keypair, NonceRange, Role, SendRefusal};
pub use keys::{PresharedKey, PrivateKey, PublicKey};
pub use replay::{ReplayGuard, ReplayWindow};
pub use time::{Instant, Now};

/// A peer's slot in its [`Device`]: dense, stable while the peer exists, reused (late) after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl PeerId {
    /// The slot as an index into a table of peers.
    #[must_use]
    pub fn slot(self) -> usize {
        self.0 as usize
    }
}
