//! What several commands take, with one meaning everywhere: the file of a configuration, the running culvert.
//!
//! In: `FILE`, `-f FILE`, `--run-dir DIR`, `--state-dir DIR`, `--tun INTERFACE`. Out: a path, a client. Never: a command of its own.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::api::client::{Client, ClientError};
use crate::config::is_interface_name;
use crate::process::{DEFAULT_RUN_DIR, state_path, tun_dir};

/// Where a configuration is found at last.
pub(super) const DEFAULT_FILE: &str = "/etc/culvert/culvert.yaml";

/// The file of a configuration, named in either way.
#[derive(Debug, Args)]
pub(super) struct FileArgs {
    /// The configuration [default: the file that was applied last, or culvert was started with, at last
    /// /etc/culvert/culvert.yaml]
    #[arg(value_name = "FILE")]
    config: Option<PathBuf>,
    /// The same as FILE, as at every command
    #[arg(short, long, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl FileArgs {
    /// The file that is meant.
    pub(super) fn path(self, client: &Client) -> Result<PathBuf, Failure> {
        file(self.config.or(self.file), client)
    }

    /// The same for what changes something: tells which file that is if nobody named one.
    pub(super) fn told_path(self, client: &Client) -> Result<PathBuf, Failure> {
        let named = self.config.is_some() || self.file.is_some();
        let path = self.path(client)?;
        if !named && path != Path::new(DEFAULT_FILE) {
            eprintln!("culvert: the file is {}", path.display());
        }
        Ok(path)
    }
}

/// A file, or that of the running Culvert.
pub(super) fn file(named: Option<PathBuf>, client: &Client) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return Ok(named);
    }
    match client.config_path() {
        Ok(path) => Ok(path),
        Err(ClientError::NotRunning(_)) => Ok(DEFAULT_FILE.into()),
        Err(error) => Err(error.into()),
    }
}

/// Which running culvert is meant.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The directory of sockets and locks: each running culvert has one of its own
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR, env = "CULVERT_RUN_DIR")]
    pub(super) run_dir: PathBuf,
}

impl Place {
    pub(super) fn client(&self) -> Client {
        Client::new(&self.run_dir)
    }
}

/// Where its state is kept.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// The directory of what outlives a restart of the machine [default: /var/lib/culvert with the default run
    /// directory, else DIR/state in that]
    #[arg(long, value_name = "DIR", env = "CULVERT_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    pub(super) fn path(self, run_dir: &Path) -> PathBuf {
        state_path(self.state_dir, run_dir)
    }
}

/// Which one is meant by who reads alone.
#[derive(Debug, Args)]
pub(super) struct Reading {
    /// The interface of a `culvert tun`, in the place of a culvert with a file
    #[arg(long, value_name = "INTERFACE")]
    tun: Option<String>,
    #[command(flatten)]
    place: Place,
}

impl Reading {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        match &self.tun {
            Some(interface) => tun_client(interface),
            None => Ok(self.place.client()),
        }
    }

    /// Interfaces of `culvert tun` that are shown beside: with the machine's culvert, not with one that has been named.
    pub(super) fn beside(&self) -> Vec<String> {
        match self.tun.is_none() && self.place.run_dir == Path::new(DEFAULT_RUN_DIR) {
            true => tun_dir::interfaces(),
            false => Vec::new(),
        }
    }
}

fn tun_client(interface: &str) -> Result<Client, Failure> {
    let folder = tun_dir::of(interface);
    if is_interface_name(interface) && folder.exists() {
        return Ok(Client::new(&folder));
    }
    let there = match tun_dir::interfaces() {
        all if all.is_empty() => "none runs here".into(),
        all => format!("there are {}", all.join(", ")),
    };
    Err(Failure::Line(format!(
        "no `culvert tun {interface}` runs: {there}"
    )))
}
