//! The guest's memory, as the driver's side owns it.
//!
//! In: a size. Out: a memfd to pass on, reads and writes by guest address, room for rings.
//! Never: an access outside of it: addresses are checked and a mistake panics, as this side is
//! ours (tests and generators).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::memory::raw;

/// One region of guest memory in a memfd, with everything in it handed out once.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    start: NonNull<u8>,
    size: usize,
    guest: u64,
    free: u64,
}

// SAFETY: the mapping is owned and only touched through raw copies and atomics.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// `size` bytes (a multiple of the page size) at guest address `guest`.
    ///
    /// # Errors
    /// The kernel refuses the memfd or the mapping.
    pub fn new(guest: u64, size: usize) -> io::Result<Self> {
        let fd =
            rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, size as u64)?;
        // Whoever it is passed to could take pages from under the mapping: an access would be a SIGBUS.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; all of it stays there, as its size is sealed.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            fd,
            start,
            size,
            guest,
            free: 0,
        })
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// First guest address.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// First address in this process: what vhost-user calls the user address.
    pub fn user(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// The user address of a guest address.
    pub fn user_of(&self, guest: u64) -> u64 {
        guest - self.guest + self.user()
    }

    /// Takes `size` bytes that nobody else has, aligned to `align`; returns the guest address.
    ///
    /// # Panics
    /// If the memory is used up.
    pub fn take(&mut self, size: u64, align: u64) -> u64 {
        let at = self.free.next_multiple_of(align);
        assert!(at + size <= self.size(), "guest memory is used up");
        self.free = at + size;
        self.guest + at
    }

    /// Copies bytes from `guest`.
    ///
    /// # Panics
    /// If they don't lie in this memory.
    pub fn read(&self, guest: u64, bytes: &mut [u8]) {
        let from = self.at(guest, bytes.len());
        // SAFETY: `at` checked address and length.
        unsafe { raw::copy(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies bytes to `guest`.
    ///
    /// # Panics
    /// If they don't lie in this memory.
    pub fn write(&self, guest: u64, bytes: &[u8]) {
        let to = self.at(guest, bytes.len());
        // SAFETY: `at` checked address and length.
        unsafe { raw::copy(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Loads a 16-bit word with acquire ordering.
    pub fn load(&self, guest: u64) -> u16 {
        assert!(guest.is_multiple_of(2), "an aligned word");
        // SAFETY: `at` checked address and length; the mapping is page-aligned.
        unsafe { raw::load_acquire(self.at(guest, size_of::<u16>()).cast()) }
    }

    /// Stores a 16-bit word with release ordering.
    pub fn store(&self, guest: u64, value: u16) {
        assert!(guest.is_multiple_of(2), "an aligned word");
        // SAFETY: as in `load`.
        unsafe { raw::store_release(self.at(guest, size_of::<u16>()).cast(), value) }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "compared with the size first"
    )]
    fn at(&self, guest: u64, length: usize) -> *mut u8 {
        let offset = guest
            .checked_sub(self.guest)
            .expect("an address in guest memory");
        assert!(
            offset <= self.size() && length as u64 <= self.size() - offset,
            "a range in guest memory"
        );
        // SAFETY: just compared with the mapping's size.
        unsafe { self.start.add(offset as usize) }.as_ptr()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no pointer into it leaves this type.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_it_is_passed_to_takes_it_away() {
        let memory = SharedMemory::new(0, 8192).unwrap();
        memory.write(4096, &[7]);
        for size in [0, 4096, 16_384] {
            assert!(rustix::fs::ftruncate(memory.fd(), size).is_err(), "{size}");
        }
        let mut byte = [0];
        memory.read(4096, &mut byte);
        assert_eq!(byte, [7]);
    }
}
