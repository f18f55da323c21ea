//! Guest to gateway and guest to guest.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_dataplane::shared::{
    control_link::Command,
    drops::DropReason,
    ids::{AttachmentIndex, NetworkIndex, PortIndex},
    snapshot::Guard,
};
use culvert_vhost::Offloads;
use culvert_wire::{MacAddr, VnetHeader};

use crate::{
    packets::{Ip, Seen, ip, noise, offload, read, read_seeded},
    support::{GATEWAY, GUEST, Options, Site, frame, network_of, packet},
};

pub(crate) const PLAIN: VnetHeader = VnetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
};
const BROADCAST: MacAddr = MacAddr::BROADCAST;

fn site() -> Site {
    Site::new(Options::default())
}

/// An ARP packet behind Ethernet.
pub(crate) fn arp(
    to: MacAddr,
    operation: u8,
    sender: (MacAddr, &str),
    target: (MacAddr, &str),
) -> Vec<u8> {
    let mut bytes = to.0.to_vec();
    bytes.extend(GUEST[0].0);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, address) in [sender, target] {
        bytes.extend(mac.0);
        bytes.extend(address.parse::<Ipv4Addr>().unwrap().octets());
    }
    bytes
}

pub(crate) fn who_has(sender: &str, target: &str) -> Vec<u8> {
    arp(BROADCAST, 1, (GUEST[0], sender), (MacAddr::ZERO, target))
}

/// A neighbor solicitation (135) or advertisement (136) of guest 0.
pub(crate) fn neighbor(kind: u8, source: &str, target: &str, option: Option<MacAddr>) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let last = target.octets();
    let group = format!(
        "ff02::1:ff{:02x}:{:02x}{:02x}",
        last[13], last[14], last[15]
    );
    let inner = ip(source, &group).hops(255);
    let mut l4 = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    l4.extend(target.octets());
    if let Some(mac) = option {
        l4.extend([kind - 134, 1]);
        l4.extend(mac.0);
    }
    let mut mac = MacAddr([0x33, 0x33, 0, 0, 0, 0]);
    mac.0[2..].copy_from_slice(&inner.destination_octets()[12..]);
    frame(GUEST[0], mac, &inner.icmp6(l4))
}

fn offer(site: &mut Site, bytes: &[u8]) {
    site.offer(0, &PLAIN, bytes);
    site.settle();
}

#[test]
fn arp_is_answered_for_gateway_ports_and_peers() {
    let mut site = site();
    for (target, owner) in [
        ("10.0.0.1", GATEWAY),
        ("10.0.0.3", GUEST[1]),
        ("10.0.0.200", GATEWAY),
    ] {
        offer(&mut site, &who_has("10.0.0.2", target));
        let mut expected = arp(GUEST[0], 2, (owner, target), (GUEST[0], "10.0.0.2"));
        expected[6..12].copy_from_slice(&owner.0);
        assert_eq!(site.frame(0).1, expected);
    }
    assert!(site.frames(1).is_empty());
    site.no_drops();
    // Its own address, and nobody's: silence.
    for target in ["10.0.0.2", "10.0.0.77", "192.0.2.1"] {
        offer(&mut site, &who_has("0.0.0.0", target));
    }
    site.port_drops(0, &[(DropReason::NeighborUnknown, 3)]);
    // An announcement concerns the others.
    let announcement = who_has("10.0.0.2", "10.0.0.2");
    offer(&mut site, &announcement);
    assert_eq!(site.frame(1).1, announcement);
    assert!(site.frames(0).is_empty());
}

#[test]
fn neighbor_solicitations_are_answered_for_gateway_ports_and_peers() {
    let mut site = site();
    for (target, owner, router) in [
        ("fd00:0::1", GATEWAY, 0x80),
        ("fd00:0::3", GUEST[1], 0),
        ("fd00:0::200", GATEWAY, 0x80),
    ] {
        offer(
            &mut site,
            &neighbor(135, "fd00:0::2", target, Some(GUEST[0])),
        );
        let (_, got) = site.frame(0);
        assert_eq!((&got[..6], &got[6..12]), (&GUEST[0].0[..], &owner.0[..]));
        let seen = read(&got[14..]);
        assert_eq!(seen.destination.to_string(), "fd00::2");
        assert_eq!(
            (seen.hop_limit, seen.l4[0], seen.l4[4] & 0xc0),
            (255, 136, router | 0x40)
        );
        let target: Ipv6Addr = target.parse().unwrap();
        assert_eq!(seen.l4[8..24], target.octets());
        assert_eq!(
            (&seen.l4[24..26], &seen.l4[26..32]),
            (&[2, 1][..], &owner.0[..])
        );
    }
    assert!(site.frames(1).is_empty());
    site.no_drops();
    // Duplicate detection of its own address hears nothing.
    offer(&mut site, &neighbor(135, "::", "fd00:0::2", None));
    offer(
        &mut site,
        &neighbor(135, "fd00:0::2", "fd00:0::77", Some(GUEST[0])),
    );
    assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
    site.port_drops(0, &[(DropReason::NeighborUnknown, 2)]);
    // Link-local addresses are for their owners to defend.
    let asked = neighbor(135, "fe80::2", "fe80::3", Some(GUEST[0]));
    offer(&mut site, &asked);
    assert_eq!(site.frame(1).1, asked);
}

#[test]
fn a_reply_to_one_guest_is_heard_by_that_one() {
    let mut site = site();
    // A third place in the network, so that a flood would be seen.
    site.change(|snapshot| {
        let third = (MacAddr([2, 0, 0, 0, 1, 2]), AttachmentIndex(1));
        let macs = &mut network_of(snapshot).macs;
        *macs = macs.iter().copied().chain([third]).collect();
    });
    let to = |destination: MacAddr, mut bytes: Vec<u8>| {
        bytes[..6].copy_from_slice(&destination.0);
        bytes
    };
    let reply = arp(GUEST[1], 2, (GUEST[0], "10.0.0.2"), (GUEST[1], "10.0.0.3"));
    let advertisement = neighbor(136, "fd00::2", "fd00::2", Some(GUEST[0]));
    let probe = neighbor(135, "fd00::2", "fe80::ff:fe00:101", Some(GUEST[0]));
    for bytes in [&reply, &advertisement, &probe] {
        let bytes = to(GUEST[1], bytes.clone());
        offer(&mut site, &bytes);
        assert_eq!(site.frame(1).1, bytes);
    }
    site.no_drops();
    // The gateway asks no guest, and nobody is no one.
    for bytes in [reply, advertisement, probe] {
        offer(&mut site, &to(GATEWAY, bytes.clone()));
        offer(&mut site, &to(MacAddr([6; 6]), bytes));
    }
    assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
    site.port_drops(
        0,
        &[
            (DropReason::GatewayNotServed, 3),
            (DropReason::MacUnknown, 3),
        ],
    );
}

#[test]
fn a_guest_that_came_is_announced_to_the_others() {
    let mut site = site();
    site.command(Command::Announce(PortIndex(0)));
    site.settle();
    let told: Vec<Vec<u8>> = site.frames(1).into_iter().map(|(_, frame)| frame).collect();
    // A switch learns from the RARP, neighbors from the rest.
    let mut rarp = arp(BROADCAST, 3, (GUEST[0], "0.0.0.0"), (GUEST[0], "0.0.0.0"));
    rarp[12..14].copy_from_slice(&[0x80, 0x35]);
    assert_eq!(told[0], rarp);
    assert_eq!(told[1], who_has("10.0.0.2", "10.0.0.2"));
    assert_eq!(
        told[2][..12],
        [[0x33, 0x33, 0, 0, 0, 1], GUEST[0].0].concat()
    );
    let seen = read(&told[2][14..]);
    assert_eq!(seen.source.to_string(), "fd00::2");
    assert_eq!(seen.destination.to_string(), "ff02::1");
    // Override, and nothing solicited it.
    assert_eq!((seen.hop_limit, seen.l4[0], seen.l4[4]), (255, 136, 0x20));
    let target: Ipv6Addr = "fd00::2".parse().unwrap();
    assert_eq!(seen.l4[8..24], target.octets());
    assert_eq!(seen.l4[24..32], [&[2, 1], &GUEST[0].0[..]].concat());
    assert_eq!(told.len(), 3);
    assert!(site.frames(0).is_empty() && site.sealed().is_empty());
    // Of addresses that were a port's, a peer's are the gateway's from now on; others are nobody's.
    for (address, expected) in [
        ("10.0.0.200", 1),
        ("fd00::200", 1),
        ("10.0.0.3", 0),
        ("10.0.0.99", 0),
    ] {
        site.command(Command::AnnounceGone(
            NetworkIndex(0),
            address.parse().unwrap(),
        ));
        site.settle();
        for guest in [0, 1] {
            let told = site.frames(guest);
            assert_eq!(told.len(), expected, "{address}");
            for (_, frame) in told {
                assert_eq!(frame[6..12], GATEWAY.0);
                if address == "10.0.0.200" {
                    assert_eq!(frame[22..32], [&GATEWAY.0[..], &[10, 0, 0, 200]].concat());
                } else {
                    // Router and override.
                    assert_eq!(read(&frame[14..]).l4[4], 0xa0);
                }
            }
        }
    }
    // A port that is gone meanwhile, and one that nobody is beside.
    site.change(|snapshot| {
        snapshot.ports.set(1, None);
        let macs = &mut network_of(snapshot).macs;
        *macs = macs[..1].into();
    });
    for port in [0, 1, 7] {
        site.command(Command::Announce(PortIndex(port)));
    }
    site.settle();
    assert!(site.frames(0).is_empty());
    site.no_drops();
}

#[test]
fn the_gateway_answers_echo_and_nothing_else() {
    let mut site = site();
    for len in [0, 56, 1400, 1980] {
        for (inner, reply) in [
            (ip("10.0.0.2", "10.0.0.1"), 0),
            (ip("fd00:0::2", "fd00:0::1"), 129),
        ] {
            let data = noise(len, 1);
            let asked = inner.echo(&data);
            site.send_plain(0, &asked);
            let seen = read(packet(&site.frame(0).1, GATEWAY, GUEST[0]));
            assert_eq!(
                (seen.source, seen.destination),
                (inner.destination, inner.source)
            );
            assert_eq!((seen.l4[0], seen.payload()), (reply, &data[..]));
            assert_eq!(seen.l4[4..8], [0, 1, 0, 2]);
        }
    }
    site.no_drops();
    // Longer than an answer is.
    site.send_plain(0, &ip("10.0.0.2", "10.0.0.1").echo(&noise(5000, 1)));
    site.send_plain(0, &ip("10.0.0.2", "10.0.0.1").udp((5, 53), b"x", false));
    assert!(site.frames(0).is_empty());
    site.port_drops(0, &[(DropReason::GatewayNotServed, 2)]);
}

#[test]
fn a_guest_speaks_only_as_itself() {
    let peer = "10.1.0.2";
    let spoofed_mac = frame(GUEST[1], GATEWAY, &ip("10.0.0.2", peer).echo(b"x"));
    let spoofed_address = [
        frame(GUEST[0], GATEWAY, &ip("10.0.0.3", peer).echo(b"x")),
        frame(GUEST[0], GATEWAY, &ip("fd00:0::3", "fd00:1::2").echo(b"x")),
        frame(GUEST[0], GUEST[1], &ip("192.0.2.1", "10.0.0.3").echo(b"x")),
    ];
    let spoofed_neighbor = [
        arp(
            BROADCAST,
            1,
            (GUEST[0], "10.0.0.3"),
            (MacAddr::ZERO, "10.0.0.1"),
        ),
        arp(BROADCAST, 2, (GATEWAY, "10.0.0.2"), (GUEST[1], "10.0.0.3")),
        arp(GUEST[1], 2, (GUEST[0], "10.0.0.1"), (GUEST[1], "10.0.0.3")),
        neighbor(136, "fd00:0::2", "fd00:0::1", Some(GUEST[0])),
        neighbor(136, "fd00:0::2", "fd00:0::2", Some(GATEWAY)),
        neighbor(135, "fd00:0::3", "fd00:0::1", Some(GUEST[0])),
    ];
    let mut strict = site();
    offer(&mut strict, &spoofed_mac);
    for bytes in spoofed_address.iter().chain(&spoofed_neighbor) {
        offer(&mut strict, bytes);
    }
    strict.port_drops(
        0,
        &[
            (DropReason::GuardMac, 1),
            (DropReason::GuardAddress, 3),
            (DropReason::GuardNeighbor, 6),
        ],
    );
    assert!(strict.sealed().is_empty());
    assert!(strict.frames(0).is_empty() && strict.frames(1).is_empty());

    let mut mac = Site::new(Options {
        guard: Guard::Mac,
        ..Options::default()
    });
    offer(&mut mac, &spoofed_mac);
    offer(&mut mac, &spoofed_address[0]);
    mac.port_drops(0, &[(DropReason::GuardMac, 1)]);
    assert_eq!(mac.sealed().len(), 1);

    let mut off = Site::new(Options {
        guard: Guard::Off,
        ..Options::default()
    });
    offer(&mut off, &spoofed_mac);
    assert_eq!(off.sealed().len(), 1);
    off.no_drops();
}

#[test]
fn broadcast_and_multicast_reach_the_other_ports() {
    let mut site = site();
    let group = MacAddr([1, 0, 0x5e, 0, 0, 0xfb]);
    for to in [BROADCAST, group] {
        let sent = frame(
            GUEST[0],
            to,
            &ip("10.0.0.2", "224.0.0.251").udp((5353, 5353), b"who", false),
        );
        offer(&mut site, &sent);
        assert_eq!(site.frame(1).1, sent);
        assert!(site.frames(0).is_empty());
    }
    site.no_drops();
    // Alone in its network there is nobody to hear it.
    site.change(|snapshot| {
        let macs = &mut network_of(snapshot).macs;
        *macs = macs[..1].into();
    });
    offer(
        &mut site,
        &frame(
            GUEST[0],
            BROADCAST,
            &ip("10.0.0.2", "255.255.255.255").udp((68, 67), b"x", false),
        ),
    );
    offer(
        &mut site,
        &frame(GUEST[0], GUEST[1], &ip("10.0.0.2", "10.0.0.3").echo(b"x")),
    );
    site.port_drops(
        0,
        &[(DropReason::NoListener, 1), (DropReason::MacUnknown, 1)],
    );
}

#[test]
fn each_port_has_icmp_errors_of_its_own_and_spends_those_that_it_gets() {
    let mut site = site();
    let nowhere = |n: u8| ip(&format!("10.0.0.{}", 2 + n), "192.0.2.1").udp((5, 6), b"x", false);
    let limited = |site: &Site, port: usize| site.ports[port].drops.count(DropReason::IcmpLimited);
    while limited(&site, 1) == 0 {
        for _ in 0..32 {
            site.offer(1, &PLAIN, &frame(GUEST[1], GATEWAY, &nowhere(1)));
        }
        site.settle();
        site.frames(1);
    }
    // An error about an error is not sent, and costs nothing.
    let error = ip("10.0.0.2", "192.0.2.1").with(1, &[3, 1, 0, 0, 0, 0, 0, 0]);
    for _ in 0..50 {
        for _ in 0..32 {
            site.offer(0, &PLAIN, &frame(GUEST[0], GATEWAY, &error));
        }
        site.settle();
    }
    assert!(site.frames(0).is_empty());
    site.send_plain(0, &nowhere(0));
    assert_eq!(read(&site.frame(0).1[14..]).l4[0], 3);
    assert_eq!(limited(&site, 0), 0);
}

#[test]
fn chains_that_cost_more_than_a_turns_credit_come_out_and_their_queue_waits() {
    for packed in [false, true] {
        let mut site = Site::new(Options {
            piece_len: 1,
            indirect: true,
            packed,
            ..Options::default()
        });
        // With the virtio-net header 1020 descriptors each: four are two turns' credit.
        let data = noise(1_020 - 12 - 14 - 20 - 8, 1);
        let udp = ip("10.0.0.2", "10.0.0.3").udp((5, 6), &data, false);
        let bytes = frame(GUEST[0], GUEST[1], &udp);
        for _ in 0..4 {
            for _ in 0..4 {
                site.offer(0, &PLAIN, &bytes);
            }
            assert!(site.workers[0].step());
            assert_eq!(site.frames(1).len(), 4);
            // The debt is paid before the next one is looked at.
            site.offer(0, &PLAIN, &bytes);
            assert!(site.workers[0].step());
            assert!(site.frames(1).is_empty());
            assert!(site.workers[0].step());
            assert_eq!(site.frames(1).len(), 1);
            site.settle();
        }
        site.no_drops();
    }
}

#[test]
fn a_changed_snapshot_forgives_no_debt() {
    let mut site = Site::new(Options {
        piece_len: 1,
        indirect: true,
        ..Options::default()
    });
    let data = noise(1_020 - 12 - 14 - 20 - 8, 1);
    let udp = ip("10.0.0.2", "10.0.0.3").udp((5, 6), &data, false);
    let bytes = frame(GUEST[0], GUEST[1], &udp);
    // The same queue, others beside it that come and go.
    let queues = [&[0, 1][..], &[0], &[0, 1], &[0]];
    for ports in queues {
        for _ in 0..5 {
            site.offer(0, &PLAIN, &bytes);
        }
        assert!(site.workers[0].step());
        assert_eq!(site.frames(1).len(), 4);
        site.change(|snapshot| {
            let queues = ports.iter().map(|&port| (PortIndex(port), 0));
            snapshot.workers[0] = std::sync::Arc::new(queues.collect());
        });
        assert!(site.workers[0].step());
        assert!(site.frames(1).is_empty(), "{ports:?}");
        assert!(site.workers[0].step());
        assert_eq!(site.frames(1).len(), 1);
        site.settle();
    }
    site.no_drops();
}

#[test]
fn a_flooded_frame_costs_its_sender_every_copy() {
    let mut site = site();
    // Sixteen ports hear a broadcast.
    site.change(|snapshot| {
        let network = network_of(snapshot);
        let others = (2..17).map(|n| (MacAddr([2, 0, 0, 0, 1, n]), AttachmentIndex(1)));
        network.macs = network.macs.iter().copied().chain(others).collect();
        network.listeners += 15;
    });
    site.settle();
    let data = noise(1_400, 1);
    let copies = 16;
    let flooded = frame(
        GUEST[0],
        BROADCAST,
        &ip("10.0.0.2", "224.0.0.251").udp((5, 6), &data, false),
    );
    let single = frame(
        GUEST[0],
        GUEST[1],
        &ip("10.0.0.2", "10.0.0.3").udp((5, 6), &data, false),
    );
    // Bytes of a turn's credit, and no more than one frame above it.
    let credit = 128 << 10;
    for (bytes, copies) in [(single, 1), (flooded, copies)] {
        for _ in 0..20 {
            site.offer(0, &PLAIN, &bytes);
        }
        assert!(site.workers[0].step());
        let first = site.frames(1).len();
        let allowed = (credit / (bytes.len() * copies) + 1).min(20);
        assert_eq!(first, allowed * copies);
        // All of them come, as the credit grows.
        let mut heard = first;
        for _ in 0..20 {
            site.workers[0].step();
            heard += site.frames(1).len();
        }
        assert_eq!(heard, 20 * copies);
    }
    site.no_drops();
}

/// A super-frame from guest 0 to guest 1, straight or through the gateway; what came.
fn local(
    site: &mut Site,
    routed: bool,
    vnet: &VnetHeader,
    sent: &[u8],
) -> Vec<(VnetHeader, Vec<u8>)> {
    let to = if routed { GATEWAY } else { GUEST[1] };
    site.offer(0, vnet, &frame(GUEST[0], to, sent));
    site.settle();
    let from = if routed { GATEWAY } else { GUEST[0] };
    site.frames(1)
        .into_iter()
        .map(|(vnet, got)| (vnet, packet(&got, from, GUEST[1]).to_vec()))
        .collect()
}

fn pairs() -> [(Ip, u8, usize); 2] {
    [
        (ip("10.0.0.2", "10.0.0.3"), VnetHeader::GSO_TCPV4, 1460),
        (ip("fd00:0::2", "fd00:0::3"), VnetHeader::GSO_TCPV6, 1440),
    ]
}

#[test]
fn super_frames_pass_uncut_between_guests_that_take_them() {
    for piece_len in [65_536, 1_024] {
        let mut site = Site::new(Options {
            piece_len,
            ..Options::default()
        });
        let data = noise(50_000, 2);
        for routed in [false, true] {
            for (inner, gso, size) in pairs() {
                let sent = inner.tcp(9, 0x18, &data, true);
                let vnet = offload(&sent, gso, u16::try_from(size).unwrap());
                let got = local(&mut site, routed, &vnet, &sent);
                assert_eq!(got.len(), 1);
                let head = VnetHeader {
                    num_buffers: got[0].0.num_buffers,
                    ..vnet
                };
                assert_eq!(got[0].0, head);
                let seen = read_seeded(&got[0].1);
                assert_eq!(seen.hop_limit, if routed { 63 } else { 64 });
                assert_eq!(
                    (seen.payload(), seen.sequence(), seen.flags()),
                    (&data[..], 9, 0x18)
                );
                let sent = inner.udp((5, 6), &data, true);
                let got = local(
                    &mut site,
                    routed,
                    &offload(&sent, VnetHeader::GSO_UDP_L4, 1000),
                    &sent,
                );
                assert_eq!(got.len(), 1);
                assert_eq!(read_seeded(&got[0].1).payload(), data);
            }
        }
        site.no_drops();
    }
}

#[test]
fn super_frames_are_cut_and_checksums_completed_for_guests_that_take_none() {
    let mut site = Site::new(Options {
        offloads: [Offloads::all(), Offloads::empty()],
        ..Options::default()
    });
    let data = noise(50_001, 2);
    for routed in [false, true] {
        for (inner, gso, size) in pairs() {
            let sent = inner.tcp(9, 0x19, &data, true);
            let got = local(
                &mut site,
                routed,
                &offload(&sent, gso, u16::try_from(size).unwrap()),
                &sent,
            );
            let seen: Vec<Seen> = got.iter().map(|(_, p)| read(p)).collect();
            assert!(
                got.iter()
                    .all(|(vnet, _)| vnet.flags == 0 && vnet.gso_type == 0)
            );
            assert_eq!(seen.len(), data.len().div_ceil(size));
            let joined: Vec<u8> = seen.iter().flat_map(|s| s.payload().to_vec()).collect();
            assert_eq!(joined, data);
            for (n, part) in seen.iter().enumerate() {
                assert_eq!(part.sequence() as usize, 9 + n * size);
                assert_eq!(part.flags(), if n + 1 == seen.len() { 0x19 } else { 0x10 });
                assert_eq!(part.hop_limit, if routed { 63 } else { 64 });
            }
            let sent = inner.udp((5, 6), &data[..999], true);
            let got = local(&mut site, routed, &offload(&sent, 0, 0), &sent);
            assert_eq!(
                (got[0].0.flags, read(&got[0].1).payload()),
                (0, &data[..999])
            );
        }
    }
    site.no_drops();
}

#[test]
fn a_frame_too_long_to_complete_is_named() {
    // The longest IPv6 packet is longer than any that is cut.
    let mut site = Site::new(Options {
        offloads: [Offloads::all(), Offloads::empty()],
        ..Options::default()
    });
    let sent = ip("fd00:0::2", "fd00:0::3").tcp(1, 0x10, &noise(65_515, 1), true);
    let got = local(&mut site, false, &offload(&sent, 0, 0), &sent);
    assert!(got.is_empty());
    assert_eq!(
        site.ports[0].drops.total() + site.ring_drops(0) + site.ring_drops(1),
        1
    );
}

#[test]
fn one_port_can_hear_another_only_in_its_own_network() {
    let mut site = site();
    let routed = ip("10.0.0.2", "10.0.0.3").hops(1).echo(b"x");
    assert!(local(&mut site, true, &PLAIN, &routed).is_empty());
    site.port_drops(0, &[(DropReason::TtlExceeded, 1)]);
    assert_eq!(local(&mut site, false, &PLAIN, &routed).len(), 1);
    // Not IP, for the gateway and for another port.
    let mut other = frame(GUEST[0], GATEWAY, &ip("10.0.0.2", "10.0.0.3").echo(b"x"));
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    offer(&mut site, &other);
    other[..6].copy_from_slice(&GUEST[1].0);
    offer(&mut site, &other);
    assert_eq!(site.frame(1).1, other);
    site.port_drops(
        0,
        &[
            (DropReason::TtlExceeded, 1),
            (DropReason::EtherTypeUnknown, 1),
        ],
    );
}
