//! Service: what a guest asks its gateway about itself: DHCP, DHCPv6, router solicitations.
//!
//! In: a guest's frame that passed the guard. Out: whether it is such a question, and then a copy of it for whoever
//! serves guests. Never: an answer; a question in another guest's ears.
//!
//! Each port has a few questions per second to itself. What it asks beyond them shares what is left with others that do
//! so: a guest that floods delays nobody who asks as clients do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_wire::{
    dhcp::{SERVER_V4, SERVER_V6},
    parse::{Headers, L3, L4},
};

use crate::{
    guest::frames::Frames,
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        ids::Scope,
        limits::{GUEST_QUESTIONS_PER_SECOND, HOST_FRAME_MAX},
        punt::{PuntClass, Punts},
        snapshot::Attached,
    },
    worker::turn::Turn,
};

/// All servers and relays on the link (RFC 8415, section 7.1).
const ALL_DHCP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const ROUTER_SOLICITATION: u8 = 133;

/// Whether the gateway is asked something that it serves this guest. Who has no address of the family is not served, and
/// neither is a network where the gateway has none.
#[inline]
pub(crate) fn is_asked(guest: Attached<'_>, headers: &Headers) -> bool {
    // Of most packets that is all that is looked at.
    let may_be = match headers.l4 {
        L4::Udp(udp) => matches!(udp.destination_port, SERVER_V4 | SERVER_V6),
        L4::Icmp6(icmp) => icmp.kind == ROUTER_SOLICITATION,
        L4::Tcp(_) | L4::Icmp4(_) | L4::Fragment | L4::Malformed | L4::Other => false,
    };
    may_be && is_served(guest, headers)
}

#[cold]
fn is_served(guest: Attached<'_>, headers: &Headers) -> bool {
    let services = guest.network.services;
    match (&headers.l3, &headers.l4) {
        (L3::V4(ip), L4::Udp(udp)) if udp.destination_port == SERVER_V4 => {
            services.dhcp && serves(guest, IpAddr::is_ipv4) && is_to_us_v4(guest, ip.destination)
        }
        (L3::V6(ip), L4::Udp(udp)) if udp.destination_port == SERVER_V6 => {
            services.dhcp && serves(guest, IpAddr::is_ipv6) && is_to_us_v6(guest, ip.destination)
        }
        (L3::V6(_), L4::Icmp6(icmp)) if icmp.kind == ROUTER_SOLICITATION => {
            services.routers && serves(guest, IpAddr::is_ipv6)
        }
        _ => false,
    }
}

fn serves(guest: Attached<'_>, is_of_family: fn(&IpAddr) -> bool) -> bool {
    guest.attachment.is_served
        && !guest.port.guest.is_ip_only()
        && guest.attachment.addresses.iter().any(is_of_family)
        && guest.network.gateways.iter().any(is_of_family)
}

fn is_to_us_v4(guest: Attached<'_>, address: Ipv4Addr) -> bool {
    address.is_broadcast() || guest.network.gateways.contains(&address.into())
}

fn is_to_us_v6(guest: Attached<'_>, address: Ipv6Addr) -> bool {
    address == ALL_DHCP || guest.network.is_gateway_link_local(address)
}

/// Hands a question over.
pub(crate) fn hand_over<F: Frames>(
    turn: &Turn<'_>,
    punts: &mut Punts,
    guest: Attached<'_>,
    frames: &F,
    frame: usize,
) {
    let attachment = guest.attachment;
    let mut copy = [0; HOST_FRAME_MAX];
    let class = match attachment
        .questions
        .take(GUEST_QUESTIONS_PER_SECOND, turn.now)
    {
        true => PuntClass::Guest,
        false => PuntClass::GuestMore,
    };
    let done = match copy.get_mut(..frames.len(frame)) {
        Some(whole) => match frames.copy_whole(frame, whole) {
            true => punts.push(class, Scope::Guest(attachment.index), whole, turn.now),
            false => Err(DropReason::FrameMalformed),
        },
        // Longer than anything that is served.
        None => Err(DropReason::ServiceMalformed),
    };
    if let Err(reason) = done {
        lose(guest.port.books(), reason, Lost::Guest(frames, frame));
    }
}
