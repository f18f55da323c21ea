//! Door: a guest's burst, each frame for what the guest is attached with.
//!
//! In: a burst of one guest TX ring. Out: frames without a tag of ours, run by run of those that belong together. Never:
//! a frame in a VLAN that its port doesn't have; a look beyond the private head copy.
//!
//! An access port has one attachment, and its frames are not looked at: a tag in them is no business of ours but the
//! guard's. A trunk's frames are in the VLAN that their tag says. What a receiver could take for a tag behind that one
//! goes no further (CVE-2021-27853, RFC 7113): tags of VLAN 0, a second tag, LLC with SNAP.

use arrayvec::ArrayVec;
use culvert_vhost::TxBurst;
use culvert_wire::ether::Tagging;

use super::outbound;
use crate::{
    guest::frames::{Frames, GuestFrames},
    loss::{Lost, lose},
    shared::{
        drops::DropReason, ids::AttachmentIndex, limits::GUEST_BURST, punt::Punts, snapshot::Port,
    },
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Carries the `fetched` frames of a burst that the guest of `port` sent, as [`outbound`] does.
pub(crate) fn enter(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    punts: &mut Punts,
    port: &Port,
    (burst, fetched): (&mut TxBurst<'_>, usize),
    credit: &mut i64,
) -> usize {
    if port.is_trunk() {
        return enter_trunk(turn, tools, sending, punts, port, (burst, fetched), credit);
    }
    let attached = |index| turn.snapshot.attached(index);
    let Some(guest) = port.attachment.and_then(attached) else {
        return 0;
    };
    let frames = GuestFrames::new(burst, 0..fetched);
    outbound(turn, tools, sending, punts, guest, &frames, credit)
}

/// Where a frame belongs, or why it is lost.
type Home = Result<AttachmentIndex, DropReason>;

#[inline(never)]
fn enter_trunk(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    punts: &mut Punts,
    port: &Port,
    (burst, fetched): (&mut TxBurst<'_>, usize),
    credit: &mut i64,
) -> usize {
    let mut homes = ArrayVec::<Home, GUEST_BURST>::new();
    for frame in 0..fetched.min(GUEST_BURST) {
        homes.push(untag(port, burst, frame));
    }
    let mut done = 0;
    for run in homes.chunk_by(|a, b| a == b) {
        let frames = GuestFrames::new(burst, done..done + run.len());
        let home = run[0].and_then(|index| {
            let guest = turn.snapshot.attached(index);
            guest.ok_or(DropReason::VlanUnknown)
        });
        let carried = match home {
            Ok(guest) => outbound(turn, tools, sending, punts, guest, &frames, credit),
            Err(reason) => refuse(port, reason, &frames, credit),
        };
        done += carried;
        if carried < run.len() {
            break;
        }
    }
    done
}

/// Finds out where a frame of a trunk's belongs, and takes off the tag that says so.
fn untag(port: &Port, burst: &mut TxBurst<'_>, frame: usize) -> Home {
    let vlan = match Tagging::of(burst.frame(frame).head()) {
        Tagging::Vlan(vlan) => vlan,
        Tagging::Untagged => return port.attachment.ok_or(DropReason::VlanUntagged),
        Tagging::Priority => return Err(DropReason::VlanPriority),
        Tagging::Reserved => return Err(DropReason::VlanUnknown),
        Tagging::Stacked => return Err(DropReason::VlanStacked),
        Tagging::Llc => return Err(DropReason::VlanLlc),
        Tagging::Short => return Err(DropReason::FrameMalformed),
    };
    let home = port.vlan(vlan).ok_or(DropReason::VlanUnknown)?;
    burst.untag(frame);
    Ok(home)
}

/// Loses a run of frames, as far as their sender's credit lasts; answers how many.
fn refuse(port: &Port, reason: DropReason, frames: &impl Frames, credit: &mut i64) -> usize {
    for frame in 0..frames.count() {
        if *credit <= 0 {
            return frame;
        }
        *credit -= i64::try_from(frames.len(frame)).unwrap_or(i64::MAX);
        lose(port.books(), reason, Lost::Guest(frames, frame));
    }
    frames.count()
}
