//! What an uplink learns of itself: by DHCP, and of routers.
//!
//! In: a lease, what advertisements say. Out: one value that says it all: addresses, routes, the MTU, servers of names.
//! Never: a time that a value differs by alone (but a lease's): who publishes it anew publishes something new.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_wire::fib::Prefix;
use culvert_wireguard::Instant;

use super::{
    HostConfig,
    routes::{HostRoute, LEARNED_METRIC},
};

/// What an uplink is to learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learns {
    /// An IPv4 address with what belongs to it, by DHCP.
    pub dhcp4: bool,
    /// IPv6 addresses and routers, of router advertisements.
    pub accept_ra: bool,
}

/// Who says that an address is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Teacher {
    /// A DHCP server.
    Dhcp,
    /// A router.
    Router,
}

/// A route: a prefix, its length, the router; one that is unspecified says that the prefix is on the link.
pub type Route = (IpAddr, u8, IpAddr);

/// An address that was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of its on-link prefix.
    pub prefix_len: u8,
    /// Who says so.
    pub teacher: Teacher,
}

/// All that was learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Addresses; those that are still good for new connections come first.
    pub addresses: Vec<LearnedAddress>,
    /// Routes; of equal prefixes the first one counts.
    pub routes: Vec<Route>,
    /// The longest packet that the link takes, if that is said.
    pub mtu: Option<u16>,
    /// Servers of names.
    pub dns: Vec<IpAddr>,
    /// The lease that some of it is from.
    pub lease: Option<Lease>,
}

/// What a server lends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of its on-link prefix.
    pub prefix_len: u8,
    /// The server.
    pub server: Ipv4Addr,
    /// Routes, as [`Route`] has them.
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// The longest packet that the link takes.
    pub mtu: Option<u16>,
    /// Servers of names.
    pub dns: Vec<Ipv4Addr>,
    /// The domain of names without one.
    pub domain: Option<String>,
}

/// A lease in its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is lent.
    pub terms: Terms,
    /// When its server is asked for more time.
    pub renew_at: Instant,
    /// When any server is.
    pub rebind_at: Instant,
    /// When it is over; `None`: never.
    pub expires: Option<Instant>,
}

/// A lease that an earlier run had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What was lent.
    pub terms: Terms,
    /// When it is over; `None`: never.
    pub expires: Option<Instant>,
}

/// A prefix that can't be on the link beside something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// An address of it.
    pub address: Ipv4Addr,
    /// Its length.
    pub prefix_len: u8,
}

impl Unusable {
    /// Whether that is what `terms` lend an address of.
    #[must_use]
    pub fn is_of(self, terms: &Terms) -> bool {
        let prefix = |address: Ipv4Addr, len| Prefix::new(address.into(), len);
        prefix(self.address, self.prefix_len) == prefix(terms.address, terms.prefix_len)
    }
}

impl Learned {
    /// The same but for the lease's time: what is used.
    #[must_use]
    pub fn is_used_like(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.routes == other.routes
            && self.mtu == other.mtu
            && self.dns == other.dns
    }

    /// Whether everything is reached as by `other`, and from the same addresses: of each family the first counts, and
    /// of the others who they are.
    #[must_use]
    pub fn leads_like(&self, other: &Self) -> bool {
        let first = |it: &Self, is_v4: bool| {
            let mut addresses = it.addresses.iter().map(|it| it.address);
            addresses.find(|address| address.is_ipv4() == is_v4)
        };
        let has = |all: &Self, of: &Self| of.addresses.iter().all(|it| all.addresses.contains(it));
        [true, false].map(|is_v4| first(self, is_v4))
            == [true, false].map(|is_v4| first(other, is_v4))
            && has(self, other)
            && has(other, self)
            && self.routes == other.routes
            && self.mtu == other.mtu
    }

    /// Adds it to what is configured, with the metric of what is learned.
    pub fn add_to(&self, config: &mut HostConfig) {
        let known: Vec<_> = config.addresses.iter().map(|&(own, _)| own).collect();
        let new = self
            .addresses
            .iter()
            .filter(|it| !known.contains(&it.address));
        config
            .addresses
            .extend(new.map(|it| (it.address, it.prefix_len)));
        let routes = self.routes.iter();
        (config.routes).extend(routes.map(|&(to, len, via)| HostRoute {
            to,
            len,
            via,
            metric: LEARNED_METRIC,
            source: None,
        }));
        if let Some(mtu) = self.mtu {
            config.mtu = config.mtu.min(mtu);
        }
    }

    pub(crate) fn take_lease(&mut self, lease: &Lease) {
        let terms = &lease.terms;
        self.addresses.push(LearnedAddress {
            address: terms.address.into(),
            prefix_len: terms.prefix_len,
            teacher: Teacher::Dhcp,
        });
        let routes = terms.routes.iter();
        self.routes
            .extend(routes.map(|&(to, len, via)| (to.into(), len, via.into())));
        self.dns.extend(terms.dns.iter().copied().map(IpAddr::V4));
        self.take_mtu(terms.mtu);
        self.lease = Some(lease.clone());
    }

    pub(crate) fn take_mtu(&mut self, mtu: Option<u16>) {
        self.mtu = [self.mtu, mtu].into_iter().flatten().min();
    }
}

/// Whether an address is one that a host can have beyond its link.
pub(crate) fn is_global_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unicast_link_local()
        && address.to_ipv4_mapped().is_none()
}
