//! DHCP's messages, as a client sends and reads them (RFC 2131, RFC 2132).
//!
//! In: bytes of whoever is on the link; what to ask. Out: what a server says, checked, or nothing; a message's bytes.
//! Never: more of a list than the limits say; a length that a message doesn't have.
//!
//! Messages are written by `dhcproto` and read here: an option that it can't read would hide those behind it, and of
//! options that come in pieces (RFC 3396) it makes several.

use std::net::Ipv4Addr;

use culvert_wire::MacAddr;
use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Message, MessageType, OptionCode},
};

use crate::{learned::Terms, limits};

/// Fields of a message, by where they begin (RFC 2131, section 2).
const XID: usize = 4;
const YIADDR: usize = 16;
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;

const PAD: u8 = 0;
const END: u8 = 255;
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const LEASE: u8 = 51;
const OVERLOAD: u8 = 52;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
const ROUTES: u8 = 121;
/// Kinds of messages.
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What is looked at.
const READ: [u8; 12] = [
    MASK, ROUTER, DNS, DOMAIN, MTU, LEASE, OVERLOAD, KIND, SERVER, RENEW, REBIND, ROUTES,
];
/// What is asked for.
const ASKED: [u8; 8] = [MASK, ROUTES, ROUTER, DNS, DOMAIN, MTU, RENEW, REBIND];

/// The shortest message that everyone takes (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// The longest that is taken, headers included: a frame of an ordinary link.
const LONGEST: u16 = 1_500;
/// No end (RFC 2131, section 3.3).
pub(super) const FOREVER: u32 = u32::MAX;
/// The least MTU that is believed: what every host takes whole (RFC 791, section 3.1). With the 68 bytes of RFC 2132,
/// section 5.1, whoever answers first would leave a tunnel eight.
const MTU_MIN: u16 = 576;
/// The longest name of a domain (RFC 1035).
const DOMAIN_MAX: usize = 253;

/// What a server says to us.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Offer(Grant),
    Ack(Grant),
    /// Its sender will have none of it.
    Nak(Ipv4Addr),
}

/// What is lent, and for how many seconds.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) terms: Terms,
    pub(super) lease: u32,
    pub(super) renew: Option<u32>,
    pub(super) rebind: Option<u32>,
}

/// Reads a message of the exchange `xid` for the host `mac`.
pub(super) fn read(bytes: &[u8], mac: MacAddr, xid: u32) -> Option<Reply> {
    let (fixed, options) = bytes.split_at_checked(OPTIONS)?;
    let is_ours = fixed[..3] == [BOOT_REPLY, ETHERNET, 6]
        && fixed[XID..XID + 4] == xid.to_be_bytes()
        && fixed[CHADDR..CHADDR + 6] == mac.0
        && fixed[COOKIE..] == MAGIC;
    if !is_ours {
        return None;
    }
    let mut read = Options::default();
    read.walk(options)?;
    let overload = read.of(OVERLOAD).first().copied().unwrap_or(0);
    if overload & 1 != 0 {
        read.walk(&fixed[FILE..COOKIE])?;
    }
    if overload & 2 != 0 {
        read.walk(&fixed[SNAME..FILE])?;
    }
    let server = address(read.of(SERVER)).filter(|&server| is_host(server))?;
    let own = address(&fixed[YIADDR..YIADDR + 4])?;
    match read.of(KIND) {
        [OFFER] => Some(Reply::Offer(grant(own, server, &read)?)),
        [ACK] => Some(Reply::Ack(grant(own, server, &read)?)),
        [NAK] => Some(Reply::Nak(server)),
        _ => None,
    }
}

/// The options that are looked at, each whole.
#[derive(Default)]
struct Options([Vec<u8>; READ.len()]);

impl Options {
    fn walk(&mut self, mut rest: &[u8]) -> Option<()> {
        while let [code, behind @ ..] = rest {
            rest = match *code {
                PAD => behind,
                END => break,
                code => {
                    let (&len, behind) = behind.split_first()?;
                    let (value, behind) = behind.split_at_checked(len.into())?;
                    if let Some(at) = READ.iter().position(|&read| read == code) {
                        self.0[at].extend_from_slice(value);
                    }
                    behind
                }
            };
        }
        Some(())
    }

    fn of(&self, code: u8) -> &[u8] {
        let at = READ.iter().position(|&read| read == code);
        at.map_or(&[], |at| &self.0[at])
    }

    fn seconds(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.of(code).try_into().ok()?))
    }
}

/// `None`: no host can have that, or not for a time that is worth it.
fn grant(own: Ipv4Addr, server: Ipv4Addr, options: &Options) -> Option<Grant> {
    let lease = options.seconds(LEASE)?;
    let prefix_len = match address(options.of(MASK)) {
        None => 32,
        Some(mask) => prefix_len(mask)?,
    };
    if !is_host(own) || names_all(own, prefix_len) || lease < limits::DHCP_LEASE_MIN {
        return None;
    }
    let mtu = options.of(MTU).try_into().ok().map(u16::from_be_bytes);
    let terms = Terms {
        address: own,
        prefix_len,
        server,
        routes: routes(own, options),
        mtu: mtu.filter(|&mtu| mtu >= MTU_MIN),
        dns: addresses(options.of(DNS))
            .take(limits::LEARNED_DNS)
            .collect(),
        domain: domain(options.of(DOMAIN)),
    };
    Some(Grant {
        terms,
        lease,
        renew: options.seconds(RENEW),
        rebind: options.seconds(REBIND),
    })
}

/// Classless routes, or without any the first router, for everything (RFC 3442).
fn routes(own: Ipv4Addr, options: &Options) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
    let mut rest = options.of(ROUTES);
    let mut routes = Vec::new();
    while let Some((route, behind)) = classless(rest) {
        let (_, _, via) = route;
        if via.is_unspecified() || is_host(via) && via != own {
            routes.push(route);
        }
        if routes.len() == limits::LEARNED_ROUTES {
            break;
        }
        rest = behind;
    }
    if options.of(ROUTES).is_empty() {
        let router = addresses(options.of(ROUTER)).find(|&via| is_host(via) && via != own);
        routes.extend(router.map(|via| (Ipv4Addr::UNSPECIFIED, 0, via)));
    }
    routes
}

type Classless<'b> = ((Ipv4Addr, u8, Ipv4Addr), &'b [u8]);

fn classless(bytes: &[u8]) -> Option<Classless<'_>> {
    let (&len, rest) = bytes.split_first()?;
    let (significant, rest) = rest.split_at_checked(usize::from(len.div_ceil(8)))?;
    let (via, rest) = rest.split_at_checked(4)?;
    let mut to = [0; 4];
    to.get_mut(..significant.len())?
        .copy_from_slice(significant);
    let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
    let to = Ipv4Addr::from_bits(u32::from_be_bytes(to) & mask);
    Some(((to, len, address(via)?), rest))
}

/// A name of letters, digits, dots and hyphens; whoever says anything else says nothing.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let is_name = !text.is_empty() && text.len() <= DOMAIN_MAX && text.chars().all(is_plain);
    is_name.then(|| text.to_owned())
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn addresses(bytes: &[u8]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let all = bytes.chunks_exact(4).filter_map(address);
    all.filter(|&address| is_host(address))
}

/// One host's address.
const fn is_host(address: Ipv4Addr) -> bool {
    matches!(address.octets()[0], 1..=126 | 128..=223)
}

fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let len = bits.leading_ones();
    let is_one_piece = bits.checked_shl(len).unwrap_or(0) == 0;
    u8::try_from(len)
        .ok()
        .filter(|&len| is_one_piece && len > 0)
}

/// The address of a prefix, or of all in it.
fn names_all(address: Ipv4Addr, len: u8) -> bool {
    let hosts = u32::MAX.checked_shr(len.into()).unwrap_or(0);
    let host = address.to_bits() & hosts;
    len <= 30 && (host == 0 || host == hosts)
}

/// What a client says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Says {
    pub(super) kind: MessageType,
    pub(super) xid: u32,
    /// For how many seconds it has been asking.
    pub(super) secs: u16,
    /// The address that it has.
    pub(super) own: Option<Ipv4Addr>,
    /// The one that it wants, or refuses.
    pub(super) wanted: Option<Ipv4Addr>,
    /// The server that it speaks to.
    pub(super) server: Option<Ipv4Addr>,
}

/// A message of the host `mac`.
pub(super) fn write(mac: MacAddr, says: Says) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let own = says.own.unwrap_or(none);
    let mut message = Message::new_with_id(says.xid, own, none, none, none, &mac.0);
    message.set_secs(says.secs);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(says.kind));
    let client = [&[ETHERNET][..], &mac.0].concat();
    options.insert(DhcpOption::ClientIdentifier(client));
    if let Some(wanted) = says.wanted {
        options.insert(DhcpOption::RequestedIpAddress(wanted));
    }
    if let Some(server) = says.server {
        options.insert(DhcpOption::ServerIdentifier(server));
    }
    if matches!(says.kind, MessageType::Discover | MessageType::Request) {
        options.insert(DhcpOption::MaxMessageSize(LONGEST));
        let asked = ASKED.into_iter().map(OptionCode::from).collect();
        options.insert(DhcpOption::ParameterRequestList(asked));
    }
    let mut bytes = message.to_vec().unwrap_or_default();
    bytes.resize(bytes.len().max(SHORTEST), PAD);
    bytes
}
