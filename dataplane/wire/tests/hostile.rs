//! Bytes and metadata as an attacker would choose them: nothing panics, and what comes
//! out keeps its bounds.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and bytes of the tests' own making"
)]

mod common;

use common::{ETHERNET, Super};
use culvert_wire::arp::ArpPacket;
use culvert_wire::coalesce::{Accept, Coalescer};
use culvert_wire::icmp::{ANSWER_LEN_MAX, IcmpError, echo_reply_in_place, write_error};
use culvert_wire::nd::NdMessage;
use culvert_wire::parse::{Fragment, HEAD_LEN, L3, L4, ParseError};
use culvert_wire::segment::{Plan, SEGMENTS_MAX, SegmentError, may_fragment};
use culvert_wire::{Checksum, Headers, VnetHeader, parse_frame, parse_ip};
use proptest::collection::vec;
use proptest::prelude::*;

/// Frames from nonsense to nearly right.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let noise = vec(any::<u8>(), 0..400);
    let typed = (
        prop_oneof![Just([8u8, 0]), Just([8, 6]), Just([0x86, 0xdd])],
        vec(any::<u8>(), 0..400),
    )
        .prop_map(|(kind, rest)| [vec![2; 12], kind.to_vec(), rest].concat());
    let damaged = (
        any::<(bool, bool)>(),
        0usize..3000,
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|((v6, udp), len, changes, cut, cutting)| {
            let whole = if udp {
                Super::udp(v6, vec![1; len], 1000)
            } else {
                Super::tcp(v6, vec![1; len], 1000)
            };
            let mut bytes = whole.frame();
            for (at, value) in changes {
                let at = at.index(bytes.len().min(120));
                bytes[at] = value;
            }
            if cutting {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        });
    prop_oneof![noise, typed, damaged]
}

fn metadata() -> impl Strategy<Value = VnetHeader> {
    let near = (
        prop_oneof![Just(0u8), Just(1), any::<u8>()],
        prop_oneof![
            Just(0u8),
            Just(1),
            Just(4),
            Just(5),
            Just(0x81),
            any::<u8>()
        ],
        prop_oneof![Just(34u16), Just(54), any::<u16>()],
        prop_oneof![Just(16u16), Just(6), any::<u16>()],
        prop_oneof![0u16..2000, any::<u16>()],
        prop_oneof![0u16..200, any::<u16>()],
    );
    near.prop_map(
        |(flags, gso_type, csum_start, csum_offset, gso_size, hdr_len)| VnetHeader {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
            num_buffers: 0,
        },
    )
}

fn assert_bounds(headers: &Headers, frame_len: usize, head_len: usize) {
    assert!(headers.l3_offset <= headers.l4_offset);
    assert!(headers.l4_offset <= headers.payload_offset);
    assert!(headers.payload_offset <= headers.l3_offset + headers.ip_len);
    assert!(headers.l3_offset + headers.ip_len <= frame_len);
    assert!(headers.payload_offset <= head_len);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn parsing_is_total_and_bounded(bytes in frame(), beyond in 0u32..70_000) {
        let head = &bytes[..bytes.len().min(HEAD_LEN)];
        for len in [bytes.len() as u32, bytes.len() as u32 + beyond, beyond] {
            if let Ok(headers) = parse_frame(head, len) {
                assert_bounds(&headers, len as usize, head.len());
            }
        }
        if let Ok(headers) = parse_ip(&bytes) {
            assert_bounds(&headers, bytes.len(), bytes.len());
        }
    }

    #[test]
    fn every_plan_keeps_its_bounds(bytes in frame(), vnet in metadata(), mtu in 0usize..10_000) {
        let head = &bytes[..bytes.len().min(HEAD_LEN)];
        let Ok(headers) = parse_frame(head, bytes.len() as u32) else {
            return Ok(());
        };
        let sum = |part: std::ops::Range<usize>| Some(Checksum::of(&bytes[part]));
        let fragments = match may_fragment(&vnet, &headers) {
            true => Plan::fragment(&vnet, &headers, head, mtu, sum),
            false => Err(SegmentError::Fragment),
        };
        for plan in [
            Plan::new(&vnet, &headers, head, mtu),
            Plan::recut(&vnet, &headers, head, mtu),
            fragments,
        ] {
            let Ok(plan) = plan else { continue };
            prop_assert!((1..=SEGMENTS_MAX).contains(&plan.count()));
            prop_assert!(plan.len_max() <= mtu);
            prop_assert!(plan.header_len(0) <= HEAD_LEN);
            let packets = common::carry_out(&plan, &headers, head, &bytes);
            prop_assert_eq!(packets.len(), plan.count());
            // A foreign head or too little room is answered, not trusted.
            let mut out = [0; HEAD_LEN];
            prop_assert_eq!(plan.write_headers(0, &[], Checksum::ZERO, &mut out), 0);
            let short = plan.header_len(0).saturating_sub(1);
            if short > 0 {
                let len = plan.write_headers(0, head, Checksum::ZERO, &mut out[..short]);
                prop_assert_eq!(len, 0);
            }
            let len = plan.write_headers(usize::MAX, head, Checksum::ZERO, &mut out);
            prop_assert_eq!(len, 0);
        }
    }

    #[test]
    fn answers_are_total(bytes in frame()) {
        let head = &bytes[..bytes.len().min(HEAD_LEN)];
        let mut out = [0; ANSWER_LEN_MAX];
        if let Ok(headers) = parse_frame(head, bytes.len() as u32) {
            for error in [IcmpError::TooBig { mtu: 1420 }, IcmpError::Unreachable] {
                for source in ["10.0.0.1", "fd00::1"] {
                    let source = source.parse().unwrap();
                    if let Ok(len) = write_error(error, &headers, head, source, &mut out) {
                        common::assert_icmp(&out[..len]);
                    }
                }
            }
            let _ = NdMessage::parse(&headers, &bytes);
            let _ = ArpPacket::parse(&bytes[ETHERNET..]);
        }
        let mut packet = bytes.clone();
        if let Some(len) = echo_reply_in_place(&mut packet) {
            common::assert_icmp(&packet[..len]);
        }
    }

    #[test]
    fn whatever_is_pushed_comes_out_once_and_in_order(burst in vec(frame(), 0..40)) {
        let mut coalescer = Coalescer::new(64);
        coalescer.begin(Accept::ALL, ETHERNET);
        let mut pushed = Vec::new();
        for (index, bytes) in burst.iter().enumerate() {
            let packet = bytes.get(ETHERNET..).unwrap_or(&[]);
            if let Ok(headers) = parse_ip(packet) {
                prop_assert!(coalescer.push(index as u32, &headers, packet).is_ok());
                pushed.push(index as u32);
            }
        }
        let mut seen: Vec<u32> = coalescer
            .groups()
            .flat_map(|group| group.members().map(|m| m.index).collect::<Vec<_>>())
            .collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, pushed);
    }
}

fn v6_with_extensions(chain: &[u8], first: u8, tail: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(((chain.len() + tail.len()) as u16).to_be_bytes());
    packet.extend([first, 64]);
    packet.extend([[0xfd; 16], [0xfc; 16]].concat());
    packet.extend(chain);
    packet.extend(tail);
    packet
}

#[test]
fn extension_headers_are_walked_to_layer_4() {
    let udp = [0, 7, 0, 9, 0, 8, 0, 0];
    // Hop-by-hop of 16 bytes, destination options of 8, then UDP.
    let mut chain = vec![60, 1];
    chain.extend([0; 14]);
    chain.extend([17, 0, 0, 0, 0, 0, 0, 0]);
    let packet = v6_with_extensions(&chain, 0, &udp);
    let headers = parse_ip(&packet).unwrap();
    assert!(matches!(headers.l4, L4::Udp(udp) if udp.destination_port == 9));
    assert_eq!((headers.l4_offset, headers.payload_offset), (64, 72));
    let L3::V6(ip) = headers.l3 else {
        panic!("IPv6")
    };
    assert_eq!((ip.protocol, ip.header_len), (17, 64));
    assert!(headers.complete);
    // Endless chains and chains past the end stop.
    let long = [0u8; 8].repeat(40);
    let headers = parse_ip(&v6_with_extensions(&long, 0, &[])).unwrap();
    assert_eq!((headers.l4, headers.complete), (L4::Other, false));
    let headers = parse_ip(&v6_with_extensions(&[17, 255, 0, 0, 0, 0, 0, 0], 0, &[])).unwrap();
    assert_eq!((headers.l4, headers.complete), (L4::Other, false));
    // So do chains, and layer 4 headers, that go on beyond the copy.
    for (options, complete) in [(24, true), (25, false), (26, false), (31, false)] {
        let mut chain = vec![58, options - 1];
        chain.resize(usize::from(options) * 8, 0);
        let packet = v6_with_extensions(&chain, 60, &[128, 0, 0, 0, 0, 0, 0, 0]);
        let mut frame = vec![0; 14];
        frame[12..].copy_from_slice(&[0x86, 0xdd]);
        frame.extend(packet);
        let head = &frame[..frame.len().min(HEAD_LEN)];
        let headers = parse_frame(head, frame.len() as u32).unwrap();
        assert_eq!(headers.complete, complete, "{options}");
    }
}

#[test]
fn a_first_fragment_must_hold_its_layer_4_header() {
    let tcp = |len: usize| [&[0; 12], &[0x60, 0][..], &[0; 10]].concat()[..len].to_vec();
    for (protocol, l4, complete) in [
        (17, vec![0; 8], true),
        (17, vec![0; 7], false),
        (58, vec![0; 8], true),
        (58, vec![], false),
        (6, tcp(24), true),
        (6, tcp(23), false),
        (6, tcp(8), false),
        (132, vec![], true),
    ] {
        for (bits, first) in [(1, true), (0, true), (9, false)] {
            let chain = [protocol, 0, 0, bits, 0, 0, 0, 1];
            let headers = parse_ip(&v6_with_extensions(&chain, 44, &l4)).unwrap();
            assert_eq!(headers.complete, complete || !first, "{protocol} {l4:?}");
        }
        // Behind more headers; and a fragment of a fragment hides what it holds.
        for (first, second, complete) in [(60, 0, complete), (44, 1, false), (44, 9, false)] {
            let chain = [
                first, 0, 0, 1, 0, 0, 0, 1, protocol, 0, 0, second, 0, 0, 0, 0,
            ];
            let headers = parse_ip(&v6_with_extensions(&chain, 44, &l4)).unwrap();
            assert_eq!(headers.complete, complete, "{protocol} behind {first}");
            assert_eq!(headers.fragment(), Fragment::First);
        }
    }
    let whole = Super::udp(false, vec![1; 100], 0).packet();
    for (len, complete) in [(28, true), (27, false), (20, false)] {
        let mut packet = whole[..len].to_vec();
        packet[3] = len as u8;
        packet[6] = 0x20;
        assert_eq!(parse_ip(&packet).unwrap().complete, complete, "{len}");
    }
}

#[test]
fn fragments_have_their_place() {
    let udp = [0, 7, 0, 9, 0, 8, 0, 0];
    for (bits, place) in [
        ([0, 1], Fragment::First),
        ([0, 0], Fragment::First),
        ([0, 9], Fragment::Later),
        ([1, 0], Fragment::Later),
    ] {
        let chain = [17, 0, bits[0], bits[1], 0, 0, 0, 1];
        let headers = parse_ip(&v6_with_extensions(&chain, 44, &udp)).unwrap();
        assert_eq!(headers.fragment(), place);
        assert_eq!(headers.l4, L4::Fragment);
        assert_eq!(headers.protocol(), Some(17));
    }
    let whole = Super::udp(false, vec![1; 100], 0).packet();
    for (bits, place) in [
        ([0x20, 0], Fragment::First),
        ([0x20, 1], Fragment::Later),
        ([0, 1], Fragment::Later),
        ([0x40, 0], Fragment::Whole),
    ] {
        let mut packet = whole.clone();
        packet[6..8].copy_from_slice(&bits);
        let headers = parse_ip(&packet).unwrap();
        assert_eq!(headers.fragment(), place);
        assert_eq!(headers.l4 == L4::Fragment, place != Fragment::Whole);
    }
}

#[test]
fn padding_is_trimmed_and_lies_have_names() {
    let packet = Super::tcp(false, vec![1; 100], 0).packet();
    let mut padded = packet.clone();
    padded.resize(packet.len() + 13, 0);
    let headers = parse_ip(&padded).unwrap();
    assert_eq!(headers.ip_len, packet.len());
    assert_eq!(headers.payload_len(), 100);
    assert!(matches!(headers.l3, L3::V4(ip) if ip.checksum_ok));

    assert_eq!(parse_ip(&[]), Err(ParseError::Runt));
    assert_eq!(parse_ip(&[0; 40]), Err(ParseError::Version));
    assert_eq!(parse_ip(&packet[..19]), Err(ParseError::Runt));
    assert_eq!(parse_ip(&packet[..60]), Err(ParseError::IpLength));
    let mut short = packet.clone();
    short[0] = 0x44;
    assert_eq!(parse_ip(&short), Err(ParseError::HeaderLength));
    let mut tcp = packet.clone();
    tcp[32] = 0x40;
    assert_eq!(parse_ip(&tcp).unwrap().l4, L4::Malformed);
    tcp[32] = 0xf0;
    tcp[2..4].copy_from_slice(&40u16.to_be_bytes());
    assert_eq!(parse_ip(&tcp[..40]).unwrap().l4, L4::Malformed);
    assert!(matches!(parse_ip(&tcp).unwrap().l3, L3::V4(ip) if !ip.checksum_ok));

    let frame = Super::tcp(true, vec![1; 2000], 1000).frame();
    let headers = parse_frame(&frame[..HEAD_LEN], frame.len() as u32).unwrap();
    assert!(matches!(headers.l4, L4::Tcp(tcp) if tcp.destination_port == 5201));
    assert_eq!(headers.payload_len(), 2000);
    // What is beyond the copy is not called malformed.
    let headers = parse_frame(&frame[..60], frame.len() as u32).unwrap();
    assert_eq!(headers.l4, L4::Other);
    let mut wrong = frame.clone();
    wrong[14] = 0x45;
    assert_eq!(
        parse_frame(&wrong[..HEAD_LEN], frame.len() as u32),
        Err(ParseError::Version)
    );
}
