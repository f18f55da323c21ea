//! The run directory: sockets, locks, and what is as short-lived as the machine's uptime.
//!
//! In: a path. Out: a directory that this process alone uses, until it ends in whatever way.
//! Never: a directory that others may write to, or another name for one.

use std::path::Path;

use culvert_directory::Directory;

use super::own_dir::{OwnDir, OwnDirError, Purpose};

/// Where everything lives unless `--run-dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/culvert";

const PURPOSE: Purpose = Purpose {
    name: "run directory",
    option: "--run-dir",
    mode: 0o750,
};

/// A run directory that this process alone uses.
#[derive(Debug)]
pub struct RunDir(OwnDir);

impl RunDir {
    /// Makes the directory (mode 0750) unless it is there, and locks it.
    ///
    /// # Errors
    ///
    /// When another process has it, or it can't be trusted.
    pub fn open(path: &Path) -> Result<Self, OwnDirError> {
        OwnDir::open(path, &PURPOSE).map(Self)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.directory().path()
    }

    /// The directory itself.
    pub fn directory(&self) -> &Directory {
        self.0.directory()
    }
}

/// The control socket's name.
pub(crate) const API_SOCKET: &str = "api.sock";

/// The name of the socket by which nothing can be changed.
pub(crate) const READ_SOCKET: &str = "api-read.sock";
