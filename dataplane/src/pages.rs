//! Pages: memory that is there once it is written to.
//!
//! In: how many bytes. Out: zeros. Never: the heap: what was freed there is at hand, and zeroing it takes all of its pages,
//! most of which frames of an ordinary size never reach.

#![allow(unsafe_code, reason = "a named room: pages of our own")]

use std::{
    alloc::{Layout, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes of their own, zero at first.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: they belong to the value alone, and are lent as slices are.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// So many. Without memory for them the process ends, as it does without memory for anything else.
    pub(crate) fn new(len: usize) -> Self {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, flags) };
        let start = start.ok().and_then(|start| NonNull::new(start.cast()));
        match (start, Layout::array::<u8>(len)) {
            (Some(start), _) => Self { start, len },
            (None, Ok(layout)) => handle_alloc_error(layout),
            (None, Err(_)) => unreachable!("buffers are bounded"),
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `len` bytes, which are zero or what was written, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed for this slice alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made above; nothing borrows it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_nobody_wrote_to_are_not_taken() {
        let mib = 1 << 20;
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            kib.unwrap().trim().parse::<usize>().unwrap() << 10
        };
        let before = resident();
        let mut pages = Pages::new(64 * mib);
        assert!(resident() < before + 32 * mib);
        pages[64 * mib - 1] = 7;
        assert_eq!(
            (pages[0], pages[64 * mib - 1], pages.len()),
            (0, 7, 64 * mib)
        );
    }
}
