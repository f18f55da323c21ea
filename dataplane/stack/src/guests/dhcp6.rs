//! DHCP for IPv6 (RFC 8415).
//!
//! In: a message of the guest's. Out: an advertisement or a reply. Never: prefixes or temporary addresses; an answer to
//! a relay.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "of messages and options there are a hundred kinds, of which few are a guest's"
)]

use std::net::Ipv6Addr;

use culvert_wire::{
    dhcp,
    parse::{Headers, L3},
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v6::{
        DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IATA, Message, MessageType, OptionCode,
        Status, StatusCode, UnknownOption,
    },
};

use super::{Dhcp, Provision, Served, Unanswered, datagram, frame};
use crate::{limits, link_local};

/// Where the options begin.
const OPTIONS: usize = 4;
/// The options that are looked at: client and server identifier, the three kinds of associations, rapid commit.
const LOOKED_AT: [u16; 6] = [1, 2, 3, 4, 14, 25];
/// The longest DUID (section 11.1).
const DUID: usize = 130;
/// A guest takes the first offer of who prefers itself that much (section 18.2.1).
const PREFERENCE: u8 = 255;

pub(super) fn answer(
    provision: &Provision,
    headers: &Headers,
    whole: &[u8],
) -> Result<Served, Unanswered> {
    let L3::V6(ip) = &headers.l3 else {
        return Err(Unanswered::Malformed);
    };
    let dhcp = provision.dhcp.as_ref().ok_or(Unanswered::NotServed)?;
    let request = Request::read(datagram(headers, whole)?, server_id(provision))?;
    let Some(reply) = request.reply(provision, dhcp)? else {
        return Ok(Served::Silence);
    };
    let payload = reply.to_vec().map_err(|_| Unanswered::Malformed)?;
    let ours = provision.gateway_mac;
    let macs = (ours, headers.ether.source);
    let ports = (dhcp::SERVER_V6, dhcp::CLIENT_V6);
    let frame = frame::udp6(macs, (link_local(ours), ip.source), ports, &payload);
    Ok(match request.message.msg_type() {
        MessageType::Decline => Served::Declined(Some(frame)),
        _ => Served::Answer(frame),
    })
}

/// Our name: made of the gateway's hardware address (section 11.4).
fn server_id(provision: &Provision) -> Vec<u8> {
    let mut duid = vec![0, 3, 0, 1];
    duid.extend_from_slice(&provision.gateway_mac.0);
    duid
}

/// What a guest asks.
struct Request {
    message: Message,
    server_id: Vec<u8>,
}

impl Request {
    /// Reads a message that is for us (section 16).
    fn read(bytes: &[u8], server_id: Vec<u8>) -> Result<Self, Unanswered> {
        let bytes = options_looked_at(bytes).ok_or(Unanswered::Malformed)?;
        let message = Message::from_bytes(&bytes).map_err(|_| Unanswered::Malformed)?;
        let request = Self { message, server_id };
        let client = match request.message.opts().get(OptionCode::ClientId) {
            Some(DhcpOption::ClientId(duid)) => Some(duid.len()),
            _ => None,
        };
        let server = match request.message.opts().get(OptionCode::ServerId) {
            Some(DhcpOption::ServerId(duid)) => Some(*duid == request.server_id),
            _ => None,
        };
        let is_for_us = match request.message.msg_type() {
            MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
                server.is_none() && client.is_some()
            }
            MessageType::Request
            | MessageType::Renew
            | MessageType::Release
            | MessageType::Decline => server == Some(true) && client.is_some(),
            MessageType::InformationRequest => server != Some(false),
            _ => false,
        };
        match is_for_us && client.is_none_or(|len| len <= DUID) {
            true => Ok(request),
            false => Err(Unanswered::NotServed),
        }
    }

    /// The answer; `None` if there is to be none.
    fn reply(&self, provision: &Provision, dhcp: &Dhcp) -> Result<Option<Message>, Unanswered> {
        let kind = self.message.msg_type();
        let is_rapid = self.message.opts().get(OptionCode::RapidCommit).is_some();
        let answer = match kind {
            MessageType::Solicit if !is_rapid => MessageType::Advertise,
            _ => MessageType::Reply,
        };
        let mut reply = Message::new_with_id(answer, self.message.xid());
        let options = reply.opts_mut();
        options.insert(DhcpOption::ServerId(self.server_id.clone()));
        if let Some(own) = self.message.opts().get(OptionCode::ClientId) {
            options.insert(own.clone());
        }
        match kind {
            MessageType::Confirm => match self.confirms(dhcp) {
                Some(status) => options.insert(status_code(status)),
                None => return Ok(None),
            },
            MessageType::Release | MessageType::Decline => {
                options.insert(status_code(Status::Success));
                return Ok(Some(reply));
            }
            MessageType::InformationRequest => {}
            _ => {
                // Without an address there is nothing to take hold of: the guest looks elsewhere.
                if dhcp.v6.is_empty() {
                    return Err(Unanswered::NotServed);
                }
                self.associate(dhcp, options);
            }
        }
        if kind == MessageType::Solicit {
            options.insert(DhcpOption::Preference(PREFERENCE));
            if is_rapid {
                options.insert(DhcpOption::RapidCommit);
            }
        }
        let dns = provision.dns_v6();
        if !dns.is_empty() {
            options.insert(DhcpOption::DomainNameServers(dns));
        }
        let domain = provision.domain_labels();
        if !domain.is_empty() {
            let domain = UnknownOption::new(OptionCode::DomainSearchList, domain);
            options.insert(DhcpOption::Unknown(domain));
        }
        Ok(Some(reply))
    }

    /// Whether the addresses that a guest has are still the port's; `None` if it names none.
    fn confirms(&self, dhcp: &Dhcp) -> Option<Status> {
        let associations = self.message.opts().iter();
        let mut addresses = associations.flat_map(addresses).peekable();
        addresses.peek()?;
        Some(match addresses.all(|address| dhcp.v6.contains(&address)) {
            true => Status::Success,
            false => Status::NotOnLink,
        })
    }

    /// Associations: the first has the port's addresses, others none; what a guest has beside those ends now
    /// (section 18.3.4).
    fn associate(&self, dhcp: &Dhcp, options: &mut DhcpOptions) {
        let mut is_first = true;
        for option in self.message.opts().iter().take(limits::GUEST_ASSOCIATIONS) {
            match option {
                DhcpOption::IANA(asked) => {
                    let opts = match std::mem::take(&mut is_first) {
                        true => lent(dhcp, addresses(option)),
                        false => DhcpOptions::from_iter([status_code(Status::NoAddrsAvail)]),
                    };
                    options.insert(DhcpOption::IANA(IANA {
                        id: asked.id,
                        t1: dhcp.lease / 2,
                        t2: dhcp.lease / 5 * 4,
                        opts,
                    }));
                }
                DhcpOption::IATA(asked) => options.insert(DhcpOption::IATA(IATA {
                    id: asked.id,
                    opts: DhcpOptions::from_iter([status_code(Status::NoAddrsAvail)]),
                })),
                DhcpOption::IAPD(asked) => options.insert(DhcpOption::IAPD(IAPD {
                    id: asked.id,
                    t1: 0,
                    t2: 0,
                    opts: DhcpOptions::from_iter([status_code(Status::NoPrefixAvail)]),
                })),
                _ => {}
            }
        }
    }
}

/// The addresses that an association of the guest's names.
fn addresses(association: &DhcpOption) -> impl Iterator<Item = Ipv6Addr> {
    let opts = match association {
        DhcpOption::IANA(it) => Some(&it.opts),
        DhcpOption::IATA(it) => Some(&it.opts),
        _ => None,
    };
    let opts = opts.into_iter().flat_map(DhcpOptions::iter);
    opts.filter_map(|option| match option {
        DhcpOption::IAAddr(it) => Some(it.addr),
        _ => None,
    })
}

/// The port's addresses, and those that the guest has no more.
fn lent(dhcp: &Dhcp, asked: impl Iterator<Item = Ipv6Addr>) -> DhcpOptions {
    let own = dhcp.v6.iter().map(|&address| (address, dhcp.lease));
    let asked = asked.take(limits::GUEST_ASSOCIATIONS);
    let gone = asked.filter(|address| !dhcp.v6.contains(address));
    let all = own.chain(gone.map(|address| (address, 0)));
    all.map(|(addr, life)| {
        DhcpOption::IAAddr(IAAddr {
            addr,
            preferred_life: life,
            valid_life: life,
            opts: DhcpOptions::new(),
        })
    })
    .collect()
}

fn status_code(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode {
        status,
        msg: String::new(),
    })
}

/// A message with those of its options alone that are looked at.
fn options_looked_at(bytes: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut rest) = bytes.split_at_checked(OPTIONS)?;
    let mut kept = fixed.to_vec();
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let code = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, behind) = behind.split_at_checked(len)?;
        if LOOKED_AT.contains(&code) {
            kept.extend_from_slice(head);
            kept.extend_from_slice(value);
        }
        rest = behind;
    }
    Some(kept)
}
