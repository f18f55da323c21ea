//! Reading and writing memory that somebody else may write at the same time.
//!
//! **In**: raw ranges whose mapping the caller vouches for. **Out**: private copies; text written
//! to ranges that others may read.
//! **Never**: a reference or slice over such memory, a second read of a byte, a read or a write
//! beyond the range.

#![allow(unsafe_code, reason = "a named room: raw memory")]

#[cfg(not(target_arch = "x86_64"))]
use core::ptr;

/// Copies `len` bytes out of memory that may change meanwhile. Each byte is read exactly once.
///
/// # Safety
/// `source..source+len` is mapped and readable; `destination..destination+len` is private, writable
/// and disjoint from it.
#[inline]
pub(crate) unsafe fn read(source: *const u8, destination: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's contract. The compiler can neither split nor repeat an asm's loads, and
    // it may not assume anything about the memory it reads.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rsi") source => _,
            inout("rdi") destination => _,
            inout("rcx") len => _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..len {
        // SAFETY: the caller's contract; `i` is below `len`.
        unsafe { destination.add(i).write(ptr::read_volatile(source.add(i))) };
    }
}

/// Copies `len` private bytes to memory that others may see.
///
/// # Safety
/// `source..source+len` is private and initialised; `destination..destination+len` is mapped,
/// writable and disjoint from it.
#[inline]
pub(crate) unsafe fn write(source: *const u8, destination: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `read`, with the roles exchanged.
    unsafe {
        read(source, destination, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..len {
        // SAFETY: the caller's contract; `i` is below `len`.
        unsafe { ptr::write_volatile(destination.add(i), source.add(i).read()) };
    }
}
