//! The host stack of a DPDK uplink: what a kernel would do below UDP.
//!
//! In: Ethernet frames that workers punted, questions about destinations, the time.
//! Out: frames to send, the link-layer address of a destination's next hop, events when
//! one changes. Never: a socket, a clock, a worker's state; TCP, router discovery,
//! redirects, reassembly.
//!
//! Owned by the control core; one stack per uplink. Everything is bounded (`limits`),
//! nothing that the network sends can panic, and what is ignored is counted by name.

use std::net::IpAddr;

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use crate::path::Link;

/// What the stack is and where it sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The uplink's hardware address.
    pub mac: MacAddr,
    /// Own addresses with the lengths of their on-link prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Prefixes behind routers: address, length, the router.
    pub routes: Vec<(IpAddr, u8, IpAddr)>,
    /// The longest IP packet that the link takes.
    pub mtu: u16,
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Known.
    Resolved {
        /// The address of ours to send from.
        source: IpAddr,
        /// An [`Link::Ethernet`] whose `port` is 0: the tunnel's, which the caller knows.
        link: Link,
    },
    /// The next hop is being asked; an event follows when it answers.
    Pending,
    /// No prefix or route holds the destination, or no address of ours can reach it.
    NoRoute,
}

/// What the control core must react to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A neighbor's link-layer address became known, changed or was lost: paths
    /// through it must be rebuilt.
    Neighbor {
        /// The neighbor.
        address: IpAddr,
    },
}

/// How much is known of a neighbor (RFC 4861, section 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeighborState {
    /// Asked, not answered yet.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Known, and asked whether it is still there.
    Probing,
    /// Didn't answer.
    Failed,
}

/// A neighbor as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, if known.
    pub mac: Option<MacAddr>,
    /// How much is known.
    pub state: NeighborState,
    /// When it last answered us.
    pub confirmed: Option<Instant>,
}

/// The stack. Feed it with `handle_*` and `resolve`, then take what `poll_frame`,
/// `poll_event` and `poll_timeout` have, in this order.
pub struct HostStack {
    config: HostConfig,
}

impl HostStack {
    /// A stack that announces its addresses.
    #[must_use]
    pub fn new(config: HostConfig, _now: Instant) -> Self {
        Self { config }
    }

    /// Takes a new configuration; neighbors that are still on-link are kept.
    pub fn reconfigure(&mut self, config: HostConfig, _now: Instant) {
        self.config = config;
    }

    /// Takes an Ethernet frame from the wire.
    pub fn handle_frame(&mut self, _frame: &[u8], _now: Instant) {}

    /// The way to `destination`; asks the next hop if it isn't known.
    pub fn resolve(&mut self, _destination: IpAddr, _now: Instant) -> Resolution {
        Resolution::NoRoute
    }

    /// Which neighbor `destination` goes through.
    #[must_use]
    pub fn next_hop(&self, _destination: IpAddr) -> Option<IpAddr> {
        None
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        None
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// All neighbors, in the order of their addresses.
    pub fn neighbors(&self) -> impl Iterator<Item = NeighborInfo> + '_ {
        std::iter::empty()
    }

    /// Own addresses, the link-local one among them: what a classifier must let pass.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.config.addresses.iter().map(|&(address, _)| address)
    }

    /// What was ignored, by name, with counts above 0.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        std::iter::empty()
    }
}
