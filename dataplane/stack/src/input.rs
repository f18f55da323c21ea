//! What a frame from the wire does.
//!
//! In: Ethernet frames that workers punted. Out: answers, what is learned of neighbors, packets out of fragments, what
//! errors say, or the name by which a frame is ignored. Never: more answers in a second than the stack's limits; trust in who says to have an address of ours.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::{
    Checksum, MacAddr,
    arp::{ArpError, ArpPacket, Operation},
    icmp::IcmpError,
    mld::{self, MldQuery},
    nd::{self, NdError, NdMessage},
    parse::{Headers, L3, L4, PROTOCOL_ICMP, PROTOCOL_ICMPV6, parse_frame},
};
use culvert_wireguard::Instant;

use super::{
    Datagram, HostDrop, HostStack, icmp,
    ip::{self, Fragment, Packet},
    message,
    neighbors::{Said, Unheard},
};
use crate::{limits, slaac::ROUTER_ADVERTISEMENT, tcp};

const REPLY_PERIOD: Duration = Duration::from_secs(1);

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

const PROTOCOL_TCP: u8 = 6;
/// Nothing behind it (RFC 8200, section 4.7).
const PROTOCOL_NONE: u8 = 59;

/// How a packet came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Whole,
    InFragments,
}

impl HostStack {
    pub(super) fn frame(&mut self, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let len = u32::try_from(frame.len()).map_err(|_| HostDrop::Malformed)?;
        let headers = parse_frame(frame, len).map_err(|_| HostDrop::Malformed)?;
        let ether = headers.ether;
        if ether.source == self.config.mac {
            return Err(HostDrop::Looped);
        }
        if !ether.source.is_unicast() {
            return Err(HostDrop::Malformed);
        }
        if ether.destination != self.config.mac && !ether.destination.is_multicast() {
            return Err(HostDrop::NotForUs);
        }
        match headers.l3 {
            L3::Arp => self.arp(&headers, frame, now),
            L3::V4(_) | L3::V6(_) => self.packet(&headers, frame, Came::Whole, now),
            L3::Other => Err(HostDrop::NotServed),
        }
    }

    /// What we have sent to ourselves: packets alone.
    pub(super) fn own_frame(&mut self, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let len = u32::try_from(frame.len()).map_err(|_| HostDrop::Malformed)?;
        let headers = parse_frame(frame, len).map_err(|_| HostDrop::Malformed)?;
        self.packet(&headers, frame, Came::Whole, now)
    }

    fn packet(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        came: Came,
        now: Instant,
    ) -> Result<(), HostDrop> {
        match ip::packet(headers, frame) {
            Ok(Some(Packet::Whole { protocol, named_at })) => {
                self.whole(headers, frame, (protocol, named_at), came, now)
            }
            Ok(Some(Packet::Part(part))) if came == Came::Whole => self.part(headers, &part, now),
            Ok(Some(Packet::Part(_))) => Err(HostDrop::Malformed),
            Ok(None) => Err(HostDrop::NotServed),
            Err(refused) => {
                if let Some(error) = refused.tell {
                    self.tell(error, headers, frame, now);
                }
                Err(refused.reason)
            }
        }
    }

    fn part(
        &mut self,
        headers: &Headers,
        part: &Fragment<'_>,
        now: Instant,
    ) -> Result<(), HostDrop> {
        if !self.is_to_us(headers) {
            return Err(HostDrop::NotForUs);
        }
        let Self {
            reassembly, drops, ..
        } = self;
        let lost = |reason: HostDrop| drops.count(reason);
        let Some(frame) = reassembly.add(part, now, lost)? else {
            return Ok(());
        };
        let len = u32::try_from(frame.len()).map_err(|_| HostDrop::Malformed)?;
        let headers = parse_frame(&frame, len).map_err(|_| HostDrop::Malformed)?;
        self.packet(&headers, &frame, Came::InFragments, now)
    }

    fn whole(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        (protocol, named_at): (u8, u32),
        came: Came,
        now: Instant,
    ) -> Result<(), HostDrop> {
        if self.is_kernels(headers, frame, protocol) {
            return self.leave_to_kernel(frame);
        }
        // Behind an authentication header, which nobody asked for, nothing is looked at.
        let is_parsed = headers.protocol() == Some(protocol);
        match (headers.l3, headers.l4) {
            (_, L4::Icmp4(icmp)) if icmp.kind == ECHO_REQUEST_V4 => self.echo(headers, frame, now),
            (_, L4::Icmp4(icmp)) if icmp::is_error_v4(icmp.kind) => self.error(headers, frame),
            (_, L4::Icmp6(icmp)) if is_parsed && icmp.kind == ECHO_REQUEST_V6 => {
                self.echo(headers, frame, now)
            }
            (_, L4::Icmp6(icmp)) if is_parsed && icmp::is_error_v6(icmp.kind) => {
                self.error(headers, frame)
            }
            // Neighbor discovery in fragments is none (RFC 6980).
            (L3::V6(ip), L4::Icmp6(icmp))
                if is_parsed && came == Came::Whole && icmp.kind == ROUTER_ADVERTISEMENT =>
            {
                if !ip.destination.is_multicast() && !self.own.uses(ip.destination.into()) {
                    return Err(HostDrop::NotForUs);
                }
                self.advertised(headers, frame, now)
            }
            (L3::V6(_), L4::Icmp6(icmp)) if came == Came::Whole && icmp.kind == mld::QUERY => {
                let query = MldQuery::parse(headers, frame).ok_or(HostDrop::Malformed)?;
                let is_answered = self.groups.queried(query, &mut self.random, now);
                is_answered.then_some(()).ok_or(HostDrop::RateLimited)
            }
            (L3::V6(ip), L4::Icmp6(_)) if is_parsed && came == Came::Whole => {
                self.nd(headers, ip.destination, frame, now)
            }
            (_, L4::Malformed) => Err(HostDrop::Malformed),
            (_, L4::Tcp(_)) if is_parsed => self.segment(headers, frame, came == Came::Whole, now),
            (L3::V4(_), L4::Udp(_))
                if is_parsed && let Some(taken) = self.lent(headers, frame, now) =>
            {
                taken
            }
            (_, L4::Udp(_)) if is_parsed && self.is_to_us(headers) => {
                match self.offer_datagram(headers, frame, came == Came::Whole, now)? {
                    true => Ok(()),
                    false => self.datagram(headers, frame, came, now),
                }
            }
            (_, L4::Udp(_)) if is_parsed && headers.ether.destination.is_multicast() => {
                let is_taken = self.offer_datagram(headers, frame, false, now)?;
                is_taken.then_some(()).ok_or(HostDrop::NotServed)
            }
            _ => {
                let is_known = [PROTOCOL_TCP, PROTOCOL_NONE, PROTOCOL_ICMP, PROTOCOL_ICMPV6];
                if !is_known.contains(&protocol) {
                    let pointer = named_at;
                    let error = IcmpError::ProtocolUnreachable { pointer };
                    self.tell(error, headers, frame, now);
                }
                Err(HostDrop::NotServed)
            }
        }
    }

    /// What came whole would not be here if anyone had its port.
    fn datagram(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        came: Came,
        now: Instant,
    ) -> Result<(), HostDrop> {
        if let L4::Udp(udp) = headers.l4
            && self.watches(udp.destination_port)
        {
            return self.hear_liveness(headers, &udp, frame, now);
        }
        if came == Came::Whole {
            self.tell(IcmpError::PortUnreachable, headers, frame, now);
            return Err(HostDrop::NotServed);
        }
        if self.datagrams.len() >= limits::DATAGRAMS {
            return Err(HostDrop::DatagramsFull);
        }
        let spread = headers.addresses().map_or(0, |(source, _)| spread(source));
        let frame = frame.to_vec();
        self.datagrams.push_back(Datagram { frame, spread });
        Ok(())
    }

    /// An error about something of ours: heard if it quotes what we may have sent.
    fn error(&mut self, headers: &Headers, frame: &[u8]) -> Result<(), HostDrop> {
        if !self.is_to_us(headers) {
            return Err(HostDrop::NotForUs);
        }
        let end = headers.l3_offset + headers.ip_len;
        let message = frame
            .get(headers.l4_offset..end)
            .ok_or(HostDrop::Malformed)?;
        let (sum, heard) = match headers.l3 {
            L3::V4(ip) => (
                Checksum::of(message),
                icmp::read_v4(ip.source.into(), message),
            ),
            L3::V6(ip) => {
                let len = u32::try_from(message.len()).map_err(|_| HostDrop::Malformed)?;
                let (from, to) = (ip.source, ip.destination);
                let mut sum = Checksum::pseudo_v6(from, to, PROTOCOL_ICMPV6, len);
                sum.add(message);
                (sum, icmp::read_v6(from.into(), message))
            }
            L3::Arp | L3::Other => return Err(HostDrop::NotServed),
        };
        if !sum.is_valid() {
            return Err(HostDrop::Malformed);
        }
        let too_big = match headers.l3 {
            L3::V4(_) => tcp::too_big_v4(message),
            L3::V6(_) | L3::Arp | L3::Other => tcp::too_big_v6(message),
        };
        if let Some(too_big) = too_big {
            let is_known = self.narrow(&too_big);
            return is_known.then_some(()).ok_or(HostDrop::ErrorUnmatched);
        }
        let sent = heard.filter(|heard| {
            let (local, remote) = (heard.about.local.ip(), heard.about.remote.ip());
            self.own.uses(local) && self.routes.next_hop(remote).is_some()
        });
        let heard = sent.ok_or(HostDrop::ErrorUnmatched)?;
        let (local, remote) = (heard.about.local, heard.about.remote);
        if self.endpoints.fail(local, remote, heard.problem) {
            return Ok(());
        }
        if self.heard.len() >= limits::ERRORS_HEARD {
            return Err(HostDrop::ErrorsFull);
        }
        self.heard.push_back(heard);
        Ok(())
    }

    fn arp(&mut self, headers: &Headers, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let packet =
            ArpPacket::parse(&frame[headers.l3_offset..]).map_err(|error| match error {
                ArpError::Truncated | ArpError::Sender => HostDrop::Malformed,
                ArpError::Unsupported | ArpError::Operation => HostDrop::NotServed,
            })?;
        let sender = IpAddr::V4(packet.sender);
        let target = IpAddr::V4(packet.target);
        // A probe is from nobody. Two that probe for one address give in both (RFC 5227, section 2.1.1).
        let is_rival = packet.sender.is_unspecified() && self.own.is_sought(target);
        let claimed = if is_rival { target } else { sender };
        self.check_claim(claimed, packet.sender_mac, now)?;
        if packet.sender == packet.target {
            return self.hear(sender, announced(packet.sender_mac), now);
        }
        if !self.own.uses(target) {
            return Err(HostDrop::NotForUs);
        }
        match packet.operation {
            Operation::Request => {
                self.take_question(now)?;
                self.reply(message::arp(&packet.reply(self.config.mac)));
                self.learn(sender, packet.sender_mac, now)
            }
            Operation::Reply => {
                let said = Said {
                    solicited: headers.ether.destination == self.config.mac,
                    ..announced(packet.sender_mac)
                };
                self.hear(sender, said, now)
            }
        }
    }

    /// A question for an address that we don't use: the kernel's, unless it may become ours.
    fn leave(&mut self, address: IpAddr, frame: &[u8]) -> Result<(), HostDrop> {
        match self.own.standing(address) {
            Some(_) => Err(HostDrop::NotForUs),
            None => self.leave_to_kernel(frame),
        }
    }

    fn nd(
        &mut self,
        headers: &Headers,
        destination: Ipv6Addr,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), HostDrop> {
        let message = NdMessage::parse(headers, frame).map_err(|error| match error {
            NdError::OtherType => HostDrop::NotServed,
            NdError::Truncated
            | NdError::HopLimit
            | NdError::Code
            | NdError::Checksum
            | NdError::Option
            | NdError::Target
            | NdError::Unspecified
            | NdError::SolicitedGroup => HostDrop::Malformed,
        })?;
        if !destination.is_multicast() && !self.own.uses(destination.into()) {
            return Err(HostDrop::NotForUs);
        }
        match message {
            NdMessage::Solicitation {
                source,
                target,
                source_mac,
            } => {
                let asker_mac = source_mac.unwrap_or(headers.ether.source);
                // Two that look for duplicates of one address give in both (RFC 4862, section 5.4.3).
                let is_rival = source.is_unspecified() && self.own.is_sought(target.into());
                let claimed = if is_rival { target } else { source };
                self.check_claim(claimed.into(), asker_mac, now)?;
                if !self.own.uses(target.into()) {
                    return self.leave(target.into(), frame);
                }
                self.take_question(now)?;
                let mac = self.config.mac;
                self.reply(message::nd(|out| {
                    nd::write_advertisement(source, asker_mac, target, mac, false, out)
                }));
                source_mac.map_or(Ok(()), |mac| self.learn(source.into(), mac, now))
            }
            NdMessage::Advertisement {
                target,
                target_mac,
                router,
                solicited,
                replace,
                ..
            } => {
                let claimed_by = target_mac.unwrap_or(headers.ether.source);
                self.check_claim(target.into(), claimed_by, now)?;
                let said = Said {
                    mac: target_mac,
                    source: headers.ether.source,
                    solicited,
                    replace,
                    is_router: router,
                };
                let heard = self.hear(target.into(), said, now);
                self.look_at_routers(now);
                heard
            }
            NdMessage::RouterSolicitation { .. } => Err(HostDrop::NotServed),
        }
    }

    fn echo(&mut self, headers: &Headers, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let (Some((sender, ours)), true) = (headers.addresses(), self.is_to_us(headers)) else {
            return Err(HostDrop::NotForUs);
        };
        let reply =
            message::echo_reply(self.config.mac, headers, frame).ok_or(HostDrop::EchoRefused)?;
        if !self.echo_replies.take(now) {
            return Err(HostDrop::RateLimited);
        }
        self.reply_whole(reply, (ours, sender));
        Ok(())
    }

    /// Whoever says to be at an address of ours, that is used, is told otherwise, now and then (RFC
    /// 5227, section 2.4 b; it may be that the other gives in).
    fn check_claim(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Result<(), HostDrop> {
        if mac == self.config.mac || self.kin.contains(&mac) && self.own.standing(address).is_some()
        {
            return Err(HostDrop::Looped);
        }
        let Some(is_defended) = self.own.claim(address, mac, now) else {
            return Ok(());
        };
        if is_defended {
            self.reply(message::announcement(self.config.mac, address));
        }
        if self.own.is_anothers(address) {
            self.decline(address, now);
        }
        Err(HostDrop::AddressConflict)
    }

    fn take_question(&mut self, now: Instant) -> Result<(), HostDrop> {
        if self.neighbor_replies.take(now) {
            Ok(())
        } else {
            Err(HostDrop::RateLimited)
        }
    }

    /// Who asks for us will hear from us or be asked for soon: it is worth remembering.
    fn learn(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Result<(), HostDrop> {
        if !self.routes.is_neighbor(address) {
            return Ok(());
        }
        self.neighbors
            .hear_question(address, mac, now)
            .map_err(ignored)
    }

    fn hear(&mut self, address: IpAddr, said: Said, now: Instant) -> Result<(), HostDrop> {
        self.neighbors.hear(address, said, now).map_err(ignored)
    }
}

fn spread(source: IpAddr) -> usize {
    let sum = |octets: &[u8]| octets.iter().map(|&octet| usize::from(octet)).sum();
    match source {
        IpAddr::V4(source) => sum(&source.octets()),
        IpAddr::V6(source) => sum(&source.octets()),
    }
}

/// What an announcement says: everyone should know, nobody asked.
const fn announced(mac: MacAddr) -> Said {
    Said {
        mac: Some(mac),
        source: mac,
        solicited: false,
        replace: true,
        is_router: false,
    }
}

const fn ignored(unheard: Unheard) -> HostDrop {
    match unheard {
        Unheard::Unknown => HostDrop::Unsolicited,
        Unheard::NoAddress => HostDrop::Malformed,
        Unheard::Full => HostDrop::NeighborsFull,
        Unheard::Doubtful => HostDrop::NeighborDoubtful,
    }
}

/// What may still be said in this second.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    per_second: u32,
    since: Instant,
    left: u32,
}

impl Budget {
    pub(crate) const fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            since: now,
            left: per_second,
        }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.since.is_older_than(REPLY_PERIOD, now) {
            *self = Self::new(self.per_second, now);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}
