//! Poly1305 (RFC 8439, section 2.5) for eight packets side by side.
//!
//! **In**: eight one-time keys, eight texts that nobody else writes. **Out**: eight tags.
//! **Never**: a write to a text, a read outside it.
//!
//! Numbers are three limbs of 44, 44 and 42 bits, one packet per 64-bit lane, multiplied with
//! IFMA's 52-bit products. Four blocks are taken per reduction:
//! `h = (h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r`.
//!
//! Texts are aligned to the right, so that all packets end in the same step and powers of `r` are
//! the same for all lanes. A shorter packet begins with blocks of zero, without their high bit,
//! which leave its `h` at zero:
//!
//! ```text
//!            step 0           step 1           step 2
//! packet 0   [m0 m1 m2 m3]    [m4 m5 m6 m7]    [m8 m9 m10 lengths]
//! packet 1   [ 0  0  0  0]    [ 0 m0 m1 m2]    [m3 m4 m5  lengths]
//! ```
//!
//! Constant time: additions, shifts, masks and 52-bit multiplications, which take the same time for
//! all operands; branches depend on lengths only.

use core::arch::x86_64::*;

use crate::batch::{Line, Text};

/// Three limbs of eight numbers.
type Limbs = [__m512i; 3];

/// A factor, and 20 times its upper limbs: what overflows 2^130 comes back five times, and limbs of
/// 44 bits leave two bits more.
#[derive(Clone, Copy)]
struct Factor {
    r: Limbs,
    s1: __m512i,
    s2: __m512i,
}

const MASK_44: i64 = (1 << 44) - 1;
const MASK_42: i64 = (1 << 42) - 1;
const HIGH_BIT: i64 = 1 << 40;

macro_rules! vector {
    ($(#[$doc:meta])* $(unsafe)? fn $($rest:tt)*) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
        fn $($rest)*
    };
}

vector! {
/// What a product is before its carries: low and high halves of each limb.
fn multiply(accumulator: &mut [__m512i; 6], h: &Limbs, f: &Factor) {
    let a = accumulator;
    a[0] = _mm512_madd52lo_epu64(a[0], h[0], f.r[0]);
    a[1] = _mm512_madd52hi_epu64(a[1], h[0], f.r[0]);
    a[2] = _mm512_madd52lo_epu64(a[2], h[0], f.r[1]);
    a[3] = _mm512_madd52hi_epu64(a[3], h[0], f.r[1]);
    a[4] = _mm512_madd52lo_epu64(a[4], h[0], f.r[2]);
    a[5] = _mm512_madd52hi_epu64(a[5], h[0], f.r[2]);
    a[0] = _mm512_madd52lo_epu64(a[0], h[1], f.s2);
    a[1] = _mm512_madd52hi_epu64(a[1], h[1], f.s2);
    a[2] = _mm512_madd52lo_epu64(a[2], h[1], f.r[0]);
    a[3] = _mm512_madd52hi_epu64(a[3], h[1], f.r[0]);
    a[4] = _mm512_madd52lo_epu64(a[4], h[1], f.r[1]);
    a[5] = _mm512_madd52hi_epu64(a[5], h[1], f.r[1]);
    a[0] = _mm512_madd52lo_epu64(a[0], h[2], f.s1);
    a[1] = _mm512_madd52hi_epu64(a[1], h[2], f.s1);
    a[2] = _mm512_madd52lo_epu64(a[2], h[2], f.s2);
    a[3] = _mm512_madd52hi_epu64(a[3], h[2], f.s2);
    a[4] = _mm512_madd52lo_epu64(a[4], h[2], f.r[0]);
    a[5] = _mm512_madd52hi_epu64(a[5], h[2], f.r[0]);
}
}

vector! {
/// Carries, leaving limbs of 44 (a little more in the middle one) and 42 bits.
fn carry(a: &[__m512i; 6]) -> Limbs {
    let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
    // The high half of a product has weight 2^52: 2^8 above limbs of 44, 2^10 above those of 42.
    let c = _mm512_add_epi64(_mm512_srli_epi64::<44>(a[0]), _mm512_slli_epi64::<8>(a[1]));
    let d1 = _mm512_add_epi64(a[2], c);
    let c = _mm512_add_epi64(_mm512_srli_epi64::<44>(d1), _mm512_slli_epi64::<8>(a[3]));
    let d2 = _mm512_add_epi64(a[4], c);
    let c = _mm512_add_epi64(_mm512_srli_epi64::<42>(d2), _mm512_slli_epi64::<10>(a[5]));
    let c5 = _mm512_add_epi64(c, _mm512_slli_epi64::<2>(c));
    let h0 = _mm512_add_epi64(_mm512_and_si512(a[0], mask_44), c5);
    let h1 =
        _mm512_add_epi64(_mm512_and_si512(d1, mask_44), _mm512_srli_epi64::<44>(h0));
    [_mm512_and_si512(h0, mask_44), h1, _mm512_and_si512(d2, mask_42)]
}
}

vector! {
fn factor(r: Limbs) -> Factor {
    let twenty = |x| {
        _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x))
    };
    Factor { r, s1: twenty(r[1]), s2: twenty(r[2]) }
}
}

vector! {
fn product(a: &Limbs, f: &Factor) -> Factor {
    let mut accumulator = [_mm512_setzero_si512(); 6];
    multiply(&mut accumulator, a, f);
    factor(carry(&accumulator))
}
}

vector! {
/// Two halves of 128-bit numbers to limbs.
fn limbs(low: __m512i, high: __m512i, high_bit: __m512i) -> Limbs {
    let mask_44 = _mm512_set1_epi64(MASK_44);
    let middle =
        _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, mask_44),
        _mm512_and_si512(middle, mask_44),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), high_bit),
    ]
}
}

vector! {
/// Eight rows of eight 64-bit words to columns.
fn transpose(x: &[__m512i; 8]) -> [__m512i; 8] {
    let mut t = [_mm512_setzero_si512(); 8];
    for i in 0..4 {
        t[2 * i] = _mm512_unpacklo_epi64(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi64(x[2 * i], x[2 * i + 1]);
    }
    // Quarter q of t[2i + w] holds word 2q + w of rows 2i, 2i + 1.
    let mut columns = [_mm512_setzero_si512(); 8];
    for w in 0..2 {
        let [a, b, c, d] = [t[w], t[2 + w], t[4 + w], t[6 + w]];
        let (ab, ab2) =
            (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
        let (cd, cd2) =
            (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
        columns[w] = _mm512_shuffle_i64x2::<0x88>(ab, cd);
        columns[2 + w] = _mm512_shuffle_i64x2::<0xdd>(ab, cd);
        columns[4 + w] = _mm512_shuffle_i64x2::<0x88>(ab2, cd2);
        columns[6 + w] = _mm512_shuffle_i64x2::<0xdd>(ab2, cd2);
    }
    columns
}
}

/// The tags of eight texts; `keys` are their slots, one-time key first.
///
/// # Safety
/// The processor has the features; texts are readable and nobody writes them meanwhile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn authenticate(keys: &[Line; 8], texts: &[Text; 8]) -> [[u64; 2]; 8] {
    let zero = _mm512_setzero_si512();
    // 1. Keys: r, clamped, and s.
    let mut rows = [zero; 8];
    for (row, key) in rows.iter_mut().zip(keys) {
        // SAFETY: a slot is 64 bytes.
        *row = unsafe { _mm512_load_si512(key.0.as_ptr().cast()) };
    }
    let columns = transpose(&rows);
    let r = factor(limbs(
        _mm512_and_si512(columns[0], _mm512_set1_epi64(0x0fff_fffc_0fff_ffff)),
        _mm512_and_si512(columns[1], _mm512_set1_epi64(0x0fff_fffc_0fff_fffc)),
        zero,
    ));
    let s = [columns[2], columns[3]];
    let r2 = product(&r.r, &r);
    let r3 = product(&r2.r, &r);
    let r4 = product(&r2.r, &r2);

    // 2. Where each text begins: the blocks of zero before it, so that its lengths come last.
    let blocks = |text: &Text| text.len.div_ceil(16) + 1;
    let steps = texts
        .iter()
        .map(|text| blocks(text).div_ceil(4))
        .max()
        .unwrap_or(1);
    let mut pad = [0i64; 8];
    let mut len = [0i64; 8];
    for lane in 0..8 {
        pad[lane] = i64::from(4 * steps - blocks(&texts[lane]));
        len[lane] = i64::from(texts[lane].len);
    }
    // The last step in which some text hasn't begun at its first byte.
    let begun = pad.iter().fold(0, |most, &pad| most.max((pad + 3) / 4));
    // SAFETY: both are arrays of eight.
    let (pads, lens) = unsafe {
        (
            _mm512_loadu_si512(pad.as_ptr().cast()),
            _mm512_loadu_si512(len.as_ptr().cast()),
        )
    };

    // 3. Four blocks of each packet per step.
    let mut h = [zero; 3];
    for step in 0..i64::from(steps) {
        let last = step + 1 == i64::from(steps);
        let mut high_bits = [_mm512_set1_epi64(HIGH_BIT); 4];
        let mut rows = [zero; 8];
        if step < begun || last {
            for lane in 0..8 {
                let at = 64 * step - 16 * pad[lane];
                let (from, to) = ((-at).clamp(0, 64), (len[lane] - at).clamp(0, 64));
                let mask = ones(to) & !ones(from);
                let address = texts[lane].start.wrapping_offset(at as isize);
                // Where nothing is loaded the address may be far from the text: keep it near.
                let address = if mask == 0 {
                    texts[lane].start
                } else {
                    address
                };
                // SAFETY: bytes of the mask lie in the text; others are not read.
                rows[lane] = unsafe { _mm512_maskz_loadu_epi8(mask, address.cast()) };
            }
            for (block, bit) in high_bits.iter_mut().enumerate() {
                let index = _mm512_set1_epi64(4 * step + block as i64);
                *bit = _mm512_maskz_set1_epi64(_mm512_cmpge_epi64_mask(index, pads), HIGH_BIT);
            }
        } else {
            for lane in 0..8 {
                let at = 64 * step - 16 * pad[lane];
                // SAFETY: the text has begun and doesn't end in this step: all 64 bytes lie in it.
                rows[lane] = unsafe {
                    _mm512_loadu_si512(texts[lane].start.wrapping_offset(at as isize).cast())
                };
            }
        }
        let mut columns = transpose(&rows);
        if last {
            columns[6] = zero;
            columns[7] = lens;
        }
        let mut accumulator = [zero; 6];
        let m = limbs(columns[2], columns[3], high_bits[1]);
        multiply(&mut accumulator, &m, &r3);
        let m = limbs(columns[4], columns[5], high_bits[2]);
        multiply(&mut accumulator, &m, &r2);
        let m = limbs(columns[6], columns[7], high_bits[3]);
        multiply(&mut accumulator, &m, &r);
        let m = limbs(columns[0], columns[1], high_bits[0]);
        for i in 0..3 {
            h[i] = _mm512_add_epi64(h[i], m[i]);
        }
        multiply(&mut accumulator, &h, &r4);
        h = carry(&accumulator);
    }
    finish(&h, s)
}

vector! {
/// `h` modulo 2^130 - 5, plus `s` modulo 2^128.
fn finish(h: &Limbs, s: [__m512i; 2]) -> [[u64; 2]; 8] {
    let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
    // 1. Carry to limbs that are surely below their sizes: twice round is enough.
    let [mut h0, mut h1, mut h2] = *h;
    for _ in 0..2 {
        h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        h0 = _mm512_and_si512(h0, mask_44);
        h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        h1 = _mm512_and_si512(h1, mask_44);
        let c = _mm512_srli_epi64::<42>(h2);
        h2 = _mm512_and_si512(h2, mask_42);
        h0 = _mm512_add_epi64(h0, _mm512_add_epi64(c, _mm512_slli_epi64::<2>(c)));
    }
    h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
    h0 = _mm512_and_si512(h0, mask_44);
    // 2. g = h + 5 - 2^130; where that isn't negative, it is the remainder.
    let g0 = _mm512_add_epi64(h0, _mm512_set1_epi64(5));
    let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
    let above = _mm512_test_epi64_mask(g2, _mm512_set1_epi64(1 << 42));
    h0 = _mm512_mask_and_epi64(h0, above, g0, mask_44);
    h1 = _mm512_mask_and_epi64(h1, above, g1, mask_44);
    h2 = _mm512_mask_and_epi64(h2, above, g2, mask_42);
    // 3. Two words, plus s with its carry.
    let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = _mm512_add_epi64(low, s[0]);
    let carried = _mm512_cmplt_epu64_mask(low, s[0]);
    let high = _mm512_add_epi64(high, s[1]);
    let high = _mm512_mask_add_epi64(high, carried, high, _mm512_set1_epi64(1));
    let mut halves = [[0; 8]; 2];
    // SAFETY: both are arrays of eight words.
    unsafe {
        _mm512_storeu_si512(halves[0].as_mut_ptr().cast(), low);
        _mm512_storeu_si512(halves[1].as_mut_ptr().cast(), high);
    }
    core::array::from_fn(|lane| [halves[0][lane], halves[1][lane]])
}
}

#[inline(always)]
const fn ones(count: i64) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}
