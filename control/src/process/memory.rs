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

/// Gives back what is free. It takes some milliseconds per hundred megabytes, in which who allocates may have to wait.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, changes nothing that is allocated, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
