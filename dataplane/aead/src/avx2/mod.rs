//! The AVX2 kernel: eight ChaCha20 blocks and four Poly1305 packets side by side.
//!
//! **In**: bursts, on a processor with AVX2 and BMI2. **Out**: as every kernel.
//! **Never**: called without those features; [`is_available`] says.

#![allow(unsafe_code, reason = "a named room: SIMD kernels")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_ptr_alignment,
    clippy::cast_sign_loss,
    reason = "words go to lanes and back; loads and stores are unaligned"
)]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their prefix")]
#![allow(clippy::needless_range_loop, reason = "lanes and limbs have numbers")]

mod chacha;
mod poly;

use core::arch::asm;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ptr;

use crate::PayloadSum;
use crate::batch::{self, BLOCKS, Blocks, Deal, Line, Order, Scratch, Tags, Text, Vector};
use crate::job::{DecryptJob, OpenJob, SealJob, Sealed};
use crate::lanes::{Compute, Group};
use crate::scalar::{Poly, Side};

/// Whether this processor has what the kernel needs.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2")
}

enum Avx2 {}

impl Vector for Avx2 {
    type Lanes<'s, const EXACT: bool, const SUM: bool> = chacha::Eight<'s, EXACT, SUM>;

    const ALONE: usize = 18;
    // A few are sooner done than a full group, and Poly1305 can begin.
    const AT_ONCE: usize = 6;
    const WRITTEN: usize = 6;
    const TEXTS: usize = 4;
    const SCALAR_BLOCKS: usize = 33;
    const SCALAR_TEXT: usize = 32;
    const TOGETHER: u32 = 200;
    const SIDE: u32 = 256;
    // Long texts go on the side: what the last ones leave to do alone counts once per sub-batch.
    const SEAL: (usize, usize) = (usize::MAX, 8);
    const OPEN: (usize, usize) = (16 << 10, 2);

    /// Texts that don't go on the side.
    #[inline(always)]
    fn ahead(order: &Order) -> bool {
        order.longest() < Self::SIDE
    }

    #[inline(always)]
    fn lanes<'s, const EXACT: bool, const SUM: bool>(
        keystream: &'s mut [Line; BLOCKS],
        sums: &'s mut [Line; 64],
        side: Option<&'s mut Side>,
        only_keystream: bool,
    ) -> chacha::Eight<'s, EXACT, SUM> {
        // SAFETY: a line is 64 bytes, aligned to 64, as a register's place in memory; all bit
        // patterns are both.
        unsafe {
            chacha::Eight {
                keystream: &mut *(&raw mut *keystream).cast(),
                sums: &mut *(&raw mut *sums).cast(),
                side,
                only_keystream,
            }
        }
    }

    #[inline(always)]
    unsafe fn keystream(group: &mut Group, blocks: Blocks, out: &mut [Line; 16]) {
        // SAFETY: the caller's contract; lines are registers' places (see `lanes`).
        unsafe {
            prepare(group, blocks);
            chacha::keystream(group, &mut *(&raw mut *out).cast());
        }
    }

    #[inline(always)]
    unsafe fn keystream_beside(
        group: &mut Group,
        blocks: Blocks,
        out: &mut [Line; 16],
        poly: &mut Poly,
        text: *const u8,
        count: u32,
    ) -> u32 {
        // SAFETY: as above.
        unsafe {
            prepare(group, blocks);
            chacha::alone_beside(group, &mut *(&raw mut *out).cast(), poly, text, count)
        }
    }

    #[inline(always)]
    unsafe fn ranks(numbers: &[u32; 64], count: usize) -> [u32; 64] {
        // SAFETY: the caller's contract.
        unsafe { ranks(numbers, count) }
    }

    const SHORT: u32 = 0;
    const MIXES: bool = false;

    #[inline(always)]
    unsafe fn short_tags(
        _keys: &[Line; 24],
        _texts: &[Text; 24],
        _eights: usize,
    ) -> [[u64; 2]; 24] {
        [[0; 2]; 24]
    }

    #[inline(always)]
    unsafe fn tags(
        keys: [&Line; 8],
        texts: &[Text; 8],
        deal: Deal,
        _aside: Option<(&Line, Text)>,
        _sums: bool,
    ) -> Tags {
        // SAFETY: the caller's contract.
        let tags = unsafe { poly::authenticate(keys, texts, deal.evenly().unwrap_or(1)) };
        Tags { tags, sums: None }
    }
}

/// # Safety
/// The processor has the kernel's features.
#[inline(always)]
unsafe fn prepare(group: &mut Group, blocks: Blocks) {
    let (none, to) = (ptr::null(), ptr::null_mut());
    // SAFETY: the caller's contract.
    unsafe {
        chacha::Eight::<false, false>::fill(group, 0, blocks.stream, blocks.first, none, to);
    }
    (group.used, group.one_key) = (blocks.count, true);
}

/// Of numbers below 2^31.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
fn ranks(numbers: &[u32; 64], count: usize) -> [u32; 64] {
    let mut ranks = [0; 64];
    let eights = numbers.as_chunks::<8>().0.iter();
    let places = ranks.as_chunks_mut::<8>().0;
    for (eight, place) in eights.zip(places).take(count.div_ceil(8)) {
        // SAFETY: both are arrays of eight words.
        unsafe {
            let eight = _mm256_loadu_si256(eight.as_ptr().cast());
            let mut rank = _mm256_setzero_si256();
            for &number in numbers.iter().take(count) {
                let smaller = _mm256_cmpgt_epi32(eight, _mm256_set1_epi32(number as i32));
                rank = _mm256_sub_epi32(rank, smaller);
            }
            _mm256_storeu_si256(place.as_mut_ptr().cast(), rank);
        }
    }
    ranks
}

/// The way in: everything that is inlined below is compiled for the kernel's features.
///
/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn seal(scratch: &mut Scratch, jobs: &mut [SealJob<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::seal::<Avx2, fn(usize, PayloadSum, &mut [u8])>(scratch, jobs, &mut None);
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn seal_with(
    scratch: &mut Scratch,
    jobs: &mut [SealJob<'_>],
    finish: &mut dyn FnMut(usize, PayloadSum, &mut [u8]),
) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::seal::<Avx2, _>(scratch, jobs, &mut Some(finish));
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn open(scratch: &mut Scratch, jobs: &mut [OpenJob<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::open::<Avx2>(scratch, jobs);
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn verify(scratch: &mut Scratch, jobs: &mut [Sealed<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::verify::<Avx2>(scratch, jobs);
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx2,bmi2")]
pub(crate) unsafe fn decrypt(scratch: &mut Scratch, jobs: &mut [DecryptJob<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::decrypt::<Avx2>(scratch, jobs);
        forget_registers();
    }
}

/// Has the compiler align the frame of the function that this is inlined into, and so the registers
/// that it keeps there: it doesn't do so for these alone. One that lies across the boundary of two
/// pages takes as long as several rounds.
#[inline(always)]
#[allow(
    clippy::pointers_in_nomem_asm_block,
    reason = "nothing is there, nor looked at"
)]
fn align_frame() {
    let line = MaybeUninit::<Line>::uninit();
    // SAFETY: no instruction at all, but a local that has to be where its type wants it.
    unsafe {
        asm!("/* {} */", in(reg) line.as_ptr(), options(nomem, nostack, preserves_flags));
    }
}

/// Clears the vector registers: the last group's keystream and Poly1305's states are still there.
///
/// # Safety
/// The processor has AVX.
#[inline]
#[target_feature(enable = "avx2,bmi2")]
unsafe fn forget_registers() {
    // SAFETY: it tells the compiler of every register that it clears.
    unsafe {
        asm!(
            "vzeroall",
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _,
            out("ymm5") _, out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _,
            out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _,
            out("ymm15") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}
