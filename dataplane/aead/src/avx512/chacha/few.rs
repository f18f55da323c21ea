//! A few ChaCha20 blocks: sooner done by rows than sixteen by words.
//!
//! **In**: a group of up to twelve lanes, alone, or of four beside sixteen others. **Out**: their keystream.
//! **Never**: a look at sources or destinations.

use core::arch::x86_64::*;

use super::{SIGMA, transpose_quarters};
use crate::lanes::Group;

/// The state of up to twelve blocks, four to a set of registers: a register holds a row of it (four
/// words) of four blocks. Sixteen blocks take less per block, but a few are sooner done like this.
pub(super) struct Rows<const SETS: usize> {
    start: [[__m512i; 4]; SETS],
    x: [[__m512i; 4]; SETS],
}

impl<const SETS: usize> Rows<SETS> {
    /// # Safety
    /// As [`Compute::compute`](crate::lanes::Compute::compute).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    pub(super) unsafe fn new(group: &Group) -> Self {
        let sigma = _mm512_broadcast_i32x4(_mm_setr_epi32(SIGMA[0], SIGMA[1], SIGMA[2], SIGMA[3]));
        let mut start = [[_mm512_setzero_si512(); 4]; SETS];
        for (set, rows) in start.iter_mut().enumerate() {
            let first = 4 * set;
            // SAFETY: used lanes' keys are readable, unused ones read the first one's; arrays have
            // 32 elements.
            unsafe {
                let key = |lane: usize, half: usize| {
                    let key = group.key[if lane < group.used { lane } else { 0 }];
                    _mm_loadu_si128(key.cast::<__m128i>().add(half))
                };
                let keys = |half| {
                    join([
                        key(first, half),
                        key(first + 1, half),
                        key(first + 2, half),
                        key(first + 3, half),
                    ])
                };
                let quarter = |array: &[u32; 32]| _mm_loadu_si128(array.as_ptr().add(first).cast());
                let (block, salt, low, high) = (
                    quarter(&group.block),
                    quarter(&group.salt),
                    quarter(&group.counter_low),
                    quarter(&group.counter_high),
                );
                let (b01, b23) = (
                    _mm_unpacklo_epi32(block, salt),
                    _mm_unpackhi_epi32(block, salt),
                );
                let (n01, n23) = (_mm_unpacklo_epi32(low, high), _mm_unpackhi_epi32(low, high));
                let counters = join([
                    _mm_unpacklo_epi64(b01, n01),
                    _mm_unpackhi_epi64(b01, n01),
                    _mm_unpacklo_epi64(b23, n23),
                    _mm_unpackhi_epi64(b23, n23),
                ]);
                *rows = [sigma, keys(0), keys(1), counters];
            }
        }
        Self { start, x: start }
    }

    /// A round of the columns and one of the diagonals.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    pub(super) fn double_round(&mut self) {
        quarter_rounds(&mut self.x);
        for [_, b, c, d] in &mut self.x {
            *b = _mm512_shuffle_epi32::<0b00_11_10_01>(*b);
            *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm512_shuffle_epi32::<0b10_01_00_11>(*d);
        }
        quarter_rounds(&mut self.x);
        for [_, b, c, d] in &mut self.x {
            *b = _mm512_shuffle_epi32::<0b10_01_00_11>(*b);
            *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm512_shuffle_epi32::<0b00_11_10_01>(*d);
        }
    }

    /// The blocks, after ten double rounds.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    pub(super) fn finish(self, out: &mut [__m512i]) {
        let blocks = out.as_chunks_mut::<4>().0;
        for ((start, x), out) in self.start.into_iter().zip(self.x).zip(blocks) {
            let mut rows = start;
            for (row, x) in rows.iter_mut().zip(x) {
                *row = _mm512_add_epi32(*row, x);
            }
            // Rows' quarters become blocks.
            *out = transpose_quarters(rows);
        }
    }
}

/// Up to twelve blocks.
///
/// # Safety
/// As [`Compute::compute`](crate::lanes::Compute::compute).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) unsafe fn few<const SETS: usize>(group: &Group, out: &mut [__m512i]) {
    // SAFETY: the caller's contract.
    let mut rows = unsafe { Rows::<SETS>::new(group) };
    for _ in 0..10 {
        rows.double_round();
    }
    rows.finish(out);
}

/// Four quarters make a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn join(q: [__m128i; 4]) -> __m512i {
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(q[0]), q[1]);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(q[2]), q[3]);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Four quarter rounds of each block, sets side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn quarter_rounds<const SETS: usize>(x: &mut [[__m512i; 4]; SETS]) {
    macro_rules! step {
        ($a:literal $b:literal $d:literal $r:literal) => {
            for rows in &mut *x {
                rows[$a] = _mm512_add_epi32(rows[$a], rows[$b]);
                rows[$d] = _mm512_rol_epi32::<$r>(_mm512_xor_si512(rows[$d], rows[$a]));
            }
        };
    }
    step!(0 1 3 16);
    step!(2 3 1 12);
    step!(0 1 3 8);
    step!(2 3 1 7);
}
