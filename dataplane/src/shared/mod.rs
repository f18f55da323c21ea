//! Shared: what workers and the control core both hold.
//!
//! In: the control core's configuration ([`snapshot`]), what changes by itself beside it ([`peer`], [`path`],
//! [`sessions`]), the rings and doorbells between threads ([`control_link`], [`punt`], [`wake`]). Out: the same, to whoever reads.
//! Never: a step of a packet's way.

pub mod allowance;
pub mod clock;
pub mod control_link;
pub mod drops;
pub mod ids;
pub mod limits;
pub mod link_locals;
pub mod path;
pub mod peer;
pub mod punt;
pub mod sessions;
pub mod snapshot;
pub mod wake;
