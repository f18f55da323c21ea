//! What every stage of one turn may look at, and the tools it works with.
//!
//! In: the worker's state. Out: borrows for the length of a turn. Never: anything
//! that outlives the turn.

use culvert_aead::Engine;
use culvert_wire::coalesce::Coalescer;
use culvert_wireguard::Instant;

use crate::{
    egress::staged::Staged,
    shared::{clock, control_link::Attention, limits, snapshot::Snapshot},
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
