//! Wake-ups between threads that sleep on file descriptors.
//!
//! In: a producer's `notify` after it has published something. Out: an eventfd
//! that is readable if, and only if, its owner may be asleep. Never: a system
//! call when the owner is awake.
//!
//! Threads: any number of producers, one owner. Invariant: the owner announces
//! its sleep, fences, and looks at its inputs once more before it sleeps; the
//! producer publishes, fences, then looks for the announcement. One of the two
//! sees the other, so no wake-up is lost.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering, fence},
};

use rustix::event::{EventfdFlags, eventfd};

/// One thread's doorbell.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Wake {
    /// A doorbell whose owner is awake.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            fd,
            asleep: AtomicBool::new(false),
        })
    }

    /// Wakes the owner if it sleeps. Call after publishing.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::Relaxed) {
            // A full counter means that a wake-up is pending already.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// The owner announces that it is about to sleep; it must look at all its
    /// inputs once more before it does.
    pub fn announce(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake again.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.fd, &mut counter);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn readable(wake: &Wake, timeout: Duration) -> bool {
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(timeout.as_nanos()).unwrap(),
        };
        poll(&mut [PollFd::new(wake, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    #[test]
    fn an_awake_owner_costs_no_write_and_a_sleeping_one_is_woken() {
        let wake = Arc::new(Wake::new().unwrap());
        wake.notify();
        assert!(!readable(&wake, Duration::ZERO));
        wake.announce();
        let producer = thread::spawn({
            let wake = Arc::clone(&wake);
            move || wake.notify()
        });
        assert!(readable(&wake, Duration::from_millis(999)));
        producer.join().unwrap();
        wake.awake();
        assert!(!readable(&wake, Duration::ZERO));
    }
}
