//! Without enough hugepages, `Auto` takes plain memory; EAL's folder does not stay behind.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::{fs, path::Path};

use culvert_dpdk_sys::{Eal, EalConfig, Hugepages, Memory, Mempool, Pci};

#[test]
fn plain_memory_will_do() {
    let free_mb: u32 = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
        .map(|size| {
            let name = size.file_name().into_string().unwrap();
            let kib: u32 = name["hugepages-".len()..name.len() - 2].parse().unwrap();
            let free = fs::read_to_string(size.path().join("free_hugepages")).unwrap();
            free.trim().parse::<u32>().unwrap() * (kib >> 10)
        })
        .sum();
    // A margin, for the tests that run beside this one.
    let config = EalConfig {
        hugepages: Hugepages::Auto,
        memory_mb: free_mb + 512,
        pci: Pci::Idle,
        ..EalConfig::default()
    };
    let prefix = config.file_prefix.clone();
    let eal = Eal::init(config).unwrap();
    assert_eq!(eal.memory(), Memory::Plain);
    Mempool::new(eal, "rx", 16_383, 256, 2048).unwrap();

    assert!(!Path::new("/var/run/dpdk").join(prefix).exists());
}
