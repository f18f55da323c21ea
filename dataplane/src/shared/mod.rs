//! Shared: what workers and the control core both hold.
//!
//! In: the control core's configuration ([`snapshot`]), what changes by itself beside it ([`peer`], [`path`],
//! [`sessions`]), the rings and doorbells between threads ([`control_link`],
//! [`stack_link`], [`punt`], [`wake`]). Out: the same, to whoever reads.
//! Never: a step of a packet's way.

pub mod allowance;
pub(crate) mod asked;
pub mod awaited;
pub(crate) mod bell;
pub mod clock;
pub mod control_link;
pub mod drops;
pub mod exception_link;
pub mod frames;
pub mod hop;
pub mod ids;
pub mod leaves;
pub mod limits;
pub mod link_locals;
pub(crate) mod marks;
pub mod path;
pub mod peer;
pub mod punt;
pub mod sessions;
pub mod snapshot;
pub mod stack_link;
pub(crate) mod sync;
pub mod wake;
