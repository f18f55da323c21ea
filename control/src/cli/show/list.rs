//! `culvert port list` and `culvert peer list`: one list alone.
//!
//! In: names. Out: a table, or an array for programs. Never: what `culvert show` has beside it.

use std::io;

use clap::Args;

use super::table::Layout;
use super::tables::View;
use super::{named, wants_color};
use crate::api::client::List;
use crate::cli::Failure;
use crate::cli::args::Place;
use crate::cli::output::{Output, OutputArgs, width};

/// Which of a list.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Only what is called so, `*` standing for any text, as `culvert show` takes it
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

/// Prints the ports.
pub(in crate::cli) fn ports(args: &ListArgs) -> Result<(), Failure> {
    let state = named::gather(&args.place.client(), &[List::Ports], "ports", &args.names)?;
    let text = || view(&state, args).ports().render(layout(args));
    args.output.print(&state.ports, text)
}

/// Prints the peers.
pub(in crate::cli) fn peers(args: &ListArgs) -> Result<(), Failure> {
    let state = named::gather(&args.place.client(), &[List::Peers], "peers", &args.names)?;
    let text = || view(&state, args).peers().render(layout(args));
    args.output.print(&state.peers, text)
}

fn view<'s>(state: &'s crate::state::State, args: &ListArgs) -> View<'s> {
    View {
        state,
        rates: None,
        is_wide: is_wide(args),
    }
}

fn layout(args: &ListArgs) -> Layout {
    Layout {
        bold: wants_color(&io::stdout()),
        width: (!is_wide(args)).then(|| width(&io::stdout())).flatten(),
    }
}

fn is_wide(args: &ListArgs) -> bool {
    args.output.output == Some(Output::Wide)
}
