//! What the layer's objects are over a file.
//!
//! In: what was laid down, a file, the file before. Out: what each object is, or why it rests. Never: an object of the file
//! that gives way to one of the layer's, or to what that takes.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Laid, Object, Routes, Said, Unfit,
    objects::{Entry, Objects},
};
use crate::{
    config::{
        Config, IpNet, Name, NetworkRoute, NextHop, Peer, Port, Report, Span, Tunnel, Uplink,
        object::{self, Keys},
    },
    keys::PublicKey,
    plan::claims::Claims,
};

impl Laid {
    /// The layer over the same file again: what rested may count by now.
    #[must_use]
    pub fn again(&self, file: &Config) -> Self {
        self.upon(file, Some(file))
    }

    /// The layer over a file; `before` is the one that it was over. The file's objects, and what these take, are the
    /// file's; of two of the layer's own the older one has it.
    pub(in crate::plan) fn upon(&self, file: &Config, before: Option<&Config>) -> Self {
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
        for (name, entry) in self.uplinks.in_order() {
            let made = uplink(file, name, &entry.said).map(Arc::new);
            let made = made.map_err(|unfit| unfit.in_words());
            new.uplinks.put(name, Some(entry.now(made)));
        }
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
    let network = file.network_of_tunnel(name);
    let routes = network.into_iter().flat_map(|network| &network.routes);
    let routed: HashSet<_> = routes.map(|route| PeerClaim::Prefix(route.to)).collect();
    let counting = counting(&made, is_files, |over| {
        let mut owners: HashMap<PeerClaim, Name> = HashMap::new();
        for peer in tunnel.peers.iter().filter(|it| !over.contains(&it.name)) {
            for claim in claims(peer).filter(|claim| wanted.contains(claim)) {
                owners.insert(claim, peer.name.clone());
            }
        }
        let routed = &routed;
        move |name, peer: &Arc<Peer>| {
            if let Some(PeerClaim::Prefix(net)) = claims(peer).find(|it| routed.contains(it)) {
                return Some(format!("the file has a route to {net}"));
            }
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
    let owners = owners(routes, name, laid, file);
    for (to, entry) in routes.in_order() {
        let known = entry.counts.as_ref().ok().filter(|_| is_same);
        let known = known.filter(|route| missing(route, name, laid, file).is_none());
        let counts = match (owners.get(to), known) {
            (Some(peer), _) => Err(format!("{peer} has {to} among its `allowed_ips`").into()),
            (None, Some(route)) => Ok(Arc::clone(route)),
            (None, None) => route(file, laid, name, to, &entry.said)
                .map(Arc::new)
                .map_err(|unfit| unfit.in_words()),
        };
        new.put(to, Some(entry.now(counts)));
    }
    new
}

/// The peers that have prefixes of a network's routes among their own, by these.
fn owners(routes: &Routes, network: &Name, laid: &Laid, file: &Config) -> HashMap<IpNet, Object> {
    let tunnel = file.network(network).and_then(|it| it.tunnel.as_ref());
    let Some(tunnel) = tunnel.and_then(|name| file.tunnel(name)) else {
        return HashMap::new();
    };
    let over = laid.peers_of(&tunnel.name);
    let counting = |name: &Name| over.and_then(|over| over.counting(name));
    let of_file = tunnel.peers.iter();
    let of_file = of_file.filter(|peer| counting(&peer.name).is_none());
    let of_layer = over.into_iter().flat_map(|over| over.iter());
    let of_layer = of_layer.filter_map(|(_, entry)| entry.counts.as_ref().ok());
    let peers = of_file.chain(of_layer).filter(|peer| peer.enabled);
    let owners = peers.flat_map(|peer| {
        let nets = peer.allowed_ips.iter();
        let nets = nets.filter(|net| routes.get(net).is_some());
        nets.map(|net| (*net, Object::Peer(tunnel.name.clone(), peer.name.clone())))
    });
    owners.collect()
}

/// The peer that a route leads to and that is not there, in words.
pub(super) fn missing(
    route: &NetworkRoute,
    network: &Name,
    laid: &Laid,
    file: &Config,
) -> Option<String> {
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
        && (tunnel.uplinks()).all(|uplink| before.uplink(uplink) == file.uplink(uplink))
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
            && (port.networks()).all(|it| before.network(it) == file.network(it));
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

/// What an uplink is over a file: the file's, switched on or off.
///
/// # Errors
///
/// Why it is nothing.
pub fn uplink(file: &Config, name: &Name, said: &Said) -> Result<Uplink, Unfit> {
    let of_file = file.uplink(name).ok_or(Unfit::Nothing)?;
    let mut uplink = of_file.clone();
    let mut report = Report::new(Path::new(&format!("uplink {name}")), "");
    for (key, value) in &said.keys {
        let word = value.as_str();
        let switched = value.as_bool().or_else(|| word?.parse().ok());
        match (key.as_str(), switched) {
            ("enabled", Some(enabled)) => uplink.enabled = enabled,
            ("enabled", None) if value.is_null() => uplink.enabled = true,
            _ => {
                report
                    .error(Span::default(), format!("`{key}` of uplink {name} is the file's"))
                    .help("expected `enabled: true` or `enabled: false`: change the rest in the file, and apply it");
            }
        }
    }
    match report.errors() {
        0 => Ok(uplink),
        _ => Err(Unfit::Mistakes(report)),
    }
}
