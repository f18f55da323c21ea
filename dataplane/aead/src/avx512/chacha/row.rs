//! Rows: sixteen whole blocks of one packet, one behind the other.
//!
//! **In**: where a row begins. **Out**: its ciphertext or plaintext, and its sum.
//! **Never**: a plan of its lanes; a look at the next row's source other than to have it brought near.

use core::arch::x86_64::*;

use super::few::Rows;
use super::text::{Sum, apply, load};
use super::{one_key, rounds, split};
use crate::batch::BLOCKS;
use crate::lanes::{Group, Row, prefetch};

/// Sixteen blocks of one packet: nothing was stored of them but where they begin.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) unsafe fn compute_row<const SUM: bool>(
    row: &Row,
    next: *const u8,
    sums: &mut [__m512i; 64],
) {
    let mut line = next;
    let fetch = || {
        prefetch(line);
        prefetch(line.wrapping_add(64));
        line = line.wrapping_add(128);
    };
    // SAFETY: the caller's contract.
    unsafe { meet::<SUM>(row, sums, fetch) };
}

/// The same with a few lanes beside it.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) unsafe fn row_with_few<const EXACT: bool, const SUM: bool>(
    row: &Row,
    last: &Group,
    blocks: &mut [__m512i; BLOCKS],
    sums: &mut [__m512i; 64],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut rows = Rows::<1>::new(last);
        let (_, others) = split(blocks);
        meet::<SUM>(row, sums, || rows.double_round());
        rows.finish(others);
        apply::<EXACT, SUM>(last, others, sums);
    }
}

/// A row's keystream meets its source at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn meet<const SUM: bool>(row: &Row, sums: &mut [__m512i; 64], beside: impl FnMut()) {
    let words = |value: u32| _mm512_set1_epi32(value as i32);
    let iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let stream = &row.stream;
    // SAFETY: the key is readable.
    let key = unsafe { one_key(stream.key) };
    let end = [
        _mm512_add_epi32(words(row.block), iota),
        words(stream.salt),
        words(stream.counter as u32),
        words((stream.counter >> 32) as u32),
    ];
    let mut sum = Sum::new();
    rounds(key, end, beside, |lane, keystream| {
        // SAFETY: the row's blocks are whole; each is read once.
        unsafe {
            let text = load(row.source.wrapping_add(64 * lane));
            let to = row.destination.wrapping_add(64 * lane);
            _mm512_storeu_si512(to.cast(), _mm512_xor_si512(text, keystream));
            if SUM {
                sum.add(text);
            }
        }
    });
    if SUM {
        sum.give(&mut sums[stream.slot as usize & 63]);
    }
}
