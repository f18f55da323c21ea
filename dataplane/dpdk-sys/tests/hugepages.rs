//! With hugepages: they are taken when they are there, and what brings them is named when they are not.
//!
//! The test reserves none: on a machine without free hugepages it checks the refusal and the fall-back, with
//! them the real thing. Both print what they did.

mod common;

use std::{fs, sync::Arc};

use culvert_dpdk_sys::{
    Device, DeviceConfig, Eal, EalConfig, EalError, Hugepages, MbufBurst, Memory, Mempool, Offloads,
};

#[test]
fn hugepages_or_a_way_to_them() {
    // More than any machine has.
    let config = EalConfig {
        hugepages: Hugepages::Required,
        memory_mb: 1 << 30,
        ..EalConfig::default()
    };
    let error = Eal::init(config).unwrap_err();
    assert!(matches!(error, EalError::Hugepages { .. }), "{error}");
    assert!(error.to_string().contains("echo "), "{error}");

    let (eal, lines) = common::eal(Hugepages::Auto);
    println!("EAL runs on {:?}", eal.memory());
    if eal.memory() == Memory::Hugepages {
        // Nothing is left on a file system.
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        for mount in mounts.lines().filter(|line| line.contains(" hugetlbfs ")) {
            let path = mount.split_whitespace().nth(1).unwrap();
            let prefix = format!("culvert-{}", std::process::id());
            let left = fs::read_dir(path).unwrap().flatten();
            assert!(
                left.into_iter()
                    .all(|file| !file.file_name().to_string_lossy().starts_with(&prefix))
            );
        }
    }
    let pool = Arc::new(Mempool::new(eal, "rx", 8191, 256, 2048).unwrap());
    let mut device = Device::plug(eal, "net_ring0", 1).unwrap();
    let config = DeviceConfig {
        rx_pools: &[Arc::clone(&pool)],
        tx_queues: 1,
        rx_descriptors: None,
        tx_descriptors: None,
        mtu: 1500,
        offloads: Offloads::ALL,
    };
    let mut started = device.start(&config).unwrap();
    let mut burst = MbufBurst::new();
    burst.push(common::frame(&pool, &[7; 60])).unwrap();
    assert_eq!(started.tx[0].burst(&mut burst), 1);
    assert_eq!(started.rx[0].burst(&mut burst), 1);
    assert_eq!(burst[0].bytes(), [7; 60]);
    drop(lines);
}
