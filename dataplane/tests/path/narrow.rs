//! Paths that let less through than the tunnel: fragments, frames that are cut again, what senders are told, and the MSS
//! that connections are offered.
//!
//! ```text
//!  guest 0 ── gateway ── tunnel, MTU 1420 ─┬─ peer 0 (10.1.0.0/16, fd00:1::/64): some bytes outside
//!                                          └─ peer 1 (10.8.0.0/16, fd08::/64): not known
//! ```

use std::num::NonZeroU16;

use culvert_dataplane::shared::{
    control_link::Command, drops::DropReason, path::Path, sessions::Session,
};
use culvert_wire::VnetHeader;

use crate::{
    packets::{Ip, ip, noise, offload, read, sum},
    support::{GATEWAY, GUEST, Options, Site, assert_drops, count, packet, tunnel_of},
};

const SYN: u8 = 2;
const ACK: u8 = 0x10;

fn v4() -> Ip {
    ip("10.0.0.2", "10.1.0.2")
}

fn v6() -> Ip {
    ip("fd00:0::2", "fd00:1::2")
}

/// The path of a peer lets so many bytes through.
fn narrow(site: &Site, peer: usize, mtu: u16) {
    let path = site.peers[peer].path().as_deref().cloned().unwrap();
    let path = Path::clone(&path).with_mtu(NonZeroU16::new(mtu));
    site.peers[peer].publish_path(Some(path));
}

/// The same packet, which may be cut.
fn cuttable(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] = 0;
    packet[10..12].fill(0);
    let check = !sum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

/// Puts fragments without options together.
fn reassemble(fragments: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut whole = fragments[0].1[..20].to_vec();
    let (last, others) = fragments.split_last().unwrap();
    for (_, fragment) in fragments {
        let len = usize::from(u16::from_be_bytes([fragment[2], fragment[3]]));
        assert_eq!(sum(&fragment[..20], 0), 0xffff, "header checksum");
        let offset = usize::from(u16::from_be_bytes([fragment[6], fragment[7]]) & 0x1fff) * 8;
        assert_eq!(whole.len() - 20, offset);
        whole.extend(&fragment[20..len]);
    }
    assert!(others.iter().all(|(_, fragment)| fragment[6] & 0x20 != 0));
    assert_eq!(last.1[6] & 0x20, 0);
    let len = u16::try_from(whole.len()).unwrap();
    whole[2..4].copy_from_slice(&len.to_be_bytes());
    cuttable(whole)
}

/// What `sent` looks like behind a router.
fn routed(mut sent: Vec<u8>) -> Vec<u8> {
    sent[8] -= 1;
    cuttable(sent)
}

#[test]
fn what_may_be_cut_is_cut_at_the_gateway() {
    let mut site = Site::new(Options::default());
    for (len, partial) in [(1393, false), (3000, false), (3000, true), (8900, true)] {
        let complete = cuttable(v4().udp((5, 6), &noise(len, 6), false));
        let sent = cuttable(v4().udp((5, 6), &noise(len, 6), partial));
        let vnet = match partial {
            true => offload(&sent, VnetHeader::GSO_NONE, 0),
            false => VnetHeader::default(),
        };
        site.send(0, &vnet, &sent);
        let fragments = site.sealed();
        assert_eq!(fragments.len(), (len + 8).div_ceil(1400));
        assert!(fragments.iter().all(|(_, packet)| packet.len() <= 1420));
        assert_eq!(reassemble(&fragments), routed(complete));
    }
    assert_eq!(count(&site.peers[0].traffic.fragmented), 4);
    assert!(site.frames(0).is_empty(), "nobody is told");
    site.no_drops();
}

#[test]
fn what_a_hub_relays_is_cut_as_well_and_what_waits_for_a_key() {
    let mut site = Site::new(Options {
        mtu: 1300,
        keyed: false,
        ..Options::default()
    });
    let sent = cuttable(v4().udp((5, 6), &noise(3000, 6), false));
    site.send_plain(0, &sent);
    assert!(site.sealed().is_empty());
    site.publish_key();
    site.command(Command::FlushStaged(site.peers[0].index));
    site.settle();
    assert_eq!(reassemble(&site.sealed()), routed(sent));

    let (mut second, keypair) = site.second();
    let sent = cuttable(ip("10.8.0.9", "10.1.0.2").udp((5, 6), &noise(1350, 1), false));
    let message = second.seal(&sent);
    site.sessions.publish(Session {
        keypair,
        peer: site.peers[1].clone(),
    });
    site.far.sent.set(site.far.sent.get() + 1);
    second.send(&message);
    site.settle();
    assert_eq!(reassemble(&site.sealed()), routed(sent));
    assert_eq!(count(&site.peers[0].traffic.fragmented), 2);
    site.no_drops();
}

#[test]
fn more_fragments_than_a_frame_may_become_are_refused() {
    let mut site = Site::new(Options {
        mtu: 300,
        ..Options::default()
    });
    let sent = cuttable(v4().udp((5, 6), &noise(40_000, 6), false));
    site.send_plain(0, &sent);
    let (_, told) = site.frame(0);
    let told = read(packet(&told, GATEWAY, GUEST[0]));
    assert_eq!((told.protocol, &told.l4[..2]), (1, &[3, 4][..]));
    assert!(site.sealed().is_empty());
    site.port_drops(0, &[(DropReason::TooBig, 1)]);
}

#[test]
fn a_narrow_path_is_its_peers_alone() {
    let mut site = Site::new(Options::default());
    let (mut second, _key) = site.second();
    narrow(&site, 0, 1380);
    for (inner, kind, at) in [(v4(), [3, 4], 6), (v6(), [2, 0], 6)] {
        // 1380 less 60.
        let sent = inner.udp((5, 6), &noise(1300, 6), false);
        site.send_plain(0, &sent);
        let (_, told) = site.frame(0);
        let told = read(packet(&told, GATEWAY, GUEST[0]));
        assert_eq!(&told.l4[..2], kind);
        assert_eq!(told.l4[at..at + 2], 1320u16.to_be_bytes());
    }
    site.port_drops(0, &[(DropReason::TooBig, 2)]);
    // A super-frame is cut to what passes, padding and all.
    let sent = v4().tcp(1, ACK, &noise(20_000, 3), true);
    site.send(0, &offload(&sent, VnetHeader::GSO_TCPV4, 1380), &sent);
    let cut = site.sealed();
    assert_eq!(cut.len(), 20_000usize.div_ceil(1280));
    assert!(cut.iter().all(|(_, packet)| packet.len() <= 1320));
    let stream: Vec<u8> = cut
        .iter()
        .flat_map(|(_, p)| read(p).payload().to_vec())
        .collect();
    assert_eq!(stream, noise(20_000, 3));
    assert_eq!(site.frames(0).len(), 1, "the sender is told");
    // The other peer's frames are as long as the tunnel lets them be.
    let sent = ip("10.0.0.2", "10.8.0.9").udp((5, 6), &noise(1392, 6), false);
    site.send_plain(0, &sent);
    let (_, whole) = second.receive().unwrap();
    assert_eq!(read(&whole).payload(), noise(1392, 6));
    assert_drops(site.peers[1].drops.iter(), &[]);
}

#[test]
fn a_hub_tells_the_peer_that_sends_what_does_not_fit_another_ones_path() {
    let mut site = Site::new(Options::default());
    let (mut second, keypair) = site.second();
    site.sessions.publish(Session {
        keypair,
        peer: site.peers[1].clone(),
    });
    narrow(&site, 0, 1380);
    for (inner, kind) in [
        (ip("10.8.0.9", "10.1.0.2"), [3, 4]),
        (ip("fd08::9", "fd00:1::2"), [2, 0]),
    ] {
        let message = second.seal(&inner.udp((5, 6), &noise(1300, 1), false));
        site.far.sent.set(site.far.sent.get() + 1);
        second.send(&message);
        site.settle();
        let (_, told) = second.receive().unwrap();
        let told = read(&told);
        assert_eq!(told.l4[..2], kind);
        assert_eq!(told.l4[6..8], 1320u16.to_be_bytes());
    }
    assert_eq!(count(&site.peers[0].traffic.tx_packets), 0);
}

#[test]
fn ipv6_is_never_told_of_less_than_its_least_mtu() {
    let mut site = Site::new(Options::default());
    narrow(&site, 0, 1280);
    site.send_plain(0, &v6().udp((5, 6), &noise(1232, 6), false));
    assert_eq!(site.sealed().len(), 1, "its datagram is cut outside");
    site.send_plain(0, &v6().udp((5, 6), &noise(1233, 6), false));
    let (_, told) = site.frame(0);
    let told = read(packet(&told, GATEWAY, GUEST[0]));
    assert_eq!(told.l4[4..8], 1280u32.to_be_bytes());
    site.send_plain(0, &v4().udp((5, 6), &noise(1193, 6), false));
    let (_, told) = site.frame(0);
    let told = read(packet(&told, GATEWAY, GUEST[0]));
    assert_eq!(told.l4[6..8], 1220u16.to_be_bytes());
}

#[test]
fn a_path_that_moves_keeps_what_it_let_through_until_more_is_known() {
    let mut site = Site::new(Options::default());
    narrow(&site, 0, 1380);
    assert_eq!(site.peers[0].limit(), 1320);
    let elsewhere = crate::support::Far::socket(site.address);
    let message = site
        .far
        .seal(&ip("10.1.0.2", "10.0.0.2").udp((5, 6), b"hello", false));
    site.far.send_from(&elsewhere, &message);
    site.settle();
    let path = site.peers[0].path().as_deref().cloned().unwrap();
    assert_eq!(path.endpoint, elsewhere.local_addr().unwrap());
    assert_eq!(site.peers[0].limit(), 1320);
    site.peers[0].publish_path(None);
    assert_eq!(site.peers[0].limit(), u16::MAX);
}

/// A segment with these flags that offers an MSS of 8960 at an odd place.
fn offer(inner: Ip, flags: u8, partial: bool) -> Vec<u8> {
    let mut tcp = vec![
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, flags, 255, 255,
    ];
    tcp.extend([0, 0, 0, 0, 1, 2, 4, 0x23, 0, 1, 1, 0]);
    inner.checked(6, tcp, 16, partial)
}

/// The MSS that a sound packet offers.
fn offered(packet: &[u8]) -> u16 {
    let seen = read(packet);
    u16::from_be_bytes([seen.l4[23], seen.l4[24]])
}

#[test]
fn connections_are_offered_what_fits_the_path_both_ways() {
    let mut site = Site::new(Options::default());
    let clamping = |on| move |snapshot: &mut _| tunnel_of(snapshot).mss_clamp = on;
    for (clamps, mtu, expected) in [
        (false, 1500, [8960; 2]),
        (true, 1500, [1380, 1360]),
        (true, 1380, [1280, 1260]),
        (true, 9000, [1380, 1360]),
    ] {
        site.change(clamping(clamps));
        narrow(&site, 0, mtu);
        for (inner, expected) in [v4(), v6()].into_iter().zip(expected) {
            for partial in [false, true] {
                let sent = offer(inner, SYN, partial);
                let vnet = match partial {
                    true => offload(&sent, VnetHeader::GSO_NONE, 0),
                    false => VnetHeader::default(),
                };
                site.send(0, &vnet, &sent);
                assert_eq!(offered(&site.sealed()[0].1), expected);
            }
            let back = Ip {
                source: inner.destination,
                destination: inner.source,
                ..inner
            };
            site.far.send_packets(&[offer(back, SYN | ACK, false)]);
            site.settle();
            let (_, frame) = site.frame(0);
            assert_eq!(offered(packet(&frame, GATEWAY, GUEST[0])), expected);
            // What is no SYN has no offer, whatever it looks like.
            site.send_plain(0, &offer(inner, ACK, false));
            assert_eq!(offered(&site.sealed()[0].1), 8960);
        }
    }
    site.no_drops();
}
