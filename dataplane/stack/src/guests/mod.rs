//! Guests: what a gateway tells the guests of its network about themselves.
//!
//! In: what a port has ([`Provision`]), a frame of its guest's: a DHCP or DHCPv6 message, or a router solicitation. Out: a
//! frame for that guest, or the name of why there is none. Never: a lease, or anything else that is kept; a question of
//! who asks: the port is who, and not a hardware address in a message, a client identifier or option 82.
//!
//! DHCP's messages are read and written by `dhcproto`; of what a guest sends it sees the options alone that are looked at
//! here, each of them whole (one that it can't read would hide those behind it). Router advertisements are written here.

mod dhcp4;
mod dhcp6;
pub(crate) mod frame;
mod router;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_wire::{
    MacAddr, dhcp,
    parse::{Headers, L3, L4, parse_frame},
};

/// What the guest of a port is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provision {
    /// The gateway's hardware address.
    pub gateway_mac: MacAddr,
    /// The longest IP packet that the network takes.
    pub mtu: u16,
    /// What it has by DHCP and DHCPv6; `None` if neither is served.
    pub dhcp: Option<Dhcp>,
    /// What routers are advertised with; `None` if they are not.
    pub router: Option<Router>,
    /// Servers of names.
    pub dns: Vec<IpAddr>,
    /// The domain that names are looked for in.
    pub domain: Option<String>,
}

/// The addresses of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// Its IPv4 addresses; the first is offered to who asks for none.
    pub v4: Vec<Lease4>,
    /// Prefixes that other guests of the network lead to, and those guests.
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Its IPv6 addresses.
    pub v6: Vec<Ipv6Addr>,
    /// For how many seconds they are lent.
    pub lease: u32,
}

/// An IPv4 address with its surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease4 {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix that it lies in.
    pub prefix_len: u8,
    /// The gateway's address there.
    pub gateway: Ipv4Addr,
}

/// What a router advertisement says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Router {
    /// The network's prefixes.
    pub prefixes: Vec<(Ipv6Addr, u8)>,
    /// Guests make addresses of those prefixes themselves (SLAAC); else DHCPv6 has them.
    pub autonomous: bool,
}

/// Why a guest's message has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unanswered {
    /// It can't be read.
    Malformed,
    /// It is nothing that is served here: of a relay, for another server, of a kind that guests don't send.
    NotServed,
}

/// What comes of a guest's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// A frame for the guest.
    Answer(Vec<u8>),
    /// It expects none.
    Silence,
    /// The guest has found that another has its address, and takes it no more; a frame for it, if it expects one.
    Declined(Option<Vec<u8>>),
}

/// Answers the guest's `frame`.
///
/// # Errors
/// Why there is no answer to what expects one.
pub fn serve(provision: &Provision, frame: &[u8]) -> Result<Served, Unanswered> {
    let len = u32::try_from(frame.len()).map_err(|_| Unanswered::Malformed)?;
    let headers = parse_frame(frame, len).map_err(|_| Unanswered::Malformed)?;
    let asked = match (&headers.l3, &headers.l4) {
        (L3::V4(_), L4::Udp(udp)) if udp.destination_port == dhcp::SERVER_V4 => dhcp4::answer,
        (L3::V6(_), L4::Udp(udp)) if udp.destination_port == dhcp::SERVER_V6 => dhcp6::answer,
        (L3::V6(_), L4::Icmp6(_)) => router::answer,
        _ => return Err(Unanswered::NotServed),
    };
    asked(provision, &headers, frame)
}

/// What a router says without being asked; `None` if none is advertised.
#[must_use]
pub fn advertise(provision: &Provision) -> Option<Vec<u8>> {
    router::unsolicited(provision)
}

/// What a UDP packet carries. Its checksum is not looked at: a guest may leave it to whoever sends the packet on, and no
/// wire lies between.
fn datagram<'f>(headers: &Headers, frame: &'f [u8]) -> Result<&'f [u8], Unanswered> {
    let L4::Udp(udp) = headers.l4 else {
        return Err(Unanswered::Malformed);
    };
    let end = headers.l4_offset + usize::from(udp.length);
    frame
        .get(headers.payload_offset..end)
        .ok_or(Unanswered::Malformed)
}

impl Provision {
    /// The servers of names of one family.
    fn dns_v4(&self) -> Vec<Ipv4Addr> {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        self.dns.iter().filter_map(v4).collect()
    }

    fn dns_v6(&self) -> Vec<Ipv6Addr> {
        let v6 = |address: &IpAddr| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        };
        self.dns.iter().filter_map(v6).collect()
    }

    /// The domain as DNS writes it (RFC 1035, section 3.1); without one, nothing.
    fn domain_labels(&self) -> Vec<u8> {
        let Some(domain) = &self.domain else {
            return Vec::new();
        };
        let mut labels = Vec::with_capacity(domain.len() + 2);
        for label in domain.split('.').filter(|label| !label.is_empty()) {
            labels.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            labels.extend_from_slice(label.as_bytes());
        }
        labels.push(0);
        labels
    }
}
