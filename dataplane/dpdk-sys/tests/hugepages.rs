//! With hugepages: they are taken when they are there, nothing is left behind, what brings them is named
//! when they are missing, and while one is taken no other thread has EAL's handler of SIGBUS.
//!
//! Where too few are free, the test reserves some and gives them back.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::{
    fs, mem, ptr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use culvert_dpdk_sys::{
    Device, DeviceConfig, DeviceError, Eal, EalConfig, EalError, Hugepages, MbufBurst, Memory,
    Mempool, Offloads, Pci,
};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const PAGES: u64 = 128; // 256 MiB: half of it at the start

#[test]
fn hugepages_are_taken() {
    // More than any machine has: refused before EAL is touched, so that it can still start.
    let config = EalConfig {
        hugepages: Hugepages::Required,
        memory_mb: 1 << 30,
        ..EalConfig::default()
    };
    let error = Eal::init(config).unwrap_err();
    assert!(matches!(error, EalError::Hugepages { .. }), "{error}");
    assert!(error.to_string().contains("echo "), "{error}");

    let Some(_reserved) = Reserved::at_least(PAGES) else {
        println!("skipped: {PAGES} hugepages could not be reserved (needs root and free memory)");
        return;
    };
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let config = EalConfig {
        hugepages: Hugepages::Required,
        memory_mb: 128,
        pci: Pci::Off,
        log: Some(Box::new(move |_, line| {
            sink.lock().unwrap().push(line.to_owned());
        })),
        ..EalConfig::default()
    };
    let eal = Eal::init(config).unwrap();
    assert_eq!(eal.memory(), Memory::Hugepages);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let prefix = format!("culvert-{}", std::process::id());
    for mount in mounts.lines().filter(|line| line.contains(" hugetlbfs ")) {
        let path = mount.split_whitespace().nth(1).unwrap();
        let mut files = fs::read_dir(path).unwrap().flatten();
        assert!(files.all(|file| !file.file_name().to_string_lossy().starts_with(&prefix)));
    }

    let pool = Arc::new(Mempool::new(eal, "rx", 8191, 256, 2048).unwrap());
    let mut device = Device::plug(eal, "net_ring0", &[], 1).unwrap();
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
    // A process without the bus says so.
    let error = Device::plug(eal, "0000:fe:1f.7", &[], 1).unwrap_err();
    assert!(matches!(error, DeviceError::PciOff(_)));
    assert!(error.to_string().contains("restart"), "{error}");

    memory_grows_and_no_other_thread_has_its_handler(eal);
}

/// While EAL takes a page, SIGBUS is its own on the thread that waits for it, and on no other.
fn memory_grows_and_no_other_thread_has_its_handler(eal: Eal) {
    // More than is left of the 128 MiB, so that pages must be taken for it.
    let grows = || {
        for _ in 0..20 {
            let pool = Mempool::new(eal, "grown", 49151, 0, 2048).unwrap();
            // SAFETY: nobody else knows the pool.
            unsafe { pool.free() }.unwrap();
        }
    };
    assert!(!takes_sigbus(grows));
}

/// Whether SIGBUS was seen to have another handler while this was done.
fn takes_sigbus(act: impl FnOnce()) -> bool {
    let action = sigbus_action();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut taken = false;
            while !ends.load(Ordering::Relaxed) {
                taken |= sigbus_action() != action;
            }
            taken
        });
        act();
        ends.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    })
}

/// The process's handler of SIGBUS.
fn sigbus_action() -> usize {
    // SAFETY: the action is plain data that the kernel fills in.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        assert_eq!(
            libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut action),
            0
        );
        action.sa_sigaction
    }
}

/// Reserved hugepages beyond those that were there, given back at the end (the pages in use follow when the
/// process ends).
struct Reserved {
    before: u64,
}

impl Reserved {
    fn at_least(pages: u64) -> Option<Self> {
        let read = |name: &str| -> Option<u64> {
            fs::read_to_string(format!("{POOL}/{name}"))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let free = || Some(read("free_hugepages")?.saturating_sub(read("resv_hugepages")?));
        let before = read("nr_hugepages")?;
        let missing = pages.saturating_sub(free()?);
        let reserved = Self { before };
        if missing > 0 {
            fs::write(
                format!("{POOL}/nr_hugepages"),
                (before + missing).to_string(),
            )
            .ok()?;
        }
        (free()? >= pages).then_some(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_hugepages"), self.before.to_string());
    }
}
