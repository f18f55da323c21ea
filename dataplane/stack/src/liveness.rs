//! A BFD session on its link.
//!
//! In: datagrams to its port, the time. Out: the session's packets as frames to its neighbor, what others see of it. Never:
//! a packet believed that was routed, or that comes from another address; one that names no session from another place than
//! where the neighbor has answered.

use std::{net::IpAddr, sync::Arc};

use culvert_wire::{
    Checksum, MacAddr,
    parse::{Headers, L3, Udp},
    udp,
};
use culvert_wireguard::Instant;

use super::{
    HostDrop, HostStack,
    bfd::{self, Session, Watch},
    guests::frame::{udp4, udp6},
};

/// A session, and who looks at it.
pub(super) struct Liveness {
    session: Session,
    watch: Arc<Watch>,
}

impl Liveness {
    /// When something is to be sent.
    pub(super) fn due(&self) -> Instant {
        self.session.due()
    }
}

impl HostStack {
    /// Has the life of a neighbor watched from now on, or nobody's; `random` is a number that nobody can guess. A session
    /// that is to be as it was goes on.
    pub fn watch(&mut self, wanted: Option<(bfd::Config, Arc<Watch>)>, random: u64, now: Instant) {
        let present = self.liveness.as_ref().map(|it| *it.session.config());
        if present == wanted.as_ref().map(|(config, _)| *config) {
            return;
        }
        self.liveness = wanted.map(|(config, watch)| {
            let session = Session::new(config, random, now);
            watch.note(&session);
            Liveness { session, watch }
        });
    }

    /// The session that there is: whose packets are heard, where that neighbor has answered from, and the number of ours.
    #[must_use]
    pub fn watched(&self) -> Option<(IpAddr, Option<MacAddr>, u32)> {
        let session = &self.liveness.as_ref()?.session;
        let peer = session.config().peer;
        let answered = self.neighbors.answered_since(peer, Instant::from_nanos(0));
        Some((peer, answered.map(|it| it.mac), session.discriminator()))
    }

    /// Whether datagrams to a port are for the session that there is.
    pub(super) fn watches(&self, port: u16) -> bool {
        self.liveness.is_some() && port == bfd::PORT
    }

    /// A datagram to BFD's port.
    pub(super) fn hear_liveness(
        &mut self,
        headers: &Headers,
        udp: &Udp,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), HostDrop> {
        let (source, sum, ttl) = match headers.l3 {
            L3::V4(ip) => {
                let len = u32::from(udp.length);
                let sum = Checksum::pseudo_v4(ip.source, ip.destination, udp::PROTOCOL, len);
                (IpAddr::V4(ip.source), sum, ip.ttl)
            }
            L3::V6(ip) => {
                let len = u32::from(udp.length);
                let sum = Checksum::pseudo_v6(ip.source, ip.destination, udp::PROTOCOL, len);
                (IpAddr::V6(ip.source), sum, ip.hop_limit)
            }
            L3::Arp | L3::Other => return Err(HostDrop::NotServed),
        };
        let answered = self.watched().and_then(|(_, mac, _)| mac);
        let is_there = answered == Some(headers.ether.source);
        let liveness = self.liveness.as_mut().ok_or(HostDrop::LivenessUnknown)?;
        if ttl != bfd::TTL || source != liveness.session.config().peer {
            return Err(HostDrop::LivenessUnknown);
        }
        let end = headers.l4_offset + usize::from(udp.length);
        let datagram = frame
            .get(headers.l4_offset..end)
            .ok_or(HostDrop::LivenessRefused)?;
        let payload = datagram
            .get(udp::HEADER_LEN..)
            .ok_or(HostDrop::LivenessRefused)?;
        // A sender on this machine may have left the sum to the device.
        let is_left = udp.checksum == 0 || udp.checksum == sum.value();
        let mut sum = sum;
        sum.add(datagram);
        if !is_left && !sum.is_valid() {
            return Err(HostDrop::Malformed);
        }
        // Whose number is taken up is whom our packets name: another's would keep the neighbor's session down.
        let begins = bfd::Packet::parse(payload).is_ok_and(|it| it.your_discriminator == 0);
        if begins && !is_there {
            return Err(HostDrop::LivenessUnknown);
        }
        liveness
            .session
            .handle(payload, now)
            .map_err(|_| HostDrop::LivenessRefused)?;
        self.send_liveness(now);
        Ok(())
    }

    /// Sends what is due. Where the neighbor is, is asked as for any other; a packet that can't be sent is lost, and the
    /// next one is due as if it had been.
    pub(super) fn send_liveness(&mut self, now: Instant) {
        let Some(mut liveness) = self.liveness.take() else {
            return;
        };
        if let Some(packet) = liveness.session.poll(now)
            && let Some(frame) = self.liveness_frame(&liveness.session, &packet, now)
        {
            self.reply(frame);
        }
        liveness.watch.note(&liveness.session);
        self.liveness = Some(liveness);
    }

    fn liveness_frame(
        &mut self,
        session: &Session,
        packet: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let peer = session.config().peer;
        if !self.routes.is_neighbor(peer) {
            return None;
        }
        let source = self.routes.source(peer, peer)?;
        let macs = (self.mac(), self.seek(peer, now)?);
        let ports = (session.source_port(), bfd::PORT);
        match (source, peer) {
            (IpAddr::V4(source), IpAddr::V4(peer)) => {
                Some(udp4(macs, (source, peer), ports, packet))
            }
            (IpAddr::V6(source), IpAddr::V6(peer)) => {
                Some(udp6(macs, (source, peer), ports, packet))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}
