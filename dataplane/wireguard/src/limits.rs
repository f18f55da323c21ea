//! Every limit and constant of the protocol, with its source.
//!
//! In: nothing. Out: constants. Never: a value that a peer or a configuration could change.
//!
//! "WP" is the WireGuard whitepaper, "kernel" is Linux `drivers/net/wireguard/messages.h` unless a file is named.

use core::time::Duration;

/// After this many messages on a keypair, the sender asks for a new one (WP 6.1: 2^60).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// No counter at or above this value is ever sent or accepted (kernel: 2^64 − window − 2).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - REPLAY_WINDOW - 1;

/// The initiator of a keypair of this age asks for a new one when it sends (WP 6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);

/// A keypair of this age neither seals nor opens (WP 6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// The initiator of a keypair of this age asks for a new one when it receives, once (WP 6.2; kernel `receive.c`).
pub const REKEY_ON_RECEIVE_AFTER: Duration = Duration::from_secs(
    REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs(),
);

/// The least time between two initiations to one peer, and the time to wait for a response (WP 6.1).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// Upper bound (exclusive) of the random delay added to a retransmission (kernel: a third of a second).
pub const REKEY_TIMEOUT_JITTER_MAX: Duration = Duration::from_millis(333);

/// Retransmissions after which a handshake is given up; compared with `>`, so that 20 initiations leave in all
/// (WP 6.1: REKEY_ATTEMPT_TIME of 90 s; kernel).
pub const MAX_TIMER_HANDSHAKES: u32 = 90 / 5;

/// Calls without an answer after which the time between them doubles with each: as many as leave before a handshake
/// is given up.
pub const BACK_OFF_AFTER: u32 = MAX_TIMER_HANDSHAKES + 2;

/// The longest time between two calls of a peer that does not answer, while something asks for them: what a peer
/// that returns in silence is waited for at the most. The protocol itself knows no back-off.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Calls per second of peers that were not called since they were heard last: about a quarter of a core.
pub const FIRST_CALLS_PER_SECOND: u32 = 2_000;

/// Calls per second of all peers that don't answer: about a twentieth of a core.
pub const SILENT_CALLS_PER_SECOND: u32 = 500;

/// Calls of each kind that a rested budget allows at once.
pub const CALLS_AT_ONCE: u32 = 64;

/// Silent peers with more unanswered calls than these are called in turn, whatever their number.
pub const CALLS_SPREAD: u32 = 2 * BACK_OFF_AFTER;

/// Silence after received data until an empty packet is sent (WP 6.1).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time without a new session after which all keys of a peer are wiped (WP 6.3: three times REJECT_AFTER_TIME).
pub const ZERO_KEYS_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());

/// Initiations accepted per peer and second (kernel).
pub const INITIATIONS_PER_SECOND: u32 = 50;

/// The least time between two accepted initiations of one peer (kernel `noise.c`).
pub const INITIATION_INTERVAL: Duration =
    Duration::from_millis(1000 / INITIATIONS_PER_SECOND as u64);

/// Nanoseconds in a timestamp are rounded down to a multiple of this: the largest power of two in
/// [`INITIATION_INTERVAL`], so that timestamps don't leak the clock (kernel `noise.c`).
pub const TIMESTAMP_GRANULARITY_NS: u32 = 1 << 24;

/// Bits of the replay bitmap (kernel COUNTER_BITS_TOTAL).
pub const REPLAY_BITS: u64 = 8192;

/// Counters at most this far behind the newest are accepted (RFC 6479: the bitmap less one word).
pub const REPLAY_WINDOW: u64 = REPLAY_BITS - 64;

/// Data is padded with zeros to a multiple of this (WP 5.4.6).
pub const PADDING_MULTIPLE: usize = 16;

/// Age at which the secret behind cookies is replaced (WP 5.4.7; kernel COOKIE_SECRET_MAX_AGE).
pub const COOKIE_SECRET_MAX_AGE: Duration = Duration::from_secs(120);

/// A received cookie is used for this long: the secret's age less 5 s of latency (kernel COOKIE_SECRET_LATENCY).
pub const COOKIE_USED_FOR: Duration = Duration::from_secs(115);

/// Handshake messages that may wait for the control core (kernel MAX_QUEUED_INCOMING_HANDSHAKES).
pub const MAX_QUEUED_HANDSHAKES: usize = 4096;

/// Waiting handshake messages from which a device counts as under load (kernel `receive.c`: an eighth).
pub const UNDER_LOAD_BACKLOG: usize = MAX_QUEUED_HANDSHAKES / 8;

/// A device stays under load for this long after the last full queue (kernel `receive.c`).
pub const UNDER_LOAD_LINGER: Duration = Duration::from_secs(1);

/// Handshake messages per second and source under load (kernel `ratelimiter.c`).
pub const RATE_PACKETS_PER_SECOND: u64 = 20;

/// Handshake messages that a rested source may send at once (kernel `ratelimiter.c`).
pub const RATE_BURST: u64 = 5;

/// Sources that the rate limiter remembers; further ones are refused (kernel `ratelimiter.c`).
pub const RATE_MAX_SOURCES: usize = 65_536;

/// Interval at which idle sources are forgotten (kernel `ratelimiter.c`).
pub const RATE_COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// Packets that wait per peer while there is no key; the oldest make room (kernel).
pub const MAX_STAGED_PACKETS: usize = 128;

/// Peers of one device (kernel MAX_PEERS_PER_DEVICE).
pub const MAX_PEERS: usize = 1 << 20;

/// Outer traffic class of handshake messages: AF41, no ECN (kernel HANDSHAKE_DSCP).
pub const HANDSHAKE_TOS: u8 = 0x88;

/// Peers whose timers are worked off in one [`crate::Device::handle_timeout`]: the control core has other work.
pub const TIMEOUTS_PER_CALL: usize = 64;
