//! ChaCha20 (RFC 8439, section 2.3), eight blocks side by side.
//!
//! **In**: a group of up to eight lanes: keys, nonces, block numbers, sources, destinations.
//! **Out**: every lane's source combined with its keystream, at its destination; on request sums of
//! what was read.
//! **Never**: a second read of a source's byte; a byte outside a lane's span when `EXACT`.
//!
//! As the AVX-512 kernel does it, with half the lanes and without rotate instructions: by 16 and 8
//! bits a byte shuffle rotates, by 12 and 7 two shifts do.
//!
//! Keystream is stored before it meets its sources: to let it meet them in registers, as the AVX-512
//! kernel does, made the rounds slower.
//!
//! Constant time: additions, shifts, shuffles with constant patterns and exclusive-ors take the same
//! time for all operands; the branches here depend on spans (lengths) and on whether two key
//! *pointers* are the same.

use core::arch::asm;
use core::arch::x86_64::*;

pub(crate) use few::alone_beside;
use few::few;

use super::align_frame;
use crate::KeyBytes;
use crate::lanes::{Compute, Group, Span, Stream};
use crate::raw;
use crate::scalar::{Beside, Double, Share, Side, Single};

const SIGMA: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The keystream of one group on its way from registers to lanes, and sums by slot.
pub(crate) struct Eight<'s, const EXACT: bool, const SUM: bool> {
    /// Two registers per lane.
    pub(crate) keystream: &'s mut [__m256i; 32],
    /// Two registers per slot.
    pub(crate) sums: &'s mut [__m256i; 128],
    /// Poly1305 to mix into the rounds.
    pub(crate) side: Option<&'s mut Side>,
    /// Sources are zeros: whole groups of lines in a row need no second step.
    pub(crate) only_keystream: bool,
}

impl<const EXACT: bool, const SUM: bool> Compute for Eight<'_, EXACT, SUM> {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn fill(
        group: &mut Group,
        at: usize,
        stream: Stream,
        block: u32,
        source: *const u8,
        destination: *mut u8,
    ) {
        // SAFETY: the caller's contract.
        unsafe { fill(group, at, stream, block, source, destination) }
    }

    #[inline(always)]
    unsafe fn compute(&mut self, group: &Group) {
        // SAFETY: the caller's contract; eight lines in a row are registers' places.
        unsafe {
            let straight = self.only_keystream && in_a_row(group);
            let blocks = if straight {
                &mut *group.destination[0].cast()
            } else {
                &mut *self.keystream
            };
            match &mut self.side {
                None if straight => keystream_only(group, blocks),
                None => compute::<EXACT, SUM>(group, blocks, self.sums),
                Some(side) => {
                    compute_beside::<EXACT, SUM>(group, blocks, self.sums, side, straight);
                }
            }
        }
    }
}

/// Whether a full group's lanes are whole and go to aligned lines one behind the other.
#[inline(always)]
fn in_a_row(group: &Group) -> bool {
    let first = group.destination[0];
    let mut all = group.used == 8 && first.cast::<__m256i>().is_aligned();
    for lane in 0..8 {
        all &= group.destination[lane] == first.wrapping_add(64 * lane);
        all &= group.span[lane] == Span::FULL;
    }
    all
}

#[inline(never)]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn keystream_only(group: &Group, blocks: &mut [__m256i; 32]) {
    // SAFETY: the caller's contract.
    unsafe { keystream(group, blocks) }
}

/// One function, never inlined: it is called once per eight lanes from several places.
#[inline(never)]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn compute<const EXACT: bool, const SUM: bool>(
    group: &Group,
    blocks: &mut [__m256i; 32],
    sums: &mut [__m256i; 128],
) {
    // SAFETY: the caller's contract.
    unsafe {
        keystream(group, blocks);
        apply::<EXACT, SUM>(group, blocks, sums);
    }
}

/// The same with Poly1305 of earlier blocks on the side.
#[inline(never)]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn compute_beside<const EXACT: bool, const SUM: bool>(
    group: &Group,
    blocks: &mut [__m256i; 32],
    sums: &mut [__m256i; 128],
    side: &mut Side,
    straight: bool,
) {
    // SAFETY: the caller's contract.
    unsafe {
        {
            match side.share() {
                Share::Nothing => keystream(group, blocks),
                Share::One(stream, rounds) => {
                    let walk = side.walk(stream);
                    let mut beside = Single::<4> { walk, rounds };
                    keystream_beside(group, blocks, &mut beside);
                    side.went(stream, beside.walk, 4 * rounds);
                }
                Share::Half(stream, rounds) => {
                    let walk = side.walk(stream);
                    let mut beside = Single::<2> { walk, rounds };
                    keystream_beside(group, blocks, &mut beside);
                    side.went(stream, beside.walk, 2 * rounds);
                }
                Share::Both(rounds) => {
                    let (a, b) = (side.walk(0), side.walk(1));
                    let mut beside = Double { a, b, rounds };
                    keystream_beside(group, blocks, &mut beside);
                    side.went(0, beside.a, 2 * rounds);
                    side.went(1, beside.b, 2 * rounds);
                }
            }
        }
        if !straight {
            apply::<EXACT, SUM>(group, blocks, sums);
        }
    }
    let last = group.used.clamp(1, 8) - 1;
    side.computed(group.slot[last], group.block[last]);
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn fill(
    group: &mut Group,
    at: usize,
    stream: Stream,
    block: u32,
    source: *const u8,
    destination: *mut u8,
) {
    let iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let strides = _mm256_setr_epi64x(0, 64, 128, 192);
    let far = _mm256_set1_epi64x(256);
    let none = _mm256_setzero_si256();
    // SAFETY: `at` is below 8 and the arrays have 32 elements.
    unsafe {
        let to = group.block.as_mut_ptr().add(at).cast();
        _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_set1_epi32(block as i32), iota));
        let to = group.salt.as_mut_ptr().add(at).cast();
        _mm256_storeu_si256(to, _mm256_set1_epi32(stream.salt as i32));
        let to = group.counter_low.as_mut_ptr().add(at).cast();
        _mm256_storeu_si256(to, _mm256_set1_epi32(stream.counter as i32));
        let to = group.counter_high.as_mut_ptr().add(at).cast();
        _mm256_storeu_si256(to, _mm256_set1_epi32((stream.counter >> 32) as i32));
        let to = group.span.as_mut_ptr().add(at).cast();
        _mm256_storeu_si256(to, _mm256_set1_epi32(Span::FULL.bits() as i32));
        let to = group.slot.as_mut_ptr().add(at).cast();
        _mm256_storeu_si256(to, _mm256_set1_epi32(stream.slot as i32));
        let key = _mm256_set1_epi64x(stream.key as i64);
        put_pointers(group.key.as_mut_ptr().add(at).cast(), key, none);
        let lines = _mm256_add_epi64(_mm256_set1_epi64x(source as i64), strides);
        put_pointers(group.source.as_mut_ptr().add(at).cast(), lines, far);
        let lines = _mm256_add_epi64(_mm256_set1_epi64x(destination as i64), strides);
        put_pointers(group.destination.as_mut_ptr().add(at).cast(), lines, far);
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn put_pointers(to: *mut __m256i, four: __m256i, step: __m256i) {
    // SAFETY: the caller has room for eight.
    unsafe {
        _mm256_storeu_si256(to, four);
        _mm256_storeu_si256(to.add(1), _mm256_add_epi64(four, step));
    }
}

/// Row `i` holds word `i` of every lane's key.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn key_rows(group: &Group) -> [__m256i; 8] {
    let mut rows = [_mm256_setzero_si256(); 8];
    // SAFETY: used lanes' keys are readable; unused lanes read the first lane's key.
    unsafe {
        if group.one_key {
            let key = group.key[0].cast::<i32>();
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm256_set1_epi32(key.add(i).read_unaligned());
            }
            return rows;
        }
        for (lane, row) in rows.iter_mut().enumerate() {
            let key: *const KeyBytes = group.key[if lane < group.used { lane } else { 0 }];
            *row = _mm256_loadu_si256(key.cast());
        }
    }
    transpose(&rows)
}

/// Eight rows of eight words to columns.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn transpose(x: &[__m256i; 8]) -> [__m256i; 8] {
    let mut t = [_mm256_setzero_si256(); 8];
    for g in 0..2 {
        let [a, b, c, d] = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
        let (ab, ab2) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd, cd2) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        t[4 * g] = _mm256_unpacklo_epi64(ab, cd);
        t[4 * g + 1] = _mm256_unpackhi_epi64(ab, cd);
        t[4 * g + 2] = _mm256_unpacklo_epi64(ab2, cd2);
        t[4 * g + 3] = _mm256_unpackhi_epi64(ab2, cd2);
    }
    let mut columns = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        columns[j] = _mm256_permute2x128_si256::<0x20>(t[j], t[4 + j]);
        columns[4 + j] = _mm256_permute2x128_si256::<0x31>(t[j], t[4 + j]);
    }
    columns
}

/// Rotations by 16 and by 8 as shuffles of bytes.
#[derive(Clone, Copy)]
struct Shuffles {
    by_16: __m256i,
    by_8: __m256i,
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn shuffles() -> Shuffles {
    let mut by_16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13,
    ));
    let mut by_8 = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14,
    ));
    // SAFETY: no instruction at all. A compiler that knows the patterns makes two shuffles of one,
    // and moves them to the wrong side of the exclusive-or.
    unsafe {
        asm!("/* {} {} */", inout(ymm_reg) by_16, inout(ymm_reg) by_8,
            options(pure, nomem, nostack, preserves_flags));
    }
    Shuffles { by_16, by_8 }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn rotate<const LEFT: i32, const RIGHT: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
}

/// One step of independent quarter rounds, written so that they stay side by side.
macro_rules! four {
    ($x:ident, shuffle $p:expr, $(($a:literal $b:literal $d:literal))*) => {
        $($x[$a] = _mm256_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($x[$d], $x[$a]), $p);)*
    };
    ($x:ident, $l:literal $r:literal, $(($a:literal $b:literal $d:literal))*) => {
        $($x[$a] = _mm256_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = rotate::<$l, $r>(_mm256_xor_si256($x[$d], $x[$a]));)*
    };
}

mod few;

/// The keystream of a group's lanes, two registers of `out` each.
///
/// # Safety
/// As [`Compute::compute`].
#[inline]
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn keystream(group: &Group, out: &mut [__m256i; 32]) {
    // SAFETY: the caller's contract.
    unsafe {
        match group.used {
            0..=2 => few::<1>(group, out, &mut ()),
            3..=4 => few::<2>(group, out, &mut ()),
            5..=6 => few::<3>(group, out, &mut ()),
            7.. => eight(group, out, &mut ()),
        }
    }
}

/// The same with something on the side, four times per double round.
///
/// # Safety
/// As [`Compute::compute`].
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn keystream_beside(group: &Group, out: &mut [__m256i; 32], beside: &mut impl Beside) {
    // SAFETY: the caller's contract.
    unsafe {
        if group.used <= 4 {
            few::<2>(group, out, beside);
        } else {
            eight(group, out, beside);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn eight(group: &Group, out: &mut [__m256i; 32], beside: &mut impl Beside) {
    // SAFETY: the group's arrays are aligned to 64 bytes and longer than a register.
    let (key, block, salt, low, high) = unsafe {
        (
            key_rows(group),
            _mm256_load_si256(group.block.as_ptr().cast()),
            _mm256_load_si256(group.salt.as_ptr().cast()),
            _mm256_load_si256(group.counter_low.as_ptr().cast()),
            _mm256_load_si256(group.counter_high.as_ptr().cast()),
        )
    };
    let start = [
        _mm256_set1_epi32(SIGMA[0]),
        _mm256_set1_epi32(SIGMA[1]),
        _mm256_set1_epi32(SIGMA[2]),
        _mm256_set1_epi32(SIGMA[3]),
        key[0],
        key[1],
        key[2],
        key[3],
        key[4],
        key[5],
        key[6],
        key[7],
        block,
        salt,
        low,
        high,
    ];
    let shuffles = shuffles();
    align_frame();
    let mut x = start;
    for round in 0..10 {
        four!(x, shuffle shuffles.by_16, (0 4 12) (1 5 13) (2 6 14) (3 7 15));
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 0) };
        four!(x, 12 20, (8 12 4) (9 13 5) (10 14 6) (11 15 7));
        four!(x, shuffle shuffles.by_8, (0 4 12) (1 5 13) (2 6 14) (3 7 15));
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 1) };
        four!(x, 7 25, (8 12 4) (9 13 5) (10 14 6) (11 15 7));
        four!(x, shuffle shuffles.by_16, (0 5 15) (1 6 12) (2 7 13) (3 4 14));
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 2) };
        four!(x, 12 20, (10 15 5) (11 12 6) (8 13 7) (9 14 4));
        four!(x, shuffle shuffles.by_8, (0 5 15) (1 6 12) (2 7 13) (3 4 14));
        // SAFETY: the blocks to do are readable.
        unsafe { beside.part(round, 3) };
        four!(x, 7 25, (10 15 5) (11 12 6) (8 13 7) (9 14 4));
    }
    let mut half = [_mm256_setzero_si256(); 8];
    for side in 0..2 {
        for i in 0..8 {
            half[i] = _mm256_add_epi32(x[8 * side + i], start[8 * side + i]);
        }
        let columns = transpose(&half);
        for lane in 0..8 {
            out[2 * lane + side] = columns[lane];
        }
    }
}

/// Each lane's source meets its keystream.
///
/// # Safety
/// As [`Compute::compute`].
#[inline]
#[target_feature(enable = "avx2,bmi2")]
pub(super) unsafe fn apply<const EXACT: bool, const SUM: bool>(
    group: &Group,
    keystream: &[__m256i; 32],
    sums: &mut [__m256i; 128],
) {
    for lane in 0..group.used.min(8) {
        let (span, source) = (group.span[lane], group.source[lane]);
        let destination = group.destination[lane];
        let (mut low, mut high);
        // SAFETY: the pointers are good for the span (`Compute::compute`).
        unsafe {
            let to = destination.cast::<__m256i>();
            if span == Span::FULL {
                (low, high) = (load(source), load(source.add(32)));
                _mm256_storeu_si256(to, _mm256_xor_si256(low, keystream[2 * lane]));
                let sealed = _mm256_xor_si256(high, keystream[2 * lane + 1]);
                _mm256_storeu_si256(to.add(1), sealed);
            } else {
                let (skip, len) = (span.skip() as usize, span.len() as usize);
                if len == 0 {
                    continue;
                }
                // Through private memory, so that nothing beside the span is touched.
                let mut part = [0u8; 64];
                let take = (span.take() as usize).saturating_sub(skip);
                raw::read(source.wrapping_add(skip), part.as_mut_ptr().add(skip), take);
                let place = part.as_mut_ptr().cast::<__m256i>();
                (low, high) = (_mm256_loadu_si256(place), _mm256_loadu_si256(place.add(1)));
                let sealed = _mm256_xor_si256(low, keystream[2 * lane]);
                let sealed_high = _mm256_xor_si256(high, keystream[2 * lane + 1]);
                if EXACT {
                    _mm256_storeu_si256(place, sealed);
                    _mm256_storeu_si256(place.add(1), sealed_high);
                    raw::write(
                        part.as_ptr().add(skip),
                        destination.wrapping_add(skip),
                        len - skip,
                    );
                } else {
                    // Zeros behind the text are Poly1305's padding.
                    let (mask, mask_high) = ones(len);
                    _mm256_storeu_si256(to, _mm256_and_si256(sealed, mask));
                    _mm256_storeu_si256(to.add(1), _mm256_and_si256(sealed_high, mask_high));
                }
            }
        }
        if SUM {
            let below = _mm256_set1_epi64x(0xffff_ffff);
            let sum = &mut sums[2 * (group.slot[lane] as usize & 63)];
            for text in [&mut low, &mut high] {
                let words = _mm256_add_epi64(
                    _mm256_and_si256(*text, below),
                    _mm256_srli_epi64::<32>(*text),
                );
                *sum = _mm256_add_epi64(*sum, words);
            }
        }
    }
}

/// Masks of the first `count` of 64 bytes.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn ones(count: usize) -> (__m256i, __m256i) {
    let iota = _mm256_setr_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
        25, 26, 27, 28, 29, 30, 31,
    );
    let count = _mm256_set1_epi8(count as i8);
    let high = _mm256_add_epi8(iota, _mm256_set1_epi8(32));
    (
        _mm256_cmpgt_epi8(count, iota),
        _mm256_cmpgt_epi8(count, high),
    )
}

/// Reads 32 bytes exactly once, whoever else writes them.
///
/// # Safety
/// They are mapped and readable.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn load(source: *const u8) -> __m256i {
    let text;
    // SAFETY: the caller's contract. Without `pure` the compiler may not repeat the load.
    unsafe {
        asm!("vmovdqu {}, [{}]", out(ymm_reg) text, in(reg) source,
            options(nostack, preserves_flags, readonly));
    }
    text
}
