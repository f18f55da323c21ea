//! Admission: whether a peer can be sent to now.
//!
//! In: a peer. Out: its way, or what is missing, which the control core is asked for. Never: a wait for it.

use std::sync::Arc;

use culvert_wire::icmp::IcmpError;
use culvert_wireguard::Keypair;

use crate::{
    gateway::Refusal,
    shared::{drops::DropReason, path::Path, peer::Peer},
    worker::{
        queues::{QueueIndex, Sending},
        turn::Turn,
    },
};

/// The way that a peer's frames take, once it is admitted: whatever has become of the peer's path and key by then.
pub(crate) struct Way {
    pub(crate) keypair: Arc<Keypair>,
    pub(crate) path: Arc<Path>,
    /// The queue that the path takes; none if the worker has none there.
    pub(crate) queue: Option<QueueIndex>,
}

/// Why a peer can't be sent to now.
#[derive(Clone, Copy)]
pub(crate) enum Unready {
    /// It has no usable key: the frame may wait for one.
    KeyWanted,
    /// It can't be sent to.
    Refused(DropReason),
}

/// Looks at a peer's way and key, and asks the control core for what is missing.
pub(crate) fn admission(
    turn: &Turn<'_>,
    sending: &Sending<'_>,
    peer: &Peer,
) -> Result<Way, Unready> {
    let path = peer.path();
    let Some(path) = path.as_ref() else {
        return Err(Unready::Refused(DropReason::NoEndpoint));
    };
    if !path.is_resolved() {
        peer.want_next_hop(&path.hop, turn.now, turn.attention);
        return Err(Unready::Refused(DropReason::NextHopUnresolved));
    }
    let keypair = peer.keypair();
    match keypair.as_ref() {
        Some(keypair) if keypair.sendable(turn.now).is_ok() => Ok(Way {
            keypair: Arc::clone(keypair),
            path: Arc::clone(path),
            queue: sending.queue(path.uplink(), peer.tunnel),
        }),
        Some(_) | None => {
            peer.want_key(turn.now, turn.attention);
            Err(Unready::KeyWanted)
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
