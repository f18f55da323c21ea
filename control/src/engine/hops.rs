//! The next hops of published paths, each once.
//!
//! In: where paths lead, what neighbors became. Out: the cell that all paths through a next hop share. Never: a hop kept
//! for long that no path leads through.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use culvert_dataplane::shared::{
    hop::{Hop, Link},
    ids::Scope,
};
use culvert_wire::MacAddr;

/// All of them.
#[derive(Default)]
pub(super) struct Hops(BTreeMap<(Scope, IpAddr), Arc<Hop>>);

impl Hops {
    /// The hop over `address`, which is at `neighbor` as far as is known, from our address `source`.
    pub(super) fn over(
        &mut self,
        (scope, address): (Scope, IpAddr),
        source: MacAddr,
        neighbor: Option<MacAddr>,
    ) -> Arc<Hop> {
        let Scope::Uplink(uplink) = scope;
        let new = || Arc::new(Hop::ethernet(uplink, source, neighbor));
        let hop = self.0.entry((scope, address)).or_insert_with(new);
        if hop.link() != Link::Ethernet(source) {
            *hop = new();
        }
        hop.set(neighbor);
        Arc::clone(hop)
    }

    /// The neighbor `address` is there now, for all paths at once.
    pub(super) fn set(&self, (scope, address): (Scope, IpAddr), neighbor: Option<MacAddr>) {
        if let Some(hop) = self.0.get(&(scope, address)) {
            hop.set(neighbor);
        }
    }

    /// Forgets all of a scope that is no more.
    pub(super) fn forget(&mut self, scope: Scope) {
        self.0.retain(|(of, _), _| *of != scope);
    }

    /// Forgets those that no path leads through.
    pub(super) fn prune(&mut self) {
        self.0.retain(|_, hop| Arc::strong_count(hop) > 1);
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::shared::ids::UplinkIndex;

    use super::*;

    #[test]
    fn paths_over_one_neighbor_share_a_hop_until_none_is_left() {
        let mac = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
        let at = |uplink: u32, host: u8| {
            let address = IpAddr::from([192, 0, 2, host]);
            (Scope::Uplink(UplinkIndex(uplink)), address)
        };
        let mut hops = Hops::default();
        let [a, b] = [(); 2].map(|()| hops.over(at(0, 1), mac(1), None));
        let [other, elsewhere] = [at(0, 2), at(1, 1)].map(|at| hops.over(at, mac(1), None));
        hops.set(at(0, 1), Some(mac(9)));
        assert_eq!(
            [&a, &b, &other, &elsewhere].map(|hop| hop.neighbor().mac()),
            [Some(mac(9)), Some(mac(9)), None, None]
        );
        drop((a, other, elsewhere));
        hops.prune();
        assert_eq!(hops.0.len(), 1);
        // Another address of ours makes another hop.
        let c = hops.over(at(0, 1), mac(2), Some(mac(9)));
        assert!(!Arc::ptr_eq(&b, &c) && c.link() == Link::Ethernet(mac(2)));
    }
}
