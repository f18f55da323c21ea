//! The packet generator and analyser, as far as it is pure.
//!
//! In: what an operator asks for, the time, buffers to fill, frames that came back. Out: frames at their intended times,
//! counts and latencies per flow. Never: a socket, a clock, a thread, a device, an allocation per packet.
//!
//! [`profile`] reads what is asked for (a [`tree`] of texts), in terms of [`size`], [`mix`], [`rate`] and [`range`]; [`pace`]
//! says when packets leave.

#![forbid(unsafe_code)]

pub mod limits;
pub mod mistake;
pub mod mix;
mod number;
pub mod pace;
pub mod profile;
pub mod range;
pub mod rate;
pub mod size;
pub mod tree;

pub use mistake::{Mistake, Wrong};
pub use profile::Profile;
