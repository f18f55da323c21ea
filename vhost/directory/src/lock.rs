//! Locked files: what two processes must not share.
//!
//! In: a directory, a name. Out: a lock that the kernel releases when the process ends in whatever way, or the process
//! that holds it. Never: waiting.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::Directory;

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{holder} uses it")]
    Held {
        /// The process in words: "culvert (pid 123)".
        holder: String,
    },
    /// The system refused, or the lock's file is not ours.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A locked file; unlocked when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// Removed with the lock.
    name: Option<(Directory, OsString)>,
}

impl Directory {
    /// Locks a file, which is made if need be, and writes this process's id into it. `passing`: it is removed with the
    /// lock.
    ///
    /// # Errors
    ///
    /// When another process has it, or the file is not ours.
    pub fn lock(&self, name: impl AsRef<OsStr>, passing: bool) -> Result<Lock, LockError> {
        let name = name.as_ref();
        // Whoever unlinks a lock file holds it: after locking, the name must still be this file's.
        loop {
            let (mut file, takes_word) = match self.file(name) {
                // What is there can be locked all the same.
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    (self.open(name, OFlags::RDONLY)?, false)
                }
                opened => (opened?, true),
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let holder = holder_in(&mut file);
                    return Err(LockError::Held { holder });
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let locked = file.metadata()?;
            if self.node(name) != Some((locked.dev(), locked.ino())) {
                continue;
            }
            match write_pid(&mut file) {
                // The lock holds as well without its word for others.
                Err(error) if is_full(&error) || !takes_word => {}
                written => written?,
            }
            let name = passing.then(|| (self.clone(), name.to_owned()));
            return Ok(Lock { file, name });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is held: see the loop above.
        if let Some((directory, name)) = &self.name {
            let _ = directory.remove(name);
        }
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The process that wrote its id into a lock file.
fn holder_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    match read.ok().and_then(|_| text.trim().parse().ok()) {
        Some(pid) => process_name(pid),
        None => "another process".into(),
    }
}

/// "culvert (pid 123)"
pub(crate) fn process_name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("a process (pid {pid})"),
        name => format!("{name} (pid {pid})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_locked_once_and_free_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::own(folder.path(), 0o750).unwrap();
        for passing in [true, false] {
            let first = directory.lock("lock", passing).unwrap();
            let error = directory.lock("lock", passing).unwrap_err();
            let text = error.to_string();
            let own = format!("pid {}", std::process::id());
            assert!(text.contains(&own), "{text}");
            drop(first);
            drop(directory.lock("lock", passing).unwrap());
            let left = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, usize::from(!passing));
        }
    }
}
