//! Cut: packets in fragments (RFC 791, section 3.2; RFC 8200, section 4.5): ours that are longer than their path takes,
//! and fragments of others that are longer than the host stack takes.
//!
//! In: a frame whose IP packet is whole or a fragment, how much fits. Out: frames with parts of it, in other buffers; of ours
//! the first stays where it was. Never: a packet that nobody may cut; headers behind IPv6's own, but a fragment's.
//!
//! ```text
//!  frame          | Ethernet | IP | UDP | datagram                                  |
//!  first          | Ethernet | IP | (Fragment) | UDP | datagram … |
//!  the others                        | Ethernet | IP | (Fragment) | … datagram … |
//! ```

use culvert_dpdk_sys::{Mbuf, MbufBurst, Mempool};
use culvert_wire::{Checksum, EtherType, EthernetView, Ipv4View, ether, ipv6};

use crate::shared::{drops::DropReason, limits};

const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;
const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
const MORE_V6: u16 = 1;
/// The longest IPv4 header.
const HEAD_MAX: usize = ether::HEADER_LEN + 60;

/// What all fragments of a packet begin with, and what it was a part of itself.
#[derive(Clone, Copy)]
struct Head {
    bytes: [u8; HEAD_MAX],
    len: usize,
    v6: bool,
    id: u32,
    /// What the fragments carry (IPv6).
    next: u8,
    /// Where in the packet the first of them begins.
    start: usize,
    /// Whether others follow the last of them.
    more: bool,
}

impl Head {
    /// Of a frame and what it carries behind; none if it is no IP packet.
    fn of(frame: &[u8], id: u32) -> Option<(Self, &[u8])> {
        let v6 = EthernetView::new(frame)?.ether_type() == EtherType::IPV6;
        let ip = frame.get(ether::HEADER_LEN..)?;
        let header = match v6 {
            true => ipv6::HEADER_LEN,
            false => Ipv4View::new(ip)?.header_len(),
        };
        let len = ether::HEADER_LEN + header;
        let mut bytes = [0; HEAD_MAX];
        bytes.get_mut(..len)?.copy_from_slice(frame.get(..len)?);
        let total = match v6 {
            true => header + usize::from(u16::from_be_bytes([ip[4], ip[5]])),
            false => usize::from(u16::from_be_bytes([ip[2], ip[3]])),
        };
        let carried = ip.get(header..total)?;
        let mut head = Self {
            bytes,
            len,
            v6,
            id,
            next: ip[6],
            start: 0,
            more: false,
        };
        if !v6 {
            let bits = u16::from_be_bytes([ip[6], ip[7]]);
            head.start = usize::from(bits & OFFSET_V4) * 8;
            head.more = bits & MORE_V4 != 0;
            return Some((head, carried));
        }
        if head.next != FRAGMENT {
            return Some((head, carried));
        }
        // It is a fragment's already.
        let (fragment, carried) = carried.split_first_chunk::<FRAGMENT_HEADER>()?;
        let [next, _, high, low, id @ ..] = *fragment;
        let bits = u16::from_be_bytes([high, low]);
        (head.next, head.id) = (next, u32::from_be_bytes(id));
        head.start = usize::from(bits & !7);
        head.more = bits & MORE_V6 != 0;
        Some((head, carried))
    }

    /// Bytes ahead of what a fragment carries.
    const fn ahead(&self) -> usize {
        self.len + if self.v6 { FRAGMENT_HEADER } else { 0 }
    }

    /// Bytes that a fragment carries in a frame of `most` bytes; at least some.
    fn size(&self, most: usize) -> usize {
        (most.saturating_sub(self.ahead()) & !7).max(8)
    }

    /// Writes what stands ahead of a part of `len` bytes, `offset` behind the first; `last`: none of ours follows.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within a packet; IPv4's IDs have 16 bits"
    )]
    fn write(&self, out: &mut [u8], (offset, len): (usize, usize), last: bool) {
        let (start, more) = (self.start + offset, self.more || !last);
        out[..self.len].copy_from_slice(&self.bytes[..self.len]);
        let ip = &mut out[ether::HEADER_LEN..];
        if self.v6 {
            let length = (FRAGMENT_HEADER + len) as u16;
            ip[4..6].copy_from_slice(&length.to_be_bytes());
            ip[6] = FRAGMENT;
            let [high, low] = (start as u16 | if more { MORE_V6 } else { 0 }).to_be_bytes();
            ip[40..44].copy_from_slice(&[self.next, 0, high, low]);
            ip[44..48].copy_from_slice(&self.id.to_be_bytes());
            return;
        }
        let header = self.len - ether::HEADER_LEN;
        let (total, bits) = (
            (header + len) as u16,
            (start / 8) as u16 | if more { MORE_V4 } else { 0 },
        );
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[6..8].copy_from_slice(&bits.to_be_bytes());
        ip[10..12].fill(0);
        let sum = Checksum::of(&ip[..header]).complement();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Cuts the packet in `mbuf` to frames of at most `most` bytes: it becomes the first of them, the others are put behind `rest`.
///
/// # Errors
/// When there are not enough buffers, or no room for them; nothing was done then.
pub(super) fn cut(
    mbuf: &mut Mbuf,
    (most, id): (usize, u32),
    pool: &Mempool,
    rest: &mut MbufBurst,
) -> Result<(), DropReason> {
    // 1. How many there are, and a buffer for each.
    let (head, carried) = Head::of(mbuf.bytes(), id).ok_or(DropReason::UplinkRefused)?;
    let size = head.size(most);
    let (first, mut others) = carried
        .split_at_checked(size)
        .ok_or(DropReason::UplinkRefused)?;
    let count = others.len().div_ceil(size);
    let place = rest.len();
    if rest.vacancy() < count || !pool.alloc(rest, count) {
        return Err(DropReason::UplinkFull);
    }

    // 2. The others.
    let mut offset = first.len();
    for fragment in &mut rest[place..] {
        let (part, left) = others.split_at(size.min(others.len()));
        fragment.room_mut()[..part.len()].copy_from_slice(part);
        if let Some(frame) = fragment.set_packet(part.len(), head.ahead()) {
            head.write(frame, (offset, part.len()), left.is_empty());
        }
        (offset, others) = (offset + part.len(), left);
    }

    // 3. The first: IPv6's moves up to make room for the header of a fragment.
    let grown = u16::try_from(head.ahead() - head.len).unwrap_or(0);
    mbuf.set_headroom(mbuf.headroom() - grown);
    mbuf.set_len(u16::try_from(head.ahead() + size).unwrap_or(u16::MAX));
    head.write(mbuf.bytes_mut(), (0, size), count == 0);
    Ok(())
}

/// Cuts a fragment that is longer than the host stack takes to ones that are not, and has them taken one by one.
///
/// # Errors
/// The first reason for which one is not taken: nothing comes of the packet then.
#[cold]
pub(super) fn divide(
    frame: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let mut piece = [0; limits::HOST_FRAME_MAX];
    let (head, carried) = Head::of(frame, 0).ok_or(DropReason::OuterFragment)?;
    let size = head.size(piece.len());
    let count = carried.len().div_ceil(size);
    for (place, part) in carried.chunks(size).enumerate() {
        let ahead = head.ahead();
        head.write(&mut piece, (place * size, part.len()), place + 1 == count);
        piece[ahead..ahead + part.len()].copy_from_slice(part);
        take(&piece[..ahead + part.len()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use culvert_stack::ip::{Packet, Reassembly, packet};
    use culvert_wire::parse::parse_frame;
    use culvert_wireguard::Instant;

    use super::*;

    fn v4(len: usize) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        frame[14] = 0x45;
        let total = u16::try_from(20 + len).unwrap().to_be_bytes();
        frame[16..18].copy_from_slice(&total);
        frame[18..20].copy_from_slice(&[0xab, 0xcd]);
        (frame[22], frame[23]) = (64, 17);
        frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
        let sum = Checksum::of(&frame[14..34]).complement();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend((0..251).cycle().take(len));
        frame
    }

    fn v6(len: usize) -> Vec<u8> {
        let mut frame = vec![0; 14 + 40];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        (frame[20], frame[21]) = (17, 64);
        frame[22..38].copy_from_slice(
            &"2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        frame[38..54].copy_from_slice(
            &"2001:db8::2"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        frame.extend((0..251).cycle().take(len));
        frame
    }

    /// What a host makes of these frames together.
    fn whole(frames: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut reassembly = Reassembly::default();
        frames.iter().find_map(|frame| {
            let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
            match packet(&headers, frame) {
                Ok(Some(Packet::Part(part))) => {
                    let lost = |reason| panic!("{reason:?}");
                    reassembly.add(&part, Instant::from_nanos(1), lost).unwrap()
                }
                other => panic!("{other:?}"),
            }
        })
    }

    /// The frames that `divide` makes of fragments of `size` bytes.
    fn divided(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
        let (head, carried) = Head::of(frame, 0x1234_5678).unwrap();
        let count = carried.len().div_ceil(size);
        let mut pieces = Vec::new();
        for (place, part) in carried.chunks(size).enumerate() {
            let mut fragment = vec![0; head.ahead()];
            head.write(
                &mut fragment,
                (place * size, part.len()),
                place + 1 == count,
            );
            fragment.extend_from_slice(part);
            let take = |piece: &[u8]| {
                pieces.push(piece.to_vec());
                Ok(())
            };
            divide(&fragment, take).unwrap();
        }
        pieces
    }

    #[test]
    fn long_fragments_become_shorter_ones_of_the_same_packet() {
        for frame in [v4(65_000), v6(65_000), v4(9_100), v6(2_100)] {
            for size in [8_952, 4_096, 2_048, 1_024] {
                let pieces = divided(&frame, size);
                assert!(
                    pieces
                        .iter()
                        .all(|piece| piece.len() <= limits::HOST_FRAME_MAX)
                );
                assert_eq!(
                    whole(&pieces).as_deref(),
                    Some(&frame[..]),
                    "{} by {size}",
                    frame.len()
                );
                let shuffled: Vec<_> = pieces.into_iter().rev().collect();
                assert_eq!(whole(&shuffled).as_deref(), Some(&frame[..]));
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_not_divided() {
        let cut_short = v6(100);
        for frame in [&[][..], &[0; 20], &v4(3_000)[..2_000], &cut_short[..60]] {
            let none = divide(frame, |_| panic!("it is none"));
            assert_eq!(none, Err(DropReason::OuterFragment));
        }
    }
}
