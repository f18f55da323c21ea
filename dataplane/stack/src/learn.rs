//! What the stack learns of itself.
//!
//! In: what it is to learn, messages for its clients, the time. Out: their frames, one value of all that was learned, when
//! it has changed. Never: a change of its own addresses: whoever configures it decides what of it is used; more than one
//! value a second, whatever servers and routers say.

use std::{
    hash::RandomState,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::{
    Checksum, MacAddr, dhcp as ports,
    parse::{Headers, L3, L4},
    udp,
};
use culvert_wireguard::Instant;

use super::{
    HostDrop, HostStack, dhcp,
    learned::{Held, Learned, Learns, Unusable},
    limits, link_local,
    neighbors::Answer,
    slaac,
};

/// The least time between two values.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// The clients, and what was told of them.
pub(super) struct Learning {
    key: RandomState,
    dhcp: Option<dhcp::Client>,
    routers: Option<slaac::Client>,
    /// Routers that were told; `None`: nothing was.
    known: Option<Vec<(IpAddr, MacAddr)>>,
    told: Learned,
    told_at: Option<Instant>,
}

impl Learning {
    pub(super) const fn new(key: RandomState) -> Self {
        Self {
            key,
            dhcp: None,
            routers: None,
            known: None,
            told: Learned {
                addresses: Vec::new(),
                routes: Vec::new(),
                mtu: None,
                dns: Vec::new(),
                lease: None,
            },
            told_at: None,
        }
    }

    /// When something is due, or what has changed may be told.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let dhcp = self.dhcp.as_ref().map(dhcp::Client::poll_timeout);
        let routers = self.routers.as_ref().and_then(slaac::Client::poll_timeout);
        let untold = (self.told_at).filter(|_| self.now() != self.told);
        let untold = untold.map(|at| at + TOLD_AGAIN);
        [dhcp, routers, untold].into_iter().flatten().min()
    }

    fn now(&self) -> Learned {
        let mut learned = Learned::default();
        if let Some(lease) = self.dhcp.as_ref().and_then(dhcp::Client::lease) {
            learned.take_lease(lease);
        }
        if let Some(routers) = &self.routers {
            routers.tells(&mut learned);
        }
        learned
    }

    fn poll(&mut self, now: Instant) -> Option<Learned> {
        let is_rested = (self.told_at).is_none_or(|at| at.is_older_than(TOLD_AGAIN, now));
        let learned = is_rested.then(|| self.now())?;
        if learned == self.told {
            return None;
        }
        self.told_at = Some(now);
        self.told = learned;
        Some(self.told.clone())
    }
}

impl HostStack {
    /// Learns this from now on; `held` is the lease of an earlier run. What is not to be learned any more is given back
    /// and forgotten.
    pub fn learn_own(&mut self, learns: Learns, held: Option<Held>, now: Instant) {
        let (mac, learning) = (self.config.mac, &mut self.learning);
        let mut left = Vec::new();
        match (learns.dhcp4, learning.dhcp.take()) {
            (true, Some(client)) => learning.dhcp = Some(client),
            (true, None) => {
                let key = learning.key.clone();
                learning.dhcp = Some(dhcp::Client::new(mac, key, held, now));
            }
            (false, client) => left.extend(client.into_iter().flat_map(dhcp::Client::release)),
        }
        match (learns.accept_ra, &learning.routers) {
            (true, Some(_)) => {}
            (true, None) => {
                let key = learning.key.clone();
                learning.routers = Some(slaac::Client::new(mac, key, now));
            }
            (false, _) => learning.routers = None,
        }
        for frame in left {
            self.send(frame, limits::HOST_OUTPUT);
        }
        self.send_learners(now);
    }

    /// From now on addresses of this prefix are not taken of DHCP servers: one that is lent is given back, and another is
    /// asked for, ever later. `None`: all are.
    pub fn refuse_lease(&mut self, unusable: Option<Unusable>, now: Instant) {
        if let Some(client) = &mut self.learning.dhcp {
            client.refuse(unusable, now);
            self.send_learners(now);
        }
    }

    /// The exchange in which its DHCP client waits for an answer (RFC 2131, section 2: `xid`).
    #[must_use]
    pub fn lease_exchange(&self) -> Option<u32> {
        self.learning.dhcp.as_ref()?.exchange()
    }

    /// Routers that are known, each where it has answered, if that has changed since the last call.
    pub fn take_routers(&mut self) -> Option<Vec<(IpAddr, MacAddr)>> {
        let client = self.learning.routers.iter();
        let known: Vec<_> = client.flat_map(slaac::Client::routers).collect();
        if self.learning.known.as_ref() == Some(&known) {
            return None;
        }
        self.learning.known = Some(known.clone());
        Some(known)
    }

    /// What was learned, all of it, if that has changed since it was told.
    pub fn poll_learned(&mut self, now: Instant) -> Option<Learned> {
        self.learning.poll(now)
    }

    pub(super) fn handle_learning(&mut self, now: Instant) {
        if let Some(client) = &mut self.learning.dhcp {
            client.handle_timeout(now);
        }
        self.send_learners(now);
        self.look_at_routers(now);
    }

    /// A UDP packet that is the DHCP client's, if there is one.
    pub(super) fn lent(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        now: Instant,
    ) -> Option<Result<(), HostDrop>> {
        let (L3::V4(_), L4::Udp(udp)) = (headers.l3, headers.l4) else {
            return None;
        };
        let ends = (udp.source_port, udp.destination_port);
        let client = self.learning.dhcp.as_mut()?;
        if ends != (ports::SERVER_V4, ports::CLIENT_V4) {
            return None;
        }
        let payload = payload(headers, frame).ok_or(HostDrop::Malformed);
        let from = headers.ether.source;
        let taken = payload.and_then(|payload| client.handle_message(payload, from, now));
        self.send_learners(now);
        Some(taken)
    }

    /// A router's advertisement.
    pub(super) fn advertised(
        &mut self,
        headers: &Headers,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), HostDrop> {
        let client = self.learning.routers.as_mut();
        let client = client.ok_or(HostDrop::NotServed)?;
        let taken = client.handle_advertisement(headers, frame, now);
        self.send_learners(now);
        self.look_at_routers(now);
        taken
    }

    /// Of routers those count that answer.
    pub(super) fn look_at_routers(&mut self, now: Instant) {
        let Some(client) = &mut self.learning.routers else {
            return;
        };
        let neighbors = &self.neighbors;
        let known = |router: Ipv6Addr, since| match neighbors.answered_since(router.into(), since) {
            Some(answered) => slaac::Presence::There(answered),
            None if neighbors.answers(router.into()) == Some(false) => slaac::Presence::Silent,
            None => slaac::Presence::Unknown,
        };
        let taken = client.look(known, now);
        while let Some(reason) = client.poll_lost() {
            self.drops.count(reason);
        }
        if let Err(reason) = taken {
            self.count(reason);
        }
        self.send_learners(now);
    }

    /// Asks routers whether they are there, once there is an address to ask from.
    fn ask_routers(&mut self, now: Instant) {
        let near = link_local(self.config.mac).into();
        while self.own.uses(near)
            && let Some(routers) = &mut self.learning.routers
            && let Some(router) = routers.poll_question()
        {
            match self.neighbors.probe(router, now) {
                Answer::Ask(solicit) => self.solicit(solicit),
                Answer::Full => self.count(HostDrop::NeighborsFull),
                Answer::Known(_) | Answer::Waiting => {}
            }
        }
    }

    /// Another host has an address that was to be ours.
    pub(super) fn decline(&mut self, address: IpAddr, now: Instant) {
        if let (IpAddr::V4(address), Some(client)) = (address, &mut self.learning.dhcp) {
            client.handle_duplicate(address, now);
            self.send_learners(now);
        }
    }

    pub(super) fn send_learners(&mut self, now: Instant) {
        self.ask_routers(now);
        let next = |learning: &mut Learning| {
            let dhcp = learning.dhcp.as_mut().and_then(dhcp::Client::poll_frame);
            dhcp.or_else(|| learning.routers.as_mut()?.poll_frame())
        };
        while let Some(frame) = next(&mut self.learning) {
            self.send(frame, limits::HOST_OUTPUT);
        }
    }
}

/// What a UDP packet over IPv4 carries, if its checksum says so. A kernel's interface leaves the sum of the ends there.
fn payload<'f>(headers: &Headers, frame: &'f [u8]) -> Option<&'f [u8]> {
    let (L3::V4(ip), L4::Udp(header)) = (headers.l3, headers.l4) else {
        return None;
    };
    let whole = frame.get(headers.l4_offset..headers.l4_offset + usize::from(header.length))?;
    let len = u32::from(header.length);
    let mut sum = Checksum::pseudo_v4(ip.source, ip.destination, udp::PROTOCOL, len);
    let field = u16::from_be_bytes(*whole.get(6..)?.first_chunk()?);
    let is_partial = field == 0 || field == sum.value();
    sum.add(whole);
    (is_partial || sum.is_valid()).then(|| whole.get(udp::HEADER_LEN..))?
}
