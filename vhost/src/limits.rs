//! Every limit of this crate, with the source of each.
//!
//! In, out: nothing. Never: a limit anywhere else.

/// Queue pairs of a port: vhost-user's 8-bit ring index in SET_VRING_KICK.
pub const QUEUE_PAIRS_MAX: u16 = 128;
/// Entries of a ring (virtio 1.2, section 2.7: 32768; QEMU's largest is 1024, DPDK's 32768).
pub const RING_SIZE_MAX: u16 = 32768;
/// Descriptors of one chain, indirect ones included. A driver may not exceed the ring's size
/// (section 2.7.5.2) and Linux stays below 20; this bounds the work of a hostile one.
pub const CHAIN_MAX: usize = 1024;
/// Descriptors that one walk follows, of chains good and bad: four of the longest chains.
pub const FOLLOWED_MAX: usize = 4 * CHAIN_MAX;
/// Descriptors that a guest RX ring may have us follow per frame that it takes: a chain and a buffer
/// for each of the buffers that it may fill.
pub const FRAME_FOLLOWED_MAX: u64 = 2 * FRAME_CHAINS_MAX as u64;
/// What a descriptor that is followed, or a chain without a frame, counts against its queue's
/// credit, in bytes: the line of memory that it is read from.
pub const FOLLOWED_COST: u32 = 64;
/// Frames that one fetch takes from a guest TX ring.
pub const BURST_MAX: usize = 64;
/// Segments (checked ranges) that one burst holds.
pub const SEGMENTS_MAX: usize = 4096;
/// Bytes of a frame's private copy: room for Ethernet, IPv6 with extensions and TCP.
pub const HEAD_MAX: usize = 256;
/// Buffers that one frame may fill. Linux offers at least 1526 bytes in each: 43 for the longest.
pub const FRAME_CHAINS_MAX: usize = 128;
/// Longest frame: Ethernet with two VLAN tags around the longest IPv6 packet.
pub const FRAME_MAX: u32 = 14 + 8 + 40 + 65535;
/// Shortest frame: an Ethernet header.
pub const FRAME_MIN: u32 = 14;
/// Memory regions of a guest; QEMU asks for as many slots as the backend names.
pub const MEMORY_REGIONS_MAX: usize = 64;
/// Body of a vhost-user message: what the `vhost` crate takes.
pub const MESSAGE_BODY_MAX: usize = 4096;
/// File descriptors with one message: what the `vhost` crate takes.
pub const MESSAGE_FDS_MAX: usize = 32;
/// Permission bits of a listening socket unless configured.
pub const SOCKET_MODE: u32 = 0o660;
/// Pause before a client socket connects again, and between failed accepts.
pub const RECONNECT_PAUSE_MS: u64 = 200;
/// Connections per second to a port. A VMM that comes back does so once a second.
pub const CONNECTIONS_PER_SECOND: u32 = 100;
/// Messages per second to a port. A start takes some ten per ring.
pub const MESSAGES_PER_SECOND: u32 = 2000;
/// Seconds' worth of connections or messages that may come at once.
pub const AT_ONCE_SECONDS: u32 = 4;
/// How long an obstacle stands, or another VMM waits, before it is told.
pub const OBSTACLE_STANDS_MS: u64 = 500;
/// How long a VMM may leave replies unread.
pub const REPLY_TIMEOUT_MS: u64 = 5000;
