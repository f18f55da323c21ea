//! Guard: a guest speaks only as itself.
//!
//! In: a frame's headers and the port's MAC and addresses. Out: a pass, or the name
//! of the drop. Never: a look beyond the private head copy.
//!
//! MAC: the Ethernet source. IP: the source address; IPv6 link-local addresses and
//! the unspecified address (duplicate address detection) are a guest's own business
//! as long as they stay on its link. ARP and ND: sender and target claims.

use std::net::{IpAddr, Ipv6Addr};

use culvert_wire::{
    arp::{ArpPacket, Operation},
    nd::NdMessage,
    parse::{Headers, L3, L4},
};

use crate::shared::{
    drops::DropReason,
    snapshot::{Guard, Port},
};

/// ICMPv6 types of neighbor discovery (RFC 4861).
const NEIGHBOR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// Whether the frame may come from this port.
pub(crate) fn check(port: &Port, headers: &Headers, head: &[u8]) -> Result<(), DropReason> {
    if port.guard == Guard::Off {
        return Ok(());
    }
    if headers.ether.source != port.mac {
        return Err(DropReason::GuardMac);
    }
    if port.guard == Guard::Mac {
        return Ok(());
    }
    match &headers.l3 {
        L3::V4(ip) => address(port, ip.source.into()),
        L3::V6(ip) => {
            if is_neighbor_discovery(headers) {
                return neighbor(port, headers, head);
            }
            if ip.source.is_unicast_link_local() || ip.source.is_unspecified() {
                return Ok(());
            }
            address(port, ip.source.into())
        }
        L3::Arp => {
            let arp = ArpPacket::parse(&head[headers.l3_offset..])
                .map_err(|_| DropReason::FrameMalformed)?;
            let known = arp.sender.is_unspecified() || owns(port, arp.sender.into());
            (arp.sender_mac == port.mac && known)
                .then_some(())
                .ok_or(DropReason::GuardNeighbor)
        }
        L3::Other => Ok(()),
    }
}

/// Whether the frame is a neighbor discovery message.
pub(crate) fn is_neighbor_discovery(headers: &Headers) -> bool {
    matches!(headers.l4, L4::Icmp6(icmp) if NEIGHBOR_DISCOVERY.contains(&icmp.kind))
}

/// Whether the frame asks with ARP for an address.
pub(crate) fn is_arp_request(arp: &ArpPacket) -> bool {
    arp.operation == Operation::Request
}

fn address(port: &Port, source: IpAddr) -> Result<(), DropReason> {
    owns(port, source)
        .then_some(())
        .ok_or(DropReason::GuardAddress)
}

/// A port without addresses owns none.
fn owns(port: &Port, address: IpAddr) -> bool {
    port.addresses.contains(&address)
}

fn neighbor(port: &Port, headers: &Headers, head: &[u8]) -> Result<(), DropReason> {
    let own = |address: Ipv6Addr| {
        address.is_unspecified() || address.is_unicast_link_local() || owns(port, address.into())
    };
    let message = NdMessage::parse(headers, head).map_err(|_| DropReason::FrameMalformed)?;
    let (claimed, mac) = match message {
        NdMessage::Solicitation {
            source, source_mac, ..
        }
        | NdMessage::RouterSolicitation { source, source_mac } => (own(source), source_mac),
        NdMessage::Advertisement {
            source,
            target,
            target_mac,
            ..
        } => (own(source) && own(target), target_mac),
    };
    (claimed && mac.is_none_or(|mac| mac == port.mac))
        .then_some(())
        .ok_or(DropReason::GuardNeighbor)
}
