//! Of what the host stack is handed, what it waits for.
//!
//! In: a frame with its class; what the stack waits for. Out: the class that it goes by, or the name by which it is lost: of
//! routers that are not known more speak than an uplink hears. Never: a state.
//!
//! What counts as awaited has passed every check of the stack's that can be made here: what it would pass over must not
//! fill the room of what it waits for.

use std::net::IpAddr;

use culvert_wire::{
    EtherType, EthernetView, Ipv4View, Ipv6View, MacAddr,
    arp::{ArpPacket, Operation},
    ether, ipv6,
    nd::NdMessage,
    parse::parse_frame,
    udp,
};
use culvert_wireguard::Instant;

use crate::{
    shared::{awaited::Answer, drops::DropReason, punt::PuntClass},
    uplink::Uplink,
};

/// The class of a frame, which is to us; an error says by which name it is lost.
pub(super) fn class(
    class: PuntClass,
    frame: &[u8],
    (uplink, mac): (&Uplink, MacAddr),
    now: Instant,
) -> Result<PuntClass, DropReason> {
    let awaited = &uplink.counters.awaited;
    let is_lease = || exchange(frame).is_some_and(|exchange| awaited.lease.is(exchange));
    if class == PuntClass::NeighborAnswer && answers(frame, uplink, mac, now) == Some(true) {
        Ok(PuntClass::NeighborAwaited)
    } else if class == PuntClass::RouterUnknown && advertises(frame, uplink, now) == Some(true) {
        Ok(PuntClass::Router)
    } else if class == PuntClass::RouterUnknown && !awaited.strangers.take(now) {
        Err(class.overflow())
    } else if class == PuntClass::Liveness {
        Ok(liveness(frame, uplink, now).unwrap_or(PuntClass::Rest))
    } else if class == PuntClass::Lease && !is_lease() {
        Ok(PuntClass::Rest)
    } else {
        Ok(class)
    }
}

/// Whether a router advertises itself that is known, from where it has answered.
fn advertises(frame: &[u8], uplink: &Uplink, now: Instant) -> Option<bool> {
    let source = EthernetView::new(frame)?.source();
    let router = Ipv6View::new(frame.get(ether::HEADER_LEN..)?)?.source();
    let answer = || Some(Answer { mac: None, source });
    let routers = &uplink.counters.awaited.routers;
    Some(routers.take(router.into(), answer, now))
}

/// Whether a neighbor answers that was asked; it is read through once it is known that it was.
fn answers(frame: &[u8], uplink: &Uplink, ours: MacAddr, now: Instant) -> Option<bool> {
    let ethernet = EthernetView::new(frame)?;
    let (packet, source) = (&frame[ether::HEADER_LEN..], ethernet.source());
    if source == ours || !source.is_unicast() {
        return None;
    }
    let is_arp = ethernet.ether_type() == EtherType::ARP;
    let read = || {
        let mac = match is_arp {
            true => Some(arp(packet, uplink)?),
            false => advertised(frame)?,
        };
        (mac != Some(ours)).then_some(Answer { mac, source })
    };
    let neighbors = &uplink.counters.awaited.neighbors;
    Some(neighbors.take(answering(packet, is_arp)?, read, now))
}

/// Whose answer a packet is.
fn answering(packet: &[u8], is_arp: bool) -> Option<IpAddr> {
    const SENDER: usize = 14;
    const TARGET: usize = ipv6::HEADER_LEN + 8;
    match is_arp {
        true => packet
            .get(SENDER..)?
            .first_chunk::<4>()
            .map(|it| (*it).into()),
        false => packet
            .get(TARGET..)?
            .first_chunk::<16>()
            .map(|it| (*it).into()),
    }
}

fn arp(packet: &[u8], uplink: &Uplink) -> Option<MacAddr> {
    let answer = ArpPacket::parse(packet).ok()?;
    let is_ours = uplink.addresses.contains(&answer.target.into());
    let is_answer =
        answer.operation == Operation::Reply && is_ours && answer.sender != answer.target;
    is_answer.then_some(answer.sender_mac)
}

/// Where the answer of a neighbor says that it is, if it is one.
fn advertised(frame: &[u8]) -> Option<Option<MacAddr>> {
    let headers = parse_frame(frame, u32::try_from(frame.len()).ok()?).ok()?;
    match NdMessage::parse(&headers, frame).ok()? {
        NdMessage::Advertisement {
            target_mac,
            solicited: true,
            ..
        } => Some(target_mac),
        NdMessage::Advertisement { .. }
        | NdMessage::Solicitation { .. }
        | NdMessage::RouterSolicitation { .. } => None,
    }
}

/// Whether a packet of BFD's is of the session, or may begin it.
fn liveness(frame: &[u8], uplink: &Uplink, now: Instant) -> Option<PuntClass> {
    let watched = &uplink.counters.awaited.session;
    let source = EthernetView::new(frame)?.source();
    let (from, to) = session(frame)?;
    if watched.is(from, to) {
        return Some(PuntClass::Liveness);
    }
    let begins = watched.may_begin(from, source, now);
    begins.then_some(PuntClass::LivenessUnnamed)
}

/// Who sends a packet of BFD's, and to which session of ours (RFC 5880, section 4.1).
fn session(frame: &[u8]) -> Option<(IpAddr, u32)> {
    const YOURS: usize = udp::HEADER_LEN + 8;
    let packet = frame.get(ether::HEADER_LEN..)?;
    let (source, at) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4View::new(packet)?;
            (ip.source().into(), ip.header_len())
        }
        _ => (Ipv6View::new(packet)?.source().into(), ipv6::HEADER_LEN),
    };
    let number = packet.get(at + YOURS..)?.first_chunk()?;
    Some((source, u32::from_be_bytes(*number)))
}

/// The exchange that a DHCP server's words are of (RFC 2131, section 2: `xid`).
fn exchange(frame: &[u8]) -> Option<u32> {
    const XID: usize = udp::HEADER_LEN + 4;
    let packet = frame.get(ether::HEADER_LEN..)?;
    let at = Ipv4View::new(packet)?.header_len() + XID;
    let exchange = packet.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*exchange))
}

#[cfg(test)]
mod tests;
