//! Real sockets in a network namespace of the test's own, which takes root.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    shared::{
        drops::DropReason,
        hop::Hop,
        ids::{TunnelIndex, UplinkIndex},
        limits,
        path::Path,
    },
    uplink::{Outer, Queue, Uplink},
};

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

fn queue(device: Option<&str>) -> Queue {
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

fn tx(queue: &mut Queue) -> &mut Tx {
    match &mut queue.tx {
        super::super::Tx::Udp(tx) => tx,
        super::super::Tx::Memory(_) => unreachable!("the queue is a UDP one"),
        #[cfg(feature = "dpdk")]
        super::super::Tx::Dpdk(_) => unreachable!("the queue is a UDP one"),
    }
}

fn rx(queue: &mut Queue) -> &mut Rx {
    match &mut queue.rx {
        super::super::Rx::Udp(rx) => rx,
        super::super::Rx::Memory(_) => unreachable!("the queue is a UDP one"),
        #[cfg(feature = "dpdk")]
        super::super::Rx::Dpdk(_) => unreachable!("the queue is a UDP one"),
    }
}

fn hop() -> Arc<Hop> {
    Arc::new(Hop::kernel(UplinkIndex::from_slot(0)))
}

fn uplink() -> Uplink {
    Uplink {
        index: UplinkIndex::from_slot(0),
        name: "u".into(),
        addresses: Vec::new(),
        tunnels: Vec::new(),
        hop: hop(),
        kernel: None,
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
    let path = Path::new(socket.local_addr().unwrap(), None, 0, hop());
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

/// Makes an interface `d0`; answers a socket at the other end of its cable.
fn cable() -> UdpSocket {
    let (tell, hear) = mpsc::channel();
    let (done, moved) = mpsc::channel::<()>();
    let far = thread::spawn(move || {
        // SAFETY: no pointers are involved; the thread shares nothing that depends on its namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        // SAFETY: no pointers are involved.
        tell.send(unsafe { libc::gettid() }).unwrap();
        moved.recv().unwrap();
        ip("address add 10.7.0.2/24 dev d1");
        ip("address add fd07::2/64 dev d1 nodad");
        ip("link set d1 up");
        UdpSocket::bind("[::]:0").unwrap()
    });
    let namespace = hear.recv().unwrap();
    ip("link add d0 type veth peer name d1");
    ip(&format!("link set d1 netns {namespace}"));
    ip("address add 10.7.0.1/24 dev d0");
    ip("address add fd07::1/64 dev d0 nodad");
    ip("link set d0 up");
    done.send(()).unwrap();
    far.join().unwrap()
}

/// How many of the small data messages, for as many sessions, and of the calls behind them came to each queue.
fn sorted(far: &UdpSocket, at: SocketAddr, queues: &mut [Queue]) -> Vec<[usize; 2]> {
    const SESSIONS: u32 = 8_192;
    let uplink = uplink();
    let mut counts = vec![[0; 2]; queues.len()];
    let mut take = |sent: usize| {
        let patience = Instant::now() + Duration::from_secs(5);
        while counts.iter().flatten().sum::<usize>() < sent && Instant::now() < patience {
            for (queue, count) in queues.iter_mut().zip(&mut counts) {
                for datagram in rx(queue).receive(&uplink, TunnelIndex::from_slot(0)) {
                    count[usize::from(datagram.bytes()[0] != 4)] += 1;
                }
            }
        }
    };
    let mut sent = 0;
    for session in 0..SESSIONS {
        let mut message = [0; 32];
        message[0] = 4;
        message[4..8].copy_from_slice(&session.to_be_bytes());
        far.send_to(&message, at).unwrap();
        sent += 1;
        if sent % 64 == 0 {
            take(sent);
        }
    }
    far.send_to(&[1; 148], at).unwrap();
    take(sent + 1);
    counts
}

#[test]
fn queues_on_an_interface_that_was_made_anew_are_opened_beside_the_old_and_sort() {
    apart(|| {
        let options = Options {
            device: Some("d0"),
            fwmark: None,
        };
        let (uplink, tunnel) = (UplinkIndex::from_slot(0), TunnelIndex::from_slot(0));
        let open = || open(uplink, tunnel, &[], 7_007, 2, options).unwrap();
        let half = [[4_096, 1], [4_096, 0]];
        let at = ["[::ffff:10.7.0.1]:7007", "[fd07::1]:7007"].map(|at| at.parse().unwrap());

        let far = cable();
        let mut old = open();
        for at in at {
            assert_eq!(sorted(&far, at, &mut old), half);
        }
        ip("link del d0");
        let far = cable();
        let are_bound = |queues: &[Queue]| {
            let bound = |queue: &Queue| queue.marker().unwrap().is_bound_to("d0");
            queues.iter().all(bound)
        };
        assert!(
            !are_bound(&old),
            "sockets follow the interface by themselves"
        );
        let mut new = open();
        assert!(are_bound(&new));
        drop(old);
        for at in at {
            assert_eq!(sorted(&far, at, &mut new), half);
        }
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
        let path = Path::new("10.7.0.9:9".parse().unwrap(), None, 0, hop());
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
