//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! In: a frame's bytes behind Ethernet; or the fields of a packet of ours.
//! Out: the five fields; or a whole frame.
//! Never: a table; who owns which address is the caller's knowledge.

use std::net::Ipv4Addr;

use crate::bytes::{array, array_mut};
use crate::ether::{self, EtherType, MacAddr};

/// Bytes of an ARP packet.
pub const PACKET_LEN: usize = 28;
/// Bytes of a frame that carries one.
pub const FRAME_LEN: usize = ether::HEADER_LEN + PACKET_LEN;

/// Ethernet, IPv4, address lengths 6 and 4: all that we speak.
const PREAMBLE: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Why bytes are no ARP packet for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArpError {
    /// Fewer than 28 bytes.
    Truncated,
    /// Not IPv4 over Ethernet.
    Unsupported,
    /// Neither request nor reply.
    Operation,
    /// A sender whose hardware address is a group or zero.
    Sender,
}

/// What a packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: Operation,
    /// Sender's hardware address.
    pub sender_mac: MacAddr,
    /// Sender's protocol address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Target's hardware address; zero in a request.
    pub target_mac: MacAddr,
    /// Target's protocol address.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Reads a packet from the bytes behind the Ethernet header.
    pub fn parse(bytes: &[u8]) -> Result<Self, ArpError> {
        let b = array::<PACKET_LEN>(bytes, 0).ok_or(ArpError::Truncated)?;
        if b[..6] != PREAMBLE {
            return Err(ArpError::Unsupported);
        }
        let operation = match [b[6], b[7]] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Err(ArpError::Operation),
        };
        let packet = Self {
            operation,
            sender_mac: MacAddr([b[8], b[9], b[10], b[11], b[12], b[13]]),
            sender: Ipv4Addr::new(b[14], b[15], b[16], b[17]),
            target_mac: MacAddr([b[18], b[19], b[20], b[21], b[22], b[23]]),
            target: Ipv4Addr::new(b[24], b[25], b[26], b[27]),
        };
        if packet.sender_mac.is_unicast() {
            Ok(packet)
        } else {
            Err(ArpError::Sender)
        }
    }

    /// A request for `target`'s hardware address, to be broadcast.
    pub const fn request(sender_mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac,
            sender,
            target_mac: MacAddr::ZERO,
            target,
        }
    }

    /// The announcement that `sender` is at `sender_mac` (gratuitous ARP, as a request;
    /// RFC 5227, section 3).
    pub const fn announcement(sender_mac: MacAddr, sender: Ipv4Addr) -> Self {
        Self::request(sender_mac, sender, sender)
    }

    /// The reply to this request: `mac` has the address that was asked for.
    pub const fn reply(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// Writes the packet in an Ethernet frame at the start of `out` and returns
    /// [`FRAME_LEN`]; 0 if it doesn't fit. Requests are broadcast, replies go to the
    /// target.
    pub fn write_frame(&self, out: &mut [u8]) -> usize {
        let Some(out) = array_mut::<FRAME_LEN>(out, 0) else {
            return 0;
        };
        let (destination, operation) = match self.operation {
            Operation::Request => (MacAddr::BROADCAST, 1),
            Operation::Reply => (self.target_mac, 2),
        };
        out[..14].copy_from_slice(&ether::header(destination, self.sender_mac, EtherType::ARP));
        out[14..20].copy_from_slice(&PREAMBLE);
        out[20..22].copy_from_slice(&[0, operation]);
        out[22..28].copy_from_slice(&self.sender_mac.0);
        out[28..32].copy_from_slice(&self.sender.octets());
        out[32..38].copy_from_slice(&self.target_mac.0);
        out[38..42].copy_from_slice(&self.target.octets());
        FRAME_LEN
    }
}

/// Writes the frame with which a hypervisor says where a guest's hardware address is now: a
/// request of reverse ARP (RFC 903) for itself, broadcast. Nobody answers it; switches learn from its
/// source. Returns [`FRAME_LEN`]; 0 if it doesn't fit.
pub fn write_reverse_request(mac: MacAddr, out: &mut [u8]) -> usize {
    let Some(out) = array_mut::<FRAME_LEN>(out, 0) else {
        return 0;
    };
    out[..14].copy_from_slice(&ether::header(MacAddr::BROADCAST, mac, EtherType::RARP));
    out[14..20].copy_from_slice(&PREAMBLE);
    out[20..22].copy_from_slice(&[0, 3]);
    out[22..28].copy_from_slice(&mac.0);
    out[28..32].fill(0);
    out[32..38].copy_from_slice(&mac.0);
    out[38..42].fill(0);
    FRAME_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

    #[test]
    fn a_request_gets_its_reply() {
        let request = ArpPacket::request(MAC, [10, 0, 0, 1].into(), [10, 0, 0, 254].into());
        let mut frame = [0; 64];
        assert_eq!(request.write_frame(&mut frame), 42);
        // Captured layout: broadcast, EtherType 0806, 0001 0800 06 04 0001.
        assert_eq!(
            frame[..22],
            [
                255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1
            ]
        );
        assert_eq!(ArpPacket::parse(&frame[14..]), Ok(request));
        let reply = request.reply(GATEWAY);
        assert_eq!(reply.sender, Ipv4Addr::new(10, 0, 0, 254));
        assert_eq!(reply.target_mac, MAC);
        assert_eq!(reply.write_frame(&mut frame), 42);
        assert_eq!(frame[..6], MAC.0);
        assert_eq!(ArpPacket::parse(&frame[14..42]), Ok(reply));
        assert_eq!(reply.write_frame(&mut frame[..41]), 0);
    }

    #[test]
    fn what_is_not_for_us_is_named() {
        let mut frame = [0; FRAME_LEN];
        ArpPacket::announcement(MAC, [10, 0, 0, 1].into()).write_frame(&mut frame);
        let good: [u8; PACKET_LEN] = frame[14..].try_into().unwrap();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            ArpPacket::parse(&bytes)
        };
        assert_eq!(ArpPacket::parse(&good[..27]), Err(ArpError::Truncated));
        assert_eq!(with(1, 6), Err(ArpError::Unsupported));
        assert_eq!(with(7, 3), Err(ArpError::Operation));
        assert_eq!(with(8, 3), Err(ArpError::Sender));
    }
}
