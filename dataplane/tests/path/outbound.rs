//! Guest to tunnel.

use culvert_dataplane::shared::{drops::DropReason, peer::signal};
use culvert_wire::VnetHeader;

use crate::{
    packets::{Ip, ip, noise, offload, read},
    support::{GATEWAY, GUEST, Options, Site, count, frame, packet},
};

const PLAIN: VnetHeader = VnetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
};

fn v4() -> Ip {
    ip("10.0.0.2", "10.1.0.2")
}

fn v6() -> Ip {
    ip("fd00:0::2", "fd00:1::2")
}

#[test]
fn packets_go_from_guest_to_guest_through_two_workers() {
    for (over_v6, packed) in [(false, false), (true, false), (false, true)] {
        let near = Options {
            v6: over_v6,
            packed,
            ..Options::default()
        };
        let mut a = Site::new(near.clone());
        let mut b = Site::new(Options { site: 1, ..near });
        a.path_to(b.address);
        b.path_to(a.address);
        for (inner, host) in [(v4(), "10.1.0.2"), (v6(), "fd00:1::2")] {
            let head = if inner.source.is_ipv4() { 28 } else { 48 };
            for len in [0, 1, 56, 57, 1419 - head, 1420 - head] {
                let data = noise(len, 1);
                for sent in [inner.echo(&data), inner.udp((5, 6), &data, false)] {
                    a.send_plain(0, &sent);
                    b.settle_from(&a);
                    let (vnet, got) = b.frame(0);
                    assert!(vnet.is_plain() && vnet.flags == 0);
                    let seen = read(packet(&got, GATEWAY, GUEST[0]));
                    let mut expected = read(&sent);
                    expected.hop_limit = 62;
                    assert_eq!(seen, expected);
                    assert_eq!(seen.destination, host.parse::<std::net::IpAddr>().unwrap());
                }
            }
        }
        a.no_drops();
        b.no_drops();
        assert_eq!(a.frames(0).len() + a.frames(1).len(), 0);
    }
}

#[test]
fn a_sealed_packet_is_padded_to_16_within_the_mtu() {
    let mut site = Site::new(Options::default());
    for (counter, len) in (0..).zip([0, 3, 4, 5, 1380, 1391, 1392]) {
        let sent = v4().udp((5, 6), &noise(len, 2), false);
        site.send_plain(0, &sent);
        let sealed = site.sealed();
        assert_eq!(sealed.len(), 1);
        let (at, plaintext) = &sealed[0];
        assert_eq!(
            (*at, plaintext.len()),
            (counter, sent.len().next_multiple_of(16).min(1420))
        );
        let seen = read(plaintext);
        assert_eq!((seen.hop_limit, seen.l4), (63, read(&sent).l4));
    }
    site.no_drops();
    assert_ne!(site.peers[0].take_signals() & signal::DATA_SENT, 0);
}

fn super_frame(site: &mut Site, sent: &[u8], gso: u8, size: u16) -> Vec<crate::packets::Seen> {
    site.send(0, &offload(sent, gso, size), sent);
    let sealed = site.sealed();
    let first = sealed[0].0;
    sealed
        .iter()
        .zip(first..)
        .map(|((counter, plaintext), expected)| {
            assert_eq!(*counter, expected, "counters are consecutive");
            let seen = read(plaintext);
            assert_eq!(plaintext.len(), seen.len.next_multiple_of(16).min(1420));
            assert_eq!(seen.hop_limit, 63);
            seen
        })
        .collect()
}

#[test]
fn super_frames_leave_as_packets_of_the_mtu() {
    // Contiguous, and scattered over dozens of descriptors.
    for (piece_len, total) in [(65_536, 60_001), (1_024, 60_001), (40, 6_001)] {
        let mut site = Site::new(Options {
            piece_len,
            ..Options::default()
        });
        let data = noise(total, 3);
        for (inner, gso, head) in [
            (v4(), VnetHeader::GSO_TCPV4, 40),
            (v6(), VnetHeader::GSO_TCPV6, 60),
        ] {
            let size = 1420 - head;
            let sent = inner.tcp(0xffff_ff00, 0x19, &data, true);
            let seen = super_frame(&mut site, &sent, gso, u16::try_from(size).unwrap());
            assert_eq!(seen.len(), total.div_ceil(size));
            let mut sequence = 0xffff_ff00u32;
            let mut joined: Vec<u8> = Vec::new();
            for (n, part) in seen.iter().enumerate() {
                let last = n + 1 == seen.len();
                assert_eq!(part.sequence(), sequence);
                // FIN and PSH on the last only.
                assert_eq!(part.flags(), if last { 0x19 } else { 0x10 });
                if gso == VnetHeader::GSO_TCPV4 {
                    assert_eq!(part.id, 7 + u16::try_from(n).unwrap());
                }
                assert!(last || part.len == 1420);
                sequence = sequence.wrapping_add(u32::try_from(part.payload().len()).unwrap());
                joined.extend(part.payload());
            }
            assert_eq!(joined, data);
        }
        for inner in [v4(), v6()] {
            let sent = inner.udp((5, 6), &data, true);
            let seen = super_frame(&mut site, &sent, VnetHeader::GSO_UDP_L4, 1200);
            assert_eq!(seen.len(), total.div_ceil(1200));
            let joined: Vec<u8> = seen.iter().flat_map(|s| s.payload().to_vec()).collect();
            assert_eq!(joined, data);
        }
        site.no_drops();
    }
}

#[test]
fn larger_segments_than_the_mtu_are_cut_again_and_their_sender_is_told() {
    let mut site = Site::new(Options::default());
    let data = noise(20_000, 4);
    let sent = v4().tcp(1, 0x10, &data, true);
    let seen = super_frame(&mut site, &sent, VnetHeader::GSO_TCPV4, 1460);
    assert_eq!(seen.len(), data.len().div_ceil(1380));
    let joined: Vec<u8> = seen.iter().flat_map(|s| s.payload().to_vec()).collect();
    assert_eq!(joined, data);
    let (_, told) = site.frame(0);
    let told = read(packet(&told, GATEWAY, GUEST[0]));
    assert_eq!(told.l4[..2], [3, 4]);
    assert_eq!(told.l4[6..8], 1420u16.to_be_bytes());
    site.no_drops();
}

#[test]
fn scattered_payload_gives_the_same_plaintext() {
    let mut plaintexts = Vec::new();
    for piece_len in [65_536, 16, 7, 5] {
        let mut site = Site::new(Options {
            piece_len,
            ..Options::default()
        });
        let sent = v4().udp((1, 2), &noise(1000, 5), true);
        site.send(0, &offload(&sent, 0, 0), &sent);
        let sealed = site.sealed();
        assert_eq!(sealed.len(), 1);
        read(&sealed[0].1);
        plaintexts.push(sealed[0].1.clone());
        site.no_drops();
    }
    assert!(plaintexts.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_burst_for_two_peers_keeps_each_ones_order() {
    // The second peer's keypair has so many counters left.
    for left in [u64::MAX, 3] {
        let mut site = Site::new(Options::default());
        let (mut far, keypair) = site.second();
        let limit = culvert_wireguard::limits::REJECT_AFTER_MESSAGES;
        if left < limit {
            keypair.skip_counters(limit - left);
        }
        let mut expected = [Vec::new(), Vec::new()];
        for n in 0..30 {
            let to = usize::from(n % 3 == 1);
            let inner = ip("10.0.0.2", ["10.1.0.2", "10.8.0.2"][to]);
            let data = noise(if n % 5 == 0 { 10_000 } else { 700 }, n);
            let sent = inner.udp((5, 6), &data, true);
            let vnet = match data.len() > 1_000 {
                true => offload(&sent, VnetHeader::GSO_UDP_L4, 1_000),
                false => offload(&sent, 0, 0),
            };
            site.offer(0, &vnet, &frame(GUEST[0], GATEWAY, &sent));
            expected[to].extend(data);
        }
        site.settle();
        let spent = site.peers[1].drops.count(DropReason::KeypairSpent);
        assert_eq!(spent > 0, left < limit);
        let mut got: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
        let mut counters = [0, limit.saturating_sub(left)];
        for (to, far) in [(0, &mut site.far), (1, &mut far)] {
            while far.received < count(&site.peers[to].traffic.tx_packets) {
                let Some((counter, plaintext)) = far.receive() else {
                    continue;
                };
                assert_eq!(counter, counters[to]);
                counters[to] += 1;
                got[to].extend(read(&plaintext).payload());
            }
        }
        assert_eq!(got[0], expected[0]);
        if left > limit {
            assert_eq!(got[1], expected[1]);
        }
        assert!(counters[1] <= limit);
        site.no_drops();
    }
}

#[test]
fn a_packet_larger_than_the_tunnel_is_answered() {
    let mut site = Site::new(Options::default());
    let sent = v4().udp((5, 6), &noise(1393, 6), false);
    site.send_plain(0, &sent);
    let (_, told) = site.frame(0);
    let told = read(packet(&told, GATEWAY, GUEST[0]));
    assert_eq!((told.protocol, &told.l4[..2]), (1, &[3, 4][..]));
    assert_eq!(told.l4[6..8], 1420u16.to_be_bytes());
    assert_eq!(told.source.to_string(), site.v4(1));
    assert_eq!(told.l4[8..36], sent[..28]);

    let sent = v6().udp((5, 6), &noise(1373, 6), false);
    site.send_plain(0, &sent);
    let (_, told) = site.frame(0);
    let told = read(packet(&told, GATEWAY, GUEST[0]));
    assert_eq!((told.protocol, &told.l4[..2]), (58, &[2, 0][..]));
    assert_eq!(told.l4[4..8], 1420u32.to_be_bytes());
    assert_eq!(told.l4[8..56], sent[..48]);

    // A datagram of a super-frame is not cut to another size.
    let sent = v4().udp((5, 6), &noise(5000, 6), true);
    site.send(0, &offload(&sent, VnetHeader::GSO_UDP_L4, 1400), &sent);
    assert_eq!(
        read(packet(&site.frame(0).1, GATEWAY, GUEST[0])).l4[..2],
        [3, 4]
    );

    assert!(site.sealed().is_empty());
    site.port_drops(0, &[(DropReason::TooBig, 3)]);
}

#[test]
fn datagrams_that_no_room_holds_are_dropped_by_name_alone() {
    // A tunnel wider than the uplink's rooms.
    let mut site = Site::new(Options {
        mtu: 65_535,
        ..Options::default()
    });
    for len in [100, 65_480, 200, 65_470, 300] {
        let sent = v4().udp((5, 6), &noise(len, 6), false);
        site.offer(0, &PLAIN, &frame(GUEST[0], GATEWAY, &sent));
    }
    site.settle();
    let lens: Vec<_> = site
        .sealed()
        .iter()
        .map(|(_, p)| read(p).payload().len())
        .collect();
    assert_eq!(lens, [100, 200, 300]);
    site.peer_drops(&[(DropReason::TooBig, 2)]);
}

#[test]
fn a_hop_limit_that_runs_out_is_answered() {
    let mut site = Site::new(Options::default());
    for hops in [0, 1] {
        site.send_plain(0, &v4().hops(hops).udp((5, 6), b"x", false));
        let told = site.frame(0).1;
        assert_eq!(read(packet(&told, GATEWAY, GUEST[0])).l4[..2], [11, 0]);
        site.send_plain(0, &v6().hops(hops).udp((5, 6), b"x", false));
        let told = site.frame(0).1;
        assert_eq!(read(packet(&told, GATEWAY, GUEST[0])).l4[..2], [3, 0]);
    }
    assert!(site.sealed().is_empty());
    site.port_drops(0, &[(DropReason::TtlExceeded, 4)]);
    site.send_plain(0, &v4().hops(2).udp((5, 6), b"x", false));
    assert_eq!(read(&site.sealed()[0].1).hop_limit, 1);
}

#[test]
fn what_has_no_route_is_answered() {
    let mut site = Site::new(Options::default());
    for (destination, v4) in [
        ("192.0.2.1", true),
        ("10.0.0.77", true),
        ("2001:db8::1", false),
    ] {
        let source = if v4 { "10.0.0.2" } else { "fd00:0::2" };
        site.send_plain(0, &ip(source, destination).udp((5, 6), b"x", false));
        let told = site.frame(0).1;
        let told = read(packet(&told, GATEWAY, GUEST[0]));
        assert_eq!(
            (told.protocol, told.l4[0]),
            if v4 { (1, 3) } else { (58, 1) }
        );
    }
    site.port_drops(0, &[(DropReason::NoRoute, 3)]);
    // A peer without a way to it.
    site.send_plain(0, &ip("10.0.0.2", "10.8.0.1").udp((5, 6), b"x", false));
    let told = site.frame(0).1;
    assert_eq!(read(packet(&told, GATEWAY, GUEST[0])).l4[0], 3);
    site.port_drops(0, &[(DropReason::NoRoute, 3), (DropReason::NoEndpoint, 1)]);
}

#[test]
fn hostile_offload_metadata_is_refused_by_name() {
    let mut site = Site::new(Options::default());
    let tcp = v4().tcp(1, 0x10, &noise(3000, 8), true);
    let udp = v4().udp((5, 6), &noise(1000, 8), true);
    let good = offload(&tcp, VnetHeader::GSO_TCPV4, 1380);
    let partial = offload(&udp, 0, 0);
    let hostile: &[(&[u8], VnetHeader)] = &[
        (
            &udp,
            VnetHeader {
                csum_start: 60_000,
                ..partial
            },
        ),
        (
            &udp,
            VnetHeader {
                csum_start: u16::MAX,
                csum_offset: u16::MAX,
                ..partial
            },
        ),
        (
            &udp,
            VnetHeader {
                csum_offset: 2000,
                ..partial
            },
        ),
        (
            &udp,
            VnetHeader {
                csum_start: 0,
                ..partial
            },
        ),
        (
            &tcp,
            VnetHeader {
                gso_size: 0,
                ..good
            },
        ),
        // 3,000 packets of a byte each.
        (
            &tcp,
            VnetHeader {
                gso_size: 1,
                ..good
            },
        ),
        (
            &tcp,
            VnetHeader {
                gso_type: VnetHeader::GSO_TCPV6,
                ..good
            },
        ),
        (
            &tcp,
            VnetHeader {
                gso_type: VnetHeader::GSO_UDP_L4,
                ..good
            },
        ),
        (
            &tcp,
            VnetHeader {
                gso_type: VnetHeader::GSO_UDP,
                ..good
            },
        ),
        (
            &udp,
            VnetHeader {
                gso_type: VnetHeader::GSO_UDP,
                gso_size: 500,
                ..partial
            },
        ),
        (
            &tcp,
            VnetHeader {
                gso_type: 0x7f,
                ..good
            },
        ),
        (&tcp, VnetHeader { flags: 0, ..good }),
        (
            &tcp,
            VnetHeader {
                hdr_len: u16::MAX,
                ..good
            },
        ),
        (
            &tcp,
            VnetHeader {
                csum_start: 20,
                ..good
            },
        ),
    ];
    for (n, (sent, vnet)) in hostile.iter().enumerate() {
        site.send(0, vnet, sent);
        // The same to the other guest, which would believe it.
        site.offer(0, vnet, &frame(GUEST[0], GUEST[1], sent));
        site.settle();
        site.port_drops(0, &[(DropReason::OffloadInvalid, 2 * n as u64 + 2)]);
        assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
    }
    assert!(site.sealed().is_empty());
    site.peer_drops(&[]);
}

#[test]
fn a_worker_without_the_uplink_names_what_it_loses() {
    let mut site = Site::new(Options {
        uplink: false,
        ..Options::default()
    });
    let sent = v4().tcp(1, 0x10, &noise(3000, 8), true);
    site.send(0, &offload(&sent, VnetHeader::GSO_TCPV4, 1380), &sent);
    site.send_plain(0, &v4().echo(b"x"));
    site.peer_drops(&[(DropReason::UplinkDown, 4)]);
    assert!(site.sealed().is_empty());
}

#[test]
fn an_endpoint_that_the_uplink_can_not_reach_is_named() {
    let mut site = Site::new(Options::default());
    // An uplink of IPv4 alone; an address that the kernel refuses.
    for endpoint in ["[::1]:9", "255.255.255.255:9"] {
        site.path_to(endpoint.parse().unwrap());
        site.send_plain(0, &v4().echo(b"x"));
    }
    site.uplink_drops(&[(DropReason::UplinkDown, 1), (DropReason::UplinkRefused, 1)]);
    site.peer_drops(&[]);
    assert!(site.sealed().is_empty());
}

#[test]
fn what_left_from_an_address_that_is_gone_leaves_from_another() {
    for (v6, gone) in [(false, "192.0.2.1"), (true, "2001:db8::1")] {
        let mut site = Site::new(Options {
            v6,
            ..Options::default()
        });
        let far = site.far.socket.local_addr().unwrap();
        site.path_from(gone.parse().unwrap(), far);
        for _ in 0..2 {
            // Several datagrams in one message, and a single one.
            let sent = v4().tcp(7, 0x10, &noise(10_000, 3), true);
            let got = super_frame(&mut site, &sent, VnetHeader::GSO_TCPV4, 1360);
            assert_eq!(got.len(), 8);
            site.send_plain(0, &v4().echo(b"x"));
            assert_eq!(site.sealed().len(), 1);
        }
        site.no_drops();
    }
}

#[test]
fn outer_ecn_is_the_inner() {
    let mut a = Site::new(Options::default());
    let mut b = Site::new(Options {
        site: 1,
        ..Options::default()
    });
    a.path_to(b.address);
    for class in 0..=3 {
        for inner in [v4(), v6()] {
            a.send_plain(0, &inner.class(0xb8 | class).udp((5, 6), b"x", false));
            b.settle_from(&a);
            // Not lost, not changed: the outer mark was no more than the inner.
            assert_eq!(
                read(packet(&b.frame(0).1, GATEWAY, GUEST[0])).class,
                0xb8 | class
            );
        }
    }
    b.no_drops();
}
