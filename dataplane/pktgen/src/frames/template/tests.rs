//! Frames against the parser, the checksums and the cutter of the data path.

use culvert_wire::parse::{L3 as Layer3, L4};
use culvert_wire::segment::Plan;
use culvert_wire::{Headers, parse_frame, parse_ip};
use proptest::prelude::*;

use super::*;
use crate::frames::Odometer;
use crate::profile::Profile;
use crate::tree::Node;

fn stream(flags: &[(&str, &str)]) -> Stream {
    Profile::read(&Node::of_flags(flags.iter().copied()))
        .unwrap()
        .streams
        .remove(0)
}

fn made(stream: &Stream, flow: u32, sequence: u32) -> Made {
    let mut odometer = Odometer::new(stream);
    (0..flow).for_each(|_| odometer.advance());
    Made {
        addresses: odometer.addresses(),
        signature: Signature {
            trial: 3,
            flow: odometer.flow(),
            sequence,
            intended_ns: 123_456_789,
        },
        tcp_sequence: sequence.wrapping_mul(1000),
    }
}

/// The checksum of layer 4, over what a parser says is the packet.
fn l4_is_right(headers: &Headers, frame: &[u8]) -> bool {
    let l4 = &frame[headers.l4_offset..headers.l3_offset + headers.ip_len];
    let protocol = headers.protocol().unwrap();
    let mut sum = match headers.l3 {
        Layer3::V4(ip) => Checksum::pseudo_v4(ip.source, ip.destination, protocol, l4.len() as u32),
        Layer3::V6(ip) => Checksum::pseudo_v6(ip.source, ip.destination, protocol, l4.len() as u32),
        Layer3::Arp | Layer3::Other => return false,
    };
    sum.add(l4);
    sum.is_valid()
}

fn is_right(headers: &Headers, frame: &[u8]) -> bool {
    let ip = match headers.l3 {
        Layer3::V4(ip) => ip.checksum_ok,
        Layer3::V6(_) => true,
        Layer3::Arp | Layer3::Other => false,
    };
    ip && matches!(headers.l4, L4::Udp(_) | L4::Tcp(_)) && l4_is_right(headers, frame)
}

const ENDS: [[(&str, &str); 2]; 2] = [
    [
        ("source", "10.1.0.1+40"),
        ("destination", "10.2.0.1+40/256"),
    ],
    [
        ("source", "fd00:1::1+40"),
        ("destination", "fd00:2::1+40/65536"),
    ],
];

proptest! {
    #[test]
    fn every_packet_is_one_that_a_receiver_takes(
        v6: bool, tcp: bool, len in 98u32..1514, flow in 0u32..1600, sequence: u32, holds: bool,
    ) {
        let size = format!("{len}-bare");
        let protocol = if tcp { "tcp" } else { "udp" };
        let flags = [ENDS[usize::from(v6)][0], ENDS[usize::from(v6)][1], ("size", &size), ("protocol", protocol), ("dscp", "46")];
        let stream = stream(&flags);
        let template = Template::new(&stream, stream.mix.longest());
        let mut buffer = [0u8; 2048];
        if holds {
            template.write(&made(&stream, 7, 99), &mut buffer, false);
        }
        let packet = made(&stream, flow, sequence);
        template.write(&packet, &mut buffer, holds);
        let frame = &buffer[..template.len()];
        let headers = parse_frame(frame, len).unwrap();
        prop_assert!(is_right(&headers, frame), "{headers:?}");
        prop_assert_eq!(headers.l3_offset + headers.ip_len, frame.len());
        prop_assert_eq!(headers.traffic_class(), Some(46 << 2));
        prop_assert_eq!(headers.ports().map(|it| it.0), Some(packet.addresses.source_port));
        let signature = frame[headers.payload_offset..][..16].try_into().unwrap();
        prop_assert_eq!(Signature::read(signature), Some(packet.signature));
    }

    #[test]
    fn a_super_frame_is_cut_into_signed_packets(v6: bool, tcp: bool, flow in 0u32..1600, sequence: u32, len in 4000u32..65_000) {
        let size = format!("{len}-bare");
        let protocol = if tcp { "tcp" } else { "udp" };
        let flags = [ENDS[usize::from(v6)][0], ENDS[usize::from(v6)][1], ("size", &size), ("protocol", protocol), ("segment", "1200")];
        let Ok(profile) = Profile::read(&Node::of_flags(flags)) else {
            // Its last segment has no room for a signature.
            return Ok(());
        };
        let stream = &profile.streams[0];
        let template = Template::new(stream, stream.mix.longest());
        let mut frame = vec![0u8; template.len()];
        let packet = made(stream, flow, sequence);
        template.write(&packet, &mut frame, false);
        let headers = parse_frame(&frame, len).unwrap();
        let plan = Plan::new(&template.vnet(), &headers, &frame, 1500).unwrap();
        prop_assert_eq!(plan.count(), template.segments() as usize);
        for index in 0..plan.count() {
            let segment = plan.segment(index);
            let mut out = vec![0u8; plan.header_len(index)];
            let payload = &frame[segment.payload.clone()];
            plan.write_headers(index, &frame, Checksum::of(payload), &mut out);
            out.extend_from_slice(payload);
            let headers = parse_ip(&out).unwrap();
            prop_assert!(is_right(&headers, &out), "segment {index}: {headers:?}");
            let signature = out[headers.payload_offset..][..16].try_into().unwrap();
            let expected = Signature { sequence: sequence.wrapping_add(index as u32), ..packet.signature };
            prop_assert_eq!(Signature::read(signature), Some(expected));
        }
    }
}

#[test]
fn a_partial_checksum_is_completed_to_the_full_one() {
    for protocol in ["udp", "tcp"] {
        let flags = |checksum| {
            [
                ("size", "512"),
                ("protocol", protocol),
                ("checksum", checksum),
            ]
        };
        let frames = ["full", "partial"].map(|checksum| {
            let stream = stream(&flags(checksum));
            let template = Template::new(&stream, stream.mix.longest());
            let mut frame = vec![0; template.len()];
            template.write(&made(&stream, 0, 5), &mut frame, false);
            (template.vnet(), frame)
        });
        let [(plain, full), (vnet, mut partial)] = frames;
        assert!(!plain.needs_csum() && vnet.needs_csum() && vnet.is_plain());
        let start = usize::from(vnet.csum_start);
        let field = start + usize::from(vnet.csum_offset);
        let sum = Checksum::of(&partial[start..]).complement();
        partial[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(full, partial, "{protocol}");
    }
}

#[test]
fn flow_labels_differ_and_are_never_none() {
    assert_eq!(Addresses::label(0), 1);
    assert_eq!(Addresses::label(0xf_fffe), 0xf_ffff);
    assert_eq!(Addresses::label(0xf_ffff), 1);
}
