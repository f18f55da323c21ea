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
/// Descriptors in a cache line of 64 bytes.
const PER_LINE: u16 = 4;

const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESCRIPTOR: u16 = 2;

/// A position in the ring: the index, the wrap bit above. One word, so that it is stored and
/// loaded in one piece: a load over two younger stores waits for both.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Position(u16);

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in lap {}", self.index(), u8::from(self.wrap()))
    }
}

impl Position {
    #[inline]
    const fn index(self) -> u16 {
        self.0 & 0x7fff
    }

    #[inline]
    const fn wrap(self) -> bool {
        self.0 >> 15 != 0
    }

    #[inline]
    const fn advance(&mut self, entries: u16, size: u16) {
        // Both are at most 32768, and the index is less: the sum fits.
        let sum = self.index() + entries;
        let lap = self.0 & 0x8000;
        self.0 = if sum >= size {
            (sum - size) | (lap ^ 0x8000)
        } else {
            sum | lap
        };
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
        let kept = Position(self.slot().position(self.size, guest)?);
        let mut position = kept;
        if let Some((count, after)) = self.slot().committed() {
            let first = self.slot().noted(0);
            if first.index != kept.index() || first.index >= self.size {
                return None;
            }
            if self.bits(first.index) == (kept.wrap(), !kept.wrap()) {
                // Died before the guest saw it: finish.
                self.write_noted(count);
            }
            let given = self.slot().noted(count - 1);
            let last = given.index | given.flags & USED;
            let (id, written) = (given.id, given.written);
            self.slot().done(
                Last {
                    word: last,
                    id,
                    written,
                },
                after,
            );
            position = Position(after);
        }
        if position.index() >= self.size {
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
        let is_ahead = self.bits(position.index()) != (position.wrap(), position.wrap());
        let is_lapped = self.bits(index) == (!wrap, wrap) && self.is_available(position);
        (is_intact && is_ahead || is_lapped).then_some(position)
    }

    /// Writes the first `count` entries of the journal to the ring, the first one's flags last.
    fn write_noted(&self, count: usize) {
        let slot = self.slot();
        for at in (1..count).chain([0]) {
            let given = slot.noted(at);
            if given.index >= self.size {
                // Only a damaged file has it.
                continue;
            }
            let place = usize::from(given.index) * DESCRIPTOR;
            // Bytes 8 to 15: length, id and flags.
            let word =
                u64::from(given.written) | u64::from(given.id) << 32 | u64::from(given.flags) << 48;
            // SAFETY: the index is below the size, and descriptors are aligned to 16.
            unsafe { raw::store_release_word(self.descriptors.add(place + 8).cast(), word) };
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
        let after = self.next.0;
        if let Some(id) = self.batch.take() {
            let given = self.slot().noted(0);
            self.slot().note(0, Given { id, ..given });
        }
        self.slot().commit(self.noted, after);
        self.write_noted(self.noted);
        let given = self.slot().noted(self.noted - 1);
        let last = Last {
            word: self.last.0,
            id: given.id,
            written: given.written,
        };
        self.slot().done(last, after);
        self.noted = 0;
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
mod tests {
    use super::*;
    use crate::memory::{GuestMemory, RegionDescription};
    use crate::ring::walk::Direction;
    use crate::ring::{Negotiated, RingAddresses};

    const GUEST: u64 = 0x10_0000;
    const SIZE: u16 = 8;

    /// A ring of eight in a file, all of it available in the lap with wrap bit 1.
    struct Guest {
        file: std::fs::File,
        memory: Arc<GuestMemory>,
        keeper: Arc<Keeper>,
    }

    impl Guest {
        fn new() -> Self {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 16).unwrap();
            let description = RegionDescription {
                guest: GUEST,
                size: 1 << 16,
                frontend: 0x7000_0000,
                offset: 0,
            };
            let memory = GuestMemory::default()
                .with_region(description, &file)
                .unwrap();
            let keeper = Arc::new(Keeper::new(None, 1).unwrap());
            let guest = Self {
                file,
                memory: Arc::new(memory),
                keeper,
            };
            guest.fill(0..SIZE, AVAILABLE);
            guest
        }

        /// Makes descriptors available.
        fn fill(&self, range: std::ops::Range<u16>, flags: u16) {
            for index in range {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&(GUEST + 0x1000 * u64::from(index + 1)).to_le_bytes());
                bytes[8..12].copy_from_slice(&100u32.to_le_bytes());
                bytes[12..14].copy_from_slice(&(index + 40).to_le_bytes());
                bytes[14..].copy_from_slice(&flags.to_le_bytes());
                self.write(16 * u64::from(index), &bytes);
            }
        }

        fn write(&self, at: u64, bytes: &[u8]) {
            use std::os::unix::fs::FileExt;
            self.file.write_all_at(bytes, at).unwrap();
        }

        fn flags(&self, index: u16) -> u16 {
            use std::os::unix::fs::FileExt;
            let mut bytes = [0; 2];
            self.file
                .read_exact_at(&mut bytes, 16 * u64::from(index) + 14)
                .unwrap();
            u16::from_le_bytes(bytes)
        }

        /// The ring as a backend finds it that knows nothing.
        fn ring(&self) -> PackedRing {
            let user = 0x7000_0000;
            PackedRing::new(&RingPlan {
                memory: Arc::clone(&self.memory),
                features: Negotiated::default(),
                size: SIZE,
                addresses: RingAddresses {
                    descriptor: user,
                    driver: user + 0x800,
                    device: user + 0x900,
                    log: None,
                },
                base: 0x8000_8000,
                log: None,
                call: None,
                keeper: Arc::clone(&self.keeper),
                index: 0,
            })
            .unwrap()
        }

        fn walk(&self, ring: &mut PackedRing, count: usize) -> Vec<Chain> {
            let (mut hint, mut segments) = (0, Vec::new());
            let mut walk = Walk {
                memory: &self.memory,
                hint: &mut hint,
                segments: &mut segments,
                direction: Direction::Readable,
                indirect: false,
            };
            let mut next = || {
                let (first, id) = ring.peek().unwrap().unwrap();
                ring.walk(first, id, &mut walk).unwrap()
            };
            (0..count).map(|_| next()).collect()
        }

        fn give_back(&self, ring: &mut PackedRing, count: usize) {
            for chain in self.walk(ring, count) {
                ring.give_back(&chain, 0);
            }
        }
    }

    #[test]
    fn a_crash_before_the_commit_changes_nothing() {
        let guest = Guest::new();
        let mut ring = guest.ring();
        guest.give_back(&mut ring, 2);
        ring.publish(None);
        // Dies with three more in the journal.
        guest.give_back(&mut ring, 3);
        let ring = guest.ring();
        assert_eq!(ring.next, Position(2 | 0x8000));
        assert_eq!(guest.flags(1), AVAILABLE | USED);
        assert_eq!(guest.flags(2), AVAILABLE);
    }

    #[test]
    fn a_crash_after_the_commit_is_finished_wherever_it_happened() {
        for written in 0..=3u16 {
            let guest = Guest::new();
            let mut ring = guest.ring();
            guest.give_back(&mut ring, 2);
            ring.publish(None);
            guest.give_back(&mut ring, 3);
            ring.slot().commit(3, ring.next.0);
            // Written so far, from the last one down; the first one comes last.
            for index in (5 - written)..5 {
                guest.write(16 * u64::from(index) + 8, &0u32.to_le_bytes());
                guest.write(
                    16 * u64::from(index) + 14,
                    &(AVAILABLE | USED).to_le_bytes(),
                );
            }
            let ring = guest.ring();
            assert_eq!(ring.next, Position(5 | 0x8000));
            for index in 0..SIZE {
                let is_used = guest.flags(index) & USED != 0;
                assert_eq!(is_used, index < 5, "{written} written, descriptor {index}");
            }
        }
    }

    #[test]
    fn what_the_guest_took_back_after_the_commit_is_not_written_again() {
        let guest = Guest::new();
        let mut ring = guest.ring();
        guest.give_back(&mut ring, 3);
        ring.slot().commit(3, ring.next.0);
        ring.write_noted(3);
        // The guest uses the first two again, in the next lap.
        guest.fill(0..2, USED);
        let ring = guest.ring();
        assert_eq!(ring.next, Position(3 | 0x8000));
        assert_eq!(guest.flags(0), USED);
        assert_eq!(guest.flags(1), USED);
    }

    #[test]
    fn a_guest_that_went_all_the_way_round_is_recognised() {
        let guest = Guest::new();
        let mut ring = guest.ring();
        guest.give_back(&mut ring, 8);
        ring.publish(None);
        guest.fill(0..SIZE, USED);
        assert_eq!(guest.ring().next, Position(0));
        let mut ring = guest.ring();
        guest.give_back(&mut ring, 3);
        ring.publish(None);
        assert_eq!(guest.ring().next, Position(3));
    }

    #[test]
    fn a_rebooted_guests_ring_is_not_taken_for_the_old_one() {
        // However far the old one came, in either lap.
        for taken in 1..15usize {
            for is_filled in [false, true] {
                let guest = Guest::new();
                let mut ring = guest.ring();
                guest.give_back(&mut ring, taken.min(8));
                ring.publish(None);
                if taken > 8 {
                    guest.fill(0..SIZE, USED);
                    guest.give_back(&mut ring, taken - 8);
                    ring.publish(None);
                }
                guest.write(0, &[0; 16 * SIZE as usize]);
                if is_filled {
                    guest.fill(0..SIZE, AVAILABLE);
                }
                let fresh = Position(0x8000);
                assert_eq!(
                    guest.ring().next,
                    fresh,
                    "{taken} taken, filled: {is_filled}"
                );
            }
        }
    }
}
