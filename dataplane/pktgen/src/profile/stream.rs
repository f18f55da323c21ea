//! One stream, checked.
//!
//! In: what `read` understood. Out: how its flows differ, how its packets are cut. Never: bytes.

use serde::Serialize;

use crate::mix::Mix;
use crate::range::Range;
use crate::rate::Rate;
use crate::size::{ETHERNET_BYTES, FrameLen};

/// Of which family its packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What is in its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Segments of established connections: data, with sequence numbers that go on.
    Tcp,
}

/// Who completes checksums of layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksums {
    /// We do.
    Full,
    /// Whoever is handed the frame: its virtio-net header says so. Super-frames are always so.
    Partial,
}

/// How much of the traffic it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// So many parts of the profile's rate.
    Of(f64),
    /// A rate of its own.
    Own(Rate),
}

impl Share {
    pub(super) const fn of_all(self) -> f64 {
        match self {
            Self::Of(share) => share,
            Self::Own(_) => 0.0,
        }
    }
}

/// Packets that are alike but for their flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Where it stands in the profile.
    pub path: String,
    /// What results call it.
    pub name: String,
    /// The seat that sends it; empty: the only one.
    pub from: String,
    /// The seat that is to receive it; empty: the only one.
    pub to: String,
    /// Of its addresses.
    pub family: Family,
    /// What is in its packets.
    pub protocol: Protocol,
    /// Hardware addresses, one for all or one for each address: of it,
    pub source_mac: Range,
    /// and of whom it is sent to.
    pub destination_mac: Range,
    /// Addresses: of it,
    pub source: Range,
    /// and of whom it is sent to. They differ first from packet to packet, ports of the source last.
    pub destination: Range,
    /// Ports: of it,
    pub source_port: Range,
    /// and of whom it is sent to.
    pub destination_port: Range,
    /// The lengths of its frames.
    pub mix: Mix,
    /// Payload bytes of each segment, where frames are super-frames.
    pub segment: Option<u16>,
    /// Who completes checksums.
    pub checksums: Checksums,
    /// The hop limit.
    pub ttl: u8,
    /// The differentiated services code point.
    pub dscp: u8,
    /// How much of the traffic it is.
    pub share: Share,
    /// The number of its first flow among those of all streams.
    pub first_flow: u32,
    /// How many it has: the first ones of all combinations of its ranges.
    pub flows: u32,
}

impl Stream {
    /// Bytes of Ethernet, IP and layer 4 headers.
    #[must_use]
    pub const fn header_bytes(&self) -> u32 {
        Self::header_bytes_of(self.family, self.protocol)
    }

    pub(super) const fn header_bytes_of(family: Family, protocol: Protocol) -> u32 {
        let l3 = match family {
            Family::Ipv4 => 20,
            Family::Ipv6 => 40,
        };
        let l4 = match protocol {
            Protocol::Udp => 8,
            Protocol::Tcp => 20,
        };
        ETHERNET_BYTES + l3 + l4
    }

    /// What its flows differ in, the first to differ from packet to packet first. Hardware addresses go with addresses.
    #[must_use]
    pub const fn dimensions(&self) -> [Range; 4] {
        [
            self.destination,
            self.source,
            self.destination_port,
            self.source_port,
        ]
    }

    /// Packets that a frame of that length becomes.
    #[must_use]
    pub fn segments(&self, frame: FrameLen) -> u32 {
        let payload = frame.bare_bytes().saturating_sub(self.header_bytes());
        self.segment
            .map_or(1, |size| payload.div_ceil(u32::from(size)).max(1))
    }

    /// The mean over its packets, in their mix, of something that a packet of some length has.
    pub(super) fn mean_of_packets(&self, of: impl Fn(FrameLen) -> f64) -> f64 {
        let packets = self.mix.mean(|frame| f64::from(self.segments(frame)));
        let sum = self.mix.mean(|frame| match self.segment {
            None => of(frame),
            Some(size) => self.sum_of_segments(frame, u32::from(size), &of),
        });
        sum / packets
    }

    fn sum_of_segments(&self, frame: FrameLen, size: u32, of: &impl Fn(FrameLen) -> f64) -> f64 {
        let headers = self.header_bytes();
        let payload = frame.bare_bytes().saturating_sub(headers);
        let whole = f64::from(payload / size) * of(FrameLen::of_bare_bytes(headers + size));
        match payload % size {
            0 => whole,
            rest => whole + of(FrameLen::of_bare_bytes(headers + rest)),
        }
    }
}
