//! What ports claim, of which each belongs to one of them.
//!
//! In: ports that come and go. Out: who has what another one wants. Never: a look at all of them for one; a claim of
//! a port that is disabled.

use std::{collections::HashMap, fmt, net::IpAddr, path::PathBuf};

use crate::config::{Attachment, Config, MacAddr, Name, Network, Port, PortDriver, SocketPath};

/// What one port at a time can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Mac(Name, MacAddr),
    Address(Name, IpAddr),
    Socket(PathBuf),
    Interface(String),
    /// A network without a router has one port.
    Network(Name),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(_, mac) => write!(f, "the MAC address {mac}"),
            Self::Address(_, address) => write!(f, "the address {address}"),
            Self::Socket(path) => write!(f, "the socket {}", path.display()),
            Self::Interface(name) => write!(f, "the interface {name}"),
            Self::Network(name) => write!(f, "network {name}, which has no gateway, for itself"),
        }
    }
}

/// Who has what.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Claim, Name>);

impl Claims {
    /// Those of all these ports.
    pub fn of<'p>(config: &Config, ports: impl Iterator<Item = &'p Port>) -> Self {
        let mut claims = Self::default();
        ports.for_each(|port| claims.grant(config, port));
        claims
    }

    /// What of a port's claims another one has, in words.
    pub fn denied(&self, config: &Config, port: &Port) -> Option<String> {
        wanted(config, port).find_map(|claim| {
            let owner = self.0.get(&claim).filter(|owner| **owner != port.name)?;
            Some(format!("port {owner} has {claim}"))
        })
    }

    /// A port has what it wants; what others have stays theirs.
    pub fn grant(&mut self, config: &Config, port: &Port) {
        for claim in wanted(config, port) {
            self.0.entry(claim).or_insert_with(|| port.name.clone());
        }
    }

    /// A port has no more what it wanted.
    pub fn revoke(&mut self, config: &Config, port: &Port) {
        for claim in wanted(config, port) {
            if self.0.get(&claim) == Some(&port.name) {
                self.0.remove(&claim);
            }
        }
    }
}

fn wanted(config: &Config, port: &Port) -> impl Iterator<Item = Claim> {
    let enabled = port.enabled;
    let place = match &port.driver {
        PortDriver::Tun { interface } | PortDriver::Tap { interface } => {
            Claim::Interface(interface.clone())
        }
        PortDriver::VhostUser(at) => Claim::Socket(match &at.socket {
            SocketPath::Absolute(path) => path.components().collect(),
            // Written in two ways, the run directory decides: the control core sees to that.
            SocketPath::InRunDir(path) => {
                PathBuf::from("RUN_DIR").join(path).components().collect()
            }
        }),
    };
    let mut all = vec![place];
    for Attachment {
        network, addresses, ..
    } in &port.attachments
    {
        // In the order in which an operator would mend it.
        all.push(Claim::Mac(network.clone(), port.mac));
        let is_plain = config.network(network).is_some_and(Network::is_plain);
        all.extend(is_plain.then(|| Claim::Network(network.clone())));
        let address = |&address| Claim::Address(network.clone(), address);
        all.extend(addresses.iter().map(address));
    }
    all.into_iter().filter(move |_| enabled)
}
