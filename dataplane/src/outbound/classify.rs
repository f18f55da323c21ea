//! Classify: what becomes of a frame of a guest's.
//!
//! In: a frame's private head copy and its metadata. Out: its verdict. Never: anything sent or counted.
//!
//! The guard comes first. What is addressed to the gateway is routed, ARP and neighbor discovery are answered as far as
//! the gateway can, the rest is switched by MAC address. In a plain network the FIB alone decides.

use std::{net::IpAddr, sync::Arc};

use culvert_wire::{
    icmp::IcmpError,
    parse::{Headers, L3, parse_frame},
    scope::is_routable,
    segment,
};

use crate::{
    egress::departure::Passage,
    gateway::{
        answer::{self, Question},
        service,
    },
    guest::frames::Frames,
    shared::{
        drops::DropReason,
        ids::AttachmentIndex,
        peer::Peer,
        snapshot::{Attached, Network, NextHop},
    },
    switch::guard,
    worker::turn::Turn,
};

/// What becomes of a frame. Set once.
#[derive(Clone, Copy)]
pub(super) enum Verdict<'s> {
    /// It leaves through a tunnel.
    Tunnel(&'s Arc<Peer>, Passage),
    /// It goes to another guest of the network; `routed` if through the gateway.
    Guest {
        guest: AttachmentIndex,
        routed: bool,
    },
    /// It goes to all other ports of the network.
    Flood,
    /// The guest is answered; the frame is lost under a name, unless it was a question.
    Answer(Question, Option<DropReason>),
    /// The gateway serves it, elsewhere.
    Service,
    /// It is lost.
    Drop(DropReason),
}

/// There is no way to where it goes.
const UNREACHABLE: Verdict<'static> = Verdict::Answer(
    Question::Error(IcmpError::Unreachable),
    Some(DropReason::NoRoute),
);

/// Step 1: a frame's verdict, and its headers if they could be read.
pub(super) fn classify<'s, F: Frames>(
    turn: &Turn<'s>,
    guest: Attached<'_>,
    frames: &F,
    frame: usize,
) -> (Verdict<'s>, Option<Headers>) {
    let head = frames.head(frame);
    let len = u32::try_from(frames.len(frame)).unwrap_or(u32::MAX);
    let Ok(headers) = parse_frame(head, len) else {
        return (Verdict::Drop(DropReason::FrameMalformed), None);
    };
    if let Err(reason) = guard::check(turn, guest, &headers, head) {
        return (Verdict::Drop(reason), None);
    }
    let network = guest.network;
    if network.plain.is_some() {
        return (plain(turn, network, &headers), Some(headers));
    }
    if service::is_asked(guest, &headers) {
        return (Verdict::Service, Some(headers));
    }
    let verdict = match &headers.l3 {
        L3::Arp => {
            let question = answer::arp(guest, &headers, head);
            asked(guest, &headers, question)
        }
        L3::V6(_) if guard::is_neighbor_discovery(&headers) => {
            let question = answer::neighbor(guest, &headers, head);
            asked(guest, &headers, question)
        }
        L3::V4(_) | L3::V6(_) if headers.ether.destination == network.gateway_mac => {
            route(turn, network, &headers)
        }
        L3::V4(_) | L3::V6(_) | L3::Other => switch(guest, &headers),
    };
    let passes_on = matches!(verdict, Verdict::Guest { .. } | Verdict::Flood);
    if passes_on && segment::forwardable(frames.vnet(frame), &headers, head).is_err() {
        return (Verdict::Drop(DropReason::OffloadInvalid), None);
    }
    (verdict, Some(headers))
}

/// What becomes of an ARP or neighbor discovery message: what the gateway can't answer
/// concerns the ports that it is addressed to.
fn asked<'s>(
    guest: Attached<'_>,
    headers: &Headers,
    question: Result<Option<Question>, DropReason>,
) -> Verdict<'s> {
    match question {
        Ok(Some(question)) => Verdict::Answer(question, None),
        Ok(None) if headers.ether.destination == guest.network.gateway_mac => {
            Verdict::Drop(DropReason::GatewayNotServed)
        }
        Ok(None) => switch(guest, headers),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Layer 2: by MAC address, within the network.
fn switch<'s>(guest: Attached<'_>, headers: &Headers) -> Verdict<'s> {
    let destination = headers.ether.destination;
    if destination.is_multicast() {
        return Verdict::Flood;
    }
    match guest.network.by_mac(destination) {
        Some(other) if other != guest.attachment.index => Verdict::Guest {
            guest: other,
            routed: false,
        },
        Some(_) | None if destination == guest.network.gateway_mac => {
            Verdict::Drop(DropReason::EtherTypeUnknown)
        }
        Some(_) | None => Verdict::Drop(DropReason::MacUnknown),
    }
}

/// Layer 3: through the gateway.
fn route<'s>(turn: &Turn<'s>, network: &Network, headers: &Headers) -> Verdict<'s> {
    let Some((source, destination)) = headers.addresses() else {
        return Verdict::Drop(DropReason::FrameMalformed);
    };
    if destination.is_multicast() {
        return Verdict::Drop(DropReason::NoListener);
    }
    let hop_limit = match &headers.l3 {
        L3::V4(ip) if !ip.checksum_ok => return Verdict::Drop(DropReason::FrameMalformed),
        L3::V4(ip) => ip.ttl,
        L3::V6(ip) => ip.hop_limit,
        L3::Arp | L3::Other => return Verdict::Drop(DropReason::EtherTypeUnknown),
    };
    let next_hop = network.routes.lookup(destination);
    let is_link_local =
        matches!(destination, IpAddr::V6(address) if network.is_gateway_link_local(address));
    if next_hop == Some(NextHop::Gateway) || is_link_local {
        return match answer::is_echo_request(headers) {
            true => Verdict::Answer(Question::Echo, None),
            false => Verdict::Drop(DropReason::GatewayNotServed),
        };
    }
    if !is_routable(source) {
        return Verdict::Drop(DropReason::AddressUnroutable);
    }
    if !is_routable(destination) {
        return Verdict::Answer(
            Question::Error(IcmpError::Unreachable),
            Some(DropReason::AddressUnroutable),
        );
    }
    if hop_limit <= 1 {
        return Verdict::Answer(
            Question::Error(IcmpError::TimeExceeded),
            Some(DropReason::TtlExceeded),
        );
    }
    match next_hop {
        Some(NextHop::Peer(peer)) => match turn.snapshot.peer(peer) {
            Some(peer) => Verdict::Tunnel(peer, Passage::Routed),
            None => UNREACHABLE,
        },
        Some(NextHop::Guest(guest)) => Verdict::Guest {
            guest,
            routed: true,
        },
        Some(NextHop::Unreachable | NextHop::Gateway) | None => UNREACHABLE,
    }
}

/// A network without a router: whatever it is, it goes to the peer whose address it is,
/// as it is.
fn plain<'s>(turn: &Turn<'s>, network: &Network, headers: &Headers) -> Verdict<'s> {
    let Some((_, destination)) = headers.addresses() else {
        return Verdict::Drop(DropReason::EtherTypeUnknown);
    };
    match network.routes.lookup(destination) {
        Some(NextHop::Peer(peer)) if let Some(peer) = turn.snapshot.peer(peer) => {
            Verdict::Tunnel(peer, Passage::Plain)
        }
        _ => UNREACHABLE,
    }
}
