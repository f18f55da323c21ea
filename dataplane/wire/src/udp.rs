//! UDP: the header (RFC 768).
//!
//! In: a datagram's start. Out: a view. Never: a judgement on the length field.

use crate::bytes::array;

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// Protocol number.
pub const PROTOCOL: u8 = 17;
/// Where the checksum field lies in the header.
pub const CHECKSUM_OFFSET: u16 = 6;

/// A UDP header.
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a>(&'a [u8; HEADER_LEN]);

impl<'a> UdpView<'a> {
    /// A view of a datagram's start; `None` if it has fewer than 8 bytes.
    #[inline]
    pub fn new(datagram: &'a [u8]) -> Option<Self> {
        array(datagram, 0).map(Self)
    }

    /// Source port.
    #[inline]
    pub const fn source_port(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Destination port.
    #[inline]
    pub const fn destination_port(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Length of header and payload as claimed.
    #[inline]
    pub const fn length(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Checksum as found; 0 over IPv4 means "none".
    #[inline]
    pub const fn checksum(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
}
