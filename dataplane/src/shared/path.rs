//! The way to an endpoint: addresses, ports, and the next hop with its uplink.
//!
//! In: an endpoint and, from the control core, a next hop. Out: an immutable `Path`
//! that workers write from. Never: a look-up per packet. A changed endpoint makes a
//! new `Path`; a changed neighbor is its [`Hop`]'s affair.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use crate::shared::{hop::Hop, ids::UplinkIndex, limits};

/// How datagrams reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The peer's address and UDP port.
    pub endpoint: SocketAddr,
    /// The local address to send from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The local UDP port: the tunnel's. A DPDK queue serves all tunnels of its uplink, so the path must say.
    pub port: u16,
    /// The next hop, which other paths share.
    pub hop: Arc<Hop>,
    /// The longest IP packet that passes whole, its header included; none if that is not known.
    pub mtu: Option<NonZeroU16>,
    /// The longest that is said to pass: what is longer is cut before it leaves, by who looks after IP (a device of ours).
    pub cut: Option<NonZeroU16>,
    refused: Refused,
}

impl Path {
    /// A way to `endpoint` from UDP port `port`, over `hop`.
    #[must_use]
    pub fn new(endpoint: SocketAddr, source: Option<IpAddr>, port: u16, hop: Arc<Hop>) -> Self {
        Self {
            endpoint,
            source,
            port,
            hop,
            mtu: None,
            cut: None,
            refused: Refused::default(),
        }
    }

    /// The same way, which lets IP packets of `mtu` bytes pass.
    #[must_use]
    pub fn with_mtu(self, mtu: Option<NonZeroU16>) -> Self {
        Self { mtu, ..self }
    }

    /// The same way, where longer packets than `cut` bytes had better be cut here.
    #[must_use]
    pub fn with_cut(self, cut: Option<NonZeroU16>) -> Self {
        Self { cut, ..self }
    }

    /// The longest IP packet that need not be cut, as far as that is known or said.
    #[must_use]
    pub fn uncut(&self) -> u16 {
        let known = self.mtu.into_iter().chain(self.cut).min();
        known.map_or(u16::MAX, NonZeroU16::get)
    }

    /// The largest inner packet whose datagram passes whole, padded or not.
    #[must_use]
    pub fn limit(&self) -> u16 {
        self.mtu
            .map_or(u16::MAX, |mtu| mtu.get().saturating_sub(self.overhead()))
    }

    /// What goes around an inner packet.
    #[must_use]
    pub fn overhead(&self) -> u16 {
        match self.endpoint {
            SocketAddr::V4(_) => limits::OVERHEAD_V4,
            SocketAddr::V6(_) => limits::OVERHEAD_V6,
        }
    }

    /// The uplink that its datagrams leave by.
    #[must_use]
    pub fn uplink(&self) -> UplinkIndex {
        self.hop.uplink()
    }

    /// Whether a datagram could go that way now.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.hop.is_resolved()
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
