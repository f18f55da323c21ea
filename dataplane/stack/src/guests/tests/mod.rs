//! What guests are told, as a client reads it.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "in a test a panic is the finding"
)]

mod hostile;
mod messages;
mod v4;
mod v6;

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_wire::{
    Checksum, EtherType, MacAddr, ether,
    parse::{Headers, L3, parse_frame},
};

use super::*;

const GUEST_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 11);
const STRANGE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 99);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10);
const STRANGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x99);
const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);

fn provision() -> Provision {
    let lease = |address| Lease4 {
        address,
        prefix_len: 24,
        gateway: GATEWAY,
    };
    Provision {
        gateway_mac: GATEWAY_MAC,
        mtu: 1420,
        dhcp: Some(Dhcp {
            v4: vec![lease(OWN), lease(SECOND)],
            routes: vec![
                ([172, 16, 0, 0].into(), 12, [10, 1, 1, 20].into()),
                // Over the guest itself: it knows.
                ([172, 32, 0, 0].into(), 16, OWN),
            ],
            v6: vec![OWN_V6],
            lease: 43_200,
        }),
        router: Some(Router {
            prefixes: vec![(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0), 64)],
            autonomous: false,
        }),
        dns: vec![
            [9, 9, 9, 9].into(),
            Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe).into(),
        ],
        domain: Some("vm.example.org".into()),
    }
}

/// An answer's headers and what its packet carries, after all that a receiver checks.
fn checked(frame: &[u8]) -> (Headers, &[u8]) {
    let headers = parse_frame(frame, frame.len().try_into().unwrap()).unwrap();
    assert_eq!(headers.ether.source, GATEWAY_MAC);
    assert_eq!(frame.len(), ether::HEADER_LEN + headers.ip_len);
    let body = &frame[headers.l4_offset..];
    let len = u32::try_from(body.len()).unwrap();
    let mut sum = match &headers.l3 {
        L3::V4(ip) => {
            assert!(ip.checksum_ok);
            Checksum::pseudo_v4(ip.source, ip.destination, ip.protocol, len)
        }
        L3::V6(ip) => Checksum::pseudo_v6(ip.source, ip.destination, ip.protocol, len),
        L3::Arp | L3::Other => panic!("no IP"),
    };
    sum.add(body);
    assert!(sum.is_valid(), "the checksum");
    (headers, &frame[headers.payload_offset..])
}

/// The frame that comes of a message that is answered.
fn answered(provision: &Provision, frame: &[u8]) -> Vec<u8> {
    match serve(provision, frame) {
        Ok(Served::Answer(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

/// A frame of the guest's with its message in UDP over IPv6.
fn udp6(payload: &[u8]) -> Vec<u8> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let macs = (GUEST_MAC, GATEWAY_MAC);
    frame::udp6(macs, (GUEST_LINK_LOCAL, group), (546, 547), payload)
}

/// The same over IPv4, from `source`.
fn udp4(source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let ends = (source, Ipv4Addr::BROADCAST);
    let frame = frame::udp4((GUEST_MAC, GATEWAY_MAC), ends, (68, 67), payload);
    assert_eq!(frame[12..14], EtherType::IPV4.0.to_be_bytes());
    frame
}
