//! What is desired, in layers: the file, over it what the API layer says, and over both what `wg` set.
//!
//! In: whole files; changes of single objects; changes that were carried out for `wg`. Out: what is desired, the way
//! from it to another file, and where it differs from the file. Never: more kept of `wg`'s layer than what it touched.
//!
//! Objects are known by their names, peers to `wg` by their tunnel and key. A whole file takes back what `wg` set; the
//! API layer lies over the new one.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Change, Edit, PeerChange,
    api::Laid,
    overlay::{Overlay, Touched},
    proposal::moves,
};
use crate::{
    config::{
        Config, IpNet, Memory, Name, Network, NetworkRoute, Peer, Port, Tunnel, Uplink,
        common_ends, is_same,
    },
    keys::PublicKey,
};

/// The desired state. A copy shares all of it, and costs nothing.
#[derive(Clone, Debug)]
pub struct Layers {
    file: Arc<Config>,
    api: Arc<Laid>,
    wg: Arc<HashMap<Name, Arc<Overlay>>>,
    /// Counts overlaid peers, for their order.
    turn: u64,
    /// What DPDK was given when it started, if it runs.
    taken: Option<Memory>,
}

/// What `wg` touched of one tunnel from one state to another.
pub(super) struct Drift {
    pub(super) tunnel: Name,
    /// The tunnel itself, as it was and as it is.
    pub(super) head: Option<(Tunnel, Tunnel)>,
    pub(super) peers: Vec<Touched>,
}

impl Layers {
    /// What a file says, and nothing over it.
    #[must_use]
    pub fn new(file: Arc<Config>) -> Self {
        Self {
            file,
            api: Arc::default(),
            wg: Arc::default(),
            turn: 0,
            taken: None,
        }
    }

    /// Takes note of the memory that DPDK runs with, whatever becomes of the file that it was started for.
    pub fn note_taken(&mut self, taken: Option<Memory>) {
        self.taken = taken;
    }

    /// What a file says, and the layer that was loaded over it.
    #[must_use]
    pub fn with_api(file: Arc<Config>, api: &Laid) -> Self {
        let api = Arc::new(api.upon(&file, None));
        Self {
            api,
            ..Self::new(file)
        }
    }

    /// What another file says, and the API layer over it; they share what did not change.
    #[must_use]
    pub fn upon(&self, file: impl Into<Arc<Config>>) -> Self {
        let mut file = file.into();
        // One that others hold stays as it is.
        if let Some(file) = Arc::get_mut(&mut file) {
            self.share(file);
        }
        file.make_ready();
        let api = match self.api.is_empty() {
            true => Arc::clone(&self.api),
            false => Arc::new(self.api.upon(&file, Some(&self.file))),
        };
        Self {
            api,
            ..Self::new(file)
        }
    }

    /// The file: of cores and memory it alone counts.
    #[must_use]
    pub fn file(&self) -> &Arc<Config> {
        &self.file
    }

    /// The API layer over it.
    #[must_use]
    pub fn api(&self) -> &Arc<Laid> {
        &self.api
    }

    /// Takes over a change of the API layer, which was carried out. What `wg` made of its peers counts no more.
    pub fn lay(&mut self, api: Arc<Laid>, plan: &[Change]) {
        self.api = api;
        for PeerChange { tunnel, edit, .. } in plan.iter().filter_map(Change::peer) {
            if self.wg.contains_key(tunnel) {
                self.over(tunnel).forget(&edit.any().public_key);
            }
        }
    }

    /// Without what `wg` set.
    #[must_use]
    pub fn without_wg(&self) -> Self {
        Self {
            wg: Arc::default(),
            ..self.clone()
        }
    }

    /// Whether `wg` has set anything of a tunnel's.
    #[must_use]
    pub fn is_touched(&self, tunnel: &Name) -> bool {
        self.wg.contains_key(tunnel)
    }

    /// The peers of a tunnel, without what `wg` set: the file's in its order, then those that the API layer has alone.
    fn laid_peers(&self, tunnel: &Name) -> impl Iterator<Item = &Arc<Peer>> {
        let laid = self.api.peers_of(tunnel);
        let over = move |peer| laid.and_then(|laid| laid.counting(peer));
        let file = self.file.tunnel(tunnel).map_or(&[][..], |it| &it.peers);
        let file = file
            .iter()
            .map(move |peer| over(&peer.name).unwrap_or(peer));
        let added = laid.into_iter().flat_map(|laid| laid.in_order());
        let of_file = move |name| self.file.peer(tunnel, name).is_some();
        let added: Vec<_> = added.filter(|(name, _)| !of_file(name)).collect();
        file.chain(
            added
                .into_iter()
                .filter_map(|(_, it)| it.counts.as_ref().ok()),
        )
    }

    /// The peer of that name, without what `wg` set.
    #[must_use]
    pub fn laid_peer(&self, tunnel: &Name, name: &Name) -> Option<&Arc<Peer>> {
        let laid = self.api.peers_of(tunnel);
        let over = laid.and_then(|laid| laid.counting(name));
        over.or_else(|| self.file.peer(tunnel, name))
    }

    /// The peer of the API layer that is disabled and has that key. Of the file's ask [`Config`].
    #[must_use]
    pub fn disabled_of_layer(&self, tunnel: &Name, key: &PublicKey) -> Option<&Arc<Peer>> {
        let laid = self.api.peers_of(tunnel)?.iter();
        let mut counting = laid.filter_map(|(_, entry)| entry.counts.as_ref().ok());
        counting.find(|peer| !peer.enabled && peer.public_key == *key)
    }

    /// A network's routes that are desired: the file's in its order, then those that the API layer has alone, in theirs;
    /// and whether they are the layer's.
    pub fn routes<'l>(&'l self, network: &'l Network) -> Vec<(&'l NetworkRoute, bool)> {
        let laid = self.api.routes_of(&network.name);
        let over = |to| laid.and_then(|laid| laid.counting(to));
        let file = network.routes.iter().map(|route| match over(&route.to) {
            Some(laid) => (&**laid, true),
            None => (route, false),
        });
        let of_file = |to: &IpNet| network.routes.iter().any(|route| route.to == *to);
        let laid = laid.into_iter().flat_map(|laid| laid.in_order());
        let added = laid.filter(|(to, _)| !of_file(to));
        let added = added.filter_map(|(_, entry)| Some((entry.counts.as_deref().ok()?, true)));
        file.chain(added).collect()
    }

    /// The route of a network to a prefix.
    #[must_use]
    pub fn route(&self, network: &Name, to: &IpNet) -> Option<&NetworkRoute> {
        let laid = self.api.routes_of(network);
        let over = laid.and_then(|laid| laid.counting(to)).map(|it| &**it);
        let file = || {
            let mut routes = self.file.network(network)?.routes.iter();
            routes.find(|route| route.to == *to)
        };
        over.or_else(file)
    }

    /// A prefix of a peer's that a route has; which, in words. It would be led there, whoever the peer is.
    #[must_use]
    pub fn routed(&self, tunnel: &Name, peer: &Peer) -> Option<String> {
        let network = &self.file.network_of_tunnel(tunnel)?.name;
        let mut nets = peer.allowed_ips.iter().filter(|_| peer.enabled);
        let net = nets.find(|net| self.route(network, net).is_some())?;
        Some(format!("there is a route {network}/{net}"))
    }

    /// The networks that are desired, with all of their routes.
    fn networks(&self) -> Vec<Cow<'_, Network>> {
        let mut networks: Vec<_> = self.file.networks.iter().map(Cow::Borrowed).collect();
        for network in &mut networks {
            if self.api.routes_of(&network.name).is_some() {
                let routes = self.routes(network).into_iter();
                let routes = routes.map(|(route, _)| route.clone()).collect();
                network.to_mut().routes = routes;
            }
        }
        networks
    }

    /// The ports that are desired: the file's in its order, then those that the API layer has alone, in theirs.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        let file = self.file.ports.iter();
        let file = file.map(|port| self.api.port(&port.name).map_or(port, |over| &**over));
        let added = self.api.ports.in_order().into_iter();
        let added = added.filter(|(name, _)| self.file.port(name).is_none());
        file.chain(added.filter_map(|(_, entry)| entry.counts.as_deref().ok()))
    }

    /// The port of that name.
    #[must_use]
    pub fn port(&self, name: &Name) -> Option<&Port> {
        let over = self.api.port(name).map(|port| &**port);
        over.or_else(|| self.file.port(name))
    }

    /// The uplink of that name.
    #[must_use]
    pub fn uplink(&self, name: &Name) -> Option<&Uplink> {
        let over = self.api.uplink(name).map(|uplink| &**uplink);
        over.or_else(|| self.file.uplink(name))
    }

    /// The uplinks that are desired, in the file's order.
    pub fn uplinks(&self) -> impl Iterator<Item = &Uplink> {
        let file = self.file.uplinks.iter();
        file.map(|it| self.api.uplink(&it.name).map_or(it, |over| &**over))
    }

    /// Takes note of a change that was made for `wg`, which changes tunnels and peers alone.
    pub fn overlay(&mut self, change: &Change) {
        if let Change::Tunnel(Edit::Change { new, .. }) = change {
            self.over(&new.name).head = Some(new.clone());
        }
        if let Change::Peer(PeerChange { tunnel, edit, .. }) = change {
            self.turn += 1;
            let (key, turn) = (edit.any().public_key, self.turn);
            self.over(tunnel)
                .set(key, edit.before(), edit.after(), turn);
        }
    }

    fn over(&mut self, tunnel: &Name) -> &mut Overlay {
        let all = Arc::make_mut(&mut self.wg);
        Arc::make_mut(all.entry(tunnel.clone()).or_default())
    }

    /// The tunnel as it is desired, without its peers.
    fn head(&self, name: &Name) -> Option<Tunnel> {
        let over = self.wg.get(name).and_then(|overlay| overlay.head.clone());
        over.or_else(|| self.file.tunnel(name).map(Tunnel::head))
    }

    /// The peers of a tunnel that are desired: the file's in its order, then those that the API layer and `wg` added, in
    /// theirs.
    pub fn peers(&self, tunnel: &Name) -> impl Iterator<Item = &Arc<Peer>> {
        let overlay = self.wg.get(tunnel);
        let over = move |key| overlay.and_then(|overlay| overlay.get(key));
        let laid = self.laid_peers(tunnel);
        let laid = laid.filter_map(move |peer| match over(&peer.public_key) {
            None => Some(peer),
            // For `wg` it was not there: it has added another one.
            Some(_) if !peer.enabled => None,
            Some(overlaid) => overlaid.wg.as_ref(),
        });
        let overlaid = overlay.into_iter().flat_map(|overlay| overlay.peers());
        let mut added: Vec<_> = overlaid.filter(|peer| peer.file.is_none()).collect();
        added.sort_unstable_by_key(|peer| peer.turn);
        laid.chain(added.into_iter().filter_map(|peer| peer.wg.as_ref()))
    }

    /// What is desired, as one configuration.
    #[must_use]
    pub fn merged(&self) -> Config {
        let mut merged = Config::clone(&self.file);
        merged.ports = self.ports().cloned().collect();
        merged.uplinks = self.uplinks().cloned().collect();
        let networks = self.networks().into_iter();
        merged.networks = networks.map(Cow::into_owned).collect();
        for tunnel in &mut merged.tunnels {
            let peers = self.peers(&tunnel.name).cloned().collect();
            if let Some(head) = self.head(&tunnel.name) {
                *tunnel = Tunnel { peers, ..head };
            }
        }
        merged
    }

    /// What the file calls a peer that `wg` has removed.
    #[must_use]
    pub fn former_name(&self, tunnel: &Name, key: &PublicKey) -> Option<&Name> {
        let overlaid = self.wg.get(tunnel)?.get(key)?;
        Some(&overlaid.file.as_ref()?.name)
    }

    /// Where a tunnel itself differs from the file, and which peers of the file it hasn't.
    #[must_use]
    pub fn tunnel_drift(&self, name: &Name) -> Vec<String> {
        let Some(file) = self.file.tunnel(name) else {
            return vec!["not in the file".into()];
        };
        let mut drift = Vec::new();
        let Some(overlay) = self.wg.get(name) else {
            return drift;
        };
        if let Some(head) = &overlay.head {
            if head.private_key != file.private_key {
                drift.push("private_key".into());
            }
            if head.listen_port != file.listen_port {
                drift.push(format!("listen_port (file: {})", file.listen_port));
            }
            if head.fwmark != file.fwmark {
                drift.push(format!("fwmark (file: {:#x})", file.fwmark));
            }
        }
        let mut gone: Vec<_> = overlay.peers().filter(|p| p.wg.is_none()).collect();
        gone.sort_unstable_by_key(|peer| peer.turn);
        let gone = gone.into_iter().filter_map(|peer| peer.file.as_ref());
        drift.extend(gone.map(|peer| format!("peer {} removed", peer.name)));
        drift
    }

    /// Where a peer differs from the file: keys of the file.
    #[must_use]
    pub fn peer_drift(&self, tunnel: &Name, key: &PublicKey) -> Vec<String> {
        let overlay = self.wg.get(tunnel);
        let Some(overlaid) = overlay.and_then(|overlay| overlay.get(key)) else {
            return Vec::new();
        };
        let (Some(file), Some(wg)) = (&overlaid.file, &overlaid.wg) else {
            return vec!["not in the file".into()];
        };
        let differs = [
            ("preshared_key", wg.preshared_key != file.preshared_key),
            ("endpoint", wg.endpoint != file.endpoint),
            ("allowed_ips", wg.allowed_ips != file.allowed_ips),
            (
                "persistent_keepalive",
                wg.persistent_keepalive != file.persistent_keepalive,
            ),
        ];
        let named = differs.into_iter().filter(|(_, differs)| *differs);
        named.map(|(name, _)| name.to_owned()).collect()
    }

    /// All that `wg` set and that differs from the file, in words.
    #[must_use]
    pub fn drift(&self) -> Vec<String> {
        let mut drift = Vec::new();
        let mut names: Vec<_> = self.wg.keys().collect();
        names.sort_unstable();
        for name in names {
            let own = self.tunnel_drift(name).into_iter();
            drift.extend(own.map(|what| format!("tunnel {name}: {what}")));
            let Some(overlay) = self.wg.get(name) else {
                continue;
            };
            let mut peers: Vec<_> = overlay
                .peers()
                .filter_map(|it| Some((it.turn, it.wg.as_ref()?)))
                .collect();
            peers.sort_unstable_by_key(|(turn, _)| *turn);
            for (_, peer) in peers {
                let what = self.peer_drift(name, &peer.public_key);
                if !what.is_empty() {
                    drift.push(format!("peer {name}/{}: {}", peer.name, what.join(", ")));
                }
            }
        }
        drift
    }

    /// What `wg` touched since an earlier state over the same file.
    pub(super) fn since(&self, before: &Self) -> Vec<Drift> {
        let untouched = Arc::default();
        let overlays = self.wg.iter().filter_map(|(name, now)| {
            let before = before.wg.get(name).unwrap_or(&untouched);
            (!Arc::ptr_eq(before, now)).then_some((name, before, now))
        });
        let drift = overlays.map(|(name, was, is)| Drift {
            tunnel: name.clone(),
            head: before.head(name).zip(self.head(name)),
            peers: is.touched(was),
        });
        drift.collect()
    }

    /// Lets a new file share the peers with this one that did not change: they are kept once, and compared at a glance.
    pub fn share(&self, new: &mut Config) {
        for tunnel in &mut new.tunnels {
            let Some(old) = self.file.tunnel(&tunnel.name) else {
                continue;
            };
            tunnel.share(old.peers.iter());
        }
    }

    /// The way to another file and the API layer over it, which `wg` has not touched.
    #[must_use]
    pub fn way_to(&self, goal: &Self) -> Vec<Change> {
        let new = &*goal.file;
        let mut changes = Vec::new();
        let taken = self.taken.filter(|_| new.drives_devices());
        let mtu_max = self.file.memory.mtu_max;
        let old_memory = taken.map_or(self.file.memory, |taken| Memory { mtu_max, ..taken });
        let old_cores = &self.file.cores;
        if *old_cores != new.cores {
            changes.push(Change::Cores {
                old: old_cores.clone(),
                new: new.cores.clone(),
            });
        }
        if old_memory != new.memory {
            changes.push(Change::Memory {
                old: old_memory,
                new: new.memory,
                is_taken: taken.is_some(),
            });
        }
        if self.file.metrics != new.metrics {
            changes.push(Change::Metrics {
                old: self.file.metrics.clone(),
                new: new.metrics.clone(),
            });
        }
        if self.file.api != new.api {
            changes.push(Change::Api {
                old: Box::new(self.file.api.clone()),
                new: Box::new(new.api.clone()),
            });
        }
        let uplinks = edits(self.uplinks(), goal.uplinks(), |it| &it.name);
        changes.extend(uplinks.into_iter().map(Change::Uplink));
        self.plan_tunnels(goal, &mut changes);
        let [before, after] = [self, goal].map(|it| it.networks());
        let [before, after] = [&before, &after].map(|all| all.iter().map(|it| &**it));
        let networks = edits(before, after, |it| &it.name);
        changes.extend(networks.into_iter().map(Change::Network));
        changes.extend(self.ways_of_ports(goal));
        changes
    }

    /// The way of the ports alone.
    #[must_use]
    pub fn ways_of_ports(&self, goal: &Self) -> Vec<Change> {
        let ports = edits(self.ports(), goal.ports(), |port| &port.name).into_iter();
        ports
            .map(|edit| Change::Port { edit, anew: false })
            .collect()
    }

    /// The way to a file alone.
    #[cfg(test)]
    pub(crate) fn plan(&self, new: &Config) -> Vec<Change> {
        self.way_to(&Self::new(Arc::new(new.clone())))
    }

    fn plan_tunnels(&self, goal: &Self, changes: &mut Vec<Change>) {
        let new = &goal.file;
        for tunnel in &new.tunnels {
            let edit = Edit::between(self.head(&tunnel.name), Some(tunnel.head()));
            changes.extend(edit.map(Change::Tunnel));
            self.plan_peers(goal, &tunnel.name, changes);
        }
        let wanted: HashSet<_> = new.tunnels.iter().map(|tunnel| &tunnel.name).collect();
        let gone = self.file.tunnels.iter();
        let gone = gone.filter(|tunnel| !wanted.contains(&tunnel.name));
        let heads = gone.filter_map(|tunnel| self.head(&tunnel.name));
        changes.extend(heads.map(|head| Change::Tunnel(Edit::Remove(head))));
    }

    fn plan_peers(&self, goal: &Self, tunnel: &Name, changes: &mut Vec<Change>) {
        let old: Vec<_> = self.peers(tunnel).collect();
        let new: Vec<_> = goal.laid_peers(tunnel).collect();
        // Mostly they come in the same order, and none of those has to be looked for.
        let (ahead, behind) = common_ends(&old, &new, |old, new| is_same(old, new));
        let [old_end, new_end] = [&old, &new].map(|all| all.len() - behind);
        let middle = &old[ahead..old_end];
        let mut left: HashMap<_, _> = middle.iter().map(|it| (it.public_key, *it)).collect();
        let mut edited = Vec::new();
        for (place, &peer) in new.iter().enumerate() {
            let before = match place {
                _ if place < ahead => Some(old[place]),
                _ if place < new_end => left.remove(&peer.public_key),
                _ => Some(old[old_end + (place - new_end)]),
            };
            if before.is_some_and(|before| Arc::ptr_eq(before, peer)) {
                continue;
            }
            let moves = moves(before, Some(peer));
            let edit = Edit::between(before.cloned(), Some(Arc::clone(peer)));
            edited.extend(edit.map(|edit| (edit, moves)));
        }
        let gone = middle.iter().filter(|it| left.contains_key(&it.public_key));
        let gone = gone.map(|peer| (Edit::Remove(Arc::clone(peer)), false));
        // What goes makes room for what comes.
        changes.extend(gone.chain(edited).map(|(edit, moves)| {
            Change::Peer(PeerChange {
                tunnel: tunnel.clone(),
                edit,
                moves,
            })
        }));
    }
}

/// What differs between two lists of named things: what comes and changes in the new one's order, then what goes.
fn edits<'t, T: Clone + PartialEq + 't>(
    old: impl Iterator<Item = &'t T>,
    new: impl Iterator<Item = &'t T>,
    name: impl Fn(&T) -> &Name,
) -> Vec<Edit<T>> {
    let old: Vec<_> = old.collect();
    let mut present: HashMap<_, _> = old.iter().map(|it| (name(it), *it)).collect();
    let come_and_change: Vec<_> = new
        .filter_map(|it| Edit::between(present.remove(name(it)), Some(it)))
        .collect();
    let gone = old
        .iter()
        .copied()
        .filter(|it| present.contains_key(name(it)));
    let all = come_and_change.into_iter().chain(gone.map(Edit::Remove));
    all.map(|edit| match edit {
        Edit::Add(new) => Edit::Add(new.clone()),
        Edit::Change { old, new } => Edit::Change {
            old: old.clone(),
            new: new.clone(),
        },
        Edit::Remove(old) => Edit::Remove(old.clone()),
    })
    .collect()
}
