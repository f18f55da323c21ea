//! ChaCha20 (RFC 8439, section 2.3), sixteen blocks side by side.
//!
//! **In**: a group of up to sixteen lanes: keys, nonces, block numbers, sources, destinations.
//! **Out**: every lane's source combined with its keystream, at its destination; on request sums of
//! what was read.
//! **Never**: a second read of a source's byte; a byte outside a lane's span when `EXACT`.
//!
//! A register holds one word of the state for sixteen blocks, so a round is additions, rotations
//! and exclusive-ors of whole registers and nothing else. Sixteen by sixteen words are transposed
//! at the end and each block meets its source.
//!
//! A row, and a full group of whole blocks that is not summed, meets its sources in registers; others'
//! keystream is stored first.
//!
//! Constant time: those instructions take the same time for all operands; the branches and masks
//! here depend on spans (lengths) and on whether two key *pointers* are the same.

mod few;
mod row;
mod text;

use core::arch::x86_64::*;

use few::{Rows, few};
use row::{compute_row, row_with_few};
use text::{apply, load};

use crate::KeyBytes;
use crate::batch::BLOCKS;
use crate::lanes::{Compute, Group, Row, Span, Stream};

const SIGMA: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The keystream of one group on its way from registers to lanes, and sums by slot.
pub(crate) struct Sixteen<'s, const EXACT: bool, const SUM: bool> {
    pub(crate) keystream: &'s mut [__m512i; BLOCKS],
    pub(crate) sums: &'s mut [__m512i; 64],
}

impl<const EXACT: bool, const SUM: bool> Compute for Sixteen<'_, EXACT, SUM> {
    const LANES: usize = 16;
    const ROWS: bool = true;

    #[inline(always)]
    unsafe fn compute_row(&mut self, row: &Row, next: *const u8) {
        // SAFETY: the caller's contract.
        unsafe { compute_row::<SUM>(row, next, self.sums) };
    }

    #[inline(always)]
    unsafe fn compute_last_row(&mut self, row: &Row, last: &Group) {
        // SAFETY: the caller's contract.
        unsafe {
            if last.used <= FEW {
                row_with_few::<EXACT, SUM>(row, last, self.keystream, self.sums);
            } else {
                self.compute_row(row, row.source);
                self.compute(last);
            }
        }
    }

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
        unsafe { fill::<SUM>(group, at, stream, block, source, destination) }
    }

    #[inline(always)]
    unsafe fn compute(&mut self, group: &Group) {
        // SAFETY: the caller's contract.
        unsafe { compute::<EXACT, SUM>(group, self.keystream, self.sums) }
    }

    #[inline(always)]
    unsafe fn compute_both(&mut self, group: &Group, last: &Group) {
        // SAFETY: the caller's contract.
        unsafe {
            if last.used <= FEW {
                compute_with_few::<EXACT, SUM>(group, last, self.keystream, self.sums);
            } else {
                self.compute(group);
                self.compute(last);
            }
        }
    }
}

/// Lanes that can be computed beside sixteen others.
const FEW: usize = 4;

/// One function, never inlined: it is called once per sixteen lanes from several places.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn compute<const EXACT: bool, const SUM: bool>(
    group: &Group,
    blocks: &mut [__m512i; BLOCKS],
    sums: &mut [__m512i; 64],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if !SUM && all_whole(group) {
            sixteen::<true>(group, split(blocks).0, || ());
        } else {
            let (lanes, _) = split(blocks);
            keystream(group, lanes);
            apply::<EXACT, SUM>(group, lanes, sums);
        }
    }
}

/// A full group with a few lanes beside it: alone those would wait for their own additions.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn compute_with_few<const EXACT: bool, const SUM: bool>(
    group: &Group,
    last: &Group,
    blocks: &mut [__m512i; BLOCKS],
    sums: &mut [__m512i; 64],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut rows = Rows::<1>::new(last);
        let (lanes, others) = split(blocks);
        if !SUM && all_whole(group) {
            sixteen::<true>(group, lanes, || rows.double_round());
        } else {
            sixteen::<false>(group, lanes, || rows.double_round());
            apply::<EXACT, SUM>(group, lanes, sums);
        }
        rows.finish(others);
        apply::<EXACT, SUM>(last, others, sums);
    }
}

/// A group's lanes, and those that go beside them.
#[inline(always)]
fn split(blocks: &mut [__m512i; BLOCKS]) -> (&mut [__m512i; 16], &mut [__m512i; FEW]) {
    let (lanes, others) = blocks.split_at_mut(16);
    match (lanes.try_into(), others.try_into()) {
        (Ok(lanes), Ok(others)) => (lanes, others),
        _ => unreachable!("sixteen and a few"),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn fill<const SUM: bool>(
    group: &mut Group,
    at: usize,
    stream: Stream,
    block: u32,
    source: *const u8,
    destination: *mut u8,
) {
    let iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let strides = _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448);
    let far = _mm512_set1_epi64(512);
    let words = |value: u32| _mm512_set1_epi32(value as i32);
    // SAFETY: `at` is below 16 and the arrays have 32 elements.
    unsafe {
        let put = |array: *mut u32, value| _mm512_storeu_si512(array.add(at).cast(), value);
        put(
            group.block.as_mut_ptr(),
            _mm512_add_epi32(words(block), iota),
        );
        put(group.salt.as_mut_ptr(), words(stream.salt));
        put(group.counter_low.as_mut_ptr(), words(stream.counter as u32));
        put(
            group.counter_high.as_mut_ptr(),
            words((stream.counter >> 32) as u32),
        );
        put(group.span.as_mut_ptr().cast(), words(Span::FULL.bits()));
        if SUM {
            put(group.slot.as_mut_ptr(), words(stream.slot));
        }
        let put = |array: *mut *const u8, value, step| {
            _mm512_storeu_si512(array.add(at).cast(), value);
            _mm512_storeu_si512(array.add(at + 8).cast(), _mm512_add_epi64(value, step));
        };
        let lines = |start: *const u8| _mm512_add_epi64(_mm512_set1_epi64(start as i64), strides);
        let none = _mm512_setzero_si512();
        put(
            group.key.as_mut_ptr().cast(),
            _mm512_set1_epi64(stream.key as i64),
            none,
        );
        put(group.source.as_mut_ptr(), lines(source), far);
        put(
            group.destination.as_mut_ptr().cast(),
            lines(destination),
            far,
        );
    }
}

/// The same key in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn one_key(key: *const KeyBytes) -> [__m512i; 8] {
    let mut rows = [_mm512_setzero_si512(); 8];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: the key is readable.
        *row = _mm512_set1_epi32(unsafe { key.cast::<i32>().add(i).read_unaligned() });
    }
    rows
}

/// Loads sixteen state rows' worth of keys: row `i` holds word `i` of every lane's key.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn key_rows(group: &Group) -> [__m512i; 8] {
    // SAFETY: used lanes' keys are readable; unused lanes read the first lane's key.
    unsafe {
        if group.one_key {
            return one_key(group.key[0]);
        }
        // 1. Key i beside key i + 8, each a half of a register.
        let key =
            |lane: usize| group.key[if lane < group.used { lane } else { 0 }].cast::<__m256i>();
        let mut pairs = [_mm512_setzero_si512(); 8];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(key(i)));
            *pair = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(key(i + 8)));
        }
        // 2. Transpose 4x4 words inside the quarters: quarter q of t[4h + w] holds word 4(q&1) + w
        //    of keys 4h + 8(q>>1) ...
        let mut t = [_mm512_setzero_si512(); 8];
        for h in 0..2 {
            let [a, b, c, d] = [
                pairs[4 * h],
                pairs[4 * h + 1],
                pairs[4 * h + 2],
                pairs[4 * h + 3],
            ];
            let (ab, ab2) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd, cd2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            t[4 * h] = _mm512_unpacklo_epi64(ab, cd);
            t[4 * h + 1] = _mm512_unpackhi_epi64(ab, cd);
            t[4 * h + 2] = _mm512_unpacklo_epi64(ab2, cd2);
            t[4 * h + 3] = _mm512_unpackhi_epi64(ab2, cd2);
        }
        // 3. Bring the quarters into the lanes' order.
        let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
        let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
        let mut rows = [_mm512_setzero_si512(); 8];
        for w in 0..4 {
            rows[w] = _mm512_permutex2var_epi64(t[w], even, t[4 + w]);
            rows[4 + w] = _mm512_permutex2var_epi64(t[w], odd, t[4 + w]);
        }
        rows
    }
}

/// One step of four independent quarter rounds, written so that the four stay side by side.
macro_rules! four {
    ($x:ident, $r:literal: $(($a:literal $b:literal $d:literal))*) => {
        $($x[$a] = _mm512_add_epi32($x[$a], $x[$b]);)*
        $($x[$d] = _mm512_rol_epi32::<$r>(_mm512_xor_si512($x[$d], $x[$a]));)*
    };
}

/// The keystream of a group's lanes, one register of `out` each.
///
/// # Safety
/// As [`Compute::compute`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) unsafe fn keystream(group: &Group, out: &mut [__m512i; 16]) {
    // SAFETY: the caller's contract.
    unsafe {
        match group.used {
            0..=4 => few::<1>(group, out),
            5..=8 => few::<2>(group, out),
            9..=12 => few::<3>(group, out),
            13.. => sixteen::<false>(group, out, || ()),
        }
    }
}

/// Whether a full group's lanes are all whole.
#[inline(always)]
fn all_whole(group: &Group) -> bool {
    let mut all = group.used == 16;
    for span in &group.span[..16] {
        all &= *span == Span::FULL;
    }
    all
}

/// Sixteen blocks. If `MET`, all lanes are whole: the keystream meets its sources at once and isn't
/// in `out`. `beside` goes with each double round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn sixteen<const MET: bool>(group: &Group, out: &mut [__m512i; 16], beside: impl FnMut()) {
    // SAFETY: the group's arrays are aligned to 64 bytes and longer than a register.
    let (key, block, salt, low, high) = unsafe {
        (
            key_rows(group),
            _mm512_load_si512(group.block.as_ptr().cast()),
            _mm512_load_si512(group.salt.as_ptr().cast()),
            _mm512_load_si512(group.counter_low.as_ptr().cast()),
            _mm512_load_si512(group.counter_high.as_ptr().cast()),
        )
    };
    rounds(key, [block, salt, low, high], beside, |lane, keystream| {
        if MET {
            // SAFETY: the lane is whole; its source is read once.
            unsafe {
                let text = load(group.source[lane]);
                let to = group.destination[lane].cast();
                _mm512_storeu_si512(to, _mm512_xor_si512(text, keystream));
            }
        } else {
            out[lane] = keystream;
        }
    });
}

/// Twenty rounds of sixteen blocks: `key` and `end` are their words 4 to 11 and 12 to 15. `beside`
/// goes with each double round; `put` takes the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn rounds(
    key: [__m512i; 8],
    end: [__m512i; 4],
    mut beside: impl FnMut(),
    put: impl FnMut(usize, __m512i),
) {
    let sigma = SIGMA.map(|word| _mm512_set1_epi32(word));
    let start = [
        sigma[0], sigma[1], sigma[2], sigma[3], key[0], key[1], key[2], key[3], key[4], key[5],
        key[6], key[7], end[0], end[1], end[2], end[3],
    ];
    let mut x = start;
    for _ in 0..10 {
        four!(x, 16: (0 4 12) (1 5 13) (2 6 14) (3 7 15));
        four!(x, 12: (8 12 4) (9 13 5) (10 14 6) (11 15 7));
        four!(x, 8: (0 4 12) (1 5 13) (2 6 14) (3 7 15));
        four!(x, 7: (8 12 4) (9 13 5) (10 14 6) (11 15 7));
        four!(x, 16: (0 5 15) (1 6 12) (2 7 13) (3 4 14));
        four!(x, 12: (10 15 5) (11 12 6) (8 13 7) (9 14 4));
        four!(x, 8: (0 5 15) (1 6 12) (2 7 13) (3 4 14));
        four!(x, 7: (10 15 5) (11 12 6) (8 13 7) (9 14 4));
        beside();
    }
    for i in 0..16 {
        x[i] = _mm512_add_epi32(x[i], start[i]);
    }
    transpose(&x, put);
}

/// Sixteen rows of words become sixteen blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn transpose(x: &[__m512i; 16], mut put: impl FnMut(usize, __m512i)) {
    // 1. 4x4 words inside each quarter: quarter q of t[4g + j] is words 4g.. of block 4q + j.
    let mut t = [_mm512_setzero_si512(); 16];
    for g in 0..4 {
        let [a, b, c, d] = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
        let (ab, ab2) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd, cd2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        t[4 * g] = _mm512_unpacklo_epi64(ab, cd);
        t[4 * g + 1] = _mm512_unpackhi_epi64(ab, cd);
        t[4 * g + 2] = _mm512_unpacklo_epi64(ab2, cd2);
        t[4 * g + 3] = _mm512_unpackhi_epi64(ab2, cd2);
    }
    // 2. 4x4 quarters: block 4q + j collects quarter q of t[j], t[4 + j], t[8 + j], t[12 + j].
    for j in 0..4 {
        let quarters = transpose_quarters([t[j], t[4 + j], t[8 + j], t[12 + j]]);
        for (q, block) in quarters.into_iter().enumerate() {
            put(4 * q + j, block);
        }
    }
}

/// Quarter j of row i becomes quarter i of row j.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, ab2) = (
        _mm512_shuffle_i32x4::<0x44>(a, b),
        _mm512_shuffle_i32x4::<0xee>(a, b),
    );
    let (cd, cd2) = (
        _mm512_shuffle_i32x4::<0x44>(c, d),
        _mm512_shuffle_i32x4::<0xee>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(ab2, cd2),
        _mm512_shuffle_i32x4::<0xdd>(ab2, cd2),
    ]
}
