//! Uplinks: devices, addresses, routes, queues.

use std::net::IpAddr;

use super::{Seen, apart, family, is_ipv4, prefixes, queue_workers, reserved};
use crate::config::DpdkDevice;
use crate::config::draft::{File, PortKind, Uplink, UplinkKind, UplinkRoute};
use crate::config::report::Report;
use crate::config::{build, limits};

pub(super) fn check(file: &File, report: &mut Report) {
    let mut devices = Seen::default();
    let mut addresses = Seen::default();
    let mut interfaces = Seen::default();
    let mut lent = Seen::default();
    for uplink in &file.uplinks {
        bond(uplink, report);
        for device in uplink.device.iter().chain(&uplink.members) {
            let Some(line) = devices.insert(device.value.name.clone(), device.span) else {
                continue;
            };
            let line = report.line(line);
            report
                .error(
                    device.span,
                    format!("the device `{}` has an uplink already", device.value.name),
                )
                .help(format!(
                    "the first stands in {line}: expected one uplink a device"
                ));
        }
        for address in &uplink.addresses {
            if let Some(line) = addresses.insert(address.value.addr(), address.span) {
                let line = report.line(line);
                report
                    .error(
                        address.span,
                        format!("the address {} stands twice", address.value.addr()),
                    )
                    .help(format!(
                        "it stands in {line} already: an address belongs to one uplink"
                    ));
            }
            if let Some(kind) = reserved(&address.value) {
                report
                    .error(
                        address.span,
                        format!(
                            "uplink `{}` has {}, which is {kind}",
                            uplink.name.value, address.value
                        ),
                    )
                    .help("expected an address that a host can have");
            }
        }
        if uplink.kind == Some(UplinkKind::Dpdk) {
            apart::check(uplink, file, report);
        }
        for device in uplink.device.iter().chain(&uplink.members) {
            let Some(interface) = interface_of(&device.value) else {
                continue;
            };
            let Some(line) = lent.insert(interface.to_owned(), device.span) else {
                continue;
            };
            let line = report.line(line);
            report
                .error(
                    device.span,
                    format!("the interface `{interface}` has an uplink already"),
                )
                .help(format!(
                    "the first stands in {line}: each of the two would take all frames: expected one device an interface"
                ));
        }
        routes(uplink, report);
        exception(uplink, file, &mut interfaces, report);
        neighbors(uplink, report);
        bfd(uplink, report);
        nameservers(uplink, report);
        let queues = uplink
            .queues
            .map_or_else(|| build::worker_count(&file.cores), |at| at.value as usize);
        let title = format!("uplink `{}`", uplink.name.value);
        queue_workers(&title, uplink.queue_workers.as_ref(), queues, file, report);
    }
}

/// A bond is made of others, and nothing else is.
fn bond(uplink: &Uplink, report: &mut Report) {
    let Some(device) = &uplink.device else {
        return;
    };
    let name = &device.value.name;
    let mut args = device.value.args.split(',');
    let names_members = args.any(|arg| arg.starts_with("slave=") || arg.starts_with("member="));
    match (device.value.is_bond(), uplink.members.first()) {
        (true, _) if names_members => {
            report
                .error(
                    device.span,
                    format!("the bond `{name}` names members among its arguments"),
                )
                .help(
                    "name them in `members`, with their own arguments: they are opened before it",
                );
        }
        (true, None) => {
            report
                .error(device.span, format!("the bond `{name}` has no members"))
                .help("name the devices that it is made of: `members: [\"0000:3b:00.0\", \"0000:3b:00.1\"]`");
        }
        (false, Some(member)) => {
            report
                .error(member.span, format!("`{name}` has members and is no bond"))
                .help("remove `members`, or choose `device: net_bonding0,mode=1`");
        }
        (true, Some(_)) | (false, None) => {}
    }
    if let Some(member) = uplink.members.iter().find(|it| it.value.is_bond()) {
        report
            .error(
                member.span,
                format!("`{}` is a bond in a bond", member.value.name),
            )
            .help("name the devices that it is made of instead");
    }
}

/// The interface of the kernel's that a virtual device takes its frames from.
fn interface_of(device: &DpdkDevice) -> Option<&str> {
    let mut args = device.args.split(',');
    args.find_map(|arg| arg.trim().strip_prefix("iface="))
}

/// One interface for one uplink, and for nothing else here.
fn exception(uplink: &Uplink, file: &File, interfaces: &mut Seen<String>, report: &mut Report) {
    if let (Some(table), None) = (&uplink.routes_from, &uplink.exception) {
        let name = &uplink.name.value;
        report
            .error(table.span, format!("uplink `{name}` has `routes_from` without `exception`"))
            .help("expected `exception: tap-wan0` beside it: routes are taken from the kernel that go by that interface");
    }
    let Some(interface) = &uplink.exception else {
        return;
    };
    let taken = interfaces.insert(interface.value.clone(), interface.span);
    let of_port = file.ports.iter().find_map(|port| {
        let at = port.interface.as_ref();
        let name = at.map_or_else(|| port.name.value.to_string(), |at| at.value.clone());
        let is_taken = port.kind != PortKind::VhostUser && name == interface.value;
        is_taken.then(|| at.map_or(port.name.span, |at| at.span))
    });
    if let Some(line) = taken.or(of_port) {
        let line = report.line(line);
        report
            .error(
                interface.span,
                format!("the interface `{}` is another's", interface.value),
            )
            .help(format!(
                "it stands in {line} already: expected a name of its own, as in `tap-{}`",
                uplink.name.value
            ));
    }
}

fn routes(uplink: &Uplink, report: &mut Report) {
    if uplink.kind != Some(UplinkKind::Dpdk) {
        return;
    }
    let title = format!("a route of uplink `{}`", uplink.name.value);
    let mut seen = Seen::default();
    for route in &uplink.routes {
        let via = route.via.value;
        if let Some(to) = route.to.value
            && is_ipv4(&to) != via.is_ipv4()
        {
            report
                .error(
                    route.via.span,
                    format!(
                        "{title} leads {} by the {} router {via}",
                        to,
                        family(via.is_ipv4())
                    ),
                )
                .help(format!(
                    "expected a router with an {} address",
                    family(is_ipv4(&to))
                ));
            continue;
        }
        let to = route
            .to
            .value
            .unwrap_or_else(|| build::everything(via.is_ipv4()));
        if let Some(line) = seen.insert((to, route.metric), route.to.span) {
            let line = report.line(line);
            report
                .error(
                    route.to.span,
                    format!("{title} leads to {to} a second time"),
                )
                .help(format!(
                    "the first stands in {line}: keep one of the two, or give one a higher `metric`: it counts once the other is gone"
                ));
        }
        route_source(uplink, route, report);
        let is_known = !uplink.addresses.is_empty() && !uplink.learns(via.is_ipv4());
        if is_known && !on_link(uplink, via) {
            report
                .error(
                    route.via.span,
                    format!("{title} goes by {via}, which is not on the uplink's link"),
                )
                .help(format!(
                    "expected an address inside {}",
                    prefixes(uplink.addresses.iter().map(|at| &at.value))
                ));
        } else if uplink.addresses.iter().any(|net| net.value.addr() == via) {
            report
                .error(
                    route.via.span,
                    format!("{title} goes by {via}, which is the uplink's own address"),
                )
                .help("expected the address of the next router");
        }
    }
}

/// What is sent that way is answered to where it came from.
fn route_source(uplink: &Uplink, route: &UplinkRoute, report: &mut Report) {
    let Some(from) = &route.from else {
        return;
    };
    let name = &uplink.name.value;
    let title = format!("a route of uplink `{name}` is from {}", from.value);
    let mut own = uplink.addresses.iter().map(|at| at.value.addr());
    if from.value.is_ipv4() != route.via.value.is_ipv4() {
        let family = family(route.via.value.is_ipv4());
        report
            .error(
                from.span,
                format!("{title}, and by the {family} router {}", route.via.value),
            )
            .help(format!("expected an {family} address of the uplink's"));
    } else if own.all(|own| own != from.value) {
        report
            .error(
                from.span,
                format!("{title}, which is no address of the uplink's"),
            )
            .help("expected one of its `addresses`: one that is learned is chosen without `from`");
    }
}

fn on_link(uplink: &Uplink, address: IpAddr) -> bool {
    let mut nets = uplink.addresses.iter();
    nets.any(|net| net.value.contains(&address))
}

fn neighbors(uplink: &Uplink, report: &mut Report) {
    let title = format!("a neighbor of uplink `{}`", uplink.name.value);
    let mut seen = Seen::default();
    for neighbor in &uplink.neighbors {
        let (address, span) = (neighbor.address.value, neighbor.address.span);
        if let Some(line) = seen.insert(address, span) {
            let line = report.line(line);
            report
                .error(span, format!("{title}, {address}, stands twice"))
                .help(format!("the first stands in {line}: keep one of the two"));
        }
        if uplink
            .addresses
            .iter()
            .any(|net| net.value.addr() == address)
        {
            report
                .error(
                    span,
                    format!("{title} is {address}, the uplink's own address"),
                )
                .help("expected the address of another host");
        } else if !uplink.addresses.is_empty() && !on_link(uplink, address) {
            report
                .error(span, format!("{title}, {address}, is not on its link"))
                .help(format!(
                    "expected an address inside {}",
                    prefixes(uplink.addresses.iter().map(|at| &at.value))
                ));
        }
    }
    if let Some(beyond) = uplink.neighbors.get(limits::UPLINK_NEIGHBORS) {
        let count = uplink.neighbors.len();
        let message = format!("uplink `{}` has {count} neighbors", uplink.name.value);
        report.error(beyond.address.span, message).help(format!(
            "expected at most {}: others are asked where they are",
            limits::UPLINK_NEIGHBORS
        ));
    }
}

/// Others than the uplink itself, that a way leads to.
fn nameservers(uplink: &Uplink, report: &mut Report) {
    let Some(servers) = &uplink.nameservers else {
        return;
    };
    let name = &uplink.name.value;
    let mut seen = Seen::default();
    for server in servers {
        let address = server.value;
        let title = format!("the server of names {address} of uplink `{name}`");
        if let Some(line) = seen.insert(address, server.span) {
            let line = report.line(line);
            report
                .error(server.span, format!("{title} stands twice"))
                .help(format!("the first stands in {line}: keep one of the two"));
        } else if uplink
            .addresses
            .iter()
            .any(|net| net.value.addr() == address)
        {
            report
                .error(server.span, format!("{title} is the uplink itself"))
                .help("expected the address of another host: nobody answers for names here");
        } else if uplink.kind == Some(UplinkKind::Dpdk) && !leads_to(uplink, address) {
            report
                .warning(
                    server.span,
                    format!("{title} can't be reached: no route leads there"),
                )
                .help("add one to its `routes`, as in `routes: [{ to: default, via: ROUTER }]`");
        }
    }
    if let Some(beyond) = servers.get(limits::NAMESERVERS) {
        let message = format!("uplink `{name}` has {} servers of names", servers.len());
        report
            .error(beyond.span, message)
            .help(format!("expected at most {}", limits::NAMESERVERS));
    }
}

/// Whether a way to an address is known, or may come.
fn leads_to(uplink: &Uplink, address: IpAddr) -> bool {
    let may_come = uplink.routes_from.is_some() || uplink.learns(address.is_ipv4());
    let routed = |route: &UplinkRoute| match route.to.value {
        Some(to) => to.contains(&address),
        None => route.via.value.is_ipv4() == address.is_ipv4(),
    };
    let is_near = matches!(address, IpAddr::V6(it) if it.is_unicast_link_local());
    may_come || is_near || on_link(uplink, address) || uplink.routes.iter().any(routed)
}

/// Over one hop: the other end is on the link.
fn bfd(uplink: &Uplink, report: &mut Report) {
    let Some(bfd) = &uplink.bfd else { return };
    let peer = bfd.peer.value;
    let name = &uplink.name.value;
    let mut nets = uplink.addresses.iter().map(|at| at.value);
    if uplink.addresses.iter().any(|net| net.value.addr() == peer) {
        report
            .error(
                bfd.peer.span,
                format!("the BFD session of uplink `{name}` is with {peer}, its own address"),
            )
            .help("expected the address of the gateway");
    } else if !uplink.addresses.is_empty() && !nets.any(|net| net.contains(&peer)) {
        report
            .error(
                bfd.peer.span,
                format!(
                    "the BFD session of uplink `{name}` is with {peer}, which is not on its link"
                ),
            )
            .help(format!(
                "expected an address inside {}",
                prefixes(uplink.addresses.iter().map(|at| &at.value))
            ));
    }
}
