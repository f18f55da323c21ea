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

/// What a piece of work may leave behind, in bytes: the next one takes it, and whoever allocates meanwhile waits for no
/// tidying up.
const LITTLE: usize = 4 << 20;

/// Does work of which nothing stays but its answer, of so many bytes, and gives back what is free if the process has grown
/// by more. How long the answer is says little of what was made on the way to it.
pub(crate) fn keeping_flat<T>(work: impl FnOnce() -> T, size: impl FnOnce(&T) -> usize) -> T {
    let before = resident();
    let answer = work();
    let flat = before.saturating_add(size(&answer)).saturating_add(LITTLE);
    if resident() > flat {
        give_back();
    }
    answer
}

/// The process's memory, in bytes; of a system that doesn't say, none.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|text| text.parse().ok());
    pages
        .unwrap_or(0_usize)
        .saturating_mul(rustix::param::page_size())
}

/// Gives back what is free. It takes some milliseconds per hundred megabytes, in which who allocates may have to wait.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, changes nothing that is allocated, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Many small pieces, and one that stays at the end of the heap.
    fn litter() -> (Vec<String>, String) {
        let all = (0..64_000).map(|_| "x".repeat(1_000)).collect();
        (all, "y".repeat(1_000))
    }

    #[test]
    fn what_work_has_left_is_given_back() {
        keep_little();
        std::thread::spawn(|| {
            let before = resident();
            let last = keeping_flat(|| litter().1, |_| 0);
            let after = resident();
            assert!(last.starts_with('y'));
            assert!(after < before + (16 << 20), "{before} {after}");
        })
        .join()
        .unwrap();
    }
}
