//! The run directory: everything that a running process leaves on disk, and its lock.
//!
//! In: a path. Out: a directory that this process alone uses, until it ends in whatever way.
//! Never: a directory that others may write to.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::lock::{FileLock, LockError};

/// Where everything lives unless `--run-dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/culvert";

/// A run directory that this process alone uses.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held to the process's end; the kernel releases it even after `kill -9`.
    _lock: FileLock,
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
    /// It could not be made.
    #[error("can't make the run directory {path}: {error}; {}", mend(.error))]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something else has its name.
    #[error("{path} is not a directory: give another with --run-dir", path = .0.display())]
    NotADirectory(PathBuf),
    /// Others could put files (or links) into it.
    #[error(
        "others may write to the run directory {path} (mode {mode:04o}): chmod 0750 {path}, or give another with --run-dir",
        path = .path.display()
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user's.
    #[error(
        "the run directory {path} belongs to user {owner}: run as that user, or give another with --run-dir",
        path = .path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Its lock could not be had.
    #[error("can't lock the run directory {path}: {error}", path = .path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn mend(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "run as root, or give a directory of your own with --run-dir"
    } else {
        "give another with --run-dir"
    }
}

impl RunDir {
    /// Makes the directory (mode 0750) unless it is there, and locks it.
    ///
    /// # Errors
    ///
    /// When another process has it, or it can't be trusted.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        let path = &std::path::absolute(path).map_err(|error| make(path, error))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(path)
            .map_err(|error| {
                if error.kind() == io::ErrorKind::AlreadyExists {
                    RunDirError::NotADirectory(path.clone())
                } else {
                    make(path, error)
                }
            })?;
        check(path)?;
        let lock = FileLock::acquire(&path.join("lock")).map_err(|error| match error {
            LockError::Held { holder, .. } => RunDirError::InUse {
                path: path.clone(),
                holder,
            },
            LockError::Io { error, .. } => RunDirError::Lock {
                path: path.clone(),
                error,
            },
        })?;
        Ok(Self {
            path: path.clone(),
            _lock: lock,
        })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket's path.
    pub fn api_socket(&self) -> PathBuf {
        api_socket(&self.path)
    }
}

/// The control socket of the process that uses a run directory.
pub(crate) fn api_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("api.sock")
}

fn make(path: &Path, error: io::Error) -> RunDirError {
    RunDirError::Make {
        path: path.to_owned(),
        error,
    }
}

fn check(path: &Path) -> Result<(), RunDirError> {
    let metadata = fs::metadata(path).map_err(|error| make(path, error))?;
    if !metadata.is_dir() {
        return Err(RunDirError::NotADirectory(path.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && own != 0 {
        return Err(RunDirError::Foreign {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o002 != 0 {
        return Err(RunDirError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}
