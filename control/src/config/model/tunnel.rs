//! WireGuard devices and their peers.
//!
//! In: nothing; [`super::super::build`] makes these, and [`crate::plan`] what `wg` changed of them. Out: what the
//! protocol and the queues are made from. Never: a file's text.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Labels, Name};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// A WireGuard device with its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The operator's name for it.
    pub name: Name,
    /// Where its datagrams leave and arrive.
    pub uplink: Name,
    /// Where they do as well, in this order, when that does not work.
    pub backups: Vec<Name>,
    /// Its UDP port on every address of the uplink. 0 asks for any free one; a running configuration has its
    /// number.
    pub listen_port: u16,
    /// The mark on its packets (`SO_MARK`; UDP uplinks only); 0 is none.
    pub fwmark: u32,
    /// The largest inner IP packet, in bytes.
    pub mtu: u16,
    /// What is known of the paths to its peers.
    pub pmtu: Pmtu,
    /// Where the private key came from; empty if from no file.
    pub private_key_file: PathBuf,
    /// Its identity. The file's tunnels have one; without, nothing is sent or answered.
    pub private_key: Option<PrivateKey>,
    /// The file with the preshared keys of those peers that name it as theirs.
    pub preshared_keys_file: Option<PathBuf>,
    /// Whether and where `wg` finds it.
    pub uapi: Uapi,
    /// In the file's order; no two share a public key or an allowed prefix. Whoever keeps one shares it.
    pub peers: Vec<Arc<Peer>>,
}

impl Tunnel {
    /// The tunnel itself, without its peers.
    #[must_use]
    pub fn head(&self) -> Self {
        Self {
            name: self.name.clone(),
            uplink: self.uplink.clone(),
            backups: self.backups.clone(),
            private_key_file: self.private_key_file.clone(),
            private_key: self.private_key.clone(),
            preshared_keys_file: self.preshared_keys_file.clone(),
            uapi: self.uapi.clone(),
            peers: Vec::new(),
            ..*self
        }
    }

    /// Its uplinks, the first choice first.
    pub fn uplinks(&self) -> impl Iterator<Item = &Name> + Clone {
        std::iter::once(&self.uplink).chain(&self.backups)
    }

    /// Shares the peers with others that are equal: they are kept once, and compared at a glance.
    pub fn share<'p>(&mut self, others: impl Iterator<Item = &'p Arc<Peer>>) {
        let others: Vec<_> = others.collect();
        let ours: Vec<_> = self.peers.iter().collect();
        // Mostly they come in the same order, and none of those has to be looked for.
        let (ahead, behind) = common_ends(&ours, &others, |one, other| is_same(one, other));
        let middle = ahead..others.len() - behind;
        let moved = others[middle.clone()].iter();
        let moved: HashMap<_, _> = moved.map(|peer| (peer.public_key, *peer)).collect();
        let from = self.peers.len() - behind;
        for (place, peer) in self.peers.iter_mut().enumerate() {
            let other = match place {
                _ if place < ahead => Some(others[place]),
                _ if place < from => moved.get(&peer.public_key).copied(),
                _ => Some(others[middle.end + (place - from)]),
            };
            if let Some(other) = other.filter(|it| !Arc::ptr_eq(it, peer) && *it == peer) {
                *peer = Arc::clone(other);
            }
        }
    }

    /// The peer of that name.
    pub fn peer(&self, name: &Name) -> Option<&Arc<Peer>> {
        self.peers.iter().find(|peer| &peer.name == name)
    }
}

/// Whether two are one peer, by its key: what else it has may differ.
pub(crate) fn is_same(one: &Arc<Peer>, other: &Arc<Peer>) -> bool {
    Arc::ptr_eq(one, other) || one.public_key == other.public_key
}

/// How many things two lists begin with, and how many of the rest they end with, that are the same.
pub(crate) fn common_ends<A, B>(
    one: &[A],
    two: &[B],
    is_same: impl Fn(&A, &B) -> bool,
) -> (usize, usize) {
    let ahead = one.iter().zip(two);
    let ahead = ahead.take_while(|(one, two)| is_same(one, two)).count();
    let behind = one[ahead..].iter().rev().zip(two[ahead..].iter().rev());
    let behind = behind.take_while(|(one, two)| is_same(one, two)).count();
    (ahead, behind)
}

/// Whether and under which name `wg` finds a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uapi {
    /// Under the tunnel's name, if that can be had.
    #[default]
    Auto,
    /// Under this name, or the configuration is refused.
    Name(Name),
    /// Not at all.
    Off,
}

/// The far end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The operator's name for it.
    pub name: Name,
    /// Its identity.
    pub public_key: PublicKey,
    /// The symmetric key shared with it, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where that came from; none if from no file.
    pub preshared_key_file: Option<PathBuf>,
    /// Where it listens, if it is known from the start.
    pub endpoint: Option<Endpoint>,
    /// Prefixes behind it, host bits cleared.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; none without one.
    pub persistent_keepalive: Option<u16>,
    /// What is known of the path to it; none is the tunnel's.
    pub pmtu: Option<Pmtu>,
    /// Who answers pings behind it; none is the first single address there.
    pub probe: Option<IpAddr>,
    /// What others call it.
    pub labels: Labels,
    /// Else it has no session, and nothing is routed to it.
    pub enabled: bool,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pmtu {
    /// Nothing: too long datagrams are cut on the way.
    #[default]
    Off,
    /// What probes find out.
    Probe,
    /// The longest IP packet that passes, in bytes.
    Fixed(NonZeroU16),
}

impl fmt::Display for Pmtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Probe => f.write_str("probe"),
            Self::Fixed(mtu) => mtu.fmt(f),
        }
    }
}

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket address.
    Address(SocketAddr),
    /// What has to be looked up while the tunnel runs (UDP uplinks only).
    Host {
        /// A DNS name, or a link-local address with the name of an interface (`fe80::1%eth0`).
        name: String,
        /// The UDP port.
        port: u16,
    },
}

impl Endpoint {
    /// The address, unless it has a name.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Host { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            // An address with a zone.
            Self::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}
