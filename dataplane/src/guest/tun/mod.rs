//! Tun and tap ports: an interface of the kernel's in a guest's place.
//!
//! In: frames that the host (or a container) sends into the interface. Out: frames for
//! it, super-frames with their offload metadata. Never: an address, a route or the
//! interface's state: the control core sets and watches those over netlink.
//!
//! One descriptor per queue. Reading belongs to one worker at a time, by a lock that is
//! taken once per burst; anyone may write. Each frame costs one system call: the kernel
//! has no other way. What was read and found no room on its way stays in the queue's
//! own memory until it does, in order, and nothing is read meanwhile.
//!
//! A tun interface carries IP packets. Inside, everything is an Ethernet frame, so a
//! header is put ahead of what is read (to the gateway, from the port) and taken off
//! what is written; the offload metadata's offsets move along.

mod device;
mod queue;

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use culvert_vhost::Offloads;
use culvert_wire::VnetHeader;

use self::queue::Queue;
pub use self::queue::TunTraffic;
pub(crate) use self::queue::{TunBurst, Writer};
use crate::shared::drops::DropReason;

/// What an interface's frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// IP packets: a tun interface.
    Ip,
    /// Ethernet frames: a tap interface.
    Ethernet,
}

impl Layer {
    /// The driver's name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "tun",
            Self::Ethernet => "tap",
        }
    }
}

/// How an interface is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It does not exist: it is made, and goes away when it is closed.
    Make,
    /// It exists for whoever attaches to it, and stays.
    Attach {
        /// It was made for several queues; this can't be changed.
        multi_queue: bool,
    },
}

/// What is wanted of an interface.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// The interface's name, at most 15 bytes.
    pub interface: String,
    /// Tun or tap.
    pub layer: Layer,
    /// Queues, at least one.
    pub queues: u16,
    /// What the host may leave to us and takes from us, in the words of virtio-net:
    /// `HOST_*` and `CSUM` are what it may send, `GUEST_*` what it may be given.
    pub offloads: Offloads,
    /// Made or found.
    pub claim: Claim,
}

/// Why an interface can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No /dev/net/tun.
    #[error(
        "can't open /dev/net/tun: {0}; `modprobe tun` loads the driver, and a container must be given the device (`--device /dev/net/tun`)"
    )]
    NoDriver(io::Error),
    /// No right to make or attach to it.
    #[error(
        "not allowed to have the interface {interface}: {source}; run as root or with CAP_NET_ADMIN (`AmbientCapabilities=CAP_NET_ADMIN` in a unit), or make it beforehand for this user: `ip tuntap add {interface} mode {mode} user NAME`"
    )]
    Forbidden {
        /// The interface.
        interface: String,
        /// `tun` or `tap`.
        mode: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// Another program has it.
    #[error(
        "the interface {interface} is taken: {source}; another program has it open, or it is no {mode} interface: `ip -details link show {interface}` shows what it is; choose another `interface`"
    )]
    Taken {
        /// The interface.
        interface: String,
        /// `tun` or `tap`.
        mode: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
    /// It has one queue for good.
    #[error(
        "the interface {interface} was made for one queue, {queues} are wanted: set `queues: 1`, or make it anew: `ip tuntap del {interface} mode {mode}; ip tuntap add {interface} mode {mode} multi_queue`"
    )]
    SingleQueue {
        /// The interface.
        interface: String,
        /// `tun` or `tap`.
        mode: &'static str,
        /// What was asked for.
        queues: u16,
    },
    /// A descriptor that was handed over is of no use.
    #[error("the descriptor that was handed over {0}")]
    Unfit(&'static str),
    /// Anything else that the kernel refuses.
    #[error("can't set up the interface {interface} ({what}): {source}")]
    Refused {
        /// The interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

/// An open interface.
#[derive(Debug)]
pub struct Tun {
    interface: String,
    layer: Layer,
    queues: Box<[Queue]>,
    /// What the host sends to us and takes from us.
    offloads: Offloads,
    /// Its frames come and go without a vnet header.
    bare: bool,
    /// It was deleted under us.
    gone: AtomicBool,
}

impl Tun {
    /// Makes the interface or attaches to it, and says what the host may leave to us.
    /// It is down and without addresses, unless it was there before.
    ///
    /// # Errors
    /// When the driver, the right, the name or the queues can't be had.
    pub fn open(config: &TunConfig) -> Result<Self, TunError> {
        let (descriptors, offloads) = device::open(config)?;
        Ok(Self::from_descriptors(
            config.interface.clone(),
            config.layer,
            offloads,
            descriptors,
        ))
    }

    /// Takes descriptors, one per queue, that somebody else opened: non-blocking, with vnet
    /// headers of 12 bytes and these offloads set.
    #[must_use]
    pub fn from_descriptors(
        interface: String,
        layer: Layer,
        offloads: Offloads,
        descriptors: Vec<OwnedFd>,
    ) -> Self {
        Self {
            interface,
            layer,
            queues: descriptors.into_iter().map(Queue::new).collect(),
            offloads,
            bare: false,
            gone: AtomicBool::new(false),
        }
    }

    /// Takes the one descriptor of a tun interface that another program made (`WG_TUN_FD`), with all offloads that
    /// there are; without any if its frames come without vnet headers, which can't be changed any more.
    ///
    /// # Errors
    /// When it is no descriptor of a tun interface. One that was made without `IFF_NO_PI` is not found out: the
    /// kernel doesn't say.
    pub fn adopt(descriptor: OwnedFd) -> Result<Self, TunError> {
        let found = device::adopt(&descriptor, Offloads::all().legal())?;
        let offloads = found.offloads.unwrap_or(Offloads::empty());
        Ok(Self {
            bare: found.offloads.is_none(),
            ..Self::from_descriptors(found.interface, Layer::Ip, offloads, vec![descriptor])
        })
    }

    /// The name that it was opened under.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Tun or tap.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// How many queues it has.
    #[must_use]
    pub fn queues(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// What this kernel and the configuration made of the wanted offloads.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Whether it is attached to an interface still: asks the kernel. An interface that
    /// was moved to another network namespace is.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.queues
            .first()
            .is_some_and(|queue| device::is_attached(queue.as_fd()))
    }

    /// The name that it has now, if it is in the calling thread's network namespace.
    ///
    /// # Errors
    /// When it was deleted; before Linux 5.2 there is no telling.
    pub fn name_here(&self) -> io::Result<Option<String>> {
        let queue = self.queue(0).ok_or(io::ErrorKind::NotFound)?;
        device::name_here(queue.as_fd())
    }

    /// Whether a worker found that the interface was deleted.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Has the host find the interface's link up or down, as that of a device whose cable is pulled.
    ///
    /// # Errors
    /// The kernel's (before Linux 5.0 it knows no such thing).
    pub fn set_carrier(&self, up: bool) -> io::Result<()> {
        let queue = self.queue(0).ok_or(io::ErrorKind::NotFound)?;
        device::set_carrier(queue.as_fd(), up)
    }

    /// What passed through queue `queue`: from the host, and to it.
    #[must_use]
    pub fn traffic(&self, queue: u16) -> Option<(&TunTraffic, &TunTraffic)> {
        let queue = self.queue(queue)?;
        Some((&queue.from_host, &queue.to_host))
    }

    /// Writes a whole frame into the interface, for those who are no worker.
    ///
    /// # Errors
    /// Under which name it is lost.
    pub fn send(&self, vnet: &VnetHeader, frame: &[u8]) -> Result<(), DropReason> {
        match self.queue(0) {
            Some(queue) if !self.is_gone() => queue.send(self, vnet, frame),
            _ => Err(DropReason::InterfaceDown),
        }
    }

    /// Reads a frame of the host's into `room`, for those who are no worker; `None`: there is none.
    pub fn receive<'r>(&self, room: &'r mut [u8]) -> Option<&'r [u8]> {
        if self.is_gone() {
            return None;
        }
        self.queue(0)?.receive(self, room)
    }

    /// What to poll for frames of the host's; nothing once the interface is gone.
    #[must_use]
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.readable_fd(0)
    }

    fn queue(&self, queue: u16) -> Option<&Queue> {
        self.queues.get(usize::from(queue))
    }

    /// Takes queue `queue` for a burst of reading; `None` while another worker has it.
    pub(crate) fn try_lock(&self, queue: u16) -> Option<TunBurst<'_>> {
        if self.is_gone() {
            return None;
        }
        self.queue(queue)?.try_lock(self)
    }

    /// What to poll before sleeping; nothing while frames of the queue are held back or
    /// the interface is gone.
    pub(crate) fn readable_fd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        let queue = self.queue(queue)?;
        (!self.is_gone() && !queue.holds()).then(|| queue.as_fd())
    }

    /// Whether frames that were read wait for room on their way.
    pub(crate) fn holds(&self, queue: u16) -> bool {
        !self.is_gone() && self.queue(queue).is_some_and(Queue::holds)
    }

    /// Bytes ahead of each frame that the kernel gives and takes.
    fn header_len(&self) -> usize {
        if self.bare { 0 } else { VnetHeader::LEN }
    }

    fn note_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}
