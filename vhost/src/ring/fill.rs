//! Writing into the guest's buffers.
//!
//! In: the segments of a frame's chains, checked for the burst; the frame's pieces. Out: header and frame in guest
//! memory, logged where that is wanted. Never: a byte behind a segment.

use culvert_wire::VnetHeader;

use crate::memory::{DirtyLog, raw};

use super::Segment;
use super::frame::HEADER_LEN;

/// The header's 12 bytes as two words.
#[inline]
pub(super) fn words_of(header: &VnetHeader, num_buffers: u16) -> (u64, u32) {
    let low = u64::from(header.flags)
        | u64::from(header.gso_type) << 8
        | u64::from(header.hdr_len) << 16
        | u64::from(header.gso_size) << 32
        | u64::from(header.csum_start) << 48;
    let high = u32::from(header.csum_offset) | u32::from(num_buffers) << 16;
    (low, high)
}

/// Writes into the segments of a frame's chains, one after the other.
pub(super) struct Writer<'a> {
    pub(super) segments: &'a [Segment],
    /// Bytes of the first segment that are written.
    pub(super) offset: u32,
    pub(super) log: Option<&'a DirtyLog>,
}

impl Writer<'_> {
    /// Writes the virtio-net header, unless the guest's buffer already holds the same bytes:
    /// a write would take the line away from the guest's core for nothing.
    #[inline]
    pub(super) fn write_header(&mut self, vnet: &VnetHeader, num_buffers: u16) {
        match self.segments {
            [segment, ..] if segment.length > HEADER_LEN => {
                let (low, high) = words_of(vnet, num_buffers);
                // SAFETY: the segment holds that many bytes, checked for this burst.
                unsafe {
                    if raw::header_words(segment.address.as_ptr()) != (low, high) {
                        raw::store_header_words(segment.address.as_ptr(), low, high);
                        if let Some(log) = self.log {
                            log.mark(segment.guest, u64::from(HEADER_LEN));
                        }
                    }
                }
                self.offset = HEADER_LEN;
            }
            _ => {
                let header = VnetHeader {
                    num_buffers,
                    ..*vnet
                };
                let header = header.write();
                // SAFETY: the header's bytes are ours.
                unsafe { self.write(header.as_ptr(), header.len()) };
            }
        }
    }

    /// Writes `length` bytes from `source`. The caller has gathered room for all that is written; what has none is
    /// left out.
    ///
    /// # Safety
    /// `source` is valid for reads of `length` bytes, and they don't overlap the segments unless the guest itself
    /// arranged that.
    #[inline]
    pub(super) unsafe fn write(&mut self, mut source: *const u8, mut length: usize) {
        while length > 0 {
            let Some(segment) = self.segments.first() else {
                return;
            };
            let room = (segment.length - self.offset) as usize;
            let now = room.min(length);
            // SAFETY: `offset + now` is at most the segment's length, checked for this burst;
            // `source` has `length` bytes left, as the caller vouches.
            unsafe {
                let target = segment.address.add(self.offset as usize);
                raw::copy(source, target.as_ptr(), now);
                source = source.add(now);
            }
            if let Some(log) = self.log {
                log.mark(segment.guest + u64::from(self.offset), now as u64);
            }
            length -= now;
            if now == room {
                self.segments = &self.segments[1..];
                self.offset = 0;
            } else {
                #[allow(clippy::cast_possible_truncation, reason = "less than a segment")]
                {
                    self.offset += now as u32;
                }
            }
        }
    }
}
