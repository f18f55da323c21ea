//! Door: a guest's burst, each frame for what the guest is attached with.
//!
//! In: a burst of one guest TX ring. Out: its frames without a tag of ours, and where each belongs. Never: a frame in a
//! VLAN that its port doesn't have; a look beyond the private head copy; a burst cut up by its VLANs.
//!
//! An access port has one attachment, and its frames are not looked at: a tag in them is no business of ours but the
//! guard's. A trunk's frames are in the VLAN that their tag says. What a receiver could take for a tag behind that one
//! goes no further (CVE-2021-27853, RFC 7113): tags of VLAN 0, a second tag, LLC with SNAP.

use arrayvec::ArrayVec;
use culvert_vhost::TxBurst;
use culvert_wire::ether::Tagging;

use super::{Homes, outbound};
use crate::{
    guest::frames::GuestFrames,
    shared::{
        drops::DropReason,
        ids::AttachmentIndex,
        limits::GUEST_BURST,
        punt::Punts,
        snapshot::{Attached, Port},
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
    let frames = GuestFrames::new(burst, fetched);
    outbound(turn, tools, sending, punts, (port, &guest), &frames, credit)
}

/// Where each frame of a trunk's burst belongs.
struct Sorted<'s>(ArrayVec<Result<Attached<'s>, DropReason>, GUEST_BURST>);

impl<'s> Homes<'s> for Sorted<'s> {
    #[inline]
    fn of(&self, frame: usize) -> Result<Attached<'s>, DropReason> {
        self.0[frame]
    }
}

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
    let mut sorted = Sorted(ArrayVec::new());
    for frame in 0..fetched.min(GUEST_BURST) {
        let home = untag(port, burst, frame).and_then(|index| {
            let guest = turn.snapshot.attached(index);
            guest.ok_or(DropReason::VlanUnknown)
        });
        sorted.0.push(home);
    }
    let frames = GuestFrames::new(burst, sorted.0.len());
    outbound(
        turn,
        tools,
        sending,
        punts,
        (port, &sorted),
        &frames,
        credit,
    )
}

/// Finds out where a frame of a trunk's belongs, and takes off the tag that says so.
fn untag(
    port: &Port,
    burst: &mut TxBurst<'_>,
    frame: usize,
) -> Result<AttachmentIndex, DropReason> {
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
