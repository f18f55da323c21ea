//! `culvert history`.
//!
//! In: the revisions of a running Culvert. Out: a table, or all that is known of them. Never: a key.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::Output;
use super::show::table::{Align, Layout, Table};
use super::{Failure, Place, print, wants_color};
use crate::api::bodies::PurgeBody;
use crate::api::client::Client;
use crate::events::rfc3339;
use crate::history::revision::Revision;

/// `culvert history`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct History {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
    /// Print it for programs, or with all columns
    #[arg(short, long, value_name = "FORM")]
    output: Option<Output>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    /// Forget revisions, their keys, or a key for ever
    Purge(Purge),
}

#[derive(Debug, Args)]
struct Purge {
    /// Revisions, which are forgotten with their keys
    #[arg(value_name = "REV", required_unless_present = "revoke")]
    revisions: Vec<u64>,
    /// Forget their keys alone: a rollback takes those that the files hold then
    #[arg(long)]
    keys: bool,
    /// A public key that no rollback brings back: a peer's, or a tunnel's, whose private key is forgotten everywhere
    #[arg(long, value_name = "KEY")]
    revoke: Vec<String>,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: History) -> Result<(), Failure> {
    if let Some(HistoryCommand::Purge(purge)) = args.command {
        return run_purge(purge);
    }
    let revisions = Client::new(&args.place.run_dir).history()?;
    let text = args.output.map(|output| output.text(&revisions));
    let text = text.transpose()?.flatten();
    print(&text.unwrap_or_else(|| table(&revisions, args.output == Some(Output::Wide))))
}

fn run_purge(purge: Purge) -> Result<(), Failure> {
    let left = Client::new(&purge.place.run_dir).purge(&PurgeBody {
        revisions: purge.revisions,
        keys_only: purge.keys,
        revoke: purge.revoke,
    })?;
    print(&format!("{} revisions are left\n", left.len()))
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
            it.message.clone(),
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
    table.render(Layout {
        bold: wants_color(&std::io::stdout()),
        width: None,
    })
}
