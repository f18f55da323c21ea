//! Names: where hosts are, as servers of names say that are asked by endpoints of the stack's own (RFC 1035).
//!
//! In: names, servers in the order in which they are asked, a stack, the time. Out: addresses with their lifetime, or why
//! there are none. Never: an answer by anyone but who was asked, at a port and with a number that nobody can guess, to
//! another question; more names at a time than [`limits::NAMES`]; a name without an end.
//!
//! ```text
//!             ┌───────────── silent, or does not know: the next server ─────────────┐
//!             ▼                                                                     │
//!  a name ─▶ datagram ── truncated, or too many strange answers ─▶ connection ──────┤
//!             └────────────────────── an answer ───────────────────────┴──▶ told    │
//!                                         every server, three times, or half a minute ─▶ told
//! ```
//!
//! Each of its families is asked for by itself ([`asking`]). Questions are without EDNS: an answer of a few addresses fits
//! into 512 bytes, and a longer one comes by a connection. Nothing is remembered here: whoever asked knows for how long.

mod asking;
mod message;

use std::{collections::BTreeMap, fmt, hash::RandomState, net::IpAddr, time::Duration};

use culvert_wireguard::Instant;
use hickory_proto::rr::Name;

#[cfg(test)]
pub(crate) use self::message::tests::answer;
use self::{
    asking::{Asking, Told, Turn},
    message::Kind,
};
use crate::{HostStack, limits, random::Random};

/// The port of servers (RFC 1035, section 4.2).
pub const PORT: u16 = 53;

/// Which of a name's addresses are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// Those of IPv4.
    pub v4: bool,
    /// Those of IPv6.
    pub v6: bool,
}

/// Where a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its addresses: those that there is a way to first, of them IPv6 first.
    pub addresses: Vec<IpAddr>,
    /// For how long that holds, as the servers say.
    pub lifetime: Duration,
}

/// Why a name is not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It can't be a name.
    NoName,
    /// There is nobody to ask, or no address of ours to reach others from.
    NobodyToAsk,
    /// As many names are being asked for as can be.
    Full,
    /// A server says that there is no such name.
    Unknown,
    /// A server says that it has no address of the wanted kinds.
    NoAddress,
    /// What became of each server.
    Servers(BTreeMap<IpAddr, Excuse>),
}

/// Why a server's answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// It did not answer in time.
    Silent,
    /// There is no way to it.
    NoRoute,
    /// Someone on the way says so, in a word.
    Unreachable(&'static str),
    /// It said in its own words that it does not know.
    Says(String),
    /// Its connection ended, or could not begin, or brought what is no answer.
    Broken,
    /// Its answer is longer than any that is read.
    TooLong,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excuses = match self {
            Self::NoName => return f.write_str("it is no name"),
            Self::NobodyToAsk => return f.write_str("there is nobody to ask"),
            Self::Full => return f.write_str("too many names are being asked for"),
            Self::Unknown => return f.write_str("there is no such name"),
            Self::NoAddress => return f.write_str("it has no address"),
            Self::Servers(excuses) => excuses,
        };
        for (place, (server, excuse)) in excuses.iter().enumerate() {
            let between = if place > 0 { ", " } else { "" };
            write!(f, "{between}{server} {excuse}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Excuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("does not answer"),
            Self::NoRoute => f.write_str("has no route to it"),
            Self::Unreachable(how) => write!(f, "can't be reached ({how})"),
            Self::Says(what) => write!(f, "says: {what}"),
            Self::Broken => f.write_str("breaks off its connection"),
            Self::TooLong => f.write_str("answers at too great a length"),
        }
    }
}

/// One who asks. `T` is what its owner knows a question by. Give it names, then let it [`Client::turn`] whenever the stack
/// has had its turn, and take what [`Client::poll_found`] has.
pub struct Client<T> {
    servers: Vec<IpAddr>,
    lookups: Vec<Lookup<T>>,
    told: Vec<(T, Result<Found, Failure>)>,
    random: Random,
}

struct Lookup<T> {
    ticket: T,
    name: Name,
    /// When it is given up.
    until: Instant,
    askings: Vec<Asking>,
    excuses: BTreeMap<IpAddr, Excuse>,
}

impl<T> Client<T> {
    /// One that has nobody to ask yet; `key` is one that nobody else knows.
    #[must_use]
    pub const fn new(key: RandomState) -> Self {
        Self {
            servers: Vec::new(),
            lookups: Vec::new(),
            told: Vec::new(),
            random: Random::new(key),
        }
    }

    /// These are asked from now on, the first of them first.
    pub fn ask_of(&mut self, servers: &[IpAddr]) {
        self.servers = servers.iter().take(limits::NAME_SERVERS).copied().collect();
    }

    /// How many names are being asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lookups.len() + self.told.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks where a name is.
    pub fn look_up(&mut self, ticket: T, name: &str, families: Families, now: Instant) {
        let kinds = [(Kind::V6, families.v6), (Kind::V4, families.v4)];
        let kinds = kinds.into_iter().filter(|(_, is_wanted)| *is_wanted);
        let askings: Vec<_> = kinds.map(|(kind, _)| Asking::new(kind, now)).collect();
        let failure = match message::name(name) {
            None => Failure::NoName,
            Some(_) if self.lookups.len() >= limits::NAMES => Failure::Full,
            Some(_) if askings.is_empty() || self.servers.is_empty() => Failure::NobodyToAsk,
            Some(name) => {
                self.lookups.push(Lookup {
                    ticket,
                    name,
                    until: now + limits::NAME_LIFE,
                    askings,
                    excuses: BTreeMap::new(),
                });
                return;
            }
        };
        self.told.push((ticket, Err(failure)));
    }

    /// Does what is due: takes what came to the stack for its questions, and asks.
    pub fn turn(&mut self, stack: &mut HostStack, now: Instant) {
        let streams = self.lookups.iter().flat_map(|it| &it.askings);
        let mut streams = streams.filter(|it| it.has_stream()).count();
        for lookup in &mut self.lookups {
            let is_late = lookup.until <= now;
            for asking in &mut lookup.askings {
                let turn = Turn {
                    stack: &mut *stack,
                    servers: &self.servers,
                    name: &lookup.name,
                    random: &mut self.random,
                    streams: &mut streams,
                    excuses: &mut lookup.excuses,
                    now,
                };
                asking.turn(turn);
                if is_late {
                    asking.give_up(stack, now);
                }
            }
        }
        let mut place = 0;
        while let Some(lookup) = self.lookups.get(place) {
            match lookup.askings.iter().all(|asking| asking.told().is_some()) {
                true => {
                    let lookup = self.lookups.remove(place);
                    let (ticket, found) = lookup.come_to(stack);
                    self.told.push((ticket, found));
                }
                false => place += 1,
            }
        }
    }

    /// What became of a question.
    pub fn poll_found(&mut self) -> Option<(T, Result<Found, Failure>)> {
        self.told.pop()
    }

    /// When [`Self::turn`] wants to be called, though nothing has come.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.lookups.iter().flat_map(|lookup| {
            let askings = lookup.askings.iter().filter_map(Asking::due);
            askings.chain([lookup.until])
        });
        due.min()
    }
}

impl<T> Lookup<T> {
    /// What all of its questions come to: what one of them finds counts, whatever became of the other.
    fn come_to(self, stack: &HostStack) -> (T, Result<Found, Failure>) {
        let mut found: Option<Found> = None;
        let (mut is_unknown, mut is_failed) = (false, false);
        for told in self.askings.into_iter().filter_map(Asking::into_told) {
            match told {
                Told::Found(mut one) => {
                    let all = found.get_or_insert_with(|| Found {
                        addresses: Vec::new(),
                        lifetime: one.lifetime,
                    });
                    all.addresses.append(&mut one.addresses);
                    all.lifetime = all.lifetime.min(one.lifetime);
                }
                Told::Unknown => is_unknown = true,
                Told::NoAddress => {}
                Told::Failed => is_failed = true,
            }
        }
        let result = match found {
            Some(mut found) => {
                let is_far = |it: &IpAddr| stack.routes.way(*it).is_none();
                (found.addresses).sort_by_key(|it| (is_far(it), it.is_ipv4()));
                Ok(found)
            }
            None if is_failed => Err(Failure::Servers(self.excuses)),
            None if is_unknown => Err(Failure::Unknown),
            None => Err(Failure::NoAddress),
        };
        (self.ticket, result)
    }
}
