//! Segmentation and coalescing against each other and against independent sums.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and bytes of the tests' own making"
)]

mod common;

use common::{ETHERNET, Super, assert_sound, segments};
use culvert_wire::coalesce::{Accept, Coalescer};
use culvert_wire::segment::{Plan, SEGMENTS_MAX, SegmentError, forwardable};
use culvert_wire::{Checksum, MacAddr, VnetHeader, arp::ArpPacket, parse_frame, parse_ip};
use proptest::collection::vec;
use proptest::prelude::*;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;
const ECE: u8 = 0x40;

/// Super-frames as a guest may send them.
fn super_frame() -> impl Strategy<Value = Super> {
    let shape = (any::<bool>(), any::<bool>(), 1usize..60_000, 500u16..3000);
    let tcp = (0usize..=10, any::<u32>(), any::<[bool; 4]>());
    let ip = (any::<u16>(), any::<bool>(), any::<u8>(), 1u8..=255);
    let ends = (any::<(u16, u16)>(), any::<u8>(), any::<u64>());
    (shape, tcp, ip, ends).prop_map(|(shape, tcp, ip, ends)| {
        let (v6, udp, len, gso_size) = shape;
        // UDP's kernel limit on datagrams in a group.
        let len = if udp {
            len.min(60 * usize::from(gso_size))
        } else {
            len
        };
        let mut state = ends.2 | 1;
        let payload = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let [psh, ece, cwr, df] = tcp.2;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        Super {
            v6,
            udp,
            payload,
            gso_size,
            flags: ACK | flag(psh, PSH) | flag(ece, ECE) | flag(cwr, CWR),
            options: vec![1; tcp.0 * 4],
            sequence: tcp.1,
            id: ip.0,
            dont_fragment: df,
            tos: ip.2,
            ttl: ip.3,
            ports: ends.0,
            hosts: (ends.1, 2),
        }
    })
}

/// Pushes packets and puts every group together as its receiver would see it.
fn coalesce(
    coalescer: &mut Coalescer,
    accept: Accept,
    packets: &[Vec<u8>],
) -> Vec<(VnetHeader, Vec<u8>, Vec<u32>)> {
    coalescer.begin(accept, ETHERNET);
    for (index, packet) in packets.iter().enumerate() {
        let headers = parse_ip(packet).expect("the tests' packets parse");
        coalescer
            .push(index as u32, &headers, packet)
            .expect("room for the burst");
    }
    coalescer
        .groups()
        .map(|group| {
            let mut whole = group.header.to_vec();
            for member in group.members() {
                whole.extend(&packets[member.index as usize][member.range()]);
            }
            assert_eq!(whole.len(), group.len);
            let indices: Vec<u32> = group.members().map(|m| m.index).collect();
            assert_eq!(indices.len(), group.count());
            (group.vnet, whole, indices)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn segments_are_sound_and_join_to_what_was_cut(frame in super_frame()) {
        let vnet = frame.vnet(ETHERNET);
        let packets = segments(&vnet, &frame.frame(), 65_535).unwrap();
        prop_assert_eq!(packets.len(), frame.payload.len().div_ceil(frame.gso_size.into()));
        for packet in &packets {
            assert_sound(packet);
        }
        let mut coalescer = Coalescer::new(SEGMENTS_MAX);
        let groups = coalesce(&mut coalescer, Accept::ALL, &packets);
        prop_assert_eq!(groups.len(), 1);
        let (joined_vnet, joined, _) = &groups[0];
        if packets.len() > 1 {
            prop_assert_eq!(joined_vnet, &vnet);
            prop_assert_eq!(joined, &frame.packet());
        } else {
            prop_assert_eq!(joined, &packets[0]);
            prop_assert_eq!(joined_vnet.flags, VnetHeader::DATA_VALID);
        }
    }

    #[test]
    fn two_flows_shuffled_together_come_apart_again(
        a in super_frame(),
        b in super_frame(),
        choice in vec(any::<bool>(), 256),
    ) {
        let b = Super { hosts: (a.hosts.0.wrapping_add(1), 2), ..b };
        let left = segments(&a.vnet(ETHERNET), &a.frame(), 65_535).unwrap();
        let right = segments(&b.vnet(ETHERNET), &b.frame(), 65_535).unwrap();
        let (mut l, mut r) = (left.iter().peekable(), right.iter().peekable());
        let mut mixed = Vec::new();
        for pick in choice.into_iter().cycle() {
            match (l.peek(), r.peek()) {
                (None, None) => break,
                (Some(_), _) if pick => mixed.extend(l.next().cloned()),
                (_, Some(_)) => mixed.extend(r.next().cloned()),
                (Some(_), None) => mixed.extend(l.next().cloned()),
            }
        }
        let mut coalescer = Coalescer::new(2 * SEGMENTS_MAX);
        let groups = coalesce(&mut coalescer, Accept::ALL, &mixed);
        prop_assert_eq!(groups.len(), 2);
        for (frame, packets) in [(&a, &left), (&b, &right)] {
            let want = if packets.len() > 1 { frame.packet() } else { packets[0].clone() };
            prop_assert!(groups.iter().any(|(_, whole, _)| *whole == want));
        }
    }

    #[test]
    fn what_is_lost_or_exchanged_is_never_hidden(
        frame in super_frame(),
        drops in vec(any::<prop::sample::Index>(), 0..4),
        swaps in vec(any::<prop::sample::Index>(), 0..4),
        flips in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
    ) {
        let mut packets = segments(&frame.vnet(ETHERNET), &frame.frame(), 65_535).unwrap();
        for at in &drops {
            if packets.len() > 1 {
                packets.remove(at.index(packets.len()));
            }
        }
        for at in &swaps {
            if packets.len() > 1 {
                let at = at.index(packets.len() - 1);
                packets.swap(at, at + 1);
            }
        }
        for (packet, byte) in &flips {
            let packet = packet.index(packets.len());
            let packet = &mut packets[packet];
            // Behind the ports: it still parses and is of the same flow.
            let from = frame.l3_len() + 4;
            let at = from + byte.index(packet.len() - from);
            packet[at] ^= 0x55;
        }
        let mut coalescer = Coalescer::new(SEGMENTS_MAX);
        let groups = coalesce(&mut coalescer, Accept::ALL, &packets);
        // Everything comes out, in order; cut again, it is what went in.
        let order: Vec<u32> = groups.iter().flat_map(|g| g.2.clone()).collect();
        prop_assert_eq!(order, (0..packets.len() as u32).collect::<Vec<_>>());
        for (vnet, whole, indices) in &groups {
            if indices.len() == 1 {
                prop_assert_eq!(whole, &packets[indices[0] as usize]);
                continue;
            }
            let mut ethernet = frame.frame()[..ETHERNET].to_vec();
            ethernet.extend(whole);
            let again = segments(vnet, &ethernet, 65_535).unwrap();
            prop_assert_eq!(again.len(), indices.len());
            for (packet, index) in again.iter().zip(indices) {
                let mut want = packets[*index as usize].clone();
                if !frame.v6 {
                    // Identification counts up from the first of the group; the sum
                    // over the header changes with it.
                    want[4..6].copy_from_slice(&packet[4..6]);
                    want[10..12].copy_from_slice(&packet[10..12]);
                }
                prop_assert_eq!(packet, &want);
            }
        }
    }

    #[test]
    fn a_partial_checksum_alone_is_completed(frame in super_frame()) {
        let vnet = VnetHeader {
            gso_type: 0,
            gso_size: 0,
            ..frame.vnet(ETHERNET)
        };
        let packets = segments(&vnet, &frame.frame(), 65_535).unwrap();
        prop_assert_eq!(packets.len(), 1);
        assert_sound(&packets[0]);
        // Nothing but the checksum changed.
        let mut original = frame.packet();
        let field = frame.l3_len() + usize::from(vnet.csum_offset);
        original[field..field + 2].copy_from_slice(&packets[0][field..field + 2]);
        prop_assert_eq!(&packets[0], &original);
    }

    #[test]
    fn recut_tcp_fits_the_mtu_and_keeps_the_stream(frame in super_frame(), mtu in 700usize..1500) {
        prop_assume!(!frame.udp);
        let bytes = frame.frame();
        let head = &bytes[..bytes.len().min(256)];
        let headers = parse_frame(head, bytes.len() as u32).unwrap();
        let vnet = frame.vnet(ETHERNET);
        match Plan::recut(&vnet, &headers, head, mtu) {
            Ok(plan) => {
                let wanted = frame.payload.len().min(frame.gso_size.into());
                prop_assert_eq!(plan.is_recut(), plan.header_len(0) + wanted > mtu);
                let mut stream: Vec<u8> = Vec::new();
                for packet in common::carry_out(&plan, &headers, head, &bytes) {
                    assert_sound(&packet);
                    prop_assert!(packet.len() <= mtu);
                    stream.extend(&packet[plan.header_len(0)..]);
                }
                prop_assert_eq!(stream, frame.payload);
            }
            Err(error) => prop_assert_eq!(error, SegmentError::TooMany),
        }
    }

    #[test]
    fn sums_agree_with_the_rfc_however_cut(
        bytes in vec(any::<u8>(), 0..3000),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let want = common::sum(&bytes, 0) as u16;
        prop_assert_eq!(Checksum::of(&bytes).value() % 0xffff, want % 0xffff);
        let mut places: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let mut pieces = Checksum::ZERO;
        let mut raw = Checksum::ZERO;
        for pair in places.windows(2) {
            let piece = &bytes[pair[0]..pair[1]];
            pieces.add(piece);
            // SAFETY: the pointer and the length are a live slice's.
            unsafe { raw.add_raw(piece.as_ptr(), piece.len()) };
        }
        prop_assert_eq!(pieces.value() % 0xffff, want % 0xffff);
        prop_assert_eq!(raw.value(), pieces.value());
    }

    #[test]
    fn an_updated_field_is_as_good_as_a_new_sum(
        mut words in vec(any::<u16>(), 2..20),
        at in any::<prop::sample::Index>(),
        new in any::<u16>(),
    ) {
        let at = at.index(words.len() - 1) + 1;
        words[0] = 0;
        let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        let field = Checksum::of(&bytes(&words)).complement();
        let old = words[at];
        words[at] = new;
        words[0] = culvert_wire::checksum::update(field, old, new);
        // All zeros but the field is the one case where both zeros appear.
        let sum = Checksum::of(&bytes(&words));
        prop_assert!(sum.is_valid());
    }
}

/// A frame, its metadata after a change, and what must come of it.
fn refused(frame: &Super, change: impl FnOnce(&mut VnetHeader)) -> SegmentError {
    let mut vnet = frame.vnet(ETHERNET);
    change(&mut vnet);
    segments(&vnet, &frame.frame(), 1420).expect_err("refused")
}

#[test]
fn lies_in_the_metadata_have_names() {
    let tcp = Super::tcp(false, vec![7; 5000], 1360);
    let udp = Super::udp(true, vec![7; 5000], 1300);
    assert_eq!(refused(&tcp, |v| v.gso_size = 0), SegmentError::ZeroSize);
    assert_eq!(refused(&tcp, |v| v.gso_size = 1), SegmentError::TooMany);
    assert_eq!(refused(&tcp, |v| v.flags = 0), SegmentError::NotPartial);
    assert_eq!(
        refused(&tcp, |v| v.csum_start += 2),
        SegmentError::ChecksumPlace
    );
    assert_eq!(
        refused(&tcp, |v| v.csum_start = u16::MAX),
        SegmentError::ChecksumPlace
    );
    assert_eq!(
        refused(&tcp, |v| v.csum_offset = 6),
        SegmentError::ChecksumPlace
    );
    assert_eq!(
        refused(&tcp, |v| v.hdr_len = u16::MAX),
        SegmentError::HeaderLength
    );
    assert_eq!(
        refused(&tcp, |v| v.gso_type = VnetHeader::GSO_TCPV6),
        SegmentError::WrongProtocol
    );
    assert_eq!(
        refused(&tcp, |v| v.gso_type = VnetHeader::GSO_UDP_L4),
        SegmentError::WrongProtocol
    );
    assert_eq!(
        refused(&udp, |v| v.gso_type |= VnetHeader::GSO_ECN),
        SegmentError::WrongProtocol
    );
    for unknown in [2, VnetHeader::GSO_UDP, 6, 0x7f] {
        assert_eq!(
            refused(&tcp, |v| v.gso_type = unknown),
            SegmentError::UnknownKind
        );
    }
    for flags in [0x02, 0x12, 0x14, 0x30] {
        let odd = Super {
            flags,
            ..tcp.clone()
        };
        assert_eq!(refused(&odd, |_| ()), SegmentError::TcpFlags);
    }
    let big = Super::tcp(false, vec![7; 5000], 1448);
    assert_eq!(refused(&big, |_| ()), SegmentError::TooBig { mtu: 1420 });
    let big = Super::udp(false, vec![7; 5000], 1448);
    assert_eq!(refused(&big, |_| ()), SegmentError::TooBig { mtu: 1420 });
    // A plain packet above the MTU; its metadata asks for nothing.
    assert_eq!(
        refused(&tcp, |v| *v = VnetHeader::default()),
        SegmentError::TooBig { mtu: 1420 }
    );
    // The partial checksum of a plain packet past its end, or in its IP header.
    let small = Super::tcp(false, vec![7; 50], 0);
    for (start, offset) in [(34, 90), (120, 0), (u16::MAX, u16::MAX), (14, 16)] {
        let place = |v: &mut VnetHeader| {
            v.gso_type = 0;
            v.csum_start = start;
            v.csum_offset = offset;
        };
        assert_eq!(refused(&small, place), SegmentError::ChecksumPlace);
    }
}

/// Sixteen bits that a guest chooses are written where a partial checksum is completed: not into what a guard has looked at.
#[test]
fn a_partial_checksum_is_no_pen_for_what_was_looked_at() {
    let partial = |start: usize, offset: u16| VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start: u16::try_from(start).unwrap(),
        csum_offset: offset,
        ..VnetHeader::default()
    };
    let passes = |frame: &[u8], start, offset| {
        let headers = parse_frame(frame, frame.len() as u32).unwrap();
        forwardable(&partial(start, offset), &headers, frame).is_ok()
    };
    // ARP: the sender's address.
    let mut arp = [0; 60];
    let own = ArpPacket::request(MacAddr([2; 6]), [10, 0, 0, 2].into(), [10, 0, 0, 3].into());
    own.write_frame(&mut arp);
    for start in 14..arp.len() {
        for offset in 0..16 {
            assert!(!passes(&arp, start, offset));
        }
    }
    // ICMPv6: its type.
    let mut icmp = vec![2; 12];
    icmp.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    icmp.extend([[0xfe; 16], [0xff; 16]].concat());
    icmp.extend([200, 0, 0, 0, 0, 0, 0, 0]);
    icmp.extend([0; 24]);
    for start in 14..icmp.len() {
        for offset in 0..16 {
            assert!(!passes(&icmp, start, offset));
        }
    }
    // UDP and TCP: ports, lengths, numbers; their own checksums are, and what is inside of theirs.
    for (protocol, header, own) in [(17, 8, 6), (6, 20, 16)] {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 100, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, 2, 10, 0, 0, 3, 0, 67, 0, 99, 0, 80, 0, 0]);
        frame.resize(14 + 100, 0);
        if protocol == 6 {
            frame[46] = 0x50;
        }
        for start in 0..frame.len() {
            for offset in 0..24 {
                let inside = start >= 34 + header && start + usize::from(offset) + 2 <= 114;
                let is_own = (start, offset) == (34, own);
                assert_eq!(
                    passes(&frame, start, offset),
                    inside || is_own,
                    "{protocol}: {start} {offset}"
                );
            }
        }
        // A length that is no length would be mended so.
        if protocol == 17 {
            frame[39] = 3;
            assert!(!passes(&frame, 34, 6) && !passes(&frame, 34, 4) && !passes(&frame, 60, 2));
        }
    }
}

#[test]
fn only_checked_metadata_reaches_another_guest() {
    let tcp = Super::tcp(false, vec![7; 5000], 1360);
    let frame = tcp.frame();
    let head = &frame[..256];
    let headers = parse_frame(head, frame.len() as u32).unwrap();
    let good = tcp.vnet(ETHERNET);
    let pass = |change: &dyn Fn(&mut VnetHeader)| {
        let mut vnet = good;
        change(&mut vnet);
        forwardable(&vnet, &headers, head)
    };
    // What it says is handed on; what it claims beyond that is not.
    assert_eq!(pass(&|_| ()), Ok(good));
    assert_eq!(pass(&|v| v.hdr_len = 0), Ok(good));
    assert_eq!(pass(&|v| v.hdr_len = 1500), Ok(good));
    assert_eq!(pass(&|v| v.num_buffers = 9), Ok(good));
    assert_eq!(pass(&|v| v.flags |= 0xfe), Ok(good));
    let nothing = |v: &mut VnetHeader| {
        *v = VnetHeader {
            flags: VnetHeader::DATA_VALID,
            gso_size: 7,
            csum_start: 9,
            ..VnetHeader::default()
        };
    };
    assert_eq!(pass(&nothing), Ok(VnetHeader::default()));
    assert_eq!(pass(&|v| v.gso_size = 1), Err(SegmentError::TooMany));
    assert_eq!(pass(&|v| v.gso_size = 0), Err(SegmentError::ZeroSize));
    assert_eq!(
        pass(&|v| v.csum_start = 6000),
        Err(SegmentError::ChecksumPlace)
    );
    assert_eq!(
        pass(&|v| (v.gso_type, v.csum_start) = (0, 6000)),
        Err(SegmentError::ChecksumPlace)
    );
}

#[test]
fn a_udp_length_that_lies_is_refused() {
    let udp = Super::udp(false, vec![7; 5000], 1300);
    let mut frame = udp.frame();
    frame[14 + 20 + 5] -= 1;
    let error = segments(&udp.vnet(ETHERNET), &frame, 1420).expect_err("refused");
    assert_eq!(error, SegmentError::UdpLength);
}

#[test]
fn datagrams_are_never_recut() {
    let udp = Super::udp(false, vec![7; 5000], 1448);
    let frame = udp.frame();
    let headers = parse_frame(&frame[..256], frame.len() as u32).unwrap();
    assert_eq!(
        Plan::recut(&udp.vnet(ETHERNET), &headers, &frame[..256], 1420).expect_err("refused"),
        SegmentError::TooBig { mtu: 1420 }
    );
}

#[test]
fn flags_and_identification_follow_the_rules() {
    let frame = Super {
        flags: ACK | PSH | FIN | CWR | ECE,
        ..Super::tcp(false, vec![7; 3000], 1000)
    };
    let packets = segments(&frame.vnet(ETHERNET), &frame.frame(), 1420).unwrap();
    let flags: Vec<u8> = packets.iter().map(|p| p[33]).collect();
    assert_eq!(flags, [ACK | CWR | ECE, ACK | ECE, ACK | ECE | PSH | FIN]);
    let ids: Vec<u16> = packets
        .iter()
        .map(|p| u16::from_be_bytes([p[4], p[5]]))
        .collect();
    assert_eq!(ids, [0xfffe, 0xffff, 0]);
    let sequences: Vec<u32> = packets
        .iter()
        .map(|p| u32::from_be_bytes([p[24], p[25], p[26], p[27]]))
        .collect();
    assert_eq!(sequences, [0xffff_fc00, 0xffff_ffe8, 976]);
}

/// Three packets of a flow, each changed by `change`, and how they group.
fn grouping(base: &Super, change: impl Fn(usize, &mut Vec<u8>)) -> Vec<Vec<u32>> {
    let mut packets = segments(&base.vnet(ETHERNET), &base.frame(), 65_535).expect("a plan");
    for (index, packet) in packets.iter_mut().enumerate() {
        change(index, packet);
        complete(packet);
    }
    coalesce(&mut Coalescer::new(128), Accept::ALL, &packets)
        .into_iter()
        .map(|(_, _, indices)| indices)
        .collect()
}

/// Sums a changed packet anew, so that only the change itself is seen.
fn complete(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let header = usize::from(packet[0] & 15) * 4;
        let check = !(common::sum(&packet[..header], 0) as u16);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }
    let (l4, protocol) = common::layer4(packet);
    let field = l4 + if protocol == 17 { 6 } else { 16 };
    packet[field..field + 2].fill(0);
    let check = !(common::sum(&packet[l4..], common::pseudo(packet, l4, protocol)) as u16);
    packet[field..field + 2].copy_from_slice(&check.to_be_bytes());
}

#[test]
fn a_difference_in_any_header_field_parts_a_flow() {
    let v4 = Super::tcp(false, vec![7; 3000], 1000);
    let v6 = Super::tcp(true, vec![7; 3000], 1000);
    let together = vec![vec![0, 1, 2]];
    assert_eq!(grouping(&v4, |_, _| ()), together);
    assert_eq!(grouping(&v6, |_, _| ()), together);
    let apart = vec![vec![0], vec![1], vec![2]];
    // Of the middle packet: TOS, DF, TTL; ack, window, urgent pointer, an option, the
    // bits beside the header length, ECE, URG, SYN, FIN, RST.
    for at in [1, 6, 8, 28 + 3, 34, 38, 44] {
        let change = |i: usize, p: &mut Vec<u8>| {
            if i == 1 {
                p[at] ^= 0x40;
            }
        };
        assert_eq!(grouping(&v4, change), apart, "IPv4 byte {at}");
    }
    for (at, bit) in [(32, 1), (33, 0x40), (33, 0x20), (33, 2), (33, 1), (33, 4)] {
        let change = |i: usize, p: &mut Vec<u8>| {
            if i == 1 {
                p[at] ^= bit;
            }
        };
        assert_eq!(grouping(&v4, change), apart, "IPv4 byte {at}, bit {bit:x}");
    }
    // Traffic class, flow label, hop limit.
    for at in [1, 3, 7] {
        let change = |i: usize, p: &mut Vec<u8>| {
            if i == 1 {
                p[at] ^= 0x20;
            }
        };
        assert_eq!(grouping(&v6, change), apart, "IPv6 byte {at}");
    }
    // PSH closes after itself, CWR begins anew.
    let push = |i: usize, p: &mut Vec<u8>| {
        if i == 1 {
            p[33] |= PSH;
        }
    };
    assert_eq!(grouping(&v4, push), [vec![0, 1], vec![2]]);
    let reduced = |i: usize, p: &mut Vec<u8>| {
        if i == 1 {
            p[33] |= CWR;
        }
    };
    assert_eq!(grouping(&v4, reduced), [vec![0], vec![1, 2]]);
}

#[test]
fn identification_rises_or_with_df_stays() {
    // As in Linux (`inet_gro_flush`): without DF a fragment of one packet must not be taken for another's.
    for base in [Super::tcp, Super::udp] {
        for (ids, df, expected) in [
            ([9, 10, 11], true, vec![vec![0, 1, 2]]),
            ([9, 10, 11], false, vec![vec![0, 1, 2]]),
            ([0xfffe, 0xffff, 0], false, vec![vec![0, 1, 2]]),
            ([9, 9, 9], true, vec![vec![0, 1, 2]]),
            ([0, 0, 0], true, vec![vec![0, 1, 2]]),
            ([9, 9, 9], false, vec![vec![0], vec![1], vec![2]]),
            ([9, 9, 10], true, vec![vec![0, 1], vec![2]]),
            ([9, 10, 10], true, vec![vec![0, 1], vec![2]]),
            ([9, 10, 12], false, vec![vec![0, 1], vec![2]]),
            ([9, 11, 12], false, vec![vec![0], vec![1, 2]]),
            ([9, 8, 7], true, vec![vec![0], vec![1], vec![2]]),
            ([9, 300, 7000], true, vec![vec![0], vec![1], vec![2]]),
        ] {
            let base = Super {
                dont_fragment: df,
                ..base(false, vec![7; 3000], 1000)
            };
            let change = |i: usize, p: &mut Vec<u8>| {
                p[4..6].copy_from_slice(&u16::to_be_bytes(ids[i]));
            };
            assert_eq!(grouping(&base, change), expected, "{ids:x?}, DF {df}");
        }
    }
}

#[test]
fn wrong_and_missing_checksums_pass_alone() {
    let udp = Super::udp(false, vec![7; 3000], 1000);
    let mut packets = segments(&udp.vnet(ETHERNET), &udp.frame(), 65_535).unwrap();
    packets[1][26..28].fill(0);
    let groups = coalesce(&mut Coalescer::new(128), Accept::ALL, &packets);
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[1].0, VnetHeader::default());
    packets[1][26..28].fill(0x11);
    let groups = coalesce(&mut Coalescer::new(128), Accept::ALL, &packets);
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[1].0, VnetHeader::default());
}

#[test]
fn fragments_keep_their_place_between_the_same_hosts() {
    let udp = Super::udp(false, vec![7; 4000], 1000);
    let mut packets = segments(&udp.vnet(ETHERNET), &udp.frame(), 65_535).unwrap();
    packets[1][6] = 0x20;
    complete(&mut packets[1]);
    let groups = coalesce(&mut Coalescer::new(128), Accept::ALL, &packets);
    let order: Vec<_> = groups.into_iter().map(|g| g.2).collect();
    assert_eq!(order, [vec![0], vec![1], vec![2, 3]]);
}

#[test]
fn the_receiver_gets_only_what_it_takes() {
    let kinds = [
        (Super::tcp(false, vec![7; 3000], 1000), 0),
        (Super::tcp(true, vec![7; 3000], 1000), 1),
        (Super::udp(false, vec![7; 3000], 1000), 2),
        (Super::udp(true, vec![7; 3000], 1000), 3),
    ];
    for (frame, kind) in &kinds {
        let packets = segments(&frame.vnet(ETHERNET), &frame.frame(), 65_535).unwrap();
        for taken in 0..4 {
            let accept = Accept {
                csum: true,
                tso4: taken == 0,
                tso6: taken == 1,
                uso4: taken == 2,
                uso6: taken == 3,
                ecn: false,
            };
            let groups = coalesce(&mut Coalescer::new(128), accept, &packets);
            assert_eq!(groups.len(), if taken == *kind { 1 } else { 3 });
        }
        let nothing = coalesce(&mut Coalescer::new(128), Accept::NONE, &packets);
        assert!(nothing.iter().all(|g| g.0 == VnetHeader::default()));
        assert_eq!(nothing.len(), 3);
    }
    let ecn = Super {
        flags: ACK | CWR,
        ..kinds[0].0.clone()
    };
    let packets = segments(&ecn.vnet(ETHERNET), &ecn.frame(), 65_535).unwrap();
    let without = Accept {
        ecn: false,
        ..Accept::ALL
    };
    let groups = coalesce(&mut Coalescer::new(128), without, &packets);
    assert_eq!(groups.len(), 2, "the first alone, the others together");
}

#[test]
fn a_group_stays_a_valid_packet_and_the_table_its_size() {
    let frame = Super::tcp(false, vec![7; 40_000], 1000);
    let mut packets = segments(&frame.vnet(ETHERNET), &frame.frame(), 65_535).unwrap();
    let next = Super {
        sequence: frame.sequence.wrapping_add(40_000),
        id: frame.id.wrapping_add(40),
        ..frame.clone()
    };
    packets.extend(segments(&next.vnet(ETHERNET), &next.frame(), 65_535).unwrap());
    let groups = coalesce(&mut Coalescer::new(128), Accept::ALL, &packets);
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].2.len(), 65);

    let mut small = Coalescer::new(2);
    small.begin(Accept::ALL, 0);
    let pushed: Vec<bool> = (0..3)
        .map(|i| {
            let headers = parse_ip(&packets[i]).unwrap();
            small.push(i as u32, &headers, &packets[i]).is_ok()
        })
        .collect();
    assert_eq!(pushed, [true, true, false]);
    assert_eq!(small.groups().count(), 1);
}
