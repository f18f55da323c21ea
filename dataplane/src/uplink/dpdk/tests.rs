//! Real devices: `net_ring`, which loops, and `net_af_packet` with the kernel's UDP
//! on the other end of a veth pair. EAL starts once per process, hence one test.
//!
//! ```text
//!  Rx, Tx ── dp0 ═══ veth ═══ dp1 (192.0.2.11, 2001:db8::11) ── kernel's UDP socket
//! ```

use std::{
    net::{SocketAddr, UdpSocket},
    num::NonZeroU16,
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use culvert_dpdk_sys::{EalConfig, Hugepages};
use culvert_stack::ip::{Packet, Reassembly, packet};
use culvert_wire::parse::parse_frame;
use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::{
    shared::{
        control_link::{self, Attention, Command as Order, ControlEnd},
        drops::DropReason,
        hop::Hop,
        ids::{Scope, TunnelIndex, WorkerIndex},
        leaves::Leaves,
        path::Path,
        punt::{self, PuntClass, Punted, Punts},
        snapshot::{Snapshot, SnapshotCell},
        stack_link::{StackCommand, StackEnd},
        wake::Wake,
    },
    uplink::{Outer, Uplink},
    worker::{Polling, Worker, WorkerStats},
};

/// A time at which nothing is earned.
const NOW: culvert_wireguard::Instant = culvert_wireguard::Instant::from_nanos(0);

const PORT: u16 = 51_820;
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

#[test]
fn datagrams_cross_devices() {
    own_network();
    let config = EalConfig {
        hugepages: Hugepages::Off,
        memory_mb: 384,
        ..EalConfig::default()
    };
    let eal = Eal::init(config).unwrap();
    loop_through_ring(eal, 2);
    loop_through_ring(eal, 20);
    punts_are_heard(eal);
    make_veth();
    talk_to_the_kernel(eal, 1);
    talk_to_the_kernel(eal, 2);
    refusals(eal);
}

fn bell() -> Arc<Wake> {
    Arc::new(Wake::new().unwrap())
}

fn addresses() -> Vec<IpAddr> {
    vec![
        "192.0.2.10".parse().unwrap(),
        "2001:db8::10".parse().unwrap(),
    ]
}

fn uplink() -> Uplink {
    Uplink {
        index: UplinkIndex(4),
        name: "wan0".to_owned(),
        addresses: addresses(),
        tunnels: vec![(PORT, TunnelIndex(7))],
        hop: Arc::new(Hop::nowhere(UplinkIndex(4))),
        kernel: None,
        counters: Arc::default(),
    }
}

fn path(endpoint: SocketAddr, source: MacAddr, destination: MacAddr) -> Arc<Path> {
    let own = addresses()[usize::from(endpoint.is_ipv6())];
    Arc::new(Path::new(
        endpoint,
        Some(own),
        PORT,
        Arc::new(Hop::ethernet(UplinkIndex(4), source, Some(destination))),
    ))
}

fn halves(queue: &mut Queue) -> (&mut Rx, &mut Tx) {
    match (&mut queue.rx, &mut queue.tx) {
        (super::super::Rx::Dpdk(rx), super::super::Tx::Dpdk(tx)) => (rx, tx),
        _ => panic!("a DPDK queue has DPDK halves"),
    }
}

/// Our own address as endpoint: what a queue sends, it receives.
fn loop_through_ring(eal: Eal, workers: usize) {
    let addresses = addresses();
    let config = Config {
        members: &[],
        uplink: UplinkIndex(4),
        device: "net_ring0",
        addresses: &addresses,
        mtu: 1_500,
        workers,
        queues: workers,
        descriptors: [None, Some(512)],
    };
    let (mut device, mut queues) = open(eal, &config).unwrap();
    assert_eq!(queues.len(), workers);
    assert_eq!(device.queues(), [workers.min(16); 2]);
    let uplink = uplink();
    let (mut punts, mut punted) = punt::rings(bell(), NOW);
    let mac = device.mac();

    for (number, queue) in queues.iter_mut().enumerate() {
        let (rx, tx) = halves(queue);
        assert_eq!(tx.datagram_max(), 1_452);
        if number >= 16 {
            // A worker beyond the device's queues: it sends by another's.
            assert!(rx.queue.is_none() && matches!(tx.queue, TxSlot::Shared(_)));
            assert!(rx.receive(&uplink, &mut punts, NOW).is_empty());
            continue;
        }
        // 1. More rooms than are committed; the others serve the next burst.
        let paths = addresses
            .iter()
            .map(|&ip| path(SocketAddr::new(ip, PORT), mac, mac));
        let paths: Vec<_> = paths.collect();
        for round in 0..100_usize {
            assert_eq!(tx.reserve(64), 64);
            let count = 1 + round % 64;
            for index in 0..count {
                let len = 32 + (index * 37 + round * 91) % 1_420;
                let room = tx.rooms()[index].bytes_mut();
                assert!(room.len() >= len + culvert_aead::TAILROOM);
                room[..len].fill(u8::try_from(index).unwrap());
                tx.commit(len, &paths[index % 2], 0x8a.into(), None);
            }
            tx.flush(&uplink);
            let burst = rx.receive(&uplink, &mut punts, NOW);
            assert_eq!(burst.len(), count);
            for (index, datagram) in burst.iter_mut().enumerate() {
                let len = 32 + (index * 37 + round * 91) % 1_420;
                assert_eq!(datagram.bytes(), vec![u8::try_from(index).unwrap(); len]);
                let own = addresses[index % 2];
                assert_eq!(datagram.source, SocketAddr::new(own, PORT));
                assert_eq!((datagram.local, datagram.ecn), (Some(own), 2));
                assert_eq!(datagram.tunnel, TunnelIndex(7));
                datagram.bytes_mut().fill(0xff);
            }
        }

        // 2. What can't go out is named, the rest goes.
        let drops = &uplink.counters.drops;
        let refused = [DropReason::NextHopUnresolved, DropReason::UplinkRefused];
        let before = refused.map(|reason| drops.count(reason));
        let mut unresolved = Path::clone(&paths[0]);
        unresolved.hop = Arc::new(Hop::nowhere(UplinkIndex(4)));
        assert_eq!(tx.reserve(3), 3);
        tx.commit(100, &Arc::new(unresolved), 0.into(), None);
        let whole = Outer {
            whole: true,
            ..Outer::default()
        };
        tx.commit(1_473, &paths[0], whole, None);
        tx.commit(1_472, &paths[0], whole, None);
        tx.flush(&uplink);
        let burst = rx.receive(&uplink, &mut punts, NOW);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst[0].bytes().len(), 1_472);
        assert_eq!(
            refused.map(|reason| drops.count(reason)),
            before.map(|count| count + 1)
        );

        // 3. The host stack's frames leave; what is for it is punted.
        let arp = arp_request(mac);
        assert!(tx.send_frame(&arp));
        assert!(!tx.send_frame(&vec![0; 1_515]));
        assert!(rx.receive(&uplink, &mut punts, NOW).is_empty());
        punts.ring();
        let punt = punted.pop(PuntClass::NeighborQuestion).unwrap();
        assert_eq!(
            (punt.scope, punt.frame.as_slice()),
            (
                Scope::Uplink(UplinkIndex(4)),
                &[&arp[..], &[0; 18]].concat()[..]
            )
        );
        assert!(punted.is_empty());

        // 4. What is longer than its path takes leaves in fragments, of which a host makes what it was.
        let seconds = u64::try_from(number).unwrap() + 1;
        let now = culvert_wireguard::Instant::from_nanos(seconds * 1_000_000_000);
        let halves = (rx, tx);
        cross_in_fragments(halves, &uplink, (&mut punts, &mut punted), &paths, now);
    }
    let counters = &uplink.counters;
    let sent = counters.tx_packets.load(Ordering::Relaxed);
    assert!(sent > 0);
    assert_eq!(sent, counters.rx_packets.load(Ordering::Relaxed));
    assert_eq!(
        counters.tx_bytes.load(Ordering::Relaxed),
        counters.rx_bytes.load(Ordering::Relaxed)
    );

    // 5. Everything comes home, so that the device can be opened again.
    assert!(matches!(device.close(), Err(DeviceError::QueuesInUse(_))));
    drop(queues);
    for pool in &device.pools {
        assert_eq!(pool.in_use(), 0, "{}", pool.name());
    }
    device.close().unwrap();
    assert!(device.pools.is_empty());
}

fn cross_in_fragments(
    (rx, tx): (&mut Rx, &mut Tx),
    uplink: &Uplink,
    (punts, punted): (&mut Punts, &mut Punted),
    paths: &[Arc<Path>],
    now: culvert_wireguard::Instant,
) {
    let before = uplink.counters.tx_fragmented.load(Ordering::Relaxed);
    let mut datagrams = 0;
    for path in paths {
        for (mtu, lens) in [(1_280_u16, [1_260, 1_300, 1_472]), (100, [100, 777, 1_400])] {
            let mtu = NonZeroU16::new(mtu);
            let narrow = [
                Arc::new(Path::clone(path).with_mtu(mtu)),
                Arc::new(Path::clone(path).with_cut(mtu)),
            ];
            assert_eq!(tx.reserve(4), 4);
            // Those that fit leave as they are, among the others.
            for (index, len) in [lens[0], 32, lens[1], lens[2]].into_iter().enumerate() {
                let room = tx.rooms()[index].bytes_mut();
                for (byte, n) in room[..len].iter_mut().zip((0..253).cycle()) {
                    *byte = n;
                }
                tx.commit(len, &narrow[index % 2], 0x8a.into(), None);
            }
            tx.flush(uplink);
            let came = rx.receive(uplink, punts, now);
            assert_eq!(came.len(), 1);
            assert_eq!(came[0].bytes().len(), 32);
            punts.ring();
            let mut reassembly = Reassembly::default();
            let mut whole = Vec::new();
            while let Some(punt) = punted.pop(PuntClass::Fragment) {
                let frame = punt.frame.as_slice();
                assert!(frame.len() <= 14 + usize::from(mtu.unwrap().get()).max(60));
                let headers = parse_frame(frame, u32::try_from(frame.len()).unwrap()).unwrap();
                let Ok(Some(Packet::Part(part))) = packet(&headers, frame) else {
                    panic!("it is a fragment");
                };
                let lost = |reason| panic!("{reason:?}");
                whole.extend(reassembly.add(&part, now, lost).unwrap());
            }
            assert!(punted.is_empty());
            whole.sort_by_key(Vec::len);
            assert_eq!(whole.len(), 3);
            for (mut frame, len) in whole.into_iter().zip(lens) {
                let taken = receive_whole(&mut frame, uplink, |datagrams| {
                    let expected: Vec<u8> = (0..=252).cycle().take(len).collect();
                    assert_eq!(datagrams[0].bytes(), expected);
                    assert_eq!(datagrams[0].ecn, 2);
                });
                assert_eq!(taken, Ok(()), "its sum is right");
            }
            datagrams += 3;
        }
    }
    let after = uplink.counters.tx_fragmented.load(Ordering::Relaxed);
    assert_eq!(after - before, datagrams);
    assert_eq!(uplink.counters.drops.count(DropReason::UplinkFull), 0);
}

/// Who has 192.0.2.10?
fn arp_request(from: MacAddr) -> Vec<u8> {
    let mut arp = vec![0; 42];
    arp[..6].fill(0xff);
    arp[6..12].copy_from_slice(&from.0);
    arp[12..14].copy_from_slice(&[8, 6]);
    arp[21] = 1;
    arp[38..42].copy_from_slice(&[192, 0, 2, 10]);
    arp
}

fn echo_request(mac: MacAddr) -> Vec<u8> {
    let mut frame = [&mac.0[..], &PEER_MAC.0, &[8, 0]].concat();
    frame.extend(culvert_wire::ipv4::header(
        &culvert_wire::ipv4::Ipv4Fields {
            source: [192, 0, 2, 11].into(),
            destination: [192, 0, 2, 10].into(),
            tos: 0,
            id: 1,
            dont_fragment: false,
            ttl: 64,
            protocol: 1,
            total_len: 60,
        },
    ));
    frame.extend([8, 0]);
    frame.extend([0; 38]);
    frame
}

/// A worker, the device of which it has the queue, and the other ends of its links.
struct Stepped {
    worker: Worker,
    _control: ControlEnd,
    stack: StackEnd,
    bell: Arc<Wake>,
    uplink: Arc<Uplink>,
}

impl Stepped {
    fn new(queue: Queue) -> Self {
        let uplink = Arc::new(uplink());
        let mut uplinks = Leaves::default();
        uplinks.set(4, Some(Arc::clone(&uplink)));
        let snapshot = Snapshot {
            generation: 1,
            uplinks,
            ..Snapshot::default()
        };
        let attention = Arc::new(Attention::new().unwrap());
        let bell = bell();
        let link = control_link::link(attention, Arc::clone(&bell), 1);
        let (end, mut control, stack) = link.unwrap();
        assert!(control.send(Order::AttachUplink(Box::new(queue))));
        let worker = Worker::new(
            WorkerIndex(0),
            Arc::new(SnapshotCell::from_pointee(snapshot)),
            end,
            Polling::Busy,
            Arc::new(WorkerStats::default()),
        );
        Self {
            worker,
            _control: control,
            stack,
            bell,
            uplink,
        }
    }

    fn send(&mut self, frame: &[u8], count: usize) {
        for _ in 0..count {
            let scope = Scope::Uplink(UplinkIndex(4));
            let frame = frame.to_vec().into_boxed_slice();
            assert!(self.stack.send(StackCommand::Frame { scope, frame }));
        }
        while self.worker.step() {}
    }

    /// Whether the stacks' bell was rung; they lie down again.
    fn rung(&self) -> bool {
        let wake = &*self.bell;
        let rung = poll(
            &mut [PollFd::new(wake, PollFlags::IN)],
            Some(&rustix::time::Timespec::default()),
        );
        wake.awake();
        wake.announce();
        rung.unwrap() == 1
    }

    fn punted(&mut self, class: PuntClass) -> usize {
        std::iter::from_fn(|| self.stack.punts.pop(class)).count()
    }
}

/// A burst without a datagram in it wakes the stacks too; a flood of pings takes nothing from neighbors.
fn punts_are_heard(eal: Eal) {
    let addresses = addresses();
    let config = Config {
        members: &[],
        uplink: UplinkIndex(4),
        device: "net_ring0",
        addresses: &addresses,
        mtu: 1_500,
        workers: 1,
        queues: 1,
        descriptors: [None, Some(512)],
    };
    let (mut device, mut queues) = open(eal, &config).unwrap();
    let mac = device.mac();
    let mut site = Stepped::new(queues.remove(0));
    site.send(&[0; 60], 1);
    site.rung();
    for frame in [arp_request(mac), echo_request(mac)] {
        site.send(&[0; 60], 1);
        assert!(!site.rung(), "what is for nobody wakes nobody");
        site.send(&frame, 1);
        assert!(site.rung(), "one frame for the stack, and nothing else");
    }

    let flood = 2_000;
    for _ in 0..flood / 100 {
        site.send(&echo_request(mac), 100);
    }
    site.send(&arp_request(mac), 1);
    assert_eq!(site.punted(PuntClass::NeighborQuestion), 2);
    let pings = site.punted(PuntClass::Icmp);
    let drops = &site.uplink.counters.drops;
    let lost = drops.count(DropReason::IcmpQueueFull);
    assert_eq!(pings, PuntClass::Icmp.budget().queued);
    assert_eq!(pings as u64 + lost, 1 + flood);
    assert_eq!(drops.total(), lost + drops.count(DropReason::NotForUs));
    drop(site);
    device.close().unwrap();
}

fn make_veth() {
    run("ip link add dp0 type veth peer name dp1");
    // The kernel leaves checksums to the device, as it does towards any local one.
    run("ip link set dp0 address 02:00:00:00:00:01 up");
    run("ip link set dp1 address 02:00:00:00:00:09 up");
    run("ip address add 192.0.2.11/24 dev dp1");
    run("ip address add 2001:db8::11/64 dev dp1 nodad");
    for address in ["192.0.2.10", "2001:db8::10"] {
        run(&format!(
            "ip neighbor add {address} lladdr 02:00:00:00:00:01 dev dp1"
        ));
    }
}

fn talk_to_the_kernel(eal: Eal, workers: usize) {
    let addresses = addresses();
    let config = Config {
        members: &[],
        uplink: UplinkIndex(4),
        device: "net_af_packet0,iface=dp0",
        addresses: &addresses,
        mtu: 1_500,
        workers,
        queues: workers,
        descriptors: [None, Some(512)],
    };
    let (mut device, mut queues) = open(eal, &config).unwrap();
    assert_eq!(device.queues(), [workers; 2]);
    let mac = device.mac();
    assert_eq!(mac, MacAddr([2, 0, 0, 0, 0, 1]));
    let uplink = uplink();
    let (mut punts, _punted) = punt::rings(bell(), NOW);

    for peer in ["192.0.2.11", "2001:db8::11"] {
        let peer: IpAddr = peer.parse().unwrap();
        let socket = UdpSocket::bind(SocketAddr::new(peer, 4_000)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let path = path(socket.local_addr().unwrap(), mac, PEER_MAC);
        let us = SocketAddr::new(path.source.unwrap(), PORT);

        // 1. Out, by each worker: the kernel finds headers and checksums right.
        for (number, len) in [0, 1, 32, 148, 1_452].into_iter().enumerate() {
            let (_, tx) = halves(&mut queues[number % workers]);
            assert_eq!(tx.reserve(1), 1);
            tx.rooms()[0].bytes_mut()[..len].fill(7);
            tx.commit(len, &path, 0.into(), None);
            tx.flush(&uplink);
            let mut buffer = [0; 2_000];
            let (received, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..received], vec![7; len]);
            assert_eq!(from, us);
        }

        // 2. In, at one of the workers: the kernel's datagrams with partial checksums.
        for len in [1_usize, 32, 1_452] {
            socket.send_to(&vec![9; len], us).unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut received = Vec::new();
            while received.is_empty() {
                assert!(Instant::now() < deadline, "{:?}", uplink.counters.drops);
                wait(&queues);
                for queue in &mut queues {
                    let (rx, _) = halves(queue);
                    for datagram in rx.receive(&uplink, &mut punts, NOW).iter() {
                        assert_eq!(datagram.source, socket.local_addr().unwrap());
                        received.push(datagram.bytes().to_vec());
                    }
                }
            }
            assert_eq!(received, [vec![9; len]]);
        }
    }
    assert_eq!(uplink.counters.drops.count(DropReason::OuterChecksum), 0);
    assert!(device.link().unwrap().up);
    drop(queues);
    device.close().unwrap();
}

/// Sleeps until something is there.
fn wait(queues: &[Queue]) {
    let mut descriptors = Vec::new();
    for queue in queues {
        queue.rx.descriptors(&mut descriptors);
    }
    let mut polls: Vec<_> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd {
            fd: descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    assert_eq!(polls.len(), queues.len());
    let count = libc::nfds_t::try_from(polls.len()).unwrap();
    // SAFETY: entries that live for the call.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, 5_000) };
    assert!(ready > 0, "nothing came");
}

fn refusals(eal: Eal) {
    let open = |device, mtu| {
        let config = Config {
            members: &[],
            uplink: UplinkIndex(4),
            device,
            addresses: &addresses(),
            mtu,
            workers: 1,
            queues: 1,
            descriptors: [None; 2],
        };
        open(eal, &config).map(drop).unwrap_err().to_string()
    };
    assert!(open("net_null0", 1_279).contains("1280"));
    assert!(open("net_null0", 9_217).contains("9216"));
    assert!(open("net_af_packet0,iface=dp0", 9_000).contains("ip link set dp0 mtu 9000"));
    assert!(open("net_af_packet0,iface=dp7", 1_500).contains("ip link show"));
    assert!(open("0000:fe:1f.7", 1_500).contains("dpdk-devbind.py"));
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Moves this thread into a network namespace of its own, which ends with it.
fn own_network() {
    // SAFETY: no memory is touched.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace needs root");
    run("ip link set lo up");
}
