//! Frames on their way out, wherever their bytes lie.
//!
//! In: a burst of frames in a guest's memory or in an interface's buffers, or in our own
//! (staged, relayed, our answers).
//! Out: their offload metadata, a private copy of their first bytes, and their
//! payload as segments to seal from or bytes to copy. Never: a decision on bytes
//! outside of the private copy.

use std::ops::Range;

use culvert_aead::{Segment, Segments};
use culvert_vhost::{PortDrop, RxBurst, TxBurst};
use culvert_wire::VnetHeader;

use crate::shared::limits::SOURCE_SEGMENTS;

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

    /// All bytes of frame `i` where they are private and in one piece.
    fn private(&self, i: usize) -> Option<&[u8]>;

    /// Copies the first `to.len()` bytes of frame `i`, of which those of the head are the head's; `false` if it has
    /// not so many.
    fn copy_whole(&self, i: usize, to: &mut [u8]) -> bool {
        let head = self.head(i);
        let known = head.len().min(to.len());
        to[..known].copy_from_slice(&head[..known]);
        known == to.len() || self.copy(i, known, &mut to[known..])
    }

    /// Delivers frame `i` to a guest, with `head` in place of its first `known` bytes.
    ///
    /// # Errors
    /// The reason, already counted by the ring.
    fn deliver(
        &self,
        i: usize,
        vnet: &VnetHeader,
        (head, known): (&[u8], usize),
        rx: &mut RxBurst<'_>,
    ) -> Result<(), PortDrop> {
        let whole = self.private(i).unwrap_or_default();
        rx.deliver(vnet, &[head, &whole[known.min(whole.len())..]])
    }
}

/// Frames of a burst in a guest's memory.
pub(crate) struct GuestFrames<'b, 'r> {
    burst: &'b TxBurst<'r>,
    count: usize,
}

impl<'b, 'r> GuestFrames<'b, 'r> {
    /// The first `count` of the burst's last fetch.
    pub(crate) fn new(burst: &'b TxBurst<'r>, count: usize) -> Self {
        Self { burst, count }
    }
}

#[allow(
    unsafe_code,
    reason = "a named room: ranges of guest memory, valid while the burst is held"
)]
impl Frames for GuestFrames<'_, '_> {
    fn count(&self) -> usize {
        self.count
    }

    fn vnet(&self, i: usize) -> &VnetHeader {
        &self.burst.frame(i).vnet
    }

    fn len(&self, i: usize) -> usize {
        self.burst.frame(i).len as usize
    }

    fn head(&self, i: usize) -> &[u8] {
        self.burst.frame(i).head()
    }

    fn segments<'a, 'r>(
        &'a self,
        i: usize,
        range: Range<usize>,
        room: &'r Segments<'a, SEGMENT_ROOM>,
    ) -> Option<&'r [Segment<'a>]> {
        let offset = u32::try_from(range.start).ok()?;
        let len = u32::try_from(range.len()).ok()?;
        // One more than is allowed shows that there are too many.
        let ranges = self.burst.ranges(i, offset, len);
        let ranges = ranges.take(SOURCE_SEGMENTS + 1);
        // SAFETY: the ranges are valid for reads while `self.burst` is borrowed, which
        // is for `'a`; they are guest memory, and every destination is private.
        let kept =
            room.keep(ranges.map(|(start, len)| unsafe { Segment::from_raw(start, len) }))?;
        (kept.len() <= SOURCE_SEGMENTS).then_some(kept)
    }

    fn copy(&self, i: usize, offset: usize, to: &mut [u8]) -> bool {
        let Ok(offset) = u32::try_from(offset) else {
            return false;
        };
        self.burst.copy(i, offset, to) == to.len()
    }

    fn private(&self, _: usize) -> Option<&[u8]> {
        None
    }

    fn deliver(
        &self,
        i: usize,
        vnet: &VnetHeader,
        (head, known): (&[u8], usize),
        rx: &mut RxBurst<'_>,
    ) -> Result<(), PortDrop> {
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        let ranges = self.burst.ranges(i, known, u32::MAX);
        // SAFETY: the burst that vouches for the ranges is borrowed for the call; a
        // guest whose rings overlap harms its own memory only.
        unsafe { rx.deliver_ranges(vnet, head, ranges) }
    }
}

/// A whole frame in our own memory.
pub(crate) struct OwnFrame<'m> {
    pub(crate) vnet: VnetHeader,
    pub(crate) bytes: &'m [u8],
}

/// Whole frames in our own memory.
pub(crate) struct OwnFrames<'m>(pub(crate) &'m [OwnFrame<'m>]);

impl Frames for OwnFrames<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn vnet(&self, i: usize) -> &VnetHeader {
        &self.0[i].vnet
    }

    fn len(&self, i: usize) -> usize {
        self.0[i].bytes.len()
    }

    fn head(&self, i: usize) -> &[u8] {
        let bytes = self.0[i].bytes;
        &bytes[..bytes.len().min(culvert_wire::parse::HEAD_LEN)]
    }

    fn segments<'a, 'r>(
        &'a self,
        i: usize,
        range: Range<usize>,
        room: &'r Segments<'a, SEGMENT_ROOM>,
    ) -> Option<&'r [Segment<'a>]> {
        room.keep([Segment::from(self.0[i].bytes.get(range)?)])
    }

    fn copy(&self, i: usize, offset: usize, to: &mut [u8]) -> bool {
        match self.0[i].bytes.get(offset..offset + to.len()) {
            Some(from) => {
                to.copy_from_slice(from);
                true
            }
            None => false,
        }
    }

    fn private(&self, i: usize) -> Option<&[u8]> {
        Some(self.0[i].bytes)
    }
}
