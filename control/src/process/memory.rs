//! Memory that is free, given back to the system.
//!
//! In: that much was freed. Out: nothing. Never: a wait of the data path: workers allocate nothing.
//!
//! A long file takes several times what stays of it, in pieces between those that stay, and each time on another thread
//! with a heap of its own. The C library keeps what is freed there, for the next file at best; over some files the
//! process would grow to the double.

#![cfg_attr(
    target_env = "gnu",
    allow(unsafe_code, reason = "a named room: a function of the C library")
)]

/// The C library's own bounds. It would raise both with each large piece that is freed, to 64 MiB of every thread's heap.
#[cfg(target_env = "gnu")]
const BOUND: libc::c_int = 128 << 10;

/// From now on, large pieces have pages of their own and the end of a heap is given back when it is free. To be called
/// ahead of the first thread.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it takes no pointer, and what it sets are bounds for later calls. Should it fail, they stay.
        unsafe {
            libc::mallopt(option, BOUND);
        }
    }
}

/// Of a text of so many bytes, what is made on the way to it or of it is worth giving back.
const LONG: usize = 1 << 20;

/// Gives back what is free after a text of so many bytes was read or written, if that is long. What was made of it must
/// be gone by then.
pub(crate) fn give_back_after(text: usize) {
    if text >= LONG {
        give_back();
    }
}

/// Gives back what is free. It takes some milliseconds per hundred megabytes, in which who allocates may have to wait.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, changes nothing that is allocated, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
