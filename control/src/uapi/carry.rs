//! What a `set` makes of a tunnel's configuration.
//!
//! In: a tunnel's configuration and changes in their order. Out: the configuration that they make, and what of them
//! a configuration can't say. Never: an error: what the kernel passes over is passed over here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::Change;
use crate::config::{Endpoint, Name, Peer, Tunnel};
use crate::keys::PublicKey;

/// What a `set` says besides the configuration that it makes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Nuances {
    /// Peers that were removed and made again: they lose their sessions.
    pub made_anew: HashSet<PublicKey>,
    /// Endpoints that count even where the configuration says so already: the peer may have moved since.
    pub endpoints: HashMap<PublicKey, SocketAddr>,
}

/// Carries out `changes`. `name` knows names that peers had before.
pub fn carry_out(
    changes: &[Change],
    tunnel: &mut Tunnel,
    name: impl Fn(&PublicKey) -> Option<Name>,
) -> Nuances {
    let mut desk = Desk::new(tunnel, &name);
    for change in changes {
        desk.carry_out(change);
    }
    let Desk {
        peers,
        nuances,
        own,
        ..
    } = desk;
    tunnel.private_key = own.map(|own| own.private);
    tunnel.peers = peers.into_iter().flatten().map(Open::close).collect();
    nuances
}

/// A tunnel in parts that changes can be made to without a search.
struct Desk<'t> {
    tunnel: &'t mut Tunnel,
    known_name: &'t dyn Fn(&PublicKey) -> Option<Name>,
    own: Option<Own>,
    /// In their order; removed ones leave a gap.
    peers: Vec<Option<Open>>,
    by_key: HashMap<PublicKey, usize>,
    names: HashSet<Name>,
    /// Whose each prefix is; filled when it is first needed.
    owners: Option<HashMap<IpNet, usize>>,
    /// The peer that lines are about.
    present: Present,
    nuances: Nuances,
}

struct Own {
    private: crate::keys::PrivateKey,
    public: PublicKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Present {
    /// None: its lines change nothing.
    Nobody,
    /// One that there is; `true`: these lines made it.
    Peer(usize, bool),
}

/// A peer whose prefixes may be a set meanwhile: thousands may come in one request.
struct Open {
    peer: Peer,
    prefixes: Option<BTreeSet<IpNet>>,
}

impl Open {
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

impl<'t> Desk<'t> {
    fn new(tunnel: &'t mut Tunnel, known_name: &'t dyn Fn(&PublicKey) -> Option<Name>) -> Self {
        let peers: Vec<_> = std::mem::take(&mut tunnel.peers)
            .into_iter()
            .map(|peer| {
                Some(Open {
                    peer,
                    prefixes: None,
                })
            })
            .collect();
        let each = || peers.iter().flatten().map(|open| &open.peer);
        let by_key = each()
            .enumerate()
            .map(|(place, peer)| (peer.public_key, place))
            .collect();
        let names = each().map(|peer| peer.name.clone()).collect();
        let own = tunnel.private_key.take().map(Own::new);
        Self {
            tunnel,
            known_name,
            own,
            peers,
            by_key,
            names,
            owners: None,
            present: Present::Nobody,
            nuances: Nuances::default(),
        }
    }

    fn carry_out(&mut self, change: &Change) {
        match change {
            Change::PrivateKey(key) => {
                self.own = key.clone().map(Own::new);
                // A tunnel is not its own peer.
                if let Some(own) = self.own.as_ref().map(|own| own.public) {
                    self.remove(&own);
                }
            }
            Change::ListenPort(port) => self.tunnel.listen_port = *port,
            Change::Fwmark(mark) => self.tunnel.fwmark = *mark,
            Change::ReplacePeers => {
                for open in self.peers.iter_mut().filter_map(Option::take) {
                    self.nuances.made_anew.insert(open.peer.public_key);
                }
                self.by_key.clear();
                self.names.clear();
                self.owners = None;
                self.nuances.endpoints.clear();
            }
            Change::Peer(key) => self.present = self.find_or_make(*key),
            Change::Remove => {
                if let Some(key) = self.peer().map(|peer| peer.public_key) {
                    self.remove(&key);
                }
                self.present = Present::Nobody;
            }
            Change::UpdateOnly => {
                if let Present::Peer(place, true) = self.present {
                    let key = self.peers[place].as_ref().map(|open| open.peer.public_key);
                    if let Some(key) = key {
                        self.remove(&key);
                    }
                    self.present = Present::Nobody;
                }
            }
            Change::PresharedKey(key) => {
                if let Some(peer) = self.peer() {
                    peer.preshared_key.clone_from(key);
                }
            }
            Change::Endpoint(endpoint) => {
                if let Some(peer) = self.peer() {
                    peer.endpoint = Some(Endpoint::Address(*endpoint));
                    let key = peer.public_key;
                    self.nuances.endpoints.insert(key, *endpoint);
                }
            }
            Change::PersistentKeepalive(seconds) => {
                if let Some(peer) = self.peer() {
                    peer.persistent_keepalive = (*seconds != 0).then_some(*seconds);
                }
            }
            Change::ReplaceAllowedIps => self.drop_all_prefixes(),
            Change::AllowedIp(net) => self.give(*net),
            Change::DropAllowedIp(net) => {
                if let Present::Peer(place, _) = self.present
                    && let Some(open) = &mut self.peers[place]
                    && open.prefixes().remove(net)
                    && let Some(owners) = &mut self.owners
                {
                    owners.remove(net);
                }
            }
        }
    }

    fn peer(&mut self) -> Option<&mut Peer> {
        let Present::Peer(place, _) = self.present else {
            return None;
        };
        Some(&mut self.peers.get_mut(place)?.as_mut()?.peer)
    }

    fn find_or_make(&mut self, key: PublicKey) -> Present {
        if self.own.as_ref().is_some_and(|own| own.public == key) {
            return Present::Nobody;
        }
        if let Some(&place) = self.by_key.get(&key) {
            return Present::Peer(place, false);
        }
        let name = self.free_name(&key);
        let place = self.peers.len();
        self.names.insert(name.clone());
        self.by_key.insert(key, place);
        self.peers.push(Some(Open {
            peer: Peer {
                name,
                public_key: key,
                preshared_key: None,
                endpoint: None,
                allowed_ips: Vec::new(),
                persistent_keepalive: None,
            },
            prefixes: None,
        }));
        Present::Peer(place, true)
    }

    fn free_name(&self, key: &PublicKey) -> Name {
        (self.known_name)(key)
            .into_iter()
            .chain(names(key))
            .find(|name| !self.names.contains(name))
            .expect("of more names than there are peers, one is free")
    }

    fn remove(&mut self, key: &PublicKey) {
        let Some(place) = self.by_key.remove(key) else {
            return;
        };
        if let Some(mut open) = self.peers[place].take() {
            self.names.remove(&open.peer.name);
            if let Some(owners) = &mut self.owners {
                for net in open.prefixes().iter() {
                    owners.remove(net);
                }
            }
        }
        self.nuances.endpoints.remove(key);
        self.nuances.made_anew.insert(*key);
    }

    fn drop_all_prefixes(&mut self) {
        let Present::Peer(place, _) = self.present else {
            return;
        };
        let Some(open) = &mut self.peers[place] else {
            return;
        };
        let prefixes = std::mem::take(open.prefixes());
        if let Some(owners) = &mut self.owners {
            for net in &prefixes {
                owners.remove(net);
            }
        }
    }

    fn give(&mut self, net: IpNet) {
        let Present::Peer(place, _) = self.present else {
            return;
        };
        let peers = &self.peers;
        let owners = self.owners.get_or_insert_with(|| owners(peers));
        if let Some(before) = owners.insert(net, place)
            && before != place
            && let Some(open) = &mut self.peers[before]
        {
            open.prefixes().remove(&net);
        }
        if let Some(open) = &mut self.peers[place] {
            open.prefixes().insert(net);
        }
    }
}

impl Own {
    fn new(private: crate::keys::PrivateKey) -> Self {
        let public = private.public_key();
        Self { private, public }
    }
}

fn owners(peers: &[Option<Open>]) -> HashMap<IpNet, usize> {
    let mut owners = HashMap::new();
    for (place, open) in peers.iter().enumerate() {
        let Some(open) = open else { continue };
        let plain = open.peer.allowed_ips.iter();
        let set = open.prefixes.iter().flatten();
        owners.extend(plain.chain(set).map(|net| (*net, place)));
    }
    owners
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
