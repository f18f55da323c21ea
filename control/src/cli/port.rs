//! `culvert port list|add|set|del`.
//!
//! In: a port's name and keys. Out: what changed. Never: a meaning of keys: the running culvert reads them as it reads a
//! file's.

use super::Failure;
use super::layer::{Object, segment};
use super::show::list;

pub(super) fn run(command: Object) -> Result<(), Failure> {
    command.run(|name| Ok(format!("/v1/{}", path(name)?)), list::ports)
}

/// A port as the API has it.
pub(super) fn path(name: &str) -> Result<String, Failure> {
    Ok(format!("ports/{}", segment(name)?))
}
