//! Frames: made once per stream and size, and changed in few bytes per packet.
//!
//! In: a checked stream, a flow's place in its ranges, sequence and time. Out: finished frames in buffers that the caller has.
//! Never: an allocation per frame, a sum over a payload per frame.

#![allow(
    clippy::cast_possible_truncation,
    reason = "bytes are cut out of words"
)]

mod flows;
pub mod signature;
mod template;

pub(crate) use self::{
    flows::{Addresses, Odometer},
    signature::Signature,
    template::{Made, Template},
};

/// What follows a signature in every segment, by its place in the segment: not to be made shorter by compression, and
/// nowhere the same for long.
pub(crate) fn payload_byte(place: usize) -> u8 {
    let mixed = (place as u32).wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as u8 ^ (mixed >> 11) as u8
}
