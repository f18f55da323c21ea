//! What hostile guests and VMMs have done to other backends, each by name.
//!
//! The rule: that port alone is stopped, or the packet is dropped, by name and counted. After
//! each attack the port must serve an honest frontend.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod memory;
mod messages;
mod races;
mod rings;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Bench, header, is_up, pattern, take_frames};
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{LinkDown, Obstacle, PortDrop, PortEvent, RingFault, RingOptions};
use culvert_wire::VnetHeader;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use vhost::vhost_user::message::FrontendReq;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const RX: usize = 0;
const TX: usize = 1;

/// One raw descriptor: address, length, flags, next (or id).
type Raw = (u64, u32, u16, u16);

fn layouts() -> [FrontendConfig; 2] {
    let all = RingOptions::all();
    [
        FrontendConfig {
            rings: all - RingOptions::PACKED,
            ..FrontendConfig::default()
        },
        FrontendConfig {
            rings: all,
            ..FrontendConfig::default()
        },
    ]
}

/// Takes what the guest sends and gives it frames until `is_done`: the worker's part.
fn carry_until(port: &culvert_vhost::Port, is_done: &AtomicBool) {
    while !is_done.load(Ordering::Relaxed) {
        take_frames(port, 0);
        if let Ok(mut burst) = port.guest_rx(0).try_lock() {
            let _ = burst.deliver(&header(0), &[&[0; 1000]]);
        }
    }
}

fn is_packed(config: &FrontendConfig) -> bool {
    config.rings.contains(RingOptions::PACKED)
}

/// A frontend whose rings run and are empty.
fn bare(bench: &Bench, config: &FrontendConfig) -> Frontend {
    let stream = UnixStream::connect(bench.path()).unwrap();
    let mut frontend = Frontend::attach(stream, config.clone()).unwrap();
    frontend.negotiate().unwrap();
    frontend.share_memory().unwrap();
    for ring in [RX, TX] {
        let base = frontend.queues[ring].driver.first_base();
        frontend.start_ring(ring, base, None).unwrap();
    }
    bench.wait(|event| is_up(event, 1));
    frontend
}

fn descriptor(raw: &Raw, is_packed: bool) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&raw.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&raw.1.to_le_bytes());
    let (flags, last) = if is_packed { (14, 12) } else { (12, 14) };
    bytes[flags..flags + 2].copy_from_slice(&raw.2.to_le_bytes());
    bytes[last..last + 2].copy_from_slice(&raw.3.to_le_bytes());
    bytes
}

/// Makes raw descriptors available in a fresh ring, from its first entry on.
fn offer(frontend: &Frontend, ring: usize, is_packed: bool, chain: &[Raw]) {
    let areas = frontend.queues[ring].driver.areas();
    for (raw, at) in chain.iter().zip((areas.descriptors..).step_by(16)) {
        let available = if is_packed { 1 << 7 } else { 0 };
        let raw = (raw.0, raw.1, raw.2 | available, raw.3);
        frontend.memory.write(at, &descriptor(&raw, is_packed));
    }
    if !is_packed {
        frontend.memory.write(areas.driver + 4, &0u16.to_le_bytes());
        frontend.memory.store(areas.driver + 2, 1);
    }
}

/// Lets the port look at the ring, as a worker would.
fn look(bench: &Bench, ring: usize) {
    if ring == TX {
        take_frames(bench.port(), 0);
    } else if let Ok(mut burst) = bench.port().guest_rx(0).try_lock() {
        let _ = burst.deliver(&VnetHeader::default(), &[&pattern(1500, 0)]);
    }
}

/// The port still serves an honest guest.
fn assert_serves(bench: &Bench, config: &FrontendConfig) {
    let mut frontend = bench.connect(config.clone());
    assert!(frontend.send_frame(0, &header(9), &pattern(600, 9)));
    assert_eq!(take_frames(bench.port(), 0)[0].1, pattern(600, 9));
    let mut burst = bench.port().guest_rx(0).try_lock().unwrap();
    burst.deliver(&header(8), &[&pattern(3000, 8)]).unwrap();
    drop(burst);
    assert_eq!(frontend.receive_frame(0).unwrap().1, pattern(3000, 8));
}

/// Offers a chain that must stop the ring with a fault.
fn expect_fault(ring: usize, config: &FrontendConfig, chain: &[Raw], fault: RingFault) {
    let bench = Bench::new(|_| {});
    let frontend = bare(&bench, config);
    offer(&frontend, ring, is_packed(config), chain);
    look(&bench, ring);
    let stopped = bench.wait(|event| matches!(event, PortEvent::RingStopped { .. }));
    let expected = PortEvent::RingStopped {
        ring: ring as u16,
        fault,
    };
    assert_eq!(stopped, expected, "{config:?}");
    let down = bench.wait(|event| matches!(event, PortEvent::LinkDown { .. }));
    assert_eq!(
        down,
        PortEvent::LinkDown {
            reason: LinkDown::Fault(fault)
        }
    );
    look(&bench, ring);
    drop(frontend);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    assert_serves(&bench, config);
}

/// Offers a chain that must be dropped by name and come back, while the ring goes on.
fn expect_drop(ring: usize, config: &FrontendConfig, chain: &[Raw], reason: PortDrop) {
    let bench = Bench::new(|_| {});
    let frontend = bare(&bench, config);
    offer(&frontend, ring, is_packed(config), chain);
    look(&bench, ring);
    let counters = match ring {
        TX => bench.port().guest_tx(0).counters(),
        _ => bench.port().guest_rx(0).counters(),
    };
    let what = format!("{reason:?} {chain:x?} {config:?}");
    assert_eq!(counters.drops(reason), 1, "{what}");
    assert_eq!(counters.frames(), 0, "{what}");
    assert_eq!(counters.faults(), 0, "{what}");
    let areas = frontend.queues[ring].driver.areas();
    if is_packed(config) {
        assert_eq!(
            frontend.memory.load(areas.descriptors + 14) >> 15,
            1,
            "{what}"
        );
    } else {
        assert_eq!(frontend.memory.load(areas.device + 2), 1, "{what}");
    }
    drop(frontend);
    bench.wait(|event| matches!(event, PortEvent::Disconnected { .. }));
    assert_serves(&bench, config);
}

/// Room in the frontend's memory that no ring uses, and its end.
fn room(config: &FrontendConfig) -> (u64, u64) {
    (
        config.guest + config.memory as u64 / 2,
        config.guest + config.memory as u64,
    )
}
