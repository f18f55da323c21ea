//! Frames on their way out, wherever their bytes lie.
//!
//! In: a burst of frames in a guest's memory, or frames that were staged in ours.
//! Out: their offload metadata, a private copy of their first bytes, and their
//! payload as segments to seal from or bytes to copy. Never: a decision on bytes
//! outside of the private copy.

use std::ops::Range;

use culvert_aead::{Segment, Segments};
use culvert_wire::VnetHeader;

/// Room for the source segments of one sub-batch.
pub(crate) const SEGMENT_ROOM: usize = 256;

/// A burst of frames.
pub(crate) trait Frames {
    /// How many there are.
    fn count(&self) -> usize;

    /// The offload metadata of frame `i`.
    fn vnet(&self, i: usize) -> &VnetHeader;

    /// The length of frame `i`, from its Ethernet header on.
    fn len(&self, i: usize) -> usize;

    /// The private copy of the first bytes of frame `i` (up to 256).
    fn head(&self, i: usize) -> &[u8];

    /// Keeps bytes `range` of frame `i` as source segments in `room`; `None` when
    /// they lie too scattered or the room is used up.
    fn segments<'a, 'r>(
        &'a self,
        i: usize,
        range: Range<usize>,
        room: &'r Segments<'a, SEGMENT_ROOM>,
    ) -> Option<&'r [Segment<'a>]>;

    /// Copies `to.len()` bytes of frame `i` from `offset` on; `false` if it has not
    /// so many.
    fn copy(&self, i: usize, offset: usize, to: &mut [u8]) -> bool;
}

/// One whole frame in our own memory.
pub(crate) struct OwnFrame<'m> {
    pub(crate) vnet: VnetHeader,
    pub(crate) bytes: &'m [u8],
}

impl Frames for OwnFrame<'_> {
    fn count(&self) -> usize {
        1
    }

    fn vnet(&self, _: usize) -> &VnetHeader {
        &self.vnet
    }

    fn len(&self, _: usize) -> usize {
        self.bytes.len()
    }

    fn head(&self, _: usize) -> &[u8] {
        &self.bytes[..self.bytes.len().min(culvert_wire::parse::HEAD_LEN)]
    }

    fn segments<'a, 'r>(
        &'a self,
        _: usize,
        range: Range<usize>,
        room: &'r Segments<'a, SEGMENT_ROOM>,
    ) -> Option<&'r [Segment<'a>]> {
        room.keep([Segment::from(self.bytes.get(range)?)])
    }

    fn copy(&self, _: usize, offset: usize, to: &mut [u8]) -> bool {
        match self.bytes.get(offset..offset + to.len()) {
            Some(from) => {
                to.copy_from_slice(from);
                true
            }
            None => false,
        }
    }
}
