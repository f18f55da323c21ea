//! Guests: what they ask their gateways about themselves.
//!
//! In: what each guest is told, as the control core has it; DHCP messages and router solicitations that workers hand
//! over, and whom routers are to be advertised to. Out: one frame for one guest each. Never: a lease to keep.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use culvert_dataplane::shared::{
    drops::{DropReason, Drops},
    ids::AttachmentIndex,
    leaves::Leaves,
};
use culvert_stack::guests::{self, Dhcp, Lease4, Provision, Router, Served, Unanswered};
use culvert_wire::MacAddr;
use ipnet::IpNet;

use crate::config::{self, Network, NetworkRoute, NextHop, Ra};

/// What the guest behind a port has.
pub(crate) struct Guest {
    /// The place of its network.
    pub(crate) network: usize,
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether the network's services are for this guest, too.
    pub(crate) is_served: bool,
    /// Who delivers to it.
    pub(crate) worker: usize,
    /// The port's.
    pub(crate) drops: Arc<Drops>,
}

/// What a network tells all its guests.
#[derive(PartialEq, Eq)]
pub(crate) struct Told {
    gateway_mac: MacAddr,
    gateways: Vec<IpNet>,
    mtu: u16,
    dhcp: Option<config::Dhcp>,
    ra: Ra,
    /// Those over other guests.
    routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
}

impl Told {
    /// `None`: it has no gateway, who would tell it.
    pub(crate) fn of(network: &Network) -> Option<Self> {
        (!network.is_plain()).then(|| Self {
            gateway_mac: MacAddr(network.gateway_mac.octets()),
            gateways: network.gateways.clone(),
            mtu: network.mtu,
            dhcp: network.dhcp.clone(),
            ra: network.ra,
            routes: network.routes.iter().filter_map(over_guest).collect(),
        })
    }
}

/// A route over another guest: the gateway would send packets back to where they came from.
fn over_guest(route: &NetworkRoute) -> Option<(Ipv4Addr, u8, Ipv4Addr)> {
    match (&route.to, &route.next_hop) {
        (IpNet::V4(to), NextHop::Guest(IpAddr::V4(via))) => {
            Some((to.network(), to.prefix_len(), *via))
        }
        _ => None,
    }
}

/// All guests by the places of their attachments, and their networks.
#[derive(Clone, Default)]
pub(super) struct Guests {
    guests: Leaves<Arc<Guest>>,
    networks: Leaves<Arc<Told>>,
}

impl Guests {
    pub(super) fn attach(&mut self, at: usize, guest: Option<Guest>) {
        self.guests.set(at, guest.map(Arc::new));
    }

    /// Whether that is something new.
    pub(super) fn tell(&mut self, network: usize, told: Option<Told>) -> bool {
        if self.networks.get(network).map(Arc::as_ref) == told.as_ref() {
            return false;
        }
        self.networks.set(network, told.map(Arc::new));
        true
    }

    pub(super) fn get(&self, guest: AttachmentIndex) -> Option<&Guest> {
        self.guests.get(guest.slot()).map(Arc::as_ref)
    }

    fn provision(&self, guest: &Guest) -> Option<Provision> {
        provision(guest, self.networks.get(guest.network)?)
    }

    /// Answers what a guest asks; what has no answer is counted at its port.
    pub(super) fn serve(&self, guest: AttachmentIndex, frame: &[u8]) -> Option<Vec<u8>> {
        let guest = self.get(guest)?;
        let served = match self.provision(guest) {
            Some(provision) => guests::serve(&provision, frame),
            // It was, when it asked.
            None => Err(Unanswered::NotServed),
        };
        let lose = |reason| guest.drops.add(reason, 1);
        match served {
            Ok(Served::Answer(answer)) => Some(answer),
            Ok(Served::Silence) => None,
            Ok(Served::Declined(answer)) => {
                lose(DropReason::AddressDeclined);
                answer
            }
            Err(Unanswered::Malformed) => {
                lose(DropReason::ServiceMalformed);
                None
            }
            Err(Unanswered::NotServed) => {
                lose(DropReason::ServiceRefused);
                None
            }
        }
    }

    /// What a guest's router says unasked; `None` if it has none.
    pub(super) fn advertise(&self, guest: AttachmentIndex) -> Option<Vec<u8>> {
        let provision = self.provision(self.get(guest)?)?;
        guests::advertise(&provision)
    }
}

/// What a guest is told; `None` if nothing.
fn provision(guest: &Guest, told: &Told) -> Option<Provision> {
    if !guest.is_served {
        return None;
    }
    let dhcp = told.dhcp.as_ref();
    Some(Provision {
        gateway_mac: told.gateway_mac,
        mtu: told.mtu,
        dhcp: dhcp.map(|dhcp| Dhcp {
            v4: leases(guest, told),
            routes: told.routes.clone(),
            v6: addresses(guest, told),
            lease: dhcp.lease,
        }),
        router: router(guest, told),
        dns: dhcp.map(|dhcp| dhcp.dns.clone()).unwrap_or_default(),
        domain: dhcp.and_then(|dhcp| dhcp.domain.clone()),
    })
}

fn router(guest: &Guest, told: &Told) -> Option<Router> {
    let prefixes = told.gateways.iter().filter_map(|gateway| match gateway {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some((net.network(), net.prefix_len())),
    });
    let prefixes: Vec<_> = prefixes.collect();
    let has_v6 = guest.addresses.iter().any(IpAddr::is_ipv6);
    let is_advertised = told.ra != Ra::Off && has_v6 && !prefixes.is_empty();
    is_advertised.then(|| Router {
        prefixes,
        autonomous: told.ra == Ra::Slaac,
    })
}

/// The guest's IPv4 addresses, with the gateway of each.
fn leases(guest: &Guest, told: &Told) -> Vec<Lease4> {
    let lease = |address: &IpAddr| {
        let IpAddr::V4(address) = *address else {
            return None;
        };
        told.gateways.iter().find_map(|gateway| match gateway {
            IpNet::V4(net) if net.contains(&address) => Some(Lease4 {
                address,
                prefix_len: net.prefix_len(),
                gateway: net.addr(),
            }),
            IpNet::V4(_) | IpNet::V6(_) => None,
        })
    };
    guest.addresses.iter().filter_map(lease).collect()
}

/// The guest's IPv6 addresses, unless it makes them itself.
fn addresses(guest: &Guest, told: &Told) -> Vec<Ipv6Addr> {
    let address = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    };
    match told.ra {
        Ra::Slaac => Vec::new(),
        Ra::Managed | Ra::Off => guest.addresses.iter().filter_map(address).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Disk, parse};

    /// The network, with these keys, and the guest of its port `p`.
    pub(in crate::netstack) fn served(network: &str, port: &str) -> (Guest, Option<Told>) {
        let text = format!(
            "version: 1\nnetworks: {{n: {{gateway: [10.0.0.1/24, 10.1.0.1/16, \"fd00::1/64\"]{network}}}}}\n\
             ports: {{p: {{network: n, mac: \"52:54:00:00:00:01\", addresses: [10.1.0.9, \"fd00::9\", 10.0.0.9]{port}}}}}\n"
        );
        let read = parse(&text, Path::new("/t.yaml"), &Disk);
        let (config, _) = read.map_err(|report| report.render(false)).unwrap();
        let port = config.ports[0].native().unwrap();
        let guest = Guest {
            network: 0,
            addresses: port.addresses.clone(),
            is_served: port.dhcp,
            worker: 0,
            drops: Arc::default(),
        };
        (guest, Told::of(&config.networks[0]))
    }

    /// What the guest is told there.
    fn told(network: &str, port: &str) -> Option<Provision> {
        let (guest, told) = served(network, port);
        provision(&guest, &told?)
    }

    #[test]
    fn a_port_has_its_addresses_with_their_gateways() {
        let network = ", mtu: 1400, dhcp: {dns: [9.9.9.9], domain: d.example, lease: 1h}, \
                       routes: [{to: 10.9.0.0/16, via: 10.0.0.5}, {to: 10.8.0.0/16, unreachable: true}]";
        let told = told(network, "").unwrap();
        let lease = |address: [u8; 4], prefix_len, gateway: [u8; 4]| Lease4 {
            address: address.into(),
            prefix_len,
            gateway: gateway.into(),
        };
        let dhcp = told.dhcp.unwrap();
        assert_eq!(
            dhcp.v4,
            [
                lease([10, 1, 0, 9], 16, [10, 1, 0, 1]),
                lease([10, 0, 0, 9], 24, [10, 0, 0, 1])
            ]
        );
        let via = [([10, 9, 0, 0].into(), 16, [10, 0, 0, 5].into())];
        assert_eq!(dhcp.routes, via);
        assert_eq!(dhcp.v6, ["fd00::9".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!((dhcp.lease, told.mtu), (3600, 1400));
        assert_eq!(told.domain.as_deref(), Some("d.example"));
        let router = told.router.unwrap();
        assert_eq!(router.prefixes, [("fd00::".parse().unwrap(), 64)]);
        assert!(!router.autonomous);
    }

    #[test]
    fn what_is_off_is_not_told() {
        assert_eq!(told("", ", dhcp: false"), None);
        let off = told(", dhcp: false", "").unwrap();
        assert_eq!((off.dhcp, off.router), (None, None));
        let slaac = told(", dhcp: false, ra: slaac", "").unwrap();
        assert_eq!(slaac.dhcp, None);
        assert!(slaac.router.unwrap().autonomous);
        let both = told(", ra: slaac", "").unwrap();
        // Its guest makes its address.
        assert!(both.dhcp.unwrap().v6.is_empty());
        let alone = told(", ra: off", "").unwrap();
        assert!(alone.router.is_none() && !alone.dhcp.unwrap().v6.is_empty());
    }
}
