//! What making and checking a frame cost: `cargo bench -p culvert-pktgen`.
//!
//! Each figure is the least of many short runs, in warm caches. With `--json`, one object per line.

#![allow(clippy::unwrap_used, reason = "a bench of its own profiles")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use culvert_pktgen::tree::Node;
use culvert_pktgen::{Profile, Receive, Transmit};

/// Frames of a run.
const FRAMES: usize = 4096;

struct Case {
    name: &'static str,
    flags: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        name: "64/flows-1",
        flags: &[("size", "64")],
    },
    Case {
        name: "64/flows-1000",
        flags: &[("size", "64"), ("source_port", "1024+1000")],
    },
    Case {
        name: "64/flows-1000000",
        flags: &[
            ("size", "64"),
            ("destination", "10.0.0.1+1000"),
            ("source_port", "1024+1000"),
        ],
    },
    Case {
        name: "64/poisson",
        flags: &[("size", "64"), ("pattern", "poisson")],
    },
    Case {
        name: "imix/flows-1000",
        flags: &[("size", "imix"), ("source_port", "1024+1000")],
    },
    Case {
        name: "78-bare/ipv6",
        flags: &[
            ("size", "78-bare"),
            ("source", "fd00::1"),
            ("destination", "fd00::2"),
        ],
    },
    Case {
        name: "1518/flows-1",
        flags: &[("size", "1518")],
    },
    Case {
        name: "64k/tcp",
        flags: &[("size", "64k"), ("protocol", "tcp"), ("segment", "1448")],
    },
];

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    for case in CASES {
        let mut flags = vec![("rate", "100mpps"), ("duration", "10h")];
        flags.extend(case.flags);
        let profile = Profile::read(&Node::of_flags(flags)).unwrap();
        for (what, ns) in [
            ("make", make(&profile, false)),
            ("patch", make(&profile, true)),
            ("check", check(&profile)),
        ] {
            print(json, &format!("{what}/{}", case.name), ns);
        }
    }
}

fn print(json: bool, case: &str, ns: f64) {
    if json {
        println!(r#"{{"section":"pktgen","case":"{case}","unit":"ns/frame","value":{ns:.2}}}"#);
    } else {
        println!("{case:<32} {ns:>10.2} ns/frame");
    }
}

fn start(profile: &Profile) -> Transmit {
    Transmit::new(profile, "", &profile.packets_per_s(None).unwrap(), 1)
}

/// The least time per frame of runs of [`FRAMES`].
fn least(mut run: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        let begun = Instant::now();
        run();
        least = least.min(begun.elapsed().as_secs_f64() * 1e9 / FRAMES as f64);
    }
    least
}

/// Choosing and writing; with `holds` into a buffer that has the frame from before.
fn make(profile: &Profile, holds: bool) -> f64 {
    let mut transmit = start(profile);
    let mut buffer = vec![0; transmit.longest()];
    least(|| {
        for _ in 0..FRAMES {
            let due = transmit.due_ns().unwrap();
            let due = transmit.next(due).unwrap();
            transmit.write(&due, &mut buffer, holds);
            black_box(&buffer);
        }
    })
}

/// Taking what was made, as a seat hands it over: a ring of frames.
fn check(profile: &Profile) -> f64 {
    let mut transmit = start(profile);
    let mut receive = Receive::new(profile, "", 1);
    // A run's frames, some in the cache's reach: 64 KiB frames would be none.
    let mut ring = vec![vec![0; transmit.longest()]; FRAMES.min((4 << 20) / transmit.longest())];
    let mut least = f64::INFINITY;
    for _ in 0..200 {
        let mut taken = Duration::ZERO;
        for _ in 0..FRAMES / ring.len() {
            let frames: Vec<(usize, u16, u64)> = ring
                .iter_mut()
                .map(|buffer| {
                    let due = transmit.due_ns().unwrap();
                    let due = transmit.next(due).unwrap();
                    (
                        transmit.write(&due, buffer, false),
                        transmit.vnet(&due).gso_size,
                        due.intended_ns(),
                    )
                })
                .collect();
            let begun = Instant::now();
            for (buffer, (len, segment, intended)) in ring.iter().zip(&frames) {
                receive.frame(&buffer[..*len], *segment, intended + 1000);
            }
            taken += begun.elapsed();
        }
        let frames = FRAMES / ring.len() * ring.len();
        least = least.min(taken.as_secs_f64() * 1e9 / frames as f64);
    }
    assert_eq!(
        receive.strange(),
        culvert_pktgen::receive::Strange::default()
    );
    least
}
