//! A tunnel on two uplinks: every path names its own.
//!
//! ```text
//!                                     ┌─ loopback ── peer 0 (10.1.0.0/16)
//!  guest 0 (10.0.0.2) ── the worker ──┤
//!                                     └─ other ───── peer 1 (10.8.0.0/16)
//! ```

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use culvert_dataplane::{
    shared::{
        control_link::{Command, Inline},
        drops::DropReason,
        hop::Hop,
        ids::{Scope, UplinkIndex},
        path::Path,
        peer::{Origin, signal},
        stack_link::StackCommand,
    },
    uplink::Uplink,
};
use culvert_wire::MacAddr;

use crate::{
    packets::{ip, read},
    support::{Far, Options, PATIENCE, Site, assert_drops, count, open},
};

const OTHER: UplinkIndex = UplinkIndex(1);

/// The other uplink, and where it listens.
struct Other {
    uplink: Arc<Uplink>,
    address: SocketAddr,
}

impl Other {
    /// Gives the tunnel sockets on another uplink of `site`.
    fn new(site: &mut Site) -> Self {
        let (queues, address) = open(&site.options, OTHER);
        let uplink = Arc::new(Uplink {
            index: OTHER,
            name: "other".into(),
            addresses: vec![address.ip()],
            tunnels: vec![(address.port(), site.peers[0].tunnel)],
            hop: Arc::new(Hop::kernel(OTHER)),
            kernel: None,
            counters: Arc::default(),
        });
        site.change(|snapshot| {
            snapshot
                .uplinks
                .set(OTHER.slot(), Some(Arc::clone(&uplink)));
        });
        for queue in queues {
            site.command(Command::AttachUplink(Box::new(queue)));
        }
        site.settle();
        Self { uplink, address }
    }

    /// Peer 1's far end, which a path over this uplink leads to.
    fn peer(&self, site: &Site) -> Far {
        let (mut far, _) = site.second();
        far.to = self.address;
        let endpoint = far.socket.local_addr().unwrap();
        let (own, hop) = (self.address, Arc::clone(&self.uplink.hop));
        let path = Path::new(endpoint, Some(own.ip()), own.port(), hop);
        site.peers[1].publish_path(Some(path));
        far
    }
}

/// Numbered packets to peers 0 and 1, which their ring has at once.
fn send(site: &mut Site, numbers: impl Iterator<Item = u8>) {
    for n in numbers {
        let to = ["10.1.0.2", "10.8.0.2"][usize::from(n % 2)];
        let packet = ip("10.0.0.2", to).udp((5, 6), &[n], false);
        site.offer_to_gateway(0, &packet);
    }
    site.settle();
}

/// The numbers that come to a far end, all of them from where it sends to itself.
fn numbers(far: &mut Far, expected: usize) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut came = Vec::new();
    while came.len() < expected {
        assert!(Instant::now() < deadline, "{came:?} of {expected} came");
        let packet = far.receive();
        came.extend(packet.map(|(_, packet)| read(&packet).payload()[0]));
    }
    assert_eq!(far.receive(), None);
    came
}

#[test]
fn peers_of_a_tunnel_leave_by_the_uplinks_of_their_paths() {
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let mut second = other.peer(&site);
    send(&mut site, 0..20);
    let even: Vec<u8> = (0..20).step_by(2).collect();
    let odd: Vec<u8> = (1..20).step_by(2).collect();
    assert_eq!(numbers(&mut site.far, 10), even);
    assert_eq!(numbers(&mut second, 10), odd);
    for uplink in [&site.uplink, &other.uplink] {
        assert_eq!(count(&uplink.counters.tx_packets), 10);
    }
    site.no_drops();
}

#[test]
fn an_uplink_that_goes_is_missed_by_its_paths_alone() {
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let mut second = other.peer(&site);
    // Its queues are there still, as they are until the worker is told.
    site.change(|snapshot| snapshot.uplinks.set(1, None));
    send(&mut site, 0..4);
    assert_drops(site.peers[1].drops.iter(), &[(DropReason::UplinkDown, 2)]);
    site.command(Command::DetachUplink(OTHER, None));
    send(&mut site, 4..8);
    assert_drops(site.peers[1].drops.iter(), &[(DropReason::UplinkDown, 4)]);
    assert_eq!(numbers(&mut site.far, 4), [0, 2, 4, 6]);
    assert_eq!(second.receive(), None);

    let again = Other::new(&mut site);
    let mut second = again.peer(&site);
    send(&mut site, 8..12);
    assert_eq!(numbers(&mut site.far, 2), [8, 10]);
    assert_eq!(numbers(&mut second, 2), [9, 11]);
}

#[test]
fn a_peer_that_is_heard_by_another_uplink_is_answered_there() {
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let message = site.far.seal(&ip("10.1.0.2", "10.0.0.2").echo(b"x"));
    let far = &mut site.far;
    far.to = other.address;
    far.socket.send_to(&message, far.to).unwrap();
    settle_other(&mut site, &other, 1);
    assert_eq!(site.frames(0).len(), 1);
    let path = site.peers[0].path().as_deref().cloned().unwrap();
    let source = site.far.socket.local_addr().unwrap();
    assert_eq!((path.uplink(), path.endpoint), (OTHER, source));
    assert_eq!(path.source, Some(other.address.ip()));
    assert_ne!(site.peers[0].take_signals() & signal::MOVED, 0);
    let moved = site.peers[0].take_moved().unwrap();
    let origin = Origin {
        source,
        local: Some(other.address.ip()),
        uplink: OTHER,
        ..moved
    };
    assert_eq!(moved, origin);
    send(&mut site, [0, 2].into_iter());
    assert_eq!(numbers(&mut site.far, 2), [0, 2]);
    site.no_drops();
}

/// Everything that the other uplink is to receive is received.
fn settle_other(site: &mut Site, other: &Other, received: u64) {
    let deadline = Instant::now() + PATIENCE;
    while count(&other.uplink.counters.rx_packets) < received {
        assert!(Instant::now() < deadline, "the datagrams come");
        site.settle();
    }
}

#[test]
fn frames_that_wait_for_a_key_leave_by_the_uplink_that_the_peer_is_on_by_then() {
    let mut site = Site::new(Options {
        keyed: false,
        ..Options::default()
    });
    let other = Other::new(&mut site);
    let here = site.peers[0].path().as_deref().cloned().unwrap();
    let (own, hop) = (other.address, Arc::clone(&other.uplink.hop));
    let there = Path::new(here.endpoint, Some(own.ip()), own.port(), hop);
    send(&mut site, [0, 2, 4].into_iter());
    assert_eq!(site.peers[0].staged.load(Ordering::Relaxed), 3);
    // It goes, comes back, and goes again before its key is there.
    for path in [&there, &here, &there] {
        site.peers[0].publish_path(Some(path.clone()));
        send(&mut site, [6].into_iter());
    }
    site.publish_key();
    site.command(Command::FlushStaged(site.peers[0].index));
    site.settle();
    site.far.to = other.address;
    assert_eq!(numbers(&mut site.far, 6), [0, 2, 4, 6, 6, 6]);
    assert_eq!(count(&other.uplink.counters.tx_packets), 6);
    assert_eq!(count(&site.uplink.counters.tx_packets), 0);
    site.no_drops();
    assert_drops(other.uplink.counters.drops.iter(), &[]);
}

#[test]
fn frames_that_wait_for_a_key_are_named_where_their_peer_is_when_its_uplink_is_gone() {
    let mut site = Site::new(Options {
        keyed: false,
        ..Options::default()
    });
    let other = Other::new(&mut site);
    let endpoint = site.far.socket.local_addr().unwrap();
    let (own, hop) = (other.address, Arc::clone(&other.uplink.hop));
    send(&mut site, [0, 2].into_iter());
    let there = Path::new(endpoint, Some(own.ip()), own.port(), hop);
    site.peers[0].publish_path(Some(there));
    site.command(Command::DetachUplink(OTHER, None));
    site.publish_key();
    site.command(Command::FlushStaged(site.peers[0].index));
    site.settle();
    site.peer_drops(&[(DropReason::UplinkDown, 2)]);
    assert_eq!(site.far.receive(), None);
}

#[test]
fn a_packet_from_a_peer_on_one_uplink_reaches_a_peer_on_another() {
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let packet = |n| ip("10.1.0.2", "10.8.0.2").udp((5, 6), &[n], false);
    let mut second = other.peer(&site);
    site.far
        .send_packets(&(0..10).map(packet).collect::<Vec<_>>());
    site.settle();
    assert_eq!(numbers(&mut second, 10), (0..10).collect::<Vec<_>>());
    assert_eq!(count(&other.uplink.counters.tx_packets), 10);
    assert_eq!(count(&site.uplink.counters.tx_packets), 0);

    // Both change places.
    let (mut second, _) = site.second();
    for n in 10..20 {
        let message = site.far.seal(&packet(n));
        site.far.socket.send_to(&message, other.address).unwrap();
    }
    settle_other(&mut site, &other, 10);
    assert_eq!(numbers(&mut second, 10), (10..20).collect::<Vec<_>>());
    for uplink in [&site.uplink, &other.uplink] {
        assert_eq!(count(&uplink.counters.tx_packets), 10);
        assert_drops(uplink.counters.drops.iter(), &[]);
    }
    site.no_drops();
}

/// The next message at a far end.
fn message(far: &mut Far) -> (u64, Vec<u8>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "a message comes");
        if let Some(message) = far.receive() {
            return message;
        }
    }
}

/// Has a keepalive sent to peer 1.
fn keepalive(site: &mut Site) {
    let index = site.peers[1].index;
    site.command(Command::Keepalive(index));
    site.settle();
}

#[test]
fn a_keepalive_leaves_by_its_peers_uplink_or_is_named() {
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let mut second = other.peer(&site);
    let peer = Arc::clone(&site.peers[1]);
    keepalive(&mut site);
    assert_eq!(count(&other.uplink.counters.tx_packets), 1);
    assert_eq!(count(&site.uplink.counters.tx_packets), 0);
    assert_eq!(peer.take_signals(), signal::KEEPALIVE_SENT);
    assert_eq!(message(&mut second), (0, vec![]));
    site.change(|snapshot| snapshot.uplinks.set(1, None));
    keepalive(&mut site);
    assert_drops(peer.drops.iter(), &[(DropReason::UplinkDown, 1)]);
    site.command(Command::DetachUplink(OTHER, None));
    keepalive(&mut site);
    assert_drops(peer.drops.iter(), &[(DropReason::UplinkDown, 2)]);
    assert_eq!(
        (peer.take_signals(), count(&peer.traffic.tx_packets)),
        (0, 1)
    );
}

#[test]
fn a_keepalive_without_a_next_hop_asks_for_it_and_takes_no_counter() {
    let mut site = Site::new(Options::default());
    let (mut second, keypair) = site.second();
    let peer = Arc::clone(&site.peers[1]);
    let path = peer.path().as_deref().cloned().unwrap();
    let [ours, theirs] = [1, 9].map(|n| MacAddr([2, 0, 0, 0, 0, n]));
    let hop = Arc::new(Hop::ethernet(path.uplink(), ours, None));
    let lost = Path::new(path.endpoint, path.source, path.port, Arc::clone(&hop));
    peer.publish_path(Some(lost));
    for n in 1..=2 {
        keepalive(&mut site);
        assert_drops(peer.drops.iter(), &[(DropReason::NextHopUnresolved, n)]);
    }
    assert_eq!(peer.take_signals(), signal::NEXT_HOP_WANTED);
    assert_eq!(count(&peer.traffic.tx_packets), 0);
    assert_eq!(keypair.sent(), 0);
    hop.set(Some(theirs));
    keepalive(&mut site);
    assert_eq!(peer.take_signals(), signal::KEEPALIVE_SENT);
    assert_eq!(count(&peer.traffic.tx_packets), 1);
    assert_eq!(message(&mut second), (0, vec![]));
}

#[test]
fn a_handshake_message_without_its_uplink_is_the_peers_loss() {
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let _second = other.peer(&site);
    let peer = Arc::clone(&site.peers[1]);
    let path = peer.path().as_ref().cloned().unwrap();
    let send = |site: &mut Site| {
        site.command(Command::Handshake {
            tunnel: peer.tunnel,
            peer: Some(peer.index),
            path: Arc::clone(&path),
            message: Inline::new(&[1; 148]).unwrap(),
        });
        site.settle();
    };
    send(&mut site);
    assert_eq!(count(&other.uplink.counters.tx_packets), 1);
    site.command(Command::DetachUplink(OTHER, None));
    send(&mut site);
    let down = |n| [(DropReason::UplinkDown, n)];
    assert_drops(other.uplink.counters.drops.iter(), &down(1));
    assert_drops(peer.drops.iter(), &[]);
    site.change(|snapshot| snapshot.uplinks.set(1, None));
    send(&mut site);
    assert_drops(peer.drops.iter(), &down(1));
}

#[test]
fn a_frame_of_the_host_stacks_without_a_queue_of_its_uplink_is_named() {
    let mut site = Site::new(Options::default());
    let scope = Scope::Uplink(site.uplink.index);
    let frame = Box::from([0; 60]);
    assert!(site.stacks[0].send(StackCommand::Frame { scope, frame }));
    site.settle();
    site.uplink_drops(&[(DropReason::UplinkDown, 1)]);
}

#[test]
fn what_was_admitted_leaves_by_its_uplink_though_the_peers_path_changes() {
    const BURSTS: usize = 500;
    const BURST: usize = 20;
    let mut site = Site::new(Options::default());
    let other = Other::new(&mut site);
    let (far, _) = site.second();
    let peer = Arc::clone(&site.peers[1]);
    let here = peer.path().as_deref().cloned().unwrap();
    let (own, hop) = (other.address, Arc::clone(&other.uplink.hop));
    let there = Path::new(here.endpoint, Some(own.ip()), own.port(), hop);
    far.socket.set_nonblocking(true).unwrap();
    let ends = AtomicBool::new(false);
    let came = thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                peer.publish_path(Some(there.clone()));
                peer.publish_path(Some(here.clone()));
            }
        });
        let mut came = 0;
        for _ in 0..BURSTS {
            send(&mut site, (0..BURST).map(|_| 1));
            came += std::iter::from_fn(|| far.socket.recv(&mut [0; 2_048]).ok()).count();
        }
        ends.store(true, Ordering::Relaxed);
        came
    });
    assert_drops(peer.drops.iter(), &[]);
    assert_eq!(came, BURSTS * BURST);
    for uplink in [&site.uplink, &other.uplink] {
        assert!(count(&uplink.counters.tx_packets) > 0);
    }
}
