//! The keys of `tunnels` and of their `peers`.
//!
//! In, out, never: as [`super`].

use super::{
    Form::{
        self, Address, Bool, Choice, Either, Endpoint, Integer, Labels, List, Named, Path, Prefix,
        Reference, Seconds,
    },
    MTU,
    Presence::{Default, Required},
    Table, key,
};
use crate::config::limits::{PMTU_MAX, PMTU_MIN};

/// What is known of a path.
const PMTU: Form = Either(
    &Choice(&["off", "probe"]),
    &Integer {
        min: PMTU_MIN,
        max: PMTU_MAX,
    },
);

/// One of `tunnels`.
pub(super) static TUNNEL: Table = Table {
    title: "tunnel",
    doc: "",
    keys: &[
        key(
            "uplink",
            Reference("uplink"),
            Default("required without `uplinks`"),
            "Where its datagrams leave and arrive.",
        ),
        key(
            "uplinks",
            List(&Reference("uplink")),
            Default("`uplink` alone"),
            "Several, instead of `uplink`, the best first: its port is open on all of them, and each peer is reached by the first that works. When that fails (its link, its gateway, its route) peers go on by the next one, with their sessions, and come back when it has worked for a while.",
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
            "The file of its private key, made by `culvert genkey`; readable by its owner alone. A relative path begins at the folder of the file that has it; `key:NAME` is a file of the key directory (`api.key_directory`); `credential:NAME` is the file that systemd's `LoadCredential=NAME:…` hands to the unit, of any `…_file` of keys.",
        ),
        key(
            "preshared_keys_file",
            Path,
            Default("none"),
            "The preshared keys of many peers: a line for each, its public key and its preshared key, or `(none)`, as `wg show INTERFACE preshared-keys` prints them; `#` begins a comment. Readable by its owner alone. Peers and lines that miss each other are told.",
        ),
        key(
            "mtu",
            MTU,
            Default("the uplink's mtu - 80"),
            "The largest inner packet, in bytes: 1420 for 1500 outside.",
        ),
        key(
            "pmtu",
            PMTU,
            Default("off"),
            "What is known of the paths to its peers, in bytes of whole IP packets outside: `probe` finds it out by pings inside the tunnel, or where nobody is known to answer them by the empty packets with which a quiet peer answers data, a number is believed. Inner packets that don't fit are cut, or their senders told, as if the tunnel's mtu were smaller for that peer. `off`: datagrams that are too long for their path are cut outside.",
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
pub(in crate::config) static PEER: Table = Table {
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
            "Where it listens. A DNS name (udp only) is looked up at the start, until it is found, every five minutes, and when the peer does not answer; all of its addresses are tried; `[fe80::1%eth0]:51820` names an interface.",
        ),
        key(
            "allowed_ips",
            List(&Prefix),
            Default("[]"),
            "The prefixes behind it: what is routed to it and what it may send from.",
        ),
        key(
            "persistent_keepalive",
            Seconds { min: 0, max: 65535 },
            Default("off"),
            "How often an idle tunnel sends a packet to keep a NAT open.",
        ),
        key(
            "pmtu",
            PMTU,
            Default("the tunnel's pmtu"),
            "As of the tunnel, for this peer.",
        ),
        key(
            "probe",
            Address,
            Default("the first single address in `allowed_ips`"),
            "Who answers pings behind it, within its `allowed_ips`: with `pmtu: probe`.",
        ),
        key(
            "enabled",
            Bool,
            Default("true"),
            "`false`: it has no session, and nothing is routed to it; another peer may have its prefixes, but not its key.",
        ),
        key(
            "labels",
            Labels,
            Default("{}"),
            "What others call it, as of a port.",
        ),
    ],
};
