//! One frame as it lies in a guest's buffers.
//!
//! In: the segments of a chain, checked for the burst. Out: a private copy of the frame's first bytes, and ranges of
//! guest memory for the rest. Never: a second read of what was copied.

use std::ptr::NonNull;

use culvert_wire::VnetHeader;
use culvert_wire::ether::{TAG_LEN, TAG_OFFSET};

use crate::counters::PortDrop;
use crate::limits;
use crate::memory::raw;

use super::Segment;

/// Bytes of the header ahead of each frame.
#[allow(clippy::cast_possible_truncation, reason = "it is 12")]
pub(super) const HEADER_LEN: u32 = VnetHeader::LEN as u32;

/// How far offsets move when a tag is taken off.
#[allow(clippy::cast_possible_truncation, reason = "it is 4")]
const TAG: u16 = TAG_LEN as u16;

/// One frame as the guest offered it.
#[derive(Clone, Debug)]
pub struct TxFrame {
    /// The guest's offload metadata, unchecked. All zeros if it negotiated no offload.
    pub vnet: VnetHeader,
    /// Bytes of the frame, without the virtio-net header.
    pub len: u32,
    head_len: u16,
    /// Bytes of the guest's behind the addresses that are no longer part of the frame.
    pub(super) left_out: u16,
    head: [u8; limits::HEAD_MAX],
    pub(super) first: usize,
    pub(super) count: usize,
    /// Chains of the burst up to and including this frame's.
    pub(super) chains: usize,
}

impl TxFrame {
    pub(super) const EMPTY: Self = Self {
        vnet: VnetHeader {
            flags: 0,
            gso_type: 0,
            hdr_len: 0,
            gso_size: 0,
            csum_start: 0,
            csum_offset: 0,
            num_buffers: 0,
        },
        len: 0,
        head_len: 0,
        left_out: 0,
        head: [0; limits::HEAD_MAX],
        first: 0,
        count: 0,
        chains: 0,
    };

    /// A private copy of the frame's first bytes: all of them, or [`limits::HEAD_MAX`].
    /// All decisions are made on this copy.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
    }

    /// Takes off the VLAN tag that the frame is known to have: what is behind it in the head moves up, and offsets
    /// beyond the head skip it. Of the guest's memory nothing changes.
    ///
    /// ```text
    ///  guest's memory | addresses | tag | type | payload ...
    ///  head           | addresses | type | payload ... |
    /// ```
    pub(super) fn untag(&mut self) {
        if self.left_out > 0 || usize::from(self.head_len) < TAG_OFFSET + TAG_LEN {
            return;
        }
        let behind = TAG_OFFSET + TAG_LEN..usize::from(self.head_len);
        self.head.copy_within(behind, TAG_OFFSET);
        self.head_len -= TAG;
        self.left_out = TAG;
        self.len -= u32::from(TAG);
        self.vnet = self.vnet.moved_back(TAG);
    }
}

/// Iterator over checked ranges of guest memory: `(address, length)`.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    pub(super) segments: &'a [Segment],
    pub(super) skip: u64,
    pub(super) left: u32,
}

impl Iterator for Ranges<'_> {
    type Item = (NonNull<u8>, usize);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let (segment, rest) = self.segments.split_first()?;
            self.segments = rest;
            if self.skip >= u64::from(segment.length) {
                self.skip -= u64::from(segment.length);
                continue;
            }
            // `skip` is less than a u32 here.
            let skip = usize::try_from(self.skip).ok()?;
            self.skip = 0;
            let length = (segment.length as usize - skip).min(self.left as usize);
            self.left -= u32::try_from(length).ok()?;
            // SAFETY: `skip` is less than the segment's length.
            return Some((unsafe { segment.address.add(skip) }, length));
        }
        None
    }
}

/// Reads the head of a chain into `frame`, and its header if that may hold `metadata`.
#[inline]
pub(super) fn read_frame(
    segments: &[Segment],
    bytes: u32,
    metadata: bool,
    frame: &mut TxFrame,
) -> Result<(), PortDrop> {
    let header_len = VnetHeader::LEN;
    let len = bytes.checked_sub(HEADER_LEN).ok_or(PortDrop::TooShort)?;
    if len < limits::FRAME_MIN {
        return Err(PortDrop::TooShort);
    }
    if len > limits::FRAME_MAX {
        return Err(PortDrop::TooLong);
    }
    let head_len = (len as usize).min(limits::HEAD_MAX);
    let first = segments[0];
    if first.length as usize >= header_len + head_len {
        // The usual shape: all that is wanted lies in the first buffer.
        // SAFETY: the segment holds that many bytes; the destination is private and large
        // enough.
        unsafe {
            frame.vnet = if metadata {
                let (low, high) = raw::header_words(first.address.as_ptr());
                header_of(low, high)
            } else {
                header_of(0, 0)
            };
            let head = first.address.as_ptr().add(header_len);
            raw::copy(head, frame.head.as_mut_ptr(), head_len);
        }
    } else {
        let mut header = [0u8; VnetHeader::LEN];
        if metadata {
            gather(segments, 0, &mut header);
        }
        gather(segments, header_len as u64, &mut frame.head[..head_len]);
        frame.vnet = VnetHeader::read(&header);
    }
    frame.len = len;
    #[allow(clippy::cast_possible_truncation, reason = "at most HEAD_MAX")]
    {
        frame.head_len = head_len as u16;
        frame.left_out = 0;
    }
    Ok(())
}

/// The header whose 12 bytes are these words.
#[inline]
#[allow(
    clippy::cast_possible_truncation,
    reason = "the fields are cut out of words"
)]
const fn header_of(low: u64, high: u32) -> VnetHeader {
    VnetHeader {
        flags: low as u8,
        gso_type: (low >> 8) as u8,
        hdr_len: (low >> 16) as u16,
        gso_size: (low >> 32) as u16,
        csum_start: (low >> 48) as u16,
        csum_offset: high as u16,
        num_buffers: (high >> 16) as u16,
    }
}

/// Copies bytes that may lie in any number of segments.
fn gather(segments: &[Segment], skip: u64, destination: &mut [u8]) {
    let left = u32::try_from(destination.len()).unwrap_or(u32::MAX);
    let mut done = 0;
    for (address, length) in (Ranges {
        segments,
        skip,
        left,
    }) {
        let target = &mut destination[done..done + length];
        // SAFETY: ranges are valid for reads in this burst; `target` is private and as long.
        unsafe { raw::copy(address.as_ptr(), target.as_mut_ptr(), length) };
        done += length;
    }
}
