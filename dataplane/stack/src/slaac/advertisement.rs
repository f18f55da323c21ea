//! Router advertisements, as a host reads them (RFC 4861, section 6.1.2; RFC 4191; RFC 8106).
//!
//! In: an ICMPv6 packet. Out: what it says, in the order in which it says it, or nothing. Never: trust in what may have
//! been routed; a length that an option doesn't have.

use std::net::Ipv6Addr;

use culvert_wire::{
    Checksum,
    parse::{Headers, L3, L4, PROTOCOL_ICMPV6},
};

use crate::limits;

pub(crate) const ROUTER_ADVERTISEMENT: u8 = 134;
/// What can't have been routed (section 6.1.2).
const HOP_LIMIT: u8 = 255;
/// Where the options begin.
const OPTIONS: usize = 16;

const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_DNS: u8 = 25;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// How much a router is to be preferred to others (RFC 4191, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Preference {
    Low,
    Medium,
    High,
}

/// What a router says. Times are in seconds.
#[derive(Clone, Debug)]
pub(super) struct Advertisement {
    pub(super) router: Ipv6Addr,
    /// For how long it is a router for everything; 0: it is none.
    pub(super) lifetime: u16,
    pub(super) preference: Preference,
    pub(super) mtu: Option<u32>,
    pub(super) prefixes: Vec<Prefix>,
    pub(super) dns: Vec<(Ipv6Addr, u32)>,
}

impl Advertisement {
    /// Whether anything of it lasts.
    pub(super) fn says_anything(&self) -> bool {
        let prefixes = self.prefixes.iter().map(|prefix| prefix.valid);
        let lasts = prefixes.chain(self.dns.iter().map(|&(_, seconds)| seconds));
        self.lifetime > 0 || lasts.into_iter().any(|seconds| seconds > 0)
    }
}

/// What it says of a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    pub(super) address: Ipv6Addr,
    pub(super) len: u8,
    pub(super) on_link: bool,
    pub(super) autonomous: bool,
    pub(super) valid: u32,
    pub(super) preferred: u32,
}

/// Reads an advertisement; `frame` is what `headers` were parsed from.
pub(super) fn read(headers: &Headers, frame: &[u8]) -> Option<Advertisement> {
    let (L3::V6(ip), L4::Icmp6(icmp)) = (headers.l3, headers.l4) else {
        return None;
    };
    let message = frame.get(headers.l4_offset..headers.l3_offset + headers.ip_len)?;
    let is_near = ip.hop_limit == HOP_LIMIT && ip.source.is_unicast_link_local();
    let is_it = icmp.kind == ROUTER_ADVERTISEMENT && icmp.code == 0;
    let len = u32::try_from(message.len()).ok()?;
    let mut sum = Checksum::pseudo_v6(ip.source, ip.destination, PROTOCOL_ICMPV6, len);
    sum.add(message);
    if !is_near || !is_it || !sum.is_valid() {
        return None;
    }
    let (fixed, options) = message.split_at_checked(OPTIONS)?;
    let mut advertisement = Advertisement {
        router: ip.source,
        lifetime: u16::from_be_bytes([fixed[6], fixed[7]]),
        preference: preference(fixed[5]),
        mtu: None,
        prefixes: Vec::new(),
        dns: Vec::new(),
    };
    advertisement.options(options)?;
    Some(advertisement)
}

const fn preference(flags: u8) -> Preference {
    match flags >> 3 & 3 {
        1 => Preference::High,
        3 => Preference::Low,
        _ => Preference::Medium,
    }
}

impl Advertisement {
    /// `None`: an option has no length, or goes beyond the end.
    fn options(&mut self, mut rest: &[u8]) -> Option<()> {
        while !rest.is_empty() {
            let len = usize::from(*rest.get(1)?) * 8;
            let (option, behind) = rest.split_at_checked(len)?;
            let (&kind, body) = (option.first()?, option.get(2..)?);
            match kind {
                OPTION_PREFIX if self.prefixes.len() < limits::RA_PREFIXES => {
                    self.prefixes.extend(prefix(body));
                }
                OPTION_MTU => self.mtu = word(body, 2),
                OPTION_DNS => self.servers(body),
                _ => {}
            }
            rest = behind;
        }
        Some(())
    }

    fn servers(&mut self, body: &[u8]) {
        let Some(lifetime) = word(body, 2) else {
            return;
        };
        let room = limits::LEARNED_DNS.saturating_sub(self.dns.len());
        let servers = body.get(6..).unwrap_or_default().as_chunks::<16>().0;
        let servers = servers.iter().take(room);
        self.dns
            .extend(servers.map(|&octets| (octets.into(), lifetime)));
    }
}

fn prefix(body: &[u8]) -> Option<Prefix> {
    let (&[len, flags], _) = body.split_first_chunk()?;
    let address = Ipv6Addr::from(*body.get(14..)?.first_chunk::<16>()?);
    let mask = u128::MAX
        .checked_shl(128 - u32::from(len.min(128)))
        .unwrap_or(0);
    (len <= 128).then_some(Prefix {
        address: Ipv6Addr::from_bits(address.to_bits() & mask),
        len,
        on_link: flags & ON_LINK != 0,
        autonomous: flags & AUTONOMOUS != 0,
        valid: word(body, 2)?,
        preferred: word(body, 6)?,
    })
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*body.get(at..)?.first_chunk()?))
}
