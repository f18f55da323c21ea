//! What the API layer says: objects by their names, over a file.
//!
//! In: keys that were laid down for single objects; files. Out: what these objects are over a file, or why they rest.
//! Never: an object of the file that gives way to one of the same name, or to what that takes of it; a copy of all
//! objects for a change of one: a copy shares all parts, and a change copies the one that it touches.
//!
//! An object is *own*, which the file has not, or lies *over* the file's of that name: then it has the keys that differ.

mod objects;
mod over;

use std::{collections::HashMap, fmt, sync::Arc};

use self::objects::Objects;
pub use self::{
    objects::Entry,
    over::{peer, port, route, uplink},
};
use crate::config::{
    Config, IpNet, Name, NetworkRoute, NextHop, Peer, Port, Report, Uplink, object::Keys,
};
use crate::keys::PresharedKey;

/// Something that the API layer can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A port.
    Port(Name),
    /// A peer of a tunnel.
    Peer(Name, Name),
    /// A route of a network, to a prefix.
    Route(Name, IpNet),
    /// An uplink of the file's, to be switched.
    Uplink(Name),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => write!(f, "port {name}"),
            Self::Peer(tunnel, name) => write!(f, "peer {tunnel}/{name}"),
            Self::Route(network, to) => write!(f, "route {network}/{to}"),
            Self::Uplink(name) => write!(f, "uplink {name}"),
        }
    }
}

/// What the layer says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// It is the layer's own; else it lies over the file's.
    pub own: bool,
    /// Its keys; of one over the file's those that differ, some without a value: the default counts.
    pub keys: Keys,
    /// Its preshared key: one that a client gave, whose place among the keys is [`HIDDEN`], or one of a file that is
    /// named there.
    pub preshared_key: Option<Given>,
    /// Why it is not to be, whatever the file says, until somebody says something else of it.
    pub hindrance: Option<Arc<str>>,
}

/// A preshared key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The key.
    pub key: PresharedKey,
    /// The number under which it is kept; none if a file is named.
    pub number: Option<u64>,
}

/// What is told of a key that is there.
pub const HIDDEN: &str = "(hidden)";

/// Why an object of the layer is nothing over a file.
#[derive(Debug)]
pub enum Unfit {
    /// It has mistakes.
    Mistakes(Report),
    /// The file has another one of that name.
    Both,
    /// The file has not what it lies over.
    Nothing,
    /// The file has not what it is of: a tunnel, a network.
    Nowhere(&'static str),
    /// Another has what it wants.
    Taken(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistakes(report) => {
                let first = report.mistakes().first();
                f.write_str(first.map_or("it has mistakes", |mistake| &mistake.message))
            }
            Self::Both => f.write_str("the file has another one of that name"),
            Self::Nothing => f.write_str("the file has none of that name any more"),
            Self::Nowhere(of) => write!(f, "the file has no {of} of that name"),
            Self::Taken(what) => f.write_str(what),
        }
    }
}

impl Unfit {
    fn in_words(&self) -> Arc<str> {
        self.to_string().into()
    }
}

/// Routes of a network.
pub(super) type Routes = Objects<NetworkRoute, IpNet>;

/// The layer, as it is over a file.
#[derive(Clone, Debug, Default)]
pub struct Laid {
    pub(super) ports: Objects<Port>,
    peers: HashMap<Name, Arc<Objects<Peer>>>,
    routes: HashMap<Name, Arc<Routes>>,
    uplinks: Objects<Uplink>,
    turn: u64,
}

/// An object of the layer, to be told.
#[derive(Clone, Debug)]
pub struct Told {
    /// Which it is.
    pub object: Object,
    /// What was laid down.
    pub said: Arc<Said>,
    /// Why it rests, if it does.
    pub rests: Option<Arc<str>>,
}

/// What an object of the layer is.
#[derive(Clone, Debug)]
pub enum Made {
    /// A port.
    Port(Arc<Port>),
    /// A peer.
    Peer(Arc<Peer>),
    /// A route.
    Route(Arc<NetworkRoute>),
    /// An uplink.
    Uplink(Arc<Uplink>),
}

impl Laid {
    /// What was laid down, in its order, over no file yet.
    #[must_use]
    pub fn new(said: Vec<(Object, Said)>) -> Self {
        let mut api = Self::default();
        for (object, said) in said {
            api.say(&object, said);
        }
        api
    }

    /// Whether nothing was laid down.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let are_empty = self.ports.is_empty() && self.uplinks.is_empty();
        are_empty && self.peers.is_empty() && self.routes.is_empty()
    }

    /// What was laid down for an object.
    #[must_use]
    pub fn said(&self, object: &Object) -> Option<&Arc<Said>> {
        match object {
            Object::Port(name) => self.ports.get(name).map(|entry| &entry.said),
            Object::Peer(tunnel, name) => {
                let entry = self.peers_of(tunnel)?.get(name);
                entry.map(|entry| &entry.said)
            }
            Object::Route(network, to) => {
                let entry = self.routes_of(network)?.get(to);
                entry.map(|entry| &entry.said)
            }
            Object::Uplink(name) => self.uplinks.get(name).map(|entry| &entry.said),
        }
    }

    /// Why an object rests, if it does.
    #[must_use]
    pub fn rests(&self, object: &Object) -> Option<&Arc<str>> {
        match object {
            Object::Port(name) => self.ports.get(name)?.counts.as_ref().err(),
            Object::Peer(tunnel, name) => self.peers_of(tunnel)?.get(name)?.counts.as_ref().err(),
            Object::Route(network, to) => self.routes_of(network)?.get(to)?.counts.as_ref().err(),
            Object::Uplink(name) => self.uplinks.get(name)?.counts.as_ref().err(),
        }
    }

    /// All objects, in the order in which they came.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        let ports = self.ports.iter();
        let ports = ports.map(|(name, entry)| entry.tell(Object::Port(name.clone())));
        let peers = self.peers.iter().flat_map(|(tunnel, peers)| {
            let peer = |name: &Name| Object::Peer(tunnel.clone(), name.clone());
            peers
                .iter()
                .map(move |(name, entry)| entry.tell(peer(name)))
        });
        let routes = self.routes.iter().flat_map(|(network, routes)| {
            let route = |to: &IpNet| Object::Route(network.clone(), *to);
            routes.iter().map(move |(to, entry)| entry.tell(route(to)))
        });
        let uplinks = self.uplinks.iter();
        let uplinks = uplinks.map(|(name, entry)| entry.tell(Object::Uplink(name.clone())));
        let mut told: Vec<_> = ports.chain(peers).chain(routes).chain(uplinks).collect();
        told.sort_unstable_by_key(|(turn, _)| *turn);
        told.into_iter().map(|(_, told)| told).collect()
    }

    /// Objects that rest, and why.
    pub fn resting(&self) -> impl Iterator<Item = (Object, &Arc<str>)> {
        let ports = self.ports.resting();
        let ports = ports.map(|(name, why)| (Object::Port(name.clone()), why));
        let peers = self.peers.iter().flat_map(|(tunnel, peers)| {
            let peer = |name: &Name| Object::Peer(tunnel.clone(), name.clone());
            peers.resting().map(move |(name, why)| (peer(name), why))
        });
        let routes = self.routes.iter().flat_map(|(network, routes)| {
            let route = |to: &IpNet| Object::Route(network.clone(), *to);
            routes.resting().map(move |(to, why)| (route(to), why))
        });
        let uplinks = self.uplinks.resting();
        let uplinks = uplinks.map(|(name, why)| (Object::Uplink(name.clone()), why));
        ports.chain(peers).chain(routes).chain(uplinks)
    }

    /// The uplink of that name, if the layer has switched it and does not rest.
    pub(super) fn uplink(&self, name: &Name) -> Option<&Arc<Uplink>> {
        self.uplinks.counting(name)
    }

    /// A network's routes.
    pub(super) fn routes_of(&self, network: &Name) -> Option<&Routes> {
        self.routes.get(network).map(|routes| &**routes)
    }

    /// Whether there is a peer of that name over a file, were it one of the layer's or disabled.
    fn has_peer(&self, file: &Config, tunnel: &Name, name: &Name) -> bool {
        let laid = self.peers_of(tunnel).and_then(|peers| peers.counting(name));
        laid.is_some() || file.peer(tunnel, name).is_some()
    }

    /// Whether routes of the layer lead to a thing: they rest when it goes.
    #[must_use]
    pub fn leads_to(&self, file: &Config, object: &Object) -> bool {
        let Object::Peer(tunnel, name) = object else {
            return false;
        };
        let network = file.network_of_tunnel(tunnel);
        let routes = network.and_then(|network| self.routes_of(&network.name));
        let mut routes = routes.into_iter().flat_map(|routes| routes.iter());
        routes.any(|(_, entry)| match &entry.counts {
            Ok(route) => route.next_hop == NextHop::Peer(name.clone()),
            Err(_) => false,
        })
    }

    /// The port of that name, if the layer has it and it does not rest.
    pub(super) fn port(&self, name: &Name) -> Option<&Arc<Port>> {
        self.ports.counting(name)
    }

    /// A tunnel's peers.
    pub(super) fn peers_of(&self, tunnel: &Name) -> Option<&Objects<Peer>> {
        self.peers.get(tunnel).map(|peers| &**peers)
    }

    /// The layer with an object that is another, or is not there.
    #[must_use]
    pub fn with(&self, object: &Object, made: Option<(Said, Made)>) -> Self {
        let mut new = self.clone();
        new.lay(object, made.map(|(said, made)| (said, Ok(made))));
        new
    }

    /// Something else is said of an object: what it is over a file is to be looked at anew.
    pub fn say(&mut self, object: &Object, said: Said) {
        let why = "it was not looked at".into();
        self.lay(object, Some((said, Err(why))));
    }

    fn lay(&mut self, object: &Object, made: Option<(Said, Result<Made, Arc<str>>)>) {
        self.turn += 1;
        let turn = self.turn;
        match object {
            Object::Port(name) => {
                let port = |made| match made {
                    Made::Port(port) => Some(port),
                    Made::Peer(_) | Made::Route(_) | Made::Uplink(_) => None,
                };
                self.ports.lay(name, made, turn, port);
            }
            Object::Peer(tunnel, name) => {
                let peer = |made| match made {
                    Made::Peer(peer) => Some(peer),
                    Made::Port(_) | Made::Route(_) | Made::Uplink(_) => None,
                };
                let peers = self.peers.entry(tunnel.clone()).or_default();
                Arc::make_mut(peers).lay(name, made, turn, peer);
                if peers.is_empty() {
                    self.peers.remove(tunnel);
                }
            }
            Object::Route(network, to) => {
                let route = |made| match made {
                    Made::Route(route) => Some(route),
                    Made::Port(_) | Made::Peer(_) | Made::Uplink(_) => None,
                };
                let routes = self.routes.entry(network.clone()).or_default();
                Arc::make_mut(routes).lay(to, made, turn, route);
                if routes.is_empty() {
                    self.routes.remove(network);
                }
            }
            Object::Uplink(name) => {
                let uplink = |made| match made {
                    Made::Uplink(uplink) => Some(uplink),
                    Made::Port(_) | Made::Peer(_) | Made::Route(_) => None,
                };
                self.uplinks.lay(name, made, turn, uplink);
            }
        }
    }
}
