//! Opening a burst: keys, tags, and the texts of packets whose tag was right.
//!
//! **In**: jobs of sealed packets. **Out**: verdicts, plaintext in place or at its destinations.
//! **Never**: a byte written of a packet that does not verify.

#![allow(unsafe_code, reason = "a named room: pointers of jobs become lanes")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

use core::ops::Range;
use core::slice;

use super::alone::Alone;
use super::{
    AHEAD, ALL, Keys, MOST, Order, Scratch, Text, Vector, ZEROS, aside, combine_and_wipe, in_place,
    stream, tags::tags, wipe_lines,
};
use crate::KeyBytes;
use crate::job::{DecryptJob, OpenJob, Sealed, State};
use crate::lanes::{Pipeline, Span};

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

/// Computes the one-time keys of all slots.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
unsafe fn one_time_keys<K: Vector, J: Open>(
    scratch: &mut Scratch,
    jobs: &[J],
    first: usize,
    order: &Order,
) {
    let secret = &mut scratch.secret;
    let keys = secret.poly_keys.as_mut_ptr();
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, None, false);
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
}

/// Says of some slots' jobs, whose one-time keys are there, whether their tags are right.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
unsafe fn judge<K: Vector, J: Open>(
    keys: &Keys,
    jobs: &mut [J],
    first: usize,
    order: &Order,
    slots: Range<usize>,
) {
    let mut verdicts = [State::Failed; MOST];
    // SAFETY: texts and tags lie in the jobs' buffers.
    unsafe {
        let text = |slot| jobs[order.index(first, slot)].text();
        tags::<K>(keys, order, slots.clone(), false, text, |slot, tag, _| {
            verdicts[slot] = verdict(text(slot), tag);
        });
    }
    for slot in slots {
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
        let order = Order::new::<K, _>(jobs, first, ALL, |job| job.waits().then_some(job.len));
        slots = slots.max(order.len);
        // SAFETY: pointers of jobs are good for their lengths.
        unsafe {
            one_time_keys::<K, _>(scratch, jobs, first, &order);
            let keys = &scratch.secret.poly_keys;
            judge::<K, _>(keys, jobs, first, &order, 0..order.len);
        }
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
        let order = Order::new::<K, _>(jobs, first, ALL, |job| job.waits().then_some(job.len));
        slots = slots.max(order.len);
        // SAFETY: pointers of jobs are good for their lengths.
        unsafe {
            let all = 0..order.len;
            if order.blocks() <= AHEAD && K::ahead(&order) {
                open_ahead::<K>(scratch, jobs, first, &order, all.clone(), all);
            } else if K::SIDE == u32::MAX {
                one_time_keys::<K, _>(scratch, jobs, first, &order);
                open_in_portions::<K>(scratch, jobs, first, &order, all);
            } else {
                open_beside::<K>(scratch, jobs, first, &order);
            }
        }
        first = order.next;
    }
    scratch.wipe(slots);
}

/// Blocks of a job's text.
#[inline(always)]
fn lanes(job: &OpenJob<'_>) -> usize {
    job.len.div_ceil(64) as usize
}

/// Tags of as many texts as stay in the first-level cache, then those texts, and so on; lanes of
/// different portions share groups. One-time keys are there.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
unsafe fn open_in_portions<K: Vector>(
    scratch: &mut Scratch,
    jobs: &mut [OpenJob<'_>],
    first: usize,
    order: &Order,
    mut slots: Range<usize>,
) {
    // SAFETY: pointers of jobs are good for their lengths.
    unsafe {
        let secret = &mut scratch.secret;
        let compute = K::lanes::<true, false>(&mut secret.keystream, &mut secret.sums, None, false);
        let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
        while !slots.is_empty() {
            let portion = order.portion(slots.clone(), K::OPEN);
            slots.start = portion.end;
            judge::<K, _>(&secret.poly_keys, jobs, first, order, portion.clone());
            for slot in portion {
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
        }
        pipeline.finish();
    }
}

/// Portions with Poly1305 on the side of their keystream, if that fits into the scratch. All
/// one-time keys are computed with the first one.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
unsafe fn open_beside<K: Vector>(
    scratch: &mut Scratch,
    jobs: &mut [OpenJob<'_>],
    first: usize,
    order: &Order,
) {
    let (mut keys, mut slots) = (0..order.len, 0..order.len);
    while !slots.is_empty() {
        let portion = order.portion(slots.clone(), K::OPEN);
        slots.start = portion.end;
        let blocks = portion
            .clone()
            .map(|slot| lanes(&jobs[order.index(first, slot)]));
        let fits = blocks.sum::<usize>() <= AHEAD;
        // SAFETY: pointers of jobs are good for their lengths.
        unsafe {
            if fits {
                open_ahead::<K>(scratch, jobs, first, order, portion, keys);
            } else {
                if !keys.is_empty() {
                    one_time_keys::<K, _>(scratch, jobs, first, order);
                }
                open_in_portions::<K>(scratch, jobs, first, order, portion);
            }
        }
        keys = 0..0;
    }
}

/// Opens slots whose keystream fits into the scratch: no round waits for a verdict, and Poly1305
/// can go on the side. `keys` are those that are still to be computed.
///
/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
unsafe fn open_ahead<K: Vector>(
    scratch: &mut Scratch,
    jobs: &mut [OpenJob<'_>],
    first: usize,
    order: &Order,
    slots: Range<usize>,
    keys: Range<usize>,
) {
    // 1. All lanes, keys first; on the side, tags of long texts as soon as keys are there. Zeros
    //    in place make keystream.
    let secret = &mut scratch.secret;
    let lines = secret.poly_keys.as_mut_ptr();
    let ahead = secret.ahead.as_mut_ptr().cast::<u8>();
    let text = |jobs: &[OpenJob<'_>], slot| jobs[order.index(first, slot)].text();
    let side = aside::<K>(slots.clone(), |slot| text(jobs, slot).len);
    let beside = if side < slots.end {
        // SAFETY: ciphertexts are private and stay.
        unsafe {
            secret
                .side
                .begin(side, slots.end, false, lines, |slot| text(jobs, slot));
        }
        if keys.is_empty() {
            secret.side.keys_are_there();
        }
        Some(&mut secret.side)
    } else {
        None
    };
    // What goes on the side shall not wait for its key, nor what comes behind these slots.
    let keys_first = beside.is_some() || keys != slots;
    let compute = K::lanes::<false, false>(&mut secret.keystream, &mut secret.sums, beside, true);
    let mut pipeline = Pipeline::new(&mut scratch.groups, compute);
    // SAFETY: lines take whole blocks.
    unsafe {
        let key = |slot: usize| lines.wrapping_add(slot).cast();
        let zeros = (&raw const ZEROS).cast();
        if keys_first {
            for slot in keys {
                let job = &jobs[order.index(first, slot)];
                let stream = stream(job.key, job.salt, job.counter, slot);
                pipeline.one(stream, 0, Span::FULL, zeros, key(slot));
            }
        }
        let mut to = ahead;
        for slot in slots.clone() {
            let job = &jobs[order.index(first, slot)];
            let stream = stream(job.key, job.salt, job.counter, slot);
            let (mut block, mut count) = (1, lanes(job));
            if !keys_first {
                if count == 0 {
                    pipeline.one(stream, 0, Span::FULL, zeros, key(slot));
                } else {
                    pipeline.two(stream, zeros, key(slot), to, to);
                    to = to.wrapping_add(64);
                    (block, count) = (2, count - 1);
                }
            }
            if count > 0 {
                pipeline.run(stream, block, count, to, to);
                to = to.wrapping_add(64 * count);
            }
        }
        pipeline.finish();
    }
    // 2. Verdicts.
    // SAFETY: texts and tags lie in the jobs' buffers.
    unsafe {
        if side < slots.end {
            secret.side.drain();
            for slot in side..slots.end {
                let job = &mut jobs[order.index(first, slot)];
                job.state = verdict(job.text(), secret.side.tags[slot]);
            }
        }
        judge::<K, _>(&secret.poly_keys, jobs, first, order, slots.start..side);
    }
    // 3. Texts of packets that verified.
    let mut from = 0;
    for slot in slots {
        let job = &jobs[order.index(first, slot)];
        let to = from + lanes(job);
        let keystream = &mut scratch.secret.ahead[from..to];
        if job.ok() {
            // SAFETY: the job borrows its buffer mutably.
            let text = unsafe { slice::from_raw_parts_mut(job.text.as_ptr(), job.len as usize) };
            combine_and_wipe(text, keystream);
        } else {
            wipe_lines(keystream);
        }
        from = to;
    }
}

/// Compares a tag with the one behind a text.
///
/// # Safety
/// A tag is readable behind the text.
#[inline(always)]
pub(super) unsafe fn verdict(text: Text, tag: [u64; 2]) -> State {
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
    let compute = K::lanes::<true, false>(&mut secret.keystream, &mut secret.sums, None, false);
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
