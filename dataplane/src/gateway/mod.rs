//! Gateway: the router that a network's guests and peers see.
//!
//! In: questions of guests, and packets that can't go on. Out: one [`answer`] each to a guest, an [`error`] to a peer;
//! what is asked of a [`service`], to whoever serves it. Where the network says so, a smaller [`mss`] in SYNs. Never: a
//! packet's own way.

pub(crate) mod answer;
pub(crate) mod error;
pub(crate) mod mss;
pub(crate) mod service;

use culvert_wire::icmp::IcmpError;

use crate::shared::drops::DropReason;

/// Why a packet can't go on.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// The name of the loss.
    pub(crate) reason: DropReason,
    /// What its sender should hear.
    pub(crate) tell: Option<IcmpError>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, tell: None }
    }
}
