//! A burst's way through a vector kernel: sub-batches, lanes, tags.
//!
//! **In**: jobs. **Out**: sealed and opened packets.
//! **Never**: a branch on secrets: what is decided here depends on lengths, pointers and, in
//! opening, on which packets verified.
//!
//! A sub-batch is ordered by length, so that eight neighbours take about as many steps. To seal, it
//! is as many packets as keep their ciphertext in the first-level cache until Poly1305 has read it.
//! To open, it is up to 64 packets, of which portions pass through that cache one by one.
//!
//! 1. seal: all lanes of the sub-batch (block 0 makes the Poly1305 key), then tags;
//! 2. seal with heads: payload lanes, the caller completes the heads, key and head lanes, tags;
//! 3. open: key lanes of the sub-batch, then by portions tags, and lanes of those packets whose tag
//!    was right.

#![allow(unsafe_code, reason = "a named room: pointers of jobs become lanes")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

mod alone;
mod deal;
mod open;
mod seal;
mod tags;

use core::ops::Range;
use core::{ptr, slice};

use crate::lanes::{Compute, Group, Pipeline, Span, Stream};
use crate::scalar::{Poly, Side};
use crate::{KeyBytes, TAG_LEN};

pub(crate) use deal::Deal;
pub(crate) use open::{decrypt, open, verify};
pub(crate) use seal::seal;

/// Packets of a sub-batch.
const MOST: usize = 64;

/// Blocks whose keystream is stored before it meets their sources: of a group and of a few beside it.
pub(crate) const BLOCKS: usize = 20;

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

/// Lines of one-time keys by slot.
pub(crate) type Keys = [Line; MOST + 24];

/// As many jobs as an order takes.
const ALL: (usize, usize) = (usize::MAX, 1);

/// What a kernel keeps between calls; wiped after each.
#[repr(C, align(64))]
pub(crate) struct Scratch {
    pub(crate) groups: [Group; 2],
    /// Whether seals say the sums of what they made.
    pub(crate) sums_sealed: bool,
    pub(crate) secret: Secret,
}

/// The part of it that is secret.
#[repr(C, align(64))]
pub(crate) struct Secret {
    /// By slot: block 0 of the keystream, whose first half is the Poly1305 key. Any slot can be
    /// taken for the first of 24.
    pub(crate) poly_keys: Keys,
    /// By slot: sums of the payload's words, in eight parts.
    pub(crate) sums: [Line; MOST],
    pub(crate) keystream: [Line; BLOCKS],
    /// Keystream of packets that are not verified yet. All zero between calls.
    pub(crate) ahead: [Line; AHEAD],
    pub(crate) side: Side,
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        const LINE: Line = Line([0; 8]);
        Self {
            groups: [Group::new(), Group::new()],
            sums_sealed: false,
            secret: Secret {
                poly_keys: [LINE; MOST + 24],
                sums: [LINE; MOST],
                keystream: [LINE; BLOCKS],
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
        keystream: &'s mut [Line; BLOCKS],
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

    /// For each of the first `count` entries of an order (length and index), how many go before it:
    /// shorter ones, by blocks of 16 bytes at least, and those of its own length with a lower index.
    ///
    /// # Safety
    /// The processor has the kernel's features.
    unsafe fn ranks(entries: &[u32; MOST], count: usize) -> [u32; MOST];

    /// Texts whose tags are computed side by side.
    const TEXTS: usize;

    /// Up to this many blocks, words are faster than vectors.
    const SCALAR_BLOCKS: usize;

    /// And up to this many of a text that is left over alone.
    const SCALAR_TEXT: usize;

    /// Up to this length texts are authenticated in words, three together, not in vectors.
    const TOGETHER: u32;

    /// Up to this length texts are authenticated by two or three eights, if there are so many.
    const SHORT: u32;

    /// Whether texts of one call may take different numbers of lanes.
    const MIXES: bool;

    /// The tags of texts of that length, in two or three eights.
    ///
    /// # Safety
    /// As `tags`.
    unsafe fn short_tags(keys: &[Line; 24], texts: &[Text; 24], eights: usize) -> [[u64; 2]; 24];

    /// From this length on texts are authenticated on the side of ChaCha20's rounds.
    const SIDE: u32;

    /// Whether a sub-batch is opened with the keystream computed ahead of the verdict, together with
    /// the keys, and combined after it.
    fn ahead(order: &Order) -> bool;

    /// Text of a sub-batch to seal, or a little more: up to a multiple of so many packets.
    const SEAL: (usize, usize);

    /// The same to open, of slots whose keys are there.
    const OPEN: (usize, usize);

    /// The tags of texts, which take lanes as `deal` says: all of them alike, unless the kernel mixes.
    /// Then the tag of a text may come ninth that is authenticated in words meanwhile. With `sums`, a
    /// kernel that gets them almost for nothing says what the texts' words come to.
    ///
    /// # Safety
    /// The processor has the kernel's features; texts are readable, and private. No text takes more
    /// steps than the first one.
    unsafe fn tags(
        keys: [&Line; 8],
        texts: &[Text; 8],
        deal: Deal,
        aside: Option<(&Line, Text)>,
        sums: bool,
    ) -> Tags;
}

/// Tags of texts, and maybe the sums of the little-endian words of both, congruent modulo 65535.
#[derive(Default)]
pub(crate) struct Tags {
    pub(crate) tags: [[u64; 2]; 9],
    pub(crate) sums: Option<[u64; 8]>,
}

/// Blocks of one packet.
pub(crate) struct Blocks {
    pub(crate) stream: Stream,
    pub(crate) first: u32,
    pub(crate) count: usize,
}

/// A sub-batch: jobs by slot, in the order of their lengths (of blocks at least).
pub(crate) struct Order {
    /// Length and index, packed so that they sort.
    entries: [u32; MOST],
    len: usize,
    /// Bytes of all texts.
    text: usize,
    /// The first job behind the sub-batch.
    next: usize,
}

impl Order {
    /// The jobs from `first` on that are to be worked on: `length` says how long, `None` to pass.
    #[inline(always)]
    fn new<K: Vector, J>(
        jobs: &[J],
        first: usize,
        (most, multiple): (usize, usize),
        length: impl Fn(&J) -> Option<u32>,
    ) -> Self {
        let mut entries = [0; MOST];
        let (mut len, mut next) = (0_usize, first);
        let (mut text, mut sorted, mut last) = (0, true, 0);
        for (offset, job) in jobs[first..].iter().enumerate().take(MOST) {
            if text >= most && len.is_multiple_of(multiple) {
                break;
            }
            next = first + offset + 1;
            if let Some(length) = length(job) {
                let entry = length << 6 | offset as u32;
                sorted &= last <= entry;
                last = entry;
                entries[len & (MOST - 1)] = entry;
                len += 1;
                text += length as usize;
            }
        }
        let mut order = Self {
            entries,
            len,
            text,
            next,
        };
        if !sorted {
            order.sort::<K>();
        }
        order
    }

    /// By rank: entries differ, so the number of smaller ones is each one's place. No branch that
    /// could be mispredicted.
    #[inline(always)]
    fn sort<K: Vector>(&mut self) {
        let all = self.entries;
        // SAFETY: the processor has the kernel's features, or nobody would make an order for it.
        let ranks = unsafe { K::ranks(&all, self.len) };
        for (&entry, rank) in all[..self.len].iter().zip(ranks) {
            self.entries[rank as usize & (MOST - 1)] = entry;
        }
    }

    /// The first of some slots: as many as have `most` bytes of text, or a little more, up to a
    /// multiple of so many.
    #[inline(always)]
    fn portion(&self, slots: Range<usize>, (most, multiple): (usize, usize)) -> Range<usize> {
        let (mut count, mut text) = (0_usize, 0);
        for entry in &self.entries[slots.clone()] {
            if text >= most && count.is_multiple_of(multiple) {
                break;
            }
            text += (entry >> 6) as usize;
            count += 1;
        }
        slots.start..slots.start + count
    }

    /// The length of the longest text.
    #[inline(always)]
    pub(crate) fn longest(&self) -> u32 {
        self.entries[..self.len]
            .last()
            .map_or(0, |entry| entry >> 6)
    }

    /// Blocks of all texts and their keys, or a few more.
    #[inline(always)]
    pub(crate) const fn blocks(&self) -> usize {
        self.text / 64 + 2 * self.len
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
fn aside<K: Vector>(slots: Range<usize>, len: impl Fn(usize) -> u32) -> usize {
    let mut first = slots.end;
    if K::SIDE != u32::MAX {
        while first > slots.start && len(first - 1) >= K::SIDE {
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

const _: () = assert!(TAG_LEN == 16);
