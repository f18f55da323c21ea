//! From descriptors to checked segments: what both layouts share.
//!
//! In: private copies of descriptors. Out: segments of guest memory, a chain's summary.
//! Never: a descriptor read twice, an address that was not translated with its length.

use culvert_wire::VnetHeader;
use virtio_bindings::virtio_ring;

use crate::counters::PortDrop;
use crate::limits;
use crate::memory::{GuestMemory, raw};

use super::{RingFault, RingLayout, Segment};

/// The chain goes on.
pub(super) const NEXT: u16 = word(virtio_ring::VRING_DESC_F_NEXT);
/// The device writes.
pub(super) const WRITE: u16 = word(virtio_ring::VRING_DESC_F_WRITE);
/// The buffer is a table.
pub(super) const INDIRECT: u16 = word(virtio_ring::VRING_DESC_F_INDIRECT);

/// Flags as rings hold them; the bindings have them wider.
#[allow(clippy::cast_possible_truncation, reason = "flags of 16 bits")]
pub(super) const fn word(flags: u32) -> u16 {
    flags as u16
}

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;

/// The direction that a ring's buffers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The guest wrote, we read (guest TX).
    Readable,
    /// We write (guest RX).
    Writable,
}

/// One chain that was walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// The id by which it goes back.
    pub(crate) id: u16,
    /// Ring entries that it occupies (always 1 in a split ring's available ring).
    pub(crate) entries: u16,
    /// Index of its first segment in the burst.
    pub(crate) first: u32,
    /// Number of segments.
    pub(crate) count: u32,
    /// Sum of their lengths.
    pub(crate) bytes: u32,
    /// Why it can't be used, if so.
    pub(crate) bad: Option<PortDrop>,
}

impl Chain {
    /// Its segments among those of the burst.
    #[inline]
    pub(crate) fn segments(&self) -> std::ops::Range<usize> {
        self.first as usize..self.first as usize + self.count as usize
    }
}

/// A private copy of a descriptor's address, length and flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) flags: u16,
    /// `next` in a split ring, the buffer id in a packed one.
    pub(super) last: u16,
}

impl Descriptor {
    /// Reads a descriptor of the packed layout once: there, id and flags are the other way
    /// round.
    ///
    /// # Safety
    /// `pointer` is valid for reads of 16 bytes.
    #[inline]
    pub(super) unsafe fn read_packed(pointer: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let (address, rest) = unsafe { raw::words(pointer) };
        Self::of_packed(address, rest)
    }

    /// A descriptor of the packed layout, of its two words.
    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the fields are cut out of a word"
    )]
    pub(super) const fn of_packed(address: u64, rest: u64) -> Self {
        Self {
            address,
            length: rest as u32,
            flags: (rest >> 48) as u16,
            last: (rest >> 32) as u16,
        }
    }

    /// Reads a descriptor of the split layout once.
    ///
    /// # Safety
    /// `pointer` is valid for reads of 16 bytes.
    #[inline]
    pub(super) unsafe fn read(pointer: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let (address, rest) = unsafe { raw::words(pointer) };
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the fields are cut out of a word"
        )]
        Self {
            address,
            length: rest as u32,
            flags: (rest >> 32) as u16,
            last: (rest >> 48) as u16,
        }
    }
}

/// What a walk needs besides the ring.
pub(crate) struct Walk<'a> {
    pub(crate) memory: &'a GuestMemory,
    pub(crate) hint: &'a mut usize,
    pub(crate) segments: &'a mut Vec<Segment>,
    pub(crate) direction: Direction,
    pub(crate) indirect: bool,
    /// True if the header ahead of the frame is read or written.
    pub(crate) header: bool,
    /// Descriptors that were followed: all but those that are a chain of their own.
    pub(crate) followed: usize,
}

/// A chain while it is being walked.
pub(super) struct Builder {
    first: usize,
    bytes: u64,
    descriptors: usize,
    bad: Option<PortDrop>,
}

impl Builder {
    pub(super) fn new(walk: &Walk<'_>) -> Self {
        Self {
            first: walk.segments.len(),
            bytes: 0,
            descriptors: 0,
            bad: None,
        }
    }

    /// Counts a descriptor; a chain that is longer than `limit`, or than any is followed, is a
    /// loop or an attack.
    #[inline]
    pub(super) fn count(&mut self, limit: usize) -> Result<(), RingFault> {
        self.descriptors += 1;
        if self.descriptors > limit.min(limits::CHAIN_MAX) {
            Err(RingFault::ChainTooLong)
        } else {
            Ok(())
        }
    }

    /// Adds a descriptor's buffer.
    #[inline]
    pub(super) fn add(&mut self, walk: &mut Walk<'_>, descriptor: Descriptor) {
        if self.bad.is_some() {
            return;
        }
        if (descriptor.flags & WRITE != 0) != (walk.direction == Direction::Writable) {
            self.bad = Some(PortDrop::WrongDirection);
            return;
        }
        let mut address = descriptor.address;
        let mut left = descriptor.length;
        self.bytes += u64::from(left);
        // Most buffers lie in one region; one that crosses into an adjacent region is two
        // segments.
        while left > 0 {
            let Some((host, length)) = walk.memory.translate(address, left, walk.hint) else {
                self.bad = Some(PortDrop::BadAddress);
                return;
            };
            if walk.segments.len() >= limits::SEGMENTS_MAX {
                self.bad = Some(PortDrop::TooLong);
                return;
            }
            walk.segments.push(Segment {
                address: host,
                length,
                guest: address,
            });
            left -= length;
            let Some(next) = address.checked_add(u64::from(length)) else {
                if left > 0 {
                    self.bad = Some(PortDrop::BadAddress);
                }
                return;
            };
            address = next;
        }
    }

    /// The finished chain.
    #[inline]
    pub(super) fn finish(mut self, walk: &mut Walk<'_>, id: u16, entries: u16) -> Chain {
        let bytes = u32::try_from(self.bytes).unwrap_or_else(|_| {
            self.bad.get_or_insert(PortDrop::TooLong);
            u32::MAX
        });
        if self.bad.is_some() {
            walk.segments.truncate(self.first);
        }
        walk.followed += self.descriptors;
        let count = walk.segments.len() - self.first;
        #[allow(clippy::cast_possible_truncation, reason = "at most SEGMENTS_MAX")]
        Chain {
            id,
            entries,
            first: self.first as u32,
            count: count as u32,
            bytes,
            bad: self.bad,
        }
    }
}

/// Walks up to `max` chains ahead of the ring's position, prefetching as it goes. Returns how many
/// descriptors were followed, which is what the guest has us do for a chain; when that is much, the
/// walk ends early.
pub(super) fn walk_chains<L: RingLayout>(
    layout: &mut L,
    max: usize,
    mut walk: Walk<'_>,
    chains: &mut Vec<Chain>,
) -> Result<usize, RingFault> {
    let max = u16::try_from(max).unwrap_or(u16::MAX);
    let is_written = walk.direction == Direction::Writable;
    let ready = layout.available(max)?.min(max);
    if ready == 0 {
        return Ok(0);
    }
    layout.prefetch(ready, max);
    let wanted = if is_written { WRITE } else { 0 };
    for _ in 0..max {
        if walk.segments.len() + limits::CHAIN_MAX > limits::SEGMENTS_MAX {
            break;
        }
        let Some((descriptor, id)) = layout.peek()? else {
            break;
        };
        // The usual shape is a single buffer in a single region. It is kept apart from all
        // others because it is worth being kept in registers.
        let alone = descriptor.flags & (NEXT | INDIRECT | WRITE) == wanted;
        let first = walk.segments.len();
        if alone
            && descriptor.length > 0
            && let Some((host, length)) =
                walk.memory
                    .translate(descriptor.address, descriptor.length, walk.hint)
            && length == descriptor.length
        {
            prefetch_buffer(host.as_ptr(), length, is_written, walk.header);
            walk.segments.push(Segment {
                address: host,
                length,
                guest: descriptor.address,
            });
            #[allow(clippy::cast_possible_truncation, reason = "at most SEGMENTS_MAX")]
            chains.push(Chain {
                id,
                entries: 1,
                first: first as u32,
                count: 1,
                bytes: length,
                bad: None,
            });
            layout.step();
            continue;
        }
        let chain = layout.walk(descriptor, id, &mut walk)?;
        if let Some(segment) = walk.segments.get(first) {
            prefetch_buffer(
                segment.address.as_ptr(),
                segment.length,
                is_written,
                walk.header,
            );
        }
        chains.push(chain);
        if walk.followed + limits::CHAIN_MAX > limits::FOLLOWED_MAX {
            break;
        }
    }
    Ok(walk.followed)
}

/// Prefetches the lines of a buffer that hold the virtio-net header, if it is wanted, and the
/// frame's first bytes.
#[inline]
fn prefetch_buffer(address: *const u8, length: u32, is_written: bool, header: bool) {
    // Where drivers put the frame on a line of its own, the header's line is only read.
    let frame = address.wrapping_add(VnetHeader::LEN);
    raw::prefetch(if header { address } else { frame });
    if is_written {
        raw::prefetch_write(frame);
    } else if length > 64 {
        raw::prefetch(frame.wrapping_add(40));
    }
}

/// Checks an indirect table and returns its address and number of entries.
#[inline]
pub(super) fn indirect_table(
    walk: &mut Walk<'_>,
    descriptor: Descriptor,
) -> Result<(*const u8, usize), RingFault> {
    if !walk.indirect {
        return Err(RingFault::IndirectNotNegotiated);
    }
    let length = descriptor.length as usize;
    let entries = length / DESCRIPTOR;
    if !length.is_multiple_of(DESCRIPTOR) || entries == 0 || entries > limits::CHAIN_MAX {
        return Err(RingFault::IndirectLength);
    }
    match walk
        .memory
        .translate(descriptor.address, descriptor.length, walk.hint)
    {
        Some((table, room)) if room == descriptor.length => Ok((table.as_ptr(), entries)),
        Some(_) | None => Err(RingFault::IndirectAddress),
    }
}
