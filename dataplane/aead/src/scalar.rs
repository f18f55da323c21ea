//! Poly1305 (RFC 8439, section 2.5) for one packet, in 64-bit words.
//!
//! **In**: a one-time key and a private text. **Out**: its tag.
//! **Never**: a write to the text, a read outside it.
//!
//! Where there are only a few blocks, this is done before a vector kernel has its powers of `r`.
//!
//! Constant time: 64-bit multiplications, additions and shifts, and a choice by mask at the end;
//! branches depend on the length only.

#![allow(unsafe_code, reason = "a named room: reads texts of jobs")]

use crate::batch::{Line, Text};

/// The state between blocks: `h`, not fully reduced, and the clamped `r`.
#[derive(Clone, Copy)]
pub(crate) struct Poly {
    h: [u64; 3],
    r: [u64; 2],
    /// `r[1]` times 5/4: what it makes above 2^130 comes back so; its low two bits are clear.
    s: u64,
}

impl Poly {
    #[inline(always)]
    pub(crate) fn new(key: &Line) -> Self {
        let r = [
            key.0[0] & 0x0fff_fffc_0fff_ffff,
            key.0[1] & 0x0fff_fffc_0fff_fffc,
        ];
        Self {
            h: [0; 3],
            r,
            s: r[1] + (r[1] >> 2),
        }
    }

    /// Adds a whole block and multiplies by `r`.
    #[inline(always)]
    pub(crate) fn block(&mut self, low: u64, high: u64) {
        let [h0, h1, h2] = self.h;
        let (h0, carry) = h0.overflowing_add(low);
        let (h1, carry1) = h1.overflowing_add(high);
        let (h1, carry2) = h1.overflowing_add(u64::from(carry));
        let h2 = h2 + 1 + u64::from(carry1 | carry2);

        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let d0 = wide(h0, self.r[0]) + wide(h1, self.s);
        let d1 = wide(h0, self.r[1]) + wide(h1, self.r[0]) + u128::from(h2 * self.s) + (d0 >> 64);
        let d2 = h2 * self.r[0] + (d1 >> 64) as u64;

        let c = (d2 >> 2) + (d2 & !3);
        let (h0, carry) = (d0 as u64).overflowing_add(c);
        let (h1, carry) = (d1 as u64).overflowing_add(u64::from(carry));
        self.h = [h0, h1, (d2 & 3) + u64::from(carry)];
    }

    /// The whole blocks of `text[from..]`, as many as `count`.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub(crate) unsafe fn blocks(&mut self, text: *const u8, count: usize) {
        for i in 0..count {
            // SAFETY: the caller's contract.
            let [low, high] = unsafe { text.add(16 * i).cast::<[u64; 2]>().read_unaligned() };
            self.block(u64::from_le(low), u64::from_le(high));
        }
    }

    /// The rest of a text of `len` bytes from `text` on, its lengths, and the tag.
    ///
    /// # Safety
    /// `len % 16` bytes are readable at `text`.
    #[inline(always)]
    pub(crate) unsafe fn finish(mut self, text: *const u8, len: u32, key: &Line) -> [u64; 2] {
        let rest = len as usize % 16;
        if rest > 0 {
            let mut last = [0u8; 16];
            // SAFETY: the caller's contract.
            unsafe { text.copy_to_nonoverlapping(last.as_mut_ptr(), rest) };
            let last = u128::from_le_bytes(last);
            self.block(last as u64, (last >> 64) as u64);
        }
        self.block(0, u64::from(len));
        // h - p = h + 5 - 2^130, where that isn't negative. h is below 2p here.
        let [h0, h1, h2] = self.h;
        let h = u128::from(h1) << 64 | u128::from(h0);
        let (g, carry) = h.overflowing_add(5);
        let above = (h2 + u64::from(carry)) >> 2;
        let mask = u128::from(above.wrapping_neg()) << 64 | u128::from(above.wrapping_neg());
        let h = (g & mask) | (h & !mask);
        let s = u128::from(key.0[3]) << 64 | u128::from(key.0[2]);
        let tag = h.wrapping_add(s);
        [tag as u64, (tag >> 64) as u64]
    }
}

/// The tag of one text.
///
/// # Safety
/// The text is readable and private.
#[inline(always)]
pub(crate) unsafe fn authenticate(key: &Line, text: Text) -> [u64; 2] {
    let mut poly = Poly::new(key);
    let whole = text.len as usize / 16;
    // SAFETY: the caller's contract.
    unsafe {
        poly.blocks(text.start, whole);
        poly.finish(text.start.add(16 * whole), text.len, key)
    }
}
