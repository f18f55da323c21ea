//! Poly1305 of texts of any length, in one to eight lanes each.
//!
//! **In**: up to eight texts and the lanes they take, and one to go beside them. **Out**: their tags.
//! **Never**: more steps than the first text takes.

use core::arch::x86_64::*;
use core::ptr;

use super::{
    Edges, Factor, HIGH_BIT, Limbs, carry, factor, finish, limbs, load, multiply, product, sum,
    transpose,
};
use crate::batch::{Deal, Line, Tags, Text};
use crate::scalar::{Beside, Poly};

/// The tags of texts that take the lanes as `deal` says; `keys` are their slots, one-time key first.
/// The ninth is that of a text `aside`, in words: the integer units have time for four blocks of it
/// per step. With `sums` come those of the eight texts' words and their tags'.
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
    sums: bool,
) -> Tags {
    // SAFETY: the caller's contract.
    unsafe {
        let alone = &mut ();
        // What the compiler knows beforehand is not worked out. Sums are made of bursts: of full
        // lanes mostly, and all else is one case.
        match (deal.evenly(), aside) {
            (Some(1), None) if sums => dealt::<1, true, _>(keys, texts, deal, alone),
            (_, None) if sums => dealt::<0, true, _>(keys, texts, deal, alone),
            (Some(1), None) => dealt::<1, false, _>(keys, texts, deal, alone),
            (Some(2), None) => dealt::<2, false, _>(keys, texts, deal, alone),
            (Some(4), None) => dealt::<4, false, _>(keys, texts, deal, alone),
            (Some(8), None) => dealt::<8, false, _>(keys, texts, deal, alone),
            (None | Some(_), None) => dealt::<0, false, _>(keys, texts, deal, alone),
            (streams, Some((key, text))) => {
                let mut aside = Aside::new(key, text);
                let mut tags = match streams {
                    _ if sums => dealt::<0, true, _>(keys, texts, deal, &mut aside),
                    Some(1) => dealt::<1, false, _>(keys, texts, deal, &mut aside),
                    _ => dealt::<0, false, _>(keys, texts, deal, &mut aside),
                };
                tags.tags[8] = aside.finish();
                tags
            }
        }
    }
}

/// A text that is authenticated in words, four blocks beside each step.
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
    /// As [`Beside::part`].
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
    unsafe fn part(&mut self, _step: u32, _part: usize) {
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
unsafe fn dealt<const S: usize, const SUM: bool, B: Beside>(
    keys: [&Line; 8],
    texts: &[Text; 8],
    deal: Deal,
    beside: &mut B,
) -> Tags {
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
    let mut words = Words::new();
    if SUM {
        words.add(&columns);
    }
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
    unsafe { beside.part(0, 0) };

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
            words.forget(begin);
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
        if SUM {
            words.add(&columns);
        }
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
        unsafe { beside.part(step, 0) };
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
    let mut all = Tags::default();
    // A text's tag is in its first lane.
    for lane in (0..8).rev() {
        all.tags[deal.text(lane)] = [tags[0][lane], tags[1][lane]];
    }
    if SUM {
        // A tag follows its text, maybe at an odd offset.
        let first = _mm512_testn_epi64_mask(streams, streams);
        let odd = _mm512_and_si512(_mm512_slli_epi64::<3>(lens), _mm512_set1_epi64(8));
        words.forget(!begun);
        let mut sum = words.fold();
        for half in &tags {
            // SAFETY: an array of eight words.
            let half = unsafe { _mm512_loadu_si512(half.as_ptr().cast()) };
            let words = _mm512_sllv_epi64(halves(half), odd);
            sum = _mm512_mask_add_epi64(sum, first, sum, words);
        }
        let mut lanes = [0; 8];
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), halves(sum)) };
        if S == 1 {
            all.sums = Some(lanes);
        } else {
            let mut sums = [0; 8];
            for (lane, sum) in lanes.into_iter().enumerate() {
                sums[deal.text(lane)] += sum;
            }
            all.sums = Some(sums);
        }
    }
    all
}

vector! {
/// The sum of each word's halves.
fn halves(words: __m512i) -> __m512i {
    let low = _mm512_and_si512(words, _mm512_set1_epi64(0xffff_ffff));
    _mm512_add_epi64(low, _mm512_srli_epi64::<32>(words))
}
}

/// What texts' 16-bit words come to: sums of their limbs, without the bit that marks a block.
struct Words(Limbs);

impl Words {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn new() -> Self {
        Self([_mm512_setzero_si512(); 3])
    }

    /// Adds the blocks of a step.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn add(&mut self, columns: &[__m512i; 8]) {
        for pair in columns.as_chunks::<2>().0 {
            self.0 = sum(&self.0, &limbs(pair[0], pair[1], _mm512_setzero_si512()));
        }
    }

    /// Begins anew in some lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn forget(&mut self, lanes: __mmask8) {
        for limb in &mut self.0 {
            *limb = _mm512_mask_mov_epi64(*limb, lanes, _mm512_setzero_si512());
        }
    }

    /// Each lane's sum modulo 65535, below 2^47. 2^44 is 2^12 then, and 2^88 is 2^8.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn fold(&self) -> __m512i {
        let [low, middle, high] = [halves(self.0[0]), halves(self.0[1]), halves(self.0[2])];
        let middle = _mm512_slli_epi64::<12>(middle);
        let high = _mm512_slli_epi64::<8>(high);
        _mm512_add_epi64(low, _mm512_add_epi64(middle, high))
    }
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
