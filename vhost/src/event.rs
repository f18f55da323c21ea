//! What a port tells its owner.
//!
//! In: facts from the session thread. Out: events and errors with names.
//! Never: a packet.

use std::io;
use std::path::PathBuf;

use culvert_directory::ListenError;
use culvert_wire::MacAddr;

use crate::config::Offloads;
use crate::ring::RingFault;

/// Something that an operator waits for. Sent from the port's session thread.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortEvent {
    /// A VMM is on the socket.
    Connected,
    /// The guest's driver is ready: at least one pair of rings runs.
    LinkUp {
        /// The virtio feature bits that the guest acknowledged.
        features: u64,
        /// The offloads among them.
        offloads: Offloads,
        /// Queue pairs that run.
        queue_pairs: u16,
    },
    /// The set of running rings changed while the link stayed up.
    QueuesChanged {
        /// Queue pairs that run.
        queue_pairs: u16,
    },
    /// No ring runs any more.
    LinkDown {
        /// Why.
        reason: LinkDown,
    },
    /// The guest broke a ring; the ring is stopped until the driver sets it up again.
    RingStopped {
        /// The vhost-user ring index: 2q is guest RX, 2q + 1 guest TX.
        ring: u16,
        /// What it did.
        fault: RingFault,
    },
    /// The VMM asks that the guest be announced (after a migration) by a RARP with this address.
    Announce {
        /// The guest's address.
        mac: MacAddr,
    },
    /// The VMM told the MTU that the guest was given.
    MtuSet {
        /// Bytes.
        mtu: u16,
    },
    /// The VMM is gone from the socket.
    Disconnected {
        /// Why.
        reason: String,
    },
}

/// Why a link went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkDown {
    /// The guest's driver stopped its rings (shutdown, reboot, unbind), or the VMM did.
    Stopped,
    /// The VMM is gone.
    Disconnected,
    /// The guest broke its rings.
    Fault(RingFault),
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The number of queue pairs is out of range.
    #[error(
        "{found} queue pairs: a port has 1 to {}",
        crate::limits::QUEUE_PAIRS_MAX
    )]
    QueuePairs {
        /// What was asked for.
        found: u16,
    },
    /// The MTU is out of range.
    #[error("an MTU of {found}: virtio allows 68 to 65535")]
    Mtu {
        /// What was asked for.
        found: u16,
    },
    /// The file that keeps the positions of packed rings could not be had in full.
    #[error(
        "allocating {length} bytes for the positions of packed rings in {}: {error}; make room there, or offer no packed rings (`packed: false`)",
        path.display()
    )]
    StateFile {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        length: usize,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The socket can't be had.
    #[error("{0}")]
    Socket(ListenError),
    /// The kernel refused a thread or a descriptor.
    #[error("{action}: {error}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}
