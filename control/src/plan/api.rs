//! What the API layer says: objects by their names, over a file.
//!
//! In: keys that were laid down for single objects; files. Out: what these objects are over a file, or why they rest.
//! Never: an object of the file that gives way to one of the same name, or to what that takes of it; a copy of all
//! objects for a change of one: a copy shares all parts, and a change copies the one that it touches.
//!
//! An object is *own*, which the file has not, or lies *over* the file's of that name: then it has the keys that differ.

use std::{
    array,
    collections::{HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    path::PathBuf,
    sync::Arc,
};

use super::claims::Claims;
use crate::config::{
    Config, IpNet, Name, NetworkRoute, NextHop, Peer, Port, Report, Tunnel,
    object::{self, Keys},
};
use crate::keys::{PresharedKey, PublicKey};

/// Parts of a set of objects.
const PARTS: usize = 64;

/// Something that the API layer can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A port.
    Port(Name),
    /// A peer of a tunnel.
    Peer(Name, Name),
    /// A route of a network, to a prefix.
    Route(Name, IpNet),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => write!(f, "port {name}"),
            Self::Peer(tunnel, name) => write!(f, "peer {tunnel}/{name}"),
            Self::Route(network, to) => write!(f, "route {network}/{to}"),
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

/// An object of the layer.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// What was laid down.
    pub said: Arc<Said>,
    /// What it is; or why it rests, and the file counts alone.
    pub counts: Result<Arc<T>, Arc<str>>,
    /// When it came, among the others.
    pub turn: u64,
}

type Part<T, K> = HashMap<K, Entry<T>>;

/// Objects by their names; routes by where they lead.
#[derive(Clone, Debug)]
pub(super) struct Objects<T, K = Name>(Box<[Arc<Part<T, K>>; PARTS]>);

impl<T, K> Default for Objects<T, K> {
    fn default() -> Self {
        let empty = Arc::default();
        Self(Box::new(array::from_fn(|_| Arc::clone(&empty))))
    }
}

impl<T, K: Clone + Eq + Hash> Objects<T, K> {
    /// What an object is, if the layer has it and it does not rest.
    pub(super) fn counting(&self, name: &K) -> Option<&Arc<T>> {
        self.get(name)?.counts.as_ref().ok()
    }

    pub(super) fn get(&self, name: &K) -> Option<&Entry<T>> {
        self.0[part(name)].get(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|part| part.is_empty())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Entry<T>)> {
        self.0.iter().flat_map(|part| part.iter())
    }

    /// Those that rest, and why.
    fn resting(&self) -> impl Iterator<Item = (&K, &Arc<str>)> {
        self.iter()
            .filter_map(|(key, entry)| Some((key, entry.counts.as_ref().err()?)))
    }

    /// All, in the order in which they came.
    pub(super) fn in_order(&self) -> Vec<(&K, &Entry<T>)> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by_key(|(_, entry)| entry.turn);
        all
    }

    /// Has an object be what `entry` says, or not at all.
    fn put(&mut self, name: &K, entry: Option<Entry<T>>)
    where
        T: Clone,
    {
        let part = Arc::make_mut(&mut self.0[part(name)]);
        match entry {
            Some(entry) => drop(part.insert(name.clone(), entry)),
            None => drop(part.remove(name)),
        }
    }
}

/// Which part has a key.
fn part(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % PARTS as u64).unwrap_or_default()
}

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
        self.ports.is_empty() && self.peers.is_empty() && self.routes.is_empty()
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
        }
    }

    /// Why an object rests, if it does.
    #[must_use]
    pub fn rests(&self, object: &Object) -> Option<&Arc<str>> {
        match object {
            Object::Port(name) => self.ports.get(name)?.counts.as_ref().err(),
            Object::Peer(tunnel, name) => self.peers_of(tunnel)?.get(name)?.counts.as_ref().err(),
            Object::Route(network, to) => self.routes_of(network)?.get(to)?.counts.as_ref().err(),
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
        let mut told: Vec<_> = ports.chain(peers).chain(routes).collect();
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
        ports.chain(peers).chain(routes)
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
                    Made::Peer(_) | Made::Route(_) => None,
                };
                self.ports.lay(name, made, turn, port);
            }
            Object::Peer(tunnel, name) => {
                let peer = |made| match made {
                    Made::Peer(peer) => Some(peer),
                    Made::Port(_) | Made::Route(_) => None,
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
                    Made::Port(_) | Made::Peer(_) => None,
                };
                let routes = self.routes.entry(network.clone()).or_default();
                Arc::make_mut(routes).lay(to, made, turn, route);
                if routes.is_empty() {
                    self.routes.remove(network);
                }
            }
        }
    }

    /// The layer over the same file again: what rested may count by now.
    #[must_use]
    pub fn again(&self, file: &Config) -> Self {
        self.upon(file, Some(file))
    }

    /// The layer over a file; `before` is the one that it was over. The file's objects, and what these take, are the
    /// file's; of two of the layer's own the older one has it.
    pub(super) fn upon(&self, file: &Config, before: Option<&Config>) -> Self {
        let peers = self.peers.iter().map(|(tunnel, peers)| {
            let peers = peers_upon(peers, tunnel, file, before);
            (tunnel.clone(), Arc::new(peers))
        });
        let mut new = Self {
            peers: peers.collect(),
            ..self.clone()
        };
        let routes = self.routes.iter().map(|(network, routes)| {
            let routes = routes_upon(routes, network, &new, file, before);
            (network.clone(), Arc::new(routes))
        });
        new.routes = routes.collect();
        if self.ports.is_empty() {
            return new;
        }
        let made = self.ports.in_order().into_iter().map(|(name, entry)| {
            let known = before.and_then(|before| entry.known(name, before, file));
            let made = match known {
                Some(port) => Ok(port),
                None => port(file, name, &entry.said).map(|(port, _)| Arc::new(port)),
            };
            (name, entry, made.map_err(|unfit| unfit.in_words()))
        });
        let made: Vec<_> = made.collect();
        let is_files = |name: &Name| file.port(name).is_some();
        let counting = counting(&made, is_files, |over| {
            let untouched = file.ports.iter().filter(|port| !over.contains(&port.name));
            let mut claims = Claims::of(file, untouched);
            move |_, port: &Arc<Port>| {
                let denied = claims.denied(file, port);
                if denied.is_none() {
                    claims.grant(file, port);
                }
                denied
            }
        });
        for ((name, entry, _), counts) in made.iter().zip(counting) {
            new.ports.put(name, Some(entry.now(counts)));
        }
        new
    }
}

/// An object of the layer, and what it is over a file, or why it is nothing.
type Candidate<'l, T> = (&'l Name, &'l Entry<T>, Result<Arc<T>, Arc<str>>);

/// Which objects count. What lies over one of the file's has what it says in the place of what that has, ahead of the
/// layer's own, whatever came first: one that rests takes nothing from anybody. Where it can't, the file's has its own
/// again, and all are looked at anew.
///
/// `begin` is told which of the file's are not as the file says. What it makes is asked whether an object can be had, and
/// why not, and takes note of those that can.
fn counting<T, F: FnMut(&Name, &Arc<T>) -> Option<String>>(
    made: &[Candidate<'_, T>],
    is_files: impl Fn(&Name) -> bool,
    begin: impl Fn(&HashSet<&Name>) -> F,
) -> Vec<Result<Arc<T>, Arc<str>>> {
    let over = made
        .iter()
        .filter(|(name, _, made)| made.is_ok() && is_files(name));
    let mut over: HashSet<&Name> = over.map(|(name, ..)| *name).collect();
    let mut resting: HashMap<&Name, Arc<str>> = HashMap::new();
    loop {
        let mut denied = begin(&over);
        let mut first = None;
        let mut turns: Vec<_> = made.iter().enumerate().collect();
        turns.sort_by_key(|(_, (name, ..))| !over.contains(name));
        let counts = turns.into_iter().map(|(at, (name, _, made))| {
            let made = match (made, resting.get(name)) {
                (Ok(made), None) => made,
                (Err(why), _) | (Ok(_), Some(why)) => return (at, Err(Arc::clone(why))),
            };
            let Some(why) = denied(name, made) else {
                return (at, Ok(Arc::clone(made)));
            };
            let why: Arc<str> = why.into();
            if over.contains(name) {
                first.get_or_insert((*name, Arc::clone(&why)));
            }
            (at, Err(why))
        });
        let mut counts: Vec<_> = counts.collect();
        counts.sort_unstable_by_key(|(at, _)| *at);
        let Some((name, why)) = first else {
            return counts.into_iter().map(|(_, it)| it).collect();
        };
        over.remove(name);
        resting.insert(name, why);
    }
}

impl<T: Clone, K: Clone + Eq + Hash> Objects<T, K> {
    fn lay(
        &mut self,
        name: &K,
        made: Option<(Said, Result<Made, Arc<str>>)>,
        turn: u64,
        own: impl Fn(Made) -> Option<Arc<T>>,
    ) {
        let turn = self.get(name).map_or(turn, |entry| entry.turn);
        let other = || Arc::from("it is another kind of object");
        let entry = made.map(|(said, made)| Entry {
            said: Arc::new(said),
            counts: made.and_then(|made| own(made).ok_or_else(other)),
            turn,
        });
        self.put(name, entry);
    }
}

impl<T: Clone> Entry<T> {
    fn tell(&self, object: Object) -> (u64, Told) {
        let told = Told {
            object,
            said: Arc::clone(&self.said),
            rests: self.counts.as_ref().err().cloned(),
        };
        (self.turn, told)
    }

    /// The same over another file.
    fn now(&self, counts: Result<Arc<T>, Arc<str>>) -> Self {
        Self {
            counts,
            ..self.clone()
        }
    }
}

/// What one peer of a tunnel at a time can have.
#[derive(Clone, PartialEq, Eq, Hash)]
enum PeerClaim {
    Key(PublicKey),
    Prefix(IpNet),
}

fn claims(peer: &Peer) -> impl Iterator<Item = PeerClaim> {
    let prefixes = peer.allowed_ips.iter().copied().map(PeerClaim::Prefix);
    // A key is whose it is. What is routed to a disabled peer may be routed to another.
    let prefixes = prefixes.filter(|_| peer.enabled);
    [PeerClaim::Key(peer.public_key)]
        .into_iter()
        .chain(prefixes)
}

/// The layer's peers of a tunnel over a file. Of the file's, who has what these want is looked at, and no more.
fn peers_upon(
    laid: &Objects<Peer>,
    name: &Name,
    file: &Config,
    before: Option<&Config>,
) -> Objects<Peer> {
    let mut new = laid.clone();
    let Some(tunnel) = file.tunnel(name) else {
        for (name, entry) in laid.in_order() {
            new.put(
                name,
                Some(entry.now(Err(Unfit::Nowhere("tunnel").in_words()))),
            );
        }
        return new;
    };
    let is_same = before.is_some_and(|before| is_same_tunnel(tunnel, before, file));
    let known = |name: &Name, entry: &Entry<Peer>| {
        let before = before.filter(|_| is_same)?.peer(&tunnel.name, name);
        let known = entry.counts.as_ref().ok().cloned();
        known.filter(|_| before == file.peer(&tunnel.name, name))
    };
    let made = laid.in_order().into_iter().map(|(name, entry)| {
        let made = match known(name, entry) {
            Some(peer) => Ok(peer),
            None => peer(file, tunnel, name, &entry.said).map(|(peer, _)| peer),
        };
        (name, entry, made.map_err(|unfit: Unfit| unfit.in_words()))
    });
    let made: Vec<_> = made.collect();
    let peers = made.iter().filter_map(|(.., made)| made.as_ref().ok());
    let wanted: HashSet<_> = peers.flat_map(|peer| claims(peer)).collect();
    let is_files = |peer: &Name| file.peer(name, peer).is_some();
    let counting = counting(&made, is_files, |over| {
        let mut owners: HashMap<PeerClaim, Name> = HashMap::new();
        for peer in tunnel.peers.iter().filter(|it| !over.contains(&it.name)) {
            for claim in claims(peer).filter(|claim| wanted.contains(claim)) {
                owners.insert(claim, peer.name.clone());
            }
        }
        move |name, peer: &Arc<Peer>| {
            let other = claims(peer).find_map(|it| owners.get(&it).filter(|other| *other != name));
            if let Some(other) = other {
                return Some(format!("peer {other} has its key or one of its prefixes"));
            }
            owners.extend(claims(peer).map(|claim| (claim, name.clone())));
            None
        }
    });
    for ((name, entry, _), counts) in made.iter().zip(counting) {
        new.put(name, Some(entry.now(counts)));
    }
    new
}

/// The layer's routes of a network over a file; `laid` has the peers over it already.
fn routes_upon(
    routes: &Routes,
    name: &Name,
    laid: &Laid,
    file: &Config,
    before: Option<&Config>,
) -> Routes {
    let mut new = routes.clone();
    let is_same = before.is_some_and(|before| before.network(name) == file.network(name));
    for (to, entry) in routes.in_order() {
        let known = entry.counts.as_ref().ok().filter(|_| is_same);
        let known = known.filter(|route| missing(route, name, laid, file).is_none());
        let counts = match known {
            Some(route) => Ok(Arc::clone(route)),
            None => route(file, laid, name, to, &entry.said)
                .map(Arc::new)
                .map_err(|unfit| unfit.in_words()),
        };
        new.put(to, Some(entry.now(counts)));
    }
    new
}

/// The peer that a route leads to and that is not there, in words.
fn missing(route: &NetworkRoute, network: &Name, laid: &Laid, file: &Config) -> Option<String> {
    let NextHop::Peer(peer) = &route.next_hop else {
        return None;
    };
    let tunnel = file.network(network)?.tunnel.as_ref()?;
    let is_there = laid.has_peer(file, tunnel, peer);
    (!is_there).then(|| format!("tunnel {tunnel} has no peer {peer}"))
}

/// What a route is over a file and the layer's peers.
///
/// # Errors
///
/// Why it is nothing.
pub fn route(
    file: &Config,
    laid: &Laid,
    network: &Name,
    to: &IpNet,
    said: &Said,
) -> Result<NetworkRoute, Unfit> {
    let of = file.network(network).ok_or(Unfit::Nowhere("network"))?;
    let of_file = of.routes.iter().find(|route| route.to == *to);
    if of_file.is_none() && !said.own {
        return Err(Unfit::Nothing);
    }
    let route = object::route(file, of, to, &said.keys).map_err(Unfit::Mistakes)?;
    if let Some(what) = missing(&route, network, laid, file) {
        return Err(Unfit::Taken(what));
    }
    if said.own && of_file.is_some_and(|of_file| *of_file != route) {
        return Err(Unfit::Both);
    }
    Ok(route)
}

/// Whether all is the same that a tunnel's peers depend on.
fn is_same_tunnel(tunnel: &Tunnel, before: &Config, file: &Config) -> bool {
    let head = before.tunnel(&tunnel.name).map(Tunnel::head);
    head == Some(tunnel.head())
        && before.uplink(&tunnel.uplink) == file.uplink(&tunnel.uplink)
        && before.network_of_tunnel(&tunnel.name) == file.network_of_tunnel(&tunnel.name)
}

/// What a peer is over a file, with warnings.
///
/// # Errors
///
/// Why it is nothing.
pub fn peer(
    file: &Config,
    tunnel: &Tunnel,
    name: &Name,
    said: &Said,
) -> Result<(Arc<Peer>, Report), Unfit> {
    let of_file = file.peer(&tunnel.name, name);
    let mut keys = match (of_file, said.own) {
        (Some(of_file), false) => object::peer_keys(of_file),
        (None, false) => return Err(Unfit::Nothing),
        (_, true) => Keys::new(),
    };
    if let Some(why) = &said.hindrance {
        return Err(Unfit::Taken(why.to_string()));
    }
    object::lay(&mut keys, &said.keys);
    object::take_secret(&mut keys);
    let (mut peer, report) = object::peer(file, tunnel, name, &keys).map_err(Unfit::Mistakes)?;
    let new = Arc::make_mut(&mut peer);
    match of_file.filter(|_| !said.own && !object::says_secret(&said.keys)) {
        Some(of_file) => {
            new.preshared_key.clone_from(&of_file.preshared_key);
            new.preshared_key_file
                .clone_from(&of_file.preshared_key_file);
        }
        None => {
            new.preshared_key = said.preshared_key.as_ref().map(|it| it.key.clone());
            new.preshared_key_file = object::key_file(&said.keys).map(PathBuf::from);
        }
    }
    if said.own && of_file.is_some_and(|of_file| *of_file != peer) {
        return Err(Unfit::Both);
    }
    Ok((peer, report))
}

impl Entry<Port> {
    /// What it was over another file, where all is the same that it depends on.
    fn known(&self, name: &Name, before: &Config, file: &Config) -> Option<Arc<Port>> {
        let port = self.counts.as_ref().ok()?;
        let is_same = before.port(name) == file.port(name)
            && before.cores.workers.len() == file.cores.workers.len()
            && before.network(&port.network) == file.network(&port.network);
        is_same.then(|| Arc::clone(port))
    }
}

/// What a port is over a file, with warnings.
///
/// # Errors
///
/// Why it is nothing.
pub fn port(file: &Config, name: &Name, said: &Said) -> Result<(Port, Report), Unfit> {
    let mut keys = Keys::new();
    let of_file = file.port(name);
    match (of_file, said.own) {
        (Some(of_file), false) => {
            keys = object::port_keys(file, of_file);
            if said.keys.contains_key("queues") {
                // As many workers as there were queues.
                keys.remove("queue_workers");
            }
        }
        (None, false) => return Err(Unfit::Nothing),
        (_, true) => {}
    }
    object::lay(&mut keys, &said.keys);
    let (port, report) = object::port(file, name, &keys).map_err(Unfit::Mistakes)?;
    if said.own && of_file.is_some_and(|of_file| *of_file != port) {
        return Err(Unfit::Both);
    }
    Ok((port, report))
}
