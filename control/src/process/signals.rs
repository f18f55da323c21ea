//! Signals as requests: SIGTERM and SIGINT drain, SIGHUP applies the file again.
//!
//! In: a signalfd. Out: requests to the engine. Never: a signal handler.
//!
//! The mask is inherited by threads made later, so it is set before the first one. A second SIGTERM
//! or SIGINT ends the process at once.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::Notify;
use crate::api::{Request, Requester, SendError};

/// The exit status of a process that a second signal ended (as a shell counts SIGINT).
const INTERRUPTED: i32 = 130;

fn set() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGHUP);
    set
}

/// Blocks these signals in the calling thread and in those that it makes from now on.
///
/// # Errors
///
/// When the kernel refuses, which it has no reason to.
pub fn block() -> io::Result<()> {
    set().thread_block()?;
    Ok(())
}

/// Starts the thread that turns signals into requests.
///
/// # Errors
///
/// When the system has no thread or file descriptor left.
pub fn serve(config: PathBuf, requester: Requester, notify: Notify) -> io::Result<()> {
    let signals = SignalFd::with_flags(&set(), SfdFlags::SFD_CLOEXEC)?;
    let run = move || serve_forever(&signals, &config, &requester, notify);
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(())
}

fn serve_forever(
    signals: &SignalFd,
    config: &std::path::Path,
    requester: &Requester,
    notify: Notify,
) {
    let mut draining = false;
    loop {
        let signal = match signals.read_signal() {
            Ok(Some(signal)) => signal,
            Ok(None) => continue,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => {
                tracing::error!(%error, "signals can't be read any more");
                return;
            }
        };
        match i32::try_from(signal.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok())
        {
            Some(Signal::SIGHUP) => reload(config, requester, notify),
            Some(signal) if draining => {
                tracing::warn!("second {signal}: ending at once");
                std::process::exit(INTERRUPTED);
            }
            Some(signal) => {
                draining = true;
                tracing::info!("{signal}: draining");
                notify.stopping();
                drain(requester);
            }
            None => {}
        }
    }
}

fn drain(requester: &Requester) {
    while requester.send(Request::Drain) == Err(SendError::Full) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn reload(config: &std::path::Path, requester: &Requester, notify: Notify) {
    tracing::info!(config = %config.display(), "SIGHUP: applying the configuration again");
    notify.reloading();
    let checked = crate::config::load(config);
    match checked {
        Err(report) => {
            let errors = report.errors();
            tracing::error!(config = %config.display(), errors, "the configuration has mistakes; nothing was changed");
            for mistake in report.mistakes() {
                let place = mistake.span;
                tracing::error!(
                    "{}:{}:{}: {}",
                    config.display(),
                    place.line,
                    place.column,
                    mistake.message
                );
            }
        }
        Ok((config, _)) => match crate::api::apply_blocking(requester, config) {
            Ok(applied) => crate::api::log_applied(&applied),
            Err(error) => {
                tracing::error!(%error, "the configuration was not applied; nothing was changed")
            }
        },
    }
    notify.ready();
}
