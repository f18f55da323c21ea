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

use crate::event::PortEvent;
use crate::limits;
use crate::port::Shared;

use message::MessageReader;
use protocol::Protocol;
use shim::Shim;
pub(crate) use socket::Endpoint;

/// Where events go.
pub(crate) type Events = Arc<dyn Fn(PortEvent) + Send + Sync>;

/// The session thread: serves connection after connection until the port closes.
pub(crate) fn run(shared: &Arc<Shared>, endpoint: &Endpoint, events: &Events) {
    loop {
        // In this order: the flag is set before the alarm is raised.
        drain(&shared.alarm);
        if is_closing(shared) {
            return;
        }
        let Some(stream) = endpoint.next(&shared.alarm) else {
            continue;
        };
        shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        events(PortEvent::Connected);
        let reason = serve(shared, &stream, events);
        // The socket closes before the owner hears of it.
        drop(stream);
        events(PortEvent::Disconnected { reason });
        if matches!(endpoint, Endpoint::Client(_)) && !is_closing(shared) {
            // The other side may accept and close at once, again and again.
            socket::wait(&shared.alarm, limits::RECONNECT_PAUSE_MS);
        }
    }
}

fn is_closing(shared: &Shared) -> bool {
    shared.is_closing.load(Ordering::Acquire)
}

/// Serves one connection until it ends; returns why.
fn serve(shared: &Arc<Shared>, stream: &UnixStream, events: &Events) -> String {
    let mut shim = match Shim::new(Protocol::new(Arc::clone(shared), Arc::clone(events))) {
        Ok(shim) => shim,
        Err(error) => return format!("no socket pair: {error}"),
    };
    let reason = converse(shared, stream, &mut shim);
    shim.with(Protocol::end);
    reason
}

fn converse(shared: &Shared, stream: &UnixStream, shim: &mut Shim) -> String {
    let mut reader = MessageReader::default();
    let mut replies = Vec::new();
    loop {
        let mut fds = [
            PollFd::new(stream, PollFlags::IN),
            PollFd::new(&*shared.alarm, PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        if !fds[1].revents().is_empty() {
            if is_closing(shared) {
                return "the port closes".into();
            }
            drain(&shared.alarm);
            shim.with(Protocol::reap_faults);
            continue;
        }
        match reader.read(stream) {
            Ok(None) => continue,
            Ok(Some(message)) => {
                shared.counters.messages.fetch_add(1, Ordering::Relaxed);
                replies.clear();
                let handled = shim.handle(message, &mut replies);
                if handled.is_err() {
                    // Before the VMM can know.
                    shared
                        .counters
                        .refused_sessions
                        .fetch_add(1, Ordering::Relaxed);
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
            Err(message::MessageError::Closed) => return "the VMM closed the connection".into(),
            Err(error) => {
                shared
                    .counters
                    .refused_sessions
                    .fetch_add(1, Ordering::Relaxed);
                return error.to_string();
            }
        }
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
