//! Where the things of a configuration stand in its lists, by name.
//!
//! In: a configuration. Out: places; a name is looked up without a look at all others. Never: a list that changes
//! after it was asked first.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Config, Name};

/// Made when it is first asked. It says nothing that the lists don't, so all are equal, and a copy, whose lists may
/// be changed, begins without.
#[derive(Debug, Default)]
pub struct Places(OnceLock<ByName>);

#[derive(Debug)]
struct ByName {
    tunnels: HashMap<Name, usize>,
    networks: HashMap<Name, usize>,
    /// Networks by the tunnels that they use.
    users: HashMap<Name, usize>,
    ports: HashMap<Name, usize>,
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl Config {
    fn by_name(&self) -> &ByName {
        self.places.0.get_or_init(|| ByName {
            tunnels: numbered(self.tunnels.iter().map(|it| Some(&it.name))),
            networks: numbered(self.networks.iter().map(|it| Some(&it.name))),
            users: numbered(self.networks.iter().map(|it| it.tunnel.as_ref())),
            ports: numbered(self.ports.iter().map(|it| Some(&it.name))),
        })
    }

    /// The place of the tunnel of that name.
    pub(super) fn tunnel_place(&self, name: &Name) -> Option<usize> {
        self.by_name().tunnels.get(name).copied()
    }

    /// The place of the network of that name.
    pub fn network_place(&self, name: &Name) -> Option<usize> {
        self.by_name().networks.get(name).copied()
    }

    /// The place of the network that uses a tunnel.
    pub(super) fn user_place(&self, tunnel: &Name) -> Option<usize> {
        self.by_name().users.get(tunnel).copied()
    }

    /// The place of the port of that name.
    pub(super) fn port_place(&self, name: &Name) -> Option<usize> {
        self.by_name().ports.get(name).copied()
    }

    /// Makes ready what look-ups take, so that the first one takes no longer than the others.
    pub fn make_ready(&self) {
        self.by_name();
    }
}

fn numbered<'n>(names: impl Iterator<Item = Option<&'n Name>>) -> HashMap<Name, usize> {
    let places = names.enumerate();
    places
        .filter_map(|(place, name)| Some((name?.clone(), place)))
        .collect()
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
