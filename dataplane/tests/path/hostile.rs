//! Floods of frames and datagrams that no honest sender makes: nothing panics, and every
//! one of them is accounted for.
//!
//! ```text
//!  frames in  = sealed + delivered + answered + dropped, each under one name
//!  datagrams  = punted + keepalives + delivered + sent on + dropped, each under one name
//! ```

use culvert_dataplane::shared::{drops::DropReason, snapshot::Guard};
use culvert_vhost::{Offloads, PortDrop};
use culvert_wire::{MacAddr, VnetHeader};

use crate::{
    packets::{Random, ip, offload},
    support::{GATEWAY, GUEST, Options, Site, count, frame},
};

/// A frame near to an honest one, or far from it.
fn hostile_frame(random: &mut Random) -> Vec<u8> {
    let source = random.pick(&[
        "10.0.0.2", "10.0.0.2", "10.0.0.3", "fd00::2", "fe80::2", "::",
    ]);
    let v4 = source.contains('.');
    let destination = match v4 {
        true => random.pick(&[
            "10.1.0.2",
            "10.1.3.4",
            "10.0.0.1",
            "10.0.0.3",
            "10.0.0.2",
            "10.8.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
        ]),
        false => random.pick(&[
            "fd00:1::2",
            "fd00::1",
            "fd00::3",
            "fd08::1",
            "ff02::1",
            "fe80::3",
            "2001:db8::1",
        ]),
    };
    let inner = ip(source, destination)
        .hops(random.pick(&[64, 64, 64, 255, 2, 1, 0]))
        .class(random.byte());
    let size = random.pick(&[0, 1, 7, 64, 300, 1300, 1392, 1393, 2500]);
    let payload = vec![random.byte(); size];
    let packet = match random.below(8) {
        0 => inner.tcp(1, random.byte(), &payload, random.below(2) == 0),
        1 | 2 => inner.udp((5, 6), &payload, random.below(2) == 0),
        3 => inner.echo(&payload),
        4 if !v4 => {
            let mut message = vec![random.pick(&[133, 134, 135, 136, 137]), 0, 0, 0, 0, 0, 0, 0];
            message.extend(random.pick(&[[0xfd; 16], [0; 16], [0xff; 16]]));
            message.extend([1, random.pick(&[0, 1, 1, 9]), 2, 0, 0, 0, 1, 0]);
            inner.hops(255).icmp6(message)
        }
        5 => inner.with(random.pick(&[0, 43, 44, 60, 51, 4, 41, 47]), &payload),
        6 => inner.with(
            random.pick(&[1, 6, 17, 58]),
            &payload[..payload.len().min(random.below(12))],
        ),
        _ => inner.udp((random.byte().into(), 6), &payload, false),
    };
    let to = random.pick(&[
        GATEWAY,
        GATEWAY,
        GATEWAY,
        GATEWAY,
        GUEST[1],
        GUEST[0],
        MacAddr::BROADCAST,
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        MacAddr([6; 6]),
    ]);
    let from = random.pick(&[GUEST[0], GUEST[0], GUEST[0], GUEST[0], GUEST[1]]);
    let mut bytes = frame(from, to, &packet);
    if random.below(6) == 0 {
        bytes = frame(GUEST[0], to, &[0x40; 28]);
        bytes[12..14].copy_from_slice(&[8, 6]);
        bytes[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, random.pick(&[1, 1, 2, 9])]);
        bytes[22..28].copy_from_slice(&random.pick(&[GUEST[0], GUEST[1]]).0);
        bytes[28..32].copy_from_slice(&[10, 0, 0, random.pick(&[2, 3])]);
        bytes[38..42].copy_from_slice(&[10, 0, 0, random.pick(&[1, 2, 3, 77, 200])]);
    }
    if random.below(2) == 0 {
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len().min(90));
            bytes[at] = random.byte();
        }
    }
    match random.below(10) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.extend(vec![0; random.below(64)]),
        _ => {}
    }
    bytes
}

fn hostile_vnet(random: &mut Random, bytes: &[u8], gso: bool) -> VnetHeader {
    let kind = match gso {
        true => random.pick(&[0, 1, 1, 4, 4, 5, 5, 3, 0x81, 0x84, 0x85, 0x80, 0x7f]),
        false => 0,
    };
    let size = random.pick(&[0, 1, 2, 40, 500, 1200, 1380, 1460, 9000, u16::MAX]);
    if bytes.len() > 60 && random.below(3) > 0 {
        return VnetHeader {
            hdr_len: random.pick(&[0, 54, 66, u16::MAX]),
            ..offload(&bytes[14..], kind, size)
        };
    }
    let word =
        |random: &mut Random| random.pick(&[0, 14, 16, 34, 54, 6, 1, 255, 256, 1400, u16::MAX]);
    VnetHeader {
        flags: random.pick(&[0, 0, 1, 2, 3, 0xff]),
        gso_type: kind,
        hdr_len: word(random),
        gso_size: size,
        csum_start: word(random),
        csum_offset: word(random),
        num_buffers: word(random),
    }
}

/// Losses that are one frame each: an error that was not sent is none, its frame was
/// lost for another reason.
fn lost(drops: impl Iterator<Item = (DropReason, u64)>) -> u64 {
    let lost = drops.filter(|(reason, _)| *reason != DropReason::IcmpLimited);
    lost.map(|(_, n)| n).sum()
}

/// Frames that a guest's RX ring delivered or lost by name.
fn inward(site: &Site, port: usize) -> u64 {
    let counters = site.ports[port]
        .guest
        .vhost()
        .unwrap()
        .guest_rx(0)
        .counters();
    counters.frames() + PortDrop::ALL.map(|r| counters.drops(r)).iter().sum::<u64>()
}

/// Whether a frame is an ICMP error of the gateway's.
fn is_error(bytes: &[u8]) -> bool {
    let is = |at: usize, of: &[u8]| bytes.get(at).is_some_and(|byte| of.contains(byte));
    match bytes[12..14] {
        [8, 0] => bytes[26..30] == [10, 0, 0, 1] && is(23, &[1]) && is(34, &[3, 11]),
        [0x86, 0xdd] => {
            bytes[22] == 0xfd && bytes[37] == 1 && is(20, &[58]) && is(54, &[1, 2, 3, 4])
        }
        _ => false,
    }
}

/// Where guest 0's frames have ended so far: all but the errors that it got for some.
struct Ends {
    errors: u64,
}

impl Ends {
    fn collect(&mut self, site: &mut Site) {
        for (_, bytes) in site.frames(0) {
            self.errors += u64::from(is_error(&bytes));
        }
        site.frames(1);
        while let Some((_, plaintext)) = site.far.receive() {
            assert!([4, 6].contains(&(plaintext[0] >> 4)), "only IP is sealed");
        }
    }

    fn sum(&self, site: &Site) -> u64 {
        let tx = site.ports[0].guest.vhost().unwrap().guest_tx(0).counters();
        count(&site.peers[0].traffic.tx_packets)
            + site
                .peers
                .iter()
                .map(|peer| lost(peer.drops.iter()))
                .sum::<u64>()
            + site
                .ports
                .iter()
                .map(|port| lost(port.drops.iter()))
                .sum::<u64>()
            + PortDrop::ALL.map(|r| tx.drops(r)).iter().sum::<u64>()
            + inward(site, 0)
            + inward(site, 1)
            - self.errors
    }
}

fn flood((guard, vlans): (Guard, [Option<u16>; 2]), offloads: Offloads, seed: u64, rounds: u64) {
    let mut site = Site::new(Options {
        guard,
        vlans,
        offloads: [Offloads::all(), offloads],
        ..Options::default()
    });
    site.far.socket.set_nonblocking(true).unwrap();
    let mut random = Random(seed);
    let mut ends = Ends { errors: 0 };
    let mut sent = 0;
    for round in 0..rounds {
        if round % 50 == 0 {
            // However slow the machine is: without a key that is still good, frames would wait for one.
            site.publish_key();
        }
        for _ in 0..32 {
            let bytes = hostile_frame(&mut random);
            let vnet = match random.below(4) {
                0 => hostile_vnet(&mut random, &bytes, false),
                _ => VnetHeader::default(),
            };
            // Of a trunk's some have no tag but their own.
            match vlans[0].is_some() && random.below(8) == 0 {
                true => site.offer_raw(0, &vnet, &bytes),
                false => site.offer(0, &vnet, &bytes),
            }
            sent += 1;
        }
        while site.workers[0].step() {}
        ends.collect(&mut site);
        assert_eq!(ends.sum(&site), sent, "each frame ends once");
    }
    let sealed = count(&site.peers[0].traffic.tx_packets);
    assert!(sealed > sent / 200, "some are good: {sealed} of {sent}");
    assert!(
        inward(&site, 1) > sent / 100,
        "some are for the other guest"
    );
}

#[test]
fn every_frame_of_a_hostile_guest_is_accounted_for_behind_the_guard() {
    flood((Guard::Strict, [None; 2]), Offloads::all(), 1, 2_500);
}

#[test]
fn every_frame_of_a_hostile_guest_is_accounted_for_without_the_guard() {
    flood((Guard::Off, [None; 2]), Offloads::empty(), 2, 2_500);
}

#[test]
fn every_frame_of_a_hostile_guest_is_accounted_for_in_a_vlan() {
    let trunk = [Some(10), None];
    flood((Guard::Strict, trunk), Offloads::all(), 5, 1_000);
    flood((Guard::Off, trunk), Offloads::empty(), 6, 1_000);
}

#[test]
fn super_frames_of_a_hostile_guest_end_somewhere() {
    for (seed, offloads) in [(3, Offloads::all()), (4, Offloads::empty())] {
        let mut site = Site::new(Options {
            guard: Guard::Off,
            offloads: [Offloads::all(), offloads],
            piece_len: 700,
            ..Options::default()
        });
        site.far.socket.set_nonblocking(true).unwrap();
        let mut random = Random(seed);
        let mut ends = Ends { errors: 0 };
        for n in 0..30_000 {
            if n % 1_000 == 0 {
                site.publish_key();
            }
            let bytes = hostile_frame(&mut random);
            let vnet = hostile_vnet(&mut random, &bytes, true);
            let before = ends.sum(&site);
            site.offer(0, &vnet, &bytes);
            while site.workers[0].step() {}
            let after = ends.sum(&site);
            assert!(after > before, "{vnet:?} {bytes:02x?}");
            ends.collect(&mut site);
        }
    }
}

#[test]
fn every_datagram_of_a_hostile_network_is_accounted_for() {
    let mut site = Site::new(Options {
        offloads: [Offloads::empty(); 2],
        ..Options::default()
    });
    site.far.socket.set_nonblocking(true).unwrap();
    let mut random = Random(5);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut punted = 0;
    let mut keepalives = 0;
    let mut seen = 0;
    let mut errors = 0;
    for _ in 0..800 {
        for _ in 0..40 {
            let (source, destination) = random.pick(&[
                ("10.1.0.2", "10.0.0.2"),
                ("10.1.0.2", "10.0.0.3"),
                ("10.1.0.2", "10.0.0.1"),
                ("10.1.0.2", "10.1.0.9"),
                ("10.1.0.2", "10.8.0.9"),
                ("10.1.0.2", "10.0.0.9"),
                ("10.9.0.2", "10.0.0.2"),
                ("fd00:1::2", "fd00::2"),
                ("fd00:1::2", "fd00::1"),
            ]);
            let inner = ip(source, destination).hops(random.pick(&[64, 2, 1]));
            let payload = vec![1; random.pick(&[0, 1, 100, 1380])];
            let mut packet = match random.below(3) {
                0 => inner.tcp(1, random.byte(), &payload, false),
                1 => inner.udp((1, 2), &payload, false),
                _ => inner.echo(&payload),
            };
            match random.below(8) {
                0 => {
                    let at = random.below(packet.len());
                    packet[at] = random.byte();
                }
                1 => packet.truncate(1 + random.below(packet.len() - 1)),
                _ => {}
            }
            let mut datagram = site.far.seal(&packet);
            match random.below(16) {
                0 => {
                    let at = random.below(datagram.len());
                    datagram[at] ^= 1 << random.below(8);
                }
                1 => datagram.truncate(random.below(datagram.len())),
                2 => datagram = vec![random.byte(); random.pick(&[0, 1, 32, 64, 92, 148, 3000])],
                3 => {
                    let (kind, len) = random.pick(&[(1, 148), (2, 92), (3, 64)]);
                    datagram = vec![0; len];
                    datagram[0] = kind;
                }
                4 if !kept.is_empty() => datagram = kept[random.below(kept.len())].clone(),
                5 => kept.push(datagram.clone()),
                6 => {
                    datagram = site.far.seal(&[]);
                    keepalives += 1;
                }
                _ => {}
            }
            site.far.send(&datagram);
        }
        site.settle();
        while site.controls[0].handshakes.pop().is_ok() {
            punted += 1;
        }
        site.frames(0);
        site.frames(1);
        while let Some((_, plaintext)) = site.far.receive() {
            assert!([4, 6].contains(&(plaintext[0] >> 4)), "only IP is sealed");
            errors += u64::from(is_error(&frame(GATEWAY, GATEWAY, &plaintext)));
            seen += 1;
        }
    }
    let ends = punted
        + keepalives
        + lost(site.uplink.counters.drops.iter())
        + site
            .peers
            .iter()
            .map(|peer| lost(peer.drops.iter()))
            .sum::<u64>()
        + count(&site.peers[0].traffic.tx_packets)
        + inward(&site, 0)
        + inward(&site, 1)
        - errors;
    assert_eq!(ends, site.far.sent.get());
    assert!(errors > 100 && seen > errors + 1_000 && inward(&site, 0) > 2_000);
}
