//! The split layout (virtio 1.2, section 2.7).
//!
//! In: ring addresses, checked once with their lengths. Out: chains, used entries, events.
//! Never: an index from the guest that was not compared with the ring's size.
//!
//! ```text
//!   published <= used <= next <= cursor <= seen         (all modulo 2^16)
//!   used.idx     entries   taken   walked    avail.idx as last loaded
//!   as stored    written   back    ahead
//! ```
//! Buffers go back in the order in which they came, so `used` and `next` are one number; and
//! after a crash `used.idx` alone says where the ring stood.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring;

use crate::memory::{DirtyLog, raw};

use super::walk::{
    Builder, Chain, DESCRIPTOR, Descriptor, INDIRECT, NEXT, Walk, indirect_table, word,
};
use super::{RingFault, RingLayout, RingPlan};

const AVAIL_NO_INTERRUPT: u16 = word(virtio_ring::VRING_AVAIL_F_NO_INTERRUPT);
const USED_NO_NOTIFY: u16 = word(virtio_ring::VRING_USED_F_NO_NOTIFY);
/// Bytes ahead of the entries of the available and the used ring: flags and index.
const HEADER: usize = 4;

/// A split ring's addresses and positions.
#[derive(Debug)]
pub(crate) struct SplitRing {
    size: u16,
    descriptors: *const u8,
    available: *const u8,
    used: *mut u8,
    /// Guest address of the used ring, if its writes are logged.
    log: Option<u64>,
    event_idx: bool,
    /// Chains given back, as entries in the used ring; also the next to take.
    next: u16,
    /// Chains walked in this burst, ahead of `next`.
    cursor: u16,
    /// `avail.idx` when last loaded.
    seen: u16,
    /// `used.idx` when last stored.
    published: u16,
    notifying: bool,
}

impl SplitRing {
    /// Resolves the ring in guest memory and reads where it stands.
    pub(super) fn new(plan: &RingPlan) -> Result<Self, RingFault> {
        if !plan.size.is_power_of_two() || plan.size > crate::limits::RING_SIZE_MAX {
            return Err(RingFault::RingSize);
        }
        let size = u64::from(plan.size);
        let resolve = |address: u64, align: u64, length: u64| {
            if !address.is_multiple_of(align) {
                return Err(RingFault::RingAddress);
            }
            let (host, guest) = plan
                .memory
                .resolve_frontend(address, length)
                .ok_or(RingFault::RingAddress)?;
            // The host address must be aligned too: a frontend chooses its own addresses.
            if !(host.addr().get() as u64).is_multiple_of(align) {
                return Err(RingFault::RingAddress);
            }
            Ok((host, guest))
        };
        // Each ring ends with a 2-byte event index.
        let (descriptors, _) = resolve(plan.addresses.descriptor, 16, 16 * size)?;
        let (available, _) = resolve(plan.addresses.driver, 2, 4 + 2 * size + 2)?;
        let (used, used_guest) = resolve(plan.addresses.device, 4, 4 + 8 * size + 2)?;
        // SAFETY: `used` holds at least 4 bytes and is aligned.
        let position = unsafe { raw::load_acquire(used.as_ptr().add(2).cast()) };
        let mut ring = Self {
            size: plan.size,
            descriptors: descriptors.as_ptr(),
            available: available.as_ptr(),
            used: used.as_ptr(),
            // Our own translation: the frontend's figure is only taken as its wish to log.
            log: plan.addresses.log.map(|_| used_guest),
            event_idx: plan.features.event_idx(),
            next: position,
            cursor: position,
            seen: position,
            published: position,
            notifying: true,
        };
        ring.disable_notifications(plan.log.as_deref());
        Ok(ring)
    }
}

impl SplitRing {
    /// Logs a write to the used ring's flags or event index.
    fn log_notification(&self, log: Option<&DirtyLog>) {
        if let (Some(log), Some(guest)) = (log, self.log) {
            let at = if self.event_idx {
                4 + 8 * u64::from(self.size)
            } else {
                0
            };
            log.mark(guest.wrapping_add(at), 2);
        }
    }

    fn walk_indirect(
        builder: &mut Builder,
        walk: &mut Walk<'_>,
        descriptor: Descriptor,
    ) -> Result<(), RingFault> {
        let (table, entries) = indirect_table(walk, descriptor)?;
        let mut index = 0usize;
        loop {
            builder.count(crate::limits::CHAIN_MAX)?;
            // SAFETY: `index` is less than `entries`, and the table was resolved with all of
            // them.
            let entry = unsafe { Descriptor::read(table.add(index * DESCRIPTOR)) };
            if entry.flags & INDIRECT != 0 {
                return Err(RingFault::IndirectNested);
            }
            builder.add(walk, entry);
            if entry.flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(entry.last);
            if index >= entries {
                return Err(RingFault::DescriptorOutOfRange);
            }
        }
    }

    #[inline]
    fn head(&self, position: u16) -> u16 {
        let slot = usize::from(position & (self.size - 1));
        // SAFETY: the slot is less than the size, and the available ring was resolved with all
        // of its entries, aligned to 2.
        unsafe { raw::load_acquire(self.available.add(HEADER + 2 * slot).cast()) }
    }
}

impl RingLayout for SplitRing {
    fn base(&self) -> u32 {
        u32::from(self.next)
    }

    /// Forgets what was walked and not taken.
    #[inline]
    fn rewind(&mut self) {
        self.cursor = self.next;
    }

    /// Chains that are available beyond the cursor. Loads the guest's index if fewer than
    /// `wanted` are known.
    #[inline]
    fn available(&mut self, wanted: u16) -> Result<u16, RingFault> {
        let known = self.seen.wrapping_sub(self.cursor);
        if known >= wanted {
            return Ok(known);
        }
        // SAFETY: the available ring was resolved with its whole length.
        let index = unsafe { raw::load_acquire(self.available.add(2).cast()) };
        if index.wrapping_sub(self.next) > self.size {
            return Err(RingFault::AvailableIndexJump);
        }
        // An index that moves back is caught as a jump, or is a smaller step ahead.
        self.seen = index;
        let ahead = index.wrapping_sub(self.next);
        let walked = self.cursor.wrapping_sub(self.next);
        Ok(ahead.saturating_sub(walked))
    }

    /// Prefetches the descriptors of the chains that are ready, and their used entries.
    #[inline]
    fn prefetch(&self, ready: u16, _max: u16) {
        // 8 entries lie in 64 bytes.
        for ahead in (0..ready + 7).step_by(8) {
            let slot = usize::from(self.cursor.wrapping_add(ahead) & (self.size - 1));
            // SAFETY: the slot is less than the size of the used ring.
            raw::prefetch_write(unsafe { self.used.add(HEADER + slot * 8) });
        }
        for ahead in 0..ready {
            let head = self.head(self.cursor.wrapping_add(ahead)) & (self.size - 1);
            // SAFETY: `head` is less than the size of the table.
            raw::prefetch(unsafe { self.descriptors.add(usize::from(head) * DESCRIPTOR) });
        }
    }

    #[inline]
    fn look_ahead(&self, count: u16) {
        self.prefetch(self.seen.wrapping_sub(self.cursor).min(count), count);
    }

    #[inline]
    fn peek(&mut self) -> Result<Option<(Descriptor, u16)>, RingFault> {
        if self.seen == self.cursor && self.available(1)? == 0 {
            return Ok(None);
        }
        let head = self.head(self.cursor);
        if head >= self.size {
            return Err(RingFault::DescriptorOutOfRange);
        }
        // SAFETY: `head` is less than the size of the table.
        let descriptor =
            unsafe { Descriptor::read(self.descriptors.add(usize::from(head) * DESCRIPTOR)) };
        Ok(Some((descriptor, head)))
    }

    #[inline]
    fn step(&mut self) {
        self.cursor = self.cursor.wrapping_add(1);
    }

    fn walk(
        &mut self,
        first: Descriptor,
        head: u16,
        walk: &mut Walk<'_>,
    ) -> Result<Chain, RingFault> {
        let mut builder = Builder::new(walk);
        let mut descriptor = first;
        loop {
            builder.count(usize::from(self.size))?;
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 {
                    return Err(RingFault::IndirectNested);
                }
                Self::walk_indirect(&mut builder, walk, descriptor)?;
                break;
            }
            builder.add(walk, descriptor);
            if descriptor.flags & NEXT == 0 {
                break;
            }
            let index = descriptor.last;
            if index >= self.size {
                return Err(RingFault::DescriptorOutOfRange);
            }
            // SAFETY: `index` is less than the size of the table.
            descriptor =
                unsafe { Descriptor::read(self.descriptors.add(usize::from(index) * DESCRIPTOR)) };
        }
        self.cursor = self.cursor.wrapping_add(1);
        Ok(builder.finish(walk, head, 1))
    }

    fn keep_together(&mut self, _count: usize) {}

    /// Gives the oldest chain back, with `written` bytes in it. Seen by the guest after
    /// [`publish`](Self::publish).
    #[inline]
    fn give_back(&mut self, chain: &Chain, written: u32) {
        let slot = usize::from(self.next & (self.size - 1));
        let entry = u64::from(chain.id) | u64::from(written) << 32;
        // SAFETY: the slot is less than the size, and the used ring was resolved with all of
        // its entries, aligned to 4.
        unsafe {
            raw::store_word(self.used.add(HEADER + slot * 8), entry);
        }
        self.next = self.next.wrapping_add(1);
    }

    /// Makes everything that was given back visible. Returns whether the guest wants a call.
    /// `log` is told of the writes.
    fn publish(&mut self, log: Option<&DirtyLog>) -> bool {
        let old = self.published;
        let new = self.next;
        if old == new {
            return false;
        }
        if let (Some(log), Some(guest)) = (log, self.log) {
            // The entries, in one or two runs, before the index that covers them.
            let first = old & (self.size - 1);
            let count = new.wrapping_sub(old);
            let run = count.min(self.size - first);
            log.mark(
                guest.wrapping_add(4 + 8 * u64::from(first)),
                8 * u64::from(run),
            );
            if count > run {
                log.mark(guest.wrapping_add(4), 8 * u64::from(count - run));
            }
        }
        // SAFETY: the used ring was resolved with its whole length.
        unsafe { raw::store_release(self.used.add(2).cast(), new) };
        if let (Some(log), Some(guest)) = (log, self.log) {
            log.mark(guest, 4);
        }
        self.published = new;
        // The guest stores its wish, then looks at used.idx; we do it the other way round.
        fence(Ordering::SeqCst);
        // SAFETY: the available ring was resolved with its event index.
        unsafe {
            if self.event_idx {
                let at = HEADER + 2 * usize::from(self.size);
                let wanted = raw::load_acquire(self.available.add(at).cast());
                needs_event(wanted, new, old)
            } else {
                raw::load_acquire(self.available.cast()) & AVAIL_NO_INTERRUPT == 0
            }
        }
    }

    /// Asks the guest to kick for the next chain. True if chains came meanwhile: then there is
    /// no kick for them.
    fn enable_notifications(&mut self, log: Option<&DirtyLog>) -> bool {
        self.notifying = true;
        // SAFETY: the used ring was resolved with its event index.
        unsafe {
            if self.event_idx {
                let at = HEADER + 8 * usize::from(self.size);
                raw::store_release(self.used.add(at).cast(), self.next);
            } else {
                raw::store_release(self.used.cast(), 0);
            }
        }
        self.log_notification(log);
        fence(Ordering::SeqCst);
        // SAFETY: as in `available`.
        let index = unsafe { raw::load_acquire(self.available.add(2).cast()) };
        index != self.next
    }

    /// Asks the guest not to kick.
    fn disable_notifications(&mut self, log: Option<&DirtyLog>) {
        if !self.notifying {
            return;
        }
        self.notifying = false;
        // SAFETY: the used ring was resolved with its flags and its event index.
        unsafe {
            if self.event_idx {
                // The chain before the next one: as far away as an index can be. It need not
                // move along: the guest then kicks once in 2^16 chains.
                let at = HEADER + 8 * usize::from(self.size);
                raw::store_release(self.used.add(at).cast(), self.next.wrapping_sub(1));
            } else {
                raw::store_release(self.used.cast(), USED_NO_NOTIFY);
            }
        }
        self.log_notification(log);
    }
}

/// True if the index moved past `wanted` on its way from `old` to `new` (section 2.7.7.2).
#[inline]
pub(super) const fn needs_event(wanted: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(wanted).wrapping_sub(1) < new.wrapping_sub(old)
}
