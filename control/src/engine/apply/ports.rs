//! Ports, as a plan has them.
//!
//! In: a plan. Out: ports that are opened for it, interfaces that are adjusted; the ports as it has them, and what
//! others are to hear of addresses that moved.
//! Never: a guest's connection closed whose port can stay; a port that is down and nobody tries again.

use std::{collections::HashSet, net::IpAddr, path::PathBuf};

use culvert_dataplane::shared::{
    control_link::Command,
    ids::{NetworkIndex, PortIndex},
};

use super::super::{
    Engine,
    interfaces::Keeper,
    ports::{DownPort, PortState, check},
};
use super::{Goal, Prepared};
use crate::{
    config::{Attachment, Name, Port, PortDriver},
    events::Event,
    plan::{Change, Edit, Impact, Layers},
};

/// A port that closed so that another could have its socket or interface: its place, and what it was.
pub(super) struct Displaced {
    slot: usize,
    config: Port,
}

/// A port that can open only when the one at that place has closed.
pub(super) type Late = (Port, usize, Fate);

/// What two ports can't have at once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Place {
    Socket(PathBuf),
    Interface(String),
}

/// What a plan means for a port that there is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// What is open stays open.
    Stays,
    /// It can't be had as it is.
    Reopens,
    /// It is down, and nothing that its opening depends on changes: it is opened if that is possible by now.
    Mended,
}

impl Fate {
    fn of(change: &Change) -> Self {
        if matches!(change, Change::Port { anew: true, .. }) {
            Self::Mended
        } else if change.impact() == Impact::ReopensPort {
            Self::Reopens
        } else {
            Self::Stays
        }
    }
}

/// The ports that a plan changes. One that is disabled is none.
fn ports(plan: &[Change]) -> impl Iterator<Item = (Edit<&Port>, Fate)> + Clone {
    plan.iter().filter_map(|change| {
        let edit = change.port()?.among(|port| port.enabled)?;
        Some((edit, Fate::of(change)))
    })
}

impl Engine {
    /// Adds to a plan that ports are opened anew which are down, or whose interface was deleted.
    pub(super) fn mend(&self, new: &Layers, plan: &mut Vec<Change>) {
        let gone = self.ports.iter().filter(|(_, port)| port.is_gone());
        let gone = gone.map(|(_, port)| &port.config.name);
        let broken: HashSet<_> = gone
            .chain(self.down.iter().map(|down| &down.config.name))
            .collect();
        if broken.is_empty() {
            return;
        }
        let mut planned = HashSet::new();
        for change in plan.iter_mut() {
            let new = change.port().and_then(|edit| edit.after());
            let name = new.filter(|port| port.enabled).map(|port| &port.name);
            let Some(&name) = name.and_then(|name| broken.get(name)) else {
                continue;
            };
            planned.insert(name);
            let reopens = change.impact() == Impact::ReopensPort;
            if let Change::Port { anew, .. } = change {
                *anew = !reopens;
            }
        }
        let left = broken.iter().filter(|name| !planned.contains(*name));
        plan.extend(
            left.filter_map(|name| new.port(name))
                .filter(|port| port.enabled)
                .map(|port| Change::Port {
                    edit: Edit::Change {
                        old: port.clone(),
                        new: port.clone(),
                    },
                    anew: true,
                }),
        );
    }

    /// Opens new ports and adjusts interfaces; answers the ports that can open only when others have closed.
    pub(super) fn prepare_ports(
        &mut self,
        plan: &[Change],
        prepared: &mut Prepared,
    ) -> Result<Vec<Late>, String> {
        let mut late = Vec::new();
        if ports(plan).next().is_none() {
            return Ok(late);
        }
        for (edit, fate) in ports(plan) {
            let Some(&new) = edit.after() else { continue };
            let slot = self.ports.place(&new.name);
            if let (Edit::Change { old, .. }, Some(slot), Fate::Stays) = (edit, slot, fate) {
                self.adjust(slot, old, new, prepared)?;
            } else if let Some(occupied) = self.occupied(new) {
                let late_one = (new.clone(), occupied, fate);
                match check(new, &self.run_dir) {
                    Err(error) => self.stays_down(new, fate, error, prepared)?,
                    Ok(()) => late.push(late_one),
                }
            } else {
                self.prepare_port(new, fate, prepared)?;
            }
        }
        Ok(late)
    }

    fn prepare_port(&self, new: &Port, fate: Fate, prepared: &mut Prepared) -> Result<(), String> {
        let had_rings = self.has_rings(&new.name);
        let opened = self.open_port(new.clone());
        let made_rings = !had_rings && self.has_rings(&new.name);
        match opened {
            Ok(port) => {
                prepared.opened.push(port);
                prepared.rings.extend(made_rings.then(|| new.name.clone()));
            }
            Err(error) => {
                if made_rings {
                    self.remove_rings(&new.name);
                }
                self.stays_down(new, fate, error, prepared)?;
            }
        }
        Ok(())
    }

    /// A port that can't be opened fails its plan, unless it was down before: what the plan does not concern does not
    /// hinder the rest of it.
    fn stays_down(
        &self,
        port: &Port,
        fate: Fate,
        error: String,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        if fate != Fate::Mended {
            return Err(error);
        }
        let config = port.clone();
        prepared.still_down.push(DownPort { config, error });
        Ok(())
    }

    /// The place of the port that has the socket or interface that this one wants, be it itself.
    fn occupied(&self, port: &Port) -> Option<usize> {
        let slot = *self.port_places.get(&self.place(port))?;
        self.ports.get(slot).filter(|port| !port.is_gone())?;
        Some(slot)
    }

    /// Another port that has the socket or interface that this one wants.
    pub(in crate::engine) fn occupant(&self, port: &Port) -> Option<&Name> {
        let other = self.ports.get(self.occupied(port)?)?;
        (other.config.name != port.name).then_some(&other.config.name)
    }

    /// A port has a place among the others, and what it wants of the system.
    fn seat_port(&mut self, slot: usize, port: PortState) {
        let place = self.place(&port.config);
        self.port_places.insert(place, slot);
        self.ports.put(slot, port);
    }

    /// It has what it had no more; its place is vacated apart.
    fn unseat_port(&mut self, slot: usize) -> Option<PortState> {
        let port = self.ports.take(slot)?;
        let place = self.place(&port.config);
        if self.port_places.get(&place) == Some(&slot) {
            self.port_places.remove(&place);
        }
        Some(port)
    }

    fn place(&self, port: &Port) -> Place {
        match &port.driver {
            PortDriver::VhostUser(at) => Place::Socket(at.socket.resolve(&self.run_dir)),
            PortDriver::Tun { interface } | PortDriver::Tap { interface } => {
                Place::Interface(interface.clone())
            }
        }
    }

    /// Carries a change of a port over to its interface, if it has one.
    fn adjust(
        &mut self,
        slot: usize,
        old: &Port,
        new: &Port,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        let port = self.ports.change(slot);
        let Some(interface) = port.and_then(|port| port.interface.as_mut()) else {
            return Ok(());
        };
        interface
            .check_reach(old, new)
            .map_err(|error| format!("port {}: {error}", new.name))?;
        // Noted first: what fails in its middle is undone, too.
        prepared.adjusted.push((slot, old.clone(), new.clone()));
        let adjusted = interface.adjust(old, new);
        adjusted.map_err(|error| format!("port {}: {error}", new.name))
    }

    /// Closes ports and opens those that take their sockets and interfaces.
    pub(super) fn displace(
        &mut self,
        late: Vec<Late>,
        prepared: &mut Prepared,
    ) -> Result<(), String> {
        if late.is_empty() {
            return Ok(());
        }
        let mut closing = Vec::new();
        for &(_, slot, _) in &late {
            if let Some(port) = self.unseat_port(slot) {
                let config = port.config.clone();
                prepared.displaced.push(Displaced { slot, config });
                closing.push(port);
            }
        }
        // No worker knows them when they close.
        self.publish();
        self.await_adoption();
        drop(closing);
        for (port, _, fate) in late {
            self.prepare_port(&port, fate, prepared)?;
        }
        Ok(())
    }

    /// Undoes that, unpublished; answers which ports stay down, and why.
    pub(super) fn restore(&mut self, displaced: Vec<Displaced>) -> Vec<String> {
        let mut left = Vec::new();
        for Displaced { slot, config } in displaced {
            match self.open_port(config.clone()) {
                Ok(port) => self.seat_port(slot, port),
                Err(error) => {
                    self.ports.vacate(slot);
                    left.push(format!(
                        "port {} is down and tried again each second: {error}",
                        config.name
                    ));
                    Event::PortDown {
                        port: config.name.clone(),
                        error: error.clone(),
                    }
                    .tell();
                    self.down.push(DownPort { config, error });
                }
            }
        }
        left
    }

    pub(super) fn open_port(&self, port: Port) -> Result<PortState, String> {
        let keeper = if self.lone {
            Keeper::Host(self.lone_tun.clone())
        } else {
            Keeper::Configuration
        };
        PortState::open(port, &self.run_dir, &self.ears, keeper)
    }

    /// Tries ports that are down again.
    pub(in crate::engine) fn retry_ports(&mut self) {
        let mut opened = false;
        for DownPort { config, error } in std::mem::take(&mut self.down) {
            match self.open_port(config.clone()) {
                Ok(port) => {
                    let name = config.name;
                    Event::PortOpen { port: name }.tell();
                    let slot = self.ports.reserve();
                    self.seat_port(slot, port);
                    opened = true;
                }
                Err(now) => {
                    if now != error {
                        Event::PortDown {
                            port: config.name.clone(),
                            error: now.clone(),
                        }
                        .tell();
                    }
                    self.down.push(DownPort { config, error: now });
                }
            }
        }
        if opened {
            self.publish();
        }
    }

    /// What others are to hear of a change: of running guests that gained addresses, and of addresses that are no
    /// port's any more.
    pub(super) fn moves(&self, plan: &[Change], goal: &Goal) -> Vec<Command> {
        if matches!(goal, Goal::Wg) {
            return Vec::new();
        }
        if ports(plan).all(|(edit, _)| matches!(edit, Edit::Add(_))) {
            return Vec::new();
        }
        let arrived = ports(plan).filter_map(|(edit, fate)| match edit {
            Edit::Change { old, new } if fate == Fate::Stays && gains(old, new) => {
                let slot = self.ports.place(&new.name)?;
                let port = self.ports.get(slot)?;
                let is_guest = port.interface.is_none() && port.link_up;
                is_guest.then(|| Command::Announce(PortIndex::from_slot(slot)))
            }
            Edit::Add(_) | Edit::Change { .. } | Edit::Remove(_) => None,
        });
        let place = |network: &Name| self.networks.table.place(network);
        let gone = abandoned(ports(plan).map(|(edit, _)| edit), place).into_iter();
        let gone = gone.map(|(network, address)| Command::AnnounceGone(network, address));
        arrived.chain(gone).collect()
    }

    /// Ports of a plan that stay down, and why; what the plan does not do after all is taken off it.
    pub(super) fn still_down(&self, plan: &mut Vec<Change>) -> Vec<String> {
        let mut left = Vec::new();
        plan.retain(|change| {
            let Some(edit) = change.port().filter(|_| Fate::of(change) == Fate::Mended) else {
                return true;
            };
            let name = edit.after().map(|port| &port.name);
            let mut down = self.down.iter();
            let Some(down) = down.find(|down| Some(&down.config.name) == name) else {
                return true;
            };
            left.push(format!(
                "{}; the port was down before, stays so and is tried again each second",
                down.error
            ));
            edit.before() != edit.after()
        });
        left
    }

    /// Exchanges ports; answers those to be closed once no worker knows them.
    pub(super) fn commit_ports(&mut self, plan: &[Change], prepared: Prepared) -> Vec<PortState> {
        let mut closing = Vec::new();
        if ports(plan).next().is_none() {
            return closing;
        }
        for (edit, fate) in ports(plan) {
            let slot = edit.before().and_then(|old| self.ports.place(&old.name));
            match (edit, slot) {
                (Edit::Change { new, .. }, Some(slot)) if fate == Fate::Stays => {
                    if let Some(port) = self.ports.change(slot) {
                        port.reconfigure(new.clone());
                    }
                }
                (_, Some(slot)) => {
                    closing.extend(self.unseat_port(slot));
                    self.ports.vacate(slot);
                }
                (_, None) => {}
            }
            let name = edit.before().map(|old| &old.name);
            self.down.retain(|down| Some(&down.config.name) != name);
        }
        for displaced in prepared.displaced {
            self.ports.vacate(displaced.slot);
        }
        for port in prepared.opened {
            let slot = self.ports.reserve();
            self.seat_port(slot, port);
        }
        self.down.extend(prepared.still_down);
        closing
    }
}

/// Guest ports that a plan removes, and whether a VMM was at them until now.
pub(super) fn left_rings(plan: &[Change], closing: &[PortState]) -> Vec<(Name, bool)> {
    let removed = ports(plan).filter_map(|(edit, _)| match edit {
        Edit::Remove(old) => matches!(old.driver, PortDriver::VhostUser(_)).then_some(&old.name),
        Edit::Add(_) | Edit::Change { .. } => None,
    });
    let is_used = |name: &Name| {
        let mut closing = closing.iter();
        closing.any(|port| port.config.name == *name && port.connected)
    };
    removed.map(|name| (name.clone(), is_used(name))).collect()
}

/// Whether a port has an address in its network that was not its own before: others may know it at the gateway's MAC
/// address, if it was behind a peer.
fn gains(old: &Port, new: &Port) -> bool {
    let is_new = |it: &Attachment| {
        let before = old.place(it.vlan).and_then(|at| old.attachments.get(at));
        let before = before.filter(|old| old.network == it.network);
        before.is_none_or(|old| it.addresses.iter().any(|it| !old.addresses.contains(it)))
    };
    new.attachments.iter().any(is_new)
}

/// Addresses of ports that change that no port of their network has any more: they may be behind a peer now. A port
/// that doesn't change had none of them, for an address belongs to one port. `place` says where snapshots have a
/// network.
fn abandoned<'p>(
    edits: impl Iterator<Item = Edit<&'p Port>> + Clone,
    place: impl Fn(&Name) -> Option<usize>,
) -> Vec<(NetworkIndex, IpAddr)> {
    let addresses = |port: &'p Port| {
        port.attachments.iter().flat_map(|it| {
            let addresses = it.addresses.iter();
            addresses.map(move |address| (&it.network, *address))
        })
    };
    let kept = edits.clone().filter_map(|edit| edit.after().copied());
    let kept = kept.flat_map(addresses);
    let kept: HashSet<_> = kept.collect();
    let old = edits.filter_map(|edit| edit.before().copied());
    let old = old.flat_map(addresses);
    let gone = old.filter(|it| !kept.contains(it));
    gone.filter_map(|(network, address)| Some((NetworkIndex::from_slot(place(network)?), address)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::config::{Config, Disk, parse};

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
        let plan = Layers::new(Arc::new(old.clone())).plan(new);
        let place = |network: &Name| new.network_place(network);
        let gone = abandoned(ports(&plan).map(|(edit, _)| edit), place).into_iter();
        let mut gone: Vec<_> = gone
            .map(|(network, address)| (network.slot(), address.to_string()))
            .collect();
        gone.sort_unstable();
        gone
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
