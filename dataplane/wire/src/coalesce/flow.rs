//! One packet and one group: what the packet is, whether it may follow, what the group
//! becomes.
//!
//! In: parsed headers and bytes of a packet, headers copied from a group's first one.
//! Out: answers, and the group's finished header. Never: the table of flows.

use super::{Accept, Group, Link, NONE, to_u16, to_u32};
use crate::checksum::Checksum;
use crate::parse::{Fragment, Headers, L3, L4, is_extension};
use crate::tcp::{self, flags};
use crate::udp;
use crate::vnet::VnetHeader;
use crate::{ipv4, ipv6};

/// IPv6 and TCP with all options.
const HEADER_MAX: usize = 100;
/// The longest packet that an IPv4 header can describe; IPv6 is kept to the same.
const PACKET_MAX: usize = 65_535;
/// Datagrams in one group: what every Linux that knows UDP GRO takes.
const DATAGRAMS_MAX: u16 = 64;

/// What a packet is to the coalescer.
pub(super) enum Look {
    /// It passes alone and touches no flow.
    Alone,
    /// It passes alone, and its ports can't be seen: it may be of any flow between its
    /// two addresses.
    Barrier,
    /// It is of a flow that may be joined.
    Flow(Candidate),
}

/// A packet of a flow that may be joined.
pub(super) struct Candidate {
    kind: Kind,
    pub(super) hash: u32,
    v6: bool,
    l4_offset: usize,
    pub(super) header_len: usize,
    payload: u16,
    /// May be joined at all; if not, it closes its flow's group.
    pub(super) joins: bool,
    flags: u8,
    sequence: u32,
    /// IPv4 identification.
    id: u16,
}

impl Candidate {
    /// Decides what the packet is to a receiver that takes `accept`.
    #[inline]
    pub(super) fn of(accept: &Accept, headers: &Headers, packet: &[u8]) -> Look {
        // Nothing will be joined for this receiver: no need to look.
        if !accept.csum {
            return Look::Alone;
        }
        let (v6, plain, id) = match &headers.l3 {
            L3::V4(ip) => (
                false,
                usize::from(ip.header_len) == ipv4::HEADER_LEN && ip.checksum_ok,
                ip.id,
            ),
            L3::V6(ip) => (true, usize::from(ip.header_len) == ipv6::HEADER_LEN, 0),
            L3::Arp | L3::Other => return Look::Alone,
        };
        let whole = headers.fragment() == Fragment::Whole
            && headers.l3_offset == 0
            && packet.len() == headers.ip_len;
        let (kind, accepted, joins, flags, sequence) = match &headers.l4 {
            L4::Tcp(tcp) => {
                const ALLOWED: u8 = flags::ACK | flags::PSH | flags::ECE | flags::CWR;
                let accepted = if v6 { accept.tso6 } else { accept.tso4 };
                let joins = tcp.flags & flags::ACK != 0
                    && tcp.flags & !ALLOWED == 0
                    && (accept.ecn || tcp.flags & flags::CWR == 0);
                (Kind::Tcp, accepted, joins, tcp.flags, tcp.sequence)
            }
            L4::Udp(udp) => {
                let accepted = if v6 { accept.uso6 } else { accept.uso4 };
                let joins = udp.checksum != 0
                    && headers.l4_offset + usize::from(udp.length) == headers.ip_len;
                (Kind::Udp, accepted, joins, 0, 0)
            }
            L4::Fragment | L4::Malformed | L4::Other => {
                let hides_ports = headers.protocol().is_some_and(|protocol| {
                    matches!(protocol, tcp::PROTOCOL | udp::PROTOCOL) || is_extension(protocol)
                });
                return if hides_ports {
                    Look::Barrier
                } else {
                    Look::Alone
                };
            }
            L4::Icmp4(_) | L4::Icmp6(_) => return Look::Alone,
        };
        if !accepted {
            return Look::Alone;
        }
        if !plain || !whole || packet.len() > PACKET_MAX {
            // Its ports are not where the flow table looks for them.
            return Look::Barrier;
        }
        let payload = headers.payload_len();
        Look::Flow(Self {
            kind,
            hash: hash(headers),
            v6,
            l4_offset: headers.l4_offset,
            header_len: headers.payload_offset,
            payload: to_u16(payload),
            joins: joins && payload > 0 && checksum_ok(headers, packet),
            flags,
            sequence,
            id,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Never joined; passes as it is.
    Alone,
    Tcp,
    Udp,
}

/// A group in the making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Headers of the first packet, as they came.
    header: [u8; HEADER_MAX],
    kind: Kind,
    /// False once no packet may follow.
    pub(super) open: bool,
    /// True if the checksum of the first packet was verified.
    verified: bool,
    /// PSH was on the last packet.
    push: bool,
    /// All packets have one IPv4 identification; else it rises by one from packet to packet.
    fixed_id: bool,
    header_len: u8,
    l4_offset: u8,
    size: u16,
    pub(super) count: u16,
    pub(super) first: u16,
    pub(super) last: u16,
    /// Payload of all members.
    payload: u32,
    next_sequence: u32,
}

impl Slot {
    pub(super) const EMPTY: Self = Self {
        header: [0; HEADER_MAX],
        kind: Kind::Alone,
        open: false,
        verified: false,
        push: false,
        fixed_id: false,
        header_len: 0,
        l4_offset: 0,
        size: 0,
        count: 0,
        first: NONE,
        last: NONE,
        payload: 0,
        next_sequence: 0,
    };

    #[inline]
    const fn is_v6(&self) -> bool {
        self.header[0] >> 4 == 6
    }

    /// Makes it a group of one packet that none may follow.
    #[inline]
    pub(super) fn alone(&mut self, link: u16) {
        self.kind = Kind::Alone;
        self.open = false;
        self.verified = false;
        self.count = 1;
        self.first = link;
        self.last = link;
    }

    /// Makes it the group that the packet begins.
    #[inline]
    pub(super) fn begin(&mut self, link: u16, candidate: &Candidate, packet: &[u8]) {
        self.alone(link);
        let len = candidate.header_len.min(HEADER_MAX);
        self.header[..len].copy_from_slice(&packet[..len]);
        self.kind = candidate.kind;
        self.verified = true;
        self.push = candidate.flags & flags::PSH != 0;
        self.open = !self.push;
        self.header_len = to_u8(len);
        self.l4_offset = to_u8(candidate.l4_offset);
        self.size = candidate.payload;
        self.payload = u32::from(candidate.payload);
        self.next_sequence = candidate
            .sequence
            .wrapping_add(u32::from(candidate.payload));
    }

    /// Takes in a packet that [`may_follow`](Self::may_follow).
    #[inline]
    pub(super) fn append(&mut self, link: u16, candidate: &Candidate) {
        self.last = link;
        self.fixed_id = self.has_fixed_id(candidate);
        self.count += 1;
        self.payload += u32::from(candidate.payload);
        self.next_sequence = self
            .next_sequence
            .wrapping_add(u32::from(candidate.payload));
        self.push = candidate.flags & flags::PSH != 0;
        self.open = !self.push && candidate.payload == self.size;
    }

    /// True if it goes between the packet's two addresses, in the packet's direction.
    pub(super) fn is_between_hosts_of(&self, packet: &[u8]) -> bool {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let addresses = if v6 { 8..40 } else { 12..20 };
        self.is_v6() == v6 && packet.get(addresses.clone()) == self.header.get(addresses)
    }

    /// Compares addresses, protocol and ports.
    #[inline]
    pub(super) fn is_flow_of(&self, candidate: &Candidate, packet: &[u8]) -> bool {
        if self.kind != candidate.kind || self.is_v6() != candidate.v6 {
            return false;
        }
        // Addresses end the IP header and ports begin layer 4: one range holds both.
        if candidate.v6 {
            packet.get(8..44) == self.header.get(8..44)
        } else {
            packet.get(12..24) == self.header.get(12..24)
        }
    }

    /// Decides whether the packet, which is of this flow, may follow.
    #[inline]
    pub(super) fn may_follow(&self, candidate: &Candidate, packet: &[u8]) -> bool {
        let header_len = usize::from(self.header_len);
        if !self.open
            || header_len != candidate.header_len
            || candidate.payload > self.size
            || header_len + self.payload as usize + usize::from(candidate.payload) > PACKET_MAX
        {
            return false;
        }
        let (Some(mine), Some(theirs)) = (self.header.get(..header_len), packet.get(..header_len))
        else {
            return false;
        };
        let same = |range: std::ops::Range<usize>| mine.get(range.clone()) == theirs.get(range);
        let same_ip = if candidate.v6 {
            // Version, traffic class, flow label; next header, hop limit.
            same(0..4) && same(6..8)
        } else {
            // Version, length, TOS; flags, TTL, protocol.
            same(0..2) && same(6..10) && self.is_next_id(candidate)
        };
        let l4 = candidate.l4_offset;
        match self.kind {
            Kind::Tcp => {
                let flags = mine.get(l4 + 13).copied().unwrap_or(0);
                same_ip
                    && candidate.sequence == self.next_sequence
                    && candidate.flags & flags::CWR == 0
                    && (candidate.flags ^ flags) & !(flags::PSH | flags::CWR) == 0
                    // Acknowledgment, header length; window; urgent pointer, options.
                    && same(l4 + 8..l4 + 13)
                    && same(l4 + 14..l4 + 16)
                    && same(l4 + 18..header_len)
            }
            Kind::Udp => same_ip && self.count < DATAGRAMS_MAX,
            Kind::Alone => false,
        }
    }

    /// Whether the packet's identification is the next one (as Linux's `inet_gro_flush` has it).
    #[inline]
    fn is_next_id(&self, candidate: &Candidate) -> bool {
        match self.has_fixed_id(candidate) {
            true => self.id() == candidate.id,
            false => self.id().wrapping_add(self.count) == candidate.id,
        }
    }

    /// Whether all of the group have one identification if the packet follows. That is for packets with DF alone, which
    /// need none; others are put together by it (RFC 6864).
    #[inline]
    fn has_fixed_id(&self, candidate: &Candidate) -> bool {
        const DONT_FRAGMENT: u8 = 0x40;
        match self.count {
            1 => self.header[6] & DONT_FRAGMENT != 0 && self.id() == candidate.id,
            _ => self.fixed_id,
        }
    }

    /// IPv4 identification of the first packet.
    #[inline]
    const fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Makes the first packet's headers those of the whole group.
    pub(super) fn patch(&mut self) {
        let header_len = usize::from(self.header_len);
        let l4 = usize::from(self.l4_offset);
        let len = to_u16(header_len + self.payload as usize);
        let l4_len = len - u16::from(self.l4_offset);
        let v6 = self.is_v6();
        let header = &mut self.header;
        let addresses = if v6 {
            let payload_len = len - to_u16(ipv6::HEADER_LEN);
            header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            Checksum::of(&header[8..40])
        } else {
            header[2..4].copy_from_slice(&len.to_be_bytes());
            header[10..12].fill(0);
            let sum = Checksum::of(&header[..20]).complement();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Checksum::of(&header[12..20])
        };
        let mut seed = addresses;
        seed.add_u16(l4_len);
        match self.kind {
            Kind::Tcp => {
                seed.add_u16(u16::from(tcp::PROTOCOL));
                if self.push {
                    header[l4 + 13] |= flags::PSH;
                }
                header[l4 + 16..l4 + 18].copy_from_slice(&seed.value().to_be_bytes());
            }
            Kind::Udp => {
                seed.add_u16(u16::from(udp::PROTOCOL));
                header[l4 + 4..l4 + 6].copy_from_slice(&l4_len.to_be_bytes());
                header[l4 + 6..l4 + 8].copy_from_slice(&seed.value().to_be_bytes());
            }
            Kind::Alone => {}
        }
    }

    #[inline]
    pub(super) fn group<'a>(&'a self, l2_len: u16, csum: bool, links: &'a [Link]) -> Group<'a> {
        if self.count == 1 {
            let member = links[usize::from(self.first)].member;
            let valid = self.verified && csum;
            return Group {
                header: &[],
                vnet: VnetHeader {
                    flags: if valid { VnetHeader::DATA_VALID } else { 0 },
                    ..VnetHeader::default()
                },
                len: member.range().len(),
                first: self.first,
                count: 1,
                links,
            };
        }
        let header = &self.header[..usize::from(self.header_len)];
        let l4 = usize::from(self.l4_offset);
        let (gso_type, csum_offset) = match (self.kind, self.is_v6()) {
            (Kind::Udp, _) => (VnetHeader::GSO_UDP_L4, udp::CHECKSUM_OFFSET),
            (Kind::Tcp | Kind::Alone, false) => (VnetHeader::GSO_TCPV4, tcp::CHECKSUM_OFFSET),
            (Kind::Tcp | Kind::Alone, true) => (VnetHeader::GSO_TCPV6, tcp::CHECKSUM_OFFSET),
        };
        let reduced = self.kind == Kind::Tcp && header[l4 + 13] & flags::CWR != 0;
        Group {
            header,
            vnet: VnetHeader {
                flags: VnetHeader::NEEDS_CSUM,
                gso_type: gso_type | if reduced { VnetHeader::GSO_ECN } else { 0 },
                hdr_len: l2_len + u16::from(self.header_len),
                gso_size: self.size,
                csum_start: l2_len + u16::from(self.l4_offset),
                csum_offset,
                num_buffers: 0,
            },
            len: header.len() + self.payload as usize,
            first: self.first,
            count: self.count,
            links,
        }
    }
}

/// Verifies the layer 4 checksum of a whole packet.
#[inline]
fn checksum_ok(headers: &Headers, packet: &[u8]) -> bool {
    let Some(segment) = packet.get(headers.l4_offset..) else {
        return false;
    };
    let len = to_u32(segment.len());
    let mut sum = match &headers.l3 {
        L3::V4(ip) => Checksum::pseudo_v4(ip.source, ip.destination, ip.protocol, len),
        L3::V6(ip) => Checksum::pseudo_v6(ip.source, ip.destination, ip.protocol, len),
        L3::Arp | L3::Other => return false,
    };
    sum.add(segment);
    sum.is_valid()
}

/// Spreads flows over buckets. Whoever chooses flows that collide makes chains of at
/// most one burst's packets.
#[inline]
fn hash(headers: &Headers) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (source, destination) = headers.ports().unwrap_or((0, 0));
    let ports = (u64::from(source) << 16) | u64::from(destination);
    let addresses = match &headers.l3 {
        L3::V4(ip) => (u64::from(ip.source.to_bits()) << 32) | u64::from(ip.destination.to_bits()),
        L3::V6(ip) => {
            let mixed = ip.source.to_bits() ^ ip.destination.to_bits().rotate_left(29);
            #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
            {
                (mixed >> 64) as u64 ^ (mixed as u64).wrapping_mul(ODD)
            }
        }
        L3::Arp | L3::Other => 0,
    };
    let mixed = (addresses.wrapping_mul(ODD) ^ ports).wrapping_mul(ODD);
    (mixed >> 32) as u32
}

/// Lengths of headers, at most [`HEADER_MAX`].
#[inline]
fn to_u8(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
