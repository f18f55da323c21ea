//! A directory that this process alone uses, until it ends in whatever way.
//!
//! In: a path, and what the directory is for. Out: the directory, locked. Never: a directory that others may write to,
//! or another name for one.

use std::io;
use std::path::{Path, PathBuf};

use culvert_directory::{Directory, DirectoryError, Lock, LockError};

/// What a directory is for.
#[derive(Debug)]
pub(super) struct Purpose {
    /// As messages call it.
    pub(super) name: &'static str,
    /// The option that names another.
    pub(super) option: &'static str,
    /// The mode that it is made with.
    pub(super) mode: u32,
}

/// A directory, and its lock.
#[derive(Debug)]
pub(super) struct OwnDir {
    directory: Directory,
    /// Held to the process's end; the kernel releases it even after `kill -9`.
    _lock: Lock,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnDirError {
    /// Another process has it.
    #[error(
        "{holder} uses the {name} {path} already: stop it, or give this one its own with {option}",
        path = .path.display()
    )]
    InUse {
        /// What the directory is for.
        name: &'static str,
        /// What names another.
        option: &'static str,
        /// The directory.
        path: PathBuf,
        /// The process in words.
        holder: String,
    },
    /// It could not be made, or is not this process's alone.
    #[error("the {name}: {error}; or give {another} with {option}", another = another(.error))]
    Directory {
        /// What the directory is for.
        name: &'static str,
        /// What names another.
        option: &'static str,
        /// Why not.
        error: DirectoryError,
    },
    /// Its lock could not be had.
    #[error("can't lock the {name} {path}: {error}", path = .path.display())]
    Lock {
        /// What the directory is for.
        name: &'static str,
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

impl OwnDir {
    /// Makes the directory unless it is there, and locks it.
    pub(super) fn open(path: &Path, purpose: &'static Purpose) -> Result<Self, OwnDirError> {
        let &Purpose { name, option, mode } = purpose;
        let directory = Directory::own(path, mode).map_err(|error| OwnDirError::Directory {
            name,
            option,
            error,
        })?;
        let path = || directory.path().to_owned();
        let lock = directory.lock("lock", false).map_err(|error| match error {
            LockError::Held { holder } => OwnDirError::InUse {
                name,
                option,
                path: path(),
                holder,
            },
            LockError::Io(error) => OwnDirError::Lock {
                name,
                path: path(),
                error,
            },
        })?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// The directory itself.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }
}
