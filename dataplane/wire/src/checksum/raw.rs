//! Sums over memory that another party may be writing: guest memory.
//!
//! In: a pointer and a length that the caller has checked. Out: a sum.
//! Never: a reference or slice over that memory; each byte is loaded once, by assembly
//! or a volatile read, so the compiler can neither load it again nor assume it constant.
//!
//! Long private slices take the same way: it is the fastest there is. The widest vectors
//! of the processor are chosen at run time; both 32-bit words of a 64-bit lane are added in
//! 64-bit lanes, so there is no carry to keep.

#![allow(
    unsafe_code,
    reason = "the one room of this crate that reads raw memory"
)]

use super::Checksum;

/// From this length on, the set-up of vectors pays.
pub(super) const LONG: usize = 128;

/// Bytes that one step of a vector kernel sums.
#[cfg(target_arch = "x86_64")]
const STEP: usize = 128;

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
        self.append(Self {
            // SAFETY: the caller vouches for the same range.
            sum: unsafe { sum_raw(pointer, len) },
            odd: !len.is_multiple_of(2),
        });
    }
}

/// Sums a slice's 32-bit words in native order; a last odd byte is padded with zero.
#[inline]
pub(super) fn sum_slice(bytes: &[u8]) -> u64 {
    // SAFETY: a slice is valid for reads of its length.
    unsafe { sum_raw(bytes.as_ptr(), bytes.len()) }
}

/// # Safety
///
/// `pointer` must be valid for reads of `len` bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn sum_raw(pointer: *const u8, len: usize) -> u64 {
    if is_x86_feature_detected!("avx512bw") {
        // SAFETY: the same range; the features were asked for.
        return unsafe { x86::sum_avx512(pointer, len) };
    }
    let steps = len / STEP;
    let done = steps * STEP;
    let mut sum = 0;
    if steps > 0 {
        // SAFETY: `steps` whole steps lie in the range; the features were asked for.
        sum = unsafe {
            if is_x86_feature_detected!("avx2") {
                x86::sum_avx2(pointer, steps)
            } else {
                x86::sum_sse2(pointer, steps)
            }
        };
    }
    // SAFETY: `done` is at most `len`; the rest ends where the range ends.
    sum + unsafe { x86::sum_rest(pointer.add(done), len - done) }
}

/// # Safety
///
/// `pointer` must be valid for reads of `len` bytes.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
unsafe fn sum_raw(pointer: *const u8, len: usize) -> u64 {
    // SAFETY: the same range.
    unsafe { sum_volatile(pointer, len) }
}

/// For processors without a kernel of their own.
///
/// # Safety
///
/// `pointer` must be valid for reads of `len` bytes.
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn sum_volatile(pointer: *const u8, len: usize) -> u64 {
    let mut sum = 0u64;
    // Volatile loads must be aligned: single bytes up to a boundary, then words.
    let lead = pointer.align_offset(8).min(len);
    let words = (len - lead) / 8;
    let byte = |at: usize, odd: bool| {
        // SAFETY: callers below stay under `len`, which the caller vouches for.
        let byte = unsafe { pointer.add(at).read_volatile() };
        u64::from(u16::from_ne_bytes(if odd { [0, byte] } else { [byte, 0] }))
    };
    for at in 0..lead {
        sum += byte(at, at % 2 != 0);
    }
    let mut middle = 0u64;
    for at in 0..words {
        // SAFETY: the word ends at lead + 8 * (at + 1) <= len, and `lead` aligned it.
        #[expect(clippy::cast_ptr_alignment, reason = "aligned by `lead`")]
        let word = unsafe { pointer.add(lead + 8 * at).cast::<u64>().read_volatile() };
        middle += (word >> 32) + (word & 0xffff_ffff);
    }
    let middle = super::fold(middle);
    sum += u64::from(if !lead.is_multiple_of(2) {
        middle.swap_bytes()
    } else {
        middle
    });
    for at in lead + words * 8..len {
        sum += byte(at, at % 2 != 0);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_add_epi64, _mm_and_si128, _mm_cvtsi128_si64,
        _mm_set1_epi64x, _mm_setzero_si128, _mm_srli_epi64, _mm_unpackhi_epi64, _mm256_add_epi64,
        _mm256_and_si256, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_srli_epi64, _mm512_add_epi64, _mm512_reduce_add_epi64,
        _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_sub_epi64,
    };

    use super::STEP;

    const LOW: i64 = 0xffff_ffff;

    /// Sums all of it: what makes no whole step is loaded under a mask, which touches nothing beyond.
    ///
    /// # Safety
    ///
    /// `pointer` must be valid for reads of `len` bytes.
    #[target_feature(enable = "avx512bw")]
    pub(super) unsafe fn sum_avx512(pointer: *const u8, len: usize) -> u64 {
        let mut both = [_mm512_setzero_si512(); 2];
        let mut high = [_mm512_setzero_si512(); 2];
        let mut add = |lanes: [__m512i; 2]| {
            for i in 0..2 {
                both[i] = _mm512_add_epi64(both[i], lanes[i]);
                high[i] = _mm512_add_epi64(high[i], _mm512_srli_epi64::<32>(lanes[i]));
            }
        };
        let steps = len / STEP;
        for step in 0..steps {
            let mut lanes = [_mm512_setzero_si512(); 2];
            // SAFETY: step < len / STEP, so this step's bytes are in the caller's range.
            unsafe {
                asm!(
                    "vmovdqu64 {a}, [{p}]",
                    "vmovdqu64 {b}, [{p} + 64]",
                    p = in(reg) pointer.add(step * STEP),
                    a = out(zmm_reg) lanes[0],
                    b = out(zmm_reg) lanes[1],
                    options(nostack, preserves_flags, readonly),
                );
            }
            add(lanes);
        }
        let rest = len % STEP;
        if rest > 0 {
            let mask = u128::MAX >> (STEP - rest);
            #[expect(clippy::cast_possible_truncation, reason = "its halves")]
            let (first, second) = (mask as u64, (mask >> 64) as u64);
            let mut lanes = [_mm512_setzero_si512(); 2];
            // SAFETY: the masks leave the `rest` bytes behind the last step, which end the caller's range.
            unsafe {
                asm!(
                    "vmovdqu8 {a} {{{first}}} {{z}}, [{p}]",
                    "vmovdqu8 {b} {{{second}}} {{z}}, [{p} + 64]",
                    p = in(reg) pointer.add(steps * STEP),
                    first = in(kreg) first,
                    second = in(kreg) second,
                    a = out(zmm_reg) lanes[0],
                    b = out(zmm_reg) lanes[1],
                    options(nostack, preserves_flags, readonly),
                );
            }
            add(lanes);
        }
        let both = _mm512_add_epi64(both[0], both[1]);
        let high = _mm512_add_epi64(high[0], high[1]);
        // Modulo 2^64: what the higher words did not make of both, the lower ones did.
        let low = _mm512_sub_epi64(both, _mm512_slli_epi64::<32>(high));
        _mm512_reduce_add_epi64(_mm512_add_epi64(low, high)).cast_unsigned()
    }

    /// # Safety
    ///
    /// `pointer` must be valid for reads of `steps * STEP` bytes.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sum_avx2(pointer: *const u8, steps: usize) -> u64 {
        let mask = _mm256_set1_epi64x(LOW);
        let mut low = [_mm256_setzero_si256(); 2];
        let mut high = [_mm256_setzero_si256(); 2];
        for step in 0..steps {
            let mut lanes: [__m256i; 4] = [_mm256_setzero_si256(); 4];
            // SAFETY: step < steps, so this step's bytes are in the caller's range.
            unsafe {
                asm!(
                    "vmovdqu {a}, [{p}]",
                    "vmovdqu {b}, [{p} + 32]",
                    "vmovdqu {c}, [{p} + 64]",
                    "vmovdqu {d}, [{p} + 96]",
                    p = in(reg) pointer.add(step * STEP),
                    a = out(ymm_reg) lanes[0],
                    b = out(ymm_reg) lanes[1],
                    c = out(ymm_reg) lanes[2],
                    d = out(ymm_reg) lanes[3],
                    options(nostack, preserves_flags, readonly),
                );
            }
            for i in 0..4 {
                low[i % 2] = _mm256_add_epi64(low[i % 2], _mm256_and_si256(lanes[i], mask));
                high[i % 2] = _mm256_add_epi64(high[i % 2], _mm256_srli_epi64::<32>(lanes[i]));
            }
        }
        let low = _mm256_add_epi64(low[0], low[1]);
        let high = _mm256_add_epi64(high[0], high[1]);
        let sum = _mm256_add_epi64(low, high);
        let upper = _mm256_extracti128_si256::<1>(sum);
        reduce(_mm_add_epi64(_mm256_castsi256_si128(sum), upper))
    }

    /// # Safety
    ///
    /// `pointer` must be valid for reads of `steps * STEP` bytes.
    #[target_feature(enable = "sse2")]
    pub(super) unsafe fn sum_sse2(pointer: *const u8, steps: usize) -> u64 {
        let mask = _mm_set1_epi64x(LOW);
        let mut low = [_mm_setzero_si128(); 2];
        let mut high = [_mm_setzero_si128(); 2];
        for half in 0..2 * steps {
            let mut lanes: [__m128i; 4] = [_mm_setzero_si128(); 4];
            // SAFETY: half < 2 * steps, so these 64 bytes are in the caller's range.
            unsafe {
                asm!(
                    "movdqu {a}, [{p}]",
                    "movdqu {b}, [{p} + 16]",
                    "movdqu {c}, [{p} + 32]",
                    "movdqu {d}, [{p} + 48]",
                    p = in(reg) pointer.add(half * STEP / 2),
                    a = out(xmm_reg) lanes[0],
                    b = out(xmm_reg) lanes[1],
                    c = out(xmm_reg) lanes[2],
                    d = out(xmm_reg) lanes[3],
                    options(nostack, preserves_flags, readonly),
                );
            }
            for i in 0..4 {
                low[i % 2] = _mm_add_epi64(low[i % 2], _mm_and_si128(lanes[i], mask));
                high[i % 2] = _mm_add_epi64(high[i % 2], _mm_srli_epi64::<32>(lanes[i]));
            }
        }
        let low = _mm_add_epi64(low[0], low[1]);
        let high = _mm_add_epi64(high[0], high[1]);
        reduce(_mm_add_epi64(low, high))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn reduce(sum: __m128i) -> u64 {
        let upper = _mm_unpackhi_epi64(sum, sum);
        _mm_cvtsi128_si64(_mm_add_epi64(sum, upper)).cast_unsigned()
    }

    /// Sums what no vector step takes, 8 bytes at a time, then 4, 2 and 1.
    ///
    /// # Safety
    ///
    /// `pointer` must be valid for reads of `len` bytes.
    #[inline]
    pub(super) unsafe fn sum_rest(mut pointer: *const u8, len: usize) -> u64 {
        let mut sum = 0;
        for _ in 0..len / 8 {
            let word: u64;
            // SAFETY: len / 8 words of 8 bytes lie in the caller's range.
            unsafe {
                asm!("mov {w}, qword ptr [{p}]", w = out(reg) word, p = in(reg) pointer,
                    options(nostack, preserves_flags, readonly));
                pointer = pointer.add(8);
            }
            sum += (word >> 32) + (word & 0xffff_ffff);
        }
        if len & 4 != 0 {
            let word: u32;
            // SAFETY: the fourth bit of the length says that 4 more bytes are there.
            unsafe {
                asm!("mov {w:e}, dword ptr [{p}]", w = out(reg) word, p = in(reg) pointer,
                    options(nostack, preserves_flags, readonly));
                pointer = pointer.add(4);
            }
            sum += u64::from(word);
        }
        if len & 2 != 0 {
            let word: u32;
            // SAFETY: the second bit of the length says that 2 more bytes are there.
            unsafe {
                asm!("movzx {w:e}, word ptr [{p}]", w = out(reg) word, p = in(reg) pointer,
                    options(nostack, preserves_flags, readonly));
                pointer = pointer.add(2);
            }
            sum += u64::from(word);
        }
        if len & 1 != 0 {
            // SAFETY: one byte is left. Bytes are always aligned for a volatile read.
            let byte = unsafe { pointer.read_volatile() };
            sum += u64::from(byte);
        }
        sum
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_kernel_of_this_processor_sums_alike() {
            let bytes: Vec<u8> = (0..5000u32)
                .map(|i| ((i * i) >> 3).to_le_bytes()[0])
                .collect();
            for start in 0..9 {
                for steps in [1, 2, 7, 30] {
                    let pointer = bytes[start..start + steps * STEP].as_ptr();
                    // SAFETY: the slice just taken has that many bytes; features are
                    // asked for.
                    unsafe {
                        let want = sum_rest(pointer, steps * STEP);
                        // Of 16-bit words where the pointer is odd: the same when folded.
                        let volatile = super::super::sum_volatile(pointer, steps * STEP);
                        let fold = super::super::super::fold;
                        assert_eq!(fold(volatile), fold(want));
                        assert_eq!(sum_sse2(pointer, steps), want);
                        if is_x86_feature_detected!("avx2") {
                            assert_eq!(sum_avx2(pointer, steps), want);
                        }
                        if is_x86_feature_detected!("avx512bw") {
                            for less in 0..STEP {
                                // A last byte alone counts in another place: the same when folded.
                                let len = steps * STEP - less;
                                let want = fold(sum_rest(pointer, len));
                                assert_eq!(fold(sum_avx512(pointer, len)), want);
                            }
                        }
                    }
                }
            }
        }
    }
}
