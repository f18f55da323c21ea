//! Sums over memory that another party may be writing: guest memory.
//!
//! In: a pointer and a length that the caller has checked. Out: a sum.
//! Never: a reference or slice over that memory; each byte is loaded once.

#![allow(
    unsafe_code,
    reason = "the one room of this crate that reads raw memory"
)]

use super::Checksum;

impl Checksum {
    /// Adds `len` bytes at `pointer` as the bytes that follow those added before.
    ///
    /// The bytes may change meanwhile; the sum is then that of some mixture.
    ///
    /// # Safety
    ///
    /// `pointer` must be valid for reads of `len` bytes for the duration of the call.
    #[inline]
    pub unsafe fn add_raw(&mut self, pointer: *const u8, len: usize) {
        let mut sum = 0u64;
        // Volatile loads must be aligned: single bytes up to a boundary, then words.
        let lead = pointer.align_offset(8).min(len);
        for i in 0..lead {
            // SAFETY: i < lead <= len, which the caller vouches for.
            let byte = unsafe { pointer.add(i).read_volatile() };
            self.append(Self::of(&[byte]));
        }
        let words = (len - lead) / 8;
        for i in 0..words {
            // SAFETY: the word ends at lead + 8 * (i + 1) <= len and `lead` aligned it.
            #[expect(clippy::cast_ptr_alignment, reason = "aligned by `lead`")]
            let word = unsafe { pointer.add(lead + 8 * i).cast::<u64>().read_volatile() };
            sum += (word >> 32) + (word & 0xffff_ffff);
        }
        self.append(Self { sum, odd: false });
        for i in lead + words * 8..len {
            // SAFETY: i < len, which the caller vouches for.
            let byte = unsafe { pointer.add(i).read_volatile() };
            self.append(Self::of(&[byte]));
        }
    }
}
