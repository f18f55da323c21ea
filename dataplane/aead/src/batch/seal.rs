//! Sealing a burst: lanes of all packets, then tags.
//!
//! **In**: jobs, in place or from segments. **Out**: ciphertext and tags, sums of payloads.
//! **Never**: a second read of a segment's byte.

#![allow(unsafe_code, reason = "a named room: pointers of jobs become lanes")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

use core::{ptr, slice};

use super::alone::Alone;
use super::{MOST, Order, Scratch, Text, Vector, ZEROS, aside, in_place, stream, tags::tags};
use crate::job::SealJob;
use crate::lanes::{Compute, Pipeline, Span, Stream, prefetch};
use crate::{PayloadSum, raw, sum};

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
        let order = Order::new::<K, _>(jobs, first, K::SEAL, |job| (!job.done).then_some(job.len));
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
            // What comes next arrives while tags are computed.
            for (slot, job) in jobs[order.next..].iter().take(HEADS_AHEAD).enumerate() {
                fetch(job, if slot == 0 { ROW } else { 1 });
            }
            seal_tags::<K>(scratch, jobs, first, &order, untagged);
        }
        first = order.next;
    }
    scratch.wipe(slots);
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
    let side = aside::<K>(0..order.len, |slot| text(jobs, slot).len);
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
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, beside, false);
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
    let compute = K::lanes::<false, true>(&mut secret.keystream, &mut secret.sums, None, false);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    for slot in 0..order.len {
        // What is read at once for a head has some packets' time to arrive.
        if slot + HEADS_AHEAD < order.len {
            fetch(&jobs[order.index(first, slot + HEADS_AHEAD)], 1);
        }
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
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, None, false);
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

/// Packets whose first bytes are fetched before they are read.
const HEADS_AHEAD: usize = 4;
/// Lines that the first of them begins with: those of a row.
const ROW: usize = 16;

/// Has some lines of a job's source brought near.
#[inline(always)]
fn fetch(job: &SealJob<'_>, lines: usize) {
    if let [segment, ..] = job.source {
        for line in 0..lines {
            prefetch(segment.start.as_ptr().wrapping_add(64 * line));
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

/// Tags behind the ciphertexts, and sums of both if they are wanted.
#[inline(always)]
unsafe fn seal_tags<K: Vector>(
    scratch: &Scratch,
    jobs: &mut [SealJob<'_>],
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
    let (keys, wanted) = (&scratch.secret.poly_keys, scratch.sums_sealed);
    let mut sums = [None; MOST];
    // SAFETY: ciphertexts are private; a job's buffer has room for its tag.
    unsafe {
        tags::<K>(keys, order, 0..slots, wanted, text, |slot, tag, sum| {
            let job = &jobs[order.index(first, slot)];
            put_tag(job, tag);
            sums[slot] = sum.map(|sum| PayloadSum::from_words(sum::fold(sum, false)));
        });
    }
    if wanted {
        for slot in 0..slots {
            jobs[order.index(first, slot)].sealed_sum = sums[slot];
        }
    }
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
