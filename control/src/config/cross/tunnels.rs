//! Tunnels and peers: uplinks, listen ports, MTU, keys, endpoints, allowed IPs.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Firsts, Seen, dangling, family};
use crate::config::build;
use crate::config::draft::{AnyPeer, File, Tunnel, Uplink, UplinkKind};
use crate::config::report::Report;
use crate::config::section::At;
use crate::config::{Endpoint, Name, Uapi, limits};

pub(super) fn check(file: &File, report: &mut Report) {
    let names: HashSet<&Name> = file
        .tunnels
        .iter()
        .map(|tunnel| &tunnel.name.value)
        .collect();
    let references = file
        .networks
        .iter()
        .filter_map(|network| network.tunnel.as_ref());
    let used: HashSet<&Name> = references.map(|at| &at.value).collect();
    // A misspelt reference was meant for one of them.
    let all_known = used.is_subset(&names);
    for tunnel in &file.tunnels {
        for reference in tunnel.uplinks() {
            if file.uplink(Some(reference)).is_none() {
                let known = file.uplinks.iter().map(|uplink| &uplink.name.value);
                let by = format!("tunnel `{}`", tunnel.name.value);
                dangling(reference, "uplink", &by, known, report);
            }
        }
        uplinks(tunnel, file, report);
        fwmark(tunnel, file, report);
        keys(tunnel, report);
        allowed_ips(tunnel, report);
        if all_known && !used.contains(&tunnel.name.value) {
            report
                .warning(
                    tunnel.name.span,
                    format!("no network uses tunnel `{}`", tunnel.name.value),
                )
                .help(format!(
                    "to use it: `tunnel: {}` in one of the networks",
                    tunnel.name.value
                ));
        }
    }
    listen_ports(file, report);
    uapi_names(file, report);
    number_of_peers(file, limits::PEERS, report);
}

/// Compares peers with what their tunnel and its uplink are.
pub(super) fn check_peers(file: &File, report: &mut Report) {
    for tunnel in &file.tunnels {
        uplinks(tunnel, file, report);
        keys(tunnel, report);
        allowed_ips(tunnel, report);
    }
}

/// What a tunnel's uplinks let it be. Of several each is an uplink of its own, and no endpoint has to be reached by all.
fn uplinks(tunnel: &Tunnel, file: &File, report: &mut Report) {
    let mut seen = Seen::default();
    for (place, reference) in tunnel.uplinks().enumerate() {
        if let Some(line) = seen.insert(reference.value.clone(), reference.span) {
            let line = report.line(line);
            let (name, uplink) = (&tunnel.name.value, &reference.value);
            report
                .error(
                    reference.span,
                    format!("tunnel `{name}` names the uplink `{uplink}` twice"),
                )
                .help(format!("it stands in {line} already"));
            continue;
        }
        let Some(uplink) = file.uplink(Some(reference)) else {
            continue;
        };
        let ahead = tunnel.uplinks().take(place);
        let mut ahead = ahead.filter_map(|other| file.uplink(Some(other)));
        if let Some(other) = ahead.find(|other| share_sockets(other, uplink)) {
            let (one, two) = (&other.name.value, &uplink.name.value);
            report
                .error(
                    reference.span,
                    format!(
                        "the uplinks `{one}` and `{two}` of tunnel `{}` share an address",
                        tunnel.name.value
                    ),
                )
                .help("expected `udp` uplinks with a `device` or `addresses` of their own: one of the two would never be used");
        }
        mtu(tunnel, uplink, report);
        endpoints(tunnel, (uplink, place), report);
    }
}

/// The tunnel with the peer that is one too many has the mistake.
fn number_of_peers(file: &File, most: usize, report: &mut Report) {
    let mut peers = 0;
    for tunnel in &file.tunnels {
        let before = peers;
        peers += tunnel.peers.len();
        if before <= most && peers > most {
            let name = &tunnel.name.value;
            report
                .error(
                    tunnel.name.span,
                    format!("with those of tunnel `{name}` there are {peers} peers"),
                )
                .help(format!(
                    "expected at most {most} over all tunnels: give the rest to another instance"
                ));
        }
    }
}

fn fwmark(tunnel: &Tunnel, file: &File, report: &mut Report) {
    let uplinks = tunnel.uplinks().filter_map(|at| file.uplink(Some(at)));
    let uplinks: Vec<_> = uplinks.collect();
    let is_marked = |uplink: &&Uplink| uplink.kind != Some(UplinkKind::Dpdk);
    if let Some(mark) = tunnel.fwmark
        && !uplinks.is_empty()
        && !uplinks.iter().any(is_marked)
    {
        report
            .error(
                mark.span,
                format!(
                    "`fwmark` of tunnel `{}` is for `udp` uplinks",
                    tunnel.name.value
                ),
            )
            .help("remove it: the kernel doesn't route what leaves by a `dpdk` uplink");
    }
}

fn uapi_names(file: &File, report: &mut Report) {
    let mut seen = Seen::default();
    for tunnel in &file.tunnels {
        let Some(uapi) = &tunnel.uapi else { continue };
        let Uapi::Name(name) = &uapi.value else {
            continue;
        };
        if let Some(line) = seen.insert(name.clone(), uapi.span) {
            let line = report.line(line);
            report
                .error(
                    uapi.span,
                    format!("a second tunnel has the `uapi` name `{name}`"),
                )
                .help(format!(
                    "the first stands in {line}: expected one name a tunnel"
                ));
        }
    }
}

/// Two tunnels collide where their uplinks share an address: on one uplink always, on two kernel
/// uplinks if one has every address or both have the same one.
fn listen_ports(file: &File, report: &mut Report) {
    let uplinks_of = |tunnel: &Tunnel| -> Vec<&Uplink> {
        let uplinks = tunnel.uplinks();
        uplinks.filter_map(|at| file.uplink(Some(at))).collect()
    };
    let mut by_port = std::collections::BTreeMap::<u16, Vec<&Tunnel>>::new();
    for tunnel in &file.tunnels {
        let Some(port) = tunnel.listen_port else {
            continue;
        };
        let earlier = by_port.entry(port.value).or_default();
        let own = uplinks_of(tunnel);
        taken(tunnel, port, &own, report);
        let shared = |other: &Tunnel| {
            let others = uplinks_of(other);
            let pairs = own
                .iter()
                .flat_map(|one| others.iter().map(move |two| (*one, *two)));
            let mut shared = pairs.filter(|(one, two)| share_sockets(one, two));
            shared
                .next()
                .map(|(one, two)| one.name.value == two.name.value)
        };
        let collides = |other: &&&Tunnel| shared(other).is_some();
        if let Some(first) = earlier.iter().find(collides) {
            let line = report.line(first.listen_port.map_or(first.name.span, |at| at.span));
            report
                .error(
                    port.span,
                    format!(
                        "tunnel `{}` listens on port {}, as tunnel `{}` does",
                        tunnel.name.value, port.value, first.name.value
                    ),
                )
                .help(format!("the first stands in {line}"))
                .help(match shared(first) == Some(true) {
                    true => "expected a port for each tunnel of an uplink",
                    false => "their uplinks share an address: expected another port, or uplinks with addresses or a `device` of their own",
                });
        }
        earlier.push(tunnel);
    }
}

/// A port that an uplink has for itself.
fn taken(tunnel: &Tunnel, port: At<u16>, uplinks: &[&Uplink], report: &mut Report) {
    let mut taken = uplinks.iter().filter_map(|uplink| {
        let key = uplink.own_udp().key_of(port.value)?;
        (uplink.kind == Some(UplinkKind::Dpdk)).then_some((uplink, key))
    });
    if let Some((uplink, key)) = taken.next() {
        let (name, uplink) = (&tunnel.name.value, &uplink.name.value);
        report
            .error(
                port.span,
                format!(
                    "tunnel `{name}` listens on port {}, which `{key}` of uplink `{uplink}` has",
                    port.value
                ),
            )
            .help("expected another port for the tunnel");
    }
}

fn share_sockets(one: &Uplink, two: &Uplink) -> bool {
    if one.name.value == two.name.value {
        return true;
    }
    let kernel = |uplink: &Uplink| uplink.kind == Some(UplinkKind::Udp);
    let any = |uplink: &Uplink| uplink.addresses.is_empty();
    let common = || {
        let has = |address: IpAddr| two.addresses.iter().any(|at| at.value.addr() == address);
        one.addresses.iter().any(|at| has(at.value.addr()))
    };
    // Sockets bound to different interfaces never meet (socket(7), SO_BINDTODEVICE).
    let apart =
        one.interface.is_some() && two.interface.is_some() && one.interface != two.interface;
    kernel(one) && kernel(two) && !apart && (any(one) || any(two) || common())
}

fn mtu(tunnel: &Tunnel, uplink: &Uplink, report: &mut Report) {
    let Some(mtu) = tunnel.mtu else {
        let (outside, least) = (
            build::uplink_mtu(uplink),
            limits::MTU_MIN + limits::TUNNEL_OVERHEAD,
        );
        if outside < least {
            let span = uplink.mtu.map_or(uplink.name.span, |at| at.span);
            report
                .error(
                    span,
                    format!(
                        "uplink `{}` has an MTU of {outside}, too small for tunnel `{}`",
                        uplink.name.value, tunnel.name.value
                    ),
                )
                .help(format!(
                    "a tunnel carries {} bytes and adds {}: expected at least {least}",
                    limits::MTU_MIN,
                    limits::TUNNEL_OVERHEAD
                ));
        }
        return;
    };
    // Without addresses nothing rules IPv6 out but the peers' endpoints.
    let v6_address =
        uplink.accept_ra || uplink.addresses.iter().any(|at| !super::is_ipv4(&at.value));
    let v6_endpoint = tunnel
        .peers
        .iter()
        .filter_map(AnyPeer::endpoint)
        .any(|endpoint| match endpoint.value {
            Endpoint::Address(address) => address.is_ipv6(),
            // An address with a zone.
            Endpoint::Host { name, .. } => name.contains(':'),
        });
    let (overhead, outer) = if v6_address || v6_endpoint {
        (limits::TUNNEL_OVERHEAD, "IPv6")
    } else {
        (limits::TUNNEL_OVERHEAD_V4, "IPv4")
    };
    let outside = build::uplink_mtu(uplink);
    if mtu.value + overhead > outside {
        report
            .error(
                mtu.span,
                format!(
                    "tunnel `{}` has an MTU of {}, too large for its uplink's {outside}",
                    tunnel.name.value, mtu.value
                ),
            )
            .help(format!(
                "WireGuard over {outer} adds {overhead} bytes: expected at most {}",
                outside.saturating_sub(overhead)
            ));
    }
}

fn keys(tunnel: &Tunnel, report: &mut Report) {
    let own = tunnel.private_key.as_ref().map(|key| key.public_key());
    let mut firsts = Firsts::of(tunnel.peers.len());
    for (number, peer) in tunnel.peers.iter().enumerate() {
        let Some(key) = peer.public_key() else {
            continue;
        };
        let name = peer.name().value;
        if key.value.as_bytes() == &[0; crate::keys::KEY_LEN] {
            report
                .error(
                    key.span,
                    format!("`public_key` of peer `{name}` is all zeros"),
                )
                .help("expected what `culvert pubkey` printed at the far end");
            continue;
        }
        if own == Some(key.value) {
            report
                .error(
                    key.span,
                    format!(
                        "peer `{name}` has the key of tunnel `{}` itself",
                        tunnel.name.value
                    ),
                )
                .help("expected the far end's public key: run `culvert pubkey` there");
        }
        if let Some(first) = firsts.insert(key.value, number) {
            let first = tunnel.peers.get(first).and_then(AnyPeer::public_key);
            let line = report.line(first.unwrap_or(key).span);
            report
                .error(
                    key.span,
                    format!("a second peer with that public key: `{name}`"),
                )
                .help(format!(
                    "the first stands in {line}: a key belongs to one peer of a tunnel"
                ));
        }
    }
}

/// Of one of several uplinks `place` is which of them.
fn endpoints(tunnel: &Tunnel, (uplink, place): (&Uplink, usize), report: &mut Report) {
    let has_several = !tunnel.backups.is_empty();
    let mut seen = Seen::default();
    for peer in tunnel.peers.iter() {
        let Some(endpoint) = peer.endpoint() else {
            continue;
        };
        match endpoint.value {
            Endpoint::Host { name, .. } if uplink.kind == Some(UplinkKind::Dpdk) => {
                let help = if name.contains('%') {
                    "interfaces are the kernel's, which a `dpdk` uplink goes past: expected `ADDRESS:PORT`".to_owned()
                } else if uplink.may_know_names() {
                    continue;
                } else {
                    let uplink = &uplink.name.value;
                    format!(
                        "names are asked of an uplink's servers, of which `{uplink}` has none: add `nameservers: {{ addresses: [ADDRESS] }}` there, or give `ADDRESS:PORT`"
                    )
                };
                let peer = &peer.name().value;
                report
                    .error(
                        endpoint.span,
                        format!("`endpoint` of peer `{peer}` is the name `{name}`"),
                    )
                    .help(help);
            }
            Endpoint::Host { .. } => {}
            Endpoint::Address(address) => {
                let other =
                    (peer.is_enabled() && place == 0).then(|| seen.insert(*address, endpoint.span));
                if let Some(line) = other.flatten() {
                    let line = report.line(line);
                    report
                        .warning(
                            endpoint.span,
                            format!(
                                "a second peer of tunnel `{}` at {address}",
                                tunnel.name.value
                            ),
                        )
                        .help(format!(
                            "the first stands in {line}: one of the two will not answer"
                        ));
                }
                if !has_several {
                    reachable(tunnel, peer, uplink, address.ip(), address.port(), report);
                }
            }
        }
    }
}

fn reachable(
    tunnel: &Tunnel,
    peer: AnyPeer<'_>,
    uplink: &Uplink,
    address: IpAddr,
    port: u16,
    report: &mut Report,
) {
    let Some(endpoint) = peer.endpoint() else {
        return;
    };
    if uplink.addresses.is_empty() {
        return;
    }
    let title = format!("`endpoint` of peer `{}`", peer.name().value);
    let own = uplink.addresses.iter().any(|at| at.value.addr() == address);
    if own && tunnel.listen_port.is_some_and(|at| at.value == port) {
        report
            .error(
                endpoint.span,
                format!("{title} is tunnel `{}` itself", tunnel.name.value),
            )
            .help("expected the far end's address and port");
        return;
    }
    if uplink.learns(address.is_ipv4()) {
        return;
    }
    let same_family = |net: &IpNet| super::is_ipv4(net) == address.is_ipv4();
    if !uplink.addresses.iter().any(|at| same_family(&at.value)) {
        let family = family(address.is_ipv4());
        let addresses = report.line(uplink.addresses[0].span);
        report
            .error(
                endpoint.span,
                format!(
                    "{title} is {family}, but uplink `{}` has no {family} address",
                    uplink.name.value
                ),
            )
            .help(format!(
                "add one to its `addresses` in {addresses}, or give the peer's other address"
            ));
        return;
    }
    let on_link = uplink
        .addresses
        .iter()
        .any(|at| at.value.contains(&address));
    let routed = uplink.routes.iter().any(|route| match route.to.value {
        Some(to) => to.contains(&address),
        None => route.via.value.is_ipv4() == address.is_ipv4(),
    });
    // Others may come from the kernel's tables.
    let is_known = uplink.kind == Some(UplinkKind::Dpdk) && uplink.routes_from.is_none();
    if is_known && !on_link && !routed {
        report
            .warning(
                endpoint.span,
                format!(
                    "uplink `{}` has no route to {title}, {address}",
                    uplink.name.value
                ),
            )
            .help("add one to its `routes`, as in `routes: [{ to: default, via: ROUTER }]`");
    }
}

fn allowed_ips(tunnel: &Tunnel, report: &mut Report) {
    let mut owners = Firsts::of(tunnel.peers.len());
    // A disabled one's may be another's.
    let peers = tunnel.peers.iter().enumerate();
    for (number, peer) in peers.filter(|(_, it)| it.is_enabled()) {
        for prefix in peer.allowed_ips() {
            let Some(owner) = owners.insert(prefix.value, number) else {
                continue;
            };
            let first = tunnel.peers.get(owner).unwrap_or(peer);
            let mut same = first.allowed_ips().filter(|at| at.value == prefix.value);
            let line = report.line(same.next().unwrap_or(prefix).span);
            let name = peer.name().value;
            if owner == number {
                report
                    .warning(
                        prefix.span,
                        format!("`allowed_ips` of peer `{name}` has {} twice", prefix.value),
                    )
                    .help(format!("it stands in {line} already"));
                continue;
            }
            let first = first.name().value;
            report
                .error(
                    prefix.span,
                    format!(
                        "`allowed_ips` of peer `{name}` has {}, which is peer `{first}`'s",
                        prefix.value
                    ),
                )
                .help(format!(
                    "it stands in {line} already: a prefix belongs to one peer of a tunnel"
                ))
                .help("to send a part of it elsewhere, give the other peer a longer prefix");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::draft::Peer;
    use crate::config::report::Span;
    use crate::config::section::At;

    /// A tunnel with so many peers, in a line of its own.
    fn tunnel(line: usize, peers: usize) -> Tunnel {
        let span = Span {
            line,
            ..Span::default()
        };
        let peer = |number| Peer::named(At::new(Name::new(&format!("p{number}")).unwrap(), span));
        let name = At::new(Name::new(&format!("wg{line}")).unwrap(), span);
        Tunnel {
            peers: (0..peers).map(peer).collect::<Vec<_>>().into(),
            ..Tunnel::named(name)
        }
    }

    #[test]
    fn one_peer_too_many_is_found_where_it_comes() {
        let lines = |peers: [usize; 3]| -> Vec<usize> {
            let tunnels = peers.iter().enumerate();
            let file = File {
                tunnels: tunnels.map(|(i, &peers)| tunnel(i + 1, peers)).collect(),
                ..File::default()
            };
            let mut report = Report::new(Path::new("t.yaml"), "");
            number_of_peers(&file, 10, &mut report);
            let mistakes = report.mistakes().iter();
            mistakes.map(|mistake| mistake.span.line).collect()
        };
        assert!(lines([4, 6, 0]).is_empty());
        assert_eq!(lines([4, 7, 9]), [2]);
        assert_eq!(lines([11, 0, 0]), [1]);
    }
}
