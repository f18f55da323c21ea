//! Frames for guests, and for neighbors on the link.
//!
//! In: both ends, a payload. Out: a whole frame, checksums complete. Never: a payload longer than a frame takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_wire::{
    Checksum, EtherType, MacAddr, ether,
    ipv4::{self, Ipv4Fields},
    ipv6::{self, Ipv6Fields},
    parse::PROTOCOL_ICMPV6,
    udp,
};

/// Hop limit of what stays on the link; of neighbor discovery it is the only one that counts (RFC 4861, section 6.1.2).
const HOP_LIMIT: u8 = 255;

/// Hardware addresses: ours, the guest's.
pub(crate) type Macs = (MacAddr, MacAddr);

/// A UDP packet over IPv4.
pub(crate) fn udp4(
    macs: Macs,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let len = udp::HEADER_LEN + payload.len();
    let sum = Checksum::pseudo_v4(source, destination, udp::PROTOCOL, wide(len));
    let header = ipv4::header(&Ipv4Fields {
        source,
        destination,
        tos: 0,
        id: 0,
        dont_fragment: true,
        ttl: HOP_LIMIT,
        protocol: udp::PROTOCOL,
        total_len: narrow(ipv4::HEADER_LEN + len),
    });
    let mut frame = begin(macs, EtherType::IPV4, destination.into());
    frame.extend_from_slice(&header);
    datagram(frame, sum, ports, payload)
}

/// A UDP packet over IPv6.
pub(crate) fn udp6(
    macs: Macs,
    ends: (Ipv6Addr, Ipv6Addr),
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let len = udp::HEADER_LEN + payload.len();
    let sum = Checksum::pseudo_v6(ends.0, ends.1, udp::PROTOCOL, wide(len));
    let frame = packet6(macs, ends, udp::PROTOCOL, len);
    datagram(frame, sum, ports, payload)
}

/// An ICMPv6 packet; the checksum's place in `message` is empty.
pub(crate) fn icmp6(macs: Macs, ends: (Ipv6Addr, Ipv6Addr), mut message: Vec<u8>) -> Vec<u8> {
    let mut sum = Checksum::pseudo_v6(ends.0, ends.1, PROTOCOL_ICMPV6, wide(message.len()));
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
    let mut frame = packet6(macs, ends, PROTOCOL_ICMPV6, message.len());
    frame.extend_from_slice(&message);
    frame
}

/// An Ethernet header. What is for a group goes to the guest all the same: the others have no part in it.
fn begin((ours, guest): Macs, ether_type: EtherType, destination: IpAddr) -> Vec<u8> {
    let guest = match destination {
        IpAddr::V6(group) if group.is_multicast() => MacAddr::from_ipv6_multicast(group),
        IpAddr::V4(address) if address.is_broadcast() => MacAddr::BROADCAST,
        IpAddr::V4(_) | IpAddr::V6(_) => guest,
    };
    ether::header(guest, ours, ether_type).to_vec()
}

fn packet6(
    macs: Macs,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next_header: u8,
    len: usize,
) -> Vec<u8> {
    let mut frame = begin(macs, EtherType::IPV6, destination.into());
    frame.extend_from_slice(&ipv6::header(&Ipv6Fields {
        source,
        destination,
        traffic_class: 0,
        hop_limit: HOP_LIMIT,
        next_header,
        payload_len: narrow(len),
    }));
    frame
}

fn datagram(
    mut frame: Vec<u8>,
    mut sum: Checksum,
    (from, to): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let [f, t, l] =
        [from, to, narrow(udp::HEADER_LEN + payload.len())].map(|field| field.to_be_bytes());
    sum.add(&[f[0], f[1], t[0], t[1], l[0], l[1], 0, 0]);
    sum.add(payload);
    let c = sum.complement_udp().to_be_bytes();
    frame.extend_from_slice(&[f[0], f[1], t[0], t[1], l[0], l[1], c[0], c[1]]);
    frame.extend_from_slice(payload);
    frame
}

fn narrow(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn wide(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
