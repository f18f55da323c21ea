//! `culvert confirm [REV]`, and the wait for a confirmation.
//!
//! In: a change that waits; a line from a terminal: Enter alone, or anything else. Out: whether it was kept, or taken back and why. Never: a rollback of its own: whoever
//! loses his terminal has it all the same.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::args::Place;
use super::output::OutputArgs;
use super::{Failure, print};
use crate::api::bodies::{Confirmed, RollbackBody};
use crate::api::client::{Client, ClientError};
use crate::history::revision::{Outcome, Revision};
use crate::state::Pending;

/// `culvert confirm`.
#[derive(Debug, Args)]
pub(super) struct ConfirmCommand {
    /// The revision that is meant, as the apply told it: refused if another one waits by now [default: the one that
    /// waits]
    #[arg(value_name = "REV")]
    revision: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: ConfirmCommand) -> Result<(), Failure> {
    let revision = args.place.client().confirm(args.revision)?;
    let confirmed = Confirmed { revision };
    args.output
        .print(&confirmed, || format!("revision {revision} is confirmed\n"))
}

/// Waits until it is kept or taken back; Enter alone keeps it, any other line takes it back. A program has its answer
/// already: what became of it is told on stderr then.
pub(super) fn watch(client: &Client, pending: &Pending, output: OutputArgs) -> Result<(), Failure> {
    let kept = wait(client, pending);
    if io::stderr().is_terminal() {
        // What was counted is no part of what follows.
        eprint!("\r\x1b[K");
    }
    match kept? {
        line if output.is_for_programs() => eprintln!("{line}"),
        line => print(&(line + "\n"))?,
    }
    Ok(())
}

/// How it was kept, in words.
fn wait(client: &Client, pending: &Pending) -> Result<String, Failure> {
    let number = pending.revision;
    let mut left = pending.seconds_left;
    let counts = io::stderr().is_terminal();
    if counts {
        eprintln!("Enter alone keeps it, anything else and Enter takes it back.");
        eprintln!("Ctrl-C, or a terminal that is lost, leaves it to its time.");
    }
    // What comes through a pipe is nobody's word.
    let mut hears = io::stdin().is_terminal();
    loop {
        if counts {
            eprint!("\r{left} s left \x1b[K");
            let _ = io::stderr().flush();
        }
        // What is refused: its time was over, perhaps.
        match heard(&mut hears)? {
            Some(Word::Keep) => match client.confirm(Some(number)) {
                Ok(_) => return Ok(format!("revision {number} is confirmed")),
                Err(ClientError::Refused(_)) => hears = false,
                Err(error) => return Err(error.into()),
            },
            Some(Word::TakeBack) => match client.roll_back(&RollbackBody::default()) {
                Ok(_) => {}
                Err(ClientError::Refused(_)) => hears = false,
                Err(error) => return Err(error.into()),
            },
            None => {}
        }
        let waits = client.status()?.pending;
        if let Some(pending) = waits.filter(|it| it.revision == number) {
            left = pending.seconds_left;
            continue;
        }
        let revisions = client.history()?;
        let revision = revisions.into_iter().find(|it| it.number == number);
        if let Some(ended) = revision.and_then(|it| ended(&it)) {
            return ended;
        }
    }
}

/// What the operator wants.
enum Word {
    Keep,
    TakeBack,
}

/// What was said within a second.
fn heard(hears: &mut bool) -> io::Result<Option<Word>> {
    let second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let fds = if *hears { &mut fds[..] } else { &mut [] };
    match poll(fds, Some(&second)) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // An end of the input is no word.
    let mut line = String::new();
    *hears = stdin.lock().read_line(&mut line)? > 0;
    Ok(hears.then(|| match line.trim_end_matches(['\n', '\r']) {
        "" => Word::Keep,
        _ => Word::TakeBack,
    }))
}

fn ended(revision: &Revision) -> Option<Result<String, Failure>> {
    let Revision {
        number,
        outcome,
        why,
        ..
    } = revision;
    match outcome {
        Outcome::Begun | Outcome::Pending => None,
        Outcome::Applied => Some(Ok(format!("revision {number} is kept: {why}"))),
        Outcome::RolledBack | Outcome::Unrecorded => Some(Err(Failure::Line(format!(
            "revision {number} was rolled back: {why}"
        )))),
    }
}
