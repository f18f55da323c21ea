//! What a frame from the wire is to us.
//!
//! In: a received Ethernet frame in private memory, what the NIC says about its
//! checksums, the uplink's addresses and ports. Out: a datagram for a tunnel, a
//! frame for the host stack, or the reason for its drop. Never: state, a look into
//! a datagram's content, trust in a length that the frame doesn't have.
//!
//! To the host stack goes what it answers: ARP about us, ICMP and ICMPv6 to us, and
//! the groups that neighbor discovery uses, each in its class.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use culvert_dpdk_sys::RxChecksum;
use culvert_wire::{
    Checksum, EtherType, EthernetView, Ipv4View, Ipv6View, MacAddr, UdpView, ether, ipv6,
    parse::{PROTOCOL_ICMP, PROTOCOL_ICMPV6},
};

use crate::{
    shared::{drops::DropReason, ids::TunnelIndex, punt::PuntClass},
    uplink::Uplink,
};

pub(super) const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_FRAGMENT: u8 = 44;
const UDP_HEADER: usize = 8;
const ARP_LEN: usize = 28;
const ARP_REPLY: &[u8] = &[0, 2];

/// The first and the last type of neighbor discovery, and the one that answers (RFC 4861, section 4).
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// More fragments, or an offset.
const FRAGMENTED: u16 = 0x3fff;

/// What is known about a frame's checksums without looking at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// The IPv4 header's, by the NIC.
    pub(super) ip: RxChecksum,
    /// The UDP checksum, by the NIC.
    pub(super) udp: RxChecksum,
    /// The device is a kernel interface: what a local sender left to offloading
    /// arrives with only the pseudo-header's sum in the UDP checksum field.
    pub(super) partial: bool,
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
        RxChecksum::Good => {}
        RxChecksum::Bad => return Err(DropReason::OuterChecksum),
        RxChecksum::Unknown | RxChecksum::Absent => {
            if !Checksum::of(&packet[..header_len]).is_valid() {
                return Err(DropReason::OuterChecksum);
            }
        }
    }

    // 2. It is for us, by frame and by address.
    let local = IpAddr::V4(header.destination());
    if !unicast || !uplink.addresses.contains(&local) {
        return Err(DropReason::NotForUs);
    }
    if header.fragment_bits() & FRAGMENTED != 0 {
        return Err(DropReason::OuterFragment);
    }

    // 3. A tunnel's datagram, or the host stack's.
    match header.protocol() {
        PROTOCOL_UDP => {
            let l4 = &packet[header_len..total_len];
            let seed =
                |len| Checksum::pseudo_v4(header.source(), header.destination(), PROTOCOL_UDP, len);
            let udp = udp(l4, checks, uplink, true, seed)?;
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
        _ => Err(DropReason::NotForUs),
    }
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
        _ if !ours || !unicast => Err(DropReason::NotForUs),
        PROTOCOL_UDP => {
            let l4 = &packet[ipv6::HEADER_LEN..total_len];
            let seed = |len| Checksum::pseudo_v6(header.source(), destination, PROTOCOL_UDP, len);
            let udp = udp(l4, checks, uplink, false, seed)?;
            accept(Accepted {
                payload: udp.payload(ether::HEADER_LEN + ipv6::HEADER_LEN),
                source: SocketAddr::new(IpAddr::V6(header.source()), udp.source_port),
                local,
                tunnel: udp.tunnel,
                ecn: header.traffic_class() & 3,
            });
            Ok(Verdict::Datagram)
        }
        PROTOCOL_FRAGMENT => Err(DropReason::OuterFragment),
        _ => Err(DropReason::NotForUs),
    }
}

/// Neighbor discovery is what can't have been routed (RFC 4861, section 7.1): nobody beyond the link gets into its
/// classes.
fn icmp6_class(kind: Option<u8>, hop_limit: u8, to_us: bool) -> PuntClass {
    match (kind, hop_limit) {
        (Some(NEIGHBOR_ADVERTISEMENT), 255) if to_us => PuntClass::NeighborAnswer,
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

/// A request for an address of ours, an answer to us, or a neighbor's announcement.
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
    if sender == target || uplink.addresses.contains(&IpAddr::from(target)) {
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
/// section 8.1).
#[inline]
fn udp(
    l4: &[u8],
    checks: Checks,
    uplink: &Uplink,
    optional: bool,
    seed: impl FnOnce(u32) -> Checksum,
) -> Result<Udp, DropReason> {
    let header = UdpView::new(l4).ok_or(DropReason::OuterMalformed)?;
    let len = usize::from(header.length());
    if len < UDP_HEADER || len > l4.len() {
        return Err(DropReason::OuterMalformed);
    }
    let tunnel = uplink
        .tunnel(header.destination_port())
        .ok_or(DropReason::NotForUs)?;
    let good = match (header.checksum(), checks.udp) {
        (0, _) => optional,
        (_, RxChecksum::Good) => true,
        (_, RxChecksum::Bad) => false,
        (field, RxChecksum::Unknown | RxChecksum::Absent) => {
            let mut sum = seed(u32::from(header.length()));
            (checks.partial && field == sum.value()) || {
                sum.add(&l4[..len]);
                sum.is_valid()
            }
        }
    };
    if good {
        Ok(Udp {
            tunnel,
            source_port: header.source_port(),
            len,
        })
    } else {
        Err(DropReason::OuterChecksum)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use culvert_wire::ipv4;

    use super::*;
    use crate::{
        shared::{hop::Hop, ids::UplinkIndex},
        uplink::UplinkCounters,
    };

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const UNKNOWN: Checks = Checks {
        ip: RxChecksum::Unknown,
        udp: RxChecksum::Unknown,
        partial: false,
    };
    const OUR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
    const THEIR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
    const THEIR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);

    fn uplink() -> Uplink {
        Uplink {
            index: UplinkIndex(0),
            name: "wan0".to_owned(),
            addresses: vec![OUR_V4.into(), OUR_V6.into()],
            tunnels: vec![(51_820, TunnelIndex(3))],
            hop: Arc::new(Hop::nowhere(UplinkIndex(0))),
            counters: Arc::new(UplinkCounters::default()),
        }
    }

    fn ethernet(destination: MacAddr, ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = destination.0.to_vec();
        frame.extend([2, 0, 0, 0, 0, 9]);
        frame.extend(ether_type.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn datagram(port: u16, payload: &[u8], sum: impl FnOnce(u32) -> Checksum) -> Vec<u8> {
        let len = u16::try_from(8 + payload.len()).unwrap();
        let mut bytes = 4_000_u16.to_be_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let mut sum = sum(u32::from(len));
        sum.add(&bytes);
        bytes[6..8].copy_from_slice(&sum.complement_udp().to_be_bytes());
        bytes
    }

    fn v4_packet(protocol: u8, l4: &[u8]) -> Vec<u8> {
        let fields = ipv4::Ipv4Fields {
            source: THEIR_V4,
            destination: OUR_V4,
            tos: 0b1000_1010,
            id: 7,
            dont_fragment: false,
            ttl: 64,
            protocol,
            total_len: u16::try_from(20 + l4.len()).unwrap(),
        };
        let mut packet = ipv4::header(&fields).to_vec();
        packet.extend(l4);
        packet
    }

    fn v6_packet(destination: Ipv6Addr, next_header: u8, l4: &[u8]) -> Vec<u8> {
        let fields = ipv6::Ipv6Fields {
            source: THEIR_V6,
            destination,
            traffic_class: 1,
            hop_limit: 255,
            next_header,
            payload_len: u16::try_from(l4.len()).unwrap(),
        };
        let mut packet = ipv6::header(&fields).to_vec();
        packet.extend(l4);
        packet
    }

    fn v4(payload: &[u8]) -> Vec<u8> {
        let l4 = datagram(51_820, payload, |len| {
            Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len)
        });
        ethernet(MAC, 0x0800, &v4_packet(17, &l4))
    }

    fn v6(payload: &[u8]) -> Vec<u8> {
        let l4 = datagram(51_820, payload, |len| {
            Checksum::pseudo_v6(THEIR_V6, OUR_V6, 17, len)
        });
        ethernet(MAC, 0x86dd, &v6_packet(OUR_V6, 17, &l4))
    }

    fn verdict(frame: &[u8]) -> Verdict {
        with(UNKNOWN, frame).0
    }

    fn with(checks: Checks, frame: &[u8]) -> (Verdict, Option<Accepted>) {
        let mut accepted = None;
        let verdict = classify(frame, checks, MAC, &uplink(), |parts| {
            accepted = Some(parts)
        });
        assert_eq!(accepted.is_some(), verdict == Verdict::Datagram);
        (verdict, accepted)
    }

    #[track_caller]
    fn assert_dropped(frame: &[u8], reason: DropReason) {
        assert_eq!(verdict(frame), Verdict::Drop(reason));
    }

    #[test]
    fn datagrams_reach_their_tunnel() {
        for payload in [&b""[..], b"x", b"a sealed datagram"] {
            let mut frame = v4(payload);
            frame.extend([0; 6]); // Ethernet's padding is not the datagram's
            let expected = Accepted {
                payload: 42..42 + payload.len(),
                source: SocketAddr::new(THEIR_V4.into(), 4_000),
                local: OUR_V4.into(),
                tunnel: TunnelIndex(3),
                ecn: 2,
            };
            assert_eq!(with(UNKNOWN, &frame).1, Some(expected));
            let expected = Accepted {
                payload: 62..62 + payload.len(),
                source: SocketAddr::new(THEIR_V6.into(), 4_000),
                local: OUR_V6.into(),
                tunnel: TunnelIndex(3),
                ecn: 1,
            };
            assert_eq!(with(UNKNOWN, &v6(payload)).1, Some(expected));
        }
    }

    #[test]
    fn checksums_are_believed_or_verified() {
        let mut corrupt = v4(b"payload");
        *corrupt.last_mut().unwrap() ^= 1;
        assert_dropped(&corrupt, DropReason::OuterChecksum);
        let nic = Checks {
            udp: RxChecksum::Good,
            ..UNKNOWN
        };
        assert!(matches!(with(nic, &corrupt).0, Verdict::Datagram));
        let nic = Checks {
            udp: RxChecksum::Bad,
            ..UNKNOWN
        };
        assert_eq!(
            with(nic, &v4(b"x")).0,
            Verdict::Drop(DropReason::OuterChecksum)
        );

        let mut header = v4(b"payload");
        header[22] ^= 1; // the TTL, which the NIC found good all the same
        assert_dropped(&header, DropReason::OuterChecksum);
        let nic = Checks {
            ip: RxChecksum::Good,
            ..UNKNOWN
        };
        assert!(matches!(with(nic, &header).0, Verdict::Datagram));
        let nic = Checks {
            ip: RxChecksum::Bad,
            ..UNKNOWN
        };
        assert_eq!(
            with(nic, &v4(b"x")).0,
            Verdict::Drop(DropReason::OuterChecksum)
        );

        // No checksum: fine over IPv4, not over IPv6.
        let mut none = v4(b"payload");
        none[40..42].fill(0);
        assert!(matches!(verdict(&none), Verdict::Datagram));
        let mut none = v6(b"payload");
        none[60..62].fill(0);
        assert_dropped(&none, DropReason::OuterChecksum);

        // A local sender's partial checksum: only from a kernel interface.
        let mut partial = v4(b"payload");
        let sum = Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, 15).value();
        partial[40..42].copy_from_slice(&sum.to_be_bytes());
        assert_dropped(&partial, DropReason::OuterChecksum);
        let kernel = Checks {
            partial: true,
            ..UNKNOWN
        };
        assert!(matches!(with(kernel, &partial).0, Verdict::Datagram));
        assert_eq!(
            with(kernel, &corrupt).0,
            Verdict::Drop(DropReason::OuterChecksum)
        );
    }

    #[test]
    fn only_what_is_ours() {
        let mut frame = v4(b"x");
        frame[5] ^= 1;
        assert_dropped(&frame, DropReason::NotForUs);
        let mut frame = v4(b"x");
        frame[..6].fill(0xff); // IPv4 unicast inside an Ethernet broadcast (RFC 1122, 3.3.6)
        assert_dropped(&frame, DropReason::NotForUs);
        let l4 = datagram(51_821, b"x", |len| {
            Checksum::pseudo_v4(THEIR_V4, OUR_V4, 17, len)
        });
        assert_dropped(
            &ethernet(MAC, 0x0800, &v4_packet(17, &l4)),
            DropReason::NotForUs,
        );
        assert_dropped(
            &ethernet(MAC, 0x0800, &v4_packet(6, &[0; 20])),
            DropReason::NotForUs,
        );
        assert_dropped(&ethernet(MAC, 0x8100, &[0; 46]), DropReason::NotForUs);
        assert_dropped(
            &ethernet(MAC, 0x86dd, &v6_packet(THEIR_V6, 17, &[0; 20])),
            DropReason::NotForUs,
        );
    }

    #[test]
    fn the_host_stack_gets_what_it_answers() {
        let question = Verdict::Punt(PuntClass::NeighborQuestion);
        assert_eq!(
            verdict(&ethernet(MAC, 0x0800, &v4_packet(1, &[8, 0]))),
            Verdict::Punt(PuntClass::Icmp)
        );
        let solicited = |last: u16| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, last);
        for (group, expected) in [
            (solicited(0x10), question),
            (solicited(0x11), Verdict::Drop(DropReason::NotForUs)),
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), question),
            (
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16),
                Verdict::Drop(DropReason::NotForUs),
            ),
        ] {
            let to = MacAddr::from_ipv6_multicast(group);
            assert_eq!(
                verdict(&ethernet(to, 0x86dd, &v6_packet(group, 58, &[135]))),
                expected
            );
        }

        let arp = |sender: Ipv4Addr, target: Ipv4Addr| {
            let mut message = [0; 28];
            message[7] = 1;
            message[14..18].copy_from_slice(&sender.octets());
            message[24..28].copy_from_slice(&target.octets());
            ethernet(MacAddr::BROADCAST, 0x0806, &message)
        };
        assert_eq!(verdict(&arp(THEIR_V4, OUR_V4)), question);
        assert_eq!(verdict(&arp(THEIR_V4, THEIR_V4)), question);
        assert_dropped(
            &arp(THEIR_V4, Ipv4Addr::new(192, 0, 2, 99)),
            DropReason::NotForUs,
        );
        assert_dropped(&arp(THEIR_V4, OUR_V4)[..40], DropReason::OuterMalformed);
    }

    #[test]
    fn only_those_on_the_link_get_into_the_neighbors_classes() {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let icmp6 = |to: Ipv6Addr, kind: &[u8], hops: u8| {
            let mac = match to.is_multicast() {
                true => MacAddr::from_ipv6_multicast(to),
                false => MAC,
            };
            let mut packet = v6_packet(to, 58, kind);
            packet[7] = hops;
            verdict(&ethernet(mac, 0x86dd, &packet))
        };
        for (to, kind, hops, class) in [
            (OUR_V6, &[136][..], 255, PuntClass::NeighborAnswer),
            (all_nodes, &[136], 255, PuntClass::NeighborQuestion),
            (OUR_V6, &[135], 255, PuntClass::NeighborQuestion),
            (OUR_V6, &[134], 255, PuntClass::NeighborQuestion),
            (OUR_V6, &[136], 254, PuntClass::Rest),
            (OUR_V6, &[135], 64, PuntClass::Rest),
            (OUR_V6, &[], 255, PuntClass::Rest),
            (OUR_V6, &[128], 64, PuntClass::Icmp),
            (OUR_V6, &[2], 64, PuntClass::Icmp),
            (all_nodes, &[128], 64, PuntClass::Rest),
            (all_nodes, &[130], 1, PuntClass::Rest),
        ] {
            assert_eq!(
                icmp6(to, kind, hops),
                Verdict::Punt(class),
                "{to} {kind:?} {hops}"
            );
        }
        let mut reply = [0; 28];
        reply[7] = 2;
        reply[24..28].copy_from_slice(&OUR_V4.octets());
        for (to, class) in [
            (MAC, PuntClass::NeighborAnswer),
            (MacAddr::BROADCAST, PuntClass::NeighborQuestion),
        ] {
            assert_eq!(verdict(&ethernet(to, 0x0806, &reply)), Verdict::Punt(class));
        }
    }

    #[test]
    fn fragments_are_refused() {
        for bits in [0x2000_u16, 0x0001, 0x1fff] {
            let mut packet = v4_packet(17, &[0; 16]);
            packet[6..8].copy_from_slice(&bits.to_be_bytes());
            packet[10..12].fill(0);
            let sum = Checksum::of(&packet[..20]).complement();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            assert_dropped(&ethernet(MAC, 0x0800, &packet), DropReason::OuterFragment);
        }
        assert_dropped(
            &ethernet(MAC, 0x86dd, &v6_packet(OUR_V6, 44, &[0; 16])),
            DropReason::OuterFragment,
        );
    }

    #[test]
    fn cut_and_bent_frames_are_refused() {
        for frame in [v4(b"a payload"), v6(b"a payload")] {
            for len in 0..frame.len() {
                assert_dropped(&frame[..len], DropReason::OuterMalformed);
            }
            // Any one bit wrong: never a panic, never a datagram of another size.
            for bit in 0..frame.len() * 8 {
                let mut bent = frame.clone();
                bent[bit / 8] ^= 1 << (bit % 8);
                for checks in [
                    UNKNOWN,
                    Checks {
                        ip: RxChecksum::Good,
                        udp: RxChecksum::Good,
                        partial: true,
                    },
                ] {
                    if let Some(Accepted { payload, .. }) = with(checks, &bent).1 {
                        assert!(payload.start <= payload.end && payload.end <= bent.len());
                    }
                }
            }
        }
    }
}
