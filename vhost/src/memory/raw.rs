//! Loads, stores and copies on memory that a guest may change at any moment.
//!
//! In: raw pointers that `memory` has checked. Out: private values.
//! Never: a reference or slice over guest memory; an assumption that two reads agree.
//!
//! Single words go through atomics or volatile accesses. Bulk copies are written in assembly
//! on x86-64, so that the compiler can neither split, repeat nor elide them, and as volatile
//! bytes elsewhere.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// Loads a ring index with acquire ordering.
///
/// # Safety
/// `pointer` is valid for reads, aligned to 2, and lies in guest memory or private memory.
#[inline]
pub(crate) unsafe fn load_acquire(pointer: *const u16) -> u16 {
    // SAFETY: validity and alignment are the caller's promise; other writers are another
    // process's, and ours are atomic.
    u16::from_le(unsafe { AtomicU16::from_ptr(pointer.cast_mut()) }.load(Ordering::Acquire))
}

/// Stores a ring index with release ordering.
///
/// # Safety
/// `pointer` is valid for writes and aligned to 2.
#[inline]
pub(crate) unsafe fn store_release(pointer: *mut u16, value: u16) {
    // SAFETY: as in `load_acquire`.
    unsafe { AtomicU16::from_ptr(pointer) }.store(value.to_le(), Ordering::Release);
}

/// Loads the second half of a packed descriptor with acquire ordering.
///
/// # Safety
/// `pointer` is valid for reads and aligned to 8.
#[inline]
pub(crate) unsafe fn load_acquire_word(pointer: *const u64) -> u64 {
    // SAFETY: as in `load_acquire`.
    u64::from_le(unsafe { AtomicU64::from_ptr(pointer.cast_mut()) }.load(Ordering::Acquire))
}

/// Stores the second half of a packed descriptor with release ordering.
///
/// # Safety
/// `pointer` is valid for writes and aligned to 8.
#[inline]
pub(crate) unsafe fn store_release_word(pointer: *mut u64, value: u64) {
    // SAFETY: as in `load_acquire`.
    unsafe { AtomicU64::from_ptr(pointer) }.store(value.to_le(), Ordering::Release);
}

/// Copies `length` bytes from `source` to `destination`, each read and written once.
///
/// # Safety
/// `source` is valid for reads and `destination` for writes of `length` bytes; they are
/// disjoint. Either may lie in guest memory.
#[inline]
pub(crate) unsafe fn copy(source: *const u8, destination: *mut u8, length: usize) {
    // SAFETY: the caller's promise is that of `imp::copy`.
    unsafe { imp::copy(source, destination, length) }
}

/// Reads two little-endian 64-bit words at any alignment, each once.
///
/// # Safety
/// `source` is valid for reads of 16 bytes.
#[inline]
pub(crate) unsafe fn words(source: *const u8) -> (u64, u64) {
    // SAFETY: the caller's promise is that of `imp::words`.
    unsafe { imp::words(source) }
}

/// Reads 12 little-endian bytes at any alignment, each once, as a word of 8 and one of 4.
///
/// Into registers: bytes that go over the stack in pieces of another width can't be forwarded
/// from the store buffer, and wait there behind our stores to the guest's lines.
///
/// # Safety
/// `source` is valid for reads of 12 bytes.
#[inline]
pub(crate) unsafe fn header_words(source: *const u8) -> (u64, u32) {
    // SAFETY: the caller's promise is that of `imp::header_words`.
    unsafe { imp::header_words(source) }
}

/// Writes 12 little-endian bytes at any alignment.
///
/// # Safety
/// `destination` is valid for writes of 12 bytes.
#[inline]
pub(crate) unsafe fn store_header_words(destination: *mut u8, low: u64, high: u32) {
    // SAFETY: the caller's promise is that of `imp::store_word`; 12 bytes are 8 and 4.
    unsafe {
        imp::store_word(destination, low);
        imp::store_half(destination.add(8), high);
    }
}

/// Writes a little-endian word at any alignment.
///
/// # Safety
/// `destination` is valid for writes of 8 bytes.
#[inline]
pub(crate) unsafe fn store_word(destination: *mut u8, value: u64) {
    // SAFETY: the caller's promise is that of `imp::store_word`.
    unsafe { imp::store_word(destination, value) }
}

/// Tells the processor that the line at `pointer` will be written soon, so that it is taken
/// from the guest's core ahead of time. Any address is harmless.
#[inline]
pub(crate) fn prefetch_write(pointer: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults; processors without this one do nothing.
    unsafe {
        std::arch::asm!("prefetchw [{p}]", p = in(reg) pointer.addr(),
            options(nostack, preserves_flags, nomem));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

/// Tells the processor that the line at `pointer` will be read soon. Any address is harmless.
#[inline]
pub(crate) fn prefetch(pointer: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch accesses nothing in the language's sense and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch(pointer.cast(), std::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::asm;

    /// From here on wide vectors with an aligned destination are faster.
    const WIDE_MIN: usize = 224;

    #[inline]
    pub(super) unsafe fn copy(source: *const u8, destination: *mut u8, length: usize) {
        // SAFETY: every access below stays inside of the `length` bytes at both ends, which
        // are valid by the caller's promise; the tails overlap what the loop has copied.
        unsafe {
            if length >= WIDE_MIN {
                if std::arch::is_x86_feature_detected!("avx") {
                    wide(source, destination, length);
                } else {
                    asm!(
                        "rep movsb",
                        inout("rcx") length => _,
                        inout("rsi") source => _,
                        inout("rdi") destination => _,
                        options(nostack, preserves_flags)
                    );
                }
            } else if length >= 16 {
                let last = length - 16;
                let mut offset = 0;
                while offset + 48 <= last {
                    vectors4(source.add(offset), destination.add(offset));
                    offset += 64;
                }
                while offset < last {
                    vector(source.add(offset), destination.add(offset));
                    offset += 16;
                }
                vector(source.add(last), destination.add(last));
            } else if length >= 8 {
                word8(source, destination);
                word8(source.add(length - 8), destination.add(length - 8));
            } else if length >= 4 {
                word4(source, destination);
                word4(source.add(length - 4), destination.add(length - 4));
            } else {
                for offset in 0..length {
                    destination
                        .add(offset)
                        .write_volatile(source.add(offset).read_volatile());
                }
            }
        }
    }

    /// Copies at least 160 bytes: 32 to where the destination is aligned, 128 at a time, and the
    /// last 128 once more.
    #[inline]
    unsafe fn wide(source: *const u8, destination: *mut u8, length: usize) {
        let skip = 32 - destination.addr() % 32;
        let last = length - 128;
        // SAFETY: all offsets stay within `length` (the loop runs while 128 bytes are left); the
        // processor has AVX. The upper halves of the clobbered registers are unused by code that
        // is compiled without AVX, and declared with the lower halves by code that is.
        unsafe {
            asm!(
                "vmovups ymm0, [{s}]",
                "vmovups [{d}], ymm0",
                "2:",
                "cmp {at}, {last}",
                "jae 3f",
                "vmovups ymm0, [{s} + {at}]",
                "vmovups ymm1, [{s} + {at} + 32]",
                "vmovups ymm2, [{s} + {at} + 64]",
                "vmovups ymm3, [{s} + {at} + 96]",
                "vmovaps [{d} + {at}], ymm0",
                "vmovaps [{d} + {at} + 32], ymm1",
                "vmovaps [{d} + {at} + 64], ymm2",
                "vmovaps [{d} + {at} + 96], ymm3",
                "add {at}, 128",
                "jmp 2b",
                "3:",
                "vmovups ymm0, [{s} + {last}]",
                "vmovups ymm1, [{s} + {last} + 32]",
                "vmovups ymm2, [{s} + {last} + 64]",
                "vmovups ymm3, [{s} + {last} + 96]",
                "vmovups [{d} + {last}], ymm0",
                "vmovups [{d} + {last} + 32], ymm1",
                "vmovups [{d} + {last} + 64], ymm2",
                "vmovups [{d} + {last} + 96], ymm3",
                "vzeroupper",
                s = in(reg) source, d = in(reg) destination, last = in(reg) last,
                at = inout(reg) skip => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack)
            );
        }
    }

    /// Two 64-bit words, in two loads.
    #[inline(always)]
    pub(super) unsafe fn words(source: *const u8) -> (u64, u64) {
        let (low, high): (u64, u64);
        // SAFETY: 16 bytes are valid for reads (caller).
        unsafe {
            asm!(
                "mov {low}, qword ptr [{s}]",
                "mov {high}, qword ptr [{s} + 8]",
                s = in(reg) source, low = out(reg) low, high = lateout(reg) high,
                options(nostack, preserves_flags, readonly)
            );
        }
        (low, high)
    }

    /// A word of 8 bytes and one of 4, in two loads.
    #[inline(always)]
    pub(super) unsafe fn header_words(source: *const u8) -> (u64, u32) {
        let (low, high): (u64, u32);
        // SAFETY: 12 bytes are valid for reads (caller).
        unsafe {
            asm!(
                "mov {low}, qword ptr [{s}]",
                "mov {high:e}, dword ptr [{s} + 8]",
                s = in(reg) source, low = out(reg) low, high = lateout(reg) high,
                options(nostack, preserves_flags, readonly)
            );
        }
        (low, high)
    }

    #[inline(always)]
    pub(super) unsafe fn store_word(destination: *mut u8, value: u64) {
        // SAFETY: 8 bytes are valid for writes (caller).
        unsafe {
            asm!("mov qword ptr [{d}], {v}", d = in(reg) destination, v = in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    pub(super) unsafe fn store_half(destination: *mut u8, value: u32) {
        // SAFETY: 4 bytes are valid for writes (caller).
        unsafe {
            asm!("mov dword ptr [{d}], {v:e}", d = in(reg) destination, v = in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn vectors4(source: *const u8, destination: *mut u8) {
        // SAFETY: 64 bytes are valid at both ends (caller).
        unsafe {
            asm!(
                "movups {a}, [{s}]",
                "movups {b}, [{s} + 16]",
                "movups {c}, [{s} + 32]",
                "movups {e}, [{s} + 48]",
                "movups [{d}], {a}",
                "movups [{d} + 16], {b}",
                "movups [{d} + 32], {c}",
                "movups [{d} + 48], {e}",
                s = in(reg) source, d = in(reg) destination,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                options(nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    unsafe fn vector(source: *const u8, destination: *mut u8) {
        // SAFETY: 16 bytes are valid at both ends (caller).
        unsafe {
            asm!(
                "movups {a}, [{s}]",
                "movups [{d}], {a}",
                s = in(reg) source, d = in(reg) destination, a = out(xmm_reg) _,
                options(nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    unsafe fn word8(source: *const u8, destination: *mut u8) {
        // SAFETY: 8 bytes are valid at both ends (caller).
        unsafe {
            asm!(
                "mov {a}, qword ptr [{s}]",
                "mov qword ptr [{d}], {a}",
                s = in(reg) source, d = in(reg) destination, a = out(reg) _,
                options(nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    unsafe fn word4(source: *const u8, destination: *mut u8) {
        // SAFETY: 4 bytes are valid at both ends (caller).
        unsafe {
            asm!(
                "mov {a:e}, dword ptr [{s}]",
                "mov dword ptr [{d}], {a:e}",
                s = in(reg) source, d = in(reg) destination, a = out(reg) _,
                options(nostack, preserves_flags)
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    #[inline]
    pub(super) unsafe fn words(source: *const u8) -> (u64, u64) {
        let mut bytes = [0u8; 16];
        // SAFETY: 16 bytes are valid for reads (caller), and `bytes` is ours.
        unsafe { copy(source, bytes.as_mut_ptr(), 16) };
        let word = u128::from_le_bytes(bytes);
        #[allow(clippy::cast_possible_truncation, reason = "the halves of a word")]
        (word as u64, (word >> 64) as u64)
    }

    #[inline]
    pub(super) unsafe fn header_words(source: *const u8) -> (u64, u32) {
        let (mut low, mut high) = ([0u8; 8], [0u8; 4]);
        // SAFETY: 12 bytes are valid for reads (caller), and both arrays are ours.
        unsafe {
            copy(source, low.as_mut_ptr(), 8);
            copy(source.add(8), high.as_mut_ptr(), 4);
        }
        (u64::from_le_bytes(low), u32::from_le_bytes(high))
    }

    #[inline]
    pub(super) unsafe fn store_word(destination: *mut u8, value: u64) {
        // SAFETY: 8 bytes are valid for writes (caller).
        unsafe { copy(value.to_le_bytes().as_ptr(), destination, 8) };
    }

    #[inline]
    pub(super) unsafe fn store_half(destination: *mut u8, value: u32) {
        // SAFETY: 4 bytes are valid for writes (caller).
        unsafe { copy(value.to_le_bytes().as_ptr(), destination, 4) };
    }

    #[inline]
    pub(super) unsafe fn copy(source: *const u8, destination: *mut u8, length: usize) {
        let mut offset = 0;
        // SAFETY: every access lies inside of the `length` bytes at both ends (caller).
        unsafe {
            if source.addr() % 8 == destination.addr() % 8 {
                while offset < length && source.add(offset).addr() % 8 != 0 {
                    destination
                        .add(offset)
                        .write_volatile(source.add(offset).read_volatile());
                    offset += 1;
                }
                while offset + 8 <= length {
                    let word = source.add(offset).cast::<u64>().read_volatile();
                    destination.add(offset).cast::<u64>().write_volatile(word);
                    offset += 8;
                }
            }
            while offset < length {
                destination
                    .add(offset)
                    .write_volatile(source.add(offset).read_volatile());
                offset += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_every_length_exactly() {
        let source: Vec<u8> = (0..4096u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
        for length in (0..1100).chain([1500, 2048, 4000]) {
            for shift in [0usize, 1, 7] {
                let mut destination = vec![0u8; 4200];
                // SAFETY: both vectors are longer than `shift + length`, and are distinct.
                unsafe {
                    copy(
                        source.as_ptr().add(shift),
                        destination.as_mut_ptr().add(32),
                        length,
                    );
                }
                assert!(destination[..32].iter().all(|&b| b == 0));
                assert_eq!(destination[32..32 + length], source[shift..shift + length]);
                assert!(destination[32 + length..].iter().all(|&b| b == 0));
            }
        }
    }
}
