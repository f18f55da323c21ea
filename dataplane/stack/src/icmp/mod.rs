//! ICMP: errors that the stack sends and hears.
//!
//! In: packets that are not taken; errors from the wire. Out: errors within their limits; what an error says about a packet
//! of ours. Never: an answer to an error; a belief in who sends one: whether what it quotes was sent is looked at first.

mod heard;
mod limit;

pub use heard::{Heard, Problem, Quoted, hear_v4, hear_v6};
pub(crate) use heard::{is_error_v4, is_error_v6, read_v4, read_v6};
pub(crate) use limit::Limits;
