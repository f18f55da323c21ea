//! Ports and tunnels.
//!
//! In: their names, as they are desired; what the core tells of them. Out: ports and tunnels as they are shown. Never: a
//! question to the core for one that is not told.

use super::{
    Reader,
    lists::{Pick, Put, Told, Which, Window},
    look::{self, Look},
};
use crate::{
    api::SendError,
    config::Name,
    state::{Port, Tunnel},
};

impl Reader<'_> {
    /// All ports, in the configuration's order.
    pub(super) fn ports(&self) -> Result<Vec<Port>, SendError> {
        let names = self.head.desired.ports().map(|port| &port.name).collect();
        let ports = self.pages(
            names,
            look::PORTS,
            |&name: &&Name| name.clone(),
            Look::Ports,
        )?;
        Ok(ports.into_iter().map(|(_, port)| port).collect())
    }

    /// All tunnels, in the configuration's order.
    pub(super) fn tunnels(&self) -> Result<Vec<Tunnel>, SendError> {
        let tunnels = self.head.desired.file().tunnels.iter();
        self.told_tunnels(tunnels.map(|tunnel| &tunnel.name).collect())
    }

    /// A page of the ports.
    pub(super) fn list_ports(&self, which: &Which, window: &Window, put: Put<'_, Port>) -> Told {
        let ports = self.head.desired.ports().filter(|port| {
            which.is_named(port.name.as_str())
                && which.has_label(&port.labels)
                && which.is_like(port.networks().chain([&port.name]).map(Name::as_str))
        });
        let (names, next) = page(ports.map(|port| &port.name), window);
        for names in names.chunks(look::PORTS) {
            let asked = names.iter().map(|&name| (name.clone(), None)).collect();
            let told = self.ask(asked, Look::Ports)?.into_iter();
            told.filter_map(|(_, port)| port).for_each(&mut *put);
        }
        Ok(next)
    }

    /// A page of the tunnels.
    pub(super) fn list_tunnels(
        &self,
        which: &Which,
        window: &Window,
        put: Put<'_, Tunnel>,
    ) -> Told {
        let tunnels = self.head.desired.file().tunnels.iter().map(|it| &it.name);
        let tunnels = tunnels.filter(|name| {
            which.is_named(name.as_str()) && which.is_like([name.as_str()].into_iter())
        });
        let (names, next) = page(tunnels, window);
        for names in names.chunks(look::TUNNELS) {
            self.told_tunnels(names.to_vec())?
                .into_iter()
                .for_each(&mut *put);
        }
        Ok(next)
    }

    fn told_tunnels(&self, names: Vec<&Name>) -> Result<Vec<Tunnel>, SendError> {
        let name = |&name: &&Name| name.clone();
        let tunnels = self.pages(names, look::TUNNELS, name, Look::Tunnels)?;
        let drifted = |(name, tunnel): (&Name, Tunnel)| Tunnel {
            drift: match self.head.is_lone {
                true => Vec::new(),
                false => self.head.desired.tunnel_drift(name),
            },
            ..tunnel
        };
        Ok(tunnels.into_iter().map(drifted).collect())
    }
}

/// The names on a page, and behind which the next one begins.
fn page<'n>(
    names: impl Iterator<Item = &'n Name>,
    window: &Window,
) -> (Vec<&'n Name>, Option<String>) {
    let mut pick = Pick::new(window.after.as_deref(), window.limit);
    names.for_each(|name| pick.offer(name.as_str(), name));
    let (names, is_more) = pick.done();
    let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    let last = names.last().filter(|_| is_more);
    let next = last.map(ToString::to_string);
    (names, next)
}
