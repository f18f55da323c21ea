//! Reset: what tells a sender that its segment belongs to no connection (RFC 9293, section 3.10.7.1).
//!
//! In: a segment's headers and frame. Out: the frame of the answer. Never: an answer to a reset.

use std::net::IpAddr;

use culvert_wire::{
    Checksum, MacAddr, ether, ipv4, ipv6,
    parse::{Headers, L4, Tcp},
    tcp::flags,
};

use super::PROTOCOL;

const HEADER_LEN: u16 = 20;

/// The reset that answers a segment of so many bytes beyond its header; `None` if nothing does.
pub(super) fn answer(mac: MacAddr, headers: &Headers, payload: usize) -> Option<Vec<u8>> {
    let L4::Tcp(tcp) = headers.l4 else {
        return None;
    };
    if tcp.flags & flags::RST != 0 {
        return None;
    }
    let (sender, ours) = headers.addresses()?;
    let segment = segment(&tcp, payload, (ours, sender));
    let ether = ether::header(headers.ether.source, mac, headers.ether.ether_type);
    let ip = match (ours, sender) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::header(&ipv4::Ipv4Fields {
            source,
            destination,
            tos: 0,
            id: 0,
            dont_fragment: true,
            ttl: 64,
            protocol: PROTOCOL,
            total_len: 20 + HEADER_LEN,
        })
        .to_vec(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::header(&ipv6::Ipv6Fields {
            source,
            destination,
            traffic_class: 0,
            hop_limit: 64,
            next_header: PROTOCOL,
            payload_len: HEADER_LEN,
        })
        .to_vec(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    Some([&ether[..], &ip, &segment].concat())
}

fn segment(tcp: &Tcp, payload: usize, (from, to): (IpAddr, IpAddr)) -> [u8; 20] {
    let has = |flag| u32::from(tcp.flags & flag != 0);
    let len = u32::try_from(payload).unwrap_or(0) + has(flags::SYN) + has(flags::FIN);
    let (sequence, acknowledgment, flags) = match tcp.flags & flags::ACK {
        0 => (0, tcp.sequence.wrapping_add(len), flags::RST | flags::ACK),
        _ => (tcp.acknowledgment, 0, flags::RST),
    };
    let mut bytes = [0; 20];
    bytes[..2].copy_from_slice(&tcp.destination_port.to_be_bytes());
    bytes[2..4].copy_from_slice(&tcp.source_port.to_be_bytes());
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
    (bytes[12], bytes[13]) = (0x50, flags);
    let mut sum = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Checksum::pseudo_v4(from, to, PROTOCOL, HEADER_LEN.into())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Checksum::pseudo_v6(from, to, PROTOCOL, HEADER_LEN.into())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return bytes,
    };
    sum.add(&bytes);
    bytes[16..18].copy_from_slice(&sum.complement().to_be_bytes());
    bytes
}
