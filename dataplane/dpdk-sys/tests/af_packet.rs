//! `net_af_packet` on one end of a veth pair, an ordinary packet socket on the other.
//!
//! ```text
//!  Device (net_af_packet0) ── dp0 ═══ veth ═══ dp1 ── packet socket
//! ```
//!
//! The namespace is this thread's own and ends with it.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::{
    io::{Read, Write},
    os::fd::{AsRawFd, FromRawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_dpdk_sys::{
    Device, DeviceConfig, DeviceError, Hugepages, MbufBurst, Mempool, Multicast, Offloads,
};

const ETHERTYPE: [u8; 2] = [0x88, 0xb5]; // IEEE 802 local experimental 1

#[test]
fn frames_cross_a_veth() {
    common::own_network();
    common::run("ip link add dp0 type veth peer name dp1");
    // The kernel's own multicast would wake the device's queue.
    for interface in ["dp0", "dp1"] {
        let switch = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        std::fs::write(switch, "1").unwrap();
    }
    common::run("ip link set dp0 mtu 1500 up");
    common::run("ip link set dp1 mtu 1500 up");
    let (eal, _lines) = common::eal(Hugepages::Off);
    let peer = packet_socket("dp1");
    check(eal, &peer, 1500, "net_af_packet0,iface=dp0");

    // Another MTU: the ring is made to fit it.
    common::run("ip link set dp0 mtu 9000");
    common::run("ip link set dp1 mtu 9000");
    check(
        eal,
        &peer,
        9000,
        "net_af_packet0,iface=dp0,framesz=12288,blocksz=12288",
    );

    // The interface's own MTU and flags are as they were.
    let output = std::process::Command::new("ip")
        .args(["-d", "link", "show", "dp0"])
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.contains("mtu 9000") && output.contains("promiscuity 0 "),
        "{output}"
    );
    assert!(output.contains("allmulti 0 "), "{output}");
}

fn check(eal: culvert_dpdk_sys::Eal, mut peer: &std::fs::File, mtu: u16, devargs: &str) {
    let error = Device::plug(eal, "net_af_packet0,iface=dp0,qpairs=3", &[], 2).unwrap_err();
    assert!(error.to_string().contains("qpairs"), "{error}");

    // 1. Plug; too large an MTU is refused by name.
    let mut device = Device::plug(eal, "net_af_packet0,iface=dp0", &[], 1).unwrap();
    assert_eq!(device.devargs(), devargs);
    assert_eq!(device.frame_limit(mtu), u32::from(mtu) + 14);
    assert_eq!(device.frame_limit(65_000), u32::from(mtu) + 14);
    let room = u16::try_from(device.rx_room(mtu)).unwrap();
    let pool = Arc::new(Mempool::new(eal, &format!("rx{mtu}"), 1023, 64, room).unwrap());
    let config = DeviceConfig {
        rx_pools: &[Arc::clone(&pool)],
        tx_queues: 1,
        rx_descriptors: None,
        tx_descriptors: None,
        mtu,
        offloads: Offloads::ALL,
    };
    let error = device
        .start(&DeviceConfig {
            mtu: mtu + 1,
            ..config
        })
        .unwrap_err();
    assert!(matches!(error, DeviceError::Mtu { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("ip link set dp0 mtu {}", mtu + 1)),
        "{error}"
    );
    let mut started = device.start(&config).unwrap();
    assert_eq!(started.multicast, Multicast::Kernel);
    assert!(link_becomes(&device, true));
    let wake = started.rx[0].descriptor().unwrap().as_raw_fd();
    assert!(!readable(wake, 0), "nothing has come yet");
    common::run("ip link set dp0 down");
    assert!(link_becomes(&device, false));
    common::run("ip link set dp0 up");
    assert!(link_becomes(&device, true));
    assert_eq!(started.rx[0].descriptor().unwrap().as_raw_fd(), wake);
    assert!(!readable(wake, 0), "the error of going down is taken back");

    // 2. Out: the largest frame and a small one arrive as they were sent; one byte more is dropped here.
    let mut burst = MbufBurst::new();
    for (mark, len) in [(1, mtu + 14), (2, 60), (3, mtu + 15), (4, 61)] {
        burst
            .push(common::frame(
                &pool,
                &frame(device.mac(), mark, usize::from(len)),
            ))
            .unwrap();
    }
    assert_eq!(started.tx[0].burst(&mut burst), 3);
    assert_eq!(started.tx[0].oversized(), 1);
    let mut buffer = vec![0; 16_384];
    for (mark, len) in [(1, mtu + 14), (2, 60), (4, 61)] {
        let received = receive(peer, &mut buffer);
        assert_eq!(
            received,
            frame(device.mac(), mark, usize::from(len)),
            "frame {mark}"
        );
    }

    // 3. In: unicast, broadcast, a multicast group that nobody joined.
    let sent: Vec<Vec<u8>> = [device.mac(), [0xff; 6], [0x33, 0x33, 0xff, 1, 2, 3]]
        .into_iter()
        .zip([usize::from(mtu) + 14, 60, 75])
        .map(|(to, len)| frame(to, 7, len))
        .collect();
    for bytes in &sent {
        assert_eq!(peer.write(bytes).unwrap(), bytes.len());
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    assert!(readable(wake, 5_000), "packets wait");
    let mut received = MbufBurst::new();
    while received.len() < sent.len() {
        started.rx[0].burst(&mut received);
        received.retain(|mbuf| mbuf.bytes()[12..14] == ETHERTYPE);
        assert!(
            Instant::now() < deadline,
            "{} of {} arrived",
            received.len(),
            sent.len()
        );
    }
    for (mbuf, bytes) in received.iter().zip(&sent) {
        assert_eq!(mbuf.bytes(), bytes);
    }
    received.clear();
    assert_eq!(started.rx[0].burst(&mut received), 0);
    assert!(!readable(wake, 0), "all were taken");

    // 4. A lowered MTU is noticed before a frame wedges the queue.
    common::run("ip link set dp0 mtu 1400");
    device.link().unwrap();
    burst
        .push(common::frame(&pool, &frame(device.mac(), 5, 1415)))
        .unwrap();
    burst
        .push(common::frame(&pool, &frame(device.mac(), 6, 1414)))
        .unwrap();
    assert_eq!(started.tx[0].burst(&mut burst), 1);
    assert_eq!(receive(peer, &mut buffer), frame(device.mac(), 6, 1414));
    common::run(&format!("ip link set dp0 mtu {mtu}"));

    // 5. Away, so that it can be plugged again.
    let stats = device.stats().unwrap();
    assert_eq!(stats.tx_packets, 4);
    assert!(stats.rx_packets >= 3);
    drop(started);
    device.close().unwrap();
    assert_eq!(pool.in_use(), 0);
}

fn frame(to: [u8; 6], mark: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![mark; len];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    bytes[12..14].copy_from_slice(&ETHERTYPE);
    bytes
}

fn receive<'a>(mut peer: &std::fs::File, buffer: &'a mut [u8]) -> &'a [u8] {
    loop {
        let len = peer.read(buffer).unwrap();
        if buffer[12..14] == ETHERTYPE {
            return &buffer[..len];
        }
    }
}

/// The kernel settles an interface's state a moment after it was set up.
fn link_becomes(device: &Device, up: bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if device.link().unwrap().up == up {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

fn readable(fd: i32, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry that lives for the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    assert!(ready >= 0);
    poll.revents != 0
}

/// A packet socket on an interface, with a receive time-out.
fn packet_socket(interface: &str) -> std::fs::File {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: structs of the sizes given; the new descriptor is owned once.
    unsafe {
        let protocol = i32::from(u16::from_be_bytes(ETHERTYPE).to_be());
        let socket = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol,
        );
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = u16::from_be_bytes(ETHERTYPE).to_be();
        address.sll_ifindex = i32::try_from(libc::if_nametoindex(name.as_ptr())).unwrap();
        let size = u32::try_from(size_of_val(&address)).unwrap();
        assert_eq!(libc::bind(socket, (&raw const address).cast(), size), 0);
        let timeout = libc::timeval {
            tv_sec: 5,
            tv_usec: 0,
        };
        let size = u32::try_from(size_of_val(&timeout)).unwrap();
        let option = libc::SO_RCVTIMEO;
        assert_eq!(
            libc::setsockopt(
                socket,
                libc::SOL_SOCKET,
                option,
                (&raw const timeout).cast(),
                size
            ),
            0
        );
        std::fs::File::from_raw_fd(socket)
    }
}
