//! `culvert log-level [LEVEL]`.
//!
//! In: what is to be logged, or nothing. Out: what is logged. Never: a change that outlives the process.

use clap::Args;

use super::Failure;
use super::args::Reading;
use super::output::OutputArgs;
use crate::api::bodies::LogFilter;

/// `culvert log-level`.
#[derive(Debug, Args)]
pub(super) struct LogLevel {
    /// error, warn, info, debug, trace or off; or for some parts, as `info,culvert::engine=debug`
    #[arg(value_name = "LEVEL")]
    filter: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    reading: Reading,
}

/// Prints what is logged, after a change if one is wanted.
pub(super) fn run(args: LogLevel) -> Result<(), Failure> {
    let client = args.reading.client()?;
    let logged = match args.filter {
        None => client.log_filter()?,
        Some(filter) => client.set_log_filter(&LogFilter { filter })?,
    };
    args.output
        .print(&logged, || format!("{}\n", logged.filter))
}
