//! The guard against files that are truncated under a mapping.
//!
//! In: SIGBUS at an address. Out: zero pages there and a mark on the watch, if the address lies
//! in a watched mapping; the previous action otherwise.
//! Never: a lock or an allocation in the handler.
//!
//! A frontend can truncate a memory file whenever it likes (unless sealed). The next access to
//! a page that is gone raises SIGBUS in whichever thread touched it. The handler maps zero pages
//! over the whole page and returns; the access repeats, and whoever holds the ring finds the mark.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::{mem, ptr};

/// Mappings watched at once in this process: 128 ports of 64 regions.
const WATCHES: usize = 8192;

struct Slot {
    start: AtomicUsize,
    /// 0 while the slot is free: set last, cleared first.
    length: AtomicUsize,
    page: AtomicUsize,
    hit: AtomicBool,
}

static SLOTS: [Slot; WATCHES] = [const {
    Slot {
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; WATCHES];
/// Which slots are taken.
static TAKEN: Mutex<[bool; WATCHES]> = Mutex::new([false; WATCHES]);
/// Slots that were ever taken: the handler looks no further.
static USED: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALL: Once = Once::new();

/// The watch over one mapping.
#[derive(Debug)]
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches `length` bytes at `start`, in pages of `page` bytes. `None` if all slots are taken.
    pub(super) fn new(start: usize, length: usize, page: usize) -> Option<Self> {
        INSTALL.call_once(install);
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = taken.iter().position(|&is_taken| !is_taken)?;
        taken[slot] = true;
        let own = &SLOTS[slot];
        own.hit.store(false, Ordering::Relaxed);
        own.start.store(start, Ordering::Relaxed);
        own.page.store(page, Ordering::Relaxed);
        own.length.store(length, Ordering::Release);
        USED.fetch_max(slot + 1, Ordering::Release);
        Some(Self { slot })
    }

    /// True once an access under this watch found nothing.
    #[inline]
    pub(super) fn is_hit(&self) -> bool {
        SLOTS[self.slot].hit.load(Ordering::Relaxed)
    }

    /// Ends the watch; the mapping may go then.
    pub(super) fn end(&self) {
        SLOTS[self.slot].length.store(0, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        taken[self.slot] = false;
    }
}

fn install() {
    // SAFETY: both structures are plain data that the kernel fills or reads; the handler is
    // async-signal-safe (atomics, mmap, sigaction).
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        let mut previous: libc::sigaction = mem::zeroed();
        if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) == 0 {
            let _ = PREVIOUS.set(previous);
        }
    }
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    information: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler.
    let address = unsafe { (*information).si_addr() }.addr();
    if cover(address) {
        return;
    }
    // SAFETY: the previous action is restored or called just as the kernel would have called it.
    unsafe {
        match PREVIOUS.get() {
            Some(previous)
                if previous.sa_flags & libc::SA_SIGINFO != 0
                    && previous.sa_sigaction != libc::SIG_DFL
                    && previous.sa_sigaction != libc::SIG_IGN =>
            {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    mem::transmute(previous.sa_sigaction);
                handler(signal, information, context);
            }
            Some(_) | None => {
                // The access repeats and ends the process, as it would have without us.
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
    }
}

/// Maps zeros over the page at `address` if a watch covers it.
fn cover(address: usize) -> bool {
    for slot in &SLOTS[..USED.load(Ordering::Acquire)] {
        let length = slot.length.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        if address.wrapping_sub(start) >= length {
            continue;
        }
        let page = slot.page.load(Ordering::Relaxed);
        let at = address & !(page - 1);
        // SAFETY: the page lies in a mapping that its watch holds in place; replacing it by
        // zeros is what keeps accesses through raw pointers defined.
        let mapped = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(at),
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        slot.hit.store(true, Ordering::Relaxed);
        return true;
    }
    false
}
