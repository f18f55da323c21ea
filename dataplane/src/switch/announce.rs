//! Announce: the ports of a network hear where a guest is now.
//!
//! In: a port whose guest has just come here, as its VMM says, or an address that has gone from
//! here to a peer. Out: frames on the guest's behalf, or the gateway's, into every other port of
//! the network that knows neighbors. Never: a frame to the guest itself or into a tunnel, which
//! carries IP and no neighbors; all networks of a trunk in one turn, if they are many.
//!
//! Our own tables need not follow: MAC and IP addresses of ports are configured. What may be
//! stale are the neighbor caches of other guests, and the tables of switches behind tap ports.
//! A guest that can announce itself does; its frames are flooded like any broadcast.

use std::{collections::VecDeque, net::IpAddr};

use culvert_wire::{
    MacAddr,
    arp::{self, ArpPacket},
    ether::VlanId,
    nd,
};

use crate::{
    guest::deliver,
    shared::{
        ids::{AttachmentIndex, NetworkIndex, PortIndex},
        limits::ANNOUNCED_PER_TURN,
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

/// Guests that are to be announced, and how far that is.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    /// Of each port the VLAN that it was announced in last; `None`: in none.
    ports: VecDeque<(PortIndex, Option<Option<VlanId>>)>,
}

impl Announcements {
    /// The guest of `port` is to be announced in its networks. Who is waiting for that waits once.
    pub(crate) fn push(&mut self, port: PortIndex) {
        if !self.ports.contains(&(port, None)) {
            self.ports.push_back((port, None));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// A turn's part: one network, however large it is, and others as long as the frames are few.
    pub(crate) fn serve(&mut self, turn: &Turn<'_>) {
        let mut told = 0;
        while let Some((port, mut last)) = self.ports.pop_front() {
            let before = last;
            let known = turn.snapshot.port(port).into_iter();
            let attached = known.flat_map(|port| port.attachments());
            let attached = attached.filter_map(|index| turn.snapshot.attached(index));
            // They are in the order of their VLANs; what has come or gone meanwhile moves none of the others.
            for guest in attached.filter(|guest| Some(guest.attachment.vlan) > before) {
                let frames = (1 + guest.attachment.addresses.len()) * guest.network.macs.len();
                if told > 0 && told + frames > ANNOUNCED_PER_TURN {
                    self.ports.push_front((port, last));
                    return;
                }
                announce_in(turn, guest);
                (told, last) = (told + frames, Some(guest.attachment.vlan));
            }
        }
    }
}

/// Announces a guest in one of its networks: its MAC address by a RARP, each of its
/// addresses by a gratuitous ARP (RFC 5227, section 3) or an unsolicited advertisement
/// (RFC 4861, section 7.2.6).
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
