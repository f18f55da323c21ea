//! Switched: frames of one guest for another of its network.
//!
//! In: frames of a burst, with their metadata, and the port that they are for. Out: frames in that port's ring or
//! interface, cut and checksummed exactly as far as its guest did not negotiate otherwise; through the gateway with its
//! MAC addresses and a lower hop limit. Never: a choice of the port.

use culvert_vhost::Offloads;
use culvert_wire::{
    Checksum, EtherType, VnetHeader,
    parse::{HEAD_LEN, Headers},
    segment::{Plan, forwardable},
};

use crate::{
    egress::departure::decrement_hop_limit,
    guest::{
        deliver::{self, ETHERNET, Outlet},
        frames::Frames,
    },
    loss::{Lost, lose, lose_all},
    shared::{drops::DropReason, ids::AttachmentIndex, snapshot::Attached},
    worker::turn::{Tools, Turn},
};

/// Delivers frames of a burst of `sender` to another guest of the same network.
pub(crate) fn switched<'h, F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sender: Attached<'_>,
    target: AttachmentIndex,
    frames: &F,
    chosen: impl Iterator<Item = (usize, &'h Headers, bool)> + Clone,
) {
    let Some(target) = turn.snapshot.attached(target) else {
        let lost = chosen.map(|(frame, ..)| Lost::Guest(frames, frame));
        lose_all(sender.port.books(), DropReason::NoRoute, lost);
        return;
    };
    // Frames of one guest queue go to one queue of the other: order holds.
    let to = deliver::queue(target.port, turn.worker);
    let Some(mut outlet) = Outlet::open(target, to, || chosen.clone().count()) else {
        return;
    };
    let offloads = outlet.offloads();
    let is_trunk = target.port.is_trunk();
    for (frame, headers, routed) in chosen {
        if is_trunk && let Some(reason) = misleading(headers.ether.ether_type) {
            lose(sender.port.books(), reason, Lost::Guest(frames, frame));
            continue;
        }
        let mut head = [0; HEAD_LEN];
        let private = frames.head(frame);
        let head = &mut head[..private.len()];
        head.copy_from_slice(private);
        if routed {
            let (ethernet, packet) = head.split_at_mut(ETHERNET);
            ethernet[..6].copy_from_slice(&target.attachment.mac.0);
            ethernet[6..12].copy_from_slice(&sender.network.gateway_mac.0);
            decrement_hop_limit(packet);
        }
        // It was found to be valid when the frame was classified.
        let vnet = forwardable(frames.vnet(frame), headers, private);
        let done = match vnet {
            Ok(vnet) if accepts(&vnet, offloads) => {
                outlet.forward(frames, frame, &vnet, head, &mut tools.scratch)
            }
            Ok(_) => cut(tools, frames, frame, headers, head, &mut outlet),
            Err(_) => false,
        };
        if !done {
            let lost = Lost::Guest(frames, frame);
            lose(sender.port.books(), DropReason::OffloadInvalid, lost);
        }
    }
}

/// Why a frame is none for a trunk: behind its type there may be a tag, and its receiver would find it in a VLAN that
/// the sender is not in. Of ports without VLANs it comes as it is.
fn misleading(ether_type: EtherType) -> Option<DropReason> {
    match ether_type {
        it if it.is_tag() => Some(DropReason::VlanStacked),
        it if it.is_length() => Some(DropReason::VlanLlc),
        _ => None,
    }
}

/// Whether a guest takes a frame with this metadata as it is.
fn accepts(vnet: &VnetHeader, offloads: Offloads) -> bool {
    let kind = match vnet.gso_kind() {
        VnetHeader::GSO_NONE => Offloads::empty(),
        VnetHeader::GSO_TCPV4 => Offloads::GUEST_TSO4,
        VnetHeader::GSO_TCPV6 => Offloads::GUEST_TSO6,
        VnetHeader::GSO_UDP_L4 => Offloads::GUEST_USO4 | Offloads::GUEST_USO6,
        _ => return false,
    };
    let ecn = if vnet.gso_type & VnetHeader::GSO_ECN != 0 {
        Offloads::GUEST_ECN
    } else {
        Offloads::empty()
    };
    let checksum = if vnet.needs_csum() {
        Offloads::GUEST_CSUM
    } else {
        Offloads::empty()
    };
    offloads.contains(kind | ecn | checksum)
}

/// Cuts a frame, or completes its checksum, for a guest that can't do so itself; `false`
/// if it can't be done (an IPv6 packet may be longer than any that is cut).
fn cut<F: Frames>(
    tools: &mut Tools,
    frames: &F,
    frame: usize,
    headers: &Headers,
    head: &[u8],
    outlet: &mut Outlet<'_>,
) -> bool {
    let Ok(plan) = Plan::new(frames.vnet(frame), headers, head, usize::from(u16::MAX)) else {
        return false;
    };
    for index in 0..plan.count() {
        let segment = plan.segment(index);
        let payload = ETHERNET + plan.header_len(index);
        let end = payload + segment.payload.len();
        let out = &mut tools.scratch[..end];
        if !frames.copy(frame, segment.payload.start, &mut out[payload..]) {
            return index > 0;
        }
        out[..ETHERNET].copy_from_slice(&head[..ETHERNET]);
        let (front, data) = out.split_at_mut(payload);
        plan.write_headers(index, head, Checksum::of(data), &mut front[ETHERNET..]);
        outlet.deliver(&VnetHeader::default(), &[&*out]);
    }
    true
}
