//! What goes into a stack and what comes out of it.

use std::net::IpAddr;

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::{HostRoute, Standing};

/// What the stack is and where it sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The uplink's hardware address.
    pub mac: MacAddr,
    /// Own addresses with the lengths of their on-link prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Ways beyond the own prefixes.
    pub routes: Vec<HostRoute>,
    /// Neighbors that are where this says, whatever the network says.
    pub neighbors: Vec<(IpAddr, MacAddr)>,
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
        /// Who is asked for the way: the destination, or a router.
        next_hop: IpAddr,
        /// Where that is.
        mac: MacAddr,
    },
    /// The next hop is being asked; an event follows when it answers.
    Pending {
        /// The address of ours to send from.
        source: IpAddr,
        /// Who is being asked for.
        next_hop: IpAddr,
    },
    /// No prefix or route holds the destination, or no address of ours can reach it.
    NoRoute,
}

/// What the control core must react to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A neighbor's link-layer address became known, changed or was lost.
    Neighbor {
        /// The neighbor.
        address: IpAddr,
    },
    /// An address of ours stands otherwise than it did.
    Own {
        /// The address.
        address: IpAddr,
        /// How it stands.
        standing: Standing,
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
    /// Where the configuration says.
    Static,
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

/// A UDP datagram that came in fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The frame that it would have been.
    pub frame: Vec<u8>,
    /// A number that all of its source have: who spreads datagrams by it keeps their order.
    pub spread: usize,
}

/// A neighbor that was asked and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitedNeighbor {
    /// Its address.
    pub address: IpAddr,
    /// Where it is known to be.
    pub mac: Option<MacAddr>,
    /// It is a router of the configuration, or was resolved; otherwise others have had it asked.
    pub is_in_use: bool,
}
