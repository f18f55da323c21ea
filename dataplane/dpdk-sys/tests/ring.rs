//! `net_ring` loops what it is sent: frames come back whole, in order, with their flags fresh.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::sync::Arc;

use culvert_dpdk_sys::{
    BURST, Device, DeviceConfig, DeviceError, Eal, EalConfig, EalError, HEADROOM, Hugepages,
    LogLevel, MbufBurst, Memory, Mempool, Offloads, OuterIp, Registration, RxChecksum, version,
};

#[test]
fn frames_come_back() {
    let affinity_before = cpus();
    let mask_before = blocked_signals();
    let (eal, lines) = common::eal(Hugepages::Off);
    assert_eq!(eal.memory(), Memory::Plain);
    assert!(version().starts_with("DPDK "), "{}", version());

    // EAL left this thread as it was, and said something into the sink.
    assert_eq!(cpus(), affinity_before);
    assert_eq!(blocked_signals(), mask_before);
    assert!(!lines.lock().unwrap().is_empty());
    assert!(
        lines
            .lock()
            .unwrap()
            .iter()
            .all(|(_, line)| !line.contains('\n'))
    );

    // It starts once.
    assert!(matches!(
        Eal::init(EalConfig::default()),
        Err(EalError::StartedBefore)
    ));

    let pool = Arc::new(Mempool::new(eal, "both", 1023, 128, 2048).unwrap());
    assert_eq!((pool.available(), pool.in_use()), (1023, 0));
    assert!(
        Mempool::new(eal, "both", 1023, 128, 2048).is_err(),
        "a taken name is refused"
    );
    assert!(Mempool::new(eal, "", 1023, 128, 2048).is_err());
    let too_big = Mempool::new(eal, "huge", 1 << 20, 128, 2048).unwrap_err();
    assert!(too_big.to_string().contains("memory"), "{too_big}");

    // More queues than the device has are cut to what it has.
    let mut device = Device::plug(eal, "net_ring0", &[], 4).unwrap();
    assert!(matches!(
        Device::plug(eal, "net_ring0", &[], 1),
        Err(DeviceError::InUse(_))
    ));
    let pools = vec![Arc::clone(&pool); 200];
    let config = DeviceConfig {
        rx_pools: &pools,
        tx_queues: 200,
        rx_descriptors: None,
        tx_descriptors: None,
        mtu: 1500,
        offloads: Offloads::ALL,
    };
    let mut started = device.start(&config).unwrap();
    assert_eq!(
        started.rx.len(),
        usize::from(device.capabilities().max_rx_queues)
    );
    assert_eq!(
        started.tx.len(),
        usize::from(device.capabilities().max_tx_queues)
    );
    assert!(!started.offloads.tx_udp, "net_ring has no such offload");
    assert!(matches!(
        device.start(&config),
        Err(DeviceError::StartedBefore(_))
    ));
    assert!(device.link().unwrap().up);

    // Worker threads register, work, and leave.
    assert!(eal.lcore().is_some(), "EAL's own thread has an id");
    std::thread::scope(|scope| {
        let rx = &mut started.rx[0];
        let tx = &mut started.tx[0];
        let pool = &pool;
        scope.spawn(move || {
            assert_eq!(eal.lcore(), None);
            let registration = Registration::new(eal).unwrap();
            assert!(eal.lcore().is_some());
            assert!(Registration::new(eal).is_err());
            loop_frames(pool, rx, tx);
            drop(registration);
            assert_eq!(eal.lcore(), None);
        });
    });
    assert_eq!(pool.in_use(), 0);
    let stats = device.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (200 * 64, 200 * 64));

    // The device closes when its queues are gone, and can come back.
    assert!(matches!(device.close(), Err(DeviceError::QueuesInUse(_))));
    drop(started);
    device.close().unwrap();
    device.close().unwrap();
    let again = Device::plug(eal, "net_ring0", &[], 1).unwrap();
    drop(again);
    drop(Device::plug(eal, "net_ring0", &[], 1).unwrap());

    drop(pools);
    let pool = Arc::into_inner(pool).expect("the closed device let go of its pool");
    // SAFETY: no device and no thread uses it.
    unsafe { pool.free() }.unwrap();
    Mempool::new(eal, "both", 1023, 128, 2048).unwrap();
    assert!(
        lines
            .lock()
            .unwrap()
            .iter()
            .all(|(level, _)| *level > LogLevel::Critical)
    );
}

fn loop_frames(
    pool: &Mempool,
    rx: &mut culvert_dpdk_sys::RxQueue,
    tx: &mut culvert_dpdk_sys::TxQueue,
) {
    let mut received = MbufBurst::new();
    for round in 0..200_u32 {
        let mut burst = MbufBurst::new();
        assert!(pool.alloc(&mut burst, BURST));
        assert!(!pool.alloc(&mut burst, 1), "a full burst takes no more");
        for (index, mbuf) in (0_u32..).zip(burst.iter_mut()) {
            assert_eq!(
                (mbuf.headroom(), mbuf.len(), mbuf.segments()),
                (HEADROOM, 0, 1)
            );
            assert_eq!(mbuf.room(), 2048);
            assert_eq!(mbuf.rx_ip_checksum(), RxChecksum::Unknown);
            let len = 64 + usize::try_from((round * 7 + index) % 1400).unwrap();
            mbuf.room_mut()[..len].fill(u8::try_from(index).unwrap());
            let frame = mbuf.set_packet(len, 4).unwrap();
            assert_eq!(frame.len(), len + 4);
            frame[..4].copy_from_slice(&(round * 64 + index).to_be_bytes());
            mbuf.request_checksums(14, 20, OuterIp::V4 { checksum: true }, true);
            mbuf.clear_offloads();
        }
        // One that the device may not be given is dropped, the others keep their order.
        assert_eq!(tx.frame_limit(), 1514);
        assert_eq!(tx.burst(&mut burst), 64);
        assert!(burst.is_empty());
        assert_eq!(rx.burst(&mut received), 64);
        for (index, mbuf) in (0_u32..).zip(received.iter_mut()) {
            assert_eq!(mbuf.bytes()[..4], (round * 64 + index).to_be_bytes());
            assert_eq!(mbuf.frame_len(), 68 + (round * 7 + index) % 1400);
            assert!(mbuf.trim_front(4));
            assert!(mbuf.bytes().iter().all(|&byte| u32::from(byte) == index));
            assert!(!mbuf.trim_front(2000));
            let before = (mbuf.headroom(), mbuf.len());
            assert!(mbuf.set_packet(64, 1000).is_none(), "no such headroom");
            assert!(mbuf.set_packet(2049, 0).is_none(), "no such room");
            assert_eq!((mbuf.headroom(), mbuf.len()), before);
        }
        received.clear();
    }

    let mut burst = MbufBurst::new();
    assert!(pool.alloc(&mut burst, 3));
    for (mbuf, len) in burst.iter_mut().zip([60, 1515, 61]) {
        mbuf.set_len(len);
    }
    burst.swap(0, 0);
    let oversized = tx.oversized();
    let last = burst.pop().unwrap();
    burst.push(last).unwrap();
    burst.retain(|mbuf| mbuf.len() > 60);
    assert_eq!(burst.len(), 2);
    // Only the oversized one is left: nothing is sent.
    burst.truncate(1);
    assert_eq!(burst[0].len(), 1515);
    assert_eq!(tx.burst(&mut burst), 0);
    assert_eq!((burst.len(), tx.oversized()), (0, oversized + 1));
}

fn cpus() -> Vec<bool> {
    // SAFETY: a bit mask of the size given; indices below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set),
            0
        );
        (0..1024).map(|cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

fn blocked_signals() -> Vec<bool> {
    // SAFETY: a set that the call fills in.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        assert_eq!(
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set),
            0
        );
        (1..31)
            .map(|signal| libc::sigismember(&raw const set, signal) == 1)
            .collect()
    }
}
