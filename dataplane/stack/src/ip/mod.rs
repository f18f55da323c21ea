//! IP: whether a packet to us holds, and what it is a part of.
//!
//! In: frames whose headers were parsed. Out: what a packet carries, a fragment of one, or why it is refused; whole
//! packets out of fragments, fragments out of packets. Never: an address of ours, an answer; those are the stack's.
//!
//! What is told to whom that sent a packet is said with the refusal ([`Refused::tell`]); whether it may be told, and how
//! often, is `icmp`'s to know.

mod chain;
mod datagram;
mod fragment;
mod reassembly;
mod split;

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_wire::{
    icmp::IcmpError,
    parse::{Headers, Ipv4, Ipv6, L3},
};

pub use self::{
    fragment::Fragment,
    reassembly::{Expired, Reassembly},
    split::{Ids, split},
};
use crate::HostDrop;

/// What a packet is that may be gone by.
#[derive(Debug)]
pub enum Packet<'f> {
    /// A whole one.
    Whole {
        /// The protocol that it carries.
        protocol: u8,
        /// Where in the packet that is named.
        named_at: u32,
    },
    /// A part of one.
    Part(Fragment<'f>),
}

/// Why a packet is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The name.
    pub reason: HostDrop,
    /// What its sender may be told.
    pub tell: Option<IcmpError>,
}

impl Refused {
    const fn silently(reason: HostDrop) -> Self {
        Self { reason, tell: None }
    }

    const fn parameter(reason: HostDrop, code: u8, pointer: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "within a packet")]
        let pointer = pointer as u32;
        let tell = Some(IcmpError::ParameterProblem { code, pointer });
        Self { reason, tell }
    }
}

/// What the packet of a frame is, `headers` having been parsed of it; `None` if it is none.
///
/// # Errors
/// Why it may not be gone by: a sum, a source, an option, a chain of headers, a fragment that contradicts itself.
pub fn packet<'f>(headers: &Headers, frame: &'f [u8]) -> Result<Option<Packet<'f>>, Refused> {
    let end = headers.l3_offset + headers.ip_len;
    let malformed = Refused::silently(HostDrop::Malformed);
    let (Some(upto), Some(ip)) = (frame.get(..end), frame.get(headers.l3_offset..end)) else {
        return Err(malformed);
    };
    match &headers.l3 {
        L3::V4(header) => packet_v4(headers, header, upto, ip).map(Some),
        L3::V6(header) => packet_v6(headers, header, upto, ip).map(Some),
        L3::Arp | L3::Other => Ok(None),
    }
}

fn packet_v4<'f>(
    headers: &Headers,
    header: &Ipv4,
    frame: &'f [u8],
    ip: &[u8],
) -> Result<Packet<'f>, Refused> {
    /// The protocol's place in the header (RFC 791, section 3.1).
    const PROTOCOL_AT: u32 = 9;
    if !header.checksum_ok {
        return Err(Refused::silently(HostDrop::Malformed));
    }
    if !may_send_v4(header.source) {
        return Err(Refused::silently(HostDrop::SourceInvalid));
    }
    chain::options_v4(&ip[..usize::from(header.header_len)])?;
    match Fragment::v4(headers, header, frame)? {
        Some(fragment) => Ok(Packet::Part(fragment)),
        None => Ok(Packet::Whole {
            protocol: header.protocol,
            named_at: PROTOCOL_AT,
        }),
    }
}

fn packet_v6<'f>(
    headers: &Headers,
    header: &Ipv6,
    frame: &'f [u8],
    ip: &[u8],
) -> Result<Packet<'f>, Refused> {
    if !may_send_v6(header.source) {
        return Err(Refused::silently(HostDrop::SourceInvalid));
    }
    match chain::walk(ip)? {
        chain::End::Upper { protocol, link } => {
            #[expect(clippy::cast_possible_truncation, reason = "within a packet")]
            let named_at = link as u32;
            Ok(Packet::Whole { protocol, named_at })
        }
        chain::End::Fragment { offset, link } => {
            if header.source.is_unspecified() {
                return Err(Refused::silently(HostDrop::SourceInvalid));
            }
            Fragment::v6(headers, header, frame, (offset, link)).map(Packet::Part)
        }
    }
}

/// Whether a packet may come from there (RFC 1122, section 3.2.1.3).
fn may_send_v4(source: Ipv4Addr) -> bool {
    let [first, ..] = source.octets();
    first != 0 && first != 127 && first < 224
}

/// Whether a packet may come from there (RFC 4291, sections 2.5.3, 2.7). Without an address hosts ask for neighbors.
const fn may_send_v6(source: Ipv6Addr) -> bool {
    !source.is_multicast() && !source.is_loopback() && source.to_ipv4_mapped().is_none()
}
