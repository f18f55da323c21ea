//! The keys of `uplinks`.
//!
//! In, out, never: as [`super`].

use super::{
    DESCRIPTORS,
    Form::{
        self, Address, Bool, Choice, Destination, Either, Integer, Interface, List, Mac, Tables,
        Text,
    },
    MTU,
    Presence::{Default, Required},
    QUEUES, Table, WORKER_INDEX, key,
    served::{UPLINK_API, UPLINK_METRICS, UPLINK_RESPONDER},
};

const ROUTING_TABLE: Form = Either(
    &Choice(&["main"]),
    &Integer {
        min: 1,
        max: u32::MAX,
    },
);

/// One of `uplinks`.
pub(super) static UPLINK: Table = Table {
    title: "uplink",
    doc: "",
    keys: &[
        key(
            "driver",
            Choice(&["dpdk", "udp"]),
            Required,
            "`dpdk`: a device that DPDK drives. `udp`: the kernel's sockets.",
        ),
        key(
            "device",
            Text,
            Default("required for dpdk; udp: any interface"),
            "dpdk: a PCI address or a virtual device, with its arguments: `0000:3b:00.0`, `net_af_packet0,iface=eth1`. udp: an interface to bind to.",
        ),
        key(
            "members",
            List(&Text),
            Default("[]; required for a bond"),
            "The devices that a bond is made of, as `device` names them: `device: net_bonding0,mode=1` has one of them in use and the others in reserve, `mode=4` is LACP (dpdk only).",
        ),
        key(
            "addresses",
            List(&Interface),
            Default("required for dpdk, unless it learns them; udp: all of the machine's"),
            "Own addresses with their on-link prefixes.",
        ),
        key(
            "dhcp4",
            Bool,
            Default("false"),
            "`true`: an IPv4 address beside those, with routes, is learned by DHCP (dpdk only). One that overlaps a network, a peer's allowed IPs or another uplink is not used but given back, and another is asked for; a route that does, the default route apart, is not used. The address is given back when this is `false` again or the uplink is removed; a process that ends keeps it for the next one.",
        ),
        key(
            "accept_ra",
            Bool,
            Default("false"),
            "`true`: IPv6 addresses beside those, made of the device's MAC address, and routers are learned of router advertisements (dpdk only), under the same condition. A router counts once it has answered from where it speaks, and that it is one.",
        ),
        key(
            "routes",
            Tables(&UPLINK_ROUTE),
            Default("[]"),
            "Routes beyond the on-link prefixes (dpdk only).",
        ),
        key(
            "exception",
            Text,
            Default("none"),
            "A TAP interface of the kernel's that is made with the device's MAC address, the uplink's addresses and routes, and has all that comes and is for nobody here: SSH, BGP, OSPF, IS-IS, LLDP (dpdk only).",
        ),
        key(
            "routes_from",
            ROUTING_TABLE,
            Default("none"),
            "A routing table of the kernel's, `main` or a number, whose routes by the `exception` interface are the uplink's, too, behind `routes`.",
        ),
        key(
            "neighbors",
            Tables(&UPLINK_NEIGHBOR),
            Default("[]"),
            "Neighbors that are where this says, and are never asked: nobody on the link can be taken for them (dpdk only).",
        ),
        key(
            "nameservers",
            Form::Table(&NAMESERVERS),
            Default("those that it learns"),
            "Servers that names of peers' `endpoint`s are asked of, by tunnels on the uplink (dpdk only). Without any the machine's resolver is asked.",
        ),
        key(
            "mtu",
            MTU,
            Default("1500"),
            "The largest IP packet on the wire, in bytes.",
        ),
        key(
            "queues",
            QUEUES,
            Default("one per worker"),
            "RX and TX queues of the device, or sockets per tunnel.",
        ),
        key(
            "queue_workers",
            List(&WORKER_INDEX),
            Default("round robin"),
            "The worker of each queue, by its place in `cores.workers`, from 0.",
        ),
        key(
            "api",
            Form::Table(&UPLINK_API),
            Default("none"),
            "The API at the uplink's own addresses, for those who come by it outside any tunnel (dpdk only).",
        ),
        key(
            "metrics",
            Form::Table(&UPLINK_METRICS),
            Default("none"),
            "`/metrics`, likewise (dpdk only).",
        ),
        key(
            "responder",
            Form::Table(&UPLINK_RESPONDER),
            Default("none"),
            "Answers to tests, likewise (dpdk only).",
        ),
        key(
            "rx_descriptors",
            DESCRIPTORS,
            Default("1024"),
            "Entries of each RX ring, a power of two (dpdk only).",
        ),
        key(
            "tx_descriptors",
            DESCRIPTORS,
            Default("1024"),
            "Entries of each TX ring, a power of two (dpdk only).",
        ),
        key(
            "fwmark",
            Integer {
                min: 1,
                max: u32::MAX,
            },
            Default("none"),
            "The mark on outgoing packets, for the kernel's policy routing (udp only).",
        ),
        key(
            "bfd",
            Form::Table(&BFD),
            Default("none"),
            "A session with a neighbor on the link that says several times a second whether it is alive (RFC 5880, dpdk only): while it is down, tunnels with several `uplinks` use others.",
        ),
        key(
            "enabled",
            Bool,
            Default("true"),
            "`false`: it is not open, its device is free for others, and nothing leaves or arrives by it.",
        ),
    ],
};

/// An uplink's `nameservers`.
static NAMESERVERS: Table = Table {
    title: "servers of names",
    doc: "",
    keys: &[key(
        "addresses",
        List(&Address),
        Required,
        "Their addresses, the first choice first; an empty list: none, whatever the uplink learns.",
    )],
};

/// An uplink's `bfd`.
static BFD: Table = Table {
    title: "BFD session",
    doc: "",
    keys: &[
        key(
            "peer",
            Address,
            Required,
            "The neighbor, inside the prefix of one of the uplink's addresses: the gateway.",
        ),
        key(
            "interval",
            Text,
            Default("300ms"),
            "Between two packets, either way: `50ms` to `10s`. The slower of both ends counts.",
        ),
        key(
            "multiplier",
            Integer { min: 1, max: 255 },
            Default("3"),
            "So many packets may be missed before a path counts as failed.",
        ),
    ],
};

/// One of an uplink's `routes`.
pub(super) static UPLINK_ROUTE: Table = Table {
    title: "route",
    doc: "",
    keys: &[
        key("to", Destination, Required, "The prefix, or `default`."),
        key(
            "via",
            Address,
            Required,
            "The router, inside the prefix of one of the uplink's addresses.",
        ),
        key(
            "metric",
            Integer {
                min: 0,
                max: u32::MAX,
            },
            Default("0"),
            "Of routes to one prefix the least counts; what is learned has 1024. It chooses within the uplink: which uplink a tunnel takes, the order of its `uplinks` says.",
        ),
        key(
            "from",
            Address,
            Default("one on the router's prefix"),
            "The uplink's own address to speak from to what is there.",
        ),
    ],
};

/// One of an uplink's `neighbors`.
pub(super) static UPLINK_NEIGHBOR: Table = Table {
    title: "neighbor",
    doc: "",
    keys: &[
        key(
            "address",
            Address,
            Required,
            "Its address, inside the prefix of one of the uplink's addresses.",
        ),
        key("mac", Mac, Required, "Its Ethernet address."),
    ],
};
