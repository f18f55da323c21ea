//! One pass over a frame's first bytes.
//!
//! In: a private copy of a frame's or packet's start (up to [`HEAD_LEN`] bytes suffice)
//! and its whole length. Out: [`Headers`]: every field that a decision is made on, and
//! where the payload lies.
//! Never: the payload, an allocation, a panic, a second look at guest memory.
//!
//! What is wrong with layer 3 is an error: such a packet can't be routed. What is wrong
//! with layer 4 is [`L4::Malformed`]: a router carries it all the same, but nothing that
//! rests on layer 4 (cutting, joining, completing a checksum) touches it.

use crate::bytes::array;
use crate::checksum::Checksum;
use crate::ether::{self, EtherType, EthernetView};
use crate::ipv4::{self, Ipv4View};
use crate::ipv6::{self, Ipv6View};
use crate::tcp::{self, TcpView};
use crate::udp::{self, UdpView};

mod headers;

pub use headers::{Ether, Fragment, Headers, Icmp, Ipv4, Ipv6, L3, L4, Tcp, Udp};

/// How many bytes of a frame to copy before parsing it. Ethernet, IPv4 with all options
/// and TCP with all options take 134; the rest is for IPv6 extension headers.
pub const HEAD_LEN: usize = 256;

/// IPv6 extension headers walked before a packet counts as [`L4::Other`].
const EXTENSIONS_MAX: usize = 8;

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Why a frame can be neither switched nor routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseError {
    /// Shorter than its layer 2 or layer 3 header.
    Runt,
    /// The version nibble is not that of the EtherType, or neither 4 nor 6.
    Version,
    /// An IPv4 header of less than 20 bytes or longer than the packet.
    HeaderLength,
    /// An IP length below the header's or beyond the frame's end.
    IpLength,
}

/// Parses an Ethernet frame of `frame_len` bytes that starts with `head`.
///
/// `head` should hold `min(frame_len, HEAD_LEN)` bytes or more. Layer 3 must lie in it;
/// a layer 4 beyond it is [`L4::Other`].
#[inline]
pub fn parse_frame(head: &[u8], frame_len: u32) -> Result<Headers, ParseError> {
    let frame_len = frame_len as usize;
    let head = head.get(..frame_len).unwrap_or(head);
    let view = EthernetView::new(head).ok_or(ParseError::Runt)?;
    let ether = Ether {
        destination: view.destination(),
        source: view.source(),
        ether_type: view.ether_type(),
    };
    match ether.ether_type {
        EtherType::IPV4 => parse_v4(ether, head, ether::HEADER_LEN, frame_len),
        EtherType::IPV6 => parse_v6(ether, head, ether::HEADER_LEN, frame_len),
        other => Ok(Headers {
            ether,
            l3: match other {
                EtherType::ARP => L3::Arp,
                _ => L3::Other,
            },
            l4: L4::Other,
            l3_offset: ether::HEADER_LEN,
            l4_offset: ether::HEADER_LEN,
            payload_offset: ether::HEADER_LEN,
            complete: true,
            ip_len: frame_len - ether::HEADER_LEN,
        }),
    }
}

/// Parses an IP packet without Ethernet, padded or not, that lies in `packet` whole.
#[inline]
pub fn parse_ip(packet: &[u8]) -> Result<Headers, ParseError> {
    parse_ip_head(packet, packet.len())
}

/// Parses an IP packet without Ethernet of `packet_len` bytes that starts with `head`.
#[inline]
pub fn parse_ip_head(head: &[u8], packet_len: usize) -> Result<Headers, ParseError> {
    let head = head.get(..packet_len).unwrap_or(head);
    let ether = |ether_type| Ether {
        ether_type,
        ..Ether::default()
    };
    match head.first() {
        None => Err(ParseError::Runt),
        Some(first) if first >> 4 == 4 => parse_v4(ether(EtherType::IPV4), head, 0, packet_len),
        Some(first) if first >> 4 == 6 => parse_v6(ether(EtherType::IPV6), head, 0, packet_len),
        Some(_) => Err(ParseError::Version),
    }
}

#[inline]
fn parse_v4(
    ether: Ether,
    head: &[u8],
    l3_offset: usize,
    frame_len: usize,
) -> Result<Headers, ParseError> {
    let packet = &head[l3_offset..];
    let view = Ipv4View::new(packet).ok_or(ParseError::Runt)?;
    if view.version() != 4 {
        return Err(ParseError::Version);
    }
    let header_len = view.header_len();
    if header_len < ipv4::HEADER_LEN {
        return Err(ParseError::HeaderLength);
    }
    let header = packet.get(..header_len).ok_or(ParseError::HeaderLength)?;
    let total_len = usize::from(view.total_len());
    if total_len < header_len || total_len > frame_len - l3_offset {
        return Err(ParseError::IpLength);
    }
    let bits = view.fragment_bits();
    let fragment = match (bits & 0x1fff, bits & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    let ip = Ipv4 {
        source: view.source(),
        destination: view.destination(),
        #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
        header_len: header_len as u8,
        tos: view.tos(),
        ttl: view.ttl(),
        protocol: view.protocol(),
        total_len: view.total_len(),
        id: view.id(),
        dont_fragment: bits & 0x4000 != 0,
        fragment,
        checksum_ok: Checksum::of(header).is_valid(),
    };
    let l4_offset = l3_offset + header_len;
    let end = l3_offset + total_len;
    let (l4, l4_header_len, complete) = match fragment {
        Fragment::Whole => parse_l4(head, l4_offset, end, ip.protocol, PROTOCOL_ICMP),
        Fragment::First => {
            let held = holds_layer4(head, l4_offset, end, ip.protocol, PROTOCOL_ICMP);
            (L4::Fragment, 0, held)
        }
        Fragment::Later => (L4::Fragment, 0, true),
    };
    Ok(Headers {
        ether,
        l3: L3::V4(ip),
        l4,
        l3_offset,
        l4_offset,
        payload_offset: l4_offset + l4_header_len,
        complete,
        ip_len: total_len,
    })
}

#[inline]
fn parse_v6(
    ether: Ether,
    head: &[u8],
    l3_offset: usize,
    frame_len: usize,
) -> Result<Headers, ParseError> {
    let view = Ipv6View::new(&head[l3_offset..]).ok_or(ParseError::Runt)?;
    if view.version() != 6 {
        return Err(ParseError::Version);
    }
    let ip_len = ipv6::HEADER_LEN + usize::from(view.payload_len());
    if ip_len > frame_len - l3_offset {
        return Err(ParseError::IpLength);
    }
    let end = l3_offset + ip_len;
    let walk = match view.next_header() {
        protocol @ (tcp::PROTOCOL | udp::PROTOCOL | PROTOCOL_ICMPV6) => Walk {
            protocol,
            offset: l3_offset + ipv6::HEADER_LEN,
            fragment: Fragment::Whole,
            complete: true,
        },
        first => walk_extensions(head, l3_offset + ipv6::HEADER_LEN, end, first),
    };
    let (l4, l4_header_len, complete) = match (walk.fragment, walk.complete) {
        (Fragment::Later, _) => (L4::Fragment, 0, true),
        (Fragment::First, false) => (L4::Fragment, 0, false),
        (Fragment::First, true) => {
            let held = holds_layer4(head, walk.offset, end, walk.protocol, PROTOCOL_ICMPV6);
            (L4::Fragment, 0, held)
        }
        (Fragment::Whole, false) => (L4::Other, 0, false),
        (Fragment::Whole, true) => parse_l4(head, walk.offset, end, walk.protocol, PROTOCOL_ICMPV6),
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the walk stays within an IPv6 packet's first headers, EXTENSIONS_MAX * 2 KiB"
    )]
    let header_len = (walk.offset - l3_offset) as u16;
    let ip = Ipv6 {
        source: view.source(),
        destination: view.destination(),
        header_len,
        payload_len: view.payload_len(),
        flow_label: view.flow_label(),
        traffic_class: view.traffic_class(),
        hop_limit: view.hop_limit(),
        protocol: walk.protocol,
        fragment: walk.fragment,
    };
    Ok(Headers {
        ether,
        l3: L3::V6(ip),
        l4,
        l3_offset,
        l4_offset: walk.offset,
        payload_offset: walk.offset + l4_header_len,
        complete,
        ip_len,
    })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// True for the extension headers that are walked.
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

/// Where a walk over extension headers ended.
struct Walk {
    protocol: u8,
    offset: usize,
    fragment: Fragment,
    /// False if the chain went on beyond the copied bytes, the packet or the limit.
    complete: bool,
}

/// Walks extension headers (RFC 8200, section 4) up to the layer 4 header, a later
/// fragment's payload, or the end of what is there.
#[cold]
fn walk_extensions(head: &[u8], mut offset: usize, end: usize, first: u8) -> Walk {
    let head = head.get(..end).unwrap_or(head);
    let mut protocol = first;
    let mut fragment = Fragment::Whole;
    let mut complete = false;
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(protocol) {
            complete = true;
            break;
        }
        let Some(extension) = array::<8>(head, offset) else {
            break;
        };
        let len = match protocol {
            // Who puts the fragments together finds another: what lies in it is not seen here.
            FRAGMENT if fragment != Fragment::Whole => break,
            FRAGMENT => {
                let bits = u16::from_be_bytes([extension[2], extension[3]]);
                fragment = match bits & 0xfff8 {
                    // An atomic fragment (RFC 6946) is a whole packet, but nothing that
                    // rests on layer 4 may forget its header: it counts as a fragment.
                    0 => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        if offset + len > head.len() {
            break;
        }
        protocol = extension[0];
        offset += len;
        if fragment == Fragment::Later {
            break;
        }
    }
    Walk {
        protocol,
        offset,
        fragment,
        complete,
    }
}

/// Whether a first fragment, or what of it was copied, holds its layer 4 header (RFC 7112, section 5). Of protocols that
/// have none here nothing is asked.
#[cold]
fn holds_layer4(head: &[u8], offset: usize, end: usize, protocol: u8, icmp: u8) -> bool {
    let head = head.get(..end).unwrap_or(head);
    let bytes = head.get(offset..).unwrap_or_default();
    match protocol {
        tcp::PROTOCOL => TcpView::new(bytes).is_some_and(|view| view.header_len() <= bytes.len()),
        udp::PROTOCOL => bytes.len() >= udp::HEADER_LEN,
        protocol if protocol == icmp => bytes.len() >= 8,
        _ => true,
    }
}

/// Layer 4, the length of its header, and whether that was read or is not known to be one. `end` is the packet's end by
/// its IP length.
#[inline]
fn parse_l4(head: &[u8], offset: usize, end: usize, protocol: u8, icmp: u8) -> (L4, usize, bool) {
    let beyond = end > head.len();
    let head = head.get(..end).unwrap_or(head);
    // A header that is cut by the packet's end is malformed; one that is cut by the end
    // of our copy is merely not seen.
    let cut = || match beyond {
        true => (L4::Other, 0, false),
        false => (L4::Malformed, 0, true),
    };
    let Some(bytes) = head.get(offset..) else {
        return cut();
    };
    match protocol {
        tcp::PROTOCOL => {
            let Some(view) = TcpView::new(bytes) else {
                return cut();
            };
            let header_len = view.header_len();
            if header_len < tcp::HEADER_LEN {
                return (L4::Malformed, 0, true);
            }
            if header_len > bytes.len() {
                return cut();
            }
            let tcp = Tcp {
                source_port: view.source_port(),
                destination_port: view.destination_port(),
                sequence: view.sequence(),
                acknowledgment: view.acknowledgment(),
                #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
                header_len: header_len as u8,
                flags: view.flags(),
            };
            (L4::Tcp(tcp), header_len, true)
        }
        udp::PROTOCOL => {
            let Some(view) = UdpView::new(bytes) else {
                return cut();
            };
            let length = usize::from(view.length());
            if length < udp::HEADER_LEN || length > end - offset {
                return (L4::Malformed, 0, true);
            }
            let udp = Udp {
                source_port: view.source_port(),
                destination_port: view.destination_port(),
                length: view.length(),
                checksum: view.checksum(),
            };
            (L4::Udp(udp), udp::HEADER_LEN, true)
        }
        protocol if protocol == icmp => {
            let Some(bytes) = array::<8>(bytes, 0) else {
                return cut();
            };
            let message = Icmp {
                kind: bytes[0],
                code: bytes[1],
                rest: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            };
            match icmp {
                PROTOCOL_ICMP => (L4::Icmp4(message), 8, true),
                _ => (L4::Icmp6(message), 8, true),
            }
        }
        _ => (L4::Other, 0, true),
    }
}
