//! Addresses of uplinks whose link layer is ours: whether a host of theirs can be meant, and no other thing's.
//!
//! In, out, never: as [`super`]. What is learned is judged by [`crate::engine`] alike, and refused for an overlap: here
//! it is a warning, as an operator may know what he does.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::draft::{File, Uplink, UplinkKind};
use crate::config::report::{Report, Span};

/// Prefixes shorter than that are ways to all others, which overlap nothing.
const OVERLAP_LEAST: u8 = 2;

pub(super) fn check(uplink: &Uplink, file: &File, report: &mut Report) {
    let name = &uplink.name.value;
    for at in &uplink.addresses {
        let net = at.value;
        if let Some(kind) = unusable(net.addr()) {
            report
                .error(
                    at.span,
                    format!("uplink `{name}` has {net}, which is {kind}"),
                )
                .help("expected an address that hosts on its link can reach");
            continue;
        }
        if matches!(net.addr(), IpAddr::V6(it) if it.is_unicast_link_local()) {
            report
                .warning(
                    at.span,
                    format!("uplink `{name}` has {net}, which nobody beyond its link can reach"),
                )
                .help("remove it: it has a link-local address of its own already");
            continue;
        }
        if uplink.enabled
            && let Some((what, span)) = overlapped(uplink, &net, file)
        {
            let line = report.line(span);
            report
                .warning(
                    at.span,
                    format!("uplink `{name}` has {net}, which overlaps {what}"),
                )
                .help(format!(
                    "that stands in {line}: a learned address is refused for it, as packets for one of the two may go to the \
                     other: expected prefixes apart from each other"
                ));
        }
    }
}

/// Why nobody can reach an address by a wire, in words.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_loopback() => Some("a loopback address"),
        // RFC 1122, section 3.2.1.3; RFC 1112, section 4.
        IpAddr::V4(it) if it.octets()[0] == 0 => Some("an address of \"this\" network"),
        IpAddr::V4(it) if it.octets()[0] >= 240 => Some("a reserved address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The first that an address overlaps: a network's, a peer's, another uplink's ahead of it.
fn overlapped(uplink: &Uplink, net: &IpNet, file: &File) -> Option<(String, Span)> {
    let overlaps = |other: &IpNet| {
        other.prefix_len() >= OVERLAP_LEAST
            && (other.contains(&net.addr()) || net.contains(&other.addr()))
    };
    for network in &file.networks {
        if let Some(at) = network.gateways.iter().find(|at| overlaps(&at.value)) {
            let what = format!("{} of network `{}`", at.value.trunc(), network.name.value);
            return Some((what, at.span));
        }
    }
    for tunnel in &file.tunnels {
        for peer in tunnel.peers.iter().filter(|it| it.is_enabled()) {
            if let Some(at) = peer.allowed_ips().find(|at| overlaps(&at.value)) {
                let (peer, tunnel) = (peer.name().value, &tunnel.name.value);
                let what = format!(
                    "{}, which peer `{peer}` of tunnel `{tunnel}` is allowed",
                    at.value
                );
                return Some((what, at.span));
            }
        }
    }
    let is_before = |other: &&Uplink| other.name.value != uplink.name.value;
    let ahead = file.uplinks.iter().take_while(is_before);
    let ahead = ahead.filter(|it| it.enabled && it.kind == Some(UplinkKind::Dpdk));
    let mut theirs = ahead.flat_map(|other| other.addresses.iter().map(move |at| (other, at)));
    // The same address twice is a mistake of its own.
    let is_other = |at: &IpNet| overlaps(at) && at.addr() != net.addr();
    theirs
        .find(|(_, at)| is_other(&at.value))
        .map(|(other, at)| {
            let what = format!("{} of uplink `{}`", at.value.trunc(), other.name.value);
            (what, at.span)
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Disk, Severity, parse};

    /// What is said of a file with these addresses at its first uplink.
    fn told(addresses: &str, more: &str) -> Vec<(Severity, String)> {
        let networks = match more.contains("networks") {
            true => "",
            false => "networks: {}\n",
        };
        let text = format!(
            "version: 1\n{networks}uplinks:\n  wan0: {{ driver: dpdk, device: \"net_af_packet0,iface=eth0\", addresses: \
             [{addresses}] }}\n{more}\n"
        );
        let (Ok((_, report)) | Err(report)) = parse(&text, Path::new("t.yaml"), &Disk);
        let mistakes = report.mistakes().iter();
        mistakes
            .map(|it| (it.severity, it.message.clone()))
            .collect()
    }

    #[test]
    fn an_address_that_no_host_of_a_link_has_is_refused() {
        for address in ["127.0.0.1/8", "\"::1/128\"", "0.0.0.5/8", "240.0.0.1/4"] {
            let told = told(address, "");
            assert!(
                matches!(&told[..], [(Severity::Error, _)]),
                "{address}: {told:?}"
            );
        }
        let near = told("192.0.2.7/24, \"fe80::5/64\"", "");
        assert!(matches!(&near[..], [(Severity::Warning, _)]), "{near:?}");
        assert_eq!(told("192.0.2.7/24, \"2001:db8::7/64\"", ""), []);
    }

    #[test]
    fn an_address_that_is_in_something_elses_prefix_is_warned_of() {
        let wan1 = "  wan1: { driver: dpdk, device: net_null1, addresses: [192.0.2.130/25] }";
        let off = wan1.replace("{ driver", "{ enabled: false, driver");
        let network = "networks: { blue: { gateway: 192.0.2.1/26 } }";
        for (more, words) in [
            (wan1, "192.0.2.0/24 of uplink `wan0`"),
            (network, "192.0.2.0/26 of network `blue`"),
        ] {
            let told = told("192.0.2.7/24", more);
            let is_told = |(severity, text): &(Severity, String)| {
                *severity == Severity::Warning && text.ends_with(words)
            };
            assert!(told.iter().any(is_told), "{more}: {told:?}");
        }
        assert_eq!(told("192.0.2.7/24", &off), []);
        let apart = told("198.51.100.7/24", wan1);
        assert_eq!(apart, []);
    }

    #[test]
    fn an_interface_has_one_uplink() {
        let wan1 = "  wan1: { driver: dpdk, device: \"net_af_packet1,iface=eth0\", addresses: [198.51.100.7/24] }";
        let told_of = told("192.0.2.7/24", wan1);
        assert!(
            matches!(&told_of[..], [(Severity::Error, text)] if text.contains("`eth0`")),
            "{told_of:?}"
        );
        assert_eq!(told("192.0.2.7/24", &wan1.replace("eth0", "eth1")), []);
    }
}
