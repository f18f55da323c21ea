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

use crate::batch::{Deal, Line, Text};
use crate::scalar::Poly;

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

/// The tags of texts that take the lanes as `deal` says; `keys` are their slots, one-time key first.
/// The ninth is that of a text `aside`, in words: the integer units have time for four blocks of it
/// per step.
///
/// # Safety
/// The processor has the features; texts are readable and nobody writes them meanwhile. No text takes
/// more steps than the first one, which other lanes follow.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn authenticate(
    keys: [&Line; 8],
    texts: &[Text; 8],
    deal: Deal,
    aside: Option<(&Line, Text)>,
) -> [[u64; 2]; 9] {
    // SAFETY: the caller's contract.
    unsafe {
        let alone = &mut Nothing;
        // What the compiler knows beforehand is not worked out.
        match (deal.evenly(), aside) {
            (Some(1), None) => dealt::<1, _>(keys, texts, deal, alone),
            (Some(2), None) => dealt::<2, _>(keys, texts, deal, alone),
            (Some(4), None) => dealt::<4, _>(keys, texts, deal, alone),
            (Some(8), None) => dealt::<8, _>(keys, texts, deal, alone),
            (None | Some(_), None) => dealt::<0, _>(keys, texts, deal, alone),
            (streams, Some((key, text))) => {
                let mut aside = Aside::new(key, text);
                let mut tags = match streams {
                    Some(1) => dealt::<1, _>(keys, texts, deal, &mut aside),
                    _ => dealt::<0, _>(keys, texts, deal, &mut aside),
                };
                tags[8] = aside.finish();
                tags
            }
        }
    }
}

/// What is done in words beside each step.
trait Beside {
    /// # Safety
    /// Its text is readable.
    unsafe fn step(&mut self);
}

struct Nothing;

impl Beside for Nothing {
    #[inline(always)]
    unsafe fn step(&mut self) {}
}

/// A text that is authenticated so.
struct Aside<'k> {
    poly: Poly,
    key: &'k Line,
    text: Text,
    /// Whole blocks done.
    at: u32,
}

impl<'k> Aside<'k> {
    #[inline(always)]
    fn new(key: &'k Line, text: Text) -> Self {
        Self {
            poly: Poly::new(key),
            key,
            text,
            at: 0,
        }
    }

    /// # Safety
    /// As [`Beside::step`].
    #[inline(always)]
    unsafe fn finish(mut self) -> [u64; 2] {
        let whole = self.text.len / 16;
        // SAFETY: the caller's contract.
        unsafe {
            let text = self.text.start;
            self.poly
                .blocks(text.add(16 * self.at as usize), (whole - self.at) as usize);
            let rest = text.add(16 * whole as usize);
            self.poly.finish(rest, self.text.len, self.key)
        }
    }
}

impl Beside for Aside<'_> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        if self.at + 4 <= self.text.len / 16 {
            // SAFETY: the caller's contract.
            unsafe {
                self.poly
                    .blocks(self.text.start.add(16 * self.at as usize), 4);
            };
            self.at += 4;
        }
    }
}

/// `S`: streams of every text, or 0 if they differ.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn dealt<const S: usize, B: Beside>(
    keys: [&Line; 8],
    texts: &[Text; 8],
    deal: Deal,
    beside: &mut B,
) -> [[u64; 2]; 9] {
    let deal = if S > 0 { Deal::even(S) } else { deal };
    let zero = _mm512_setzero_si512();
    let lanes = |bytes: u64| _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(bytes as i64));
    // 1. Keys: r, clamped, and s; powers of r.
    let mut rows = [zero; 8];
    for lane in 0..8 {
        // SAFETY: a slot is 64 bytes.
        rows[lane] = unsafe { _mm512_load_si512(keys[deal.text(lane)].0.as_ptr().cast()) };
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
    let longest = texts[0].len.div_ceil(16);
    let most = deal.doublings & 0xff;
    let steps = deal.steps(longest);
    // Out of registers: words that were just stored one by one are slow to load as a vector.
    let eight = |word: &dyn Fn(&Text) -> i64| {
        let [a, b, c, d, e, f, g, h] = texts.each_ref().map(word);
        _mm512_setr_epi64(a, b, c, d, e, f, g, h)
    };
    let starts = eight(&|text| text.start as i64);
    let lens = eight(&|text| i64::from(text.len));
    let of = lanes(deal.texts);
    let starts = _mm512_permutexvar_epi64(of, starts);
    let lens = _mm512_permutexvar_epi64(of, lens);
    let blocks = _mm512_srli_epi64::<4>(_mm512_add_epi64(lens, _mm512_set1_epi64(15)));
    let (streams, doublings) = (lanes(deal.streams), lanes(deal.doublings));
    // A stream's blocks, and how many a text of a lane could have.
    let stream = _mm512_set1_epi64(4 * i64::from(steps));
    let all = _mm512_sllv_epi64(stream, doublings);
    let before = _mm512_mul_epu32(streams, stream);
    let pads = _mm512_sub_epi64(_mm512_sub_epi64(all, blocks), before);
    // The step in which each lane's text begins.
    let firsts = _mm512_srli_epi64::<2>(_mm512_max_epi64(pads, zero));
    let begins = _mm512_sub_epi64(starts, _mm512_slli_epi64::<4>(pads));
    let edges = Edges {
        begins,
        starts,
        lens,
    };
    // Until a text begins, its lane follows the first text's last stream, which begins at once: that
    // needs no masks. What it makes of it is forgotten when its own begins.
    let later = _mm512_test_epi64_mask(firsts, firsts);
    let guide = _mm512_set1_epi64((1 << most) - 1);
    let mut following = _mm512_mask_permutexvar_epi64(begins, later, guide, begins);
    let mut places = each(following);
    // Only a last step in which a block isn't whole needs masks.
    let parts = _mm512_test_epi64_mask(lens, _mm512_set1_epi64(15));
    let masked = if parts == 0 { u32::MAX } else { steps - 1 };
    // One behind the first step's start, too.
    let late = _mm512_cmpgt_epi64_mask(pads, zero) != 0;
    // Blocks that no text has in the first step.
    let absent = if most == 0 { 4 * steps - longest } else { 0 };

    // What is before a stream's blocks goes on by them.
    let mut on = if most > 0 { power(&r4, steps) } else { r4 };

    // 3. The first step takes the blocks that some packet has; h is zero.
    let (columns, high_bits) = if late || masked == 0 {
        // SAFETY: texts are readable.
        unsafe { edges.load(0) }
    } else {
        // SAFETY: all texts have begun and none ends.
        (
            unsafe { load(&places, 0) },
            [_mm512_set1_epi64(HIGH_BIT); 4],
        )
    };
    let mut accumulator = [zero; 6];
    if absent == 0 {
        multiply(
            &mut accumulator,
            &limbs(columns[0], columns[1], high_bits[0]),
            &r4,
        );
    }
    if absent <= 1 {
        multiply(
            &mut accumulator,
            &limbs(columns[2], columns[3], high_bits[1]),
            &r3,
        );
    }
    if absent <= 2 {
        multiply(
            &mut accumulator,
            &limbs(columns[4], columns[5], high_bits[2]),
            &r2,
        );
    }
    multiply(
        &mut accumulator,
        &limbs(columns[6], columns[7], high_bits[3]),
        &r,
    );
    let mut h = carry(&accumulator);
    // SAFETY: the caller's contract.
    unsafe { beside.step() };

    // 4. Four blocks of each stream per step.
    let mut next = after(firsts, 0).min(masked);
    for step in 1..steps {
        let (columns, high_bits) = if step == next {
            cold();
            next = after(firsts, step).min(masked);
            let begin = _mm512_cmpeq_epi64_mask(firsts, _mm512_set1_epi64(i64::from(step)));
            for limb in &mut h {
                *limb = _mm512_mask_mov_epi64(*limb, begin, zero);
            }
            following = _mm512_mask_mov_epi64(following, begin, begins);
            places = each(following);
            // SAFETY: texts are readable.
            unsafe { edges.load(step) }
        } else {
            // SAFETY: all texts, or others in their place, have begun and none ends.
            (
                unsafe { load(&places, step) },
                [_mm512_set1_epi64(HIGH_BIT); 4],
            )
        };
        let mut accumulator = [zero; 6];
        multiply(
            &mut accumulator,
            &limbs(columns[2], columns[3], high_bits[1]),
            &r3,
        );
        multiply(
            &mut accumulator,
            &limbs(columns[4], columns[5], high_bits[2]),
            &r2,
        );
        multiply(
            &mut accumulator,
            &limbs(columns[6], columns[7], high_bits[3]),
            &r,
        );
        let m = limbs(columns[0], columns[1], high_bits[0]);
        multiply(&mut accumulator, &sum(&h, &m), &r4);
        h = carry(&accumulator);
        // SAFETY: the caller's contract.
        unsafe { beside.step() };
    }

    // Texts that never began have no blocks.
    let begun = _mm512_cmplt_epi64_mask(firsts, _mm512_set1_epi64(i64::from(steps)));
    for limb in &mut h {
        *limb = _mm512_maskz_mov_epi64(begun, *limb);
    }

    // 5. Streams of one text meet, neighbours first.
    if most > 0 {
        let several = |doubled| _mm512_cmpge_epu64_mask(doublings, _mm512_set1_epi64(doubled));
        h = meet(several(1), &h, &on, &neighbours::<1>(&h));
        if most > 1 {
            on = product(&on.r, &on);
            h = meet(several(2), &h, &on, &neighbours::<2>(&h));
        }
        if most > 2 {
            on = product(&on.r, &on);
            h = meet(several(3), &h, &on, &neighbours::<4>(&h));
        }
    }
    // 6. The lengths (of no associated data, and the text's) are the last block.
    let mut accumulator = [zero; 6];
    let high_bit = _mm512_set1_epi64(HIGH_BIT);
    let lengths = limbs(zero, edges.lens, high_bit);
    multiply(&mut accumulator, &sum(&h, &lengths), &r);
    let tags = finish(&carry(&accumulator), s);
    let mut packets = [[0; 2]; 9];
    // A text's tag is in its first lane.
    for lane in (0..8).rev() {
        packets[deal.text(lane)] = [tags[0][lane], tags[1][lane]];
    }
    packets
}

vector! {
/// A number's power, of which exponents are no secret.
fn power(base: &Factor, exponent: u32) -> Factor {
    let mut power = *base;
    for bit in (0..exponent.ilog2()).rev() {
        power = product(&power.r, &power);
        if exponent >> bit & 1 == 1 {
            power = product(&power.r, base);
        }
    }
    power
}
}

vector! {
/// Lanes moved down to where their sums are.
fn neighbours<const LANES: i32>(h: &Limbs) -> Limbs {
    let mut moved = *h;
    for limb in &mut moved {
        *limb = _mm512_alignr_epi64::<LANES>(*limb, *limb);
    }
    moved
}
}

vector! {
/// `h * f + next` where the mask says so, `h` elsewhere.
fn meet(mask: __mmask8, h: &Limbs, f: &Factor, next: &Limbs) -> Limbs {
    let met = sum(&product(h, f).r, next);
    let either = |met, h| _mm512_mask_mov_epi64(h, mask, met);
    [either(met[0], h[0]), either(met[1], h[1]), either(met[2], h[2])]
}
}

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

/// Marks the branch that calls it as one seldom taken.
#[cold]
#[inline]
fn cold() {}

vector! {
/// The next step in which a text begins.
fn after(firsts: __m512i, step: u32) -> u32 {
    let later = _mm512_cmpgt_epi64_mask(firsts, _mm512_set1_epi64(i64::from(step)));
    let next = _mm512_mask_reduce_min_epu64(later, firsts);
    u32::try_from(next).unwrap_or(u32::MAX)
}
}

vector! {
/// Addresses one by one. They come out of memory: compilers would take them out of the vector whenever
/// they load from them, at the price of multiplications.
fn each(addresses: __m512i) -> [*const u8; 8] {
    let mut stored = [ptr::null::<u8>(); 8];
    // SAFETY: an array of eight words.
    unsafe { _mm512_storeu_si512(stored.as_mut_ptr().cast(), addresses) };
    // SAFETY: a reference is readable.
    stored.each_ref().map(|address| unsafe { ptr::read_volatile(address) })
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
