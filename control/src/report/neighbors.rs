//! Neighbors of networks and uplinks.
//!
//! In: what stacks know, the configured ports. Out: neighbors as they are shown. Never: a question to a neighbor; the text
//! of one that is not told.

use std::{collections::HashSet, net::IpAddr};

use culvert_dataplane::shared::clock;
use culvert_stack::NeighborState;
use culvert_wireguard::Instant;

use super::{
    Reader,
    lists::{Pick, Put, Told, Which, Window},
    look::{Look, NeighborSight},
};
use crate::{
    api::{Request, ask},
    config::{self, Name},
    state::Neighbor,
};

/// Who knows of it.
#[derive(Clone, Copy)]
enum Known<'n> {
    Stack(&'n NeighborSight),
    Port(&'n config::Port, &'n Name, IpAddr),
}

/// A neighbor's place in the list: `network` or `uplink`, its name, the address.
type Key<'n> = (&'n str, &'n str, Option<IpAddr>);

/// Of a page's `next`; what it doesn't say comes ahead of all that has it.
fn parse(text: &str) -> Key<'_> {
    let mut words = text.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default();
    (word(), word(), word().parse().ok())
}

impl<'n> Known<'n> {
    fn key(self) -> Key<'n> {
        match self {
            Self::Stack(sight) => ("uplink", sight.uplink.as_str(), Some(sight.known.address)),
            Self::Port(_, network, address) => ("network", network.as_str(), Some(address)),
        }
    }

    fn is_wanted(self, which: &Which) -> bool {
        let (kind, place, address) = self.key();
        let is_named = |name: &str| name.split_once(' ') == Some((kind, place));
        let port = match self {
            Self::Stack(_) => None,
            Self::Port(port, ..) => Some(port.name.as_str()),
        };
        which.name.as_deref().is_none_or(is_named)
            && (which.is_like([place].into_iter().chain(port))
                || address.is_some_and(|address| which.is_like_text(address)))
    }

    fn shown(self, now: Instant) -> Neighbor {
        match self {
            Self::Stack(sight) => of_uplink(sight, now),
            Self::Port(port, network, address) => of_port(port, network, address),
        }
    }
}

impl Reader<'_> {
    /// A page of the neighbors.
    pub(super) fn list_neighbors(
        &self,
        which: &Which,
        window: &Window,
        put: Put<'_, Neighbor>,
    ) -> Told {
        let known = ask(self.requester, |reply| {
            Request::Look(Look::Neighbors(reply))
        })?;
        let stacks = known.iter().map(Known::Stack);
        let ports = self.open_ports().flat_map(|port| {
            let attached = port.attachments.iter();
            attached.flat_map(move |it| {
                let known = |address: &IpAddr| Known::Port(port, &it.network, *address);
                it.addresses.iter().map(known)
            })
        });
        let mut pick = Pick::new(window.after.as_deref().map(parse), window.limit);
        for known in stacks.chain(ports) {
            if pick.wants(&known.key()) && known.is_wanted(which) {
                pick.offer(known.key(), known);
            }
        }
        let (shown, is_more) = pick.done();
        let now = clock::monotonic();
        let mut last = None;
        for (_, known) in shown {
            let neighbor = known.shown(now);
            last = Some((neighbor.place.clone(), neighbor.address));
            put(neighbor);
        }
        let next = last.filter(|_| is_more);
        Ok(next.map(|(place, address)| format!("{place} {address}")))
    }

    /// The ports whose guests may be there.
    pub(super) fn open_ports(&self) -> impl Iterator<Item = &config::Port> {
        let down: HashSet<_> = self.head.down.iter().collect();
        let ports = self.head.desired.ports();
        ports.filter(move |port| port.enabled && !down.contains(&port.name))
    }
}

fn of_uplink(sight: &NeighborSight, now: Instant) -> Neighbor {
    let known = &sight.known;
    Neighbor {
        place: format!("uplink {}", sight.uplink),
        address: known.address,
        mac: known.mac.map(|mac| mac.to_string()),
        state: match known.state {
            NeighborState::Incomplete => "incomplete",
            NeighborState::Reachable => "reachable",
            NeighborState::Stale => "stale",
            NeighborState::Probing => "probing",
            NeighborState::Failed => "failed",
            NeighborState::Static => "static",
        }
        .into(),
        age_s: known.confirmed.map(|at| now.since(at).as_secs()),
        port: None,
    }
}

fn of_port(port: &config::Port, network: &Name, address: IpAddr) -> Neighbor {
    Neighbor {
        place: format!("network {network}"),
        address,
        mac: Some(port.mac.to_string()),
        state: "static".into(),
        age_s: None,
        port: Some(port.name.to_string()),
    }
}
