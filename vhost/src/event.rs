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
    /// A ring began to run, and nothing else changed. As with every event, workers that sleep must
    /// look at the port's rings: no kick comes for what the guest made available before.
    RingsStarted,
    /// The guest would be ready, but there is an obstacle, for a while now.
    Hindered {
        /// What.
        obstacle: Obstacle,
    },
    /// A message of the VMM's was refused, and it knows; the session goes on.
    Refused {
        /// The message and the reason.
        reason: String,
    },
    /// Another VMM waits on the socket, which has one already.
    AnotherWaits,
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

/// Why a guest whose VMM has set up its rings has no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The VMM shares no memory of the guest's.
    MemoryNotShared,
    /// The driver is one for devices before virtio 1.0.
    LegacyDriver,
    /// The guest, or its VMM, broke a ring.
    Broken(RingFault),
}

impl Obstacle {
    /// In two words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryNotShared => "memory not shared",
            Self::LegacyDriver => "legacy driver",
            Self::Broken(_) => "rings broken",
        }
    }

    /// What to do about it.
    pub const fn mending(self) -> &'static str {
        match self {
            Self::MemoryNotShared => {
                "start the VM with shared memory, QEMU: -object memory-backend-memfd,id=m,size=SIZE,share=on \
                 -machine memory-backend=m; libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/>"
            }
            Self::LegacyDriver => {
                "the guest needs a driver for virtio 1.0 and a device that offers it, QEMU: disable-modern=off"
            }
            Self::Broken(_) => {
                "the guest's driver has to set its rings up anew: reset it, or reboot the guest"
            }
        }
    }
}

/// How a port stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStatus {
    /// A VMM is on the socket.
    pub is_connected: bool,
    /// Queue pairs that run; the link is up if there is one.
    pub queue_pairs: u16,
    /// The virtio feature bits that the guest acknowledged.
    pub features: u64,
    /// Why none runs, if there is a reason.
    pub obstacle: Option<Obstacle>,
    /// Another VMM waits on the socket.
    pub another_waits: bool,
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
