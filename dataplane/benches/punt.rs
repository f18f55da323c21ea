//! What a frame for the host stack costs the worker that hands it over: `cargo bench -p culvert-dataplane --bench punt`.
//!
//! Each figure is the median of many runs of 32 frames and one ring of the bell, per frame, while the stacks' thread takes
//! them on another processor and is awake. With `--json`, one object per line.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use culvert_dataplane::shared::{
    ids::{Scope, UplinkIndex},
    punt::{self, PuntClass},
    wake::Wake,
};

/// Frames of a run.
const BURST: usize = 32;
/// What one may cost.
const GOAL_NS: f64 = 100.0;

fn main() {
    let json = std::env::args().any(|it| it == "--json");
    for (case, class, len) in [
        ("punt/arp", PuntClass::NeighborQuestion, 60),
        ("punt/echo", PuntClass::Icmp, 98),
        ("punt/fragment", PuntClass::Fragment, 1_514),
    ] {
        let value = per_punt(class, len);
        let ratio = GOAL_NS / value;
        if json {
            println!(
                r#"{{"section":"stack","case":"{case}","unit":"ns","value":{value:.1},"reference":"goal","reference_value":{GOAL_NS},"ratio":{ratio:.2}}}"#
            );
        } else {
            println!("{case:<40} {value:>8.1} ns per punt (goal {GOAL_NS})");
        }
    }
}

fn per_punt(class: PuntClass, len: usize) -> f64 {
    let at = |second: u64| culvert_wireguard::Instant::from_nanos(second * 1_000_000_000);
    let (mut punts, mut punted) = punt::rings(Arc::new(Wake::new().unwrap()), at(1));
    let (taken, ends) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let taker = {
        let (taken, ends) = (Arc::clone(&taken), Arc::clone(&ends));
        thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if black_box(punted.pop(class)).is_some() {
                    taken.fetch_add(1, Ordering::Release);
                }
            }
        })
    };
    let (frame, scope) = (vec![7; len], Scope::Uplink(UplinkIndex(0)));
    let (mut runs, mut pushed) = (Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(1);
    // A second of the class's rate passes from run to run.
    for second in 2.. {
        let start = Instant::now();
        for _ in 0..BURST {
            let taken = punts.push(class, scope, black_box(&frame), at(second));
            taken.expect("a burst has room");
        }
        punts.ring();
        runs.push(start.elapsed().as_secs_f64() * 1e9);
        pushed += BURST;
        while taken.load(Ordering::Acquire) < pushed {
            thread::yield_now();
        }
        if start > end {
            break;
        }
    }
    ends.store(true, Ordering::Relaxed);
    taker.join().unwrap();
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2] / BURST as f64
}
