//! `-o`: how an answer is printed, with the same meaning at every command.
//!
//! In: what is to be printed. Out: its text for programs. Never: a table; each command has its own.

use clap::ValueEnum;
use serde::Serialize;

use super::Failure;

/// The form of an answer; without one it is a table of 80 characters, or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For programs
    Json,
    /// The same for people who want all of it
    Yaml,
    /// Tables with all columns
    Wide,
}

impl Output {
    /// All of a value, if that is what is wanted.
    pub(super) fn text(self, value: &impl Serialize) -> Result<Option<String>, Failure> {
        match self {
            Self::Json => Ok(Some(serde_json::to_string_pretty(value)? + "\n")),
            Self::Yaml => Ok(Some(serde_saphyr::to_string(value)?)),
            Self::Wide => Ok(None),
        }
    }
}
