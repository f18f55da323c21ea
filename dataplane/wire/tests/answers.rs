//! ICMP and neighbor discovery: what is answered, with what, and what is not.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and bytes of the tests' own making"
)]

mod common;

use std::net::{IpAddr, Ipv6Addr};

use common::{ETHERNET, Super, assert_icmp, pseudo, sum};
use culvert_wire::icmp::{ANSWER_LEN_MAX, IcmpError, NoAnswer, echo_reply_in_place, write_error};
use culvert_wire::nd::{self, NdError, NdMessage};
use culvert_wire::parse::HEAD_LEN;
use culvert_wire::{MacAddr, parse_frame, parse_ip};

const TOO_BIG: IcmpError = IcmpError::TooBig { mtu: 1420 };

fn gateway(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0xfe])
    } else {
        IpAddr::from([10, 99, 0, 254])
    }
}

fn answer(error: IcmpError, frame: &[u8]) -> Result<Vec<u8>, NoAnswer> {
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let headers = parse_frame(head, frame.len() as u32).expect("IP parses");
    let mut out = [0; ANSWER_LEN_MAX];
    let v6 = frame[12] == 0x86;
    let len = write_error(error, &headers, head, gateway(v6), &mut out)?;
    assert_icmp(&out[..len]);
    Ok(out[..len].to_vec())
}

/// An ICMP or ICMPv6 message in a frame, checksums right.
fn icmp_frame(v6: bool, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Super::udp(v6, vec![0; body.len()], 0).frame();
    let l4 = ETHERNET + if v6 { 40 } else { 20 };
    let protocol = if v6 { 58 } else { 1 };
    frame[if v6 { ETHERNET + 6 } else { ETHERNET + 9 }] = protocol;
    frame[l4..l4 + 8].copy_from_slice(&[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
    frame[l4 + 8..].copy_from_slice(body);
    complete(&mut frame);
    frame
}

fn complete(frame: &mut [u8]) {
    let packet = &mut frame[ETHERNET..];
    let (l4, protocol) = common::layer4(packet);
    let start = if protocol == 58 {
        pseudo(packet, l4, 58)
    } else {
        packet[10..12].fill(0);
        let check = !(sum(&packet[..20], 0) as u16);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        0
    };
    packet[l4 + 2..l4 + 4].fill(0);
    let check = !(sum(&packet[l4..], start) as u16);
    packet[l4 + 2..l4 + 4].copy_from_slice(&check.to_be_bytes());
}

#[test]
fn too_big_names_the_mtu_and_quotes_the_packet() {
    let frame = Super::tcp(false, vec![9; 1460], 0).frame();
    let v4 = answer(TOO_BIG, &frame).unwrap();
    assert_eq!(v4[20..22], [3, 4]);
    assert_eq!(v4[24..28], [0, 0, 0x05, 0x8c]);
    assert_eq!(v4[12..20], [10, 99, 0, 254, 10, 99, 0, 1]);
    assert_eq!(v4[28..], frame[ETHERNET..HEAD_LEN]);

    let frame = Super::udp(true, vec![9; 1460], 0).frame();
    let v6 = answer(TOO_BIG, &frame).unwrap();
    assert_eq!(v6[40..42], [2, 0]);
    assert_eq!(v6[44..48], [0, 0, 0x05, 0x8c]);
    assert_eq!(v6[24..40], frame[22..38]);
    assert_eq!(v6[48..], frame[ETHERNET..HEAD_LEN]);

    // A short packet is quoted to its IP length; padding is not.
    let mut small = Super::udp(false, vec![9; 4], 0).frame();
    small.resize(60, 0xee);
    let short = answer(IcmpError::Unreachable, &small).unwrap();
    assert_eq!(short[20..22], [3, 1]);
    assert_eq!(short[28..], small[ETHERNET..ETHERNET + 32]);
    let small = Super::udp(true, vec![9; 4], 0).frame();
    let short = answer(IcmpError::Unreachable, &small).unwrap();
    assert_eq!(short[40..42], [1, 3]);
}

#[test]
fn what_must_not_be_answered_is_not() {
    let v4 = Super::udp(false, vec![9; 100], 0).frame();
    let v6 = Super::udp(true, vec![9; 100], 0).frame();
    let with = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[ETHERNET + at..ETHERNET + at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for source in [[0, 0, 0, 0], [224, 0, 0, 1], [255; 4], [127, 0, 0, 1]] {
        let frame = with(&v4, 12, &source);
        assert_eq!(answer(TOO_BIG, &frame), Err(NoAnswer::Source));
    }
    for destination in [[224, 0, 0, 9], [255; 4]] {
        let frame = with(&v4, 16, &destination);
        assert_eq!(answer(TOO_BIG, &frame), Err(NoAnswer::Group));
    }
    let mut broadcast = v4.clone();
    broadcast[..6].fill(0xff);
    assert_eq!(answer(TOO_BIG, &broadcast), Err(NoAnswer::Group));
    let later = with(&v4, 6, &[0, 9]);
    assert_eq!(answer(TOO_BIG, &later), Err(NoAnswer::LaterFragment));
    let first = with(&v4, 6, &[0x20, 0]);
    assert!(answer(TOO_BIG, &first).is_ok());

    assert_eq!(
        answer(TOO_BIG, &with(&v6, 8, &[0; 16])),
        Err(NoAnswer::Source)
    );
    assert_eq!(
        answer(TOO_BIG, &with(&v6, 8, &[0xff])),
        Err(NoAnswer::Source)
    );
    // To a group, only "too big" is said.
    let group = with(&v6, 24, &[0xff]);
    assert!(answer(TOO_BIG, &group).is_ok());
    assert_eq!(answer(IcmpError::Unreachable, &group), Err(NoAnswer::Group));

    for kind in [3, 4, 5, 11, 12] {
        let frame = icmp_frame(false, kind, &[0; 40]);
        assert_eq!(answer(TOO_BIG, &frame), Err(NoAnswer::IcmpError), "{kind}");
    }
    for kind in [1, 2, 3, 4, 100, 137] {
        let frame = icmp_frame(true, kind, &[0; 40]);
        assert_eq!(answer(TOO_BIG, &frame), Err(NoAnswer::IcmpError), "{kind}");
    }
    for (v6, kind) in [(false, 8), (false, 0), (true, 128), (true, 129)] {
        let frame = icmp_frame(v6, kind, &[0; 40]);
        assert!(answer(TOO_BIG, &frame).is_ok(), "{kind}");
    }
    // An ICMPv6 error behind extension headers that reach beyond the copy.
    let mut hidden = v6.clone();
    hidden[ETHERNET + 6] = 60;
    hidden[ETHERNET + 40] = 58;
    hidden[ETHERNET + 41] = 255;
    assert_eq!(answer(TOO_BIG, &hidden), Err(NoAnswer::IcmpError));

    let frame = Super::udp(false, vec![9; 100], 0).frame();
    let headers = parse_frame(&frame, frame.len() as u32).unwrap();
    let mut out = [0; 40];
    assert_eq!(
        write_error(TOO_BIG, &headers, &frame, gateway(false), &mut out),
        Err(NoAnswer::NoRoom)
    );
    assert_eq!(
        write_error(TOO_BIG, &headers, &frame, gateway(true), &mut out),
        Err(NoAnswer::NotIp)
    );
}

#[test]
fn echo_requests_become_replies() {
    for v6 in [false, true] {
        let kind = if v6 { 128 } else { 8 };
        let frame = icmp_frame(v6, kind, b"abcdefghi");
        let mut packet = frame[ETHERNET..].to_vec();
        let len = packet.len();
        packet.extend([0; 7]);
        assert_eq!(echo_reply_in_place(&mut packet), Some(len));
        assert_icmp(&packet[..len]);
        let l4 = len - 17;
        assert_eq!(packet[l4], if v6 { 129 } else { 0 });
        assert_eq!(packet[l4 + 4..len], frame[ETHERNET + l4 + 4..]);
        let (a, b, n) = if v6 { (8, 24, 16) } else { (12, 16, 4) };
        assert_eq!(packet[a..a + n], frame[ETHERNET + b..ETHERNET + b + n]);
        assert_eq!(packet[b..b + n], frame[ETHERNET + a..ETHERNET + a + n]);
        // A reply is not a request, and a damaged request is none either.
        assert_eq!(echo_reply_in_place(&mut packet), None);
        let mut damaged = frame[ETHERNET..].to_vec();
        damaged[l4 + 9] ^= 1;
        assert_eq!(echo_reply_in_place(&mut damaged), None);
    }
}

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

fn parse_nd(frame: &[u8]) -> Result<NdMessage, NdError> {
    let headers = parse_frame(frame, frame.len() as u32).expect("IP parses");
    NdMessage::parse(&headers, frame)
}

#[test]
fn a_solicitation_gets_its_advertisement() {
    let asker: Ipv6Addr = "fd00::1".parse().unwrap();
    let target: Ipv6Addr = "fd00::12:3456".parse().unwrap();
    let mut frame = [0; nd::FRAME_LEN];
    assert_eq!(nd::write_solicitation(ASKER, asker, target, &mut frame), 86);
    assert_icmp(&frame[ETHERNET..]);
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    assert_eq!(
        parse_nd(&frame),
        Ok(NdMessage::Solicitation {
            source: asker,
            target,
            source_mac: Some(ASKER),
        })
    );
    nd::write_advertisement(asker, ASKER, target, OWNER, true, &mut frame);
    assert_icmp(&frame[ETHERNET..]);
    assert_eq!(frame[..6], ASKER.0);
    let advertisement = |solicited| NdMessage::Advertisement {
        source: target,
        target,
        target_mac: Some(OWNER),
        router: true,
        solicited,
        replace: true,
    };
    assert_eq!(parse_nd(&frame), Ok(advertisement(true)));
    // To an asker without an address, and unasked: to all nodes, not "solicited".
    let none = Ipv6Addr::UNSPECIFIED;
    nd::write_advertisement(none, ASKER, target, OWNER, true, &mut frame);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(parse_nd(&frame), Ok(advertisement(false)));
    nd::write_unsolicited(target, OWNER, true, &mut frame);
    assert_eq!(parse_nd(&frame), Ok(advertisement(false)));
    assert_eq!(
        nd::write_unsolicited(target, OWNER, true, &mut frame[1..]),
        0
    );
}

#[test]
fn invalid_discovery_is_named() {
    let asker: Ipv6Addr = "fd00::1".parse().unwrap();
    let target: Ipv6Addr = "fd00::2".parse().unwrap();
    let mut good = [0; nd::FRAME_LEN];
    nd::write_solicitation(ASKER, asker, target, &mut good);
    // Byte offsets in the frame: IP at 14, ICMPv6 at 54, target at 62, option at 78.
    let with = |base: &[u8], changes: &[(usize, u8)]| {
        let mut frame = base.to_vec();
        for &(at, value) in changes {
            frame[at] = value;
        }
        complete(&mut frame);
        parse_nd(&frame)
    };
    assert!(with(&good, &[]).is_ok());
    assert_eq!(with(&good, &[(21, 254)]), Err(NdError::HopLimit));
    assert_eq!(with(&good, &[(55, 1)]), Err(NdError::Code));
    assert_eq!(with(&good, &[(62, 0xff)]), Err(NdError::Target));
    assert_eq!(with(&good, &[(79, 0)]), Err(NdError::Option));
    assert_eq!(with(&good, &[(79, 2)]), Err(NdError::Option));
    assert_eq!(with(&good, &[(54, 137)]), Err(NdError::OtherType));
    let mut wrong = good;
    wrong[70] ^= 1;
    assert_eq!(parse_nd(&wrong), Err(NdError::Checksum));
    let headers = parse_frame(&good, 86).unwrap();
    assert_eq!(
        NdMessage::parse(&headers, &good[..80]),
        Err(NdError::Truncated)
    );
    // From nobody, with an option.
    let nobody: Vec<_> = (22..38).map(|at| (at, 0)).collect();
    assert_eq!(with(&good, &nobody), Err(NdError::Unspecified));
    // Of another option type it is duplicate detection.
    let detection: Vec<_> = nobody.iter().copied().chain([(78, 14)]).collect();
    assert_eq!(
        with(&good, &detection),
        Ok(NdMessage::Solicitation {
            source: Ipv6Addr::UNSPECIFIED,
            target,
            source_mac: None,
        })
    );
    let astray: Vec<_> = detection.iter().copied().chain([(53, 9)]).collect();
    assert_eq!(with(&good, &astray), Err(NdError::Unspecified));
    // "Solicited", but to everyone.
    let mut unasked = [0; nd::FRAME_LEN];
    nd::write_unsolicited(target, OWNER, false, &mut unasked);
    assert_eq!(with(&unasked, &[(58, 0x60)]), Err(NdError::SolicitedGroup));
    // A group as a neighbor's address counts as none.
    assert!(matches!(
        with(&unasked, &[(80, 3)]),
        Ok(NdMessage::Advertisement {
            target_mac: None,
            ..
        })
    ));
    let udp = Super::udp(true, vec![1; 30], 0).packet();
    let headers = parse_ip(&udp).unwrap();
    assert_eq!(NdMessage::parse(&headers, &udp), Err(NdError::OtherType));
}

#[test]
fn every_link_layer_address_in_the_options_counts() {
    let target: Ipv6Addr = "fd00::2".parse().unwrap();
    let mut base = [0; nd::FRAME_LEN];
    nd::write_unsolicited(target, OWNER, false, &mut base);
    let with = |options: &[&[u8]]| {
        let mut frame = base[..78].to_vec();
        frame.extend(options.concat());
        frame[19] = u8::try_from(frame.len() - 54).unwrap();
        let headers = parse_frame(&frame, frame.len() as u32).unwrap();
        nd::names_only(OWNER, &headers, &frame)
    };
    let option = |kind: u8, mac: MacAddr| [&[kind, 1], &mac.0[..]].concat();
    let (own, other) = (option(2, OWNER), option(2, ASKER));
    assert!(with(&[]) && with(&[&own]) && with(&[&own, &own, &option(1, OWNER)]));
    assert!(with(&[&option(14, ASKER)]), "a nonce");
    assert!(!with(&[&other]) && !with(&[&own, &other]) && !with(&[&other, &own]));
    assert!(!with(&[&own, &option(1, ASKER)]));
    assert!(!with(&[&option(2, MacAddr::BROADCAST)]));
    // A longer one is another's, whatever it begins with.
    assert!(!with(&[&[2, 2], &OWNER.0, &[0; 8]]));
}
