//! Tunnel to guest.

use std::net::SocketAddr;

use culvert_dataplane::shared::{drops::DropReason, peer::signal};
use culvert_vhost::Offloads;
use culvert_wire::VnetHeader;
use culvert_wireguard::{PublicKey, Role, cookie::Mac1};

use crate::{
    packets::{Ip, ip, noise, read, read_seeded},
    support::{Far, GATEWAY, GUEST, Options, Site, packet},
};

/// From the far end to guest 0.
fn v4() -> Ip {
    ip("10.1.0.2", "10.0.0.2")
}

fn v6() -> Ip {
    ip("fd00:1::2", "fd00:0::2")
}

fn site() -> Site {
    Site::new(Options::default())
}

/// The packets of one flow, `lens` payload bytes each, in order.
fn flow(inner: Ip, data: &[u8], size: usize) -> Vec<Vec<u8>> {
    let packets = data.len().div_ceil(size);
    data.chunks(size)
        .enumerate()
        .map(|(n, part)| {
            let ip = Ip {
                id: 7 + u16::try_from(n).unwrap(),
                ..inner
            };
            let flags = if n + 1 == packets { 0x18 } else { 0x10 };
            ip.tcp(u32::try_from(1 + n * size).unwrap(), flags, part, false)
        })
        .collect()
}

#[test]
fn a_burst_of_tcp_arrives_as_one_super_frame_where_the_guest_takes_it() {
    for (inner, kind, size) in [
        (v4(), VnetHeader::GSO_TCPV4, 1380),
        (v6(), VnetHeader::GSO_TCPV6, 1360),
    ] {
        let mut site = site();
        let data = noise(25_000, 1);
        site.far.send_packets(&flow(inner, &data, size));
        site.settle();
        let (vnet, got) = site.frame(0);
        assert_eq!((vnet.gso_type, usize::from(vnet.gso_size)), (kind, size));
        assert_eq!(vnet.flags, VnetHeader::NEEDS_CSUM);
        let head = if inner.source.is_ipv4() { 20 } else { 40 };
        assert_eq!((vnet.csum_start, vnet.csum_offset), (14 + head, 16));
        assert_eq!(vnet.hdr_len, 14 + head + 20);
        let seen = read_seeded(packet(&got, GATEWAY, GUEST[0]));
        assert_eq!(seen.payload(), data);
        assert_eq!(
            (seen.sequence(), seen.flags(), seen.hop_limit),
            (1, 0x18, 63)
        );
        site.no_drops();
    }
}

#[test]
fn a_burst_arrives_packet_by_packet_where_the_guest_takes_no_super_frames() {
    for offloads in [
        Offloads::empty(),
        Offloads::all() - Offloads::GUEST_TSO4 - Offloads::GUEST_TSO6,
    ] {
        let mut site = Site::new(Options {
            offloads: [offloads; 2],
            ..Options::default()
        });
        for (inner, size) in [(v4(), 1380), (v6(), 1360)] {
            let data = noise(25_000, 1);
            let sent = flow(inner, &data, size);
            site.far.send_packets(&sent);
            site.settle();
            let got = site.frames(0);
            assert_eq!(got.len(), sent.len());
            for ((vnet, got), sent) in got.iter().zip(&sent) {
                assert_eq!((vnet.flags & VnetHeader::NEEDS_CSUM, vnet.gso_type), (0, 0));
                let mut expected = read(sent);
                expected.hop_limit = 63;
                assert_eq!(read(packet(got, GATEWAY, GUEST[0])), expected);
            }
        }
        site.no_drops();
    }
}

#[test]
fn a_train_of_datagrams_arrives_as_one_where_the_guest_takes_it() {
    for (inner, uso) in [(v4(), Offloads::GUEST_USO4), (v6(), Offloads::GUEST_USO6)] {
        for offloads in [Offloads::all(), Offloads::all() - uso] {
            let mut site = Site::new(Options {
                offloads: [offloads; 2],
                ..Options::default()
            });
            let (size, count, ports) = (1_000, 20, (4_000, 5_000));
            let data = noise(size * count - 300, 1);
            let sent: Vec<_> = data
                .chunks(size)
                .map(|part| inner.udp(ports, part, false))
                .collect();
            site.far.send_packets(&sent);
            site.settle();
            let frames = site.frames(0);
            let head = if inner.source.is_ipv4() { 20 } else { 40 };
            if offloads.contains(uso) {
                let [(vnet, got)] = frames.as_slice() else {
                    panic!("one frame, not {}", frames.len());
                };
                assert_eq!(vnet.gso_type, VnetHeader::GSO_UDP_L4);
                assert_eq!(usize::from(vnet.gso_size), size);
                assert_eq!(vnet.flags, VnetHeader::NEEDS_CSUM);
                assert_eq!((vnet.csum_start, vnet.csum_offset), (14 + head, 6));
                assert_eq!(vnet.hdr_len, 14 + head + 8);
                let seen = read_seeded(packet(got, GATEWAY, GUEST[0]));
                assert_eq!(seen.payload(), data);
                assert_eq!(seen.hop_limit, 63);
            } else {
                // A datagram's size is its meaning: each comes as it was sent.
                assert_eq!(frames.len(), count);
                for ((_, got), sent) in frames.iter().zip(&sent) {
                    let mut expected = read(sent);
                    expected.hop_limit = 63;
                    assert_eq!(read(packet(got, GATEWAY, GUEST[0])), expected);
                }
            }
            site.no_drops();
        }
    }
}

#[test]
fn packets_with_wrong_checksums_or_gaps_are_not_joined() {
    let mut site = site();
    let mut sent = flow(v4(), &noise(5_000, 1), 1_000);
    let last = sent[1].len() - 1;
    sent[1][last] ^= 1;
    sent.remove(3);
    site.far.send_packets(&sent);
    site.settle();
    let mut payload = 0;
    let frames = site.frames(0);
    for (vnet, got) in &frames {
        // What was wrong stays wrong, for the guest to see.
        if vnet.gso_type == 0 && vnet.flags & VnetHeader::NEEDS_CSUM == 0 {
            let mut expected = sent
                .iter()
                .find(|s| s[24..28] == got[38..42])
                .unwrap()
                .clone();
            expected[8] -= 1;
            assert_eq!(got[34..], expected[20..]);
        }
        payload += got.len() - 54;
    }
    assert_eq!(payload, 4_000);
    assert_eq!(frames.len(), 4);
    site.no_drops();
}

#[test]
fn a_tag_that_does_not_verify_is_dropped_and_moves_nothing() {
    let mut site = site();
    let good = site.far.seal(&v4().echo(b"ping"));
    for at in [8, 16, good.len() - 17, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let other = Far::socket(site.address);
        site.far.send_from(&other, &bad);
    }
    site.settle();
    site.peer_drops(&[(DropReason::TagInvalid, 4)]);
    assert_eq!(site.peers[0].take_signals(), 0);
    assert!(site.frames(0).is_empty());
    // The counter is still good.
    site.far.send(&good);
    site.settle();
    assert_eq!(
        read(packet(&site.frame(0).1, GATEWAY, GUEST[0])).payload(),
        b"ping"
    );
}

#[test]
fn a_datagram_counts_once() {
    let mut site = site();
    let message = site.far.seal(&v4().echo(b"ping"));
    let next = site.far.seal(&v4().echo(b"pong"));
    // Twice in one burst, then again.
    site.far.send(&message);
    site.far.send(&message);
    site.far.send(&next);
    site.settle();
    assert_eq!(site.frames(0).len(), 2);
    site.peer_drops(&[(DropReason::Replayed, 1)]);
    site.far.send(&next);
    site.settle();
    site.peer_drops(&[(DropReason::Replayed, 2)]);
    // Far ahead, and what then lies behind the window.
    let ahead = site.far.seal_as(20_000, &v4().echo(b"x"));
    let behind = site.far.seal_as(20_000 - 8_129, &v4().echo(b"x"));
    let within = site.far.seal_as(20_000 - 8_127, &v4().echo(b"x"));
    for message in [ahead, behind, within] {
        site.far.send(&message);
    }
    site.settle();
    assert_eq!(site.frames(0).len(), 2);
    site.peer_drops(&[(DropReason::Replayed, 3)]);
}

#[test]
fn unknown_receivers_and_expired_keypairs_are_named() {
    let mut site = site();
    let mut message = site.far.seal(&v4().echo(b"x"));
    for receiver in [0, u32::MAX, site.far.receiver + 1024, site.far.receiver ^ 1] {
        message[4..8].copy_from_slice(&receiver.to_le_bytes());
        site.far.send(&message);
    }
    site.settle();
    site.uplink_drops(&[(DropReason::ReceiverUnknown, 4)]);

    let mut old = Site::new(Options {
        key_age: 181,
        ..Options::default()
    });
    old.far.send_packets(&[v4().echo(b"x"), v4().echo(b"x")]);
    old.settle();
    old.peer_drops(&[(DropReason::KeypairExpired, 2)]);
    assert!(old.frames(0).is_empty());
}

#[test]
fn only_the_peers_own_addresses_may_be_inner_sources() {
    let mut site = site();
    for source in ["10.8.0.1", "10.0.0.3", "192.0.2.1"] {
        site.far.send_packets(&[ip(source, "10.0.0.2").echo(b"x")]);
    }
    site.far
        .send_packets(&[ip("fd08::1", "fd00:0::2").echo(b"x")]);
    site.settle();
    assert!(site.frames(0).is_empty());
    site.peer_drops(&[(DropReason::SourceNotAllowed, 4)]);
    // The peer is there all the same.
    assert_eq!(site.peers[0].take_signals(), signal::DATA_RECEIVED);
}

#[test]
fn inner_garbage_is_named() {
    let mut site = site();
    let good = v4().echo(&noise(100, 1));
    let mut hostile: Vec<Vec<u8>> = vec![
        vec![0; 16],
        vec![0x45; 16],
        vec![0xff; 1408],
        vec![0x60; 32],
        good[..16].to_vec(),
    ];
    // A total length beyond the packet, and below its header.
    for len in [1000u16, 19, 0] {
        let mut bad = good.clone();
        bad[2..4].copy_from_slice(&len.to_be_bytes());
        hostile.push(bad);
    }
    let count = hostile.len() as u64;
    site.far.send_packets(&hostile);
    site.settle();
    assert!(site.frames(0).is_empty());
    site.peer_drops(&[(DropReason::InnerMalformed, count)]);
}

#[test]
fn datagrams_of_odd_sizes_are_named() {
    let mut site = site();
    let sizes = [0usize, 1, 3, 4, 15, 16, 31];
    for size in sizes {
        let mut datagram = vec![0; size];
        if let Some(first) = datagram.first_mut() {
            *first = 4;
        }
        site.far.send(&datagram);
    }
    site.settle();
    site.uplink_drops(&[(DropReason::DatagramMalformed, sizes.len() as u64)]);
    // The longest that UDP has: authentic, but nothing in it.
    let message = site.far.seal(&vec![0; 65_456]);
    site.far.send(&message);
    let mut garbage = vec![0xff; 65_507];
    site.far.send(&garbage);
    garbage[..4].copy_from_slice(&[4, 0, 0, 0]);
    site.far.send(&garbage);
    site.settle();
    site.uplink_drops(&[
        (DropReason::DatagramMalformed, sizes.len() as u64 + 1),
        (DropReason::ReceiverUnknown, 1),
    ]);
    site.peer_drops(&[(DropReason::InnerMalformed, 1)]);
    assert!(site.frames(0).is_empty());
    site.far.send_packets(&[v4().echo(b"x")]);
    site.settle();
    site.frame(0);
}

#[test]
fn handshakes_reach_the_control_core_only_with_their_mac() {
    let mut site = site();
    let mac1 = Mac1::new(&PublicKey::from_bytes([9; 32]));
    for (kind, len) in [(1, 148), (2, 92)] {
        let mut message = noise(len, 2);
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        site.far.send(&message);
        site.settle();
        assert!(site.controls[0].handshakes.pop().is_err());
        assert!(mac1.fill(&mut message));
        site.far.send(&message);
        site.settle();
        let punt = site.controls[0].handshakes.pop().unwrap();
        assert_eq!(punt.message.as_slice(), message);
        assert_eq!(punt.origin.source, site.far.socket.local_addr().unwrap());
        // Of another length it is nothing.
        message.push(0);
        site.far.send(&message);
    }
    let mut cookie = noise(64, 3);
    cookie[..4].copy_from_slice(&[3, 0, 0, 0]);
    site.far.send(&cookie);
    site.settle();
    assert_eq!(
        site.controls[0]
            .handshakes
            .pop()
            .unwrap()
            .message
            .as_slice(),
        cookie
    );
    site.uplink_drops(&[
        (DropReason::HandshakeMac1Invalid, 2),
        (DropReason::DatagramMalformed, 2),
    ]);
    // More than the queue holds.
    let mut message = vec![0; 148];
    message[0] = 1;
    assert!(mac1.fill(&mut message));
    for _ in 0..64 {
        for _ in 0..65 {
            site.far.send(&message);
        }
        site.settle();
    }
    site.uplink_drops(&[
        (DropReason::HandshakeMac1Invalid, 2),
        (DropReason::DatagramMalformed, 2),
        (DropReason::HandshakeQueueFull, 64),
    ]);
}

#[test]
fn an_endpoint_that_moves_is_reported_and_answered_at_once() {
    let mut site = site();
    site.far.send_packets(&[v4().echo(b"x")]);
    site.settle();
    assert_eq!(site.peers[0].take_signals() & signal::MOVED, 0);
    assert_eq!(site.peers[0].take_moved(), None);
    let mut seen = Vec::new();
    site.attention.sweep(|peer| seen.push(peer));
    assert_eq!(seen, [site.peers[0].index]);

    let before = site.peers[0].path().as_deref().cloned();
    let other = Far::socket(site.address);
    // A keepalive moves it too; and so does a packet from a wrong inner source.
    for plaintext in [
        vec![],
        v4().echo(b"x"),
        ip("192.0.2.1", "10.0.0.2").echo(b"x"),
    ] {
        let message = site.far.seal(&plaintext);
        site.far.send_from(&other, &message);
        site.settle();
        assert_ne!(site.peers[0].take_signals() & signal::MOVED, 0);
        let moved: Option<SocketAddr> = site.peers[0].take_moved().map(|moved| moved.source);
        assert_eq!(moved, Some(other.local_addr().unwrap()));
        // The control core has not heard of it yet.
        let path = site.peers[0].path().as_deref().cloned().unwrap();
        assert_eq!(Some(path.endpoint), moved);
        assert_eq!(path.source, Some(site.address.ip()));
        site.peers[0].publish_path(before.clone());
    }
}

#[test]
fn the_address_that_was_written_to_is_reported() {
    let mut site = site();
    let far = site.far.socket.local_addr().unwrap();
    site.path_from("127.0.0.9".parse().unwrap(), far);
    site.far.send_packets(&[v4().echo(b"x")]);
    site.settle();
    assert_ne!(site.peers[0].take_signals() & signal::MOVED, 0);
    let moved = site.peers[0].take_moved().unwrap();
    let expected = (far, Some(site.address.ip()), site.uplink.index);
    assert_eq!((moved.source, moved.local, moved.uplink), expected);
    site.path_to(far);
    site.far.send_packets(&[v4().echo(b"x")]);
    site.settle();
    assert_eq!(site.peers[0].take_signals() & signal::MOVED, 0);
}

#[test]
fn the_first_packet_confirms_a_responders_keypair() {
    let mut site = Site::new(Options {
        role: Role::Responder,
        ..Options::default()
    });
    site.send_plain(0, &ip("10.0.0.2", "10.1.0.2").echo(b"waits"));
    assert!(site.sealed().is_empty());
    assert_eq!(site.peers[0].take_signals(), signal::KEY_WANTED);
    let keepalive = site.far.seal(&[]);
    site.far.send(&keepalive);
    site.settle();
    assert_eq!(
        site.peers[0].take_signals(),
        signal::CONFIRMED | signal::KEEPALIVE_RECEIVED
    );
    assert_eq!(site.peers[0].confirmed_index(), site.far.receiver);
    // The control core has not heard of it yet.
    assert!(site.peers[0].keypair().is_some());
    // The next frame takes those that wait with it.
    site.send_plain(0, &ip("10.0.0.2", "10.1.0.2").echo(b"goes"));
    let sealed = site.sealed();
    assert_eq!(read(&sealed[0].1).payload(), b"waits");
    assert_eq!(read(&sealed[1].1).payload(), b"goes");
    site.no_drops();
}

#[test]
fn congestion_met_outside_is_marked_inside() {
    let mut site = site();
    set_tos(&site.far.socket, 3);
    for (class, expected) in [
        (0, None),
        (1, Some(3)),
        (2, Some(3)),
        (3, Some(3)),
        (0xba, Some(0xbb)),
    ] {
        for inner in [v4(), v6()] {
            site.far
                .send_packets(&[inner.class(class).udp((5, 6), b"x", false)]);
            site.settle();
            let frames = site.frames(0);
            let got = frames
                .first()
                .map(|f| read(packet(&f.1, GATEWAY, GUEST[0])).class);
            assert_eq!(got, expected);
        }
    }
    site.peer_drops(&[(DropReason::CongestionUnmarkable, 2)]);
    // ECT(1) outside is carried to ECT(0); other outer marks change nothing.
    for outer in [0, 1, 2] {
        set_tos(&site.far.socket, outer);
        for class in 0..=3 {
            site.far
                .send_packets(&[v4().class(class).udp((5, 6), b"x", false)]);
            site.settle();
            let expected = if (outer, class) == (1, 2) { 1 } else { class };
            assert_eq!(
                read(packet(&site.frame(0).1, GATEWAY, GUEST[0])).class,
                expected
            );
        }
    }
}

fn set_tos(socket: &std::net::UdpSocket, tos: u8) {
    rustix::net::sockopt::set_ip_tos(socket, tos).unwrap();
}

#[test]
fn the_gateway_answers_a_peers_echo_and_nothing_else() {
    let mut site = site();
    let asked = ip("10.1.0.2", "10.0.0.1").echo(&noise(900, 5));
    site.far.send_packets(std::slice::from_ref(&asked));
    site.far
        .send_packets(&[ip("fd00:1::2", "fd00:0::1").echo(b"six")]);
    site.far
        .send_packets(&[ip("10.1.0.2", "10.0.0.1").udp((5, 6), b"x", false)]);
    site.settle();
    let sealed = site.sealed();
    assert_eq!(sealed.len(), 2);
    let reply = read(&sealed[0].1);
    assert_eq!((reply.source.to_string(), reply.l4[0]), (site.v4(1), 0));
    assert_eq!(reply.payload(), read(&asked).payload());
    let reply = read(&sealed[1].1);
    assert_eq!((reply.l4[0], reply.payload()), (129, &b"six"[..]));
    site.peer_drops(&[(DropReason::GatewayNotServed, 1)]);
}

#[test]
fn what_a_peer_sends_to_nobody_is_named() {
    let mut site = site();
    site.far.send_packets(&[
        ip("10.1.0.2", "10.0.0.99").echo(b"x"),
        ip("10.1.0.2", "192.0.2.1").echo(b"x"),
        v4().hops(1).echo(b"x"),
        v4().hops(0).echo(b"x"),
    ]);
    site.settle();
    site.peer_drops(&[(DropReason::NoRoute, 2), (DropReason::TtlExceeded, 2)]);
    // Its sender is told of each.
    assert_eq!(site.sealed().len(), 4);
    // To itself and back: the hop limit falls.
    site.far
        .send_packets(&[ip("10.1.0.2", "10.1.0.9").udp((5, 6), b"x", false)]);
    site.settle();
    assert_eq!(read(&site.sealed()[0].1).hop_limit, 63);
    // To a peer that has no way.
    site.far
        .send_packets(&[ip("10.1.0.2", "10.8.0.9").udp((5, 6), b"x", false)]);
    site.settle();
    assert_eq!(site.peers[1].drops.count(DropReason::NoEndpoint), 1);
}
