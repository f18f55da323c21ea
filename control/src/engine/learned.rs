//! What uplinks learn of themselves: addresses, routes, MTUs.
//!
//! In: what host stacks tell. Out: what of it is used: a part of the stacks' configuration, of which the core makes routes
//! and the workers' snapshot, and new paths from the new addresses. Never: anything of it in what is desired; an address
//! that overlaps a network, a peer's allowed IPs or another uplink; a path kept that leads from an address which is gone.

mod leases;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use culvert_stack::{Held, Learned, LearnedAddress, Route, Teacher};
use culvert_wire::fib::Prefix;
use culvert_wireguard::{Instant, Now};

pub(super) use self::leases::Leases;
use super::{Engine, uplinks::UplinkState};
use crate::{events::Event, state};

/// Prefixes of fewer bits say where everything goes that is nowhere else, and overlap nothing: the default route, its halves.
const OVERLAP_LEAST: u8 = 2;

/// What an uplink has learned.
#[derive(Default)]
pub(super) struct LearnedState {
    told: Arc<Learned>,
    /// What of it is used.
    used: Learned,
    /// What is not, and why.
    refused: Vec<(LearnedAddress, String)>,
    /// The lease of an earlier run, or of the device before.
    held: Option<Held>,
}

/// The places of uplinks whose addresses are others now.
#[derive(Default)]
pub(super) struct Readdressed {
    /// Something of theirs has changed.
    changed: Vec<usize>,
    /// Their addresses have, and they have some.
    moved: BTreeSet<usize>,
}

impl Readdressed {
    pub(super) const fn is_any(&self) -> bool {
        !self.changed.is_empty()
    }
}

impl LearnedState {
    pub(super) const fn used(&self) -> &Learned {
        &self.used
    }

    /// Whether an address is one that was learned and is used.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.used.addresses.iter().any(|it| it.address == address)
    }

    #[cfg(feature = "dpdk")]
    pub(super) const fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// As if a stack had told it.
    #[cfg(test)]
    pub(super) fn teach(&mut self, told: Learned) {
        self.told = Arc::new(told);
    }

    /// For another stack in its place, which asks for the same lease.
    pub(super) fn again(&self) -> Self {
        let lease = self.told.lease.as_ref().map(|lease| Held {
            terms: lease.terms.clone(),
            expires: lease.expires,
        });
        Self {
            held: lease.or_else(|| self.held.clone()),
            ..Self::default()
        }
    }

    /// What readers are told.
    pub(super) fn sight(&self, now: Instant) -> state::Learned {
        let lease = self.told.lease.as_ref();
        let left = lease.and_then(|lease| lease.expires);
        state::Learned {
            addresses: self.used.addresses.iter().map(text).collect(),
            routes: self.used.routes.iter().map(route).collect(),
            dns: self.used.dns.iter().map(ToString::to_string).collect(),
            domain: lease.and_then(|lease| lease.terms.domain.clone()),
            mtu: self.used.mtu,
            server: lease.map(|lease| lease.terms.server.to_string()),
            expires_in: left.map(|end| end.since(now).as_secs()),
            refused: (self.refused.iter())
                .map(|(address, reason)| format!("{}: {reason}", text(address)))
                .collect(),
        }
    }
}

impl Engine {
    /// What host stacks have learned since the last round.
    pub(super) fn take_learned(&mut self, now: Now) {
        if !self.netstack.take_taught() {
            return;
        }
        for (_, uplink) in self.uplinks.iter_mut() {
            let taught = uplink.scope().and_then(|scope| self.netstack.taught(scope));
            if let Some(taught) = taught
                && !Arc::ptr_eq(taught, &uplink.taught.told)
            {
                uplink.taught.told = Arc::clone(taught);
                uplink.taught.held = None;
                self.leases.note(uplink, now);
            }
        }
        let readdressed = self.judge_learned();
        if !readdressed.is_any() {
            return;
        }
        self.reset_interfaces();
        self.publish();
        self.netstack.publish();
        self.rebuild_paths(now.monotonic);
        self.greet_from(&readdressed.moved);
    }

    /// Peers hear from where they are reached now: they answer to where they heard us last.
    fn greet_from(&mut self, moved: &BTreeSet<usize>) {
        let peers = self.peers.iter();
        let reached =
            peers.filter(|(_, peer)| moved.contains(&peer.uplink) && peer.cell.keypair().is_some());
        let reached: Vec<_> = reached.map(|(place, _)| place).collect();
        reached.into_iter().for_each(|place| self.keep_alive(place));
    }

    /// Uses what can be used of what was learned, beside what is configured now.
    pub(super) fn judge_learned(&mut self) -> Readdressed {
        let mut readdressed = Readdressed::default();
        let places: Vec<_> = self.uplinks.iter().map(|(slot, _)| slot).collect();
        for slot in places {
            let Some((used, refused)) = self.judged(slot) else {
                continue;
            };
            let Some(uplink) = self.uplinks.change(slot) else {
                continue;
            };
            let has_moved = used.addresses != uplink.taught.used.addresses;
            uplink.tell_addresses(&used, &refused);
            (uplink.taught.used, uplink.taught.refused) = (used, refused);
            uplink.forget_rivals();
            if let (Some(scope), Some(host)) = (uplink.scope(), uplink.host()) {
                self.netstack.change(scope, host);
            }
            readdressed.changed.push(slot);
            if has_moved {
                readdressed.moved.insert(slot);
            }
            self.outdate_paths_by(slot);
        }
        readdressed
    }

    /// What an uplink is to use and what not; `None`: as it does.
    fn judged(&self, slot: usize) -> Option<(Learned, Vec<(LearnedAddress, String)>)> {
        let uplink = self.uplinks.get(slot)?;
        let told = &uplink.taught.told;
        let reason = |it: &LearnedAddress| Some((*it, self.overlap(slot, it)?));
        let refused: Vec<_> = told.addresses.iter().filter_map(reason).collect();
        let used = without(told, &refused);
        let known = &uplink.taught;
        let is_same = used.is_used_like(&known.used) && refused == known.refused;
        (!is_same).then_some((used, refused))
    }

    /// What an address of the uplink at `slot` overlaps.
    fn overlap(&self, slot: usize, learned: &LearnedAddress) -> Option<String> {
        let with = Prefix::new(learned.address, learned.prefix_len)?;
        for (_, network) in self.networks.table.iter() {
            if let Some(it) = network.routes.overlap(with, OVERLAP_LEAST) {
                let name = &network.config.name;
                return Some(format!("{} of network {name}", prefix_text(it)));
            }
        }
        for (_, tunnel) in self.tunnels.iter() {
            if let Some(it) = tunnel.allowed_overlap(with, OVERLAP_LEAST) {
                let name = &tunnel.config.name;
                return Some(format!(
                    "{}, which a peer of tunnel {name} is allowed",
                    prefix_text(it)
                ));
            }
        }
        let others = self.uplinks.iter().filter(|(other, _)| *other != slot);
        others.into_iter().find_map(|(_, uplink)| {
            let own = uplink.config.addresses.iter();
            let own = own.map(|net| (net.addr(), net.prefix_len()));
            let learned = uplink.taught.used.addresses.iter();
            let learned = learned.map(|it| (it.address, it.prefix_len));
            let mut prefixes = own
                .chain(learned)
                .filter_map(|(address, len)| Prefix::new(address, len));
            let it =
                prefixes.find(|it| it.contains(with.address()) || with.contains(it.address()))?;
            let name = &uplink.config.name;
            Some(format!("{} of uplink {name}", prefix_text(it)))
        })
    }

    /// Before its stack begins, an uplink has the lease that an earlier run left.
    pub(super) fn hold_lease(&mut self, uplink: &mut UplinkState, now: Now) {
        if uplink.config.dhcp4 && uplink.taught.held.is_none() {
            uplink.taught.held = self.leases.before(uplink, now);
        }
    }
}

impl UplinkState {
    /// Whether it is to learn anything of itself.
    pub(super) const fn learns(&self) -> bool {
        self.config.dhcp4 || self.config.accept_ra
    }

    /// Its addresses, learned ones behind the configured.
    pub(super) fn address_texts(&self) -> Vec<String> {
        let own = self.config.addresses.iter().map(ToString::to_string);
        own.chain(self.taught.used.addresses.iter().map(text))
            .collect()
    }

    fn tell_addresses(&self, used: &Learned, refused: &[(LearnedAddress, String)]) {
        let name = || self.config.name.clone();
        let before = &self.taught;
        let is_in = |all: &[LearnedAddress], it: &LearnedAddress| all.contains(it);
        for it in &before.used.addresses {
            if !is_in(&used.addresses, it) {
                let (uplink, address, teacher) = (name(), text(it), word(it.teacher));
                Event::UplinkAddressLost {
                    uplink,
                    address,
                    teacher,
                }
                .tell();
            }
        }
        for it in &used.addresses {
            if !is_in(&before.used.addresses, it) {
                let (uplink, address, teacher) = (name(), text(it), word(it.teacher));
                Event::UplinkAddress {
                    uplink,
                    address,
                    teacher,
                }
                .tell();
            }
        }
        for it in refused.iter().filter(|it| !before.refused.contains(it)) {
            Event::UplinkAddressRefused {
                uplink: name(),
                address: text(&it.0),
                reason: it.1.clone(),
            }
            .tell();
        }
    }
}

/// What was learned but for some addresses, and what came with them: without an address of its own a family has no routes.
fn without(told: &Learned, refused: &[(LearnedAddress, String)]) -> Learned {
    let mut used = told.clone();
    used.addresses
        .retain(|it| !refused.iter().any(|(refused, _)| refused == it));
    let has = |of: &IpAddr| {
        let mut addresses = used.addresses.iter();
        let was_told = told.addresses.iter();
        let mut was_told = was_told.filter(|it| it.address.is_ipv4() == of.is_ipv4());
        // Routers alone are heard, too: then the addresses are configured.
        was_told.next().is_none() || addresses.any(|it| it.address.is_ipv4() == of.is_ipv4())
    };
    let routes = told.routes.iter().filter(|(to, ..)| has(to));
    let routes = routes.copied().collect();
    let dns = told.dns.iter().filter(|it| has(it)).copied().collect();
    (used.routes, used.dns) = (routes, dns);
    used
}

const fn word(teacher: Teacher) -> &'static str {
    match teacher {
        Teacher::Dhcp => "dhcp",
        Teacher::Router => "ra",
    }
}

fn text(it: &LearnedAddress) -> String {
    format!("{}/{}", it.address, it.prefix_len)
}

fn prefix_text(it: Prefix) -> String {
    format!("{}/{}", it.address(), it.len())
}

fn route(&(to, len, via): &Route) -> state::LearnedRoute {
    state::LearnedRoute {
        to: format!("{to}/{len}"),
        via: (!via.is_unspecified()).then(|| via.to_string()),
    }
}
