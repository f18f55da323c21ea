//! ICMP and ICMPv6: errors for packets that can't go on, replies to echo requests.
//!
//! In: an offending packet's headers and private head copy, or a private copy of a whole
//! echo request. Out: an IP packet for its sender, checksums complete.
//! Never: an answer that RFC 1122 (section 3.2.2), RFC 1812 (section 4.3.2.7) or RFC 4443
//! (section 2.4 e) forbids; a rate limit, which is the caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Checksum;
use crate::ipv4::{self, Ipv4Fields};
use crate::ipv6::{self, Ipv6Fields};
use crate::parse::{
    Fragment, Headers, Ipv4, Ipv6, L3, L4, PROTOCOL_ICMP, PROTOCOL_ICMPV6, parse_ip,
};

/// Bytes of an error message ahead of the quoted packet.
const MESSAGE_HEADER_LEN: usize = 8;
/// The longest IPv4 error (RFC 1812, section 4.3.2.3).
const ERROR_LEN_MAX_V4: usize = 576;
/// The longest IPv6 error: the least MTU (RFC 4443, section 2.4 c).
const ERROR_LEN_MAX_V6: usize = 1280;

/// Bytes that suffice for every error of this module.
pub const ERROR_LEN_MAX: usize = ERROR_LEN_MAX_V6;
/// Hop limit of packets that start here.
const HOP_LIMIT: u8 = 64;

/// Bytes that suffice for every message of this module that answers a 256-byte head.
pub const ANSWER_LEN_MAX: usize = ipv6::HEADER_LEN + MESSAGE_HEADER_LEN + crate::parse::HEAD_LEN;

/// What an error tells the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// The packet exceeds the next hop's MTU (RFC 1191; RFC 4443, section 3.2).
    TooBig {
        /// The next hop's MTU.
        mtu: u32,
    },
    /// No way to the destination: host unreachable, address unreachable.
    Unreachable,
    /// Forbidden by policy: administratively prohibited.
    Prohibited,
    /// The hop limit ran out here.
    TimeExceeded,
    /// Fragments did not come together in time (RFC 792; RFC 4443, section 3.3).
    ReassemblyTimeExceeded,
    /// Nobody has the port that it was sent to (RFC 1122, section 4.1.3.1; RFC 4443, section 3.1).
    PortUnreachable,
    /// Nobody takes the protocol that the byte at `pointer` names (RFC 1122, section 3.2.2.1; RFC 4443, section 3.4).
    ProtocolUnreachable {
        /// Bytes from the packet's start.
        pointer: u32,
    },
    /// A header can't be gone by (RFC 792; RFC 4443, section 3.4).
    ParameterProblem {
        /// Which kind, over IPv6: a field (0), an option (2), a first fragment without its headers (3, RFC 7112).
        code: u8,
        /// Where, in bytes from the packet's start.
        pointer: u32,
    },
}

/// Why a packet gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoAnswer {
    /// Neither IPv4 nor IPv6, or not of the family of our address.
    NotIp,
    /// It is an ICMP error (or redirect) itself, or can't be told from one.
    IcmpError,
    /// A fragment other than the first.
    LaterFragment,
    /// Its source does not name one host.
    Source,
    /// It was sent to a group or to everyone.
    Group,
    /// No room in the output.
    NoRoom,
}

/// Writes the error for the packet in `head` at the start of `out`, as an IP packet from
/// `source` without Ethernet, and returns its length.
///
/// `headers` was parsed from `head`, the packet's private head copy. The quoted part is
/// what of the packet lies in `head`, within the RFCs' limits.
pub fn write_error(
    error: IcmpError,
    headers: &Headers,
    head: &[u8],
    source: IpAddr,
    out: &mut [u8],
) -> Result<usize, NoAnswer> {
    let quoted = head.get(headers.l3_offset..).ok_or(NoAnswer::NotIp)?;
    let quoted = quoted.get(..headers.ip_len).unwrap_or(quoted);
    let icmp_kind = head.get(headers.l4_offset).copied();
    match (headers.l3, source) {
        (L3::V4(ip), IpAddr::V4(source)) => {
            may_answer_v4(headers, &ip, icmp_kind)?;
            write_error_v4(error, &ip, quoted, source, out)
        }
        (L3::V6(ip), IpAddr::V6(source)) => {
            may_answer_v6(error, headers, &ip, icmp_kind)?;
            write_error_v6(error, &ip, quoted, source, out)
        }
        _ => Err(NoAnswer::NotIp),
    }
}

fn may_answer_v4(headers: &Headers, ip: &Ipv4, icmp_kind: Option<u8>) -> Result<(), NoAnswer> {
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
    let is_error = || matches!(icmp_kind, None | Some(3 | 4 | 5 | 11 | 12));
    let first = ip.source.octets()[0];
    if ip.fragment == Fragment::Later {
        Err(NoAnswer::LaterFragment)
    } else if ip.protocol == PROTOCOL_ICMP && is_error() {
        Err(NoAnswer::IcmpError)
    } else if first == 0 || first == 127 || first >= 224 {
        Err(NoAnswer::Source)
    } else if ip.destination.is_multicast()
        || ip.destination.is_broadcast()
        || headers.ether.destination.is_multicast()
    {
        Err(NoAnswer::Group)
    } else {
        Ok(())
    }
}

fn may_answer_v6(
    error: IcmpError,
    headers: &Headers,
    ip: &Ipv6,
    icmp_kind: Option<u8>,
) -> Result<(), NoAnswer> {
    const REDIRECT: u8 = 137;
    // Behind a chain that we did not see the end of, there may be an ICMPv6 error.
    let unseen = headers.l4 == L4::Other && crate::parse::is_extension(ip.protocol);
    let is_error = || icmp_kind.is_none_or(|kind| kind < 128 || kind == REDIRECT);
    if ip.fragment == Fragment::Later {
        Err(NoAnswer::LaterFragment)
    } else if unseen || (ip.protocol == PROTOCOL_ICMPV6 && is_error()) {
        Err(NoAnswer::IcmpError)
    } else if ip.source.is_unspecified() || ip.source.is_multicast() || ip.source.is_loopback() {
        Err(NoAnswer::Source)
    } else if (ip.destination.is_multicast() || headers.ether.destination.is_multicast())
        // Path MTU discovery works for groups as well.
        && !matches!(error, IcmpError::TooBig { .. })
    {
        Err(NoAnswer::Group)
    } else {
        Ok(())
    }
}

fn write_error_v4(
    error: IcmpError,
    ip: &Ipv4,
    quoted: &[u8],
    source: Ipv4Addr,
    out: &mut [u8],
) -> Result<usize, NoAnswer> {
    let (kind, code, rest) = match error {
        IcmpError::TooBig { mtu } => (3, 4, mtu.min(u16::MAX.into())),
        IcmpError::Unreachable => (3, 1, 0),
        IcmpError::Prohibited => (3, 13, 0),
        IcmpError::TimeExceeded => (11, 0, 0),
        IcmpError::ReassemblyTimeExceeded => (11, 1, 0),
        IcmpError::PortUnreachable => (3, 3, 0),
        IcmpError::ProtocolUnreachable { .. } => (3, 2, 0),
        IcmpError::ParameterProblem { pointer, .. } => (12, 0, pointer << 24),
    };
    let room = ERROR_LEN_MAX_V4 - ipv4::HEADER_LEN - MESSAGE_HEADER_LEN;
    let quoted = quoted.get(..room).unwrap_or(quoted);
    let len = ipv4::HEADER_LEN + MESSAGE_HEADER_LEN + quoted.len();
    let out = out.get_mut(..len).ok_or(NoAnswer::NoRoom)?;
    let (header, message) = out.split_at_mut(ipv4::HEADER_LEN);
    header.copy_from_slice(&ipv4::header(&Ipv4Fields {
        source,
        destination: ip.source,
        // Internetwork control (RFC 1812, section 4.3.2.5).
        tos: 0xc0,
        id: 0,
        dont_fragment: true,
        ttl: HOP_LIMIT,
        protocol: PROTOCOL_ICMP,
        #[expect(clippy::cast_possible_truncation, reason = "at most 576")]
        total_len: len as u16,
    }));
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    message[8..].copy_from_slice(quoted);
    let checksum = Checksum::of(message).complement();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(len)
}

fn write_error_v6(
    error: IcmpError,
    ip: &Ipv6,
    quoted: &[u8],
    source: Ipv6Addr,
    out: &mut [u8],
) -> Result<usize, NoAnswer> {
    let (kind, code, rest) = match error {
        IcmpError::TooBig { mtu } => (2, 0, mtu),
        IcmpError::Unreachable => (1, 3, 0),
        IcmpError::Prohibited => (1, 1, 0),
        IcmpError::TimeExceeded => (3, 0, 0),
        IcmpError::ReassemblyTimeExceeded => (3, 1, 0),
        IcmpError::PortUnreachable => (1, 4, 0),
        IcmpError::ProtocolUnreachable { pointer } => (4, 1, pointer),
        IcmpError::ParameterProblem { code, pointer } => (4, code, pointer),
    };
    let room = ERROR_LEN_MAX_V6 - ipv6::HEADER_LEN - MESSAGE_HEADER_LEN;
    let quoted = quoted.get(..room).unwrap_or(quoted);
    let len = ipv6::HEADER_LEN + MESSAGE_HEADER_LEN + quoted.len();
    let out = out.get_mut(..len).ok_or(NoAnswer::NoRoom)?;
    let (header, message) = out.split_at_mut(ipv6::HEADER_LEN);
    header.copy_from_slice(&ipv6::header(&Ipv6Fields {
        source,
        destination: ip.source,
        traffic_class: 0,
        hop_limit: HOP_LIMIT,
        next_header: PROTOCOL_ICMPV6,
        #[expect(clippy::cast_possible_truncation, reason = "at most 1240")]
        payload_len: message.len() as u16,
    }));
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    message[8..].copy_from_slice(quoted);
    let checksum = checksum_v6(source, ip.source, message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(len)
}

/// The checksum of an ICMPv6 message whose field is zero, or 0 if the field is right.
pub(crate) fn checksum_v6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "IP payloads are shorter than 64 KiB"
    )]
    let len = message.len() as u32;
    let mut sum = Checksum::pseudo_v6(source, destination, PROTOCOL_ICMPV6, len);
    sum.add(message);
    sum.complement()
}

/// Bytes of an echo request as [`write_echo_request`] writes it.
#[must_use]
pub const fn echo_request_len(source: IpAddr) -> usize {
    match source {
        IpAddr::V4(_) => ipv4::HEADER_LEN + 8,
        IpAddr::V6(_) => ipv6::HEADER_LEN + 8,
    }
}

/// Writes an echo request without content at the start of `out`, as an IP packet without Ethernet, and returns its
/// length; 0 if the addresses are of two families or there is no room.
pub fn write_echo_request(
    (source, destination): (IpAddr, IpAddr),
    (id, sequence): (u16, u16),
    out: &mut [u8],
) -> usize {
    let len = echo_request_len(source);
    let Some(out) = out.get_mut(..len) else {
        return 0;
    };
    let ([a, b], [c, d]) = (id.to_be_bytes(), sequence.to_be_bytes());
    let (header, message) = out.split_at_mut(len - 8);
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            message.copy_from_slice(&[8, 0, 0, 0, a, b, c, d]);
            header.copy_from_slice(&ipv4::header(&Ipv4Fields {
                source,
                destination,
                tos: 0,
                id: 0,
                dont_fragment: true,
                ttl: HOP_LIMIT,
                protocol: PROTOCOL_ICMP,
                total_len: 28,
            }));
            Checksum::of(message).complement()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            message.copy_from_slice(&[128, 0, 0, 0, a, b, c, d]);
            header.copy_from_slice(&ipv6::header(&Ipv6Fields {
                source,
                destination,
                traffic_class: 0,
                hop_limit: HOP_LIMIT,
                next_header: PROTOCOL_ICMPV6,
                payload_len: 8,
            }));
            checksum_v6(source, destination, message)
        }
        _ => return 0,
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    len
}

/// Turns a private copy of an echo request (an IP packet without Ethernet, padded or
/// not) into its reply in place, and returns the reply's length.
///
/// `None` if it is no echo request that may be answered: another type, a wrong
/// checksum, a fragment, a source or destination that is not one host. That the
/// destination is ours is the caller's to know.
pub fn echo_reply_in_place(packet: &mut [u8]) -> Option<usize> {
    let headers = parse_ip(packet).ok()?;
    let packet = packet.get_mut(..headers.ip_len)?;
    match (headers.l3, headers.l4) {
        (L3::V4(ip), L4::Icmp4(icmp)) if (icmp.kind, icmp.code) == (8, 0) => {
            may_answer_v4(&headers, &ip, Some(icmp.kind)).ok()?;
            let (header, message) = packet.split_at_mut_checked(headers.l4_offset)?;
            if !ip.checksum_ok || !Checksum::of(message).is_valid() {
                return None;
            }
            header[8] = HOP_LIMIT;
            header[12..16].copy_from_slice(&ip.destination.octets());
            header[16..20].copy_from_slice(&ip.source.octets());
            header[10..12].fill(0);
            let sum = Checksum::of(header).complement();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            message[0] = 0;
            message[2..4].fill(0);
            let sum = Checksum::of(message).complement();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        // Behind extension headers (a routing header above all) the reply would be built
        // on headers that we don't interpret.
        (L3::V6(ip), L4::Icmp6(icmp))
            if (icmp.kind, icmp.code) == (128, 0) && headers.l4_offset == ipv6::HEADER_LEN =>
        {
            may_answer_v6(IcmpError::Unreachable, &headers, &ip, Some(icmp.kind)).ok()?;
            let (header, message) = packet.split_at_mut_checked(headers.l4_offset)?;
            if checksum_v6(ip.source, ip.destination, message) != 0 {
                return None;
            }
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&ip.destination.octets());
            header[24..40].copy_from_slice(&ip.source.octets());
            message[0] = 129;
            message[2..4].fill(0);
            let sum = checksum_v6(ip.destination, ip.source, message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        _ => return None,
    }
    Some(headers.ip_len)
}
