//! Deliver: frames into guest RX rings and interfaces.
//!
//! In: frames in pieces, with metadata that the receiver takes. Out: the same in the
//! guest's ring or the host's interface, with the tag of the guest's VLAN, if it is
//! attached by one. Never: two RX rings held at once, a wait for buffers.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use culvert_vhost::{Offloads, RxBurst};
use culvert_wire::{
    VnetHeader,
    coalesce::Accept,
    ether::{self, TAG_LEN, TAG_OFFSET, VlanId},
    parse::HEAD_LEN,
};

use crate::{
    guest::{frames::Frames, tun::Writer},
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        limits::UPLINK_BURST,
        snapshot::{Attached, Guest, Port},
    },
};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = ether::HEADER_LEN;

/// How far offsets move when a tag is put on.
#[allow(clippy::cast_possible_truncation, reason = "it is 4")]
const TAG: u16 = TAG_LEN as u16;

/// The parts that a frame is delivered in, at the most: a header, one that is joined, and a burst's packets.
pub(crate) const PARTS_MAX: usize = UPLINK_BURST + 2;

/// The guest queue that takes a flow with this hash: any of those that run, always the
/// same one for a flow while the guest does not change its queues.
pub(crate) fn queue(port: &Port, hash: u32) -> u16 {
    let live = |queue: &u16| port.guest.takes(*queue);
    let count = u32::try_from((0..port.queues).filter(live).count())
        .unwrap_or(0)
        .max(1);
    (0..port.queues)
        .filter(live)
        .nth((hash % count) as usize)
        .unwrap_or(0)
}

/// A queue of a port that takes frames, held for one burst.
pub(crate) struct Outlet<'p> {
    queue: Queue<'p>,
    /// Whose tag frames are given.
    vlan: Option<VlanId>,
}

enum Queue<'p> {
    /// A guest RX ring.
    Ring(RxBurst<'p>),
    /// A queue of an interface.
    Tun(Writer<'p>),
}

impl<'p> Outlet<'p> {
    /// Takes queue `queue` of a guest's port; a ring that can't be had has counted the
    /// loss of `count` frames.
    pub(crate) fn open(
        guest: Attached<'p>,
        queue: u16,
        count: impl FnOnce() -> usize,
    ) -> Option<Self> {
        let (port, vlan) = (guest.port, guest.attachment.vlan);
        let queue = match &port.guest {
            Guest::Vhost(guest) => {
                let ring = guest.guest_rx(queue);
                match ring.lock_briefly() {
                    Ok(rx) => Some(Queue::Ring(rx)),
                    Err(reason) => {
                        ring.counters().add_drops(reason, count() as u64);
                        None
                    }
                }
            }
            Guest::Tun(tun) if tun.is_gone() => {
                let lost = Lost::Count(count());
                lose(port.books(), DropReason::InterfaceDown, lost);
                None
            }
            Guest::Tun(tun) => Writer::new(tun, queue, port.books()).map(Queue::Tun),
        };
        queue.map(|queue| Self { queue, vlan })
    }

    /// What the receiver takes.
    pub(crate) fn offloads(&self) -> Offloads {
        match &self.queue {
            Queue::Ring(rx) => rx.offloads(),
            Queue::Tun(writer) => writer.tun().offloads(),
        }
    }

    /// Delivers a frame whose parts lie one behind the other; the first part holds at
    /// least its Ethernet header. What is lost has been counted.
    #[inline]
    pub(crate) fn deliver(&mut self, vnet: &VnetHeader, parts: &[&[u8]]) {
        match self.vlan {
            None => self.queue.deliver(vnet, parts),
            Some(vlan) => self.deliver_tagged(vlan, vnet, parts),
        }
    }

    #[inline(never)]
    fn deliver_tagged(&mut self, vlan: VlanId, vnet: &VnetHeader, parts: &[&[u8]]) {
        let Some((&first, rest)) = parts.split_first() else {
            return;
        };
        let mut room = [0; ETHERNET + TAG_LEN];
        let (header, behind) = first.split_at(ETHERNET.min(first.len()));
        let mut tagged = ArrayVec::<&[u8], { PARTS_MAX + 1 }>::new();
        tagged.push(put_in(vlan, header, &mut room));
        if !behind.is_empty() {
            tagged.push(behind);
        }
        tagged.extend(rest.iter().copied());
        self.queue.deliver(&vnet.moved_on(TAG), &tagged);
    }

    /// Delivers frame `i`, with `head` in place of its first bytes. What is lost has been
    /// counted; `false` if its bytes can't be had.
    pub(crate) fn forward<F: Frames>(
        &mut self,
        frames: &F,
        i: usize,
        vnet: &VnetHeader,
        head: &[u8],
        scratch: &mut [u8],
    ) -> bool {
        let known = head.len();
        match self.vlan {
            None => self.queue.forward(frames, i, vnet, (head, known), scratch),
            Some(vlan) => {
                let mut room = [0; HEAD_LEN + TAG_LEN];
                let head = put_in(vlan, head, &mut room);
                let vnet = vnet.moved_on(TAG);
                self.queue.forward(frames, i, &vnet, (head, known), scratch)
            }
        }
    }
}

impl Queue<'_> {
    fn deliver(&mut self, vnet: &VnetHeader, parts: &[&[u8]]) {
        match self {
            Self::Ring(rx) => {
                let _ = rx.deliver(vnet, parts);
            }
            Self::Tun(writer) => writer.deliver(vnet, parts),
        }
    }

    /// As [`Outlet::forward`]: `head` is in place of the first `known` bytes.
    fn forward<F: Frames>(
        &mut self,
        frames: &F,
        i: usize,
        vnet: &VnetHeader,
        (head, known): (&[u8], usize),
        scratch: &mut [u8],
    ) -> bool {
        match self {
            Self::Ring(rx) => {
                let _ = frames.deliver(i, vnet, (head, known), rx);
                true
            }
            Self::Tun(writer) => {
                let rest = match frames.private(i) {
                    Some(whole) => whole.get(known..).unwrap_or_default(),
                    // Guest memory is not for system calls: it may be unmapped under us.
                    None => {
                        let Some(rest) = scratch.get_mut(..frames.len(i).saturating_sub(known))
                        else {
                            return false;
                        };
                        if !frames.copy(i, known, rest) {
                            return false;
                        }
                        rest
                    }
                };
                writer.deliver(vnet, &[head, rest]);
                true
            }
        }
    }
}

/// A frame's first bytes with a tag behind the addresses. There is room for `head` and the tag.
fn put_in<'r>(vlan: VlanId, head: &[u8], room: &'r mut [u8]) -> &'r [u8] {
    let tagged = &mut room[..head.len() + TAG_LEN];
    let (addresses, rest) = head.split_at(TAG_OFFSET.min(head.len()));
    let (front, back) = tagged.split_at_mut(addresses.len());
    front.copy_from_slice(addresses);
    let (tag, back) = back.split_at_mut(TAG_LEN);
    tag.copy_from_slice(&vlan.tag());
    back.copy_from_slice(rest);
    tagged
}

/// A hash of a flow's addresses and ports: the same for all packets of a flow, and
/// spread well enough for a few queues.
pub(crate) fn flow_hash(source: IpAddr, destination: IpAddr, ports: Option<(u16, u16)>) -> u32 {
    let fold = |address: IpAddr| match address {
        IpAddr::V4(a) => u64::from(a.to_bits()),
        IpAddr::V6(a) => {
            let [high, low] = [a.to_bits() >> 64, a.to_bits() & u128::from(u64::MAX)];
            u64::try_from(high).unwrap_or(0) ^ u64::try_from(low).unwrap_or(0)
        }
    };
    let (from, to) = ports.unwrap_or_default();
    let mixed = fold(source)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        ^ fold(destination).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ (u64::from(from) << 16 | u64::from(to)).wrapping_mul(0x1656_67b1_9e37_79f9);
    u32::try_from(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0)
}

/// What of a burst may be joined for a guest.
pub(crate) fn accept(offloads: Offloads) -> Accept {
    Accept {
        csum: offloads.contains(Offloads::GUEST_CSUM),
        tso4: offloads.contains(Offloads::GUEST_TSO4),
        tso6: offloads.contains(Offloads::GUEST_TSO6),
        ecn: offloads.contains(Offloads::GUEST_ECN),
        uso4: offloads.contains(Offloads::GUEST_USO4),
        uso6: offloads.contains(Offloads::GUEST_USO6),
    }
}

/// Delivers one frame that we made to a guest.
pub(crate) fn own(guest: Attached<'_>, hash: u32, frame: &[u8]) {
    if let Some(mut outlet) = Outlet::open(guest, queue(guest.port, hash), || 1) {
        outlet.deliver(&VnetHeader::default(), &[frame]);
    }
}
