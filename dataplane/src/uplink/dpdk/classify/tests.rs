//! Frames, honest and bent, and what they are to us.

use std::{
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
};

use culvert_wire::ipv4;

use super::*;
use crate::{
    shared::{hop::Hop, ids::UplinkIndex},
    uplink::{UplinkCounters, dpdk::receive_whole},
};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const UNKNOWN: Checks = Checks {
    ip: RxChecksum::Unknown,
    l4: RxChecksum::Unknown,
    partial: false,
};
const OUR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const THEIR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const THEIR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);

fn uplink() -> Uplink {
    Uplink {
        index: UplinkIndex(0),
        name: "wan0".to_owned(),
        addresses: vec![OUR_V4.into(), OUR_V6.into()],
        tunnels: vec![(51_820, TunnelIndex(3))],
        hop: Arc::new(Hop::nowhere(UplinkIndex(0))),
        kernel: None,
        counters: Arc::new(UplinkCounters::default()),
    }
}

fn ethernet(destination: MacAddr, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = destination.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(packet);
    frame
}

fn datagram(port: u16, payload: &[u8], sum: impl FnOnce(u32) -> Checksum) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = 4_000_u16.to_be_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let mut sum = sum(u32::from(len));
    sum.add(&bytes);
    bytes[6..8].copy_from_slice(&sum.complement_udp().to_be_bytes());
    bytes
}

fn v4_packet(protocol: u8, l4: &[u8]) -> Vec<u8> {
    let fields = ipv4::Ipv4Fields {
        source: THEIR_V4,
        destination: OUR_V4,
        tos: 0b1000_1010,
        id: 7,
        dont_fragment: false,
        ttl: 64,
        protocol,
        total_len: u16::try_from(20 + l4.len()).unwrap(),
    };
    let mut packet = ipv4::header(&fields).to_vec();
    packet.extend(l4);
    packet
}

fn v6_packet(destination: Ipv6Addr, next_header: u8, l4: &[u8]) -> Vec<u8> {
    let fields = ipv6::Ipv6Fields {
        source: THEIR_V6,
        destination,
        traffic_class: 1,
        hop_limit: 255,
        next_header,
        payload_len: u16::try_from(l4.len()).unwrap(),
    };
    let mut packet = ipv6::header(&fields).to_vec();
    packet.extend(l4);
    packet
}

fn v4(payload: &[u8]) -> Vec<u8> {
    let l4 = datagram(51_820, payload, |len| {
        Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len)
    });
    ethernet(MAC, 0x0800, &v4_packet(17, &l4))
}

fn v6(payload: &[u8]) -> Vec<u8> {
    let l4 = datagram(51_820, payload, |len| {
        Checksum::pseudo_v6(THEIR_V6, OUR_V6, 17, len)
    });
    ethernet(MAC, 0x86dd, &v6_packet(OUR_V6, 17, &l4))
}

fn verdict(frame: &[u8]) -> Verdict {
    with(UNKNOWN, frame).0
}

fn with(checks: Checks, frame: &[u8]) -> (Verdict, Option<Accepted>) {
    let mut accepted = None;
    let verdict = classify(frame, checks, MAC, &uplink(), |parts| {
        accepted = Some(parts)
    });
    assert_eq!(accepted.is_some(), verdict == Verdict::Datagram);
    (verdict, accepted)
}

#[track_caller]
fn assert_dropped(frame: &[u8], reason: DropReason) {
    assert_eq!(verdict(frame), Verdict::Drop(reason));
}

#[test]
fn datagrams_reach_their_tunnel() {
    for payload in [&b""[..], b"x", b"a sealed datagram"] {
        let mut frame = v4(payload);
        frame.extend([0; 6]); // Ethernet's padding is not the datagram's
        let expected = Accepted {
            payload: 42..42 + payload.len(),
            source: SocketAddr::new(THEIR_V4.into(), 4_000),
            local: OUR_V4.into(),
            tunnel: TunnelIndex(3),
            ecn: 2,
        };
        assert_eq!(with(UNKNOWN, &frame).1, Some(expected));
        let expected = Accepted {
            payload: 62..62 + payload.len(),
            source: SocketAddr::new(THEIR_V6.into(), 4_000),
            local: OUR_V6.into(),
            tunnel: TunnelIndex(3),
            ecn: 1,
        };
        assert_eq!(with(UNKNOWN, &v6(payload)).1, Some(expected));
    }
}

#[test]
fn checksums_are_believed_or_verified() {
    let mut corrupt = v4(b"payload");
    *corrupt.last_mut().unwrap() ^= 1;
    assert_dropped(&corrupt, DropReason::OuterChecksum);
    let nic = Checks {
        l4: RxChecksum::Good,
        ..UNKNOWN
    };
    assert!(matches!(with(nic, &corrupt).0, Verdict::Datagram));
    // virtio: the host has left the sum out, and vouches for what it covers.
    let nic = Checks {
        l4: RxChecksum::Absent,
        ..UNKNOWN
    };
    assert!(matches!(with(nic, &corrupt).0, Verdict::Datagram));
    let nic = Checks {
        l4: RxChecksum::Bad,
        ..UNKNOWN
    };
    assert_eq!(
        with(nic, &v4(b"x")).0,
        Verdict::Drop(DropReason::OuterChecksum)
    );

    let mut header = v4(b"payload");
    header[22] ^= 1; // the TTL, which the NIC found good all the same
    assert_dropped(&header, DropReason::OuterChecksum);
    let nic = Checks {
        ip: RxChecksum::Good,
        ..UNKNOWN
    };
    assert!(matches!(with(nic, &header).0, Verdict::Datagram));
    let nic = Checks {
        ip: RxChecksum::Bad,
        ..UNKNOWN
    };
    assert_eq!(
        with(nic, &v4(b"x")).0,
        Verdict::Drop(DropReason::OuterChecksum)
    );

    // No checksum: fine over IPv4, not over IPv6.
    let mut none = v4(b"payload");
    none[40..42].fill(0);
    assert!(matches!(verdict(&none), Verdict::Datagram));
    let mut none = v6(b"payload");
    none[60..62].fill(0);
    assert_dropped(&none, DropReason::OuterChecksum);

    // A local sender's partial checksum: only from a kernel interface.
    let mut partial = v4(b"payload");
    let sum = Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, 15).value();
    partial[40..42].copy_from_slice(&sum.to_be_bytes());
    assert_dropped(&partial, DropReason::OuterChecksum);
    let kernel = Checks {
        partial: true,
        ..UNKNOWN
    };
    assert!(matches!(with(kernel, &partial).0, Verdict::Datagram));
    assert_eq!(
        with(kernel, &corrupt).0,
        Verdict::Drop(DropReason::OuterChecksum)
    );
}

/// BFD of a neighbor (RFC 5881, section 5); what was routed is as any other datagram that is nobody's.
#[test]
fn what_says_that_a_neighbor_lives_has_a_class_of_its_own() {
    for (port, ttl, class) in [
        (3784, 255, PuntClass::Liveness),
        (3784, 254, PuntClass::Datagram),
        (3785, 255, PuntClass::Datagram),
    ] {
        let l4 = |seed: fn(u32) -> Checksum| datagram(port, b"x", seed);
        let over_v4 = l4(|len| Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len));
        let mut v4 = ethernet(MAC, 0x0800, &v4_packet(17, &over_v4));
        v4[22] = ttl;
        v4[24..26].fill(0);
        let sum = Checksum::of(&v4[14..34]).complement();
        v4[24..26].copy_from_slice(&sum.to_be_bytes());
        let over_v6 = l4(|len| Checksum::pseudo_v6(THEIR_V6, OUR_V6, 17, len));
        let mut v6 = ethernet(MAC, 0x86dd, &v6_packet(OUR_V6, 17, &over_v6));
        v6[21] = ttl;
        for frame in [v4, v6] {
            assert_eq!(verdict(&frame), Verdict::Punt(class), "{port} {ttl}");
        }
    }
}

#[test]
fn only_what_is_ours() {
    let mut frame = v4(b"x");
    frame[5] ^= 1;
    assert_dropped(&frame, DropReason::NotForUs);
    let mut frame = v4(b"x");
    frame[..6].fill(0xff); // IPv4 unicast inside an Ethernet broadcast (RFC 1122, 3.3.6)
    assert_dropped(&frame, DropReason::NotForUs);
    let l4 = datagram(51_821, b"x", |len| {
        Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len)
    });
    let port_of_nobody = ethernet(MAC, 0x0800, &v4_packet(17, &l4));
    assert_eq!(verdict(&port_of_nobody), Verdict::Punt(PuntClass::Datagram));
    let mut corrupt = port_of_nobody;
    *corrupt.last_mut().unwrap() ^= 1;
    assert_dropped(&corrupt, DropReason::OuterChecksum);
    for protocol in [50, 250] {
        let of_nobody = ethernet(MAC, 0x0800, &v4_packet(protocol, &[0; 20]));
        assert_eq!(verdict(&of_nobody), Verdict::Punt(PuntClass::Rest));
        let of_nobody = ethernet(MAC, 0x86dd, &v6_packet(OUR_V6, protocol, &[0; 20]));
        assert_eq!(verdict(&of_nobody), Verdict::Punt(PuntClass::Rest));
    }
    assert_dropped(&ethernet(MAC, 0x8100, &[0; 46]), DropReason::NotForUs);
    assert_dropped(
        &ethernet(MAC, 0x86dd, &v6_packet(THEIR_V6, 17, &[0; 20])),
        DropReason::NotForUs,
    );
}

fn segment(flags: u8, seed: impl FnOnce(u32) -> Checksum) -> Vec<u8> {
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&[0x40, 0, 0x24, 0xe3]);
    (bytes[12], bytes[13]) = (0x50, flags);
    let mut sum = seed(24);
    sum.add(&bytes);
    bytes[16..18].copy_from_slice(&sum.complement().to_be_bytes());
    bytes.to_vec()
}

#[test]
fn who_begins_a_connection_waits_behind_those_who_have_one() {
    use flags::{ACK, FIN, RST, SYN};
    let over_v4 = |flags| {
        let l4 = segment(flags, |len| Checksum::pseudo_v4(THEIR_V4, OUR_V4, 6, len));
        ethernet(MAC, 0x0800, &v4_packet(6, &l4))
    };
    let over_v6 = |flags| {
        let l4 = segment(flags, |len| Checksum::pseudo_v6(THEIR_V6, OUR_V6, 6, len));
        ethernet(MAC, 0x86dd, &v6_packet(OUR_V6, 6, &l4))
    };
    for (flags, class) in [
        (SYN, PuntClass::Opening),
        (SYN | FIN, PuntClass::Opening),
        (SYN | ACK, PuntClass::Segment),
        (ACK, PuntClass::Segment),
        (RST, PuntClass::Segment),
        (0, PuntClass::Segment),
    ] {
        assert_eq!(verdict(&over_v4(flags)), Verdict::Punt(class));
        assert_eq!(verdict(&over_v6(flags)), Verdict::Punt(class));
    }

    let mut corrupt = over_v4(SYN);
    *corrupt.last_mut().unwrap() ^= 1;
    assert_dropped(&corrupt, DropReason::OuterChecksum);
    let mut partial = over_v4(ACK);
    let sum = Checksum::pseudo_v4(THEIR_V4, OUR_V4, 6, 24).value();
    partial[50..52].copy_from_slice(&sum.to_be_bytes());
    assert_dropped(&partial, DropReason::OuterChecksum);
    let kernel = Checks {
        partial: true,
        ..UNKNOWN
    };
    let expected = Verdict::Punt(PuntClass::Segment);
    assert_eq!(with(kernel, &partial).0, expected);
    for header_len in [0x40, 0x70] {
        let mut lying = over_v4(ACK);
        lying[46] = header_len;
        assert_dropped(&lying, DropReason::OuterMalformed);
    }
    assert_dropped(
        &ethernet(MAC, 0x0800, &v4_packet(6, &[0; 19])),
        DropReason::OuterMalformed,
    );
}

#[test]
fn the_host_stack_gets_what_it_answers() {
    let question = Verdict::Punt(PuntClass::NeighborQuestion);
    assert_eq!(
        verdict(&ethernet(MAC, 0x0800, &v4_packet(1, &[8, 0]))),
        Verdict::Punt(PuntClass::Icmp)
    );
    let solicited = |last: u16| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, last);
    for (group, expected) in [
        (solicited(0x10), question),
        (solicited(0x11), Verdict::Drop(DropReason::NotForUs)),
        (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), question),
        (
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16),
            Verdict::Drop(DropReason::NotForUs),
        ),
    ] {
        let to = MacAddr::from_ipv6_multicast(group);
        assert_eq!(
            verdict(&ethernet(to, 0x86dd, &v6_packet(group, 58, &[135]))),
            expected
        );
    }

    let arp = |sender: Ipv4Addr, target: Ipv4Addr| {
        let mut message = [0; 28];
        message[7] = 1;
        message[14..18].copy_from_slice(&sender.octets());
        message[24..28].copy_from_slice(&target.octets());
        ethernet(MacAddr::BROADCAST, 0x0806, &message)
    };
    assert_eq!(verdict(&arp(THEIR_V4, OUR_V4)), question);
    assert_eq!(verdict(&arp(THEIR_V4, THEIR_V4)), question);
    // Whatever another says that has our address.
    assert_eq!(
        verdict(&arp(OUR_V4, Ipv4Addr::new(192, 0, 2, 99))),
        question
    );
    assert_dropped(
        &arp(THEIR_V4, Ipv4Addr::new(192, 0, 2, 99)),
        DropReason::NotForUs,
    );
    assert_dropped(&arp(THEIR_V4, OUR_V4)[..40], DropReason::OuterMalformed);
}

#[test]
fn only_those_on_the_link_get_into_the_neighbors_classes() {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let icmp6 = |to: Ipv6Addr, kind: &[u8], hops: u8| {
        let mac = match to.is_multicast() {
            true => MacAddr::from_ipv6_multicast(to),
            false => MAC,
        };
        let mut packet = v6_packet(to, 58, kind);
        packet[7] = hops;
        verdict(&ethernet(mac, 0x86dd, &packet))
    };
    for (to, kind, hops, class) in [
        (OUR_V6, &[136][..], 255, PuntClass::NeighborAnswer),
        (all_nodes, &[136], 255, PuntClass::NeighborQuestion),
        (OUR_V6, &[135], 255, PuntClass::NeighborQuestion),
        (OUR_V6, &[134], 255, PuntClass::RouterUnknown),
        (all_nodes, &[134], 255, PuntClass::RouterUnknown),
        (all_nodes, &[134], 254, PuntClass::Rest),
        (OUR_V6, &[136], 254, PuntClass::Rest),
        (OUR_V6, &[135], 64, PuntClass::Rest),
        (OUR_V6, &[], 255, PuntClass::Rest),
        (OUR_V6, &[128], 64, PuntClass::Icmp),
        (OUR_V6, &[2], 64, PuntClass::Icmp),
        (all_nodes, &[128], 64, PuntClass::Rest),
        (all_nodes, &[130], 1, PuntClass::Rest),
    ] {
        assert_eq!(
            icmp6(to, kind, hops),
            Verdict::Punt(class),
            "{to} {kind:?} {hops}"
        );
    }
    let mut reply = [0; 28];
    reply[7] = 2;
    reply[24..28].copy_from_slice(&OUR_V4.octets());
    for (to, class) in [
        (MAC, PuntClass::NeighborAnswer),
        (MacAddr::BROADCAST, PuntClass::NeighborQuestion),
    ] {
        assert_eq!(verdict(&ethernet(to, 0x0806, &reply)), Verdict::Punt(class));
    }
}

#[test]
fn fragments_are_the_stacks() {
    let fragment = Verdict::Punt(PuntClass::Fragment);
    for bits in [0x2000_u16, 0x0001, 0x1fff] {
        let mut packet = v4_packet(17, &[0; 16]);
        packet[6..8].copy_from_slice(&bits.to_be_bytes());
        packet[10..12].fill(0);
        let sum = Checksum::of(&packet[..20]).complement();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(verdict(&ethernet(MAC, 0x0800, &packet)), fragment);
    }
    let of = |destination| ethernet(MAC, 0x86dd, &v6_packet(destination, 44, &[0; 16]));
    assert_eq!(verdict(&of(OUR_V6)), fragment);
    assert_dropped(&of(THEIR_V6), DropReason::NotForUs);
}

#[test]
fn a_datagram_out_of_fragments_is_looked_at_as_any_other() {
    let uplink = uplink();
    let payload = b"a sealed datagram";
    let mut came = 0;
    for frame in [v4(payload), v6(payload)] {
        let mut whole = frame.clone();
        let taken = receive_whole(&mut whole, &uplink, |burst| {
            let [datagram] = burst else {
                panic!("one datagram");
            };
            assert_eq!(datagram.bytes_mut(), payload);
            assert_eq!(
                (datagram.tunnel, datagram.source.port()),
                (TunnelIndex(3), 4_000)
            );
            came += 1;
        });
        assert_eq!(taken, Ok(()));
        let mut bent = frame;
        *bent.last_mut().unwrap() ^= 1;
        let nobody = |_: &mut [_]| panic!("its sum is wrong");
        let refused = receive_whole(&mut bent, &uplink, nobody);
        assert_eq!(refused, Err(DropReason::OuterChecksum));
    }
    assert_eq!(came, 2);
    assert_eq!(uplink.counters.rx_packets.load(Ordering::Relaxed), 2);
    let l4 = datagram(51_821, payload, |len| {
        Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len)
    });
    let mut of_nobody = ethernet(MAC, 0x0800, &v4_packet(17, &l4));
    let nobody = |_: &mut [_]| panic!("nobody has its port");
    let refused = receive_whole(&mut of_nobody, &uplink, nobody);
    assert_eq!(refused, Err(DropReason::NotForUs));
}

#[test]
fn cut_and_bent_frames_are_refused() {
    for frame in [v4(b"a payload"), v6(b"a payload")] {
        for len in 0..frame.len() {
            assert_dropped(&frame[..len], DropReason::OuterMalformed);
        }
        // Any one bit wrong: never a panic, never a datagram of another size.
        for bit in 0..frame.len() * 8 {
            let mut bent = frame.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            for checks in [
                UNKNOWN,
                Checks {
                    ip: RxChecksum::Good,
                    l4: RxChecksum::Good,
                    partial: true,
                },
            ] {
                if let Some(Accepted { payload, .. }) = with(checks, &bent).1 {
                    assert!(payload.start <= payload.end && payload.end <= bent.len());
                }
            }
        }
    }
}

#[test]
fn what_dhcp_servers_say_reaches_the_stack_at_any_address() {
    let lease = Verdict::Punt(PuntClass::Lease);
    let to = |mac, address: Ipv4Addr, ports: [u8; 4]| {
        let mut l4 = datagram(68, b"a lease", |len| {
            Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len)
        });
        l4[..4].copy_from_slice(&ports);
        // Over IPv4 it may have no sum.
        l4[6..8].fill(0);
        let mut packet = v4_packet(17, &l4);
        packet[16..20].copy_from_slice(&address.octets());
        packet[10..12].fill(0);
        let sum = Checksum::of(&packet[..20]).complement();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        verdict(&ethernet(mac, 0x0800, &packet))
    };
    let served = [0, 67, 0, 68];
    let lent = Ipv4Addr::new(192, 0, 2, 99);
    assert_eq!(to(MAC, lent, served), lease);
    assert_eq!(to(MAC, OUR_V4, served), lease);
    assert_eq!(to(MacAddr::BROADCAST, Ipv4Addr::BROADCAST, served), lease);
    let dropped = Verdict::Drop(DropReason::NotForUs);
    assert_eq!(to(MacAddr([2, 0, 0, 0, 0, 7]), lent, served), dropped);
    assert_eq!(to(MAC, lent, [0, 68, 0, 67]), dropped, "a client's");
    assert_eq!(to(MAC, lent, [0, 66, 0, 68]), dropped);
}

#[test]
fn who_has_an_address_that_we_ask_for_tells_us() {
    let of = |to: MacAddr, operation: u8| {
        let mut packet = [0; ARP_LEN];
        packet[7] = operation;
        packet[14..18].copy_from_slice(&THEIR_V4.octets());
        verdict(&ethernet(to, 0x0806, &packet))
    };
    assert_eq!(of(MAC, 2), Verdict::Punt(PuntClass::NeighborAnswer));
    assert_eq!(of(MAC, 1), Verdict::Drop(DropReason::NotForUs));
    assert_eq!(
        of(MacAddr::BROADCAST, 2),
        Verdict::Drop(DropReason::NotForUs)
    );
}
