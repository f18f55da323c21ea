//! Neighbor discovery for IPv6 (RFC 4861): solicitations and advertisements.
//!
//! In: an ICMPv6 packet, or the fields of a message of ours. Out: a message that passed
//! every check of sections 6.1 and 7.1, or a whole frame.
//! Never: a table, router advertisements, redirects.

use std::net::Ipv6Addr;

use crate::bytes::array;
use crate::ether::{self, EtherType, MacAddr};
use crate::icmp::checksum_v6;
use crate::ipv6::{self, Ipv6Fields};
use crate::parse::{Headers, L3, L4, PROTOCOL_ICMPV6};

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;

/// Bytes of the longest frame that this module writes.
pub const FRAME_LEN: usize = ether::HEADER_LEN + ipv6::HEADER_LEN + 24 + 8;

/// Why a packet is no valid neighbor discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NdError {
    /// Not ICMPv6, or ICMPv6 of another type.
    OtherType,
    /// The message is cut short, or longer than the bytes given.
    Truncated,
    /// The hop limit is not 255: it may come from afar.
    HopLimit,
    /// A code other than 0.
    Code,
    /// A wrong checksum.
    Checksum,
    /// An option of length 0 or past the end.
    Option,
    /// A target that is a group.
    Target,
    /// From the unspecified address, but not as duplicate detection sends it.
    Unspecified,
    /// An answer to a question that went to a group.
    SolicitedGroup,
}

/// A valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdMessage {
    /// Who has `target`?
    Solicitation {
        /// Asker's address; unspecified in duplicate address detection.
        source: Ipv6Addr,
        /// The address asked for.
        target: Ipv6Addr,
        /// Asker's hardware address.
        source_mac: Option<MacAddr>,
    },
    /// `target` is at `target_mac`.
    Advertisement {
        /// Sender's address.
        source: Ipv6Addr,
        /// The address advertised.
        target: Ipv6Addr,
        /// Its hardware address.
        target_mac: Option<MacAddr>,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what is known.
        replace: bool,
    },
    /// Which routers are there?
    RouterSolicitation {
        /// Asker's address.
        source: Ipv6Addr,
        /// Asker's hardware address.
        source_mac: Option<MacAddr>,
    },
}

/// The group that everyone with `address` listens to (RFC 4291, section 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | o[13] as u16,
        u16::from_be_bytes([o[14], o[15]]),
    )
}

/// All nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl NdMessage {
    /// Checks and reads a message; `frame` is the frame or packet that `headers` was
    /// parsed from, and must hold it whole.
    pub fn parse(headers: &Headers, frame: &[u8]) -> Result<Self, NdError> {
        let (L3::V6(ip), L4::Icmp6(icmp)) = (headers.l3, headers.l4) else {
            return Err(NdError::OtherType);
        };
        if !matches!(
            icmp.kind,
            ROUTER_SOLICITATION | NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT
        ) {
            return Err(NdError::OtherType);
        }
        let message = frame
            .get(headers.l4_offset..headers.l3_offset + headers.ip_len)
            .ok_or(NdError::Truncated)?;
        if ip.hop_limit != 255 {
            return Err(NdError::HopLimit);
        }
        if icmp.code != 0 {
            return Err(NdError::Code);
        }
        if checksum_v6(ip.source, ip.destination, message) != 0 {
            return Err(NdError::Checksum);
        }
        if icmp.kind == ROUTER_SOLICITATION {
            let options = message.get(8..).ok_or(NdError::Truncated)?;
            let source_mac = link_option(options, OPTION_SOURCE)?;
            if ip.source.is_unspecified() && source_mac.is_some() {
                return Err(NdError::Unspecified);
            }
            return Ok(Self::RouterSolicitation {
                source: ip.source,
                source_mac,
            });
        }
        let target = Ipv6Addr::from(*array::<16>(message, 8).ok_or(NdError::Truncated)?);
        let options = message.get(24..).ok_or(NdError::Truncated)?;
        if target.is_multicast() {
            return Err(NdError::Target);
        }
        if icmp.kind == NEIGHBOR_SOLICITATION {
            let source_mac = link_option(options, OPTION_SOURCE)?;
            if ip.source.is_unspecified()
                && (source_mac.is_some() || ip.destination != solicited_node(target))
            {
                return Err(NdError::Unspecified);
            }
            return Ok(Self::Solicitation {
                source: ip.source,
                target,
                source_mac,
            });
        }
        let solicited = icmp.rest & 0x4000_0000 != 0;
        if solicited && ip.destination.is_multicast() {
            return Err(NdError::SolicitedGroup);
        }
        Ok(Self::Advertisement {
            source: ip.source,
            target,
            target_mac: link_option(options, OPTION_TARGET)?,
            router: icmp.rest & 0x8000_0000 != 0,
            solicited,
            replace: icmp.rest & 0x2000_0000 != 0,
        })
    }
}

/// Whether every link-layer address in the options of a message that passed [`NdMessage::parse`] is `mac`: a receiver may
/// go by another than the first one.
pub fn names_only(mac: MacAddr, headers: &Headers, frame: &[u8]) -> bool {
    let asks_routers = matches!(headers.l4, L4::Icmp6(icmp) if icmp.kind == ROUTER_SOLICITATION);
    let options = if asks_routers { 8 } else { 24 };
    let end = headers.l3_offset + headers.ip_len;
    let mut options = frame
        .get(headers.l4_offset + options..end)
        .unwrap_or_default();
    while let Some(len) = options.get(1).map(|&units| usize::from(units) * 8)
        && let Some((option, rest)) = options.split_at_checked(len.max(8))
    {
        if matches!(option[0], OPTION_SOURCE | OPTION_TARGET) && option[2..] != mac.0 {
            return false;
        }
        options = rest;
    }
    true
}

/// Walks the options, all of which must be well-formed, for a hardware address.
fn link_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, NdError> {
    let mut found = None;
    while !options.is_empty() {
        let len = options.get(1).map_or(0, |&units| usize::from(units) * 8);
        if len == 0 {
            return Err(NdError::Option);
        }
        let (option, rest) = options.split_at_checked(len).ok_or(NdError::Option)?;
        if option[0] == wanted && len == 8 && found.is_none() {
            let o = option;
            found = Some(MacAddr([o[2], o[3], o[4], o[5], o[6], o[7]]));
        }
        options = rest;
    }
    // A group can't be a neighbor; as if the option were not there.
    Ok(found.filter(|mac: &MacAddr| mac.is_unicast()))
}

/// Where a message goes: its layer 2 and layer 3 ends.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Our hardware address.
    pub source_mac: MacAddr,
    /// Our address.
    pub source: Ipv6Addr,
    /// Their hardware address.
    pub destination_mac: MacAddr,
    /// Their address.
    pub destination: Ipv6Addr,
}

/// Writes the frame that asks everyone who may have it for `target`'s hardware address,
/// and returns its length; 0 if it doesn't fit.
pub fn write_solicitation(
    source_mac: MacAddr,
    source: Ipv6Addr,
    target: Ipv6Addr,
    out: &mut [u8],
) -> usize {
    let destination = solicited_node(target);
    let ends = Ends {
        source_mac,
        source,
        destination_mac: MacAddr::from_ipv6_multicast(destination),
        destination,
    };
    write_probe(&ends, target, out)
}

/// Writes a solicitation to one neighbor that is already known, to see whether it is
/// still there (RFC 4861, section 7.3), and returns its length; 0 if it doesn't fit.
pub fn write_probe(ends: &Ends, target: Ipv6Addr, out: &mut [u8]) -> usize {
    write(
        ends,
        NEIGHBOR_SOLICITATION,
        0,
        target,
        OPTION_SOURCE,
        ends.source_mac,
        out,
    )
}

/// Writes the frame that asks whether anyone has `target`, from nobody (RFC 4862, section 5.4.2), and returns its length;
/// 0 if it doesn't fit.
pub fn write_detection(source_mac: MacAddr, target: Ipv6Addr, out: &mut [u8]) -> usize {
    if write_solicitation(source_mac, Ipv6Addr::UNSPECIFIED, target, out) == 0 {
        return 0;
    }
    // Nobody has no link-layer address: no option.
    const LEN: u8 = 24;
    let message = ether::HEADER_LEN + ipv6::HEADER_LEN;
    let payload_len = ether::HEADER_LEN + 4;
    out[payload_len..payload_len + 2].copy_from_slice(&[0, LEN]);
    let message = &mut out[message..message + usize::from(LEN)];
    message[2..4].fill(0);
    let group = solicited_node(target);
    let sum = checksum_v6(Ipv6Addr::UNSPECIFIED, group, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    FRAME_LEN - 8
}

/// Writes the answer to a solicitation for `target`, which is at `target_mac`, and
/// returns its length; 0 if it doesn't fit.
///
/// `asker` and `asker_mac` come from the solicitation (the frame's source address, if it
/// has no option). An asker without an address is answered to all nodes.
pub fn write_advertisement(
    asker: Ipv6Addr,
    asker_mac: MacAddr,
    target: Ipv6Addr,
    target_mac: MacAddr,
    router: bool,
    out: &mut [u8],
) -> usize {
    if asker.is_unspecified() {
        return write_unsolicited(target, target_mac, router, out);
    }
    let ends = Ends {
        source_mac: target_mac,
        source: target,
        destination_mac: asker_mac,
        destination: asker,
    };
    let flags = 0x6000_0000 | if router { 0x8000_0000 } else { 0 };
    write(
        &ends,
        NEIGHBOR_ADVERTISEMENT,
        flags,
        target,
        OPTION_TARGET,
        target_mac,
        out,
    )
}

/// Writes the announcement to all nodes that `target` is at `target_mac` (RFC 4861,
/// section 7.2.6), and returns its length; 0 if it doesn't fit.
pub fn write_unsolicited(
    target: Ipv6Addr,
    target_mac: MacAddr,
    router: bool,
    out: &mut [u8],
) -> usize {
    let ends = Ends {
        source_mac: target_mac,
        source: target,
        destination_mac: MacAddr::from_ipv6_multicast(ALL_NODES),
        destination: ALL_NODES,
    };
    let flags = 0x2000_0000 | if router { 0x8000_0000 } else { 0 };
    write(
        &ends,
        NEIGHBOR_ADVERTISEMENT,
        flags,
        target,
        OPTION_TARGET,
        target_mac,
        out,
    )
}

fn write(
    ends: &Ends,
    kind: u8,
    flags: u32,
    target: Ipv6Addr,
    option: u8,
    mac: MacAddr,
    out: &mut [u8],
) -> usize {
    let Some(out) = out.first_chunk_mut::<FRAME_LEN>() else {
        return 0;
    };
    let (ethernet, packet) = out.split_at_mut(ether::HEADER_LEN);
    let (header, message) = packet.split_at_mut(ipv6::HEADER_LEN);
    ethernet.copy_from_slice(&ether::header(
        ends.destination_mac,
        ends.source_mac,
        EtherType::IPV6,
    ));
    header.copy_from_slice(&ipv6::header(&Ipv6Fields {
        source: ends.source,
        destination: ends.destination,
        traffic_class: 0,
        hop_limit: 255,
        next_header: PROTOCOL_ICMPV6,
        payload_len: 32,
    }));
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message[4..8].copy_from_slice(&flags.to_be_bytes());
    message[8..24].copy_from_slice(&target.octets());
    message[24] = option;
    message[25] = 1;
    message[26..32].copy_from_slice(&mac.0);
    let checksum = checksum_v6(ends.source, ends.destination, message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    FRAME_LEN
}
