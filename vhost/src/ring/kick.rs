//! Event descriptors: the guest's kicks and our calls.
//!
//! In: descriptors from the frontend, verified to be eventfds. Out: a stable descriptor per ring
//! that a worker can sleep on, whatever the frontend replaces meanwhile.
//! Never: a read or a write that blocks.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::epoll;
use rustix::io::ReadWriteFlags;

/// An offset that means none, for what isn't a file.
const CURRENT_POSITION: u64 = u64::MAX;

/// A ring's kick: an epoll instance that holds the frontend's current eventfd.
#[derive(Debug)]
pub(crate) struct Kick {
    epoll: OwnedFd,
    current: Mutex<Option<Arc<OwnedFd>>>,
}

impl Kick {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            current: Mutex::new(None),
        })
    }

    /// Readable when the guest kicked. The descriptor is the same for the ring's whole life.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Replaces the frontend's eventfd.
    pub(crate) fn set(&self, kick: Option<Arc<OwnedFd>>) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = current.take() {
            // Explicitly: the frontend's copy would keep a closed descriptor in the set.
            epoll::delete(&self.epoll, old.as_fd())?;
        }
        if let Some(kick) = kick {
            epoll::add(
                &self.epoll,
                kick.as_fd(),
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )?;
            *current = Some(kick);
        }
        Ok(())
    }

    /// True if there is an eventfd of the frontend's.
    pub(crate) fn is_set(&self) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.is_some()
    }

    /// Takes the kicks that came so far. True if there were any.
    pub(crate) fn clear(&self) -> bool {
        let Ok(current) = self.current.try_lock() else {
            return false;
        };
        current.as_ref().is_some_and(|kick| {
            let mut count = [0u8; 8];
            // Not a plain read: the frontend may have cleared `O_NONBLOCK` meanwhile.
            rustix::io::preadv2(
                kick.as_fd(),
                &mut [IoSliceMut::new(&mut count)],
                CURRENT_POSITION,
                ReadWriteFlags::NOWAIT,
            )
            .is_ok()
        })
    }
}

/// Checks that `descriptor` is an eventfd and makes it non-blocking. The frontend can undo the
/// latter, so that nothing here relies on it.
pub(crate) fn verified(descriptor: OwnedFd) -> io::Result<Arc<OwnedFd>> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an eventfd",
        ));
    }
    let flags = rustix::fs::fcntl_getfl(&descriptor)?;
    if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok(Arc::new(descriptor))
}

/// Adds 1 to an eventfd of our own, which is non-blocking. A full counter is as good as a
/// signal. For a frontend's, see [`call`](super::call).
pub(crate) fn signal(descriptor: BorrowedFd<'_>) {
    let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
}
