//! The AVX-512 kernel: sixteen ChaCha20 blocks and eight Poly1305 packets side by side.
//!
//! **In**: bursts, on a processor with AVX-512 F, BW, DQ, VL and IFMA. **Out**: as every kernel.
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
use core::ptr;

use crate::PayloadSum;
use crate::batch::{self, BLOCKS, Blocks, Deal, Line, Order, Scratch, Tags, Text, Vector};
use crate::job::{DecryptJob, OpenJob, SealJob, Sealed};
use crate::lanes::{Compute, Group};
use crate::scalar::{Poly, Side};

/// Whether this processor has what the kernel needs.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512ifma")
}

enum Avx512 {}

impl Vector for Avx512 {
    type Lanes<'s, const EXACT: bool, const SUM: bool> = chacha::Sixteen<'s, EXACT, SUM>;

    const ALONE: usize = 16;
    const AT_ONCE: usize = 16;
    const WRITTEN: usize = 4;
    const TEXTS: usize = 8;
    const SCALAR_BLOCKS: usize = 18;
    const SCALAR_TEXT: usize = 43;
    const TOGETHER: u32 = 0;
    // Never: 512-bit rounds leave the scalar units less than it takes. With two streams beside sixteen
    // blocks (40 blocks of Poly1305 per group, the other half in vectors) a burst of 8 texts of 8192
    // bytes took 16 % longer on a Xeon of the fourth generation, one of 32 of 1420 bytes 25 %.
    const SIDE: u32 = u32::MAX;
    // What stays in the first-level cache until Poly1305 has read it.
    const SEAL: (usize, usize) = (32 << 10, 8);
    // A portion is decrypted at once, while it is near.
    const OPEN: (usize, usize) = (8 << 10, 8);

    /// Texts of one block, planned together with their keys; else it costs a pass more than it saves.
    #[inline(always)]
    fn ahead(order: &Order) -> bool {
        order.blocks() <= 32 || order.longest() <= 64
    }

    #[inline(always)]
    fn lanes<'s, const EXACT: bool, const SUM: bool>(
        keystream: &'s mut [Line; BLOCKS],
        sums: &'s mut [Line; 64],
        _side: Option<&'s mut Side>,
        _only_keystream: bool,
    ) -> chacha::Sixteen<'s, EXACT, SUM> {
        // SAFETY: a line is 64 bytes, aligned to 64, as a register's place in memory; all bit
        // patterns are both.
        unsafe {
            chacha::Sixteen {
                keystream: &mut *(&raw mut *keystream).cast(),
                sums: &mut *(&raw mut *sums).cast(),
            }
        }
    }

    #[inline(always)]
    unsafe fn keystream(group: &mut Group, blocks: Blocks, out: &mut [Line; 16]) {
        // SAFETY: the caller's contract; lines are registers' places (see `lanes`).
        unsafe {
            let (none, to) = (ptr::null(), ptr::null_mut());
            chacha::Sixteen::<false, false>::fill(group, 0, blocks.stream, blocks.first, none, to);
            (group.used, group.one_key) = (blocks.count, true);
            chacha::keystream(group, &mut *(&raw mut *out).cast());
        }
    }

    /// Without anything beside it: Poly1305 in vectors is sooner done.
    #[inline(always)]
    unsafe fn keystream_beside(
        group: &mut Group,
        blocks: Blocks,
        out: &mut [Line; 16],
        _poly: &mut Poly,
        _text: *const u8,
        _count: u32,
    ) -> u32 {
        // SAFETY: the caller's contract.
        unsafe { Self::keystream(group, blocks, out) };
        0
    }

    #[inline(always)]
    unsafe fn ranks(numbers: &[u32; 64], count: usize) -> [u32; 64] {
        // SAFETY: the caller's contract.
        unsafe { ranks(numbers, count) }
    }

    const SHORT: u32 = 64;
    const MIXES: bool = true;

    #[inline(always)]
    unsafe fn short_tags(keys: &[Line; 24], texts: &[Text; 24], eights: usize) -> [[u64; 2]; 24] {
        let mut tags = [[0; 2]; 24];
        let (keys, texts) = (keys.as_chunks::<8>().0, texts.as_chunks::<8>().0);
        let places = tags.as_chunks_mut::<8>().0;
        if let ([a, b, c], [of_a, of_b, of_c]) = (keys, texts) {
            // SAFETY: the caller's contract.
            unsafe {
                if eights > 2 {
                    let computed = poly::authenticate_short([a, b, c], &[*of_a, *of_b, *of_c]);
                    places.copy_from_slice(&computed);
                } else {
                    let computed = poly::authenticate_short([a, b], &[*of_a, *of_b]);
                    places[..2].copy_from_slice(&computed);
                }
            }
        }
        tags
    }

    #[inline(always)]
    unsafe fn tags(
        keys: [&Line; 8],
        texts: &[Text; 8],
        deal: Deal,
        aside: Option<(&Line, Text)>,
        sums: bool,
    ) -> Tags {
        // SAFETY: the caller's contract.
        unsafe { poly::authenticate(keys, texts, deal, aside, sums) }
    }
}

/// Of entries as an order keeps them. Those of about one length are ranked by their blocks, which is
/// all that matters, and thirty-two at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn ranks(entries: &[u32; 64], count: usize) -> [u32; 64] {
    let mut blocks = [0_u16; 64];
    let mut most = _mm512_setzero_si512();
    let (sixteens, places) = (entries.as_chunks::<16>().0, blocks.as_chunks_mut::<16>().0);
    for (sixteen, place) in sixteens.iter().zip(places).take(count.div_ceil(16)) {
        // SAFETY: both are arrays of sixteen words.
        unsafe {
            let sixteen = _mm512_loadu_si512(sixteen.as_ptr().cast());
            most = _mm512_max_epu32(most, sixteen);
            // Bytes, rounded up to blocks, beside the job's index.
            let rounded = _mm512_add_epi32(sixteen, _mm512_set1_epi32(15 << 6));
            let rounded = _mm512_slli_epi32::<6>(_mm512_srli_epi32::<10>(rounded));
            let index = _mm512_and_si512(sixteen, _mm512_set1_epi32(63));
            let packed = _mm512_cvtepi32_epi16(_mm512_or_si512(rounded, index));
            _mm256_storeu_si256(place.as_mut_ptr().cast(), packed);
        }
    }
    // Blocks and index take sixteen bits, unless a text is of 16 KiB.
    if _mm512_reduce_max_epu32(most) >= (1 << 20) - (15 << 6) {
        return ranks_of_long(entries, count);
    }
    let mut ranks = [0; 64];
    let (halves, places) = (blocks.as_chunks::<32>().0, ranks.as_chunks_mut::<32>().0);
    for (half, place) in halves.iter().zip(places).take(count.div_ceil(32)) {
        // SAFETY: as above, of thirty-two.
        unsafe {
            let half = _mm512_loadu_si512(half.as_ptr().cast());
            let mut rank = _mm512_setzero_si512();
            let one = _mm512_set1_epi16(1);
            for &number in blocks.iter().take(count) {
                let smaller = _mm512_cmplt_epu16_mask(_mm512_set1_epi16(number as i16), half);
                rank = _mm512_mask_add_epi16(rank, smaller, rank, one);
            }
            let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(rank));
            let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(rank));
            _mm512_storeu_si512(place.as_mut_ptr().cast(), low);
            _mm512_storeu_si512(place.as_mut_ptr().add(16).cast(), high);
        }
    }
    ranks
}

/// Of entries of any length, sixteen at a time.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn ranks_of_long(numbers: &[u32; 64], count: usize) -> [u32; 64] {
    let mut ranks = [0; 64];
    let sixteens = numbers.as_chunks::<16>().0.iter();
    let places = ranks.as_chunks_mut::<16>().0;
    for (sixteen, place) in sixteens.zip(places).take(count.div_ceil(16)) {
        // SAFETY: both are arrays of sixteen words.
        unsafe {
            let sixteen = _mm512_loadu_si512(sixteen.as_ptr().cast());
            let mut rank = _mm512_setzero_si512();
            for &number in numbers.iter().take(count) {
                let smaller = _mm512_cmplt_epu32_mask(_mm512_set1_epi32(number as i32), sixteen);
                rank = _mm512_mask_add_epi32(rank, smaller, rank, _mm512_set1_epi32(1));
            }
            _mm512_storeu_si512(place.as_mut_ptr().cast(), rank);
        }
    }
    ranks
}

/// The way in: everything that is inlined below is compiled for the kernel's features.
///
/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn seal(scratch: &mut Scratch, jobs: &mut [SealJob<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::seal::<Avx512, fn(usize, PayloadSum, &mut [u8])>(scratch, jobs, &mut None);
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn seal_with(
    scratch: &mut Scratch,
    jobs: &mut [SealJob<'_>],
    finish: &mut dyn FnMut(usize, PayloadSum, &mut [u8]),
) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::seal::<Avx512, _>(scratch, jobs, &mut Some(finish));
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn open(scratch: &mut Scratch, jobs: &mut [OpenJob<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::open::<Avx512>(scratch, jobs);
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn verify(scratch: &mut Scratch, jobs: &mut [Sealed<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::verify::<Avx512>(scratch, jobs);
        forget_registers();
    }
}

/// # Safety
/// [`is_available`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(crate) unsafe fn decrypt(scratch: &mut Scratch, jobs: &mut [DecryptJob<'_>]) {
    // SAFETY: the caller's contract.
    unsafe {
        batch::decrypt::<Avx512>(scratch, jobs);
        forget_registers();
    }
}

/// Clears the vector registers: the last group's keystream and Poly1305's states are still there.
///
/// # Safety
/// The processor has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
unsafe fn forget_registers() {
    macro_rules! clear {
        ($($number:literal)*) => {
            // SAFETY: it tells the compiler of every register that it clears.
            unsafe {
                asm!(
                    "vzeroall",
                    $(concat!("vpxord zmm", $number, ", zmm", $number, ", zmm", $number),)*
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                    out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
                    out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
                    out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
                    out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
                    out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _,
                    out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        };
    }
    clear!(16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}
