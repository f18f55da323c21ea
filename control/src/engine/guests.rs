//! Guests: what they are told about themselves.
//!
//! In: ports and networks that changed, the time. Out: what guests are told, and when routers say themselves unasked, for
//! the host stacks' thread, which does it. Never: a lease to keep: what a guest is told is what its port is configured
//! with.

use std::{collections::BTreeSet, sync::Arc};

use culvert_dataplane::shared::snapshot::Services;
use culvert_wireguard::Instant;

use super::Engine;
use crate::{
    config::{Name, Network, Ra},
    netstack::{Guest, Told},
};

/// How many seconds lie between two advertisements that nobody asked for (RFC 4861, section 6.2.1, has 200 to 600). Guests
/// know the router six times as long (`ROUTER_LIFETIME`): lost ones do no harm.
const ADVERTISE_EVERY: usize = 300;
/// Advertisements of what has changed in a second, a fourth of what waits for a worker (`STACK_COMMANDS`); who is not told
/// then is told within [`ADVERTISE_EVERY`].
const ADVERTISED_AT_ONCE: usize = 256;

impl Engine {
    /// Says what is told to guests whose attachments changed, and to all guests of changed networks.
    pub(super) fn provide(&mut self, attachments: &BTreeSet<usize>, networks: &BTreeSet<usize>) {
        for &slot in networks {
            let network = self.networks.table.get(slot);
            let told = network.and_then(|network| Told::of(&network.config));
            if self.netstack.tell(slot, told) {
                self.networks.news.insert(slot);
            }
        }
        for &slot in attachments {
            let guest = self.guest(slot);
            self.netstack.attach(slot, guest);
        }
    }

    fn guest(&self, slot: usize) -> Option<Guest> {
        let (port, vlan) = self.attachments.owner(slot)?;
        let port = self.ports.get(port)?;
        let (config, _) = port.attached(vlan)?;
        let worker = port.config.queue_workers.first();
        Some(Guest {
            network: self.networks.table.place(&config.network)?,
            addresses: config.addresses.clone(),
            is_served: config.dhcp,
            worker: worker.map_or(0, |worker| usize::from(worker.0)),
            drops: Arc::clone(&port.drops),
        })
    }

    /// Has routers advertised: to some guests each second, and at once in networks that tell their guests something new.
    pub(super) fn advertise(&mut self, now: Instant) {
        let second = usize::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(0);
        let is_due = |slot: usize| slot % ADVERTISE_EVERY == second % ADVERTISE_EVERY;
        let news = std::mem::take(&mut self.networks.news);
        let hears_news = |network: &Name| {
            let network = || self.networks.table.place(network);
            !news.is_empty() && network().is_some_and(|network| news.contains(&network))
        };
        let up = || {
            let ports = self.ports.iter().filter(|(_, port)| port.link_up);
            ports.flat_map(|(slot, port)| {
                let places = self.attachments.of(slot).map(|(_, index)| index);
                places.zip(port.config.networks())
            })
        };
        let due = up().filter(|&(index, _)| is_due(index.slot()));
        let fresh = up().filter(|&(index, network)| !is_due(index.slot()) && hears_news(network));
        let told = due.chain(fresh.take(ADVERTISED_AT_ONCE));
        let told: Vec<_> = told.map(|(index, _)| index).collect();
        if !told.is_empty() {
            self.netstack.advertise(told);
        }
    }
}

/// What a network's gateway serves.
pub(super) fn services(network: &Network) -> Services {
    Services {
        dhcp: network.dhcp.is_some(),
        routers: network.ra != Ra::Off,
    }
}
