//! TCP: the 20 fixed bytes of a header (RFC 9293).
//!
//! In: a segment's start. Out: a view. Never: options; they are compared as bytes.

use crate::bytes::array;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Protocol number.
pub const PROTOCOL: u8 = 6;
/// Where the checksum field lies in the header.
pub const CHECKSUM_OFFSET: u16 = 16;

/// The flag byte's bits.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledgment number is valid.
    pub const ACK: u8 = 0x10;
    /// Urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// The fixed part of a TCP header.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a>(&'a [u8; HEADER_LEN]);

impl<'a> TcpView<'a> {
    /// A view of a segment's start; `None` if it has fewer than 20 bytes.
    #[inline]
    pub fn new(segment: &'a [u8]) -> Option<Self> {
        array(segment, 0).map(Self)
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

    /// Sequence number.
    #[inline]
    pub const fn sequence(self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// Acknowledgment number.
    #[inline]
    pub const fn acknowledgment(self) -> u32 {
        u32::from_be_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }

    /// Header length in bytes as claimed, 0 to 60.
    #[inline]
    pub const fn header_len(self) -> usize {
        (self.0[12] >> 4) as usize * 4
    }

    /// Reserved bits and the accurate-ECN bit beside the header length.
    #[inline]
    pub const fn reserved(self) -> u8 {
        self.0[12] & 0x0f
    }

    /// See [`flags`].
    #[inline]
    pub const fn flags(self) -> u8 {
        self.0[13]
    }

    /// Receive window.
    #[inline]
    pub const fn window(self) -> u16 {
        u16::from_be_bytes([self.0[14], self.0[15]])
    }

    /// Checksum as found.
    #[inline]
    pub const fn checksum(self) -> u16 {
        u16::from_be_bytes([self.0[16], self.0[17]])
    }

    /// Urgent pointer.
    #[inline]
    pub const fn urgent(self) -> u16 {
        u16::from_be_bytes([self.0[18], self.0[19]])
    }
}
