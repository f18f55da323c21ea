//! A revision: a configuration that ran, or was to.
//!
//! In: who wanted it, and why. Out: the head of its file. Never: the configuration itself, which lies beside it; a key.

use std::fmt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use blake2::{Blake2s256, Digest as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keys::Keys;

/// The newest format of a revision: 1 had its text as a whole.
pub const FORMAT: u32 = 2;

/// What is known of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revision {
    /// Its number: they go up.
    pub number: u64,
    /// The configuration's and its keys'; two revisions with one hash are the same configuration.
    pub hash: String,
    /// When it was applied: seconds since 1970.
    pub unix: u64,
    /// Who applied it: a user of this machine.
    pub user: String,
    /// The way that it came.
    pub origin: Origin,
    /// What its author says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The file that it was read from.
    pub path: PathBuf,
    /// The revision that it brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
}

/// The way that a configuration came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The process started with it.
    Start,
    /// `culvert apply`.
    Cli,
    /// Another client of the control socket.
    #[default]
    Api,
    /// A SIGHUP.
    Sighup,
    /// The file was followed.
    Watch,
    /// It brings an older one back.
    Rollback,
}

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is being applied.
    Begun,
    /// It runs, and waits for its confirmation.
    Pending,
    /// It was applied, and confirmed where that was asked for.
    Applied,
    /// It was not confirmed, and another one was brought back.
    RolledBack,
    /// The process ended before that was written down.
    Unrecorded,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begun => "being applied",
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::RolledBack => "rolled back",
            Self::Unrecorded => "unrecorded",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Cli => "cli",
            Self::Api => "api",
            Self::Sighup => "sighup",
            Self::Watch => "watch",
            Self::Rollback => "rollback",
        })
    }
}

/// A configuration as it was kept.
pub(super) struct Content {
    pub(super) text: String,
    pub(super) keys: Keys,
    pub(super) path: PathBuf,
}

/// Of several things, one after the other.
#[derive(Default)]
pub(super) struct Hashing(Blake2s256);

impl Hashing {
    pub(super) fn add(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes);
    }

    pub(super) fn end(self) -> String {
        hex(&self.0.finalize()[..16])
    }
}

/// Of one thing alone, to see whether it is whole.
pub(super) fn sum(bytes: &[u8]) -> String {
    let mut hash = Hashing::default();
    hash.add(bytes);
    hash.end()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
