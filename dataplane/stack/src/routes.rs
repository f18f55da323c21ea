//! What the stack's configuration says about addresses.
//!
//! In: a configuration; then addresses. Out: whether one is ours or a neighbor's, the
//! next hop of a destination, the address of ours to speak from. Never: a frame, a
//! time, anything that the network said. So it never changes: a thread that has one asks it
//! itself, wherever the stack is.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use culvert_wire::{
    MacAddr,
    fib::{Fib, Prefix},
};

use super::HostConfig;

/// Length of the link-local prefix (RFC 4291, section 2.5.6).
const LINK_LOCAL_LEN: u8 = 64;

/// The link-local address that an interface with `mac` has (RFC 4291, appendix A).
#[must_use]
pub const fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from_octets([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// The metric of what is learned, as systemd-networkd has it.
pub const LEARNED_METRIC: u32 = 1_024;

/// A way beyond the own prefixes, as it is configured or learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// The prefix's address.
    pub to: IpAddr,
    /// Its length.
    pub len: u8,
    /// The router; one that is unspecified: the prefix is on the link.
    pub via: IpAddr,
    /// Of equal prefixes the one with the least counts, and the first of those.
    pub metric: u32,
    /// The address of ours that is spoken from to what is there, as long as it is one.
    pub source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    OnLink,
    Router(IpAddr),
}

/// What a prefix leads to, and the address of ours to speak from.
type Lead = (Hop, Option<IpAddr>);

/// How a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The address of ours to send from.
    pub source: IpAddr,
    /// Whom to hand it to: the destination, or a router.
    pub next_hop: IpAddr,
}

/// Own addresses, on-link prefixes and routes.
pub struct Routes {
    /// Own addresses with their on-link prefixes; the link-local one is the last.
    addresses: Vec<(IpAddr, Prefix)>,
    routers: BTreeSet<IpAddr>,
    fib: Fib<Lead>,
}

impl Routes {
    /// What a configuration says.
    #[must_use]
    pub fn new(config: &HostConfig) -> Self {
        Self::among(config, |_| true)
    }

    /// The same without the addresses that can't be used, and their prefixes.
    #[must_use]
    pub fn among(config: &HostConfig, is_usable: impl Fn(IpAddr) -> bool) -> Self {
        let link_local = IpAddr::V6(link_local(config.mac));
        let mut addresses: Vec<_> = config
            .addresses
            .iter()
            .map(|&(address, len)| (address, prefix(address, len)))
            .collect();
        if addresses.iter().all(|&(address, _)| address != link_local) {
            addresses.push((link_local, prefix(link_local, LINK_LOCAL_LEN)));
        }
        addresses.retain(|&(address, _)| is_usable(address));
        // Of equal prefixes the later one counts: the first route of the least metric, and on-link above all.
        let mut sorted: Vec<_> = config.routes.iter().collect();
        sorted.sort_by_key(|route| route.metric);
        let lead =
            |route: &HostRoute| (prefix(route.to, route.len), (hop(route.via), route.source));
        let on_link = addresses.iter();
        let on_link = on_link.map(|&(_, prefix)| (prefix, (Hop::OnLink, None)));
        let routes = sorted.into_iter().rev();
        let fib = Fib::build(routes.map(lead).chain(on_link));
        let mut routes = Self {
            addresses,
            routers: BTreeSet::new(),
            fib,
        };
        routes.routers = config
            .routes
            .iter()
            .map(|route| route.via)
            .filter(|&via| routes.may_be_neighbor(via))
            .collect();
        routes
    }

    /// The way to `destination`; `None` if no prefix or route holds it, or no address of ours can reach it.
    #[must_use]
    pub fn way(&self, destination: IpAddr) -> Option<Way> {
        let next_hop = self.next_hop(destination)?;
        let source = self.source(destination, next_hop)?;
        let _asker = self.asker(next_hop)?;
        Some(Way { source, next_hop })
    }

    /// Own addresses, the link-local one among them: what a classifier must let pass.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|&(address, _)| address)
    }

    /// The routers of all routes: always neighbors, even beyond every on-link prefix
    /// (an uplink with a host prefix and a router that is not in it).
    pub(super) const fn routers(&self) -> &BTreeSet<IpAddr> {
        &self.routers
    }

    /// Whether a host on the link may have `address`.
    pub(super) fn is_neighbor(&self, address: IpAddr) -> bool {
        self.may_be_neighbor(address)
            && (self.routers.contains(&address)
                || self.own_prefix_of(address).is_some()
                || matches!(self.fib.lookup(address), Some((Hop::OnLink, _))))
    }

    /// The neighbor through which `destination` is reached.
    pub(super) fn next_hop(&self, destination: IpAddr) -> Option<IpAddr> {
        if !self.may_be_neighbor(destination) {
            return None;
        }
        match self.fib.lookup(destination).map(|(hop, _)| hop) {
            Some(Hop::OnLink) => Some(destination),
            // A router's own address is not reached through itself or another.
            Some(Hop::Router(_)) | None if self.routers.contains(&destination) => Some(destination),
            Some(Hop::Router(_)) if is_link_local(destination) => None,
            Some(Hop::Router(via)) => Some(via).filter(|via| self.routers.contains(via)),
            None => None,
        }
    }

    /// The address of ours to send to `destination` from: its route's, else one on the next hop's prefix,
    /// else the first of the family. A link-local address does not leave the link.
    pub(super) fn source(&self, destination: IpAddr, next_hop: IpAddr) -> Option<IpAddr> {
        let on_link = destination == next_hop;
        let chosen = self.fib.lookup(destination).and_then(|(_, source)| source);
        let chosen = chosen.filter(|source| self.addresses().any(|own| own == *source));
        let usable = |own: &IpAddr| {
            own.is_ipv4() == destination.is_ipv4()
                && is_link_local(*own) == is_link_local(destination)
        };
        chosen
            .or_else(|| self.first_on_prefix(next_hop, usable))
            .or_else(|| self.addresses().find(usable))
            .or_else(|| {
                self.addresses()
                    .find(|own| on_link && own.is_ipv6() && destination.is_ipv6())
            })
    }

    /// The address of ours to ask `neighbor` from: one on its prefix, else the first of
    /// the family, for IPv6 the link-local one.
    pub(super) fn asker(&self, neighbor: IpAddr) -> Option<IpAddr> {
        let family = |own: &IpAddr| own.is_ipv4() == neighbor.is_ipv4();
        self.first_on_prefix(neighbor, family).or_else(|| {
            self.addresses()
                .find(|own| family(own) && (own.is_ipv4() || is_link_local(*own)))
        })
    }

    fn first_on_prefix(
        &self,
        neighbor: IpAddr,
        usable: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        self.addresses
            .iter()
            .filter(|(_, prefix)| prefix.contains(neighbor))
            .map(|&(address, _)| address)
            .find(usable)
    }

    fn own_prefix_of(&self, address: IpAddr) -> Option<&Prefix> {
        self.addresses
            .iter()
            .map(|(_, prefix)| prefix)
            .find(|prefix| prefix.contains(address))
    }

    /// One host's address, not ours, and no network's or broadcast address of ours.
    fn may_be_neighbor(&self, address: IpAddr) -> bool {
        is_host(address)
            && self
                .addresses
                .iter()
                .all(|(own, prefix)| *own != address && !names_all_of(prefix, address))
    }
}

/// Where a route leads: without a router, to the link.
const fn hop(via: IpAddr) -> Hop {
    match via.is_unspecified() {
        true => Hop::OnLink,
        false => Hop::Router(via),
    }
}

/// The prefix of an address as configured; a length beyond the family's is the host's.
fn prefix(address: IpAddr, len: u8) -> Prefix {
    Prefix::new(address, len).unwrap_or(Prefix::host(address))
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether `address` can name one host elsewhere.
pub(crate) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets()[0], 1..=126 | 128..=223),
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

/// Whether `address` is the prefix's network or broadcast address (RFC 1122, section
/// 3.2.1.3), which prefixes of one or two hosts don't have (RFC 3021).
fn names_all_of(prefix: &Prefix, address: IpAddr) -> bool {
    let (IpAddr::V4(network), IpAddr::V4(address), 0..=30) =
        (prefix.address(), address, prefix.len())
    else {
        return false;
    };
    let broadcast = Ipv4Addr::from_bits(network.to_bits() | (u32::MAX >> prefix.len()));
    address == network || address == broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(to: &str, len: u8, via: &str, metric: u32, source: Option<&str>) -> HostRoute {
        HostRoute {
            to: ip(to),
            len,
            via: ip(via),
            metric,
            source: source.map(ip),
        }
    }

    fn routes(addresses: &[(&str, u8)], routes: &[(&str, u8, &str)]) -> Routes {
        Routes::new(&HostConfig {
            mac: MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            addresses: addresses.iter().map(|&(a, len)| (ip(a), len)).collect(),
            routes: routes
                .iter()
                .map(|&(a, len, via)| route(a, len, via, 0, None))
                .collect(),
            neighbors: vec![],
            mtu: 1500,
        })
    }

    /// Next hop and source of each destination; "" for no way.
    fn check(routes: &Routes, expected: &[(&str, &str, &str)]) {
        for &(destination, next_hop, source) in expected {
            let hop = routes.next_hop(ip(destination));
            let found = hop.and_then(|hop| Some((hop, routes.source(ip(destination), hop)?)));
            let wanted = (!next_hop.is_empty()).then(|| (ip(next_hop), ip(source)));
            assert_eq!(found, wanted, "{destination}");
        }
    }

    #[test]
    fn the_longest_prefix_decides_and_on_link_wins_a_tie() {
        let routes = routes(
            &[("192.0.2.10", 24), ("10.1.0.10", 16)],
            &[
                ("0.0.0.0", 0, "192.0.2.1"),
                ("10.0.0.0", 8, "192.0.2.2"),
                ("10.0.0.0", 8, "192.0.2.3"),
                ("10.1.2.0", 24, "10.1.0.1"),
                ("192.0.2.0", 24, "10.1.0.1"),
                ("198.51.100.0", 24, "203.0.113.1"),
            ],
        );
        check(
            &routes,
            &[
                ("192.0.2.77", "192.0.2.77", "192.0.2.10"),
                ("8.8.8.8", "192.0.2.1", "192.0.2.10"),
                ("10.9.9.9", "192.0.2.2", "192.0.2.10"),
                ("10.1.9.9", "10.1.9.9", "10.1.0.10"),
                ("10.1.2.3", "10.1.0.1", "10.1.0.10"),
                // A router beyond every prefix of ours is taken for a neighbor.
                ("198.51.100.7", "203.0.113.1", "192.0.2.10"),
                ("203.0.113.1", "203.0.113.1", "192.0.2.10"),
                // Nobody's, everybody's or our own.
                ("192.0.2.10", "", ""),
                ("192.0.2.255", "", ""),
                ("192.0.2.0", "", ""),
                ("224.0.0.1", "", ""),
                ("255.255.255.255", "", ""),
                ("127.0.0.1", "", ""),
                ("0.0.0.0", "", ""),
                ("2001:db8::1", "", ""),
            ],
        );
    }

    #[test]
    fn of_equal_prefixes_the_least_metric_counts_and_a_route_chooses_the_source() {
        let mut config = HostConfig {
            mac: MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            addresses: vec![(ip("192.0.2.10"), 24), (ip("192.0.2.11"), 24)],
            routes: vec![
                route("0.0.0.0", 0, "192.0.2.3", LEARNED_METRIC, None),
                route("0.0.0.0", 0, "192.0.2.2", 200, None),
                route("0.0.0.0", 0, "192.0.2.1", 100, Some("192.0.2.11")),
                route("0.0.0.0", 0, "192.0.2.4", 100, None),
                route("10.0.0.0", 8, "192.0.2.2", 9_000, None),
            ],
            neighbors: vec![],
            mtu: 1500,
        };
        let ways = |config: &HostConfig, expected: &[_]| check(&Routes::new(config), expected);
        ways(
            &config,
            &[
                ("8.8.8.8", "192.0.2.1", "192.0.2.11"),
                // The longest prefix first, whatever its metric.
                ("10.1.1.1", "192.0.2.2", "192.0.2.10"),
                ("192.0.2.77", "192.0.2.77", "192.0.2.10"),
            ],
        );
        config.routes.remove(2);
        ways(&config, &[("8.8.8.8", "192.0.2.4", "192.0.2.10")]);
        config.routes.remove(2);
        ways(&config, &[("8.8.8.8", "192.0.2.2", "192.0.2.10")]);
        config.routes.remove(1);
        ways(&config, &[("8.8.8.8", "192.0.2.3", "192.0.2.10")]);
        // An address that another host has is no source, whoever chose it.
        config.routes[0].source = Some(ip("192.0.2.11"));
        ways(&config, &[("8.8.8.8", "192.0.2.3", "192.0.2.11")]);
        let routes = Routes::among(&config, |it| it != ip("192.0.2.11"));
        check(&routes, &[("8.8.8.8", "192.0.2.3", "192.0.2.10")]);
    }

    #[test]
    fn ipv6_speaks_link_locally_only_on_the_link() {
        let own = "fe80::5054:ff:fe12:3456";
        let routes = routes(
            &[("2001:db8::10", 64), ("2001:db8:1::10", 64)],
            &[("::", 0, "fe80::1"), ("2001:db8:2::", 48, "2001:db8:1::1")],
        );
        assert_eq!(routes.addresses().last(), Some(ip(own)));
        check(
            &routes,
            &[
                ("2001:db8::11", "2001:db8::11", "2001:db8::10"),
                ("2001:db8:1::11", "2001:db8:1::11", "2001:db8:1::10"),
                ("2001:db8:2::1", "2001:db8:1::1", "2001:db8:1::10"),
                // Through a link-local router, yet from a global address.
                ("2001:db8:9::1", "fe80::1", "2001:db8::10"),
                ("fe80::9", "fe80::9", own),
                ("fe80:1::9", "", ""),
                ("ff02::1", "", ""),
                ("::1", "", ""),
                ("::ffff:192.0.2.1", "", ""),
                ("192.0.2.1", "", ""),
            ],
        );
        assert_eq!(routes.asker(ip("fe80::1")), Some(ip(own)));
        assert_eq!(
            routes.asker(ip("2001:db8:1::1")),
            Some(ip("2001:db8:1::10"))
        );
        assert_eq!(routes.asker(ip("192.0.2.1")), None);
    }

    #[test]
    fn prefixes_of_two_hosts_have_no_broadcast() {
        let routes = routes(&[("192.0.2.0", 31), ("10.0.0.1", 99)], &[]);
        check(&routes, &[("192.0.2.1", "192.0.2.1", "192.0.2.0")]);
        assert!(!routes.is_neighbor(ip("10.0.0.1")) && !routes.is_neighbor(ip("10.0.0.2")));
    }
}
