//! Tx: one queue of a device, sending; workers may share it.
//!
//! In: rooms filled with datagrams, each with its path; the host stack's frames. Out: frames on the wire, with the
//! path's headers ahead. Never: a wait for a queue that stays full.

use std::{
    hash::{BuildHasher as _, RandomState},
    mem,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use culvert_dpdk_sys::{MbufBurst, Mempool, OuterIp, Room as TxRoom, TxQueue};
use culvert_wire::Checksum;

use super::{
    cut::cut,
    encap::{Template, UdpChecksum},
};
use crate::{
    loss::{Lost, lose, lose_all},
    shared::{drops::DropReason, limits, path::Path},
    uplink::{Outer, Room, Uplink},
};

/// The shortest Ethernet frame, without FCS (IEEE 802.3, section 3.2.8).
const FRAME_MIN: usize = 60;

/// Times a burst is offered to a queue that takes a part of it at a time.
const ATTEMPTS: usize = 4;

/// Reservations refused in a row before a full queue counts as stalled: from then on
/// datagrams are taken and dropped by name, so that a dead link doesn't hold guests'
/// frames that go elsewhere.
const STALLED: u32 = 4_096;

/// A worker's TX queue.
pub(super) enum TxSlot {
    Own(TxQueue),
    Shared(Arc<Mutex<TxQueue>>),
}

impl TxSlot {
    /// Sends what the queue takes; the rest stays in the burst. Answers how many
    /// frames were dropped because the link has become too narrow for them.
    fn send(&mut self, burst: &mut MbufBurst) -> u64 {
        match self {
            Self::Own(queue) => send_all(queue, burst),
            Self::Shared(queue) => {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                send_all(&mut queue, burst)
            }
        }
    }

    /// A shared queue's room is gone before one could use it: it isn't asked.
    fn room(&self, count: usize) -> TxRoom {
        match self {
            Self::Own(queue) => queue.room(u16::try_from(count).unwrap_or(u16::MAX)),
            Self::Shared(_) => TxRoom::Unknown,
        }
    }

    /// Has a device that speaks by itself do so.
    fn keep_up(&mut self) {
        match self {
            Self::Own(queue) => queue.keep_up(),
            Self::Shared(queue) => queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .keep_up(),
        }
    }

    fn frame_limit(&self) -> u32 {
        match self {
            Self::Own(queue) => queue.frame_limit(),
            Self::Shared(queue) => queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .frame_limit(),
        }
    }
}

fn send_all(queue: &mut TxQueue, burst: &mut MbufBurst) -> u64 {
    let oversized = queue.oversized();
    // Some drivers free descriptors only when they are asked to send.
    for _ in 0..ATTEMPTS {
        if burst.is_empty() {
            break;
        }
        queue.burst(burst);
    }
    queue.oversized() - oversized
}

/// What goes in fragments.
#[derive(Default)]
struct Cut {
    /// Nobody can tell from an identification those that follow (RFC 7739, section 5.3).
    key: RandomState,
    last: u64,
    /// Since the last flush: datagrams, bytes of what follows their first fragments, and how many of those were lost.
    datagrams: u64,
    bytes: u64,
    lost: usize,
}

/// The sending half.
pub struct Tx {
    /// What `rooms` points into, in order; the first `committed` have their headers.
    /// Before the queue and the pool: see `DpdkUplink::close`.
    reserved: Box<MbufBurst>,
    /// What follows the first fragments of committed datagrams.
    fragments: Box<MbufBurst>,
    cut: Cut,
    rooms: Vec<Room>,
    /// Whole frames on their way out.
    frames: Box<MbufBurst>,
    committed: usize,
    /// Committed datagrams that can't go out, by reason, until `flush` counts them.
    refused: Vec<DropReason>,
    template: Option<Template>,
    pub(super) queue: TxSlot,
    pool: Arc<Mempool>,
    checksum: UdpChecksum,
    datagram_max: usize,
    frame_limit: usize,
    id: u16,
    stalled: u32,
}

impl Tx {
    pub(super) fn new(
        queue: TxSlot,
        pool: Arc<Mempool>,
        datagram_max: usize,
        checksum: UdpChecksum,
        worker: u16,
    ) -> Self {
        Self {
            reserved: Box::default(),
            fragments: Box::default(),
            cut: Cut::default(),
            rooms: Vec::with_capacity(limits::SUB_BATCH),
            frames: Box::default(),
            committed: 0,
            refused: Vec::with_capacity(limits::SUB_BATCH),
            template: None,
            frame_limit: usize::try_from(queue.frame_limit()).unwrap_or(usize::MAX),
            queue,
            pool,
            checksum,
            datagram_max,
            // Workers start far apart, so that fragments of two datagrams on their way
            // to one host don't share an identification.
            id: worker.wrapping_mul(0x2f35),
            stalled: 0,
        }
    }

    pub(in crate::uplink) fn reserve(&mut self, count: usize) -> usize {
        let count = count.min(limits::SUB_BATCH);
        // A queue without room leaves the frames to the guest; one that stays without
        // is a dead link.
        if self.queue.room(count) == TxRoom::No {
            self.stalled = self.stalled.saturating_add(1);
            if self.stalled < STALLED {
                self.rooms.clear();
                return 0;
            }
        } else {
            self.stalled = 0;
        }
        let have = self.reserved.len();
        if have < count && !self.pool.alloc(&mut self.reserved, count - have) {
            // Fewer, one at a time: the pool is nearly dry.
            while self.reserved.len() < count && self.pool.alloc(&mut self.reserved, 1) {}
        }
        self.rooms.clear();
        self.rooms
            .extend(self.reserved.iter_mut().take(count).map(|mbuf| {
                let memory = mbuf.room_mut();
                let len = u32::try_from(memory.len()).unwrap_or(0);
                // SAFETY: an mbuf that `reserved` owns, one room per mbuf; rooms are made
                // anew whenever `reserved` changes.
                unsafe { Room::new(NonNull::from(memory).cast(), len) }
            }));
        self.rooms.len()
    }

    pub(in crate::uplink) fn rooms(&mut self) -> &mut [Room] {
        &mut self.rooms
    }

    pub(in crate::uplink) fn datagram_max(&self) -> usize {
        self.datagram_max
    }

    pub(in crate::uplink) fn needs_sums(&self) -> bool {
        self.checksum == UdpChecksum::Software
    }

    pub(in crate::uplink) fn commit(
        &mut self,
        len: usize,
        path: &Arc<Path>,
        outer: Outer,
        sum: Option<Checksum>,
    ) {
        let Some(mbuf) = self.reserved.get_mut(self.committed) else {
            debug_assert!(false, "more datagrams committed than rooms reserved");
            return;
        };
        self.committed += 1;
        // 1. The path's headers, mostly those of the datagram before.
        if !self
            .template
            .as_ref()
            .is_some_and(|template| template.is_of(path))
        {
            match Template::new(path) {
                Ok(template) => self.template = Some(template),
                Err(reason) => {
                    self.template = None;
                    return refuse(mbuf, reason, &mut self.refused);
                }
            }
        }
        let Some(template) = &self.template else {
            return;
        };

        // 2. In front of the datagram; if the whole fits neither the link nor the path, it goes in fragments.
        let Some(frame) = mbuf.set_packet(len, template.len()) else {
            return refuse(mbuf, DropReason::UplinkRefused, &mut self.refused);
        };
        self.id = self.id.wrapping_add(1);
        let most = match outer.whole {
            true => self.frame_limit,
            false => self.frame_limit.min(template.uncut()),
        };
        if frame.len() > most {
            template.write(frame, outer, self.id, UdpChecksum::Software, sum);
            return self.cut(outer, most);
        }
        template.write(frame, outer, self.id, self.checksum, sum);

        // 3. What is left to the NIC.
        if self.checksum == UdpChecksum::Offload {
            let (ip, l3_len) = if template.is_v6() {
                (OuterIp::V6, 40)
            } else {
                (OuterIp::V4 { checksum: false }, 20)
            };
            mbuf.request_checksums(14, l3_len, ip, true);
        }
    }

    /// Cuts what was committed last, or refuses it if nobody may.
    #[cold]
    fn cut(&mut self, outer: Outer, most: usize) {
        let Some(mbuf) = self.reserved.get_mut(self.committed - 1) else {
            return;
        };
        if outer.whole {
            return refuse(mbuf, DropReason::UplinkRefused, &mut self.refused);
        }
        self.cut.last = self.cut.last.wrapping_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
        let id = self.cut.key.hash_one(self.cut.last) as u32;
        let mut result = cut(mbuf, (most, id), &self.pool, &mut self.fragments);
        if result.is_err() && !self.fragments.is_empty() {
            // What waits there leaves ahead of the first of their datagrams.
            self.cut.send(&mut self.queue, &mut self.fragments);
            result = cut(mbuf, (most, id), &self.pool, &mut self.fragments);
        }
        match result {
            Ok(()) => self.cut.datagrams += 1,
            Err(reason) => refuse(mbuf, reason, &mut self.refused),
        }
    }

    pub(in crate::uplink) fn keep_up(&mut self) {
        self.queue.keep_up();
    }

    pub(in crate::uplink) fn flush(&mut self, uplink: &Uplink) {
        // 1. Committed mbufs part from those that stay reserved, if any do.
        let rest =
            (self.committed < self.reserved.len()).then(|| self.reserved.split_off(self.committed));
        self.committed = 0;
        self.rooms.clear();
        if !self.refused.is_empty() {
            for reason in self.refused.drain(..) {
                lose(uplink.books(), reason, Lost::Count(1));
            }
            self.reserved.retain(|mbuf| !mbuf.is_empty());
        }

        // 2. Send; what the queue doesn't take is lost.
        if !self.reserved.is_empty() {
            let (packets, bytes) = totals(&self.reserved);
            let narrow = self.queue.send(&mut self.reserved);
            let (full, full_bytes) = totals(&self.reserved);
            let lost = self.reserved.iter().map(|mbuf| Lost::Wire(mbuf.bytes()));
            lose_all(uplink.books(), DropReason::UplinkFull, lost);
            self.reserved.clear();
            if narrow > 0 {
                let lost = Lost::Count(usize::try_from(narrow).unwrap_or(usize::MAX));
                lose(uplink.books(), DropReason::UplinkRefused, lost);
            }
            let sent = packets - full - narrow;
            if sent > 0 {
                uplink.counters.sent(sent, bytes - full_bytes);
            }
        }
        if let Some(rest) = rest {
            *self.reserved = rest;
        }

        // 3. The fragments that follow.
        if self.cut.datagrams > 0 {
            self.cut.send(&mut self.queue, &mut self.fragments);
            self.cut.settle(uplink);
        }
    }

    /// No frame waits when it begins, nor when it ends.
    pub(in crate::uplink) fn send_frame(&mut self, frame: &[u8]) -> bool {
        let put = self.put_frame(frame);
        let narrow = self.queue.send(&mut self.frames);
        let sent = put && narrow == 0 && self.frames.is_empty();
        self.frames.clear();
        sent
    }

    pub(in crate::uplink) fn put_frame(&mut self, frame: &[u8]) -> bool {
        let place = self.frames.len();
        if frame.len() > self.frame_limit
            || self.frames.vacancy() == 0
            || !self.pool.alloc(&mut self.frames, 1)
        {
            return false;
        }
        let mbuf = &mut self.frames[place];
        // Not every device pads a short frame by itself.
        let len = frame.len().max(FRAME_MIN);
        let Some(room) = mbuf.room_mut().get_mut(..len) else {
            self.frames.truncate(place);
            return false;
        };
        let (bytes, padding) = room.split_at_mut(frame.len());
        bytes.copy_from_slice(frame);
        padding.fill(0);
        mbuf.set_len(u16::try_from(len).expect("no more than the room, which is a u16"));
        true
    }

    pub(in crate::uplink) fn send_put(&mut self, uplink: &Uplink) {
        let narrow = self.queue.send(&mut self.frames);
        let lost = self.frames.iter().map(|mbuf| Lost::Wire(mbuf.bytes()));
        lose_all(uplink.books(), DropReason::UplinkFull, lost);
        self.frames.clear();
        if narrow > 0 {
            let lost = Lost::Count(usize::try_from(narrow).unwrap_or(usize::MAX));
            lose(uplink.books(), DropReason::UplinkRefused, lost);
        }
    }
}

impl Cut {
    /// Sends fragments; those that the queue does not take are lost.
    #[cold]
    fn send(&mut self, queue: &mut TxSlot, fragments: &mut MbufBurst) {
        if fragments.is_empty() {
            return;
        }
        let (_, bytes) = totals(fragments);
        queue.send(fragments);
        let (lost, left) = totals(fragments);
        self.bytes += bytes - left;
        self.lost += usize::try_from(lost).unwrap_or(usize::MAX);
        fragments.clear();
    }

    /// Counts what was sent, and lost, since the last time.
    #[cold]
    fn settle(&mut self, uplink: &Uplink) {
        let datagrams = mem::take(&mut self.datagrams);
        let counters = &uplink.counters;
        counters
            .tx_fragmented
            .fetch_add(datagrams, Ordering::Relaxed);
        counters.sent(0, mem::take(&mut self.bytes));
        let lost = mem::take(&mut self.lost);
        if lost > 0 {
            lose(uplink.books(), DropReason::UplinkFull, Lost::Count(lost));
        }
    }
}

/// Marks a committed mbuf as not to be sent: it has no bytes.
fn refuse(mbuf: &mut culvert_dpdk_sys::Mbuf, reason: DropReason, refused: &mut Vec<DropReason>) {
    mbuf.set_len(0);
    refused.push(reason);
}

/// Datagrams of a burst and their bytes, without headers.
fn totals(burst: &MbufBurst) -> (u64, u64) {
    let datagram = |mbuf: &culvert_dpdk_sys::Mbuf| {
        let headers = u64::from(culvert_dpdk_sys::HEADROOM - mbuf.headroom());
        u64::from(mbuf.len()).saturating_sub(headers)
    };
    (burst.len() as u64, burst.iter().map(datagram).sum())
}
