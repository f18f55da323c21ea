//! Cutting super-frames into packets, and completing partial checksums.
//!
//! In: a guest's offload metadata, our own parse of the frame, its private head copy,
//! the MTU. Out: a [`Plan`]: how many packets, which bytes of the frame each carries,
//! and finished IP and layer 4 headers for each.
//! Never: the payload (its sum comes from whoever reads it), an allocation, trust in
//! the metadata: each field is checked against the parse.
//!
//! ```text
//!  frame   | Ethernet | IP | TCP | payload ........................................ |
//!          0      l3_offset     payload_offset                        l3_offset + ip_len
//!                     | IP'| TCP'| 0..size |              segment 0
//!                     | IP'| TCP'|         | size..2*size |  segment 1   ...
//! ```
//!
//! Rules: virtio 1.2, section 5.1.6.2; RFC 3168, section 6.1.2 for CWR. Where those
//! leave a choice, the packets are those that Linux cuts.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::bytes::{copy_header, put_be16};
use crate::checksum::{Checksum, Fields};
use crate::ipv6;
use crate::parse::{Headers, L3};
use crate::tcp::flags;
use crate::vnet::VnetHeader;

mod check;
mod fragment;

use check::{Checked, check_cut, check_partial};

pub use check::forwardable;
pub use fragment::may_fragment;

/// Packets that one frame may become: enough for 64 KiB at an MSS of 512, half of what
/// the least MTU of IPv6 leads to.
pub const SEGMENTS_MAX: usize = 128;

/// Why a frame can't leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentError {
    /// A packet would exceed the MTU; its sender is to be told this MTU.
    TooBig {
        /// The MTU that was asked for.
        mtu: usize,
    },
    /// More than [`SEGMENTS_MAX`] packets.
    TooMany,
    /// A kind of segmentation that doesn't exist or isn't done (UFO).
    UnknownKind,
    /// A kind that doesn't fit the frame's own protocols.
    WrongProtocol,
    /// A segment size of zero.
    ZeroSize,
    /// Segmentation without a partial checksum.
    NotPartial,
    /// A checksum that starts or lies elsewhere than the protocol has it, or past the
    /// packet's end, or beyond the copied head.
    ChecksumPlace,
    /// A header length past the packet's end.
    HeaderLength,
    /// A UDP length that is not the packet's.
    UdpLength,
    /// Flags that no segmented TCP packet has: SYN, RST, URG.
    TcpFlags,
    /// A fragment with offload metadata.
    Fragment,
    /// A layer 4 header that could not be parsed, with offload metadata.
    Malformed,
}

/// One packet of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The payload's place in the original frame, from the frame's first byte.
    pub payload: Range<usize>,
    /// Length of the whole IP packet.
    pub len: usize,
}

/// How a frame is cut.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    work: Work,
    family: Family,
    l3_offset: usize,
    l4_offset: usize,
    /// Where the headers that we write end and the payload begins.
    payload_offset: usize,
    /// Where the packet ends, padding excluded.
    end: usize,
    /// Payload bytes per segment, at least 1.
    size: usize,
    count: usize,
    recut: bool,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    /// Headers go out as they came.
    Copy,
    /// One checksum is completed, wherever it lies.
    Complete { start: usize, field: usize },
    /// TCP or UDP is cut; sums of all header bytes that no segment changes.
    Cut {
        l4: Cut,
        /// The IPv4 header without length, identification and checksum.
        ip_base: Fields,
        /// Pseudo-header without length, and layer 4 header without what changes.
        l4_base: Fields,
    },
    /// An IPv4 packet goes out in fragments.
    Fragment {
        /// The flags and offset of what is cut.
        bits: u16,
        /// Where the first has a checksum, and what completes it.
        checksum: Option<(usize, u16)>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    Tcp { sequence: u32, offset_flags: u16 },
    Udp,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4 { id: u16 },
    V6,
    Other,
}

impl Plan {
    /// Checks the metadata of a frame against its headers and plans its packets.
    ///
    /// `head` is the private copy that `headers` was parsed from; `mtu` bounds the IP
    /// packets.
    #[inline]
    pub fn new(
        vnet: &VnetHeader,
        headers: &Headers,
        head: &[u8],
        mtu: usize,
    ) -> Result<Self, SegmentError> {
        if vnet.is_plain() {
            return Self::plain(vnet, headers, head, mtu);
        }
        Self::cut(vnet, headers, head, mtu, false)
    }

    /// As [`Plan::new`], but TCP whose segments exceed the MTU is cut to fit it.
    ///
    /// For the time until the sender has heard of the MTU. Datagrams are never cut to
    /// another size: that would change what the receiver reads.
    pub fn recut(
        vnet: &VnetHeader,
        headers: &Headers,
        head: &[u8],
        mtu: usize,
    ) -> Result<Self, SegmentError> {
        if vnet.is_plain() {
            return Self::plain(vnet, headers, head, mtu);
        }
        Self::cut(vnet, headers, head, mtu, true)
    }

    fn plain(
        vnet: &VnetHeader,
        headers: &Headers,
        head: &[u8],
        mtu: usize,
    ) -> Result<Self, SegmentError> {
        if headers.ip_len > mtu {
            return Err(SegmentError::TooBig { mtu });
        }
        let end = headers.l3_offset + headers.ip_len;
        let mut payload_offset = headers.payload_offset;
        let mut work = Work::Copy;
        if vnet.needs_csum() {
            let (start, field) = check_partial(vnet, headers, head)?;
            payload_offset = payload_offset.max(field + 2);
            work = Work::Complete { start, field };
        }
        // The headers may be the whole of what was copied, never more.
        if payload_offset > head.len() {
            return Err(SegmentError::Malformed);
        }
        Ok(Self {
            work,
            family: Family::Other,
            l3_offset: headers.l3_offset,
            l4_offset: headers.l4_offset,
            payload_offset,
            end,
            size: (end - payload_offset).max(1),
            count: 1,
            recut: false,
        })
    }

    fn cut(
        vnet: &VnetHeader,
        headers: &Headers,
        head: &[u8],
        mtu: usize,
        recut: bool,
    ) -> Result<Self, SegmentError> {
        // 1. and 2.: the metadata against the parse.
        let Checked {
            family,
            l4,
            mut size,
        } = check_cut(vnet, headers, head)?;

        // 3. The size against the MTU, the count against the limit.
        let end = headers.l3_offset + headers.ip_len;
        let payload_len = end - headers.payload_offset;
        let header_len = headers.payload_offset - headers.l3_offset;
        if header_len + size.min(payload_len) > mtu {
            let room = mtu.saturating_sub(header_len);
            if !recut || room == 0 || matches!(l4, Cut::Udp) {
                return Err(SegmentError::TooBig { mtu });
            }
            size = room;
        }
        let count = payload_len.div_ceil(size).max(1);
        if count > SEGMENTS_MAX {
            return Err(SegmentError::TooMany);
        }

        // 4. What every segment's checksums have in common.
        let (ip_base, l4_base) = bases(headers, head, l4).ok_or(SegmentError::Malformed)?;
        Ok(Self {
            work: Work::Cut {
                l4,
                ip_base,
                l4_base,
            },
            family,
            l3_offset: headers.l3_offset,
            l4_offset: headers.l4_offset,
            payload_offset: headers.payload_offset,
            end,
            size,
            count,
            recut: size != usize::from(vnet.gso_size),
        })
    }

    /// How many packets the frame becomes, 1 to [`SEGMENTS_MAX`].
    #[inline]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// True if the packets are smaller than the sender made them: it should be told of the MTU all the same, unless
    /// they are fragments, which it allowed.
    #[inline]
    pub const fn is_recut(&self) -> bool {
        self.recut
    }

    /// True if [`Plan::fragment`] made it.
    #[inline]
    pub const fn is_fragmented(&self) -> bool {
        matches!(self.work, Work::Fragment { .. })
    }

    /// Bytes that [`Plan::write_headers`] writes for packet `index`: IP and layer 4; of fragments the first alone has
    /// the latter.
    #[inline]
    pub const fn header_len(&self, index: usize) -> usize {
        if index > 0 && self.is_fragmented() {
            return self.l4_offset - self.l3_offset;
        }
        self.payload_offset - self.l3_offset
    }

    /// Length of the longest packet, the first.
    #[inline]
    pub fn len_max(&self) -> usize {
        self.segment(0).len
    }

    /// The sum of all packets' lengths.
    #[inline]
    pub const fn total_len(&self) -> usize {
        let payload_offset = match self.is_fragmented() {
            true => self.l4_offset,
            false => self.payload_offset,
        };
        self.count * (payload_offset - self.l3_offset) + (self.end - payload_offset)
    }

    /// True if [`Plan::write_headers`] needs the payload's sum; a plain packet whose
    /// checksum is complete does not.
    #[inline]
    pub const fn needs_sum(&self) -> bool {
        !matches!(self.work, Work::Copy | Work::Fragment { .. })
    }

    /// The packet `index`; an empty one past the last.
    #[inline]
    pub fn segment(&self, index: usize) -> Segment {
        if self.is_fragmented() {
            return self.fragment_at(index);
        }
        let start = self
            .size
            .saturating_mul(index)
            .saturating_add(self.payload_offset)
            .min(self.end);
        let end = (start + self.size).min(self.end);
        Segment {
            payload: start..end,
            len: self.payload_offset - self.l3_offset + (end - start),
        }
    }

    /// Writes IP and layer 4 headers of packet `index` at the start of `out` and returns
    /// their length, [`Plan::header_len`] of it; 0 if there is no such packet, `out` is too
    /// short or `head` is not the head that was planned with.
    ///
    /// `payload` is the sum of exactly the bytes at [`Segment::payload`], started anew.
    #[inline]
    pub fn write_headers(
        &self,
        index: usize,
        head: &[u8],
        payload: Checksum,
        out: &mut [u8],
    ) -> usize {
        let len = self.header_len(index);
        let (Some(from), Some(out)) = (
            head.get(self.l3_offset..self.l3_offset + len),
            out.get_mut(..len),
        ) else {
            return 0;
        };
        if index >= self.count {
            return 0;
        }
        copy_header(out, from);
        let done = match self.work {
            Work::Copy => true,
            Work::Complete { start, field } => self.complete(start, field, head, payload, out),
            Work::Cut {
                l4,
                ip_base,
                l4_base,
            } => self
                .patch(index, l4, (ip_base, l4_base), payload, out)
                .is_some(),
            Work::Fragment { bits, checksum } => {
                self.patch_fragment(index, bits, checksum, out).is_some()
            }
        };
        if done { len } else { 0 }
    }

    fn complete(
        &self,
        start: usize,
        field: usize,
        head: &[u8],
        payload: Checksum,
        out: &mut [u8],
    ) -> bool {
        let Some(covered) = head.get(start..self.payload_offset) else {
            return false;
        };
        let mut sum = Checksum::of(covered);
        sum.append(payload);
        // As for UDP whatever the protocol is: both zeros are the same to a receiver.
        put_be16(out, field - self.l3_offset, sum.complement_udp())
    }

    /// Writes what differs between packets.
    #[inline]
    fn patch(
        &self,
        index: usize,
        l4: Cut,
        (ip_base, l4_base): (Fields, Fields),
        payload: Checksum,
        out: &mut [u8],
    ) -> Option<()> {
        let (ip, segment) = out.split_at_mut_checked(self.l4_offset - self.l3_offset)?;
        let start = self.size * index;
        let payload_len = self.size.min(self.end - self.payload_offset - start);
        let l4_len = segment.len() + payload_len;
        self.patch_ip(index, ip.len() + l4_len, ip_base, ip)?;
        self.patch_l4(index, (start, l4_len), l4, (l4_base, payload), segment)
    }

    #[inline]
    fn patch_ip(&self, index: usize, len: usize, base: Fields, out: &mut [u8]) -> Option<()> {
        match self.family {
            Family::V4 { id } => {
                let len = u16::try_from(len).ok()?;
                #[expect(clippy::cast_possible_truncation, reason = "identification wraps")]
                let id = id.wrapping_add(index as u16);
                let mut sum = base;
                sum.add_u16(len);
                sum.add_u16(id);
                let header = out.first_chunk_mut::<20>()?;
                header[2..4].copy_from_slice(&len.to_be_bytes());
                header[4..6].copy_from_slice(&id.to_be_bytes());
                header[10..12].copy_from_slice(&sum.complement().to_be_bytes());
            }
            Family::V6 => {
                let payload_len = u16::try_from(len.checked_sub(ipv6::HEADER_LEN)?).ok()?;
                let header = out.first_chunk_mut::<40>()?;
                header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            }
            Family::Other => return None,
        }
        Some(())
    }

    /// Of the segment whose payload begins at `start` and which has `len` bytes from layer 4 on.
    #[inline]
    fn patch_l4(
        &self,
        index: usize,
        (start, len): (usize, usize),
        l4: Cut,
        (base, payload): (Fields, Checksum),
        out: &mut [u8],
    ) -> Option<()> {
        let len = u16::try_from(len).ok()?;
        let mut sum = base;
        sum.add_u16(len);
        match l4 {
            Cut::Tcp {
                sequence,
                offset_flags,
            } => {
                let mut cleared = 0;
                if index > 0 {
                    cleared |= flags::CWR;
                }
                if index + 1 < self.count {
                    cleared |= flags::FIN | flags::PSH;
                }
                let offset_flags = offset_flags & !u16::from(cleared);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "sequence numbers are modulo 2^32"
                )]
                let sequence = sequence.wrapping_add(start as u32);
                sum.add_u32(sequence);
                sum.add_u16(offset_flags);
                let header = out.first_chunk_mut::<20>()?;
                header[4..8].copy_from_slice(&sequence.to_be_bytes());
                header[12..14].copy_from_slice(&offset_flags.to_be_bytes());
                header[16..18].copy_from_slice(&sum.then(payload).complement().to_be_bytes());
            }
            Cut::Udp => {
                // Once in the pseudo-header, once in the header.
                sum.add_u16(len);
                let header = out.first_chunk_mut::<8>()?;
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6..8].copy_from_slice(&sum.then(payload).complement_udp().to_be_bytes());
            }
        }
        Some(())
    }
}

/// Sums of the header bytes that all segments share: those of the whole header, less
/// (in one's complement: plus the complement of) the fields that change.
fn bases(headers: &Headers, head: &[u8], l4: Cut) -> Option<(Fields, Fields)> {
    let mut ip_base = Checksum::ZERO;
    let mut l4_base = match &headers.l3 {
        L3::V4(ip) => {
            let header = head.get(headers.l3_offset..headers.l4_offset)?;
            let fixed = header.first_chunk::<20>()?;
            ip_base = Checksum::of(header);
            ip_base.add_u16(!ip.total_len);
            ip_base.add_u16(!ip.id);
            ip_base.add_u16(!u16::from_be_bytes([fixed[10], fixed[11]]));
            Checksum::pseudo_v4(ip.source, ip.destination, ip.protocol, 0)
        }
        L3::V6(ip) => Checksum::pseudo_v6(ip.source, ip.destination, ip.protocol, 0),
        L3::Arp | L3::Other => return None,
    };
    let header = head.get(headers.l4_offset..headers.payload_offset)?;
    match l4 {
        Cut::Tcp {
            sequence,
            offset_flags,
        } => {
            let fixed = header.first_chunk::<20>()?;
            l4_base.add(header);
            l4_base.add_u32(!sequence);
            l4_base.add_u16(!offset_flags);
            l4_base.add_u16(!u16::from_be_bytes([fixed[16], fixed[17]]));
        }
        Cut::Udp => l4_base.add(header.get(..4)?),
    }
    Some((Fields::of(ip_base), Fields::of(l4_base)))
}

/// The pseudo-header's sum as a guest expects it in a partial checksum field.
#[inline]
pub fn seed_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, l4_len: u32) -> u16 {
    Checksum::pseudo_v4(source, destination, protocol, l4_len).value()
}

/// As [`seed_v4`], for IPv6.
#[inline]
pub fn seed_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, l4_len: u32) -> u16 {
    Checksum::pseudo_v6(source, destination, protocol, l4_len).value()
}
