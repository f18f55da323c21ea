//! Quoted: which connection an ICMP error says that a packet was too long of (RFC 1191, RFC 8201).
//!
//! In: an error's message, whose sum was looked at. Out: the ends that it quotes, and what the link takes. Never: a look
//! at other errors: whether a connection lives is for those to say who are its ends (RFC 5461).

use std::net::{IpAddr, SocketAddr};

use culvert_wire::{Ipv4View, Ipv6View};

use super::{PROTOCOL, table::Ends};

const HEADER: usize = 8;
const V6_HEADER: usize = 40;
const UNREACHABLE_V4: [u8; 2] = [3, 4];
const TOO_BIG_V6: u8 = 2;

/// The ends and the link's MTU, of an error over IPv4.
pub(crate) fn too_big_v4(message: &[u8]) -> Option<(Ends, u32)> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let ip = Ipv4View::new(quote)?;
    let is_ours = header[..2] == UNREACHABLE_V4 && ip.version() == 4 && ip.protocol() == PROTOCOL;
    let ports = quote.get(ip.header_len().max(20)..)?;
    let ends = ends((ip.source().into(), ip.destination().into()), ports)?;
    let mtu = u16::from_be_bytes([header[6], header[7]]);
    is_ours.then_some((ends, mtu.into()))
}

/// The same over IPv6.
pub(crate) fn too_big_v6(message: &[u8]) -> Option<(Ends, u32)> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let ip = Ipv6View::new(quote)?;
    let is_ours = header[0] == TOO_BIG_V6 && ip.version() == 6 && ip.next_header() == PROTOCOL;
    let ends = ends(
        (ip.source().into(), ip.destination().into()),
        quote.get(V6_HEADER..)?,
    )?;
    let mtu = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    is_ours.then_some((ends, mtu))
}

fn ends((local, remote): (IpAddr, IpAddr), ports: &[u8]) -> Option<Ends> {
    let [a, b, c, d] = *ports.first_chunk()?;
    Some(Ends {
        local: SocketAddr::new(local, u16::from_be_bytes([a, b])),
        remote: SocketAddr::new(remote, u16::from_be_bytes([c, d])),
    })
}
