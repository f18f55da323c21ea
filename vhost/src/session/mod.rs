//! The session: one VMM on the socket, then the next.
//!
//! In: connections, messages with descriptors, alarms of workers. Out: rings started and
//! stopped, events.
//! Never: a worker that waits for this thread; a message that is trusted.
//!
//! Threads: one per port. It is the only one that starts and stops rings. It sleeps on the
//! socket and on the port's alarm, so closing and broken rings are seen at once, whatever the
//! VMM does or doesn't send.

pub(crate) mod message;
mod protocol;
mod shim;
mod socket;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::event::{PortEvent, PortStatus};
use crate::limits;
use crate::pace::Pace;
use crate::port::Shared;

use message::MessageReader;
use protocol::Protocol;
use shim::Shim;
pub(crate) use socket::Endpoint;

/// Where events go.
pub(crate) type Events = Arc<dyn Fn(PortEvent) + Send + Sync>;

/// The session thread: serves connection after connection until the port closes.
pub(crate) fn run(shared: &Arc<Shared>, endpoint: &Endpoint, events: &Events) {
    let mut callers = Callers::new(shared, endpoint, events);
    loop {
        // In this order: the flag is set before the alarm is raised.
        drain(&shared.alarm);
        if is_closing(shared) {
            return;
        }
        let Some(stream) = callers.next() else {
            continue;
        };
        shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        shared.status().is_connected = true;
        events(PortEvent::Connected);
        let reason = serve(shared, &stream, &mut callers, events);
        // The socket closes before the owner hears of it.
        drop(stream);
        let another_waits = callers.waiting.is_some();
        *shared.status() = PortStatus {
            another_waits,
            ..PortStatus::default()
        };
        events(PortEvent::Disconnected { reason });
        if matches!(endpoint, Endpoint::Client(_)) && !is_closing(shared) {
            // The other side may accept and close at once, again and again.
            let pause = Duration::from_millis(limits::RECONNECT_PAUSE_MS);
            socket::wait(&shared.alarm, pause);
        }
    }
}

fn is_closing(shared: &Shared) -> bool {
    shared.is_closing.load(Ordering::Acquire)
}

/// Those who come to the port, one by one and no faster than it takes them.
struct Callers<'a> {
    shared: &'a Arc<Shared>,
    endpoint: &'a Endpoint,
    events: &'a Events,
    start: Instant,
    connections: Pace,
    messages: Pace,
    waiting: Option<Waiting>,
}

/// Who came while another is served, until it is gone or its turn has come.
struct Waiting {
    stream: UnixStream,
    since: Duration,
    is_told: bool,
}

/// What stands less long than this is not worth a word: it is there between two messages, or while
/// one VMM takes another's place.
const STANDS: Duration = Duration::from_millis(limits::OBSTACLE_STANDS_MS);

impl<'a> Callers<'a> {
    fn new(shared: &'a Arc<Shared>, endpoint: &'a Endpoint, events: &'a Events) -> Self {
        let pace = |per_second: u32| {
            let at_once = per_second.saturating_mul(limits::AT_ONCE_SECONDS);
            Pace::new(at_once, Duration::from_secs(1) / per_second.max(1))
        };
        Self {
            shared,
            endpoint,
            events,
            start: Instant::now(),
            connections: pace(shared.config.connections_per_second),
            messages: pace(shared.config.messages_per_second),
            waiting: None,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The next connection; `None` when there is something else to look at first.
    fn next(&mut self) -> Option<UnixStream> {
        if let Some(waiting) = self.waiting.take() {
            self.shared.status().another_waits = false;
            return Some(waiting.stream);
        }
        // Only what comes uses the pace up.
        let left = self.connections.left(self.now());
        if !left.is_zero() && socket::wait(&self.shared.alarm, left) {
            return None;
        }
        let stream = self.endpoint.next(&self.shared.alarm)?;
        let _ = self.connections.take(self.now());
        Some(stream)
    }

    /// Where to look, while one is served, for another or for the end of the one that waits.
    fn watched(&self) -> Option<PollFd<'_>> {
        if let Some(waiting) = &self.waiting {
            return Some(PollFd::new(&waiting.stream, PollFlags::empty()));
        }
        let listener = self.endpoint.listener()?;
        let is_open = self.connections.left(self.now()).is_zero();
        is_open.then(|| PollFd::new(listener, PollFlags::IN))
    }

    /// How long nothing need be done here that nobody tells of.
    fn pause(&self) -> Option<Duration> {
        if let Some(waiting) = &self.waiting {
            let until = waiting.since + STANDS;
            return (!waiting.is_told).then(|| until.saturating_sub(self.now()));
        }
        let left = self.connections.left(self.now());
        (!left.is_zero() && self.endpoint.listener().is_some()).then_some(left)
    }

    /// The pause is over.
    fn pass(&mut self) {
        let now = self.now();
        if let Some(waiting) = &mut self.waiting
            && !waiting.is_told
            && now >= waiting.since + STANDS
        {
            waiting.is_told = true;
            (self.events)(PortEvent::AnotherWaits);
        }
    }

    /// Something happened where it was watched.
    fn look(&mut self) {
        if self.waiting.take().is_none() {
            let since = self.now();
            // It uses the pace up even where there is no descriptor left for it.
            let _ = self.connections.take(since);
            let stream = self.endpoint.listener();
            let stream = stream.and_then(|listener| socket::accept(listener).ok());
            self.waiting = stream.map(|stream| Waiting {
                stream,
                since,
                is_told: false,
            });
        }
        self.shared.status().another_waits = self.waiting.is_some();
    }
}

/// Serves one connection until it ends; returns why.
fn serve(
    shared: &Arc<Shared>,
    stream: &UnixStream,
    callers: &mut Callers<'_>,
    events: &Events,
) -> String {
    let mut shim = match Shim::new(Protocol::new(Arc::clone(shared), Arc::clone(events))) {
        Ok(shim) => shim,
        Err(error) => return format!("no socket pair: {error}"),
    };
    let reason = converse(shared, stream, callers, &mut shim);
    shim.with(Protocol::end);
    reason
}

fn converse(
    shared: &Shared,
    stream: &UnixStream,
    callers: &mut Callers<'_>,
    shim: &mut Shim,
) -> String {
    let mut reader = MessageReader::default();
    let mut replies = Vec::new();
    loop {
        let (is_alarmed, is_called) = wait(shared, stream, callers, shim);
        if is_alarmed {
            if is_closing(shared) {
                return "the port closes".into();
            }
            drain(&shared.alarm);
            shim.with(Protocol::reap_faults);
            continue;
        }
        if is_called {
            callers.look();
        }
        let message = match reader.read(stream) {
            Ok(None) => continue,
            Ok(Some(message)) => message,
            Err(message::MessageError::Closed) => return "the VMM closed the connection".into(),
            Err(error) => {
                shared.counters.add_refused_session();
                return error.to_string();
            }
        };
        shared.counters.messages.fetch_add(1, Ordering::Relaxed);
        replies.clear();
        let handled = shim.handle(message, &mut replies);
        if handled.is_err() {
            // Before the VMM can know.
            shared.counters.add_refused_session();
        }
        let sent = send(stream, &replies, shared);
        shim.with(Protocol::tell_link);
        if let Err(refusal) = handled {
            return refusal.to_string();
        }
        if let Err(error) = sent {
            return format!("the VMM takes no reply: {error}");
        }
        shim.with(Protocol::forget_told);
    }
}

/// Waits for the VMM, the alarm or another caller; whether the alarm was raised, and whether
/// another caller is to be looked at.
fn wait(
    shared: &Shared,
    stream: &UnixStream,
    callers: &mut Callers<'_>,
    shim: &Shim,
) -> (bool, bool) {
    // A VMM that sends without pause gets no more of this thread than its share.
    while let Err(left) = callers.messages.take(callers.start.elapsed()) {
        if socket::wait(&shared.alarm, left) {
            return (true, false);
        }
    }
    loop {
        let obstacle = shim.with(|protocol| protocol.untold_obstacle());
        let calls = callers.pause();
        let pause = calls.or(obstacle.map(|_| STANDS));
        let mut fds = vec![
            PollFd::new(stream, PollFlags::IN),
            PollFd::new(&*shared.alarm, PollFlags::IN),
        ];
        fds.extend(callers.watched());
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        let found = poll(&mut fds, pause.as_ref());
        if found == Ok(0) {
            callers.pass();
            if let Some(obstacle) = obstacle.filter(|_| calls.is_none()) {
                shim.with(|protocol| protocol.tell_obstacle(obstacle));
            }
            continue;
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        return (is_ready(1), is_ready(2));
    }
}

/// Sends replies; a VMM that doesn't read them is given up.
fn send(stream: &UnixStream, mut bytes: &[u8], shared: &Shared) -> Result<(), Errno> {
    let until = Instant::now() + Duration::from_millis(limits::REPLY_TIMEOUT_MS);
    while !bytes.is_empty() {
        match rustix::net::send(stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() || is_closing(shared) {
                    return Err(Errno::TIMEDOUT);
                }
                let mut fds = [PollFd::new(stream, PollFlags::OUT)];
                let pause = Timespec::try_from(left.min(Duration::from_millis(100))).ok();
                let _ = poll(&mut fds, pause.as_ref());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drain(alarm: &OwnedFd) {
    let mut count = [0u8; 8];
    let _ = rustix::io::read(alarm, &mut count);
}
