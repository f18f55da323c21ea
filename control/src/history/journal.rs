//! The journal: a change that waits for its confirmation.
//!
//! In: which revision ran, which is tried, until when. Out: one file, on the disk before anything changes, and gone when
//! the change is kept or taken back. Never: a start with what was not confirmed.

use serde::{Deserialize, Serialize};

/// Its name.
pub(super) const JOURNAL: &str = "journal";

/// The newest format.
pub(super) const FORMAT: u32 = 1;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The format's version.
    pub(super) format: u32,
    /// What ran, and runs again unless the other one is confirmed.
    pub(super) previous: u64,
    /// What is tried.
    pub(super) pending: u64,
    /// Seconds since 1970, for people: the daemon's own clock goes on while the machine sleeps.
    pub(super) deadline_unix: u64,
}

/// What a start finds of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// None: whatever was pending is confirmed.
    Nothing,
    /// A change that waits.
    Waits(Journal),
    /// One that says nothing, and why.
    Unreadable(String),
}

impl Journal {
    pub(super) fn new(previous: u64, pending: u64, deadline_unix: u64) -> Self {
        Self {
            format: FORMAT,
            previous,
            pending,
            deadline_unix,
        }
    }
}
