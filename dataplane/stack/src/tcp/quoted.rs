//! Quoted: which connection an ICMP error says that a packet was too long of (RFC 1191, RFC 8201).
//!
//! In: an error's message, whose sum was looked at. Out: the ends and the sequence number that it quotes, and what the link
//! takes. Never: a look at other errors: whether a connection lives is for those to say who are its ends (RFC 5461).

use std::net::{IpAddr, SocketAddr};

use culvert_wire::{Ipv4View, Ipv6View};

use super::{PROTOCOL, table::Ends};

const HEADER: usize = 8;
const V6_HEADER: usize = 40;
const UNREACHABLE_V4: [u8; 2] = [3, 4];
const TOO_BIG_V6: u8 = 2;

/// A packet that was too long for a link.
#[derive(Clone, Copy)]
pub(crate) struct TooBig {
    pub(crate) ends: Ends,
    pub(crate) sequence: u32,
    /// The link's.
    pub(crate) mtu: u32,
}

/// Of an error over IPv4.
pub(crate) fn too_big_v4(message: &[u8]) -> Option<TooBig> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let ip = Ipv4View::new(quote)?;
    let is_ours = header[..2] == UNREACHABLE_V4 && ip.version() == 4 && ip.protocol() == PROTOCOL;
    let segment = quote.get(ip.header_len().max(20)..)?;
    let mtu = u16::from_be_bytes([header[6], header[7]]);
    let addresses = (ip.source().into(), ip.destination().into());
    is_ours.then(|| too_big(addresses, segment, mtu.into()))?
}

/// The same over IPv6.
pub(crate) fn too_big_v6(message: &[u8]) -> Option<TooBig> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let ip = Ipv6View::new(quote)?;
    let is_ours = header[0] == TOO_BIG_V6 && ip.version() == 6 && ip.next_header() == PROTOCOL;
    let segment = quote.get(V6_HEADER..)?;
    let mtu = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let addresses = (ip.source().into(), ip.destination().into());
    is_ours.then(|| too_big(addresses, segment, mtu))?
}

/// Of a segment at least its ports and its number are quoted (RFC 792).
fn too_big((local, remote): (IpAddr, IpAddr), segment: &[u8], mtu: u32) -> Option<TooBig> {
    let [a, b, c, d, sequence @ ..] = *segment.first_chunk::<8>()?;
    Some(TooBig {
        ends: Ends {
            local: SocketAddr::new(local, u16::from_be_bytes([a, b])),
            remote: SocketAddr::new(remote, u16::from_be_bytes([c, d])),
        },
        sequence: u32::from_be_bytes(sequence),
        mtu,
    })
}
