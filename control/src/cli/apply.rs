//! `culvert apply FILE`.

use std::io::{self, Write as _};
use std::path::Path;

use super::{Failure, print};
use crate::api::bodies::ApplyBody;
use crate::api::client::{Client, ClientError};
use crate::config::Texts;
use crate::state::Applied;

pub(super) fn run(config: &Path, run_dir: &Path) -> Result<(), Failure> {
    match Client::new(run_dir).apply(&read(config)?) {
        Ok(applied) => {
            let _ = io::stderr().write_all(applied.warnings.as_bytes());
            print(&done(&applied))?;
            failed(&applied)
        }
        Err(ClientError::Refused(refusal)) => Err(Failure::Report(format!(
            "{}culvert: not applied: {}\n",
            refusal.report, refusal.error
        ))),
        Err(error) => Err(error.into()),
    }
}

/// A file as it is handed over, with what it includes.
pub(super) fn read(config: &Path) -> Result<ApplyBody, Failure> {
    let path = std::path::absolute(config)?;
    let texts = Texts::read(&path).map_err(|report| Failure::Report(report.render(false)))?;
    Ok(ApplyBody {
        path: texts.path,
        text: texts.text,
        included: texts.included,
    })
}

fn done(applied: &Applied) -> String {
    if applied.changes.is_empty() {
        return format!("generation {}: nothing changed\n", applied.generation);
    }
    let changes = applied.changes.iter().map(|change| format!("  {change}\n"));
    format!("generation {}:\n", applied.generation) + &changes.collect::<String>()
}

/// What could not be done is no success, whatever else was.
fn failed(applied: &Applied) -> Result<(), Failure> {
    if applied.failures.is_empty() {
        return Ok(());
    }
    let failures = applied.failures.iter().map(|line| format!("  {line}\n"));
    let head = "culvert: applied, but this failed:\n".to_owned();
    Err(Failure::Report(head + &failures.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_no_success() {
        // As older servers answer.
        let answer = r#"{"generation": 2, "changes": ["tunnel a added"]}"#;
        let mut applied: Applied = serde_json::from_str(answer).unwrap();
        assert_eq!(done(&applied), "generation 2:\n  tunnel a added\n");
        assert!(failed(&applied).is_ok());
        applied.failures.push("tunnel a: no".into());
        let Err(Failure::Report(report)) = failed(&applied) else {
            panic!("a success");
        };
        assert!(report.ends_with("\n  tunnel a: no\n"), "{report}");
    }
}
