//! A whole file with the way to it, made beside the control core.
//!
//! In: a new file, and what was desired when it was asked for. Out: the changes that lead to the file from what is
//! desired when they are carried out. Never: a look at what nobody touched meanwhile.
//!
//! What differs between two files takes long to find out where there are many peers. `wg` may change some meanwhile, and
//! the file is to take that back, too: of those, and of those alone, the change is made anew.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Change, Edit, Layers, PeerChange, layers::Drift, overlay::Touched};
use crate::{
    config::{Config, Name, Peer, Tunnel},
    keys::PublicKey,
};

/// A whole file with the way to it. A copy shares file and layers: whoever keeps one sees to it that the control core
/// frees neither.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// What was desired when it was made.
    base: Layers,
    /// The file, and the API layer over it.
    goal: Layers,
    changes: Vec<Change>,
}

impl Proposal {
    /// Plans the way from what is desired to a new file, which shares with the present one what did not change.
    #[must_use]
    pub fn new(base: Layers, file: impl Into<Arc<Config>>) -> Self {
        let goal = base.upon(file);
        Self::to(base, goal)
    }

    /// Plans the way from what is desired to a file with the API layer over it.
    #[must_use]
    pub fn to(base: Layers, goal: Layers) -> Self {
        Self {
            changes: base.way_to(&goal),
            goal,
            base,
        }
    }

    /// The new file.
    #[must_use]
    pub fn file(&self) -> &Arc<Config> {
        self.goal.file()
    }

    /// What is to be desired.
    #[must_use]
    pub fn goal(&self) -> &Layers {
        &self.goal
    }

    /// The changes from what was desired when it was made.
    pub(crate) fn plan(&self) -> &[Change] {
        &self.changes
    }

    /// What it touches.
    #[must_use]
    pub fn objects(&self) -> HashSet<String> {
        self.changes.iter().map(Change::object).collect()
    }

    /// What keeps file and layers.
    #[must_use]
    pub fn keeper(&self) -> (Layers, Layers) {
        (self.base.clone(), self.goal.clone())
    }

    /// The changes that lead to the new file from what is desired now.
    #[must_use]
    pub fn changes(mut self, now: &Layers) -> Vec<Change> {
        if !Arc::ptr_eq(self.base.file(), now.file()) {
            // Another file came between, which nobody who waits for his turn sees.
            return now.way_to(&self.goal);
        }
        for drift in now.since(&self.base) {
            self.follow(drift);
        }
        self.changes
    }

    /// Begins where `wg` has brought one tunnel meanwhile.
    fn follow(&mut self, drift: Drift) {
        // The peers of a tunnel that goes go with it.
        let stays = self.goal.file().tunnel(&drift.tunnel).is_some();
        if let Some((was, is)) = drift.head {
            self.follow_head(was, is);
        }
        if stays {
            self.follow_peers(&drift.tunnel, drift.peers);
        }
    }

    fn follow_head(&mut self, was: Tunnel, is: Tunnel) {
        let of = |change: &Change| {
            change
                .tunnel()
                .is_some_and(|edit| edit.any().name == is.name)
        };
        let planned = self.changes.iter().position(of);
        let planned = planned.map(|at| self.changes.remove(at));
        let wanted = match &planned {
            Some(change) => change.tunnel().and_then(Edit::after).cloned(),
            None => Some(was),
        };
        let edit = Edit::between(Some(is), wanted);
        // Ahead of its peers.
        self.changes.splice(0..0, edit.map(Change::Tunnel));
    }

    fn follow_peers(&mut self, tunnel: &Name, touched: Vec<Touched>) {
        let touched = touched.into_iter().map(|it| (it.key, it));
        let mut touched: HashMap<PublicKey, Touched> = touched.collect();
        // What is planned for one that was touched, else that it be as it was, is what is wanted still.
        self.changes.retain(|change| {
            let planned = change.peer().filter(|change| change.tunnel == *tunnel);
            let planned = planned.and_then(|change| {
                let peer = touched.get_mut(&change.edit.any().public_key)?;
                peer.was = change.edit.after().cloned();
                Some(())
            });
            planned.is_none()
        });
        let edits = touched.into_values().filter_map(|peer| {
            let moves = moves(peer.is.as_ref(), peer.was.as_ref());
            Some((Edit::between(peer.is, peer.was)?, moves))
        });
        self.changes.extend(edits.map(|(edit, moves)| {
            let tunnel = tunnel.clone();
            Change::Peer(PeerChange {
                tunnel,
                edit,
                moves,
            })
        }));
    }
}

/// Whether a peer that stays is to be found somewhere else.
pub(super) fn moves(old: Option<&Arc<Peer>>, new: Option<&Arc<Peer>>) -> bool {
    old.zip(new)
        .is_some_and(|(old, new)| old.endpoint != new.endpoint)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Disk, parse};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn peer(number: u8, keepalive: u16) -> Arc<Peer> {
        Arc::new(Peer {
            name: name(&format!("p{number}")),
            public_key: PublicKey::from_bytes([number; 32]),
            preshared_key: None,
            preshared_key_file: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: Some(keepalive),
            pmtu: None,
            probe: None,
            labels: crate::config::Labels::default(),
            enabled: true,
        })
    }

    /// Tunnels with their marks and peers: numbers with keepalives.
    type Text = Vec<(u8, u32, Vec<(u8, u16)>)>;

    fn file(tunnels: &Text) -> Config {
        let empty = parse("version: 1\nnetworks: {}\n", Path::new("t.yaml"), &Disk);
        let (mut config, _) = empty.map_err(|report| report.render(false)).unwrap();
        for (number, fwmark, peers) in tunnels {
            let name = name(&format!("t{number}"));
            let mut seen = HashSet::new();
            if config.tunnels.iter().any(|tunnel| tunnel.name == name) {
                continue;
            }
            let peers = peers.iter().filter(|(number, _)| seen.insert(*number));
            config.tunnels.push(Tunnel {
                uplink: name.clone(),
                backups: Vec::new(),
                name,
                listen_port: 1,
                fwmark: *fwmark,
                mtu: 1420,
                pmtu: crate::config::Pmtu::Off,
                private_key_file: "/key".into(),
                private_key: None,
                preshared_keys_file: None,
                uapi: crate::config::Uapi::Off,
                peers: peers
                    .map(|&(number, keepalive)| peer(number, keepalive))
                    .collect(),
            });
        }
        config
    }

    /// What `wg` does to a tunnel: to its mark, or to a peer.
    type Set = (u8, Option<(u8, Option<u16>)>, u32);

    /// Does what can be done of it.
    fn set(layers: &mut Layers, (tunnel, touched, fwmark): Set) {
        let tunnel = name(&format!("t{tunnel}"));
        if layers.file().tunnel(&tunnel).is_none() {
            return;
        }
        let change = match touched {
            Some((number, keepalive)) => {
                let key = PublicKey::from_bytes([number; 32]);
                let old = layers.peers(&tunnel).find(|peer| peer.public_key == key);
                let new = keepalive.map(|keepalive| peer(number, keepalive));
                Edit::between(old.cloned(), new).map(|edit| {
                    let tunnel = tunnel.clone();
                    let moves = false;
                    Change::Peer(PeerChange {
                        tunnel,
                        edit,
                        moves,
                    })
                })
            }
            None => {
                let old = layers.file().tunnel(&tunnel).map(Tunnel::head).unwrap();
                let mut new = old.clone();
                new.fwmark = fwmark;
                Some(Change::Tunnel(Edit::Change { old, new }))
            }
        };
        change.iter().for_each(|change| layers.overlay(change));
    }

    fn tunnels() -> impl Strategy<Value = Text> {
        let peers = prop::collection::vec((0..8_u8, 0..3_u16), 0..6);
        prop::collection::vec((0..3_u8, 0..2_u32, peers), 0..4)
    }

    fn sets() -> impl Strategy<Value = Vec<Set>> {
        let touched = prop::option::weighted(0.8, (0..8_u8, prop::option::of(0..3_u16)));
        prop::collection::vec((0..3_u8, touched, 0..3_u32), 0..12)
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        let mut lines: Vec<_> = changes.iter().map(|change| format!("{change:?}")).collect();
        lines.sort_unstable();
        lines
    }

    /// What differs of the peers of tunnels that stay, with each looked for among all.
    fn differing(old: &Config, new: &Config) -> Vec<String> {
        let pairs = new
            .tunnels
            .iter()
            .filter_map(|new| Some((old.tunnel(&new.name)?, new)));
        let edits = pairs.flat_map(|(old, new)| {
            let of = |all: &Tunnel, peer: &Peer| {
                let mut all = all.peers.iter();
                all.find(|it| it.public_key == peer.public_key).cloned()
            };
            let gone = old.peers.iter().filter(|peer| of(new, peer).is_none());
            let gone = gone.map(|peer| Edit::Remove(Arc::clone(peer)));
            let come = new.peers.iter();
            let come = come.filter_map(|peer| Edit::between(of(old, peer), Some(Arc::clone(peer))));
            gone.chain(come).collect::<Vec<_>>()
        });
        edits.map(|edit| format!("{edit:?}")).collect()
    }

    proptest! {
        #[test]
        fn a_plan_has_every_peer_that_differs_and_no_other(
            (old, new) in (tunnels(), tunnels()),
            shares in any::<bool>(),
        ) {
            let (old, mut new) = (Layers::new(Arc::new(file(&old))), file(&new));
            if shares {
                let before = new.clone();
                old.share(&mut new);
                prop_assert_eq!(&before, &new);
                // Every one that is equal is shared.
                for tunnel in &new.tunnels {
                    let others = old.file().tunnel(&tunnel.name).into_iter().flat_map(|it| &it.peers);
                    for peer in &tunnel.peers {
                        let equal = others.clone().find(|it| *it == peer);
                        prop_assert!(equal.is_none_or(|it| Arc::ptr_eq(it, peer)));
                    }
                }
            }
            let expected = differing(old.file(), &new);
            let planned = old.way_to(&Layers::new(Arc::new(new)));
            let planned = planned.iter().filter_map(Change::peer);
            let planned = planned.filter(|it| old.file().tunnel(&it.tunnel).is_some());
            let planned: Vec<_> = planned.map(|it| format!("{:?}", it.edit)).collect();
            prop_assert_eq!(planned, expected);
        }

        #[test]
        fn a_plan_that_follows_is_one_that_is_made_anew(
            (old, new) in (tunnels(), tunnels()),
            (before, meanwhile) in (sets(), sets()),
        ) {
            let mut now = Layers::new(Arc::new(file(&old)));
            before.into_iter().for_each(|it| set(&mut now, it));
            let proposal = Proposal::new(now.clone(), file(&new));
            prop_assert_eq!(&proposal.changes, &now.way_to(&proposal.goal));
            meanwhile.into_iter().for_each(|it| set(&mut now, it));
            let anew = now.way_to(&proposal.goal);
            let followed = proposal.changes(&now);
            prop_assert_eq!(lines(&followed), lines(&anew));
            // What goes, and tunnels ahead of their peers.
            let kind = |change: &Change| change.peer().map(|peer| peer.tunnel.clone());
            for (at, change) in followed.iter().enumerate() {
                if let Some(Edit::Add(tunnel)) = change.tunnel() {
                    prop_assert!(!followed[..at].iter().any(|it| kind(it).as_ref() == Some(&tunnel.name)));
                }
            }
        }
    }
}
