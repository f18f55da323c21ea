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
//! - IPv4: the identification rises by one from packet to packet, or, with DF, is the same
//!   in all;
//! - TCP: it begins where the group ends; PSH closes the group;
//! - it is not longer than the group's first payload; a shorter one closes the group;
//! - the whole stays a valid IP packet.
//!
//! Every other packet of a flow closes the flow's group and passes alone, so nothing
//! that comes later can overtake it. A fragment, which names no ports, closes all groups
//! between its two addresses.

use crate::parse::Headers;
use crate::vnet::VnetHeader;

mod flow;

use flow::{Candidate, Look, Slot};

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
        let candidate = match Candidate::of(&self.accept, headers, packet) {
            Look::Flow(candidate) => candidate,
            look @ (Look::Alone | Look::Barrier) => {
                if matches!(look, Look::Barrier) {
                    self.close_between(packet);
                }
                let link = self.link(index, 0, packet);
                self.slot().1.alone(link);
                return Ok(());
            }
        };
        let flow = self.find(&candidate, packet);
        let last = flow.map(|flow| self.flows[flow].slot);
        if candidate.joins
            && let Some(last) = last
            && self.append(last, index, &candidate, packet)
        {
            return Ok(());
        }
        // It begins a group, and whatever its flow had before is closed by that.
        let link = self.link(index, 0, packet);
        let (number, slot) = self.slot();
        if !candidate.joins {
            slot.alone(link);
            if let Some(last) = last {
                self.slots[usize::from(last)].open = false;
            }
            return Ok(());
        }
        slot.begin(link, &candidate, packet);
        match flow {
            Some(flow) => self.flows[flow].slot = number,
            None => self.enter(candidate.hash, number),
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
    fn close_between(&mut self, packet: &[u8]) {
        for flow in &self.flows[..self.flows_used] {
            let slot = &mut self.slots[usize::from(flow.slot)];
            slot.open &= !slot.is_between_hosts_of(packet);
        }
    }

    /// Adds the packet to a group if it may follow.
    #[inline]
    fn append(&mut self, slot: u16, index: u32, candidate: &Candidate, packet: &[u8]) -> bool {
        let slot = usize::from(slot);
        if !self.slots[slot].may_follow(candidate, packet) {
            return false;
        }
        let link = self.link(index, candidate.header_len, packet);
        let slot = &mut self.slots[slot];
        if slot.count == 1 {
            // The first packet's headers now are the group's.
            self.links[usize::from(slot.first)].member.start = to_u32(candidate.header_len);
        }
        self.links[usize::from(slot.last)].next = link;
        slot.append(link, candidate);
        true
    }

    /// Notes a packet from `start` to its end.
    #[inline]
    fn link(&mut self, index: u32, start: usize, packet: &[u8]) -> u16 {
        let link = self.links_used;
        self.links[link] = Link {
            member: Member {
                index,
                start: to_u32(start),
                end: to_u32(packet.len()),
            },
            next: NONE,
        };
        self.links_used += 1;
        to_u16(link)
    }

    /// The next unused slot and its number. There are as many as links.
    #[inline]
    fn slot(&mut self) -> (u16, &mut Slot) {
        let slot = self.slots_used;
        self.slots_used += 1;
        (to_u16(slot), &mut self.slots[slot])
    }
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
