//! Scope: which addresses leave their link.
//!
//! In: an address. Out: whether a router carries packets from it and to it. Never: a table of an operator's; what is here
//! holds for every network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a packet may be routed that has `address` as its source or its destination: it is one host's, and not of this
/// host or this link alone ("Forwardable" in RFC 6890; RFC 3927, section 7; RFC 4291, sections 2.5.2, 2.5.3 and 2.5.6).
#[inline]
pub const fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_routable_v4(address),
        IpAddr::V6(address) => is_routable_v6(address),
    }
}

/// Not "this network", loopback, link-local, a group, class E, or the limited broadcast.
const fn is_routable_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    !matches!((first, second), (0 | 127 | 224.., _) | (169, 254))
}

/// Not unspecified, loopback or IPv4 in disguise, link-local, or a group.
const fn is_routable_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    match a {
        0 => {
            let low = b | c | d | e == 0;
            !(low && (f == 0xffff || (f == 0 && g == 0 && h <= 1)))
        }
        0xfe80..=0xfebf | 0xff00.. => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_on_its_link_or_host_is_not_routed() {
        for (text, routable) in [
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("1.0.0.1", true),
            ("10.0.0.1", true),
            ("126.255.255.255", true),
            ("127.0.0.1", false),
            ("128.0.0.1", true),
            ("169.253.255.255", true),
            ("169.254.0.0", false),
            ("169.254.169.254", false),
            ("169.255.0.0", true),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::2", true),
            ("::ffff:10.0.0.1", false),
            ("64:ff9b::10.0.0.1", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("fe7f::1", true),
            ("fe80::1", false),
            ("febf:ffff::1", false),
            ("fec0::1", true),
            ("ff02::1", false),
            ("ff0e::1", false),
        ] {
            assert_eq!(is_routable(text.parse().unwrap()), routable, "{text}");
        }
    }
}
