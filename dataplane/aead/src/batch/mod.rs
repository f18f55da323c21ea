//! A burst's way through a vector kernel: sub-batches, lanes, tags.
//!
//! **In**: jobs. **Out**: sealed and opened packets.
//! **Never**: a branch on secrets: what is decided here depends on lengths, pointers and, in
//! opening, on which packets verified.
//!
//! A sub-batch is as many packets as keep their ciphertext in the first-level cache until Poly1305
//! has read it, ordered by length so that eight neighbours take about as many steps.
//!
//! 1. seal: all lanes of the sub-batch (block 0 makes the Poly1305 key), then tags;
//! 2. seal with heads: payload lanes, the caller completes the heads, key and head lanes, tags;
//! 3. open: key lanes, tags, lanes of those packets whose tag was right.

#![allow(unsafe_code, reason = "a named room: pointers of jobs become lanes")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

mod alone;
mod open;
mod seal;

use core::{ptr, slice};

use crate::lanes::{Compute, Group, Pipeline, Span, Stream};
use crate::scalar::{Poly, Side};
use crate::{KeyBytes, TAG_LEN, scalar};

pub(crate) use open::{decrypt, open, verify};
pub(crate) use seal::seal;

/// Packets of a sub-batch.
const MOST: usize = 64;

/// Lanes that can be computed ahead of a verdict.
pub(crate) const AHEAD: usize = 512;

/// A text to authenticate.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    pub(crate) start: *const u8,
    pub(crate) len: u32,
}

/// A 64-byte line, aligned like one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u64; 8]);

static ZEROS: Line = Line([0; 8]);

/// What a kernel keeps between calls; wiped after each.
#[repr(C, align(64))]
pub(crate) struct Scratch {
    pub(crate) groups: [Group; 2],
    pub(crate) secret: Secret,
}

/// The part of it that is secret.
#[repr(C, align(64))]
pub(crate) struct Secret {
    /// By slot: block 0 of the keystream, whose first half is the Poly1305 key. Any slot can be
    /// taken for the first of sixteen.
    pub(crate) poly_keys: [Line; MOST + 16],
    /// By slot: sums of the payload's words, in eight parts.
    pub(crate) sums: [Line; MOST],
    pub(crate) keystream: [Line; 16],
    /// Keystream of packets that are not verified yet. All zero between calls.
    pub(crate) ahead: [Line; AHEAD],
    pub(crate) side: Side,
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        const LINE: Line = Line([0; 8]);
        Self {
            groups: [Group::new(), Group::new()],
            secret: Secret {
                poly_keys: [LINE; MOST + 16],
                sums: [LINE; MOST],
                keystream: [LINE; 16],
                ahead: [LINE; AHEAD],
                side: Side::new(),
            },
        }
    }

    /// Wipes what `slots` packets left.
    #[inline(always)]
    fn wipe(&mut self, slots: usize) {
        let secret = &mut self.secret;
        wipe_lines(&mut secret.poly_keys[..slots]);
        wipe_lines(&mut secret.keystream);
        secret.side.wipe();
    }
}

/// A kernel that computes lanes side by side.
pub(crate) trait Vector {
    /// The computation of a group: exact stores or whole ones, with sums or without.
    type Lanes<'s, const EXACT: bool, const SUM: bool>: Compute;

    /// Borrows from the scratch what the computation needs. `only_keystream`: all sources are zeros.
    fn lanes<'s, const EXACT: bool, const SUM: bool>(
        keystream: &'s mut [Line; 16],
        sums: &'s mut [Line; MOST],
        side: Option<&'s mut Side>,
        only_keystream: bool,
    ) -> Self::Lanes<'s, EXACT, SUM>;

    /// The most blocks, its key's among them, of a packet that is worked on without lanes when it is
    /// alone.
    const ALONE: usize;

    /// How many of them are computed at a time.
    const AT_ONCE: usize;

    /// Their keystream's lines are written in multiples of so many.
    const WRITTEN: usize;

    /// The keystream of up to `AT_ONCE` blocks of one packet.
    ///
    /// # Safety
    /// The processor has the kernel's features; the key is readable.
    unsafe fn keystream(group: &mut Group, blocks: Blocks, out: &mut [Line; 16]);

    /// The same with Poly1305 of up to `count` blocks from `text` on beside it. Returns how many it
    /// took.
    ///
    /// # Safety
    /// As `keystream`; the text is readable.
    unsafe fn keystream_beside(
        group: &mut Group,
        blocks: Blocks,
        out: &mut [Line; 16],
        poly: &mut Poly,
        text: *const u8,
        count: u32,
    ) -> u32;

    /// Texts whose tags are computed side by side.
    const TEXTS: usize;

    /// Up to this many blocks, words are faster than vectors.
    const SCALAR_BLOCKS: usize;

    /// Up to this length texts are authenticated in words, three together, not in vectors.
    const TOGETHER: u32;

    /// Up to this length sixteen texts are authenticated side by side, if there are so many.
    const SHORT: u32;

    /// Whether lanes that are left over take shorter texts at no price.
    const FILLS: bool;

    /// The tags of sixteen texts of that length.
    ///
    /// # Safety
    /// As `tags`.
    unsafe fn short_tags(keys: &[Line; 16], texts: &[Text; 16]) -> [[u64; 2]; 16];

    /// From this length on texts are authenticated on the side of ChaCha20's rounds.
    const SIDE: u32;

    /// Whether a sub-batch is opened with the keystream computed ahead of the verdict, and combined
    /// after it: by its lanes, at most `AHEAD` without those of keys, and its longest text.
    fn ahead(lanes: usize, longest: u32) -> bool;

    /// Text of a sub-batch to seal, or a little more: up to a multiple of so many packets.
    const SEAL: (usize, usize);

    /// The same to open.
    const OPEN: (usize, usize);

    /// The tags of up to `TEXTS / streams` texts; `streams` is a power of two.
    ///
    /// # Safety
    /// The processor has the kernel's features; texts are readable, and private.
    unsafe fn tags(keys: [&Line; 8], texts: &[Text; 8], streams: usize) -> [[u64; 2]; 8];
}

/// Blocks of one packet.
pub(crate) struct Blocks {
    pub(crate) stream: Stream,
    pub(crate) first: u32,
    pub(crate) count: usize,
}

/// A sub-batch: jobs by slot, in the order of their lengths.
struct Order {
    /// Length and index, packed so that they sort.
    entries: [u32; MOST],
    len: usize,
    /// The first job behind the sub-batch.
    next: usize,
}

impl Order {
    /// The jobs from `first` on that are to be worked on: `length` says how long, `None` to pass.
    #[inline(always)]
    fn new<J>(
        jobs: &[J],
        first: usize,
        (most, multiple): (usize, usize),
        length: impl Fn(&J) -> Option<u32>,
    ) -> Self {
        let mut order = Self {
            entries: [0; MOST],
            len: 0,
            next: first,
        };
        let (mut text, mut sorted) = (0, true);
        for (offset, job) in jobs[first..].iter().enumerate().take(MOST) {
            if text >= most && order.len.is_multiple_of(multiple) {
                break;
            }
            order.next = first + offset + 1;
            if let Some(len) = length(job) {
                let entry = len << 6 | offset as u32;
                sorted &= order.len == 0 || order.entries[order.len - 1] < entry;
                order.entries[order.len] = entry;
                order.len += 1;
                text += len as usize;
            }
        }
        if !sorted {
            order.sort();
        }
        order
    }

    /// By rank: entries differ, so the number of smaller ones is each one's place. No branch that
    /// could be mispredicted, and ranks are counted in vectors, without a sum across one.
    #[inline(always)]
    fn sort(&mut self) {
        let (mut all, mut ranks) = ([u32::MAX; MOST], [0u32; MOST]);
        all[..self.len].copy_from_slice(&self.entries[..self.len]);
        let some = self.len.next_multiple_of(16).min(MOST);
        let (all16, ranks16) = (
            all[..some].as_chunks::<16>().0,
            ranks[..some].as_chunks_mut::<16>().0,
        );
        for (others, ranks) in all16.iter().zip(ranks16) {
            for &entry in &all[..self.len] {
                for (rank, &other) in ranks.iter_mut().zip(others) {
                    *rank += u32::from(entry < other);
                }
            }
        }
        for (&entry, rank) in all[..self.len].iter().zip(ranks) {
            self.entries[rank as usize & (MOST - 1)] = entry;
        }
    }

    #[inline(always)]
    fn index(&self, first: usize, slot: usize) -> usize {
        first + (self.entries[slot] & 63) as usize
    }
}

#[inline(always)]
fn stream(key: &KeyBytes, salt: u32, counter: u64, slot: usize) -> Stream {
    Stream {
        key,
        salt,
        counter,
        slot: slot as u32,
    }
}

/// Wipes lines of keystream.
#[inline(always)]
fn wipe_lines(lines: &mut [Line]) {
    for line in lines {
        // SAFETY: a line is writable. Volatile, or the compiler would leave it out.
        unsafe { ptr::write_volatile(line, ZEROS) };
    }
}

/// The first slot that goes on the side: slots are ordered by length.
#[inline(always)]
fn aside<K: Vector>(order: &Order, len: impl Fn(usize) -> u32) -> usize {
    let mut first = order.len;
    if K::SIDE != u32::MAX {
        while first > 0 && len(first - 1) >= K::SIDE {
            first -= 1;
        }
    }
    first
}

/// Text meets keystream.
#[inline(always)]
fn combine(text: &mut [u8], keystream: &[Line]) {
    let (whole, rest) = text.as_chunks_mut::<64>();
    let mut lines = keystream.iter();
    for (block, line) in whole.iter_mut().zip(&mut lines) {
        for (bytes, word) in block.as_chunks_mut::<8>().0.iter_mut().zip(line.0) {
            *bytes = (u64::from_le_bytes(*bytes) ^ word.to_le()).to_le_bytes();
        }
    }
    let Some(last) = lines.next() else {
        return;
    };
    let (words, bytes) = rest.as_chunks_mut::<8>();
    let mut last = last.0.iter();
    for (bytes, word) in words.iter_mut().zip(&mut last) {
        *bytes = (u64::from_le_bytes(*bytes) ^ word.to_le()).to_le_bytes();
    }
    if let Some(word) = last.next() {
        for (byte, key) in bytes.iter_mut().zip(word.to_ne_bytes()) {
            *byte ^= key;
        }
    }
}

/// The same, and wipes the keystream.
#[inline(always)]
fn combine_and_wipe(text: &mut [u8], keystream: &mut [Line]) {
    let (whole, rest) = text.as_chunks_mut::<64>();
    let (lines, last) = keystream.split_at_mut(whole.len());
    for (block, line) in whole.iter_mut().zip(lines) {
        let words = line.0;
        wipe_lines(slice::from_mut(line));
        for (bytes, word) in block.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = (u64::from_le_bytes(*bytes) ^ word.to_le()).to_le_bytes();
        }
    }
    combine(rest, last);
    wipe_lines(last);
}

/// Lanes of `text[from..to]`, in place; `from` begins a block, `to` ends one or the text.
#[inline(always)]
unsafe fn in_place<C: Compute>(
    pipeline: &mut Pipeline<'_, C>,
    stream: Stream,
    text: *mut u8,
    from: u32,
    to: u32,
    len: u32,
) {
    if from == to {
        return;
    }
    debug_assert!(from.is_multiple_of(64) && (to.is_multiple_of(64) || to == len));
    let block = from / 64;
    let whole = to / 64 - block;
    let at = text.wrapping_add(from as usize);
    // SAFETY: the caller's pointers.
    unsafe {
        // A run's vectors are for more than one.
        if whole == 1 {
            pipeline.one(stream, block + 1, Span::FULL, at, at);
        } else {
            pipeline.run(stream, block + 1, whole as usize, at, at);
        }
        let rest = to % 64;
        if rest > 0 {
            let at = text.wrapping_add((to - rest) as usize);
            pipeline.one(stream, to / 64 + 1, Span::new(0, rest, rest), at, at);
        }
    }
}

/// Computes tags of several packets of about the same length at a time.
///
/// # Safety
/// Texts are readable and private.
#[inline(always)]
unsafe fn tags<K: Vector>(
    scratch: &Scratch,
    slots: usize,
    text: impl Fn(usize) -> Text,
    mut put: impl FnMut(usize, [u64; 2]),
) {
    // Sixteen short ones at a time first: their lanes were the first, the longest texts' may still be
    // under way.
    let mut begin = 0;
    while K::SHORT > 0 && begin + 16 <= slots && text(begin + 15).len <= K::SHORT {
        let mut texts = [text(begin); 16];
        for lane in 1..16 {
            texts[lane] = text(begin + lane);
        }
        let Some(keys) = scratch.secret.poly_keys[begin..].first_chunk() else {
            return;
        };
        // SAFETY: the caller's contract.
        let tags = unsafe { K::short_tags(keys, &texts) };
        for (lane, &tag) in tags.iter().enumerate() {
            put(begin + lane, tag);
        }
        begin += 16;
    }
    let mut end = slots;
    while end > begin {
        // 0. Words, three texts together, where multiplication is quicker than vectors.
        if end >= begin + 3 && text(end - 1).len <= K::TOGETHER {
            let start = end - 3;
            let texts = [text(start), text(start + 1), text(start + 2)];
            let keys = &scratch.secret.poly_keys[start..end];
            // SAFETY: the caller's contract.
            let tags = unsafe { scalar::together(keys, &texts) };
            for (lane, tag) in tags.into_iter().enumerate() {
                put(start + lane, tag);
            }
            end = start;
            continue;
        }
        // 1. Slots are ordered by length: take the longest, and those not shorter than its half.
        let longest = text(end - 1).len;
        let enough = if longest <= 256 { 0 } else { longest / 2 };
        let mut start = end - 1;
        while start > begin && end - start < K::TEXTS && text(start - 1).len >= enough {
            start -= 1;
        }
        // 2. Few packets share the lanes among them, as far as they have steps to share.
        let count = end - start;
        let mut streams = 1;
        while 2 * streams * count <= K::TEXTS && longest as usize >= 128 * streams {
            streams *= 2;
        }
        // 3. A few blocks in all are soonest done in 64-bit words.
        if count * (longest as usize / 16 + 1) <= K::SCALAR_BLOCKS {
            for slot in start..end {
                let key = &scratch.secret.poly_keys[slot];
                // SAFETY: the caller's contract.
                put(slot, unsafe { scalar::authenticate(key, text(slot)) });
            }
            end = start;
            continue;
        }
        // Lanes that are left over do the shortest texts, or the longest again.
        let mut fill = 0;
        if K::FILLS {
            fill = (K::TEXTS / streams - count).min(start - begin);
        }
        let mut slot = [end - 1; 8];
        for lane in 0..count {
            slot[lane] = start + lane;
        }
        for lane in 0..fill {
            slot[count + lane] = begin + lane;
        }
        let keys = slot.map(|slot| &scratch.secret.poly_keys[slot]);
        // SAFETY: the caller's contract.
        let tags = unsafe { K::tags(keys, &slot.map(&text), streams) };
        for lane in 0..count + fill {
            put(slot[lane], tags[lane]);
        }
        (begin, end) = (begin + fill, start);
    }
}

const _: () = assert!(TAG_LEN == 16);
