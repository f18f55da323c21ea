//! The control core: drives tunnels, ports, uplinks and workers.

use crate::api::{Request, Requests};
use crate::config::Config;
use crate::process::{Notify, RunDir};

/// Why the engine could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What was tried, what was found, and how to mend it.
    #[error("{0}")]
    Start(String),
}

/// Runs a configuration on the calling thread until [`Request::Drain`] arrives.
///
/// # Errors
///
/// When something that the configuration names can't be had.
pub fn run(
    _config: Config,
    _run_dir: &RunDir,
    requests: Requests,
    notify: &Notify,
) -> Result<(), EngineError> {
    notify.ready();
    while let Some(request) = requests.wait(None) {
        if let Request::Drain = request {
            break;
        }
    }
    Ok(())
}
