//! Poly1305 (RFC 8439, section 2.5) for four packets side by side.
//!
//! **In**: four one-time keys, four texts that nobody else writes. **Out**: four tags.
//! **Never**: a write to a text, a read outside it.
//!
//! As the AVX-512 kernel does it (texts aligned to the right, four blocks per reduction, streams),
//! with four lanes and, for want of IFMA, five limbs of 26 bits multiplied with 32-bit products.
//!
//! Constant time: additions, shifts, masks and 32-bit multiplications, which take the same time for
//! all operands; branches depend on lengths only.

use core::arch::asm;
use core::arch::x86_64::*;
use core::ptr;

use crate::batch::{Line, Text};

/// Five limbs of four numbers.
type Limbs = [__m256i; 5];

/// A factor, and 5 times its upper limbs: what overflows 2^130 comes back five times.
#[derive(Clone, Copy)]
struct Factor {
    r: Limbs,
    s: [__m256i; 4],
}

const MASK: i64 = (1 << 26) - 1;
const HIGH_BIT: i64 = 1 << 24;

macro_rules! vector {
    ($(#[$doc:meta])* fn $($rest:tt)*) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx2,bmi2")]
        fn $($rest)*
    };
}

vector! {
/// Products of the lower halves. In assembly, because the compiler takes the intrinsic for a 64-bit
/// multiplication whose upper halves it believes it knows, forgets that, and makes three of it.
fn product_32(a: __m256i, b: __m256i) -> __m256i {
    let product;
    // SAFETY: one instruction on registers.
    unsafe {
        asm!("vpmuludq {}, {}, {}", lateout(ymm_reg) product, in(ymm_reg) a, in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    product
}
}

vector! {
/// Adds a product before its carries.
fn multiply(a: &mut Limbs, h: &Limbs, f: &Factor) {
    for i in 0..5 {
        for j in 0..5 {
            // h[j] times the limb of r that makes weight 26 i, or 26 (i + 5) with the factor 5.
            let limb = if j <= i { f.r[i - j] } else { f.s[i + 4 - j] };
            a[i] = _mm256_add_epi64(a[i], product_32(h[j], limb));
        }
    }
}
}

vector! {
/// Carries, leaving limbs of 26 bits and a little more in two of them.
fn carry(a: &Limbs) -> Limbs {
    let mask = _mm256_set1_epi64x(MASK);
    let [mut a0, mut a1, mut a2, mut a3, mut a4] = *a;
    // Two chains side by side: 0 to 1 .. 3, and 3 to 4, 0, 1.
    a1 = _mm256_add_epi64(a1, _mm256_srli_epi64::<26>(a0));
    a0 = _mm256_and_si256(a0, mask);
    a4 = _mm256_add_epi64(a4, _mm256_srli_epi64::<26>(a3));
    a3 = _mm256_and_si256(a3, mask);
    a2 = _mm256_add_epi64(a2, _mm256_srli_epi64::<26>(a1));
    a1 = _mm256_and_si256(a1, mask);
    let c = _mm256_srli_epi64::<26>(a4);
    a4 = _mm256_and_si256(a4, mask);
    a0 = _mm256_add_epi64(a0, _mm256_add_epi64(c, _mm256_slli_epi64::<2>(c)));
    a3 = _mm256_add_epi64(a3, _mm256_srli_epi64::<26>(a2));
    a2 = _mm256_and_si256(a2, mask);
    a1 = _mm256_add_epi64(a1, _mm256_srli_epi64::<26>(a0));
    a0 = _mm256_and_si256(a0, mask);
    a4 = _mm256_add_epi64(a4, _mm256_srli_epi64::<26>(a3));
    a3 = _mm256_and_si256(a3, mask);
    [a0, a1, a2, a3, a4]
}
}

vector! {
fn five(x: __m256i) -> __m256i {
    _mm256_add_epi64(x, _mm256_slli_epi64::<2>(x))
}
}

vector! {
fn factor(r: Limbs) -> Factor {
    Factor { r, s: [five(r[1]), five(r[2]), five(r[3]), five(r[4])] }
}
}

vector! {
fn product(a: &Limbs, f: &Factor) -> Factor {
    let mut accumulator = [_mm256_setzero_si256(); 5];
    multiply(&mut accumulator, a, f);
    factor(carry(&accumulator))
}
}

vector! {
fn sum(a: &Limbs, b: &Limbs) -> Limbs {
    let mut sum = *a;
    for i in 0..5 {
        sum[i] = _mm256_add_epi64(a[i], b[i]);
    }
    sum
}
}

vector! {
/// Two halves of 128-bit numbers to limbs.
fn limbs(low: __m256i, high: __m256i, high_bit: __m256i) -> Limbs {
    let mask = _mm256_set1_epi64x(MASK);
    let middle =
        _mm256_or_si256(_mm256_srli_epi64::<52>(low), _mm256_slli_epi64::<12>(high));
    [
        _mm256_and_si256(low, mask),
        _mm256_and_si256(_mm256_srli_epi64::<26>(low), mask),
        _mm256_and_si256(middle, mask),
        _mm256_and_si256(_mm256_srli_epi64::<14>(high), mask),
        _mm256_or_si256(_mm256_srli_epi64::<40>(high), high_bit),
    ]
}
}

vector! {
/// Four rows of four 64-bit words to columns.
fn transpose(x: [__m256i; 4]) -> [__m256i; 4] {
    let [a, b, c, d] = x;
    let (ab, ab2) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (cd, cd2) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(ab, cd),
        _mm256_permute2x128_si256::<0x20>(ab2, cd2),
        _mm256_permute2x128_si256::<0x31>(ab, cd),
        _mm256_permute2x128_si256::<0x31>(ab2, cd2),
    ]
}
}

/// The tags of up to `4 / streams` texts; `keys` are their slots, one-time key first.
///
/// # Safety
/// The processor has the features; texts are readable and nobody writes them meanwhile.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn authenticate(
    keys: [&Line; 8],
    texts: &[Text; 8],
    streams: usize,
) -> [[u64; 2]; 9] {
    // SAFETY: the caller's contract.
    unsafe {
        match streams {
            4.. => with_streams::<4>(keys, texts),
            2 | 3 => with_streams::<2>(keys, texts),
            _ => with_streams::<1>(keys, texts),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn with_streams<const S: usize>(keys: [&Line; 8], texts: &[Text; 8]) -> [[u64; 2]; 9] {
    let zero = _mm256_setzero_si256();
    // 1. Keys: r, clamped, and s; powers of r.
    let mut rows = [zero; 4];
    for lane in 0..4 {
        // SAFETY: a slot is 64 bytes.
        rows[lane] = unsafe { _mm256_load_si256(keys[lane / S].0.as_ptr().cast()) };
    }
    let columns = transpose(rows);
    let r = factor(limbs(
        _mm256_and_si256(columns[0], _mm256_set1_epi64x(0x0fff_fffc_0fff_ffff)),
        _mm256_and_si256(columns[1], _mm256_set1_epi64x(0x0fff_fffc_0fff_fffc)),
        zero,
    ));
    let s = [columns[2], columns[3]];
    let r2 = product(&r.r, &r);
    let r3 = product(&r2.r, &r);
    let r4 = product(&r2.r, &r2);
    let r8 = if S >= 2 { product(&r4.r, &r4) } else { r4 };
    let stride = if S >= 4 { product(&r8.r, &r8) } else { r8 };

    // 2. Where each text begins: the blocks of zero before it, so that its lengths come last.
    let blocks = |text: &Text| text.len.div_ceil(16) + 1;
    let (mut most, mut least) = (0, u32::MAX);
    for lane in 0..4 / S {
        most = most.max(blocks(&texts[lane]));
        least = least.min(blocks(&texts[lane]));
    }
    let per_step = 4 * S as u32;
    let steps = most.div_ceil(per_step);
    let mut begin = [ptr::null::<u8>(); 4];
    for lane in 0..4 {
        let pad = per_step * steps - blocks(&texts[lane / S]);
        let text = texts[lane / S].start;
        begin[lane] = text
            .wrapping_sub(16 * pad as usize)
            .wrapping_add(64 * (lane % S));
    }
    // The first step in which all texts have begun at its first byte.
    let begun = (per_step * steps - least).div_ceil(per_step);

    // 3. Four blocks of each stream per step.
    let mut h = [zero; 5];
    for step in 0..steps {
        let last = step + 1 == steps;
        let (columns, high_bits) = if step < begun || last {
            // SAFETY: texts are readable.
            unsafe { edges::<S>(&begin, texts, step, last) }
        } else {
            // SAFETY: all texts have begun and none ends.
            (
                unsafe { load::<S>(&begin, step) },
                [_mm256_set1_epi64x(HIGH_BIT); 4],
            )
        };
        let mut accumulator = [zero; 5];
        // Blocks that no packet has, in the first step, are not multiplied.
        let first = if S == 1 && step == 0 {
            most.wrapping_neg() % 4
        } else {
            0
        };
        if first < 2 {
            let m = limbs(columns[2], columns[3], high_bits[1]);
            multiply(&mut accumulator, &m, &r3);
        }
        if first < 3 {
            let m = limbs(columns[4], columns[5], high_bits[2]);
            multiply(&mut accumulator, &m, &r2);
        }
        let m = limbs(columns[6], columns[7], high_bits[3]);
        multiply(&mut accumulator, &m, &r);
        if first < 1 {
            let m = limbs(columns[0], columns[1], high_bits[0]);
            if S == 1 {
                multiply(&mut accumulator, &sum(&h, &m), &r4);
            } else {
                multiply(&mut accumulator, &m, &r4);
                multiply(&mut accumulator, &h, &stride);
            }
        }
        h = carry(&accumulator);
    }

    // 4. Streams of one text meet, neighbours first.
    if S >= 2 {
        h = sum(&product(&h, &r4).r, &neighbours::<0b00_11_00_01>(&h));
    }
    if S >= 4 {
        h = sum(&product(&h, &r8).r, &neighbours::<0b00_00_00_10>(&h));
    }
    let tags = finish(&h, s);
    let mut packets = [[0; 2]; 9];
    for packet in 0..4 / S {
        packets[packet] = [tags[0][packet * S], tags[1][packet * S]];
    }
    packets
}

vector! {
/// Lanes moved to where their sums are.
fn neighbours<const PATTERN: i32>(h: &Limbs) -> Limbs {
    let mut moved = *h;
    for limb in &mut moved {
        *limb = _mm256_permute4x64_epi64::<PATTERN>(*limb);
    }
    moved
}
}

/// The columns of a step that all texts fill.
///
/// # Safety
/// The processor has the features; 64 bytes of each stream are readable there.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn load<const S: usize>(begin: &[*const u8; 4], step: u32) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    let (mut first, mut second) = ([zero; 4], [zero; 4]);
    for lane in 0..4 {
        let place = begin[lane]
            .wrapping_add(64 * S * step as usize)
            .cast::<__m256i>();
        // SAFETY: the caller's contract.
        unsafe {
            first[lane] = _mm256_loadu_si256(place);
            second[lane] = _mm256_loadu_si256(place.add(1));
        }
    }
    join(transpose(first), transpose(second))
}

vector! {
fn join(a: [__m256i; 4], b: [__m256i; 4]) -> [__m256i; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}
}

/// The columns and high bits of a step in which texts begin or end, zero where there is no text;
/// in the last step with the lengths.
///
/// # Safety
/// The processor has the features; texts are readable.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn edges<const S: usize>(
    begin: &[*const u8; 4],
    texts: &[Text; 8],
    step: u32,
    last: bool,
) -> ([__m256i; 8], [__m256i; 4]) {
    let zero = _mm256_setzero_si256();
    let (mut first, mut second) = ([zero; 4], [zero; 4]);
    let mut bits = [[0i64; 4]; 4];
    for lane in 0..4 {
        let (text, len) = (texts[lane / S].start, i64::from(texts[lane / S].len));
        let place = begin[lane].wrapping_add(64 * S * step as usize);
        let at = (place as i64).wrapping_sub(text as i64);
        let (from, to) = ((-at).clamp(0, 64), (len - at).clamp(0, 64));
        let mut part = [0u64; 8];
        if from < to {
            let inside = part.as_mut_ptr().cast::<u8>().wrapping_add(from as usize);
            // SAFETY: those bytes lie in the text, and as many in the part.
            unsafe {
                copy(
                    place.wrapping_add(from as usize),
                    inside,
                    (to - from) as usize,
                )
            };
        }
        if last && lane % S == S - 1 {
            part[7] = len as u64;
        }
        let p = part.map(|word| word as i64);
        first[lane] = _mm256_setr_epi64x(p[0], p[1], p[2], p[3]);
        second[lane] = _mm256_setr_epi64x(p[4], p[5], p[6], p[7]);
        for block in 0..4 {
            bits[block][lane] = if at >= -16 * block as i64 {
                HIGH_BIT
            } else {
                0
            };
        }
    }
    let mut high_bits = [zero; 4];
    for block in 0..4 {
        let [a, b, c, d] = bits[block];
        high_bits[block] = _mm256_setr_epi64x(a, b, c, d);
    }
    (join(transpose(first), transpose(second)), high_bits)
}

/// Copies up to 64 bytes of private memory.
///
/// # Safety
/// Both ranges are good for `len`, and disjoint.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's contract. Two overlapping moves of a size that fits: the text is private,
    // it may be read twice.
    unsafe {
        macro_rules! ends {
            ($type:ty) => {{
                let size = size_of::<$type>();
                let head = from.cast::<$type>().read_unaligned();
                let tail = from.add(len - size).cast::<$type>().read_unaligned();
                to.cast::<$type>().write_unaligned(head);
                to.add(len - size).cast::<$type>().write_unaligned(tail);
            }};
        }
        match len {
            64 => ends!([u128; 4]),
            32.. => ends!([u128; 2]),
            16.. => ends!(u128),
            8.. => ends!(u64),
            4.. => ends!(u32),
            2.. => ends!(u16),
            1 => to.write(from.read()),
            0 => {}
        }
    }
}

vector! {
/// `h` modulo 2^130 - 5, plus `s` modulo 2^128, in words: four times some twenty instructions.
fn finish(h: &Limbs, s: [__m256i; 2]) -> [[u64; 4]; 2] {
    let mut limbs = [[0u64; 4]; 5];
    let mut words = [[0u64; 4]; 2];
    // SAFETY: arrays of four words.
    unsafe {
        for i in 0..5 {
            _mm256_storeu_si256(limbs[i].as_mut_ptr().cast(), h[i]);
        }
        for i in 0..2 {
            _mm256_storeu_si256(words[i].as_mut_ptr().cast(), s[i]);
        }
    }
    let mut tags = [[0; 4]; 2];
    for lane in 0..4 {
        // Limbs are below 2^28 here; the sum of their weights is below 2^132.
        let [h0, h1, h2, h3, h4] = [0, 1, 2, 3, 4].map(|i: usize| u128::from(limbs[i][lane]));
        let low = h0 + (h1 << 26) + (h2 << 52) + (h3 << 78);
        let (low, carried) = low.overflowing_add(h4 << 104);
        let above = (h4 >> 24) as u64 + u64::from(carried);
        let (low, carried) = low.overflowing_add(u128::from((above >> 2) * 5));
        let above = (above & 3) + u64::from(carried);
        let (g, carried) = low.overflowing_add(5);
        let over = ((above + u64::from(carried)) >> 2).wrapping_neg();
        let mask = u128::from(over) << 64 | u128::from(over);
        let h = (g & mask) | (low & !mask);
        let s = u128::from(words[1][lane]) << 64 | u128::from(words[0][lane]);
        let tag = h.wrapping_add(s);
        tags[0][lane] = tag as u64;
        tags[1][lane] = (tag >> 64) as u64;
    }
    tags
}
}
