//! What is desired, in layers: the file, and over it what `wg` set.
//!
//! In: whole files; changes that were carried out for `wg`. Out: what is desired, the way from it to another file,
//! and where it differs from the file. Never: more kept of `wg`'s layer than what it touched.
//!
//! Objects are known by their names, peers by their tunnel and key. A whole file takes back what `wg` set.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Change, Edit, PeerChange,
    overlay::{Overlay, Touched},
    proposal::moves,
};
use crate::{
    config::{Config, Memory, Name, Peer, Tunnel},
    keys::PublicKey,
};

/// The desired state. A copy shares all of it, and costs nothing.
#[derive(Clone, Debug)]
pub struct Layers {
    file: Arc<Config>,
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
            wg: Arc::default(),
            turn: 0,
            taken: None,
        }
    }

    /// Takes note of the memory that DPDK runs with, whatever becomes of the file that it was started for.
    pub fn note_taken(&mut self, taken: Option<Memory>) {
        self.taken = taken;
    }

    /// The file: of cores, memory, uplinks, networks and ports it alone counts.
    #[must_use]
    pub fn file(&self) -> &Arc<Config> {
        &self.file
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

    /// The peers of a tunnel that are desired: the file's in its order, then those that `wg` added, in theirs.
    pub fn peers(&self, tunnel: &Name) -> impl Iterator<Item = &Arc<Peer>> {
        let overlay = self.wg.get(tunnel);
        let over = move |key| overlay.and_then(|overlay| overlay.get(key));
        let file = self.file.tunnel(tunnel).map_or(&[][..], |t| &t.peers);
        let file = file
            .iter()
            .filter_map(move |peer| match over(&peer.public_key) {
                None => Some(peer),
                Some(overlaid) => overlaid.wg.as_ref(),
            });
        let overlaid = overlay.into_iter().flat_map(|overlay| overlay.peers());
        let mut added: Vec<_> = overlaid.filter(|peer| peer.file.is_none()).collect();
        added.sort_unstable_by_key(|peer| peer.turn);
        file.chain(added.into_iter().filter_map(|peer| peer.wg.as_ref()))
    }

    /// What is desired, as one configuration.
    #[must_use]
    pub fn merged(&self) -> Config {
        let mut merged = Config::clone(&self.file);
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

    /// The way to what a new file says.
    #[must_use]
    pub fn plan(&self, new: &Config) -> Vec<Change> {
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
                old: self.file.metrics,
                new: new.metrics,
            });
        }
        if self.file.api != new.api {
            changes.push(Change::Api {
                old: Box::new(self.file.api.clone()),
                new: Box::new(new.api.clone()),
            });
        }
        let file = &self.file;
        let uplinks = edits(&file.uplinks, &new.uplinks, |uplink| &uplink.name);
        changes.extend(uplinks.into_iter().map(Change::Uplink));
        self.plan_tunnels(new, &mut changes);
        let networks = edits(&file.networks, &new.networks, |network| &network.name);
        changes.extend(networks.into_iter().map(Change::Network));
        let ports = edits(&file.ports, &new.ports, |port| &port.name);
        changes.extend(
            ports
                .into_iter()
                .map(|edit| Change::Port { edit, anew: false }),
        );
        changes
    }

    fn plan_tunnels(&self, new: &Config, changes: &mut Vec<Change>) {
        for tunnel in &new.tunnels {
            let edit = Edit::between(self.head(&tunnel.name), Some(tunnel.head()));
            changes.extend(edit.map(Change::Tunnel));
            self.plan_peers(tunnel, changes);
        }
        let wanted: HashSet<_> = new.tunnels.iter().map(|tunnel| &tunnel.name).collect();
        let gone = self.file.tunnels.iter();
        let gone = gone.filter(|tunnel| !wanted.contains(&tunnel.name));
        let heads = gone.filter_map(|tunnel| self.head(&tunnel.name));
        changes.extend(heads.map(|head| Change::Tunnel(Edit::Remove(head))));
    }

    fn plan_peers(&self, new: &Tunnel, changes: &mut Vec<Change>) {
        let mut old: HashMap<_, _> = self
            .peers(&new.name)
            .map(|peer| (peer.public_key, peer))
            .collect();
        let mut edited = Vec::new();
        for peer in &new.peers {
            let before = old.remove(&peer.public_key);
            if before.is_some_and(|before| Arc::ptr_eq(before, peer)) {
                continue;
            }
            let moves = moves(before, Some(peer));
            let edit = Edit::between(before.cloned(), Some(Arc::clone(peer)));
            edited.extend(edit.map(|edit| (edit, moves)));
        }
        let left = self.peers(&new.name);
        let gone = left.filter(|peer| old.contains_key(&peer.public_key));
        let gone = gone.map(|peer| (Edit::Remove(Arc::clone(peer)), false));
        // What goes makes room for what comes.
        let all = gone.collect::<Vec<_>>().into_iter().chain(edited);
        changes.extend(all.map(|(edit, moves)| {
            Change::Peer(PeerChange {
                tunnel: new.name.clone(),
                edit,
                moves,
            })
        }));
    }
}

/// What differs between two lists of named things: what comes and changes in the new one's order, then what goes.
fn edits<T: Clone + PartialEq>(old: &[T], new: &[T], name: impl Fn(&T) -> &Name) -> Vec<Edit<T>> {
    let mut present: HashMap<_, _> = old.iter().map(|it| (name(it), it)).collect();
    let come_and_change: Vec<_> = new
        .iter()
        .filter_map(|it| Edit::between(present.remove(name(it)), Some(it)))
        .collect();
    let gone = old.iter().filter(|it| present.contains_key(name(it)));
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
