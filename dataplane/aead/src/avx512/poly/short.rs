//! Poly1305 of short texts, two or three eights of them.
//!
//! **In**: texts of at most 64 bytes. **Out**: their tags.
//! **Never**: a longer text.

use core::arch::x86_64::*;
use core::ptr;

use super::{Edges, HIGH_BIT, carry, factor, finish, limbs, load, multiply, sum, transpose};
use crate::batch::{Line, Text};

/// The tags of `8 N` texts of at most 64 bytes.
///
/// Block by block, without powers of `r`: those cost as much as they save here. Each step waits for
/// the one before, so the eights take turns.
///
/// # Safety
/// As [`authenticate`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn authenticate_short<const N: usize>(
    keys: [&[Line; 8]; N],
    texts: &[[Text; 8]; N],
) -> [[[u64; 2]; 8]; N] {
    let zero = _mm512_setzero_si512();
    let mut factors = [factor([zero; 3]); N];
    let mut secrets = [[zero; 2]; N];
    let mut lens = [zero; N];
    let mut blocks = [[[zero; 3]; 4]; N];
    let mut most = 0;
    for texts in texts {
        for text in texts {
            most = most.max(text.len.div_ceil(16));
        }
    }
    for n in 0..N {
        // 1. Keys: r, clamped, and s.
        let mut rows = [zero; 8];
        for lane in 0..8 {
            // SAFETY: a slot is 64 bytes.
            rows[lane] = unsafe { _mm512_load_si512(keys[n][lane].0.as_ptr().cast()) };
        }
        let columns = transpose(&rows);
        factors[n] = factor(limbs(
            _mm512_and_si512(columns[0], _mm512_set1_epi64(0x0fff_fffc_0fff_ffff)),
            _mm512_and_si512(columns[1], _mm512_set1_epi64(0x0fff_fffc_0fff_fffc)),
            zero,
        ));
        secrets[n] = [columns[2], columns[3]];
        // 2. Texts, all in one step.
        let (mut begin, mut start, mut len) = ([ptr::null::<u8>(); 8], [ptr::null(); 8], [0; 8]);
        for (lane, text) in texts[n].iter().enumerate() {
            let pad = 4 - text.len.div_ceil(16);
            start[lane] = text.start;
            begin[lane] = text.start.wrapping_sub(16 * pad as usize);
            len[lane] = u64::from(text.len);
        }
        // SAFETY: they are arrays of eight words; texts are readable.
        let (columns, high_bits) = unsafe {
            let edges = Edges {
                begins: _mm512_loadu_si512(begin.as_ptr().cast()),
                starts: _mm512_loadu_si512(start.as_ptr().cast()),
                lens: _mm512_loadu_si512(len.as_ptr().cast()),
            };
            lens[n] = edges.lens;
            if len.iter().all(|&len| len == 64) {
                (load(&start, 0), [_mm512_set1_epi64(HIGH_BIT); 4])
            } else {
                edges.load(0)
            }
        };
        for block in 0..4 {
            blocks[n][block] = limbs(columns[2 * block], columns[2 * block + 1], high_bits[block]);
        }
    }
    // 3. Blocks, then the lengths.
    let mut h = [[zero; 3]; N];
    for block in 4 - most as usize..4 {
        for n in 0..N {
            let mut accumulator = [zero; 6];
            multiply(
                &mut accumulator,
                &sum(&h[n], &blocks[n][block]),
                &factors[n],
            );
            h[n] = carry(&accumulator);
        }
    }
    let mut packets = [[[0; 2]; 8]; N];
    for n in 0..N {
        let lengths = limbs(zero, lens[n], _mm512_set1_epi64(HIGH_BIT));
        let mut accumulator = [zero; 6];
        multiply(&mut accumulator, &sum(&h[n], &lengths), &factors[n]);
        h[n] = carry(&accumulator);
    }
    for n in 0..N {
        let tags = finish(&h[n], secrets[n]);
        for lane in 0..8 {
            packets[n][lane] = [tags[0][lane], tags[1][lane]];
        }
    }
    packets
}
