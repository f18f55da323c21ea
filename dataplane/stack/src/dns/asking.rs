//! Asking: one question, of one server after the other.
//!
//! In: a stack, servers, the time. Out: what a server said, or that none did. Never: a second question from a port or with
//! a number of the first; a datagram that counts though it was not asked for.
//!
//! Whoever forges answers has to guess the port, of 4,536, and the number, of 65,536. If he has found the port, he has
//! [`limits::NAME_STRANGE`] guesses: then the question is asked by a connection (RFC 5452, section 9.2).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use culvert_wireguard::Instant;
use hickory_proto::rr::Name;

use super::{
    Excuse, Found, PORT,
    message::{self, Answer, Kind},
};
use crate::{
    HostDrop, HostStack, limits,
    random::Random,
    tcp::{ConnectionId, Phase},
    udp::{EndpointError, EndpointId, Family},
};

/// How often each server is asked.
const ROUNDS: usize = 3;
/// The first wait for an answer, which doubles each round; a quarter off either way.
const ANSWER: Duration = Duration::from_millis(1_500);
/// How long a connection may take, from its beginning to the answer.
const STREAM: Duration = Duration::from_secs(5);
/// Between two rounds in which all servers have failed at once: up to twice as long.
const AGAIN: Duration = Duration::from_millis(500);
/// Ahead of a message on a connection: its length.
const LENGTH: usize = 2;

/// What became of a question.
#[derive(Debug)]
pub(super) enum Told {
    Found(Found),
    Unknown,
    NoAddress,
    Failed,
}

/// A question.
pub(super) struct Asking {
    kind: Kind,
    /// How often somebody was asked.
    tries: usize,
    state: State,
}

enum State {
    /// The next server is asked then.
    Rests(Instant),
    Datagram {
        endpoint: EndpointId,
        id: u16,
        due: Instant,
        /// Answers that were none.
        strange: usize,
    },
    /// For a connection, while others have theirs.
    Waits,
    Stream {
        connection: ConnectionId,
        id: u16,
        /// What is still to be written.
        question: Vec<u8>,
        came: Vec<u8>,
        due: Instant,
    },
    Over(Told),
}

/// What a question is asked with.
pub(super) struct Turn<'t> {
    pub(super) stack: &'t mut HostStack,
    pub(super) servers: &'t [IpAddr],
    pub(super) name: &'t Name,
    pub(super) random: &'t mut Random,
    /// Connections of all questions.
    pub(super) streams: &'t mut usize,
    pub(super) excuses: &'t mut BTreeMap<IpAddr, Excuse>,
    pub(super) now: Instant,
}

impl Asking {
    pub(super) const fn new(kind: Kind, now: Instant) -> Self {
        Self {
            kind,
            tries: 0,
            state: State::Rests(now),
        }
    }

    pub(super) const fn has_stream(&self) -> bool {
        matches!(self.state, State::Stream { .. })
    }

    pub(super) const fn told(&self) -> Option<&Told> {
        let State::Over(told) = &self.state else {
            return None;
        };
        Some(told)
    }

    pub(super) fn into_told(self) -> Option<Told> {
        let State::Over(told) = self.state else {
            return None;
        };
        Some(told)
    }

    /// When it has something to do though nothing came.
    pub(super) const fn due(&self) -> Option<Instant> {
        match self.state {
            State::Rests(due) | State::Datagram { due, .. } | State::Stream { due, .. } => {
                Some(due)
            }
            State::Waits | State::Over(_) => None,
        }
    }

    /// Its time is over.
    pub(super) fn give_up(&mut self, stack: &mut HostStack, now: Instant) {
        if self.told().is_none() {
            self.enter(State::Over(Told::Failed), stack, now);
        }
    }

    /// Does what is due. Each step leads on, or to a rest: there are no more than tries.
    pub(super) fn turn(&mut self, mut turn: Turn<'_>) {
        while match self.state {
            State::Rests(due) => due <= turn.now && self.ask(&mut turn),
            State::Datagram { .. } => self.listen(&mut turn),
            State::Waits => *turn.streams < limits::NAME_STREAMS && self.call(&mut turn),
            State::Stream { .. } => self.converse(&mut turn),
            State::Over(_) => false,
        } {}
    }

    /// Leaves what it had of the stack.
    fn enter(&mut self, state: State, stack: &mut HostStack, now: Instant) {
        match std::mem::replace(&mut self.state, state) {
            State::Datagram { endpoint, .. } => stack.close_endpoint(endpoint),
            State::Stream { connection, .. } => stack.release(connection, true, now),
            State::Rests(_) | State::Waits | State::Over(_) => {}
        }
    }

    /// The server whose turn it is.
    fn server(&self, turn: &Turn<'_>) -> Option<IpAddr> {
        let place = self.tries.checked_rem(turn.servers.len())?;
        turn.servers.get(place).copied()
    }

    /// Asks by a datagram, from a port of its own.
    fn ask(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(server) = self.server(turn) else {
            self.enter(State::Over(Told::Failed), turn.stack, turn.now);
            return false;
        };
        let id = turn.random.word();
        let Some(question) = message::question(id, turn.name, self.kind) else {
            self.enter(State::Over(Told::Failed), turn.stack, turn.now);
            return false;
        };
        let family = match server {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let Ok(endpoint) = turn.stack.open_endpoint(family) else {
            return self.fail(turn, Excuse::Broken);
        };
        let to = SocketAddr::new(server, PORT);
        let asked = turn.stack.connect_endpoint(endpoint, Some(to));
        let asked = asked.and_then(|()| turn.stack.send_to(endpoint, None, &question, turn.now));
        let round = u32::try_from(self.tries / turn.servers.len()).unwrap_or(0);
        let wait = ANSWER * (1 << round.min(4));
        let wait = turn.random.between(wait * 3 / 4, wait * 5 / 4);
        self.state = State::Datagram {
            endpoint,
            id,
            due: turn.now + wait,
            strange: 0,
        };
        match asked {
            Ok(()) => false,
            Err(_) => self.fail(turn, Excuse::NoRoute),
        }
    }

    fn listen(&mut self, turn: &mut Turn<'_>) -> bool {
        let State::Datagram {
            endpoint,
            id,
            due,
            strange,
        } = &mut self.state
        else {
            return false;
        };
        let came = match turn.stack.receive(*endpoint) {
            Ok(came) => message::read(&came.bytes, *id, turn.name, self.kind),
            Err(EndpointError::Failed(problem)) => {
                return self.fail(turn, Excuse::Unreachable(problem.name()));
            }
            Err(_) if *due <= turn.now => return self.fail(turn, Excuse::Silent),
            Err(_) => return false,
        };
        match came {
            Ok(Answer::Truncated) => self.enter(State::Waits, turn.stack, turn.now),
            Ok(answer) => return self.settle(turn, answer),
            Err(reason) => {
                turn.stack.count(reason);
                *strange += 1;
                if *strange >= limits::NAME_STRANGE {
                    turn.stack.count(HostDrop::NameSpoofed);
                    self.enter(State::Waits, turn.stack, turn.now);
                }
            }
        }
        true
    }

    /// Asks by a connection.
    fn call(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(server) = self.server(turn) else {
            self.enter(State::Over(Told::Failed), turn.stack, turn.now);
            return false;
        };
        let id = turn.random.word();
        let message = message::question(id, turn.name, self.kind).unwrap_or_default();
        let len = u16::try_from(message.len()).unwrap_or(0);
        let to = SocketAddr::new(server, PORT);
        let Ok(connection) = turn.stack.connect(to, turn.now) else {
            return self.fail(turn, Excuse::Broken);
        };
        *turn.streams += 1;
        self.state = State::Stream {
            connection,
            id,
            question: [&len.to_be_bytes()[..], &message].concat(),
            came: Vec::new(),
            due: turn.now + STREAM,
        };
        true
    }

    fn converse(&mut self, turn: &mut Turn<'_>) -> bool {
        let State::Stream {
            connection,
            id,
            question,
            came,
            due,
        } = &mut self.state
        else {
            return false;
        };
        if turn.stack.phase(*connection) == Phase::Open {
            let written = turn.stack.write(*connection, question, turn.now);
            question.drain(..written);
        }
        let most = LENGTH + limits::NAME_ANSWER;
        while turn.stack.read(*connection, turn.now, |bytes| {
            let len = bytes.len().min(most.saturating_sub(came.len()));
            came.extend_from_slice(&bytes[..len]);
            len
        }) > 0
        {}
        if let Some((len, message)) = came.split_first_chunk() {
            let len = usize::from(u16::from_be_bytes(*len));
            if len > limits::NAME_ANSWER {
                turn.stack.count(HostDrop::NameTooLong);
                return self.fail(turn, Excuse::TooLong);
            }
            if let Some(message) = message.get(..len) {
                return match message::read(message, *id, turn.name, self.kind) {
                    Ok(answer) => self.settle(turn, answer),
                    Err(reason) => {
                        turn.stack.count(reason);
                        self.fail(turn, Excuse::Broken)
                    }
                };
            }
        }
        let is_over =
            turn.stack.phase(*connection) == Phase::Closed || turn.stack.has_ended(*connection);
        match is_over {
            true => self.fail(turn, Excuse::Broken),
            false if *due <= turn.now => self.fail(turn, Excuse::Silent),
            false => false,
        }
    }

    fn settle(&mut self, turn: &mut Turn<'_>, answer: Answer) -> bool {
        let told = match answer {
            Answer::Found(addresses, lifetime) => Told::Found(Found {
                addresses,
                lifetime,
            }),
            Answer::NoName => Told::Unknown,
            Answer::NoAddress => Told::NoAddress,
            // By a connection nothing is too long.
            Answer::Truncated => return self.fail(turn, Excuse::Broken),
            Answer::Failed(code) => return self.fail(turn, Excuse::Says(code.to_string())),
        };
        self.enter(State::Over(told), turn.stack, turn.now);
        false
    }

    /// The next server is asked: at once, but for the first of a round, if the last round was short.
    fn fail(&mut self, turn: &mut Turn<'_>, excuse: Excuse) -> bool {
        let was_silent = excuse == Excuse::Silent;
        if let Some(server) = self.server(turn) {
            turn.excuses.insert(server, excuse);
        }
        if self.has_stream() {
            *turn.streams -= 1;
        }
        self.tries += 1;
        let servers = turn.servers.len();
        let begins_round = self.tries.checked_rem(servers) == Some(0);
        let pause = match begins_round && !was_silent {
            true => turn.random.between(AGAIN, 2 * AGAIN),
            false => Duration::ZERO,
        };
        let state = match self.tries >= ROUNDS * servers {
            true => State::Over(Told::Failed),
            false => State::Rests(turn.now + pause),
        };
        self.enter(state, turn.stack, turn.now);
        true
    }
}
