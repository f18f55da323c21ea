//! Trunks: a guest in several VLANs of one port.

use std::sync::Arc;

use culvert_dataplane::shared::{
    control_link::Command,
    drops::DropReason,
    ids::{AttachmentIndex, NetworkIndex, PortIndex, Scope},
    limits,
    punt::PuntClass,
    snapshot::{Attachment, Guard, Network, NextHop, Port, Services, Snapshot},
    stack_link::StackCommand,
};
use culvert_vhost::Offloads;
use culvert_wire::{MacAddr, VnetHeader, ether::VlanId, fib::Fib};

use crate::{
    local::{PLAIN, neighbor, who_has},
    packets::{ip, noise, offload, read, read_seeded},
    support::{GATEWAY, GUEST, Options, Site, frame, network_of, packet, prefix, tagged, untagged},
};

/// The gateway of the second network.
const OTHER_GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// What came of it: for guests, through the tunnel, for the host stacks, and what was lost.
type Seen = (
    [Vec<(VnetHeader, Vec<u8>)>; 2],
    Vec<(u64, Vec<u8>)>,
    Vec<Vec<u8>>,
    Vec<(DropReason, u64)>,
);

fn seen(site: &mut Site) -> Seen {
    site.settle();
    let guests = [0, 1].map(|guest| {
        let mut frames = site.frames(guest);
        // A tag may make a frame need one buffer more.
        frames.iter_mut().for_each(|(vnet, _)| vnet.num_buffers = 0);
        frames
    });
    let sealed = site.sealed();
    let mut punts = Vec::new();
    while let Some(punt) = site.stacks[0].punts.pop(PuntClass::Guest) {
        assert_eq!(punt.scope, Scope::Guest(AttachmentIndex(0)));
        punts.push(punt.frame.as_slice().to_vec());
    }
    let ports = site.ports.iter().flat_map(|port| port.drops.iter());
    let lost = ports.chain(site.peers[0].drops.iter()).collect();
    assert_eq!([0, 1].map(|port| site.ring_drops(port)), [0; 2]);
    (guests, sealed, punts, lost)
}

/// What guest 0 sends, each as a burst of its own.
fn said() -> Vec<(VnetHeader, Vec<u8>)> {
    let data = noise(20_001, 3);
    let mut said = Vec::new();
    let v4 = |to: &str| ip("10.0.0.2", to);
    let v6 = |to: &str| ip("fd00:0::2", to);
    for (inner, to, gso) in [
        (v4("10.1.0.2"), GATEWAY, VnetHeader::GSO_TCPV4),
        (v6("fd00:1::2"), GATEWAY, VnetHeader::GSO_TCPV6),
        (v4("10.0.0.3"), GUEST[1], VnetHeader::GSO_TCPV4),
        (v6("fd00:0::3"), GUEST[1], VnetHeader::GSO_TCPV6),
        (v4("10.0.0.3"), GATEWAY, VnetHeader::GSO_TCPV4),
    ] {
        let tcp = inner.tcp(9, 0x18, &data, true);
        let udp = inner.udp((5, 6), &data[..9_001], true);
        let small = inner.udp((5, 6), &data[..99], true);
        for (vnet, packet) in [
            (offload(&tcp, gso, 1340), tcp),
            (offload(&udp, VnetHeader::GSO_UDP_L4, 1000), udp),
            (offload(&small, 0, 0), small),
            (PLAIN, inner.udp((5, 6), &data[..1200], false)),
            (PLAIN, inner.udp((5, 6), b"", false)),
            // A checksum that begins within the addresses.
            (
                VnetHeader {
                    csum_start: 3,
                    ..offload(&data[..60], 0, 0)
                },
                inner.echo(b"x"),
            ),
        ] {
            said.push((vnet, frame(GUEST[0], to, &packet)));
        }
    }
    let everyone = MacAddr::BROADCAST;
    let dhcp = ip("0.0.0.0", "255.255.255.255").udp((68, 67), &[7; 300], false);
    let flooded = v4("224.0.0.251").udp((5353, 5353), &data[..999], true);
    for frame in [
        who_has("10.0.0.2", "10.0.0.1"),
        who_has("10.0.0.2", "10.0.0.3"),
        who_has("10.0.0.2", "10.0.0.2"),
        who_has("10.0.0.2", "10.0.0.77"),
        neighbor(135, "fd00:0::2", "fd00:0::1", Some(GUEST[0])),
        neighbor(136, "fd00:0::2", "fd00:0::2", Some(GUEST[0])),
        frame(GUEST[0], GATEWAY, &v4("10.0.0.1").echo(&data[..1400])),
        frame(GUEST[0], GATEWAY, &v6("fd00:0::1").echo(&data[..1400])),
        // Unreachable, and out of hops.
        frame(GUEST[0], GATEWAY, &v4("192.0.2.1").echo(b"x")),
        frame(GUEST[0], GATEWAY, &v4("10.1.0.2").hops(1).echo(b"x")),
        frame(GUEST[0], everyone, &dhcp),
        // A strict port's.
        frame(GUEST[1], GATEWAY, &v4("10.1.0.2").echo(b"x")),
        frame(GUEST[0], GATEWAY, &ip("10.0.0.3", "10.1.0.2").echo(b"x")),
        frame(GUEST[0], GATEWAY, &[0x45; 19]),
    ] {
        said.push((PLAIN, frame));
    }
    said.push((offload(&flooded, 0, 0), frame(GUEST[0], everyone, &flooded)));
    said
}

/// A site whose gateway serves DHCP.
fn serving(options: Options) -> Site {
    let site = Site::new(options);
    site.change(|snapshot| {
        network_of(snapshot).services = Services {
            dhcp: true,
            routers: true,
        };
    });
    site
}

#[test]
fn what_a_guest_sends_in_a_vlan_is_what_it_would_send_without() {
    for offloads in [Offloads::all(), Offloads::empty()] {
        for piece_len in [65_536, 100] {
            for packed in [false, true] {
                let site = |vlans| {
                    serving(Options {
                        offloads: [Offloads::all(), offloads],
                        piece_len,
                        packed,
                        vlans,
                        ..Options::default()
                    })
                };
                let mut plain = site([None; 2]);
                let mut trunks = [
                    site([Some(10), None]),
                    site([None, Some(4094)]),
                    site([Some(1), Some(20)]),
                ];
                for (vnet, frame) in said() {
                    if frame.len() + 12 > piece_len as usize * 200 {
                        continue;
                    }
                    plain.offer(0, &vnet, &frame);
                    let expected = seen(&mut plain);
                    for trunk in &mut trunks {
                        trunk.offer(0, &vnet, &frame);
                        assert!(seen(trunk) == expected, "{vnet:?} {:02x?}", &frame[..34]);
                    }
                }
            }
        }
    }
}

#[test]
fn what_waits_for_a_key_waits_without_its_tag() {
    let keyless = |vlans| {
        Site::new(Options {
            keyed: false,
            piece_len: 100,
            vlans,
            ..Options::default()
        })
    };
    let (mut plain, mut trunk) = (keyless([None; 2]), keyless([Some(10), None]));
    let data = noise(3_000, 1);
    for site in [&mut plain, &mut trunk] {
        for len in [0, 1, 220, 3_000] {
            let tcp = ip("10.0.0.2", "10.1.0.2").tcp(1, 0x10, &data[..len], true);
            site.send(0, &offload(&tcp, VnetHeader::GSO_TCPV4, 1000), &tcp);
        }
        assert!(site.sealed().is_empty());
        site.publish_key();
        site.command(Command::FlushStaged(site.peers[0].index));
        site.settle();
        site.no_drops();
    }
    let sent = plain.sealed();
    assert_eq!(sent.len(), 6);
    assert!(sent == trunk.sealed());
}

#[test]
fn what_waited_in_a_vlan_that_was_taken_off_is_lost_by_name() {
    let mut site = Site::new(Options {
        keyed: false,
        vlans: [Some(10), None],
        ..Options::default()
    });
    for n in 0..3 {
        site.send(
            0,
            &PLAIN,
            &ip("10.0.0.2", "10.1.0.2").udp((5, 6), &[n; 9], false),
        );
    }
    site.change(|snapshot| {
        snapshot.attachments.set(0, None);
        let network = network_of(snapshot);
        let stay = network.macs.iter().filter(|(_, at)| at.0 != 0);
        network.macs = stay.copied().collect();
    });
    site.publish_key();
    site.command(Command::FlushStaged(site.peers[0].index));
    site.settle();
    assert!(site.sealed().is_empty());
    let lost: Vec<_> = site.peers[0].drops.iter().collect();
    assert_eq!(lost, [(DropReason::GuestRemoved, 3)]);
}

#[test]
fn what_comes_for_a_guest_in_a_vlan_has_its_tag() {
    for offloads in [Offloads::all(), Offloads::empty()] {
        let site = |vlan| {
            Site::new(Options {
                offloads: [offloads; 2],
                vlans: [vlan, None],
                ..Options::default()
            })
        };
        let (mut plain, mut trunk) = (site(None), site(Some(7)));
        let data = noise(25_000, 1);
        for (inner, size) in [
            (ip("10.1.0.2", "10.0.0.2"), 1380),
            (ip("fd00:1::2", "fd00:0::2"), 1360),
        ] {
            let tcp: Vec<_> = (data.chunks(size).enumerate())
                .map(|(n, part)| inner.tcp(u32::try_from(1 + n * size).unwrap(), 0x10, part, false))
                .collect();
            let udp: Vec<_> = (data.chunks(1_000))
                .map(|part| inner.udp((5, 6), part, false))
                .collect();
            for sent in [&tcp[..], &udp, &tcp[..1], &[inner.echo(b"x")]] {
                for site in [&mut plain, &mut trunk] {
                    site.far.send_packets(sent);
                    // All of it in one burst.
                    site.settle();
                }
                let (expected, got) = (seen(&mut plain), seen(&mut trunk));
                assert!(!expected.0[0].is_empty());
                assert!(got == expected, "{}", sent.len());
            }
        }
        trunk.no_drops();
    }
}

#[test]
fn a_super_frame_for_a_vlan_says_where_its_headers_are() {
    let mut site = Site::new(Options {
        vlans: [None, Some(10)],
        ..Options::default()
    });
    let sent = ip("10.0.0.2", "10.0.0.3").tcp(9, 0x18, &noise(50_000, 2), true);
    let vnet = offload(&sent, VnetHeader::GSO_TCPV4, 1460);
    site.offer(0, &vnet, &frame(GUEST[0], GUEST[1], &sent));
    site.settle();
    let frames = site.raw_frames(1);
    let [(got, bytes)] = frames.as_slice() else {
        panic!("one frame, not {}", frames.len());
    };
    assert_eq!(
        (got.csum_start, got.csum_offset, got.hdr_len),
        (14 + 4 + 20, 16, 14 + 4 + 20 + 20)
    );
    assert_eq!((got.gso_type, got.gso_size), (vnet.gso_type, vnet.gso_size));
    assert_eq!(bytes.len(), 18 + sent.len());
    assert_eq!(bytes[12..18], [0x81, 0, 0, 10, 8, 0]);
    read_seeded(&bytes[18..]);
    site.no_drops();
}

/// Guest 0 is in the first network without a tag, and in a second one, 10.9.0.0/24, as VLAN 20; so is guest 1.
fn two_networks(native: bool) -> Site {
    let mut site = Site::new(Options::default());
    let mut ports = Vec::new();
    site.change(|snapshot| {
        let vlan = VlanId::new(20).unwrap();
        for n in [0, 1] {
            let index = AttachmentIndex(2 + n);
            let slot = n as usize;
            let attachment = Attachment {
                index,
                port: PortIndex(n),
                vlan: Some(vlan),
                network: NetworkIndex(1),
                mac: GUEST[slot],
                addresses: vec![format!("10.9.0.{}", 2 + n).parse().unwrap()],
                link_locals: Arc::default(),
                errors: Arc::default(),
                questions: Arc::default(),
                is_served: true,
                guard: Guard::Strict,
            };
            snapshot
                .attachments
                .set(2 + slot, Some(Arc::new(attachment)));
            let old = snapshot.ports.get(slot).unwrap();
            let port = Arc::new(Port {
                name: old.name.clone(),
                attachment: old.attachment.filter(|_| native),
                vlans: vec![(vlan, index)],
                guest: old.guest.clone(),
                drops: Arc::clone(&old.drops),
                ..**old
            });
            ports.push(Arc::clone(&port));
            snapshot.ports.set(slot, Some(port));
        }
        snapshot
            .networks
            .set(1, Some(Arc::new(second_network(snapshot))));
    });
    site.ports = ports;
    site
}

fn second_network(snapshot: &Snapshot) -> Network {
    let first = snapshot.network(NetworkIndex(0)).unwrap();
    let guests = [2, 3].map(|n| (GUEST[n as usize - 2], AttachmentIndex(n)));
    let routes =
        guests.map(|(_, at)| (prefix(&format!("10.9.0.{}", at.0), 32), NextHop::Guest(at)));
    let own = [
        (prefix("10.9.0.1", 32), NextHop::Gateway),
        (prefix("10.9.0.0", 24), NextHop::Unreachable),
    ];
    Network {
        name: "second".into(),
        gateway_mac: OTHER_GATEWAY,
        gateways: vec!["10.9.0.1".parse().unwrap()],
        prefixes: vec![prefix("10.9.0.0", 24)],
        tunnel: None,
        macs: guests.into(),
        routes: Fib::build(routes.into_iter().chain(own)),
        services: Services {
            dhcp: true,
            routers: true,
        },
        ..first.clone()
    }
}

#[test]
fn vlans_of_one_port_hear_nothing_of_each_other() {
    let mut site = two_networks(true);
    let everyone = MacAddr::BROADCAST;
    let greeting = |from: &str| {
        frame(
            GUEST[0],
            everyone,
            &ip(from, "255.255.255.255").udp((5, 6), b"x", false),
        )
    };
    site.offer_raw(0, &PLAIN, &greeting("10.0.0.2"));
    site.offer_raw(0, &PLAIN, &tagged(20, &greeting("10.9.0.2")));
    site.settle();
    let heard: Vec<_> = site
        .raw_frames(1)
        .into_iter()
        .map(|(_, frame)| frame)
        .collect();
    assert_eq!(
        heard,
        [greeting("10.0.0.2"), tagged(20, &greeting("10.9.0.2"))]
    );
    assert!(site.raw_frames(0).is_empty());
    site.no_drops();
    // Who is who is each network's own affair.
    site.offer_raw(0, &PLAIN, &tagged(20, &greeting("10.0.0.2")));
    site.offer_raw(0, &PLAIN, &greeting("10.9.0.2"));
    let across = frame(
        GUEST[0],
        OTHER_GATEWAY,
        &ip("10.9.0.2", "10.0.0.3").echo(b"x"),
    );
    site.offer_raw(0, &PLAIN, &tagged(20, &across));
    site.settle();
    assert!(site.raw_frames(1).is_empty() && site.sealed().is_empty());
    let lost = [(DropReason::GuardAddress, 2), (DropReason::NoRoute, 1)];
    site.port_drops(0, &lost);
    let told = site.raw_frames(0);
    assert_eq!(
        read(&untagged(20, &told[0].1)[14..]).l4[0],
        3,
        "unreachable, in its VLAN"
    );
    assert_eq!(told.len(), 1);
}

/// Of what is in different VLANs nobody can say which was first.
#[test]
fn a_burst_of_several_vlans_keeps_the_order_of_each() {
    let mut site = two_networks(true);
    let data = |n: u8| vec![n; 40];
    for n in 0..30 {
        let vlan = n % 3 == 1;
        let (from, to) = if vlan {
            ("10.9.0.2", "10.9.0.3")
        } else {
            ("10.0.0.2", "10.0.0.3")
        };
        let sent = frame(
            GUEST[0],
            GUEST[1],
            &ip(from, to).udp((5, 6), &data(n), false),
        );
        match n % 3 {
            0 => site.offer_raw(0, &PLAIN, &sent),
            1 => site.offer_raw(0, &PLAIN, &tagged(20, &sent)),
            _ => site.offer_raw(0, &PLAIN, &tagged(21, &sent)),
        }
    }
    site.settle();
    let heard = site.raw_frames(1).into_iter();
    let heard = heard.map(|(_, frame)| *frame.last().unwrap());
    let mut heard: Vec<_> = heard.collect();
    heard.sort_by_key(|n| n % 3);
    let expected = (0..2).flat_map(|vlan| (vlan..30).step_by(3));
    assert_eq!(heard, expected.collect::<Vec<_>>());
    site.port_drops(0, &[(DropReason::VlanUnknown, 10)]);
}

#[test]
fn what_is_in_no_vlan_of_the_port_is_lost_by_name() {
    let sent = frame(GUEST[0], GUEST[1], &ip("10.9.0.2", "10.9.0.3").echo(b"x"));
    let typed = |ether_type: u16, mut frame: Vec<u8>| {
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame
    };
    let double = tagged(20, &tagged(20, &sent));
    let cases = [
        (tagged(21, &sent), DropReason::VlanUnknown),
        (tagged(4095, &sent), DropReason::VlanUnknown),
        (sent.clone(), DropReason::VlanUntagged),
        (tagged(0, &sent), DropReason::VlanPriority),
        (double.clone(), DropReason::VlanStacked),
        (tagged(0, &tagged(20, &sent)), DropReason::VlanStacked),
        // Another kind of tag, outside and inside.
        (typed(0x88a8, tagged(20, &sent)), DropReason::VlanStacked),
        (
            tagged(20, &typed(0x88a8, tagged(20, &sent))),
            DropReason::VlanStacked,
        ),
        (typed(40, sent.clone()), DropReason::VlanLlc),
        (tagged(20, &typed(40, sent.clone())), DropReason::VlanLlc),
        (tagged(20, &typed(0x5ff, sent.clone())), DropReason::VlanLlc),
        (tagged(20, &sent)[..17].to_vec(), DropReason::FrameMalformed),
        (tagged(20, &sent)[..14].to_vec(), DropReason::FrameMalformed),
    ];
    for (bytes, reason) in cases {
        for guard in [Guard::Strict, Guard::Off] {
            let mut site = two_networks(false);
            for n in [2, 3] {
                site.change_attachment(n, |it| it.guard = guard);
            }
            second(&site);
            site.offer_raw(0, &PLAIN, &bytes);
            site.settle();
            site.port_drops(0, &[(reason, 1)]);
            assert!(site.raw_frames(0).is_empty() && site.raw_frames(1).is_empty());
        }
    }
    // With a priority beside its VLAN it is a frame of that, and nothing is told of the priority.
    let mut site = two_networks(false);
    let mut prior = tagged(20, &sent);
    prior[14] |= 0xf0;
    site.offer_raw(0, &PLAIN, &prior);
    site.settle();
    assert_eq!(site.raw_frames(1)[0].1, tagged(20, &sent));
    site.no_drops();
}

/// `Site::change` lays the first network anew; the second stays.
fn second(site: &Site) {
    assert!(site.snapshots.load().network(NetworkIndex(1)).is_some());
}

#[test]
fn a_guest_that_sends_junk_pays_for_it() {
    let mut site = two_networks(false);
    let long = frame(
        GUEST[0],
        GUEST[1],
        &ip("10.9.0.2", "10.9.0.3").udp((5, 6), &noise(60_000, 1), false),
    );
    for _ in 0..6 {
        site.offer_raw(0, &PLAIN, &tagged(21, &long));
    }
    assert!(site.workers[0].step());
    // A turn's credit is 128 KiB, and no more than one frame above it.
    site.port_drops(0, &[(DropReason::VlanUnknown, 3)]);
    site.settle();
    site.port_drops(0, &[(DropReason::VlanUnknown, 6)]);
}

#[test]
fn no_tag_of_a_guests_own_comes_to_a_trunk() {
    // Guest 0 is in the network that guest 1 has without a tag, and may send what it likes there.
    for vlans in [[None, None], [None, Some(10)]] {
        let mut site = Site::new(Options {
            guard: Guard::Off,
            vlans,
            ..Options::default()
        });
        if vlans[1].is_none() {
            site.change(|snapshot| {
                let old = snapshot.ports.get(1).unwrap();
                let port = Port {
                    name: old.name.clone(),
                    vlans: vec![(VlanId::new(20).unwrap(), AttachmentIndex(9))],
                    guest: old.guest.clone(),
                    drops: Arc::clone(&old.drops),
                    ..**old
                };
                snapshot.ports.set(1, Some(Arc::new(port)));
            });
        }
        let sent = frame(GUEST[0], GUEST[1], &ip("10.9.0.2", "10.9.0.3").echo(b"x"));
        let mut llc = sent.clone();
        llc[12..14].copy_from_slice(&[0, 40]);
        let mut flooded = tagged(20, &sent);
        flooded[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        for bytes in [tagged(20, &sent), flooded, llc] {
            site.offer_raw(0, &PLAIN, &bytes);
        }
        site.settle();
        assert!(site.raw_frames(1).is_empty());
        site.port_drops(0, &[(DropReason::VlanStacked, 2), (DropReason::VlanLlc, 1)]);
    }
    // Between ports that know no VLANs it is theirs to send.
    let mut site = Site::new(Options {
        guard: Guard::Off,
        ..Options::default()
    });
    let sent = tagged(
        20,
        &frame(GUEST[0], GUEST[1], &ip("10.9.0.2", "10.9.0.3").echo(b"x")),
    );
    site.offer_raw(0, &PLAIN, &sent);
    site.settle();
    assert_eq!(site.raw_frames(1)[0].1, sent);
}

#[test]
fn what_is_served_is_asked_and_answered_in_its_vlan() {
    let mut site = two_networks(true);
    let question = frame(
        GUEST[0],
        MacAddr::BROADCAST,
        &ip("0.0.0.0", "255.255.255.255").udp((68, 67), &[7; 300], false),
    );
    site.offer_raw(0, &PLAIN, &tagged(20, &question));
    site.settle();
    let punt = site.stacks[0].punts.pop(PuntClass::Guest).unwrap();
    assert_eq!(punt.scope, Scope::Guest(AttachmentIndex(2)));
    assert_eq!(punt.frame.as_slice(), question);
    for (at, vlan) in [(0, None), (2, Some(20))] {
        let answer = frame(
            OTHER_GATEWAY,
            GUEST[0],
            &ip("10.9.0.1", "10.9.0.2").echo(b"x"),
        );
        assert!(site.stacks[0].send(StackCommand::Frame {
            scope: Scope::Guest(AttachmentIndex(at)),
            frame: answer.clone().into_boxed_slice(),
        }));
        site.settle();
        let expected = vlan.map_or_else(|| answer.clone(), |vlan| tagged(vlan, &answer));
        assert_eq!(site.raw_frames(0)[0].1, expected);
    }
    // So is what the gateway answers itself.
    site.offer_raw(
        0,
        &PLAIN,
        &tagged(
            20,
            &frame(
                GUEST[0],
                OTHER_GATEWAY,
                &ip("10.9.0.2", "10.9.0.1").echo(b"x"),
            ),
        ),
    );
    site.settle();
    let answer = untagged(20, &site.raw_frames(0)[0].1);
    assert_eq!(read(packet(&answer, OTHER_GATEWAY, GUEST[0])).l4[0], 0);
    assert!(site.raw_frames(1).is_empty());
    site.no_drops();
}

/// However many VLANs it has: a turn is for others, too.
#[test]
fn a_trunk_of_many_vlans_is_announced_in_several_turns() {
    const VLANS: u16 = 700;
    let mut site = two_networks(false);
    site.change(|snapshot| {
        let second = snapshot.attachment(AttachmentIndex(2)).unwrap();
        let attachment = |vlan, index| Attachment {
            index,
            vlan: Some(vlan),
            addresses: Vec::new(),
            link_locals: Arc::default(),
            errors: Arc::default(),
            questions: Arc::default(),
            ..**second
        };
        let place = |vlan| AttachmentIndex::from_slot(usize::from(vlan));
        let vlans = (100..100 + VLANS).map(|vlan| (VlanId::new(vlan).unwrap(), place(vlan)));
        let vlans: Vec<_> = vlans.collect();
        let attachments: Vec<_> = vlans
            .iter()
            .map(|&(vlan, at)| attachment(vlan, at))
            .collect();
        for attachment in attachments {
            let slot = attachment.index.slot();
            snapshot.attachments.set(slot, Some(Arc::new(attachment)));
        }
        let old = snapshot.ports.get(0).unwrap();
        let port = Port {
            name: old.name.clone(),
            vlans,
            guest: old.guest.clone(),
            drops: Arc::clone(&old.drops),
            ..**old
        };
        snapshot.ports.set(0, Some(Arc::new(port)));
    });
    site.command(Command::Announce(PortIndex(0)));
    let mut told = Vec::new();
    while site.workers[0].step() {
        told.push(site.raw_frames(1).len());
        site.raw_frames(0);
    }
    assert_eq!(told.iter().sum::<usize>(), usize::from(VLANS));
    assert!(
        told.iter().all(|&n| n <= limits::ANNOUNCED_PER_TURN),
        "{told:?}"
    );
}

#[test]
fn a_guest_that_came_is_announced_in_each_of_its_networks() {
    let mut site = two_networks(true);
    site.command(Command::Announce(PortIndex(0)));
    site.settle();
    let heard: Vec<_> = site
        .raw_frames(1)
        .into_iter()
        .map(|(_, frame)| frame)
        .collect();
    let (tagged, plain): (Vec<_>, Vec<_>) =
        heard.iter().partition(|frame| frame[12..14] == [0x81, 0]);
    // A RARP and each address.
    assert_eq!((plain.len(), tagged.len()), (3, 2));
    assert_eq!(untagged(20, tagged[1])[28..32], [10, 9, 0, 2]);
    site.no_drops();
}
