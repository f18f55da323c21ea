//! Fragments: an IPv4 packet in several (RFC 791, section 3.2).
//!
//! In: a packet that may be cut and is larger than the MTU; the sum of what its partial checksum covers. Out: a plan
//! of fragments, and their headers. Never: a packet with DF; a partial checksum left to whoever puts it together again.

use super::{Family, Plan, SEGMENTS_MAX, Segment, SegmentError, Work, check::check_partial};
use crate::checksum::Checksum;
use crate::ipv4;
use crate::parse::{Headers, L3};
use crate::vnet::VnetHeader;

/// More fragments follow.
const MORE: u16 = 0x2000;
/// The flags, and the offset in units of 8 bytes.
const FLAGS: u16 = 0xe000;
const OFFSET: u16 = 0x1fff;
const UNIT: usize = 8;

/// Whether a router may cut this packet.
#[must_use]
pub fn may_fragment(vnet: &VnetHeader, headers: &Headers) -> bool {
    matches!(headers.l3, L3::V4(ip) if !ip.dont_fragment) && vnet.is_plain()
}

impl Plan {
    /// Plans the fragments of a packet that [`may_fragment`] and exceeds the MTU.
    ///
    /// `sum` gives the sum of a part of the frame, which must be all that lies behind the head: it is asked for it if
    /// the packet's checksum is partial, since none of the fragments has all that the checksum covers.
    pub fn fragment(
        vnet: &VnetHeader,
        headers: &Headers,
        head: &[u8],
        mtu: usize,
        sum: impl FnOnce(std::ops::Range<usize>) -> Option<Checksum>,
    ) -> Result<Self, SegmentError> {
        let (l3_offset, l4_offset) = (headers.l3_offset, headers.l4_offset);
        let end = l3_offset + headers.ip_len;
        let header_len = l4_offset - l3_offset;
        let size = mtu.saturating_sub(header_len) / UNIT * UNIT;
        let count = (end - l4_offset).div_ceil(size.max(1));
        let bits = head.get(l3_offset + 6..l3_offset + 8);
        let Some(&[high, low]) = bits else {
            return Err(SegmentError::Malformed);
        };
        if size == 0 || count > SEGMENTS_MAX {
            return Err(SegmentError::TooMany);
        }
        let mut payload_offset = l4_offset;
        let mut checksum = None;
        if vnet.needs_csum() {
            let (start, field) = check_partial(vnet, headers, head)?;
            payload_offset = field + 2;
            let mut all = Checksum::of(&head[start..payload_offset]);
            all.append(sum(payload_offset..end).ok_or(SegmentError::Malformed)?);
            checksum = Some((field, all.complement_udp()));
        }
        // All that is written by us is in the first.
        if payload_offset > head.len().min(l4_offset + size) {
            return Err(SegmentError::ChecksumPlace);
        }
        Ok(Self {
            work: Work::Fragment {
                bits: u16::from_be_bytes([high, low]),
                checksum,
            },
            family: Family::Other,
            l3_offset,
            l4_offset,
            payload_offset,
            end,
            size,
            count,
            recut: true,
        })
    }

    /// The fragment `index`: each carries what of the packet lies behind the IP header, but of the first the part that
    /// is written with the header.
    #[cold]
    pub(super) fn fragment_at(&self, index: usize) -> Segment {
        let start = self
            .size
            .saturating_mul(index)
            .saturating_add(self.l4_offset)
            .min(self.end);
        let end = (start + self.size).min(self.end);
        Segment {
            payload: start.max(self.payload_offset)..end,
            len: self.l4_offset - self.l3_offset + (end - start),
        }
    }

    /// Writes what differs between fragments.
    #[cold]
    pub(super) fn patch_fragment(
        &self,
        index: usize,
        bits: u16,
        checksum: Option<(usize, u16)>,
        out: &mut [u8],
    ) -> Option<()> {
        if let (0, Some((field, sum))) = (index, checksum) {
            let field = field - self.l3_offset;
            out.get_mut(field..field + 2)?
                .copy_from_slice(&sum.to_be_bytes());
        }
        let header = out.get_mut(..self.l4_offset - self.l3_offset)?;
        let len = u16::try_from(self.segment(index).len).ok()?;
        let offset = u16::try_from(index * self.size / UNIT).ok()? + (bits & OFFSET);
        let more = if index + 1 < self.count { MORE } else { 0 };
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].copy_from_slice(&(bits & FLAGS | more | offset & OFFSET).to_be_bytes());
        if index > 0 {
            drop_options(header.get_mut(ipv4::HEADER_LEN..)?);
        }
        header[10..12].fill(0);
        let sum = Checksum::of(header).complement();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(())
    }
}

/// Options that only the first fragment has become none: the header keeps its length.
fn drop_options(mut options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    while let [kind, ..] = *options {
        let len = match (kind, options.get(1)) {
            (END, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&len)) if (2..=options.len()).contains(&usize::from(len)) => usize::from(len),
            _ => return,
        };
        let (option, rest) = std::mem::take(&mut options).split_at_mut(len);
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}
