//! The packet generator and analyser, as far as it is pure.
//!
//! In: what an operator asks for, the time, buffers to fill, frames that came back. Out: frames at their intended times,
//! counts and latencies per flow, which load to try next. Never: a socket, a clock, a thread, a device, an allocation per packet.
//!
//! A seat is where frames leave and arrive: a guest's place on vhost-user, a NIC's, a kernel's. It is built elsewhere, on
//! two values: a [`Transmit`], which it asks what is due and has fill buffers, and a [`Receive`], which it hands what
//! arrives, with the time. Both count nanoseconds from the trial's beginning, on a clock that the seat chooses.
//!
//! A trial meets the modules in this order: [`profile`] reads what is asked for (a [`tree`] of texts), in terms of [`size`],
//! [`mix`], [`rate`] and [`range`]; [`pace`] says when packets leave; [`frames`] makes them, for [`transmit`]; [`receive`]
//! judges what comes back; a [`trial`] is both, put together;
//! [`search`] chooses the next one's load. [`replay`] sends captures instead of streams.

#![forbid(unsafe_code)]

pub mod frames;
pub mod limits;
pub mod mistake;
pub mod mix;
mod number;
pub mod pace;
pub mod profile;
pub mod range;
pub mod rate;
pub mod receive;
pub mod replay;
pub mod report;
pub mod search;
pub mod size;
pub mod timeline;
pub mod transmit;
pub mod tree;
pub mod trial;

pub use mistake::{Mistake, Wrong};
pub use profile::Profile;
pub use receive::Receive;
pub use transmit::Transmit;
pub use trial::Trial;
