//! Wake-ups between threads that sleep on file descriptors.
//!
//! In: a producer's `notify` after it has published something. Out: an eventfd
//! that is readable if, and only if, its owner may be asleep. Never: a system
//! call when the owner is awake.
//!
//! Threads: any number of producers, one owner. Why no wake-up is lost stands in
//! `bell`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, eventfd};

use crate::shared::bell::Bell;

/// One thread's doorbell.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
    bell: Bell,
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
            bell: Bell::new(),
        })
    }

    /// Wakes the owner if it sleeps. Call after publishing.
    pub fn notify(&self) {
        if self.bell.must_ring() {
            // A full counter means that a wake-up is pending already.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// The owner announces that it is about to sleep; it must look at all its
    /// inputs once more before it does.
    pub fn announce(&self) {
        self.bell.announce();
    }

    /// The owner is awake again.
    pub fn awake(&self) {
        self.bell.awake();
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.fd, &mut counter);
    }

    /// Whether somebody rang.
    #[cfg(test)]
    pub(crate) fn is_rung(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let now = rustix::time::Timespec::default();
        poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&now)).unwrap() > 0
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
