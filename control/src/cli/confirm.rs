//! `culvert confirm [REV]`, and the wait for a confirmation.
//!
//! In: a change that waits; a line from a terminal: Enter alone, or anything else. Out: whether it was kept, or taken back and why. Never: a rollback of its own: whoever
//! loses his terminal has it all the same.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Failure, print};
use crate::api::bodies::RollbackBody;
use crate::api::client::{Client, ClientError};
use crate::history::revision::{Outcome, Revision};
use crate::state::Pending;

pub(super) fn run(client: &Client, revision: Option<u64>) -> Result<(), Failure> {
    let kept = client.confirm(revision)?;
    print(&format!("revision {kept} is confirmed\n"))
}

/// Waits until it is kept or taken back; Enter alone keeps it, any other line takes it back.
pub(super) fn watch(client: &Client, pending: &Pending) -> Result<(), Failure> {
    let number = pending.revision;
    let end = Instant::now() + Duration::from_secs(pending.seconds_left);
    let counts = io::stderr().is_terminal();
    if counts {
        eprintln!(
            "Enter alone keeps it, anything else and Enter takes it back; Ctrl-C leaves it to its time."
        );
    }
    // What comes through a pipe is nobody's word.
    let mut hears = io::stdin().is_terminal();
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if counts {
            eprint!("\r{left} s left \x1b[K");
            let _ = io::stderr().flush();
        }
        // What is refused: its time was over, perhaps.
        match heard(&mut hears)? {
            Some(Word::Keep) => match client.confirm(Some(number)) {
                Ok(_) => return print(&format!("revision {number} is confirmed\n")),
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

fn ended(revision: &Revision) -> Option<Result<(), Failure>> {
    let Revision {
        number,
        outcome,
        why,
        ..
    } = revision;
    match outcome {
        Outcome::Begun | Outcome::Pending => None,
        Outcome::Applied => Some(print(&format!("revision {number} is kept: {why}\n"))),
        Outcome::RolledBack | Outcome::Unrecorded => Some(Err(Failure::Line(format!(
            "revision {number} was rolled back: {why}"
        )))),
    }
}
