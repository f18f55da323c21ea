//! Networks and their routes.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what gateways and forwarding tables are made from. Never: a
//! file's text.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{MacAddr, Name};
use crate::config::limits::LEASE_DEFAULT;

/// A layer-2 segment that ports join, with Culvert as its router; or a plain network, which is
/// one tun port and a tunnel, and where the host routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The operator's name for it.
    pub name: Name,
    /// The router's addresses with the network's prefixes; none in a plain network.
    pub gateways: Vec<IpNet>,
    /// The router's MAC address; derived from the network's name unless the file has one.
    pub gateway_mac: MacAddr,
    /// The tunnel that leads out of it; none is a network of this machine alone.
    pub tunnel: Option<Name>,
    /// Routes besides those from the peers' allowed IPs.
    pub routes: Vec<NetworkRoute>,
    /// The MTU that guests are offered, in bytes.
    pub mtu: u16,
    /// TCP connections through the tunnel are offered segments that fit.
    pub mss_clamp: bool,
    /// What guests are told by DHCP beside their addresses; `None` if it is not served.
    pub dhcp: Option<Dhcp>,
    /// How the router advertises itself.
    pub ra: Ra,
}

/// What guests are told beside their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp {
    /// Servers of names.
    pub dns: Vec<IpAddr>,
    /// The domain that they are in.
    pub domain: Option<String>,
    /// For how many seconds an address is lent.
    pub lease: u32,
}

impl Default for Dhcp {
    fn default() -> Self {
        Self {
            dns: Vec::new(),
            domain: None,
            lease: LEASE_DEFAULT,
        }
    }
}

/// How a router advertises itself to guests with IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ra {
    /// They have their addresses by DHCPv6.
    Managed,
    /// They make them themselves.
    Slaac,
    /// Not at all.
    Off,
}

impl Ra {
    /// What holds unless the file says another.
    pub fn by(dhcp: Option<&Dhcp>) -> Self {
        match dhcp {
            Some(_) => Self::Managed,
            None => Self::Off,
        }
    }

    /// As a file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Slaac => "slaac",
            Self::Off => "off",
        }
    }
}

impl Network {
    /// Whether it has no router of ours: packets pass between its one tun port and its tunnel as
    /// they are, and the peers' allowed IPs alone decide where they go.
    pub fn is_plain(&self) -> bool {
        self.gateways.is_empty()
    }
}

/// A route of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRoute {
    /// The prefix, host bits cleared.
    pub to: IpNet,
    /// Where it leads.
    pub next_hop: NextHop,
}

/// Where a network's route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// A peer of the network's tunnel.
    Peer(Name),
    /// A guest of the network that routes for others.
    Guest(IpAddr),
    /// Nowhere: dropped, and answered with ICMP.
    Unreachable,
}
