//! Whose a frame is that is no tunnel's, where the host's kernel shares the uplink's addresses.
//!
//! In: a frame with its verdict, our MAC address, our ports. Out: who has it: we, the kernel, both. Never: a look at what
//! a port's datagram says, a state.
//!
//! Ours alone is what we answer for both, so that nobody hears two answers: questions for our addresses. What neighbors
//! answer and announce, and what DHCP servers say, is for both: each has asked on its own account. Pings, errors and
//! fragments to us go to the host stack, which looks into them, and hands the kernel what is the kernel's
//! (`culvert_stack`, `exception`). A frame with a tag of a VLAN is nobody's.

use culvert_wire::{
    EtherType, EthernetView, Ipv4View, Ipv6View, MacAddr, ether, ipv6, parse::PROTOCOL_ICMPV6,
    ports::OwnPorts,
};

use super::classify::Verdict;
use crate::shared::{drops::DropReason, punt::PuntClass};

/// Extension headers: what is behind them the host stack knows (RFC 8200, section 4).
const EXTENSIONS: [u8; 7] = [0, 43, 51, 60, 135, 139, 140];
const NEIGHBOR_SOLICITATION: u8 = 135;

/// Who has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Who has it anyway.
    Us,
    /// The kernel alone.
    Kernel,
    /// Both.
    Both,
}

/// Whose a frame is that has this verdict.
pub(super) fn owner(verdict: Verdict, frame: &[u8], mac: MacAddr, ports: &OwnPorts) -> Owner {
    match verdict {
        Verdict::Datagram => Owner::Us,
        // Not ours, which is not to say nobody's: another address, another protocol.
        Verdict::Drop(DropReason::NotForUs) if may_be_kernels(frame, mac) => Owner::Kernel,
        Verdict::Drop(_) => Owner::Us,
        // Each has asked on its own account. What routers say is for whoever listens.
        Verdict::Punt(PuntClass::NeighborAnswer | PuntClass::RouterUnknown | PuntClass::Lease) => {
            Owner::Both
        }
        Verdict::Punt(PuntClass::NeighborQuestion) if asks_for_us(frame) => Owner::Us,
        Verdict::Punt(PuntClass::NeighborQuestion) => Owner::Both,
        Verdict::Punt(PuntClass::Icmp | PuntClass::Fragment) => Owner::Us,
        Verdict::Punt(_) => by_port(frame, ports),
    }
}

fn may_be_kernels(frame: &[u8], mac: MacAddr) -> bool {
    EthernetView::new(frame).is_some_and(|ethernet| {
        let to = ethernet.destination();
        (to == mac || to.is_multicast()) && !ethernet.ether_type().is_tag()
    })
}

/// Of a neighbor's question or announcement that is for the host stack: whether it wants an answer.
fn asks_for_us(frame: &[u8]) -> bool {
    let packet = frame.get(ether::HEADER_LEN..).unwrap_or_default();
    match EthernetView::new(frame).map(EthernetView::ether_type) {
        Some(EtherType::ARP) => packet.get(14..18) != packet.get(24..28),
        _ => packet.get(ipv6::HEADER_LEN) == Some(&NEIGHBOR_SOLICITATION),
    }
}

/// TCP and UDP to us by their ports; what has none is the kernel's, if that can be seen here.
fn by_port(frame: &[u8], ports: &OwnPorts) -> Owner {
    let packet = frame.get(ether::HEADER_LEN..).unwrap_or_default();
    let (protocol, at) = match EthernetView::new(frame).map(EthernetView::ether_type) {
        Some(EtherType::IPV4) => match Ipv4View::new(packet) {
            Some(ip) => (ip.protocol(), ip.header_len()),
            None => return Owner::Us,
        },
        _ => match Ipv6View::new(packet) {
            Some(ip) if EXTENSIONS.contains(&ip.next_header()) => return Owner::Us,
            Some(ip) => (ip.next_header(), ipv6::HEADER_LEN),
            None => return Owner::Us,
        },
    };
    // To a group, or cut short.
    if protocol == PROTOCOL_ICMPV6 {
        return Owner::Kernel;
    }
    let port = packet.get(at + 2..at + 4);
    let port = port.and_then(|port| port.try_into().ok());
    match port.map(u16::from_be_bytes) {
        Some(port) if ports.has(protocol, port) => Owner::Us,
        _ => Owner::Kernel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const NOT_FOR_US: Verdict = Verdict::Drop(DropReason::NotForUs);

    fn frame(to: MacAddr, ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let other = MacAddr([2, 0, 0, 0, 0, 9]);
        [&ether::header(to, other, EtherType(ether_type))[..], packet].concat()
    }

    fn v4(protocol: u8, port: u16) -> Vec<u8> {
        let mut packet = [0; 40];
        (packet[0], packet[9]) = (0x45, protocol);
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        frame(MAC, 0x0800, &packet)
    }

    fn v6(next_header: u8, kind_and_port: [u8; 4]) -> Vec<u8> {
        let mut packet = [0; 60];
        (packet[0], packet[6]) = (0x60, next_header);
        packet[40..44].copy_from_slice(&kind_and_port);
        frame(MAC, 0x86dd, &packet)
    }

    fn owners(verdict: Verdict, frame: &[u8]) -> Owner {
        owner(verdict, frame, MAC, &OwnPorts::new([51_820], [9_443]))
    }

    #[test]
    fn what_is_nobodys_of_ours_is_the_kernels_if_it_came_for_this_host() {
        let lldp = MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]);
        assert_eq!(
            owners(NOT_FOR_US, &frame(lldp, 0x88cc, &[0; 46])),
            Owner::Kernel
        );
        // IS-IS: a length in the type's place.
        let isis = MacAddr([1, 0x80, 0xc2, 0, 0, 0x14]);
        assert_eq!(
            owners(NOT_FOR_US, &frame(isis, 46, &[0xfe; 46])),
            Owner::Kernel
        );
        assert_eq!(
            owners(NOT_FOR_US, &frame(MacAddr::BROADCAST, 0x0800, &[0; 46])),
            Owner::Kernel
        );
        assert_eq!(
            owners(NOT_FOR_US, &frame(MAC, 0x0806, &[0; 46])),
            Owner::Kernel
        );
        assert_eq!(owners(NOT_FOR_US, &frame(MAC, 0x8100, &[0; 46])), Owner::Us);
        let other = MacAddr([2, 0, 0, 0, 0, 7]);
        assert_eq!(
            owners(NOT_FOR_US, &frame(other, 0x0800, &[0; 46])),
            Owner::Us
        );
        assert_eq!(owners(NOT_FOR_US, &[0; 9]), Owner::Us);
        let bad = Verdict::Drop(DropReason::OuterChecksum);
        assert_eq!(owners(bad, &v4(17, 53)), Owner::Us);
    }

    #[test]
    fn ports_say_whose_datagrams_and_segments_are() {
        let rest = Verdict::Punt(PuntClass::Rest);
        for (protocol, port, owner) in [
            (17, 51_820, Owner::Us),
            (17, 53, Owner::Kernel),
            (17, 61_000, Owner::Us),
            (6, 22, Owner::Kernel),
            (6, 9_443, Owner::Us),
            (6, 64_000, Owner::Us),
            // OSPF.
            (89, 51_820, Owner::Kernel),
        ] {
            assert_eq!(
                owners(rest, &v4(protocol, port)),
                owner,
                "{protocol}/{port}"
            );
            let [a, b] = port.to_be_bytes();
            assert_eq!(owners(rest, &v6(protocol, [0, 0, a, b])), owner);
        }
        for extension in EXTENSIONS {
            assert_eq!(owners(rest, &v6(extension, [6, 0, 0, 22])), Owner::Us);
        }
        assert_eq!(owners(rest, &v6(58, [128, 0, 0, 0])), Owner::Kernel);
        assert_eq!(owners(Verdict::Datagram, &v4(17, 51_820)), Owner::Us);
        for cut in 0..60 {
            let _ = owners(rest, &v4(6, 22)[..cut.min(54)]);
            let _ = owners(rest, &v6(6, [0; 4])[..cut]);
        }
    }

    #[test]
    fn answers_of_neighbors_reach_both_and_questions_have_one_answer() {
        let answer = Verdict::Punt(PuntClass::NeighborAnswer);
        let question = Verdict::Punt(PuntClass::NeighborQuestion);
        let arp = |sender: u8, target: u8| {
            let mut packet = [0; 46];
            (packet[17], packet[27]) = (sender, target);
            frame(MAC, 0x0806, &packet)
        };
        assert_eq!(owners(answer, &arp(1, 2)), Owner::Both);
        assert_eq!(owners(question, &arp(1, 2)), Owner::Us);
        assert_eq!(owners(question, &arp(3, 3)), Owner::Both);
        assert_eq!(owners(answer, &v6(58, [136, 0, 0, 0])), Owner::Both);
        for (kind, owner) in [(135, Owner::Us), (136, Owner::Both)] {
            assert_eq!(owners(question, &v6(58, [kind, 0, 0, 0])), owner);
        }
        let router = Verdict::Punt(PuntClass::RouterUnknown);
        assert_eq!(owners(router, &v6(58, [134, 0, 0, 0])), Owner::Both);
        let lease = Verdict::Punt(PuntClass::Lease);
        assert_eq!(owners(lease, &v4(17, 68)), Owner::Both);
        let liveness = Verdict::Punt(PuntClass::Liveness);
        assert_eq!(owners(liveness, &v4(17, 3_784)), Owner::Kernel);
        for class in [PuntClass::Icmp, PuntClass::Fragment] {
            assert_eq!(owners(Verdict::Punt(class), &v4(1, 0)), Owner::Us);
        }
    }
}
