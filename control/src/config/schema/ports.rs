//! The keys of `ports`.
//!
//! In, out, never: as [`super`].

use culvert_wire::ether::VlanId;

use super::{
    Form::{
        self, Account, Address, Bool, Choice, Either, Labels, List, Mac, Numbered, Path,
        Permissions, Reference, Text,
    },
    Presence::{Default, Required},
    QUEUES, Table, WORKER_INDEX, key,
};

/// One of `ports`.
pub(in crate::config) static PORT: Table = Table {
    title: "port",
    doc: "",
    keys: &[
        key(
            "driver",
            Choice(&["vhost-user", "tun", "tap"]),
            Default("vhost-user"),
            "`vhost-user`: a virtual machine. `tun`, `tap`: an interface of the host, for IP packets or for Ethernet frames.",
        ),
        key(
            "network",
            Reference("network"),
            Default("required but with `vlans`"),
            "The network it joins; of a port with `vlans` by frames without a tag, which are dropped without one.",
        ),
        key(
            "vlans",
            Numbered {
                min: VlanId::MIN as u32,
                max: VlanId::MAX as u32,
                table: &VLAN,
                short: &Reference("network"),
            },
            Default("{}"),
            "The networks that it joins by frames with an 802.1Q tag, each by the number of its VLAN: `{ 10: blue, 20: { network: red, addresses: [10.2.0.7] } }`. Each network once. `vhost-user` ports alone.",
        ),
        key(
            "mac",
            Mac,
            Default("required but for tun"),
            "The guest's Ethernet address, in all its networks.",
        ),
        key(
            "addresses",
            List(&Address),
            Default("[]"),
            "The guest's addresses, inside the prefixes of the network's gateway. Those of a `tun` or `tap` port are given to its interface, with the gateway's prefix length (in a plain network: as single addresses).",
        ),
        key(
            "guard",
            Choice(&["strict", "mac", "off"]),
            Default("strict; off in a plain network"),
            "`strict`: source MAC, source IP, ARP and ND must be the port's own, and nothing is sent that the guard can't read in full. `mac`: the source MAC must. `off`: for guests that route or bridge.",
        ),
        key(
            "dhcp",
            Bool,
            Default("true"),
            "The gateway tells the guest its `addresses`, by DHCP, DHCPv6 and router advertisements, as its network's `dhcp` and `ra` say. `false`: it has them from elsewhere. A `tun` port has no such guest.",
        ),
        key("queues", QUEUES, Default("1"), "Queue pairs."),
        key(
            "queue_workers",
            List(&WORKER_INDEX),
            Default("round robin"),
            "The worker of each queue pair, by its place in `cores.workers`, from 0.",
        ),
        key(
            "socket",
            Path,
            Default("NAME.sock in the run directory"),
            "The vhost-user socket. A relative path begins at the run directory.",
        ),
        key(
            "socket_mode",
            Choice(&["server", "client"]),
            Default("server"),
            "`server`: Culvert listens, the VMM connects. `client`: the VMM listens, Culvert connects again and again.",
        ),
        key(
            "socket_owner",
            Account,
            Default("Culvert's user"),
            "The socket's owner (server only).",
        ),
        key(
            "socket_group",
            Account,
            Default("Culvert's group"),
            "The socket's group (server only).",
        ),
        key(
            "socket_permissions",
            Permissions,
            Default("0660"),
            "The socket's permission bits (server only).",
        ),
        key(
            "interface",
            Text,
            Default("the port's name"),
            "The interface's name (tun and tap only). It is made, and goes away with Culvert; a persistent one is taken as it is and stays.",
        ),
        key(
            "offloads",
            Either(&Form::Table(&OFFLOADS), &Choice(&["all", "none"])),
            Default("all"),
            "What the guest is offered.",
        ),
        key(
            "enabled",
            Bool,
            Default("true"),
            "`false`: it is not open. Its socket is not there, nor is its interface, unless that is a persistent one; another port may have its addresses and what else belongs to one port alone.",
        ),
        key(
            "labels",
            Labels,
            Default("{}"),
            "What others call it, as `{ vm: 7f3a… }`: told with it by `show`, the API and its events, and by metrics where `metrics` names the key. At most 16, of 128 bytes each.",
        ),
    ],
};

/// One of a port's `vlans`.
static VLAN: Table = Table {
    title: "VLAN",
    doc: "The name of a network alone is `{ network: NAME }`.",
    keys: &[
        key(
            "network",
            Reference("network"),
            Required,
            "The network that the port joins by this VLAN.",
        ),
        key(
            "addresses",
            List(&Address),
            Default("[]"),
            "The guest's addresses in it, inside the prefixes of the network's gateway.",
        ),
        key(
            "guard",
            Choice(&["strict", "mac", "off"]),
            Default("the port's"),
            "As a port's, for frames of this VLAN.",
        ),
        key(
            "dhcp",
            Bool,
            Default("the port's"),
            "As a port's, in this VLAN.",
        ),
    ],
};

/// A port's `offloads`.
pub(super) static OFFLOADS: Table = Table {
    title: "offloads",
    doc: "What is left out is on, unless what it needs is off.",
    keys: &[
        key(
            "checksum",
            Bool,
            Default("true"),
            "Partial checksums, both ways.",
        ),
        key(
            "tso4",
            Bool,
            Default("true"),
            "TCP segmentation over IPv4; needs `checksum`.",
        ),
        key(
            "tso6",
            Bool,
            Default("true"),
            "TCP segmentation over IPv6; needs `checksum`.",
        ),
        key(
            "ecn",
            Bool,
            Default("true"),
            "TCP segmentation with ECN; needs `tso4` or `tso6`.",
        ),
        key(
            "uso",
            Bool,
            Default("true"),
            "UDP segmentation; needs `checksum`.",
        ),
        key(
            "mergeable",
            Bool,
            Default("true"),
            "Frames over several receive buffers.",
        ),
        key(
            "packed",
            Bool,
            Default("true"),
            "Packed rings, besides split ones.",
        ),
    ],
};
