//! What a frame from the wire does.
//!
//! In: Ethernet frames that workers punted. Out: answers, what is learned of neighbors, or the name by which a frame is
//! ignored. Never: more answers in a second than the stack's limits; trust in who says to have an address of ours.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::{
    MacAddr,
    arp::{ArpError, ArpPacket, Operation},
    nd::{self, NdError, NdMessage},
    parse::{Headers, L3, L4, parse_frame},
};
use culvert_wireguard::Instant;

use super::{
    HostDrop, HostStack, message,
    neighbors::{Said, Unheard},
};
use crate::limits;

/// How often an address is defended at the most (RFC 5227: `DEFEND_INTERVAL`).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
const REPLY_PERIOD: Duration = Duration::from_secs(1);

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

impl HostStack {
    pub(super) fn frame(&mut self, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let len = u32::try_from(frame.len()).map_err(|_| HostDrop::Malformed)?;
        let headers = parse_frame(frame, len).map_err(|_| HostDrop::Malformed)?;
        let ether = headers.ether;
        if ether.source == self.mac {
            return Err(HostDrop::Looped);
        }
        if !ether.source.is_unicast() {
            return Err(HostDrop::Malformed);
        }
        if ether.destination != self.mac && !ether.destination.is_multicast() {
            return Err(HostDrop::NotForUs);
        }
        match (headers.l3, headers.l4) {
            (L3::Arp, _) => self.arp(&headers, frame, now),
            (L3::V4(_), L4::Icmp4(icmp)) if icmp.kind == ECHO_REQUEST_V4 => {
                self.echo(&headers, frame, now)
            }
            (L3::V6(_), L4::Icmp6(icmp)) if icmp.kind == ECHO_REQUEST_V6 => {
                self.echo(&headers, frame, now)
            }
            (L3::V6(ip), L4::Icmp6(_)) => self.nd(&headers, ip.destination, frame, now),
            (L3::V4(_) | L3::V6(_), L4::Malformed) => Err(HostDrop::Malformed),
            (L3::V4(_) | L3::V6(_) | L3::Other, _) => Err(HostDrop::NotServed),
        }
    }

    fn arp(&mut self, headers: &Headers, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let packet =
            ArpPacket::parse(&frame[headers.l3_offset..]).map_err(|error| match error {
                ArpError::Truncated | ArpError::Sender => HostDrop::Malformed,
                ArpError::Unsupported | ArpError::Operation => HostDrop::NotServed,
            })?;
        let sender = IpAddr::V4(packet.sender);
        self.check_claim(sender, packet.sender_mac, now)?;
        if packet.sender == packet.target {
            return self.hear(sender, announced(packet.sender_mac), now);
        }
        if !self.routes.owns(packet.target.into()) {
            return Err(HostDrop::NotForUs);
        }
        match packet.operation {
            Operation::Request => {
                self.take_question(now)?;
                self.reply(message::arp(&packet.reply(self.mac)));
                self.learn(sender, packet.sender_mac, now)
            }
            Operation::Reply => {
                let said = Said {
                    solicited: headers.ether.destination == self.mac,
                    ..announced(packet.sender_mac)
                };
                self.hear(sender, said, now)
            }
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
        if !destination.is_multicast() && !self.routes.owns(destination.into()) {
            return Err(HostDrop::NotForUs);
        }
        match message {
            NdMessage::Solicitation {
                source,
                target,
                source_mac,
            } => {
                let asker_mac = source_mac.unwrap_or(headers.ether.source);
                self.check_claim(source.into(), asker_mac, now)?;
                if !self.routes.owns(target.into()) {
                    return Err(HostDrop::NotForUs);
                }
                self.take_question(now)?;
                let mac = self.mac;
                self.reply(message::nd(|out| {
                    nd::write_advertisement(source, asker_mac, target, mac, false, out)
                }));
                source_mac.map_or(Ok(()), |mac| self.learn(source.into(), mac, now))
            }
            NdMessage::Advertisement {
                target,
                target_mac,
                solicited,
                replace,
                ..
            } => {
                let claimed_by = target_mac.unwrap_or(headers.ether.source);
                self.check_claim(target.into(), claimed_by, now)?;
                let said = Said {
                    mac: target_mac,
                    solicited,
                    replace,
                };
                self.hear(target.into(), said, now)
            }
            NdMessage::RouterSolicitation { .. } => Err(HostDrop::NotServed),
        }
    }

    fn echo(&mut self, headers: &Headers, frame: &[u8], now: Instant) -> Result<(), HostDrop> {
        let ours = headers
            .addresses()
            .is_some_and(|(_, destination)| self.routes.owns(destination));
        if !ours || headers.ether.destination != self.mac {
            return Err(HostDrop::NotForUs);
        }
        if headers.ip_len > usize::from(self.mtu) {
            return Err(HostDrop::EchoTooLong);
        }
        let reply = message::echo_reply(self.mac, headers, frame).ok_or(HostDrop::EchoRefused)?;
        if !self.echo_replies.take(now) {
            return Err(HostDrop::RateLimited);
        }
        self.reply(reply);
        Ok(())
    }

    /// Whoever says to be at an address of ours is told otherwise, now and then (RFC
    /// 5227, section 2.4 b; it may be that the other gives in).
    fn check_claim(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Result<(), HostDrop> {
        if mac == self.mac {
            return Err(HostDrop::Looped);
        }
        if !self.routes.owns(address) {
            return Ok(());
        }
        let rested = self
            .defended
            .is_none_or(|at| at.is_older_than(DEFEND_INTERVAL, now));
        if rested {
            self.defended = Some(now);
            self.reply(message::announcement(self.mac, address));
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

/// What an announcement says: everyone should know, nobody asked.
const fn announced(mac: MacAddr) -> Said {
    Said {
        mac: Some(mac),
        solicited: false,
        replace: true,
    }
}

const fn ignored(unheard: Unheard) -> HostDrop {
    match unheard {
        Unheard::Unknown => HostDrop::Unsolicited,
        Unheard::NoAddress => HostDrop::Malformed,
        Unheard::Full => HostDrop::NeighborsFull,
    }
}

/// Answers that may still be given in this second.
pub(super) struct Budget {
    since: Instant,
    left: u32,
}

impl Budget {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            left: limits::HOST_REPLIES_PER_SECOND,
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.since.is_older_than(REPLY_PERIOD, now) {
            *self = Self::new(now);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}
