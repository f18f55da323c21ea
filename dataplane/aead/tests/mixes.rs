//! Bursts in which few long packets meet many short ones, so that texts of unlike lengths share
//! Poly1305's lanes; memory that changes while it is sealed; and that nothing is allocated.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test may panic, and makes text of numbers"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use culvert_aead::{
    Engine, Jobs, Kernel, OpenJob, SealJob, Sealed, Segment, SegmentMut, TAG_LEN, TAILROOM,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: it is the system's allocator, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(place, layout) };
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn engines() -> impl Iterator<Item = Engine> {
    Kernel::ALL.into_iter().filter_map(Engine::with_kernel)
}

fn text(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + seed) as u8).collect()
}

/// What ring makes of a text.
fn sealed(key: &[u8; 32], counter: u64, mut text: Vec<u8>) -> Vec<u8> {
    let key = ring::aead::UnboundKey::new(&ring::aead::CHACHA20_POLY1305, key).unwrap();
    let key = ring::aead::LessSafeKey::new(key);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, ring::aead::Aad::empty(), &mut text)
        .unwrap();
    text
}

/// The one's complement sum of big-endian words, word by word (RFC 1071).
fn words(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Seals and opens a burst of these lengths, and looks at what sums there are; one packet in five is broken.
fn burst(engine: &mut Engine, lens: &[usize]) {
    let keys: Vec<[u8; 32]> = (0..lens.len()).map(|i| [i as u8 % 3; 32]).collect();
    let mut buffers: Vec<Vec<u8>> = lens
        .iter()
        .enumerate()
        .map(|(i, &len)| [text(i, len), vec![0; TAG_LEN + TAILROOM]].concat())
        .collect();
    let mut jobs = Jobs::<_, 64>::new();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        let job = SealJob::in_place(&keys[i], i as u64, buffer, lens[i]);
        assert!(jobs.push(job.unwrap()).is_ok());
    }
    engine.sum_sealed(true);
    engine.seal(&mut jobs);
    let kernel = engine.kernel();
    let sums: Vec<_> = jobs.iter().map(SealJob::sealed_sum).collect();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        buffer.truncate(lens[i] + TAG_LEN);
        let expected = sealed(&keys[i], i as u64, text(i, lens[i]));
        assert_eq!(*buffer, expected, "{kernel:?}: packet {i} of {lens:?}");
        if let Some(sum) = sums[i] {
            let expected = words(buffer);
            assert_eq!(sum.value(), expected, "{kernel:?}: sum {i} of {lens:?}");
        }
        if i % 5 == 2 {
            buffer[lens[i] / 2] ^= 1;
        }
    }
    let came = buffers.clone();
    let mut jobs = Jobs::<_, 64>::new();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        let job = OpenJob::in_place(&keys[i], i as u64, buffer).unwrap();
        assert!(jobs.push(job).is_ok());
    }
    engine.open(&mut jobs);
    let verdicts: Vec<bool> = jobs.iter().map(OpenJob::ok).collect();
    for (i, ok) in verdicts.into_iter().enumerate() {
        assert_eq!(ok, i % 5 != 2, "{kernel:?}: packet {i} of {lens:?}");
        if ok {
            assert_eq!(buffers[i][..lens[i]], text(i, lens[i]));
        } else {
            assert_eq!(buffers[i], came[i]);
        }
    }
}

#[test]
fn few_long_packets_among_many_short_ones() {
    for mut engine in engines() {
        for long in 0..5 {
            for middle in 0..10 {
                for short in [0, 1, 2, 3, 5, 15, 16, 17, 19, 33] {
                    let mut lens = vec![1420; long];
                    lens.extend((0..middle).map(|i| 570 - i * 37));
                    lens.extend((0..short).map(|i| [64, 0, 40, 63, 64, 64, 1][i % 7]));
                    // Not in order.
                    let turn = lens.len() / 3;
                    lens.rotate_left(turn);
                    burst(&mut engine, &lens);
                }
            }
        }
        for len in 0..200 {
            burst(&mut engine, &[len, 0, 8192, 2 * len, 64, 700, 64, 3 * len]);
            burst(&mut engine, &[len; 17]);
        }
    }
}

#[test]
fn sums_of_what_was_sealed_come_with_full_bursts_where_they_cost_nothing() {
    for mut engine in engines() {
        for (len, count) in [(1420, 47), (1421, 16), (576, 24), (9000, 8), (1420, 5)] {
            let mut buffers = vec![vec![1; len + TAG_LEN + TAILROOM]; count];
            for wanted in [true, false] {
                engine.sum_sealed(wanted);
                let mut jobs = Jobs::<_, 64>::new();
                for (i, buffer) in buffers.iter_mut().enumerate() {
                    let job = SealJob::in_place(&[1; 32], i as u64, buffer, len);
                    assert!(jobs.push(job.unwrap()).is_ok());
                }
                engine.seal_with(&mut jobs, |_, _, _| ());
                let there = jobs.iter().filter_map(SealJob::sealed_sum).count();
                if engine.kernel() == Kernel::Avx512 && wanted {
                    // One text of a burst may be authenticated aside, in words.
                    assert!(there + 1 >= count, "{there} of {count}");
                } else {
                    assert_eq!(there, 0);
                }
            }
        }
    }
}

#[test]
fn texts_longer_than_what_is_worked_on_at_a_time() {
    let longs = [65_535, 40_000, 33_000, 32_768, 16_384, 9_000, 8_192, 1_420];
    for mut engine in engines() {
        for first in 0..longs.len() {
            for count in [1, 2, 3, 5, 8] {
                let mut lens: Vec<usize> = (0..count).map(|i| longs[(first + i) % 8]).collect();
                burst(&mut engine, &lens);
                lens.extend([0, 64, 255, 256, 257, 1420, 64, 640]);
                burst(&mut engine, &lens);
            }
        }
        // Where lengths begin to take more than sixteen bits of blocks and index.
        for long in 16_360..16_390 {
            burst(&mut engine, &[long, 64, 79, 64, 1, 16_383, 65, 48, 80, 570]);
        }
        // A whole burst of each, over many portions.
        for len in [64, 256, 512, 1420, 2_000, 9_000] {
            burst(&mut engine, &[len; 64]);
            burst(&mut engine, &[len; 63]);
        }
    }
}

#[test]
fn what_changes_while_it_is_sealed_is_read_once() {
    const LEN: usize = 1400;
    let (words, stop) = (vec![0u64; LEN / 8], AtomicBool::new(false));
    let guest: Vec<AtomicU64> = words.into_iter().map(AtomicU64::new).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 1u64;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                for word in &guest {
                    word.store(value, Ordering::Relaxed);
                }
            }
        });
        for mut engine in engines() {
            for round in 0..2000 {
                let key = [5; 32];
                let start = NonNull::from(&guest[..]).cast::<u8>();
                let skip = round % 9;
                // SAFETY: the words live; nothing else of this call overlaps them. What the other
                // thread stores there meanwhile is what such a segment is for.
                let source = unsafe {
                    [
                        Segment::from_raw(start.add(skip), 333),
                        Segment::from_raw(start.add(skip + 333), LEN - 333 - skip),
                    ]
                };
                let len = 20 + LEN - skip;
                let mut buffer = vec![0; len + TAG_LEN + TAILROOM];
                let job = SealJob::gather(&key, 7, 20, &source, &mut buffer, len).unwrap();
                let mut jobs = [job];
                engine.seal_with(&mut jobs, |_, sum, head| {
                    head[..2].copy_from_slice(&sum.value().to_be_bytes());
                });
                let job = OpenJob::in_place(&key, 7, &mut buffer[..len + TAG_LEN]).unwrap();
                let mut jobs = [job];
                engine.open(&mut jobs);
                // A second read, for the tag or for the sum, would have seen something else.
                assert!(jobs[0].ok(), "{:?}: the tag", engine.kernel());
                let mut sum = 0u32;
                for word in buffer[20..len].chunks(2) {
                    sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
                }
                while sum > 0xffff {
                    sum = (sum & 0xffff) + (sum >> 16);
                }
                let told = u32::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                assert_eq!(told, sum, "{:?}: the sum", engine.kernel());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn no_burst_allocates() {
    for mut engine in engines() {
        let key = [1; 32];
        let lens: Vec<usize> = (0..40).map(|i| i * 53).collect();
        let mut buffers: Vec<_> = lens
            .iter()
            .map(|len| vec![3; len + TAG_LEN + TAILROOM])
            .collect();
        let mut there = vec![0; 4096];
        let before = ALLOCATIONS.get();
        let mut jobs = Jobs::<_, 64>::new();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            let job = SealJob::in_place(&key, i as u64, buffer, lens[i]);
            assert!(jobs.push(job.unwrap()).is_ok());
        }
        engine.seal_with(&mut jobs, |_, _, _| ());
        let mut jobs = Jobs::<_, 64>::new();
        for (i, buffer) in buffers.iter().enumerate() {
            let job = Sealed::new(&key, i as u64, &buffer[..lens[i] + TAG_LEN]).unwrap();
            assert!(jobs.push(job).is_ok());
        }
        engine.verify(&mut jobs);
        let to = [SegmentMut::from(&mut there[..lens[39]])];
        engine.decrypt(&mut [jobs[39].decrypt(0..lens[39], &to).unwrap()]);
        let mut jobs = Jobs::<_, 64>::new();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            let sealed = &mut buffer[..lens[i] + TAG_LEN];
            assert!(
                jobs.push(OpenJob::in_place(&key, i as u64, sealed).unwrap())
                    .is_ok()
            );
        }
        engine.open(&mut jobs);
        assert!(jobs.iter().all(OpenJob::ok));
        assert_eq!(ALLOCATIONS.get() - before, 0, "{:?}", engine.kernel());
    }
}
