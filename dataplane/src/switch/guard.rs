//! Guard: a guest speaks only as itself.
//!
//! In: a frame's headers, the port's MAC and addresses, the ports beside it. Out: a pass, or the name
//! of the drop. Never: a look beyond the private head copy.
//!
//! MAC: the Ethernet source. IP: the source address. ARP and ND: sender and target claims, and every link-layer address
//! in their options. What can't be read in full is not the guest's to send, for its receiver may read on: VLAN tags,
//! LLC, chains of IPv6 headers without their end, first fragments without the layer 4 header, ND in fragments (RFC 6980).
//!
//! A port with IPv6 addresses has link-local ones beside them: the one made of its MAC address, and up to
//! [`LINK_LOCALS`](crate::shared::limits::LINK_LOCALS) that its guest was the first to use in the network
//! ([`LinkLocals`](crate::shared::link_locals::LinkLocals)). What is made of another port's MAC address or configured for
//! another is that port's, used or not, and fe80::1 the gateway's, by custom. The unspecified address is for duplicate
//! detection and for MLD reports. A port with IPv4 addresses alone has no IPv6.
//!
//! A server of DHCP (RFC 7610) and a router (RFC 6105) is no guest of a strict port, whatever its addresses.

use std::net::{IpAddr, Ipv6Addr};

use culvert_wire::{
    MacAddr,
    arp::{ArpPacket, Operation},
    dhcp::{self, Speaker},
    nd::{self, NdError, NdMessage},
    parse::{Fragment, Headers, Ipv6, L3, L4, PROTOCOL_ICMPV6},
};

use crate::{
    gateway::service,
    shared::{
        drops::DropReason,
        link_locals::Claim,
        snapshot::{Attached, Guard, NextHop},
    },
    worker::turn::Turn,
};

/// ICMPv6 types of neighbor discovery (RFC 4861).
const NEIGHBOR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// Whether the frame may come from this port.
pub(crate) fn check(
    turn: &Turn<'_>,
    guest: Attached<'_>,
    headers: &Headers,
    head: &[u8],
) -> Result<(), DropReason> {
    let attachment = guest.attachment;
    if attachment.guard == Guard::Off {
        return Ok(());
    }
    if headers.ether.source != attachment.mac {
        return Err(DropReason::GuardMac);
    }
    if attachment.guard == Guard::Mac {
        return Ok(());
    }
    readable(headers, head)?;
    match dhcp::speaker(headers, head) {
        None => {}
        Some(Speaker::Client) if may_ask(guest, headers) => return Ok(()),
        Some(Speaker::Client) => {}
        Some(Speaker::Server) => return Err(DropReason::GuardDhcp),
    }
    let owner = Owner { turn, guest };
    let known = match &headers.l3 {
        L3::V4(ip) => owner.owns(ip.source.into()),
        L3::V6(_) if is_neighbor_discovery(headers) => return neighbor(&owner, headers, head),
        L3::V6(ip) if ip.source.is_unspecified() => owner.has_v6() && is_report(headers, ip),
        L3::V6(ip) => owner.owns(ip.source.into()),
        L3::Arp => return arp(&owner, &head[headers.l3_offset..]),
        L3::Other => true,
    };
    known.then_some(()).ok_or(DropReason::GuardAddress)
}

/// Whether the frame is a neighbor discovery message.
pub(crate) fn is_neighbor_discovery(headers: &Headers) -> bool {
    matches!(headers.l4, L4::Icmp6(icmp) if NEIGHBOR_DISCOVERY.contains(&icmp.kind))
}

/// Whether the frame asks with ARP for an address.
pub(crate) fn is_arp_request(arp: &ArpPacket) -> bool {
    arp.operation == Operation::Request
}

/// Whether a receiver finds in the frame what was found here, and no more.
fn readable(headers: &Headers, head: &[u8]) -> Result<(), DropReason> {
    let fragment = headers.fragment();
    match &headers.l3 {
        L3::V4(_) | L3::V6(_) if !headers.complete => Err(match fragment {
            Fragment::First => DropReason::GuardFragment,
            Fragment::Whole | Fragment::Later => DropReason::GuardHeaders,
        }),
        L3::V6(ip) if fragment == Fragment::First && ip.protocol == PROTOCOL_ICMPV6 => {
            let kind = head.get(headers.l4_offset);
            match kind.is_some_and(|kind| !NEIGHBOR_DISCOVERY.contains(kind)) {
                true => Ok(()),
                false => Err(DropReason::GuardFragment),
            }
        }
        L3::Other if headers.ether.ether_type.is_tag() => Err(DropReason::GuardTag),
        L3::Other if headers.ether.ether_type.is_length() => Err(DropReason::GuardLlc),
        L3::V4(_) | L3::V6(_) | L3::Arp | L3::Other => Ok(()),
    }
}

/// A DHCP client asks before it has an address. Where the gateway is who hears it, it may ask from one that is its own no
/// more: it is told so.
#[cold]
fn may_ask(guest: Attached<'_>, headers: &Headers) -> bool {
    let L3::V4(ip) = &headers.l3 else {
        return false;
    };
    let has_none = ip.source.is_unspecified() && ip.destination.is_broadcast();
    (has_none && matches!(headers.l4, L4::Udp(_))) || service::is_asked(guest, headers)
}

/// What a host sends before it has an address: it joins groups (RFC 3590, RFC 3810).
fn is_report(headers: &Headers, ip: &Ipv6) -> bool {
    matches!(headers.l4, L4::Icmp6(_)) && ip.destination.is_multicast()
}

fn arp(owner: &Owner<'_>, packet: &[u8]) -> Result<(), DropReason> {
    let arp = ArpPacket::parse(packet).map_err(|_| DropReason::FrameMalformed)?;
    let known = arp.sender.is_unspecified() || owner.owns(arp.sender.into());
    (arp.sender_mac == owner.guest.attachment.mac && known)
        .then_some(())
        .ok_or(DropReason::GuardNeighbor)
}

fn neighbor(owner: &Owner<'_>, headers: &Headers, head: &[u8]) -> Result<(), DropReason> {
    let message = NdMessage::parse(headers, head).map_err(|error| {
        // Advertisements and redirects are a router's.
        match error == NdError::OtherType {
            true => DropReason::GuardRouter,
            false => DropReason::FrameMalformed,
        }
    })?;
    let known = match message {
        // Whoever has the address answers; if nobody has it, it is the guest's from here on. What was not looked at is
        // not asked for: the guest would take silence for a yes.
        NdMessage::Solicitation { source, target, .. } if source.is_unspecified() => {
            owner.has_v6() && owner.claim(target.into()) != Claim::NotDue
        }
        NdMessage::RouterSolicitation { source, .. } if source.is_unspecified() => owner.has_v6(),
        NdMessage::Solicitation { source, .. } | NdMessage::RouterSolicitation { source, .. } => {
            owner.owns(source.into())
        }
        NdMessage::Advertisement { source, target, .. } => {
            owner.owns(source.into()) && owner.owns(target.into())
        }
    };
    (known && nd::names_only(owner.guest.attachment.mac, headers, head))
        .then_some(())
        .ok_or(DropReason::GuardNeighbor)
}

/// Who asks for an address.
struct Owner<'t> {
    turn: &'t Turn<'t>,
    guest: Attached<'t>,
}

impl Owner<'_> {
    /// Whether the port owns `address`. A link-local address that nobody has is the port's from here on.
    fn owns(&self, address: IpAddr) -> bool {
        self.claim(address) == Claim::Own
    }

    /// Whose `address` is, once the port has claimed it.
    fn claim(&self, address: IpAddr) -> Claim {
        if self.guest.attachment.addresses.contains(&address) {
            return Claim::Own;
        }
        match address {
            IpAddr::V6(address) if address.is_unicast_link_local() && self.has_v6() => {
                self.claim_link_local(address)
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Claim::Taken,
        }
    }

    fn has_v6(&self) -> bool {
        self.guest.attachment.addresses.iter().any(IpAddr::is_ipv6)
    }

    fn claim_link_local(&self, address: Ipv6Addr) -> Claim {
        // 54 zeros behind the first ten bits (RFC 4291, section 2.5.6).
        let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, id @ ..] = address.octets() else {
            return Claim::Taken;
        };
        let id = u64::from_be_bytes(id);
        let attachment = self.guest.attachment;
        if id == attachment.mac.interface_id() {
            return Claim::Own;
        }
        if self.is_anothers(address, id) {
            return Claim::Taken;
        }
        if attachment.link_locals.hold(id) {
            return Claim::Own;
        }
        let taken = || self.is_taken(id);
        attachment.link_locals.claim(id, self.turn.now, taken)
    }

    /// Whether the address is the gateway's or another port's, used or not.
    fn is_anothers(&self, address: Ipv6Addr, id: u64) -> bool {
        const GATEWAY: u64 = 1;
        let made_of = |mac: MacAddr| {
            mac == self.guest.network.gateway_mac || self.guest.network.by_mac(mac).is_some()
        };
        let configured = |hop| match hop {
            NextHop::Gateway => true,
            // Not by a route through the guest.
            NextHop::Guest(index) => (self.turn.snapshot.attachment(index))
                .is_some_and(|guest| guest.addresses.contains(&address.into())),
            NextHop::Peer(_) | NextHop::Unreachable => false,
        };
        id <= GATEWAY
            || MacAddr::of_interface_id(id).is_some_and(made_of)
            || self
                .guest
                .network
                .routes
                .lookup(address.into())
                .is_some_and(configured)
    }

    /// Whether another port of the network has come to own the address.
    fn is_taken(&self, id: u64) -> bool {
        let others = self.guest.network.macs.iter().map(|&(_, index)| index);
        others
            .filter(|&index| index != self.guest.attachment.index)
            .filter_map(|index| self.turn.snapshot.attachment(index))
            .any(|other| other.link_locals.hold(id))
    }
}
