//! The way to an endpoint: addresses and, on a DPDK uplink, the outer headers.
//!
//! In: an endpoint and, from the control core, a next hop. Out: an immutable `Path`
//! that workers write from. Never: a look-up per packet. A changed endpoint makes a
//! new `Path`; a changed neighbor is its [`Hop`]'s affair.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use culvert_wire::MacAddr;

use crate::shared::{hop::Hop, limits};

/// How datagrams reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The peer's address and UDP port.
    pub endpoint: SocketAddr,
    /// The local address to send from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// What lies below IP.
    pub link: Link,
    refused: Refused,
}

impl Path {
    /// A way to `endpoint`.
    #[must_use]
    pub fn new(endpoint: SocketAddr, source: Option<IpAddr>, link: Link) -> Self {
        Self {
            endpoint,
            source,
            link,
            refused: Refused::default(),
        }
    }

    /// The local address to send from, as long as it is one of this machine's.
    #[must_use]
    pub fn usable_source(&self) -> Option<IpAddr> {
        let refused = &self.refused.source;
        self.source.filter(|_| !refused.load(Ordering::Relaxed))
    }

    /// Notes that the kernel does not send from `source` any more: the address was
    /// taken away, and the peer will follow us to another one.
    pub fn refuse_source(&self) {
        self.refused.source.store(true, Ordering::Relaxed);
    }

    /// Notes that the peer wrote to `source`: the address is there.
    pub fn confirm_source(&self) {
        if self.refused.source.load(Ordering::Relaxed) {
            self.refused.source.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the next datagram may leave in one message with those before it.
    #[must_use]
    pub fn joins(&self) -> bool {
        let left = self.refused.joined.load(Ordering::Relaxed);
        if left > 0 {
            self.refused.joined.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    /// Notes that the kernel does not cut messages along this way: the route's MTU is smaller, or a device can't. That
    /// may pass, and is tried again after some datagrams.
    pub fn refuse_joined(&self) {
        self.refused
            .joined
            .store(limits::SENT_SINGLY, Ordering::Relaxed);
    }
}

/// What the kernel refused along a path. It does not make a path another one.
#[derive(Debug, Default)]
struct Refused {
    source: AtomicBool,
    /// So many datagrams are still sent one by one.
    joined: AtomicU32,
}

impl Clone for Refused {
    fn clone(&self) -> Self {
        Self {
            source: AtomicBool::new(self.source.load(Ordering::Relaxed)),
            joined: AtomicU32::new(self.joined.load(Ordering::Relaxed)),
        }
    }
}

impl PartialEq for Refused {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Refused {}

/// What a path knows of the link layer.
#[derive(Clone, Debug)]
pub enum Link {
    /// The kernel's business (UDP uplink).
    Kernel,
    /// An Ethernet next hop (DPDK uplink).
    Ethernet {
        /// The next hop, which other paths share.
        hop: Arc<Hop>,
        /// The local UDP port: the tunnel's. A DPDK queue serves all tunnels of
        /// its uplink, so the path must say.
        port: u16,
    },
    /// No route leads there.
    Unresolved,
}

impl Link {
    /// An Ethernet next hop of its own.
    #[must_use]
    pub fn ethernet(source: MacAddr, destination: MacAddr, port: u16) -> Self {
        let hop = Arc::new(Hop::new(source, Some(destination)));
        Self::Ethernet { hop, port }
    }

    /// Whether a datagram could go that way now.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        match self {
            Self::Kernel => true,
            Self::Ethernet { hop, .. } => hop.neighbor().mac().is_some(),
            Self::Unresolved => false,
        }
    }
}

impl PartialEq for Link {
    /// Whether they are one link, not whether two hops happen to say the same.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kernel, Self::Kernel) | (Self::Unresolved, Self::Unresolved) => true,
            (Self::Ethernet { hop, port }, Self::Ethernet { hop: h, port: p }) => {
                Arc::ptr_eq(hop, h) && port == p
            }
            _ => false,
        }
    }
}

impl Eq for Link {}
