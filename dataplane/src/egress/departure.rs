//! Departure: what becomes of one frame that is bound for a peer.
//!
//! In: a frame's headers and metadata, its peer, what it is to us. Out: its cutting plan and its part of the outer
//! header, or why it can't leave. Never: a look at keys or room, a byte beyond the private head copy.
//!
//! ```text
//!  room  | data header (16) | ahead (0) | inner IP + L4 head | payload | padding | tag (16) |
//!                           |<------ head_len() ------------>|
//!                           |<----------- packet_len(), padded to 16, sealed ---->|
//! ```
//! What a frame is encapsulated in, inside the tunnel, goes `ahead`: nothing today. Only [`Departure`] knows its length,
//! and only [`Departure::write_head`] writes it.

use std::{ops::Range, sync::Arc};

use culvert_wire::{
    Checksum, VnetHeader,
    icmp::IcmpError,
    parse::{Headers, L3, L4},
    segment::{Plan, SegmentError, may_fragment},
    tcp,
};
use culvert_wireguard::padding::padded_len;

use crate::{
    egress::staged::Sender,
    gateway::{Refusal, mss},
    guest::frames::Frames,
    shared::{drops::DropReason, limits::IPV6_MTU_MIN, peer::Peer},
    uplink::Outer,
    worker::turn::Turn,
};

/// What a frame is to us, which says what changes on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It comes through the router: its hop limit falls.
    Routed,
    /// It crosses a plain network: nothing changes.
    Plain,
    /// It begins here.
    Own,
}

/// A frame that is to leave.
pub(crate) struct Bound<'h, 's> {
    /// Its place in the batch.
    pub(crate) frame: usize,
    /// What it says.
    pub(crate) headers: &'h Headers,
    /// Who sent it.
    pub(crate) sender: Sender,
    /// Who gets it.
    pub(crate) peer: &'s Arc<Peer>,
    /// What it is to us.
    pub(crate) passage: Passage,
}

/// A frame that leaves.
pub(crate) struct Departure<'s> {
    /// Its place in the batch.
    pub(crate) frame: usize,
    /// Who gets it.
    pub(crate) peer: &'s Arc<Peer>,
    /// Its peer's way among the batch's, once that is admitted.
    pub(crate) way: usize,
    /// How it is cut.
    pub(crate) plan: Plan,
    /// The tunnel's MTU, or what the peer's path takes, if that is less: padding stays within it.
    pub(crate) mtu: usize,
    /// The outer IP header's part: the inner ECN bits.
    pub(crate) outer: Outer,
    /// The frame was routed, so its hop limit falls by one.
    routed: bool,
    /// It begins a connection: where TCP begins in the head, and the most that it may offer as MSS.
    clamp: Option<(u16, u16)>,
}

/// Plans how a frame leaves.
#[inline]
pub(super) fn plan<'s, F: Frames>(
    turn: &Turn<'_>,
    frames: &F,
    bound: &Bound<'_, 's>,
) -> Result<Departure<'s>, Refusal> {
    let Bound {
        frame,
        headers,
        peer,
        passage,
        ..
    } = *bound;
    let Some(tunnel) = turn.snapshot.tunnel(peer.tunnel) else {
        return Err(DropReason::NoRoute.into());
    };
    let (vnet, head) = (frames.vnet(frame), frames.head(frame));
    let mut mtu = usize::from(tunnel.mtu);
    if passage == Passage::Plain && vnet.gso_type == VnetHeader::GSO_NONE {
        // The interface let it pass: its MTU has just changed, and the news is on its way.
        mtu = mtu.max(headers.ip_len);
    }
    let limit = usize::from(peer.limit());
    if limit < mtu {
        mtu = mtu.min(narrow(limit, headers));
    }
    let plan = match Plan::recut(vnet, headers, head, mtu) {
        Ok(plan) => plan,
        Err(SegmentError::TooBig { .. }) => too_big(frames, bound, mtu)?,
        Err(_) => return Err(DropReason::OffloadInvalid.into()),
    };
    let Some(outer) = outer(headers, head, passage) else {
        return Err(DropReason::TtlExceeded.into());
    };
    Ok(Departure {
        frame,
        peer,
        way: 0,
        plan,
        mtu,
        outer,
        routed: passage == Passage::Routed,
        clamp: (tunnel.mss_clamp && mss::is_syn(headers)).then(|| {
            let at = u16::try_from(headers.l4_offset - headers.l3_offset).unwrap_or(u16::MAX);
            (at, mss::most(tunnel, peer, headers))
        }),
    })
}

/// What a path that takes packets of `limit` bytes means for one: IPv6 packets of the least MTU are never refused
/// (RFC 8200, section 5), the datagrams around them are cut outside.
fn narrow(limit: usize, headers: &Headers) -> usize {
    match headers.l3 {
        L3::V6(_) => limit.max(IPV6_MTU_MIN),
        L3::V4(_) | L3::Arp | L3::Other => limit,
    }
}

/// A packet that exceeds the MTU goes out in fragments if its sender lets it, as through any router (RFC 1812, section
/// 5.2.6); else the sender is told.
#[cold]
fn too_big<F: Frames>(frames: &F, bound: &Bound<'_, '_>, mtu: usize) -> Result<Plan, Refusal> {
    let Bound { frame, headers, .. } = *bound;
    let (vnet, head) = (frames.vnet(frame), frames.head(frame));
    let told = Refusal {
        reason: DropReason::TooBig,
        tell: Some(IcmpError::TooBig {
            mtu: u32::try_from(mtu).unwrap_or(u32::MAX),
        }),
    };
    if !may_fragment(vnet, headers) {
        return Err(told);
    }
    let sum = |part| sum(frames, frame, part);
    Plan::fragment(vnet, headers, head, mtu, sum).map_err(|error| {
        if error == SegmentError::TooMany {
            return told;
        }
        DropReason::OffloadInvalid.into()
    })
}

/// The sum of a part of a frame.
fn sum<F: Frames>(frames: &F, frame: usize, part: Range<usize>) -> Option<Checksum> {
    let mut room = [0; 2048];
    let mut sum = Checksum::ZERO;
    for start in part.clone().step_by(room.len()) {
        let len = room.len().min(part.end - start);
        let piece = &mut room[..len];
        frames.copy(frame, start, piece).then_some(())?;
        sum.add(piece);
    }
    Some(sum)
}

/// What the outer IP header takes from the inner one: its ECN field (RFC 6040, section
/// 4.1). `None` if the packet has been through too many tunnels.
///
/// What crosses a plain network keeps its hop limit. So two tunnels whose endpoints lie
/// behind each other would carry a packet round for ever, larger each time, and cut to ever
/// more pieces. Therefore a packet that may itself come out of a tunnel hands its hop
/// limit, less one, on to the packet around it.
#[inline]
fn outer(headers: &Headers, head: &[u8], passage: Passage) -> Option<Outer> {
    let tos = headers.traffic_class().unwrap_or(0) & 3;
    if passage != Passage::Plain || !may_be_sealed(headers, head) {
        return Some(Outer::from(tos));
    }
    let hop_limit = match &headers.l3 {
        L3::V4(ip) => ip.ttl,
        L3::V6(ip) => ip.hop_limit,
        L3::Arp | L3::Other => return Some(Outer::from(tos)),
    };
    let hops = hop_limit.checked_sub(1).filter(|&hops| hops > 0)?;
    Some(Outer {
        hops,
        ..Outer::from(tos)
    })
}

/// Whether this looks like a WireGuard message (whitepaper, section 5.4), or is a
/// fragment, which may be a piece of one.
fn may_be_sealed(headers: &Headers, head: &[u8]) -> bool {
    match headers.l4 {
        L4::Fragment => true,
        L4::Udp(_) => {
            let payload = head.get(headers.payload_offset..);
            payload.is_some_and(|payload| matches!(payload, [1..=4, 0, 0, 0, ..]))
        }
        L4::Tcp(_) | L4::Icmp4(_) | L4::Icmp6(_) | L4::Malformed | L4::Other => false,
    }
}

impl Departure<'_> {
    /// The length of a packet whose IP packet has `len` bytes, with what goes ahead of it and with padding.
    #[inline]
    pub(super) fn packet_len(&self, len: usize) -> usize {
        padded_len(len, self.mtu)
    }

    /// Bytes that [`Self::write_head`] writes for packet `segment`.
    #[inline]
    pub(super) fn head_len(&self, segment: usize) -> usize {
        self.plan.header_len(segment)
    }

    /// Writes what goes ahead of the payload of packet `segment`: `payload` is that payload's sum.
    #[inline]
    pub(super) fn write_head<F: Frames>(
        &self,
        frames: &F,
        segment: usize,
        payload: Checksum,
        head: &mut [u8],
    ) {
        self.plan
            .write_headers(segment, frames.head(self.frame), payload, head);
        if self.routed {
            decrement_hop_limit(head);
        }
        if let Some((at, most)) = self.clamp {
            tcp::clamp_mss(head.get_mut(at.into()..).unwrap_or_default(), most);
        }
    }
}

/// Lowers the hop limit of the IP packet that begins with `head` by one. Its caller
/// made sure that it is above one.
pub(crate) fn decrement_hop_limit(head: &mut [u8]) {
    match head.first().map(|first| first >> 4) {
        Some(4) if head.len() >= 20 => {
            let old = u16::from_be_bytes([head[8], head[9]]);
            head[8] = head[8].wrapping_sub(1);
            let new = u16::from_be_bytes([head[8], head[9]]);
            let field = u16::from_be_bytes([head[10], head[11]]);
            let field = culvert_wire::checksum::update(field, old, new);
            head[10..12].copy_from_slice(&field.to_be_bytes());
        }
        Some(6) if head.len() >= 8 => head[7] = head[7].wrapping_sub(1),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_hop_limit_keeps_the_header_checksum_right() {
        for ttl in [2, 64, 255] {
            let mut header = [
                0x45, 0, 0, 84, 1, 2, 0x40, 0, ttl, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            let sum = Checksum::of(&header).complement();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            decrement_hop_limit(&mut header);
            assert_eq!(header[8], ttl - 1);
            assert!(Checksum::of(&header).is_valid());
        }
    }
}
