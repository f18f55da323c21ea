//! What a pass over a frame finds.
//!
//! In: nothing. Out: every field that a decision is made on. Never: bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ether::{EtherType, MacAddr};

/// What `parse_frame` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Layer 2; all zeros if there is none (see [`parse_ip`](super::parse_ip)).
    pub ether: Ether,
    /// Layer 3.
    pub l3: L3,
    /// Layer 4.
    pub l4: L4,
    /// Where layer 3 starts: 14, or 0 without Ethernet.
    pub l3_offset: usize,
    /// Where layer 4 starts, from the frame's first byte.
    pub l4_offset: usize,
    /// Where the payload of layer 4 starts, from the frame's first byte; equal to
    /// `l4_offset` when layer 4 isn't understood.
    pub payload_offset: usize,
    /// Whether every header was read that a receiver would go by, layer 4's included. Not so if a chain of extension
    /// headers goes on beyond the copied bytes, the packet or the limit, if a fragment lies within a fragment, or if
    /// a first fragment ends before its layer 4 header does (RFC 7112).
    pub complete: bool,
    /// Length of the layer 3 packet: what the IP header says, never more than the frame
    /// holds. Whatever follows in the frame is padding.
    pub ip_len: usize,
}

/// Layer 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ether {
    /// Destination address.
    pub destination: MacAddr,
    /// Source address.
    pub source: MacAddr,
    /// What the frame carries.
    pub ether_type: EtherType,
}

/// Layer 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// IPv4.
    V4(Ipv4),
    /// IPv6.
    V6(Ipv6),
    /// ARP; see [`crate::ether`] for the address and `arp` for the rest.
    Arp,
    /// Anything else.
    Other,
}

/// What an IPv4 header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Length of the header with options.
    pub header_len: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Length of the packet.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// Place among the fragments of a datagram.
    pub fragment: Fragment,
    /// True if the header's checksum is right.
    pub checksum_ok: bool,
}

/// What an IPv6 header and its extension headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Fixed header and extension headers.
    pub header_len: u16,
    /// Bytes after the fixed header.
    pub payload_len: u16,
    /// Flow label.
    pub flow_label: u32,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Protocol number behind the extension headers.
    pub protocol: u8,
    /// Place among the fragments of a datagram.
    pub fragment: Fragment,
}

/// Place among the fragments of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment.
    Whole,
    /// The first of several.
    First,
    /// One that does not begin with the layer 4 header.
    Later,
}

/// Layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP over IPv4.
    Icmp4(Icmp),
    /// ICMPv6.
    Icmp6(Icmp),
    /// A fragment, first or later.
    Fragment,
    /// TCP, UDP or ICMP with a header that is cut short or lies about its length.
    Malformed,
    /// Another protocol, or one beyond the bytes that were copied.
    Other,
}

/// What a TCP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Length with options, 20 to 60.
    pub header_len: u8,
    /// See [`crate::tcp::flags`].
    pub flags: u8,
}

/// What a UDP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Header and payload; at least 8 and within the packet.
    pub length: u16,
    /// Checksum as found.
    pub checksum: u16,
}

/// The first 8 bytes of an ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What follows the checksum: identifier and sequence number, or an MTU.
    pub rest: u32,
}

impl Headers {
    /// Source and destination, if the frame is IP.
    #[inline]
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match &self.l3 {
            L3::V4(ip) => Some((ip.source.into(), ip.destination.into())),
            L3::V6(ip) => Some((ip.source.into(), ip.destination.into())),
            L3::Arp | L3::Other => None,
        }
    }

    /// DSCP and ECN, if the frame is IP.
    #[inline]
    pub const fn traffic_class(&self) -> Option<u8> {
        match &self.l3 {
            L3::V4(ip) => Some(ip.tos),
            L3::V6(ip) => Some(ip.traffic_class),
            L3::Arp | L3::Other => None,
        }
    }

    /// Protocol number of layer 4, if the frame is IP.
    #[inline]
    pub const fn protocol(&self) -> Option<u8> {
        match &self.l3 {
            L3::V4(ip) => Some(ip.protocol),
            L3::V6(ip) => Some(ip.protocol),
            L3::Arp | L3::Other => None,
        }
    }

    /// Place among fragments; [`Fragment::Whole`] for what is not IP.
    #[inline]
    pub const fn fragment(&self) -> Fragment {
        match &self.l3 {
            L3::V4(ip) => ip.fragment,
            L3::V6(ip) => ip.fragment,
            L3::Arp | L3::Other => Fragment::Whole,
        }
    }

    /// Ports of TCP or UDP, source first.
    #[inline]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match &self.l4 {
            L4::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            L4::Udp(udp) => Some((udp.source_port, udp.destination_port)),
            L4::Icmp4(_) | L4::Icmp6(_) | L4::Fragment | L4::Malformed | L4::Other => None,
        }
    }

    /// Bytes behind the layer 4 header, padding excluded.
    #[inline]
    pub const fn payload_len(&self) -> usize {
        (self.l3_offset + self.ip_len).saturating_sub(self.payload_offset)
    }
}
