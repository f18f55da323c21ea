//! The places of what guests are attached with.
//!
//! In: ports and their VLANs, as they come and go. Out: numbers that snapshots know attachments by, each of which stays
//! as long as its port has that VLAN. Never: what a guest is attached with itself: ports have it.

use std::collections::{BTreeSet, HashMap};

use culvert_dataplane::shared::ids::AttachmentIndex;
use culvert_wire::ether::VlanId;

use super::slots::Slots;

/// The place of a port, and the VLAN of it.
pub(super) type Owner = (usize, Option<VlanId>);

/// All places.
#[derive(Default)]
pub(super) struct Attachments {
    owners: Slots<Owner>,
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
            self.owners.vacate(at);
        }
        if !seated.is_empty() {
            self.of_ports.insert(port, seated);
        }
        touched
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
}
