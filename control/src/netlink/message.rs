//! Messages of rtnetlink, built and read by hand: these few kinds need no library.
//!
//! In: what a request says; what the kernel sends. Out: bytes; kinds, attributes, interfaces. Never: a byte beyond a
//! message's length; a list without an end. Anything unknown is skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Link, Route, TunLink, route::Bound};

// linux/netlink.h
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 0x001;
pub(super) const NLM_F_ACK: u16 = 0x004;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
const NLA_TYPE_MASK: u16 = 0x3fff;
// linux/rtnetlink.h
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const NLM_F_DUMP: u16 = 0x300;
/// The route that was found, and none made up.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTA_SRC: u16 = 2;
const RTA_MARK: u16 = 16;
pub(super) const RTMGRP_LINK: u32 = 1;
/// Routes of both families, and rules.
pub(super) const RTMGRP_ROUTES: u32 = 0x40 | 0x400 | 0x80;
// linux/if.h
pub(super) const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
// linux/if_link.h
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
/// `IFF_TAP`, as the tun driver's type.
const TYPE_TAP: u8 = 2;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;

// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
/// The next hop is on the link, whatever the addresses say.
const RTNH_F_ONLINK: u32 = 4;
/// It can't be used now: dead, or its link is down.
const RTNH_F_UNUSABLE: u32 = 1 | 16;

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// A request being written.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A header whose length, flags and number come last.
    fn new(kind: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        Self(bytes)
    }

    /// With a `struct ifinfomsg`.
    pub(super) fn link(kind: u16, index: u32, flags: u32, change: u32) -> Self {
        let mut message = Self::new(kind);
        message.0.extend([0; 4]);
        for word in [index, flags, change] {
            message.0.extend(word.to_ne_bytes());
        }
        message
    }

    /// With a `struct ifaddrmsg` and the address.
    pub(super) fn address(kind: u16, index: u32, address: IpNet) -> Self {
        let mut message = Self::new(kind);
        // Nobody else has the address: the configuration gives it to this port.
        let (family, flags) = match address {
            IpNet::V4(_) => (AF_INET, 0),
            IpNet::V6(_) => (AF_INET6, IFA_F_NODAD),
        };
        message.0.extend([family, address.prefix_len(), flags, 0]);
        message.0.extend(index.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            message.ip(kind, address.addr());
        }
        message
    }

    /// With a `struct rtmsg`, of a family alone: for a dump.
    pub(super) fn routes(family: u8) -> Self {
        let mut message = Self::new(RTM_GETROUTE);
        message.0.extend([family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        message
    }

    /// With a `struct rtmsg` and the route.
    pub(super) fn route(kind: u16, route: &Route) -> Self {
        let mut message = Self::new(kind);
        let family = match route.to {
            IpNet::V4(_) => AF_INET,
            IpNet::V6(_) => AF_INET6,
        };
        // Tables beyond the byte stand in an attribute.
        let head = [
            family,
            route.to.prefix_len(),
            0,
            0,
            0,
            route.protocol,
            0,
            RTN_UNICAST,
        ];
        message.0.extend(head);
        message.0.extend(RTNH_F_ONLINK.to_ne_bytes());
        for (kind, address) in [(RTA_DST, route.to.network()), (RTA_GATEWAY, route.via)] {
            message.ip(kind, address);
        }
        for (kind, word) in [
            (RTA_OIF, route.link),
            (RTA_PRIORITY, route.metric),
            (RTA_TABLE, route.table),
        ] {
            message.attribute(kind, &word.to_ne_bytes());
        }
        message
    }

    /// With a `struct rtmsg`: the way to `destination` from a socket that is bound so.
    pub(super) fn way(destination: IpAddr, bound: Bound) -> Self {
        let mut message = Self::new(RTM_GETROUTE);
        let bits = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let family = if destination.is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        };
        let source = bound.source.as_ref();
        let head = [family, bits(&destination), source.map_or(0, bits), 0];
        message.0.extend(head);
        message.0.extend([0; 4]);
        message.0.extend(RTM_F_FIB_MATCH.to_ne_bytes());
        message.ip(RTA_DST, destination);
        if let Some(&source) = source {
            message.ip(RTA_SRC, source);
        }
        if let Some(interface) = bound.interface {
            message.attribute(RTA_OIF, &interface.to_ne_bytes());
        }
        if bound.mark != 0 {
            message.attribute(RTA_MARK, &bound.mark.to_ne_bytes());
        }
        message
    }

    fn ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

pub(super) fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of one datagram: kind, number, body.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::try_from(word(bytes, 0)?).ok()?;
        let message = (half(bytes, 4)?, word(bytes, 8)?, bytes.get(16..len)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message or of another attribute: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes, 0)?);
        let attribute = (half(bytes, 2)? & NLA_TYPE_MASK, bytes.get(4..len)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// A `struct ifinfomsg` with its attributes.
pub(super) fn read_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: word(body, 4)?,
        up: word(body, 8)? & IFF_UP != 0,
        running: word(body, 8)? & IFF_RUNNING != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = word(value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(value),
                        // The kind comes first.
                        IFLA_INFO_DATA if link.kind == "tun" => link.tun = Some(read_tun(value)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// A `struct rtmsg` with its attributes, as far as `link` carries it: a unicast route by a router. Of several next hops
/// the first counts.
pub(super) fn read_route(body: &[u8], link: u32) -> Option<Route> {
    let [family, len, _, _, table, protocol, _, kind, ..] = *body else {
        return None;
    };
    let unspecified: IpAddr = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut to, mut metric, mut table) = (unspecified, 0, u32::from(table));
    let mut hop = Hop::default();
    let mut first = None;
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            RTA_DST => to = address(value)?,
            RTA_PRIORITY => metric = word(value, 0)?,
            RTA_TABLE => table = word(value, 0)?,
            RTA_MULTIPATH => first = hops(value).find(|hop| hop.link == link),
            _ => hop.read(kind, value),
        }
    }
    let unusable = word(body, 8)? & RTNH_F_UNUSABLE != 0;
    let hop = first.unwrap_or(hop);
    let via = hop
        .via
        .filter(|_| hop.link == link && kind == RTN_UNICAST && !unusable)?;
    let to = IpNet::new(to, len).ok()?;
    Some(Route {
        to,
        via,
        link,
        metric,
        protocol,
        table,
    })
}

/// Who is next.
#[derive(Clone, Copy, Default)]
struct Hop {
    link: u32,
    via: Option<IpAddr>,
}

impl Hop {
    fn read(&mut self, kind: u16, value: &[u8]) {
        match kind {
            RTA_OIF => self.link = word(value, 0).unwrap_or_default(),
            RTA_GATEWAY => self.via = address(value),
            // Of the other family: behind its number.
            RTA_VIA => self.via = value.get(2..).and_then(address),
            _ => {}
        }
    }
}

/// The next hops of a route that has several: `struct rtnexthop`, each with attributes.
fn hops(mut bytes: &[u8]) -> impl Iterator<Item = Hop> {
    std::iter::from_fn(move || {
        loop {
            let len = usize::from(half(bytes, 0)?);
            let head = bytes.get(..8)?;
            let mut hop = Hop {
                link: word(head, 4)?,
                via: None,
            };
            for (kind, value) in attributes(bytes.get(8..len)?) {
                hop.read(kind, value);
            }
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            if u32::from(head[2]) & RTNH_F_UNUSABLE == 0 {
                return Some(hop);
            }
        }
    })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    }
}

/// The interface of a `struct rtmsg` with its attributes.
pub(super) fn read_route_interface(body: &[u8]) -> Option<u32> {
    let mut all = attributes(body.get(12..)?);
    let (_, value) = all.find(|(kind, _)| *kind == RTA_OIF)?;
    word(value, 0)
}

fn read_tun(value: &[u8]) -> TunLink {
    let mut tun = TunLink::default();
    for (kind, value) in attributes(value) {
        let byte = value.first().copied().unwrap_or(0);
        match kind {
            IFLA_TUN_TYPE => tun.tap = byte == TYPE_TAP,
            IFLA_TUN_PERSIST => tun.persistent = byte != 0,
            IFLA_TUN_MULTI_QUEUE => tun.multi_queue = byte != 0,
            IFLA_TUN_NUM_QUEUES => tun.queues = word(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    tun
}

fn text(value: &[u8]) -> String {
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_they_are_written_however_they_are_cut() {
        for (to, via, table) in [
            ("10.0.0.0/8", "192.0.2.1", 254),
            ("0.0.0.0/0", "192.0.2.1", 1_000),
            ("2001:db8::/32", "fe80::1", 254),
        ] {
            let route = Route {
                to: to.parse().unwrap(),
                via: via.parse().unwrap(),
                link: 7,
                metric: 20,
                protocol: 186,
                table,
            };
            let bytes = Message::route(RTM_NEWROUTE, &route).finish(0, 1);
            let (kind, _, body) = messages(&bytes).next().unwrap();
            assert_eq!(kind, RTM_NEWROUTE);
            assert_eq!(read_route(body, 7), Some(route));
            assert_eq!(read_route(body, 8), None, "by another interface");
            for end in 0..body.len() {
                let _ = read_route(&body[..end], 7);
            }
        }
        // Two next hops: another interface's, then ours; over IPv4 by a router that has IPv6 alone.
        let mut message = Message::routes(AF_INET);
        message.0[16 + 1] = 8;
        message.0[16 + 7] = RTN_UNICAST;
        message.attribute(RTA_DST, &[10, 0, 0, 0]);
        let mut hops = Vec::new();
        let via6 = [
            &[10, 0][..],
            &"fe80::9".parse::<Ipv6Addr>().unwrap().octets(),
        ]
        .concat();
        for (link, kind, via) in [
            (3_u32, RTA_GATEWAY, &[192, 0, 2, 3][..]),
            (7, RTA_VIA, &via6[..]),
        ] {
            let mut hop = Message(vec![0; 8]);
            hop.attribute(kind, via);
            let len = u16::try_from(hop.0.len()).unwrap();
            hop.0[..2].copy_from_slice(&len.to_ne_bytes());
            hop.0[4..8].copy_from_slice(&link.to_ne_bytes());
            hops.extend(hop.0);
        }
        message.attribute(RTA_MULTIPATH, &hops);
        let bytes = message.finish(0, 1);
        let (_, _, body) = messages(&bytes).next().unwrap();
        let via = read_route(body, 7).unwrap().via;
        assert_eq!(via, "fe80::9".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn messages_are_read_by_their_lengths_however_they_are_cut() {
        let mut message = Message::link(RTM_NEWLINK, 7, IFF_UP, 0);
        message.attribute(IFLA_IFNAME, b"x0\0");
        message.attribute(IFLA_MTU, &1420u32.to_ne_bytes());
        let bytes = message.finish(0, 3);
        let (kind, sequence, body) = messages(&bytes).next().unwrap();
        assert_eq!((kind, sequence), (RTM_NEWLINK, 3));
        let link = read_link(body).unwrap();
        assert_eq!((link.index, link.up, link.mtu), (7, true, 1420));
        assert_eq!(link.name, "x0");
        for end in 0..bytes.len() {
            for (_, _, body) in messages(&bytes[..end]) {
                let _ = read_link(body);
            }
            let _ = read_link(&bytes[..end]);
        }
        // A length of zero ends the list instead of never ending.
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
