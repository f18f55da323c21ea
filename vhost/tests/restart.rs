//! The backend's process is killed while frames are in flight, and starts again.
//!
//! This file's own executable is the process that gets killed: `child_echoes` runs a port that
//! sends every frame back, if the environment names a socket, and does nothing else otherwise.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, pattern};
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Port, PortConfig, RingOptions};
use culvert_wire::{MacAddr, VnetHeader};

const SOCKET: &str = "CULVERT_VHOST_TEST_SOCKET";
/// Frames on their way at once: few enough that no ring is ever full.
const WINDOW: u64 = 64;

#[test]
fn child_echoes() {
    let Ok(socket) = std::env::var(SOCKET) else {
        return;
    };
    let mut config = PortConfig::new("echo", &socket, MacAddr([2, 0, 0, 0, 0, 1]));
    config.state_file = Some(format!("{socket}.state").into());
    let port = Port::open(config, |_| {}).unwrap();
    let mut bytes = [0; 2048];
    // A parent that is gone takes the test harness with it.
    let until = Instant::now() + Duration::from_secs(120);
    while Instant::now() < until {
        let Some(mut tx) = port.guest_tx(0).try_lock() else {
            std::thread::yield_now();
            continue;
        };
        let frames = tx.fetch(32);
        let Ok(mut rx) = port.guest_rx(0).try_lock() else {
            continue;
        };
        for index in 0..frames {
            let length = tx.copy(index, 0, &mut bytes);
            rx.deliver(&tx.frame(index).vnet, &[&bytes[..length]])
                .unwrap();
        }
        // First to the guest, then back: a frame may come twice, but is never lost.
        drop(rx);
        tx.complete(frames);
        drop(tx);
        if frames == 0 {
            std::thread::yield_now();
        }
    }
}

struct Echo(Child);

impl Echo {
    fn new(socket: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_echoes", "--nocapture"])
            .env(SOCKET, socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < until, "the child listens in time");
            std::thread::sleep(Duration::from_millis(2));
        }
        Self(child)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn survives_kills(config: FrontendConfig) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("echo.sock");
    let is_packed = config.rings.contains(RingOptions::PACKED);
    let mut echo = Echo::new(&socket);
    let mut frontend = Frontend::connect(&socket, config).unwrap();
    let (mut next, mut seen) = (0u64, BTreeMap::new());
    let kills = 25u64;
    for kill in 0..=kills {
        let goal = next + 300 + 37 * kill;
        let mut until = Instant::now() + PATIENCE;
        while (seen.len() as u64) < goal {
            let lowest = (0..next)
                .rev()
                .take(WINDOW as usize)
                .filter(|n| !seen.contains_key(n));
            if next < goal && (lowest.count() as u64) < WINDOW {
                let mut frame = pattern(100, next);
                frame[..8].copy_from_slice(&next.to_le_bytes());
                if frontend.send_frame(0, &VnetHeader::default(), &frame) {
                    next += 1;
                }
            }
            while let Some((_, frame)) = frontend.receive_frame(0) {
                let number = u64::from_le_bytes(frame[..8].try_into().unwrap());
                assert!(frame[8..] == pattern(100, number)[8..]);
                *seen.entry(number).or_insert(0u64) += 1;
                until = Instant::now() + PATIENCE;
            }
            assert!(
                Instant::now() < until,
                "traffic comes back after kill {kill}"
            );
            // In the middle of what is in flight, somewhere else each time.
            if kill < kills && next == goal && seen.len() as u64 + 13 * (kill % 5) >= goal {
                break;
            }
        }
        if kill == kills {
            break;
        }
        drop(echo);
        echo = Echo::new(&socket);
        frontend.reconnect(&socket).unwrap();
        for index in 0..2 {
            // What QEMU knows after a crash: the used index of a split ring, which the guest's
            // memory has, and nothing of a packed one.
            let driver = &frontend.queues[index].driver;
            let base = if is_packed {
                driver.first_base()
            } else {
                u32::from(frontend.memory.load(driver.areas().device + 2))
            };
            frontend.start_ring(index, base, None).unwrap();
        }
    }
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        (0..next).collect::<Vec<_>>()
    );
    let repeated: u64 = seen.values().map(|times| times - 1).sum();
    assert!(repeated <= kills * WINDOW, "{repeated} frames came again");
    // Every chain is where it belongs: none lost, none twice.
    let until = Instant::now() + PATIENCE;
    while frontend.queues[1].driver.outstanding() > 0 {
        frontend.reap(0);
        assert!(Instant::now() < until, "all sent buffers come back");
    }
    assert_eq!(frontend.queues[0].driver.outstanding(), 256);
}

#[test]
fn split_rings_survive_kills_under_load() {
    survives_kills(FrontendConfig::default());
}

#[test]
fn packed_rings_survive_kills_under_load() {
    survives_kills(FrontendConfig {
        rings: RingOptions::all(),
        ..FrontendConfig::default()
    });
}

#[test]
fn packed_rings_with_chains_survive_kills_under_load() {
    survives_kills(FrontendConfig {
        rings: RingOptions::PACKED | RingOptions::MRG_RXBUF,
        piece_len: 50,
        buffer_len: 64,
        ..FrontendConfig::default()
    });
}
