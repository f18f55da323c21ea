//! Every limit of the generator, with its source.
//!
//! In: nothing. Out: constants. Never: a value that a file or the network could change.

/// Flows of one profile: four times a million prefixes. Each takes 16 bytes where it is sent and 48 and a window where it
/// is received; a signature has room for four times as many.
pub const FLOWS_MAX: u64 = 1 << 22;

/// Streams of one profile. A seat looks at all of its streams to find which is due next.
pub const STREAMS_MAX: usize = 64;

/// Distinct sizes of one stream's mix: a template each.
pub const SIZES_MAX: usize = 64;

/// Frames of a genome, its numbers multiplied out; RFC 6985 asks for what fits a line of a report.
pub const GENOME_MAX: usize = 4096;

/// The longest frame that is no super-frame, without its check sequence: an MTU of 9,000 and a header.
pub const PLAIN_BYTES_MAX: u32 = 9_014;

/// The longest super-frame, without its check sequence: 64 KiB less one of IP, and a header.
pub const SUPER_BYTES_MAX: u32 = 65_535 + 14;

/// The shortest Ethernet frame without its check sequence (IEEE 802.3: 64 with it).
pub const BARE_BYTES_MIN: u32 = 60;

/// Segments of one super-frame: 64 KiB at the least payload that makes sense.
pub const SEGMENTS_MAX: usize = 128;

/// Memory for the windows in which duplicates are seen, over all flows.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;

/// The smallest window of a flow, in packets.
pub const WINDOW_BITS_MIN: usize = 64;

/// The largest window of a flow, in packets: half a second of one flow at 130,000 packets a second.
pub const WINDOW_BITS_MAX: usize = 1 << 16;

/// Latencies above this are counted apart: no device queues a minute.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How late a packet may be sent, unless told otherwise: beyond it, it counts as unsent. 1 ms is a queue of 1,000
/// packets at a million a second.
pub const CATCH_UP_NS: u64 = 1_000_000;

/// Packets that a call steps over at most when time ran away, so that no call lasts long.
pub const SKIPPED_AT_ONCE: u32 = 65_536;

/// How long packets are waited for after the last was sent (RFC 2544, section 23: 2 s).
pub const RESIDUAL_NS: u64 = 2_000_000_000;

/// The longest trial: an intended time has 48 bits of nanoseconds, 78 hours.
pub const TRIAL_NS_MAX: u64 = (1 << 48) - 1;

/// The longest packet of a capture that is replayed, and of a block around it.
pub const CAPTURE_PACKET_MAX: u32 = 262_144;

/// Packets of a capture that are kept in memory, unless told otherwise.
pub const CAPTURE_PACKETS_MAX: usize = 1 << 20;

/// Bytes of a capture's packets that are kept in memory, unless told otherwise.
pub const CAPTURE_BYTES_MAX: usize = 256 << 20;

/// Interfaces of a pcapng section.
pub const CAPTURE_INTERFACES_MAX: usize = 1024;

/// Trials of one search: beyond it something never converges.
pub const TRIALS_MAX: usize = 10_000;

/// Flows that a trial's result names one by one: those that fared worst.
pub const FLOWS_NAMED_MAX: usize = 16;

/// Disturbed trials in succession after which a search gives up.
pub const DISTURBED_MAX: u32 = 5;
