//! What `show` prints, put together on the thread of who asks.
//!
//! In: what is desired, in its order; what the control core tells of it, a page at a time. Out: a [`State`], of which
//! what was asked for is filled in. Never: the core's time for more than a page, or for a peer's text; a secret.
//!
//! Rooms: [`look`] what the core is asked, [`peers`], [`routes`], [`neighbors`], [`cores`], [`way`], [`lists`] what is
//! made of it; [`survey`] what metrics are made of.

mod cores;
pub mod lists;
pub mod look;
mod neighbors;
mod peers;
mod routes;
mod survey;
pub mod way;

use std::collections::BTreeMap;

use culvert_dataplane::shared::{clock, drops::DropReason};

pub(crate) use self::{peers::standing, survey::Survey};

use self::look::{Head, Look};
use crate::{
    api::{Reply, Request, Requester, SendError, ask},
    config::Name,
    history::pending::Thing,
    state::{Drop, Part, Port, State, Tunnel},
};

/// The state of everything, or of a part of it. Waits for the core, page after page.
///
/// # Errors
///
/// When the engine has ended.
pub fn read(requester: &Requester, part: Option<Part>) -> Result<State, SendError> {
    let head = *ask(requester, |reply| Request::Look(Look::Head(reply)))?;
    let reader = Reader { requester, head };
    let wants = |parts: &[Part]| part.is_none_or(|part| parts.contains(&part));
    let mut state = reader.headline();
    if let Some(history) = requester.history() {
        history.tell(&mut state);
    }
    if wants(&[Part::Ports, Part::Drops]) {
        state.ports = reader.ports()?;
        state.uplinks.clone_from(&reader.head.uplinks);
    }
    if wants(&[Part::Peers]) {
        state.tunnels = reader.tunnels()?;
    }
    if wants(&[Part::Peers, Part::Drops]) {
        state.peers = reader.peers()?;
    }
    if wants(&[Part::Routes]) {
        state.routes = reader.routes();
    }
    if wants(&[Part::Neighbors]) {
        state.neighbors = reader.neighbors()?;
    }
    if wants(&[Part::Cores]) {
        state.cores = reader.cores();
    }
    if wants(&[Part::Drops]) {
        state.drops = all_drops(&state);
    }
    if part == Some(Part::Drops) {
        // They were looked at for their drops.
        (state.ports, state.uplinks, state.peers) = Default::default();
    }
    Ok(state)
}

/// Who asks, and what was told first.
struct Reader<'r> {
    requester: &'r Requester,
    head: Head,
}

impl Reader<'_> {
    fn headline(&self) -> State {
        let file = self.head.desired.file();
        State {
            node: file.node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            config: file.source.display().to_string(),
            generation: self.head.generation,
            uptime_s: self.head.uptime.as_secs(),
            log: crate::process::log::missing(),
            ..State::default()
        }
    }

    fn ports(&self) -> Result<Vec<Port>, SendError> {
        let ports = self.head.desired.ports();
        let names: Vec<_> = ports.map(|port| &port.name).collect();
        let ports = self.pages(
            names,
            look::PORTS,
            |name: &&Name| Name::clone(name),
            Look::Ports,
        )?;
        Ok(ports.into_iter().map(|(_, port)| port).collect())
    }

    fn tunnels(&self) -> Result<Vec<Tunnel>, SendError> {
        let desired = &self.head.desired;
        let tunnels = &desired.file().tunnels;
        let names: Vec<_> = tunnels.iter().map(|tunnel| &tunnel.name).collect();
        let tunnels = self.pages(
            names,
            look::TUNNELS,
            |name: &&Name| Name::clone(name),
            Look::Tunnels,
        )?;
        let drifted = |(name, tunnel): (&Name, Tunnel)| Tunnel {
            drift: match self.head.is_lone {
                true => Vec::new(),
                false => desired.tunnel_drift(name),
            },
            ..tunnel
        };
        Ok(tunnels.into_iter().map(drifted).collect())
    }

    /// Asks for what is known of these, so many at a time; what is gone by now is left out.
    fn pages<I, K, T>(
        &self,
        items: Vec<I>,
        at_once: usize,
        key: impl Fn(&I) -> K,
        look: impl Fn(Vec<K>, Reply<Vec<Option<T>>>) -> Look,
    ) -> Result<Vec<(I, T)>, SendError> {
        let mut all = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let page: Vec<_> = items.by_ref().take(at_once).collect();
            let keys = page.iter().map(&key).collect();
            let told = ask(self.requester, |reply| Request::Look(look(keys, reply)))?;
            let known = page.into_iter().zip(told);
            all.extend(known.filter_map(|(item, told)| Some((item, told?))));
        }
        Ok(all)
    }
}

/// Which of these are up: ports with a link, peers with a session that answer. Of an engine that has ended, none.
pub(crate) fn are_up(requester: &Requester, things: &[Thing]) -> Vec<bool> {
    things
        .iter()
        .map(|it| is_up(requester, it).unwrap_or(false))
        .collect()
}

fn is_up(requester: &Requester, thing: &Thing) -> Result<bool, SendError> {
    match thing {
        Thing::Port(name) => {
            let look = |reply| Request::Look(Look::Ports(vec![name.clone()], reply));
            let seen = ask(requester, look)?.into_iter().next().flatten();
            Ok(seen.is_some_and(|port| port.link_up))
        }
        Thing::Peer(tunnel, _, key) => {
            let look = |reply| Request::Look(Look::Peers(tunnel.clone(), vec![*key], reply));
            let seen = ask(requester, look)?.into_iter().next().flatten();
            Ok(seen.is_some_and(|sight| peers::answers(&sight, clock::now())))
        }
    }
}

/// Losses that are not zero.
pub(crate) fn named(drops: impl Iterator<Item = (DropReason, u64)>) -> BTreeMap<String, u64> {
    drops
        .map(|(reason, n)| (reason.name().to_owned(), n))
        .collect()
}

/// Every counter that is not zero, with its scope.
fn all_drops(state: &State) -> Vec<Drop> {
    let ports = state
        .ports
        .iter()
        .map(|p| (format!("port {}", p.name), &p.drops));
    let peers = state
        .peers
        .iter()
        .map(|p| (format!("peer {}/{}", p.tunnel, p.name), &p.drops));
    let uplinks = state
        .uplinks
        .iter()
        .map(|u| (format!("uplink {}", u.name), &u.drops));
    ports
        .chain(peers)
        .chain(uplinks)
        .flat_map(|(scope, drops)| {
            drops.iter().map(move |(reason, &packets)| Drop {
                scope: scope.clone(),
                reason: reason.clone(),
                packets,
            })
        })
        .collect()
}
