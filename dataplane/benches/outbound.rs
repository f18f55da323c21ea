//! The whole way out against the seal alone: 64 KiB frames from a guest into a DPDK device that takes everything.
//!
//! In: two processors, libdpdk's `net_null`. Out: nanoseconds per frame both ways, and the median of the turns' ratios.
//! Never: a comparison of runs that were not next to each other in time, of memory that is nearer to one side, or of
//! turns in which another guest of the machine worked on our core (`quiet` says how many of the turns did count; if
//! hardly any, all do, and the case says `disturbed`).
//!
//! ```text
//!   processor 1: a guest's driver ── ring ── vhost port ── worker (processor 0) ── tunnel ── net_null
//!   processor 1: writes memory    ──────────────────────── seal   (processor 0) ── buffers
//! ```
//! Both begin with the same number of frames that processor 1 has just written, and end when the last packet is
//! sealed (and handed to the device). The seal's reference is `Engine::seal`, fused: it reads the payload where the
//! other processor wrote it and writes packets into buffers of its own; it knows all of its jobs beforehand. The second
//! reference, `Engine::seal_with`, also sums the payloads on its way, as the whole way must for the inner checksums.
//!
//! Usage: cargo bench -p culvert-dataplane --bench outbound -- [--json] [--case TEXT] [--profile way|seal|sums]
//! With `--profile` one of them alone, for a profiler to look at.

#![allow(
    unsafe_code,
    reason = "a benchmark: memory that another processor writes"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark: it displays, and stops where it fails"
)]

mod site;
#[path = "../aead/benches/turns/mod.rs"]
mod turns;

use std::{
    hint,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use culvert_aead::{Engine, Jobs, SealJob, Segment, TAG_LEN, TAILROOM};
use culvert_dataplane::uplink::dpdk::DpdkUplink;
use culvert_vhost::frontend::Frontend;
use site::{
    ETHERNET, HEADERS, MTU, SEGMENT, SEGMENTS, Scale, Site, Size,
    null::{self, pin},
};
use turns::Turns;

const WORKER: usize = 0;
const GUEST: usize = 1;

const FRAME: usize = ETHERNET + HEADERS + SEGMENT * SEGMENTS;

/// Frames that are written before the clock starts. With two they are as fresh as can be, with sixteen they fill
/// half of a usual second-level cache.
const FRAMES: [usize; 2] = [2, 16];
/// Turns that make a figure, and how many there are at the most when others disturb.
const TURNS: usize = 1000;
const MOST_TURNS: usize = 6000;
/// Turns that one key is used for.
const ROUNDS: usize = 200;

fn main() {
    let mut json = false;
    let mut wanted = String::new();
    let mut profiled = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--case" => wanted = words.next().expect("--case takes a text"),
            "--profile" => profiled = words.next(),
            // Cargo's own.
            "--bench" => {}
            _ => panic!("no option {word}"),
        }
    }
    let mut rig = Rig::new();
    if !json {
        println!(
            "{:32} {:>12} {:>23} {:>7} {:>11}   target",
            "ns per 64 KiB frame, medians", "culvert", "reference", "cost", "quiet"
        );
    }
    for frames in FRAMES {
        let case = format!("outbound/vhost-to-net_null/{frames}x64KiB");
        if !case.contains(&wanted) {
            continue;
        }
        if let Some(side) = &profiled {
            let spent = (0..TURNS / ROUNDS).map(|_| {
                rig.site.renew_keys();
                let rounds = (0..ROUNDS).map(|_| match side.as_str() {
                    "way" => rig.whole_way(frames),
                    "seal" => rig.seal_alone(frames, false),
                    "sums" => rig.seal_alone(frames, true),
                    _ => panic!("--profile takes way, seal or sums"),
                });
                median(rounds)
            });
            println!("{case} {side}: {:.0} ns per frame", median(spent));
            continue;
        }
        let turns = rig.compare(frames);
        let ([own, references @ ..], quiet) = turns.figures();
        let names = [("aead alone", Some(1.25)), ("aead with sums", None)];
        for (reference, (name, target)) in references.iter().zip(names) {
            if json {
                println!(
                    "{{\"section\":\"gso\",\"case\":\"{case}\",\"unit\":\"ns/frame\",\"value\":{:.0},\
                     \"reference\":\"{name}\",\"reference_value\":{:.0},\"ratio\":{:.3},\"quiet\":{quiet},\"turns\":{}}}",
                    own.time,
                    reference.time,
                    reference.ratio,
                    turns.taken()
                );
                continue;
            }
            let cost = 1.0 / reference.ratio;
            let target = target.map_or(String::new(), |target| {
                format!("{target}{}", if cost > target { "  short" } else { "" })
            });
            println!(
                "{case:32} {:>12.0} {name:>14} {:>8.0} {cost:>7.3} {:>11}   {target}{}",
                own.time,
                reference.time,
                format!("{quiet} of {}", turns.taken()),
                if turns.are_disturbed() {
                    "  disturbed"
                } else {
                    ""
                }
            );
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const IDLE: usize = 0;
/// Post frames; or write the reference's memory.
const POST: usize = 1 << 8;
const WRITE: usize = 2 << 8;

/// What the guest's processor is told, and how often it was done with it.
#[derive(Default)]
struct Orders {
    order: AtomicUsize,
    done: AtomicUsize,
}

impl Orders {
    /// Lets the other processor do something, and waits until it is done.
    fn give(&self, order: usize) {
        let before = self.done.load(Ordering::Acquire);
        self.order.store(order, Ordering::Release);
        while self.done.load(Ordering::Acquire) == before {
            hint::spin_loop();
        }
    }
}

struct Rig {
    site: Site,
    /// Keeps the device open.
    _device: DpdkUplink,
    orders: Arc<Orders>,
    /// Where the reference's frames lie, in the guest's memory.
    source: Vec<NonNull<u8>>,
    engine: Engine,
    rooms: Vec<Vec<u8>>,
    counter: u64,
}

impl Rig {
    fn new() -> Self {
        let (device, queue, hop) = null::open(null::eal(WORKER), 0);
        let site = Site::new(Scale::peers(1), queue, hop, Engine::new());
        let mut frontend = site.guests().remove(0);
        let stride = FRAME.next_multiple_of(64) as u64 + 192;
        let most = FRAMES.into_iter().max().unwrap_or(1);
        let at: Vec<u64> = (0..most)
            .map(|_| frontend.memory.take(stride, 64))
            .collect();
        let source = at
            .iter()
            .map(|&guest| {
                let user = usize::try_from(frontend.memory.user_of(guest)).unwrap();
                NonNull::new(std::ptr::with_exposed_provenance_mut(user)).unwrap()
            })
            .collect();
        let orders = Arc::new(Orders::default());
        let heard = Arc::clone(&orders);
        thread::spawn(move || drive(&mut frontend, &at, &heard));
        Self {
            site,
            _device: device,
            orders,
            source,
            engine: Engine::new(),
            rooms: vec![vec![0; 16 + usize::from(MTU) + TAG_LEN + TAILROOM + 320]; 64],
            counter: 0,
        }
    }

    /// Turns of the whole way, the seal alone and the seal with sums, nanoseconds per frame: within a millisecond the
    /// machine does not change its mind about clock rates and caches as it does within a second.
    fn compare(&mut self, frames: usize) -> Turns<3> {
        let mut turns = Turns::new(TURNS, MOST_TURNS);
        while !turns.done() {
            if turns.taken().is_multiple_of(ROUNDS) {
                self.site.renew_keys();
            }
            let before = turns::room();
            let mut spent = [0.0; 3];
            for turn in 0..3 {
                let side = (turns.taken() + turn) % 3;
                spent[side] = match side {
                    0 => self.whole_way(frames),
                    _ => self.seal_alone(frames, side == 2),
                };
            }
            turns.push(spent, turns::is_quiet(before.min(turns::room())));
        }
        turns
    }

    /// Nanoseconds per frame from the guest's ring into the device.
    fn whole_way(&mut self, frames: usize) -> f64 {
        self.orders.give(POST | frames);
        let until = self.site.sent() + (frames * SEGMENTS) as u64;
        let start = Instant::now();
        while self.site.sent() < until {
            self.site.worker.step();
        }
        let spent = start.elapsed();
        assert_eq!(self.site.sent(), until, "each frame is cut into {SEGMENTS}");
        per_frame(spent, frames)
    }

    /// Nanoseconds per frame for sealing the same bytes, with or without their sums.
    fn seal_alone(&mut self, frames: usize, sums: bool) -> f64 {
        let key = [1; 32];
        self.orders.give(WRITE | frames);
        let mut spent = Duration::ZERO;
        for &start in &self.source[..frames] {
            let payload: Vec<[Segment<'_>; 1]> = (0..SEGMENTS)
                .map(|packet| {
                    let offset = ETHERNET + HEADERS + packet * SEGMENT;
                    // SAFETY: the frame lies in the guest's memory, which is mapped as long as its thread runs: for
                    // ever.
                    [unsafe { Segment::from_raw(start.add(offset), SEGMENT) }]
                })
                .collect();
            let mut jobs = Jobs::<SealJob<'_>>::new();
            for (source, room) in payload.iter().zip(&mut self.rooms) {
                let len = usize::from(MTU).next_multiple_of(16).min(usize::from(MTU));
                let job =
                    SealJob::gather(&key, self.counter, HEADERS, source, &mut room[16..], len);
                self.counter += 1;
                assert!(jobs.push(job.unwrap()).is_ok());
            }
            let start = Instant::now();
            if sums {
                self.engine.seal_with(&mut jobs, |_, _, _| ());
            } else {
                self.engine.seal(&mut jobs);
            }
            spent += start.elapsed();
        }
        per_frame(spent, frames)
    }
}

fn per_frame(spent: Duration, frames: usize) -> f64 {
    spent.as_nanos() as f64 / frames as f64
}

/// The guest's processor.
fn drive(frontend: &mut Frontend, at: &[u64], orders: &Orders) {
    pin(GUEST);
    let (vnet, mut frame) = Scale::peers(1).frame(Size::SuperFrame, 0, 0);
    let mut serial = 0u8;
    loop {
        let order = orders.order.swap(IDLE, Ordering::Acquire);
        if order == IDLE {
            hint::spin_loop();
            continue;
        }
        for &at in at.iter().take(order & 0xff) {
            serial = serial.wrapping_add(1);
            frame[ETHERNET + HEADERS..].fill(serial);
            if order & WRITE != 0 {
                frontend.memory.write(at, &frame);
            } else {
                assert!(frontend.send_frame(0, &vnet, &frame), "room in the ring");
            }
        }
        orders.done.fetch_add(1, Ordering::Release);
    }
}
