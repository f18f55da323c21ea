//! What a process owes its machine: run directory, locks, signals, systemd, logging.
//!
//! In: the command line. Out: a [`RunDir`] that nobody else has, signals as requests, messages to
//! systemd. Never: packets.

use std::path::{Path, PathBuf};

/// A run directory that this process alone uses.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The way to systemd (or to nobody).
#[derive(Clone, Debug, Default)]
pub struct Notify {}

impl Notify {
    /// The start is complete.
    pub fn ready(&self) {}
}
