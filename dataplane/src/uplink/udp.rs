//! The UDP uplink: kernel sockets with batches, `UDP_SEGMENT` and `UDP_GRO`.
//!
//! In: sealed datagrams with their paths; bursts from the sockets. Out: one
//! `sendmmsg` per sub-batch, one `recvmmsg` per socket and burst. Never: an
//! allocation after opening, a blocking call, a write behind a datagram's end
//! (with GRO the next one lies there).
//!
//! Threads: each worker owns a queue: its own sockets, bound to the same port with
//! `SO_REUSEPORT`. The kernel spreads sessions over them, and hands handshake messages
//! to sockets of their own ([`calls`]), which the first worker reads.

#![allow(
    unsafe_code,
    reason = "a named room: the kernel's message headers and our own buffers"
)]

mod calls;
mod errors;
mod open;
mod rx;
mod socket;
mod tx;

use std::{io, sync::Arc};

use self::socket::Socket;
pub use self::{
    errors::{KernelError, KernelErrors},
    open::{OpenError, binds, free_port, join, open, probe},
    rx::Rx,
    tx::Tx,
};

/// What an operator may ask of the sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Only this interface (`SO_BINDTODEVICE`).
    pub device: Option<&'a str>,
    /// The mark of outgoing packets (`SO_MARK`).
    pub fwmark: Option<u32>,
}

/// A socket per family.
type Sockets = [Option<Arc<Socket>>; 2];

/// Looks at a queue's sockets, and changes them, while a worker uses them.
#[derive(Clone, Debug)]
pub struct Marker(Vec<Arc<Socket>>);

impl Marker {
    /// Marks what leaves from now on (`SO_MARK`); 0 is no mark.
    ///
    /// # Errors
    /// When the kernel refuses, which it does without `CAP_NET_ADMIN`.
    pub fn mark(&self, mark: u32) -> io::Result<()> {
        self.0.iter().try_for_each(|socket| socket.mark(mark))
    }

    /// Whether no queue has the sockets any more: they close with this.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.0.iter().all(|socket| Arc::strong_count(socket) == 1)
    }

    /// Whether the sockets are bound to the interface that has this name now. A socket remembers the number of the one
    /// that it was bound to, which means nothing when that is made anew; and to bind it again would take it out of the
    /// port's group, where messages are sorted: then others are opened instead.
    #[must_use]
    pub fn is_bound_to(&self, device: &str) -> bool {
        self.0.iter().all(|socket| socket.is_bound_to(device))
    }
}

#[cfg(test)]
mod tests;
