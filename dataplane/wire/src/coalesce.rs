//! Joining a burst's packets of one flow into super-frames (GRO).
//!
//! In: decrypted IP packets of one burst, in arrival order, with their parsed headers,
//! and what the receiver accepts. Out: groups, in arrival order of their first packets:
//! one header, the payloads' places, the offload metadata for the receiver.
//! Never: a packet held beyond the burst, an allocation after construction, two packets
//! of one flow exchanged, a packet joined whose checksum was not verified.
//!
//! A packet joins the group of its flow if
//!
//! - it is IPv4 without options or IPv6 without extension headers, no fragment, with TCP
//!   or UDP and at least one byte of payload, and all its checksums are right;
//! - TCP: flags are ACK, with or without PSH and ECE; CWR only on a group's first packet
//!   and only if the receiver takes ECN;
//! - it equals the group's first packet in everything but length, IPv4 identification,
//!   sequence number, PSH, CWR and checksums;
//! - TCP: it begins where the group ends; PSH closes the group;
//! - it is not longer than the group's first payload; a shorter one closes the group;
//! - the whole stays a valid IP packet.
//!
//! Every other packet of a flow closes the flow's group and passes alone, so nothing
//! that comes later can overtake it. A fragment, which names no ports, closes all groups
//! between its two addresses.

use crate::checksum::Checksum;
use crate::parse::{Fragment, Headers, L3, L4};
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
/// Buckets of the flow table, a power of two.
const BUCKETS: usize = 256;
/// No member, no flow.
const NONE: u16 = u16::MAX;

/// What the receiver of super-frames negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Partial and verified checksums (GUEST_CSUM); without it nothing is joined.
    pub csum: bool,
    /// TCP over IPv4 (GUEST_TSO4).
    pub tso4: bool,
    /// TCP over IPv6 (GUEST_TSO6).
    pub tso6: bool,
    /// CWR in TCP super-frames (GUEST_ECN).
    pub ecn: bool,
    /// UDP over IPv4 (GUEST_USO4).
    pub uso4: bool,
    /// UDP over IPv6 (GUEST_USO6).
    pub uso6: bool,
}

impl Accept {
    /// Nothing: every packet passes alone.
    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        uso4: false,
        uso6: false,
    };
    /// Everything.
    pub const ALL: Self = Self {
        csum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso4: true,
        uso6: true,
    };
}

/// The coalescer holds as many packets as it was made for: read out its groups first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One packet of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The number it was pushed with.
    pub index: u32,
    /// Where its part begins in the bytes that were pushed.
    pub start: u32,
    /// Where its part ends.
    pub end: u32,
}

impl Member {
    /// The part as a range.
    #[inline]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Packets to be delivered as one.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// IP and layer 4 headers of the whole; empty if the group is one packet, whose own
    /// headers then are in its member's part.
    pub header: &'a [u8],
    /// Metadata for the frame that begins `l2_len` bytes before the IP header.
    pub vnet: VnetHeader,
    /// Length of the IP packet: `header` and all members' parts.
    pub len: usize,
    first: u16,
    count: u16,
    links: &'a [Link],
}

impl<'a> Group<'a> {
    /// The members, in order.
    #[inline]
    pub fn members(&self) -> impl Iterator<Item = Member> + use<'a> {
        let links = self.links;
        let mut at = self.first;
        std::iter::from_fn(move || {
            let link = links.get(usize::from(at))?;
            at = link.next;
            Some(link.member)
        })
    }

    /// How many packets were joined.
    #[inline]
    pub const fn count(&self) -> usize {
        self.count as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    member: Member,
    next: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Never joined; passes as it is.
    Alone,
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Headers of the first packet, as they came.
    header: [u8; HEADER_MAX],
    kind: Kind,
    /// False once no packet may follow.
    open: bool,
    /// True if the checksum of the first packet was verified.
    verified: bool,
    /// PSH was on the last packet.
    push: bool,
    header_len: u8,
    l4_offset: u8,
    size: u16,
    count: u16,
    first: u16,
    last: u16,
    /// Payload of all members.
    payload: u32,
    next_sequence: u32,
}

/// A flow's last group, and the next flow in its bucket.
#[derive(Clone, Copy, Debug)]
struct Flow {
    hash: u32,
    slot: u16,
    next: u16,
}

/// Joins packets, one burst at a time: [`begin`](Self::begin), [`push`](Self::push) each
/// packet, [`groups`](Self::groups).
#[derive(Debug)]
pub struct Coalescer {
    accept: Accept,
    l2_len: u16,
    links: Box<[Link]>,
    links_used: usize,
    slots: Box<[Slot]>,
    slots_used: usize,
    flows: Box<[Flow]>,
    flows_used: usize,
    buckets: Box<[u16; BUCKETS]>,
}

/// What a packet is to the coalescer.
struct Candidate {
    kind: Kind,
    hash: u32,
    v6: bool,
    l4_offset: usize,
    header_len: usize,
    payload: u16,
    /// May be joined at all; if not, it closes its flow's group.
    joins: bool,
    flags: u8,
    sequence: u32,
}

impl Coalescer {
    /// Memory for bursts of up to `packets` packets (at most 65,535).
    pub fn new(packets: usize) -> Self {
        let packets = packets.min(usize::from(NONE));
        let link = Link {
            member: Member {
                index: 0,
                start: 0,
                end: 0,
            },
            next: NONE,
        };
        let flow = Flow {
            hash: 0,
            slot: 0,
            next: NONE,
        };
        Self {
            accept: Accept::NONE,
            l2_len: 0,
            links: vec![link; packets].into_boxed_slice(),
            links_used: 0,
            slots: vec![Slot::EMPTY; packets].into_boxed_slice(),
            slots_used: 0,
            flows: vec![flow; packets].into_boxed_slice(),
            flows_used: 0,
            buckets: Box::new([NONE; BUCKETS]),
        }
    }

    /// Forgets the last burst and starts one for a receiver that takes `accept`, in
    /// frames with `l2_len` bytes ahead of the IP header (14 with Ethernet).
    #[inline]
    pub fn begin(&mut self, accept: Accept, l2_len: usize) {
        self.accept = accept;
        self.l2_len = u16::try_from(l2_len).unwrap_or(0);
        self.links_used = 0;
        self.slots_used = 0;
        if self.flows_used > 0 {
            self.flows_used = 0;
            self.buckets.fill(NONE);
        }
    }

    /// Takes the next packet: `packet` begins with its IP header, `headers` came from
    /// [`parse_ip`](crate::parse::parse_ip) on it, `index` is the caller's name for it.
    #[inline]
    pub fn push(&mut self, index: u32, headers: &Headers, packet: &[u8]) -> Result<(), Full> {
        if self.links_used >= self.links.len() {
            return Err(Full);
        }
        let packet = packet.get(..headers.ip_len).unwrap_or(packet);
        let Some(candidate) = self.candidate(headers, packet) else {
            self.alone(index, packet, false);
            return Ok(());
        };
        let flow = self.find(&candidate, packet);
        if candidate.joins
            && let Some(flow) = flow
            && self.append(
                usize::from(self.flows[flow].slot),
                index,
                &candidate,
                packet,
            )
        {
            return Ok(());
        }
        // It begins a group, and whatever its flow had before is closed by that.
        let slot = to_u16(self.slots_used);
        match (candidate.joins, flow) {
            (true, Some(flow)) => {
                self.open(index, &candidate, packet);
                self.flows[flow].slot = slot;
            }
            (true, None) => {
                self.open(index, &candidate, packet);
                self.enter(candidate.hash, slot);
            }
            (false, flow) => {
                self.alone(index, packet, false);
                if let Some(flow) = flow {
                    self.slots[usize::from(self.flows[flow].slot)].open = false;
                }
            }
        }
        Ok(())
    }

    /// The groups of the packets pushed since [`begin`](Self::begin).
    #[inline]
    pub fn groups(&mut self) -> impl Iterator<Item = Group<'_>> {
        let l2_len = self.l2_len;
        for slot in &mut self.slots[..self.slots_used] {
            if slot.count > 1 {
                slot.patch();
            }
        }
        let links = &self.links[..self.links_used];
        let csum = self.accept.csum;
        self.slots[..self.slots_used]
            .iter()
            .map(move |slot| slot.group(l2_len, csum, links))
    }

    /// Decides what the packet is. `None`: neither TCP nor UDP as far as can be seen.
    #[inline]
    fn candidate(&mut self, headers: &Headers, packet: &[u8]) -> Option<Candidate> {
        // Nothing will be joined for this receiver: no need to look.
        if !self.accept.csum {
            return None;
        }
        let (v6, plain) = match &headers.l3 {
            L3::V4(ip) => (
                false,
                usize::from(ip.header_len) == ipv4::HEADER_LEN && ip.checksum_ok,
            ),
            L3::V6(ip) => (true, usize::from(ip.header_len) == ipv6::HEADER_LEN),
            L3::Arp | L3::Other => return None,
        };
        let protocol = headers.protocol()?;
        let whole = headers.fragment() == Fragment::Whole
            && headers.l3_offset == 0
            && packet.len() == headers.ip_len;
        let (kind, accepted, joins, flags, sequence) = match &headers.l4 {
            L4::Tcp(tcp) => {
                const ALLOWED: u8 = flags::ACK | flags::PSH | flags::ECE | flags::CWR;
                let accepted = if v6 {
                    self.accept.tso6
                } else {
                    self.accept.tso4
                };
                let joins = tcp.flags & flags::ACK != 0
                    && tcp.flags & !ALLOWED == 0
                    && (self.accept.ecn || tcp.flags & flags::CWR == 0);
                (Kind::Tcp, accepted, joins, tcp.flags, tcp.sequence)
            }
            L4::Udp(udp) => {
                let accepted = if v6 {
                    self.accept.uso6
                } else {
                    self.accept.uso4
                };
                let joins = udp.checksum != 0
                    && headers.l4_offset + usize::from(udp.length) == headers.ip_len;
                (Kind::Udp, accepted, joins, 0, 0)
            }
            L4::Fragment | L4::Malformed | L4::Other => {
                if protocol == tcp::PROTOCOL || protocol == udp::PROTOCOL {
                    self.close_between(v6, packet);
                }
                return None;
            }
            L4::Icmp4(_) | L4::Icmp6(_) => return None,
        };
        if !accepted {
            return None;
        }
        if !plain || !whole || packet.len() > PACKET_MAX {
            // Its ports are not where the flow table looks for them.
            self.close_between(v6, packet);
            return None;
        }
        let payload = headers.payload_len();
        Some(Candidate {
            kind,
            hash: hash(headers),
            v6,
            l4_offset: headers.l4_offset,
            header_len: headers.payload_offset,
            payload: to_u16(payload),
            joins: joins && payload > 0 && checksum_ok(headers, packet),
            flags,
            sequence,
        })
    }

    /// The flow of a packet, if an earlier one of it was seen.
    #[inline]
    fn find(&self, candidate: &Candidate, packet: &[u8]) -> Option<usize> {
        let mut at = self.buckets[bucket(candidate.hash)];
        while let Some(flow) = self.flows.get(usize::from(at)) {
            let slot = &self.slots[usize::from(flow.slot)];
            if flow.hash == candidate.hash && slot.is_flow_of(candidate, packet) {
                return Some(usize::from(at));
            }
            at = flow.next;
        }
        None
    }

    fn enter(&mut self, hash: u32, slot: u16) {
        let bucket = &mut self.buckets[bucket(hash)];
        self.flows[self.flows_used] = Flow {
            hash,
            slot,
            next: *bucket,
        };
        *bucket = to_u16(self.flows_used);
        self.flows_used += 1;
    }

    /// Closes every group between the packet's two addresses, in this direction.
    #[cold]
    fn close_between(&mut self, v6: bool, packet: &[u8]) {
        let range = addresses(v6);
        let Some(wanted) = packet.get(range.clone()) else {
            return;
        };
        for flow in &self.flows[..self.flows_used] {
            let slot = &mut self.slots[usize::from(flow.slot)];
            if slot.is_v6() == v6 && slot.header[range.clone()] == *wanted {
                slot.open = false;
            }
        }
    }

    /// Adds the packet to a group if it may follow.
    #[inline]
    fn append(&mut self, slot: usize, index: u32, candidate: &Candidate, packet: &[u8]) -> bool {
        let links_used = self.links_used;
        let slot = &mut self.slots[slot];
        if !slot.may_follow(candidate, packet) {
            return false;
        }
        self.links[links_used] = Link {
            member: Member {
                index,
                start: to_u32(candidate.header_len),
                end: to_u32(packet.len()),
            },
            next: NONE,
        };
        if slot.count == 1 {
            // The first packet's headers now are the group's.
            self.links[usize::from(slot.first)].member.start = to_u32(candidate.header_len);
        }
        self.links[usize::from(slot.last)].next = to_u16(links_used);
        self.links_used += 1;
        slot.last = to_u16(links_used);
        slot.count += 1;
        slot.payload += u32::from(candidate.payload);
        slot.next_sequence = slot
            .next_sequence
            .wrapping_add(u32::from(candidate.payload));
        slot.push = candidate.flags & flags::PSH != 0;
        slot.open = !slot.push && candidate.payload == slot.size;
        true
    }

    /// Begins a group that others may follow.
    #[inline]
    fn open(&mut self, index: u32, candidate: &Candidate, packet: &[u8]) {
        let push = candidate.flags & flags::PSH != 0;
        let slot = self.alone(index, packet, true);
        let len = candidate.header_len.min(HEADER_MAX);
        slot.header[..len].copy_from_slice(&packet[..len]);
        slot.kind = candidate.kind;
        slot.open = !push;
        slot.push = push;
        slot.header_len = to_u8(len);
        slot.l4_offset = to_u8(candidate.l4_offset);
        slot.size = candidate.payload;
        slot.payload = u32::from(candidate.payload);
        slot.next_sequence = candidate
            .sequence
            .wrapping_add(u32::from(candidate.payload));
    }

    /// Begins a group of one packet, whole.
    #[inline]
    fn alone(&mut self, index: u32, packet: &[u8], verified: bool) -> &mut Slot {
        let link = self.links_used;
        self.links[link] = Link {
            member: Member {
                index,
                start: 0,
                end: to_u32(packet.len()),
            },
            next: NONE,
        };
        self.links_used += 1;
        let slot = &mut self.slots[self.slots_used];
        self.slots_used += 1;
        slot.kind = Kind::Alone;
        slot.open = false;
        slot.verified = verified;
        slot.count = 1;
        slot.first = to_u16(link);
        slot.last = to_u16(link);
        slot
    }
}

impl Slot {
    const EMPTY: Self = Self {
        header: [0; HEADER_MAX],
        kind: Kind::Alone,
        open: false,
        verified: false,
        push: false,
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

    /// Compares addresses, protocol and ports.
    #[inline]
    fn is_flow_of(&self, candidate: &Candidate, packet: &[u8]) -> bool {
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
    fn may_follow(&self, candidate: &Candidate, packet: &[u8]) -> bool {
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
            same(0..2) && same(6..10)
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

    /// Makes the first packet's headers those of the whole group.
    fn patch(&mut self) {
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
    fn group<'a>(&'a self, l2_len: u16, csum: bool, links: &'a [Link]) -> Group<'a> {
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

/// Where both addresses lie in an IP header.
const fn addresses(v6: bool) -> std::ops::Range<usize> {
    if v6 { 8..40 } else { 12..20 }
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

#[inline]
const fn bucket(hash: u32) -> usize {
    hash as usize % BUCKETS
}

/// Indices and lengths that their limits keep below 2^16.
#[inline]
fn to_u16(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// Lengths of packets.
#[inline]
fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Lengths of headers, at most [`HEADER_MAX`].
#[inline]
fn to_u8(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
