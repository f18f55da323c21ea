//! Poly1305 (RFC 8439, section 2.5) for eight packets side by side.
//!
//! **In**: eight one-time keys, eight texts that nobody else writes. **Out**: eight tags; on request the sums
//! of the texts' words, too, which are those of their limbs.
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
//! packet 0   [m0 m1 m2 m3]    [m4 m5 m6 m7]    [m8 m9 m10 m11]    lengths
//! packet 1   [ 0  0  0  0]    [ 0 m0 m1 m2]    [m3 m4 m5  m6 ]    lengths
//! ```
//!
//! Only steps in which a text begins or a block isn't whole are loaded with masks: of packets of one
//! length that is a multiple of 64, none. Before its text begins, a lane follows one whose text has
//! begun, and forgets it when its own begins; so a short text may fill a lane that is left over.
//!
//! A text may take two, four or eight lanes: each is a stream that takes a part of it, and streams
//! meet at the end. So few texts fill the lanes, and a long one takes no more steps than shorter ones
//! beside it.
//!
//! Constant time: additions, shifts, masks and 52-bit multiplications, which take the same time for
//! all operands; branches depend on lengths only.

use core::arch::x86_64::*;
use core::ptr;

pub(crate) use short::authenticate_short;
pub(crate) use texts::authenticate;

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

mod short;
mod texts;

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
    // As a 52-bit product: one instruction of 4 cycles, where compilers turn shifts and additions
    // into a 64-bit multiplication of 15.
    let (zero, twenty) = (_mm512_setzero_si512(), _mm512_set1_epi64(20));
    Factor {
        r,
        s1: _mm512_madd52lo_epu64(zero, r[1], twenty),
        s2: _mm512_madd52lo_epu64(zero, r[2], twenty),
    }
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

vector! {
fn sum(a: &Limbs, b: &Limbs) -> Limbs {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1]), _mm512_add_epi64(a[2], b[2])]
}
}

/// Steps in which texts begin or end.
struct Edges {
    /// Where each stream would begin if texts began with their blocks of zero.
    begins: __m512i,
    starts: __m512i,
    lens: __m512i,
}

impl Edges {
    /// The columns and high bits of a step, zero where there is no text.
    ///
    /// # Safety
    /// The processor has the features; texts are readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    unsafe fn load(&self, step: u32) -> ([__m512i; 8], [__m512i; 4]) {
        let (zero, ones) = (_mm512_setzero_si512(), _mm512_set1_epi64(-1));
        // The step's place in each text, and the bytes of it that are text.
        let address = _mm512_add_epi64(self.begins, _mm512_set1_epi64(64 * i64::from(step)));
        let at = _mm512_sub_epi64(address, self.starts);
        let from = _mm512_max_epi64(_mm512_sub_epi64(zero, at), zero);
        let to = _mm512_max_epi64(_mm512_sub_epi64(self.lens, at), zero);
        let mask = _mm512_andnot_si512(_mm512_sllv_epi64(ones, to), _mm512_sllv_epi64(ones, from));
        // Where nothing is loaded the address may be far from the text: its start is as good.
        let some = _mm512_test_epi64_mask(mask, mask);
        let address = _mm512_mask_mov_epi64(self.starts, some, address);
        let mut masks = [0; 8];
        let mut addresses = [ptr::null::<i8>(); 8];
        let mut rows = [zero; 8];
        // SAFETY: arrays of eight words; bytes of the masks lie in the texts, others are not read.
        unsafe {
            _mm512_storeu_si512(masks.as_mut_ptr().cast(), mask);
            _mm512_storeu_si512(addresses.as_mut_ptr().cast(), address);
            for lane in 0..8 {
                rows[lane] = _mm512_maskz_loadu_epi8(masks[lane], addresses[lane]);
            }
        }
        let mut high_bits = [zero; 4];
        for (block, bit) in high_bits.iter_mut().enumerate() {
            let begun = _mm512_cmpge_epi64_mask(at, _mm512_set1_epi64(-16 * (block as i64)));
            *bit = _mm512_maskz_set1_epi64(begun, HIGH_BIT);
        }
        (transpose(&rows), high_bits)
    }
}

/// The columns of a step that all texts fill.
///
/// # Safety
/// The processor has the features; 64 bytes of each stream are readable there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn load(places: &[*const u8; 8], step: u32) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); 8];
    for (row, place) in rows.iter_mut().zip(places) {
        // SAFETY: the caller's contract.
        *row = unsafe { _mm512_loadu_si512(place.wrapping_add(64 * step as usize).cast()) };
    }
    transpose(&rows)
}

vector! {
/// `h` modulo 2^130 - 5, plus `s` modulo 2^128.
fn finish(h: &Limbs, s: [__m512i; 2]) -> [[u64; 8]; 2] {
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
    halves
}
}
