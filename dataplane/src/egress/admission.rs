//! Admission: whether a peer can be sent to now.
//!
//! In: a peer. Out: a pass, or what is missing, which the control core is asked for. Never: a wait for it.

use culvert_wire::icmp::IcmpError;

use crate::{
    gateway::Refusal,
    shared::{drops::DropReason, peer::Peer},
    worker::{
        queues::{QueueIndex, Sending},
        turn::Turn,
    },
};

/// Whether a peer can be sent to now.
#[derive(Clone, Copy)]
pub(crate) enum Admission {
    /// It has a key and a way, which this queue is of: none if the worker has none there.
    Ready(Option<QueueIndex>),
    /// It has no usable key: the frame may wait for one.
    KeyWanted,
    /// It can't be sent to.
    Refused(DropReason),
}

/// Looks at a peer's key and way, and asks the control core for what is missing.
pub(crate) fn admission(turn: &Turn<'_>, sending: &Sending<'_>, peer: &Peer) -> Admission {
    let queue = {
        let path = peer.path();
        let Some(path) = path.as_ref() else {
            return Admission::Refused(DropReason::NoEndpoint);
        };
        if !path.is_resolved() {
            peer.want_next_hop(&path.hop, turn.now, turn.attention);
            return Admission::Refused(DropReason::NextHopUnresolved);
        }
        sending.queue(path.uplink(), peer.tunnel)
    };
    let keypair = peer.keypair();
    match keypair.as_ref() {
        Some(keypair) if keypair.sendable(turn.now).is_ok() => Admission::Ready(queue),
        Some(_) | None => {
            peer.want_key(turn.now, turn.attention);
            Admission::KeyWanted
        }
    }
}

/// What a refusal means for a frame: a peer without an endpoint is out of reach; a next hop is found in a moment.
pub(super) fn refusal(reason: DropReason) -> Refusal {
    Refusal {
        reason,
        tell: (reason == DropReason::NoEndpoint).then_some(IcmpError::Unreachable),
    }
}
