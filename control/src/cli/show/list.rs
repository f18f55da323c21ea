//! `culvert port list` and `culvert peer list`: one list alone.
//!
//! In: names. Out: a table, or an array for programs. Never: what `culvert show` has beside it.

use clap::Args;

use super::named::{self, Whose};
use super::table::Layout;
use super::tables::View;
use crate::api::client::List;
use crate::cli::Failure;
use crate::cli::args::Reading;
use crate::cli::output::{Output, OutputArgs};
use crate::state::State;

/// Which of a list.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Only what is called so, `*` standing for any text, as `culvert show` takes it
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    reading: Reading,
}

/// Prints the ports.
pub(in crate::cli) fn ports(args: &ListArgs) -> Result<(), Failure> {
    let state = gather(args, &[List::Ports], "ports")?;
    let text = || {
        view(&state, args)
            .ports()
            .render(Layout::of_stdout(is_wide(args)))
    };
    args.output.print(&state.ports, text)
}

/// Prints the peers.
pub(in crate::cli) fn peers(args: &ListArgs) -> Result<(), Failure> {
    let state = gather(args, &[List::Peers], "peers")?;
    let text = || {
        view(&state, args)
            .peers()
            .render(Layout::of_stdout(is_wide(args)))
    };
    args.output.print(&state.peers, text)
}

fn gather(args: &ListArgs, list: &[List], what: &str) -> Result<State, Failure> {
    let whose = Whose {
        client: args.reading.client()?,
        beside: args.reading.beside(),
    };
    Ok(named::gather(&whose, list, what, &args.names)?.all())
}

fn view<'s>(state: &'s State, args: &ListArgs) -> View<'s> {
    View {
        state,
        whose: None,
        rates: None,
        is_wide: is_wide(args),
    }
}

fn is_wide(args: &ListArgs) -> bool {
    args.output.output == Some(Output::Wide)
}
