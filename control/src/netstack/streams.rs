//! Streams: connections of the stacks, carried to those who know byte streams.
//!
//! In: connections that others began and that are open. Out: for each a socket whose other end the API's thread has, or
//! the responder's answer; bytes both ways. Never: more bytes of one in a round than [`SHARE`]; a byte kept here: what
//! the socket does not take stays in its connection, and holds the sender there.
//!
//! ```text
//!  wire ══ connection (windows, resends) ══ this thread ══ a pair of sockets ══ API's thread (TLS, HTTP)
//! ```
//!
//! A socket that has room, or bytes, wakes this thread as its doorbell does.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
};

use culvert_dataplane::shared::ids::Scope;
use culvert_stack::{
    Stacks,
    tcp::{ConnectionId, Phase},
};
use culvert_wireguard::Instant;
use rustix::event::{PollFd, PollFlags};

use super::{
    Host, Hosts,
    services::{Answer, Service},
};
use crate::api::arrivals::{Arrival, Arrivals};

/// Bytes of one connection each way in a round.
const SHARE: usize = 64 << 10;

/// The connections that have somebody here.
#[derive(Default)]
pub(super) struct Streams {
    arrivals: Option<Arrivals>,
    open: Vec<Stream>,
}

struct Stream {
    scope: Scope,
    id: ConnectionId,
    end: End,
}

/// Who has a connection's other end.
enum End {
    Socket(Socket),
    Responder(Answer),
}

/// The end that this thread has of a pair.
struct Socket {
    stream: UnixStream,
    /// It has taken no more: it is to say when it does.
    is_full: bool,
    /// Its other end writes no more, and hears no more.
    ends: [bool; 2],
}

/// What became of a connection in a round.
#[derive(PartialEq, Eq)]
enum Fate {
    Lives,
    /// Both ends have ended it.
    Ended,
    /// One of them is gone.
    Broken,
}

impl Streams {
    /// Connections go there from now on.
    pub(super) fn hand_to(&mut self, arrivals: Arrivals) {
        self.arrivals = Some(arrivals);
    }

    /// Takes connections that are open now, and carries bytes.
    pub(super) fn serve(&mut self, stacks: &mut Stacks<Scope>, hosts: &Hosts, now: Instant) {
        while let Some((scope, id)) = stacks.poll_accepted() {
            let Some(stack) = stacks.get_mut(scope) else {
                continue;
            };
            let ends = stack.connection(id);
            let host = hosts.stacks.get(&scope);
            let end = host.zip(ends).and_then(|(host, ends)| {
                let (service, _) = host.services.at(ends.local.port())?;
                self.end(service, host, ends.remote)
            });
            match end {
                Some(end) => self.open.push(Stream { scope, id, end }),
                None => stack.release(id, true, now),
            }
        }
        self.open.retain_mut(|stream| {
            let Some(stack) = stacks.get_mut(stream.scope) else {
                return false;
            };
            let fate = match &mut stream.end {
                End::Socket(socket) => socket.carry(stack, stream.id, now),
                End::Responder(answer) => answered(answer, stack, stream.id, now),
            };
            if fate != Fate::Lives {
                stack.release(stream.id, fate == Fate::Broken, now);
            }
            fate == Fate::Lives
        });
    }

    fn end(&self, service: Service, host: &Host, remote: std::net::SocketAddr) -> Option<End> {
        let wanted = match service {
            Service::Reads(wanted) => wanted,
            Service::Answers(answer) => return Some(End::Responder(answer)),
        };
        let (ours, stream) = UnixStream::pair().ok()?;
        ours.set_nonblocking(true).ok()?;
        stream.set_nonblocking(true).ok()?;
        let arrival = Arrival {
            wanted,
            uplink: host.name.clone(),
            remote,
            stream,
        };
        let is_taken = self.arrivals.as_ref()?.send(arrival);
        is_taken.then(|| End::Socket(Socket::new(ours)))
    }

    /// What ends a sleep.
    pub(super) fn polled<'s>(&'s self, stacks: &Stacks<Scope>, list: &mut Vec<PollFd<'s>>) {
        for stream in &self.open {
            if let (End::Socket(socket), Some(stack)) = (&stream.end, stacks.get(stream.scope)) {
                let has_room = stack.room(stream.id) > 0;
                list.extend(
                    (socket.wants(has_room)).map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)),
                );
            }
        }
    }
}

impl Socket {
    const fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            is_full: false,
            ends: [false; 2],
        }
    }

    /// Of one that has ended nothing is waited for: it would be told for ever.
    fn wants(&self, has_room: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, has_room && !self.ends[0]);
        flags.set(PollFlags::OUT, self.is_full);
        (!flags.is_empty()).then(|| (self.stream.as_fd(), flags))
    }

    fn carry(
        &mut self,
        stack: &mut culvert_stack::HostStack,
        id: ConnectionId,
        now: Instant,
    ) -> Fate {
        let fate = self.carry_in(stack, id, now);
        if fate != Fate::Lives || stack.phase(id) == Phase::Closed {
            return Fate::Broken;
        }
        let fate = self.carry_out(stack, id, now);
        match self.ends {
            [true, true] if fate == Fate::Lives => Fate::Ended,
            _ => fate,
        }
    }

    /// From the wire.
    fn carry_in(
        &mut self,
        stack: &mut culvert_stack::HostStack,
        id: ConnectionId,
        now: Instant,
    ) -> Fate {
        self.is_full = false;
        let (mut carried, mut broken) = (0, false);
        while carried < SHARE && !self.is_full && !broken {
            let read = stack.read(id, now, |bytes| match (&self.stream).write(bytes) {
                Ok(written) => written,
                Err(error) => {
                    self.is_full = is_later(&error);
                    broken = !self.is_full;
                    0
                }
            });
            if read == 0 {
                break;
            }
            carried += read;
        }
        if stack.has_ended(id) && !self.ends[1] {
            self.ends[1] = true;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        match broken {
            true => Fate::Broken,
            false => Fate::Lives,
        }
    }

    /// To the wire.
    fn carry_out(
        &mut self,
        stack: &mut culvert_stack::HostStack,
        id: ConnectionId,
        now: Instant,
    ) -> Fate {
        let mut buffer = [0; 16 << 10];
        let mut carried = 0;
        while carried < SHARE && !self.ends[0] {
            let room = stack.room(id).min(buffer.len());
            if room == 0 {
                break;
            }
            match (&self.stream).read(&mut buffer[..room]) {
                Ok(0) => {
                    self.ends[0] = true;
                    stack.close(id);
                }
                Ok(read) => carried += stack.write(id, &buffer[..read], now),
                Err(error) if is_later(&error) => break,
                Err(_) => return Fate::Broken,
            }
        }
        Fate::Lives
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn answered(
    answer: &mut Answer,
    stack: &mut culvert_stack::HostStack,
    id: ConnectionId,
    now: Instant,
) -> Fate {
    answer.serve(stack, id, SHARE, now);
    match stack.phase(id) {
        Phase::Closed => Fate::Broken,
        _ if stack.has_ended(id) => Fate::Ended,
        Phase::Opening | Phase::Open | Phase::Waiting => Fate::Lives,
    }
}
