//! Deadlines: when each peer wants to be woken next.
//!
//! In: a slot and an instant. Out: the earliest. Never: a scan over all peers, more than one entry per peer.
//!
//! An indexed binary heap. Most deadlines move later and later (every packet pushes the persistent keepalive
//! ahead), so a later deadline leaves the entry where it is: the peer is then woken early, finds nothing due and is
//! entered anew. Only an earlier deadline moves an entry at once.

use crate::PeerId;
use crate::time::Instant;

const ABSENT: u32 = u32::MAX;

/// At most one entry per slot.
#[derive(Default)]
pub(crate) struct Deadlines {
    heap: Vec<(Instant, PeerId)>,
    /// Where in the heap each slot's entry is.
    places: Vec<u32>,
}

impl Deadlines {
    /// The earliest entry.
    pub(crate) fn first(&self) -> Option<(Instant, PeerId)> {
        self.heap.first().copied()
    }

    /// Makes sure that the peer is woken at `at` or before.
    pub(crate) fn no_later_than(&mut self, peer: PeerId, at: Instant) {
        if self.places.len() <= peer.slot() {
            self.places.resize(peer.slot() + 1, ABSENT);
        }
        let place = self.places[peer.slot()];
        if place == ABSENT {
            self.heap.push((at, peer));
            self.rise(self.heap.len() - 1);
        } else if at < self.heap[place as usize].0 {
            self.heap[place as usize].0 = at;
            self.rise(place as usize);
        }
    }

    /// Removes the peer's entry, if there is one.
    pub(crate) fn remove(&mut self, peer: PeerId) {
        let Some(place) = self.places.get_mut(peer.slot()) else {
            return;
        };
        let place = core::mem::replace(place, ABSENT);
        if place == ABSENT {
            return;
        }
        let place = place as usize;
        let last = self.heap.pop().expect("the entry's place is in the heap");
        if place < self.heap.len() {
            self.heap[place] = last;
            self.rise(place);
            self.sink(self.places[last.1.slot()] as usize);
        }
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            self.heap.swap(at, (at - 1) / 2);
            self.note(at);
            at = (at - 1) / 2;
        }
        self.note(at);
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = [2 * at + 1, 2 * at + 2];
            let least = children
                .into_iter()
                .filter(|c| *c < self.heap.len())
                .min_by_key(|c| self.heap[*c].0);
            match least {
                Some(child) if self.heap[child].0 < self.heap[at].0 => {
                    self.heap.swap(at, child);
                    self.note(at);
                    at = child;
                }
                _ => break,
            }
        }
        self.note(at);
    }

    #[expect(clippy::cast_possible_truncation, reason = "one entry per 32-bit slot")]
    fn note(&mut self, at: usize) {
        let peer = self.heap[at].1;
        self.places[peer.slot()] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u32, u64),
        Remove(u32),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u32..20, 0_u64..50).prop_map(|(slot, at)| Step::Enter(slot, at)),
            1 => (0_u32..25).prop_map(Step::Remove),
            1 => Just(Step::Pop),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..200)) {
            let mut deadlines = Deadlines::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Enter(slot, at) => {
                        deadlines.no_later_than(PeerId(slot), Instant(at));
                        let entry = model.entry(slot).or_insert(at);
                        *entry = at.min(*entry);
                    }
                    Step::Remove(slot) => {
                        deadlines.remove(PeerId(slot));
                        model.remove(&slot);
                    }
                    Step::Pop => {
                        if let Some((at, peer)) = deadlines.first() {
                            prop_assert_eq!(model.remove(&peer.0), Some(at.0));
                            deadlines.remove(peer);
                        }
                    }
                }
                prop_assert_eq!(deadlines.first().map(|(at, _)| at.0), model.values().min().copied());
                prop_assert_eq!(deadlines.heap.len(), model.len());
            }
        }
    }
}
