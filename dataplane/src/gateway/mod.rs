//! Gateway: the router that a network's guests see.
//!
//! In: questions of guests, and packets that can't go on. Out: one [`answer`] each. Never: a packet's own way.

pub(crate) mod answer;
