//! Networks: gateways, tunnels, routes, MTU.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Seen, dangling, family, is_ipv4, prefixes, reserved, service};
use crate::config::build;
use crate::config::draft::{
    AnyPeer, Attachment, File, Network, NetworkRoute, NextHop, Port, PortKind, Tunnel,
};
use crate::config::report::{Report, Span};
use crate::config::section::At;
use crate::config::{Guard, Name};

const ROUTER: &str = "give the network a `gateway: ADDRESS/LENGTH` to have Culvert route in it";

pub(super) fn check(file: &File, report: &mut Report) {
    let mut used = HashMap::new();
    let ports = by_network(file);
    for network in &file.networks {
        gateways(network, report);
        if network.plain {
            let ports = ports.get(&network.name.value);
            plain(network, ports.map_or(&[], Vec::as_slice), report);
        }
        let tunnel = file.tunnel(network.tunnel.as_ref());
        if let Some(reference) = &network.tunnel {
            let title = format!("network `{}`", network.name.value);
            if tunnel.is_none() {
                let known = file.tunnels.iter().map(|tunnel| &tunnel.name.value);
                dangling(reference, "tunnel", &title, known, report);
            } else if let Some((first, span)) = used.get(&reference.value) {
                let line = report.line(*span);
                report
                    .error(reference.span, format!("{title} uses tunnel `{}`, as network `{first}` does", reference.value))
                    .help(format!("the first stands in {line}: two networks on one tunnel would leak into each other"))
                    .help("give this network a tunnel of its own, with another `listen_port`");
            } else {
                used.insert(&reference.value, (&network.name.value, reference.span));
            }
        }
        if !network.plain {
            routes(network, tunnel, report);
        }
        if let Some(tunnel) = tunnel {
            shadowed(network, tunnel, report);
            mtu(network, tunnel, file, report);
        }
        service::check(network, ports.get(&network.name.value), report);
    }
}

/// Whether a network's guests ask for what its peers have.
pub(super) fn check_shadowed(file: &File, report: &mut Report) {
    for network in &file.networks {
        if let Some(tunnel) = file.tunnel(network.tunnel.as_ref()) {
            shadowed(network, tunnel, report);
        }
    }
}

/// Of networks without a router, whether their port is one for them.
pub(super) fn check_plain(file: &File, report: &mut Report) {
    let ports = by_network(file);
    for network in file.networks.iter().filter(|network| network.plain) {
        if let Some(ports) = ports.get(&network.name.value) {
            plain(network, ports, report);
        }
    }
}

/// The routes of networks.
pub(super) fn check_routes(file: &File, report: &mut Report) {
    for network in &file.networks {
        match network.plain {
            true => no_routes(network, report),
            false => routes(network, file.tunnel(network.tunnel.as_ref()), report),
        }
    }
}

fn no_routes(network: &Network, report: &mut Report) {
    if let Some(route) = network.routes.first() {
        let name = &network.name.value;
        let message = format!("network `{name}` has no `gateway`, but `routes`");
        report
            .error(route.to.span, message)
            .help("the peers' `allowed_ips` are the only routes there: remove it")
            .help(ROUTER);
    }
}

/// A port with what of it names a network.
pub(super) type Member<'f> = (&'f Port, &'f Attachment);

/// The ports that name a network.
fn by_network(file: &File) -> HashMap<&Name, Vec<Member<'_>>> {
    let mut ports: HashMap<_, Vec<_>> = HashMap::new();
    for port in &file.ports {
        for attachment in &port.attachments {
            if let Some(network) = &attachment.network {
                let members = ports.entry(&network.value).or_default();
                members.push((port, attachment));
            }
        }
    }
    ports
}

/// A network without a router is the way between one interface and one tunnel.
fn plain(network: &Network, ports: &[Member<'_>], report: &mut Report) {
    let name = &network.name.value;
    let title = format!("network `{name}` has no `gateway`");
    if network.tunnel.is_none() {
        report
            .error(network.name.span, format!("{title} and no `tunnel`"))
            .help("without a router a network is one `tun` port and a `tunnel`: add `tunnel: NAME`")
            .help(ROUTER);
        return;
    }
    match ports.first() {
        None => {
            report
                .error(network.name.span, format!("{title} and no port"))
                .help("without a router a network is one `tun` port and a `tunnel`: add a port with `driver: tun`")
                .help(ROUTER);
        }
        Some((port, _)) if port.kind != PortKind::Tun => {
            report
                .error(
                    port.name.span,
                    format!(
                        "port `{}` is no `tun` port, and its network `{name}` has no `gateway`",
                        port.name.value
                    ),
                )
                .help("without a router only IP packets can pass: choose `driver: tun`")
                .help(ROUTER);
        }
        Some((port, attachment)) => {
            if let Some(guard) = attachment.guard
                && guard.value != Guard::Off
            {
                report
                    .error(
                        guard.span,
                        format!(
                            "port `{}` has a guard, and its network `{name}` has no `gateway`",
                            port.name.value
                        ),
                    )
                    .help("what comes from the interface is for the host to say: remove it, or write `guard: off`")
                    .help(ROUTER);
            }
        }
    }
    // A disabled one passes nothing.
    if let Some((second, _)) = ports.iter().filter(|(port, _)| port.enabled).nth(1) {
        report
            .error(
                second.name.span,
                format!(
                    "port `{}` is the second of network `{name}`, which has no `gateway`",
                    second.name.value
                ),
            )
            .help("without a router a network has one port: nothing says what goes to which")
            .help(ROUTER);
    }
    if let Some(mac) = network.gateway_mac {
        report
            .error(mac.span, format!("{title}, but a `gateway_mac`"))
            .help("remove it: there is no router that it could belong to")
            .help(ROUTER);
    }
    no_routes(network, report);
}

fn gateways(network: &Network, report: &mut Report) {
    let name = &network.name.value;
    let mut addresses = Seen::default();
    for (index, gateway) in network.gateways.iter().enumerate() {
        if let Some(kind) = reserved(&gateway.value) {
            let mistake = report.error(
                gateway.span,
                format!(
                    "`gateway` of network `{name}` is {}, which is {kind}",
                    gateway.value
                ),
            );
            if let Some(host) = super::other_host(&gateway.value) {
                mistake.help(format!(
                    "expected an address that a host can have, as in `{host}/{}`",
                    gateway.value.prefix_len()
                ));
            }
        }
        if let Some(line) = addresses.insert(gateway.value.addr(), gateway.span) {
            let line = report.line(line);
            report
                .error(
                    gateway.span,
                    format!(
                        "`gateway` of network `{name}` has {} twice",
                        gateway.value.addr()
                    ),
                )
                .help(format!("it stands in {line} already"));
            continue;
        }
        let overlaps = |other: &IpNet| {
            *other != gateway.value
                && other.trunc() != gateway.value.trunc()
                && (other.contains(&gateway.value.trunc())
                    || gateway.value.contains(&other.trunc()))
        };
        if let Some(other) = network.gateways[..index]
            .iter()
            .find(|at| overlaps(&at.value))
        {
            report
                .error(
                    gateway.span,
                    format!(
                        "`gateway` of network `{name}` has {}, which overlaps {}",
                        gateway.value, other.value
                    ),
                )
                .help("expected prefixes apart from each other, or the same prefix twice");
        }
    }
}

fn routes(network: &Network, tunnel: Option<&Tunnel>, report: &mut Report) {
    let title = format!("a route of network `{}`", network.name.value);
    let mut seen = allowed(network, tunnel);
    let peers = names_of_peers(network, tunnel);
    for route in &network.routes {
        match &route.next_hop {
            NextHop::Guest(via) => {
                guest(network, &title, route.to.value, via.value, via.span, report);
            }
            NextHop::Peer(reference) => {
                peer(network, tunnel, &peers, &title, reference, report);
            }
            NextHop::Unreachable => {}
        }
        let Some(to) = destination(route) else {
            report
                .error(
                    route.to.span,
                    format!("{title} leads to `default` of either family"),
                )
                .help("expected `0.0.0.0/0` or `::/0` here");
            continue;
        };
        if let Some((what, first)) = seen.insert(to, ("a route", route.to.span)) {
            let line = report.line(first);
            report
                .error(
                    route.to.span,
                    format!("{title} leads to {to}, which has {what} already"),
                )
                .help(format!("it stands in {line}: keep one of the two"));
        }
        let own = |net: &IpNet| net.trunc() == to;
        if network.gateways.iter().any(|at| own(&at.value)) {
            report
                .error(
                    route.to.span,
                    format!("{title} leads to {to}, which is the network's own prefix"),
                )
                .help("the network's guests are reached directly: remove the route");
        }
    }
}

/// Where a route leads, if that is one family's.
fn destination(route: &NetworkRoute) -> Option<IpNet> {
    match &route.next_hop {
        NextHop::Guest(via) => {
            let everything = || build::everything(via.value.is_ipv4());
            Some(route.to.value.unwrap_or_else(everything))
        }
        NextHop::Peer(_) | NextHop::Unreachable => route.to.value,
    }
}

/// The prefixes of a network's routes that the peers' allowed IPs lead to, too.
fn allowed(network: &Network, tunnel: Option<&Tunnel>) -> HashMap<IpNet, (&'static str, Span)> {
    let routed: HashSet<_> = network.routes.iter().filter_map(destination).collect();
    let tunnel = tunnel.filter(|_| !routed.is_empty());
    let peers = tunnel.into_iter().flat_map(|tunnel| tunnel.peers.iter());
    let prefixes = peers
        .filter(|peer| peer.is_enabled())
        .flat_map(AnyPeer::allowed_ips);
    prefixes
        .filter(|at| routed.contains(&at.value))
        .map(|at| (at.value, ("a peer's `allowed_ips`", at.span)))
        .collect()
}

/// The names of peers that a network's routes lead to, and which there are.
fn names_of_peers<'t>(network: &Network, tunnel: Option<&'t Tunnel>) -> HashSet<&'t Name> {
    let led_to: HashSet<_> = (network.routes.iter())
        .filter_map(|route| match &route.next_hop {
            NextHop::Peer(name) => Some(&name.value),
            NextHop::Guest(_) | NextHop::Unreachable => None,
        })
        .collect();
    let tunnel = tunnel.filter(|_| !led_to.is_empty());
    let peers = tunnel.into_iter().flat_map(|tunnel| tunnel.peers.iter());
    let names = peers.map(|peer| peer.name().value);
    names.filter(|name| led_to.contains(name)).collect()
}

fn peer(
    network: &Network,
    tunnel: Option<&Tunnel>,
    peers: &HashSet<&Name>,
    title: &str,
    reference: &At<Name>,
    report: &mut Report,
) {
    let Some(tunnel) = tunnel else {
        if network.tunnel.is_none() {
            report
                .error(
                    reference.span,
                    format!(
                        "{title} leads to the peer `{}`, but the network has no tunnel",
                        reference.value
                    ),
                )
                .help("add `tunnel: NAME` to the network, or lead the route to a guest by `via`");
        }
        return;
    };
    if !peers.contains(&reference.value) {
        let known = tunnel.peers.iter().map(|peer| peer.name().value);
        let kind = format!("peer of tunnel `{}`", tunnel.name.value);
        dangling(reference, &kind, title, known, report);
    }
}

fn guest(
    network: &Network,
    title: &str,
    to: Option<IpNet>,
    via: IpAddr,
    span: Span,
    report: &mut Report,
) {
    if let Some(to) = to
        && is_ipv4(&to) != via.is_ipv4()
    {
        report
            .error(
                span,
                format!(
                    "{title} leads to {to} by the {} guest {via}",
                    family(via.is_ipv4())
                ),
            )
            .help(format!("expected an {} address", family(is_ipv4(&to))));
        return;
    }
    let own = network.gateways.iter().any(|at| at.value.addr() == via);
    let inside = network.gateways.iter().any(|at| at.value.contains(&via));
    if own {
        report
            .error(
                span,
                format!("{title} goes by {via}, which is the network's own gateway"),
            )
            .help("expected the address of a guest");
    } else if !inside && !network.gateways.is_empty() {
        let inside = prefixes(network.gateways.iter().map(|at| &at.value));
        report
            .error(
                span,
                format!("{title} goes by {via}, which is not in the network"),
            )
            .help(format!("expected an address inside {inside}"));
    }
}

/// Allowed IPs inside the network's own prefix: guests answer ARP for themselves only.
fn shadowed(network: &Network, tunnel: &Tunnel, report: &mut Report) {
    for peer in tunnel.peers.iter() {
        for prefix in peer.allowed_ips() {
            let inside = network
                .gateways
                .iter()
                .find(|at| at.value.contains(&prefix.value));
            if let Some(gateway) = inside {
                report
                    .warning(
                        prefix.span,
                        format!(
                            "{} of peer `{}` lies in network `{}` itself",
                            prefix.value,
                            peer.name().value,
                            network.name.value
                        ),
                    )
                    .help(format!(
                        "guests take {} for their own link and never ask the gateway for it",
                        gateway.value.trunc()
                    ));
            }
        }
    }
}

fn mtu(network: &Network, tunnel: &Tunnel, file: &File, report: &mut Report) {
    let (Some(mtu), Some(inner)) = (network.mtu, build::tunnel_mtu(tunnel, file)) else {
        return;
    };
    if mtu.value > inner {
        report
            .warning(
                mtu.span,
                format!(
                    "network `{}` has an MTU of {}, its tunnel only {inner}",
                    network.name.value, mtu.value
                ),
            )
            .help("larger packets into the tunnel are answered with \"fragmentation needed\"")
            .help(format!("expected at most {inner}, or leave it out"));
    }
}
