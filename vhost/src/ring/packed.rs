//! The packed layout (virtio 1.2, section 2.8).
//!
//! In: ring addresses, checked once with their lengths. Out: chains, used descriptors, events.
//! Never: a position beyond the ring's size.
//!
//! Buffers go back in the order in which they came, so the used position is always the position
//! of the oldest chain taken: there is one position, `next`, with one wrap bit. What is given
//! back goes through the journal of [`keep`](super::keep), so that a crash loses nothing.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::memory::{DirtyLog, raw};

use super::keep::{Given, JOURNAL, Keeper, Last, Slot};
use super::split::needs_event;
use super::walk::{Builder, Chain, DESCRIPTOR, Descriptor, INDIRECT, NEXT, Walk, indirect_table};
use super::{RingFault, RingLayout, RingPlan};

const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const FLAGS_AT: usize = 14;

const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESCRIPTOR: u16 = 2;

/// A position in the ring with its wrap bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    #[inline]
    fn advance(&mut self, entries: u16, size: u16) {
        // Both are at most 32768, so the sum fits.
        let sum = u32::from(self.index) + u32::from(entries);
        if sum >= u32::from(size) {
            self.wrap = !self.wrap;
        }
        #[allow(
            clippy::cast_possible_truncation,
            reason = "reduced below the ring's size"
        )]
        {
            self.index = (if sum >= u32::from(size) {
                sum - u32::from(size)
            } else {
                sum
            }) as u16;
        }
    }

    const fn of_word(word: u16) -> Self {
        Self {
            index: word & 0x7fff,
            wrap: word >> 15 != 0,
        }
    }

    const fn word(self) -> u16 {
        self.index | (self.wrap as u16) << 15
    }
}

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
        let told = Position::of_word(plan.base as u16);
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
            moved: 0,
            published: 0,
            notifying: true,
        };
        ring.next = match ring.recover(ring_guest) {
            Some(kept) => kept,
            None if told.index < plan.size => {
                ring.slot().begin(plan.size, ring_guest, told.word());
                told
            }
            None => return Err(RingFault::Position),
        };
        ring.cursor = ring.next;
        ring.published = ring.next.index;
        ring.disable_notifications(plan.log.as_deref());
        Ok(ring)
    }
}

impl PackedRing {
    #[inline]
    fn is_available(&self, position: Position) -> bool {
        let flags_at = usize::from(position.index) * DESCRIPTOR + FLAGS_AT;
        // SAFETY: positions stay below the size, and the ring was resolved with its length.
        let flags = unsafe { raw::load_acquire(self.descriptors.add(flags_at).cast()) };
        (flags & AVAILABLE != 0) == position.wrap && (flags & USED != 0) != position.wrap
    }
}

impl PackedRing {
    fn slot(&self) -> &Slot {
        self.keeper.slot(self.ring)
    }

    /// Bits 7 and 15 of a descriptor's flags: available and used.
    fn bits(&self, index: u16) -> (bool, bool) {
        let flags_at = usize::from(index) * DESCRIPTOR + FLAGS_AT;
        // SAFETY: callers pass indices below the size, and the ring was resolved with its
        // length.
        let flags = unsafe { raw::load_acquire(self.descriptors.add(flags_at).cast()) };
        (flags & AVAILABLE != 0, flags & USED != 0)
    }

    /// Length and id of a descriptor.
    fn body(&self, index: u16) -> (u32, u16) {
        // SAFETY: callers pass indices below the size.
        let descriptor = unsafe {
            Descriptor::read_packed(self.descriptors.add(usize::from(index) * DESCRIPTOR))
        };
        (descriptor.length, descriptor.last)
    }

    /// The position that was kept, after finishing what a process that died had begun; `None`
    /// if nothing was kept, or if it is of another life of the ring.
    fn recover(&self, guest: u64) -> Option<Position> {
        let kept = Position::of_word(self.slot().position(self.size, guest)?);
        let mut position = kept;
        if let Some((count, after)) = self.slot().committed() {
            let first = self.slot().noted(0);
            if first.index != kept.index || first.index >= self.size {
                return None;
            }
            if self.bits(first.index) == (kept.wrap, !kept.wrap) {
                // Died before the guest saw it: finish.
                self.write_noted(count);
            }
            let given = self.slot().noted(count - 1);
            let last = Position {
                index: given.index,
                wrap: given.flags & USED != 0,
            };
            let (id, written) = (given.id, given.written);
            self.slot().done(
                Last {
                    word: last.word(),
                    id,
                    written,
                },
                after,
            );
            position = Position::of_word(after);
        }
        if position.index >= self.size {
            return None;
        }
        let Some(last) = self.slot().last() else {
            // Nothing was ever given back: it stands where it began, unless this is another
            // beginning.
            return (position == self.next).then_some(position);
        };
        let (index, wrap) = (last.word & 0x7fff, last.word >> 15 != 0);
        if index >= self.size {
            return None;
        }
        // A rebooted guest has a fresh ring at the same place. Ours is the one whose last used
        // descriptor still is what we wrote, or which the guest has lapped: then all others are
        // available, too.
        let is_intact =
            self.bits(index) == (wrap, wrap) && self.body(index) == (last.written, last.id);
        let is_ahead = self.bits(position.index) != (position.wrap, position.wrap);
        let is_lapped = self.bits(index) == (!wrap, wrap) && self.is_available(position);
        (is_intact && is_ahead || is_lapped).then_some(position)
    }

    /// Writes the first `count` entries of the journal to the ring, the first one's flags last.
    fn write_noted(&self, count: usize) {
        for at in (0..count).rev() {
            let given = self.slot().noted(at);
            if given.index >= self.size {
                // Only a damaged file has it.
                continue;
            }
            let place = usize::from(given.index) * DESCRIPTOR;
            let body = u64::from(given.written) | u64::from(given.id) << 32;
            // SAFETY: the index is below the size. Bytes 8 to 13 are length and id.
            unsafe {
                raw::copy(
                    body.to_le_bytes().as_ptr(),
                    self.descriptors.add(place + 8),
                    6,
                );
                let flags = self.descriptors.add(place + FLAGS_AT);
                raw::store_release(flags.cast(), given.flags);
            }
        }
    }

    /// Logs a write to the device's event area.
    fn log_notification(&self, log: Option<&DirtyLog>) {
        if let (Some(log), Some((_, event))) = (log, self.log) {
            log.mark(event, 4);
        }
    }

    /// Puts the journal on the ring.
    fn flush(&mut self) {
        if self.noted == 0 {
            return;
        }
        let after = self.next.word();
        self.slot().commit(self.noted, after);
        self.write_noted(self.noted);
        let given = self.slot().noted(self.noted - 1);
        let last = Last {
            word: self.last.word(),
            id: given.id,
            written: given.written,
        };
        self.slot().done(last, after);
        self.noted = 0;
    }
}

impl RingLayout for PackedRing {
    fn base(&self) -> u32 {
        let word = u32::from(self.next.word());
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

    /// Prefetches the descriptors of the next `count` chains.
    #[inline]
    fn prefetch(&self, count: u16) {
        let mut position = self.cursor;
        for _ in 0..count.div_ceil(4) {
            // SAFETY: positions stay below the size.
            raw::prefetch(unsafe {
                self.descriptors
                    .add(usize::from(position.index) * DESCRIPTOR)
            });
            position.advance(4.min(self.size), self.size);
        }
    }

    /// Walks the chain at the cursor, which must be available, and moves the cursor.
    fn walk(&mut self, walk: &mut Walk<'_>) -> Result<Chain, RingFault> {
        let mut builder = Builder::new(walk);
        let mut position = self.cursor;
        let mut entries = 0u16;
        let id = loop {
            builder.count(usize::from(self.size))?;
            // SAFETY: positions stay below the size.
            let descriptor = unsafe {
                Descriptor::read_packed(
                    self.descriptors
                        .add(usize::from(position.index) * DESCRIPTOR),
                )
            };
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
        let wrap_flags = if self.next.wrap { AVAILABLE | USED } else { 0 };
        // A used descriptor says with WRITE that its length counts (section 2.8.6).
        let flags = wrap_flags | if written > 0 { super::walk::WRITE } else { 0 };
        if self.noted == JOURNAL {
            self.flush();
        }
        let given = Given {
            index: self.next.index,
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
        self.published = self.next.index;
        let new = self.next.index;
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
                if (word >> 15 != 0) != self.next.wrap {
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
                raw::store_release(self.device_event.cast(), self.next.word());
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
