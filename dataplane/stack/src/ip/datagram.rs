//! Datagram: what has come of one packet.
//!
//! In: its fragments, in any order. Out: the packet, once all are there. Never: an overlap (RFC 5722; RFC 8200, section
//! 4.5): whoever sends one gets nothing of the packet through, neither of what came nor of what comes.

use culvert_wire::{Checksum, ether};

use super::fragment::{Fragment, room};
use crate::{HostDrop, limits};

/// What a datagram costs beside its pieces: its part of the tables' nodes, of which half may be empty.
pub(super) const DATAGRAM_COST: usize = 512;
/// What a piece costs beside its bytes: the allocator's and its place in a list that grows to twice its size.
pub(super) const PIECE_COST: usize = 64;

/// Congestion bits of a traffic class (RFC 3168, section 5).
const CONGESTION: u8 = 3;

struct Piece {
    start: u32,
    bytes: Box<[u8]>,
}

impl Piece {
    fn end(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a packet's bytes")]
        let len = self.bytes.len() as u32;
        self.start + len
    }
}

/// What stands ahead of the packet's bytes, as it came with the first.
struct Head {
    bytes: Box<[u8]>,
    next: Option<(usize, u8)>,
}

/// A packet of which not all has come.
#[derive(Default)]
pub(super) struct Datagram {
    /// In their order, with gaps, none over another.
    pieces: Vec<Piece>,
    /// Bytes in them.
    held: u32,
    /// Where the last one ends, when that came.
    total: Option<u32>,
    head: Option<Head>,
    /// Which congestion bits were seen, a bit for each of the four values.
    congestion: u8,
    /// Nothing comes of it any more.
    is_refused: bool,
    /// What its head and pieces cost.
    cost: usize,
}

/// What a fragment did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Others are missing.
    Waiting,
    /// It was the last that was missing.
    Complete,
}

impl Datagram {
    /// What it costs.
    pub(super) const fn cost(&self) -> usize {
        DATAGRAM_COST + self.cost
    }

    /// Whether nothing comes of it any more.
    pub(super) const fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Takes a fragment.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>) -> Result<Added, HostDrop> {
        if self.is_refused {
            return Err(HostDrop::FragmentRefused);
        }
        let place = self.place(fragment).map_err(|reason| self.refuse(reason))?;
        let Some(place) = place else {
            return Err(HostDrop::FragmentDuplicate);
        };
        if self.pieces.len() == limits::FRAGMENTS_PER_DATAGRAM {
            return Err(self.refuse(HostDrop::FragmentsTooMany));
        }
        self.congestion |= 1 << fragment.ecn;
        if self.congestion & 1 != 0 && self.congestion != 1 {
            // Some can be marked, some can't (RFC 3168, section 5.3).
            return Err(self.refuse(HostDrop::FragmentContradicts));
        }
        self.insert(place, fragment);
        if self.total != Some(self.held) {
            return Ok(Added::Waiting);
        }
        // None lies over another, all lie ahead of the end, and they are as many bytes: there is no gap.
        let v6 = fragment.is_v6();
        let fits = |head: &Head| self.held as usize <= room(head.bytes.len(), v6);
        match self.head.as_ref().is_some_and(fits) {
            true => Ok(Added::Complete),
            false => Err(self.refuse(HostDrop::FragmentInvalid)),
        }
    }

    /// Where it belongs among the pieces; `None` if it is there.
    fn place(&self, fragment: &Fragment<'_>) -> Result<Option<usize>, HostDrop> {
        let (start, end) = (fragment.start, fragment.end());
        // 1. Between its neighbors.
        let place = self.pieces.partition_point(|piece| piece.start < start);
        let (before, behind) = self.pieces.split_at(place);
        if let Some(same) = behind.first().filter(|piece| piece.start == start) {
            let is_same =
                *same.bytes == *fragment.bytes && fragment.more == (self.total != Some(end));
            return match is_same {
                true => Ok(None),
                false => Err(HostDrop::FragmentOverlap),
            };
        }
        if before.last().is_some_and(|piece| piece.end() > start)
            || behind.first().is_some_and(|piece| piece.start < end)
        {
            return Err(HostDrop::FragmentOverlap);
        }
        // 2. Ahead of the end, or its end is the packet's.
        let is_behind_end = match (self.total, fragment.more) {
            (Some(total), _) => end > total || !fragment.more,
            (None, false) => !behind.is_empty(),
            (None, true) => false,
        };
        match is_behind_end {
            true => Err(HostDrop::FragmentContradicts),
            false => Ok(Some(place)),
        }
    }

    fn insert(&mut self, place: usize, fragment: &Fragment<'_>) {
        if fragment.start == 0 {
            self.head = Some(Head {
                bytes: fragment.head.into(),
                next: fragment.next,
            });
            self.cost += fragment.head.len() + PIECE_COST;
        }
        if !fragment.more {
            self.total = Some(fragment.end());
        }
        let piece = Piece {
            start: fragment.start,
            bytes: fragment.bytes.into(),
        };
        self.held += piece.end() - piece.start;
        self.cost += piece.bytes.len() + PIECE_COST;
        self.pieces.insert(place, piece);
    }

    /// Gives back what came; that it was refused stays until its time is over.
    fn refuse(&mut self, reason: HostDrop) -> HostDrop {
        *self = Self {
            is_refused: true,
            ..Self::default()
        };
        reason
    }

    /// The frame of the packet, which is complete.
    pub(super) fn frame(self) -> Option<Vec<u8>> {
        let head = self.head?;
        let mut frame = Vec::with_capacity(head.bytes.len() + self.held as usize);
        frame.extend_from_slice(&head.bytes);
        for piece in &self.pieces {
            frame.extend_from_slice(&piece.bytes);
        }
        let congested = self.congestion & (1 << CONGESTION) != 0;
        make_whole(&mut frame, head.bytes.len(), head.next, congested);
        Some(frame)
    }

    /// The frame of its first fragment as it came, if it did: what is quoted when time is over.
    pub(super) fn first(&self, id: u32) -> Option<Vec<u8>> {
        let head = self.head.as_ref()?;
        let piece = self.pieces.first()?;
        let mut frame = head.bytes.to_vec();
        if let Some((_, next)) = head.next {
            // The fragment header, which the head lacks; more follow, or it would be all there is.
            frame.extend([next, 0, 0, 1]);
            frame.extend(id.to_be_bytes());
        }
        frame.extend_from_slice(&piece.bytes);
        Some(frame)
    }
}

/// Makes the head of a frame, `len` bytes, that of a whole packet: no fragment's any more.
pub(super) fn make_whole(frame: &mut [u8], len: usize, next: Option<(usize, u8)>, congested: bool) {
    let total = frame.len() - ether::HEADER_LEN;
    let ip = &mut frame[ether::HEADER_LEN..len];
    match next {
        None => {
            #[expect(clippy::cast_possible_truncation, reason = "checked by `room`")]
            let total = total as u16;
            if congested {
                ip[1] |= CONGESTION;
            }
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[6..8].fill(0);
            ip[10..12].fill(0);
            let sum = Checksum::of(ip).complement();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some((link, next)) => {
            #[expect(clippy::cast_possible_truncation, reason = "checked by `room`")]
            let payload = (total - super::fragment::V6_HEADER) as u16;
            if congested {
                ip[1] |= CONGESTION << 4;
            }
            ip[4..6].copy_from_slice(&payload.to_be_bytes());
            frame[link] = next;
        }
    }
}
