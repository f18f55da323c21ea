//! A life in the background: the same program again, in a session of its own.
//!
//! In: arguments for that process; descriptors that somebody handed over. Out: a process that works, or the reason
//! why not. Never: a fork without an exec: threads would be missing in the child.
//!
//! The parent waits until the child says that it is ready, so whoever started the parent can go on at once. Until
//! then the child has the parent's stderr to say what went wrong.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// The environment variable with the number of the pipe on which the parent waits.
const VARIABLE: &str = "CULVERT_READY_FD";

/// Starts this program in the background under the name `name`; `false` if it ended before it was ready, in which
/// case it has said why.
///
/// # Errors
///
/// When it can't be started.
pub fn in_background(name: &CStr, arguments: &[&str]) -> io::Result<bool> {
    let (heard, said) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // The child's end survives the exec.
    rustix::io::fcntl_setfd(&said, rustix::io::FdFlags::empty())?;
    let mut child = Command::new("/proc/self/exe")
        .arg0(OsStr::from_bytes(name.to_bytes()))
        .args(arguments)
        .env(VARIABLE, said.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .spawn()?;
    drop(said);
    // One byte, or the end that comes with the child's.
    if File::from(heard).read(&mut [0])? == 0 {
        child.wait()?;
        return Ok(false);
    }
    Ok(true)
}

/// The child's word to its parent, if it has one that waits.
#[derive(Debug)]
pub struct Ready(Option<File>);

impl Ready {
    /// Leaves the parent's session, if this is a child, which is called `name` from here on.
    ///
    /// # Errors
    ///
    /// When the parent's pipe is not there.
    pub fn from_parent(name: &CStr) -> io::Result<Self> {
        let Some(fd) = handed(VARIABLE)? else {
            return Ok(Self(None));
        };
        // The kernel's name for it is the link's by which it was started: `exe`.
        rustix::thread::set_name(name)?;
        // Fails for a process that leads a session already, which is as well.
        let _ = rustix::process::setsid();
        Ok(Self(Some(fd.into())))
    }

    /// Whether a parent waits.
    pub fn is_child(&self) -> bool {
        self.0.is_some()
    }

    /// Lets the parent go. `quiet`: nothing is said on its terminal from here on.
    pub fn say(self, quiet: bool) {
        let Some(mut parent) = self.0 else { return };
        if quiet && let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
        // A parent that was killed meanwhile waits no more.
        let _ = parent.write_all(b"r");
    }
}

/// The descriptor whose number is in an environment variable; a duplicate of it, which the exec of another program
/// closes. `None` without the variable.
///
/// # Errors
///
/// When that is no number, or nothing is open there.
pub fn handed(variable: &str) -> io::Result<Option<OwnedFd>> {
    let Some(text) = std::env::var_os(variable).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let number: i32 = number.ok_or_else(|| {
        let message = format!("{variable} is no number");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    handed::duplicate(number)
        .map_err(|error| io::Error::new(error.kind(), format!("{variable}={number}: {error}")))
        .map(Some)
}

#[allow(
    unsafe_code,
    reason = "a named room: a descriptor that another program names by its number"
)]
mod handed {
    use std::fs;
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    /// A duplicate of what is open under that number.
    ///
    /// `pidfd_getfd` would need no `unsafe`, and is refused in containers.
    pub(super) fn duplicate(number: i32) -> io::Result<OwnedFd> {
        // A number that is not open, or none that can be.
        fs::symlink_metadata(format!("/proc/self/fd/{number}"))
            .map_err(|_| io::Error::from(rustix::io::Errno::BADF))?;
        // SAFETY: it is open, and stays so for the call: who started this process left it to us, and no thread runs
        // yet that could close it.
        let theirs = unsafe { BorrowedFd::borrow_raw(number) };
        Ok(rustix::io::fcntl_dupfd_cloexec(theirs, 3)?)
    }
}
