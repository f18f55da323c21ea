//! What every stage of one turn may look at, and the tools it works with.
//!
//! In: the worker's state. Out: borrows for the length of a turn. Never: anything
//! that outlives the turn.

use culvert_aead::Engine;
use culvert_wire::coalesce::Coalescer;
use culvert_wireguard::Instant;

use crate::{
    egress::staged::Staged,
    shared::{clock, control_link::Attention, ids::TunnelIndex, limits, snapshot::Snapshot},
    uplink::Tx,
    worker::rate::Rate,
};

/// The constant part of a turn.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Instant,
    pub(crate) attention: &'a Attention,
    /// This worker's number, for spreading over a guest's queues.
    pub(crate) worker: u32,
}

/// A worker's sending halves, found by tunnel.
pub(crate) struct Sending<'a> {
    queues: &'a mut [Tx],
    by_tunnel: &'a [Option<usize>],
}

impl<'a> Sending<'a> {
    pub(crate) fn new(queues: &'a mut [Tx], by_tunnel: &'a [Option<usize>]) -> Self {
        Self { queues, by_tunnel }
    }

    /// Which of the worker's queues serves `tunnel`.
    pub(crate) fn position(&self, tunnel: TunnelIndex) -> Option<usize> {
        *self.by_tunnel.get(tunnel.slot())?
    }

    /// The queue at `position`.
    pub(crate) fn queue(&mut self, position: usize) -> Option<&mut Tx> {
        self.queues.get_mut(position)
    }
}

/// What a worker works with, whatever the direction.
pub(crate) struct Tools {
    pub(crate) engine: Engine,
    pub(crate) staged: Staged,
    pub(crate) coalescer: Coalescer,
    /// Handshake messages that may be looked at: with a cookie, without.
    pub(crate) calls: [Rate; 2],
    /// Room for one frame of any size.
    pub(crate) scratch: Box<[u8]>,
}

impl Tools {
    pub(crate) fn new() -> Self {
        let now = clock::monotonic();
        Self {
            engine: Engine::new(),
            staged: Staged::new(),
            coalescer: Coalescer::new(limits::UPLINK_BURST),
            calls: [(); 2].map(|()| Rate::new(limits::CALLS_BURST, now)),
            scratch: vec![0; limits::FRAME_MAX].into_boxed_slice(),
        }
    }
}
