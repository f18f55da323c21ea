//! A guest's offload metadata against our own parse of its frame.
//!
//! In: metadata, headers, the private head copy. Out: what may be relied on, or the name
//! of the lie. Never: the MTU, which is the plan's.

use super::{Cut, Family, SEGMENTS_MAX, SegmentError};
use crate::parse::{Headers, L3, L4};
use crate::tcp::{self, flags};
use crate::udp;
use crate::vnet::VnetHeader;

/// Metadata of a super-frame that agrees with our parse.
pub(super) struct Checked {
    pub(super) family: Family,
    pub(super) l4: Cut,
    /// Payload bytes per segment, at least 1.
    pub(super) size: usize,
}

/// Checks the metadata of a super-frame, all but the size of its segments.
pub(super) fn check_cut(
    vnet: &VnetHeader,
    headers: &Headers,
    head: &[u8],
) -> Result<Checked, SegmentError> {
    // 1. The kind against the protocols that we parsed.
    let family = match headers.l3 {
        L3::V4(ip) => Family::V4 { id: ip.id },
        L3::V6(_) => Family::V6,
        L3::Arp | L3::Other => return Err(SegmentError::WrongProtocol),
    };
    let (l4, checksum_offset) = match (vnet.gso_kind(), family, headers.l4) {
        (_, _, L4::Fragment) => return Err(SegmentError::Fragment),
        (_, _, L4::Malformed) => return Err(SegmentError::Malformed),
        (VnetHeader::GSO_TCPV4, Family::V4 { .. }, L4::Tcp(tcp))
        | (VnetHeader::GSO_TCPV6, Family::V6, L4::Tcp(tcp)) => {
            if tcp.flags & (flags::SYN | flags::RST | flags::URG) != 0 {
                return Err(SegmentError::TcpFlags);
            }
            let offset_flags = head
                .get(headers.l4_offset + 12..headers.l4_offset + 14)
                .ok_or(SegmentError::Malformed)?;
            let cut = Cut::Tcp {
                sequence: tcp.sequence,
                offset_flags: u16::from_be_bytes([offset_flags[0], offset_flags[1]]),
            };
            (cut, tcp::CHECKSUM_OFFSET)
        }
        (VnetHeader::GSO_UDP_L4, _, L4::Udp(udp)) => {
            if vnet.gso_type != VnetHeader::GSO_UDP_L4 {
                return Err(SegmentError::WrongProtocol);
            }
            if headers.l4_offset + usize::from(udp.length) != headers.l3_offset + headers.ip_len {
                return Err(SegmentError::UdpLength);
            }
            (Cut::Udp, udp::CHECKSUM_OFFSET)
        }
        (VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6 | VnetHeader::GSO_UDP_L4, _, _) => {
            return Err(SegmentError::WrongProtocol);
        }
        _ => return Err(SegmentError::UnknownKind),
    };

    // 2. The other fields.
    let end = headers.l3_offset + headers.ip_len;
    if !vnet.needs_csum() {
        return Err(SegmentError::NotPartial);
    }
    if usize::from(vnet.csum_start) != headers.l4_offset || vnet.csum_offset != checksum_offset {
        return Err(SegmentError::ChecksumPlace);
    }
    if usize::from(vnet.hdr_len) > end {
        return Err(SegmentError::HeaderLength);
    }
    let size = usize::from(vnet.gso_size);
    if size == 0 {
        return Err(SegmentError::ZeroSize);
    }
    Ok(Checked { family, l4, size })
}

/// Checks where a plain frame's partial checksum is: where it starts, where it lies.
///
/// Whoever completes it writes sixteen bits that the guest has chosen. They are the outer TCP or UDP checksum, or lie
/// behind that header, where nobody has looked: never in what a guard has seen and allowed (a sender's address in ARP, a
/// port, an ICMP type).
pub(super) fn check_partial(
    vnet: &VnetHeader,
    headers: &Headers,
    head: &[u8],
) -> Result<(usize, usize), SegmentError> {
    // Not only TCP and UDP right behind IP: a tunnel inside the guest leaves its inner
    // packet's checksum partial.
    let own = match (headers.l3, headers.l4) {
        (L3::Arp, _) | (_, L4::Icmp4(_) | L4::Icmp6(_)) => return Err(SegmentError::WrongProtocol),
        (_, L4::Fragment) => return Err(SegmentError::Fragment),
        (_, L4::Malformed) => return Err(SegmentError::Malformed),
        (_, L4::Tcp(_)) => Some(tcp::CHECKSUM_OFFSET),
        (_, L4::Udp(_)) => Some(udp::CHECKSUM_OFFSET),
        (_, L4::Other) => None,
    };
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    let end = headers.l3_offset + headers.ip_len;
    let is_own = start == headers.l4_offset && own == Some(vnet.csum_offset);
    // Without a header of layer 4 the payload begins where it would.
    let is_inside = start >= headers.payload_offset;
    if !(is_own || is_inside) || field + 2 > end.min(head.len()) {
        return Err(SegmentError::ChecksumPlace);
    }
    Ok((start, field))
}

/// What of a guest's metadata may be handed to another guest with the frame uncut.
///
/// Every field was checked as [`Plan::new`] checks it, but for the MTU; the header
/// length is that of our parse, and fields that say nothing are zero.
pub fn forwardable(
    vnet: &VnetHeader,
    headers: &Headers,
    head: &[u8],
) -> Result<VnetHeader, SegmentError> {
    if vnet.is_plain() {
        if !vnet.needs_csum() {
            return Ok(VnetHeader::default());
        }
        check_partial(vnet, headers, head)?;
        return Ok(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: vnet.csum_start,
            csum_offset: vnet.csum_offset,
            ..VnetHeader::default()
        });
    }
    let checked = check_cut(vnet, headers, head)?;
    if headers.payload_len().div_ceil(checked.size) > SEGMENTS_MAX {
        return Err(SegmentError::TooMany);
    }
    Ok(VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        hdr_len: u16::try_from(headers.payload_offset).map_err(|_| SegmentError::Malformed)?,
        num_buffers: 0,
        ..*vnet
    })
}
