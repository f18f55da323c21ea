//! What gateways tell their guests: whether it can be told, and would be true.

use std::net::{IpAddr, Ipv6Addr};

use super::is_ipv4;
use super::networks::Member;
use crate::config::build;
use crate::config::draft::Network;
use crate::config::report::Report;
use crate::config::{MacAddr, Ra};

/// The one length of prefixes that hosts make addresses of (RFC 4862, section 5.5.3).
const SLAAC_LEN: u8 = 64;

pub(super) fn check(network: &Network, ports: Option<&Vec<Member<'_>>>, report: &mut Report) {
    let name = &network.name.value;
    if network.plain {
        let dhcp = network.dhcp.as_ref().map(|at| (at.span, "dhcp"));
        let ra = network.ra.map(|at| (at.span, "ra"));
        for (span, key) in dhcp.into_iter().chain(ra) {
            report
                .error(
                    span,
                    format!("network `{name}` has no `gateway`, but `{key}`"),
                )
                .help("remove it: there is no router that would tell guests anything");
        }
        return;
    }
    let is_off = network.dhcp.as_ref().is_some_and(|at| at.value.is_none());
    if let Some(ra) = network.ra.filter(|ra| ra.value == Ra::Managed && is_off) {
        report
            .error(
                ra.span,
                format!("network `{name}` has `ra: managed`, and `dhcp: false`"),
            )
            .help("its guests would ask for their addresses, and nobody would answer: choose `ra: slaac` or `ra: off`, or switch `dhcp` on");
    }
    if build::ra(network) == Ra::Slaac {
        slaac(network, ports.map_or(&[], Vec::as_slice), report);
    }
}

fn slaac(network: &Network, ports: &[Member<'_>], report: &mut Report) {
    let name = &network.name.value;
    let gateways = network.gateways.iter().filter(|at| !is_ipv4(&at.value));
    let mut others = gateways
        .filter(|at| at.value.prefix_len() != SLAAC_LEN)
        .peekable();
    // What they make of those is no matter then.
    let is_made = others.peek().is_none();
    for gateway in others {
        report
            .error(
                gateway.span,
                format!(
                    "network `{name}` has `ra: slaac`, and the gateway {}",
                    gateway.value
                ),
            )
            .help("guests make addresses of prefixes of 64 bits alone: expected a /64, or `ra: managed`");
    }
    for (port, attachment) in ports.iter().filter(|(_, it)| is_made && it.dhcp) {
        let made = port.mac.map(|mac| interface_id(mac.value));
        let is_other = |address: &IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => made != Some(id(*address)),
        };
        let addresses = attachment.addresses.iter();
        for address in addresses.filter(|at| is_other(&at.value)) {
            let title = attachment.title(port);
            report
                .warning(
                    address.span,
                    format!("{title} has {}, which its guest will not make", address.value),
                )
                .help(format!(
                    "network `{name}` has `ra: slaac`: expected an address made of the port's MAC address, or `ra: managed`"
                ));
        }
    }
}

/// The second half of an address.
fn id(address: Ipv6Addr) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = address.octets();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The same of those that are made of a MAC address.
fn interface_id(mac: MacAddr) -> u64 {
    culvert_wire::MacAddr(mac.octets()).interface_id()
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    #[test]
    fn an_address_made_of_a_mac_address_is_known() {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
        let net: IpNet = "fd00::5054:ff:fe00:1/64".parse().unwrap();
        let IpAddr::V6(address) = net.addr() else {
            panic!()
        };
        assert_eq!(id(address), interface_id(mac));
    }
}
