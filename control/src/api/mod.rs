//! What the outside asks of the engine.
//!
//! In: requests from the control socket and from signals. Out: the same requests at the engine's
//! loop, which answers each through its [`Reply`]. Never: the engine's state: it stays on its
//! thread.
//!
//! [`channel`] makes the two ends. The engine's end has a file descriptor that is readable while
//! requests wait, so it fits into a poll set.

pub mod apply;
pub(crate) mod arrivals;
mod audience;
pub mod bodies;
pub mod client;
mod keys;
pub(crate) mod lockout;
pub(crate) mod object;
pub mod server;
pub(crate) mod whole;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_directory::Directory;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{oneshot, watch};

use self::arrivals::Arrivals;
use self::server::doors::Keeper;
use crate::config::{Name, Readings, Report};
use crate::history::History;
use crate::keys::PublicKey;
use crate::layer::{Desk, Step};
use crate::plan::{Layers, Proposal};
use crate::report::look::Look;
use crate::state::{self, Applied};
use crate::uapi::{Answer, Ask};

pub use apply::{apply_blocking, read_and_apply};
pub use audience::Audience;

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
        /// It waits for a confirmation: what it removes may come back.
        on_trial: bool,
        /// Takes what changed, or why nothing did.
        reply: Reply<Result<Applied, ApplyError>>,
    },
    /// A peer is to be called, though it may have a session: whether it is there is to be known soon.
    Call {
        /// Its tunnel.
        tunnel: Name,
        /// Its key.
        key: PublicKey,
    },
    /// What waited is confirmed: what it removed never comes back.
    Confirmed {
        /// Told when nothing of that is left.
        reply: Reply<()>,
    },
    /// A change of the API layer.
    Layer {
        /// What it comes to.
        step: Box<Step>,
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
    /// Another change waits for its confirmation.
    #[error("{0}")]
    Pending(Box<state::Pending>),
    /// What is asked doesn't go with how things stand.
    #[error("{0}")]
    Conflict(String),
    /// Its revision can't be written.
    #[error("{0}")]
    Unkept(String),
    /// What is asked can't be understood.
    #[error("{0}")]
    Invalid(String),
    /// A revision that can't be had.
    #[error("{0}")]
    Unknown(String),
}

impl ApplyError {
    pub(crate) fn no_history() -> Self {
        Self::Conflict("this process keeps no history".into())
    }
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

impl std::fmt::Display for NotApplied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mistakes(report) => f.write_str(&report.summary()),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

/// Asks the engine for something, and waits for it. For a client that has left nothing more is asked.
pub(crate) fn ask<T>(
    requester: &Requester,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, SendError> {
    if requester.audience.has_left() {
        return Err(SendError::Left);
    }
    let (reply, answer) = Reply::new();
    requester.send_patiently(request(reply))?;
    answer.blocking_recv().map_err(|_| SendError::Ended)
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
        arrivals: Arrivals::default(),
        history: None,
        desk: Desk::default(),
        audience: Audience::default(),
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
    /// Connections that come by uplinks' own stacks.
    arrivals: Arrivals,
    history: Option<Arc<Mutex<History>>>,
    /// Held by the one whose change, of whatever kind, is planned and carried out.
    desk: Desk,
    /// For whom it reads.
    audience: Audience,
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
    /// Whoever wanted to know has left.
    #[error("the client has left")]
    Left,
}

impl Requester {
    /// Keeps what outlives the process there.
    #[must_use]
    pub fn keeping(mut self, state_dir: &Directory) -> Self {
        self.state_dir = Some(state_dir.clone());
        self
    }

    /// The same for a client: once it has left, nothing more is read for it.
    #[must_use]
    pub fn for_audience(&self, audience: &Audience) -> Self {
        Self {
            audience: audience.clone(),
            ..self.clone()
        }
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

    /// Where connections go that come by uplinks' own stacks.
    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Writes what is applied to a history.
    #[must_use]
    pub fn recording(mut self, history: History) -> Self {
        self.history = Some(Arc::new(Mutex::new(history)));
        self
    }

    /// The history, unless none is kept. Whoever applies has the turn first.
    #[must_use]
    pub fn history(&self) -> Option<MutexGuard<'_, History>> {
        let history = self.history.as_ref()?;
        Some(history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where changes of single objects are worked off.
    pub fn desk(&self) -> &Desk {
        &self.desk
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
