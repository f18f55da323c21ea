//! What a frame from the wire is to us.
//!
//! In: a received Ethernet frame in private memory, what the NIC says about its
//! checksums, the uplink's addresses and ports. Out: a datagram for a tunnel, a
//! frame for the host stack, or the reason for its drop. Never: state, a look into
//! a datagram's content, trust in a length that the frame doesn't have.
//!
//! To the host stack goes what it answers: ARP about us, what DHCP servers say, ICMP and ICMPv6 to us, the groups
//! that neighbor discovery uses, fragments, TCP, UDP that is no tunnel's, and what it tells the
//! sender that nobody takes, each in its class. Sums of TCP and UDP are looked at here, where
//! it is known what the device has found: the stack looks at those of fragments alone.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use culvert_dpdk_sys::RxChecksum;
use culvert_wire::{
    Checksum, EtherType, EthernetView, Ipv4View, Ipv6View, MacAddr, TcpView, UdpView, dhcp, ether,
    ipv6,
    parse::{PROTOCOL_ICMP, PROTOCOL_ICMPV6},
    tcp::flags,
};

use crate::{
    shared::{drops::DropReason, ids::TunnelIndex, punt::PuntClass},
    uplink::Uplink,
};

const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const PROTOCOL_FRAGMENT: u8 = 44;
/// BFD's over one hop (RFC 5881, section 4).
const LIVENESS_PORT: u16 = 3784;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
const ARP_LEN: usize = 28;
const ARP_REPLY: &[u8] = &[0, 2];

/// The first and the last type of neighbor discovery, a router's word, and what answers (RFC 4861, section 4).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// More fragments, or an offset.
const FRAGMENTED: u16 = 0x3fff;

/// What is known about a frame's checksums without looking at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// The IPv4 header's, by the NIC.
    pub(super) ip: RxChecksum,
    /// The UDP or TCP checksum, by the NIC.
    pub(super) l4: RxChecksum,
    /// The device is a kernel interface: what a local sender left to offloading
    /// arrives with only the pseudo-header's sum in the UDP or TCP checksum field.
    pub(super) partial: bool,
}

impl Checks {
    /// Whether the checksum `field` of a datagram or segment holds; `seed` is the pseudo-header's sum.
    #[inline]
    fn hold(self, field: u16, l4: &[u8], seed: impl FnOnce(u32) -> Checksum) -> bool {
        match self.l4 {
            RxChecksum::Good | RxChecksum::Absent => true,
            RxChecksum::Bad => false,
            RxChecksum::Unknown => {
                let mut sum = seed(u32::try_from(l4.len()).unwrap_or(0));
                (self.partial && field == sum.value()) || {
                    sum.add(l4);
                    sum.is_valid()
                }
            }
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A datagram for one of the uplink's tunnels, which `accept` was given.
    Datagram,
    /// For the host stack.
    Punt(PuntClass),
    /// For nobody.
    Drop(DropReason),
}

/// A datagram for one of the uplink's tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Where its payload lies in the frame.
    pub(super) payload: Range<usize>,
    /// Where it came from.
    pub(super) source: SocketAddr,
    /// The address of ours it came to.
    pub(super) local: IpAddr,
    /// The tunnel.
    pub(super) tunnel: TunnelIndex,
    /// The outer ECN bits.
    pub(super) ecn: u8,
}

/// Gives a frame its verdict. A datagram is handed to `accept`, so that its parts
/// are written once, where they stay.
#[inline]
pub(super) fn classify(
    frame: &[u8],
    checks: Checks,
    mac: MacAddr,
    uplink: &Uplink,
    accept: impl FnOnce(Accepted),
) -> Verdict {
    let Some(ethernet) = EthernetView::new(frame) else {
        return Verdict::Drop(DropReason::OuterMalformed);
    };
    let destination = ethernet.destination();
    if destination != mac && !destination.is_multicast() {
        return Verdict::Drop(DropReason::NotForUs);
    }
    let unicast = destination == mac;
    let packet = &frame[ether::HEADER_LEN..];
    let verdict = match ethernet.ether_type() {
        EtherType::IPV4 => ipv4(packet, checks, unicast, uplink, accept),
        EtherType::IPV6 => ipv6(packet, checks, unicast, uplink, accept),
        EtherType::ARP => arp(packet, unicast, uplink),
        _ => Err(DropReason::NotForUs),
    };
    verdict.unwrap_or_else(Verdict::Drop)
}

#[inline]
fn ipv4(
    packet: &[u8],
    checks: Checks,
    unicast: bool,
    uplink: &Uplink,
    accept: impl FnOnce(Accepted),
) -> Result<Verdict, DropReason> {
    // 1. The header is whole, and so is the packet.
    let header = Ipv4View::new(packet).ok_or(DropReason::OuterMalformed)?;
    let (header_len, total_len) = (header.header_len(), usize::from(header.total_len()));
    if header.version() != 4
        || header_len < 20
        || total_len < header_len
        || packet.len() < total_len
    {
        return Err(DropReason::OuterMalformed);
    }
    match checks.ip {
        RxChecksum::Good | RxChecksum::Absent => {}
        RxChecksum::Bad => return Err(DropReason::OuterChecksum),
        RxChecksum::Unknown => {
            if !Checksum::of(&packet[..header_len]).is_valid() {
                return Err(DropReason::OuterChecksum);
            }
        }
    }

    // 2. It is for us, by frame and by address.
    let local = IpAddr::V4(header.destination());
    if !unicast || !uplink.addresses.contains(&local) {
        return match lends(&header, packet) {
            true => Ok(Verdict::Punt(PuntClass::Lease)),
            false => Err(DropReason::NotForUs),
        };
    }
    if header.fragment_bits() & FRAGMENTED != 0 {
        return Ok(Verdict::Punt(PuntClass::Fragment));
    }

    // 3. A tunnel's datagram, or the host stack's.
    match header.protocol() {
        PROTOCOL_UDP => {
            let l4 = &packet[header_len..total_len];
            let seed =
                |len| Checksum::pseudo_v4(header.source(), header.destination(), PROTOCOL_UDP, len);
            let udp = match udp(l4, checks, uplink, true, seed) {
                Ok(udp) => udp,
                Err(Verdict::Punt(_)) if lends(&header, packet) => {
                    return Ok(Verdict::Punt(PuntClass::Lease));
                }
                Err(verdict) => return Ok(apart(verdict, l4, header.ttl())),
            };
            accept(Accepted {
                payload: udp.payload(ether::HEADER_LEN + header_len),
                source: SocketAddr::new(IpAddr::V4(header.source()), udp.source_port),
                local,
                tunnel: udp.tunnel,
                ecn: header.tos() & 3,
            });
            Ok(Verdict::Datagram)
        }
        PROTOCOL_ICMP => Ok(Verdict::Punt(PuntClass::Icmp)),
        PROTOCOL_TCP => {
            let (from, to) = (header.source(), header.destination());
            let seed = |len| Checksum::pseudo_v4(from, to, PROTOCOL_TCP, len);
            tcp(&packet[header_len..total_len], checks, seed)
        }
        _ => Ok(Verdict::Punt(PuntClass::Rest)),
    }
}

/// A DHCP server speaks to a client. Whose address that is to be, the host stack knows, if it has asked.
#[cold]
fn lends(header: &Ipv4View<'_>, packet: &[u8]) -> bool {
    let ports = packet
        .get(header.header_len()..)
        .and_then(<[u8]>::first_chunk);
    let [server, client] = [dhcp::SERVER_V4, dhcp::CLIENT_V4].map(u16::to_be_bytes);
    let is_whole = header.fragment_bits() & FRAGMENTED == 0;
    is_whole
        && header.protocol() == PROTOCOL_UDP
        && ports == Some(&[server[0], server[1], client[0], client[1]])
}

#[inline]
fn ipv6(
    packet: &[u8],
    checks: Checks,
    unicast: bool,
    uplink: &Uplink,
    accept: impl FnOnce(Accepted),
) -> Result<Verdict, DropReason> {
    let header = Ipv6View::new(packet).ok_or(DropReason::OuterMalformed)?;
    let total_len = ipv6::HEADER_LEN + usize::from(header.payload_len());
    if header.version() != 6 || packet.len() < total_len {
        return Err(DropReason::OuterMalformed);
    }
    let destination = header.destination();
    let local = IpAddr::V6(destination);
    let ours = uplink.addresses.contains(&local);
    match header.next_header() {
        PROTOCOL_ICMPV6 if ours || asks_neighbors(destination, uplink) => {
            let kind = packet[ipv6::HEADER_LEN..total_len].first();
            let class = icmp6_class(kind.copied(), header.hop_limit(), ours && unicast);
            Ok(Verdict::Punt(class))
        }
        // Who listens? (RFC 3810, section 5.1)
        HOP_BY_HOP if header.hop_limit() == 1 && asks_neighbors(destination, uplink) => {
            Ok(Verdict::Punt(PuntClass::NeighborQuestion))
        }
        _ if !ours || !unicast => Err(DropReason::NotForUs),
        PROTOCOL_UDP => {
            let l4 = &packet[ipv6::HEADER_LEN..total_len];
            let seed = |len| Checksum::pseudo_v6(header.source(), destination, PROTOCOL_UDP, len);
            let udp = match udp(l4, checks, uplink, false, seed) {
                Ok(udp) => udp,
                Err(verdict) => return Ok(apart(verdict, l4, header.hop_limit())),
            };
            accept(Accepted {
                payload: udp.payload(ether::HEADER_LEN + ipv6::HEADER_LEN),
                source: SocketAddr::new(IpAddr::V6(header.source()), udp.source_port),
                local,
                tunnel: udp.tunnel,
                ecn: header.traffic_class() & 3,
            });
            Ok(Verdict::Datagram)
        }
        PROTOCOL_FRAGMENT => Ok(Verdict::Punt(PuntClass::Fragment)),
        PROTOCOL_TCP => {
            let seed = |len| Checksum::pseudo_v6(header.source(), destination, PROTOCOL_TCP, len);
            tcp(&packet[ipv6::HEADER_LEN..total_len], checks, seed)
        }
        _ => Ok(Verdict::Punt(PuntClass::Rest)),
    }
}

/// A datagram that is no tunnel's: what says whether a neighbor is alive, and can't have been routed (RFC 5881, section
/// 5), has a class of its own, which nobody beyond the link gets into.
#[cold]
fn apart(verdict: Verdict, l4: &[u8], ttl: u8) -> Verdict {
    let port = UdpView::new(l4).map(|udp| udp.destination_port());
    let is_liveness = ttl == 255 && port == Some(LIVENESS_PORT);
    match is_liveness && matches!(verdict, Verdict::Punt(_)) {
        true => Verdict::Punt(PuntClass::Liveness),
        false => verdict,
    }
}

/// Neighbor discovery is what can't have been routed (RFC 4861, section 7.1): nobody beyond the link gets into its
/// classes.
fn icmp6_class(kind: Option<u8>, hop_limit: u8, to_us: bool) -> PuntClass {
    match (kind, hop_limit) {
        (Some(NEIGHBOR_ADVERTISEMENT), 255) if to_us => PuntClass::NeighborAnswer,
        (Some(ROUTER_ADVERTISEMENT), 255) => PuntClass::RouterUnknown,
        (Some(ROUTER_SOLICITATION..=REDIRECT), 255) => PuntClass::NeighborQuestion,
        (Some(ROUTER_SOLICITATION..=REDIRECT) | None, _) => PuntClass::Rest,
        (Some(_), _) if to_us => PuntClass::Icmp,
        (Some(_), _) => PuntClass::Rest,
    }
}

/// All nodes, or the solicited-node group of an address of ours (RFC 4291, section
/// 2.7.1): neighbor solicitations and unsolicited advertisements come to these.
fn asks_neighbors(group: Ipv6Addr, uplink: &Uplink) -> bool {
    if group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) {
        return true;
    }
    let [prefix @ .., a, b, c] = group.octets();
    prefix == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
        && uplink.addresses.iter().any(|address| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.octets()[13..] == [a, b, c],
        })
}

/// A request for an address of ours, an answer to us (to whom asks whether an address is free, it has no target), a
/// neighbor's announcement, or whatever another says that has an address of ours.
fn arp(packet: &[u8], unicast: bool, uplink: &Uplink) -> Result<Verdict, DropReason> {
    let message = packet
        .first_chunk::<ARP_LEN>()
        .ok_or(DropReason::OuterMalformed)?;
    let class = match (&message[6..8], unicast) {
        (ARP_REPLY, true) => PuntClass::NeighborAnswer,
        _ => PuntClass::NeighborQuestion,
    };
    let sender: [u8; 4] = [message[14], message[15], message[16], message[17]];
    let target: [u8; 4] = [message[24], message[25], message[26], message[27]];
    let is_ours = |address: [u8; 4]| uplink.addresses.contains(&IpAddr::from(address));
    let is_answer = class == PuntClass::NeighborAnswer;
    if is_answer || sender == target || is_ours(target) || is_ours(sender) {
        Ok(Verdict::Punt(class))
    } else {
        Err(DropReason::NotForUs)
    }
}

/// A UDP datagram that is whole and a tunnel's.
struct Udp {
    tunnel: TunnelIndex,
    source_port: u16,
    len: usize,
}

impl Udp {
    /// Where the payload lies when the datagram begins at `offset`.
    #[inline]
    fn payload(&self, offset: usize) -> Range<usize> {
        offset + UDP_HEADER..offset + self.len
    }
}

/// `optional`: a checksum of 0 means "none" (IPv4); over IPv6 it is wrong (RFC 8200,
/// section 8.1). What is no tunnel's is the host stack's to answer.
#[inline]
fn udp(
    l4: &[u8],
    checks: Checks,
    uplink: &Uplink,
    optional: bool,
    seed: impl FnOnce(u32) -> Checksum,
) -> Result<Udp, Verdict> {
    let malformed = Verdict::Drop(DropReason::OuterMalformed);
    let header = UdpView::new(l4).ok_or(malformed)?;
    let len = usize::from(header.length());
    if len < UDP_HEADER || len > l4.len() {
        return Err(malformed);
    }
    let good = match header.checksum() {
        0 => optional,
        field => checks.hold(field, &l4[..len], seed),
    };
    if !good {
        return Err(Verdict::Drop(DropReason::OuterChecksum));
    }
    let tunnel = uplink
        .tunnel(header.destination_port())
        .ok_or(Verdict::Punt(PuntClass::Datagram))?;
    Ok(Udp {
        tunnel,
        source_port: header.source_port(),
        len,
    })
}

/// Who begins a connection waits behind those who have one.
fn tcp(
    l4: &[u8],
    checks: Checks,
    seed: impl FnOnce(u32) -> Checksum,
) -> Result<Verdict, DropReason> {
    let header = TcpView::new(l4).ok_or(DropReason::OuterMalformed)?;
    if !(TCP_HEADER..=l4.len()).contains(&header.header_len()) {
        return Err(DropReason::OuterMalformed);
    }
    if !checks.hold(header.checksum(), l4, seed) {
        return Err(DropReason::OuterChecksum);
    }
    let begins = header.flags() & (flags::SYN | flags::ACK) == flags::SYN;
    Ok(Verdict::Punt(match begins {
        true => PuntClass::Opening,
        false => PuntClass::Segment,
    }))
}

#[cfg(test)]
mod tests;
