//! DHCP for IPv4 (RFC 2131).
//!
//! In: a message of the guest's. Out: an offer, an acknowledgment, a refusal. Never: an answer to a relay elsewhere (one on
//! the guest itself is told what the guest is); two addresses for the option of one router, which Windows refuses.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "of messages and options there are a hundred kinds, of which few are a guest's"
)]

use std::net::Ipv4Addr;

use culvert_wire::{
    dhcp,
    parse::{Headers, L3},
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption},
};

use super::{Dhcp, Lease4, Provision, Served, Unanswered, datagram, frame};
use crate::limits;

/// Where the options begin: behind the fields of BOOTP and the cookie.
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const PAD: u8 = 0;
const END: u8 = 255;
/// Microsoft's number for what RFC 3442 has under 121.
const MICROSOFT_ROUTES: u8 = 249;
/// The options that are looked at: requested address, message type, server identifier, what is asked for, the longest
/// message, client identifier.
const LOOKED_AT: [u8; 6] = [50, 53, 54, 55, 57, 61];
/// The longest client identifier that is sent back (RFC 6842).
const CLIENT_IDENTIFIER: usize = 255;
/// The shortest message: BOOTP's, which some clients insist on (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// What every client takes, IP and UDP headers included (RFC 2131, section 2).
const EVERYONE_TAKES: u16 = 576;
const IP_AND_UDP: usize = 28;
/// What is left out of a message that is too long, in this order.
const DISPENSABLE: [OptionCode; 4] = [
    OptionCode::DomainSearch,
    OptionCode::Unknown(MICROSOFT_ROUTES),
    OptionCode::ClasslessStaticRoute,
    OptionCode::DomainName,
];

pub(super) fn answer(
    provision: &Provision,
    headers: &Headers,
    whole: &[u8],
) -> Result<Served, Unanswered> {
    let request = Request::read(datagram(headers, whole)?)?;
    let L3::V4(ip) = &headers.l3 else {
        return Err(Unanswered::Malformed);
    };
    let dhcp = provision.dhcp.as_ref().ok_or(Unanswered::NotServed)?;
    let first = dhcp.v4.first().ok_or(Unanswered::NotServed)?;
    let lease = |address| dhcp.v4.iter().find(|lease| lease.address == address);
    let relay = request.message.giaddr();
    if !relay.is_unspecified() && lease(relay).is_none() {
        return Err(Unanswered::NotServed);
    }
    let (kind, lease) = match request.kind {
        MessageType::Discover => {
            let wanted = request.requested().and_then(lease);
            (MessageType::Offer, wanted.unwrap_or(first))
        }
        MessageType::Request => {
            if request.is_for_another(dhcp) {
                return Err(Unanswered::NotServed);
            }
            match request.claimed().and_then(lease) {
                Some(lease) => (MessageType::Ack, lease),
                None => (MessageType::Nak, first),
            }
        }
        // It has an address, and asks for the rest.
        MessageType::Inform => {
            let own = lease(request.message.ciaddr());
            (MessageType::Ack, own.unwrap_or(first))
        }
        MessageType::Decline => return Ok(Served::Declined(None)),
        MessageType::Release => return Ok(Served::Silence),
        _ => return Err(Unanswered::NotServed),
    };
    let reply = request.reply(kind, provision, dhcp, lease);
    let payload = request.encode(reply).ok_or(Unanswered::Malformed)?;
    let macs = (provision.gateway_mac, headers.ether.source);
    let (to, port) = match relay.is_unspecified() {
        true => (request.destination(kind, ip.source, lease), dhcp::CLIENT_V4),
        false => (relay, dhcp::SERVER_V4),
    };
    let (ends, ports) = ((lease.gateway, to), (dhcp::SERVER_V4, port));
    Ok(Served::Answer(frame::udp4(macs, ends, ports, &payload)))
}

/// What a guest asks.
struct Request {
    message: Message,
    kind: MessageType,
}

impl Request {
    fn read(bytes: &[u8]) -> Result<Self, Unanswered> {
        let bytes = options_looked_at(bytes).ok_or(Unanswered::Malformed)?;
        let message = Message::from_bytes(&bytes).map_err(|_| Unanswered::Malformed)?;
        // `Message::chaddr` takes the length as it comes.
        if message.opcode() != Opcode::BootRequest || message.hlen() > 16 {
            return Err(Unanswered::Malformed);
        }
        let kind = message.opts().msg_type().ok_or(Unanswered::NotServed)?;
        Ok(Self { message, kind })
    }

    fn requested(&self) -> Option<Ipv4Addr> {
        match self.message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        }
    }

    fn server(&self) -> Option<Ipv4Addr> {
        match self.message.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
            _ => None,
        }
    }

    /// Whether it takes the offer of a server that is none of the gateways.
    fn is_for_another(&self, dhcp: &Dhcp) -> bool {
        let is_ours = |server| dhcp.v4.iter().any(|lease| lease.gateway == server);
        self.server().is_some_and(|server| !is_ours(server))
    }

    /// The address that it wants to have, or to keep (RFC 2131, section 4.3.2): asked for after an offer or a reboot, its
    /// own where it renews or rebinds.
    fn claimed(&self) -> Option<Ipv4Addr> {
        let own = Some(self.message.ciaddr()).filter(|own| !own.is_unspecified());
        self.requested().or(own)
    }

    /// Whether the guest asked for an option. Who has no list gets all. A number that has a name equals the number, by
    /// `cmp` alone.
    fn wants(&self, code: OptionCode) -> bool {
        match self.message.opts().get(OptionCode::ParameterRequestList) {
            Some(DhcpOption::ParameterRequestList(list)) => {
                list.iter().any(|asked| asked.cmp(&code).is_eq())
            }
            _ => true,
        }
    }

    fn reply(
        &self,
        kind: MessageType,
        provision: &Provision,
        dhcp: &Dhcp,
        lease: &Lease4,
    ) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let is_inform = self.kind == MessageType::Inform;
        let (ciaddr, yiaddr) = match (kind, is_inform) {
            (MessageType::Nak, _) => (none, none),
            (_, true) => (self.message.ciaddr(), none),
            (MessageType::Ack, false) => (self.message.ciaddr(), lease.address),
            _ => (none, lease.address),
        };
        let xid = self.message.xid();
        let chaddr = self.message.chaddr();
        let giaddr = self.message.giaddr();
        let mut reply = Message::new_with_id(xid, ciaddr, yiaddr, none, giaddr, chaddr);
        reply
            .set_opcode(Opcode::BootReply)
            .set_htype(self.message.htype())
            .set_flags(Flags::new(u16::from(self.message.flags()) & 0x8000));
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(lease.gateway));
        if let Some(DhcpOption::ClientIdentifier(own)) =
            self.message.opts().get(OptionCode::ClientIdentifier)
            && own.len() <= CLIENT_IDENTIFIER
        {
            options.insert(DhcpOption::ClientIdentifier(own.clone()));
        }
        if kind == MessageType::Nak {
            options.insert(DhcpOption::Message("not the address of this port".into()));
            return reply;
        }
        if !is_inform {
            options.insert(DhcpOption::AddressLeaseTime(dhcp.lease));
            options.insert(DhcpOption::Renewal(dhcp.lease / 2));
            options.insert(DhcpOption::Rebinding(dhcp.lease / 8 * 7));
        }
        for option in configuration(provision, dhcp, lease) {
            if self.wants(OptionCode::from(&option)) {
                options.insert(option);
            }
        }
        reply
    }

    /// The message's bytes: as long as BOOTP's at least, and no longer than the guest takes.
    fn encode(&self, mut reply: Message) -> Option<Vec<u8>> {
        let longest = match self.message.opts().get(OptionCode::MaxMessageSize) {
            Some(DhcpOption::MaxMessageSize(size)) => (*size).max(EVERYONE_TAKES),
            _ => EVERYONE_TAKES,
        };
        let longest = usize::from(longest) - IP_AND_UDP;
        let mut bytes = reply.to_vec().ok()?;
        for code in DISPENSABLE {
            if bytes.len() <= longest {
                break;
            }
            reply.opts_mut().remove(code);
            bytes = reply.to_vec().ok()?;
        }
        bytes.resize(bytes.len().max(SHORTEST), PAD);
        Some(bytes)
    }

    /// Whom the answer is addressed to (RFC 2131, section 4.1). A refusal is for everyone: who is refused has no address.
    fn destination(&self, kind: MessageType, source: Ipv4Addr, lease: &Lease4) -> Ipv4Addr {
        let own = self.message.ciaddr();
        match kind {
            MessageType::Nak => Ipv4Addr::BROADCAST,
            _ if !own.is_unspecified() => own,
            _ if self.message.flags().broadcast() => Ipv4Addr::BROADCAST,
            // An INFORM without its address in it.
            _ if self.kind == MessageType::Inform && !source.is_unspecified() => source,
            _ => lease.address,
        }
    }
}

/// A message with those of its options alone that are looked at.
fn options_looked_at(bytes: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut rest) = bytes.split_at_checked(OPTIONS)?;
    if fixed[OPTIONS - COOKIE.len()..] != COOKIE {
        return None;
    }
    let mut kept = fixed.to_vec();
    while let [code, behind @ ..] = rest {
        match *code {
            PAD => rest = behind,
            END => break,
            code => {
                let (&len, behind) = behind.split_first()?;
                let (value, behind) = behind.split_at_checked(len.into())?;
                if LOOKED_AT.contains(&code) {
                    kept.extend_from_slice(&[code, len]);
                    kept.extend_from_slice(value);
                }
                rest = behind;
            }
        }
    }
    kept.push(END);
    Some(kept)
}

/// What the guest of a port is told beside its address.
fn configuration(provision: &Provision, dhcp: &Dhcp, lease: &Lease4) -> Vec<DhcpOption> {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(lease.prefix_len))
        .unwrap_or(0);
    let routes = routes(dhcp, lease);
    let mut options = vec![
        DhcpOption::SubnetMask(Ipv4Addr::from_bits(mask)),
        DhcpOption::Router(vec![lease.gateway]),
        DhcpOption::InterfaceMtu(provision.mtu),
        unknown(OptionCode::ClasslessStaticRoute, routes.clone()),
        unknown(OptionCode::Unknown(MICROSOFT_ROUTES), routes),
    ];
    // The last two lengths have no address for everyone (RFC 3021).
    if lease.prefix_len < 31 {
        let everyone = lease.address.to_bits() | !mask;
        options.push(DhcpOption::BroadcastAddr(Ipv4Addr::from_bits(everyone)));
    }
    let dns = provision.dns_v4();
    if !dns.is_empty() {
        options.push(DhcpOption::DomainNameServer(dns));
    }
    if let Some(domain) = &provision.domain {
        options.push(DhcpOption::DomainName(domain.clone()));
        let labels = provision.domain_labels();
        options.push(unknown(OptionCode::DomainSearch, labels));
    }
    options
}

/// `dhcproto` cuts the length of what is longer than an option: callers keep to 255 bytes.
fn unknown(code: OptionCode, data: Vec<u8>) -> DhcpOption {
    debug_assert!(data.len() <= 255, "an option of one piece");
    DhcpOption::Unknown(UnknownOption::new(code, data))
}

/// Classless routes (RFC 3442), those over other guests and the default: who takes these takes no router from elsewhere.
fn routes(dhcp: &Dhcp, lease: &Lease4) -> Vec<u8> {
    let own = |via: &Ipv4Addr| dhcp.v4.iter().any(|lease| lease.address == *via);
    let others = dhcp.routes.iter().filter(|(_, _, via)| !own(via));
    let default = (Ipv4Addr::UNSPECIFIED, 0, lease.gateway);
    let is_default = |len: u8| len == 0;
    let others = others.filter(|&&(_, len, _)| !is_default(len));
    let others = others.take(limits::GUEST_ROUTES).copied();
    let mut bytes = Vec::new();
    for (to, len, via) in others.chain([default]) {
        let significant = usize::from(len.div_ceil(8)).min(4);
        bytes.push(len);
        bytes.extend_from_slice(&to.octets()[..significant]);
        bytes.extend_from_slice(&via.octets());
    }
    bytes
}
