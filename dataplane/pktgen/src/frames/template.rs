//! One frame of a stream's size, made once; what differs from packet to packet is written over it.
//!
//! In: a stream, a length; per packet: addresses, sequence numbers, a time. Out: the frame, and its virtio-net header.
//! Never: a sum over the payload again: all but addresses, ports, identification and sequence number is summed once, and a
//! signature adds the same to it whatever it says.
//!
//! ```text
//!   | Ethernet | IP | UDP or TCP | signature | payload, by place |          a packet
//!   | Ethernet | IP | UDP or TCP | signature | payload | signature | payload | ...   a super-frame
//!              l3   l4           payload     segment ->
//! ```

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths within the limits of a frame, fields of 16 bits"
)]

use culvert_wire::checksum::Checksum;
use culvert_wire::ether::{self, EtherType, MacAddr};
use culvert_wire::ipv4::{self, Ipv4Fields};
use culvert_wire::ipv6::{self, Ipv6Fields};
use culvert_wire::{VnetHeader, tcp, udp};

use super::flows::Addresses;
use super::payload_byte;
use super::signature::{self, Signature};
use crate::profile::{Checksums, Family, Protocol, Stream};
use crate::size::FrameLen;

const L3: usize = ether::HEADER_LEN;

/// A frame of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    family: Family,
    protocol: Protocol,
    l4: usize,
    payload: usize,
    /// Payload bytes of a segment: all of them, if it is no super-frame.
    segment: usize,
    segments: u32,
    /// The IPv4 header without identification and addresses.
    ip_base: Checksum,
    /// Pseudo-header without addresses; with full checksums also layer 4 without ports and sequence number, and the payload.
    l4_base: Checksum,
    partial: bool,
    vnet: VnetHeader,
}

/// What one packet says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) addresses: Addresses,
    /// Of its first segment.
    pub(crate) signature: Signature,
    pub(crate) tcp_sequence: u32,
}

impl Template {
    pub(crate) fn new(stream: &Stream, len: FrameLen) -> Self {
        let (l4, payload) = places(stream);
        let whole = len.bare_bytes() as usize;
        let segments = stream.segments(len);
        let segment = stream
            .segment
            .filter(|_| segments > 1)
            .map_or(whole - payload, usize::from);
        let mut template = Self {
            bytes: vec![0; whole],
            family: stream.family,
            protocol: stream.protocol,
            l4,
            payload,
            segment,
            segments,
            ip_base: Checksum::ZERO,
            l4_base: Checksum::ZERO,
            partial: segments > 1 || stream.checksums == Checksums::Partial,
            vnet: VnetHeader::default(),
        };
        template.write_payload();
        template.write_headers(stream);
        template.sum();
        template.vnet = template.offload();
        template
    }

    fn write_payload(&mut self) {
        for segment in self.bytes[self.payload..].chunks_mut(self.segment) {
            for (place, byte) in segment.iter_mut().enumerate().skip(signature::LEN) {
                *byte = payload_byte(place);
            }
        }
    }

    /// Headers with addresses, ports, identification and sequence number of zero.
    fn write_headers(&mut self, stream: &Stream) {
        let ether_type = match self.family {
            Family::Ipv4 => EtherType::IPV4,
            Family::Ipv6 => EtherType::IPV6,
        };
        let header = ether::header(MacAddr::ZERO, MacAddr::ZERO, ether_type);
        self.bytes[..L3].copy_from_slice(&header);
        let l4_len = self.bytes.len() - self.l4;
        match self.family {
            Family::Ipv4 => self.write_ipv4(stream),
            Family::Ipv6 => self.write_ipv6(stream, l4_len),
        }
        let l4 = &mut self.bytes[self.l4..];
        match self.protocol {
            Protocol::Udp => l4[4..6].copy_from_slice(&short(l4_len).to_be_bytes()),
            // Data of an established connection: ACK, and a window that is open.
            Protocol::Tcp => {
                l4[12..16].copy_from_slice(&[0x50, tcp::flags::ACK, 0xff, 0xff]);
                l4[8..12].copy_from_slice(&1u32.to_be_bytes());
            }
        }
    }

    fn write_ipv4(&mut self, stream: &Stream) {
        let header = ipv4::header(&Ipv4Fields {
            source: [0; 4].into(),
            destination: [0; 4].into(),
            tos: stream.dscp << 2,
            id: 0,
            dont_fragment: true,
            ttl: stream.ttl,
            protocol: number(self.protocol),
            total_len: short(self.bytes.len() - L3),
        });
        self.bytes[L3..self.l4].copy_from_slice(&header);
        self.bytes[L3 + 10..L3 + 12].fill(0);
    }

    fn write_ipv6(&mut self, stream: &Stream, l4_len: usize) {
        let header = ipv6::header(&Ipv6Fields {
            source: [0; 16].into(),
            destination: [0; 16].into(),
            traffic_class: stream.dscp << 2,
            hop_limit: stream.ttl,
            next_header: number(self.protocol),
            payload_len: short(l4_len),
        });
        self.bytes[L3..self.l4].copy_from_slice(&header);
    }

    /// Sums what no packet changes.
    fn sum(&mut self) {
        self.ip_base = Checksum::of(&self.bytes[L3..self.l4]);
        let mut l4 = Checksum::ZERO;
        l4.add_u16(u16::from(number(self.protocol)));
        // The pseudo-header's length has 32 bits in IPv6 (RFC 8200, section 8.1).
        l4.add_u32((self.bytes.len() - self.l4) as u32);
        if !self.partial {
            l4.add(&self.bytes[self.l4..self.payload]);
            l4.append(Signature::checksum());
            l4.add(&self.bytes[self.payload + signature::LEN..]);
        }
        // As a number: a payload of an odd length leaves what follows it in the other halves of words.
        let folded = l4.value();
        self.l4_base = Checksum::ZERO;
        self.l4_base.add_u16(folded);
    }

    /// The virtio-net header (virtio 1.2, section 5.1.6.2).
    fn offload(&self) -> VnetHeader {
        if !self.partial {
            return VnetHeader::default();
        }
        let gso_type = match (self.segments > 1, self.protocol, self.family) {
            (false, _, _) => VnetHeader::GSO_NONE,
            (true, Protocol::Udp, _) => VnetHeader::GSO_UDP_L4,
            (true, Protocol::Tcp, Family::Ipv4) => VnetHeader::GSO_TCPV4,
            (true, Protocol::Tcp, Family::Ipv6) => VnetHeader::GSO_TCPV6,
        };
        let cut = self.segments > 1;
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            hdr_len: if cut { short(self.payload) } else { 0 },
            gso_size: if cut { short(self.segment) } else { 0 },
            csum_start: short(self.l4),
            csum_offset: checksum_offset(self.protocol),
            num_buffers: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) const fn segments(&self) -> u32 {
        self.segments
    }

    pub(crate) const fn vnet(&self) -> VnetHeader {
        self.vnet
    }

    /// What a connection's sequence number goes on by.
    pub(crate) fn payload_len(&self) -> u32 {
        (self.bytes.len() - self.payload) as u32
    }

    /// Writes the frame. With `holds` the buffer has this template's bytes from before, and only what differs is written.
    ///
    /// # Panics
    /// If the buffer is shorter than the frame.
    #[inline]
    pub(crate) fn write(&self, made: &Made, buffer: &mut [u8], holds: bool) {
        let frame = &mut buffer[..self.bytes.len()];
        if !holds {
            frame.copy_from_slice(&self.bytes);
        }
        self.write_signatures(made, frame);
        let macs = (u128::from(made.addresses.destination_mac) << 48
            | u128::from(made.addresses.source_mac))
            << 32;
        frame[..12].copy_from_slice(&macs.to_be_bytes()[..12]);
        let (addresses, len) = made.addresses.bytes(self.family);
        let sum = Checksum::of(&addresses[..len]);
        self.write_l3(made, frame, &addresses[..len], sum);
        self.write_l4(made, frame, sum);
    }

    fn write_signatures(&self, made: &Made, frame: &mut [u8]) {
        let mut signature = made.signature;
        for segment in frame[self.payload..].chunks_mut(self.segment) {
            segment[..signature::LEN].copy_from_slice(&signature.write());
            signature.sequence = signature.sequence.wrapping_add(1);
        }
    }

    fn write_l3(&self, made: &Made, frame: &mut [u8], addresses: &[u8], sum: Checksum) {
        match self.family {
            Family::Ipv4 => {
                // Unique while a packet may live, as its flow goes (RFC 6864 asks for less).
                let id = made.signature.sequence as u16;
                let mut ip = self.ip_base;
                ip.add_u16(id);
                ip.append(sum);
                frame[L3 + 4..L3 + 6].copy_from_slice(&id.to_be_bytes());
                frame[L3 + 10..L3 + 12].copy_from_slice(&ip.complement().to_be_bytes());
                frame[L3 + 12..L3 + 20].copy_from_slice(addresses);
            }
            Family::Ipv6 => {
                let label = Addresses::label(made.signature.flow).to_be_bytes();
                frame[L3 + 1] = self.bytes[L3 + 1] | label[1];
                frame[L3 + 2..L3 + 4].copy_from_slice(&label[2..]);
                frame[L3 + 8..L3 + 40].copy_from_slice(addresses);
            }
        }
    }

    fn write_l4(&self, made: &Made, frame: &mut [u8], addresses: Checksum) {
        let mut sum = self.l4_base;
        sum.append(addresses);
        let ports = u32::from(made.addresses.source_port) << 16
            | u32::from(made.addresses.destination_port);
        let l4 = &mut frame[self.l4..];
        l4[..4].copy_from_slice(&ports.to_be_bytes());
        if self.protocol == Protocol::Tcp {
            l4[4..8].copy_from_slice(&made.tcp_sequence.to_be_bytes());
        }
        let field = usize::from(checksum_offset(self.protocol));
        let value = if self.partial {
            sum.value()
        } else {
            sum.add_u32(ports);
            match self.protocol {
                Protocol::Udp => sum.complement_udp(),
                Protocol::Tcp => {
                    sum.add_u32(made.tcp_sequence);
                    sum.complement()
                }
            }
        };
        l4[field..field + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Where layer 4 and its payload start.
fn places(stream: &Stream) -> (usize, usize) {
    let l4 = L3
        + match stream.family {
            Family::Ipv4 => ipv4::HEADER_LEN,
            Family::Ipv6 => ipv6::HEADER_LEN,
        };
    (l4, stream.header_bytes() as usize)
}

const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Udp => udp::PROTOCOL,
        Protocol::Tcp => tcp::PROTOCOL,
    }
}

const fn checksum_offset(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Udp => udp::CHECKSUM_OFFSET,
        Protocol::Tcp => tcp::CHECKSUM_OFFSET,
    }
}

/// A length that a frame's limit keeps within 16 bits.
fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
