//! The whole way, both ways, against the AEAD alone.
//!
//! In: two processors, libdpdk's `net_null`. Out: nanoseconds per packet of the way and of the AEAD, medians, and how
//! many turns they are of. Never: a comparison of runs that were not next to each other in time, of memory that is
//! nearer to one side, or of turns in which another guest of the machine worked on our core (`quiet` says how many of
//! the turns did count; if hardly any, all do, and the case says `disturbed`).
//!
//! ```text
//!                processor 1                              processor 0
//!   out:  a guest's driver ── ring ── vhost port ── worker ── tunnel ── net_null
//!   in:   sealed packets in memory ── tunnel ── worker ── vhost port ── ring ── a guest's driver
//! ```
//! A turn begins with a burst that processor 1 has just written and ends when its last packet is with the device or in
//! the guest's ring; the worker may need several of its own turns for it. What comes in bears counters that were never
//! seen, in order, through the replay window, and every packet that was accepted is delivered or lost under a name. The
//! AEAD alone seals or opens as many packets of the same lengths that processor 1 has just written, in the same batches,
//! and knows all of its jobs beforehand.
//!
//! Usage: cargo bench -p culvert-dataplane --bench way -- [--json] [--case TEXT] [--kernel avx512|avx2|portable]
//!        [--turns N]

#![allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark: it displays, and stops where it fails"
)]

mod site;
#[path = "../aead/benches/turns/mod.rs"]
mod turns;

use std::{
    env,
    time::{Duration, Instant},
};

use culvert_aead::{Engine, Jobs, Kernel, OpenJob, SealJob, Segment, TAILROOM};
use culvert_dataplane::shared::limits;
use culvert_wireguard::message::DATA_HEADER_LEN;
use site::{
    Scale, Size, Way, null,
    rig::{Rig, WORKER, processor},
};
use turns::Turns;

const BURSTS: [usize; 4] = [1, 8, 32, 128];
const PEERS: [usize; 2] = [1, 1000];
/// Turns that make a figure, how many there are at the most when others disturb, and packets that make one in any case:
/// the largest bursts take long.
const TURNS: usize = 1000;
const MOST: usize = 6;
const PACKETS: usize = 200_000;
const LEAST_TURNS: usize = 50;
/// Turns that one key is used for.
const ROUNDS: usize = 200;

fn main() {
    let options = Options::read(env::args().skip(1));
    let eal = null::eal(WORKER);
    let processor = processor();
    let mut alone = Alone::new(options.engine());
    if !options.json {
        println!("{processor}, kernel {}", options.engine().kernel().name());
        println!(
            "{:30} {:>8} {:>8} {:>8} {:>7} {:>7} {:>13}",
            "ns per packet, medians", "way", "aead", "but aead", "cost", "Mpps", "quiet"
        );
    }
    for way in [Way::Out, Way::In] {
        for peers in PEERS {
            let mut rig = None;
            for (size, burst) in shapes() {
                let name = format!("{}/{}/burst-{burst}/peers-{peers}", way.name(), size.name());
                if name.contains(&options.case) {
                    let scale = Scale::peers(peers);
                    let rig = rig
                        .get_or_insert_with(|| Rig::new(way, scale, peers, eal, options.engine()));
                    let turns = compare(rig, &mut alone, (size, burst), options.turns);
                    show(&name, &turns, &processor, options.json);
                }
            }
            if let Some(rig) = rig {
                rig.settle();
            }
        }
    }
}

fn shapes() -> impl Iterator<Item = (Size, usize)> {
    Size::ALL
        .into_iter()
        .flat_map(|size| BURSTS.map(|burst| (size, burst)))
}

/// What was asked for.
struct Options {
    json: bool,
    case: String,
    kernel: Kernel,
    turns: usize,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            json: false,
            case: String::new(),
            kernel: Kernel::best(),
            turns: TURNS,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value behind the option");
            match word.as_str() {
                "--json" => options.json = true,
                "--case" => options.case = value(),
                "--kernel" => {
                    let name = value();
                    let mut kernels = Kernel::ALL.into_iter();
                    options.kernel = kernels
                        .find(|kernel| kernel.name() == name)
                        .expect("avx512, avx2 or portable");
                }
                "--turns" => options.turns = value().parse().expect("a number of turns"),
                // Cargo's own.
                "--bench" => {}
                _ => panic!("no option {word}"),
            }
        }
        options
    }

    fn engine(&self) -> Engine {
        Engine::with_kernel(self.kernel).expect("a kernel of this processor")
    }
}

fn show(name: &str, turns: &Turns<2>, processor: &str, json: bool) {
    let ([way, aead], quiet) = turns.figures();
    let (taken, mpps) = (turns.taken(), 1000.0 / way.time);
    if json {
        println!(
            "{{\"section\":\"way\",\"case\":\"{name}\",\"unit\":\"ns/packet\",\"value\":{:.1},\
             \"reference\":\"aead alone\",\"reference_value\":{:.1},\"ratio\":{:.3},\"but_aead\":{:.1},\
             \"mpps\":{mpps:.3},\"quiet\":{quiet},\"turns\":{taken},\"processor\":\"{processor}\"}}",
            way.time,
            aead.time,
            aead.ratio,
            way.time - aead.time
        );
        return;
    }
    println!(
        "{name:30} {:>8.1} {:>8.1} {:>8.1} {:>7.3} {mpps:>7.3} {:>13}{}",
        way.time,
        aead.time,
        way.time - aead.time,
        1.0 / aead.ratio,
        format!("{quiet} of {taken}"),
        if turns.are_disturbed() {
            "  disturbed"
        } else {
            ""
        }
    );
}

/// Turns of the way and of the AEAD alone, nanoseconds per packet: within a millisecond the machine does not change
/// its mind about clock rates and caches as it does within a second.
fn compare(
    rig: &mut Rig,
    alone: &mut Alone,
    (size, burst): (Size, usize),
    most: usize,
) -> Turns<2> {
    let packets = burst * size.packets();
    let enough = most.min((PACKETS / packets).max(LEAST_TURNS.min(most)));
    let mut turns = Turns::new(enough, MOST * enough);
    while !turns.done() {
        if turns.taken().is_multiple_of(ROUNDS) {
            rig.renew_keys();
        }
        let before = turns::room();
        let mut spent = [0.0; 2];
        for turn in 0..2 {
            let side = (turns.taken() + turn) % 2;
            let time = match side {
                0 => rig.burst(size, burst),
                _ => alone.burst(rig.way, size, &mut rig.written(size, burst)),
            };
            spent[side] = time.as_nanos() as f64 / packets as f64;
        }
        turns.push(spent, turns::is_quiet(before.min(turns::room())));
    }
    turns
}

/// The AEAD alone, on processor 0.
struct Alone {
    engine: Engine,
    rooms: Vec<Vec<u8>>,
    counter: u64,
}

impl Alone {
    fn new(engine: Engine) -> Self {
        let longest = site::LONGEST + TAILROOM;
        Self {
            engine,
            rooms: vec![vec![0; longest]; limits::UPLINK_BURST],
            counter: 0,
        }
    }

    fn burst(&mut self, way: Way, size: Size, written: &mut [Vec<u8>]) -> Duration {
        match way {
            Way::Out => self.seal(size, written),
            Way::In => self.open(written),
        }
    }

    /// Seals what processor 1 wrote, as many packets at a time as a worker does.
    fn seal(&mut self, size: Size, written: &[Vec<u8>]) -> Duration {
        let (key, len) = ([1; 32], site::padded(size.packet_len()));
        let mut spent = Duration::ZERO;
        for batch in written.chunks(batch(size)) {
            let sources: Vec<_> = batch
                .iter()
                .map(|text| [Segment::from(&text[..])])
                .collect();
            let mut jobs = Jobs::<SealJob<'_>, { limits::SUB_BATCH }>::new();
            for (source, room) in sources.iter().zip(&mut self.rooms) {
                let body = &mut room[DATA_HEADER_LEN..];
                let job = SealJob::gather(&key, self.counter, 0, source, body, len).unwrap();
                self.counter += 1;
                assert!(jobs.push(job).is_ok());
            }
            let start = Instant::now();
            self.engine.seal(&mut jobs);
            spent += start.elapsed();
        }
        spent
    }

    /// Opens what processor 1 sealed, as many packets at a time as a worker does.
    fn open(&mut self, written: &mut [Vec<u8>]) -> Duration {
        let key = site::key(0, Way::In);
        let mut spent = Duration::ZERO;
        let mut counter = 0;
        for batch in written.chunks_mut(limits::UPLINK_BURST) {
            let mut jobs = Jobs::<OpenJob<'_>, { limits::UPLINK_BURST }>::new();
            for datagram in batch {
                let sealed = &mut datagram[DATA_HEADER_LEN..];
                let job = OpenJob::in_place(&key, counter, sealed).unwrap();
                counter += 1;
                assert!(jobs.push(job).is_ok());
            }
            let start = Instant::now();
            self.engine.open(&mut jobs);
            spent += start.elapsed();
            assert!(jobs.iter().all(OpenJob::ok), "authentic packets");
        }
        spent
    }
}

/// Packets that a worker seals together: those of a burst from a ring, or a whole sub-batch.
fn batch(size: Size) -> usize {
    match size {
        Size::Packet(_) => limits::GUEST_BURST,
        Size::SuperFrame => limits::SUB_BATCH,
    }
}
