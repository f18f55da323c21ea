//! Loads, stores and copies on memory that a guest may change at any moment.
//!
//! In: raw pointers that `memory` has checked. Out: private values.
//! Never: a reference or slice over guest memory; an assumption that two reads agree.
//!
//! Single words go through atomics or volatile accesses. Bulk copies are written in assembly
//! on x86-64, so that the compiler can neither split, repeat nor elide them, and as volatile
//! bytes elsewhere.

use std::sync::atomic::{AtomicU16, Ordering};

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

    /// From here on the string instruction is faster than a loop of vectors.
    const STRING_MIN: usize = 768;

    #[inline]
    pub(super) unsafe fn copy(source: *const u8, destination: *mut u8, length: usize) {
        // SAFETY: every access below stays inside of the `length` bytes at both ends, which
        // are valid by the caller's promise; the tails overlap what the loop has copied.
        unsafe {
            if length >= STRING_MIN {
                asm!(
                    "rep movsb",
                    inout("rcx") length => _,
                    inout("rsi") source => _,
                    inout("rdi") destination => _,
                    options(nostack, preserves_flags)
                );
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
