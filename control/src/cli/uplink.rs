//! `culvert uplink up|down`.
//!
//! In: an uplink's name. Out: what changed. Never: a key but `enabled`: the rest is the file's.

use clap::Subcommand;

use super::Failure;
use super::layer::{Switched, segment};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Switch one on again
    Up(Switched),
    /// Switch one off, until `up`: its device is closed, and tunnels use their other uplinks
    Down(Switched),
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    let below = |name: &str| Ok(format!("/v1/{}", path(name)?));
    match command {
        Command::Up(of) => of.switch(true, below),
        Command::Down(of) => of.switch(false, below),
    }
}

/// An uplink as the API has it.
pub(super) fn path(name: &str) -> Result<String, Failure> {
    Ok(format!("uplinks/{}", segment(name)?))
}
