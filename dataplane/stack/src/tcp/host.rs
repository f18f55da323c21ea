//! Host: connections as the stack has them.
//!
//! In: segments of frames that came, errors about packets of connections, owners' calls. Out: frames; resets. Never: a
//! segment that is not to an address of ours alone, or says to come from one.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use culvert_wire::{
    Checksum, EtherType, MacAddr, ether,
    parse::{Headers, L3, L4},
};
use culvert_wireguard::Instant;

use super::{
    ConnectError, ConnectionId, Due, Ends, Listener, PROTOCOL, Phase, admission::Service,
    quoted::TooBig, reset, shares::Shares,
};
use crate::{HostDrop, HostStack, Resolution, limits, routes::Way};

/// How long a connection waits before the way to the other is asked for again.
const WAY_AGAIN: Duration = Duration::from_secs(1);

impl HostStack {
    /// From here on others may begin connections to these.
    pub fn listen(&mut self, listeners: Vec<Listener>) {
        self.tcp.listen(listeners);
    }

    /// The next connection that others began and that is open: the caller is its owner.
    pub fn poll_accepted(&mut self) -> Option<ConnectionId> {
        self.tcp.poll_accepted()
    }

    /// Begins a connection; the caller is its owner.
    ///
    /// # Errors
    /// When there is no way, or no room.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<ConnectionId, ConnectError> {
        let way = self.routes.way(remote.ip());
        let Way { source, .. } = way.ok_or(ConnectError::NoRoute)?;
        self.tcp.connect(source, remote, self.segment_mtu(), now)
    }

    /// Between whom a connection is, as long as it is.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<Ends> {
        self.tcp.ends(id)
    }

    /// How far a connection is.
    #[must_use]
    pub fn phase(&self, id: ConnectionId) -> Phase {
        self.tcp.phase(id)
    }

    /// Whether the other sends no more, and all that came was read.
    #[must_use]
    pub fn has_ended(&self, id: ConnectionId) -> bool {
        self.tcp.has_ended(id)
    }

    /// How many bytes can be written to a connection.
    #[must_use]
    pub fn room(&self, id: ConnectionId) -> usize {
        self.tcp.room(id)
    }

    /// Shows bytes that came, in order, and forgets as many of them as `take` takes; answers how many, 0 if none came.
    pub fn read(
        &mut self,
        id: ConnectionId,
        now: Instant,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> usize {
        self.tcp.read(id, now, take)
    }

    /// Takes bytes to send; answers how many.
    pub fn write(&mut self, id: ConnectionId, bytes: &[u8], now: Instant) -> usize {
        self.tcp.write(id, bytes, now)
    }

    /// Nothing is sent behind what was written.
    pub fn close(&mut self, id: ConnectionId) {
        self.tcp.close(id);
    }

    /// The owner lets go of a connection: what was written is sent, and its end told; if that is to be `at_once`, the
    /// other hears that it was given up.
    pub fn release(&mut self, id: ConnectionId, at_once: bool, now: Instant) {
        self.tcp.release(id, at_once, now);
    }

    /// The connections: between whom, and how far they are.
    pub fn connections(&self) -> impl Iterator<Item = (Ends, Phase)> + '_ {
        self.tcp.iter()
    }

    /// The next frame of a connection to send; what is not taken is not written before it is.
    pub fn poll_segment(&mut self) -> Option<Vec<u8>> {
        self.segments.pop_front()
    }

    pub(crate) fn segment(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        is_checked: bool,
        now: Instant,
    ) -> Result<(), HostDrop> {
        let (L4::Tcp(segment), Some((sender, ours)), true) =
            (headers.l4, headers.addresses(), self.is_to_us(headers))
        else {
            return Err(HostDrop::NotForUs);
        };
        // What we send to ourselves has no other source.
        let is_forged = self.own.uses(sender) && headers.ether.source != self.config.mac;
        if is_forged || segment.source_port == 0 || segment.destination_port == 0 {
            return Err(HostDrop::SourceInvalid);
        }
        let end = headers.l3_offset + headers.ip_len;
        let packet = frame.get(headers.l3_offset..end);
        let packet = packet.ok_or(HostDrop::Malformed)?;
        if !is_checked && !holds(&packet[headers.l4_offset - headers.l3_offset..], headers) {
            return Err(HostDrop::Malformed);
        }
        let ends = Ends {
            local: SocketAddr::new(ours, segment.destination_port),
            remote: SocketAddr::new(sender, segment.source_port),
        };
        let mtu = self.segment_mtu();
        let taken = self
            .tcp
            .take(ends, &segment, (packet, headers.ether.source), mtu, now);
        for _ in 0..self.tcp.take_yielded() {
            self.count(HostDrop::TcpOpeningsFull);
        }
        if let Err(HostDrop::TcpPortClosed | HostDrop::TcpNotAllowed | HostDrop::TcpNoConnection) =
            taken
        {
            self.refuse(headers, end.saturating_sub(headers.payload_offset), now);
        }
        taken
    }

    /// Tells a sender that nobody takes its segment, as often as anyone is told what is wrong with a packet.
    fn refuse(&mut self, headers: &Headers, payload: usize, now: Instant) {
        let sender = headers.addresses().map(|(sender, _)| sender);
        if let (Some(frame), Some(sender)) =
            (reset::answer(self.config.mac, headers, payload), sender)
        {
            match self.errors.take(sender, now) {
                true => self.reply(frame),
                false => self.count(HostDrop::ErrorLimited),
            }
        }
    }

    /// Has connections do what is due, as long as there is room for what they send. Whom the room does not suffice for is
    /// first in the next round.
    pub(crate) fn turn_connections(&mut self, now: Instant) {
        let room = |segments: &VecDeque<_>| limits::HOST_SEGMENTS.saturating_sub(segments.len());
        let due = self.tcp.due(now);
        let mut shares = Shares::among(&due, room(&self.segments));
        for Due {
            id,
            remote,
            service,
        } in due
        {
            let room = room(&self.segments);
            let Some(share) = shares.of(service) else {
                continue;
            };
            if room == 0 {
                return;
            }
            let Some(mac) = self.hop((id, service), remote.ip(), now) else {
                self.tcp.rest(id, now + WAY_AGAIN, now);
                continue;
            };
            let kind = match remote {
                SocketAddr::V4(_) => EtherType::IPV4,
                SocketAddr::V6(_) => EtherType::IPV6,
            };
            let header = ether::header(mac, self.config.mac, kind);
            let frames = self.tcp.turn(id, room.min(*share), now);
            *share = share.saturating_sub(frames.len());
            for mut frame in frames {
                frame[..ether::HEADER_LEN].copy_from_slice(&header);
                match mac == self.config.mac {
                    true => self.send(frame, limits::HOST_RETURNING),
                    false => self.segments.push_back(frame),
                }
            }
        }
    }

    /// Where a connection's packets go.
    fn hop(
        &mut self,
        (id, service): (ConnectionId, Option<Service>),
        remote: IpAddr,
        now: Instant,
    ) -> Option<MacAddr> {
        match self.tcp.came_from(id) {
            Some(from) => {
                if let Some(back) = self.way_back(remote, from, now) {
                    return Some(back);
                }
            }
            // He has moved since he began: whoever is known there may be no more.
            None if service.is_some() => self.check(remote, now),
            None => {}
        }
        match self.resolve(remote, now) {
            Resolution::Resolved { mac, .. } => Some(mac),
            Resolution::Pending { .. } | Resolution::NoRoute => None,
        }
    }

    /// When connections have something to do, and room for it.
    pub(crate) fn connections_due(&self) -> Option<Instant> {
        match self.segments.len() < limits::HOST_SEGMENTS {
            true => self.tcp.poll_timeout(),
            false => None,
        }
    }

    /// Connections are between addresses of ours, and over this link.
    pub(crate) fn keep_connections(&mut self) {
        let own = &self.own;
        self.tcp.keep(|local| own.uses(local.ip()));
        self.tcp.wake();
    }

    /// A packet of a connection is too long for a link on its way, says who may be anyone; that it quotes what is under way
    /// between both ends of a connection is what is known of him. Packets get no shorter on his word than any path lets
    /// pass.
    pub(crate) fn narrow(&mut self, too_big: &TooBig) -> bool {
        let least = match too_big.ends.remote.ip() {
            IpAddr::V4(_) => limits::PATH_MTU_MIN_V4,
            IpAddr::V6(_) => limits::PATH_MTU_MIN_V6,
        };
        let mtu = u16::try_from(too_big.mtu).unwrap_or(u16::MAX).max(least);
        self.tcp.narrow(too_big.ends, too_big.sequence, mtu)
    }

    fn segment_mtu(&self) -> u16 {
        self.config.mtu.min(limits::CONNECTION_MTU)
    }
}

/// Whether the sum of a segment holds that was put together here.
fn holds(segment: &[u8], headers: &Headers) -> bool {
    let len = u32::try_from(segment.len()).unwrap_or(0);
    let mut sum = match headers.l3 {
        L3::V4(ip) => Checksum::pseudo_v4(ip.source, ip.destination, PROTOCOL, len),
        L3::V6(ip) => Checksum::pseudo_v6(ip.source, ip.destination, PROTOCOL, len),
        L3::Arp | L3::Other => return false,
    };
    sum.add(segment);
    sum.is_valid()
}
