//! Fragments against a reassembly of the tests' own: what was cut once, or twice, comes together as it was.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and bytes of the tests' own making"
)]

mod common;

use common::{ETHERNET, Super, assert_sound, carry_out, sum};
use culvert_wire::parse::HEAD_LEN;
use culvert_wire::segment::{Plan, SEGMENTS_MAX, SegmentError, may_fragment};
use culvert_wire::{Checksum, VnetHeader, parse_frame};
use proptest::prelude::*;

/// A UDP packet that may be cut, with `options` in its IP header.
fn frame(len: usize, options: &[u8], partial: bool) -> (VnetHeader, Vec<u8>) {
    let payload = (0..len).map(|n| (n * 7 % 251) as u8).collect();
    let sent = Super {
        dont_fragment: false,
        ..Super::udp(false, payload, 0xffff)
    };
    let mut packet = sent.packet();
    let ip = 20 + options.len();
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x40 | (ip / 4) as u8;
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[10..12].fill(0);
    let header = !(sum(&packet[..ip], 0) as u16);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    let mut vnet = sent.vnet(ETHERNET);
    vnet.gso_type = VnetHeader::GSO_NONE;
    vnet.csum_start += options.len() as u16;
    if !partial {
        let length = [(len + 8) >> 8, (len + 8) & 0xff].map(|byte| byte as u8);
        packet[ip + 6..ip + 8].fill(0);
        let pseudo = sum(&packet[12..20], 17);
        let all = sum(&packet[ip..], sum(&length, pseudo));
        packet[ip + 6..ip + 8].copy_from_slice(&(!(all as u16)).to_be_bytes());
        vnet = VnetHeader::default();
    }
    let mut frame = vec![2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend(packet);
    (vnet, frame)
}

/// Cuts as the data path does.
fn cut(vnet: &VnetHeader, frame: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, SegmentError> {
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let headers = parse_frame(head, frame.len() as u32).expect("the tests' frames parse");
    assert!(may_fragment(vnet, &headers));
    let sum = |part: std::ops::Range<usize>| Some(Checksum::of(&frame[part]));
    let plan = Plan::fragment(vnet, &headers, head, mtu, sum)?;
    assert!(plan.is_fragmented() && !plan.needs_sum());
    Ok(carry_out(&plan, &headers, head, frame))
}

/// Puts a packet together, whatever the order.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut first = None;
    let mut pieces = Vec::new();
    let mut end = None;
    for fragment in fragments {
        let ip = usize::from(fragment[0] & 15) * 4;
        assert_eq!(sum(&fragment[..ip], 0), 0xffff, "header checksum");
        let len = usize::from(u16::from_be_bytes([fragment[2], fragment[3]]));
        assert_eq!(len, fragment.len());
        let bits = u16::from_be_bytes([fragment[6], fragment[7]]);
        let offset = usize::from(bits & 0x1fff) * 8;
        match bits & 0x2000 {
            0 => end = Some(offset + len - ip),
            _ => assert_eq!((len - ip) % 8, 0),
        }
        if offset == 0 {
            first = Some(fragment[..ip].to_vec());
        }
        pieces.push((offset, &fragment[ip..]));
    }
    pieces.sort_by_key(|&(offset, _)| offset);
    let mut packet = first.expect("a first fragment");
    let ip = packet.len();
    for (offset, piece) in pieces {
        assert_eq!(packet.len() - ip, offset, "no hole and no overlap");
        packet.extend(piece);
    }
    assert_eq!(packet.len() - ip, end.expect("a last fragment"));
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[6..8].fill(0);
    packet[10..12].fill(0);
    let header = !(sum(&packet[..ip], 0) as u16);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet
}

/// Route recording, which only the first fragment has, and loose source routing, which all have.
const OPTIONS: [u8; 16] = [7, 7, 4, 1, 2, 3, 4, 1, 131, 7, 4, 9, 8, 7, 6, 0];

proptest! {
    #[test]
    fn what_is_cut_comes_together(
        len in 600usize..9000,
        mtu in 576usize..1500,
        narrower in 100usize..576,
        (partial, options) in any::<(bool, bool)>(),
    ) {
        let options: &[u8] = if options { &OPTIONS } else { &[] };
        let (vnet, bytes) = frame(len, options, partial);
        let fragments = cut(&vnet, &bytes, mtu).unwrap();
        prop_assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
        let whole = reassemble(&fragments);
        prop_assert_eq!(&whole[20 + options.len() + 8..], &bytes[42 + options.len()..]);
        prop_assert_eq!(&whole[20..20 + options.len()], options);
        if options.is_empty() {
            assert_sound(&whole);
        }
        // The next router cuts what it gets once more.
        let again: Vec<_> = fragments
            .iter()
            .flat_map(|fragment| {
                let mut frame = bytes[..14].to_vec();
                frame.extend(fragment);
                match fragment.len() > narrower {
                    true => cut(&VnetHeader::default(), &frame, narrower).unwrap(),
                    false => vec![fragment.clone()],
                }
            })
            .collect();
        prop_assert!(again.iter().all(|fragment| fragment.len() <= narrower));
        prop_assert_eq!(reassemble(&again), whole);
    }
}

#[test]
fn options_that_are_not_copied_are_in_the_first_fragment_alone() {
    let (vnet, bytes) = frame(3000, &OPTIONS, true);
    let fragments = cut(&vnet, &bytes, 1000).unwrap();
    assert_eq!(fragments[0][20..36], OPTIONS);
    for fragment in &fragments[1..] {
        let expected = [1, 1, 1, 1, 1, 1, 1, 1, 131, 7, 4, 9, 8, 7, 6, 0];
        assert_eq!(fragment[20..36], expected);
    }
}

#[test]
fn there_are_never_more_fragments_than_a_frame_has_packets() {
    let (vnet, bytes) = frame(60_000, &[], true);
    assert_eq!(cut(&vnet, &bytes, 400), Err(SegmentError::TooMany));
    assert!(cut(&vnet, &bytes, 576).unwrap().len() <= SEGMENTS_MAX);
    for mtu in 0..28 {
        assert!(cut(&vnet, &bytes, mtu).is_err());
    }
}

#[test]
fn what_says_so_is_never_cut() {
    for (v6, dont_fragment) in [(false, true), (true, false)] {
        let sent = Super {
            dont_fragment,
            ..Super::udp(v6, vec![1; 2000], 1000)
        };
        let bytes = sent.frame();
        let headers = parse_frame(&bytes[..HEAD_LEN], bytes.len() as u32).unwrap();
        assert!(!may_fragment(&VnetHeader::default(), &headers));
    }
}
