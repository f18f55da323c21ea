//! `culvert port list|add|set|del`.
//!
//! In: a port's name and keys. Out: what changed. Never: a meaning of keys: the running culvert reads them as it reads a
//! file's.

use super::Failure;
use super::layer::Object;
use super::show::list;

pub(super) fn run(command: Object) -> Result<(), Failure> {
    command.run(|name| Ok(format!("/v1/ports/{name}")), list::ports)
}
