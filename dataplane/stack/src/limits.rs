//! Every bound of the stack, and where it comes from.

/// Neighbors that a host stack knows: a /22 full of them (Linux's `gc_thresh3`).
pub const HOST_NEIGHBORS: usize = 1_024;

/// Frames of a host stack that wait to be sent.
pub const HOST_OUTPUT: usize = 256;

/// How many of [`HOST_OUTPUT`] answers to others leave free for our own questions.
pub const HOST_OUTPUT_RESERVED: usize = 64;

/// Answers of a host stack per second, of each kind (neighbors, echo).
pub const HOST_REPLIES_PER_SECOND: u32 = 1_000;

/// Probes of paths per second, to all peers together: 100,000 peers whose paths are known take 1,667 a second if all of
/// them are sent to, and wait a little longer then.
pub const PROBES_PER_SECOND: u64 = 1_000;
