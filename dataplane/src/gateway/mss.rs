//! MSS: what a TCP connection through a tunnel is offered, where the network clamps it.
//!
//! In: SYNs, either way. Out: the same with an MSS that fits the peer's path. Never: a SYN that gets an option which it
//! had not; other segments.
//!
//! The MSS of a SYN bounds what comes back, the same way: so it is the peer's path that counts, whichever way the SYN
//! goes, and between two peers each one's.

use culvert_wire::{
    parse::{Headers, L3, L4},
    tcp::flags,
};

use crate::shared::{peer::Peer, snapshot::Tunnel};

/// Headers of IP and TCP without options (RFC 6691).
const OVERHEAD_V4: u16 = 40;
const OVERHEAD_V6: u16 = 60;

/// Whether this begins a connection.
#[inline]
pub(crate) fn is_syn(headers: &Headers) -> bool {
    matches!(headers.l4, L4::Tcp(tcp) if tcp.flags & flags::SYN != 0)
}

/// The most that a SYN to or from `peer` may offer.
#[cold]
pub(crate) fn most(tunnel: &Tunnel, peer: &Peer, headers: &Headers) -> u16 {
    let mtu = tunnel.mtu.min(peer.limit());
    mtu.saturating_sub(match headers.l3 {
        L3::V6(_) => OVERHEAD_V6,
        L3::V4(_) | L3::Arp | L3::Other => OVERHEAD_V4,
    })
}
