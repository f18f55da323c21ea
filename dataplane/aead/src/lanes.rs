//! Lanes: a burst flattened into ChaCha20 blocks, grouped as a kernel computes them side by side.
//!
//! **In**: runs of blocks of one packet, in any order of packets.
//! **Out**: full groups handed to the kernel, one group late, and a partial one at the end; where the
//! kernel wants them, rows: groups of one packet's consecutive whole blocks, which need no plan.
//! **Never**: a look at text or keys; it moves pointers and lengths only.
//!
//! Group N+1 is planned before group N is computed. So what planning stores has left the store
//! buffer when the kernel loads it as vectors, and the prefetch of a lane's source has a whole
//! group's time to arrive.
//!
//! ```text
//!  packet of 1420 bytes   | 16 whole blocks ......... | 6 whole | 12 |
//!                           a row                       lanes, with those of other packets
//! ```

#![allow(unsafe_code, reason = "a named room: pointers of lanes")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

use core::ptr;

use crate::KeyBytes;

/// A group's arrays hold twice its lanes, so that a run is written as whole vectors from any lane.
pub(crate) const MOST: usize = 32;

/// Bytes of a lane to compute: it reads source bytes `skip..take`, takes zeros for `take..len`, and
/// stores `skip..len`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Span(u32);

impl Span {
    pub(crate) const FULL: Self = Self::new(0, 64, 64);

    #[inline(always)]
    pub(crate) const fn new(skip: u32, take: u32, len: u32) -> Self {
        Self(skip | take << 8 | len << 16)
    }

    #[inline(always)]
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub(crate) const fn skip(self) -> u32 {
        self.0 & 0xff
    }

    #[inline(always)]
    pub(crate) const fn take(self) -> u32 {
        self.0 >> 8 & 0xff
    }

    #[inline(always)]
    pub(crate) const fn len(self) -> u32 {
        self.0 >> 16
    }
}

/// The blocks that a kernel computes side by side, as a structure of arrays.
#[repr(C, align(64))]
pub(crate) struct Group {
    pub(crate) block: [u32; MOST],
    pub(crate) salt: [u32; MOST],
    pub(crate) counter_low: [u32; MOST],
    pub(crate) counter_high: [u32; MOST],
    pub(crate) span: [Span; MOST],
    /// Which of the sub-batch's sums the lane's text adds to.
    pub(crate) slot: [u32; MOST],
    pub(crate) key: [*const KeyBytes; MOST],
    pub(crate) source: [*const u8; MOST],
    pub(crate) destination: [*mut u8; MOST],
    pub(crate) used: usize,
    /// Whether all its lanes have one key.
    pub(crate) one_key: bool,
}

impl Group {
    pub(crate) const fn new() -> Self {
        Self {
            block: [0; MOST],
            salt: [0; MOST],
            counter_low: [0; MOST],
            counter_high: [0; MOST],
            span: [Span(0); MOST],
            slot: [0; MOST],
            key: [ptr::null(); MOST],
            source: [ptr::null(); MOST],
            destination: [ptr::null_mut(); MOST],
            used: 0,
            one_key: true,
        }
    }
}

impl Group {
    /// Notes whether the lanes from `at` on share the key of those before.
    #[inline(always)]
    fn joins(&mut self, at: usize, key: *const KeyBytes) {
        self.one_key = at == 0 || (self.one_key && self.key[0] == key);
    }
}

/// What computes a group: loads every lane's source, adds the keystream, stores.
pub(crate) trait Compute {
    /// Lanes of a group.
    const LANES: usize;

    /// Writes lanes of whole blocks from lane `at` on, as many as a group has.
    ///
    /// # Safety
    /// The processor has the kernel's features; `at` is below `LANES`.
    unsafe fn fill(
        group: &mut Group,
        at: usize,
        stream: Stream,
        block: u32,
        source: *const u8,
        destination: *mut u8,
    );

    /// Computes the group's used lanes.
    ///
    /// # Safety
    /// The processor has the kernel's features. Used lanes' pointers are good for their spans;
    /// unless `exact`, destinations may be overwritten up to 64 bytes from the lane's start.
    unsafe fn compute(&mut self, group: &Group);

    /// Computes a full group and the last one, which may have fewer lanes.
    ///
    /// # Safety
    /// As `compute`, of both.
    #[inline(always)]
    unsafe fn compute_both(&mut self, group: &Group, last: &Group) {
        // SAFETY: the caller's contract.
        unsafe {
            self.compute(group);
            self.compute(last);
        }
    }

    /// Whether groups of one packet's consecutive whole blocks come as rows.
    const ROWS: bool = false;

    /// Computes a row, and meanwhile has lines from `next` on brought near.
    ///
    /// # Safety
    /// As `compute`, of `LANES` whole blocks from the row's start.
    unsafe fn compute_row(&mut self, row: &Row, next: *const u8) {
        let _ = (row, next);
    }

    /// Computes a row and the last group's used lanes.
    ///
    /// # Safety
    /// As `compute_row` and `compute`.
    unsafe fn compute_last_row(&mut self, row: &Row, last: &Group) {
        let _ = (row, last);
    }
}

/// As many whole blocks of one packet as a group has lanes, one behind the other.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) stream: Stream,
    pub(crate) block: u32,
    pub(crate) source: *const u8,
    pub(crate) destination: *mut u8,
}

/// Packet and nonce that a run of lanes belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) key: *const KeyBytes,
    /// The first word of the nonce.
    pub(crate) salt: u32,
    pub(crate) counter: u64,
    pub(crate) slot: u32,
}

/// Fills groups and has them computed one group late.
pub(crate) struct Pipeline<'g, C: Compute> {
    current: &'g mut Group,
    other: &'g mut Group,
    used: usize,
    waiting: bool,
    /// A row, computed one row late.
    row: Option<Row>,
    pub(crate) compute: C,
}

impl<'g, C: Compute> Pipeline<'g, C> {
    #[inline(always)]
    pub(crate) fn new(groups: &'g mut [Group; 2], compute: C) -> Self {
        let [current, other] = groups;
        Self {
            current,
            other,
            used: 0,
            waiting: false,
            row: None,
            compute,
        }
    }

    /// A run of whole blocks from `block` on.
    ///
    /// # Safety
    /// As [`Compute::compute`] for every lane, until `finish` has returned.
    #[inline(always)]
    pub(crate) unsafe fn run(
        &mut self,
        stream: Stream,
        mut block: u32,
        mut count: usize,
        mut source: *const u8,
        mut destination: *mut u8,
    ) {
        if C::ROWS && count >= C::LANES {
            let first = Row {
                stream,
                block,
                source,
                destination,
            };
            // SAFETY: the caller's contract.
            unsafe { rows(&mut self.compute, &mut self.row, first, count / C::LANES) };
            let done = count - count % C::LANES;
            block = block.wrapping_add(done as u32);
            source = source.wrapping_add(64 * done);
            destination = destination.wrapping_add(64 * done);
            count -= done;
        }
        while count > 0 {
            let (group, at) = (&mut *self.current, self.used);
            let fits = count.min(C::LANES - at);
            if fits == 1 {
                // SAFETY: the caller's contract.
                unsafe { self.one(stream, block, Span::FULL, source, destination) };
                block = block.wrapping_add(1);
                source = source.wrapping_add(64);
                destination = destination.wrapping_add(64);
                count -= 1;
                continue;
            }
            group.joins(at, stream.key);
            // SAFETY: `at` is a lane; arrays are twice as long.
            unsafe { C::fill(group, at, stream, block, source, destination) };
            for i in 0..fits {
                prefetch(source.wrapping_add(64 * i));
            }
            block = block.wrapping_add(fits as u32);
            source = source.wrapping_add(64 * fits);
            destination = destination.wrapping_add(64 * fits);
            count -= fits;
            // SAFETY: the caller's contract.
            unsafe { self.took(fits) };
        }
    }

    /// One block, or a part of it.
    ///
    /// # Safety
    /// As [`Pipeline::run`].
    #[inline(always)]
    pub(crate) unsafe fn one(
        &mut self,
        stream: Stream,
        block: u32,
        span: Span,
        source: *const u8,
        destination: *mut u8,
    ) {
        let (group, at) = (&mut *self.current, self.used & (MOST - 1));
        group.joins(at, stream.key);
        group.block[at] = block;
        group.salt[at] = stream.salt;
        group.counter_low[at] = stream.counter as u32;
        group.counter_high[at] = (stream.counter >> 32) as u32;
        group.span[at] = span;
        group.slot[at] = stream.slot;
        group.key[at] = stream.key;
        group.source[at] = source;
        group.destination[at] = destination;
        prefetch(source);
        // SAFETY: the caller's contract.
        unsafe { self.took(1) };
    }

    /// A packet's first two blocks: its key's, which goes to a line, and the first one of its text.
    ///
    /// # Safety
    /// As [`Pipeline::run`].
    #[inline(always)]
    pub(crate) unsafe fn two(
        &mut self,
        stream: Stream,
        zeros: *const u8,
        line: *mut u8,
        source: *const u8,
        destination: *mut u8,
    ) {
        if self.used + 2 > C::LANES {
            // SAFETY: the caller's contract.
            unsafe {
                self.one(stream, 0, Span::FULL, zeros, line);
                self.one(stream, 1, Span::FULL, source, destination);
            }
            return;
        }
        let (group, at) = (&mut *self.current, self.used);
        group.joins(at, stream.key);
        let twice = |word: u32| u64::from(word) << 32 | u64::from(word);
        // SAFETY: two lanes from `at` on are in the arrays.
        unsafe {
            let put = |array: *mut u32, words: u64| {
                array.add(at).cast::<u64>().write_unaligned(words);
            };
            put(group.block.as_mut_ptr(), 1 << 32);
            put(group.salt.as_mut_ptr(), twice(stream.salt));
            put(group.counter_low.as_mut_ptr(), twice(stream.counter as u32));
            put(
                group.counter_high.as_mut_ptr(),
                twice((stream.counter >> 32) as u32),
            );
            put(group.span.as_mut_ptr().cast(), twice(Span::FULL.bits()));
            put(group.slot.as_mut_ptr(), twice(stream.slot));
            *group.key.as_mut_ptr().add(at).cast() = [stream.key; 2];
            *group.source.as_mut_ptr().add(at).cast() = [zeros, source];
            *group.destination.as_mut_ptr().add(at).cast() = [line, destination];
        }
        prefetch(source);
        // SAFETY: the caller's contract.
        unsafe { self.took(2) };
    }

    #[inline(always)]
    unsafe fn took(&mut self, lanes: usize) {
        self.used += lanes;
        if self.used == C::LANES {
            // SAFETY: the caller's contract.
            unsafe { self.turn() };
        }
    }

    /// Closes the current group and computes the one before it.
    #[inline(always)]
    unsafe fn turn(&mut self) {
        self.current.used = self.used;
        core::mem::swap(&mut self.current, &mut self.other);
        self.used = 0;
        if self.waiting {
            // SAFETY: the caller's contract; this group was closed by the turn before.
            unsafe { self.compute.compute(self.current) };
        }
        self.waiting = true;
    }

    /// Computes what is left.
    ///
    /// # Safety
    /// As [`Pipeline::run`].
    #[inline(always)]
    pub(crate) unsafe fn finish(mut self) {
        self.current.used = self.used;
        // SAFETY: the caller's contract; the last turn closed the other group.
        unsafe {
            if let Some(row) = self.row {
                if !self.waiting && self.used > 0 {
                    return self.compute.compute_last_row(&row, self.current);
                }
                self.compute.compute_row(&row, row.source);
            }
            match (self.waiting, self.used > 0) {
                (true, true) => self.compute.compute_both(self.other, self.current),
                (true, false) => self.compute.compute(self.other),
                (false, true) => self.compute.compute(self.current),
                (false, false) => (),
            }
        }
    }
}

/// The rows that a run begins with, each computed one row late: `late` is the one before.
///
/// Not a method, nor inlined: a pipeline whose address went anywhere would live in memory.
///
/// # Safety
/// As [`Pipeline::run`].
#[inline(never)]
unsafe fn rows<C: Compute>(compute: &mut C, late: &mut Option<Row>, mut row: Row, count: usize) {
    for _ in 0..count {
        match late.replace(row) {
            // All at once these lines would wait for each other.
            // SAFETY: the caller's contract.
            Some(before) => unsafe { compute.compute_row(&before, row.source) },
            None => {
                for i in 0..C::LANES {
                    prefetch(row.source.wrapping_add(64 * i));
                }
            }
        }
        row.block = row.block.wrapping_add(C::LANES as u32);
        row.source = row.source.wrapping_add(64 * C::LANES);
        row.destination = row.destination.wrapping_add(64 * C::LANES);
    }
}

/// Has a line brought near.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
