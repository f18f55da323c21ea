//! `net_null` takes and gives without end; errors of plugging say what to do.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::sync::Arc;

use culvert_dpdk_sys::{
    Device, DeviceConfig, DeviceError, Hugepages, MbufBurst, Mempool, Offloads,
};

#[test]
fn packets_without_end() {
    let (eal, _lines) = common::eal(Hugepages::Off);
    let pool = Arc::new(Mempool::new(eal, "rx", 2047, 256, 2048).unwrap());
    let small = Arc::new(Mempool::new(eal, "small", 63, 0, 512).unwrap());
    let mut device = Device::plug(eal, "net_null0,size=128", &[], 1).unwrap();
    assert_eq!(device.name(), "net_null0");
    assert_eq!(device.capabilities().driver, "net_null");
    let config = DeviceConfig {
        rx_pools: &[small],
        tx_queues: 1,
        rx_descriptors: Some(256),
        tx_descriptors: Some(256),
        mtu: 1500,
        offloads: Offloads::ALL,
    };
    let error = device.start(&config).unwrap_err();
    assert!(
        matches!(
            error,
            DeviceError::Room {
                needed: 2048,
                room: 512,
                ..
            }
        ),
        "{error}"
    );
    let mut started = device
        .start(&DeviceConfig {
            rx_pools: &[Arc::clone(&pool)],
            ..config
        })
        .unwrap();

    let mut burst = MbufBurst::new();
    let mut forwarded = 0;
    while forwarded < 1_000_000 {
        assert_eq!(started.rx[0].burst(&mut burst), 64);
        assert!(burst.iter().all(|mbuf| mbuf.frame_len() == 128));
        forwarded += started.tx[0].burst(&mut burst);
    }
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0);
    assert!(device.stats().unwrap().rx_packets >= 1_000_000);

    // What isn't there.
    for (devargs, expected) in [
        ("", "not a DPDK device"),
        ("net_nosuchdriver0", "ls /usr/lib"),
        (
            "0000:fe:1f.7",
            "dpdk-devbind.py --bind=vfio-pci 0000:fe:1f.7",
        ),
        ("net_af_packet0,iface=nosuch0", "ip link show"),
        ("net_af_packet0", "iface=NAME"),
        ("net_null0", "in use already"),
    ] {
        let error = Device::plug(eal, devargs, &[], 1).unwrap_err().to_string();
        assert!(error.contains(expected), "{devargs}: {error}");
        eprintln!("{error}\n");
    }
}
