//! Where things stand in lists, by name.
//!
//! In: a configuration, or the drafts of one. Out: places; a name is looked up without a look at all others. Never: a
//! list that changes after it was asked first.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::{Config, Name, Peer};

/// The places of one list, found out when it is first asked. It says nothing that the list doesn't, so all are equal,
/// and a copy, whose list may be changed, begins without.
#[derive(Debug, Default)]
pub(super) struct ByName(OnceLock<HashMap<Name, usize>>);

impl ByName {
    /// The place of a name in the list of `names`; some things have none.
    pub(super) fn place<'n>(
        &self,
        name: &Name,
        names: impl Iterator<Item = Option<&'n Name>>,
    ) -> Option<usize> {
        let numbered = || {
            let places = names.enumerate();
            places
                .filter_map(|(place, name)| Some((name?.clone(), place)))
                .collect()
        };
        self.0.get_or_init(numbered).get(name).copied()
    }
}

impl Clone for ByName {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for ByName {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ByName {}

/// The places of a configuration's things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    tunnels: ByName,
    networks: ByName,
    /// Networks by the tunnels that they use.
    users: ByName,
    ports: ByName,
    /// Of each tunnel, found out when somebody asks for one by its name.
    peers: ByTunnel,
}

/// Peers by their tunnels and names; as [`ByName`].
#[derive(Debug, Default)]
struct ByTunnel(OnceLock<HashMap<Name, ByName>>);

impl Clone for ByTunnel {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for ByTunnel {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ByTunnel {}

impl Config {
    /// The place of the tunnel of that name.
    pub(super) fn tunnel_place(&self, name: &Name) -> Option<usize> {
        let names = self.tunnels.iter().map(|it| Some(&it.name));
        self.places.tunnels.place(name, names)
    }

    /// The place of the network of that name.
    pub fn network_place(&self, name: &Name) -> Option<usize> {
        let names = self.networks.iter().map(|it| Some(&it.name));
        self.places.networks.place(name, names)
    }

    /// The place of the network that uses a tunnel.
    pub(super) fn user_place(&self, tunnel: &Name) -> Option<usize> {
        let names = self.networks.iter().map(|it| it.tunnel.as_ref());
        self.places.users.place(tunnel, names)
    }

    /// The place of the port of that name.
    pub(super) fn port_place(&self, name: &Name) -> Option<usize> {
        let names = self.ports.iter().map(|it| Some(&it.name));
        self.places.ports.place(name, names)
    }

    /// The peer of that name of a tunnel.
    #[must_use]
    pub fn peer(&self, tunnel: &Name, name: &Name) -> Option<&Arc<Peer>> {
        let peers = &self.tunnel(tunnel)?.peers;
        let all = || {
            let tunnels = self.tunnels.iter();
            tunnels
                .map(|it| (it.name.clone(), ByName::default()))
                .collect()
        };
        let places = self.places.peers.0.get_or_init(all).get(tunnel)?;
        peers.get(places.place(name, peers.iter().map(|it| Some(&it.name)))?)
    }

    /// Makes ready what look-ups take, so that the first one takes no longer than the others.
    pub fn make_ready(&self) {
        let any = &self.node;
        self.tunnel_place(any);
        self.network_place(any);
        self.user_place(any);
        self.port_place(any);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Disk, parse};

    #[test]
    fn a_copy_whose_lists_change_finds_what_it_has() {
        let text = "version: 1
networks: {one: {gateway: [10.0.1.1/24]}, two: {gateway: [10.0.2.1/24]}}
";
        let read = parse(text, Path::new("test.yaml"), &Disk);
        let (config, _) = read.map_err(|report| report.render(false)).unwrap();
        let [one, two] = ["one", "two"].map(|name| Name::new(name).unwrap());
        assert_eq!(config.network_place(&two), Some(1));
        let mut copy = config.clone();
        assert_eq!(copy, config);
        copy.networks.remove(0);
        assert!(copy.network(&one).is_none());
        assert_eq!(copy.network(&two).map(|it| &it.name), Some(&two));
        assert!(copy.port(&one).is_none() && copy.tunnel(&one).is_none());
    }
}
