//! The folder of a `culvert tun`: where `culvert show` finds the interface.
//!
//! In: the interface's name. Out: a directory under [`TUN_DIR`] that this process alone uses and removes; which there
//! are. Never: a reason not to carry packets: who can't have one is not shown.
//!
//! A process that was killed leaves its folder. Nobody listens in it, and its lock is free: the next one that starts
//! removes it. The lock's file is made ahead of all others and removed last, so a folder that has one stays.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use culvert_directory::{Directory, DirectoryError, Lock, LockError};

use super::API_SOCKET;

/// Where the folders lie.
pub const TUN_DIR: &str = "/run/culvert-tun";

/// As a run directory's.
const MODE: u32 = 0o750;
/// Its names are no secret: those of interfaces.
const MODE_OF_ALL: u32 = 0o755;
const LOCK: &str = "lock";
/// How long a process that ends may take to leave its folder.
const SUCCESSION: Duration = Duration::from_secs(3);

/// The folder of an interface; removed when dropped.
#[derive(Debug)]
pub struct TunDir {
    directory: Directory,
    lock: Option<Lock>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum TunDirError {
    /// It could not be made, or is not this process's alone.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its lock could not be had.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl TunDir {
    /// Makes it, and removes those that nobody uses any more.
    ///
    /// # Errors
    ///
    /// When another process has it, or it can't be made.
    pub fn open(interface: &str) -> Result<Self, TunDirError> {
        Self::open_in(Path::new(TUN_DIR), interface)
    }

    fn open_in(all: &Path, interface: &str) -> Result<Self, TunDirError> {
        let all = Directory::own(all, MODE_OF_ALL)?;
        for name in all.names().unwrap_or_default() {
            sweep(&all, &name);
        }
        let end = Instant::now() + SUCCESSION;
        loop {
            match Self::take(&all, interface.as_ref()) {
                // It was removed under us, or is about to be.
                Err(TunDirError::Lock(_)) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    fn take(all: &Directory, name: &OsStr) -> Result<Self, TunDirError> {
        let directory = all.within(name, MODE)?;
        let lock = Some(directory.lock(LOCK, true)?);
        Ok(Self { directory, lock })
    }

    /// The directory itself.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }
}

impl Drop for TunDir {
    fn drop(&mut self) {
        for name in self.directory.names().unwrap_or_default() {
            if name != LOCK {
                let _ = self.directory.remove(name);
            }
        }
        self.lock = None;
        // Not if somebody has locked it by now.
        let _ = std::fs::remove_dir(self.directory.path());
    }
}

/// Removes a folder that nobody uses.
fn sweep(all: &Directory, name: &OsStr) {
    if all.path().join(name).join(LOCK).exists() {
        drop(TunDir::take(all, name));
    }
}

/// The interfaces that have one, dead ones among them: nobody listens there.
#[must_use]
pub fn interfaces() -> Vec<String> {
    let all = std::fs::read_dir(TUN_DIR).into_iter().flatten().flatten();
    let names = all.map(|folder| folder.file_name());
    let mut names: Vec<_> = names
        .filter_map(|name: OsString| name.into_string().ok())
        .collect();
    names.retain(|name| of(name).join(API_SOCKET).exists());
    names.sort_unstable();
    names
}

/// Where an interface's is.
#[must_use]
pub fn of(interface: &str) -> PathBuf {
    Path::new(TUN_DIR).join(interface)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_is_one_process_s_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().join("all");
        let first = TunDir::open_in(&all, "wg0").unwrap();
        fs::write(all.join("wg0/api.sock"), "").unwrap();
        let second = TunDir::open_in(&all, "wg1").unwrap();
        assert!(all.join("wg0/lock").exists());
        assert!(all.join("wg0/api.sock").exists());
        let taken = TunDir::take(&Directory::own(&all, 0o755).unwrap(), "wg0".as_ref());
        assert!(matches!(
            taken,
            Err(TunDirError::Lock(LockError::Held { .. }))
        ));
        drop(first);
        assert!(!all.join("wg0").exists());
        drop(second);
        assert!(!all.join("wg1").exists());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().join("all");
        let killed = TunDir::open_in(&all, "wg0").unwrap();
        drop(killed);
        for name in ["wg0", "wg1"] {
            fs::create_dir(all.join(name)).unwrap();
            fs::write(all.join(name).join("lock"), "4711\n").unwrap();
            fs::write(all.join(name).join("api.sock"), "").unwrap();
        }
        // Nothing of ours.
        fs::create_dir(all.join("other")).unwrap();
        let next = TunDir::open_in(&all, "wg1").unwrap();
        assert!(!all.join("wg0").exists());
        assert!(!all.join("wg1/api.sock").exists());
        assert!(all.join("other").exists());
        drop(next);
    }
}
