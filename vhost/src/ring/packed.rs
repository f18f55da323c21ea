//! The packed layout (virtio 1.2, section 2.8).
//!
//! In: ring addresses, checked once with their lengths. Out: chains, used descriptors, events.
//! Never: a position beyond the ring's size.
//!
//! Buffers go back in the order in which they came, so the used position is always the position
//! of the oldest chain taken: there is one position, `next`, with one wrap bit. What is given
//! back goes through the journal of [`keep`](super::keep), so that a crash loses nothing.

mod journal;
mod position;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring;

use crate::memory::{DirtyLog, raw};

use super::keep::{Given, JOURNAL, Keeper};
use super::split::needs_event;
use super::walk::{
    Builder, Chain, DESCRIPTOR, Descriptor, INDIRECT, NEXT, Walk, indirect_table, word,
};
use super::{RingFault, RingLayout, RingPlan};
use position::Position;

const AVAILABLE: u16 = 1 << virtio_ring::VRING_PACKED_DESC_F_AVAIL;
const USED: u16 = 1 << virtio_ring::VRING_PACKED_DESC_F_USED;
const FLAGS_AT: usize = 14;
/// Descriptors in a cache line of 64 bytes.
const PER_LINE: u16 = 4;

const EVENT_ENABLE: u16 = word(virtio_ring::VRING_PACKED_EVENT_FLAG_ENABLE);
const EVENT_DISABLE: u16 = word(virtio_ring::VRING_PACKED_EVENT_FLAG_DISABLE);
const EVENT_DESCRIPTOR: u16 = word(virtio_ring::VRING_PACKED_EVENT_FLAG_DESC);

/// A packed ring's addresses and positions.
#[derive(Debug)]
pub(crate) struct PackedRing {
    size: u16,
    descriptors: *mut u8,
    driver_event: *const u8,
    device_event: *mut u8,
    /// Guest addresses of ring and device event area, if writes are logged.
    log: Option<(u64, u64)>,
    event_idx: bool,
    next: Position,
    cursor: Position,
    keeper: Arc<Keeper>,
    /// The ring's slot in the keeper.
    ring: usize,
    /// Chains in the journal, given back but not on the ring yet.
    noted: usize,
    /// Where the last of them lies.
    last: Position,
    /// Chains that go back with nothing written share one used descriptor.
    is_batched: bool,
    /// The last of several that do.
    batch: Option<u16>,
    /// Entries given back since the last publication.
    moved: u16,
    /// Where the last publication ended.
    published: u16,
    notifying: bool,
}

impl PackedRing {
    /// Resolves the ring in guest memory and takes the position that the frontend gave.
    pub(super) fn new(plan: &RingPlan) -> Result<Self, RingFault> {
        if plan.size == 0 || plan.size > crate::limits::RING_SIZE_MAX {
            return Err(RingFault::RingSize);
        }
        let resolve = |address: u64, align: u64, length: u64| {
            let (host, guest) = plan
                .memory
                .resolve_frontend(address, length)
                .ok_or(RingFault::RingAddress)?;
            if !address.is_multiple_of(align) || !(host.addr().get() as u64).is_multiple_of(align) {
                return Err(RingFault::RingAddress);
            }
            Ok((host, guest))
        };
        let size = u64::from(plan.size);
        let (descriptors, ring_guest) = resolve(plan.addresses.descriptor, 16, 16 * size)?;
        let (driver_event, _) = resolve(plan.addresses.driver, 4, 4)?;
        let (device_event, event_guest) = resolve(plan.addresses.device, 4, 4)?;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the low half is the position"
        )]
        let told = Position(plan.base as u16);
        let mut ring = Self {
            size: plan.size,
            descriptors: descriptors.as_ptr(),
            driver_event: driver_event.as_ptr(),
            device_event: device_event.as_ptr(),
            log: plan.addresses.log.map(|_| (ring_guest, event_guest)),
            event_idx: plan.features.event_idx(),
            next: told,
            cursor: told,
            keeper: Arc::clone(&plan.keeper),
            ring: plan.index,
            noted: 0,
            last: told,
            // Only of guest TX rings: buffers to be written would count as full (section 2.8.9).
            is_batched: plan.features.in_order() && !plan.index.is_multiple_of(2),
            batch: None,
            moved: 0,
            published: 0,
            notifying: true,
        };
        ring.next = match ring.recover(ring_guest) {
            Some(kept) => kept,
            None if told.index() < plan.size => {
                ring.slot().begin(plan.size, ring_guest, told.0);
                told
            }
            None => return Err(RingFault::Position),
        };
        ring.cursor = ring.next;
        ring.published = ring.next.index();
        ring.disable_notifications(plan.log.as_deref());
        Ok(ring)
    }
}

/// True if these flags make a descriptor available in the lap with this wrap bit.
#[inline]
const fn is_available(flags: u16, wrap: bool) -> bool {
    (flags & AVAILABLE != 0) == wrap && (flags & USED != 0) != wrap
}

impl PackedRing {
    #[inline]
    fn is_available(&self, position: Position) -> bool {
        let flags_at = usize::from(position.index()) * DESCRIPTOR + FLAGS_AT;
        // SAFETY: positions stay below the size, and the ring was resolved with its length.
        let flags = unsafe { raw::load_acquire(self.descriptors.add(flags_at).cast()) };
        is_available(flags, position.wrap())
    }

    /// Logs a write to the device's event area.
    fn log_notification(&self, log: Option<&DirtyLog>) {
        if let (Some(log), Some((_, event))) = (log, self.log) {
            log.mark(event, 4);
        }
    }

    /// Prefetches the line of a descriptor, to be written unless one used descriptor stands for
    /// many.
    #[inline]
    fn prefetch_line(&self, position: Position) {
        // SAFETY: positions stay below the size.
        let line = unsafe { self.descriptor(position) };
        if self.is_batched {
            raw::prefetch(line);
        } else {
            raw::prefetch_write(line);
        }
    }

    /// Where the descriptor of a position lies.
    ///
    /// # Safety
    /// The position is below the ring's size.
    #[inline]
    unsafe fn descriptor(&self, position: Position) -> *mut u8 {
        // SAFETY: the ring was resolved with its length.
        unsafe {
            self.descriptors
                .add(usize::from(position.index()) * DESCRIPTOR)
        }
    }
}

impl RingLayout for PackedRing {
    fn base(&self) -> u32 {
        let word = u32::from(self.next.0);
        word << 16 | word
    }

    /// Forgets what was walked and not taken.
    #[inline]
    fn rewind(&mut self) {
        self.cursor = self.next;
    }

    /// 1 if the descriptor at the cursor is available, else 0: the layout has no index to ask.
    #[inline]
    fn available(&mut self, _wanted: u16) -> Result<u16, RingFault> {
        Ok(u16::from(self.is_available(self.cursor)))
    }

    /// Prefetches the descriptors behind the first one, to be written too: that is where used
    /// ones go.
    #[inline]
    fn prefetch(&self, _ready: u16, max: u16) {
        // As far as is surely available. Beyond, the guest is about to write: it keeps its lines,
        // and a look at flags that it did not write yet finds them in our own cache.
        let mut span = max.min(self.size);
        while span > PER_LINE {
            let mut position = self.cursor;
            position.advance(span - 1, self.size);
            if self.is_available(position) {
                self.look_ahead(span);
                return;
            }
            span /= 2;
        }
    }

    #[inline]
    fn look_ahead(&self, count: u16) {
        let mut position = self.cursor;
        for _ in 0..count.min(self.size).div_ceil(PER_LINE) {
            self.prefetch_line(position);
            position.advance(PER_LINE.min(self.size), self.size);
        }
    }

    #[inline]
    fn peek(&mut self) -> Result<Option<(Descriptor, u16)>, RingFault> {
        let position = self.cursor;
        // SAFETY: positions stay below the size; descriptors are aligned to 16. The half with
        // the flags is loaded first, with acquire ordering.
        unsafe {
            let at = self.descriptor(position);
            let rest = raw::load_acquire_word(at.add(8).cast());
            let descriptor = Descriptor::of_packed(raw::load_acquire_word(at.cast()), rest);
            let is_ours = is_available(descriptor.flags, position.wrap());
            Ok(is_ours.then_some((descriptor, descriptor.last)))
        }
    }

    #[inline]
    fn step(&mut self) {
        self.cursor.advance(1, self.size);
        if !self.is_batched && self.cursor.index().is_multiple_of(PER_LINE) {
            let mut ahead = self.cursor;
            ahead.advance((2 * PER_LINE).min(self.size), self.size);
            self.prefetch_line(ahead);
        }
    }

    fn walk(
        &mut self,
        first: Descriptor,
        _id: u16,
        walk: &mut Walk<'_>,
    ) -> Result<Chain, RingFault> {
        let mut builder = Builder::new(walk);
        let mut position = self.cursor;
        let mut descriptor = first;
        let mut entries = 0u16;
        let id = loop {
            builder.count(usize::from(self.size))?;
            position.advance(1, self.size);
            entries += 1;
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 {
                    return Err(RingFault::IndirectNested);
                }
                let (table, count) = indirect_table(walk, descriptor)?;
                for index in 0..count {
                    builder.count(crate::limits::CHAIN_MAX)?;
                    // SAFETY: `index` is less than `count`, and the table was resolved with all
                    // of its entries.
                    let entry = unsafe { Descriptor::read_packed(table.add(index * DESCRIPTOR)) };
                    if entry.flags & INDIRECT != 0 {
                        return Err(RingFault::IndirectNested);
                    }
                    builder.add(walk, entry);
                }
                break descriptor.last;
            }
            builder.add(walk, descriptor);
            if descriptor.flags & NEXT == 0 {
                break descriptor.last;
            }
            // SAFETY: positions stay below the size.
            descriptor = unsafe { Descriptor::read_packed(self.descriptor(position)) };
        };
        self.cursor = position;
        Ok(builder.finish(walk, id, entries))
    }

    fn keep_together(&mut self, count: usize) {
        if self.noted + count > JOURNAL {
            self.flush();
        }
    }

    /// Gives the oldest chain back, with `written` bytes in it. Seen by the guest after
    /// [`publish`](Self::publish).
    #[inline]
    fn give_back(&mut self, chain: &Chain, written: u32) {
        if self.is_batched && self.noted > 0 {
            // With IN_ORDER the id of the last buffer, at the place of the first, stands for
            // all: the other descriptors stay as they are, and the guest keeps their lines.
            self.batch = Some(chain.id);
            self.next.advance(chain.entries, self.size);
            self.moved = self.moved.wrapping_add(chain.entries);
            return;
        }
        let wrap_flags = if self.next.wrap() {
            AVAILABLE | USED
        } else {
            0
        };
        // A used descriptor says with WRITE that its length counts (section 2.8.6).
        let flags = wrap_flags | if written > 0 { super::walk::WRITE } else { 0 };
        if self.noted == JOURNAL {
            self.flush();
        }
        let given = Given {
            index: self.next.index(),
            flags,
            id: chain.id,
            written,
        };
        self.slot().note(self.noted, given);
        self.noted += 1;
        self.last = self.next;
        self.next.advance(chain.entries, self.size);
        self.moved = self.moved.wrapping_add(chain.entries);
    }

    /// Makes everything that was given back visible. Returns whether the guest wants a call.
    fn publish(&mut self, log: Option<&DirtyLog>) -> bool {
        if self.moved == 0 {
            return false;
        }
        self.flush();
        if let (Some(log), Some((ring, _))) = (log, self.log) {
            let first = self.published;
            let run = self.moved.min(self.size - first);
            log.mark(
                ring.wrapping_add(16 * u64::from(first)),
                16 * u64::from(run),
            );
            if self.moved > run {
                log.mark(ring, 16 * u64::from(self.moved - run));
            }
        }
        self.published = self.next.index();
        let new = self.next.index();
        let old = new.wrapping_sub(self.moved);
        self.moved = 0;
        fence(Ordering::SeqCst);
        // SAFETY: the driver's event area was resolved with 4 bytes, aligned to 4.
        let (word, mode) = unsafe {
            let mode = raw::load_acquire(self.driver_event.add(2).cast());
            (raw::load_acquire(self.driver_event.cast()), mode)
        };
        match mode & 3 {
            EVENT_DISABLE => false,
            EVENT_DESCRIPTOR if self.event_idx => {
                let mut wanted = word & 0x7fff;
                if (word >> 15 != 0) != self.next.wrap() {
                    wanted = wanted.wrapping_sub(self.size);
                }
                needs_event(wanted, new, old)
            }
            _ => true,
        }
    }

    /// Asks the guest to kick for the next chain. True if chains came meanwhile.
    fn enable_notifications(&mut self, log: Option<&DirtyLog>) -> bool {
        self.notifying = true;
        // SAFETY: the device's event area was resolved with 4 bytes, aligned to 4.
        unsafe {
            if self.event_idx {
                raw::store_release(self.device_event.cast(), self.next.0);
                raw::store_release(self.device_event.add(2).cast(), EVENT_DESCRIPTOR);
            } else {
                raw::store_release(self.device_event.add(2).cast(), EVENT_ENABLE);
            }
        }
        self.log_notification(log);
        fence(Ordering::SeqCst);
        self.is_available(self.next)
    }

    /// Asks the guest not to kick.
    fn disable_notifications(&mut self, log: Option<&DirtyLog>) {
        if !self.notifying {
            return;
        }
        self.notifying = false;
        // SAFETY: as above.
        unsafe { raw::store_release(self.device_event.add(2).cast(), EVENT_DISABLE) };
        self.log_notification(log);
    }
}

#[cfg(test)]
mod tests;
