//! Host: endpoints as the stack has them.
//!
//! In: owners' calls, datagrams of frames that came. Out: frames, in fragments if need be. Never: a datagram from an
//! address that is not ours.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use culvert_wire::{
    Checksum, EtherType, MacAddr, ether, ipv4, ipv6,
    parse::{Headers, L4},
};
use culvert_wireguard::Instant;

use super::{EndpointError, EndpointId, Family, PROTOCOL, Readiness, Received, Side, State};
use crate::{HostDrop, HostStack, Resolution, limits};

const HEADER: usize = 8;
/// Ahead of a datagram's bytes in the longest packet (RFC 791; RFC 8200 counts without its header).
const AHEAD_V4: usize = 28;
const HOPS: u8 = 64;
/// What is for a group goes no further than the link (RFC 1112, section 6.1), unless somebody says otherwise.
const HOPS_OF_GROUPS: u8 = 1;
/// How soon it is looked again whether the way of a waiting datagram is known.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A datagram whose next hop is being asked for.
pub(crate) struct Waiting {
    next_hop: IpAddr,
    ends: (IpAddr, IpAddr),
    frame: Vec<u8>,
    until: Instant,
}

impl HostStack {
    /// Opens an endpoint.
    ///
    /// # Errors
    /// When there are too many.
    pub fn open_endpoint(&mut self, family: Family) -> Result<EndpointId, EndpointError> {
        self.endpoints.open(family)
    }

    /// Binds an endpoint to a port, 0 being any, at one of our addresses or at all; answers the port.
    ///
    /// # Errors
    /// When the address isn't ours or the port is taken.
    pub fn bind(
        &mut self,
        id: EndpointId,
        local: Option<IpAddr>,
        port: u16,
    ) -> Result<u16, EndpointError> {
        let local = local.map(|it| it.to_canonical());
        if let Some(local) = local {
            let fits = self.endpoints.get(id)?.takes(local);
            if !fits || !self.own.uses(local) {
                return Err(EndpointError::NoAddress);
            }
        }
        self.endpoints.bind(id, local, port)
    }

    /// Has an endpoint speak to one other alone, or, with `None`, to all again. Without a port it gets one.
    ///
    /// # Errors
    /// When there is no way there.
    pub fn connect_endpoint(
        &mut self,
        id: EndpointId,
        remote: Option<SocketAddr>,
    ) -> Result<(), EndpointError> {
        let remote = remote.map(canonical);
        if let Some(remote) = remote {
            let source = self.endpoint_source(id, remote)?;
            if self.endpoints.get(id)?.port.is_none() {
                self.endpoints.bind(id, Some(source), 0)?;
            }
        }
        self.endpoints.connect(id, remote)
    }

    /// Sends a datagram, to where the endpoint is connected unless a destination is named. Without a port it gets one.
    ///
    /// # Errors
    /// When there is no way there, or it is too long.
    pub fn send_to(
        &mut self,
        id: EndpointId,
        to: Option<SocketAddr>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), EndpointError> {
        self.send_by(id, (to, None), bytes, now)
    }

    /// The same to who has sent something from that hardware address: back there if he is on the link, without a question
    /// for him.
    ///
    /// # Errors
    /// As there.
    pub fn answer(
        &mut self,
        id: EndpointId,
        (to, mac): (SocketAddr, MacAddr),
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), EndpointError> {
        self.send_by(id, (Some(to), Some(mac)), bytes, now)
    }

    fn send_by(
        &mut self,
        id: EndpointId,
        (to, came_from): (Option<SocketAddr>, Option<MacAddr>),
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), EndpointError> {
        let endpoint = self.endpoints.get_mut(id)?;
        if let Some(problem) = endpoint.error.take() {
            return Err(EndpointError::Failed(problem));
        }
        if endpoint.shut_write {
            return Err(EndpointError::Shut);
        }
        let to = to.map(canonical).or(endpoint.remote);
        let to = to.ok_or(EndpointError::NoDestination)?;
        let ahead = if to.is_ipv4() { AHEAD_V4 } else { HEADER };
        if bytes.len() > usize::from(u16::MAX) - ahead {
            return Err(EndpointError::TooLong);
        }
        let source = self.endpoint_source(id, to)?;
        let port = match self.endpoints.get(id)?.port {
            Some(port) => port,
            None => self.endpoints.bind(id, None, 0)?,
        };
        let back = came_from.and_then(|from| self.way_back(to.ip(), from, now));
        self.send_datagram(SocketAddr::new(source, port), (to, back), bytes, now)
    }

    fn endpoint_source(&self, id: EndpointId, to: SocketAddr) -> Result<IpAddr, EndpointError> {
        let endpoint = self.endpoints.get(id)?;
        if !endpoint.takes(to.ip()) {
            return Err(EndpointError::NoAddress);
        }
        let family = |it: &IpAddr| it.is_ipv4() == to.is_ipv4();
        let source = match to.ip().is_multicast() {
            true => self.routes.addresses().find(family),
            false if self.own.uses(to.ip()) => Some(to.ip()),
            false => self.routes.way(to.ip()).map(|way| way.source),
        };
        let source = endpoint.local.filter(family).or(source);
        source.ok_or(EndpointError::NoRoute)
    }

    /// The oldest datagram that came to an endpoint.
    ///
    /// # Errors
    /// When there is none; when what was sent could not be delivered.
    pub fn receive(&mut self, id: EndpointId) -> Result<Received, EndpointError> {
        self.endpoints.receive(id)
    }

    /// Shuts a direction down, or both.
    ///
    /// # Errors
    /// When it is closed.
    pub fn shut_endpoint(&mut self, id: EndpointId, side: Side) -> Result<(), EndpointError> {
        self.endpoints.shut(id, side)
    }

    /// Has an endpoint hear what is sent to a group.
    ///
    /// # Errors
    /// When it is no group of the endpoint's family, or there are too many.
    pub fn join_group(&mut self, id: EndpointId, group: IpAddr) -> Result<(), EndpointError> {
        self.endpoints.join(id, group)
    }

    /// Ends that.
    ///
    /// # Errors
    /// When it had not joined.
    pub fn leave_group(&mut self, id: EndpointId, group: IpAddr) -> Result<(), EndpointError> {
        self.endpoints.leave_group(id, group)
    }

    /// What can be done without waiting.
    #[must_use]
    pub fn readiness(&self, id: EndpointId) -> Readiness {
        self.endpoints.readiness(id)
    }

    /// How far an endpoint is.
    #[must_use]
    pub fn endpoint_state(&self, id: EndpointId) -> State {
        self.endpoints.state(id)
    }

    /// Closes an endpoint; its port is free again.
    pub fn close_endpoint(&mut self, id: EndpointId) {
        self.endpoints.close(id);
    }

    /// Ports that tunnels have: no endpoint gets them.
    pub fn leave_ports(&mut self, ports: Vec<u16>) {
        self.endpoints.leave(ports);
    }

    /// Gives a datagram to the endpoint that it is for; `false` if there is none.
    pub(crate) fn offer_datagram(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        is_checked: bool,
        now: Instant,
    ) -> Result<bool, HostDrop> {
        let (L4::Udp(udp), Some((sender, ours))) = (headers.l4, headers.addresses()) else {
            return Ok(false);
        };
        let from = SocketAddr::new(sender, udp.source_port);
        let to = SocketAddr::new(ours, udp.destination_port);
        // What we send to ourselves has no other source.
        let is_forged = self.own.uses(sender) && headers.ether.source != self.config.mac;
        if is_forged || !self.endpoints.wants(from, to) {
            return Ok(false);
        }
        let datagram = frame.get(headers.l4_offset..headers.l4_offset + usize::from(udp.length));
        let datagram = datagram.ok_or(HostDrop::Malformed)?;
        if !is_checked && udp.checksum != 0 && !sum(sender, ours, datagram).is_valid() {
            return Err(HostDrop::Malformed);
        }
        let bytes = datagram.get(HEADER..).unwrap_or_default();
        let from = (from, headers.ether.source);
        match self.endpoints.deliver(from, to, bytes, now) {
            Ok(()) => Ok(true),
            Err(None) => Ok(false),
            Err(Some(reason)) => Err(reason),
        }
    }

    fn send_datagram(
        &mut self,
        from: SocketAddr,
        (to, hop): (SocketAddr, Option<MacAddr>),
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), EndpointError> {
        let ends = (from.ip(), to.ip());
        let mut frame =
            written(self.config.mac, from, to, bytes).ok_or(EndpointError::NoAddress)?;
        if let Some(mac) = group_mac(to.ip()).or(hop) {
            frame[..6].copy_from_slice(&mac.0);
            self.reply_whole(frame, ends);
            return Ok(());
        }
        match self.resolve(to.ip(), now) {
            Resolution::NoRoute => return Err(EndpointError::NoRoute),
            Resolution::Resolved { mac, .. } => {
                frame[..6].copy_from_slice(&mac.0);
                self.reply_whole(frame, ends);
            }
            Resolution::Pending { next_hop, .. } => self.wait(Waiting {
                next_hop,
                ends,
                frame,
                until: now + limits::UNROUTED_LIFE,
            }),
        }
        Ok(())
    }

    /// The oldest makes room (RFC 1122, section 2.3.2.2).
    fn wait(&mut self, waiting: Waiting) {
        if self.waiting.len() >= limits::UNROUTED {
            self.waiting.pop_front();
            self.count(HostDrop::UdpUnrouted);
        }
        self.waiting.push_back(waiting);
    }

    /// Sends what waited for a neighbor that is known now, and gives up what waited for too long.
    pub(crate) fn send_waiting(&mut self, now: Instant) {
        for waiting in std::mem::take(&mut self.waiting) {
            let mut waiting = waiting;
            let asker = self.routes.asker(waiting.next_hop);
            let may_speak = asker.is_some_and(|asker| self.own.uses(asker));
            match self.neighbor(waiting.next_hop).filter(|_| may_speak) {
                Some(mac) => {
                    waiting.frame[..6].copy_from_slice(&mac.0);
                    self.reply_whole(waiting.frame, waiting.ends);
                }
                None if waiting.until <= now => self.count(HostDrop::UdpUnrouted),
                None => self.waiting.push_back(waiting),
            }
        }
        self.look_at = (!self.waiting.is_empty()).then(|| now + LOOK_AGAIN);
    }

    /// When that is looked at again.
    pub(crate) fn waiting_due(&self) -> Option<Instant> {
        let first = self.waiting.front()?;
        Some(self.look_at.unwrap_or(first.until))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn group_mac(address: IpAddr) -> Option<MacAddr> {
    match address {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            Some(MacAddr([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(group) if group.is_multicast() => Some(MacAddr::from_ipv6_multicast(group)),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn sum(from: IpAddr, to: IpAddr, datagram: &[u8]) -> Checksum {
    let len = u32::try_from(datagram.len()).unwrap_or(0);
    let mut sum = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Checksum::pseudo_v4(from, to, PROTOCOL, len),
        (IpAddr::V6(from), IpAddr::V6(to)) => Checksum::pseudo_v6(from, to, PROTOCOL, len),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Checksum::of(&[1]),
    };
    sum.add(datagram);
    sum
}

/// A datagram's frame, whose receiver on the link is still to be written.
fn written(mac: MacAddr, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(HEADER + bytes.len()).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(len));
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(bytes);
    let checksum = sum(from.ip(), to.ip(), &datagram).complement_udp();
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    let hops = match to.ip().is_multicast() {
        true => HOPS_OF_GROUPS,
        false => HOPS,
    };
    let nobody = MacAddr::ZERO;
    let (kind, header) = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let fields = ipv4::Ipv4Fields {
                source,
                destination,
                tos: 0,
                id: 0,
                dont_fragment: false,
                ttl: hops,
                protocol: PROTOCOL,
                total_len: len.checked_add(20)?,
            };
            (EtherType::IPV4, ipv4::header(&fields).to_vec())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let fields = ipv6::Ipv6Fields {
                source,
                destination,
                traffic_class: 0,
                hop_limit: hops,
                next_header: PROTOCOL,
                payload_len: len,
            };
            (EtherType::IPV6, ipv6::header(&fields).to_vec())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    Some([&ether::header(nobody, mac, kind)[..], &header, &datagram].concat())
}
