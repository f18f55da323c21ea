//! Where texts meet their keystream: read once, summed on the way, stored.
//!
//! **In**: a group's lanes and their keystream. **Out**: ciphertext or plaintext, sums by slot.
//! **Never**: a byte read twice, or read beyond a lane's span.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::lanes::{Group, Span};

/// Each lane's source meets its keystream.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) unsafe fn apply<const EXACT: bool, const SUM: bool>(
    group: &Group,
    keystream: &[__m512i],
    sums: &mut [__m512i; 64],
) {
    let used = group.used.min(keystream.len());
    let mut sum = Sum::new();
    for lane in 0..used {
        let (span, source) = (group.span[lane], group.source[lane]);
        let destination = group.destination[lane];
        // SAFETY: the pointers are good for the span (`Compute::compute`); masked bytes are neither
        // read nor written.
        unsafe {
            let text;
            if span == Span::FULL {
                text = load(source);
                _mm512_storeu_si512(destination.cast(), _mm512_xor_si512(text, keystream[lane]));
            } else {
                let stored = ones(span.len()) & !ones(span.skip());
                text = load_masked(source, stored & ones(span.take()));
                let sealed = _mm512_xor_si512(text, keystream[lane]);
                if EXACT {
                    _mm512_mask_storeu_epi8(destination.cast(), stored, sealed);
                } else {
                    let sealed = _mm512_maskz_mov_epi8(stored, sealed);
                    _mm512_storeu_si512(destination.cast(), sealed);
                }
            }
            if SUM {
                sum.add(text);
                // A run of lanes of one text is summed up in registers.
                if lane + 1 == used || group.slot[lane] != group.slot[lane + 1] {
                    sum.give(&mut sums[group.slot[lane] as usize & 63]);
                }
            }
        }
    }
}

/// Sums of a text's 32-bit words, in eight parts.
pub(super) struct Sum {
    /// Of 64-bit words, modulo 2^64.
    both: __m512i,
    /// Of their higher halves.
    high: __m512i,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    pub(super) fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            both: zero,
            high: zero,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    pub(super) fn add(&mut self, text: __m512i) {
        self.both = _mm512_add_epi64(self.both, text);
        self.high = _mm512_add_epi64(self.high, _mm512_srli_epi64::<32>(text));
    }

    /// Adds what was summed up to a total, and begins anew.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    pub(super) fn give(&mut self, total: &mut __m512i) {
        // What the higher halves didn't make of the whole, the lower ones did.
        let low = _mm512_sub_epi64(self.both, _mm512_slli_epi64::<32>(self.high));
        *total = _mm512_add_epi64(*total, _mm512_add_epi64(low, self.high));
        *self = Self::new();
    }
}

#[inline(always)]
const fn ones(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// Reads 64 bytes exactly once, whoever else writes them.
///
/// # Safety
/// They are mapped and readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) unsafe fn load(source: *const u8) -> __m512i {
    let text;
    // SAFETY: the caller's contract. Without `pure` the compiler may not repeat the load.
    unsafe {
        asm!("vmovdqu64 {}, [{}]", out(zmm_reg) text, in(reg) source,
            options(nostack, preserves_flags, readonly));
    }
    text
}

/// Reads the bytes of the mask exactly once; the others are zero.
///
/// # Safety
/// The bytes of the mask are mapped and readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn load_masked(source: *const u8, mask: u64) -> __m512i {
    let text;
    // SAFETY: as in `load`; masked-out bytes can't fault.
    unsafe {
        asm!("vmovdqu8 {}{{{}}}{{z}}, [{}]", out(zmm_reg) text, in(kreg) mask, in(reg) source,
            options(nostack, preserves_flags, readonly));
    }
    text
}
