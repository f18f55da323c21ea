//! Signals through an eventfd that another process owns, too, and may have made blocking.
//!
//! In: an eventfd from the frontend. Out: its counter raised, at least once.
//! Never: a wait, whatever the frontend does with the descriptor.
//!
//! `O_NONBLOCK` belongs to the open file description, which we share with the frontend: it can
//! clear the flag after we set it, fill the counter, and let a `write` wait for ever. Looking
//! first (`poll`, then `write`) leaves it a gap to fill the counter in, `RWF_NOWAIT` is not
//! supported for writes to an eventfd, and an eventfd can't be opened anew. But the kernel
//! itself signals eventfds without waiting when an asynchronous request ends: we submit a read
//! of no bytes from `/dev/null`, which ends at once, and name the eventfd as the one to tell.
//! That costs about what the look and the write cost together.
//!
//! Threads: each has its own context, made at its first signal.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Requests that a context has room for; the kernel rounds up.
const ROOM: u32 = 64;
/// Results that are left in a context before they are thrown away together.
const LEFT_MAX: u32 = 32;
/// `IOCB_CMD_PREAD`
const READ: u16 = 0;
/// `IOCB_FLAG_RESFD`
const TELL: u32 = 1;
/// Bytes of the kernel's `struct io_event`, as 64-bit words.
const RESULT_WORDS: usize = 4;

/// The kernel's `struct iocb`.
#[derive(Default)]
#[repr(C)]
struct Request {
    data: u64,
    /// Key and flags of the request, in an order that differs by endianness; both are 0.
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    tell: u32,
}

/// A context for asynchronous requests.
struct Context {
    id: libc::c_ulong,
    nothing: File,
    /// Results that wait in the context.
    left: Cell<u32>,
}

impl Context {
    fn new() -> io::Result<Self> {
        let nothing = File::open("/dev/null")?;
        let mut id: libc::c_ulong = 0;
        // SAFETY: `id` is valid for the write of a context's number, and is 0 before.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, ROOM, &raw mut id) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            id,
            nothing,
            left: Cell::new(0),
        })
    }

    /// Raises an eventfd's counter; false if the kernel did not take the request.
    fn signal(&self, descriptor: BorrowedFd<'_>) -> bool {
        if self.left.get() >= LEFT_MAX {
            self.discard();
        }
        let (Ok(file), Ok(tell)) = (
            u32::try_from(self.nothing.as_raw_fd()),
            u32::try_from(descriptor.as_raw_fd()),
        ) else {
            return false;
        };
        let mut request = Request {
            opcode: READ,
            file,
            flags: TELL,
            tell,
            ..Request::default()
        };
        let requests = [&raw mut request];
        // SAFETY: the context is ours and alive, and there is one request, which the kernel
        // has read when the call returns; it reads no bytes, so that it needs no buffer.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.id, 1i64, requests.as_ptr()) };
        if taken != 1 {
            self.discard();
            return false;
        }
        self.left.set(self.left.get() + 1);
        true
    }

    /// Throws the results away that have come.
    fn discard(&self) {
        let mut results = [[0u64; RESULT_WORDS]; ROOM as usize];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the context is ours and alive, and there is room for that many results.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.id,
                0i64,
                i64::from(ROOM),
                results.as_mut_ptr(),
                ptr::from_ref(&now),
            )
        };
        self.left.set(0);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and nobody uses it any more.
        let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
    }
}

thread_local! {
    static CONTEXT: OnceCell<Option<Context>> = const { OnceCell::new() };
}

/// Raises the counter of a frontend's eventfd, and never waits. A full counter is as good as a
/// signal.
pub(crate) fn signal(descriptor: BorrowedFd<'_>) {
    let is_done = CONTEXT.try_with(|context| {
        let context = context.get_or_init(|| Context::new().ok());
        // Once more if results filled the context.
        context
            .as_ref()
            .is_some_and(|context| context.signal(descriptor) || context.signal(descriptor))
    });
    if !is_done.unwrap_or(false) {
        signal_after_a_look(descriptor);
    }
}

/// What is left without asynchronous requests (a filter of system calls, the system's limit):
/// a frontend has to win a race to make this wait, and a VMM that only forgot the flag can't.
fn signal_after_a_look(descriptor: BorrowedFd<'_>) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    let is_ready =
        matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds[0].revents().contains(PollFlags::OUT);
    if is_ready {
        let _ = rustix::io::write(descriptor.as_fd(), &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn take(descriptor: BorrowedFd<'_>) -> u64 {
        let mut count = [0u8; 8];
        rustix::io::read(descriptor, &mut count).unwrap();
        u64::from_ne_bytes(count)
    }

    fn fill(descriptor: BorrowedFd<'_>) {
        rustix::io::write(descriptor, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    }

    #[test]
    fn every_signal_is_counted() {
        let call = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let context = Context::new().unwrap();
        // Many more than the context has room for.
        for _ in 0..10_000 {
            assert!(context.signal(call.as_fd()));
        }
        assert_eq!(take(call.as_fd()), 10_000);
        for _ in 0..1000 {
            signal(call.as_fd());
            signal_after_a_look(call.as_fd());
        }
        assert_eq!(take(call.as_fd()), 2000);
    }

    #[test]
    fn a_full_counter_that_blocks_is_no_wait() {
        let call = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        fill(call.as_fd());
        for _ in 0..1000 {
            signal(call.as_fd());
            signal_after_a_look(call.as_fd());
        }
        assert!(take(call.as_fd()) >= u64::MAX - 1);
        signal(call.as_fd());
        assert_eq!(take(call.as_fd()), 1);
    }
}
