//! Every key of the file: its form, its limits, its default and what it means.
//!
//! In: nothing. Out: the tables that the parser reads values by, that unknown keys are compared
//! with, and that `culvert schema` and `configs/README.md` are made from: one source for all of
//! them. Never: relations between keys; those are in the parser and in [`super::cross`].

/// A map whose keys are fixed.
#[derive(Debug)]
pub struct Table {
    /// What the map is called in messages: "tunnel".
    pub title: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its keys in the order of the reference.
    pub keys: &'static [Key],
}

impl Table {
    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// One key of a [`Table`].
#[derive(Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// The form of its value.
    pub form: Form,
    /// Whether it may be left out.
    pub presence: Presence,
    /// What it means.
    pub doc: &'static str,
}

/// Whether a key may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It may not.
    Required,
    /// It may, and then this holds (in words or as it would be written).
    Default(&'static str),
}

/// The form of a value.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Free text of one line.
    Text,
    /// An operator's name.
    Name,
    /// A name of something else in the file.
    Reference(&'static str),
    /// A whole number.
    Integer {
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path.
    Path,
    /// A base64 key.
    Key,
    /// An address with its prefix length; the host bits count.
    Interface,
    /// A prefix; the host bits are cleared.
    Prefix,
    /// A prefix or `default`.
    Destination,
    /// An IP address.
    Address,
    /// `ADDRESS:PORT`, `[ADDRESS]:PORT` or `NAME:PORT`.
    Endpoint,
    /// A unicast Ethernet address.
    Mac,
    /// Whole seconds as `25s`, `2m`, `1h`, or `off`.
    Seconds {
        /// The greatest.
        max: u32,
    },
    /// Three or four octal digits.
    Permissions,
    /// A user's or a group's name or number.
    Account,
    /// A list.
    List(&'static Form),
    /// A list of maps of fixed keys.
    Tables(&'static Table),
    /// A map of fixed keys.
    Table(&'static Table),
    /// A map from operators' names to maps of fixed keys.
    Named(&'static Table),
    /// Either of two.
    Either(&'static Form, &'static Form),
}

use Form::{
    Account, Address, Bool, Choice, Destination, Either, Endpoint, Integer, Interface, List, Mac,
    Named, Path, Permissions, Prefix, Reference, Seconds, Tables, Text,
};
use Presence::{Default, Required};

const fn key(name: &'static str, form: Form, presence: Presence, doc: &'static str) -> Key {
    Key {
        name,
        form,
        presence,
        doc,
    }
}

pub(super) const CPU: Form = Integer { min: 0, max: 1023 };
pub(super) const WORKERS: Form = Integer {
    min: 1,
    max: super::limits::WORKERS,
};
const QUEUES: Form = Integer {
    min: 1,
    max: super::limits::QUEUES,
};
pub(super) const WORKER_INDEX: Form = Integer {
    min: 0,
    max: super::limits::WORKERS - 1,
};
const MTU: Form = Integer {
    min: super::limits::MTU_MIN,
    max: super::limits::MTU_MAX,
};
const DESCRIPTORS: Form = Integer {
    min: 64,
    max: 32768,
};

/// The file.
pub static FILE: Table = Table {
    title: "the file",
    doc: "Keys that begin with `x-` are ignored here: a place for YAML anchors.",
    keys: &[
        key(
            "version",
            Integer { min: 1, max: 1 },
            Required,
            "The version of this format.",
        ),
        key(
            "node",
            Form::Name,
            Default("the host's name"),
            "This machine's name in logs and in the API.",
        ),
        key(
            "cores",
            Form::Table(&CORES),
            Default("one unpinned worker"),
            "Threads and where they run. A change needs a restart.",
        ),
        key(
            "memory",
            Form::Table(&MEMORY),
            Default("see below"),
            "What is fixed when the process starts. A change needs a restart.",
        ),
        key(
            "uplinks",
            Named(&UPLINK),
            Default("{}"),
            "Ways out of the machine.",
        ),
        key(
            "tunnels",
            Named(&TUNNEL),
            Default("{}"),
            "WireGuard devices.",
        ),
        key(
            "networks",
            Named(&NETWORK),
            Required,
            "Layer-2 segments that ports join, each with Culvert as its router; and plain networks, without one.",
        ),
        key(
            "ports",
            Named(&PORT),
            Default("{}"),
            "Attachments of guests and of the host.",
        ),
    ],
};

/// `cores`.
pub static CORES: Table = Table {
    title: "cores",
    doc: "",
    keys: &[
        key(
            "control",
            CPU,
            Default("unpinned"),
            "The CPU of the control core: handshakes, timers, API.",
        ),
        key(
            "workers",
            Either(&List(&CPU), &WORKERS),
            Default("1"),
            "The CPUs of the workers, one worker each; or a number of unpinned workers.",
        ),
        key(
            "poll",
            Choice(&["adaptive", "busy"]),
            Default("adaptive"),
            "`adaptive`: an idle worker sleeps until a kick, an interrupt or a short timer. `busy`: it never sleeps; the CPU is its own.",
        ),
    ],
};

/// `memory`.
pub static MEMORY: Table = Table {
    title: "memory",
    doc: "",
    keys: &[
        key(
            "hugepages",
            Choice(&["auto", "required", "off"]),
            Default("auto"),
            "Whether DPDK's memory is hugepages: `auto` takes them if enough are free.",
        ),
        key(
            "megabytes",
            Integer {
                min: 64,
                max: 65536,
            },
            Default("256"),
            "Memory for packet buffers and DPDK, in MiB.",
        ),
        key(
            "mtu_max",
            MTU,
            Default("no bound but that of each mtu"),
            "The largest MTU that anything in the file may have, in bytes. A change needs a restart.",
        ),
    ],
};

/// One of `uplinks`.
pub static UPLINK: Table = Table {
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
            "addresses",
            List(&Interface),
            Default("required for dpdk; udp: all of the machine's"),
            "Own addresses with their on-link prefixes.",
        ),
        key(
            "routes",
            Tables(&UPLINK_ROUTE),
            Default("[]"),
            "Routes beyond the on-link prefixes (dpdk only).",
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
    ],
};

/// One of an uplink's `routes`.
pub static UPLINK_ROUTE: Table = Table {
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
    ],
};

/// One of `tunnels`.
pub static TUNNEL: Table = Table {
    title: "tunnel",
    doc: "",
    keys: &[
        key(
            "uplink",
            Reference("uplink"),
            Required,
            "Where its datagrams leave and arrive.",
        ),
        key(
            "listen_port",
            Integer { min: 1, max: 65535 },
            Required,
            "Its UDP port.",
        ),
        key(
            "private_key_file",
            Path,
            Required,
            "The file of its private key, made by `culvert genkey`; readable by its owner alone. A relative path begins at the configuration's folder.",
        ),
        key(
            "mtu",
            MTU,
            Default("the uplink's mtu - 80"),
            "The largest inner packet, in bytes: 1420 for 1500 outside.",
        ),
        key(
            "fwmark",
            Integer {
                min: 0,
                max: u32::MAX,
            },
            Default("the uplink's fwmark"),
            "The mark on its outgoing packets, for the kernel's policy routing; `0` is none (udp only).",
        ),
        key(
            "uapi",
            Either(&Bool, &Form::Name),
            Default("the tunnel's name, if that can be had"),
            "The name under which `wg` finds the tunnel, by a socket in `/var/run/wireguard`: at most 15 characters. `true`: the tunnel's name. `false`: no socket. With `true` or a name, a socket that can't be had is an error; by default it is a line in the log.",
        ),
        key("peers", Named(&PEER), Default("{}"), "The far ends."),
    ],
};

/// One of a tunnel's `peers`.
pub static PEER: Table = Table {
    title: "peer",
    doc: "",
    keys: &[
        key(
            "public_key",
            Form::Key,
            Required,
            "Its identity: what `culvert pubkey` prints at the far end.",
        ),
        key(
            "preshared_key_file",
            Path,
            Default("none"),
            "The file of a key shared with this peer, made by `culvert genpsk`; readable by its owner alone.",
        ),
        key(
            "endpoint",
            Endpoint,
            Default("learned from its first packet"),
            "Where it listens. A DNS name (udp only) is looked up at the start, until it is found, and when the peer does not answer; `[fe80::1%eth0]:51820` names an interface.",
        ),
        key(
            "allowed_ips",
            List(&Prefix),
            Default("[]"),
            "The prefixes behind it: what is routed to it and what it may send from.",
        ),
        key(
            "persistent_keepalive",
            Seconds { max: 65535 },
            Default("off"),
            "How often an idle tunnel sends a packet to keep a NAT open.",
        ),
    ],
};

/// One of `networks`.
pub static NETWORK: Table = Table {
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
    ],
};

/// One of a network's `routes`.
pub static NETWORK_ROUTE: Table = Table {
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

/// One of `ports`.
pub static PORT: Table = Table {
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
            Required,
            "The network it joins.",
        ),
        key(
            "mac",
            Mac,
            Default("required but for tun"),
            "The guest's Ethernet address.",
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
    ],
};

/// A port's `offloads`.
pub static OFFLOADS: Table = Table {
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
