//! The file itself, and what the process is given once: `cores`, `memory`; `metrics`.
//!
//! In, out, never: as [`super`].

use super::{
    API, CPU,
    Form::{self, Bool, Choice, Either, Integer, List, Listen, Named, Path, Text},
    MTU, NETWORK, PORT,
    Presence::{Default, Required},
    TUNNEL, Table, UPLINK, WORKERS, key,
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
            "include",
            List(&Path),
            Default("[]"),
            "Files, and folders whose `*.yaml` are read in the order of their names; a relative path begins at the folder of the file that has it. Their sections are put together by name; the same thing in two files is a mistake, but a tunnel that has nothing but `peers` adds them to the tunnel of that name. They may include others, four levels deep.",
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
            "Of hugepages and megabytes: read when DPDK starts, for the first `dpdk` uplink; a change needs a restart from then on.",
        ),
        key(
            "metrics",
            Form::Table(&METRICS),
            Default("see below"),
            "What is told to those who measure. The control socket has `/metrics` in any case.",
        ),
        key(
            "api",
            Form::Table(&API),
            Default("`api.sock` for the process's user and group"),
            "Who may ask this process and change it.",
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
pub(super) static CORES: Table = Table {
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
pub(super) static MEMORY: Table = Table {
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

/// `metrics`.
pub(super) static METRICS: Table = Table {
    title: "metrics",
    doc: "Every metric: docs/metrics.md.",
    keys: &[
        key(
            "listen",
            Listen,
            Default("the control socket alone"),
            "An address of this machine where `/metrics` is served over TCP, without encryption, to whoever can reach it; `127.0.0.1:9587`, for instance. Not port 9586, which is WireGuard's exporter's.",
        ),
        key(
            "wireguard_exporter",
            Bool,
            Default("false"),
            "Whether peers have samples by the names that WireGuard's exporters use, too: `wireguard_sent_bytes_total`, `wireguard_received_bytes_total`, `wireguard_latest_handshake_seconds` (since 1970; 0 is never).",
        ),
        key(
            "wireguard_exporter_peers",
            Integer {
                min: 1,
                max: 262_144,
            },
            Default("1000"),
            "With more peers than these, none has samples by those names.",
        ),
        key(
            "labels",
            List(&Text),
            Default("[]"),
            "The keys of ports' and peers' `labels` that their series have, too, at most 8: `vm` as `label_vm`, `openstack.org/id` as `label_openstack_org_id`.",
        ),
    ],
};
