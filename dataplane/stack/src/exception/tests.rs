use std::{hash::RandomState, net::IpAddr, sync::Arc};

use culvert_wire::{Checksum, EtherType, ether, ipv4, ipv6};
use culvert_wireguard::Instant;

use super::*;
use crate::{HostConfig, ip::split};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const OURS: u16 = 51_820;
const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ports() -> OwnPorts {
    OwnPorts::new([OURS], [9_443])
}

fn stack() -> HostStack {
    let config = HostConfig {
        mac: US,
        addresses: vec![(ip("192.0.2.1"), 24), (ip("2001:db8::1"), 64)],
        routes: vec![],
        neighbors: vec![],
        mtu: 1500,
    };
    let mut stack = HostStack::begin(config, RandomState::new(), |_| true, NOW);
    while stack.poll_frame().is_some() {}
    stack.share(Some(Arc::new(ports())));
    stack
}

/// A packet between `from` and `to`, the last byte of whose addresses these are.
fn packet(v6: bool, [from, to]: [u8; 2], protocol: u8, l4: &[u8]) -> Vec<u8> {
    let len = u16::try_from(l4.len()).unwrap();
    let header = match v6 {
        false => ipv4::header(&ipv4::Ipv4Fields {
            source: [192, 0, 2, from].into(),
            destination: [192, 0, 2, to].into(),
            tos: 0,
            id: 7,
            dont_fragment: false,
            ttl: 64,
            protocol,
            total_len: 20 + len,
        })
        .to_vec(),
        true => ipv6::header(&ipv6::Ipv6Fields {
            source: [0x2001, 0xdb8, 0, 0, 0, 0, 0, from.into()].into(),
            destination: [0x2001, 0xdb8, 0, 0, 0, 0, 0, to.into()].into(),
            traffic_class: 0,
            hop_limit: 64,
            next_header: protocol,
            payload_len: len,
        })
        .to_vec(),
    };
    [&header[..], l4].concat()
}

fn frame(to: MacAddr, from: MacAddr, packet: &[u8]) -> Vec<u8> {
    let kind = match packet[0] >> 4 {
        4 => EtherType::IPV4,
        _ => EtherType::IPV6,
    };
    [&ether::header(to, from, kind)[..], packet].concat()
}

/// From the other host to us.
fn came(v6: bool, protocol: u8, l4: &[u8]) -> Vec<u8> {
    frame(US, THEM, &packet(v6, [2, 1], protocol, l4))
}

/// A datagram or the beginning of a segment with these ports.
fn l4([from, to]: [u16; 2], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(20)];
    bytes[..2].copy_from_slice(&from.to_be_bytes());
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    let len = u16::try_from(bytes.len()).unwrap();
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes[12] = 0x50;
    bytes
}

fn icmp(v6: bool, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], body].concat();
    let len = u32::try_from(message.len()).unwrap();
    let (ip4, ip6) = (
        [192, 0, 2, 2].into(),
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
    );
    let _: std::net::Ipv4Addr = ip4;
    let mut sum = match v6 {
        false => Checksum::default(),
        true => Checksum::pseudo_v6(ip6, [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), 58, len),
    };
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
    message
}

fn handed(stack: &mut HostStack, frame: &[u8]) -> Option<Vec<u8>> {
    stack.handle_frame(frame, NOW);
    let handed = stack.poll_for_kernel();
    assert_eq!(stack.poll_for_kernel(), None);
    handed
}

#[test]
fn what_is_to_no_port_of_ours_is_the_kernels_once_it_is_whole() {
    for v6 in [false, true] {
        let mut stack = stack();
        for (protocol, port, kernels) in [
            (17, 53, true),
            (17, OURS, false),
            (17, 61_000, false),
            (6, 22, true),
            (6, 9_443, false),
            (89, OURS, true),
            (132, 22, true),
        ] {
            let frame = came(v6, protocol, &l4([4_000, port], 60));
            let handed = handed(&mut stack, &frame);
            assert_eq!(handed, kernels.then_some(frame), "{protocol}/{port}");
        }
        // In fragments, in any order: as the frame that it would have been.
        for (port, kernels) in [(53, true), (OURS, false)] {
            let whole = came(v6, 17, &l4([4_000, port], 6_000));
            let mut parts: Vec<_> = split(&whole, 1500, port.into()).collect();
            parts.rotate_left(2);
            let last = parts.pop().unwrap();
            for part in parts {
                assert_eq!(handed(&mut stack, &part), None);
            }
            let handed = handed(&mut stack, &last);
            assert_eq!(handed.is_some(), kernels);
            assert_eq!(stack.poll_datagram().is_some(), !kernels);
            if let Some(handed) = handed {
                assert_eq!(handed.len(), whole.len());
                assert_eq!(handed[handed.len() - 5_900..], whole[whole.len() - 5_900..]);
            }
        }
        // Another host's, by its addresses or by its frame, is nobody's here.
        let group = frame(
            MacAddr::BROADCAST,
            THEM,
            &packet(v6, [2, 1], 6, &l4([1, 22], 20)),
        );
        let other = frame(US, THEM, &packet(v6, [2, 9], 6, &l4([1, 22], 20)));
        assert_eq!(
            [group, other].map(|it| handed(&mut stack, &it)),
            [None, None]
        );
        stack.share(None);
        let ssh = came(v6, 6, &l4([4_000, 22], 60));
        assert_eq!(handed(&mut stack, &ssh), None);
    }
}

#[test]
fn pings_have_one_answer_and_errors_follow_the_port_that_they_quote() {
    for v6 in [false, true] {
        let mut stack = stack();
        let protocol = if v6 { 58 } else { 1 };
        let [request, reply, unreachable] = if v6 { [128, 129, 1] } else { [8, 0, 3] };
        let ping = came(v6, protocol, &icmp(v6, request, &[5; 40]));
        assert_eq!(handed(&mut stack, &ping), None);
        assert!(stack.poll_frame().is_some(), "we answer");
        // What the kernel hears it has asked for.
        let pong = came(v6, protocol, &icmp(v6, reply, &[5; 40]));
        assert_eq!(handed(&mut stack, &pong), Some(pong));
        assert!(stack.poll_frame().is_none());

        for (quoted, of, kernels) in [
            (17, OURS, false),
            (17, 40_000, true),
            (6, 61_234, false),
            (6, 40_000, true),
            (protocol, 0, true),
        ] {
            let sent = packet(v6, [1, 2], quoted, &l4([of, 4_000], 40));
            let error = came(v6, protocol, &icmp(v6, unreachable, &sent));
            let handed = handed(&mut stack, &error);
            assert_eq!(handed, kernels.then_some(error), "{quoted}/{of}");
        }
        assert!(stack.poll_heard().is_some());
        let cut = came(v6, protocol, &icmp(v6, unreachable, &[0x45]));
        assert!(handed(&mut stack, &cut).is_some(), "about nothing of ours");
    }
}

/// From whatever address it complains.
#[test]
fn the_kernel_does_not_complain_of_what_came_to_a_port_of_ours() {
    let owns = |address| [ip("192.0.2.1"), ip("2001:db8::1")].contains(&address);
    let leaves = |frame: &[u8]| may_leave(frame, US, owns, &ports());
    for v6 in [false, true] {
        let protocol = if v6 { 58 } else { 1 };
        let [unreachable, reply] = if v6 { [1, 129] } else { [3, 0] };
        let says = |from, kind, quote: &[u8]| {
            let error = icmp(v6, kind, quote);
            frame(THEM, US, &packet(v6, [from, 2], protocol, &error))
        };
        for (of, port, result) in [
            (17, OURS, Err(HostDrop::KernelError)),
            (17, 61_000, Err(HostDrop::KernelError)),
            (6, 9_443, Err(HostDrop::KernelError)),
            (17, 40_000, Ok(())),
            (6, 22, Ok(())),
            (89, OURS, Ok(())),
        ] {
            let came = packet(v6, [2, 1], of, &l4([4_000, port], 40));
            for from in [1, 7] {
                assert_eq!(
                    leaves(&says(from, unreachable, &came)),
                    result,
                    "{of}/{port}"
                );
                assert_eq!(leaves(&says(from, reply, &came)), Ok(()), "no error");
            }
            // As much as any error quotes; in fragments, too.
            let least = came.len() - 32;
            assert_eq!(leaves(&says(1, unreachable, &came[..least])), result);
            let long = says(
                1,
                unreachable,
                &packet(v6, [2, 1], of, &l4([4_000, port], 1_600)),
            );
            let mut parts = split(&long, 1280, 9);
            assert_eq!(leaves(&parts.next().unwrap()), result);
            // What came in fragments is known by its first.
            let came = frame(US, THEM, &packet(v6, [2, 1], of, &l4([4_000, port], 3_000)));
            let [first, later] = [0, 1].map(|n| split(&came, 1280, 9).nth(n).unwrap());
            assert_eq!(leaves(&says(1, unreachable, &first[14..])), result);
            let hidden = match of {
                89 => Ok(()),
                _ => Err(HostDrop::KernelHeaders),
            };
            assert_eq!(leaves(&says(1, unreachable, &later[14..])), hidden);
            // Routed on, to somebody else.
            let passed = packet(v6, [2, 9], of, &l4([4_000, port], 40));
            assert_eq!(leaves(&says(1, unreachable, &passed)), Ok(()));
        }
        // Cut short ahead of the ports, or of what tells of them.
        let came = packet(v6, [2, 1], 17, &l4([4_000, OURS], 40));
        for len in 0..came.len() - 36 {
            let hidden = leaves(&says(1, unreachable, &came[..len]));
            assert_eq!(hidden, Err(HostDrop::KernelHeaders), "{len}");
        }
    }
    let options = packet(true, [2, 1], 60, &[17, 1, 0, 0, 0, 0, 0, 0]);
    let error = icmp(true, 1, &options);
    let error = frame(THEM, US, &packet(true, [1, 2], 58, &error));
    assert_eq!(leaves(&error), Err(HostDrop::KernelHeaders));
}

#[test]
fn the_kernel_speaks_as_no_port_of_ours_whole_or_in_fragments() {
    let owns = |address| [ip("192.0.2.1"), ip("2001:db8::1")].contains(&address);
    let leaves = |frame: &[u8]| may_leave(frame, US, owns, &ports());
    for v6 in [false, true] {
        let sent =
            |from, protocol, l4: &[u8]| frame(THEM, US, &packet(v6, [from, 2], protocol, l4));
        for (protocol, port, result) in [
            (17, OURS, Err(HostDrop::KernelPort)),
            (17, 40_000, Ok(())),
            (17, 61_000, Err(HostDrop::KernelPort)),
            (6, 9_443, Err(HostDrop::KernelPort)),
            (6, OURS, Ok(())),
            (6, 22, Ok(())),
            (89, OURS, Ok(())),
        ] {
            let whole = sent(1, protocol, &l4([port, 9], 4_000));
            assert_eq!(leaves(&whole), result, "{protocol}/{port}");
            let mut parts = split(&whole, 1500, 9);
            assert_eq!(leaves(&parts.next().unwrap()), result);
            // Which is nothing without the first.
            assert!(parts.len() > 1 && parts.all(|part| leaves(&part).is_ok()));
        }
        // From an address that is the kernel's alone.
        assert_eq!(leaves(&sent(7, 17, &l4([OURS, 9], 40))), Ok(()));
        // A first fragment that ends ahead of its ports.
        let whole = sent(1, 17, &[]);
        assert_eq!(leaves(&whole), Err(HostDrop::KernelHeaders));
    }
    let hello = packet(false, [1, 5], 89, &[2; 44]);
    let mut other = frame(THEM, US, &hello);
    assert_eq!(leaves(&other), Ok(()));
    other[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xc]);
    assert_eq!(leaves(&other), Err(HostDrop::KernelSource));
    let mut tagged = frame(THEM, US, &hello);
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(leaves(&tagged), Err(HostDrop::KernelTagged));
    // LLDP, IS-IS, ARP.
    for kind in [0x88cc, 60, 0x0806] {
        let group = MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]);
        let link_layer = [&ether::header(group, US, EtherType(kind))[..], &[0; 46]].concat();
        assert_eq!(leaves(&link_layer), Ok(()));
    }
    let datagram = frame(THEM, US, &packet(false, [1, 2], 17, &l4([OURS, 9], 40)));
    for len in 0..datagram.len() {
        assert!(len == 14 || leaves(&datagram[..len]).is_err(), "{len}");
    }
}
