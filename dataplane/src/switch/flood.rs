//! Flood: broadcast and multicast, a copy to each other port of the network.
//!
//! In: frames of one port that everybody should hear. Out: a copy in each ring or interface that hears. Never: a copy
//! to the sender, or into a tunnel.
//!
//! A flooded frame costs its sender its bytes once for each copy ([`copies`]).

use culvert_wire::parse::Headers;

use super::switched::switched;
use crate::{
    guest::frames::Frames,
    loss::{Lost, lose_all},
    shared::{drops::DropReason, ids::AttachmentIndex, snapshot::Attached},
    worker::turn::{Tools, Turn},
};

/// How many copies of a frame there will be, which its sender is charged for.
pub(crate) fn copies(sender: Attached<'_>) -> usize {
    let itself = usize::from(!sender.port.guest.is_ip_only());
    sender.network.listeners.saturating_sub(itself).max(1)
}

/// Delivers frames of a burst of `sender` to all others of its network.
pub(crate) fn flood<'h, F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sender: Attached<'_>,
    frames: &F,
    flooded: impl Iterator<Item = (usize, &'h Headers, bool)> + Clone,
) {
    let mut heard = false;
    // An interface that speaks IP alone has no neighbors, and hears no broadcast.
    let hears = |index: AttachmentIndex| {
        let other = turn.snapshot.attached(index);
        index != sender.attachment.index && other.is_none_or(|other| !other.port.guest.is_ip_only())
    };
    let others = sender.network.macs.iter().map(|&(_, other)| other);
    for other in others.filter(|&other| hears(other)) {
        heard = true;
        switched(turn, tools, sender, other, frames, flooded.clone());
    }
    if !heard {
        let lost = flooded.map(|(frame, ..)| Lost::Guest(frames, frame));
        lose_all(sender.port.books(), DropReason::NoListener, lost);
    }
}
