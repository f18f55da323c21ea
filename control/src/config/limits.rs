//! The limits of a configuration, and where each comes from.

/// Workers. DPDK 22.11 is built for 128 lcores; the control core is one.
pub(super) const WORKERS: u32 = 127;

/// Queue pairs of a port, queues of an uplink (virtio 1.2 section 5.1.5 allows 32768; no peer
/// offers more than 128).
pub(super) const QUEUES: u32 = 128;

/// The least MTU that IPv6 may be sent over (RFC 8200 section 5).
pub(super) const MTU_MIN: u32 = 1280;

/// The largest: a jumbo frame as NICs have it, and room for a header in 16 bits.
pub(super) const MTU_MAX: u32 = 65_455;

/// The least path MTU that may be named: what every host takes whole (RFC 791, section 3.1).
pub(super) const PMTU_MIN: u32 = 576;

/// The largest: an IP packet's length.
pub(super) const PMTU_MAX: u32 = 65_535;

/// What WireGuard adds over IPv6: 40 (IPv6) + 8 (UDP) + 16 (header) + 16 (tag).
pub(super) const TUNNEL_OVERHEAD: u32 = 80;

/// What it adds over IPv4, where the header has 20 bytes.
pub(super) const TUNNEL_OVERHEAD_V4: u32 = 60;

/// The MTU of an uplink or of a network without a tunnel, unless the file says another.
pub(super) const MTU_DEFAULT: u32 = 1500;

/// `memory.megabytes` unless the file says another, in MiB.
pub(super) const MEGABYTES_DEFAULT: u32 = 256;

/// `metrics.wireguard_exporter_peers` unless the file says another: three samples each, with long labels.
pub(super) const EXPORTER_PEERS_DEFAULT: u32 = 1_000;

/// Labels of things that metrics have, too.
pub(super) const METRICS_LABELS: usize = 8;

/// The port on which Prometheus expects WireGuard's exporter, which may run beside this program.
pub(super) const EXPORTER_PORT: u16 = 9586;

/// The API's port at an uplink.
pub(super) const API_PORT: u16 = 9443;

/// The metrics' port at an uplink.
pub(super) const METRICS_PORT: u16 = 9587;

/// `api.body_megabytes` unless the file says another, in MiB: a file of 100,000 peers has 30.
pub(super) const BODY_MEGABYTES_DEFAULT: u32 = 64;

/// `api.key_directory` unless the file says another.
pub(super) const KEY_DIRECTORY: &str = "/etc/culvert/keys";

/// For how many seconds a guest has an address by DHCP, unless the file says another: half a day, as Neutron has it.
pub(super) const LEASE_DEFAULT: u32 = 12 * 3600;

/// The longest lease in seconds: a year. The highest number means "for ever" (RFC 2131, section 3.3).
pub(super) const LEASE_MAX: u32 = 365 * 24 * 3600;

/// The shortest.
pub(super) const LEASE_MIN: u32 = 60;

/// Servers of names that guests are told of: a client looks at three (resolv.conf(5)).
pub(super) const DNS: usize = 8;

/// Entries of a DPDK device's rings, unless the file says others.
pub(super) const RING_DEFAULT: u16 = 1024;

/// A vhost-user socket's permission bits, unless the file says others.
pub(super) const PERMISSIONS_DEFAULT: u32 = 0o660;

/// A socket's path with its final NUL (`sun_path` of unix(7)).
pub(super) const SOCKET_PATH: usize = 107;

/// An interface's name without its final NUL (`IFNAMSIZ`).
pub(super) const INTERFACE_NAME: usize = 15;

/// Peers over all tunnels: the data path's.
pub(super) const PEERS: usize = culvert_dataplane::shared::limits::PEERS;

/// Levels of files that include files.
pub(super) const INCLUDES_NESTED: usize = 4;

/// Files that are included, over all levels: some for each of a thousand guests.
pub(super) const INCLUDED_FILES: usize = 4096;

/// Mistakes shown for one file; the rest is counted.
pub(super) const MISTAKES_SHOWN: usize = 200;

/// Mistakes kept of one rule: a broken file may break it in each of its lines. The rest is counted.
pub(super) const MISTAKES_KEPT: usize = 1_000;

/// Warnings shown of one rule, which as many things of a file may break as there are.
pub(super) const WARNINGS_ALIKE: usize = 10;

/// Servers of names of an uplink: as many as are asked (`NAME_SERVERS`).
pub(super) const NAMESERVERS: usize = 8;
/// Static neighbors of an uplink: a quarter of what its stack knows (`HOST_NEIGHBORS`), so that others find room.
pub(super) const UPLINK_NEIGHBORS: usize = 256;
/// Milliseconds between two packets of a BFD session: below, a thread that is not alone on its processor is late too often.
pub(super) const BFD_INTERVAL_MIN: u32 = 50;
/// The longest.
pub(super) const BFD_INTERVAL_MAX: u32 = 10_000;
/// FRR's default, and its multiplier.
pub(super) const BFD_INTERVAL: u32 = 300;
pub(super) const BFD_MULTIPLIER: u8 = 3;
