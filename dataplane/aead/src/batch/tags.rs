//! Poly1305 over a sub-batch: which texts are authenticated together, and by what.
//!
//! **In**: texts and one-time keys by slot, in the order of their lengths. **Out**: tags.
//! **Never**: a write; a branch on anything but lengths.

#![allow(
    unsafe_code,
    reason = "a named room: texts of jobs, and calls of kernels"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

use core::ops::Range;

use super::deal::share;
use super::{Keys, Order, Text, Vector};
use crate::scalar;

/// Computes tags of several packets of about the same length at a time; with `sums` also sums of
/// words of texts and tags, where that costs hardly anything.
///
/// # Safety
/// Texts are readable and private.
#[inline(always)]
pub(super) unsafe fn tags<K: Vector>(
    poly_keys: &Keys,
    order: &Order,
    slots: Range<usize>,
    sums: bool,
    text: impl Fn(usize) -> Text,
    mut put: impl FnMut(usize, [u64; 2], Option<u64>),
) {
    // Short ones first: their lanes were the first, the longest texts' may still be under way.
    let Range {
        start: mut begin,
        end,
    } = slots;
    let are_short = |begin: usize, count: usize| {
        begin + count <= end && text(begin + count - 1).len <= K::SHORT
    };
    while K::SHORT > 0 && are_short(begin, 9) {
        // Sixteen at a time, or the last ones if an eight more takes them.
        let mut count = if are_short(begin, 16) { 16 } else { 9 };
        while count < 25 && are_short(begin, count + 1) {
            count += 1;
        }
        if count > 24 {
            count = 16;
        }
        let mut texts = [text(begin); 24];
        for lane in 1..count {
            texts[lane] = text(begin + lane);
        }
        let Some(keys) = poly_keys[begin..].first_chunk() else {
            return;
        };
        // SAFETY: the caller's contract.
        let tags = unsafe { K::short_tags(keys, &texts, count.div_ceil(8)) };
        for (lane, &tag) in tags.iter().enumerate().take(count) {
            put(begin + lane, tag, None);
        }
        begin += count;
    }
    let mut end = end;
    while end > begin {
        // 0. Words, three texts together, where multiplication is quicker than vectors.
        if end >= begin + 3 && text(end - 1).len <= K::TOGETHER {
            let start = end - 3;
            let texts = [text(start), text(start + 1), text(start + 2)];
            let keys = &poly_keys[start..end];
            // SAFETY: the caller's contract.
            let tags = unsafe { scalar::together(keys, &texts) };
            for (lane, tag) in tags.into_iter().enumerate() {
                put(start + lane, tag, None);
            }
            end = start;
            continue;
        }
        // 1. Slots are ordered by length: the longest ones.
        let share = share::<K>(&order.entries[begin..end]);
        let start = end - share.count;
        // 2. A few blocks in all are soonest done in 64-bit words.
        let alone = share.count == 1 && share.blocks <= K::SCALAR_TEXT;
        if share.blocks + share.count <= K::SCALAR_BLOCKS || alone {
            for slot in start..end {
                let key = &poly_keys[slot];
                // SAFETY: the caller's contract.
                put(slot, unsafe { scalar::authenticate(key, text(slot)) }, None);
            }
            end = start;
            continue;
        }
        // 3. Lanes that are left over have no text.
        let mut keys = [&poly_keys[start]; 8];
        let mut texts = [text(start); 8];
        for rank in 0..8 {
            if rank < share.count {
                keys[rank] = &poly_keys[end - 1 - rank];
                texts[rank] = text(end - 1 - rank);
            } else {
                texts[rank].len = 0;
            }
        }
        // 4. The last one is soonest done in words, if they can go on while vectors do.
        let longest = texts[0].len.div_ceil(16);
        let most = 4 * share.deal.steps(longest) + 4;
        let aside = (K::MIXES && start == begin + 1 && text(begin).len / 16 <= most)
            .then(|| (&poly_keys[begin], text(begin)));
        // SAFETY: the caller's contract.
        let all = unsafe { K::tags(keys, &texts, share.deal, aside, sums) };
        for rank in 0..share.count {
            let sum = all.sums.as_ref().map(|sums| sums[rank]);
            put(end - 1 - rank, all.tags[rank], sum);
        }
        end = start;
        if aside.is_some() {
            put(begin, all.tags[8], None);
            end = begin;
        }
    }
}
