//! Routes of networks and uplinks.
//!
//! In: what is desired. Out: routes as they are shown. Never: a question to the core; the text of a route that is not
//! told.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::{
    Reader,
    lists::{Pick, Put, Which, Window},
};
use crate::{
    config::{self, Name, Network},
    state::{self, Route},
};

/// Ahead of a metric, as a page's `next` has it.
const METRIC: &str = " metric ";

/// A route, which is all that its place in the list depends on: by tables, then by prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line<'r> {
    /// `network` or `uplink`, and its name.
    table: (&'r str, &'r str),
    pub(super) to: Option<IpNet>,
    pub(super) source: &'r str,
    /// Of an uplink's.
    metric: Option<u32>,
    hop: Option<Hop<'r>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hop<'r> {
    OnLink,
    /// Of this tunnel, where it is the peer's own prefix.
    Peer(&'r str, Option<&'r str>),
    Unreachable,
    Via(IpAddr),
}

impl fmt::Display for Hop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnLink => f.write_str("on-link"),
            Self::Peer(peer, Some(tunnel)) => write!(f, "peer {peer} ({tunnel})"),
            Self::Peer(peer, None) => write!(f, "peer {peer}"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Via(address) => write!(f, "via {address}"),
        }
    }
}

impl<'r> Hop<'r> {
    fn parse(text: &'r str) -> Option<Self> {
        match text.split_once(' ') {
            None if text == "on-link" => Some(Self::OnLink),
            None if text == "unreachable" => Some(Self::Unreachable),
            Some(("via", address)) => Some(Self::Via(address.parse().ok()?)),
            Some(("peer", peer)) => Some(match peer.split_once(' ') {
                Some((peer, tunnel)) => Self::Peer(peer, Some(tunnel.trim_matches(['(', ')']))),
                None => Self::Peer(peer, None),
            }),
            _ => None,
        }
    }
}

impl<'r> From<&'r config::NextHop> for Hop<'r> {
    fn from(next_hop: &'r config::NextHop) -> Self {
        match next_hop {
            config::NextHop::Peer(peer) => Self::Peer(peer.as_str(), None),
            config::NextHop::Guest(address) => Self::Via(*address),
            config::NextHop::Unreachable => Self::Unreachable,
        }
    }
}

impl<'r> Line<'r> {
    /// Of a page's `next`; what it doesn't say comes ahead of all that has it.
    fn parse(text: &'r str) -> Self {
        let mut words = text.splitn(5, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (table, to, source, rest) = ((word(), word()), word(), word(), word());
        let (hop, metric) = match rest.rsplit_once(METRIC) {
            Some((hop, metric)) => (hop, metric.parse().ok()),
            None => (rest, None),
        };
        Self {
            table,
            to: to.parse().ok(),
            source,
            metric,
            hop: Hop::parse(hop),
        }
    }

    fn is_wanted(&self, which: &Which) -> bool {
        let is_named = |name: &str| {
            let (kind, table) = self.table;
            name.split_once(' ') == Some((kind, table))
        };
        which.name.as_deref().is_none_or(is_named)
            && (which.is_like([self.table.1].into_iter())
                || self.to.is_some_and(|to| which.is_like_text(to)))
    }
}

/// As a page's `next` has it.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route {
            table,
            to,
            next_hop,
            metric,
            source,
        } = self.into();
        write!(f, "{table} {to} {source} {next_hop}")?;
        metric.map_or(Ok(()), |metric| write!(f, "{METRIC}{metric}"))
    }
}

impl From<&Line<'_>> for Route {
    fn from(line: &Line<'_>) -> Self {
        let (kind, name) = line.table;
        Self {
            table: format!("{kind} {name}"),
            to: line.to.map_or_else(String::new, |to| to.to_string()),
            next_hop: line.hop.map_or_else(String::new, |hop| hop.to_string()),
            metric: line.metric,
            source: line.source.to_owned(),
        }
    }
}

impl Reader<'_> {
    /// A page of the routes.
    pub(super) fn list_routes(
        &self,
        which: &Which,
        window: &Window,
        put: Put<'_, Route>,
    ) -> Option<String> {
        let mut pick = Pick::new(window.after.as_deref().map(Line::parse), window.limit);
        let file = self.head.desired.file();
        let networks = file.networks.iter();
        let lines = networks.flat_map(|network| self.routes_of(network));
        let learned = self.head.uplinks.iter().flat_map(learned);
        let of_kernel = self.head.of_kernel.0.iter();
        let of_kernel = of_kernel.flat_map(|(uplink, table)| of_kernel_at(uplink, &table.routes));
        for line in lines
            .chain(file.uplinks.iter().flat_map(uplink))
            .chain(learned)
            .chain(of_kernel)
        {
            if pick.wants(&line) && line.is_wanted(which) {
                pick.offer(line, ());
            }
        }
        let (lines, is_more) = pick.done();
        let next = lines.last().map(|(line, ())| line.to_string());
        lines.iter().for_each(|(line, ())| put(line.into()));
        next.filter(|_| is_more)
    }

    /// The routes of a network, in the order of the configuration.
    pub(super) fn routes_of<'s>(&'s self, network: &'s Network) -> impl Iterator<Item = Line<'s>> {
        let table = ("network", network.name.as_str());
        let line = move |to: IpNet, source, hop| Line {
            table,
            to: Some(to),
            source,
            metric: None,
            hop: Some(hop),
        };
        let gateways = network.gateways.iter();
        let gateways = gateways.map(move |it| line(it.trunc(), "gateway", Hop::OnLink));
        let tunnel = network.tunnel.iter();
        let peers = tunnel.flat_map(|tunnel| {
            let peers = self.head.desired.peers(tunnel).filter(|it| it.enabled);
            peers.map(move |peer| (tunnel.as_str(), peer))
        });
        let own = peers.flat_map(move |(tunnel, peer)| {
            let hop = Hop::Peer(peer.name.as_str(), Some(tunnel));
            let nets = peer.allowed_ips.iter();
            nets.map(move |net| line(*net, "allowed-ips", hop))
        });
        let further = self.head.desired.routes(network).into_iter();
        let further = further.map(move |(route, is_laid)| {
            let source = if is_laid { "layer" } else { "config" };
            line(route.to, source, Hop::from(&route.next_hop))
        });
        gateways.chain(own).chain(further)
    }
}

fn uplink(uplink: &config::Uplink) -> impl Iterator<Item = Line<'_>> {
    let line = |to: IpNet, metric, hop| Line {
        table: ("uplink", uplink.name.as_str()),
        to: Some(to),
        source: "config",
        metric,
        hop: Some(hop),
    };
    let addresses = uplink.addresses.iter();
    let on_link = addresses.map(move |net| line(net.trunc(), None, Hop::OnLink));
    let routes = uplink.routes.iter();
    on_link.chain(routes.map(move |it| line(it.to, Some(it.metric), Hop::Via(it.via))))
}

/// What an uplink has learned.
fn learned(uplink: &state::Uplink) -> impl Iterator<Item = Line<'_>> {
    let line = |to: IpNet, metric, hop| Line {
        table: ("uplink", uplink.name.as_str()),
        to: Some(to),
        source: "learned",
        metric,
        hop: Some(hop),
    };
    let all = uplink.learned.iter();
    let addresses = all.clone().flat_map(|it| &it.addresses);
    let on_link = addresses.filter_map(move |it| {
        let net: IpNet = it.parse().ok()?;
        Some(line(net.trunc(), None, Hop::OnLink))
    });
    let routes = all.flat_map(|it| &it.routes);
    let routes = routes.filter_map(move |it| {
        let via = it.via.as_ref().map(|via| via.parse()).transpose().ok()?;
        let hop = via.map_or(Hop::OnLink, Hop::Via);
        Some(line(it.to.parse().ok()?, Some(it.metric), hop))
    });
    on_link.chain(routes)
}

/// What an uplink has of the kernel's table.
fn of_kernel_at<'r>(
    uplink: &'r Name,
    routes: &'r [(IpNet, IpAddr, u32)],
) -> impl Iterator<Item = Line<'r>> {
    routes.iter().map(|&(to, via, metric)| Line {
        table: ("uplink", uplink.as_str()),
        to: Some(to),
        source: "kernel",
        metric: Some(metric),
        hop: Some(Hop::Via(via)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_the_kernels_tables_are_lines_of_their_uplinks() {
        let uplink = Name::new("wan0").unwrap();
        let routes = [("0.0.0.0/0", "192.0.2.1"), ("2001:db8::/32", "fe80::1")];
        let routes = routes.map(|(to, via)| (to.parse().unwrap(), via.parse().unwrap(), 20));
        let told: Vec<_> = of_kernel_at(&uplink, &routes)
            .map(|it| it.to_string())
            .collect();
        let expected = [
            "uplink wan0 0.0.0.0/0 kernel via 192.0.2.1 metric 20",
            "uplink wan0 2001:db8::/32 kernel via fe80::1 metric 20",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_page_ends_with_what_the_next_one_begins_behind() {
        let net = |text: &str| Some(text.parse().unwrap());
        for (source, metric, hop) in [
            ("gateway", None, Hop::OnLink),
            ("allowed-ips", None, Hop::Peer("hv-b", Some("wg0"))),
            ("config", None, Hop::Peer("hv-b", None)),
            ("layer", None, Hop::Unreachable),
            ("kernel", Some(0), Hop::Via("10.0.0.1".parse().unwrap())),
            ("learned", Some(1_024), Hop::Via("fd00::1".parse().unwrap())),
        ] {
            let line = Line {
                table: ("network", "blue"),
                to: net("10.1.0.0/16"),
                source,
                metric,
                hop: Some(hop),
            };
            assert_eq!(Line::parse(&line.to_string()), line);
            // What somebody made up begins ahead of what it could mean.
            for text in ["", "network", "network blue", "network blue 10.1/16 x"] {
                assert!(Line::parse(text) < line, "{text}");
            }
        }
        assert!(net("9.0.0.0/8") < net("10.0.0.0/8"));
    }
}
