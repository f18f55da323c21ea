//! Announce: the ports of a network hear where a guest is now.
//!
//! In: a port whose guest has just come here, as its VMM says, or an address that has gone from
//! here to a peer. Out: frames on the guest's behalf, or the gateway's, into every other port of
//! the network that knows neighbors. Never: a frame to the guest itself or into a tunnel, which
//! carries IP and no neighbors.
//!
//! Our own tables need not follow: MAC and IP addresses of ports are configured. What may be
//! stale are the neighbor caches of other guests, and the tables of switches behind tap ports.
//! A guest that can announce itself does; its frames are flooded like any broadcast.

use std::net::IpAddr;

use culvert_wire::{
    MacAddr,
    arp::{self, ArpPacket},
    nd,
};

use crate::{
    guest::deliver,
    shared::{
        ids::{AttachmentIndex, NetworkIndex, PortIndex},
        snapshot::{Attached, Network, NextHop},
    },
    worker::turn::Turn,
};

/// The longest of the frames.
const FRAME_MAX: usize = if nd::FRAME_LEN > arp::FRAME_LEN {
    nd::FRAME_LEN
} else {
    arp::FRAME_LEN
};

/// Announces the guest of `port` in its networks: its MAC address by a RARP, each of its
/// addresses by a gratuitous ARP (RFC 5227, section 3) or an unsolicited advertisement
/// (RFC 4861, section 7.2.6).
pub(crate) fn announce(turn: &Turn<'_>, port: PortIndex) {
    let port = turn.snapshot.port(port).into_iter();
    let attached = port.flat_map(|port| port.attachments());
    for guest in attached.filter_map(|index| turn.snapshot.attached(index)) {
        announce_in(turn, guest);
    }
}

fn announce_in(turn: &Turn<'_>, guest: Attached<'_>) {
    let (guest, network) = (guest.attachment, guest.network);
    let mut frame = [0; FRAME_MAX];
    let len = arp::write_reverse_request(guest.mac, &mut frame);
    tell(turn, network, Some(guest.index), &frame[..len]);
    for &address in &guest.addresses {
        let len = write(address, guest.mac, false, &mut frame);
        tell(turn, network, Some(guest.index), &frame[..len]);
    }
}

/// Announces the gateway for an address that was a port's, if it is a peer's now: the gateway
/// answers for it from here on, and whoever had the guest's MAC address for it would ask late.
pub(crate) fn announce_gone(turn: &Turn<'_>, network: NetworkIndex, address: IpAddr) {
    let network = turn.snapshot.network(network);
    let Some(network) = network.filter(|network| network.plain.is_none()) else {
        return;
    };
    if let Some(NextHop::Peer(_)) = network.routes.lookup(address) {
        let mut frame = [0; FRAME_MAX];
        let len = write(address, network.gateway_mac, true, &mut frame);
        tell(turn, network, None, &frame[..len]);
    }
}

fn write(address: IpAddr, mac: MacAddr, is_router: bool, frame: &mut [u8; FRAME_MAX]) -> usize {
    match address {
        IpAddr::V4(address) => ArpPacket::announcement(mac, address).write_frame(frame),
        IpAddr::V6(address) => nd::write_unsolicited(address, mac, is_router, frame),
    }
}

fn tell(turn: &Turn<'_>, network: &Network, but: Option<AttachmentIndex>, frame: &[u8]) {
    let others = network.macs.iter().map(|&(_, guest)| guest);
    for guest in others.filter(|&guest| Some(guest) != but) {
        if let Some(guest) = turn.snapshot.attached(guest)
            && !guest.port.guest.is_ip_only()
        {
            deliver::own(guest, turn.worker, frame);
        }
    }
}
