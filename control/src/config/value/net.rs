//! Values that say where something is: addresses, prefixes, endpoints.
//!
//! In: one node and what it is called. Out: the value, or a mistake in the report. Never: a look at this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{
    super::{
        Endpoint, MacAddr,
        raw::{Node, Value},
        report::Report,
    },
    text,
};

/// An address with its prefix length; the host bits count.
pub(in crate::config) fn interface(node: &Node, what: &str, report: &mut Report) -> Option<IpNet> {
    let text = text(node, what, report)?;
    if let Ok(net) = text.parse::<IpNet>() {
        return usable(net.addr(), node, what, report).then_some(net);
    }
    let mistake = report.error(node.span, format!("{what} has `{text}`"));
    match text.parse::<IpAddr>() {
        Ok(address) => {
            let usual = if address.is_ipv4() { 24 } else { 64 };
            mistake.help(format!(
                "expected an address with the length of its prefix, as in `{address}/{usual}`"
            ));
        }
        Err(_) => {
            mistake.help("expected an address with the length of its prefix, as in `192.0.2.10/24` or `2001:db8::10/64`");
        }
    }
    None
}

/// A prefix; host bits are cleared with a warning, a bare address is a host.
pub(in crate::config) fn prefix(node: &Node, what: &str, report: &mut Report) -> Option<IpNet> {
    let text = text(node, what, report)?;
    let parsed = text.parse::<IpNet>();
    if let Ok(net) = parsed.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
        if net.trunc() != net {
            report
                .warning(
                    node.span,
                    format!("{what} has `{net}`, which has bits beyond its prefix"),
                )
                .help(format!(
                    "it is taken as `{}`: write that, or `{}` for one address",
                    net.trunc(),
                    net.addr()
                ));
        }
        return Some(net.trunc());
    }
    let mistake = report.error(node.span, format!("{what} has `{text}`"));
    if text.contains(',') {
        let items = text.split(',').map(|item| format!("\"{}\"", item.trim()));
        let items: Vec<_> = items.collect();
        mistake.help(format!("a list is written `[{}]`", items.join(", ")));
        return None;
    }
    mistake.help("expected a prefix, as in `10.1.2.0/24` or `fd00:2::/64`");
    None
}

/// Where a route leads to: a prefix, or `default` (`None`).
pub(in crate::config) fn destination(
    node: &Node,
    what: &str,
    report: &mut Report,
) -> Option<Option<IpNet>> {
    if matches!(&node.value, Value::Text(text) if text == "default") {
        return Some(None);
    }
    prefix(node, what, report).map(Some)
}

/// An IP address.
pub(in crate::config) fn address(node: &Node, what: &str, report: &mut Report) -> Option<IpAddr> {
    let text = text(node, what, report)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return usable(address, node, what, report).then_some(address);
    }
    let mistake = report.error(node.span, format!("{what} has `{text}`"));
    match text.parse::<IpNet>() {
        Ok(net) => mistake.help(format!(
            "expected an address without a prefix length: `{}`",
            net.addr()
        )),
        Err(_) => mistake.help("expected an IP address, as in `10.1.1.10` or `fd00:1::10`"),
    };
    None
}

/// Whether a host can have that address.
fn usable(address: IpAddr, node: &Node, what: &str, report: &mut Report) -> bool {
    let mapped = |v6: Ipv6Addr| v6.to_ipv4_mapped().is_some();
    let kind = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else if matches!(address, IpAddr::V6(v6) if mapped(v6)) {
        "an IPv4 address in IPv6's clothes"
    } else {
        return true;
    };
    report
        .error(
            node.span,
            format!("{what} has `{address}`, which is {kind}"),
        )
        .help("expected an address that a host can have");
    false
}

/// A peer's endpoint.
pub(in crate::config) fn endpoint(
    node: &Node,
    what: &str,
    report: &mut Report,
) -> Option<Endpoint> {
    let text = text(node, what, report)?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            report.error(node.span, format!("{what} has port 0"));
            return None;
        }
        return usable(address.ip(), node, what, report).then_some(Endpoint::Address(address));
    }
    if let Some(endpoint) = zoned(text).or_else(|| host_and_port(text)) {
        return Some(endpoint);
    }
    let mistake = report.error(node.span, format!("{what} is `{text}`"));
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => mistake.help(format!("the port is missing: `{v4}:51820`")),
        Ok(IpAddr::V6(v6)) => mistake.help(format!("the port is missing: `[{v6}]:51820`")),
        Err(_) => mistake.help(
            "expected `ADDRESS:PORT`, `[IPV6-ADDRESS]:PORT`, `[LINK-LOCAL-ADDRESS%INTERFACE]:PORT` or `DNS-NAME:PORT`, as in `192.0.2.11:51820`",
        ),
    };
    None
}

/// Where a service listens on TCP.
pub(in crate::config) fn listen(
    node: &Node,
    what: &str,
    report: &mut Report,
) -> Option<SocketAddr> {
    let text = text(node, what, report)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Some(address),
        Ok(_) => {
            report.error(node.span, format!("{what} has port 0"));
            None
        }
        Err(_) => {
            report
                .error(node.span, format!("{what} is `{text}`"))
                .help("expected `ADDRESS:PORT` or `[IPV6-ADDRESS]:PORT`, as in `127.0.0.1:9587`; `[::]:9587` is every address of this machine");
            None
        }
    }
}

/// `[fe80::1%eth0]:51820`. The interface has a number when it is there, and another one when it is made anew: it is
/// looked up as names are.
fn zoned(text: &str) -> Option<Endpoint> {
    let (host, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, zone) = host.split_once('%')?;
    let port = decimal_port(port)?;
    let address: Ipv6Addr = address.parse().ok()?;
    let fits = address.is_unicast_link_local() && crate::uapi::is_name(zone);
    fits.then(|| Endpoint::Host {
        name: format!("{address}%{zone}"),
        port,
    })
}

fn decimal_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port != 0)
}

/// `NAME:PORT` with a name as RFC 1123 section 2.1 has it, not looking like an IPv4 address.
fn host_and_port(text: &str) -> Option<Endpoint> {
    let (name, port) = text.rsplit_once(':')?;
    let port = decimal_port(port)?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let labels = name.strip_suffix('.').unwrap_or(name);
    let last_is_word = labels
        .rsplit('.')
        .next()?
        .bytes()
        .any(|byte| byte.is_ascii_alphabetic());
    let well_formed = name.len() <= 253 && labels.split('.').all(label) && last_is_word;
    well_formed.then(|| Endpoint::Host {
        name: name.to_owned(),
        port,
    })
}

/// A unicast Ethernet address.
pub(in crate::config) fn mac(node: &Node, what: &str, report: &mut Report) -> Option<MacAddr> {
    let text = text(node, what, report)?;
    let Some(mac) = MacAddr::parse(text) else {
        report
            .error(node.span, format!("{what} is `{text}`"))
            .help("expected six pairs of hexadecimal digits, as in \"52:54:00:00:00:01\"");
        return None;
    };
    if mac == MacAddr([0; 6]) {
        report
            .error(node.span, format!("{what} is all zeros"))
            .help("expected a unicast address, as in \"52:54:00:00:00:01\"");
        return None;
    }
    if mac.is_group() {
        let mut unicast = mac;
        unicast.0[0] &= !1;
        report
            .error(node.span, format!("{what} is the group address {mac}"))
            .help(format!(
                "expected a unicast address: the first byte must be even, as in \"{unicast}\""
            ));
        return None;
    }
    Some(mac)
}
