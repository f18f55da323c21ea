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

use core::ops::Range;
use core::ptr;
use core::slice;

use crate::job::{DecryptJob, OpenJob, SealJob, Sealed, State};
use crate::lanes::{Compute, Group, Pipeline, Span, Stream};
use crate::scalar::{Poly, Side};
use crate::{KeyBytes, PayloadSum, TAG_LEN, raw, scalar, sum};

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
    /// taken for the first of eight.
    pub(crate) poly_keys: [Line; MOST + 8],
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
                poly_keys: [LINE; MOST + 8],
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

    /// Borrows from the scratch what the computation needs.
    fn lanes<'s, const EXACT: bool, const SUM: bool>(
        keystream: &'s mut [Line; 16],
        sums: &'s mut [Line; MOST],
        side: Option<&'s mut Side>,
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

    /// From this length on texts are authenticated on the side of ChaCha20's rounds.
    const SIDE: u32;

    /// Sub-batches of at most so many lanes are opened with the keystream computed ahead of the
    /// verdict, and combined after it.
    const AHEAD: usize;

    /// Text of a sub-batch to seal, or a little more: up to a multiple of so many packets.
    const SEAL: (usize, usize);

    /// The same to open.
    const OPEN: (usize, usize);

    /// The tags of up to `TEXTS / streams` texts; `streams` is a power of two.
    ///
    /// # Safety
    /// The processor has the kernel's features; texts are readable, and private.
    unsafe fn tags(keys: &[Line; 8], texts: &[Text; 8], streams: usize) -> [[u64; 2]; 8];
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
    /// could be mispredicted, and the compiler counts with vectors.
    #[inline(always)]
    fn sort(&mut self) {
        let mut all = [u32::MAX; MOST];
        all[..self.len].copy_from_slice(&self.entries[..self.len]);
        for &entry in &all[..self.len] {
            let rank = all
                .iter()
                .fold(0u32, |rank, &other| rank + u32::from(other < entry));
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

/// Seals all jobs that were not sealed before.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
pub(crate) unsafe fn seal<K: Vector, F>(
    scratch: &mut Scratch,
    jobs: &mut [SealJob<'_>],
    finish: &mut Option<F>,
) where
    F: FnMut(usize, PayloadSum, &mut [u8]),
{
    if let ([job], None) = (&mut *jobs, &finish)
        && !job.done
        && job.in_place
    {
        job.done = true;
        let alone = Alone {
            stream: stream(job.key, job.salt, job.counter, 0),
            text: job.destination.as_ptr(),
            len: job.len,
        };
        if alone.fits::<K>() {
            // SAFETY: the job's buffer has room for text and tag.
            unsafe { put_tag(job, alone.seal::<K>(scratch)) };
            return;
        }
        job.done = false;
    }
    let (mut first, mut slots) = (0, 0);
    while first < jobs.len() {
        let order = Order::new(jobs, first, K::SEAL, |job| (!job.done).then_some(job.len));
        slots = slots.max(order.len);
        // SAFETY: pointers of jobs are good for their lengths, as their constructors proved.
        unsafe {
            let untagged = match finish {
                None => seal_lanes::<K>(scratch, jobs, first, &order),
                Some(finish) => {
                    seal_heads_last::<K, F>(scratch, jobs, first, &order, finish);
                    order.len
                }
            };
            seal_tags::<K>(scratch, jobs, first, &order, untagged);
        }
        first = order.next;
    }
    scratch.wipe(slots);
}

/// A short packet that is the whole burst: neither order nor lanes, only its blocks.
struct Alone {
    stream: Stream,
    text: *mut u8,
    len: u32,
}

impl Alone {
    /// The key's block and the text's.
    #[inline(always)]
    fn lanes(&self) -> usize {
        1 + self.len.div_ceil(64) as usize
    }

    #[inline(always)]
    fn fits<K: Vector>(&self) -> bool {
        self.lanes() <= K::ALONE
    }

    /// Encrypts in place; returns the tag.
    ///
    /// # Safety
    /// The processor has the kernel's features. The text is private, it and 16 bytes behind it are
    /// readable, and it `fits`.
    #[inline(always)]
    unsafe fn seal<K: Vector>(self, scratch: &mut Scratch) -> [u64; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let tag = self.pass::<K>(scratch, true);
            wipe_lines(&mut scratch.secret.ahead[..self.lanes().next_multiple_of(K::WRITTEN)]);
            tag
        }
    }

    /// Verifies, and decrypts in place what verified.
    ///
    /// # Safety
    /// As [`Alone::seal`]; the tag is behind the text.
    #[inline(always)]
    unsafe fn open<K: Vector>(self, scratch: &mut Scratch) -> State {
        // SAFETY: the caller's contract.
        unsafe {
            let tag = self.pass::<K>(scratch, false);
            let state = verdict(self.text(), tag);
            if state == State::Verified {
                self.combine(&scratch.secret.ahead, 1..self.lanes());
            }
            wipe_lines(&mut scratch.secret.ahead[..self.lanes().next_multiple_of(K::WRITTEN)]);
            state
        }
    }

    #[inline(always)]
    fn text(&self) -> Text {
        Text {
            start: self.text,
            len: self.len,
        }
    }

    /// Computes all blocks, and the tag of the ciphertext: which is made on the way (`seals`), or has
    /// been there and stays.
    ///
    /// # Safety
    /// As [`Alone::seal`].
    #[inline(always)]
    unsafe fn pass<K: Vector>(&self, scratch: &mut Scratch, seals: bool) -> [u64; 2] {
        let (group, ahead) = (&mut scratch.groups[0], &mut scratch.secret.ahead);
        let blocks = |first: usize| Blocks {
            stream: self.stream,
            first: first as u32,
            count: (self.lanes() - first).min(K::AT_ONCE),
        };
        let whole = self.len / 16;
        let mut poly = None;
        let (mut lane, mut taken) = (0, 0);
        // SAFETY: the caller's contract; ciphertext is read where it is complete.
        unsafe {
            while lane < self.lanes() {
                let now = blocks(lane);
                let next = lane + now.count;
                let Some(out) = ahead[lane..].first_chunk_mut() else {
                    break;
                };
                match &mut poly {
                    None => K::keystream(group, now, out),
                    Some(poly) => {
                        // The key's block is not the text's.
                        let there = if seals { 4 * (lane as u32 - 1) } else { whole };
                        let text = self.text.wrapping_add(16 * taken as usize);
                        let count = there - taken;
                        taken += K::keystream_beside(group, now, out, poly, text, count);
                    }
                }
                if poly.is_none() && next < self.lanes() {
                    poly = Some(Poly::new(&ahead[0]));
                }
                if seals {
                    self.combine(ahead, lane.max(1)..next);
                }
                lane = next;
            }
            let Some(mut poly) = poly else {
                return self.tag::<K>(&ahead[0]);
            };
            poly.blocks(self.text.add(16 * taken as usize), (whole - taken) as usize);
            poly.finish(self.text.add(16 * whole as usize), self.len, &ahead[0])
        }
    }

    /// Text and keystream of some lanes.
    ///
    /// # Safety
    /// Nobody else has a reference to the text.
    #[inline(always)]
    unsafe fn combine(&self, ahead: &[Line; AHEAD], lanes: Range<usize>) {
        let (start, end) = (64 * (lanes.start - 1), 64 * (lanes.end - 1));
        let len = end.min(self.len as usize) - start;
        // SAFETY: the caller's contract.
        let text = unsafe { slice::from_raw_parts_mut(self.text.add(start), len) };
        let (whole, rest) = text.as_chunks_mut::<64>();
        let mut lines = ahead[lanes].iter();
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

    /// The tag of a text that is complete.
    ///
    /// # Safety
    /// As [`Alone::seal`].
    #[inline(always)]
    unsafe fn tag<K: Vector>(&self, key: &Line) -> [u64; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            if self.len as usize / 16 < K::SCALAR_BLOCKS {
                return scalar::authenticate(key, self.text());
            }
            let streams = if self.len < 512 {
                K::TEXTS / 2
            } else {
                K::TEXTS
            };
            let mut keys = [const { Line([0; 8]) }; 8];
            keys[0] = *key;
            let [tag, ..] = K::tags(&keys, &[self.text(); 8], streams);
            wipe_lines(&mut keys[..1]);
            tag
        }
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

/// All lanes, in the order of the text.
#[inline(always)]
unsafe fn seal_lanes<K: Vector>(
    scratch: &mut Scratch,
    jobs: &mut [SealJob<'_>],
    first: usize,
    order: &Order,
) -> usize {
    let secret = &mut scratch.secret;
    let keys = secret.poly_keys.as_mut_ptr();
    let text = |jobs: &[SealJob<'_>], slot| {
        let job = &jobs[order.index(first, slot)];
        Text {
            start: job.destination.as_ptr(),
            len: job.len,
        }
    };
    let side = aside::<K>(order, |slot| text(jobs, slot).len);
    if side < order.len {
        // SAFETY: ciphertexts are private and only grow.
        unsafe {
            secret
                .side
                .begin(side, order.len, true, keys, |slot| text(jobs, slot))
        };
    }
    let beside = if side < order.len {
        Some(&mut secret.side)
    } else {
        None
    };
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, beside);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    for slot in 0..order.len {
        let job = &mut jobs[order.index(first, slot)];
        job.done = true;
        let stream = stream(job.key, job.salt, job.counter, slot);
        // SAFETY: the job's pointers (see `seal`); a slot's line takes a whole block.
        unsafe {
            let key = keys.wrapping_add(slot).cast();
            let (zeros, text) = ((&raw const ZEROS).cast(), job.destination.as_ptr());
            if job.in_place && job.len >= 64 {
                pipeline.two(stream, zeros, key, text, text);
                in_place(&mut pipeline, stream, text, 64, job.len, job.len);
                continue;
            }
            pipeline.one(stream, 0, Span::FULL, zeros, key);
            if job.in_place {
                in_place(&mut pipeline, stream, text, 0, job.len, job.len);
            } else {
                let head = gather_head(job);
                in_place(
                    &mut pipeline,
                    stream,
                    job.destination.as_ptr(),
                    0,
                    head,
                    job.len,
                );
                from_segments(&mut pipeline, stream, job, head);
            }
        }
    }
    // SAFETY: as above.
    unsafe { pipeline.finish() };
    if side < order.len {
        // SAFETY: all ciphertexts are there; buffers have room for tags.
        unsafe {
            secret.side.drain();
            for slot in side..order.len {
                put_tag(&jobs[order.index(first, slot)], secret.side.tags[slot]);
            }
        }
    }
    side
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

#[inline(always)]
unsafe fn put_tag(job: &SealJob<'_>, tag: [u64; 2]) {
    // SAFETY: a job's buffer has room for its tag.
    unsafe {
        let to = job.destination.as_ptr().add(job.len as usize);
        to.cast::<[u64; 2]>()
            .write_unaligned([tag[0].to_le(), tag[1].to_le()]);
    }
}

/// Payload lanes first, then the caller completes the heads, then key and head lanes.
#[inline(always)]
unsafe fn seal_heads_last<K: Vector, F>(
    scratch: &mut Scratch,
    jobs: &mut [SealJob<'_>],
    first: usize,
    order: &Order,
    finish: &mut F,
) where
    F: FnMut(usize, PayloadSum, &mut [u8]),
{
    let secret = &mut scratch.secret;
    secret.sums[..order.len].fill(ZEROS);
    let mut heads = [0; MOST];
    let compute = K::lanes::<false, true>(&mut secret.keystream, &mut secret.sums, None);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    for slot in 0..order.len {
        let job = &mut jobs[order.index(first, slot)];
        job.done = true;
        let stream = stream(job.key, job.salt, job.counter, slot);
        // SAFETY: the job's pointers (see `seal`).
        unsafe {
            let head = if job.in_place {
                job.head.next_multiple_of(64).min(job.len)
            } else {
                gather_head(job)
            };
            heads[slot] = head;
            if job.in_place {
                in_place(
                    &mut pipeline,
                    stream,
                    job.destination.as_ptr(),
                    head,
                    job.len,
                    job.len,
                );
            } else {
                from_segments(&mut pipeline, stream, job, head);
            }
        }
    }
    // SAFETY: as above.
    unsafe { pipeline.finish() };

    for slot in 0..order.len {
        let index = order.index(first, slot);
        let job = &mut jobs[index];
        // SAFETY: the head lies in the job's buffer, which nobody else uses now.
        let text =
            unsafe { slice::from_raw_parts_mut(job.destination.as_ptr(), heads[slot] as usize) };
        let (head, rest) = text.split_at_mut(job.head as usize);
        // Lanes summed words that begin at even offsets of the text; the payload may not.
        let odd = job.head % 2 == 1;
        let mut sum = u64::from(sum::fold(sum::words(rest), odd));
        for part in secret.sums[slot].0 {
            sum += (part & 0xffff_ffff) + (part >> 32);
        }
        job.sum = PayloadSum::from_words(sum::fold(sum, odd));
        finish(index, job.sum, head);
    }

    let keys = secret.poly_keys.as_mut_ptr();
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, None);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    for slot in 0..order.len {
        let job = &mut jobs[order.index(first, slot)];
        let stream = stream(job.key, job.salt, job.counter, slot);
        // SAFETY: as in `seal_lanes`.
        unsafe {
            let key = keys.wrapping_add(slot).cast();
            pipeline.one(stream, 0, Span::FULL, (&raw const ZEROS).cast(), key);
            in_place(
                &mut pipeline,
                stream,
                job.destination.as_ptr(),
                0,
                heads[slot],
                job.len,
            );
        }
    }
    // SAFETY: as above.
    unsafe { pipeline.finish() };
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
        pipeline.run(stream, block + 1, whole as usize, at, at);
        let rest = to % 64;
        if rest > 0 {
            let at = text.wrapping_add((to - rest) as usize);
            pipeline.one(stream, to / 64 + 1, Span::new(0, rest, rest), at, at);
        }
    }
}

/// Reads payload behind the head up to the end of the head's last block. Returns where that is.
#[inline(always)]
unsafe fn gather_head(job: &SealJob<'_>) -> u32 {
    let end = job.head.next_multiple_of(64).min(job.len);
    if end > job.head {
        let mut cursor = Cursor {
            segments: job.source,
            offset: 0,
        };
        // SAFETY: the job's buffer has `len` bytes.
        unsafe {
            let to = job.destination.as_ptr().add(job.head as usize);
            cursor.gather(to, (end - job.head) as usize);
        }
    }
    end
}

/// A place in a job's segments.
struct Cursor<'j> {
    segments: &'j [crate::Segment<'j>],
    offset: usize,
}

impl Cursor<'_> {
    /// Moves `count` bytes on.
    fn skip(&mut self, mut count: usize) {
        while let [segment, rest @ ..] = self.segments {
            let left = segment.len - self.offset;
            if count < left {
                self.offset += count;
                return;
            }
            count -= left;
            self.segments = rest;
            self.offset = 0;
        }
    }

    /// Copies `count` bytes to private memory, zeros where segments end.
    ///
    /// # Safety
    /// `to` takes that many.
    unsafe fn gather(&mut self, mut to: *mut u8, mut count: usize) {
        while let [segment, rest @ ..] = self.segments {
            let piece = (segment.len - self.offset).min(count);
            // SAFETY: the segment is readable and disjoint from the destination.
            unsafe { raw::read(segment.start.as_ptr().add(self.offset), to, piece) };
            to = to.wrapping_add(piece);
            count -= piece;
            self.offset += piece;
            if self.offset == segment.len {
                self.segments = rest;
                self.offset = 0;
            }
            if count == 0 {
                return;
            }
        }
        // SAFETY: the caller's contract.
        unsafe { ptr::write_bytes(to, 0, count) };
    }
}

/// Lanes of the text from `from` on, out of segments; zeros behind them.
#[inline(always)]
unsafe fn from_segments<C: Compute>(
    pipeline: &mut Pipeline<'_, C>,
    stream: Stream,
    job: &SealJob<'_>,
    from: u32,
) {
    let mut cursor = Cursor {
        segments: job.source,
        offset: 0,
    };
    if from > job.head {
        cursor.skip((from - job.head) as usize);
    }
    let mut at = from;
    while at < job.len {
        let to = job.destination.as_ptr().wrapping_add(at as usize);
        let (block, left) = (at / 64 + 1, (job.len - at) as usize);
        let want = left.min(64);
        // SAFETY: lanes read what segments have and write where the job's buffer is.
        unsafe {
            let [segment, rest @ ..] = cursor.segments else {
                pipeline.one(stream, block, Span::new(0, 0, want as u32), to, to);
                at += want as u32;
                continue;
            };
            let source = segment
                .start
                .as_ptr()
                .wrapping_add(cursor.offset)
                .cast_const();
            let there = segment.len - cursor.offset;
            let whole = there.min(left) / 64;
            if whole > 0 {
                pipeline.run(stream, block, whole, source, to);
                cursor.skip(64 * whole);
                at += 64 * whole as u32;
            } else if there >= want || rest.is_empty() {
                let take = there.min(want);
                pipeline.one(
                    stream,
                    block,
                    Span::new(0, take as u32, want as u32),
                    source,
                    to,
                );
                cursor.skip(take);
                at += want as u32;
            } else {
                // The block lies in several segments: it is gathered where its ciphertext goes.
                cursor.gather(to, want);
                pipeline.one(
                    stream,
                    block,
                    Span::new(0, want as u32, want as u32),
                    to,
                    to,
                );
                at += want as u32;
            }
        }
    }
}

/// Tags behind the ciphertexts.
#[inline(always)]
unsafe fn seal_tags<K: Vector>(
    scratch: &Scratch,
    jobs: &[SealJob<'_>],
    first: usize,
    order: &Order,
    slots: usize,
) {
    let text = |slot| {
        let job = &jobs[order.index(first, slot)];
        Text {
            start: job.destination.as_ptr(),
            len: job.len,
        }
    };
    // SAFETY: ciphertexts are private; a job's buffer has room for its tag.
    unsafe {
        tags::<K>(scratch, slots, text, |slot, tag| {
            put_tag(&jobs[order.index(first, slot)], tag);
        });
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
    let mut end = slots;
    while end > 0 {
        // 0. Words, three texts together, where multiplication is quicker than vectors.
        if end >= 3 && text(end - 1).len <= K::TOGETHER {
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
        while start > 0 && end - start < K::TEXTS && text(start - 1).len >= enough {
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
        // Lanes that are left over do the longest text again: it needs no masks that others don't.
        let mut texts = [text(end - 1); 8];
        for lane in 0..count {
            texts[lane] = text(start + lane);
        }
        let Some(keys) = scratch.secret.poly_keys[start..].first_chunk() else {
            return;
        };
        // SAFETY: the caller's contract.
        let tags = unsafe { K::tags(keys, &texts, streams) };
        for (lane, &tag) in tags.iter().enumerate().take(count) {
            put(start + lane, tag);
        }
        end = start;
    }
}

/// What opening needs of a job.
pub(crate) trait Open {
    fn key(&self) -> &KeyBytes;
    fn salt(&self) -> u32;
    fn counter(&self) -> u64;
    fn text(&self) -> Text;
    fn state(&mut self) -> &mut State;
    fn waits(&self) -> bool;
}

macro_rules! open {
    ($type:ident) => {
        impl Open for $type<'_> {
            #[inline(always)]
            fn key(&self) -> &KeyBytes {
                self.key
            }
            #[inline(always)]
            fn salt(&self) -> u32 {
                self.salt
            }
            #[inline(always)]
            fn counter(&self) -> u64 {
                self.counter
            }
            #[inline(always)]
            fn text(&self) -> Text {
                Text {
                    start: self.text.as_ptr(),
                    len: self.len,
                }
            }
            #[inline(always)]
            fn state(&mut self) -> &mut State {
                &mut self.state
            }
            #[inline(always)]
            fn waits(&self) -> bool {
                self.state == State::Waiting
            }
        }
    };
}

open!(OpenJob);
open!(Sealed);

/// Verifies a sub-batch: key lanes, tags, comparison.
#[inline(always)]
unsafe fn verify_some<K: Vector, J: Open>(
    scratch: &mut Scratch,
    jobs: &mut [J],
    first: usize,
    order: &Order,
) {
    let secret = &mut scratch.secret;
    let keys = secret.poly_keys.as_mut_ptr();
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, None);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    for slot in 0..order.len {
        let job = &jobs[order.index(first, slot)];
        let stream = stream(job.key(), job.salt(), job.counter(), slot);
        let key = keys.wrapping_add(slot).cast();
        // SAFETY: a slot's line takes a whole block.
        unsafe { pipeline.one(stream, 0, Span::FULL, (&raw const ZEROS).cast(), key) };
    }
    // SAFETY: as above.
    unsafe { pipeline.finish() };
    let mut verdicts = [State::Failed; MOST];
    // SAFETY: texts and tags lie in the jobs' buffers.
    unsafe {
        let text = |slot| jobs[order.index(first, slot)].text();
        tags::<K>(scratch, order.len, text, |slot, tag| {
            verdicts[slot] = verdict(text(slot), tag);
        });
    }
    for slot in 0..order.len {
        *jobs[order.index(first, slot)].state() = verdicts[slot];
    }
}

/// Verifies all jobs that were not looked at before.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
pub(crate) unsafe fn verify<K: Vector>(scratch: &mut Scratch, jobs: &mut [Sealed<'_>]) {
    let (mut first, mut slots) = (0, 0);
    while first < jobs.len() {
        let order = Order::new(jobs, first, K::OPEN, |job| job.waits().then_some(job.len));
        slots = slots.max(order.len);
        // SAFETY: pointers of jobs are good for their lengths.
        unsafe { verify_some::<K, _>(scratch, jobs, first, &order) };
        first = order.next;
    }
    scratch.wipe(slots);
}

/// Opens all jobs that were not looked at before, in place.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
pub(crate) unsafe fn open<K: Vector>(scratch: &mut Scratch, jobs: &mut [OpenJob<'_>]) {
    if let [job] = &mut *jobs
        && job.waits()
    {
        let alone = Alone {
            stream: stream(job.key, job.salt, job.counter, 0),
            text: job.text.as_ptr(),
            len: job.len,
        };
        if alone.fits::<K>() {
            // SAFETY: the job's buffer holds text and tag.
            job.state = unsafe { alone.open::<K>(scratch) };
            return;
        }
    }
    let (mut first, mut slots) = (0, 0);
    while first < jobs.len() {
        let order = Order::new(jobs, first, K::OPEN, |job| job.waits().then_some(job.len));
        slots = slots.max(order.len);
        // SAFETY: pointers of jobs are good for their lengths.
        unsafe {
            if open_ahead::<K>(scratch, jobs, first, &order) {
                first = order.next;
                continue;
            }
            verify_some::<K, _>(scratch, jobs, first, &order);
            let secret = &mut scratch.secret;
            let compute = K::lanes::<true, false>(&mut secret.keystream, &mut secret.sums, None);
            let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
            for slot in 0..order.len {
                let job = &jobs[order.index(first, slot)];
                if job.ok() {
                    let stream = stream(job.key, job.salt, job.counter, slot);
                    in_place(
                        &mut pipeline,
                        stream,
                        job.text.as_ptr(),
                        0,
                        job.len,
                        job.len,
                    );
                }
            }
            pipeline.finish();
        }
        first = order.next;
    }
    scratch.wipe(slots);
}

/// Opens a sub-batch whose keystream fits into the scratch: no round waits for a verdict, and
/// Poly1305 can go on the side. `false`: it doesn't fit.
#[inline(always)]
unsafe fn open_ahead<K: Vector>(
    scratch: &mut Scratch,
    jobs: &mut [OpenJob<'_>],
    first: usize,
    order: &Order,
) -> bool {
    let lanes = |job: &OpenJob<'_>| job.len.div_ceil(64) as usize;
    let mut total = 0;
    for slot in 0..order.len {
        total += lanes(&jobs[order.index(first, slot)]);
    }
    if total > AHEAD || total + order.len > K::AHEAD {
        return false;
    }
    // 1. All lanes, keys first; on the side, tags of long texts as soon as keys are there. Zeros
    //    in place make keystream.
    let secret = &mut scratch.secret;
    let keys = secret.poly_keys.as_mut_ptr();
    let ahead = secret.ahead.as_mut_ptr().cast::<u8>();
    let text = |jobs: &[OpenJob<'_>], slot| jobs[order.index(first, slot)].text();
    let side = aside::<K>(order, |slot| text(jobs, slot).len);
    if side < order.len {
        // SAFETY: ciphertexts are private and stay.
        unsafe {
            secret
                .side
                .begin(side, order.len, false, keys, |slot| text(jobs, slot))
        };
    }
    let beside = if side < order.len {
        Some(&mut secret.side)
    } else {
        None
    };
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, beside);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    // SAFETY: lines take whole blocks.
    unsafe {
        for slot in 0..order.len {
            let job = &jobs[order.index(first, slot)];
            let key = keys.wrapping_add(slot).cast();
            let stream = stream(job.key, job.salt, job.counter, slot);
            pipeline.one(stream, 0, Span::FULL, (&raw const ZEROS).cast(), key);
        }
        let mut to = ahead;
        for slot in 0..order.len {
            let job = &jobs[order.index(first, slot)];
            let stream = stream(job.key, job.salt, job.counter, slot);
            pipeline.run(stream, 1, lanes(job), to, to);
            to = to.wrapping_add(64 * lanes(job));
        }
        pipeline.finish();
    }
    // 2. Verdicts.
    let mut verdicts = [State::Failed; MOST];
    // SAFETY: texts and tags lie in the jobs' buffers.
    unsafe {
        if side < order.len {
            secret.side.drain();
            for slot in side..order.len {
                verdicts[slot] = verdict(text(jobs, slot), secret.side.tags[slot]);
            }
        }
        tags::<K>(
            scratch,
            side,
            |slot| text(jobs, slot),
            |slot, tag| {
                verdicts[slot] = verdict(text(jobs, slot), tag);
            },
        );
    }
    // 3. Texts of packets that verified.
    let mut from = ahead.cast_const();
    for slot in 0..order.len {
        let job = &mut jobs[order.index(first, slot)];
        job.state = verdicts[slot];
        if job.ok() {
            // SAFETY: the job borrows its buffer mutably; the lanes above filled this keystream.
            let (text, keystream) = unsafe {
                (
                    slice::from_raw_parts_mut(job.text.as_ptr(), job.len as usize),
                    slice::from_raw_parts(from, job.len as usize),
                )
            };
            for (byte, key) in text.iter_mut().zip(keystream) {
                *byte ^= key;
            }
        }
        from = from.wrapping_add(64 * lanes(job));
    }
    wipe_lines(&mut scratch.secret.ahead[..total]);
    true
}

/// Compares a tag with the one behind a text.
///
/// # Safety
/// A tag is readable behind the text.
#[inline(always)]
unsafe fn verdict(text: Text, tag: [u64; 2]) -> State {
    // SAFETY: the caller's contract.
    let there = unsafe {
        text.start
            .add(text.len as usize)
            .cast::<[u64; 2]>()
            .read_unaligned()
    };
    // No early end: all bits meet in one word, and only that is looked at.
    let difference = (there[0] ^ tag[0].to_le()) | (there[1] ^ tag[1].to_le());
    if difference == 0 {
        State::Verified
    } else {
        State::Failed
    }
}

/// Decrypts ranges of verified texts.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
pub(crate) unsafe fn decrypt<K: Vector>(scratch: &mut Scratch, jobs: &mut [DecryptJob<'_>]) {
    let secret = &mut scratch.secret;
    let compute = K::lanes::<true, false>(&mut secret.keystream, &mut secret.sums, None);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    for job in jobs.iter() {
        let stream = stream(job.key, job.salt, job.counter, 0);
        let mut at = job.range.start;
        for destination in job.destinations {
            let mut to = destination.start.as_ptr();
            let end = at + destination.len as u32;
            // SAFETY: the range lies in the text; destinations take their lengths.
            unsafe {
                while at < end {
                    let (block, skip) = (at / 64, at % 64);
                    let whole = if skip == 0 { (end - at) / 64 } else { 0 };
                    let source = job
                        .text
                        .as_ptr()
                        .wrapping_add(64 * block as usize)
                        .cast_const();
                    if whole > 0 {
                        pipeline.run(stream, block + 1, whole as usize, source, to);
                        at += 64 * whole;
                        to = to.wrapping_add(64 * whole as usize);
                    } else {
                        // A part of a block; a block in two destinations is computed twice.
                        let stop = (end - 64 * block).min(64);
                        let span = Span::new(skip, stop, stop);
                        let start = to.wrapping_sub(skip as usize);
                        pipeline.one(stream, block + 1, span, source, start);
                        at += stop - skip;
                        to = to.wrapping_add((stop - skip) as usize);
                    }
                }
            }
        }
    }
    // SAFETY: as above.
    unsafe { pipeline.finish() };
    scratch.wipe(0);
}

const _: () = assert!(TAG_LEN == 16);
