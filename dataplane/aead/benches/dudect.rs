//! Does the time of a seal or of an open depend on secrets? A statistical test in the manner of
//! dudect (Reparaz, Balasch, Verbauwhede, 2017).
//!
//! `cargo bench -p culvert-aead --bench dudect [-- --kernel avx512|avx2|portable]`
//!
//! Two classes of inputs of the same lengths are timed in random order: zeros (key, text, tag)
//! against random ones; and, in opening, tags that are wrong in their first byte against tags wrong
//! in their last. As controls, two classes that are both random, which show the machine's noise, and
//! a seal that leaks, which shows what would be found. Welch's t over the lower nine tenths of the times (the rest is interrupts): below
//! 4.5 nothing is found, above 10 something surely is. It prints and judges nothing: a busy machine
//! makes noise, and a figure is to be read beside its repetition.

#![allow(
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of,
    clippy::unwrap_used,
    reason = "a bench may panic, and makes text and figures of numbers"
)]

use std::hint::black_box;
use std::time::Instant;

use culvert_aead::{Engine, Kernel, OpenJob, SealJob, Sealed, TAG_LEN, TAILROOM};

const SAMPLES: usize = 300_000;
const LEN: usize = 192;
/// IPv4 and TCP without options.
const HEAD: usize = 40;
const BATCH: usize = 8;
/// They stay in a core's second cache.
const INPUTS: usize = 256;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let json = words.iter().any(|word| word == "--json");
    let wanted = words
        .iter()
        .position(|word| word == "--kernel")
        .and_then(|at| words.get(at + 1));
    for kernel in Kernel::ALL {
        if wanted.is_some_and(|name| name != kernel.name()) {
            continue;
        }
        let Some(mut engine) = Engine::with_kernel(kernel) else {
            continue;
        };
        for (case, t) in [
            ("control: random against random", seals(&mut engine, true)),
            ("control: a leak of some nanoseconds", leaks(&mut engine)),
            ("seal: zeros against random", seals(&mut engine, false)),
            ("seal with sums: zeros against random", sums(&mut engine)),
            ("verify: zeros against random", verifies(&mut engine)),
            (
                "open: first byte of the tag wrong against last",
                opens(&mut engine),
            ),
        ] {
            if json {
                println!(
                    "{{\"section\":\"aead\",\"case\":\"dudect/{}/{case}\",\"unit\":\"t\",\"value\":{t:.2}}}",
                    kernel.name()
                );
            } else {
                println!("{:<9} {case:<48} |t| = {t:.2}", kernel.name());
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = (self.next() >> 24) as u8;
        }
    }
}

/// What a call is given: a key, and a text for each packet of the burst.
#[derive(Clone)]
struct Input {
    class: bool,
    key: [u8; 32],
    texts: [[u8; LEN + TAG_LEN + TAILROOM]; BATCH],
}

/// Inputs of both classes, made before anything is timed: between them and the clock is one copy, the same code for
/// either class. `zeros`: the first class is all zeros; else both are random.
fn inputs(zeros: bool) -> Vec<Input> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let fill = |random: &mut Random| {
        let mut input = Input {
            class: random.next() >> 40 & 1 == 1,
            key: [0; 32],
            texts: [[0; LEN + TAG_LEN + TAILROOM]; BATCH],
        };
        if input.class || !zeros {
            random.fill(&mut input.key);
            input.texts.iter_mut().for_each(|text| random.fill(text));
        }
        input
    };
    (0..INPUTS).map(|_| fill(&mut random)).collect()
}

/// Times `call` on inputs in random order.
fn timed(zeros: bool, mut call: impl FnMut(&mut Input)) -> f64 {
    let inputs = inputs(zeros);
    let mut random = Random(0x0dd_ba11);
    let mut input = inputs[0].clone();
    welch(|| {
        input.clone_from(&inputs[(random.next() >> 40) as usize % INPUTS]);
        let input = black_box(&mut input);
        let start = Instant::now();
        call(input);
        (input.class, start.elapsed().as_nanos() as f64)
    })
}

fn seals(engine: &mut Engine, control: bool) -> f64 {
    timed(!control, |input| {
        let mut rest = input.texts.iter_mut();
        let mut jobs: [SealJob<'_>; BATCH] = std::array::from_fn(|i| {
            let buffer = rest.next().expect("as many buffers");
            SealJob::in_place(&input.key, i as u64, buffer, LEN).expect("room")
        });
        engine.seal(&mut jobs);
    })
}

/// With the sums of payloads, and of what was sealed.
fn sums(engine: &mut Engine) -> f64 {
    engine.sum_sealed(true);
    let t = timed(true, |input| {
        let mut rest = input.texts.iter_mut();
        let mut jobs: [SealJob<'_>; BATCH] = std::array::from_fn(|i| {
            let buffer = rest.next().expect("as many buffers");
            let job = SealJob::in_place(&input.key, i as u64, buffer, LEN);
            job.and_then(|job| job.with_head(HEAD)).expect("room")
        });
        engine.seal_with(&mut jobs, |_, _, _| ());
    });
    engine.sum_sealed(false);
    t
}

/// A seal that looks whether the key is zero: this must be found.
fn leaks(engine: &mut Engine) -> f64 {
    timed(true, |input| {
        let mut jobs = [SealJob::in_place(&input.key, 0, &mut input.texts[0], LEN).expect("room")];
        engine.seal(&mut jobs);
        if input.key == [0; 32] {
            for turn in 0..4 {
                black_box(turn);
            }
        }
    })
}

fn verifies(engine: &mut Engine) -> f64 {
    timed(true, |input| {
        let mut rest = input.texts.iter();
        let mut jobs: [Sealed<'_>; BATCH] = std::array::from_fn(|i| {
            let buffer = rest.next().expect("as many buffers");
            Sealed::new(&input.key, i as u64, &buffer[..LEN + TAG_LEN]).expect("a tag")
        });
        engine.verify(&mut jobs);
    })
}

fn opens(engine: &mut Engine) -> f64 {
    let key = [3; 32];
    let mut sealed = vec![[7; LEN + TAG_LEN + TAILROOM]; BATCH];
    for (i, buffer) in sealed.iter_mut().enumerate() {
        engine.seal(&mut [SealJob::in_place(&key, i as u64, buffer, LEN).expect("room")]);
    }
    let mut buffers = sealed.clone();
    let mut random = Random(0x0dd_ba11);
    welch(|| {
        let class = random.next() >> 40 & 1 == 1;
        for (buffer, sealed) in buffers.iter_mut().zip(&sealed) {
            buffer.copy_from_slice(sealed);
            buffer[LEN + usize::from(class) * (TAG_LEN - 1)] ^= 1;
        }
        let start = Instant::now();
        let mut rest = buffers.iter_mut();
        let mut jobs: [OpenJob<'_>; BATCH] = std::array::from_fn(|i| {
            let buffer = rest.next().expect("as many buffers");
            OpenJob::in_place(&key, i as u64, &mut buffer[..LEN + TAG_LEN]).expect("a tag")
        });
        engine.open(&mut jobs);
        (class, start.elapsed().as_nanos() as f64)
    })
}

/// Welch's t between the two classes' times.
fn welch(mut time: impl FnMut() -> (bool, f64)) -> f64 {
    let mut times = [Vec::new(), Vec::new()];
    for sample in 0..SAMPLES {
        let (class, time) = time();
        if sample > SAMPLES / 20 {
            times[usize::from(class)].push(time);
        }
    }
    let mut all: Vec<f64> = times.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 9 / 10];
    let moments = times.map(|times| {
        let kept: Vec<f64> = times.into_iter().filter(|&time| time <= limit).collect();
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        let variance =
            kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (kept.len() - 1) as f64;
        (mean, variance / kept.len() as f64)
    });
    ((moments[0].0 - moments[1].0) / (moments[0].1 + moments[1].1).sqrt()).abs()
}
