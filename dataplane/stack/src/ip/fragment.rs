//! Fragment: a part of a packet, as its headers have it (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! In: a frame whose packet is a fragment. Out: what it belongs to, where, and its bytes; or why it can't be a part of
//! anything. Never: another fragment.
//!
//! ```text
//!   frame   | Ethernet | IPv4 header with options                | bytes |
//!   frame   | Ethernet | IPv6, hop-by-hop, routing … | Fragment | bytes |
//!           |<------------ head ----------------->|
//! ```

use std::net::IpAddr;

use culvert_wire::{
    ether,
    parse::{Headers, Ipv4, Ipv6},
};

use super::Refused;
use crate::{HostDrop, limits};

/// The longest packet: what an IPv4 header's length, or an IPv6 header's, can say.
pub(super) const PACKET_MAX: usize = 65_535;
pub(super) const V6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;

const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
const MORE_V6: u16 = 1;
const OFFSET_V6: u16 = 0xfff8;

/// Codes of parameter problems (RFC 4443, section 3.4; RFC 7112, section 5).
const FIELD: u8 = 0;
const HEADERS_NOT_WHOLE: u8 = 3;

/// What fragments of one packet have in common. A source's are neighbors in the order of keys, which are numbers: they are
/// compared more often than anything else here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// An IPv4 one is mapped, as none of IPv6's that comes this far is.
    source: u128,
    destination: u128,
    /// Over IPv6 it is not of the key, and 0.
    protocol: u8,
    id: u32,
}

impl Key {
    fn new((source, destination): (IpAddr, IpAddr), protocol: u8, id: u32) -> Self {
        Self {
            source: mapped(source),
            destination: mapped(destination),
            protocol,
            id,
        }
    }

    /// The least and the greatest of its source.
    pub(super) const fn of_source(self) -> [Self; 2] {
        let least = Self {
            destination: 0,
            protocol: 0,
            id: 0,
            ..self
        };
        let greatest = Self {
            destination: u128::MAX,
            protocol: u8::MAX,
            id: u32::MAX,
            ..self
        };
        [least, greatest]
    }

    pub(super) const fn is_v6(self) -> bool {
        self.source >> 32 != 0xffff
    }

    pub(super) const fn id(self) -> u32 {
        self.id
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A part of a packet. Its bytes are some, end within the longest packet, and on a multiple of eight if more follow.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'f> {
    pub(super) key: Key,
    pub(super) start: u32,
    pub(super) more: bool,
    /// What stands ahead of the bytes, Ethernet included, a fragment header not.
    pub(super) head: &'f [u8],
    /// Over IPv6: the place in `head` that names what follows it, and what that is behind the fragment header.
    pub(super) next: Option<(usize, u8)>,
    pub(super) ecn: u8,
    pub(super) bytes: &'f [u8],
}

impl<'f> Fragment<'f> {
    /// The fragment that an IPv4 packet is, if it is one. `frame` ends where the packet does.
    pub(super) fn v4(
        headers: &Headers,
        ip: &Ipv4,
        frame: &'f [u8],
    ) -> Result<Option<Self>, Refused> {
        let at = headers.l3_offset + 6;
        let bits = u16::from_be_bytes([frame[at], frame[at + 1]]);
        if bits & (MORE_V4 | OFFSET_V4) == 0 {
            return Ok(None);
        }
        let (head, bytes) = frame.split_at(headers.l3_offset + usize::from(ip.header_len));
        let fragment = Self {
            key: Key::new(
                (ip.source.into(), ip.destination.into()),
                ip.protocol,
                ip.id.into(),
            ),
            start: u32::from(bits & OFFSET_V4) * 8,
            more: bits & MORE_V4 != 0,
            head,
            next: None,
            ecn: ip.tos & 3,
            bytes,
        };
        fragment.check(headers).map(Some).map_err(|wrong| {
            // IPv4 hosts are not told of fragments.
            Refused::silently(wrong.reason())
        })
    }

    /// The fragment that an IPv6 packet is, whose fragment header lies at `offset` from the packet's start and is named
    /// at `link`. `frame` ends where the packet does.
    pub(super) fn v6(
        headers: &Headers,
        ip: &Ipv6,
        frame: &'f [u8],
        (offset, link): (usize, usize),
    ) -> Result<Self, Refused> {
        let (head, rest) = frame.split_at(headers.l3_offset + offset);
        let Some((header, bytes)) = rest.split_first_chunk::<FRAGMENT_HEADER>() else {
            return Err(Refused::silently(HostDrop::Malformed));
        };
        let bits = u16::from_be_bytes([header[2], header[3]]);
        let fragment = Self {
            key: Key::new(
                (ip.source.into(), ip.destination.into()),
                0,
                u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ),
            start: u32::from(bits & OFFSET_V6),
            more: bits & MORE_V6 != 0,
            head,
            next: Some((headers.l3_offset + link, header[0])),
            ecn: ip.traffic_class & 3,
            bytes,
        };
        fragment.check(headers).map_err(|wrong| match wrong {
            // A fragment that is too long is never the first, and of others nobody is told.
            Wrong::Empty | Wrong::Head | Wrong::TooLong => Refused::silently(wrong.reason()),
            Wrong::Odd => Refused::parameter(wrong.reason(), FIELD, 4),
            Wrong::Headers => Refused::parameter(wrong.reason(), HEADERS_NOT_WHOLE, 0),
        })
    }

    fn check(self, headers: &Headers) -> Result<Self, Wrong> {
        if self.bytes.is_empty() {
            return Err(Wrong::Empty);
        }
        if self.more && !self.bytes.len().is_multiple_of(8) {
            return Err(Wrong::Odd);
        }
        if self.end() as usize > self.room() {
            return Err(Wrong::TooLong);
        }
        if self.head.len() > limits::FRAGMENT_HEAD {
            return Err(Wrong::Head);
        }
        if self.start == 0 && !headers.complete {
            return Err(Wrong::Headers);
        }
        Ok(self)
    }

    /// Where it ends among the packet's bytes.
    pub(super) fn end(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "a packet's bytes")]
        let len = self.bytes.len() as u32;
        self.start + len
    }

    /// How many bytes may stand behind its head.
    fn room(&self) -> usize {
        room(self.head.len(), self.is_v6())
    }

    pub(super) const fn is_v6(&self) -> bool {
        self.next.is_some()
    }

    /// Whether it is all there is of its packet (RFC 6946): no other's business, whatever they have in common.
    pub(super) const fn is_atomic(&self) -> bool {
        self.start == 0 && !self.more
    }
}

/// How many bytes may stand behind so many of a head, Ethernet included.
pub(super) const fn room(head: usize, v6: bool) -> usize {
    let ip = head - ether::HEADER_LEN;
    // The length that an IPv6 header has is without itself.
    let counted = if v6 { ip - V6_HEADER } else { ip };
    PACKET_MAX - counted
}

/// What is wrong with a fragment.
#[derive(Clone, Copy)]
enum Wrong {
    /// No bytes.
    Empty,
    /// More follow, and don't begin on a multiple of eight.
    Odd,
    /// It ends beyond the longest packet.
    TooLong,
    /// More headers ahead of it than are taken.
    Head,
    /// It is the first, and headers go on in the next (RFC 7112; for IPv4 RFC 1858).
    Headers,
}

impl Wrong {
    const fn reason(self) -> HostDrop {
        match self {
            Self::Empty | Self::Odd | Self::TooLong | Self::Head => HostDrop::FragmentInvalid,
            Self::Headers => HostDrop::FragmentHeaders,
        }
    }
}
