//! Heard: what an ICMP error says about a packet of ours.
//!
//! In: an error's message. Out: what it is about, as far as it quotes that: our address and port, the other's. Never: a state
//! changed by it: that such a packet was sent is for those to know who send.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use culvert_wire::{Checksum, Ipv4View, Ipv6View, UdpView, parse::PROTOCOL_ICMP};

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_FRAGMENT: u8 = 44;
const V6_HEADER: usize = 40;
const HEADER: usize = 8;

/// An error about a datagram that says to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who says so: anyone can.
    pub from: IpAddr,
    /// What is wrong.
    pub problem: Problem,
    /// With which datagram.
    pub about: Quoted,
}

/// What an error quotes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Our address and port.
    pub local: SocketAddr,
    /// Where it went.
    pub remote: SocketAddr,
    /// The first eight bytes that it carried, if that many are quoted: whose eyes they were not for can't know them.
    pub start: Option<[u8; 8]>,
}

/// What is wrong, as far as it matters to who sends (RFC 1122, section 3.2.2; RFC 4443, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No way to the destination.
    Unreachable,
    /// Nobody there listens.
    PortUnreachable,
    /// It may not pass.
    Prohibited,
    /// It is too long for a link on its way, which takes packets of `mtu` bytes; 0 if that is not said.
    TooBig {
        /// The link's.
        mtu: u32,
    },
    /// Its hop limit ran out, or its fragments did not come together.
    TimeExceeded,
    /// Its headers could not be gone by.
    Parameter,
}

impl Problem {
    /// In a word, as operators see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::PortUnreachable => "port-unreachable",
            Self::Prohibited => "prohibited",
            Self::TooBig { .. } => "too-big",
            Self::TimeExceeded => "time-exceeded",
            Self::Parameter => "parameter-problem",
        }
    }

    /// The longest packet that passes, if it is about that.
    #[must_use]
    pub const fn mtu(self) -> Option<u32> {
        match self {
            Self::TooBig { mtu } => Some(mtu),
            Self::Unreachable
            | Self::PortUnreachable
            | Self::Prohibited
            | Self::TimeExceeded
            | Self::Parameter => None,
        }
    }
}

/// What a whole IPv4 packet says that a kernel has handed on; `None` if it is no error about a datagram.
#[must_use]
pub fn hear_v4(packet: &[u8]) -> Option<Heard> {
    let ip = Ipv4View::new(packet)?;
    let message = packet.get(ip.header_len()..)?;
    let is_whole = ip.version() == 4 && ip.header_len() >= 20 && Checksum::of(message).is_valid();
    let heard = read_v4(ip.source().into(), message);
    heard.filter(|_| is_whole && ip.protocol() == PROTOCOL_ICMP)
}

/// The same of an ICMPv6 message, whose sum the kernel has looked at.
#[must_use]
pub fn hear_v6(from: Ipv6Addr, message: &[u8]) -> Option<Heard> {
    read_v6(from.into(), message)
}

/// Whether a type of ICMP is an error's.
pub(crate) const fn is_error_v4(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// The same over IPv6.
pub(crate) const fn is_error_v6(kind: u8) -> bool {
    matches!(kind, 1..=4)
}

/// What a whole ICMP message says, whose sum was looked at; `None` if it is none that says something, or quotes too little.
pub(crate) fn read_v4(from: IpAddr, message: &[u8]) -> Option<Heard> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let problem = match (header[0], header[1]) {
        (3, 3) => Problem::PortUnreachable,
        (3, 4) => Problem::TooBig {
            mtu: u16::from_be_bytes([header[6], header[7]]).into(),
        },
        (3, 9 | 10 | 13) => Problem::Prohibited,
        (3, _) => Problem::Unreachable,
        (11, _) => Problem::TimeExceeded,
        (12, _) => Problem::Parameter,
        _ => return None,
    };
    let ip = Ipv4View::new(quote)?;
    let is_first = ip.fragment_bits() & 0x1fff == 0;
    if ip.version() != 4 || ip.header_len() < 20 || ip.protocol() != PROTOCOL_UDP || !is_first {
        return None;
    }
    let about = quoted(
        (ip.source().into(), ip.destination().into()),
        quote.get(ip.header_len()..)?,
    )?;
    Some(Heard {
        from,
        problem,
        about,
    })
}

/// The same over IPv6.
pub(crate) fn read_v6(from: IpAddr, message: &[u8]) -> Option<Heard> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let problem = match (header[0], header[1]) {
        (1, 4) => Problem::PortUnreachable,
        (1, 1 | 5 | 6) => Problem::Prohibited,
        (1, _) => Problem::Unreachable,
        (2, _) => Problem::TooBig {
            mtu: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        },
        (3, _) => Problem::TimeExceeded,
        (4, _) => Problem::Parameter,
        _ => return None,
    };
    let ip = Ipv6View::new(quote)?;
    let behind = quote.get(V6_HEADER..)?;
    let (protocol, behind) = match (ip.next_header(), behind.split_first_chunk::<8>()) {
        // What we send has no other header ahead.
        (PROTOCOL_FRAGMENT, Some((fragment, behind))) if fragment[2] == 0 && fragment[3] < 8 => {
            (fragment[0], behind)
        }
        (protocol, _) => (protocol, behind),
    };
    if ip.version() != 6 || protocol != PROTOCOL_UDP {
        return None;
    }
    let about = quoted((ip.source().into(), ip.destination().into()), behind)?;
    Some(Heard {
        from,
        problem,
        about,
    })
}

fn quoted((source, destination): (IpAddr, IpAddr), udp: &[u8]) -> Option<Quoted> {
    let header = UdpView::new(udp)?;
    Some(Quoted {
        local: SocketAddr::new(source, header.source_port()),
        remote: SocketAddr::new(destination, header.destination_port()),
        start: udp.get(HEADER..).and_then(<[u8]>::first_chunk).copied(),
    })
}
