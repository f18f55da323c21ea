//! `culvert apply [FILE]` and `culvert try [FILE]`.
//!
//! In: a file. Out: what it changed, or would; whether it was kept. Never: a change that is left to its time by whoever
//! wants to watch it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use clap::Args;

use super::args::{FileArgs, Place};
use super::output::{OutputArgs, folded, width};
use super::{Failure, confirm, diff};
use crate::api::bodies::ApplyBody;
use crate::api::client::ClientError;
use crate::config::Texts;
use crate::history::pending::{self, Confirm};
use crate::state::Applied;

/// The time of `try`.
const TRY: u64 = 120;

/// What has to hold for a change to stay.
#[derive(Debug, Args)]
pub(super) struct ConfirmArgs {
    /// Take it back after that time, as 60s or 5m, unless it is confirmed
    #[arg(long, value_name = "TIME", value_parser = time)]
    confirm: Option<u64>,
    /// Take it back sooner if one of these goes down for eight seconds: peer=NAME, peer=TUNNEL/NAME, port=NAME
    #[arg(long, value_name = "THING,…", value_delimiter = ',')]
    check: Vec<String>,
    /// Confirm it by itself when all that is checked holds
    #[arg(long, requires = "check")]
    auto: bool,
}

impl ConfirmArgs {
    /// `None`: it stays. `default`: the time, if none is given.
    pub(super) fn confirm(self, default: Option<u64>) -> Result<Option<Confirm>, Failure> {
        let Self {
            confirm,
            check: checks,
            auto,
        } = self;
        match confirm.or(default) {
            Some(seconds) => Ok(Some(Confirm {
                seconds,
                checks,
                auto,
            })),
            None if checks.is_empty() => Ok(None),
            None => Err(Failure::Line(
                "what is checked can only take back what waits: add --confirm 60s".into(),
            )),
        }
    }
}

/// A time with its unit: what others take as minutes is seconds elsewhere.
fn time(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let scale = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "" => return Err(format!("say the unit: {text}s or {text}m")),
        _ => return Err("a time is a number with its unit: 60s, 5m, 1h".into()),
    };
    let seconds = number.parse::<u64>().ok();
    let seconds = seconds.and_then(|number| number.checked_mul(scale));
    let fits = seconds.filter(|seconds| pending::SECONDS.contains(seconds));
    fits.ok_or_else(|| "from 1s to 24h".into())
}

/// `-m`.
#[derive(Debug, Args)]
pub(super) struct MessageArgs {
    /// What it is for: `culvert history` shows it
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) message: String,
}

/// `culvert apply`.
#[derive(Debug, Args)]
pub(super) struct Apply {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    message: MessageArgs,
    /// Change nothing, and say what would change
    #[arg(long, conflicts_with_all = ["confirm", "check", "auto"])]
    dry_run: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

/// `culvert try`.
#[derive(Debug, Args)]
pub(super) struct Try {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: Apply) -> Result<(), Failure> {
    let client = args.place.client();
    let confirm = args.confirm.confirm(None)?;
    let watches =
        !args.output.is_for_programs() && io::stdin().is_terminal() && io::stderr().is_terminal();
    let body = ApplyBody {
        message: args.message.message,
        confirm,
        dry_run: args.dry_run,
        cli: true,
        ..read(&args.file.told_path(&client)?)?
    };
    let applied = client
        .apply(&body)
        .map_err(|error| not_applied(error, args.output))?;
    tell(&applied, args.dry_run, args.output)?;
    match &applied.pending {
        Some(pending) if watches => confirm::watch(&client, pending, args.output),
        _ => Ok(()),
    }
}

pub(super) fn run_try(args: Try) -> Result<(), Failure> {
    let client = args.place.client();
    let body = ApplyBody {
        message: args.message.message,
        confirm: args.confirm.confirm(Some(TRY))?,
        cli: true,
        ..read(&args.file.told_path(&client)?)?
    };
    let applied = client
        .apply(&body)
        .map_err(|error| not_applied(error, args.output))?;
    tell(&applied, false, args.output)?;
    match &applied.pending {
        Some(pending) => confirm::watch(&client, pending, args.output),
        None => Ok(()),
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
        ..ApplyBody::default()
    })
}

/// Why nothing was changed.
pub(super) fn not_applied(error: ClientError, output: OutputArgs) -> Failure {
    match error {
        ClientError::Refused(refusal) if output.is_for_programs() => output.refused(&refusal),
        ClientError::Refused(refusal) => Failure::Report(format!(
            "{}culvert: not applied: {}\n",
            refusal.report, refusal.error
        )),
        error @ (ClientError::NotRunning(_)
        | ClientError::Forbidden { .. }
        | ClientError::Broken { .. }) => error.into(),
    }
}

/// Says what was done; what could not be done is no success, whatever else was.
pub(super) fn tell(applied: &Applied, dry_run: bool, output: OutputArgs) -> Result<(), Failure> {
    let _ = io::stderr().write_all(warnings(&applied.warnings).as_bytes());
    output.print(applied, || match dry_run {
        true => would(applied),
        false => folded(&done(applied), width(&io::stdout())),
    })?;
    failed(applied)
}

/// What is said of the whole is broken for a terminal; lines of a file, with marks below them, are not.
fn warnings(text: &str) -> String {
    let width = width(&io::stderr());
    let line = |line: &str| match line.starts_with("culvert: ") {
        true => folded(line, width),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

fn would(applied: &Applied) -> String {
    let mut text = match &applied.diff {
        Some(diff) if !diff.is_empty() => diff::would(diff),
        _ => "nothing would change\n".into(),
    };
    for note in &applied.notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

fn done(applied: &Applied) -> String {
    let revision = applied
        .revision
        .map(|number| format!(", revision {number}"));
    let head = format!(
        "generation {}{}",
        applied.generation,
        revision.unwrap_or_default()
    );
    let mut text = match applied.changes.is_empty() {
        true => format!("{head}: nothing changed\n"),
        false => format!("{head}:\n"),
    };
    for change in &applied.changes {
        let _ = writeln!(text, "  {change}");
    }
    for note in &applied.notes {
        let _ = writeln!(text, "{note}");
    }
    if let Some(pending) = &applied.pending {
        let _ = writeln!(text, "{pending}");
    }
    text
}

/// What could not be done is no success, whatever else was.
pub(super) fn failed(applied: &Applied) -> Result<(), Failure> {
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

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(time("60s"), Ok(60));
        assert_eq!(time("5m"), Ok(300));
        assert_eq!(time("1h"), Ok(3600));
        assert_eq!(time("60").unwrap_err(), "say the unit: 60s or 60m");
        for text in [
            "",
            "s",
            "0s",
            "25h",
            "1.5m",
            "-1s",
            "99999999999999999999s",
            "9d",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
