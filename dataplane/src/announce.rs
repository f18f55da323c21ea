//! Announce: the other ports of a network hear where a guest is now.
//!
//! In: a port whose guest has just come here, as its VMM says. Out: frames on the guest's
//! behalf into every other port of its network that knows neighbors. Never: a frame to the
//! guest itself or into a tunnel, which carries IP and no neighbors.
//!
//! Our own tables need not follow: MAC and IP addresses of ports are configured. What may be
//! stale are the neighbor caches of other guests, and the tables of switches behind tap ports.
//! A guest that can announce itself does; its frames are flooded like any broadcast.

use std::net::IpAddr;

use culvert_wire::{
    arp::{self, ArpPacket},
    nd,
};

use crate::{
    deliver,
    ids::PortIndex,
    snapshot::{Network, Port},
    turn::Turn,
};

/// The longest of the frames.
const FRAME_MAX: usize = if nd::FRAME_LEN > arp::FRAME_LEN {
    nd::FRAME_LEN
} else {
    arp::FRAME_LEN
};

/// Announces the guest of `port`: its MAC address by a RARP, each of its addresses by a
/// gratuitous ARP (RFC 5227, section 3) or an unsolicited advertisement (RFC 4861, section
/// 7.2.6).
pub(crate) fn announce(turn: &Turn<'_>, port: PortIndex) {
    let snapshot = turn.snapshot;
    let Some(port) = snapshot.port(port) else {
        return;
    };
    let Some(network) = snapshot.network(port.network) else {
        return;
    };
    let mut frame = [0; FRAME_MAX];
    let len = arp::write_reverse_request(port.mac, &mut frame);
    tell(turn, port, network, &frame[..len]);
    for &address in &port.addresses {
        let len = match address {
            IpAddr::V4(address) => {
                ArpPacket::announcement(port.mac, address).write_frame(&mut frame)
            }
            IpAddr::V6(address) => nd::write_unsolicited(address, port.mac, false, &mut frame),
        };
        tell(turn, port, network, &frame[..len]);
    }
}

fn tell(turn: &Turn<'_>, port: &Port, network: &Network, frame: &[u8]) {
    for &(_, other) in &network.macs {
        let other = turn.snapshot.port(other);
        let hears = |other: &&Port| other.index != port.index && !other.guest.is_ip_only();
        if let Some(other) = other.map(AsRef::as_ref).filter(hears) {
            deliver::own(other, turn.worker, frame);
        }
    }
}
