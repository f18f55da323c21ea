//! What a port is and what it offers.
//!
//! In: the operator's choices. Out: the virtio feature bits that follow from them.
//! Never: a socket, a thread, guest memory.

use std::path::PathBuf;

use bitflags::bitflags;
use culvert_wire::MacAddr;
use virtio_bindings::{virtio_config, virtio_net, virtio_ring};

use crate::limits;

/// Everything that a port needs to know before it opens.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// The operator's name; it names the session thread and the log lines.
    pub name: String,
    /// Path of the vhost-user socket.
    pub socket: PathBuf,
    /// Who listens on it.
    pub socket_mode: SocketMode,
    /// Owner, group and mode of a socket that we listen on.
    pub access: SocketAccess,
    /// Queue pairs offered, 1 to [`limits::QUEUE_PAIRS_MAX`].
    pub queue_pairs: u16,
    /// The guest's MAC address, as the configuration space tells it.
    pub mac: MacAddr,
    /// The MTU offered to the guest (68 to 65535); `None` offers none.
    pub mtu: Option<u16>,
    /// Offloads offered; [`Offloads::legal`] is applied to them.
    pub offloads: Offloads,
    /// Ring options offered.
    pub rings: RingOptions,
    /// Connections per second that are taken; more wait.
    pub connections_per_second: u32,
    /// Messages per second that are read; more wait.
    pub messages_per_second: u32,
    /// Where the positions of packed rings are kept across a crash of this process;
    /// `None` keeps none, and a packed ring then restarts only if it was drained.
    pub state_file: Option<PathBuf>,
}

impl PortConfig {
    /// A port with one queue pair, all offloads and ring options, no MTU, in server mode.
    pub fn new(name: impl Into<String>, socket: impl Into<PathBuf>, mac: MacAddr) -> Self {
        Self {
            name: name.into(),
            socket: socket.into(),
            socket_mode: SocketMode::Server,
            access: SocketAccess::default(),
            queue_pairs: 1,
            mac,
            mtu: None,
            offloads: Offloads::all(),
            rings: RingOptions::all(),
            connections_per_second: limits::CONNECTIONS_PER_SECOND,
            messages_per_second: limits::MESSAGES_PER_SECOND,
            state_file: None,
        }
    }

    /// Virtio feature bits offered to the frontend.
    pub(crate) fn features(&self) -> u64 {
        let mut bits = bit(virtio_config::VIRTIO_F_VERSION_1)
            | bit(virtio_net::VIRTIO_NET_F_MAC)
            | bit(virtio_net::VIRTIO_NET_F_STATUS)
            | bit(virtio_net::VIRTIO_NET_F_CTRL_VQ)
            | bit(virtio_net::VIRTIO_NET_F_GUEST_ANNOUNCE)
            | PROTOCOL_FEATURES
            | LOG_ALL;
        if self.queue_pairs > 1 {
            bits |= bit(virtio_net::VIRTIO_NET_F_MQ);
        }
        if self.mtu.is_some() {
            bits |= bit(virtio_net::VIRTIO_NET_F_MTU);
        }
        bits | self.offloads.legal().bits() | self.rings.bits()
    }
}

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_F_LOG_ALL`.
pub(crate) const LOG_ALL: u64 = 1 << 26;

const fn bit(number: u32) -> u64 {
    1 << number
}

/// Who listens on the vhost-user socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketMode {
    /// We listen, the VMM connects (and connects again).
    #[default]
    Server,
    /// The VMM listens; we connect, and connect again when it is gone.
    Client,
}

/// Owner, group and permission bits of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    /// User id; `None` leaves the process's own.
    pub owner: Option<u32>,
    /// Group id; `None` leaves the process's own.
    pub group: Option<u32>,
    /// Permission bits (octal 0660 and the like).
    pub mode: u32,
}

impl Default for SocketAccess {
    fn default() -> Self {
        Self {
            owner: None,
            group: None,
            mode: limits::SOCKET_MODE,
        }
    }
}

bitflags! {
    /// Offload features (virtio 1.2, section 5.1.3), each by its feature bit.
    ///
    /// `GUEST_*` is what the guest accepts from us, `HOST_*` what we accept from it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offloads: u64 {
        /// We accept partial checksums.
        const CSUM = bit(virtio_net::VIRTIO_NET_F_CSUM);
        /// The guest accepts partial checksums.
        const GUEST_CSUM = bit(virtio_net::VIRTIO_NET_F_GUEST_CSUM);
        /// The guest accepts TSO over IPv4.
        const GUEST_TSO4 = bit(virtio_net::VIRTIO_NET_F_GUEST_TSO4);
        /// The guest accepts TSO over IPv6.
        const GUEST_TSO6 = bit(virtio_net::VIRTIO_NET_F_GUEST_TSO6);
        /// The guest accepts TSO with ECN.
        const GUEST_ECN = bit(virtio_net::VIRTIO_NET_F_GUEST_ECN);
        /// We accept TSO over IPv4.
        const HOST_TSO4 = bit(virtio_net::VIRTIO_NET_F_HOST_TSO4);
        /// We accept TSO over IPv6.
        const HOST_TSO6 = bit(virtio_net::VIRTIO_NET_F_HOST_TSO6);
        /// We accept TSO with ECN.
        const HOST_ECN = bit(virtio_net::VIRTIO_NET_F_HOST_ECN);
        /// The guest accepts USO over IPv4.
        const GUEST_USO4 = bit(virtio_net::VIRTIO_NET_F_GUEST_USO4);
        /// The guest accepts USO over IPv6.
        const GUEST_USO6 = bit(virtio_net::VIRTIO_NET_F_GUEST_USO6);
        /// We accept USO.
        const HOST_USO = bit(virtio_net::VIRTIO_NET_F_HOST_USO);
    }
}

impl Offloads {
    /// This set without the members whose prerequisites are missing (section 5.1.3.1).
    #[must_use]
    pub fn legal(self) -> Self {
        let mut set = self;
        if !set.contains(Self::CSUM) {
            set -= Self::HOST_TSO4 | Self::HOST_TSO6 | Self::HOST_USO;
        }
        if !set.contains(Self::GUEST_CSUM) {
            set -= Self::GUEST_TSO4 | Self::GUEST_TSO6 | Self::GUEST_USO4 | Self::GUEST_USO6;
        }
        if !set.intersects(Self::HOST_TSO4 | Self::HOST_TSO6) {
            set -= Self::HOST_ECN;
        }
        if !set.intersects(Self::GUEST_TSO4 | Self::GUEST_TSO6) {
            set -= Self::GUEST_ECN;
        }
        set
    }
}

bitflags! {
    /// Ring features, each by its feature bit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RingOptions: u64 {
        /// A frame may fill several of the guest's buffers.
        const MRG_RXBUF = bit(virtio_net::VIRTIO_NET_F_MRG_RXBUF);
        /// Descriptor tables outside of the ring.
        const INDIRECT_DESC = bit(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC);
        /// Notifications at an index instead of on or off.
        const EVENT_IDX = bit(virtio_ring::VIRTIO_RING_F_EVENT_IDX);
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = bit(virtio_config::VIRTIO_F_IN_ORDER);
        /// The packed layout.
        const PACKED = bit(virtio_config::VIRTIO_F_RING_PACKED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_without_their_prerequisite_are_not_offered() {
        assert_eq!(Offloads::all().legal(), Offloads::all());
        let without_sum = Offloads::all() - Offloads::CSUM;
        assert!(!without_sum.legal().intersects(
            Offloads::HOST_TSO4 | Offloads::HOST_TSO6 | Offloads::HOST_ECN | Offloads::HOST_USO
        ));
        let without_guest_sum = Offloads::all() - Offloads::GUEST_CSUM;
        assert!(!without_guest_sum.legal().contains(Offloads::GUEST_ECN));
        assert_eq!(
            (Offloads::HOST_ECN | Offloads::CSUM).legal(),
            Offloads::CSUM
        );
    }
}
