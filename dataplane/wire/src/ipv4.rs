//! IPv4: the 20 fixed bytes of a header (RFC 791).
//!
//! In: a packet's start. Out: a view, or a finished header without options.
//! Never: a judgement on the packet; `parse` does that.

use std::net::Ipv4Addr;

use crate::bytes::array;
use crate::checksum::Checksum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4View<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ipv4View<'a> {
    /// A view of a packet's start; `None` if it has fewer than 20 bytes.
    #[inline]
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        array(packet, 0).map(Self)
    }

    /// The version nibble; 4 in a proper header.
    #[inline]
    pub const fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// Header length in bytes as claimed, 0 to 60.
    #[inline]
    pub const fn header_len(self) -> usize {
        (self.0[0] & 0x0f) as usize * 4
    }

    /// DSCP and ECN.
    #[inline]
    pub const fn tos(self) -> u8 {
        self.0[1]
    }

    /// Packet length in bytes as claimed.
    #[inline]
    pub const fn total_len(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Identification.
    #[inline]
    pub const fn id(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Flags and fragment offset, raw.
    #[inline]
    pub const fn fragment_bits(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }

    /// Time to live.
    #[inline]
    pub const fn ttl(self) -> u8 {
        self.0[8]
    }

    /// Protocol number.
    #[inline]
    pub const fn protocol(self) -> u8 {
        self.0[9]
    }

    /// Header checksum as found.
    #[inline]
    pub const fn checksum(self) -> u16 {
        u16::from_be_bytes([self.0[10], self.0[11]])
    }

    /// Source address.
    #[inline]
    pub const fn source(self) -> Ipv4Addr {
        let b = self.0;
        Ipv4Addr::new(b[12], b[13], b[14], b[15])
    }

    /// Destination address.
    #[inline]
    pub const fn destination(self) -> Ipv4Addr {
        let b = self.0;
        Ipv4Addr::new(b[16], b[17], b[18], b[19])
    }
}

/// What a header of ours says; everything else is derived.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Fields {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Length of the whole packet in bytes.
    pub total_len: u16,
}

/// A header without options, its checksum complete.
#[inline]
pub fn header(fields: &Ipv4Fields) -> [u8; HEADER_LEN] {
    let mut h = [0; HEADER_LEN];
    h[0] = 0x45;
    h[1] = fields.tos;
    h[2..4].copy_from_slice(&fields.total_len.to_be_bytes());
    h[4..6].copy_from_slice(&fields.id.to_be_bytes());
    h[6] = if fields.dont_fragment { 0x40 } else { 0 };
    h[8] = fields.ttl;
    h[9] = fields.protocol;
    h[12..16].copy_from_slice(&fields.source.octets());
    h[16..20].copy_from_slice(&fields.destination.octets());
    let checksum = Checksum::of(&h).complement();
    h[10..12].copy_from_slice(&checksum.to_be_bytes());
    h
}
