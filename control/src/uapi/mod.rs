//! WireGuard's cross-platform configuration protocol, which `wg` speaks on `/var/run/wireguard/NAME.sock`
//! (<https://www.wireguard.com/xplatform/#configuration-protocol>).
//!
//! In: clients' connections. Out: requests to the engine, and its answers as text. Never: the engine's state; a
//! client that can hold up the engine or another client.
//!
//! Rooms: [`codec`] text to types and back, [`carry`] what a `set` makes of a tunnel's configuration, [`server`]
//! sockets and connections, [`doors`] which sockets there are.

pub mod carry;
pub mod codec;
pub mod doors;
pub mod server;

pub use codec::{Change, Device, Errno, Peer};

/// What a client asks of a tunnel.
#[derive(Debug)]
pub enum Ask {
    /// Its configuration and state, from this place of its peers on.
    Get(usize),
    /// To carry out these changes, in their order.
    Set(Vec<Change>),
}

/// What the engine answers.
#[derive(Debug)]
pub enum Answer {
    /// To [`Ask::Get`]: some of the peers, and where the rest of them begins.
    Device(Box<Device>, Option<usize>),
    /// To [`Ask::Set`]: all of it is done.
    Done,
    /// Not all of it is done.
    Refused(Errno),
}

/// The longest name that `wg` knows: an interface's (`IFNAMSIZ` less its end).
pub const NAME_MAX: usize = 15;

/// Whether `wg` can find a socket of that name.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX && crate::config::Name::new(text).is_some()
}
