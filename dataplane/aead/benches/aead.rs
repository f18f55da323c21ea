//! Seals and opens bursts beside ring, the `chacha20poly1305` crate and memcpy.
//!
//! `cargo bench -p culvert-aead [-- --json] [--kernel avx512|avx2|portable] [--case TEXT]`
//!
//! All contenders of a case take turns in one run, some microseconds at a time, so that whatever
//! else the machine does meets all of them. A figure is the median of a contender's turns, per packet;
//! a ratio is the median of the turns' ratios. A turn counts if a probe before and after it found the
//! core to ourselves (`quiet` says how many did): on a machine shared with other guests the sibling
//! thread is often theirs. A case that was hardly ever quiet says `disturbed`, and takes all turns.
//! Jobs are made anew for every burst, as a worker makes them.
//!
//! Cases are `seal/KERNEL/KEYS/BATCH/SIZE`, `open/…` and `fused-l2/…`, `fused-dram/…`; `imix` is the mix
//! beside ring, `imix-sum` beside our own bursts of its sizes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of,
    clippy::unwrap_used,
    reason = "a bench may panic, and makes text and figures of numbers"
)]

mod turns;

use std::hint::black_box;
use std::time::{Duration, Instant};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use culvert_aead::{Engine, Jobs, Kernel, KeyBytes, OpenJob, SealJob, Segment, TAG_LEN, TAILROOM};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use turns::{Turns, room};

const SIZES: [usize; 6] = [64, 128, 256, 512, 1420, 8192];
const BATCHES: [usize; 8] = [1, 2, 3, 4, 8, 16, 32, 64];

/// Turns of each contender in one case, and how long a turn lasts at least.
const TURNS: usize = 120;

/// Turns at the most, when others disturb.
const MOST_TURNS: usize = 1500;
const TURN: Duration = Duration::from_micros(40);

struct Options {
    json: bool,
    kernel: Kernel,
    case: Option<String>,
}

fn main() {
    let options = options();
    if !options.json {
        println!(
            "kernel {}; ns per packet, and the others' time as a multiple of ours",
            options.kernel.name()
        );
    }
    for keys in ["one-key", "key-each"] {
        for batch in BATCHES {
            for size in SIZES {
                seal(&options, keys, &vec![size; batch], &size.to_string());
            }
        }
        for batch in [12, 24, 36, 60] {
            seal(&options, keys, &imix(0, batch), "imix");
        }
        for batch in [24, 32, 36, 60] {
            mixed(&options, keys, batch);
        }
    }
    for batch in [1, 2, 3, 4, 8, 16, 32, 64] {
        for size in SIZES {
            open(&options, &vec![size; batch], &size.to_string());
        }
    }
    open(&options, &imix(0, 36), "imix");
    for (place, bytes) in [("l2", 512 << 10), ("dram", 320 << 20)] {
        if options.case.as_ref().is_some_and(|wanted| {
            !format!("fused-{place}").contains(wanted) && !wanted.contains(place)
        }) {
            continue;
        }
        let pool: Vec<u8> = (0..bytes).map(|i: usize| (i * 31) as u8).collect();
        for size in SIZES {
            fused(&options, place, &pool, size, 32);
        }
    }
}

fn options() -> Options {
    let mut options = Options {
        json: false,
        kernel: Kernel::best(),
        case: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => options.json = true,
            "--kernel" => {
                let name = words.next().unwrap_or_default();
                options.kernel = Kernel::ALL
                    .into_iter()
                    .find(|kernel| kernel.name() == name && kernel.is_available())
                    .unwrap_or_else(|| {
                        eprintln!("no kernel {name:?} on this processor");
                        std::process::exit(2);
                    });
            }
            "--case" => options.case = words.next(),
            // What cargo adds.
            _ => {}
        }
    }
    options
}

/// 7 x 64, 4 x 570, 1 x 1420, shuffled the same way every time, from the `first` packet on.
fn imix(first: usize, batch: usize) -> Vec<usize> {
    const DOZEN: [usize; 12] = [64, 570, 64, 64, 1420, 64, 570, 64, 570, 64, 64, 570];
    (first..first + batch).map(|i| DOZEN[i % 12]).collect()
}

/// Packets of one burst: a key, a ring key and a crate's cipher for each, and buffers of their own.
struct Burst {
    lens: Vec<usize>,
    keys: Vec<KeyBytes>,
    ring: Vec<LessSafeKey>,
    krate: Vec<ChaCha20Poly1305>,
    buffers: Vec<Vec<u8>>,
}

impl Burst {
    fn new(lens: &[usize], keys: &str) -> Self {
        let keys: Vec<KeyBytes> = (0..lens.len())
            .map(|i| {
                if keys == "one-key" {
                    [7; 32]
                } else {
                    [i as u8; 32]
                }
            })
            .collect();
        Self {
            lens: lens.to_vec(),
            ring: keys
                .iter()
                .map(|key| {
                    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes"))
                })
                .collect(),
            krate: keys
                .iter()
                .map(|key| ChaCha20Poly1305::new(key.into()))
                .collect(),
            // Buffers as a pool of them would lie: not at multiples of 4096 from one another.
            buffers: lens
                .iter()
                .map(|len| vec![1; len.next_multiple_of(2048) + TAG_LEN + TAILROOM + 48])
                .collect(),
            keys,
        }
    }

    /// One key object for all when there is one key, as a worker would have it.
    fn key(&self, i: usize) -> usize {
        if self.keys[0] == self.keys[i] { 0 } else { i }
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

fn ring_seal(key: &LessSafeKey, counter: u64, text: &mut [u8]) -> ring::aead::Tag {
    let nonce = Nonce::assume_unique_for_key(nonce(counter));
    key.seal_in_place_separate_tag(nonce, Aad::empty(), text)
        .expect("a short text")
}

fn seal(options: &Options, keys: &str, lens: &[usize], what: &str) {
    let case = format!(
        "seal/{}/{keys}/{}/{what}",
        options.kernel.name(),
        lens.len()
    );
    if options.skips(&case) {
        return;
    }
    let mut ours = Burst::new(lens, keys);
    let mut rings = Burst::new(lens, keys);
    let mut crates = Burst::new(lens, keys);
    let mut copies = Burst::new(lens, keys);
    let source = vec![5u8; 16384];
    let mut engine = Engine::with_kernel(options.kernel).expect("checked");
    let mut counter = 0;
    let turns = take_turns([
        &mut |turns: usize| {
            for _ in 0..turns {
                let mut jobs = Jobs::<_, 64>::new();
                let (keys, lens) = (&ours.keys, &ours.lens);
                for (i, buffer) in ours.buffers.iter_mut().enumerate() {
                    let key = if keys[0] == keys[i] { 0 } else { i };
                    counter += 1;
                    let job = SealJob::in_place(&keys[key], counter, buffer, lens[i]);
                    assert!(jobs.push(job.expect("room")).is_ok());
                }
                engine.seal(&mut jobs);
            }
        },
        &mut |turns| {
            for turn in 0..turns {
                for i in 0..rings.lens.len() {
                    let (key, len) = (rings.key(i), rings.lens[i]);
                    let tag =
                        ring_seal(&rings.ring[key], turn as u64, &mut rings.buffers[i][..len]);
                    rings.buffers[i][len..len + TAG_LEN].copy_from_slice(tag.as_ref());
                }
            }
        },
        &mut |turns| {
            for turn in 0..turns {
                for i in 0..crates.lens.len() {
                    let (key, len) = (crates.key(i), crates.lens[i]);
                    let (text, rest) = crates.buffers[i].split_at_mut(len);
                    let tag = crates.krate[key]
                        .encrypt_inout_detached(&nonce(turn as u64).into(), &[], text.into())
                        .expect("a short text");
                    rest[..TAG_LEN].copy_from_slice(&tag);
                }
            }
        },
        &mut |turns| {
            for _ in 0..turns {
                for (buffer, &len) in copies.buffers.iter_mut().zip(&copies.lens) {
                    buffer[..len].copy_from_slice(&black_box(&source)[..len]);
                    black_box(buffer);
                }
            }
        },
    ]);
    options.print(
        &case,
        lens.len(),
        &turns,
        &["ring", "chacha20poly1305", "memcpy"],
    );
}

/// The mix beside bursts of 32 packets of each of its sizes, weighted as they are in the mix. Three
/// bursts follow each other, so that dozens are whole for every batch that is a multiple of four.
fn mixed(options: &Options, keys: &str, batch: usize) {
    let case = format!("seal/{}/{keys}/{batch}/imix-sum", options.kernel.name());
    if options.skips(&case) {
        return;
    }
    let mut mixes = [0, batch, 2 * batch].map(|first| Burst::new(&imix(first, batch), keys));
    let mut sizes = [64, 570, 1420].map(|size| Burst::new(&[size; 32], keys));
    let mut engine = Engine::with_kernel(options.kernel).expect("checked");
    let mut counter = 0;
    let mut ours = |burst: &mut Burst, turns: usize| {
        let start = Instant::now();
        for _ in 0..turns {
            let mut jobs = Jobs::<_, 64>::new();
            let (keys, lens) = (&burst.keys, &burst.lens);
            for (i, buffer) in burst.buffers.iter_mut().enumerate() {
                let key = if keys[0] == keys[i] { 0 } else { i };
                counter += 1;
                let job = SealJob::in_place(&keys[key], counter, buffer, lens[i]);
                assert!(jobs.push(job.expect("room")).is_ok());
            }
            engine.seal(&mut jobs);
        }
        start.elapsed().as_nanos() as f64 / (turns * burst.lens.len()) as f64
    };
    let mut turns = Turns::new(TURNS, MOST_TURNS);
    while !turns.done() {
        let before = room();
        let mix: f64 = mixes.each_mut().map(|burst| ours(burst, 2)).iter().sum();
        let [small, middle, large] = sizes.each_mut().map(|burst| ours(burst, 4));
        let sum = (7.0 * small + 4.0 * middle + large) / 12.0;
        turns.push([mix / 3.0, sum], turns::is_quiet(before.min(room())));
    }
    options.print(&case, 1, &turns, &["its sizes"]);
}

/// Opening in place needs sealed packets: several bursts are sealed outside the clock, then opened. The
/// first of them ahead of the clock: in sealing's turns, which are many bursts long, the code is near, too.
fn open(options: &Options, lens: &[usize], what: &str) {
    let case = format!(
        "open/{}/one-key/{}/{what}",
        options.kernel.name(),
        lens.len()
    );
    if options.skips(&case) {
        return;
    }
    let bytes: usize = lens.iter().map(|len| len + 160).sum();
    let copies = ((64 << 10) / bytes).clamp(1, 64);
    let mut bursts: Vec<_> = (0..=copies).map(|_| Burst::new(lens, "one-key")).collect();
    let mut engine = Engine::with_kernel(options.kernel).expect("checked");
    let mut turns = Turns::new(TURNS, MOST_TURNS);
    while !turns.done() {
        let mut times = [0.0; 2];
        let mut least = f64::MAX;
        for (contender, time) in times.iter_mut().enumerate() {
            for burst in &mut bursts {
                for (buffer, &len) in burst.buffers.iter_mut().zip(lens) {
                    let tag = ring_seal(&burst.ring[0], 9, &mut buffer[..len]);
                    buffer[len..len + TAG_LEN].copy_from_slice(tag.as_ref());
                }
            }
            least = least.min(room());
            let mut start = Instant::now();
            for (i, burst) in bursts.iter_mut().enumerate() {
                if i == 1 {
                    start = Instant::now();
                }
                if contender == 0 {
                    let mut jobs = Jobs::<_, 64>::new();
                    for (buffer, &len) in burst.buffers.iter_mut().zip(lens) {
                        let job =
                            OpenJob::in_place(&burst.keys[0], 9, &mut buffer[..len + TAG_LEN]);
                        assert!(jobs.push(job.expect("a tag")).is_ok());
                    }
                    engine.open(&mut jobs);
                    assert!(jobs.iter().all(OpenJob::ok));
                } else {
                    for (buffer, &len) in burst.buffers.iter_mut().zip(lens) {
                        let nonce = Nonce::assume_unique_for_key(nonce(9));
                        let sealed = &mut buffer[..len + TAG_LEN];
                        burst.ring[0]
                            .open_in_place(nonce, Aad::empty(), sealed)
                            .expect("sealed so");
                    }
                }
            }
            *time = start.elapsed().as_nanos() as f64 / copies as f64;
            least = least.min(room());
        }
        turns.push(times, turns::is_quiet(least));
    }
    options.print(&case, lens.len(), &turns, &["ring"]);
}

/// Sealing from elsewhere beside memcpy and ring, with sources that lie in a pool of a given size.
fn fused(options: &Options, place: &str, pool: &[u8], size: usize, batch: usize) {
    let case = format!(
        "fused-{place}/{}/one-key/{batch}/{size}",
        options.kernel.name()
    );
    if options.skips(&case) {
        return;
    }
    let mut ours = Burst::new(&vec![size; batch], "one-key");
    let mut rings = Burst::new(&vec![size; batch], "one-key");
    let mut copies = Burst::new(&vec![size; batch], "one-key");
    let mut engine = Engine::with_kernel(options.kernel).expect("checked");
    // All contenders walk on through the pool, so that nobody finds what another one has warmed.
    // Strides are odd multiples of lines: neighbours in a burst are not neighbours in memory.
    let stride = (size + 64 * 97).next_multiple_of(64);
    let at = std::cell::Cell::new(0);
    let next = || {
        let here = at.get();
        at.set(if here + stride + size > pool.len() {
            here % 4096 / 64 * 64
        } else {
            here + stride
        });
        &pool[here..here + size]
    };
    let turns = take_turns([
        &mut |turns: usize| {
            for turn in 0..turns {
                let sources: [[Segment<'_>; 1]; 64] = std::array::from_fn(|i| {
                    [Segment::from(if i < batch { next() } else { &pool[..0] })]
                });
                let mut jobs = Jobs::<_, 64>::new();
                for (buffer, source) in ours.buffers.iter_mut().zip(&sources) {
                    let job = SealJob::copy(&ours.keys[0], turn as u64, source, buffer, size);
                    assert!(jobs.push(job.expect("room")).is_ok());
                }
                engine.seal(&mut jobs);
            }
        },
        &mut |turns| {
            for turn in 0..turns {
                for buffer in &mut rings.buffers {
                    buffer[..size].copy_from_slice(next());
                    let tag = ring_seal(&rings.ring[0], turn as u64, &mut buffer[..size]);
                    buffer[size..size + TAG_LEN].copy_from_slice(tag.as_ref());
                }
            }
        },
        &mut |turns| {
            for _ in 0..turns {
                for buffer in &mut copies.buffers {
                    buffer[..size].copy_from_slice(next());
                    black_box(buffer);
                }
            }
        },
    ]);
    options.print(&case, batch, &turns, &["memcpy + ring", "memcpy"]);
}

/// Runs the contenders in turn, each often enough to fill its turn.
fn take_turns<const N: usize>(mut contenders: [&mut dyn FnMut(usize); N]) -> Turns<N> {
    let mut rounds = [1; N];
    for (contender, rounds) in contenders.iter_mut().zip(&mut rounds) {
        contender(2);
        let mut took = Duration::ZERO;
        while took < TURN {
            *rounds *= 2;
            let start = Instant::now();
            contender(*rounds);
            took = start.elapsed();
        }
    }
    let mut turns = Turns::new(TURNS, MOST_TURNS);
    while !turns.done() {
        let before = room();
        let mut times = [0.0; N];
        for ((contender, &rounds), time) in contenders.iter_mut().zip(&rounds).zip(&mut times) {
            let start = Instant::now();
            contender(rounds);
            *time = start.elapsed().as_nanos() as f64 / rounds as f64;
        }
        turns.push(times, turns::is_quiet(before.min(room())));
    }
    turns
}

impl Options {
    fn skips(&self, case: &str) -> bool {
        self.case
            .as_ref()
            .is_some_and(|wanted| !case.contains(wanted.as_str()))
    }

    fn print<const N: usize>(
        &self,
        case: &str,
        packets: usize,
        turns: &Turns<N>,
        references: &[&str],
    ) {
        let packets = packets as f64;
        let (figures, quiet) = turns.figures();
        let ours = figures[0];
        if self.json {
            for (figure, reference) in figures[1..].iter().zip(references) {
                println!(
                    "{{\"section\":\"aead\",\"case\":\"{case}\",\"unit\":\"ns\",\"value\":{:.1},\
                     \"reference\":\"{reference}\",\"reference_value\":{:.1},\
                     \"ratio\":{:.3},\"quiet\":{quiet},\"turns\":{}}}",
                    ours.time / packets,
                    figure.time / packets,
                    figure.ratio,
                    turns.taken()
                );
            }
            return;
        }
        print!("{case:<36} {:>8.1}", ours.time / packets);
        for (figure, reference) in figures[1..].iter().zip(references) {
            print!(
                "  {reference} {:.1} ({:.2}x)",
                figure.time / packets,
                figure.ratio
            );
        }
        println!(
            "{}",
            if turns.are_disturbed() {
                "  disturbed"
            } else {
                ""
            }
        );
    }
}
