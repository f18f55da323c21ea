//! Table: the connections of a stack, found by their ends.
//!
//! In: segments with their ends, what their owners want. Out: the connection that a segment is for, or under which name it
//! is lost; connections that became open. Never: more than [`limits::CONNECTIONS`], and beside them more that others
//! began and that are not open yet than [`limits::OPENINGS`]; an open one that makes room for another.
//!
//! Rooms: `room` sees to it that there is a place for one more, `openings` knows those that are not open yet, `turns`
//! has them do what is due.
//!
//! A connection has an owner from when it is open (or was begun here) until he lets go of it; it ends by itself then.

mod openings;
mod room;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use culvert_wire::{MacAddr, parse::Tcp as Segment, tcp::flags};
use culvert_wireguard::Instant;

use self::openings::Openings;
pub(crate) use self::turns::Due;
use super::{
    admission::{Listener, Service, admit},
    blind::Numbers,
    connection::{Connection, Phase},
};
use crate::{HostDrop, limits};

/// Ports of connections that begin here: behind the kernel's (`ip_local_port_range`), which may have others of the same
/// addresses.
pub(crate) const EPHEMERAL: RangeInclusive<u16> = 61_000..=u16::MAX;

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    /// Ours.
    pub local: SocketAddr,
    /// The other's.
    pub remote: SocketAddr,
}

/// A connection; no other ever has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Nobody's yet: the other began it, and it is not open, or waits to be taken.
    Awaited,
    /// Somebody's.
    Here,
    /// Nobody's any more: it ends by itself.
    Gone,
}

/// Why a connection can't be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No prefix or route holds the destination, or no address of ours can reach it.
    NoRoute,
    /// There are as many connections as there may be, or no port is left.
    Full,
    /// Port 0 is nobody's.
    NoPort,
}

struct Entry<C> {
    ends: Ends,
    connection: C,
    began: Instant,
    /// When bytes last came or were written.
    moved: Instant,
    owner: Owner,
    /// Where its segments come from on the link; `None`: it began here, or they come from elsewhere than the first.
    came_from: Option<MacAddr>,
    /// To whom the other came; `None`: it began here.
    service: Option<Service>,
    /// When it has something to do.
    due: Option<Instant>,
    /// The way to the other is not known; until then it is not asked for again.
    rests_until: Option<Instant>,
    /// Which turn of all connections its last was.
    turn: u64,
    answers: Vec<Vec<u8>>,
}

/// The connections.
pub(crate) struct Tcp<C> {
    key: RandomState,
    listeners: Vec<Listener>,
    /// Of each service.
    places: usize,
    entries: BTreeMap<ConnectionId, Entry<C>>,
    by_ends: HashMap<Ends, ConnectionId, RandomState>,
    /// Those that others began and that were not open yet.
    openings: Openings,
    /// The others.
    held: BTreeSet<ConnectionId>,
    accepted: VecDeque<ConnectionId>,
    next: u64,
    turns: u64,
    yielded: u64,
}

impl<C: Connection> Tcp<C> {
    pub(crate) fn new(key: RandomState) -> Self {
        Self {
            listeners: Vec::new(),
            places: room::places(&[]),
            entries: BTreeMap::new(),
            by_ends: HashMap::with_hasher(key.clone()),
            openings: Openings::default(),
            held: BTreeSet::new(),
            key,
            accepted: VecDeque::new(),
            next: 0,
            turns: 0,
            yielded: 0,
        }
    }

    /// From here on these are listened on. Connections stay, unless nobody listens on their port any more, or they are
    /// not allowed there.
    pub(crate) fn listen(&mut self, listeners: Vec<Listener>) {
        self.listeners = listeners;
        self.places = room::places(&self.listeners);
        for entry in self.entries.values_mut() {
            let stays = entry.service.is_none()
                || self.listeners.iter().any(|listener| {
                    listener.port == entry.ends.local.port()
                        && (listener.allow.iter())
                            .any(|prefix| prefix.contains(entry.ends.remote.ip()))
                });
            if !stays {
                entry.connection.abort();
                entry.due = Some(entry.began);
            }
        }
    }

    /// Connections whose end here is no address of ours any more are over.
    pub(crate) fn keep(&mut self, is_ours: impl Fn(SocketAddr) -> bool) {
        let lost: Vec<_> = (self.entries.iter())
            .filter(|(_, entry)| !is_ours(entry.ends.local))
            .map(|(&id, _)| id)
            .collect();
        lost.into_iter().for_each(|id| self.remove(id));
    }

    /// Takes a segment in its packet, which comes `from` there.
    ///
    /// # Errors
    /// Under which name it is lost.
    pub(crate) fn take(
        &mut self,
        ends: Ends,
        segment: &Segment,
        (packet, from): (&[u8], MacAddr),
        mtu: u16,
        now: Instant,
    ) -> Result<(), HostDrop> {
        let begins =
            segment.flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN;
        let known = self.by_ends.get(&ends).copied();
        let id = match known {
            // A connection that is over leaves its ends to the next (RFC 6191, without its timestamps).
            Some(id) if begins && self.phase(id) == Phase::Waiting => {
                let id = self.admit((ends, from), mtu, now, Some(id))?;
                Ok(id)
            }
            // Nobody begins one at the same time as we (RFC 9293, section 3.5) by a port that was made up just now: that
            // is who guesses the port.
            Some(id)
                if begins && !self.openings.contains(id) && self.phase(id) == Phase::Opening =>
            {
                Err(HostDrop::TcpSynDoubtful)
            }
            Some(id) => Ok(id),
            None if begins => self.admit((ends, from), mtu, now, None),
            None => Err(HostDrop::TcpNoConnection),
        }?;
        if self.openings.contains(id)
            && let Some(opening) = self.entries.get(&id)
            && opening.connection.opens(segment)
        {
            self.make_room(opening.service, ends.remote.ip())?;
        }
        let Some(entry) = self.entries.get_mut(&id) else {
            return Err(HostDrop::TcpNoConnection);
        };
        let numbers = entry.connection.numbers();
        let doubt = numbers.and_then(|numbers| numbers.doubt(segment));
        match doubt {
            None => {
                // He has moved: he is asked where to, as anyone is to whom we begin.
                let is_in_window = |it: Numbers| it.holds(segment.sequence, 0);
                if segment.flags & flags::ACK != 0 && numbers.is_some_and(is_in_window) {
                    entry.came_from = entry.came_from.filter(|&known| known == from);
                }
                entry.connection.take(packet, now, &mut entry.answers);
            }
            Some(doubt) if doubt.is_asked => entry.connection.challenge(now, &mut entry.answers),
            Some(doubt) => return Err(doubt.reason),
        }
        entry.due = Some(now);
        if entry.answers.len() > limits::ANSWERS_HELD {
            entry.answers.remove(0);
        }
        self.note_open(id, now);
        doubt.map_or(Ok(()), |doubt| Err(doubt.reason))
    }

    fn admit(
        &mut self,
        (ends, from): (Ends, MacAddr),
        mtu: u16,
        now: Instant,
        over: Option<ConnectionId>,
    ) -> Result<ConnectionId, HostDrop> {
        let listener = (self.listeners.iter()).find(|it| it.port == ends.local.port());
        let service = Some(admit(listener, ends.remote.ip())?);
        if let Some(over) = over {
            self.remove(over);
        }
        self.place_for(service, ends.remote.ip())?;
        self.make_room_for_opening(now)?;
        let connection = C::accept(ends, self.seed(ends), mtu, now);
        let id = self.insert(ends, connection, service, now);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.came_from = Some(from);
        }
        Ok(id)
    }

    /// Begins a connection from `local`'s address, by a port that is free.
    ///
    /// # Errors
    /// When there is no room.
    pub(crate) fn connect(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        mtu: u16,
        now: Instant,
    ) -> Result<ConnectionId, ConnectError> {
        if remote.port() == 0 {
            return Err(ConnectError::NoPort);
        }
        let room = self.make_room(None, remote.ip());
        room.map_err(|_| ConnectError::Full)?;
        let ends = self.free_ends(local, remote).ok_or(ConnectError::Full)?;
        let connection = C::connect(ends, self.seed(ends), mtu, now);
        let connection = connection.ok_or(ConnectError::NoRoute)?;
        Ok(self.insert(ends, connection, None, now))
    }

    /// From a place that nobody can guess on (RFC 6056, section 3.3.1).
    fn free_ends(&self, local: IpAddr, remote: SocketAddr) -> Option<Ends> {
        let (first, count) = (*EPHEMERAL.start(), EPHEMERAL.end() - EPHEMERAL.start() + 1);
        let start = self.key.hash_one((self.next, local, remote)) % u64::from(count);
        (0..count)
            .map(|step| {
                let offset = (start + u64::from(step)) % u64::from(count);
                let port = first + u16::try_from(offset).unwrap_or(0);
                let local = SocketAddr::new(local, port);
                Ends { local, remote }
            })
            .find(|ends| !self.by_ends.contains_key(ends))
    }

    fn seed(&self, ends: Ends) -> u64 {
        self.key.hash_one(("sequence", self.next, ends))
    }

    fn insert(
        &mut self,
        ends: Ends,
        connection: C,
        service: Option<Service>,
        now: Instant,
    ) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.by_ends.insert(ends, id);
        match service {
            Some(_) => self.openings.insert(id, ends.remote.ip(), now),
            None => drop(self.held.insert(id)),
        }
        let entry = Entry {
            ends,
            connection,
            began: now,
            moved: now,
            owner: service.map_or(Owner::Here, |_| Owner::Awaited),
            came_from: None,
            service,
            due: Some(now),
            rests_until: None,
            turn: 0,
            answers: Vec::new(),
        };
        self.entries.insert(id, entry);
        id
    }

    fn remove(&mut self, id: ConnectionId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_ends.remove(&entry.ends);
            self.openings.remove(id);
            self.held.remove(&id);
            self.accepted.retain(|&it| it != id);
        }
    }

    /// What was begun by the other, and is open now, wants an owner.
    fn note_open(&mut self, id: ConnectionId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.connection.phase() == Phase::Open && self.openings.remove(id) {
            entry.moved = now;
            self.held.insert(id);
            self.accepted.push_back(id);
        }
    }

    /// The next connection that others began and that is open; the caller is its owner from now on.
    pub(crate) fn poll_accepted(&mut self) -> Option<ConnectionId> {
        let id = self.accepted.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.owner = Owner::Here;
        }
        Some(id)
    }

    /// Its owner lets go of it: what was written is sent still, unless it is to end at once.
    pub(crate) fn release(&mut self, id: ConnectionId, at_once: bool, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.owner = Owner::Gone;
            (entry.due, entry.moved) = (Some(now), now);
            match at_once {
                true => entry.connection.abort(),
                false => entry.connection.close(),
            }
        }
    }

    pub(crate) fn phase(&self, id: ConnectionId) -> Phase {
        let entry = self.entries.get(&id);
        entry.map_or(Phase::Closed, |entry| entry.connection.phase())
    }

    pub(crate) fn ends(&self, id: ConnectionId) -> Option<Ends> {
        self.entries.get(&id).map(|entry| entry.ends)
    }

    /// Where its segments come from on the link, if the other began it and has not moved.
    pub(crate) fn came_from(&self, id: ConnectionId) -> Option<MacAddr> {
        self.entries.get(&id)?.came_from
    }

    /// The other sends no more, and all that came was taken.
    pub(crate) fn has_ended(&self, id: ConnectionId) -> bool {
        let entry = self.entries.get(&id);
        entry.is_none_or(|entry| {
            entry.connection.phase() != Phase::Opening && entry.connection.has_ended()
        })
    }

    pub(crate) fn room(&self, id: ConnectionId) -> usize {
        let entry = self.entries.get(&id);
        entry.map_or(0, |entry| entry.connection.room())
    }

    pub(crate) fn read(
        &mut self,
        id: ConnectionId,
        now: Instant,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> usize {
        let Some(entry) = self.entries.get_mut(&id) else {
            return 0;
        };
        let read = entry.connection.read(take);
        entry.note_moved(read, now);
        read
    }

    pub(crate) fn write(&mut self, id: ConnectionId, bytes: &[u8], now: Instant) -> usize {
        let Some(entry) = self.entries.get_mut(&id) else {
            return 0;
        };
        let written = entry.connection.write(bytes);
        entry.note_moved(written, now);
        written
    }

    pub(crate) fn close(&mut self, id: ConnectionId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.connection.close();
            entry.due = Some(entry.began);
        }
    }

    /// A packet of a connection's, of which it quotes the number, was too long for its way; whether there is such a one.
    pub(crate) fn narrow(&mut self, ends: Ends, sequence: u32, mtu: u16) -> bool {
        let entry = self.by_ends.get(&ends);
        let entry = entry.and_then(|id| self.entries.get_mut(id));
        entry.is_some_and(|entry| {
            let is_its = entry.connection.has_under_way(sequence);
            if is_its {
                entry.connection.narrow(mtu);
                entry.due = Some(entry.began);
            }
            is_its
        })
    }

    /// All of them: their ends, and how far they are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ends, Phase)> + '_ {
        let entries = self.entries.values();
        entries.map(|entry| (entry.ends, entry.connection.phase()))
    }
}

impl<C: Connection> Entry<C> {
    fn note_moved(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.moved = now;
            self.due = Some(now);
        }
    }

    /// When it is given up: it did not become open, or no bytes came or went for long. Who holds a connection for
    /// nothing keeps others out.
    fn deadline(&self) -> Option<Instant> {
        match (self.connection.phase(), self.owner) {
            (Phase::Opening, _) => Some(self.began + limits::OPENING_LIFE),
            (Phase::Open, Owner::Gone) => Some(self.moved + limits::CONNECTION_LINGER),
            (Phase::Open, _) => Some(self.moved + limits::CONNECTION_IDLE),
            (Phase::Waiting | Phase::Closed, _) => None,
        }
    }

    /// Nothing comes of it any more, and nobody looks at it. To whom no way is found, nothing is said.
    fn is_over(&self) -> bool {
        let is_closed = self.connection.phase() == Phase::Closed && self.owner != Owner::Here;
        let is_silent = self.answers.is_empty() && self.due.is_none();
        is_closed && (is_silent || self.rests_until.is_some())
    }

    fn wakes(&self) -> Option<Instant> {
        let at = [self.due, self.deadline()].into_iter().flatten().min()?;
        Some(self.rests_until.map_or(at, |rests| at.max(rests)))
    }
}
