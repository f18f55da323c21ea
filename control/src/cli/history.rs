//! `culvert history`.
//!
//! In: the revisions of a running Culvert. Out: a table, or all that is known of them. Never: a key.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Failure;
use super::args::Place;
use super::output::{Output, OutputArgs};
use super::show::table::{Align, Layout, Table};
use crate::api::bodies::PurgeBody;
use crate::events::rfc3339;
use crate::history::revision::Revision;
use crate::state::{Part, State};

/// Characters of a message that the table prints.
const MESSAGE_ROOM: usize = 60;

const AFTER_HELP: &str = "\
OUTCOME:
  being applied  its apply goes on
  pending        it runs, and is taken back unless `culvert confirm` keeps it
  applied        it ran; the newest one of them runs
  rolled back    it was taken back: by `culvert rollback`, its time, or a check
  unrecorded     the process ended while it was applied

`culvert config show REV` prints one, `culvert diff REV running` compares, and
`culvert rollback --to REV` brings it back.";

/// `culvert history`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(super) struct History {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    /// Delete revisions with their keys, or the keys alone; or bar a key for ever
    Purge(Purge),
}

#[derive(Debug, Args)]
struct Purge {
    /// Revisions that are deleted with their keys
    #[arg(value_name = "REV", required_unless_present = "revoke")]
    revisions: Vec<u64>,
    /// Delete their keys alone: a rollback to one takes what the key files hold by then
    #[arg(long)]
    keys: bool,
    /// A public key that no rollback brings back: a peer's, or a tunnel's, whose private key is forgotten everywhere
    #[arg(long, value_name = "KEY")]
    revoke: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: History) -> Result<(), Failure> {
    if let Some(HistoryCommand::Purge(purge)) = args.command {
        return run_purge(purge);
    }
    let revisions = args.place.client().history()?;
    let is_wide = args.output.output == Some(Output::Wide);
    args.output.print(&revisions, || table(&revisions, is_wide))
}

fn run_purge(purge: Purge) -> Result<(), Failure> {
    let client = purge.place.client();
    let revoked = purge.revoke.clone();
    let left = client.purge(&PurgeBody {
        revisions: purge.revisions,
        keys_only: purge.keys,
        revoke: purge.revoke,
    })?;
    let told = match revoked.is_empty() || purge.output.is_for_programs() {
        true => String::new(),
        false => tell_revoked(&revoked, &client.state(Some(Part::Peers))?),
    };
    purge.output.print(&left, || {
        told + &match left.len() {
            1 => "1 revision is left\n".into(),
            count => format!("{count} revisions are left\n"),
        }
    })
}

/// What became of keys that no rollback brings back: what runs with one goes on.
fn tell_revoked(keys: &[String], state: &State) -> String {
    let owner = |key: &String| {
        let mut tunnels = state.tunnels.iter();
        let tunnel = tunnels.find(|it| it.public_key.as_ref() == Some(key));
        let mut peers = state.peers.iter();
        let peer = peers.find(|it| it.public_key == *key);
        let tunnel = tunnel.map(|it| format!("tunnel {}", it.name));
        tunnel.or_else(|| peer.map(|it| format!("peer {}/{}", it.tunnel, it.name)))
    };
    let line = |key: &String| match owner(key) {
        Some(owner) => format!(
            "{key} is revoked, and {owner} runs with it still: take it out of the configuration\n"
        ),
        None => format!("{key} is revoked: neither a tunnel nor a peer runs with it\n"),
    };
    keys.iter().map(line).collect()
}

/// As much of what is said of a change as a line of a table has room for.
fn begin(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_ROOM) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

fn table(revisions: &[Revision], wide: bool) -> String {
    let mut columns = vec![
        ("REV", Align::Right),
        ("TIME", Align::Left),
        ("USER", Align::Left),
        ("ORIGIN", Align::Left),
        ("OUTCOME", Align::Left),
        ("MESSAGE", Align::Left),
    ];
    if wide {
        columns.extend([
            ("WHY", Align::Left),
            ("HASH", Align::Left),
            ("FILE", Align::Left),
        ]);
    }
    let mut table = Table::new(columns);
    for it in revisions {
        let user = if it.user.is_empty() { "-" } else { &it.user };
        let mut row = vec![
            it.number.to_string(),
            rfc3339(Duration::from_secs(it.unix)).replace(".000Z", "Z"),
            user.to_owned(),
            it.origin.to_string(),
            it.outcome.to_string(),
            match wide {
                true => it.message.clone(),
                false => begin(&it.message),
            },
        ];
        if wide {
            row.extend([
                it.why.clone(),
                it.hash.clone(),
                it.path.display().to_string(),
            ]);
        }
        table.row(row);
    }
    table.render(Layout::of_stdout(wide))
}
