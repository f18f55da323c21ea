//! Signals as requests: SIGTERM and SIGINT drain, SIGHUP applies the file again.
//!
//! In: a signalfd. Out: requests to the engine. Never: a signal handler.
//!
//! The mask is inherited by threads made later, so it is set before the first one. A second SIGTERM
//! or SIGINT ends the process at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::Notify;
use crate::api::{Request, Requester, SendError};
use crate::config::Report;

/// The exit status of a process that a second signal ended (as a shell counts SIGINT).
const INTERRUPTED: i32 = 130;

/// Mistakes of a file that are logged; `culvert check` prints them all.
const MISTAKES_LOGGED: usize = 20;

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

/// Starts the thread that turns signals into requests. Without a configuration file, SIGHUP drains, too.
///
/// # Errors
///
/// When the system has no thread or file descriptor left.
pub fn serve(config: Option<PathBuf>, requester: Requester, notify: Notify) -> io::Result<()> {
    let signals = SignalFd::with_flags(&set(), SfdFlags::SFD_CLOEXEC)?;
    let reload = Arc::new(Reload {
        config,
        requester,
        notify,
        running: AtomicBool::new(false),
    });
    let run = move || serve_forever(&signals, &reload);
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(())
}

fn serve_forever(signals: &SignalFd, reload: &Arc<Reload>) {
    let mut draining = false;
    loop {
        let signal = match signals.read_signal() {
            Ok(Some(signal)) => signal,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::error!(%error, "signals can't be read any more");
                return;
            }
        };
        let number = i32::try_from(signal.ssi_signo).ok();
        match number.and_then(|number| Signal::try_from(number).ok()) {
            Some(Signal::SIGHUP) if draining => {}
            Some(Signal::SIGHUP) if reload.config.is_some() => start_reload(reload),
            Some(signal) if draining => {
                tracing::warn!("second {signal}: ending at once");
                std::process::exit(INTERRUPTED);
            }
            Some(signal) => {
                draining = true;
                tracing::info!("{signal}: draining");
                reload.notify.stopping();
                drain(&reload.requester);
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

/// Applies the file on a thread of its own, so that a slow engine doesn't keep the next signal waiting.
fn start_reload(reload: &Arc<Reload>) {
    if reload.running.swap(true, Ordering::AcqRel) {
        tracing::warn!("SIGHUP: the last one is still being applied");
        return;
    }
    let own = Arc::clone(reload);
    let run = move || {
        own.run();
        own.running.store(false, Ordering::Release);
    };
    if let Err(error) = thread::Builder::new().name("reload".into()).spawn(run) {
        reload.running.store(false, Ordering::Release);
        tracing::error!(%error, "SIGHUP: no thread is left to apply the configuration");
    }
}

/// What a SIGHUP needs.
struct Reload {
    config: Option<PathBuf>,
    requester: Requester,
    notify: Notify,
    running: AtomicBool,
}

impl Reload {
    fn run(&self) {
        let Some(path) = &self.config else { return };
        let config = path.display();
        tracing::info!(%config, "SIGHUP: applying the configuration again");
        self.notify.reloading();
        match crate::config::load(path) {
            Err(report) => log(&report, path),
            // The engine logs what it changed.
            Ok((new, _)) => {
                if let Err(error) = crate::api::apply_blocking(&self.requester, new) {
                    tracing::error!(%error, "the configuration was not applied; nothing was changed");
                }
            }
        }
        self.notify.ready();
    }
}

fn log(report: &Report, path: &Path) {
    let config = path.display();
    let errors = report.errors();
    tracing::error!(%config, errors, "the configuration has mistakes; nothing was changed");
    for mistake in report.mistakes().iter().take(MISTAKES_LOGGED) {
        let place = mistake.span;
        let message = &mistake.message;
        tracing::error!("{config}:{}:{}: {message}", place.line, place.column);
    }
}
