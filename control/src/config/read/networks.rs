//! Networks.

use super::Reader;
use crate::config::draft::{Dhcp, Network, NetworkRoute, NextHop};
use crate::config::raw::{Node, Value};
use crate::config::section::{At, Section};
use crate::config::{Name, Ra, limits, value};

impl Reader<'_> {
    pub(super) fn network(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Network {
        let mut network = Network {
            name,
            plain: false,
            gateways: Vec::new(),
            gateway_mac: None,
            tunnel: None,
            routes: Vec::new(),
            mtu: None,
            mss_clamp: None,
            dhcp: None,
            ra: None,
        };
        let Some(section) = section else {
            return network;
        };
        network.plain = section.node("gateway").is_none() && !section.misspells("gateway");
        network.gateways = section.list("gateway", self.report, value::interface);
        if matches!(section.node("gateway"), Some(Node { value: Value::List(items), .. }) if items.is_empty())
        {
            self.report
                .error(
                    section.key_span("gateway").unwrap_or(section.span),
                    format!("{} has an empty `gateway`", section.title()),
                )
                .help("expected at least one address with its prefix, as in `[10.1.1.1/24]`");
        }
        network.gateway_mac = section.get("gateway_mac", self.report, value::mac);
        network.tunnel = section.get("tunnel", self.report, value::name);
        network.routes = section
            .tables("routes", self.report)
            .iter()
            .filter_map(|route| self.network_route(route))
            .collect();
        network.mtu = section.integer("mtu", self.report);
        network.mss_clamp = section.get("mss_clamp", self.report, value::boolean);
        network.dhcp = self.dhcp(&section);
        let ra = section.choice("ra", self.report);
        network.ra = ra.map(|at| {
            let ra = match at.value {
                "slaac" => Ra::Slaac,
                "off" => Ra::Off,
                _ => Ra::Managed,
            };
            At::new(ra, at.span)
        });
        network
    }

    fn dhcp(&mut self, network: &Section<'_>) -> Option<At<Option<Dhcp>>> {
        if matches!(network.node("dhcp")?.value, Value::Text(_)) {
            let at = network.get("dhcp", self.report, value::boolean)?;
            return Some(At::new(at.value.then(Dhcp::default), at.span));
        }
        let span = network.key_span("dhcp")?;
        let section = network.table("dhcp", self.report)?;
        let dns = section.list("dns", self.report, value::address);
        if let Some(one_more) = dns.get(limits::DNS) {
            let count = dns.len();
            let message = format!("`dns` of {} has {count} addresses", section.title());
            self.report
                .error(one_more.span, message)
                .help(format!("expected {} at most", limits::DNS));
        }
        let domain = section.get("domain", self.report, value::domain);
        let lease = section.seconds("lease", self.report);
        let dhcp = Dhcp {
            dns,
            domain: domain.map(|at| at.value),
            lease: lease.map(|at| at.value),
        };
        Some(At::new(Some(dhcp), span))
    }

    pub(in crate::config) fn network_route(&mut self, route: &Section<'_>) -> Option<NetworkRoute> {
        let to = route.get("to", self.report, value::destination);
        let peer = route.get("peer", self.report, value::name);
        let via = route.get("via", self.report, value::address);
        let unreachable = route
            .get("unreachable", self.report, value::boolean)
            .is_some_and(|at| at.value);
        let written = ["peer", "via"]
            .iter()
            .filter(|key| route.node(key).is_some())
            .count();
        if written + usize::from(unreachable) != 1 {
            self.report
                .error(
                    route.span,
                    format!(
                        "{} leads to {} places",
                        route.title(),
                        written + usize::from(unreachable)
                    ),
                )
                .help(
                    "expected exactly one of `peer: NAME`, `via: ADDRESS` and `unreachable: true`",
                );
            return None;
        }
        let next_hop = match (peer, via) {
            (Some(peer), _) => NextHop::Peer(peer),
            (_, Some(via)) => NextHop::Guest(via),
            // Written but reported already.
            (None, None) if written == 1 => return None,
            (None, None) => NextHop::Unreachable,
        };
        Some(NetworkRoute { to: to?, next_hop })
    }
}
