//! Turns: which connections do what is due, and in which order.
//!
//! In: the time, room for packets. Out: who has something to do, who waits longest first; what it sends. Never: a
//! connection that is kept from its turn by those that had more of them.

use std::net::SocketAddr;

use culvert_wireguard::Instant;

use super::{ConnectionId, Entry, Tcp};
use crate::tcp::{admission::Service, connection::Connection};

/// A connection that has something to do.
pub(crate) struct Due {
    pub(crate) id: ConnectionId,
    pub(crate) remote: SocketAddr,
    /// `None`: it began here.
    pub(crate) service: Option<Service>,
}

impl<C: Connection> Tcp<C> {
    /// Those that have something to do now, who waits longest for a turn first. What is over, and what was idle for too
    /// long, ends.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut gone = Vec::new();
        let mut due = Vec::new();
        for (&id, entry) in &mut self.entries {
            if entry.deadline().is_some_and(|at| at <= now) {
                entry.connection.abort();
                entry.due = Some(now);
            }
            if entry.is_over() {
                gone.push(id);
            } else if entry.wakes().is_some_and(|at| at <= now) {
                let (remote, service) = (entry.ends.remote, entry.service);
                let waiting = Due {
                    id,
                    remote,
                    service,
                };
                due.push((entry.turn, waiting));
            }
        }
        gone.into_iter().for_each(|id| self.remove(id));
        due.sort_by_key(|&(turn, _)| turn);
        due.into_iter().map(|(_, it)| it).collect()
    }

    /// When [`Self::due`] has some again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.values().filter_map(Entry::wakes).min()
    }

    /// Has a connection do what is due; its frames, `room` of them at most, lack their link header.
    pub(crate) fn turn(&mut self, id: ConnectionId, room: usize, now: Instant) -> Vec<Vec<u8>> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Vec::new();
        };
        self.turns += 1;
        entry.turn = self.turns;
        let mut frames = std::mem::take(&mut entry.answers);
        entry.connection.turn(now, &mut frames, room);
        entry.rests_until = None;
        entry.due = match frames.len() < room {
            true => entry.connection.due(now),
            false => Some(now),
        };
        match entry.is_over() {
            true => self.remove(id),
            false => self.note_open(id, now),
        }
        frames
    }

    /// The way to the other is not known yet: nothing is sent, though time passes.
    pub(crate) fn rest(&mut self, id: ConnectionId, until: Instant, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.connection.turn(now, &mut Vec::new(), 0);
            entry.rests_until = Some(until);
        }
    }

    /// Ways may have become known: who waits for one looks again.
    pub(crate) fn wake(&mut self) {
        let resting = self.entries.values_mut();
        resting.for_each(|entry| entry.rests_until = None);
    }
}
