//! What a process owes its machine: run directory, locks, a life in the background, signals, systemd, logging.
//!
//! In: the command line. Out: a [`RunDir`] and a [`StateDir`] that nobody else has, locks for what two processes must
//! not share, signals as requests, messages to systemd. Never: packets.
//!
//! Order at the start, all of it before the first thread: [`harden`], [`signals::block`],
//! [`log::init`]; then the configuration, then [`RunDir::open`] and
//! [`StateDir::open`].

pub(crate) mod accounts;
mod daemon;
pub mod log;
pub(crate) mod memory;
mod notify;
mod own_dir;
mod run_dir;
pub mod signals;
mod state_dir;
mod steps;
pub mod tun_dir;
mod watch;

pub use daemon::{Ready, handed, in_background};
pub use notify::Notify;
pub use own_dir::OwnDirError;
pub(crate) use run_dir::{API_SOCKET, READ_SOCKET};
pub use run_dir::{DEFAULT_RUN_DIR, RunDir};
pub use state_dir::{DEFAULT_STATE_DIR, StateDir, state_path};
pub(crate) use steps::step;
pub use tun_dir::TunDir;
pub use watch::Watch;

/// Keeps keys out of core dumps: no dumps, and no reading of this process's memory by others of the
/// same user.
///
/// # Errors
///
/// When the kernel refuses; the caller should not go on to read keys.
pub fn harden() -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}
