//! `culvert rollback`.
//!
//! In: a revision, or the operator's word. Out: what it changed. Never: an apply that nobody said yes to.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;

use super::apply::{ConfirmArgs, MessageArgs, not_applied, tell};
use super::args::Place;
use super::output::OutputArgs;
use super::{Failure, confirm, diff, print};
use crate::api::bodies::{DiffBody, RollbackBody, Side};
use crate::api::client::Client;
use crate::history::revision::{Outcome, Revision};

/// `culvert rollback`.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The revision of `culvert history` to bring back [default: what waits for its confirmation is taken back; if
    /// nothing does, the configuration before the present one comes back, after a question]
    #[arg(long, value_name = "REV")]
    to: Option<u64>,
    #[command(flatten)]
    message: MessageArgs,
    /// Ask nothing
    #[arg(short, long)]
    yes: bool,
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

pub(super) fn run(args: Rollback) -> Result<(), Failure> {
    let client = args.place.client();
    let to = match args.to {
        Some(number) => Some(number),
        None => choose(&client, args.yes || args.dry_run)?,
    };
    let body = RollbackBody {
        to,
        message: args.message.message,
        confirm: args.confirm.confirm(None)?,
        dry_run: args.dry_run,
    };
    let applied = client
        .roll_back(&body)
        .map_err(|error| not_applied(error, args.output))?;
    tell(&applied, args.dry_run, args.output)?;
    match &applied.pending {
        Some(pending) if io::stdin().is_terminal() && !args.output.is_for_programs() => {
            confirm::watch(&client, pending, args.output)
        }
        _ => Ok(()),
    }
}

/// The revision before the one that runs, if that is wanted; `None`: a change waits, and is taken back.
fn choose(client: &Client, sure: bool) -> Result<Option<u64>, Failure> {
    let revisions = client.history()?;
    if revisions.iter().any(|it| it.outcome == Outcome::Pending) {
        return Ok(None);
    }
    let previous = previous(&revisions).ok_or_else(|| {
        Failure::Line(
            "the history has no other configuration to go back to: see `culvert history`".into(),
        )
    })?;
    if sure {
        return Ok(Some(previous));
    }
    let diff = client.diff(&DiffBody {
        from: Side::Running,
        to: Side::Revision(previous),
        text: false,
    })?;
    print(&diff::would(&diff))?;
    match asked(&format!("Go back to revision {previous}?"), previous)? {
        true => Ok(Some(previous)),
        false => Err(Failure::Line("nothing was changed".into())),
    }
}

/// The newest that ran before, and is another configuration.
fn previous(revisions: &[Revision]) -> Option<u64> {
    let mut ran = revisions.iter().filter(|it| it.outcome == Outcome::Applied);
    let running = ran.next()?;
    ran.find(|it| it.hash != running.hash).map(|it| it.number)
}

fn asked(question: &str, previous: u64) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Line(format!(
            "nobody is there to say yes: `culvert rollback --to {previous}`, or --yes"
        )));
    }
    eprint!("{question} [y/N] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
