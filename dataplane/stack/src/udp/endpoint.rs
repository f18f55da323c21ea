//! Endpoint: what one is, and which one a datagram is for.
//!
//! In: what owners want, datagrams with their ends. Out: states, datagrams in the order of their coming. Never: more than
//! [`limits::ENDPOINT_BUFFER`] bytes that wait; a frame: those are the stack's.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::RandomState,
    net::{IpAddr, SocketAddr},
};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::ports::Ports;
use crate::{HostDrop, Problem, limits};

/// What a datagram takes of a buffer beside its bytes: empty ones take room, too.
const OVERHEAD: usize = 64;

/// An endpoint; no other ever has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(u64);

/// Whom an endpoint speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Over IPv4.
    V4,
    /// Over IPv6 alone.
    V6,
    /// Over both; the addresses of IPv4 are mapped (RFC 4291, section 2.5.5.2).
    Dual,
}

/// How far an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no port.
    Initial,
    /// It has one.
    Bound,
    /// And one other that it speaks to.
    Connected,
    /// It is none any more.
    Closed,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What comes.
    Read,
    /// What is sent.
    Write,
    /// Both.
    Both,
}

/// What can be done without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Something came, or no more will.
    pub readable: bool,
    /// Something can be sent.
    pub writable: bool,
    /// There is an error to be taken, with the next call.
    pub failed: bool,
}

/// Why a call did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointError {
    /// It is closed.
    Closed,
    /// It has a port already.
    Bound,
    /// The port is taken, or a tunnel's, or none is left.
    InUse,
    /// The address is not ours, or of another family.
    NoAddress,
    /// It is not connected, and no destination was named.
    NoDestination,
    /// There is no way to the destination.
    NoRoute,
    /// The payload is longer than a datagram can be.
    TooLong,
    /// That direction was shut down.
    Shut,
    /// Nothing has come yet.
    WouldBlock,
    /// There are as many endpoints as there may be.
    Full,
    /// What was sent could not be delivered.
    Failed(Problem),
}

/// A datagram that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Where it came from.
    pub from: SocketAddr,
    /// And from which hardware address.
    pub mac: MacAddr,
    /// The address of ours, or the group, that it came to.
    pub to: IpAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
    /// When it came.
    pub came: Instant,
}

pub(super) struct Endpoint {
    pub(super) family: Family,
    /// Our address, if it has one alone.
    pub(super) local: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) remote: Option<SocketAddr>,
    groups: BTreeSet<IpAddr>,
    queue: VecDeque<Received>,
    queued: usize,
    pub(super) error: Option<Problem>,
    shut_read: bool,
    pub(super) shut_write: bool,
}

/// The ends by which an endpoint is found; `None` is any.
type Key = (u16, Option<IpAddr>, Option<SocketAddr>);

/// All of a stack.
pub(crate) struct Endpoints {
    key: RandomState,
    all: BTreeMap<EndpointId, Endpoint>,
    by_ends: BTreeMap<Key, EndpointId>,
    ports: Ports,
    next: u64,
}

impl Endpoint {
    fn key(&self) -> Option<Key> {
        Some((self.port?, self.local, self.remote))
    }

    pub(super) fn takes(&self, address: IpAddr) -> bool {
        match self.family {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
            Family::Dual => true,
        }
    }

    /// An address as its owner is told it.
    fn told(&self, address: IpAddr) -> IpAddr {
        match (self.family, address) {
            (Family::Dual, IpAddr::V4(address)) => address.to_ipv6_mapped().into(),
            _ => address,
        }
    }

    fn put(&mut self, mut datagram: Received) -> Result<(), HostDrop> {
        if self.shut_read || self.queued >= limits::ENDPOINT_BUFFER {
            return Err(HostDrop::UdpBufferFull);
        }
        datagram.from.set_ip(self.told(datagram.from.ip()));
        datagram.to = self.told(datagram.to);
        self.queued += datagram.bytes.len() + OVERHEAD;
        self.queue.push_back(datagram);
        Ok(())
    }
}

impl Endpoints {
    pub(crate) fn new(key: RandomState) -> Self {
        Self {
            key,
            all: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            ports: Ports::default(),
            next: 0,
        }
    }

    /// Ports of tunnels: their datagrams never come here.
    pub(super) fn leave(&mut self, ports: Vec<u16>) {
        self.ports.leave(ports);
    }

    pub(super) fn open(&mut self, family: Family) -> Result<EndpointId, EndpointError> {
        if self.all.len() >= limits::ENDPOINTS {
            return Err(EndpointError::Full);
        }
        let id = EndpointId(self.next);
        self.next += 1;
        let endpoint = Endpoint {
            family,
            local: None,
            port: None,
            remote: None,
            groups: BTreeSet::new(),
            queue: VecDeque::new(),
            queued: 0,
            error: None,
            shut_read: false,
            shut_write: false,
        };
        self.all.insert(id, endpoint);
        Ok(id)
    }

    pub(super) fn get(&self, id: EndpointId) -> Result<&Endpoint, EndpointError> {
        self.all.get(&id).ok_or(EndpointError::Closed)
    }

    pub(super) fn get_mut(&mut self, id: EndpointId) -> Result<&mut Endpoint, EndpointError> {
        self.all.get_mut(&id).ok_or(EndpointError::Closed)
    }

    pub(super) fn state(&self, id: EndpointId) -> State {
        match self.all.get(&id) {
            None => State::Closed,
            Some(endpoint) if endpoint.remote.is_some() => State::Connected,
            Some(endpoint) if endpoint.port.is_some() => State::Bound,
            Some(_) => State::Initial,
        }
    }

    /// Gives an endpoint a port, 0 being any that is free.
    pub(super) fn bind(
        &mut self,
        id: EndpointId,
        local: Option<IpAddr>,
        port: u16,
    ) -> Result<u16, EndpointError> {
        let endpoint = self.all.get_mut(&id).ok_or(EndpointError::Closed)?;
        if endpoint.port.is_some() {
            return Err(EndpointError::Bound);
        }
        let port = match port {
            0 => self.ports.take_any(&self.key, local),
            port => self.ports.take(port, local).then_some(port),
        };
        let port = port.ok_or(EndpointError::InUse)?;
        (endpoint.local, endpoint.port) = (local, Some(port));
        self.by_ends.insert((port, local, None), id);
        Ok(port)
    }

    /// Has it speak to one other, or to all again.
    pub(super) fn connect(
        &mut self,
        id: EndpointId,
        remote: Option<SocketAddr>,
    ) -> Result<(), EndpointError> {
        let endpoint = self.all.get_mut(&id).ok_or(EndpointError::Closed)?;
        let before = endpoint.key();
        endpoint.remote = remote;
        let after = endpoint.key();
        if let Some(after) = after
            && self.by_ends.get(&after).is_some_and(|&it| it != id)
        {
            endpoint.remote = before.and_then(|(_, _, remote)| remote);
            return Err(EndpointError::InUse);
        }
        if let (Some(before), Some(after)) = (before, after) {
            self.by_ends.remove(&before);
            self.by_ends.insert(after, id);
        }
        Ok(())
    }

    pub(super) fn close(&mut self, id: EndpointId) {
        let Some(endpoint) = self.all.remove(&id) else {
            return;
        };
        if let Some(key) = endpoint.key() {
            self.by_ends.remove(&key);
            self.ports.give_back(key.0, key.1);
        }
    }

    pub(super) fn shut(&mut self, id: EndpointId, side: Side) -> Result<(), EndpointError> {
        let endpoint = self.get_mut(id)?;
        endpoint.shut_read |= side != Side::Write;
        endpoint.shut_write |= side != Side::Read;
        Ok(())
    }

    pub(super) fn join(&mut self, id: EndpointId, group: IpAddr) -> Result<(), EndpointError> {
        let endpoint = self.get_mut(id)?;
        let fits = group.is_multicast() && endpoint.takes(group);
        if !fits || endpoint.groups.len() >= limits::ENDPOINT_GROUPS {
            return Err(EndpointError::NoAddress);
        }
        endpoint.groups.insert(group);
        Ok(())
    }

    pub(super) fn leave_group(
        &mut self,
        id: EndpointId,
        group: IpAddr,
    ) -> Result<(), EndpointError> {
        let left = self.get_mut(id)?.groups.remove(&group);
        left.then_some(()).ok_or(EndpointError::NoAddress)
    }

    pub(super) fn readiness(&self, id: EndpointId) -> Readiness {
        self.all
            .get(&id)
            .map_or_else(Readiness::default, |it| Readiness {
                readable: it.shut_read || it.error.is_some() || !it.queue.is_empty(),
                writable: !it.shut_write,
                failed: it.error.is_some(),
            })
    }

    pub(super) fn receive(&mut self, id: EndpointId) -> Result<Received, EndpointError> {
        let endpoint = self.get_mut(id)?;
        if let Some(problem) = endpoint.error.take() {
            return Err(EndpointError::Failed(problem));
        }
        match endpoint.queue.pop_front() {
            Some(datagram) => {
                endpoint.queued -= datagram.bytes.len() + OVERHEAD;
                Ok(datagram)
            }
            None if endpoint.shut_read => Err(EndpointError::Shut),
            None => Err(EndpointError::WouldBlock),
        }
    }

    /// Whether somebody here would take a datagram.
    pub(crate) fn wants(&self, from: SocketAddr, to: SocketAddr) -> bool {
        match to.ip().is_multicast() {
            true => self.of_group(from, to).next().is_some(),
            false => self.find(from, to).is_some(),
        }
    }

    /// Gives a datagram to whom it is for; a group's to all who joined it.
    ///
    /// # Errors
    /// `None` if nobody takes it, or under which name it is lost.
    pub(crate) fn deliver(
        &mut self,
        (from, mac): (SocketAddr, MacAddr),
        to: SocketAddr,
        bytes: &[u8],
        came: Instant,
    ) -> Result<(), Option<HostDrop>> {
        let takers: Vec<_> = match to.ip().is_multicast() {
            true => self.of_group(from, to).collect(),
            false => self.find(from, to).into_iter().collect(),
        };
        if takers.is_empty() {
            return Err(None);
        }
        let mut result = Ok(());
        for id in takers {
            let datagram = Received {
                from,
                mac,
                to: to.ip(),
                bytes: bytes.to_vec(),
                came,
            };
            if let Some(endpoint) = self.all.get_mut(&id) {
                result = endpoint.put(datagram).map_err(Some).and(result);
            }
        }
        result
    }

    /// The endpoint that says most about both ends.
    fn find(&self, from: SocketAddr, to: SocketAddr) -> Option<EndpointId> {
        let (local, remote) = (Some(to.ip()), Some(from));
        let keys = [(local, remote), (None, remote), (local, None), (None, None)];
        keys.into_iter().find_map(|(local, remote)| {
            let id = *self.by_ends.get(&(to.port(), local, remote))?;
            self.all.get(&id)?.takes(from.ip()).then_some(id)
        })
    }

    fn of_group(&self, from: SocketAddr, to: SocketAddr) -> impl Iterator<Item = EndpointId> + '_ {
        let is_taker = move |endpoint: &Endpoint| {
            endpoint.port == Some(to.port())
                && endpoint.groups.contains(&to.ip())
                && endpoint.remote.is_none_or(|remote| remote == from)
        };
        let all = self.all.iter();
        all.filter(move |(_, it)| is_taker(it)).map(|(&id, _)| id)
    }

    /// An error about a datagram between these ends; whether an endpoint is connected so.
    pub(crate) fn fail(&mut self, local: SocketAddr, remote: SocketAddr, problem: Problem) -> bool {
        let id = [Some(local.ip()), None].into_iter().find_map(|at| {
            let key = (local.port(), at, Some(remote));
            self.by_ends.get(&key)
        });
        let endpoint = id.and_then(|id| self.all.get_mut(id));
        endpoint.is_some_and(|endpoint| {
            endpoint.error = Some(problem);
            true
        })
    }
}
