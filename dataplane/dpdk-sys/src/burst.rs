//! Mbufs in bursts: how they are allocated, received, sent and freed.
//!
//! *In*: mbufs one by one, or many from a pool or a queue. *Out*: the same, in order. *Never*: a heap, a call into
//! C per mbuf.

use std::{
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use crate::{ffi, mbuf::Mbuf};

/// Mbufs in a burst, at most.
pub const BURST: usize = 64;

/// Up to [`BURST`] mbufs, in order. What is in it when it is dropped goes home in one call.
///
/// It is a slice of [`Mbuf`]s (`burst[i]`, `iter`, `len`, `swap`) that can grow and shrink.
pub struct MbufBurst {
    slots: [MaybeUninit<*mut ffi::culvert_mbuf>; BURST],
    len: usize,
    _owned: PhantomData<Mbuf>,
}

// SAFETY: it owns what it holds, and an Mbuf is Send.
unsafe impl Send for MbufBurst {}

impl Default for MbufBurst {
    fn default() -> Self {
        Self::new()
    }
}

impl MbufBurst {
    /// An empty burst.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { MaybeUninit::uninit() }; BURST],
            len: 0,
            _owned: PhantomData,
        }
    }

    /// How many more mbufs fit.
    #[inline]
    #[must_use]
    pub fn vacancy(&self) -> usize {
        BURST - self.len
    }

    /// Adds an mbuf at the end.
    ///
    /// # Errors
    ///
    /// Gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        if self.len == BURST {
            return Err(mbuf);
        }
        self.slots[self.len].write(ManuallyDrop::new(mbuf).0.as_ptr());
        self.len += 1;
        Ok(())
    }

    /// Takes the last mbuf out.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: slots below the old length are filled, with pointers that are not null.
        Some(Mbuf(unsafe {
            NonNull::new_unchecked(self.slots[self.len].assume_init())
        }))
    }

    /// Frees all mbufs from index `len` on, in one call.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let count = self.len - len;
        self.len = len;
        // SAFETY: slots `len..len + count` are filled, and no longer ours after this.
        unsafe {
            ffi::culvert_mbuf_free_bulk(
                self.slots[len..].as_mut_ptr().cast(),
                u32::try_from(count).unwrap_or(0),
            );
        }
    }

    /// Frees all mbufs.
    #[inline]
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Takes the mbufs from index `at` on out, in order.
    #[inline]
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut rest = Self::new();
        let at = at.min(self.len);
        let count = self.len - at;
        rest.slots[..count].copy_from_slice(&self.slots[at..self.len]);
        rest.len = count;
        self.len = at;
        rest
    }

    /// Takes mbuf `index` out and closes the gap with the last one.
    ///
    /// # Panics
    ///
    /// If there is no such mbuf.
    #[inline]
    pub fn swap_remove(&mut self, index: usize) -> Mbuf {
        let last = self.len - 1;
        self.swap(index, last);
        self.pop().expect("the burst had a last mbuf")
    }

    /// Keeps the mbufs that `keep` approves, in order, and frees the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&Mbuf) -> bool) {
        let mut kept = 0;
        for index in 0..self.len {
            if keep(&self[index]) {
                self.swap(kept, index);
                kept += 1;
            }
        }
        self.truncate(kept);
    }

    /// Lets `fill` write `count` pointers behind the last one; keeps them if it says so.
    pub(crate) fn fill(
        &mut self,
        count: usize,
        fill: impl FnOnce(*mut *mut ffi::culvert_mbuf) -> bool,
    ) -> bool {
        if count > self.vacancy() {
            return false;
        }
        let filled = fill(self.slots[self.len..].as_mut_ptr().cast());
        if filled {
            self.len += count;
        }
        filled
    }

    /// Lets `fill` write up to the given number of pointers and say how many.
    pub(crate) fn fill_some(
        &mut self,
        fill: impl FnOnce(*mut *mut ffi::culvert_mbuf, u16) -> u16,
    ) -> usize {
        let vacancy = u16::try_from(self.vacancy()).expect("a burst counts in u16");
        let count = fill(self.slots[self.len..].as_mut_ptr().cast(), vacancy).min(vacancy);
        self.len += usize::from(count);
        usize::from(count)
    }

    /// Lets `take` have the first mbufs and say how many it took; the rest moves up.
    pub(crate) fn take_front(
        &mut self,
        take: impl FnOnce(*mut *mut ffi::culvert_mbuf, u16) -> u16,
    ) -> usize {
        let len = u16::try_from(self.len).expect("a burst counts in u16");
        let taken = usize::from(take(self.slots.as_mut_ptr().cast(), len).min(len));
        let rest = self.len - taken;
        if rest != 0 && taken != 0 {
            // SAFETY: both ranges lie within the slots; MaybeUninit pointers are plain to copy.
            unsafe {
                ptr::copy(
                    self.slots.as_ptr().add(taken),
                    self.slots.as_mut_ptr(),
                    rest,
                )
            };
        }
        self.len = rest;
        taken
    }
}

impl Deref for MbufBurst {
    type Target = [Mbuf];

    #[inline]
    fn deref(&self) -> &[Mbuf] {
        // SAFETY: the first `len` slots are filled with pointers that are not null, and an Mbuf is one.
        unsafe { slice::from_raw_parts(self.slots.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for MbufBurst {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `deref`.
        unsafe { slice::from_raw_parts_mut(self.slots.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for MbufBurst {
    fn drop(&mut self) {
        self.clear();
    }
}
