//! The frames that the stack sends.
//!
//! In: addresses, or the message to answer. Out: whole Ethernet frames. Never: a
//! decision whether to send one.

use std::net::{IpAddr, Ipv4Addr};

use culvert_wire::{
    MacAddr,
    arp::{self, ArpPacket},
    ether,
    icmp::{self, IcmpError},
    nd::{self, Ends},
    parse::Headers,
};

use super::neighbors::Solicit;

/// The announcement that `address` is at `mac`.
pub(super) fn announcement(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(&ArpPacket::announcement(mac, address)),
        IpAddr::V6(address) => nd(|out| nd::write_unsolicited(address, mac, false, out)),
    }
}

/// The question whether anyone has `address`, from nobody (RFC 5227, section 2.1.1; RFC 4862, section 5.4.2).
pub(super) fn probe(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(&ArpPacket::request(mac, Ipv4Addr::UNSPECIFIED, address)),
        IpAddr::V6(address) => nd(|out| nd::write_detection(mac, address, out)),
    }
}

/// The question for a neighbor, from `mac` at `source`; `None` if the families differ.
pub(super) fn solicitation(mac: MacAddr, source: IpAddr, solicit: Solicit) -> Option<Vec<u8>> {
    match (source, solicit.address) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let mut frame = arp(&ArpPacket::request(mac, source, target));
            if let Some(known) = solicit.mac {
                // A probe for one alone (RFC 1122, section 2.3.2.1).
                frame[..known.0.len()].copy_from_slice(&known.0);
            }
            Some(frame)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => Some(match solicit.mac {
            None => nd(|out| nd::write_solicitation(mac, source, target, out)),
            Some(destination_mac) => {
                let ends = Ends {
                    source_mac: mac,
                    source,
                    destination_mac,
                    destination: target,
                };
                nd(|out| nd::write_probe(&ends, target, out))
            }
        }),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// An ARP packet's frame.
pub(super) fn arp(packet: &ArpPacket) -> Vec<u8> {
    let mut frame = vec![0; arp::FRAME_LEN];
    packet.write_frame(&mut frame);
    frame
}

/// The frame of a neighbor discovery message that `write` writes.
pub(super) fn nd(write: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut frame = vec![0; nd::FRAME_LEN];
    let len = write(&mut frame);
    frame.truncate(len);
    frame
}

/// The reply to an echo request to us, back to where the frame came from; `None` if it
/// may not be answered.
pub(super) fn echo_reply(mac: MacAddr, headers: &Headers, frame: &[u8]) -> Option<Vec<u8>> {
    let request = frame.get(..headers.l3_offset + headers.ip_len)?;
    let mut reply = request.to_vec();
    let (ethernet, packet) = reply.split_at_mut_checked(ether::HEADER_LEN)?;
    let len = icmp::echo_reply_in_place(packet)?;
    ethernet.copy_from_slice(&ether::header(
        headers.ether.source,
        mac,
        headers.ether.ether_type,
    ));
    reply.truncate(ether::HEADER_LEN + len);
    Some(reply)
}

/// What is told of the packet in `frame`, from `ours`, back to where the frame came from; `None` if nothing may be.
pub(super) fn error(
    mac: MacAddr,
    error: IcmpError,
    headers: &Headers,
    frame: &[u8],
    ours: IpAddr,
) -> Option<Vec<u8>> {
    let mut packet = [0; icmp::ERROR_LEN_MAX];
    let len = icmp::write_error(error, headers, frame, ours, &mut packet).ok()?;
    let ethernet = ether::header(headers.ether.source, mac, headers.ether.ether_type);
    Some([&ethernet[..], packet.get(..len)?].concat())
}
