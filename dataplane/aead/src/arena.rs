//! Arrays of jobs and of segments for one burst, on the stack, uninitialised until used.
//!
//! **In**: jobs and segments of the burst at hand. **Out**: slices of them.
//! **Never**: an allocation, or an element's destructor (neither jobs nor segments have one).

#![allow(unsafe_code, reason = "a named room: uninitialised arrays")]

use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, needs_drop};
use core::ops::{Deref, DerefMut};
use core::slice;

use crate::job::Segment;

/// Up to `N` jobs of one burst. Making one costs nothing; it dereferences to a slice.
pub struct Jobs<T, const N: usize = 64> {
    items: [MaybeUninit<T>; N],
    len: usize,
}

impl<T, const N: usize> Jobs<T, N> {
    /// An empty array.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(!needs_drop::<T>(), "jobs have no destructor") };
        Self {
            items: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }

    /// Appends one item.
    ///
    /// # Errors
    /// Gives the item back when the array is full.
    #[inline(always)]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        match self.items.get_mut(self.len) {
            Some(slot) => {
                slot.write(item);
                self.len += 1;
                Ok(())
            }
            None => Err(item),
        }
    }

    /// Forgets all items.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<T, const N: usize> Default for Jobs<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Deref for Jobs<T, N> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `push` initialised the first `len` items.
        unsafe { slice::from_raw_parts(self.items.as_ptr().cast(), self.len) }
    }
}

impl<T, const N: usize> DerefMut for Jobs<T, N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`.
        unsafe { slice::from_raw_parts_mut(self.items.as_mut_ptr().cast(), self.len) }
    }
}

/// Room for the source segments of a burst's jobs, handed out while jobs are being made.
///
/// A sub-batch of 64 wire packets cut from guest frames needs two or three segments each; when the
/// room is used up, seal what there is and begin a new sub-batch.
pub struct Segments<'a, const N: usize = 256> {
    items: UnsafeCell<[MaybeUninit<Segment<'a>>; N]>,
    used: Cell<usize>,
}

impl<'a, const N: usize> Segments<'a, N> {
    /// An empty room. Making one costs nothing.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: UnsafeCell::new([const { MaybeUninit::uninit() }; N]),
            used: Cell::new(0),
        }
    }

    /// Keeps the segments of one job; `None` when they don't fit any more.
    #[inline]
    #[must_use]
    pub fn keep(&self, segments: impl IntoIterator<Item = Segment<'a>>) -> Option<&[Segment<'a>]> {
        let first = self.used.get();
        for segment in segments {
            let slot = self.used.get();
            if slot == N {
                return None;
            }
            // Claimed before it is written: an iterator that itself keeps segments gets others.
            self.used.set(slot + 1);
            // SAFETY: `slot` is below N and was never handed out, so no reference to it exists.
            unsafe {
                self.items
                    .get()
                    .cast::<Segment<'a>>()
                    .add(slot)
                    .write(segment)
            };
        }
        // SAFETY: `first..used` is initialised by the loop above (or by a nested call), and no slot
        // is ever written again while `self` is borrowed: `used` only grows.
        Some(unsafe {
            slice::from_raw_parts(
                self.items.get().cast::<Segment<'a>>().add(first),
                self.used.get() - first,
            )
        })
    }
}

impl<const N: usize> Default for Segments<'_, N> {
    fn default() -> Self {
        Self::new()
    }
}
