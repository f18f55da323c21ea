//! The run directory: everything that a running process leaves on disk, and its lock.
//!
//! In: a path. Out: a directory that this process alone uses, until it ends in whatever way.
//! Never: a directory that others may write to, or another name for one.

use std::io;
use std::path::{Path, PathBuf};

use culvert_directory::{Directory, DirectoryError, Lock, LockError};

/// Where everything lives unless `--run-dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/culvert";

/// A run directory that this process alone uses.
#[derive(Debug)]
pub struct RunDir {
    directory: Directory,
    /// Held to the process's end; the kernel releases it even after `kill -9`.
    _lock: Lock,
}

/// Why a run directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// Another process has it.
    #[error(
        "{holder} uses the run directory {path} already: stop it, or give this one its own with --run-dir",
        path = .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process in words.
        holder: String,
    },
    /// It could not be made, or is not this process's alone.
    #[error("the run directory: {0}; or give {another} with --run-dir", another = another(.0))]
    Directory(#[from] DirectoryError),
    /// Its lock could not be had.
    #[error("can't lock the run directory {path}: {error}", path = .path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn another(error: &DirectoryError) -> &'static str {
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    match error {
        DirectoryError::Io { error, .. } if denied(error) => "one of your own",
        DirectoryError::NotADirectory(_)
        | DirectoryError::Exposed { .. }
        | DirectoryError::Foreign { .. }
        | DirectoryError::Io { .. } => "another",
    }
}

impl RunDir {
    /// Makes the directory (mode 0750) unless it is there, and locks it.
    ///
    /// # Errors
    ///
    /// When another process has it, or it can't be trusted.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        let directory = Directory::own(path, 0o750)?;
        let lock = directory.lock("lock", false).map_err(|error| match error {
            LockError::Held { holder } => RunDirError::InUse {
                path: directory.path().to_owned(),
                holder,
            },
            LockError::Io(error) => RunDirError::Lock {
                path: directory.path().to_owned(),
                error,
            },
        })?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory itself.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }
}

/// The control socket's name.
pub(crate) const API_SOCKET: &str = "api.sock";
