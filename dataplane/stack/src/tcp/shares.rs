//! Shares: how much of a round's room each service has for what its connections send.
//!
//! In: the connections that have something to do, room for packets. Out: how many of these one may send. Never: all of
//! the room for one service, where another has something to send, too.
//!
//! What a service leaves of its share is dealt in the next round, which follows at once.

use super::{Due, Service};

/// What is left to each service (`None`: of connections that begin here).
pub(super) struct Shares {
    left: Vec<(Option<Service>, usize)>,
}

impl Shares {
    pub(super) fn among(due: &[Due], room: usize) -> Self {
        let mut services: Vec<_> = due.iter().map(|it| it.service).collect();
        services.sort_unstable();
        services.dedup();
        let share = room.div_ceil(services.len().max(1));
        let left = services.into_iter().map(|it| (it, share)).collect();
        Self { left }
    }

    /// What `service` has left.
    pub(super) fn of(&mut self, service: Option<Service>) -> Option<&mut usize> {
        let mut left = self.left.iter_mut();
        let its = left.find(|(it, _)| *it == service);
        its.map(|(_, left)| left).filter(|left| **left > 0)
    }
}
