//! The keys of `networks`.
//!
//! In, out, never: as [`super`].

use super::{
    Form::{
        self, Address, Bool, Choice, Destination, Either, Interface, List, Mac, Reference, Seconds,
        Tables, Text,
    },
    MTU,
    Presence::{Default, Required},
    Table, key,
};

/// One of `networks`.
pub(super) static NETWORK: Table = Table {
    title: "network",
    doc: "",
    keys: &[
        key(
            "gateway",
            List(&Interface),
            Default("none: a plain network"),
            "The router's addresses with the network's prefixes. A plain network has no router: it is one `tun` port and a `tunnel`, packets pass as they are, the peers' allowed IPs decide where they go, and the host's own routes what goes into the interface.",
        ),
        key(
            "gateway_mac",
            Mac,
            Default("derived from the network's name"),
            "The router's Ethernet address.",
        ),
        key(
            "tunnel",
            Reference("tunnel"),
            Default("none: a network of this machine alone"),
            "The tunnel that leads out; its peers' allowed IPs are this network's routes. A tunnel belongs to one network.",
        ),
        key(
            "routes",
            Tables(&NETWORK_ROUTE),
            Default("[]"),
            "Routes besides those.",
        ),
        key(
            "mtu",
            MTU,
            Default("the tunnel's mtu, else 1500"),
            "The MTU that guests are offered, in bytes.",
        ),
        key(
            "mss_clamp",
            Bool,
            Default("false"),
            "`true`: TCP connections through the tunnel are offered, both ways, no larger segments than fit the peer's path: for hosts that hear no ICMP.",
        ),
        key(
            "dhcp",
            Either(&Form::Table(&DHCP), &Bool),
            Default("true"),
            "The gateway tells each guest the `addresses` of its port by DHCP and DHCPv6, with prefix, gateway, routes, MTU and what stands here. `false`: it doesn't, and advertises no router unless `ra` says so. A network without a gateway has neither.",
        ),
        key(
            "ra",
            Choice(&["managed", "slaac", "off"]),
            Default("managed; off where dhcp is"),
            "How the gateway advertises itself to guests with IPv6 addresses. `managed`: they have those by DHCPv6. `slaac`: they make them of the gateway's prefix, a /64, and their MAC addresses; `addresses` have to be just those. `off`: not at all.",
        ),
    ],
};

/// A network's `dhcp`.
pub(super) static DHCP: Table = Table {
    title: "dhcp",
    doc: "",
    keys: &[
        key(
            "dns",
            List(&Address),
            Default("[]"),
            "Servers of names, eight at most; those of IPv6 are told by router advertisements, too.",
        ),
        key(
            "domain",
            Text,
            Default("none"),
            "The domain that guests are in and look for names in.",
        ),
        key(
            "lease",
            Seconds {
                min: super::super::limits::LEASE_MIN,
                max: super::super::limits::LEASE_MAX,
            },
            Default("12h"),
            "For how long an address is lent. Guests ask again after half of that, and have what has changed by then.",
        ),
    ],
};

/// One of a network's `routes`.
pub(in crate::config) static NETWORK_ROUTE: Table = Table {
    title: "route",
    doc: "Exactly one of `peer`, `via` and `unreachable`.",
    keys: &[
        key(
            "to",
            Destination,
            Required,
            "The prefix, or `default` (with `via`; else write `0.0.0.0/0` or `::/0`).",
        ),
        key(
            "peer",
            Reference("peer"),
            Default("none"),
            "A peer of the network's tunnel.",
        ),
        key(
            "via",
            Address,
            Default("none"),
            "A guest of the network that routes for others.",
        ),
        key(
            "unreachable",
            Bool,
            Default("false"),
            "`true`: dropped, and answered with ICMP.",
        ),
    ],
};
