//! Own addresses that another host has: what host stacks find out, and what follows from it.
//!
//! In: how an uplink's addresses stand. Out: events; routes, paths and a snapshot without an address that is another's.
//! Never: an address given up that is in use.

use std::net::IpAddr;

use culvert_dataplane::shared::ids::Scope;
use culvert_stack::Standing;

use super::{Engine, uplinks::UplinkState};
use crate::{events::Event, state::AddressConflict};

impl Engine {
    /// An address of an uplink stands otherwise than it did.
    pub(super) fn hear_own(&mut self, scope: Scope, address: IpAddr, standing: Standing) {
        let Scope::Uplink(index) = scope else {
            return;
        };
        let slot = index.slot();
        let Some(uplink) = self.uplinks.get_mut(slot) else {
            return;
        };
        let before = uplink.note(address, standing);
        if before.is_none_or(Standing::is_used)
            == standing.rival().is_none_or(|_| standing.is_used())
        {
            return;
        }
        self.lead_elsewhere(slot);
    }

    /// The uplink's routes are others: its paths lead from addresses that it may use, and the kernel has those alone.
    fn lead_elsewhere(&mut self, slot: usize) {
        let Some(uplink) = self.uplinks.change(slot) else {
            return;
        };
        if let (Some(scope), Some(host)) = (uplink.scope(), uplink.host()) {
            self.netstack.change(scope, host);
        }
        self.outdate_paths_by(slot);
        self.reset_interfaces();
        self.publish();
    }
}

impl UplinkState {
    /// Notes who else has `address`, and tells it; answers how that stood before, if another had it.
    fn note(&mut self, address: IpAddr, standing: Standing) -> Option<Standing> {
        let before = match standing.rival() {
            Some(_) => self.rivals.insert(address, standing),
            None => self.rivals.remove(&address),
        };
        let uplink = self.config.name.clone();
        let event = match (standing, before) {
            (Standing::Duplicate(mac), _) => Event::AddressDuplicate {
                uplink,
                address,
                mac: mac.to_string(),
            },
            (Standing::Contested(mac), _) => Event::AddressContested {
                uplink,
                address,
                mac: mac.to_string(),
            },
            (Standing::InUse, Some(_)) => Event::AddressRegained { uplink, address },
            (Standing::InUse | Standing::Tentative, _) => return before,
        };
        event.tell();
        before
    }

    /// Own addresses that another host has, as they are shown.
    pub(super) fn conflicts(&self) -> Vec<AddressConflict> {
        let conflict = |(address, standing): (&IpAddr, &Standing)| {
            Some(AddressConflict {
                address: address.to_string(),
                mac: standing.rival()?.to_string(),
                used: standing.is_used(),
            })
        };
        self.rivals.iter().filter_map(conflict).collect()
    }

    /// Whether `address` may be used.
    pub(super) fn is_usable(&self, address: IpAddr) -> bool {
        !matches!(self.rivals.get(&address), Some(Standing::Duplicate(_)))
    }
}
