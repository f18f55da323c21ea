//! What a `set` makes of a tunnel.
//!
//! In: a tunnel as it stands, and changes in their order. Out: the typed changes that they come to. Never: an error:
//! what the kernel passes over is passed over here; a look at peers that nothing is said about.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;

use super::Change;
use crate::config::{Endpoint, Labels, Name, Peer, Tunnel};
use crate::keys::PublicKey;
use crate::plan::{self, Edit, PeerChange};

/// A tunnel as it stands, to look things up in.
pub trait Standing {
    /// The tunnel itself.
    fn head(&self) -> &Tunnel;
    /// Its own public key.
    fn own_key(&self) -> Option<PublicKey>;
    /// The peer with that key.
    fn peer(&self, key: &PublicKey) -> Option<Arc<Peer>>;
    /// All peers' keys.
    fn keys(&self) -> Vec<PublicKey>;
    /// The peer that has this very prefix.
    fn owner(&self, net: &IpNet) -> Option<PublicKey>;
    /// Whether a peer has that name.
    fn is_named(&self, name: &Name) -> bool;
    /// The name that a peer had before, if one is remembered.
    fn former_name(&self, key: &PublicKey) -> Option<Name>;
}

/// What `changes` come to.
pub fn carry_out(changes: &[Change], standing: &impl Standing) -> Vec<plan::Change> {
    let mut desk = Desk::new(standing);
    for change in changes {
        desk.carry_out(change);
    }
    desk.close()
}

/// The parts of a tunnel that were touched.
struct Desk<'s, S> {
    standing: &'s S,
    head: Tunnel,
    own: Option<PublicKey>,
    /// In the order in which they were touched first.
    touched: Vec<Touched>,
    by_key: HashMap<PublicKey, usize>,
    /// Whose touched prefixes are now; the others are as they stand.
    owners: HashMap<IpNet, Option<PublicKey>>,
    /// Names that were given, and taken away.
    named: HashMap<Name, bool>,
    made: usize,
    /// The peer that lines are about.
    present: Present,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Present {
    /// None: its lines change nothing.
    Nobody,
    /// One that there is; `true`: these lines made it.
    Peer(usize, bool),
}

struct Touched {
    key: PublicKey,
    before: Option<Arc<Peer>>,
    now: Option<Open>,
    /// It was removed in between: its session is lost.
    anew: bool,
    /// An endpoint was named: it counts even if it was configured before.
    moves: bool,
    /// When it was made, among those that were.
    made: Option<usize>,
}

/// A peer whose prefixes may be a set meanwhile: thousands may come in one request.
struct Open {
    peer: Peer,
    prefixes: Option<BTreeSet<IpNet>>,
}

impl Open {
    fn new(peer: Peer) -> Self {
        let prefixes = None;
        Self { peer, prefixes }
    }

    fn prefixes(&mut self) -> &mut BTreeSet<IpNet> {
        let own = &mut self.peer.allowed_ips;
        self.prefixes
            .get_or_insert_with(|| std::mem::take(own).into_iter().collect())
    }

    fn close(mut self) -> Peer {
        if let Some(prefixes) = self.prefixes {
            self.peer.allowed_ips = prefixes.into_iter().collect();
        }
        self.peer
    }
}

impl Touched {
    /// What goes, and what comes or changes.
    fn close(self) -> (Option<Arc<Peer>>, Option<Edit<Arc<Peer>>>) {
        let now = self.now.map(|open| Arc::new(open.close()));
        match (self.before, now) {
            (Some(before), Some(now)) if self.anew => (Some(before), Some(Edit::Add(now))),
            (Some(old), Some(new)) if self.moves => (None, Some(Edit::Change { old, new })),
            (Some(before), None) => (Some(before), None),
            (before, now) => (None, Edit::between(before, now)),
        }
    }
}

impl<'s, S: Standing> Desk<'s, S> {
    fn new(standing: &'s S) -> Self {
        Self {
            standing,
            head: standing.head().head(),
            own: standing.own_key(),
            touched: Vec::new(),
            by_key: HashMap::new(),
            owners: HashMap::new(),
            named: HashMap::new(),
            made: 0,
            present: Present::Nobody,
        }
    }

    /// What goes makes room for what comes: prefixes and names pass from one to the other.
    fn close(mut self) -> Vec<plan::Change> {
        let tunnel = self.head.name.clone();
        let old = self.standing.head().head();
        let head = Edit::between(Some(old), Some(self.head)).map(plan::Change::Tunnel);
        self.touched.sort_by_key(|touched| touched.made);
        let (mut gone, mut edited) = (Vec::new(), Vec::new());
        let peer = |edit, moves| {
            let tunnel = tunnel.clone();
            plan::Change::Peer(PeerChange {
                tunnel,
                edit,
                moves,
            })
        };
        for touched in self.touched {
            let moves = touched.moves;
            let (before, edit) = touched.close();
            gone.extend(before.map(|before| peer(Edit::Remove(before), false)));
            edited.extend(edit.map(|edit| peer(edit, moves)));
        }
        head.into_iter().chain(gone).chain(edited).collect()
    }

    fn carry_out(&mut self, change: &Change) {
        match change {
            Change::PrivateKey(key) => {
                self.own = key.as_ref().map(|key| key.public_key());
                if self.head.private_key != *key {
                    self.head.private_key.clone_from(key);
                    self.head.private_key_file = PathBuf::new();
                }
                // A tunnel is not its own peer.
                if let Some(place) = self.own.and_then(|own| self.touch(own)) {
                    self.remove(place);
                }
            }
            Change::ListenPort(port) => self.head.listen_port = *port,
            Change::Fwmark(mark) => self.head.fwmark = *mark,
            Change::ReplacePeers => {
                for key in self.standing.keys() {
                    self.touch(key);
                }
                for place in 0..self.touched.len() {
                    self.remove(place);
                }
            }
            Change::Peer(key) => self.present = self.find_or_make(*key),
            Change::Remove => {
                if let Present::Peer(place, _) = self.present {
                    self.remove(place);
                }
                self.present = Present::Nobody;
            }
            Change::UpdateOnly => {
                if let Present::Peer(place, true) = self.present {
                    self.remove(place);
                    self.present = Present::Nobody;
                }
            }
            Change::PresharedKey(key) => {
                if let Some(open) = self.open()
                    && open.peer.preshared_key != *key
                {
                    open.peer.preshared_key.clone_from(key);
                    open.peer.preshared_key_file = None;
                }
            }
            Change::Endpoint(endpoint) => {
                if let Present::Peer(place, _) = self.present {
                    self.touched[place].moves = true;
                }
                if let Some(open) = self.open() {
                    open.peer.endpoint = Some(Endpoint::Address(*endpoint));
                }
            }
            Change::PersistentKeepalive(seconds) => {
                if let Some(open) = self.open() {
                    open.peer.persistent_keepalive = (*seconds != 0).then_some(*seconds);
                }
            }
            Change::ReplaceAllowedIps => self.drop_all_prefixes(),
            Change::AllowedIp(net) => self.give(*net),
            Change::DropAllowedIp(net) => {
                if self.open().is_some_and(|open| open.prefixes().remove(net)) {
                    self.owners.insert(*net, None);
                }
            }
        }
    }

    /// The peer that lines are about.
    fn open(&mut self) -> Option<&mut Open> {
        let Present::Peer(place, _) = self.present else {
            return None;
        };
        self.touched.get_mut(place)?.now.as_mut()
    }

    /// The place of a peer that there is, or that there was.
    fn touch(&mut self, key: PublicKey) -> Option<usize> {
        if let Some(&place) = self.by_key.get(&key) {
            return Some(place);
        }
        let peer = self.standing.peer(&key)?;
        let now = Some(Open::new(Peer::clone(&peer)));
        Some(self.put(key, Some(peer), now))
    }

    fn put(&mut self, key: PublicKey, before: Option<Arc<Peer>>, now: Option<Open>) -> usize {
        let place = self.touched.len();
        self.by_key.insert(key, place);
        self.touched.push(Touched {
            key,
            before,
            now,
            anew: false,
            moves: false,
            made: None,
        });
        place
    }

    fn find_or_make(&mut self, key: PublicKey) -> Present {
        if self.own == Some(key) {
            return Present::Nobody;
        }
        let place = self.touch(key).unwrap_or_else(|| self.put(key, None, None));
        if self.touched[place].now.is_some() {
            return Present::Peer(place, false);
        }
        let name = self.free_name(&key);
        self.named.insert(name.clone(), true);
        self.made += 1;
        self.touched[place].made = Some(self.made);
        self.touched[place].now = Some(Open::new(Peer {
            name,
            public_key: key,
            preshared_key: None,
            preshared_key_file: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            pmtu: None,
            probe: None,
            labels: Labels::default(),
            enabled: true,
        }));
        Present::Peer(place, true)
    }

    fn free_name(&self, key: &PublicKey) -> Name {
        let before = self.by_key.get(key);
        let before = before.and_then(|&place| self.touched[place].before.as_ref());
        let before = before.map(|peer| peer.name.clone());
        let taken = |name: &Name| {
            let now = self.named.get(name).copied();
            now.unwrap_or_else(|| self.standing.is_named(name))
        };
        (before.into_iter())
            .chain(self.standing.former_name(key))
            .chain(names(key))
            .find(|name| !taken(name))
            .expect("of more names than there are peers, one is free")
    }

    fn remove(&mut self, place: usize) {
        let Some(touched) = self.touched.get_mut(place) else {
            return;
        };
        let Some(open) = touched.now.take() else {
            return;
        };
        touched.anew = true;
        touched.moves = false;
        let peer = open.close();
        self.named.insert(peer.name, false);
        let gone = peer.allowed_ips.into_iter().map(|net| (net, None));
        self.owners.extend(gone);
    }

    fn drop_all_prefixes(&mut self) {
        let prefixes = self.open().map(|open| std::mem::take(open.prefixes()));
        let gone = prefixes.into_iter().flatten().map(|net| (net, None));
        self.owners.extend(gone);
    }

    fn give(&mut self, net: IpNet) {
        let Present::Peer(place, _) = self.present else {
            return;
        };
        let key = self.touched[place].key;
        let now = self.owners.insert(net, Some(key));
        let before = now.unwrap_or_else(|| self.standing.owner(&net));
        let before = before.filter(|before| *before != key);
        if let Some(before) = before.and_then(|before| self.touch(before))
            && let Some(open) = &mut self.touched[before].now
        {
            open.prefixes().remove(&net);
        }
        if let Some(open) = self.open() {
            open.prefixes().insert(net);
        }
    }
}

/// Names for a peer that has none: what `wg` shows of it, as far as a name can hold that.
fn names(key: &PublicKey) -> impl Iterator<Item = Name> {
    let text = key.to_base64().replace('+', "-").replace('/', "_");
    let letters = text.trim_end_matches('=').to_owned();
    let short = Name::new(&format!("wg-{}", &letters[..8]));
    let long = Name::new(&format!("wg-{letters}"));
    let numbered = (2_u32..).filter_map(move |n| Name::new(&format!("wg-{letters}-{n}")));
    short.into_iter().chain(long).chain(numbered)
}

#[cfg(test)]
mod tests;
