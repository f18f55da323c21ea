//! TCP: the 20 fixed bytes of a header (RFC 9293), and the one option that a router may lower.
//!
//! In: a segment's start. Out: a view; a smaller MSS. Never: other options; they are compared as bytes.

use crate::bytes::array;
use crate::checksum;

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

/// Lowers the MSS that a SYN offers to `most`, its checksum with it, and says whether it was more. `header` is the whole
/// TCP header. Who offers none means 536 or 1220 bytes (RFC 9293, section 3.7.1), and is left to it.
pub fn clamp_mss(header: &mut [u8], most: u16) -> bool {
    let Some(at) = mss(header) else { return false };
    let offered = u16::from_be_bytes([header[at], header[at + 1]]);
    if offered <= most {
        return false;
    }
    header[at..at + 2].copy_from_slice(&most.to_be_bytes());
    // Behind an odd number of bytes its halves are summed in two words, the other way round.
    let [old, new] = [offered, most].map(|mss| match at % 2 {
        0 => mss,
        _ => mss.swap_bytes(),
    });
    let field = usize::from(CHECKSUM_OFFSET);
    let sum = u16::from_be_bytes([header[field], header[field + 1]]);
    let sum = checksum::update(sum, old, new);
    header[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Where the value of the MSS option lies.
fn mss(header: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;
    let mut at = HEADER_LEN;
    loop {
        match *header.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if kind == MSS && len == 4 {
                    return (at + 4 <= header.len()).then_some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Checksum;

    /// A SYN with these options, its checksum right but for the pseudo-header.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0x12, 0x34, 0, 80, 9, 8, 7, 6, 0, 0, 0, 0, 0, 2, 0xff, 0xff];
        header.extend([0, 0, 0, 0]);
        header.extend(options);
        header.resize(header.len().next_multiple_of(4), 0);
        header[12] = u8::try_from(header.len() / 4).unwrap() << 4;
        let sum = Checksum::of(&header).complement();
        header[16..18].copy_from_slice(&sum.to_be_bytes());
        header
    }

    #[test]
    fn an_mss_that_is_too_large_is_lowered_wherever_it_lies() {
        let layouts: [&[u8]; 4] = [
            &[2, 4, 5, 180],
            &[1, 2, 4, 5, 180],
            &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 2, 4, 5, 180],
            &[3, 3, 7, 2, 4, 5, 180],
        ];
        for options in layouts {
            for (most, lowered) in [(1459, true), (536, true), (1460, false), (9000, false)] {
                let mut header = syn(options);
                let before = header.clone();
                assert_eq!(clamp_mss(&mut header, most), lowered);
                assert!(Checksum::of(&header).is_valid(), "{options:?} to {most}");
                let at = mss(&header).unwrap();
                let found = u16::from_be_bytes([header[at], header[at + 1]]);
                assert_eq!(found, most.min(1460));
                header[at..at + 2].copy_from_slice(&before[at..at + 2]);
                header[16..18].copy_from_slice(&before[16..18]);
                assert_eq!(header, before, "nothing else changes");
            }
        }
    }

    #[test]
    fn options_that_lie_are_left_alone() {
        let layouts: [&[u8]; 6] = [
            &[],
            &[0, 2, 4, 5, 180],
            &[2, 3, 5, 180],
            &[8, 0, 2, 4, 5, 180],
            &[8, 200, 2, 4, 5, 180],
            &[1, 1, 2, 4],
        ];
        for options in layouts {
            let mut header = syn(options);
            let before = header.clone();
            assert!(!clamp_mss(&mut header, 100));
            assert_eq!(header, before);
        }
        for len in 0..24 {
            let header = syn(&[2, 4, 5, 180]);
            assert!(!clamp_mss(&mut header[..len].to_vec(), 100), "{len} bytes");
        }
    }
}
