//! The Internet checksum (RFC 1071), whole, in pieces, and updated in place (RFC 1624).
//!
//! In: bytes in any number of pieces of any length. Out: 16-bit sums.
//! Never: a second look at a byte; callers decide what a wrong sum means.
//!
//! The sum of 16-bit words does not depend on byte order until the end, so pieces are
//! summed in the processor's order and turned once. A piece that starts at an odd
//! offset has its sum's bytes exchanged.

use std::net::{Ipv4Addr, Ipv6Addr};

mod raw;

/// A running one's-complement sum over consecutive pieces of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Sum of 16-bit words in native order, not folded. Pieces are folded to at most
    /// 17 bits each before they come in, so it can't overflow.
    sum: u64,
    /// True after an odd number of bytes.
    odd: bool,
}

impl Checksum {
    /// The sum of nothing.
    pub const ZERO: Self = Self { sum: 0, odd: false };

    /// The sum of one slice.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            sum: u64::from(fold(sum_native(bytes))),
            odd: !bytes.len().is_multiple_of(2),
        }
    }

    /// Adds the bytes that follow those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.append(Self::of(bytes));
    }

    /// Adds what another accumulator summed as the bytes that follow.
    #[inline]
    pub fn append(&mut self, next: Self) {
        let folded = fold(next.sum);
        let aligned = if self.odd {
            folded.swap_bytes()
        } else {
            folded
        };
        self.sum += u64::from(aligned);
        self.odd ^= next.odd;
    }

    /// Adds a 16-bit field's value as the two bytes that follow.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        let word = value.to_be();
        self.sum += u64::from(if self.odd { word.swap_bytes() } else { word });
    }

    /// Adds a 32-bit field's value as the four bytes that follow.
    #[inline]
    pub fn add_u32(&mut self, value: u32) {
        let words = fold(u64::from(value.to_be()));
        self.sum += u64::from(if self.odd { words.swap_bytes() } else { words });
    }

    /// The pseudo-header of RFC 793 and 768: addresses, protocol, L4 length.
    #[inline]
    pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, l4_len: u32) -> Self {
        let source = u64::from(u32::from_ne_bytes(source.octets()));
        let destination = u64::from(u32::from_ne_bytes(destination.octets()));
        Self {
            sum: u64::from(fold(source + destination + pseudo_tail(protocol, l4_len))),
            odd: false,
        }
    }

    /// The pseudo-header of RFC 8200, section 8.1.
    #[inline]
    pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, l4_len: u32) -> Self {
        let addresses = halves(source) + halves(destination);
        Self {
            sum: u64::from(fold(addresses + pseudo_tail(protocol, l4_len))),
            odd: false,
        }
    }

    /// The folded sum, as a field's value. A guest's partial checksum is this.
    #[inline]
    pub fn value(self) -> u16 {
        u16::from_be(fold(self.sum))
    }

    /// The checksum field's value: the sum's complement.
    #[inline]
    pub fn complement(self) -> u16 {
        !self.value()
    }

    /// The UDP checksum field's value: a computed 0 is sent as 0xffff (RFC 768).
    #[inline]
    pub fn complement_udp(self) -> u16 {
        match self.complement() {
            0 => 0xffff,
            value => value,
        }
    }

    /// True if the bytes summed contain a correct checksum of themselves.
    #[inline]
    pub fn is_valid(self) -> bool {
        fold(self.sum) == 0xffff
    }
}

/// A running sum of whole fields at even places: nothing to keep but the sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields(u64);

impl Fields {
    /// What was summed of an even number of bytes.
    #[inline]
    pub(crate) fn of(sum: Checksum) -> Self {
        debug_assert!(!sum.odd, "whole fields");
        Self(u64::from(fold(sum.sum)))
    }

    #[inline(always)]
    pub(crate) fn add_u16(&mut self, value: u16) {
        self.0 += u64::from(value.to_be());
    }

    /// Its halves need not be added up: a carry out of the lower one is one of 2^16, which is 1.
    #[inline(always)]
    pub(crate) fn add_u32(&mut self, value: u32) {
        self.0 += u64::from(value.to_be());
    }

    /// With the bytes that follow, whose number may be odd.
    #[inline(always)]
    pub(crate) fn then(self, next: Checksum) -> Checksum {
        Checksum {
            sum: u64::from(fold(self.0)) + u64::from(fold(next.sum)),
            odd: next.odd,
        }
    }

    /// The checksum field's value: the sum's complement.
    #[inline(always)]
    pub(crate) fn complement(self) -> u16 {
        !u16::from_be(fold(self.0))
    }
}

/// A checksum field after one 16-bit word under it changed (RFC 1624, equation 3).
#[inline]
pub fn update(field: u16, old: u16, new: u16) -> u16 {
    let sum = u64::from(!field) + u64::from(!old) + u64::from(new);
    !fold(sum)
}

#[inline(always)]
fn pseudo_tail(protocol: u8, l4_len: u32) -> u64 {
    u64::from(l4_len.to_be()) + u64::from(u16::from(protocol).to_be())
}

#[inline(always)]
fn halves(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
    u64::from(u32::from_ne_bytes([a, b, c, d]))
        + u64::from(u32::from_ne_bytes([e, f, g, h]))
        + u64::from(u32::from_ne_bytes([i, j, k, l]))
        + u64::from(u32::from_ne_bytes([m, n, o, p]))
}

/// Folds to 16 bits with end-around carry. Zero only for zero.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // A number plus itself with its halves exchanged has, in its upper half, the sum of
    // the halves with the carry already around.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Sums 32-bit words in native order; a last odd byte is padded with zero.
#[inline]
fn sum_native(bytes: &[u8]) -> u64 {
    if bytes.len() >= raw::LONG {
        return raw::sum_slice(bytes);
    }
    sum_short(bytes)
}

/// As [`sum_native`], for headers: no set-up, one addition per 8 bytes.
#[inline]
fn sum_short(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = 0u64;
    for word in words {
        let (next, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
        sum = next + u64::from(carry);
    }
    // Room for what is left.
    let mut sum = (sum >> 32) + (sum & 0xffff_ffff);
    let mut rest = rest;
    if let Some((word, next)) = rest.split_first_chunk::<4>() {
        sum += u64::from(u32::from_ne_bytes(*word));
        rest = next;
    }
    if let Some((word, next)) = rest.split_first_chunk::<2>() {
        sum += u64::from(u16::from_ne_bytes(*word));
        rest = next;
    }
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}
