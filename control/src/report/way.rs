//! Where a packet from a guest would go, and why.
//!
//! In: the snapshot that workers go by, what is desired. Out: ways in words. Never: a packet; a look-up other than the
//! workers' own.

use std::{net::IpAddr, sync::Arc};

use culvert_dataplane::shared::{
    clock,
    path::Path,
    peer::Peer as Cell,
    snapshot::{self, Guard, NextHop, Snapshot},
};
use culvert_wire::scope::is_routable;
use ipnet::IpNet;

use super::{
    Reader,
    look::{Look, NameSight, PeerSight},
};
use crate::{
    api::{Requester, SendError, ask},
    config::{self, Name, Network},
    state::{Route, Uplink, Way},
};

/// Why a way can't be told.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// There is no such port.
    #[error("there is no port {0}")]
    NoPort(String),
    /// An uplink is called so.
    #[error(
        "{0} is an uplink, no port: guests' packets leave by it inside of tunnels; `culvert show routes {0}` prints its \
         table"
    )]
    Uplink(String),
    /// The engine has ended.
    #[error(transparent)]
    Unanswered(#[from] SendError),
}

/// Where what is for `to` goes from a port, in each of its networks; without one from each network.
///
/// # Errors
///
/// When there is no such port, or the engine has ended.
pub fn ways(requester: &Requester, to: IpAddr, from: Option<&str>) -> Result<Vec<Way>, WayError> {
    let head = *ask(requester, |reply| {
        crate::api::Request::Look(Look::Head(reply))
    })?;
    let reader = Reader { requester, head };
    let snapshot = ask(requester, |reply| {
        crate::api::Request::Look(Look::Snapshot(reply))
    })?;
    let desired = reader.head.desired.clone();
    let file = desired.file();
    let networks = file.networks.iter();
    let Some(from) = from else {
        let ways = networks.map(|network| reader.way(&snapshot, network, to));
        return Ok(ways.collect::<Result<_, _>>()?);
    };
    let is_uplink = file.uplinks.iter().any(|it| it.name.as_str() == from);
    let no_port = || match is_uplink {
        true => WayError::Uplink(from.to_owned()),
        false => WayError::NoPort(from.to_owned()),
    };
    let port = desired.ports().find(|port| port.name.as_str() == from);
    let port = port.ok_or_else(no_port)?;
    let joined = networks.filter(|network| port.networks().any(|name| *name == network.name));
    let from = |network: &Network| {
        let mut way = reader.way(&snapshot, network, to)?;
        way.from = Some(from.to_owned());
        way.notes.extend(guarded(&snapshot, from, network, to));
        Ok(way)
    };
    joined.map(from).collect()
}

impl Reader<'_> {
    fn way(&self, snapshot: &Snapshot, network: &Network, to: IpAddr) -> Result<Way, SendError> {
        let name = network.name.as_str();
        let mut way = Way {
            to,
            network: name.to_owned(),
            ..Way::default()
        };
        let mut networks = snapshot.networks.iter().map(|(_, network)| network);
        let Some(live) = networks.find(|it| it.name == name) else {
            way.verdict = "dropped".into();
            way.next_hop = "the network is being made".into();
            return Ok(way);
        };
        let next_hop = live.routes.lookup(to);
        let is_plain = live.plain.is_some();
        if next_hop != Some(NextHop::Gateway) && !is_plain && !is_routable(to) {
            way.verdict = "dropped".into();
            way.next_hop = "an address that is never routed".into();
            way.because = "address-unroutable".into();
            return Ok(way);
        }
        match next_hop {
            Some(NextHop::Gateway) => {
                way.verdict = "gateway".into();
                way.next_hop = "the gateway itself".into();
                way.because = "its own address; it answers ping alone".into();
            }
            Some(NextHop::Guest(guest)) => {
                self.to_guest(snapshot, (network, live), guest, &mut way);
            }
            Some(NextHop::Peer(index)) => {
                let cell = snapshot.peer(index);
                self.to_peer(snapshot, network, cell, &mut way)?;
            }
            Some(NextHop::Unreachable) | None => {
                way.verdict = "unreachable".into();
                way.next_hop = "nowhere: the sender is told".into();
                way.because = self.best(network, to).map_or_else(
                    || "no route leads there".into(),
                    |(net, route)| match &*route.source {
                        "gateway" => format!("no port has it, of {net}, which is on-link"),
                        why => match route.next_hop.strip_prefix("via ") {
                            Some(guest) => {
                                format!("{net} via {guest} ({why}), and no port has {guest}")
                            }
                            None => format!("{net} is {} ({why})", route.next_hop),
                        },
                    },
                );
            }
        }
        Ok(way)
    }

    fn to_guest(
        &self,
        snapshot: &Snapshot,
        (network, live): (&Network, &snapshot::Network),
        guest: culvert_dataplane::shared::ids::AttachmentIndex,
        way: &mut Way,
    ) {
        way.verdict = "port".into();
        let Some(attached) = snapshot.attached(guest) else {
            way.next_hop = "a port that is gone".into();
            return;
        };
        way.next_hop = format!("port {}", attached.port.name);
        way.port = Some(attached.port.name.clone());
        way.because = match attached.attachment.addresses.contains(&way.to) {
            true if live.is_on_link(way.to) => {
                "its address; guests beside it reach it by MAC".into()
            }
            true => "its address".into(),
            false => match self.best(network, way.to) {
                Some((net, route)) => format!("{net} {} ({})", route.next_hop, route.source),
                None => "a route by way of that guest".into(),
            },
        };
        if !attached.port.guest.takes(0) {
            way.notes
                .push("nothing arrives there: the guest's side is down".into());
        }
    }

    fn to_peer(
        &self,
        snapshot: &Snapshot,
        network: &Network,
        cell: Option<&Arc<Cell>>,
        way: &mut Way,
    ) -> Result<(), SendError> {
        way.verdict = "peer".into();
        let tunnel = network.tunnel.as_ref();
        let live = cell.and_then(|cell| snapshot.tunnel(cell.tunnel));
        way.mtu = live.map(|tunnel| tunnel.mtu);
        way.tunnel = tunnel.map(ToString::to_string);
        let best = self.best(network, way.to);
        way.because = best.map_or_else(String::new, |(net, route)| {
            format!("{net} ({})", route.source)
        });
        let (Some(cell), Some(tunnel)) = (cell, tunnel) else {
            way.next_hop = "a peer that is gone".into();
            return Ok(());
        };
        let Some((config, sight)) = self.who(tunnel, network, cell, way.to)? else {
            way.next_hop = "a peer that is just changed: ask again".into();
            return Ok(());
        };
        way.next_hop = format!("peer {} of tunnel {tunnel}", config.name);
        way.peer = Some(config.name.to_string());
        let now = clock::now().monotonic;
        let keypair = cell.keypair();
        let has_key = keypair.as_ref().is_some_and(|it| it.sendable(now).is_ok());
        way.notes.extend(
            match (sight.is_silent, has_key) {
                (true, _) => Some("the peer is silent: handshakes are not answered"),
                (false, false) => {
                    Some("no session: a handshake comes first, and packets wait for it")
                }
                (false, true) => None,
            }
            .map(str::to_owned),
        );
        match &*cell.path() {
            Some(path) => self.on_path(snapshot, path, way),
            None => way.notes.push(unknown(sight.name.as_ref())),
        }
        Ok(())
    }

    /// The peer that the workers know as that cell. By what is configured it is who has the longest prefix.
    fn who(
        &self,
        tunnel: &Name,
        network: &Network,
        cell: &Arc<Cell>,
        to: IpAddr,
    ) -> Result<Option<(Arc<config::Peer>, PeerSight)>, SendError> {
        let routed = self.head.desired.routes(network).into_iter();
        let routed = routed.map(|(it, _)| it).filter(|it| it.to.contains(&to));
        let routed = routed.filter_map(|it| match &it.next_hop {
            config::NextHop::Peer(name) => Some((it.to.prefix_len(), name.clone())),
            config::NextHop::Guest(_) | config::NextHop::Unreachable => None,
        });
        let routed: Vec<_> = routed.collect();
        let mut candidates = Vec::new();
        for peer in self.head.desired.peers(tunnel) {
            let nets = peer.allowed_ips.iter().filter(|net| net.contains(&to));
            let by_route = routed.iter().filter(|(_, name)| *name == peer.name);
            let lengths = nets
                .map(IpNet::prefix_len)
                .chain(by_route.map(|(length, _)| *length));
            candidates.extend(lengths.max().map(|length| (length, Arc::clone(peer))));
        }
        candidates.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        let few: Vec<_> = candidates
            .into_iter()
            .map(|(_, peer)| peer)
            .take(8)
            .collect();
        let seen = self.pages(
            few,
            super::look::PEERS,
            |peer| peer.public_key,
            |keys, reply| Look::Peers(tunnel.clone(), keys, reply),
        )?;
        let is_it = |(_, sight): &(_, PeerSight)| sight.cell.index == cell.index;
        Ok(seen.into_iter().find(is_it))
    }

    fn on_path(&self, snapshot: &Snapshot, path: &Path, way: &mut Way) {
        way.endpoint = Some(path.endpoint);
        way.source = path.usable_source();
        let uplink = snapshot.uplink(path.uplink());
        way.uplink = uplink.map(|uplink| uplink.name.clone());
        way.neighbor = path.hop.neighbor().mac().map(|mac| mac.to_string());
        if path.is_resolved() {
            return;
        }
        let mut uplinks = self.head.uplinks.iter();
        let uplink = uplinks.find(|it| way.uplink.as_ref() == Some(&it.name));
        let unaddressed = uplink.and_then(|it| unaddressed(it, path.endpoint.ip()));
        let asked = || "its next hop is not known yet: it is asked for".into();
        way.notes.push(unaddressed.unwrap_or_else(asked));
    }

    /// The longest prefix that leads there, and its route.
    fn best(&self, network: &Network, to: IpAddr) -> Option<(IpNet, Route)> {
        let lines = self.routes_of(network);
        let matching = lines.filter(|line| line.to.is_some_and(|net| net.contains(&to)));
        let best = matching.max_by_key(|line| line.to.map(|net| net.prefix_len()))?;
        Some((best.to?, Route::from(&best)))
    }
}

/// Why nobody knows where a peer is.
fn unknown(name: Option<&NameSight>) -> String {
    let Some(name) = name else {
        return "nobody knows where it is: it has to call".into();
    };
    match &name.error {
        Some(error) => format!(
            "its endpoint's name was not found ({error}): it is asked for again, or the peer has to call"
        ),
        None => "its endpoint's name is asked for".into(),
    }
}

/// Why nothing leaves by an uplink for who is there: it has no address of the kind.
fn unaddressed(uplink: &Uplink, to: IpAddr) -> Option<String> {
    // A kernel's are its own business.
    if uplink.driver != "dpdk" {
        return None;
    }
    let is_used = |text: &str| {
        let mut conflicts = uplink.conflicts.iter().filter(|it| !it.used);
        let address = text.split('/').next().unwrap_or(text);
        conflicts.all(|it| it.address.split('/').next() != Some(address))
    };
    let of_kind = |text: &String| {
        let net = text.parse::<IpNet>();
        net.is_ok_and(|net| net.addr().is_ipv4() == to.is_ipv4()) && is_used(text)
    };
    if uplink.addresses.iter().any(of_kind) {
        return None;
    }
    let kind = if to.is_ipv4() { "IPv4" } else { "IPv6" };
    let refused = uplink.learned.iter().flat_map(|it| &it.refused);
    let mut refused = refused.filter(|it| of_family(it, to));
    let why = refused
        .next()
        .map_or_else(String::new, |it| format!(" (refused was {it})"));
    Some(format!(
        "uplink {} has no {kind} address: nothing leaves by it for {to}{why}",
        uplink.name
    ))
}

/// Whether a refused address (`ADDRESS/LENGTH: why`) is of one family with another.
fn of_family(refused: &str, to: IpAddr) -> bool {
    let net = refused
        .split_once(": ")
        .map(|(net, _)| net.parse::<IpNet>());
    matches!(net, Some(Ok(net)) if net.addr().is_ipv4() == to.is_ipv4())
}

/// What the port's guard would say.
fn guarded(snapshot: &Snapshot, from: &str, network: &Network, to: IpAddr) -> Option<String> {
    let mut ports = snapshot.ports.iter().map(|(_, port)| port);
    let port = ports.find(|port| port.name == from)?;
    let mut attached = port.attachments().filter_map(|at| snapshot.attached(at));
    let attached = attached.find(|it| it.network.name == network.name.as_str())?;
    let attachment = attached.attachment;
    let addresses = &attachment.addresses;
    let has_one = addresses.iter().any(|it| it.is_ipv4() == to.is_ipv4());
    match attachment.guard {
        Guard::Strict if !has_one => Some(format!(
            "guard: strict lets nothing of the kind leave {from}: it has no such address"
        )),
        Guard::Strict | Guard::Mac | Guard::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{AddressConflict, Learned};

    #[test]
    fn who_has_no_address_of_a_kind_says_so_and_asks_for_no_next_hop() {
        let v4 = "198.51.100.1".parse().unwrap();
        let v6 = "2001:db8:1::1".parse().unwrap();
        let mut uplink = Uplink {
            name: "wan0".into(),
            driver: "dpdk".into(),
            addresses: vec!["2001:db8::7/64".into()],
            learned: Some(Learned {
                refused: vec!["192.0.2.7/24: 192.0.2.0/24 of network blue".into()],
                ..Learned::default()
            }),
            ..Uplink::default()
        };
        let told = unaddressed(&uplink, v4).unwrap();
        assert!(told.contains("no IPv4 address"), "{told}");
        assert!(told.contains("of network blue"), "{told}");
        assert_eq!(unaddressed(&uplink, v6), None);
        // Another host has the one that there is.
        uplink.conflicts = vec![AddressConflict {
            address: "2001:db8::7".into(),
            ..AddressConflict::default()
        }];
        let told = unaddressed(&uplink, v6).unwrap();
        assert!(
            told.contains("no IPv6 address") && !told.contains("blue"),
            "{told}"
        );
        uplink.driver = "udp".into();
        assert_eq!(unaddressed(&uplink, v4), None);
    }
}
