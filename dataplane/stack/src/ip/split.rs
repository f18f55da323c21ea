//! Split: a packet of ours that is longer than the link takes, in fragments (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! In: the frame of a whole packet; over IPv6 one without extension headers. Out: the frames of its fragments, in order.
//! Never: a fragment of a fragment; a packet that others have sent on: who forwards over IPv6 does not cut.

use std::{hash::BuildHasher, hash::RandomState, net::IpAddr};

use culvert_wire::{Checksum, EtherType, EthernetView, Ipv4View, ether};

use super::fragment::V6_HEADER;

const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;
const V4_HEADER: usize = 20;

/// The frames that carry the packet of `frame` over a link that takes packets of `mtu` bytes; none if it takes not even
/// a part.
pub fn split(frame: &[u8], mtu: u16, id: u32) -> impl ExactSizeIterator<Item = Vec<u8>> + '_ {
    let v6 = EthernetView::new(frame).is_some_and(|it| it.ether_type() == EtherType::IPV6);
    let ip = frame.get(ether::HEADER_LEN..).unwrap_or_default();
    let header_len = match v6 {
        true => V6_HEADER,
        false => Ipv4View::new(ip).map_or(V4_HEADER, Ipv4View::header_len),
    };
    let (head, bytes) = frame
        .split_at_checked(ether::HEADER_LEN + header_len)
        .unwrap_or_default();
    let ahead = header_len + if v6 { FRAGMENT_HEADER } else { 0 };
    let size = usize::from(mtu).saturating_sub(ahead) & !7;
    let bytes = if size == 0 { &[][..] } else { bytes };
    let count = bytes.chunks(size.max(8)).len();
    bytes
        .chunks(size.max(8))
        .enumerate()
        .map(move |(place, part)| {
            let (start, more) = (place * size, place + 1 < count);
            match v6 {
                false => fragment_v4(head, part, (start, more), id),
                true => fragment_v6(head, part, (start, more), id),
            }
        })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "within a packet; IDs have 16 bits"
)]
fn fragment_v4(head: &[u8], part: &[u8], (start, more): (usize, bool), id: u32) -> Vec<u8> {
    let mut frame = [head, part].concat();
    let total = (frame.len() - ether::HEADER_LEN) as u16;
    let header = &mut frame[ether::HEADER_LEN..head.len()];
    let bits = (start / 8) as u16 | if more { 0x2000 } else { 0 };
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[4..6].copy_from_slice(&(id as u16).to_be_bytes());
    header[6..8].copy_from_slice(&bits.to_be_bytes());
    if start > 0 {
        blank_uncopied(&mut header[V4_HEADER..]);
    }
    header[10..12].fill(0);
    let sum = Checksum::of(header).complement();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Options that stand in the first fragment alone make room for nothing in the others (RFC 791, section 3.1).
fn blank_uncopied(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            END => return,
            NOTHING => 1,
            _ => options
                .get(at + 1)
                .map_or(1, |&len| usize::from(len.max(2))),
        };
        let end = (at + len).min(options.len());
        if kind & COPIED == 0 {
            options[at..end].fill(NOTHING);
        }
        at = end;
    }
}

fn fragment_v6(head: &[u8], part: &[u8], (start, more): (usize, bool), id: u32) -> Vec<u8> {
    const NEXT: usize = ether::HEADER_LEN + 6;
    const LENGTH: usize = ether::HEADER_LEN + 4;
    #[expect(clippy::cast_possible_truncation, reason = "within a packet")]
    let (bits, len) = (
        start as u16 | u16::from(more),
        (FRAGMENT_HEADER + part.len()) as u16,
    );
    let [bits_high, bits_low] = bits.to_be_bytes();
    let mut frame = Vec::with_capacity(head.len() + FRAGMENT_HEADER + part.len());
    frame.extend_from_slice(head);
    frame.extend_from_slice(&[head[NEXT], 0, bits_high, bits_low]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(part);
    frame[LENGTH..LENGTH + 2].copy_from_slice(&len.to_be_bytes());
    frame[NEXT] = FRAGMENT;
    frame
}

/// Counters; ways that have one in common use it up faster, no more.
const COUNTERS: usize = 256;

/// The identifications of what is split: nobody can tell from his own those that others get (RFC 7739, section 5.3).
pub struct Ids {
    key: RandomState,
    counters: Box<[u32; COUNTERS]>,
}

impl Ids {
    /// Of a key that nobody knows.
    #[must_use]
    pub fn new(key: RandomState) -> Self {
        Self {
            key,
            counters: Box::new([0; COUNTERS]),
        }
    }

    /// The next of a way; IPv4 has its lower half. A way's don't repeat before all were used.
    pub fn next(&mut self, source: IpAddr, destination: IpAddr) -> u32 {
        let hash = self.key.hash_one((source, destination));
        let [first, rest @ ..] = hash.to_le_bytes();
        let counter = &mut self.counters[usize::from(first)];
        *counter = counter.wrapping_add(1);
        let offset = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        offset.wrapping_add(*counter)
    }
}
