//! Neighbors of networks and uplinks.
//!
//! In: what stacks know, the configured ports. Out: neighbors as they are shown. Never: a question to a neighbor.

use std::collections::HashSet;

use culvert_dataplane::shared::clock;
use culvert_stack::NeighborState;
use culvert_wireguard::Instant;

use super::{
    Reader,
    look::{Look, NeighborSight},
};
use crate::{
    api::{Request, SendError, ask},
    config,
    state::Neighbor,
};

impl Reader<'_> {
    pub(super) fn neighbors(&self) -> Result<Vec<Neighbor>, SendError> {
        let known = ask(self.requester, |reply| {
            Request::Look(Look::Neighbors(reply))
        })?;
        let now = clock::monotonic();
        let mut neighbors: Vec<_> = known.iter().map(|sight| of_uplink(sight, now)).collect();
        neighbors.extend(self.open_ports().flat_map(of_port));
        Ok(neighbors)
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
        }
        .into(),
        age_s: known.confirmed.map(|at| now.since(at).as_secs()),
        port: None,
    }
}

fn of_port(port: &config::Port) -> impl Iterator<Item = Neighbor> {
    port.addresses.iter().map(|&address| Neighbor {
        place: format!("network {}", port.network),
        address,
        mac: Some(port.mac.to_string()),
        state: "static".into(),
        age_s: None,
        port: Some(port.name.to_string()),
    })
}
