//! Real sockets in a network namespace of the test's own, which takes root.

use std::{net::UdpSocket, process::Command, thread, time::Duration};

use super::*;
use crate::shared::path::Link;

/// Runs `inside` on a thread in a new network namespace, which goes with it.
fn apart(inside: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: no pointers are involved; the thread shares nothing that depends on its namespace.
        let left = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(left, 0, "it takes root to make a network namespace");
        inside();
    });
    thread.join().unwrap();
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn queue(device: Option<&str>) -> UplinkQueue {
    let options = Options {
        device,
        fwmark: None,
    };
    let (uplink, tunnel) = (UplinkIndex::from_slot(0), TunnelIndex::from_slot(0));
    let port = free_port(&[], options).unwrap();
    open(uplink, tunnel, &[], port, 1, options)
        .unwrap()
        .remove(0)
}

fn tx(queue: &mut UplinkQueue) -> &mut Tx {
    match &mut queue.tx {
        super::super::Tx::Udp(tx) => tx,
        super::super::Tx::Memory(_) => unreachable!("the queue is a UDP one"),
        #[cfg(feature = "dpdk")]
        super::super::Tx::Dpdk(_) => unreachable!("the queue is a UDP one"),
    }
}

fn uplink() -> Uplink {
    Uplink {
        index: UplinkIndex::from_slot(0),
        name: "u".into(),
        addresses: Vec::new(),
        tunnels: Vec::new(),
        counters: Arc::default(),
    }
}

/// Sends eight datagrams of 1000 bytes; answers as how many messages.
fn send(tx: &mut Tx, path: &Arc<Path>, uplink: &Uplink) -> usize {
    tx.reserve(8, 1_000);
    for _ in 0..8 {
        tx.commit(1_000, path, Outer::default());
    }
    let messages = tx.groups.len();
    tx.flush(uplink);
    messages
}

fn receiver(address: &str) -> (UdpSocket, Arc<Path>) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let wait = Some(Duration::from_secs(60));
    socket.set_read_timeout(wait).unwrap();
    let path = Path::new(socket.local_addr().unwrap(), None, Link::Kernel);
    (socket, Arc::new(path))
}

#[test]
fn a_path_that_refuses_joined_datagrams_is_the_only_one_and_is_tried_again() {
    apart(|| {
        ip("link set lo up");
        ip("route replace local 127.5.0.1/32 dev lo mtu 600 table local");
        let mut queue = queue(None);
        let (tx, uplink) = (tx(&mut queue), uplink());
        let (wide, wide_path) = receiver("127.6.0.1");
        let (narrow, narrow_path) = receiver("127.5.0.1");
        let arrive = |socket: &UdpSocket, count| {
            for _ in 0..count {
                assert_eq!(socket.recv(&mut [0; 2_048]).unwrap(), 1_000);
            }
        };

        assert_eq!(send(tx, &narrow_path, &uplink), 1);
        arrive(&narrow, 8);
        assert_eq!(send(tx, &narrow_path, &uplink), 8);
        arrive(&narrow, 8);
        assert_eq!(send(tx, &wide_path, &uplink), 1);
        arrive(&wide, 8);

        // The route is as wide as any again.
        ip("route replace local 127.5.0.1/32 dev lo table local");
        let rounds = limits::SENT_SINGLY as usize / 7;
        let messages: Vec<_> = (0..rounds + 2)
            .map(|_| {
                let messages = send(tx, &narrow_path, &uplink);
                arrive(&narrow, 8);
                messages
            })
            .collect();
        assert_eq!((messages[0], messages[rounds + 1]), (8, 1));
        assert_eq!(uplink.counters.drops.iter().count(), 0);
    });
}

#[test]
fn sockets_are_bound_again_to_an_interface_that_was_made_anew() {
    apart(|| {
        let make = || {
            ip("link add d0 type veth peer name d1");
            ip("link set d0 up");
            ip("link set d1 up");
            ip("address add 10.7.0.1/24 dev d0");
        };
        // What arrived behind the cable.
        let arrived = || {
            let text = ip("-s -j link show dev d1");
            let (_, received) = text.split_once("\"rx\":{\"bytes\":").unwrap();
            let (bytes, _) = received.split_once(',').unwrap();
            bytes.parse::<u32>().unwrap() >= 8_000
        };
        make();
        let mut queue = queue(Some("d0"));
        let marker = queue.marker().unwrap();
        let (tx, uplink) = (tx(&mut queue), uplink());
        let path = Path::new("10.7.0.9:9".parse().unwrap(), None, Link::Kernel);
        // Datagrams without a next hop would wait for it.
        let hop = || ip("neighbor replace 10.7.0.9 lladdr 02:00:00:00:00:09 dev d0");
        hop();
        let path = Arc::new(path);
        path.refuse_joined();
        send(tx, &path, &uplink);
        assert!(arrived());

        ip("link del d0");
        assert!(marker.bind_to_device("d0").is_err());
        make();
        hop();
        send(tx, &path, &uplink);
        assert!(!arrived(), "sockets follow the interface by themselves");
        marker.bind_to_device("d0").unwrap();
        send(tx, &path, &uplink);
        assert!(arrived());
    });
}

#[test]
fn a_full_buffer_ends_what_is_sent_singly() {
    apart(|| {
        ip("link add d0 type veth peer name d1");
        ip("link set d0 up mtu 600");
        ip("link set d1 up");
        ip("address add 10.7.0.1/24 dev d0");
        let mut queue = queue(None);
        let (tx, uplink) = (tx(&mut queue), uplink());
        let socket = tx.sockets[0].as_ref().unwrap();
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 1).unwrap();
        // Nobody answers there: datagrams wait for the next hop, in the socket's buffer.
        let path = Path::new("10.7.0.9:9".parse().unwrap(), None, Link::Kernel);
        assert_eq!(send(tx, &Arc::new(path), &uplink), 1);
        let drops = &uplink.counters.drops;
        let full = drops.count(DropReason::UplinkFull);
        let sent = uplink.counters.tx_packets.load(Ordering::Relaxed);
        assert!(full > 0 && sent > 0, "{full} {sent}");
        assert_eq!(full + sent, 8);
        assert_eq!(drops.iter().count(), 1);
    });
}

#[test]
fn of_several_that_open_a_port_at_once_one_has_it() {
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let (uplink, tunnel) = (UplinkIndex::from_slot(0), TunnelIndex::from_slot(0));
    let open = |port| open(uplink, tunnel, &addresses, port, 2, Options::default()).ok();
    for _ in 0..50 {
        let port = free_port(&addresses, Options::default()).unwrap();
        let opened = thread::scope(|scope| {
            let each = [(); 4].map(|()| scope.spawn(|| open(port)));
            each.map(|one| one.join().unwrap())
        });
        let opened: Vec<_> = opened.into_iter().flatten().collect();
        assert!(opened.len() <= 1, "{} have port {port}", opened.len());
        // Each may have found another on its way. Once that is gone the port is free.
        if opened.is_empty() {
            assert!(open(port).is_some());
        }
    }
}
