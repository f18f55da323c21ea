//! stderr or journald, where a line that can't be written is lost and counted.
//!
//! In: whole lines. Out: the same there, and a line that says how many are missing once it takes lines again.
//! Never: an error for who logs, a panic, a wait for a reader beyond [`PATIENCE`].
//!
//! The disk behind stderr may be full, its pipe's reader gone or asleep. The switch goes on.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::journal::Journal;
use super::lines::Lines;

/// How long a reader that doesn't keep up is waited for, once: until it takes a line again, none waits.
const PATIENCE: Duration = Duration::from_millis(20);
/// A line has so many bytes at most: a pipe that is ready takes so much at once (`PIPE_BUF`, pipe(7)). Its texts are
/// shortened before it is written in its form ([`super::lines`]), so that it stays whole; this is what is true of any.
pub(super) const LINE_MAX: usize = 4_096;

/// Lines that were lost since the start.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that were lost since the start.
pub(super) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// What of lost lines was not told yet.
static UNTOLD: Mutex<Untold> = Mutex::new(Untold {
    lines: 0,
    is_cut: false,
});

struct Untold {
    lines: u64,
    /// The last line that was begun has no end.
    is_cut: bool,
}

/// Where lines go.
#[derive(Debug)]
pub(super) enum Out {
    Stderr,
    Journal(Journal),
}

/// Takes whole lines.
#[derive(Clone, Copy)]
pub(super) struct Lossy {
    pub(super) out: &'static Out,
    /// Of what form a line is that warns.
    pub(super) lines: Lines,
}

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut untold = UNTOLD
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match self.out {
            Out::Stderr => untold.write(io::stderr().lock(), line, self.lines),
            Out::Journal(journal) => untold.write(journal, line, self.lines),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Untold {
    fn write(&mut self, mut out: impl Write + AsFd, line: &[u8], lines: Lines) {
        let patience = if self.lines == 0 {
            PATIENCE
        } else {
            Duration::ZERO
        };
        if is_ready(&out, patience) {
            if self.lines > 0 {
                let text = lines.warning(&format!("{} log lines could not be written", self.lines));
                let begin = if self.is_cut { "\n" } else { "" };
                if !self.put(&mut out, format!("{begin}{text}").as_bytes()) {
                    return self.lose();
                }
                self.lines = 0;
            }
            if is_ready(&out, patience) && self.put(&mut out, line) {
                return;
            }
        }
        self.lose();
    }

    fn lose(&mut self) {
        self.lines += 1;
        LOST.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes a line to its end; `false` if it did not work.
    fn put(&mut self, out: &mut impl Write, line: &[u8]) -> bool {
        let mut rest = line;
        let cut;
        if rest.len() > LINE_MAX {
            cut = [&line[..LINE_MAX - 4], "…\n".as_bytes()].concat();
            rest = &cut;
        }
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(0) => return false,
                Ok(written) => {
                    rest = &rest[written..];
                    self.is_cut = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Whether a write would not wait.
fn is_ready(out: &impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(out, PollFlags::OUT)];
    let patience = Timespec::try_from(patience).ok();
    // What can't be polled is no reason to lose a line: the write will tell.
    match poll(&mut fds, patience.as_ref()) {
        Ok(0) => false,
        Ok(_) | Err(_) => true,
    }
}
