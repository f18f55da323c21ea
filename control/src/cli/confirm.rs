//! `culvert confirm [REV]`, and the wait for a confirmation.
//!
//! In: a change that waits; Enter. Out: whether it was kept, or taken back and why. Never: a rollback of its own: whoever
//! loses his terminal has it all the same.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Failure, print};
use crate::api::client::{Client, ClientError};
use crate::history::revision::{Outcome, Revision};
use crate::state::Pending;

pub(super) fn run(client: &Client, revision: Option<u64>) -> Result<(), Failure> {
    let kept = client.confirm(revision)?;
    print(&format!("revision {kept} is confirmed\n"))
}

/// Waits until it is kept or taken back; Enter keeps it.
pub(super) fn watch(client: &Client, pending: &Pending) -> Result<(), Failure> {
    let number = pending.revision;
    let end = Instant::now() + Duration::from_secs(pending.seconds_left);
    let counts = io::stderr().is_terminal();
    if counts {
        eprintln!("Enter keeps it; Ctrl-C leaves it to its time.");
    }
    let mut hears = true;
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if counts {
            eprint!("\r{left} s left \x1b[K");
            let _ = io::stderr().flush();
        }
        if heard(&mut hears)? {
            match client.confirm(Some(number)) {
                Ok(_) => return print(&format!("revision {number} is confirmed\n")),
                // Its time was over, perhaps.
                Err(ClientError::Refused(_)) => hears = false,
                Err(error) => return Err(error.into()),
            }
        }
        let revisions = client.history()?;
        let revision = revisions.into_iter().find(|it| it.number == number);
        if let Some(ended) = revision.and_then(|it| ended(&it)) {
            return ended;
        }
    }
}

/// Whether Enter was pressed within a second.
fn heard(hears: &mut bool) -> io::Result<bool> {
    let second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let fds = if *hears { &mut fds[..] } else { &mut [] };
    match poll(fds, Some(&second)) {
        Ok(0) => return Ok(false),
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // An end of the input is no word.
    *hears = stdin.lock().read_line(&mut String::new())? > 0;
    Ok(*hears)
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
