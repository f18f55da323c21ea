//! The places of what guests are attached with.
//!
//! In: ports and their VLANs, as they come and go; how far workers and the host stacks' thread are. Out: numbers that
//! snapshots know attachments by, each of which stays as long as its port has that VLAN. Never: what a guest is attached
//! with itself: ports have it; a number that another had, while a worker or the stacks' thread may mean that one by it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use culvert_dataplane::shared::ids::AttachmentIndex;
use culvert_wire::ether::VlanId;

use super::slots::Slots;

/// The place of a port, and the VLAN of it.
pub(super) type Owner = (usize, Option<VlanId>);

/// What tells all of a change: the snapshot's generation for workers, the hosts' for the stacks' thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generations {
    pub(super) workers: u64,
    pub(super) stacks: u64,
}

/// All places.
#[derive(Default)]
pub(super) struct Attachments {
    owners: Slots<Owner>,
    /// Those that nobody has any more: taken off just now, and with what told all of that.
    left: Vec<usize>,
    leaving: VecDeque<(Generations, usize)>,
    of_ports: HashMap<usize, Vec<(Option<VlanId>, usize)>>,
}

impl Attachments {
    /// A port has these VLANs from now on; answers the places that it has, and those that it has no more.
    pub(super) fn seat(
        &mut self,
        port: usize,
        vlans: impl Iterator<Item = Option<VlanId>>,
    ) -> BTreeSet<usize> {
        let before = self.of_ports.remove(&port).unwrap_or_default();
        let mut touched: BTreeSet<_> = before.iter().map(|&(_, at)| at).collect();
        let mut left: HashMap<_, _> = before.into_iter().collect();
        let mut seated = Vec::new();
        for vlan in vlans {
            let at = left.remove(&vlan).unwrap_or_else(|| {
                let at = self.owners.reserve();
                self.owners.put(at, (port, vlan));
                at
            });
            touched.insert(at);
            seated.push((vlan, at));
        }
        for at in left.into_values() {
            self.owners.take(at);
            self.left.push(at);
        }
        if !seated.is_empty() {
            self.of_ports.insert(port, seated);
        }
        touched
    }

    /// What was taken off is told by these.
    pub(super) fn tell(&mut self, by: Generations) {
        let left = self.left.drain(..);
        self.leaving.extend(left.map(|at| (by, at)));
    }

    /// All go by these: numbers that were taken off before may be another's. Until then a question or an answer of the
    /// old one's guest may be under way by it, and would come to the new one's.
    pub(super) fn vacate(&mut self, adopted: Generations) {
        while let Some(&(by, at)) = self.leaving.front()
            && by.workers <= adopted.workers
            && by.stacks <= adopted.stacks
        {
            self.leaving.pop_front();
            self.owners.vacate(at);
        }
    }

    /// Whose a place is.
    pub(super) fn owner(&self, at: usize) -> Option<Owner> {
        self.owners.get(at).copied()
    }

    /// The attachments of a port, in its order.
    pub(super) fn of(
        &self,
        port: usize,
    ) -> impl Iterator<Item = (Option<VlanId>, AttachmentIndex)> + Clone {
        let all = self.of_ports.get(&port).map_or(&[][..], Vec::as_slice);
        all.iter()
            .map(|&(vlan, at)| (vlan, AttachmentIndex::from_slot(at)))
    }

    /// The number of places, taken or not.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.owners.places()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_place_stays_while_the_port_has_the_vlan() {
        let vlan = |number| VlanId::new(number);
        let mut all = Attachments::default();
        let places = |all: &Attachments, port| all.of(port).map(|(_, at)| at.0).collect::<Vec<_>>();
        assert_eq!(all.seat(0, [None].into_iter()), BTreeSet::from([0]));
        let trunk = [None, vlan(10), vlan(20)];
        assert_eq!(all.seat(7, trunk.into_iter()), BTreeSet::from([1, 2, 3]));
        assert_eq!(all.owner(2), Some((7, vlan(10))));
        // One goes, one comes, the others are where they were; who goes is told of, too.
        let other = [vlan(5), vlan(20)];
        assert_eq!(all.seat(7, other.into_iter()), BTreeSet::from([1, 2, 3, 4]));
        assert_eq!(places(&all, 7), [4, 3]);
        assert_eq!((all.owner(1), all.owner(2)), (None, None));
        assert_eq!(all.seat(0, [].into_iter()), BTreeSet::from([0]));
        assert!(places(&all, 0).is_empty());
        assert_eq!(all.places(), 5);
    }

    #[test]
    fn a_number_is_another_s_once_all_have_heard_that_it_was_taken_off() {
        let at = |workers, stacks| Generations { workers, stacks };
        let mut all = Attachments::default();
        all.seat(0, [None].into_iter());
        all.seat(0, [].into_iter());
        all.tell(at(7, 3));
        for (adopted, place) in [(at(6, 3), 1), (at(7, 2), 2), (at(7, 3), 0)] {
            all.vacate(adopted);
            let port = place + 10;
            assert_eq!(all.seat(port, [None].into_iter()), BTreeSet::from([place]));
        }
    }
}
