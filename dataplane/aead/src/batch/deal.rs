//! Which lanes of a vector authenticate which texts.
//!
//! **In**: lengths, in their order. **Out**: the texts that go next, and their lanes.
//! **Never**: a look at a text.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths were checked to fit by jobs' constructors"
)]

use super::Vector;

/// Which lane works on which text. A byte per lane, the first one's lowest.
#[derive(Clone, Copy)]
pub(crate) struct Deal {
    /// The text.
    pub(crate) texts: u64,
    /// It has `1 << doublings` streams, not more than the text before.
    pub(crate) doublings: u64,
    /// Which of them the lane is.
    pub(crate) streams: u64,
    lanes: u32,
    next: u64,
}

impl Deal {
    pub(crate) const fn new() -> Self {
        Self {
            texts: 0,
            doublings: 0,
            streams: 0,
            lanes: 0,
            next: 0,
        }
    }

    /// As many streams for each text; a power of two.
    #[inline(always)]
    pub(crate) fn even(streams: usize) -> Self {
        let mut deal = Self::new();
        while deal.lanes < 8 {
            deal.add(streams.ilog2());
        }
        deal
    }

    /// The next text.
    #[inline(always)]
    pub(crate) const fn add(&mut self, doublings: u32) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const IOTA: u64 = 0x0706_0504_0302_0100;
        let lanes = u64::MAX >> (64 - (8 << doublings));
        let at = 8 * self.lanes;
        self.texts |= (self.next * (ONES & lanes)) << at;
        self.doublings |= (doublings as u64 * (ONES & lanes)) << at;
        self.streams |= (IOTA & lanes) << at;
        self.lanes += 1 << doublings;
        self.next += 1;
    }

    #[inline(always)]
    pub(crate) const fn is_full(&self) -> bool {
        self.lanes >= 8
    }

    /// How many streams each text has, if all have as many.
    pub(crate) fn evenly(self) -> Option<usize> {
        match self.doublings {
            0 => Some(1),
            0x0101_0101_0101_0101 => Some(2),
            0x0202_0202_0202_0202 => Some(4),
            0x0303_0303_0303_0303 => Some(8),
            _ => None,
        }
    }

    /// How many steps of four blocks per stream the first text takes, which has so many blocks.
    #[inline(always)]
    pub(crate) const fn steps(self, blocks: u32) -> u32 {
        let steps = blocks.div_ceil(4 << (self.doublings & 0xff));
        if steps == 0 { 1 } else { steps }
    }

    /// The text that a lane works on.
    #[inline(always)]
    pub(crate) const fn text(self, lane: usize) -> usize {
        (self.texts >> (8 * lane)) as usize & 7
    }
}

/// The longest of some texts, and the lanes they take.
pub(super) struct Share {
    pub(super) count: usize,
    pub(super) deal: Deal,
    /// Their blocks in all.
    pub(super) blocks: usize,
}

/// Blocks of an order's entry, for which Poly1305 takes at least as long as for one.
#[inline(always)]
fn blocks(entry: u32) -> usize {
    ((entry >> 6).div_ceil(16) as usize).max(1)
}

/// Of entries that are ordered by length, those that go next.
#[inline(always)]
pub(super) fn share<K: Vector>(entries: &[u32]) -> Share {
    let [shorter @ .., longest] = entries else {
        return Share {
            count: 0,
            deal: Deal::even(1),
            blocks: 0,
        };
    };
    // 1. The longest, and those not shorter than its half. Few take as many lanes each as they have
    //    steps for.
    let most = blocks(*longest);
    let enough = if most <= 16 { 0 } else { most.div_ceil(2) };
    let mut share = Share {
        count: 1,
        deal: Deal::even(1),
        blocks: most,
    };
    let mut next = shorter.iter().rev().map(|&entry| blocks(entry)).peekable();
    while let Some(blocks) = next.next_if(|&blocks| blocks >= enough && share.count < K::TEXTS) {
        share.count += 1;
        share.blocks += blocks;
    }
    if 2 * share.count > K::TEXTS && (share.count == K::TEXTS || !K::MIXES) || most < 8 {
        return share;
    }
    let mut doublings = 0;
    while share.count << (doublings + 1) <= K::TEXTS && most >= 8 << doublings {
        doublings += 1;
    }
    if !K::MIXES {
        share.deal = Deal::even(1 << doublings);
        return share;
    }
    // 2. Fewer, if shorter ones fill the rest for most of the steps.
    let steps = |doublings: u32| most.div_ceil(4 << doublings);
    for fewer in (1..doublings).rev() {
        let all = share.count + K::TEXTS - (share.count << fewer);
        let last = entries.len().checked_sub(all).map(|at| blocks(entries[at]));
        let fits = next
            .peek()
            .is_some_and(|&blocks| blocks <= 4 * steps(fewer));
        if fits && last.is_some_and(|blocks| 3 * blocks >= 8 * steps(fewer)) {
            doublings = fewer;
            break;
        }
    }
    // 3. Lanes that are left over take a shorter one each that is done in the same steps.
    share.deal = Deal::new();
    for _ in 0..share.count {
        share.deal.add(doublings);
    }
    while !share.deal.is_full() {
        if let Some(blocks) = next.next_if(|&blocks| blocks <= 4 * steps(doublings)) {
            share.count += 1;
            share.blocks += blocks;
        }
        share.deal.add(0);
    }
    share
}
