//! Ports, from one configuration to the next.
//!
//! In: a checked configuration, ports that were opened for it. Out: the ports as it has them, and what others are to
//! hear of addresses that moved.
//! Never: a guest's connection closed whose port can stay.

use std::net::IpAddr;

use culvert_dataplane::shared::{
    control_link::Command,
    ids::{NetworkIndex, PortIndex},
};

use super::super::{Engine, interfaces::Keeper, ports::PortState};
use crate::config::{self, Config};

impl Engine {
    /// What others are to hear of a change: of running guests that gained addresses, and of addresses that are no
    /// port's any more.
    pub(super) fn moves(&self, new: &Config) -> Vec<Command> {
        let arrived = self.ports.iter().filter(|(_, port)| {
            let is_guest = port.interface.is_none() && port.link_up;
            let stays = |new: &&config::Port| !port.needs_reopening(new);
            let new = new.port(&port.config.name).filter(stays);
            is_guest && new.is_some_and(|new| gains(&port.config, new))
        });
        let arrived = arrived.map(|(slot, _)| Command::Announce(PortIndex::from_slot(slot)));
        let gone = abandoned(&self.config, new).into_iter();
        let gone = gone.map(|(network, address)| Command::AnnounceGone(network, address));
        arrived.chain(gone).collect()
    }

    /// Exchanges ports; answers those to be closed once no worker knows them.
    pub(super) fn change_ports(
        &mut self,
        new: &Config,
        mut opened: Vec<PortState>,
        late: &[config::Port],
        changes: &mut Vec<String>,
    ) -> Vec<PortState> {
        let mut closing = Vec::new();
        let present: Vec<_> = self
            .ports
            .iter()
            .map(|(slot, port)| (slot, port.config.name.clone()))
            .collect();
        for (slot, name) in present {
            let reopened = opened.iter().any(|port| port.config.name == name)
                || late.iter().any(|port| port.name == name);
            match new.port(&name) {
                None => changes.push(format!("port {name} removed")),
                Some(_) if reopened => changes.push(format!("port {name} reopened")),
                Some(config) => {
                    if let Some(port) = self.ports.get_mut(slot)
                        && port.config != *config
                    {
                        changes.push(format!("port {name} changed"));
                        let old = std::mem::replace(&mut port.config, config.clone());
                        adjust(port, (&old, &self.config), (config, new), changes);
                    }
                    continue;
                }
            }
            closing.extend(self.ports.remove(slot));
        }
        for port in opened.drain(..) {
            if !changes.contains(&format!("port {} reopened", port.config.name)) {
                changes.push(format!("port {} added", port.config.name));
            }
            self.ports.insert(port);
        }
        closing
    }

    pub(super) fn open_port(
        &self,
        port: config::Port,
        network: &config::Network,
    ) -> Result<PortState, String> {
        let keeper = if self.lone {
            Keeper::Host(self.lone_tun.clone())
        } else {
            Keeper::Configuration
        };
        PortState::open(port, network, &self.run_dir, &self.ears, keeper)
    }

    /// Opens ports whose sockets were taken by ports that are closed now.
    pub(super) fn open_late(&mut self, late: Vec<config::Port>, changes: &mut Vec<String>) {
        for config in late {
            let name = config.name.clone();
            let network = self.config.network_of(&config).clone();
            match self.open_port(config, &network) {
                Ok(port) => {
                    self.ports.insert(port);
                }
                Err(error) => {
                    tracing::error!(port = %name, error, "can't reopen a port");
                    changes.push(format!("port {name} is down: {error}"));
                }
            }
        }
    }
}

/// Whether a port has an address in its network that was not its own before: others may know it at the gateway's MAC
/// address, if it was behind a peer.
fn gains(old: &config::Port, new: &config::Port) -> bool {
    let is_new = |address| !old.addresses.contains(address);
    new.network != old.network || new.addresses.iter().any(is_new)
}

/// Addresses that no port of their network has any more: they may be behind a peer now. Networks are counted as the
/// new configuration, and so its snapshot, has them.
fn abandoned(old: &Config, new: &Config) -> Vec<(NetworkIndex, IpAddr)> {
    let mut gone = Vec::new();
    for port in &old.ports {
        let mut networks = new.networks.iter();
        let Some(place) = networks.position(|network| network.name == port.network) else {
            continue;
        };
        for address in &port.addresses {
            let has_it =
                |new: &config::Port| new.network == port.network && new.addresses.contains(address);
            if !new.ports.iter().any(has_it) {
                gone.push((NetworkIndex::from_slot(place), *address));
            }
        }
    }
    gone
}

impl PortState {
    /// Whether it has the socket or the interface that `other` wants.
    pub(super) fn occupies(&self, other: &config::Port) -> bool {
        use config::PortDriver::{Tap, Tun, VhostUser};
        match (&self.config.driver, &other.driver) {
            (VhostUser(a), VhostUser(b)) => a.socket == b.socket,
            (
                Tun { interface: a } | Tap { interface: a },
                Tun { interface: b } | Tap { interface: b },
            ) => a == b && !self.is_gone(),
            (VhostUser(_), _) | (_, VhostUser(_)) => false,
        }
    }
}

/// Carries a change of a port over to its interface, if it has one.
fn adjust(
    port: &mut PortState,
    (old, old_config): (&config::Port, &Config),
    (new, new_config): (&config::Port, &Config),
    changes: &mut Vec<String>,
) {
    let Some(interface) = &mut port.interface else {
        return;
    };
    let old = (old, old_config.network_of(old));
    let new = (new, new_config.network_of(new));
    if let Err(error) = interface.adjust(old, new) {
        let name = &port.config.name;
        tracing::warn!(port = %name, error, "can't change an interface");
        changes.push(format!("port {name}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use super::*;
    use crate::config::{Disk, parse};

    const NETWORKS: &str = "version: 1
networks: {one: {gateway: [10.0.1.1/24]}, two: {gateway: [10.0.2.1/24]}}
ports:
";

    /// A configuration of two networks and these ports: name, network, addresses.
    fn with(ports: &[(&str, &str, &str)]) -> Config {
        let mut text = NETWORKS.to_owned();
        for (number, (name, network, addresses)) in ports.iter().enumerate() {
            let mac = format!("mac: \"52:54:00:00:00:0{number}\"");
            text += &format!("  {name}: {{network: {network}, {mac}, addresses: [{addresses}]}}\n");
        }
        let read = parse(&text, Path::new("test.yaml"), &Disk);
        read.map_err(|report| format!("{report:?}")).unwrap().0
    }

    fn gone(old: &Config, new: &Config) -> Vec<(usize, String)> {
        let gone = abandoned(old, new).into_iter();
        gone.map(|(network, address)| (network.slot(), address.to_string()))
            .collect()
    }

    #[test]
    fn a_port_gains_what_was_not_its_own() {
        let old = with(&[("vm", "one", "10.0.1.5, 10.0.1.6")]);
        let gained = |network, addresses| {
            let new = with(&[("vm", network, addresses)]);
            gains(&old.ports[0], &new.ports[0])
        };
        assert!(!gained("one", "10.0.1.6, 10.0.1.5"), "another order");
        assert!(!gained("one", "10.0.1.5"), "one less");
        assert!(gained("one", "10.0.1.5, 10.0.1.7"), "another one");
        assert!(gained("two", "10.0.2.5"), "another network");
    }

    #[test]
    fn an_address_is_abandoned_when_no_port_of_its_network_has_it() {
        let old = with(&[("a", "one", "10.0.1.5"), ("b", "two", "10.0.2.5")]);
        assert!(gone(&old, &old).is_empty());
        let handed_over = with(&[
            ("a", "one", "10.0.1.6"),
            ("c", "one", "10.0.1.5"),
            ("b", "two", "10.0.2.5"),
        ]);
        assert!(gone(&old, &handed_over).is_empty(), "another port has it");
        let removed = with(&[("b", "two", "10.0.2.6")]);
        let all = [(0, "10.0.1.5".to_owned()), (1, "10.0.2.5".to_owned())];
        assert_eq!(gone(&old, &removed), all);
    }
}
