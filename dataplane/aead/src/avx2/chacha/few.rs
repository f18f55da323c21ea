//! A few ChaCha20 blocks: sooner done by rows than eight by words.
//!
//! **In**: a group of up to six lanes. **Out**: their keystream, and what was done beside it.
//! **Never**: a look at sources or destinations.

use core::arch::x86_64::*;

use super::{SIGMA, Shuffles, rotate, shuffles};
use crate::lanes::Group;
use crate::scalar::{Beside, Poly, Single, Walk};

/// Up to six blocks with Poly1305 of two blocks beside each double round. Returns how many it took.
///
/// # Safety
/// As [`Compute::compute`]; `count` blocks are readable at `text`.
#[inline(never)]
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn alone_beside(
    group: &Group,
    out: &mut [__m256i; 32],
    poly: &mut Poly,
    text: *const u8,
    count: u32,
) -> u32 {
    let walk = Walk {
        poly: *poly,
        at: text,
    };
    // SAFETY: the caller's contract.
    unsafe {
        // Three are a little more than a double round hides, but less than three alone.
        if count >= 30 {
            let mut beside = Single::<3> { walk, rounds: 10 };
            few_beside(group, out, &mut beside);
            *poly = beside.walk.poly;
            30
        } else {
            let rounds = (count / 2).min(10);
            let mut beside = Single::<2> { walk, rounds };
            few_beside(group, out, &mut beside);
            *poly = beside.walk.poly;
            2 * rounds
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn few_beside(group: &Group, out: &mut [__m256i; 32], beside: &mut impl Beside) {
    // SAFETY: the caller's contract.
    unsafe {
        if group.used <= 4 {
            few::<2>(group, out, beside);
        } else {
            few::<3>(group, out, beside);
        }
    }
}

/// Up to six blocks, two to a set of registers: a register holds a row of the state (four words) of
/// two blocks.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn few<const SETS: usize>(
    group: &Group,
    out: &mut [__m256i; 32],
    beside: &mut impl Beside,
) {
    let sigma = _mm256_broadcastsi128_si256(_mm_setr_epi32(SIGMA[0], SIGMA[1], SIGMA[2], SIGMA[3]));
    let mut start = [[_mm256_setzero_si256(); 4]; SETS];
    for (set, rows) in start.iter_mut().enumerate() {
        let (a, b) = (2 * set, 2 * set + 1);
        // SAFETY: used lanes' keys are readable, unused ones read the first one's.
        let (key_a, key_b) = unsafe {
            let key = |lane: usize| group.key[if lane < group.used { lane } else { 0 }];
            (
                _mm256_loadu_si256(key(a).cast()),
                _mm256_loadu_si256(key(b).cast()),
            )
        };
        let word = |array: &[u32; 32], lane: usize| array[lane] as i32;
        *rows = [
            sigma,
            _mm256_permute2x128_si256::<0x20>(key_a, key_b),
            _mm256_permute2x128_si256::<0x31>(key_a, key_b),
            _mm256_setr_epi32(
                word(&group.block, a),
                word(&group.salt, a),
                word(&group.counter_low, a),
                word(&group.counter_high, a),
                word(&group.block, b),
                word(&group.salt, b),
                word(&group.counter_low, b),
                word(&group.counter_high, b),
            ),
        ];
    }
    let shuffles = shuffles();
    super::align_frame();
    let mut x = start;
    for round in 0..10 {
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 0) };
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 1) };
        half_round(&mut x, shuffles);
        for [_, b, c, d] in &mut x {
            *b = _mm256_shuffle_epi32::<0b00_11_10_01>(*b);
            *c = _mm256_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm256_shuffle_epi32::<0b10_01_00_11>(*d);
        }
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 2) };
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 3) };
        half_round(&mut x, shuffles);
        for [_, b, c, d] in &mut x {
            *b = _mm256_shuffle_epi32::<0b10_01_00_11>(*b);
            *c = _mm256_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm256_shuffle_epi32::<0b00_11_10_01>(*d);
        }
    }
    for set in 0..SETS {
        let mut rows = start[set];
        for (row, x) in rows.iter_mut().zip(x[set]) {
            *row = _mm256_add_epi32(*row, x);
        }
        let [a, b, c, d] = rows;
        out[4 * set] = _mm256_permute2x128_si256::<0x20>(a, b);
        out[4 * set + 1] = _mm256_permute2x128_si256::<0x20>(c, d);
        out[4 * set + 2] = _mm256_permute2x128_si256::<0x31>(a, b);
        out[4 * set + 3] = _mm256_permute2x128_si256::<0x31>(c, d);
    }
}

/// Four quarter rounds of each block, sets side by side.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn half_round<const SETS: usize>(x: &mut [[__m256i; 4]; SETS], shuffles: Shuffles) {
    for x in &mut *x {
        four!(x, shuffle shuffles.by_16, (0 1 3));
    }
    for x in &mut *x {
        four!(x, 12 20, (2 3 1));
    }
    for x in &mut *x {
        four!(x, shuffle shuffles.by_8, (0 1 3));
    }
    for x in &mut *x {
        four!(x, 7 25, (2 3 1));
    }
}
