//! Nothing is read or written outside a packet's buffer: buffers begin behind an inaccessible page, or end before one.

#![allow(unsafe_code, reason = "a test: pages without access")]
#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::ptr;
use std::slice;

use culvert_aead::{Engine, Jobs, Kernel, OpenJob, SealJob, Segment, TAG_LEN, TAILROOM};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const PAGE: usize = 4096;
const DATA: usize = 3 * PAGE;

/// Data pages between two that nobody may touch.
struct Guarded(*mut u8);

impl Guarded {
    fn new() -> Self {
        let all = DATA + 2 * PAGE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping where the kernel likes; its outer pages are nobody's yet.
        unsafe {
            let start = mmap_anonymous(ptr::null_mut(), all, access, MapFlags::PRIVATE).unwrap();
            mprotect(start, PAGE, MprotectFlags::empty()).unwrap();
            mprotect(start.byte_add(PAGE + DATA), PAGE, MprotectFlags::empty()).unwrap();
            Self(start.cast())
        }
    }

    /// So many bytes, behind the first guard or before the second one.
    fn bytes(&mut self, len: usize, at_the_end: bool) -> &mut [u8] {
        let skip = if at_the_end { DATA - len } else { 0 };
        // SAFETY: data pages are mapped, and borrowed with this.
        unsafe { slice::from_raw_parts_mut(self.0.add(PAGE + skip), len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, to which no reference is left.
        unsafe { munmap(self.0.cast(), DATA + 2 * PAGE).unwrap() };
    }
}

#[test]
fn nothing_is_touched_outside_of_buffers() {
    let key = [7; 32];
    let mut places: Vec<Guarded> = (0..40).map(|_| Guarded::new()).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % bound
    };
    for kernel in [Kernel::Avx512, Kernel::Avx2, Kernel::Portable] {
        let Some(mut engine) = Engine::with_kernel(kernel) else {
            continue;
        };
        for round in 0..4_000 {
            // Lengths up to some steps for one to nine packets, then mixes: of short ones, of all.
            let (count, only) = match round {
                0..2_700 => (1 + round % 9, Some(round / 9 * 5)),
                _ => (1 + below(places.len()), None),
            };
            let mut lens = Vec::new();
            for _ in 0..count {
                let mixed = match round {
                    2_700..3_000 => below(70),
                    _ => [below(70), below(600), below(1_500), below(9_000)][below(4)],
                };
                lens.push(only.unwrap_or(mixed));
            }
            let at_the_end = round % 2 == 1;
            let mut jobs = Jobs::<_, 64>::new();
            for (place, &len) in places.iter_mut().zip(&lens) {
                let buffer = place.bytes(len + TAG_LEN + TAILROOM, at_the_end);
                buffer.fill(0x5a);
                let job = SealJob::in_place(&key, 9, buffer, len).unwrap();
                assert!(jobs.push(job).is_ok());
            }
            engine.seal(&mut jobs);
            // To be opened a packet has no room behind it.
            let mut jobs = Jobs::<_, 64>::new();
            for (place, &len) in places.iter_mut().zip(&lens) {
                let room = len + TAG_LEN + TAILROOM;
                let mut sealed = place.bytes(room, at_the_end)[..len + TAG_LEN].to_vec();
                let buffer = place.bytes(len + TAG_LEN, at_the_end);
                buffer.swap_with_slice(&mut sealed);
                let job = OpenJob::in_place(&key, 9, buffer).unwrap();
                assert!(jobs.push(job).is_ok());
            }
            engine.open(&mut jobs);
            assert!(jobs.iter().all(OpenJob::ok), "{kernel:?}: {lens:?}");
            for (place, &len) in places.iter_mut().zip(&lens) {
                let text = &place.bytes(len + TAG_LEN, at_the_end)[..len];
                assert!(
                    text.iter().all(|&byte| byte == 0x5a),
                    "{kernel:?}: {lens:?}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_touched_outside_of_segments() {
    const HEAD: usize = 40;
    let key = [7; 32];
    let mut texts: Vec<Guarded> = (0..9).map(|_| Guarded::new()).collect();
    let mut places: Vec<Guarded> = (0..9).map(|_| Guarded::new()).collect();
    let mut portable = Engine::with_kernel(Kernel::Portable).unwrap();
    for kernel in [Kernel::Avx512, Kernel::Avx2] {
        let Some(mut engine) = Engine::with_kernel(kernel) else {
            continue;
        };
        for round in 0..1_500 {
            let (payload, at_the_end) = (round, round % 2 == 1);
            let len = HEAD + payload;
            let room = len + TAG_LEN + TAILROOM;
            for text in &mut texts {
                text.bytes(payload, at_the_end).fill(0x5a);
            }
            let mut expected = vec![0x11; room];
            let job = [Segment::from(&[0x5a; 1_500][..payload])];
            let job = SealJob::gather(&key, 9, HEAD, &job, &mut expected, len);
            portable.seal(&mut [job.unwrap()]);
            // Cut where blocks are not.
            let cut = payload * 3 / 7;
            let segments: Vec<[Segment<'_>; 2]> = texts
                .iter_mut()
                .map(|text| {
                    let (a, b) = text.bytes(payload, at_the_end).split_at(cut);
                    [Segment::from(a), Segment::from(b)]
                })
                .collect();
            let mut jobs = Jobs::<_, 64>::new();
            for (place, source) in places.iter_mut().zip(&segments).take(1 + round % 9) {
                let buffer = place.bytes(room, at_the_end);
                let job = SealJob::gather(&key, 9, HEAD, source, buffer, len);
                assert!(jobs.push(job.unwrap()).is_ok());
            }
            engine.seal_with(&mut jobs, &mut |_, _, head: &mut [u8]| head.fill(0x11));
            for place in places.iter_mut().take(1 + round % 9) {
                let sealed = &place.bytes(room, at_the_end)[..len + TAG_LEN];
                assert_eq!(sealed, &expected[..len + TAG_LEN], "{kernel:?}: {payload}");
            }
        }
    }
}
