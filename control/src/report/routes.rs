//! Routes of networks and uplinks.
//!
//! In: what is desired. Out: routes as they are shown. Never: a question to the core.

use super::Reader;
use crate::{
    config::{self, Network},
    state::Route,
};

impl Reader<'_> {
    pub(super) fn routes(&self) -> Vec<Route> {
        let file = self.head.desired.file();
        let networks = file.networks.iter();
        let mut routes: Vec<_> = networks
            .flat_map(|network| self.routes_of(network))
            .collect();
        routes.extend(file.uplinks.iter().flat_map(uplink));
        routes
    }

    pub(super) fn routes_of(&self, network: &Network) -> Vec<Route> {
        let mut routes = Vec::new();
        let table = format!("network {}", network.name);
        let mut add = |to: String, next_hop: String, source: &str| {
            routes.push(Route {
                table: table.clone(),
                to,
                next_hop,
                source: source.into(),
            });
        };
        for gateway in &network.gateways {
            add(gateway.trunc().to_string(), "on-link".into(), "gateway");
        }
        if let Some(name) = &network.tunnel {
            let peers = self.head.desired.peers(name);
            for peer in peers.filter(|peer| peer.enabled) {
                for net in &peer.allowed_ips {
                    let next_hop = format!("peer {} ({name})", peer.name);
                    add(net.to_string(), next_hop, "allowed-ips");
                }
            }
        }
        for (route, is_laid) in self.head.desired.routes(network) {
            let next_hop = match &route.next_hop {
                config::NextHop::Peer(peer) => format!("peer {peer}"),
                config::NextHop::Guest(address) => format!("via {address}"),
                config::NextHop::Unreachable => "unreachable".into(),
            };
            let source = if is_laid { "layer" } else { "config" };
            add(route.to.to_string(), next_hop, source);
        }
        routes
    }
}

fn uplink(uplink: &config::Uplink) -> Vec<Route> {
    let route = |to: String, next_hop: String| Route {
        table: format!("uplink {}", uplink.name),
        to,
        next_hop,
        source: "config".into(),
    };
    let on_link = uplink
        .addresses
        .iter()
        .map(|net| route(net.trunc().to_string(), "on-link".into()));
    let via = uplink
        .routes
        .iter()
        .map(|it| route(it.to.to_string(), format!("via {}", it.via)));
    on_link.chain(via).collect()
}
