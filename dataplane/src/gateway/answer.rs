//! Answers: what a gateway says to its guests.
//!
//! In: ARP requests, neighbor solicitations, echo requests to the gateway, and packets
//! that can't go on. Out: one frame each into the asking guest's ring. Never: an answer
//! to an ICMP error, to a group, or beyond the rate limit.
//!
//! ARP and ND are answered for the gateway, for the network's other ports (a guest
//! never needs to hear another's broadcasts to find it) and for whatever a peer of the
//! tunnel has within the network's own prefixes (proxy ARP), link-local addresses excepted.

use std::net::IpAddr;

use culvert_wire::{
    EtherType, MacAddr,
    arp::ArpPacket,
    ether,
    icmp::{self, IcmpError},
    nd::{self, NdError, NdMessage},
    parse::{Headers, L3, L4},
    scope::is_routable,
};

use crate::{
    guest::{
        deliver::{self, ETHERNET},
        frames::Frames,
    },
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        limits::{HOST_FRAME_MAX, ICMP_ERRORS_PER_SECOND},
        snapshot::{Attached, Network, NextHop},
    },
    switch::guard,
    worker::turn::Turn,
};

/// What a guest is to be told.
#[derive(Clone, Copy)]
pub(crate) enum Question {
    /// Who has the address that the ARP request asks for.
    Arp { owner: MacAddr },
    /// Who has the address that the solicitation asks for.
    Neighbor { owner: MacAddr, router: bool },
    /// An echo request to the gateway.
    Echo,
    /// Nobody asked: why a packet can't go on.
    Error(IcmpError),
}

/// The answer to an ARP packet; `None` if it concerns the other ports (an
/// announcement or a reply).
pub(crate) fn arp(
    guest: Attached<'_>,
    headers: &Headers,
    head: &[u8],
) -> Result<Option<Question>, DropReason> {
    let arp =
        ArpPacket::parse(&head[headers.l3_offset..]).map_err(|_| DropReason::FrameMalformed)?;
    if !guard::is_arp_request(&arp) || arp.sender == arp.target {
        return Ok(None);
    }
    owner(guest, arp.target.into()).map(|owner| owner.map(|(owner, _)| Question::Arp { owner }))
}

/// The answer to a neighbor discovery message; `None` if it concerns the other ports.
pub(crate) fn neighbor(
    guest: Attached<'_>,
    headers: &Headers,
    head: &[u8],
) -> Result<Option<Question>, DropReason> {
    match NdMessage::parse(headers, head) {
        Ok(NdMessage::Solicitation { target, .. }) => owner(guest, target.into())
            .map(|owner| owner.map(|(owner, router)| Question::Neighbor { owner, router })),
        // Between a router of the guests' own, which a strict port may not have, and them.
        Ok(NdMessage::Advertisement { .. } | NdMessage::RouterSolicitation { .. })
        | Err(NdError::OtherType) => Ok(None),
        Err(_) => Err(DropReason::FrameMalformed),
    }
}

/// Whom `address` belongs to in the eyes of `guest`, and whether that is the gateway. What is not on the network's link
/// is nobody's there, wherever its packets go: a guest that asks for it lost its way, or looks for another link's hosts.
fn owner(guest: Attached<'_>, address: IpAddr) -> Result<Option<(MacAddr, bool)>, DropReason> {
    let network = guest.network;
    if let IpAddr::V6(address) = address
        && network.is_gateway_link_local(address)
    {
        return Ok(Some((network.gateway_mac, true)));
    }
    let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
    // A link-local address is for whoever has it to answer for.
    let others = || match link_local {
        true => Ok(None),
        false => Err(DropReason::NeighborUnknown),
    };
    if !network.is_on_link(address) {
        return others();
    }
    match network.routes.lookup(address) {
        Some(NextHop::Gateway) => Ok(Some((network.gateway_mac, true))),
        Some(NextHop::Peer(_)) if is_routable(address) => Ok(Some((network.gateway_mac, true))),
        // Its own address: duplicate detection must hear nothing.
        Some(NextHop::Guest(index)) if index == guest.attachment.index => {
            Err(DropReason::NeighborUnknown)
        }
        Some(NextHop::Guest(index)) => {
            let owner = network.macs.iter().find(|&&(_, guest)| guest == index);
            Ok(owner.map(|&(mac, _)| (mac, false)))
        }
        Some(NextHop::Peer(_) | NextHop::Unreachable) | None => others(),
    }
}

/// Whether the packet is an echo request.
pub(crate) fn is_echo_request(headers: &Headers) -> bool {
    match headers.l4 {
        L4::Icmp4(icmp) => icmp.kind == 8,
        L4::Icmp6(icmp) => icmp.kind == 128,
        L4::Tcp(_) | L4::Udp(_) | L4::Fragment | L4::Malformed | L4::Other => false,
    }
}

/// Identifier and sequence number of an echo reply.
pub(crate) fn echo_reply(headers: &Headers) -> Option<(u16, u16)> {
    let rest = match headers.l4 {
        L4::Icmp4(icmp) if icmp.kind == 0 => icmp.rest,
        L4::Icmp6(icmp) if icmp.kind == 129 => icmp.rest,
        L4::Icmp4(_)
        | L4::Icmp6(_)
        | L4::Tcp(_)
        | L4::Udp(_)
        | L4::Fragment
        | L4::Malformed
        | L4::Other => return None,
    };
    let [a, b, c, d] = rest.to_be_bytes();
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// Answers a guest's question.
pub(crate) fn answer<F: Frames>(
    turn: &Turn<'_>,
    guest: Attached<'_>,
    frames: &F,
    (frame, headers): (usize, &Headers),
    question: Question,
) {
    let head = frames.head(frame);
    let mut out = [0; HOST_FRAME_MAX];
    let len = match question {
        Question::Arp { owner } => ArpPacket::parse(&head[headers.l3_offset..])
            .map_or(0, |request| request.reply(owner).write_frame(&mut out)),
        Question::Neighbor { owner, router } => {
            advertisement(headers, head, owner, router, &mut out)
        }
        Question::Echo => {
            let len = headers.l3_offset + headers.ip_len;
            echo(
                guest.network,
                headers,
                head,
                len,
                &mut out,
                |rest, offset| frames.copy(frame, offset, rest),
            )
        }
        Question::Error(error) => icmp_error(turn, guest, headers, head, error, &mut out),
    };
    if len > 0 {
        deliver::own(guest, turn.worker, &out[..len]);
        return;
    }
    match question {
        Question::Arp { .. } | Question::Neighbor { .. } => {
            let lost = Lost::Guest(frames, frame);
            lose(guest.port.books(), DropReason::NeighborUnknown, lost);
        }
        // Malformed, or too long for an answer in one piece.
        Question::Echo => {
            let lost = Lost::Guest(frames, frame);
            lose(guest.port.books(), DropReason::GatewayNotServed, lost);
        }
        // The frame itself has been counted.
        Question::Error(_) => {}
    }
}

fn advertisement(
    headers: &Headers,
    head: &[u8],
    owner: MacAddr,
    router: bool,
    out: &mut [u8],
) -> usize {
    match NdMessage::parse(headers, head) {
        Ok(NdMessage::Solicitation {
            source,
            target,
            source_mac,
        }) => {
            let asker = source_mac.unwrap_or(headers.ether.source);
            nd::write_advertisement(source, asker, target, owner, router, out)
        }
        Ok(NdMessage::Advertisement { .. } | NdMessage::RouterSolicitation { .. }) | Err(_) => 0,
    }
}

/// Writes the reply to an echo request; `rest` fetches what lies beyond the head.
fn echo(
    network: &Network,
    headers: &Headers,
    head: &[u8],
    len: usize,
    out: &mut [u8; HOST_FRAME_MAX],
    mut rest: impl FnMut(&mut [u8], usize) -> bool,
) -> usize {
    let Some(frame) = out.get_mut(..len) else {
        return 0;
    };
    let known = head.len().min(len);
    frame[..known].copy_from_slice(&head[..known]);
    if known < len && !rest(&mut frame[known..], known) {
        return 0;
    }
    let (ethernet, packet) = frame.split_at_mut(ETHERNET);
    let Some(len) = icmp::echo_reply_in_place(packet) else {
        return 0;
    };
    ethernet.copy_from_slice(&ether::header(
        headers.ether.source,
        network.gateway_mac,
        headers.ether.ether_type,
    ));
    ETHERNET + len
}

fn icmp_error(
    turn: &Turn<'_>,
    guest: Attached<'_>,
    headers: &Headers,
    head: &[u8],
    error: IcmpError,
    out: &mut [u8],
) -> usize {
    let network = guest.network;
    let v4 = matches!(headers.l3, L3::V4(_));
    let gateway = || network.gateways.iter().find(|g| g.is_ipv4() == v4).copied();
    // In a plain network we have no address: the packet's destination speaks for itself,
    // and that way the answer passes a reverse path filter.
    let source = match network.plain {
        Some(_) => headers.addresses().map(|(_, destination)| destination),
        None => gateway(),
    };
    let Some(source) = source else {
        return 0;
    };
    let (ethernet, packet) = out.split_at_mut(ETHERNET);
    let Ok(len) = icmp::write_error(error, headers, head, source, packet) else {
        return 0;
    };
    if !guest
        .attachment
        .errors
        .take(ICMP_ERRORS_PER_SECOND, turn.now)
    {
        lose(guest.port.books(), DropReason::IcmpLimited, Lost::Count(1));
        return 0;
    }
    let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
    ethernet.copy_from_slice(&ether::header(
        headers.ether.source,
        network.gateway_mac,
        ether_type,
    ));
    ETHERNET + len
}
