//! `culvert log-level [LEVEL]`.

use super::{Failure, print};
use crate::api::bodies::LogFilter;
use crate::api::client::Client;

/// Prints what is logged, after a change if one is wanted.
pub(super) fn run(client: &Client, filter: Option<String>) -> Result<(), Failure> {
    let LogFilter { filter } = match filter {
        None => client.log_filter()?,
        Some(filter) => client.set_log_filter(&LogFilter { filter })?,
    };
    print(&(filter + "\n"))
}
