//! What goes over the control socket, as types.
//!
//! In: what clients send. Out: what they are answered. Never: work; a resource's own types that no other one needs stand
//! beside it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{object, whole};
use crate::config::{Included, Texts};
use crate::history::pending::Confirm;
use crate::history::revision::Revision;
use crate::state::Pending;

/// The body of `POST /v1/apply`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyBody {
    /// The file's absolute path: for messages, and where relative paths in it begin.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
    /// What it includes: nobody here opens a file for that.
    #[serde(
        default,
        deserialize_with = "object::many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub included: Vec<Included>,
    /// What its author says of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// It is taken back unless it is confirmed.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub confirm: Option<Confirm>,
    /// Nothing is changed: the answer has what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// It comes from a command.
    #[serde(default)]
    pub cli: bool,
}

impl ApplyBody {
    /// The texts that came along.
    #[must_use]
    pub fn into_texts(self) -> Texts {
        Texts {
            path: self.path,
            text: self.text,
            included: self.included,
        }
    }
}

/// The body of `POST /v1/confirm`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmBody {
    /// The revision that is meant.
    #[serde(default, deserialize_with = "whole::optional")]
    pub revision: Option<u64>,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Confirmed {
    /// What is kept.
    pub revision: u64,
}

/// The body of `POST /v1/rollback`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    /// The revision to go back to. Without one, what waits for its confirmation is taken back.
    #[serde(default, deserialize_with = "whole::optional")]
    pub to: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// It is taken back unless it is confirmed.
    #[serde(
        default,
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub confirm: Option<Confirm>,
    /// Nothing is changed: the answer has what would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// The body of `POST /v1/history/purge`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeBody {
    /// Revisions that are forgotten.
    #[serde(default, deserialize_with = "whole::many")]
    pub revisions: Vec<u64>,
    /// Their keys alone are.
    #[serde(default)]
    pub keys_only: bool,
    /// Public keys, of peers or of tunnels, that no rollback brings back from now on.
    #[serde(default)]
    pub revoke: Vec<String>,
}

/// The answer to `GET /v1/history/NUMBER`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevisionText {
    /// What is known of it.
    #[serde(flatten)]
    pub revision: Revision,
    /// A file that says the same.
    pub text: String,
}

/// The body of `POST /v1/diff`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffBody {
    /// What was.
    pub from: Side,
    /// What comes.
    pub to: Side,
    /// Whether the lines that differ are wanted, too.
    #[serde(default)]
    pub text: bool,
}

/// One of two configurations that are compared.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// What is desired at present, with what `wg` set.
    Running,
    /// A file.
    File(#[serde(deserialize_with = "object::one")] ApplyBody),
    /// One of the history.
    Revision(#[serde(deserialize_with = "whole::one")] u64),
}

impl Side {
    /// The word for what runs.
    pub const RUNNING: &str = "running";

    /// What [`Side::named`] knows.
    const PATTERN: &str = "^(running|[0-9]{1,19})$";

    /// What a running Culvert knows by that name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        match text {
            Self::RUNNING => Some(Self::Running),
            number => number.parse().ok().map(Self::Revision),
        }
    }

    /// The name of what is no file.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Running => Some(Self::RUNNING.into()),
            Self::Revision(number) => Some(number.to_string()),
            Self::File(_) => None,
        }
    }
}

/// The query of `GET /v1/diff`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DiffQuery {
    /// What was: a revision's number, or `running`.
    #[schemars(extend("pattern" = Side::PATTERN))]
    pub from: String,
    /// What comes: likewise.
    #[schemars(extend("pattern" = Side::PATTERN))]
    pub to: String,
    /// Whether the lines that differ are wanted, too.
    #[serde(default)]
    pub text: bool,
}

/// The answer to `GET /v1/config`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfigText {
    /// The file that it was read from.
    pub path: PathBuf,
    /// A file that says the same.
    pub text: String,
}

/// The query of `GET /v1/config`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ConfigQuery {
    /// With what `wg` set.
    #[serde(default)]
    pub drift: bool,
    /// Its path alone: the text is empty.
    #[serde(default)]
    pub path_only: bool,
}

/// The body of every answer that is not the one asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// What is wrong, in one line.
    pub error: String,
    /// The rendered report of a configuration with mistakes, else empty.
    #[serde(default)]
    pub report: String,
    /// What needs a restart, if that is why.
    #[serde(default)]
    pub needs_restart: Vec<String>,
    /// What waits for its confirmation, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<Pending>>,
}

/// What is logged: the body of `PUT /v1/log`, and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or directives as `info,culvert::engine=debug`.
    pub filter: String,
}

/// The query of `GET /v1/routes/get`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WayQuery {
    /// Where the packet is for.
    pub to: std::net::IpAddr,
    /// The port that it comes from; without one each network is told of.
    pub from: Option<String>,
}
