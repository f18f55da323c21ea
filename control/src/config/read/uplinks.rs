//! Uplinks.

use std::net::IpAddr;

use super::{Reader, narrow};
use crate::config::draft::{Bfd, Served, Uplink, UplinkKind, UplinkNeighbor, UplinkRoute};
use crate::config::section::{At, Section};
use crate::config::{Name, device, value};

impl Reader<'_> {
    pub(super) fn uplink(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Uplink {
        let mut uplink = Uplink {
            name,
            kind: None,
            device: None,
            members: Vec::new(),
            interface: None,
            addresses: Vec::new(),
            dhcp4: false,
            accept_ra: false,
            routes: Vec::new(),
            neighbors: Vec::new(),
            nameservers: None,
            mtu: None,
            queues: None,
            queue_workers: None,
            serves: Served::default(),
            rx_descriptors: None,
            tx_descriptors: None,
            fwmark: None,
            exception: None,
            routes_from: None,
            bfd: None,
            enabled: true,
        };
        let Some(section) = section else {
            return uplink;
        };
        uplink.addresses = section.list("addresses", self.report, value::interface);
        let mut flag = |key| section.get(key, self.report, value::boolean);
        uplink.dhcp4 = flag("dhcp4").is_some_and(|at| at.value);
        uplink.accept_ra = flag("accept_ra").is_some_and(|at| at.value);
        uplink.routes = section
            .tables("routes", self.report)
            .iter()
            .filter_map(|route| self.uplink_route(route))
            .collect();
        uplink.neighbors = section
            .tables("neighbors", self.report)
            .iter()
            .filter_map(|neighbor| self.uplink_neighbor(neighbor))
            .collect();
        uplink.nameservers = self.nameservers(&section);
        uplink.mtu = section.integer("mtu", self.report);
        uplink.queues = section.integer("queues", self.report);
        uplink.queue_workers = self.queue_workers(&section);
        uplink.serves = self.served(&section);
        uplink.rx_descriptors = self.descriptors(&section, "rx_descriptors");
        uplink.tx_descriptors = self.descriptors(&section, "tx_descriptors");
        uplink.fwmark = section.integer("fwmark", self.report).map(|at| at.value);
        uplink.exception = section.get("exception", self.report, value::interface_name);
        uplink.routes_from = section.get("routes_from", self.report, value::routing_table);
        uplink.bfd = self.bfd(&section);
        uplink.enabled = self.enabled(&section);
        match section.choice("driver", self.report).map(|at| at.value) {
            Some("dpdk") => {
                uplink.kind = Some(UplinkKind::Dpdk);
                uplink.device = section.get("device", self.report, device::dpdk_device);
                uplink.members = section.list("members", self.report, device::dpdk_device);
                self.need(&section, &["device"], "a `dpdk` uplink");
                if !uplink.dhcp4 && !uplink.accept_ra {
                    let kind = "a `dpdk` uplink without `dhcp4` and `accept_ra`";
                    self.need(&section, &["addresses"], kind);
                }
                self.refuse(
                    &section,
                    &["fwmark"],
                    "for `udp` uplinks",
                    "remove it, or choose `driver: udp`",
                );
            }
            Some(_) => {
                uplink.kind = Some(UplinkKind::Udp);
                uplink.interface = section
                    .get("device", self.report, value::interface_name)
                    .map(|at| at.value);
                self.refuse(
                    &section,
                    &["bfd"],
                    "for `dpdk` uplinks",
                    "remove it: a `udp` uplink's link is the kernel's, where a daemon keeps such sessions (FRR's bfdd) and takes the route away that Culvert then goes by",
                );
                self.refuse(
                    &section,
                    &["dhcp4", "accept_ra"],
                    "for `dpdk` uplinks",
                    "remove it: the addresses of a `udp` uplink are the kernel's, which whoever configures the machine has learn them",
                );
                self.refuse(
                    &section,
                    &[
                        "routes",
                        "neighbors",
                        "nameservers",
                        "exception",
                        "routes_from",
                        "members",
                        "rx_descriptors",
                        "tx_descriptors",
                    ],
                    "for `dpdk` uplinks",
                    "remove it: the kernel's routes, neighbors, resolver and devices carry a `udp` uplink",
                );
                self.refuse(
                    &section,
                    &["api", "metrics", "responder"],
                    "for `dpdk` uplinks",
                    "remove it: over the kernel `api.listen` and `metrics.listen` serve",
                );
            }
            None => {}
        }
        uplink
    }

    fn nameservers(&mut self, uplink: &Section<'_>) -> Option<Vec<At<IpAddr>>> {
        let section = uplink.table("nameservers", self.report)?;
        Some(section.list("addresses", self.report, value::address))
    }

    fn bfd(&mut self, uplink: &Section<'_>) -> Option<Bfd> {
        let section = uplink.table("bfd", self.report)?;
        let interval = section.get("interval", self.report, value::milliseconds);
        let multiplier = section.integer("multiplier", self.report);
        Some(Bfd {
            peer: section.get("peer", self.report, value::address)?,
            interval_ms: interval.map(|at| at.value),
            multiplier: multiplier.map(|at| at.value),
        })
    }

    fn uplink_route(&mut self, route: &Section<'_>) -> Option<UplinkRoute> {
        let to = route.get("to", self.report, value::destination);
        let via = route.get("via", self.report, value::address);
        let metric = route.integer("metric", self.report);
        let from = route.get("from", self.report, value::address);
        Some(UplinkRoute {
            to: to?,
            via: via?,
            metric: metric.map_or(0, |at| at.value),
            from,
        })
    }

    fn uplink_neighbor(&mut self, neighbor: &Section<'_>) -> Option<UplinkNeighbor> {
        let address = neighbor.get("address", self.report, value::address);
        let mac = neighbor.get("mac", self.report, value::mac);
        Some(UplinkNeighbor {
            address: address?,
            mac: mac?,
        })
    }

    fn descriptors(&mut self, section: &Section<'_>, key: &str) -> Option<u16> {
        let at = section.integer(key, self.report)?;
        if !at.value.is_power_of_two() {
            let title = section.title();
            self.report
                .error(at.span, format!("`{key}` of {title} is `{}`", at.value))
                .help(format!(
                    "expected a power of two, as in `{}`",
                    at.value.next_power_of_two().min(32768)
                ));
            return None;
        }
        Some(narrow(at.value))
    }
}
