//! Error: what a peer is told of a packet that can't go on.
//!
//! In: a peer's packet and what hinders it. Out: an ICMP error for the tunnel that it came by, as a frame. Never: an
//! error about an error, to a group, or beyond the rate limit.

use culvert_wire::{
    EtherType, MacAddr, ether,
    icmp::{self, IcmpError},
    parse::{HEAD_LEN, Headers, L3},
};

use crate::{
    guest::deliver::ETHERNET,
    loss::{Lost, lose},
    shared::{drops::DropReason, limits::ICMP_ERRORS_PER_SECOND, peer::Peer},
    worker::turn::Turn,
};

/// Room for one error.
pub(crate) const ERROR_MAX: usize = ETHERNET + icmp::ANSWER_LEN_MAX;

/// Writes what `sender` is told of `packet`, which `headers` were parsed from; nothing if it may not be told.
pub(crate) fn write<'o>(
    turn: &Turn<'_>,
    sender: &Peer,
    (headers, packet): (&Headers, &[u8]),
    error: IcmpError,
    out: &'o mut [u8; ERROR_MAX],
) -> Option<&'o [u8]> {
    let network = turn.snapshot.tunnel(sender.tunnel)?.network;
    let network = turn.snapshot.network(network?)?;
    let v4 = matches!(headers.l3, L3::V4(_));
    let source = network.gateways.iter().find(|g| g.is_ipv4() == v4)?;
    let (ethernet, room) = out.split_at_mut(ETHERNET);
    let head = &packet[..packet.len().min(HEAD_LEN)];
    let len = icmp::write_error(error, headers, head, *source, room).ok()?;
    if !sender.errors.take(ICMP_ERRORS_PER_SECOND, turn.now) {
        lose(sender.books(), DropReason::IcmpLimited, Lost::Count(1));
        return None;
    }
    let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let nobody = MacAddr::ZERO;
    ethernet.copy_from_slice(&ether::header(nobody, nobody, ether_type));
    Some(&out[..ETHERNET + len])
}
