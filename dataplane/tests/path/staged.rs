//! Frames that wait for a key.

use std::sync::{Arc, atomic::Ordering};

use culvert_dataplane::{
    shared::{
        control_link::Command, drops::DropReason, hop::Hop, ids::UplinkIndex, limits, path::Path,
        peer::signal,
    },
    uplink::{Uplink, UplinkCounters},
};
use culvert_wire::VnetHeader;

use crate::{
    packets::{Ip, ip, noise, offload, read},
    support::{Options, Site, assert_drops, tunnel_of},
};

fn inner() -> Ip {
    ip("10.0.0.2", "10.1.0.2")
}

fn keyless() -> Site {
    Site::new(Options {
        keyed: false,
        ..Options::default()
    })
}

fn number(n: usize) -> Vec<u8> {
    u32::try_from(n).unwrap().to_be_bytes().to_vec()
}

#[test]
fn frames_wait_for_a_key_and_go_before_newer_ones() {
    let mut site = keyless();
    for n in 0..5 {
        site.send_plain(0, &inner().udp((5, 6), &number(n), false));
    }
    assert!(site.sealed().is_empty());
    assert_eq!(site.peers[0].take_signals(), signal::KEY_WANTED);
    // Asked once: the control core knows.
    site.send_plain(0, &inner().udp((5, 6), &number(5), false));
    assert_eq!(site.peers[0].take_signals(), 0);
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 6);

    site.publish_key();
    let index = site.peers[0].index;
    site.command(Command::FlushStaged(index));
    site.send_plain(0, &inner().udp((5, 6), &number(6), false));
    let sealed = site.sealed();
    assert_eq!(sealed.len(), 7);
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 0);
    for (n, (counter, plaintext)) in sealed.iter().enumerate() {
        let seen = read(plaintext);
        assert_eq!(*counter, n as u64);
        assert_eq!((seen.payload(), seen.hop_limit), (&number(n)[..], 63));
    }
    site.no_drops();
}

#[test]
fn a_newer_frame_does_not_overtake_when_the_key_comes_without_a_command() {
    let mut site = keyless();
    site.send_plain(0, &inner().udp((5, 6), &number(0), false));
    // A super-frame waits uncut.
    let data = noise(10_000, 1);
    let tcp = inner().tcp(1, 0x10, &data, true);
    site.send(0, &offload(&tcp, VnetHeader::GSO_TCPV4, 1380), &tcp);
    site.publish_key();
    site.send_plain(0, &inner().udp((5, 6), &number(1), false));
    let sealed: Vec<_> = site.sealed().iter().map(|(_, p)| read(p)).collect();
    assert_eq!(sealed.first().unwrap().payload(), number(0));
    assert_eq!(sealed.last().unwrap().payload(), number(1));
    let middle = &sealed[1..sealed.len() - 1];
    assert_eq!(middle.len(), data.len().div_ceil(1380));
    assert_eq!(
        middle
            .iter()
            .flat_map(|s| s.payload().to_vec())
            .collect::<Vec<_>>(),
        data
    );
    site.no_drops();
}

#[test]
fn the_oldest_frames_make_room_by_name() {
    let mut site = keyless();
    let more = 40;
    for n in 0..limits::STAGED_PER_PEER + more {
        site.send_plain(0, &inner().udp((5, 6), &number(n), false));
    }
    site.peer_drops(&[(DropReason::StagedOverflow, more as u64)]);
    site.publish_key();
    let index = site.peers[0].index;
    site.command(Command::FlushStaged(index));
    site.settle();
    let sealed = site.sealed();
    assert_eq!(sealed.len(), limits::STAGED_PER_PEER);
    for (n, (_, plaintext)) in sealed.iter().enumerate() {
        assert_eq!(read(plaintext).payload(), number(n + more));
    }
}

#[test]
fn one_guests_super_frames_cost_no_other_guests_frames() {
    let mut site = keyless();
    let quiet = ip("10.0.0.3", "10.1.0.2");
    // Longer than any small one, and few enough for the far end's socket.
    let data = noise(2_030, 1);
    let large = |inner: Ip| inner.tcp(1, 0x10, &data, true);
    let send_large = |site: &mut Site, guest: usize, inner: Ip| {
        let tcp = large(inner);
        site.send(guest, &offload(&tcp, VnetHeader::GSO_TCPV4, 1380), &tcp);
    };
    site.send_plain(1, &quiet.udp((5, 6), b"quiet", false));
    for _ in 0..4 {
        send_large(&mut site, 1, quiet);
    }
    // The other guest's are many, and go to the same peer.
    for n in 0..60 {
        send_large(&mut site, 0, inner());
        site.send_plain(0, &inner().udp((5, 6), &number(n), false));
    }
    let lost = site.peers[0].drops.count(DropReason::StagedOverflow);
    let waiting = site.peers[0].staged.load(Ordering::Relaxed);
    assert!(lost > 0);
    assert_eq!(lost + waiting, 125, "each frame waits or was named");
    site.publish_key();
    let index = site.peers[0].index;
    site.command(Command::FlushStaged(index));
    site.settle();
    let sealed: Vec<_> = site.sealed().iter().map(|(_, p)| read(p)).collect();
    let of_quiet: Vec<_> = sealed
        .iter()
        .filter(|seen| seen.source.to_string() == "10.0.0.3")
        .collect();
    assert_eq!(of_quiet[0].payload(), b"quiet");
    assert_eq!(of_quiet.len(), 1 + 4 * data.len().div_ceil(1380));
}

#[test]
fn frames_of_a_handshake_that_was_given_up_are_named() {
    let mut site = keyless();
    for n in 0..9 {
        site.send_plain(0, &inner().udp((5, 6), &number(n), false));
    }
    let index = site.peers[0].index;
    site.command(Command::DropStaged(index));
    site.settle();
    site.peer_drops(&[(DropReason::StagedExpired, 9)]);
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 0);
    site.publish_key();
    site.command(Command::FlushStaged(index));
    site.settle();
    assert!(site.sealed().is_empty());
}

#[test]
fn frames_of_a_removed_peer_are_named() {
    let mut site = keyless();
    for n in 0..9 {
        site.send_plain(0, &inner().udp((5, 6), &number(n), false));
    }
    let index = site.peers[0].index;
    site.change(|snapshot| snapshot.peers.set(index.slot(), None));
    let uplink = site.uplink.index;
    site.command(Command::ForgetStaged(index, uplink));
    site.settle();
    site.uplink_drops(&[(DropReason::PeerRemoved, 9)]);
    site.command(Command::ForgetStaged(index, uplink));
    site.settle();
    site.uplink_drops(&[(DropReason::PeerRemoved, 9)]);
}

#[test]
fn frames_of_a_removed_peer_are_no_other_peers_though_its_uplink_is_gone() {
    let mut site = keyless();
    site.send_plain(0, &inner().udp((5, 6), b"secret", false));
    let index = site.peers[0].index;
    let old = site.snapshots.load_full();
    site.change(|snapshot| {
        snapshot.peers.set(index.slot(), None);
        snapshot.uplinks.set(0, None);
    });
    site.command(Command::ForgetStaged(index, site.uplink.index));
    site.settle();
    // Another gets the place.
    site.change(|snapshot| {
        (snapshot.peers, snapshot.uplinks) = (old.peers.clone(), old.uplinks.clone());
    });
    site.publish_key();
    site.command(Command::FlushStaged(index));
    site.settle();
    assert!(site.sealed().is_empty());
}

#[test]
fn frames_of_a_removed_peer_that_make_room_are_named() {
    let mut site = keyless();
    let data = noise(2_030, 1);
    let send_large = |site: &mut Site, to: &str| {
        let tcp = ip("10.0.0.2", to).tcp(1, 0x10, &data, true);
        site.send(0, &offload(&tcp, VnetHeader::GSO_TCPV4, 1380), &tcp);
    };
    for _ in 0..limits::STAGED_LARGE_FRAMES {
        send_large(&mut site, "10.1.0.2");
    }
    let (_far, _) = site.second();
    site.peers[1].publish_keypair(None);
    // The newer ones' peer is behind another uplink.
    let counters = Arc::<UplinkCounters>::default();
    let other = Arc::new(Uplink {
        index: UplinkIndex(1),
        name: "other".into(),
        addresses: Vec::new(),
        tunnels: Vec::new(),
        hop: Arc::new(Hop::kernel(UplinkIndex(1))),
        kernel: None,
        counters: Arc::clone(&counters),
    });
    let to = site.far.socket.local_addr().unwrap();
    let path = Path::new(to, None, 1, Arc::clone(&other.hop));
    site.peers[1].publish_path(Some(path));
    site.change(|snapshot| snapshot.uplinks.set(1, Some(other)));
    let index = site.peers[0].index;
    site.change(|snapshot| snapshot.peers.set(index.slot(), None));
    // The control core's word to forget them has not come yet.
    for _ in 0..3 {
        send_large(&mut site, "10.8.0.2");
    }
    site.uplink_drops(&[(DropReason::PeerRemoved, 3)]);
    let uplink = site.uplink.index;
    site.command(Command::ForgetStaged(index, uplink));
    site.settle();
    let all = limits::STAGED_LARGE_FRAMES as u64;
    site.uplink_drops(&[(DropReason::PeerRemoved, all)]);
    assert_eq!(site.peers[1].staged.load(Ordering::Relaxed), 3);
    assert_drops(site.peers[1].drops.iter(), &[]);
    assert_drops(counters.drops.iter(), &[]);
}

#[test]
fn once_a_next_hop_is_known_what_waits_for_peers_with_a_way_leaves() {
    let mut site = keyless();
    let (_far, _) = site.second();
    site.peers[1].publish_keypair(None);
    for to in ["10.1.0.2", "10.8.0.2"] {
        site.send_plain(0, &ip("10.0.0.2", to).udp((5, 6), &number(0), false));
    }
    let nowhere = Arc::new(Hop::nowhere(site.uplink.index));
    let to = site.far.socket.local_addr().unwrap();
    site.peers[1].publish_path(Some(Path::new(to, None, 1, nowhere)));
    site.publish_key();
    let waiting = |site: &Site| [0, 1].map(|it| site.peers[it].staged.load(Ordering::Relaxed));
    assert_eq!(waiting(&site), [1, 1]);
    site.command(Command::FlushAwaited);
    site.settle();
    assert_eq!(waiting(&site), [0, 1]);
    assert_eq!(site.sealed().len(), 1);
    site.no_drops();
}

#[test]
fn a_keepalive_is_sent_unless_something_waited() {
    let mut site = keyless();
    site.send_plain(0, &inner().udp((5, 6), &number(0), false));
    site.publish_key();
    let index = site.peers[0].index;
    site.command(Command::Keepalive(index));
    site.settle();
    let sealed = site.sealed();
    assert_eq!(sealed.len(), 1);
    assert_eq!(read(&sealed[0].1).payload(), number(0));
    site.command(Command::Keepalive(index));
    site.settle();
    assert_eq!(site.sealed(), [(1, vec![])]);
    assert_ne!(site.peers[0].take_signals() & signal::KEEPALIVE_SENT, 0);
    site.no_drops();
}

#[test]
fn a_keepalive_is_sent_when_what_waited_is_lost() {
    let mut site = keyless();
    let v6 = ip("fd00::2", "fd00:1::2");
    site.send_plain(0, &v6.udp((5, 6), &noise(1_300, 1), false));
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 1);
    site.change(|snapshot| tunnel_of(snapshot).mtu = 1_280);
    site.publish_key();
    let index = site.peers[0].index;
    site.command(Command::Keepalive(index));
    site.settle();
    assert_eq!(site.sealed(), [(0, vec![])]);
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 0);
    site.peer_drops(&[(DropReason::TooBig, 1)]);
}

#[test]
fn an_expired_keypair_wants_another() {
    let mut site = Site::new(Options {
        key_age: 181,
        ..Options::default()
    });
    site.send_plain(0, &inner().udp((5, 6), &number(0), false));
    assert!(site.sealed().is_empty());
    assert_eq!(site.peers[0].take_signals(), signal::KEY_WANTED);
    site.options.key_age = 0;
    site.publish_key();
    site.send_plain(0, &inner().udp((5, 6), &number(1), false));
    let sealed: Vec<_> = site
        .sealed()
        .iter()
        .map(|(_, p)| read(p).payload().to_vec())
        .collect();
    assert_eq!(sealed, [number(0), number(1)]);
    site.no_drops();
}
