//! Openings: connections that others began and that are not open yet, by their age and by who began them.
//!
//! In: those that come and go. Out: which of them makes room for another. Never: a look at all of them; one source that
//! takes all room: the oldest of whom has most goes first, and of those who have one each nobody before its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use culvert_wireguard::Instant;

use super::ConnectionId;
use crate::{limits, tcp::admission::source};

/// Those that are not open yet.
#[derive(Default)]
pub(super) struct Openings {
    /// Whose each is, and when it began.
    ages: BTreeMap<ConnectionId, (IpAddr, Instant)>,
    sources: BTreeMap<IpAddr, BTreeSet<ConnectionId>>,
    /// How many each source has.
    crowds: BTreeSet<(usize, IpAddr)>,
}

impl Openings {
    pub(super) fn len(&self) -> usize {
        self.ages.len()
    }

    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        self.ages.contains_key(&id)
    }

    /// Behind all others.
    pub(super) fn insert(&mut self, id: ConnectionId, remote: IpAddr, began: Instant) {
        let source = source(remote);
        self.ages.insert(id, (source, began));
        self.recount(source, |its| its.insert(id));
    }

    /// Whether it was one.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        let Some((source, _)) = self.ages.remove(&id) else {
            return false;
        };
        self.recount(source, |its| its.remove(&id));
        true
    }

    fn recount(
        &mut self,
        source: IpAddr,
        change: impl FnOnce(&mut BTreeSet<ConnectionId>) -> bool,
    ) {
        let its = self.sources.entry(source).or_default();
        self.crowds.remove(&(its.len(), source));
        change(its);
        match its.len() {
            0 => drop(self.sources.remove(&source)),
            count => drop(self.crowds.insert((count, source))),
        }
    }

    /// Which of them makes room for another; `None`: none has to yet.
    pub(super) fn yields(&self, now: Instant) -> Option<ConnectionId> {
        let &(count, source) = self.crowds.last()?;
        if count > 1 {
            return self.sources.get(&source)?.first().copied();
        }
        let (&oldest, &(_, began)) = self.ages.first_key_value()?;
        began
            .is_older_than(limits::OPENING_GRACE, now)
            .then_some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_of_who_has_most_yields_and_who_has_one_in_its_time() {
        let start = Instant::from_nanos(1);
        let mut all = Openings::default();
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        assert_eq!(all.yields(start), None);
        for (id, n) in [(0, 1), (1, 2), (2, 2), (3, 3), (4, 3), (5, 3)] {
            all.insert(ConnectionId(id), from(n), start + Duration::from_millis(id));
        }
        let mut gone = Vec::new();
        while let Some(id) = all.yields(start) {
            assert!(all.remove(id) && !all.remove(id));
            gone.push(id.0);
        }
        // Of two alike either goes.
        assert_eq!(gone, [3, 4, 1]);
        assert_eq!((all.len(), all.contains(ConnectionId(5))), (3, true));
        let aged = start + limits::OPENING_GRACE + Duration::from_millis(1);
        assert_eq!(all.yields(aged), Some(ConnectionId(0)));
        for id in [0, 2, 5] {
            assert!(all.remove(ConnectionId(id)));
        }
        assert!(all.ages.is_empty() && all.sources.is_empty() && all.crowds.is_empty());
    }
}
