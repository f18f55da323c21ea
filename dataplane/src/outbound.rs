//! Outbound: one burst from a guest to where it goes.
//!
//! In: a burst of frames from one guest TX ring (or one frame from our own memory).
//! Out: sealed datagrams on an uplink, frames in other guests' rings, answers to the
//! guest. Never: a wait, an allocation, a second look at bytes that a decision was
//! made on.
//!
//! 1. `classify` gives each frame its verdict, once.
//! 2. `seal` takes the tunnel's frames in order, in sub-batches of wire packets:
//!    rooms, then counters, then the batched AEAD, then the uplink. A frame that
//!    finds no room stays in the guest's ring, and so does everything behind it.
//! 3. `switch` and `answer` serve the rest of the frames that were reached.

use std::sync::Arc;

use culvert_wire::{
    L3, MacAddr,
    parse::{Headers, parse_frame},
    segment::{Plan, SegmentError},
};

use crate::{
    drops::DropReason,
    frames::Frames,
    guard,
    ids::PortIndex,
    limits,
    peer::{Peer, signal},
    seal::{Outcome, SubBatch},
    snapshot::{Network, NextHop, Port, Snapshot},
    turn::{Sending, Tools, Turn},
};
