//! Signals as requests: SIGTERM and SIGINT drain, SIGHUP applies the file again.
//!
//! In: a signalfd. Out: requests to the engine. Never: a signal handler.
//!
//! The mask is inherited by threads made later, so it is set before the first one. A second SIGTERM
//! or SIGINT ends the process without waiting for what drains: its sockets go, its interfaces go with it. A third one kills
//! it. What comes at once is the same one told twice: `timeout` sends one to the process and one to its group.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::Notify;
use crate::api::{self, ApplyError, NotApplied, Request, Requester};
use crate::config::{Report, Severity};
use crate::history::Order;
use crate::history::revision::Origin;

/// The exit status of a process that a second signal ended (as a shell counts SIGINT).
const INTERRUPTED: i32 = 130;

/// So long its sockets have to go when nobody waits for the end.
const HURRY: Duration = Duration::from_secs(2);

/// What comes so soon after a signal is the same one.
const TOLD_TWICE: Duration = Duration::from_secs(1);

/// How often is looked whether a change waits still that a followed file has to wait for.
const LOOK: Duration = Duration::from_millis(500);

/// Mistakes and warnings of a file that are logged; `culvert check` prints them all.
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

/// Why the file is applied again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A SIGHUP.
    Signal,
    /// It has changed.
    Watch,
}

/// Starts the thread that turns signals into requests. Without a configuration file, SIGHUP drains, too; with one,
/// others can ask for what a SIGHUP does by what is given back.
///
/// # Errors
///
/// When the system has no thread or file descriptor left.
pub fn serve(
    config: Option<PathBuf>,
    requester: Requester,
    notify: Notify,
) -> io::Result<Option<SyncSender<Cause>>> {
    let signals = SignalFd::with_flags(&set(), SfdFlags::SFD_CLOEXEC)?;
    let signalled = Arc::new(AtomicBool::new(false));
    let reload = config.map(|config| {
        Reload {
            signalled: Arc::clone(&signalled),
            config,
            requester: requester.clone(),
            notify: notify.clone(),
        }
        .start()
    });
    let reload = reload.transpose()?;
    let others = reload.clone();
    let run = move || serve_forever(&signals, reload.as_ref(), &signalled, &requester, &notify);
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(others)
}

fn serve_forever(
    signals: &SignalFd,
    reload: Option<&SyncSender<Cause>>,
    signalled: &AtomicBool,
    requester: &Requester,
    notify: &Notify,
) {
    let mut last: Option<Instant> = None;
    let mut is_hurried = false;
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
        let signal = number.and_then(|number| Signal::try_from(number).ok());
        match (signal, reload) {
            (None, _) => {}
            (Some(Signal::SIGHUP), _) if last.is_some() => {}
            (Some(Signal::SIGHUP), Some(reload)) => {
                // One that waits already will read what the file says by then, and as what a signal asked for.
                signalled.store(true, Ordering::SeqCst);
                let _ = reload.try_send(Cause::Signal);
            }
            (Some(_), _) if last.is_some_and(|last| last.elapsed() < TOLD_TWICE) => {}
            (Some(signal), _) => match last.replace(Instant::now()) {
                None => {
                    tracing::info!("{signal}: draining");
                    notify.stopping();
                    drain(requester);
                }
                Some(_) if !std::mem::replace(&mut is_hurried, true) => {
                    tracing::warn!("second {signal}: ending at once");
                    hurry();
                }
                Some(_) => kill(),
            },
        }
    }
}

/// Ends the process without waiting for anybody; should even that take long, it is killed.
fn hurry() {
    fn end() {
        culvert_directory::remove_all();
        std::process::exit(INTERRUPTED);
    }
    fn late() {
        thread::sleep(HURRY);
        kill();
    }
    for (name, work) in [("late", late as fn()), ("end", end)] {
        if thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .is_err()
        {
            kill();
        }
    }
}

fn kill() {
    // The kernel refuses nobody that for himself.
    let _ = signal::kill(Pid::this(), Signal::SIGKILL);
}

fn drain(requester: &Requester) {
    // An engine that has ended needs no more.
    let _ = requester.send_patiently(Request::Drain);
}

/// What a SIGHUP needs.
struct Reload {
    config: PathBuf,
    /// A signal has come since the last one began, whatever cause it waits for.
    signalled: Arc<AtomicBool>,
    requester: Requester,
    notify: Notify,
}

impl Reload {
    /// Starts the thread that applies the file, so that a slow engine doesn't keep the next signal waiting. A SIGHUP
    /// that arrives meanwhile waits for its turn; of several, one is enough.
    fn start(self) -> io::Result<SyncSender<Cause>> {
        let (ask, asked) = sync_channel(1);
        let run = move || self.serve(&asked);
        thread::Builder::new().name("reload".into()).spawn(run)?;
        Ok(ask)
    }

    /// A followed file that could not be applied while a change waited for its confirmation is applied afterwards.
    fn serve(&self, asked: &Receiver<Cause>) {
        let mut is_owed = false;
        loop {
            let cause = match is_owed {
                true => asked.recv_timeout(LOOK),
                false => asked.recv().map_err(RecvTimeoutError::from),
            };
            let cause = match cause {
                Ok(cause) => cause,
                Err(RecvTimeoutError::Timeout) if self.is_change_waiting() => continue,
                Err(RecvTimeoutError::Timeout) => Cause::Watch,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let had_to_wait = self.run(cause);
            if had_to_wait && cause == Cause::Watch {
                let config = self.config.display();
                tracing::info!(%config, "it is applied once no change waits for its confirmation");
            }
            is_owed = had_to_wait && (is_owed || cause == Cause::Watch);
        }
    }

    fn is_change_waiting(&self) -> bool {
        let history = self.requester.history();
        history.is_some_and(|history| history.told_pending().is_some())
    }

    /// Whether a change that waits for its confirmation was in the way.
    fn run(&self, cause: Cause) -> bool {
        let path = &self.config;
        let config = path.display();
        let cause = match self.signalled.swap(false, Ordering::SeqCst) {
            true => Cause::Signal,
            false => cause,
        };
        match cause {
            Cause::Signal => tracing::info!(%config, "SIGHUP: applying the configuration again"),
            Cause::Watch => tracing::info!(%config, "the configuration has changed: applying it"),
        }
        self.notify.reloading();
        let order = Order {
            origin: match cause {
                Cause::Signal => Origin::Sighup,
                Cause::Watch => Origin::Watch,
            },
            ..Order::default()
        };
        let done = api::read_and_apply(&self.requester, &order, |readings| readings.load(path));
        let had_to_wait = matches!(done, Err(NotApplied::Refused(ApplyError::Pending(_))));
        match done {
            // What changed is logged there.
            Ok((_, report)) => log(&report, path),
            Err(NotApplied::Mistakes(report)) => log(&report, path),
            // Why is logged there.
            Err(NotApplied::Refused(_)) => {}
        }
        super::memory::give_back();
        self.notify.reloaded();
        had_to_wait
    }
}

fn log(report: &Report, config: &Path) {
    let shown = report.shown(MISTAKES_LOGGED);
    for mistake in shown.mistakes {
        let place = report.place(mistake);
        let message = &mistake.message;
        match mistake.severity {
            Severity::Error => tracing::error!("{place}: {message}"),
            Severity::Warning => tracing::warn!("{place}: {message}"),
        }
    }
    for line in shown.rest {
        tracing::warn!("{}: {line}", config.display());
    }
}
