//! What the rings cost: nanoseconds per frame of the backend's own work, caches near.
//!
//! One thread plays guest and backend in turn, and only the backend's part is timed. The figure
//! is the least over many bursts, so that a busy machine disturbs it little. It says what our
//! code costs, not what two cores reach together: for that, `patch` runs against a real guest.
//!
//! Usage: cost [ROUNDS]

use std::time::{Duration, Instant};

use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Port, PortConfig, RingOptions};
use culvert_wire::{MacAddr, VnetHeader};

const BURST: usize = 32;

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000);
    println!(
        "{:28} {:>10} {:>10}",
        "ns per frame, burst of 32", "from guest", "to guest"
    );
    for (name, rings) in [
        ("split", RingOptions::all() - RingOptions::PACKED),
        ("packed", RingOptions::all()),
    ] {
        for size in [64, 512, 1518, 9000] {
            let socket = format!("/tmp/vhost-cost-{}.sock", std::process::id());
            let config = PortConfig::new("cost", &socket, MacAddr([2, 0, 0, 0, 0, 1]));
            let port = Port::open(config, |_| {}).expect("a port");
            let config = FrontendConfig {
                rings,
                ..FrontendConfig::default()
            };
            let mut frontend = Frontend::connect(socket.as_ref(), config).expect("a frontend");
            while !(port.guest_tx(0).is_live() && port.guest_rx(0).is_live()) {
                std::thread::yield_now();
            }
            let frame = vec![0x5a; size];
            let (mut tx, mut rx) = (Duration::MAX, Duration::MAX);
            for _ in 0..rounds {
                for _ in 0..BURST {
                    assert!(frontend.send_frame(0, &VnetHeader::default(), &frame));
                }
                let start = Instant::now();
                let mut burst = port.guest_tx(0).try_lock().expect("a ring that runs");
                let frames = burst.fetch(BURST);
                burst.complete(frames);
                drop(burst);
                tx = tx.min(start.elapsed());
                assert_eq!(frames, BURST);
                let start = Instant::now();
                let mut burst = port.guest_rx(0).try_lock().expect("a ring that runs");
                for _ in 0..BURST {
                    burst
                        .deliver(&VnetHeader::default(), &[&frame])
                        .expect("room");
                }
                drop(burst);
                rx = rx.min(start.elapsed());
                while frontend.receive_frame(0).is_some() {}
                frontend.reap(0);
            }
            let per_frame = |time: Duration| time.as_secs_f64() * 1e9 / BURST as f64;
            let case = format!("{name}, {size} bytes");
            println!("{case:28} {:10.1} {:10.1}", per_frame(tx), per_frame(rx));
        }
    }
}
