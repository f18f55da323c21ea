//! The backend's half of a live migration: the dirty log against what really changed.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use common::{Bench, PATIENCE, header, is_up, pattern, take_frames};
use culvert_vhost::RingOptions;
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use vhost::vhost_user::message::FrontendReq;

const PAGE: u64 = 4096;
const LOG_ALL: u64 = 1 << 26;

struct Log {
    file: File,
    size: u64,
}

impl Log {
    fn new(frontend: &mut Frontend) -> Self {
        let end = frontend.memory.guest() + frontend.memory.size();
        let size = (end / PAGE / 8).next_multiple_of(PAGE);
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let mut body = size.to_ne_bytes().to_vec();
        body.extend(0u64.to_ne_bytes());
        frontend
            .tell(FrontendReq::SET_LOG_BASE, &body, &[file.as_fd()])
            .unwrap();
        Self { file, size }
    }

    /// Pages that are marked, and clears the marks.
    fn take(&self) -> BTreeSet<u64> {
        let mut bytes = vec![0; self.size as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        self.file
            .write_all_at(&vec![0; self.size as usize], 0)
            .unwrap();
        let bits = bytes.iter().zip(0u64..).filter(|(byte, _)| **byte != 0);
        bits.flat_map(|(&byte, at)| {
            (0..8)
                .filter(move |bit| byte >> bit & 1 != 0)
                .map(move |bit| 8 * at + bit)
        })
        .collect()
    }
}

fn snapshot(frontend: &Frontend) -> Vec<u8> {
    let mut bytes = vec![0; frontend.memory.size() as usize];
    frontend.memory.read(frontend.memory.guest(), &mut bytes);
    bytes
}

fn changed(frontend: &Frontend, before: &[u8]) -> BTreeSet<u64> {
    let after = snapshot(frontend);
    let first = frontend.memory.guest() / PAGE;
    let pages = before
        .chunks(PAGE as usize)
        .zip(after.chunks(PAGE as usize))
        .zip(first..);
    pages
        .filter(|((before, after), _)| before != after)
        .map(|(_, page)| page)
        .collect()
}

fn variants() -> Vec<FrontendConfig> {
    let small = FrontendConfig {
        memory: 32 << 20,
        ..FrontendConfig::default()
    };
    let all = RingOptions::all();
    let mut variants = Vec::new();
    for packed in [RingOptions::empty(), RingOptions::PACKED] {
        for rings in [
            RingOptions::empty(),
            RingOptions::MRG_RXBUF,
            all - RingOptions::PACKED,
            all - RingOptions::PACKED - RingOptions::EVENT_IDX,
        ] {
            variants.push(FrontendConfig {
                rings: rings | packed,
                ..small.clone()
            });
        }
    }
    variants
}

fn start_logging(frontend: &mut Frontend) {
    let features = frontend.features() | LOG_ALL;
    frontend.set_features(features).unwrap();
    for index in 0..2 {
        let device = frontend.queues[index].driver.areas().device;
        frontend.set_ring_address(index, Some(device)).unwrap();
    }
}

#[test]
fn every_page_that_is_written_is_in_the_log() {
    for config in variants() {
        let what = format!("{config:?}");
        let len = if config.rings.contains(RingOptions::MRG_RXBUF) {
            9000
        } else {
            2000
        };
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let log = Log::new(&mut frontend);
        // Before the migration nothing is logged.
        let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
        burst.deliver(&header(0), &[&pattern(len, 0)]).unwrap();
        drop(burst);
        assert!(log.take().is_empty(), "{what}");
        frontend.receive_frame(0).unwrap();
        start_logging(&mut frontend);
        log.take();
        for round in 1..25u64 {
            for seed in 0..round % 4 {
                frontend.send_frame(0, &header(1), &pattern(1000, seed));
            }
            // From here on, only the backend writes.
            let before = snapshot(&frontend);
            if round % 5 == 0 {
                let tx = bench.port().guest_tx(0);
                let _ = tx.try_lock().unwrap().enable_notifications();
                tx.try_lock().unwrap().disable_notifications();
                let _ = tx.try_lock().unwrap().enable_notifications();
            }
            take_frames(bench.port(), 0);
            let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
            for seed in 0..round % 7 {
                let vnet = header(seed as u16);
                burst
                    .deliver(&vnet, &[&pattern(len, round * 8 + seed)])
                    .unwrap();
            }
            drop(burst);
            let (written, logged) = (changed(&frontend, &before), log.take());
            let missing: Vec<_> = written.difference(&logged).collect();
            assert!(
                missing.is_empty(),
                "{what}: {missing:x?} are not in the log"
            );
            // Nor is everything simply marked.
            assert!(
                logged.len() <= written.len() + 4,
                "{what}: {logged:x?}, {written:x?}"
            );
            while frontend.receive_frame(0).is_some() {}
            frontend.reap(0);
        }
        // The migration ends.
        let features = frontend.features() & !LOG_ALL;
        frontend.set_features(features).unwrap();
        log.take();
        let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
        burst.deliver(&header(0), &[&pattern(len, 0)]).unwrap();
        drop(burst);
        assert!(log.take().is_empty(), "{what}");
    }
}

#[test]
fn a_region_added_during_a_migration_is_logged() {
    let config = FrontendConfig {
        memory: 32 << 20,
        ..FrontendConfig::default()
    };
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config);
    let log = Log::new(&mut frontend);
    start_logging(&mut frontend);
    // The same memory again, as a frontend does whose layout changed.
    frontend.share_memory().unwrap();
    log.take();
    let before = snapshot(&frontend);
    let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
    burst.deliver(&header(3), &[&pattern(1500, 3)]).unwrap();
    drop(burst);
    let (written, logged) = (changed(&frontend, &before), log.take());
    assert!(
        written.len() >= 2 && written.is_subset(&logged),
        "{written:x?} {logged:x?}"
    );
}

#[test]
fn memory_that_is_shared_anew_under_load_stays_logged() {
    for config in variants() {
        let what = format!("{config:?}");
        let bench = Bench::new(|_| {});
        let mut frontend = bench.connect(config);
        let log = Log::new(&mut frontend);
        start_logging(&mut frontend);
        let port = bench.port();
        for round in 0..6 {
            frontend.fill(0);
            while frontend.send_frame(0, &header(1), &pattern(1000, round)) {}
            log.take();
            // From here on the frontend writes messages only.
            let before = snapshot(&frontend);
            let (done, delivered) = (AtomicBool::new(false), AtomicU32::new(0));
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        take_frames(port, 0);
                        if let Ok(mut burst) = port.guest_rx(0).try_lock() {
                            let frame = pattern(1500, round);
                            let came = burst.deliver(&header(0), &[&frame]).is_ok();
                            delivered.fetch_add(u32::from(came), Ordering::Relaxed);
                        }
                    }
                });
                let until = Instant::now() + PATIENCE;
                for shares in 0.. {
                    frontend.share_memory().unwrap();
                    let seen = delivered.load(Ordering::Relaxed) > 0;
                    if shares > 3 && seen || Instant::now() > until {
                        break;
                    }
                }
                done.store(true, Ordering::Release);
            });
            let (written, logged) = (changed(&frontend, &before), log.take());
            let missing: Vec<_> = written.difference(&logged).collect();
            assert!(missing.is_empty(), "{what}: {missing:x?} of {written:x?}");
            assert!(delivered.into_inner() > 0, "{what}: there was no load");
            while frontend.receive_frame(0).is_some() {}
            frontend.reap(0);
        }
    }
}

#[test]
fn a_log_that_is_too_short_or_truncated_harms_nobody() {
    let config = FrontendConfig {
        memory: 32 << 20,
        ..FrontendConfig::default()
    };
    let bench = Bench::new(|_| {});
    let mut frontend = bench.connect(config.clone());
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let mut body = PAGE.to_ne_bytes().to_vec();
    body.extend(0u64.to_ne_bytes());
    frontend
        .tell(FrontendReq::SET_LOG_BASE, &body, &[file.as_fd()])
        .unwrap();
    start_logging(&mut frontend);
    let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
    burst.deliver(&header(3), &[&pattern(1500, 3)]).unwrap();
    drop(burst);
    assert!(frontend.receive_frame(0).is_some());
    let log = Log::new(&mut frontend);
    log.file.set_len(0).unwrap();
    let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
    let _ = burst.deliver(&header(3), &[&pattern(1500, 3)]);
    drop(burst);
    bench.wait(|event| {
        matches!(
            event,
            culvert_vhost::PortEvent::RingStopped {
                fault: culvert_vhost::RingFault::MemoryTruncated,
                ..
            }
        )
    });
    drop(frontend);
    let _ = bench.connect(config);
}

#[test]
fn a_guest_goes_on_at_another_backend_where_it_stood() {
    for config in variants() {
        let (source, destination) = (Bench::new(|_| {}), Bench::new(|_| {}));
        let mut frontend = source.connect(config);
        for seed in 0..100u64 {
            assert!(frontend.send_frame(0, &header(1), &pattern(500, seed)));
            assert_eq!(take_frames(source.port(), 0)[0].1, pattern(500, seed));
            let mut burst = source.port().guest_rx(0).try_lock().unwrap();
            burst.deliver(&header(2), &[&pattern(700, seed)]).unwrap();
            drop(burst);
            assert_eq!(frontend.receive_frame(0).unwrap().1, pattern(700, seed));
        }
        assert!(frontend.send_frame(0, &header(1), &pattern(500, 1000)));
        let bases = [
            frontend.stop_ring(0).unwrap(),
            frontend.stop_ring(1).unwrap(),
        ];
        frontend.reconnect(&destination.path()).unwrap();
        for (index, base) in bases.into_iter().enumerate() {
            frontend.start_ring(index, base, None).unwrap();
        }
        destination.wait(|event| is_up(event, 1));
        assert_eq!(take_frames(destination.port(), 0)[0].1, pattern(500, 1000));
        let mut burst = destination.port().guest_rx(0).try_lock().unwrap();
        burst.deliver(&header(2), &[&pattern(700, 9)]).unwrap();
        drop(burst);
        assert_eq!(frontend.receive_frame(0).unwrap().1, pattern(700, 9));
    }
}
