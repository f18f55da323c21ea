//! A packet that is the whole burst: no order, no lanes, only its blocks.
//!
//! **In**: one short packet, in place. **Out**: its ciphertext and tag, or its plaintext.
//! **Never**: a byte written beyond the text, or of a packet that does not verify.
//!
//! The key's block is computed together with the first ones of the text. Where a kernel's registers
//! take fewer blocks than there are, Poly1305 of the earlier ones goes beside the later ones' rounds.

#![allow(unsafe_code, reason = "a named room: pointers of jobs become lanes")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "lengths were checked to fit by jobs' constructors; slots and lanes have numbers"
)]

use core::ops::Range;
use core::slice;

use super::open::verdict;
use super::{AHEAD, Blocks, Deal, Line, Scratch, Text, Vector, combine, wipe_lines};
use crate::job::State;
use crate::lanes::Stream;
use crate::scalar::{self, Poly};

/// A short packet that is the whole burst: neither order nor lanes, only its blocks.
pub(super) struct Alone {
    pub(super) stream: Stream,
    pub(super) text: *mut u8,
    pub(super) len: u32,
}

impl Alone {
    /// The key's block and the text's.
    #[inline(always)]
    fn lanes(&self) -> usize {
        1 + self.len.div_ceil(64) as usize
    }

    #[inline(always)]
    pub(super) fn fits<K: Vector>(&self) -> bool {
        self.lanes() <= K::ALONE
    }

    /// Encrypts in place; returns the tag.
    ///
    /// # Safety
    /// The processor has the kernel's features. The text is private, it and 16 bytes behind it are
    /// readable, and it `fits`.
    #[inline(always)]
    pub(super) unsafe fn seal<K: Vector>(self, scratch: &mut Scratch) -> [u64; 2] {
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
    pub(super) unsafe fn open<K: Vector>(self, scratch: &mut Scratch) -> State {
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
        combine(text, &ahead[lanes]);
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
            let deal = Deal::even(streams);
            let [tag, ..] = K::tags([key; 8], &[self.text(); 8], deal, None, false).tags;
            tag
        }
    }
}
