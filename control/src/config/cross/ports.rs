//! Ports: networks, MAC and IP addresses, sockets, interfaces, queues.

use std::path::{Component, Path};

use super::{Seen, dangling, prefixes, queue_workers, reserved};
use crate::config::build;
use crate::config::draft::{Attachment, File, Network, Port, PortKind};
use crate::config::report::Report;
use crate::config::{Guard, IpNet, SocketPath, limits};
use crate::process::{API_SOCKET, READ_SOCKET};

pub(super) fn check(file: &File, report: &mut Report) {
    let mut macs = Seen::default();
    let mut addresses = Seen::default();
    let mut places = Seen::default();
    for port in &file.ports {
        let mut joined = Seen::default();
        for attachment in &port.attachments {
            if is_second((port, attachment), &mut joined, report) {
                continue;
            }
            let title = attachment.title(port);
            let network = file.network(attachment.network.as_ref());
            if let (Some(reference), None) = (&attachment.network, network) {
                let known = file.networks.iter().map(|network| &network.name.value);
                dangling(reference, "network", &title, known, report);
            }
            let Some(network) = network else { continue };
            mac(port, network, &mut macs, report);
            for address in &attachment.addresses {
                let claim = (&network.name.value, address.value);
                let other = (port.enabled).then(|| addresses.insert(claim, address.span));
                if let Some(line) = other.flatten() {
                    let line = report.line(line);
                    report
                        .error(
                            address.span,
                            format!(
                                "{title} has {}, which another port of its network has",
                                address.value
                            ),
                        )
                        .help(format!(
                            "it stands in {line} already: an address belongs to one port"
                        ));
                }
            }
            inside((port, attachment), network, report);
            guard((port, attachment), network, report);
        }
        place(port, &mut places, report);
        let title = format!("port `{}`", port.name.value);
        let queues = port.queues.map_or(1, |at| at.value as usize);
        queue_workers(&title, port.queue_workers.as_ref(), queues, file, report);
    }
}

/// Whether a port joins that network by another VLAN already: its guest would be there twice.
fn is_second<'f>(
    (port, attachment): (&Port, &'f Attachment),
    joined: &mut Seen<&'f crate::config::Name>,
    report: &mut Report,
) -> bool {
    let Some(network) = &attachment.network else {
        return false;
    };
    let Some(line) = joined.insert(&network.value, network.span) else {
        return false;
    };
    let (title, line) = (attachment.title(port), report.line(line));
    report
        .error(
            network.span,
            format!("{title} joins network `{}` a second time", network.value),
        )
        .help(format!(
            "it stands in {line} already: expected another network for each VLAN"
        ));
    true
}

fn mac<'f>(
    port: &Port,
    network: &'f Network,
    seen: &mut Seen<(&'f crate::config::Name, crate::config::MacAddr)>,
    report: &mut Report,
) {
    let Some(mac) = port.mac else { return };
    let name = &port.name.value;
    let claim = (&network.name.value, mac.value);
    if let Some(line) = (port.enabled)
        .then(|| seen.insert(claim, mac.span))
        .flatten()
    {
        let line = report.line(line);
        report
            .error(
                mac.span,
                format!(
                    "port `{name}` has the MAC address {} of another port of its network",
                    mac.value
                ),
            )
            .help(format!(
                "it stands in {line} already: expected one for each port"
            ));
    }
    let gateway = network.gateway_mac.map_or_else(
        || crate::config::MacAddr::derived(network.name.value.as_str()),
        |at| at.value,
    );
    if gateway == mac.value {
        report
            .error(
                mac.span,
                format!("port `{name}` has the MAC address of its network's gateway, {gateway}"),
            )
            .help("expected another, or set the network's `gateway_mac`");
    }
}

fn inside((port, attachment): (&Port, &Attachment), network: &Network, report: &mut Report) {
    for address in &attachment.addresses {
        let title = attachment.title(port);
        let gateways = || network.gateways.iter().map(|at| &at.value);
        let Some(gateway) = gateways().find(|net| net.contains(&address.value)) else {
            // A network whose gateway was reported has no prefix to compare with.
            if !network.gateways.is_empty() {
                report
                    .error(
                        address.span,
                        format!(
                            "{title} has {}, which is outside of network `{}`",
                            address.value, network.name.value
                        ),
                    )
                    .help(format!(
                        "expected an address inside {}",
                        prefixes(gateways())
                    ));
            }
            continue;
        };
        if gateways().any(|net| net.addr() == address.value) {
            report
                .error(
                    address.span,
                    format!(
                        "{title} has {}, which is its network's gateway",
                        address.value
                    ),
                )
                .help("expected an address of its own");
            continue;
        }
        let host = IpNet::new(address.value, gateway.prefix_len()).ok();
        if let Some(kind) = host.as_ref().and_then(reserved) {
            report
                .error(
                    address.span,
                    format!("{title} has {}, which is {kind}", address.value),
                )
                .help("expected an address that a host can have");
        }
    }
}

/// Sockets and interfaces: one port each, and names that the system takes.
fn place(port: &Port, seen: &mut Seen<String>, report: &mut Report) {
    let title = format!("port `{}`", port.name.value);
    if port.kind != PortKind::VhostUser {
        let (interface, span) = match &port.interface {
            Some(at) => (at.value.clone(), at.span),
            None => (port.name.value.to_string(), port.name.span),
        };
        let claim = format!("interface {interface}");
        if let Some(line) = (port.enabled).then(|| seen.insert(claim, span)).flatten() {
            let line = report.line(line);
            report
                .error(
                    span,
                    format!("{title} has the interface `{interface}` of another port"),
                )
                .help(format!(
                    "the first stands in {line}: expected one for each port"
                ));
        }
        return;
    }
    let span = port.socket.as_ref().map_or(port.name.span, |at| at.span);
    let (path, shown) = match build::socket(port) {
        SocketPath::Absolute(path) => (path.clone(), path),
        // Two ports may write the same file in two ways only if one of them is absolute, and then
        // the run directory decides: the locks see to that.
        SocketPath::InRunDir(path) => (Path::new("RUN_DIR").join(&path), path),
    };
    let path = plain(&path);
    if let Some(line) = (port.enabled)
        .then(|| seen.insert(path.clone(), span))
        .flatten()
    {
        let line = report.line(line);
        report
            .error(
                span,
                format!(
                    "{title} has the socket `{}` of another port",
                    shown.display()
                ),
            )
            .help(format!(
                "the first stands in {line}: expected one for each port"
            ));
    }
    if path.len() > limits::SOCKET_PATH {
        report
            .error(
                span,
                format!("{title} has a socket path of {} bytes", path.len()),
            )
            .help(format!(
                "expected at most {}: that is all the system has room for",
                limits::SOCKET_PATH
            ));
    }
    if let Some(why) = refused(&build::socket(port)) {
        report
            .error(
                span,
                format!("{title} has the socket `{}`, {why}", shown.display()),
            )
            .help(format!(
                "expected another name, as in `{}-port.sock`, or an absolute path",
                port.name.value
            ));
    }
}

/// Why a socket can't be there.
fn refused(socket: &SocketPath) -> Option<&'static str> {
    let path = match socket {
        SocketPath::Absolute(path) => return path.file_name().is_none().then_some(NO_NAME),
        SocketPath::InRunDir(path) => path,
    };
    let mut steps = path.components();
    if steps.any(|step| step == Component::ParentDir) {
        return Some("which leads out of the run directory");
    }
    if path.file_name().is_none() {
        return Some(NO_NAME);
    }
    is_taken(path).then_some("a name that is taken in the run directory")
}

const NO_NAME: &str = "which has no name";

/// Whether a path in the run directory is the process's own: of its sockets, locks, files and folders.
pub(crate) fn is_taken(path: &Path) -> bool {
    const OWN: [&str; 6] = [
        API_SOCKET,
        READ_SOCKET,
        "lock",
        "endpoints.json",
        "endpoints.json.new",
        "state",
    ];
    let names = path.components();
    let mut names = names.filter(|it| matches!(it, Component::Normal(_)));
    let Some(first) = names.next() else {
        return false;
    };
    let first = first.as_os_str().to_string_lossy();
    let of_port = first.ends_with(".rings") || (first.starts_with('.') && first.ends_with(".lock"));
    OWN.contains(&&*first) || (of_port && names.next().is_none())
}

/// A path without `.` and doubled slashes.
fn plain(path: &Path) -> String {
    path.components()
        .collect::<std::path::PathBuf>()
        .display()
        .to_string()
}

fn guard((port, attachment): (&Port, &Attachment), network: &Network, report: &mut Report) {
    let has_none = attachment.addresses.is_empty() && !attachment.lacks_addresses;
    if build::guard(attachment, network) == Guard::Strict && has_none && !network.plain {
        let title = attachment.title(port);
        report
            .warning(attachment.span(port), format!("{title} has no `addresses`, so its strict guard lets no IP packet of the guest pass"))
            .help("give it `addresses: [...]`, or `guard: mac` for a guest that chooses its own");
    }
}
