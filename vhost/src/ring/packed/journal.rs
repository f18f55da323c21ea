//! What goes back to the guest, by way of the journal of [`keep`](crate::ring::keep).
//!
//! In: used descriptors to be. Out: those on the ring; the position of a ring whose backend died.
//! Never: a position that the ring's own descriptors contradict.

use crate::memory::raw;
use crate::ring::keep::{Given, Last, Slot};
use crate::ring::walk::{DESCRIPTOR, Descriptor};

use super::{AVAILABLE, FLAGS_AT, PackedRing, Position, USED};

impl PackedRing {
    pub(super) fn slot(&self) -> &Slot {
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
    pub(super) fn recover(&self, guest: u64) -> Option<Position> {
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
    pub(super) fn write_noted(&self, count: usize) {
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

    /// Puts the journal on the ring.
    pub(super) fn flush(&mut self) {
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
