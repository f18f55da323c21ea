//! IPv6: the 40 fixed bytes of a header (RFC 8200).
//!
//! In: a packet's start. Out: a view, or a finished header.
//! Never: extension headers; `parse` walks those.

use std::net::Ipv6Addr;

use crate::bytes::array;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;

/// The fixed IPv6 header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6View<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ipv6View<'a> {
    /// A view of a packet's start; `None` if it has fewer than 40 bytes.
    #[inline]
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        array(packet, 0).map(Self)
    }

    /// The version nibble; 6 in a proper header.
    #[inline]
    pub const fn version(self) -> u8 {
        self.0[0] >> 4
    }

    /// DSCP and ECN.
    #[inline]
    pub const fn traffic_class(self) -> u8 {
        (self.0[0] << 4) | (self.0[1] >> 4)
    }

    /// Flow label, 20 bits.
    #[inline]
    pub const fn flow_label(self) -> u32 {
        u32::from_be_bytes([0, self.0[1] & 0x0f, self.0[2], self.0[3]])
    }

    /// Bytes after the fixed header as claimed.
    #[inline]
    pub const fn payload_len(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// What follows the fixed header.
    #[inline]
    pub const fn next_header(self) -> u8 {
        self.0[6]
    }

    /// Hop limit.
    #[inline]
    pub const fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> Ipv6Addr {
        Ipv6Addr::from(octets(self.0, 8))
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> Ipv6Addr {
        Ipv6Addr::from(octets(self.0, 24))
    }
}

#[inline(always)]
fn octets(header: &[u8; HEADER_LEN], offset: usize) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&header[offset..offset + 16]);
    out
}

/// What a header of ours says.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Fields {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Protocol number.
    pub next_header: u8,
    /// Bytes after the fixed header.
    pub payload_len: u16,
}

/// A header with flow label 0.
#[inline]
pub fn header(fields: &Ipv6Fields) -> [u8; HEADER_LEN] {
    let mut h = [0; HEADER_LEN];
    h[0] = 0x60 | (fields.traffic_class >> 4);
    h[1] = fields.traffic_class << 4;
    h[4..6].copy_from_slice(&fields.payload_len.to_be_bytes());
    h[6] = fields.next_header;
    h[7] = fields.hop_limit;
    h[8..24].copy_from_slice(&fields.source.octets());
    h[24..40].copy_from_slice(&fields.destination.octets());
    h
}
