//! An interface of the host in the place of guest 1: between guest, host and tunnel.
//!
//! The interface's other end is a socket of the test's, one message a frame, as the
//! kernel's is; what the kernel does with such frames is for the scenarios.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
};

use culvert_dataplane::{
    guest::tun::{Layer, Tun},
    shared::{
        drops::DropReason,
        ids::AttachmentIndex,
        snapshot::{Guest, NextHop, Port},
    },
};
use culvert_vhost::Offloads;
use culvert_wire::{MacAddr, VnetHeader, fib::Fib};
use rustix::{
    io::{Errno, read as read_message, write},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use crate::{
    packets::{Ip, ip, noise, offload, read, read_seeded},
    support::{GATEWAY, GUEST, Options, Site, frame, network_of, packet, peer_prefixes},
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

/// The host's end of the interface.
struct Host(OwnedFd);

impl Host {
    fn send(&self, vnet: &VnetHeader, body: &[u8]) {
        let message = [&vnet.write()[..], body].concat();
        assert_eq!(write(&self.0, &message).unwrap(), message.len());
    }

    fn received(&self) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut bytes = vec![0; 70_000];
        std::iter::from_fn(|| match read_message(&self.0, &mut bytes) {
            Ok(len) => {
                let (vnet, body) = bytes[..len].split_first_chunk().unwrap();
                Some((VnetHeader::read(vnet), body.to_vec()))
            }
            Err(Errno::AGAIN) => None,
            Err(error) => panic!("{error}"),
        })
        .collect()
    }

    fn one(&self) -> (VnetHeader, Vec<u8>) {
        let mut all = self.received();
        assert_eq!(all.len(), 1, "one frame for the host: {all:02x?}");
        all.remove(0)
    }
}

/// A site whose port 1 is an interface.
fn site(options: Options, layer: Layer, offloads: Offloads) -> (Site, Host) {
    let mut site = Site::new(options);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, host) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let tun = Tun::from_descriptors("t0".into(), layer, offloads, vec![ours]);
    let old = &site.ports[1];
    let port = Arc::new(Port {
        name: old.name.clone(),
        vlans: Vec::new(),
        drops: Arc::default(),
        guest: Guest::Tun(Arc::new(tun)),
        ..**old
    });
    site.ports[1] = Arc::clone(&port);
    site.change(|snapshot| snapshot.ports.set(1, Some(port)));
    (site, Host(host))
}

fn tun_site() -> (Site, Host) {
    site(Options::default(), Layer::Ip, Offloads::all())
}

/// The same, and nothing but the interface and the tunnel.
fn plain_site() -> (Site, Host) {
    let options = Options {
        guard: culvert_dataplane::shared::snapshot::Guard::Off,
        ..Options::default()
    };
    let (site, host) = site(options, Layer::Ip, Offloads::all());
    let peers = peer_prefixes(0)
        .into_iter()
        .map(|(prefix, peer)| (prefix, NextHop::Peer(peer)));
    site.change(|snapshot| {
        let network = network_of(snapshot);
        network.gateways.clear();
        network.routes = Fib::build(peers);
        network.plain = Some(AttachmentIndex(1));
    });
    (site, host)
}

fn no_drops(site: &Site) {
    site.port_drops(0, &[]);
    site.port_drops(1, &[]);
    assert_eq!(site.ring_drops(0), 0);
    site.peer_drops(&[]);
    site.uplink_drops(&[]);
}

/// From guest 0 to the host, both versions.
fn to_host() -> [Ip; 2] {
    [ip("10.0.0.2", "10.0.0.3"), ip("fd00:0::2", "fd00:0::3")]
}

#[test]
fn a_guests_frames_reach_the_host_without_their_ethernet_header() {
    // In descriptors of a few bytes: the frame is gathered from guest memory.
    for piece_len in [65_536, 100] {
        let options = Options {
            piece_len,
            ..Options::default()
        };
        let (mut site, host) = site(options, Layer::Ip, Offloads::all());
        for inner in to_host() {
            for len in [0, 100, 241, 1_300] {
                let sent = inner.udp((5, 6), &noise(len, 1), false);
                // Switched, and through the gateway.
                for (to, hop_limit) in [(GUEST[1], 64), (GATEWAY, 63)] {
                    site.offer(0, &PLAIN, &frame(GUEST[0], to, &sent));
                    site.settle();
                    let (vnet, got) = host.one();
                    assert_eq!(vnet, PLAIN);
                    let mut expected = read(&sent);
                    expected.hop_limit = hop_limit;
                    assert_eq!(read(&got), expected);
                }
            }
        }
        no_drops(&site);
    }
}

#[test]
fn super_frames_pass_between_guest_and_host_with_their_metadata() {
    let (mut site, host) = tun_site();
    for (inner, kind) in to_host()
        .into_iter()
        .zip([VnetHeader::GSO_TCPV4, VnetHeader::GSO_TCPV6])
    {
        let sent = inner.tcp(1, 0x18, &noise(40_000, 2), true);
        let vnet = offload(&sent, kind, 1_300);
        site.offer(0, &vnet, &frame(GUEST[0], GUEST[1], &sent));
        site.settle();
        let (got_vnet, got) = host.one();
        assert_eq!(got_vnet, vnet.moved_back(14));
        assert_eq!(got, sent);
        assert_eq!(usize::from(got_vnet.csum_start), sent.len() - 40_020);

        // And back, as the kernel says it: offsets from the packet's first byte.
        let back = Ip {
            source: inner.destination,
            destination: inner.source,
            ..inner
        };
        let sent = back.tcp(9, 0x18, &noise(50_000, 3), true);
        let vnet = offload(&sent, kind, 1_300);
        host.send(&vnet.moved_back(14), &sent);
        site.settle();
        let (got_vnet, got) = site.frame(0);
        let expected = VnetHeader {
            num_buffers: got_vnet.num_buffers,
            ..vnet
        };
        assert_eq!(got_vnet, expected);
        let seen = read_seeded(packet(&got, GATEWAY, GUEST[0]));
        assert_eq!(
            (seen.hop_limit, seen.payload()),
            (63, &noise(50_000, 3)[..])
        );
    }
    no_drops(&site);
}

#[test]
fn a_host_that_takes_no_offloads_gets_whole_packets_with_right_checksums() {
    let (mut site, host) = site(Options::default(), Layer::Ip, Offloads::empty());
    let data = noise(5_000, 4);
    let sent = to_host()[0].tcp(1, 0x18, &data, true);
    let vnet = offload(&sent, VnetHeader::GSO_TCPV4, 1_000);
    site.offer(0, &vnet, &frame(GUEST[0], GUEST[1], &sent));
    site.settle();
    let got = host.received();
    assert_eq!(got.len(), 5);
    let payload: Vec<u8> = got
        .iter()
        .flat_map(|(vnet, packet)| {
            assert_eq!(*vnet, PLAIN);
            read(packet).payload().to_vec()
        })
        .collect();
    assert_eq!(payload, data);
    no_drops(&site);
}

#[test]
fn what_is_no_packet_is_not_for_an_ip_interface() {
    let (mut site, host) = tun_site();
    // A broadcast finds nobody else.
    let arp = [
        &MacAddr::BROADCAST.0[..],
        &GUEST[0].0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &GUEST[0].0,
        &[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 3],
    ]
    .concat();
    site.offer(0, &PLAIN, &arp);
    site.settle();
    // Its address is answered for, as that of any port.
    let (_, answer) = site.frame(0);
    assert_eq!((&answer[6..12], answer[21]), (&GUEST[1].0[..], 2));
    let announcement = ip("10.0.0.2", "10.0.0.255").udp((5, 6), &[0; 20], false);
    site.offer(
        0,
        &PLAIN,
        &frame(GUEST[0], MacAddr::BROADCAST, &announcement),
    );
    site.settle();
    assert_eq!(host.received(), []);
    site.port_drops(0, &[(DropReason::NoListener, 1)]);
    // Something else, to its own address.
    let mut odd = frame(GUEST[0], GUEST[1], &announcement);
    odd[12..14].copy_from_slice(&[0x88, 0xcc]);
    site.offer(0, &PLAIN, &odd);
    site.settle();
    assert_eq!(host.received(), []);
    site.port_drops(1, &[(DropReason::InterfaceNotIp, 1)]);
}

#[test]
fn a_flooded_frame_costs_no_copies_for_interfaces_that_hear_none() {
    let (mut site, host) = tun_site();
    site.change(|snapshot| {
        let network = network_of(snapshot);
        let others = (2..17).map(|n| (MacAddr([2, 0, 0, 0, 1, n]), AttachmentIndex(1)));
        network.macs = network.macs.iter().copied().chain(others).collect();
        network.listeners = 1;
    });
    site.settle();
    let packet = ip("10.0.0.2", "224.0.0.251").udp((5, 6), &noise(1_400, 1), false);
    for _ in 0..20 {
        let bytes = frame(GUEST[0], MacAddr::BROADCAST, &packet);
        site.offer(0, &PLAIN, &bytes);
    }
    // One turn's credit is for the bytes of all, once.
    assert!(site.workers[0].step());
    site.port_drops(0, &[(DropReason::NoListener, 20)]);
    assert_eq!(host.received(), []);
}

#[test]
fn the_gateway_answers_the_host() {
    let (mut site, host) = tun_site();
    for (source, gateway) in [("10.0.0.3", "10.0.0.1"), ("fd00:0::3", "fd00:0::1")] {
        host.send(&PLAIN, &ip(source, gateway).echo(b"hello"));
        site.settle();
        let (vnet, got) = host.one();
        let seen = read(&got);
        assert_eq!((vnet, seen.source), (PLAIN, gateway.parse().unwrap()));
        assert!([0, 129].contains(&seen.l4[0]));
    }
    // A source that is not the port's is nobody's.
    host.send(&PLAIN, &ip("10.0.0.99", "10.1.0.2").echo(b"hello"));
    site.settle();
    site.port_drops(1, &[(DropReason::GuardAddress, 1)]);
}

#[test]
fn a_tap_speaks_ethernet() {
    let (mut site, host) = site(Options::default(), Layer::Ethernet, Offloads::all());
    let sent = ip("10.0.0.3", "10.1.0.2").udp((5, 6), &noise(100, 5), false);
    host.send(&PLAIN, &frame(GUEST[1], GATEWAY, &sent));
    site.settle();
    assert_eq!(read(&site.sealed()[0].1).l4, read(&sent).l4);
    let sent = frame(GUEST[0], GUEST[1], &to_host()[0].echo(&[1; 300]));
    site.offer(0, &PLAIN, &sent);
    site.settle();
    assert_eq!(host.one(), (PLAIN, sent));
    no_drops(&site);
}

#[test]
fn a_plain_network_changes_nothing_on_the_way_out() {
    let (mut site, host) = plain_site();
    for inner in [ip("10.0.0.3", "10.1.0.2"), ip("fd00:0::3", "fd00:1::2")] {
        for hop_limit in [64, 1] {
            let sent = inner.hops(hop_limit).udp((5, 6), &noise(200, 6), false);
            host.send(&PLAIN, &sent);
            site.settle();
            let sealed = site.sealed();
            assert_eq!(sealed.len(), 1);
            assert_eq!(read(&sealed[0].1), read(&sent));
        }
        // A super-frame, from whatever source: the host routes for others.
        let other = if inner.source.is_ipv4() {
            "192.0.2.9"
        } else {
            "2001:db8::9"
        };
        let inner = Ip {
            source: other.parse().unwrap(),
            ..inner
        };
        let kind = if inner.source.is_ipv4() {
            VnetHeader::GSO_TCPV4
        } else {
            VnetHeader::GSO_TCPV6
        };
        let data = noise(30_000, 7);
        let sent = inner.tcp(1, 0x18, &data, true);
        host.send(&offload(&sent, kind, 1_300).moved_back(14), &sent);
        site.settle();
        let packets: Vec<_> = site
            .sealed()
            .iter()
            .map(|(_, packet)| read(packet))
            .collect();
        assert_eq!(packets.len(), 24);
        assert!(packets.iter().all(|seen| seen.hop_limit == 64));
        let payload: Vec<u8> = packets
            .iter()
            .flat_map(|seen| seen.payload().to_vec())
            .collect();
        assert_eq!(payload, data);
    }
    no_drops(&site);
}

#[test]
fn a_frame_that_waits_for_a_key_in_a_plain_network_is_not_changed_either() {
    let (mut site, host) = plain_site();
    site.peers[0].publish_keypair(None);
    let sent = ip("10.0.0.3", "10.1.0.2")
        .hops(1)
        .udp((5, 6), &noise(200, 6), false);
    host.send(&PLAIN, &sent);
    site.settle();
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 1);
    site.publish_key();
    site.command(
        culvert_dataplane::shared::control_link::Command::FlushStaged(
            culvert_dataplane::shared::ids::PeerIndex(0),
        ),
    );
    site.settle();
    assert_eq!(read(&site.sealed()[0].1), read(&sent));
    no_drops(&site);
}

#[test]
fn a_plain_network_delivers_whatever_a_peer_may_send() {
    let (mut site, host) = plain_site();
    // To anybody at all, groups and the peer's own prefix included.
    for to in ["10.0.0.3", "203.0.113.7", "224.0.0.5", "10.1.0.9"] {
        for hop_limit in [64, 1] {
            let sent = ip("10.1.0.2", to)
                .hops(hop_limit)
                .udp((5, 6), &noise(100, 8), false);
            site.far.send_packets(std::slice::from_ref(&sent));
            site.settle();
            assert_eq!(host.one(), (PLAIN, sent));
        }
    }
    // But only from where it may.
    site.far
        .send_packets(&[ip("10.99.0.2", "10.0.0.3").udp((5, 6), &[], false)]);
    site.settle();
    assert_eq!(host.received(), []);
    site.peer_drops(&[(DropReason::SourceNotAllowed, 1)]);
    assert_eq!(site.peers[0].traffic.tx_packets.load(Ordering::Relaxed), 0);
}

#[test]
fn a_burst_of_a_flow_reaches_the_host_as_one_super_frame() {
    for (inner, kind, size) in [
        (ip("10.1.0.2", "10.0.0.3"), VnetHeader::GSO_TCPV4, 1_380),
        (ip("fd00:1::2", "fd00:0::3"), VnetHeader::GSO_TCPV6, 1_360),
    ] {
        let (mut site, host) = plain_site();
        let data = noise(25_000, 9);
        let packets: Vec<_> = data
            .chunks(size)
            .enumerate()
            .map(|(n, part)| {
                let flags = if (n + 1) * size >= data.len() {
                    0x18
                } else {
                    0x10
                };
                let inner = Ip {
                    id: 7 + u16::try_from(n).unwrap(),
                    ..inner
                };
                inner.tcp(u32::try_from(1 + n * size).unwrap(), flags, part, false)
            })
            .collect();
        site.far.send_packets(&packets);
        site.settle();
        let (vnet, got) = host.one();
        let head = if inner.source.is_ipv4() { 20 } else { 40 };
        assert_eq!((vnet.gso_type, usize::from(vnet.gso_size)), (kind, size));
        assert_eq!(
            (vnet.csum_start, vnet.csum_offset, vnet.hdr_len),
            (head, 16, head + 20)
        );
        let seen = read_seeded(&got);
        assert_eq!((seen.hop_limit, seen.payload()), (64, &data[..]));
        no_drops(&site);
    }
}

#[test]
fn a_plain_network_says_what_can_not_go_on_in_the_name_of_where_it_was_going() {
    let (mut site, host) = plain_site();
    for (source, to, kind) in [("10.0.0.3", "10.77.0.1", 3), ("fd00:0::3", "fd77::1", 1)] {
        host.send(&PLAIN, &ip(source, to).udp((5, 6), &noise(100, 10), false));
        site.settle();
        let seen = read(&host.one().1);
        assert_eq!(
            (seen.source, seen.destination),
            (to.parse().unwrap(), source.parse().unwrap())
        );
        assert_eq!(seen.l4[0], kind);
    }
    site.port_drops(1, &[(DropReason::NoRoute, 2)]);
    // What the interface let pass is not too long, whatever its MTU was a moment ago.
    let long = ip("10.0.0.3", "10.1.0.2").udp((5, 6), &noise(1_500, 11), false);
    host.send(&PLAIN, &long);
    site.settle();
    assert_eq!(host.received(), []);
    assert_eq!(read(&site.sealed()[0].1), read(&long));
    // A peer that has no endpoint yet.
    site.peers[1].publish_path(None);
    host.send(&PLAIN, &ip("10.0.0.3", "10.8.0.1").udp((5, 6), &[], false));
    site.settle();
    assert_eq!(read(&host.one().1).l4[0], 3);
}
