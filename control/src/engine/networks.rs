//! Networks, and the routes of each.
//!
//! In: networks as a plan has them; peers, prefixes and ports that come and go. Out: each network's routes, changed one
//! by one where that is less than to build them anew. Never: routes that differ from those built anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use culvert_dataplane::shared::{
    ids::PeerIndex,
    snapshot::{Attachment, NextHop, Snapshot},
};
use culvert_wire::fib::{Prefix, Rank, Routes};
use ipnet::IpNet;

use super::{
    Engine,
    compile::Macs,
    table::{Named, Table},
};
use crate::{
    config::{Name, Network, NetworkRoute, NextHop as ConfigHop, Peer},
    plan::{Change, Edit},
};

/// Which of a network's equal prefixes counts: that of the highest rank.
mod rank {
    use culvert_wire::fib::Rank;

    /// The gateway's prefixes.
    pub(super) const ON_LINK: Rank = 0;
    /// The peers' allowed IPs.
    pub(super) const PEER: Rank = 1;
    /// The operator's routes.
    pub(super) const ROUTE: Rank = 2;
    /// The ports' addresses.
    pub(super) const PORT: Rank = 3;
    /// The gateway's own address.
    pub(super) const GATEWAY: Rank = 4;
}

/// Up to this part of a table of prefixes changes one by one.
pub(super) const ONE_BY_ONE: usize = 32;

/// A network, as the control core keeps it.
pub(super) struct NetworkState {
    pub(super) config: Network,
    /// Who has which address.
    pub(super) routes: Routes<NextHop>,
    /// More changed than that: they are built anew.
    is_rebuilt: bool,
    /// Routes by a peer's name or a guest's address may lead elsewhere.
    is_aimed: bool,
    /// Routes that came or changed, beside those.
    fresh: Vec<IpNet>,
}

impl Named for NetworkState {
    fn name(&self) -> &Name {
        &self.config.name
    }
}

/// All networks.
#[derive(Default)]
pub(super) struct Networks {
    pub(super) table: Table<NetworkState>,
    /// Their places by the tunnels that they use: of a tunnel, at most one does.
    by_tunnel: HashMap<Name, usize>,
    /// The places of those that tell their guests something new.
    pub(super) news: BTreeSet<usize>,
}

impl Networks {
    /// The place of the network behind a tunnel.
    pub(super) fn behind(&self, tunnel: &Name) -> Option<usize> {
        self.by_tunnel.get(tunnel).copied()
    }

    /// The routes of the network behind a tunnel are to be built anew.
    pub(super) fn rebuild_behind(&mut self, tunnel: &Name) {
        let network = self.behind(tunnel);
        if let Some(network) = network.and_then(|slot| self.table.change(slot)) {
            network.rebuild();
        }
    }

    /// Carries out what a plan does to networks.
    pub(super) fn carry_out(&mut self, plan: &[Change]) {
        let edits = || {
            plan.iter().filter_map(|change| {
                let Change::Network(edit) = change else {
                    return None;
                };
                Some(edit)
            })
        };
        for old in edits().filter_map(Edit::before) {
            self.leave(old);
        }
        for edit in edits() {
            let place = edit.before().and_then(|old| self.table.place(&old.name));
            match (place, edit.after()) {
                (Some(place), None) => drop(self.table.remove(place)),
                (place, Some(new)) => self.arrive(place, new),
                (None, None) => {}
            }
        }
        for change in plan {
            let Change::Route { network, edit } = change else {
                continue;
            };
            let place = self.table.place(network);
            if let Some(network) = place.and_then(|place| self.table.change(place)) {
                network.lay(edit);
            }
        }
    }

    /// The network's tunnel is another's to have.
    fn leave(&mut self, old: &Network) {
        if let Some(tunnel) = &old.tunnel {
            self.by_tunnel.remove(tunnel);
        }
    }

    fn arrive(&mut self, place: Option<usize>, new: &Network) {
        let place = match place {
            Some(place) => place,
            None => self.table.insert(NetworkState {
                config: new.clone(),
                routes: Routes::default(),
                is_rebuilt: true,
                is_aimed: false,
                fresh: Vec::new(),
            }),
        };
        if let Some(network) = self.table.change(place) {
            let old = std::mem::replace(&mut network.config, new.clone());
            network.is_rebuilt |= (old.gateways, old.routes, old.tunnel)
                != (new.gateways.clone(), new.routes.clone(), new.tunnel.clone());
        }
        if let Some(tunnel) = &new.tunnel {
            self.by_tunnel.insert(tunnel.clone(), place);
        }
    }
}

impl NetworkState {
    /// Has its routes be built anew; answers those that it had.
    pub(super) fn rebuild(&mut self) -> Routes<NextHop> {
        self.is_rebuilt = true;
        std::mem::take(&mut self.routes)
    }

    /// One of the operator's routes comes, changes or goes.
    fn lay(&mut self, edit: &Edit<NetworkRoute>) {
        let routes = &mut self.config.routes;
        let to = edit.any().to;
        let at = routes.iter().position(|route| route.to == to);
        match (at, edit.after()) {
            (Some(at), Some(new)) => routes[at] = new.clone(),
            (None, Some(new)) => routes.push(new.clone()),
            (Some(at), None) => drop(routes.remove(at)),
            (None, None) => {}
        }
        if edit.after().is_some() {
            self.fresh.push(to);
        } else if let Some(prefix) = prefix(to)
            && let Some(hop) = self.routes.at(prefix, rank::ROUTE)
        {
            self.routes.unset(prefix, rank::ROUTE, hop);
        }
    }

    /// Has routes led elsewhere that go by a name or an address of which there is another owner now.
    fn aim(&mut self, is_meant: impl Fn(&ConfigHop) -> bool) {
        let mut hops = self.config.routes.iter().map(|route| &route.next_hop);
        self.is_aimed |= hops.any(is_meant);
    }

    /// Takes over that attachments have gone from the network, and others have come.
    fn attach(&mut self, Moves { gone, come }: &Moves) {
        if self.is_rebuilt || self.config.is_plain() {
            return;
        }
        let addresses =
            |of: &[Arc<Attachment>]| of.iter().map(|it| it.addresses.len()).sum::<usize>();
        if addresses(gone) + addresses(come) > self.routes.len() / ONE_BY_ONE {
            self.is_rebuilt = true;
            return;
        }
        for attachment in gone {
            for &address in &attachment.addresses {
                let hop = NextHop::Guest(attachment.index);
                self.routes.unset(Prefix::host(address), rank::PORT, hop);
                self.aim(|hop| *hop == ConfigHop::Guest(address));
            }
        }
        for attachment in come {
            for &address in &attachment.addresses {
                let hop = NextHop::Guest(attachment.index);
                self.routes.set(Prefix::host(address), rank::PORT, hop);
                self.aim(|hop| *hop == ConfigHop::Guest(address));
            }
        }
    }

    /// The guest that has an address.
    fn guest(&self, address: IpAddr) -> Option<NextHop> {
        self.routes.at(Prefix::host(address), rank::PORT)
    }
}

/// What becomes of a network's attachments with a snapshot. One that changed goes as it was and comes as it is.
#[derive(Default)]
pub(super) struct Moves {
    pub(super) gone: Vec<Arc<Attachment>>,
    pub(super) come: Vec<Arc<Attachment>>,
}

impl Engine {
    /// Has the routes of a network be what its ports, its peers and the operator say. `snapshot` has the attachments
    /// already, and `macs` those of this network.
    pub(super) fn route(
        &mut self,
        slot: usize,
        moves: Option<&Moves>,
        macs: &Macs,
        snapshot: &Snapshot,
    ) {
        let Some(network) = self.networks.table.get_mut(slot) else {
            return;
        };
        moves.into_iter().for_each(|moves| network.attach(moves));
        if network.is_rebuilt {
            let attached = macs.iter().filter_map(|&(_, at)| snapshot.attachment(at));
            let attached = attached.map(|attachment| &**attachment);
            let routes = Routes::build(self.network_routes(slot, attached));
            if let Some(network) = self.networks.table.get_mut(slot) {
                network.routes = routes;
                network.is_aimed = !network.config.routes.is_empty();
            }
        }
        self.aim_routes(slot);
        if let Some(network) = self.networks.table.get_mut(slot) {
            (network.is_rebuilt, network.is_aimed) = (false, false);
            network.fresh.clear();
            network.routes.finish();
        }
    }

    /// A network's routes with their ranks, without the operator's.
    pub(super) fn network_routes<'s>(
        &self,
        slot: usize,
        attached: impl Iterator<Item = &'s Attachment>,
    ) -> Vec<(Prefix, Rank, NextHop)> {
        let mut routes = Vec::new();
        let Some(NetworkState { config, .. }) = self.networks.table.get(slot) else {
            return routes;
        };
        let mut add = |net: IpNet, rank, next_hop| {
            routes.extend(prefix(net).map(|p| (p, rank, next_hop)));
        };
        for gateway in &config.gateways {
            add(gateway.trunc(), rank::ON_LINK, NextHop::Unreachable);
            add(IpNet::from(gateway.addr()), rank::GATEWAY, NextHop::Gateway);
        }
        let tunnel = config.tunnel.as_ref();
        let tunnel = tunnel.and_then(|name| self.tunnels.named(name));
        for &slot in tunnel.into_iter().flat_map(|tunnel| tunnel.peers.values()) {
            let peer = self.peers.get(slot);
            for net in peer.into_iter().flat_map(|peer| &peer.config.allowed_ips) {
                add(*net, rank::PEER, NextHop::Peer(PeerIndex::from_slot(slot)));
            }
        }
        if !config.is_plain() {
            for attachment in attached {
                for &address in &attachment.addresses {
                    let hop = NextHop::Guest(attachment.index);
                    add(IpNet::from(address), rank::PORT, hop);
                }
            }
        }
        routes
    }

    /// Leads the operator's routes to where their next hops are now.
    fn aim_routes(&mut self, slot: usize) {
        let Some(network) = self.networks.table.get_mut(slot) else {
            return;
        };
        if network.config.is_plain() || (!network.is_aimed && network.fresh.is_empty()) {
            return;
        }
        let tunnel = network.config.tunnel.as_ref();
        let tunnel = tunnel.and_then(|name| self.tunnels.named(name));
        // Of equal ones the last counts.
        let mut aimed = BTreeMap::new();
        let is_meant = |to: &IpNet| network.is_aimed || network.fresh.contains(to);
        let routes = network.config.routes.iter();
        for NetworkRoute { to, next_hop } in routes.filter(|it| is_meant(&it.to)) {
            let hop = match next_hop {
                ConfigHop::Peer(name) => tunnel
                    .and_then(|tunnel| tunnel.named(name))
                    .map(|slot| NextHop::Peer(PeerIndex::from_slot(slot))),
                ConfigHop::Guest(address) => network.guest(*address),
                ConfigHop::Unreachable => None,
            };
            let to = prefix(*to);
            aimed.extend(to.map(|to| (to, hop.unwrap_or(NextHop::Unreachable))));
        }
        for (to, hop) in aimed {
            network.routes.set(to, rank::ROUTE, hop);
        }
    }

    /// Carries over to the routes of the network behind a tunnel that a peer's prefixes or its name changed.
    pub(super) fn reroute(
        &mut self,
        tunnel: &Name,
        place: usize,
        old: Option<&Peer>,
        new: Option<&Peer>,
    ) {
        let names = [old, new].map(|peer| peer.map(|peer| &peer.name));
        let [old, new] = [old, new].map(|peer| peer.map_or(&[][..], |peer| &peer.allowed_ips));
        if names[0] == names[1] && old == new {
            return;
        }
        let network = self.networks.behind(tunnel);
        let Some(network) = network.and_then(|slot| self.networks.table.change(slot)) else {
            return;
        };
        if network.is_rebuilt {
            return;
        }
        let next_hop = NextHop::Peer(PeerIndex::from_slot(place));
        let (gone, come) = apart(old, new);
        for prefix in gone {
            network.routes.unset(prefix, rank::PEER, next_hop);
        }
        for prefix in come {
            network.routes.set(prefix, rank::PEER, next_hop);
        }
        for name in names.into_iter().flatten() {
            network.aim(|hop| matches!(hop, ConfigHop::Peer(peer) if peer == name));
        }
    }
}

/// A FIB prefix; host bits are cleared.
pub(super) fn prefix(net: IpNet) -> Option<Prefix> {
    Prefix::new(net.network(), net.prefix_len())
}

/// The prefixes that only the first of two sorted lists has, and those that only the second has.
pub(super) fn apart(old: &[IpNet], new: &[IpNet]) -> (Vec<Prefix>, Vec<Prefix>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => {
                gone.extend(old.next().and_then(|net| prefix(*net)));
            }
            (_, Some(_)) => come.extend(new.next().and_then(|net| prefix(*net))),
            (_, None) => return (gone, come),
        }
    }
}
