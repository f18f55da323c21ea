//! What uplinks learn of themselves: addresses, routes, MTUs.
//!
//! In: what host stacks tell. Out: what of it is used: a part of the stacks' configuration, of which the core makes routes
//! and the workers' snapshot, and new paths from the new addresses. Never: anything of it in what is desired; an address or
//! a route that overlaps a network, a peer's allowed IPs or another uplink; a lease kept that is not used; a path kept that
//! leads from an address which is gone.
//!
//! A default route overlaps nothing, nor do its halves: by them the tunnels' own packets find their way, never a guest's.
//! The kernel's own packets find theirs by it, too, where nothing narrower leads into a tunnel. So the kernel is given the
//! default route and what overlaps nothing at all: with a peer that is allowed everything, no other. A server's routes
//! would take what the kernel's default route leads into the tunnel, else.

mod leases;

use std::{net::IpAddr, sync::Arc};

use culvert_stack::{Held, LEARNED_METRIC, Learned, LearnedAddress, Lease, Route, Teacher};
use culvert_wire::fib::Prefix;
use culvert_wireguard::{Instant, Now};

pub(super) use self::leases::Leases;
use super::{Engine, exceptions::exception, uplinks::UplinkState};
use crate::{events::Event, state};

/// Prefixes of fewer bits say where everything goes that is nowhere else, and overlap nothing: the default route, its halves.
const OVERLAP_LEAST: u8 = 2;

/// What an uplink has learned.
#[derive(Default)]
pub(super) struct LearnedState {
    told: Arc<Learned>,
    /// What of it is used.
    used: Learned,
    /// What is not.
    refused: Refused,
    /// The lease of an earlier run, or of the device before.
    held: Option<Held>,
}

/// What was learned and is not used, each with what it overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Refused {
    /// A lease's among them has been given back, or will be.
    addresses: Vec<(LearnedAddress, String)>,
    routes: Vec<(Route, String)>,
    /// Used, but not by the kernel.
    kernel: Vec<(Route, String)>,
}

impl Refused {
    fn lease(&self) -> Option<&LearnedAddress> {
        let mut addresses = self.addresses.iter().map(|(address, _)| address);
        addresses.find(|it| it.teacher == Teacher::Dhcp)
    }
}

impl LearnedState {
    pub(super) const fn used(&self) -> &Learned {
        &self.used
    }

    /// What of it the host's kernel is given.
    pub(super) fn for_kernel(&self) -> Learned {
        let mut learned = self.used.clone();
        let is_kept = |it: &Route| !self.refused.kernel.iter().any(|(route, _)| route == it);
        learned.routes.retain(is_kept);
        learned
    }

    /// The lease, if it is used.
    fn lease(&self) -> Option<&Lease> {
        let lease = self.told.lease.as_ref();
        lease.filter(|lease| self.has(lease.terms.address.into()))
    }

    /// What servers are not to lend.
    #[cfg(feature = "dpdk")]
    pub(super) fn unusable(&self) -> Option<culvert_stack::Unusable> {
        let lease = self.refused.lease()?;
        let IpAddr::V4(address) = lease.address else {
            return None;
        };
        let prefix_len = lease.prefix_len;
        Some(culvert_stack::Unusable {
            address,
            prefix_len,
        })
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

    /// For another stack in its place, which asks for the same lease, or for another than was refused.
    pub(super) fn again(&self) -> Self {
        let lease = self.lease().map(|lease| Held {
            terms: lease.terms.clone(),
            expires: lease.expires,
        });
        let mut refused = Refused::default();
        let addresses = self.refused.addresses.iter();
        let lent = addresses.filter(|(it, _)| it.teacher == Teacher::Dhcp);
        refused.addresses.extend(lent.cloned());
        Self {
            held: lease.or_else(|| self.held.clone()),
            refused,
            ..Self::default()
        }
    }

    /// What readers are told.
    pub(super) fn sight(&self, now: Instant) -> state::Learned {
        let lease = self.lease();
        let left = lease.and_then(|lease| lease.expires);
        state::Learned {
            addresses: self.used.addresses.iter().map(text).collect(),
            routes: self.used.routes.iter().map(route).collect(),
            dns: self.used.dns.iter().map(ToString::to_string).collect(),
            domain: lease.and_then(|lease| lease.terms.domain.clone()),
            mtu: self.used.mtu,
            server: lease.map(|lease| lease.terms.server.to_string()),
            expires_in: left.map(|end| end.since(now).as_secs()),
            refused: (self.refused.addresses.iter())
                .map(|(address, reason)| format!("{}: {reason}", text(address)))
                .collect(),
            routes_refused: (self.refused.routes.iter())
                .map(|(it, reason)| format!("{}: {reason}", route_text(it)))
                .collect(),
            routes_kept_from_kernel: (self.refused.kernel.iter())
                .map(|(it, reason)| format!("{}: {reason}", route_text(it)))
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
        let mut told = Vec::new();
        for (slot, uplink) in self.uplinks.iter_mut() {
            let taught = uplink.scope().and_then(|scope| self.netstack.taught(scope));
            if let Some(taught) = taught
                && !Arc::ptr_eq(taught, &uplink.taught.told)
            {
                uplink.taught.told = Arc::clone(taught);
                uplink.taught.held = None;
                told.push(slot);
            }
        }
        let any = self.judge_learned(now);
        // Their times, too.
        for slot in told {
            self.note_lease(slot, now);
        }
        if !any {
            return;
        }
        self.reset_interfaces();
        self.publish();
        self.netstack.publish();
    }

    /// The same beside what is configured now, and without uplinks that went.
    pub(super) fn judge_anew(&mut self, now: Now) {
        if self.judge_learned(now) {
            self.reset_interfaces();
            self.publish();
        }
    }

    fn note_lease(&mut self, slot: usize, now: Now) {
        if let Some(uplink) = self.uplinks.get(slot) {
            self.leases.note(uplink, now);
        }
    }

    /// Uses what can be used of what was learned, beside what is configured now; whether that is something else. Peers that
    /// it leads from elsewhere hear of it as they are given their paths.
    pub(super) fn judge_learned(&mut self, now: Now) -> bool {
        let mut any = false;
        let places: Vec<_> = self.uplinks.iter().map(|(slot, _)| slot).collect();
        for slot in places {
            let Some((used, refused)) = self.judged(slot) else {
                continue;
            };
            let Some(uplink) = self.uplinks.change(slot) else {
                continue;
            };
            let leads_elsewhere = !used.leads_like(&uplink.taught.used);
            uplink.tell_addresses(&used, &refused);
            uplink.tell_refused_routes(&refused);
            (uplink.taught.used, uplink.taught.refused) = (used, refused);
            uplink.forget_rivals();
            if let (Some(scope), Some(host)) = (uplink.scope(), uplink.host()) {
                self.netstack.change(scope, host);
            }
            any = true;
            if leads_elsewhere {
                self.outdate_paths_by(slot);
            }
            self.note_lease(slot, now);
        }
        any
    }

    /// What an uplink is to use and what not; `None`: as it does.
    fn judged(&self, slot: usize) -> Option<(Learned, Refused)> {
        let uplink = self.uplinks.get(slot)?;
        let known = &uplink.taught;
        let told = &known.told;
        let mut refused = Refused::default();
        // A lease that was given back is refused until another is lent, or nothing is in its way.
        let is_lent = (told.addresses.iter()).any(|it| it.teacher == Teacher::Dhcp);
        let before = known.refused.lease();
        let before = before.filter(|_| uplink.config.dhcp4 && !is_lent);
        for it in told.addresses.iter().chain(before) {
            let overlap = self.overlap(slot, (it.address, it.prefix_len), OVERLAP_LEAST);
            refused.addresses.extend(overlap.map(|with| (*it, with)));
        }
        let is_shared = exception(&uplink.config).is_some();
        for it @ &(to, len, via) in &told.routes {
            let overlap = |least| self.overlap(slot, (to, len), least);
            if len >= OVERLAP_LEAST
                && let Some(with) = overlap(OVERLAP_LEAST)
            {
                refused.routes.push((*it, with));
            } else if is_shared
                && len > 0
                && !via.is_unspecified()
                && let Some(with) = overlap(0)
            {
                refused.kernel.push((*it, with));
            }
        }
        let used = without(told, &refused);
        let is_same = used.is_used_like(&known.used) && refused == known.refused;
        (!is_same).then_some((used, refused))
    }

    /// What a prefix on the uplink at `slot`, or beyond it, overlaps; prefixes of fewer bits than `least` don't count.
    fn overlap(&self, slot: usize, (to, len): (IpAddr, u8), least: u8) -> Option<String> {
        let with = Prefix::new(to, len)?;
        for (_, network) in self.networks.table.iter() {
            if let Some(it) = network.routes.overlap(with, least) {
                let name = &network.config.name;
                return Some(format!("{} of network {name}", prefix_text(it)));
            }
        }
        for (_, tunnel) in self.tunnels.iter() {
            if let Some(it) = tunnel.allowed_overlap(with, least) {
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

    fn tell_addresses(&self, used: &Learned, refused: &Refused) {
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
        let known = &before.refused.addresses;
        for it in refused.addresses.iter().filter(|it| !known.contains(it)) {
            Event::UplinkAddressRefused {
                uplink: name(),
                address: text(&it.0),
                reason: it.1.clone(),
            }
            .tell();
        }
    }

    fn tell_refused_routes(&self, refused: &Refused) {
        let known = &self.taught.refused;
        let tell = |(route, reason): &(Route, String), whose| {
            Event::UplinkRouteRefused {
                uplink: self.config.name.clone(),
                route: route_text(route),
                by: whose,
                reason: reason.clone(),
            }
            .tell();
        };
        let routes = refused.routes.iter();
        let routes = routes.filter(|it| !known.routes.contains(it));
        routes.for_each(|it| tell(it, "uplink"));
        let kernel = refused.kernel.iter();
        let kernel = kernel.filter(|it| !known.kernel.contains(it));
        kernel.for_each(|it| tell(it, "kernel"));
    }
}

/// What was learned but for what is refused, and what came with it: without an address of its own a family has no routes.
fn without(told: &Learned, refused: &Refused) -> Learned {
    let mut used = told.clone();
    let Refused {
        addresses, routes, ..
    } = refused;
    used.addresses
        .retain(|it| !addresses.iter().any(|(refused, _)| refused == it));
    let has = |of: &IpAddr| {
        let mut addresses = used.addresses.iter();
        let was_told = told.addresses.iter();
        let mut was_told = was_told.filter(|it| it.address.is_ipv4() == of.is_ipv4());
        // Routers alone are heard, too: then the addresses are configured.
        was_told.next().is_none() || addresses.any(|it| it.address.is_ipv4() == of.is_ipv4())
    };
    let is_refused = |it: &&Route| routes.iter().any(|(refused, _)| refused == *it);
    let kept = told
        .routes
        .iter()
        .filter(|it| has(&it.0) && !is_refused(it));
    let kept = kept.copied().collect();
    let dns = told.dns.iter().filter(|it| has(it)).copied().collect();
    (used.routes, used.dns) = (kept, dns);
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

fn route_text(&(to, len, via): &Route) -> String {
    match via.is_unspecified() {
        true => format!("{to}/{len}"),
        false => format!("{to}/{len} via {via}"),
    }
}

fn route(&(to, len, via): &Route) -> state::LearnedRoute {
    state::LearnedRoute {
        to: format!("{to}/{len}"),
        via: (!via.is_unspecified()).then(|| via.to_string()),
        metric: LEARNED_METRIC,
    }
}
