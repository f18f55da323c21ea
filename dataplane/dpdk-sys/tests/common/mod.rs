//! What the tests share. EAL starts once per process: each file here has exactly one test.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::{
    process::Command,
    sync::{Arc, Mutex},
};

use culvert_dpdk_sys::{Eal, EalConfig, Hugepages, LogLevel, Mbuf, MbufBurst, Mempool};

pub(crate) type Lines = Arc<Mutex<Vec<(LogLevel, String)>>>;

/// Starts EAL on plain memory with its log collected.
pub(crate) fn eal(hugepages: Hugepages) -> (Eal, Lines) {
    let lines = Lines::default();
    let sink = Arc::clone(&lines);
    let eal = Eal::init(EalConfig {
        hugepages,
        memory_mb: 128,
        log: Some(Box::new(move |level, line| {
            sink.lock().unwrap().push((level, line.to_owned()));
        })),
        log_level: LogLevel::Debug,
        ..EalConfig::default()
    })
    .unwrap();
    (eal, lines)
}

/// Fills an mbuf with a frame.
pub(crate) fn frame(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut burst = MbufBurst::new();
    assert!(pool.alloc(&mut burst, 1));
    let mut mbuf = burst.pop().unwrap();
    mbuf.room_mut()[..bytes.len()].copy_from_slice(bytes);
    mbuf.set_len(u16::try_from(bytes.len()).unwrap());
    mbuf
}

/// Runs a command that must succeed.
pub(crate) fn run(line: &str) {
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

/// Moves this thread (and what it starts) into a network namespace of its own, which ends with it.
pub(crate) fn own_network() {
    // SAFETY: no memory is touched.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        result,
        0,
        "a network namespace needs root: {}",
        std::io::Error::last_os_error()
    );
}
