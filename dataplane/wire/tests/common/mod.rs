//! Packets for the tests, built and verified by code of its own.

#![allow(dead_code, reason = "every test uses its own part")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and bytes of the tests' own making"
)]

use culvert_wire::parse::{HEAD_LEN, Headers};
use culvert_wire::segment::{Plan, SegmentError};
use culvert_wire::{Checksum, VnetHeader, parse_frame};

pub(crate) const ETHERNET: usize = 14;

/// RFC 1071 as its text has it: 16-bit words, one at a time, carries folded at once.
pub(crate) fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        let word = u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b));
        sum += word;
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum
}

/// The pseudo-header's sum of a packet with addresses at the usual places.
pub(crate) fn pseudo(packet: &[u8], l4_offset: usize, protocol: u8) -> u32 {
    let l4_len = packet.len() - l4_offset;
    let addresses = if packet[0] >> 4 == 4 {
        &packet[12..20]
    } else {
        &packet[8..40]
    };
    let tail = [
        (l4_len >> 24) as u8,
        (l4_len >> 16) as u8,
        (l4_len >> 8) as u8,
        l4_len as u8,
        0,
        protocol,
    ];
    sum(&tail, sum(addresses, 0))
}

/// Where layer 4 begins and which it is (no extension headers in these tests).
pub(crate) fn layer4(packet: &[u8]) -> (usize, u8) {
    if packet[0] >> 4 == 4 {
        (usize::from(packet[0] & 15) * 4, packet[9])
    } else {
        (40, packet[6])
    }
}

/// Panics unless lengths and all checksums of an IP packet are right.
pub(crate) fn assert_sound(packet: &[u8]) {
    if packet[0] >> 4 == 4 {
        let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        assert_eq!(len, packet.len(), "total length");
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(sum(&packet[..header], 0), 0xffff, "header checksum");
    } else {
        let len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        assert_eq!(len + 40, packet.len(), "payload length");
    }
    let (l4, protocol) = layer4(packet);
    let total = sum(&packet[l4..], pseudo(packet, l4, protocol));
    assert_eq!(total, 0xffff, "layer 4 checksum");
    if protocol == 17 {
        let len = usize::from(u16::from_be_bytes([packet[l4 + 4], packet[l4 + 5]]));
        assert_eq!(len, packet.len() - l4, "UDP length");
        assert_ne!(packet[l4 + 6..l4 + 8], [0, 0], "UDP checksum");
    }
}

/// What a super-frame of the tests is made of.
#[derive(Clone, Debug)]
pub(crate) struct Super {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) gso_size: u16,
    /// TCP only.
    pub(crate) flags: u8,
    /// TCP only; length a multiple of 4, at most 40.
    pub(crate) options: Vec<u8>,
    pub(crate) sequence: u32,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) ports: (u16, u16),
    /// Last bytes of source and destination.
    pub(crate) hosts: (u8, u8),
}

impl Super {
    pub(crate) fn tcp(v6: bool, payload: Vec<u8>, gso_size: u16) -> Self {
        Self {
            v6,
            udp: false,
            payload,
            gso_size,
            flags: 0x10,
            options: vec![1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9],
            sequence: 0xffff_fc00,
            id: 0xfffe,
            dont_fragment: true,
            tos: 0,
            ttl: 64,
            ports: (40_000, 5201),
            hosts: (1, 2),
        }
    }

    pub(crate) fn udp(v6: bool, payload: Vec<u8>, gso_size: u16) -> Self {
        Self {
            udp: true,
            ..Self::tcp(v6, payload, gso_size)
        }
    }

    pub(crate) fn l3_len(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    pub(crate) fn l4_len(&self) -> usize {
        if self.udp { 8 } else { 20 + self.options.len() }
    }

    /// The metadata a guest sends with it.
    pub(crate) fn vnet(&self, l2_len: usize) -> VnetHeader {
        let kind = match (self.udp, self.v6) {
            (true, _) => VnetHeader::GSO_UDP_L4,
            (false, false) => VnetHeader::GSO_TCPV4,
            (false, true) => VnetHeader::GSO_TCPV6,
        };
        let ecn = !self.udp && self.flags & 0x80 != 0;
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: kind | if ecn { VnetHeader::GSO_ECN } else { 0 },
            hdr_len: (l2_len + self.l3_len() + self.l4_len()) as u16,
            gso_size: self.gso_size,
            csum_start: (l2_len + self.l3_len()) as u16,
            csum_offset: if self.udp { 6 } else { 16 },
            num_buffers: 0,
        }
    }

    /// The IP packet with its layer 4 checksum partial.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let l4_len = self.l4_len() + self.payload.len();
        let total = self.l3_len() + l4_len;
        let protocol = if self.udp { 17 } else { 6 };
        let mut p = Vec::new();
        if self.v6 {
            p.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            p.extend((l4_len as u16).to_be_bytes());
            p.extend([protocol, self.ttl]);
            for host in [self.hosts.0, self.hosts.1] {
                p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
        } else {
            p.extend([0x45, self.tos]);
            p.extend((total as u16).to_be_bytes());
            p.extend(self.id.to_be_bytes());
            p.extend([if self.dont_fragment { 0x40 } else { 0 }, 0]);
            p.extend([self.ttl, protocol, 0, 0]);
            p.extend([10, 99, 0, self.hosts.0, 10, 99, 0, self.hosts.1]);
            let check = !(sum(&p, 0) as u16);
            p[10..12].copy_from_slice(&check.to_be_bytes());
        }
        let l4 = p.len();
        p.extend(self.ports.0.to_be_bytes());
        p.extend(self.ports.1.to_be_bytes());
        if self.udp {
            p.extend((l4_len as u16).to_be_bytes());
            p.extend([0, 0]);
        } else {
            p.extend(self.sequence.to_be_bytes());
            p.extend(0x0102_0304u32.to_be_bytes());
            p.extend([((20 + self.options.len()) * 4) as u8, self.flags]);
            p.extend(500u16.to_be_bytes());
            p.extend([0, 0, 0, 0]);
            p.extend(&self.options);
        }
        p.extend(&self.payload);
        let seed = pseudo(&p, l4, protocol) as u16;
        let field = l4 + if self.udp { 6 } else { 16 };
        p[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        p
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, 1];
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(self.packet());
        frame
    }
}

/// Cuts a whole frame as the data path does, copying what it would gather.
pub(crate) fn segments(
    vnet: &VnetHeader,
    frame: &[u8],
    mtu: usize,
) -> Result<Vec<Vec<u8>>, SegmentError> {
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let headers = parse_frame(head, frame.len() as u32).expect("the tests' frames parse");
    Plan::new(vnet, &headers, head, mtu).map(|plan| carry_out(&plan, &headers, head, frame))
}

pub(crate) fn carry_out(plan: &Plan, headers: &Headers, head: &[u8], frame: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut total = 0;
    for index in 0..plan.count() {
        let segment = plan.segment(index);
        let payload = &frame[segment.payload.clone()];
        let mut out = [0; HEAD_LEN];
        let len = plan.write_headers(index, head, Checksum::of(payload), &mut out);
        assert_eq!(len, plan.header_len(index));
        let mut packet = out[..len].to_vec();
        packet.extend(payload);
        assert_eq!(packet.len(), segment.len);
        assert!(packet.len() <= plan.len_max());
        total += packet.len();
        packets.push(packet);
    }
    assert_eq!(total, plan.total_len());
    assert_eq!(
        packets
            .iter()
            .enumerate()
            .map(|(index, packet)| packet.len() - plan.header_len(index))
            .sum::<usize>(),
        headers.ip_len - plan.header_len(0),
    );
    packets
}

/// Panics unless lengths and checksums of an ICMP or ICMPv6 packet are right.
pub(crate) fn assert_icmp(packet: &[u8]) {
    let (l4, protocol) = layer4(packet);
    if packet[0] >> 4 == 4 {
        let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        assert_eq!((len, protocol), (packet.len(), 1));
        assert_eq!(sum(&packet[..l4], 0), 0xffff, "header checksum");
        assert_eq!(sum(&packet[l4..], 0), 0xffff, "ICMP checksum");
    } else {
        let len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        assert_eq!((len + 40, protocol), (packet.len(), 58));
        assert_eq!(sum(&packet[l4..], pseudo(packet, l4, 58)), 0xffff, "ICMPv6");
    }
}
