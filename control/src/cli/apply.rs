//! `culvert apply FILE`.

use std::path::Path;

use super::{Failure, print};
use crate::api::ApplyBody;
use crate::api::client::{Client, ClientError};

pub(super) fn run(config: &Path, run_dir: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(config)
        .map_err(|error| Failure::Line(format!("can't read {}: {error}", config.display())))?;
    let path = std::path::absolute(config)?;
    let body = ApplyBody { path, text };
    match Client::new(run_dir).apply(&body) {
        Ok(applied) if applied.changes.is_empty() => print(&format!(
            "generation {}: nothing changed\n",
            applied.generation
        )),
        Ok(applied) => {
            let mut text = format!("generation {}:\n", applied.generation);
            for change in &applied.changes {
                text += &format!("  {change}\n");
            }
            print(&text)
        }
        Err(ClientError::Refused(refusal)) => Err(Failure::Report(format!(
            "{}culvert: not applied: {}\n",
            refusal.report, refusal.error
        ))),
        Err(error) => Err(error.into()),
    }
}
