//! What makes a packet ours: 16 bytes at the start of each segment's payload.
//!
//! In: trial, flow, sequence, intended time. Out: 16 bytes, and back. Never: trust in bytes whose sum is not right.
//!
//! ```text
//!   0      2       3        6            10                 16
//!   | check | trial | flow 24 | sequence 32 | intended ns, 48 |     big-endian
//! ```
//!
//! At the start, because a super-frame that is cut has one in each of its segments, and packets that are joined have one
//! every segment: a trailer would be in the last one's end alone. The check makes the sum of all eight words (RFC 1071) the
//! same number in every signature. So 65,535 of 65,536 foreign payloads are seen to be none, and the checksum of layer 4
//! does not depend on what a signature says.

#![allow(
    clippy::cast_possible_truncation,
    reason = "fields are cut out of words"
)]

use culvert_wire::Checksum;

/// A signature's length.
pub const LEN: usize = 16;

/// What the eight words sum up to: neither zero nor all ones, which are the same in this arithmetic.
pub const SUM: u16 = 0xc01d;

/// What a signature says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which trial; a packet of one before is recognized by it.
    pub trial: u8,
    /// Which flow, of all streams; 24 bits.
    pub flow: u32,
    /// Which packet of its flow, modulo 2³².
    pub sequence: u32,
    /// When it was to leave, from the trial's beginning; 48 bits.
    pub intended_ns: u64,
}

impl Signature {
    /// Its bytes.
    #[inline]
    #[must_use]
    pub fn write(&self) -> [u8; LEN] {
        let high = u64::from(self.trial) << 40
            | u64::from(self.flow & 0x00ff_ffff) << 16
            | u64::from(self.sequence >> 16);
        let low = u64::from(self.sequence) << 48 | self.intended_ns & ((1 << 48) - 1);
        let check = fold(u64::from(SUM) + u64::from(!fold_two(high, low)));
        let high = high | u64::from(check) << 48;
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }

    /// What 16 bytes say, if they are a signature.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8; LEN]) -> Option<Self> {
        let whole = u128::from_be_bytes(*bytes);
        let (high, low) = ((whole >> 64) as u64, whole as u64);
        (fold_two(high, low) == SUM).then_some(Self {
            trial: (high >> 40) as u8,
            flow: (high >> 16) as u32 & 0x00ff_ffff,
            sequence: ((high as u32) << 16) | (low >> 48) as u32,
            intended_ns: low & ((1 << 48) - 1),
        })
    }

    /// What every signature adds to a checksum over it.
    #[must_use]
    pub fn checksum() -> Checksum {
        let mut sum = Checksum::ZERO;
        sum.add_u16(SUM);
        sum
    }
}

/// The sum of eight 16-bit words, with the carry around.
#[inline]
fn fold_two(high: u64, low: u64) -> u16 {
    let (sum, carry) = high.overflowing_add(low);
    fold(sum + u64::from(carry))
}

#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signatures_round_trip_and_sum_to_the_same(
            trial: u8, flow in 0u32..1 << 24, sequence: u32, intended_ns in 0u64..1 << 48, bit in 0usize..128,
        ) {
            let signature = Signature { trial, flow, sequence, intended_ns };
            let mut bytes = signature.write();
            prop_assert_eq!(Signature::read(&bytes), Some(signature));
            prop_assert_eq!(Checksum::of(&bytes).value(), SUM);
            // Whatever single bit turns over, it is none any more.
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Signature::read(&bytes), None);
        }
    }

    #[test]
    fn what_others_send_is_none() {
        assert_eq!(Signature::read(&[0; 16]), None);
        assert_eq!(Signature::read(&[0xff; 16]), None);
        assert_eq!(Signature::read(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(Signature::checksum().value(), SUM);
    }
}
