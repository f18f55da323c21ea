//! TCP: connections of the host's own, those that others begin and those that it begins.
//!
//! In: segments to us, what there is to listen on, bytes to send, the time. Out: connections that are open, the bytes
//! that came, packets for the wire. Never: a connection that nobody admitted; a table that grows with those who ask; a
//! neighbor, a route: the stack finds the way.
//!
//! ```text
//!            admission             connection (smoltcp's, one for each)
//!  SYN  ──▶ listener? allowed? ──▶ ┌──────────────────────────┐  poll_accepted
//!           bucket? room?          │ windows, timers, resends │ ───────────────▶ owner: read, write, close
//!  rest ──▶ its ends are known? ──▶└──────────────────────────┘
//! ```
//!
//! smoltcp knows one interface, finds a socket by looking at all of them, and takes one connection with each: so each
//! connection has a socket and an interface of its own here, and they are found by their ends. Who may begin one, and
//! how many there are, is decided ahead of it ([`admission`]).

mod admission;
mod asleep;
mod blind;
mod connection;
mod device;
mod host;
mod pace;
mod quoted;
mod recovery;
mod reset;
mod shares;
mod table;

pub use self::{
    admission::{Listener, Service},
    connection::Phase,
    table::{ConnectError, ConnectionId, Ends},
};
pub(crate) use self::{
    asleep::Sleeper,
    connection::Smol,
    quoted::{too_big_v4, too_big_v6},
    table::{Due, Tcp},
};

/// The protocol's number.
pub(crate) const PROTOCOL: u8 = 6;
