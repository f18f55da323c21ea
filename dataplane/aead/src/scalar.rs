//! Poly1305 (RFC 8439, section 2.5) for one packet, in 64-bit words.
//!
//! **In**: a one-time key and a private text. **Out**: its tag.
//! **Never**: a write to the text, a read outside it.
//!
//! Where there are only a few blocks, this is done before a vector kernel has its powers of `r`.
//!
//! Constant time: 64-bit multiplications, additions and shifts, and a choice by mask at the end;
//! branches depend on the length only.

#![allow(unsafe_code, reason = "a named room: reads texts of jobs")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

use crate::batch::{Line, Text};

/// The state between blocks: `h`, not fully reduced, and the clamped `r`.
#[derive(Clone, Copy)]
pub(crate) struct Poly {
    h: [u64; 3],
    r: [u64; 2],
    /// `r[1]` times 5/4: what it makes above 2^130 comes back so; its low two bits are clear.
    s: u64,
}

impl Poly {
    #[inline(always)]
    pub(crate) fn new(key: &Line) -> Self {
        let r = [
            key.0[0] & 0x0fff_fffc_0fff_ffff,
            key.0[1] & 0x0fff_fffc_0fff_fffc,
        ];
        Self {
            h: [0; 3],
            r,
            s: r[1] + (r[1] >> 2),
        }
    }

    /// Adds a whole block and multiplies by `r`.
    #[inline(always)]
    pub(crate) fn block(&mut self, low: u64, high: u64) {
        let [h0, h1, h2] = self.h;
        let (h0, carry) = h0.overflowing_add(low);
        let (h1, carry1) = h1.overflowing_add(high);
        let (h1, carry2) = h1.overflowing_add(u64::from(carry));
        let h2 = h2 + 1 + u64::from(carry1 | carry2);

        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let d0 = wide(h0, self.r[0]) + wide(h1, self.s);
        let d1 = wide(h0, self.r[1]) + wide(h1, self.r[0]) + u128::from(h2 * self.s) + (d0 >> 64);
        let d2 = h2 * self.r[0] + (d1 >> 64) as u64;

        let c = (d2 >> 2) + (d2 & !3);
        let (h0, carry) = (d0 as u64).overflowing_add(c);
        let (h1, carry) = (d1 as u64).overflowing_add(u64::from(carry));
        self.h = [h0, h1, (d2 & 3) + u64::from(carry)];
    }

    /// The whole blocks of `text[from..]`, as many as `count`.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub(crate) unsafe fn blocks(&mut self, text: *const u8, count: usize) {
        for i in 0..count {
            // SAFETY: the caller's contract.
            let [low, high] = unsafe { text.add(16 * i).cast::<[u64; 2]>().read_unaligned() };
            self.block(u64::from_le(low), u64::from_le(high));
        }
    }

    /// The rest of a text of `len` bytes from `text` on, its lengths, and the tag.
    ///
    /// # Safety
    /// `len % 16` bytes are readable at `text`.
    #[inline(always)]
    pub(crate) unsafe fn finish(mut self, text: *const u8, len: u32, key: &Line) -> [u64; 2] {
        let rest = len as usize % 16;
        if rest > 0 {
            let mut last = [0u8; 16];
            // SAFETY: the caller's contract.
            unsafe { text.copy_to_nonoverlapping(last.as_mut_ptr(), rest) };
            let last = u128::from_le_bytes(last);
            self.block(last as u64, (last >> 64) as u64);
        }
        self.block(0, u64::from(len));
        // h - p = h + 5 - 2^130, where that isn't negative. h is below 2p here.
        let [h0, h1, h2] = self.h;
        let h = u128::from(h1) << 64 | u128::from(h0);
        let (g, carry) = h.overflowing_add(5);
        let above = (h2 + u64::from(carry)) >> 2;
        let mask = u128::from(above.wrapping_neg()) << 64 | u128::from(above.wrapping_neg());
        let h = (g & mask) | (h & !mask);
        let s = u128::from(key.0[3]) << 64 | u128::from(key.0[2]);
        let tag = h.wrapping_add(s);
        [tag as u64, (tag >> 64) as u64]
    }
}

/// The tag of one text.
///
/// # Safety
/// The text is readable and private.
#[inline(always)]
pub(crate) unsafe fn authenticate(key: &Line, text: Text) -> [u64; 2] {
    let mut poly = Poly::new(key);
    let whole = text.len as usize / 16;
    // SAFETY: the caller's contract.
    unsafe {
        poly.blocks(text.start, whole);
        poly.finish(text.start.add(16 * whole), text.len, key)
    }
}

/// The tags of several texts of about one length, their blocks interleaved: a multiplication's
/// latency is the other texts' time.
///
/// # Safety
/// Texts are readable and private.
#[inline(always)]
pub(crate) unsafe fn together<const N: usize>(keys: &[Line], texts: &[Text; N]) -> [[u64; 2]; N] {
    let mut polys: [Poly; N] = [Poly::new(&keys[0]); N];
    let mut common = u32::MAX;
    for i in 0..N {
        polys[i] = Poly::new(&keys[i]);
        common = common.min(texts[i].len / 16);
    }
    let common = common as usize;
    for block in 0..common {
        for i in 0..N {
            // SAFETY: the caller's contract; every text has this block.
            unsafe { polys[i].blocks(texts[i].start.add(16 * block), 1) };
        }
    }
    let mut tags = [[0; 2]; N];
    for i in 0..N {
        let whole = texts[i].len as usize / 16;
        // SAFETY: as above.
        unsafe {
            polys[i].blocks(texts[i].start.add(16 * common), whole - common);
            tags[i] = polys[i].finish(texts[i].start.add(16 * whole), texts[i].len, &keys[i]);
        }
    }
    tags
}

/// Poly1305 on the side: two packets' blocks for a kernel to mix into its ChaCha20 rounds, where the
/// integer units would idle under the vector units' work.
pub(crate) struct Side {
    texts: [Text; 64],
    pub(crate) tags: [[u64; 2]; 64],
    keys: *const Line,
    count: usize,
    next: usize,
    /// Sealing: the text grows while we follow. Opening: it has been there all the time.
    grows: bool,
    /// Slots whose one-time key is computed.
    keyed: usize,
    /// Sealing: slots before `reached.0` are complete, that one is so up to `reached.1` bytes.
    reached: (usize, u32),
    pub(crate) streams: [Stream; 2],
}

/// A packet on its way through Poly1305.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    slot: usize,
    pub(crate) poly: Poly,
    /// Bytes done.
    at: u32,
}

const IDLE: usize = usize::MAX;

/// What a group's rounds shall do on the side.
#[derive(Clone, Copy)]
pub(crate) enum Share {
    Nothing,
    /// Four blocks of one stream in each of so many double rounds.
    One(usize, u32),
    /// Two blocks of one stream: it may lag, until another one goes beside it.
    Half(usize, u32),
    /// Two blocks of each stream.
    Both(u32),
}

/// What is done on the side of each double round, in four parts, or of each step.
pub(crate) trait Beside {
    /// # Safety
    /// The blocks to do are readable.
    unsafe fn part(&mut self, round: u32, part: usize);
}

/// Nothing is done on the side.
impl Beside for () {
    #[inline(always)]
    unsafe fn part(&mut self, _round: u32, _part: usize) {}
}

/// A stream on its way, in registers as far as those suffice.
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) poly: Poly,
    pub(crate) at: *const u8,
}

impl Walk {
    #[inline(always)]
    unsafe fn step(&mut self) {
        // SAFETY: the caller's contract.
        unsafe { self.poly.blocks(self.at, 1) };
        self.at = self.at.wrapping_add(16);
    }
}

/// `BLOCKS` (2 to 4) of one stream in each of so many double rounds.
pub(crate) struct Single<const BLOCKS: usize> {
    pub(crate) walk: Walk,
    pub(crate) rounds: u32,
}

impl<const BLOCKS: usize> Beside for Single<BLOCKS> {
    #[inline(always)]
    unsafe fn part(&mut self, round: u32, part: usize) {
        // Two are set apart, three or four follow each other.
        let turn = if BLOCKS == 2 {
            part.is_multiple_of(2)
        } else {
            part < BLOCKS
        };
        if turn && round < self.rounds {
            // SAFETY: the caller's contract.
            unsafe { self.walk.step() };
        }
    }
}

/// Two blocks of two streams each.
pub(crate) struct Double {
    pub(crate) a: Walk,
    pub(crate) b: Walk,
    pub(crate) rounds: u32,
}

impl Beside for Double {
    #[inline(always)]
    unsafe fn part(&mut self, round: u32, part: usize) {
        if round < self.rounds {
            let walk = if part.is_multiple_of(2) {
                &mut self.a
            } else {
                &mut self.b
            };
            // SAFETY: the caller's contract.
            unsafe { walk.step() };
        }
    }
}

impl Side {
    pub(crate) const fn new() -> Self {
        const IDLE_STREAM: Stream = Stream {
            slot: IDLE,
            poly: Poly {
                h: [0; 3],
                r: [0; 2],
                s: 0,
            },
            at: 0,
        };
        Self {
            texts: [Text {
                start: core::ptr::null(),
                len: 0,
            }; 64],
            tags: [[0; 2]; 64],
            keys: core::ptr::null(),
            count: 0,
            next: 0,
            grows: false,
            keyed: 0,
            reached: (0, 0),
            streams: [IDLE_STREAM; 2],
        }
    }

    /// Begins with the slots from `first` on.
    ///
    /// # Safety
    /// `keys` and texts stay readable and private until `drain` has returned.
    #[inline(always)]
    pub(crate) unsafe fn begin(
        &mut self,
        first: usize,
        count: usize,
        grows: bool,
        keys: *const Line,
        text: impl Fn(usize) -> Text,
    ) {
        for slot in first..count {
            self.texts[slot] = text(slot);
        }
        (self.next, self.count, self.grows, self.keys) = (first, count, grows, keys);
        (self.keyed, self.reached) = (0, (0, 0));
    }

    /// Notes that all keys were computed before.
    #[inline(always)]
    pub(crate) fn keys_are_there(&mut self) {
        self.keyed = self.count;
    }

    /// Notes what a group has computed.
    #[inline(always)]
    pub(crate) fn computed(&mut self, slot: u32, block: u32) {
        let slot = slot as usize;
        self.reached = (slot, 64 * block);
        self.keyed = if self.grows || block == 0 {
            slot + 1
        } else {
            self.count
        };
    }

    #[inline(always)]
    fn key(&self, slot: usize) -> &Line {
        // SAFETY: slots have keys (`begin`).
        unsafe { &*self.keys.add(slot) }
    }

    /// Whole blocks that a stream could take now.
    #[inline(always)]
    fn available(&self, stream: &Stream) -> u32 {
        if stream.slot == IDLE {
            return 0;
        }
        let len = self.texts[stream.slot].len;
        let there = match self.grows {
            true if stream.slot > self.reached.0 => 0,
            true if stream.slot == self.reached.0 => len.min(self.reached.1),
            _ => len,
        };
        there / 16 - stream.at / 16
    }

    /// Ends streams that are through, begins others, and says what there is to do.
    #[inline(always)]
    pub(crate) fn share(&mut self) -> Share {
        for i in 0..2 {
            loop {
                let mut stream = self.streams[i];
                if stream.slot == IDLE {
                    if self.next >= self.count || self.next >= self.keyed {
                        break;
                    }
                    let poly = Poly::new(self.key(self.next));
                    stream = Stream {
                        slot: self.next,
                        poly,
                        at: 0,
                    };
                    self.streams[i] = stream;
                    self.next += 1;
                }
                let (text, key) = (self.texts[stream.slot], self.key(stream.slot));
                let complete = !self.grows
                    || stream.slot < self.reached.0
                    || (stream.slot == self.reached.0 && self.reached.1 >= text.len);
                let left = text.len / 16 - stream.at / 16;
                if !complete || left >= 4 {
                    break;
                }
                // SAFETY: the text is complete and readable.
                unsafe {
                    stream
                        .poly
                        .blocks(text.start.add(stream.at as usize), left as usize);
                    let rest = text.start.add((text.len & !15) as usize);
                    self.tags[stream.slot] = stream.poly.finish(rest, text.len, key);
                }
                self.streams[i].slot = IDLE;
            }
        }
        let (a, b) = (
            self.available(&self.streams[0]),
            self.available(&self.streams[1]),
        );
        // One stream alone waits for its own multiplications: better two at half the pace.
        let more = self.next < self.count;
        if a >= 2 && b >= 2 {
            Share::Both((a / 2).min(b / 2).min(10))
        } else if more && a >= 2 {
            Share::Half(0, (a / 2).min(10))
        } else if more && b >= 2 {
            Share::Half(1, (b / 2).min(10))
        } else if a >= 4 {
            Share::One(0, (a / 4).min(10))
        } else if b >= 4 {
            Share::One(1, (b / 4).min(10))
        } else {
            Share::Nothing
        }
    }

    /// Where a stream goes on.
    #[inline(always)]
    pub(crate) fn walk(&self, stream: usize) -> Walk {
        let Stream { slot, poly, at } = self.streams[stream];
        let at = self.texts[slot & 63].start.wrapping_add(at as usize);
        Walk { poly, at }
    }

    /// Notes that a stream went on.
    #[inline(always)]
    pub(crate) fn went(&mut self, stream: usize, walk: Walk, blocks: u32) {
        self.streams[stream].poly = walk.poly;
        self.streams[stream].at += 16 * blocks;
    }

    /// Ends what is left, when everything is computed.
    ///
    /// # Safety
    /// As [`Side::begin`].
    #[inline(always)]
    pub(crate) unsafe fn drain(&mut self) {
        (self.grows, self.keyed) = (false, self.count);
        loop {
            let share = self.share();
            let [mut a, mut b] = [self.walk(0), self.walk(1)];
            // SAFETY: those blocks are there.
            unsafe {
                match share {
                    Share::Nothing => break,
                    Share::One(i, rounds) => {
                        let mut walk = self.walk(i);
                        walk.poly.blocks(walk.at, 4 * rounds as usize);
                        self.went(i, walk, 4 * rounds);
                    }
                    Share::Half(i, rounds) => {
                        let mut walk = self.walk(i);
                        walk.poly.blocks(walk.at, 2 * rounds as usize);
                        self.went(i, walk, 2 * rounds);
                    }
                    Share::Both(rounds) => {
                        for _ in 0..2 * rounds {
                            a.step();
                            b.step();
                        }
                        self.went(0, a, 2 * rounds);
                        self.went(1, b, 2 * rounds);
                    }
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_wiped(&self) -> bool {
        let idle = |stream: &Stream| stream.poly.h == [0; 3] && stream.poly.r == [0; 2];
        self.streams.iter().all(idle)
    }

    /// Forgets keys and states.
    pub(crate) fn wipe(&mut self) {
        for stream in &mut self.streams {
            // SAFETY: a stream is writable. Volatile, or the compiler would leave it out.
            unsafe {
                let poly = Poly {
                    h: [0; 3],
                    r: [0; 2],
                    s: 0,
                };
                core::ptr::write_volatile(
                    stream,
                    Stream {
                        slot: IDLE,
                        poly,
                        at: 0,
                    },
                );
            }
        }
    }
}
