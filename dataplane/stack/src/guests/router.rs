//! Router advertisements (RFC 4861, section 4.2).
//!
//! In: a solicitation, or the wish to say it anyway. Out: an advertisement: M and O flags, MTU, prefixes, servers of
//! names and the domain (RFC 8106). Never: another guest's ears: each hears its own.

use std::net::Ipv6Addr;

use culvert_wire::{
    MacAddr,
    nd::{ALL_NODES, NdMessage},
    parse::Headers,
};

use super::{Provision, Router, Served, Unanswered, frame};
use crate::{limits, link_local};

const ROUTER_ADVERTISEMENT: u8 = 134;
/// The hop limit that guests start packets with.
const HOP_LIMIT: u8 = 64;
/// Flags: addresses by DHCPv6, the rest by DHCPv6.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
/// Flags of a prefix: on the link, for guests to make addresses of.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

const OPTION_SOURCE: u8 = 1;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_DNS: u8 = 25;
const OPTION_DOMAIN: u8 = 31;

/// Answers a router solicitation.
pub(super) fn answer(
    provision: &Provision,
    headers: &Headers,
    whole: &[u8],
) -> Result<Served, Unanswered> {
    let source = match NdMessage::parse(headers, whole) {
        Ok(NdMessage::RouterSolicitation { source, .. }) => source,
        Ok(NdMessage::Solicitation { .. } | NdMessage::Advertisement { .. }) => {
            return Err(Unanswered::NotServed);
        }
        Err(_) => return Err(Unanswered::Malformed),
    };
    let router = provision.router.as_ref().ok_or(Unanswered::NotServed)?;
    let asker = match source.is_unspecified() {
        true => ALL_NODES,
        false => source,
    };
    let guest = headers.ether.source;
    Ok(Served::Answer(write(provision, router, guest, asker)))
}

/// What is said without a question, to all who hear it: the guest.
pub(super) fn unsolicited(provision: &Provision) -> Option<Vec<u8>> {
    let router = provision.router.as_ref()?;
    Some(write(provision, router, MacAddr::BROADCAST, ALL_NODES))
}

fn write(provision: &Provision, router: &Router, guest: MacAddr, to: Ipv6Addr) -> Vec<u8> {
    let ours = provision.gateway_mac;
    let message = message(provision, router);
    frame::icmp6((ours, guest), (link_local(ours), to), message)
}

fn message(provision: &Provision, router: &Router) -> Vec<u8> {
    let flags = match (router.autonomous, &provision.dhcp) {
        (_, None) => 0,
        (true, Some(_)) => OTHER,
        (false, Some(_)) => MANAGED | OTHER,
    };
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, flags];
    message.extend_from_slice(&limits::ROUTER_LIFETIME.to_be_bytes());
    // How long neighbors are reachable, and how often they are asked: as guests see fit.
    message.extend_from_slice(&[0; 8]);
    let [a, b, c, d, e, f] = provision.gateway_mac.0;
    option(&mut message, OPTION_SOURCE, &[a, b, c, d, e, f]);
    let mut mtu = vec![0, 0];
    mtu.extend_from_slice(&u32::from(provision.mtu).to_be_bytes());
    option(&mut message, OPTION_MTU, &mtu);
    for &(prefix, len) in &router.prefixes {
        option(
            &mut message,
            OPTION_PREFIX,
            &self::prefix(prefix, len, router),
        );
    }
    let lifetime = u32::from(limits::ROUTER_LIFETIME).to_be_bytes();
    let dns = provision.dns_v6();
    if !dns.is_empty() {
        let mut body = [&[0, 0][..], &lifetime].concat();
        body.extend(dns.iter().flat_map(Ipv6Addr::octets));
        option(&mut message, OPTION_DNS, &body);
    }
    let domain = provision.domain_labels();
    if !domain.is_empty() {
        let body = [&[0, 0][..], &lifetime, &domain].concat();
        option(&mut message, OPTION_DOMAIN, &body);
    }
    message
}

/// A prefix without its option's first two bytes.
fn prefix(prefix: Ipv6Addr, len: u8, router: &Router) -> Vec<u8> {
    let flags = ON_LINK | if router.autonomous { AUTONOMOUS } else { 0 };
    let mut body = vec![len, flags];
    body.extend_from_slice(&limits::PREFIX_VALID.to_be_bytes());
    body.extend_from_slice(&limits::PREFIX_PREFERRED.to_be_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&prefix.octets());
    body
}

/// An option, filled up with zeros to whole units of eight bytes.
fn option(message: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let units = (body.len() + 2).div_ceil(8);
    message.push(kind);
    message.push(u8::try_from(units).unwrap_or(u8::MAX));
    message.extend_from_slice(body);
    message.resize(message.len() + units * 8 - 2 - body.len(), 0);
}
