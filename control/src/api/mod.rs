//! What the outside asks of the engine.
//!
//! In: requests from the control socket and from signals. Out: the same requests at the engine's
//! loop, which answers each through its [`Reply`]. Never: the engine's state: it stays on its
//! thread.
//!
//! [`channel`] makes the two ends. The engine's end has a file descriptor that is readable while
//! requests wait, so it fits into a poll set.

pub mod bodies;
pub mod client;
pub mod server;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_directory::Directory;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{oneshot, watch};

use self::server::doors::Keeper;
use crate::config::{Config, Name, Readings, Report};
use crate::events::Event;
use crate::plan::{Layers, Proposal};
use crate::process;
use crate::report::look::Look;
use crate::state::Applied;
use crate::uapi::{Answer, Ask, doors};

/// Requests that may wait at the engine; the next sender is refused.
const WAITING: usize = 64;

/// How long who has time waits before the next try.
const PAUSE: Duration = Duration::from_millis(5);

/// One thing asked of the engine.
#[derive(Debug)]
pub enum Request {
    /// A look at a page of what the engine has.
    Look(Look),
    /// What is desired, to plan from.
    Desired {
        /// Takes the answer.
        reply: Reply<Layers>,
    },
    /// A checked configuration to replace the running one.
    Apply {
        /// The whole new configuration, with the way to it.
        proposal: Box<Proposal>,
        /// Takes what changed, or why nothing did.
        reply: Reply<Result<Applied, ApplyError>>,
    },
    /// A request of `wg`'s protocol.
    Uapi {
        /// The tunnel that it is for.
        tunnel: Name,
        /// What is asked.
        ask: Ask,
        /// Takes the answer.
        reply: Reply<Answer>,
    },
    /// Finish what was begun, then end.
    Drain,
}

/// Why a checked configuration was not applied. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// These settings are fixed at the start: a restart takes them over.
    #[error("needs a restart: {}", .0.join("; "))]
    NeedsRestart(Vec<String>),
    /// Something that the new configuration names can't be had.
    #[error("{0}")]
    Failed(String),
    /// The engine did not answer.
    #[error(transparent)]
    Unanswered(#[from] SendError),
}

/// Takes one answer. Dropping it tells the asker that there is none.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply and where it arrives.
    pub fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers; nothing happens if the asker has left.
    pub fn send(self, answer: T) {
        drop(self.0.send(answer));
    }
}

/// Why a file was not applied.
#[derive(Debug)]
pub enum NotApplied {
    /// It has mistakes.
    Mistakes(Report),
    /// The engine refused it.
    Refused(ApplyError),
}

/// Reads a file on the calling thread, and applies it as [`apply_blocking`] does. Answers what changed, and what the
/// file is warned of.
///
/// # Errors
///
/// When it has mistakes, or the engine refuses it.
pub fn read_and_apply(
    requester: &Requester,
    read: impl FnOnce(&mut Readings) -> Result<(Config, Report), Report>,
) -> Result<(Applied, Report), NotApplied> {
    let mut turn = requester.turn();
    let read = read(&mut turn).map_err(NotApplied::Mistakes);
    let applied = read.and_then(|(config, report)| {
        let applied = plan_and_apply(requester, config).map_err(NotApplied::Refused)?;
        Ok((applied, report))
    });
    process::memory::give_back();
    if let Err(error) = &applied {
        let error = error.to_string();
        Event::ConfigRefused { error }.tell();
    }
    applied
}

impl std::fmt::Display for NotApplied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mistakes(report) => f.write_str(&report.summary()),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

/// Plans the way to a configuration on the calling thread, hands it to the engine, waiting for room if need be, waits
/// for what becomes of it, and logs that. One at a time: others wait for their turn.
///
/// # Errors
///
/// When the engine refuses it, or has ended.
pub fn apply_blocking(requester: &Requester, config: Config) -> Result<Applied, ApplyError> {
    let _turn = requester.turn();
    plan_and_apply(requester, config)
}

fn plan_and_apply(requester: &Requester, config: Config) -> Result<Applied, ApplyError> {
    let base = ask(requester, |reply| Request::Desired { reply })?;
    doors::check_names(base.file(), &config).map_err(ApplyError::Failed)?;
    // Likewise what the API's doors need.
    let keeper = requester.doors();
    let ready = keeper.as_ref().map(|keeper| keeper.prepare(&config.api));
    let ready = ready.transpose().map_err(ApplyError::Failed)?;
    let proposal = Box::new(Proposal::new(base, config));
    // To free what was desired before, or what is refused, takes long where there are many peers.
    let _kept = proposal.keeper();
    let applied = ask(requester, |reply| Request::Apply { proposal, reply })??;
    if let (Some(keeper), Some(ready)) = (keeper, ready) {
        keeper.change(ready);
    }
    log_applied(&applied);
    Ok(applied)
}

/// Asks the engine for something, and waits for it.
pub(crate) fn ask<T>(
    requester: &Requester,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, SendError> {
    let (reply, answer) = Reply::new();
    requester.send_patiently(request(reply))?;
    answer.blocking_recv().map_err(|_| SendError::Ended)
}

/// Logs what an `apply` did.
fn log_applied(applied: &Applied) {
    for failure in &applied.failures {
        tracing::error!("the configuration is applied, and this failed: {failure}");
    }
    let generation = applied.generation;
    if applied.changes.is_empty() {
        return Event::ConfigUnchanged { generation }.tell();
    }
    Event::ConfigApplied {
        generation,
        changes: applied.changes.len(),
        failures: applied.failures.len(),
    }
    .tell();
    for change in &applied.changes {
        tracing::info!("applied: {change}");
    }
}

/// Makes the two ends of the way to the engine.
///
/// # Errors
///
/// When the system has no file descriptor left.
pub fn channel() -> std::io::Result<(Requester, Requests)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = mpsc::sync_channel(WAITING);
    let requester = Requester {
        sender,
        wake: Arc::clone(&wake),
        doors: Arc::default(),
        turn: Arc::default(),
        state_dir: None,
        measures: watch::Sender::new(None),
    };
    Ok((requester, Requests { receiver, wake }))
}

/// The end of those who ask.
#[derive(Clone, Debug)]
pub struct Requester {
    sender: mpsc::SyncSender<Request>,
    wake: Arc<OwnedFd>,
    /// The API's doors, while it has any.
    doors: Arc<Mutex<Option<Arc<Keeper>>>>,
    /// Held by the one whose configuration is read, planned and applied.
    turn: Arc<Mutex<Readings>>,
    /// Where what outlives the process is kept, if anything is.
    state_dir: Option<Directory>,
    /// Where metrics are to be served over TCP.
    measures: watch::Sender<Option<SocketAddr>>,
}

/// The engine did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many requests wait already.
    #[error("too many requests wait for an answer")]
    Full,
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

impl Requester {
    /// Keeps what outlives the process there.
    #[must_use]
    pub fn keeping(mut self, state_dir: &Directory) -> Self {
        self.state_dir = Some(state_dir.clone());
        self
    }

    /// Where what outlives the process is kept, if anything is.
    #[must_use]
    pub fn state_dir(&self) -> Option<&Directory> {
        self.state_dir.as_ref()
    }

    /// Metrics are to be served there over TCP from now on, or nowhere.
    pub(crate) fn measure_at(&self, address: Option<SocketAddr>) {
        self.measures
            .send_if_modified(|at| std::mem::replace(at, address) != address);
    }

    /// Where metrics are to be served over TCP.
    pub(crate) fn measures(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.measures.subscribe()
    }

    /// Takes over what was read before there was anybody to ask.
    pub fn remember(&self, readings: Readings) {
        *self.turn() = readings;
    }

    /// An `apply` changes these doors from now on.
    pub(crate) fn keep_doors(&self, keeper: Option<Keeper>) {
        *self.doors.lock().unwrap_or_else(PoisonError::into_inner) = keeper.map(Arc::new);
    }

    fn doors(&self) -> Option<Arc<Keeper>> {
        self.doors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn turn(&self) -> MutexGuard<'_, Readings> {
        // Whoever had it before has left nothing half done.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to the engine without waiting.
    ///
    /// # Errors
    ///
    /// When too many wait already, or the engine has ended.
    pub fn send(&self, request: Request) -> Result<(), SendError> {
        self.offer(request).map_err(|(error, _)| error)
    }

    /// Hands a request to the engine once it has room: for a thread that may sleep, and a request that nobody would
    /// repeat.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub(crate) fn send_patiently(&self, mut request: Request) -> Result<(), SendError> {
        loop {
            match self.offer(request) {
                Err((SendError::Full, back)) => request = back,
                done => return done.map_err(|(error, _)| error),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// As [`Requester::send`]; gives the request back that was not taken.
    pub(crate) fn offer(&self, request: Request) -> Result<(), (SendError, Request)> {
        self.sender.try_send(request).map_err(|error| match error {
            mpsc::TrySendError::Full(request) => (SendError::Full, request),
            mpsc::TrySendError::Disconnected(request) => (SendError::Ended, request),
        })?;
        // Fails only when the counter is full, and then the engine is awake anyway.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}

/// The engine's end.
#[derive(Debug)]
pub struct Requests {
    receiver: mpsc::Receiver<Request>,
    wake: Arc<OwnedFd>,
}

impl Requests {
    /// The next request, if one waits. Clears the file descriptor's readiness first, so that a
    /// request that arrives later makes it readable again: call until `None`.
    pub fn try_next(&self) -> Option<Request> {
        self.clear();
        self.receiver.try_recv().ok()
    }

    /// The next request; waits for it, at most `timeout`. `None`: none came, or nobody is left who
    /// could ask.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Request> {
        let request = match timeout {
            None => self.receiver.recv().ok(),
            Some(timeout) => self.receiver.recv_timeout(timeout).ok(),
        };
        self.clear();
        request
    }

    fn clear(&self) {
        // Fails with EAGAIN when nothing was signalled.
        let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
    }
}

impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SIGHUP has no asker who would repeat it.
    #[test]
    fn a_configuration_waits_for_room_among_the_requests() {
        let (requester, requests) = channel().unwrap();
        for _ in 0..WAITING {
            requester.send(Request::Drain).unwrap();
        }
        assert_eq!(requester.send(Request::Drain), Err(SendError::Full));
        let path = std::path::Path::new("test.yaml");
        let read = crate::config::parse("version: 1\nnetworks: {}\n", path, &crate::config::Disk);
        let (config, _) = read.map_err(|report| report.render(false)).unwrap();
        std::thread::scope(|scope| {
            let applies = scope.spawn(|| apply_blocking(&requester, config));
            // Refused at once, it would have ended by then.
            std::thread::sleep(10 * PAUSE);
            while let Some(request) = requests.wait(Some(Duration::from_secs(20))) {
                if let Request::Desired { reply } = request {
                    drop(reply);
                    break;
                }
            }
            let answer = applies.join().unwrap();
            let error = ApplyError::Unanswered(SendError::Ended);
            assert_eq!(answer.unwrap_err(), error);
        });
        drop(requests);
        assert_eq!(
            requester.send_patiently(Request::Drain),
            Err(SendError::Ended)
        );
    }
}
