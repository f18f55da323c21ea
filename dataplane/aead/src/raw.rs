//! Reading and writing memory that somebody else may write at the same time.
//!
//! **In**: raw ranges whose mapping the caller vouches for. **Out**: private copies; text written
//! to ranges that others may read.
//! **Never**: a reference or slice over such memory, a second read of a byte, a read or a write
//! beyond the range.

#![allow(unsafe_code, reason = "a named room: raw memory")]

#[cfg(target_arch = "x86_64")]
use core::arch::asm;

/// Copies `len` bytes out of memory that may change meanwhile. Each byte is read exactly once.
///
/// The loads are assembly: the compiler can neither split nor repeat them, and it may not assume
/// anything about the memory they read.
///
/// # Safety
/// `source..source+len` is mapped and readable; `destination..destination+len` is private, writable
/// and disjoint from it.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) unsafe fn read(mut source: *const u8, mut destination: *mut u8, mut len: usize) {
    /// Moves one power of two through a register.
    macro_rules! piece {
        ($size:literal, $type:ty, $class:ident, $code:literal) => {
            let word: $type;
            asm!($code, out($class) word, in(reg) source,
                options(nostack, preserves_flags, readonly));
            destination.cast::<$type>().write_unaligned(word);
            source = source.wrapping_add($size);
            destination = destination.wrapping_add($size);
        };
    }
    // SAFETY: the caller's contract; the pieces together are `len`.
    unsafe {
        if len >= 512 {
            asm!(
                "rep movsb",
                inout("rsi") source => _,
                inout("rdi") destination => _,
                inout("rcx") len => _,
                options(nostack, preserves_flags),
            );
            return;
        }
        // Not through xmm registers: their old instructions keep the upper halves, and a kernel that
        // has just filled those would wait for them, thousands of cycles per packet.
        while len >= 8 {
            piece!(8, u64, reg, "mov {}, [{}]");
            len -= 8;
        }
        if len & 4 != 0 {
            piece!(4, u32, reg, "mov {:e}, [{}]");
        }
        if len & 2 != 0 {
            piece!(2, u16, reg, "movzx {:e}, word ptr [{}]");
        }
        if len & 1 != 0 {
            let byte: u8;
            asm!("mov {}, [{}]", out(reg_byte) byte, in(reg) source,
                options(nostack, preserves_flags, readonly));
            destination.write(byte);
        }
    }
}

/// Copies `len` bytes out of memory that may change meanwhile. Each byte is read exactly once.
///
/// # Safety
/// `source..source+len` is mapped and readable; `destination..destination+len` is private, writable
/// and disjoint from it.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) unsafe fn read(source: *const u8, destination: *mut u8, len: usize) {
    for i in 0..len {
        // SAFETY: the caller's contract; `i` is below `len`.
        unsafe { destination.add(i).write(source.add(i).read_volatile()) };
    }
}

/// Copies `len` private bytes to memory that others may see.
///
/// # Safety
/// `source..source+len` is private and initialised; `destination..destination+len` is mapped,
/// writable and disjoint from it.
#[inline]
pub(crate) unsafe fn write(source: *const u8, destination: *mut u8, len: usize) {
    // SAFETY: as in `read`, with the roles exchanged: what is written is never read back.
    unsafe { read(source, destination, len) }
}
