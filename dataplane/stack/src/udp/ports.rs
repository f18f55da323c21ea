//! Ports: which are taken.
//!
//! In: ports and addresses that endpoints want. Out: whether they may have them. Never: a port that a tunnel listens on,
//! whose datagrams never come here.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    ops::RangeInclusive,
};

/// Of endpoints that want any: as connections' (`tcp`).
const ANY: RangeInclusive<u16> = 61_000..=u16::MAX;

/// The ports, with the addresses that they are taken at; `None` is all of ours.
#[derive(Default)]
pub(super) struct Ports {
    taken: BTreeMap<u16, Vec<Option<IpAddr>>>,
    /// Of tunnels.
    others: Vec<u16>,
    /// How often any was taken.
    drawn: u64,
}

impl Ports {
    /// These are others' from now on.
    pub(super) fn leave(&mut self, others: Vec<u16>) {
        self.others = others;
    }

    /// Takes a port, unless it is taken at an address that this one includes, or is included in.
    pub(super) fn take(&mut self, port: u16, at: Option<IpAddr>) -> bool {
        if self.others.contains(&port) {
            return false;
        }
        let taken = self.taken.entry(port).or_default();
        let is_free = (taken.iter()).all(|it| it.is_some() && at.is_some() && *it != at);
        if is_free {
            taken.push(at);
        }
        is_free
    }

    /// Takes a port that nobody can guess; `None` if all are taken.
    pub(super) fn take_any(&mut self, key: &RandomState, at: Option<IpAddr>) -> Option<u16> {
        let count = u64::from(ANY.end() - ANY.start()) + 1;
        self.drawn += 1;
        let start = key.hash_one(("port", self.drawn, at)) % count;
        (0..count)
            .map(|step| ANY.start() + u16::try_from((start + step) % count).unwrap_or(0))
            .find(|&port| self.take(port, at))
    }

    /// Gives a port back.
    pub(super) fn give_back(&mut self, port: u16, at: Option<IpAddr>) {
        if let Some(taken) = self.taken.get_mut(&port) {
            taken.retain(|it| *it != at);
            if taken.is_empty() {
                self.taken.remove(&port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_s_at_each_address_and_free_again_when_given_back() {
        let mut ports = Ports::default();
        let at = |last| Some(IpAddr::from([192, 0, 2, last]));
        assert!(ports.take(53, at(1)) && ports.take(53, at(2)));
        assert!(!ports.take(53, at(1)) && !ports.take(53, None));
        ports.give_back(53, at(1));
        ports.give_back(53, at(2));
        assert!(ports.take(53, None) && !ports.take(53, at(1)));
        ports.leave(vec![51_820]);
        assert!(!ports.take(51_820, None));

        // One after the other, none is the one before.
        let key = RandomState::new();
        let drawn: Vec<_> = (0..64)
            .map(|_| {
                let port = ports.take_any(&key, at(1)).unwrap();
                ports.give_back(port, at(1));
                port
            })
            .collect();
        let kinds: std::collections::BTreeSet<_> = drawn.iter().collect();
        assert!(kinds.len() > 32, "{drawn:?}");
        let mut any = 0;
        while let Some(port) = ports.take_any(&key, None) {
            assert!(ANY.contains(&port));
            any += 1;
        }
        assert_eq!(any, ANY.len());
    }
}
