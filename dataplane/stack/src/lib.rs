//! The host stack of a DPDK uplink: what a kernel would do below UDP.
//!
//! In: Ethernet frames that workers punted, questions about destinations, the time.
//! Out: frames to send, the link-layer address of a destination's next hop, events when
//! one changes; datagrams out of fragments, what errors say about ours, what it learns of itself; bytes of connections
//! (`tcp`). Never: a socket, a clock, a worker's state; redirects.
//!
//! One stack per scope ([`Stacks`]), which today is an uplink. Everything is bounded
//! (`limits`), nothing that the network sends can panic, and what is ignored is counted by name.

mod dhcp;
mod drops;
mod exception;
pub mod guests;
mod icmp;
mod input;
pub mod ip;
mod learn;
mod learned;
pub mod limits;
mod message;
mod neighbors;
pub mod pmtu;
mod routes;
mod slaac;
mod stacks;
pub mod tcp;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, hash::RandomState, net::IpAddr, sync::Arc, time::Duration};

use culvert_wire::{
    MacAddr, ether,
    icmp::IcmpError,
    parse::{Headers, parse_frame},
    ports::OwnPorts,
};
use culvert_wireguard::Instant;

pub use self::{
    drops::{Drops, HostDrop},
    exception::may_leave,
    icmp::{Heard, Problem, Quoted},
    learned::{Held, Learned, LearnedAddress, Learns, Lease, Route, Teacher, Terms},
    routes::{Routes, Way, link_local},
    stacks::Stacks,
};
use self::{
    input::Budget,
    ip::{Expired, Ids, Reassembly},
    neighbors::{Answer, Neighbors, Solicit},
    tcp::{Smol, Tcp},
};

/// How often an address is announced, and how far apart (RFC 5227, section 1.1:
/// `ANNOUNCE_NUM`, `ANNOUNCE_INTERVAL`).
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What the stack is and where it sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The uplink's hardware address.
    pub mac: MacAddr,
    /// Own addresses with the lengths of their on-link prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Prefixes behind routers: address, length, the router; one that is unspecified: the prefix is on the link.
    pub routes: Vec<(IpAddr, u8, IpAddr)>,
    /// The longest IP packet that the link takes.
    pub mtu: u16,
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Known.
    Resolved {
        /// The address of ours to send from.
        source: IpAddr,
        /// Who is asked for the way: the destination, or a router.
        next_hop: IpAddr,
        /// Where that is.
        mac: MacAddr,
    },
    /// The next hop is being asked; an event follows when it answers.
    Pending {
        /// The address of ours to send from.
        source: IpAddr,
        /// Who is being asked for.
        next_hop: IpAddr,
    },
    /// No prefix or route holds the destination, or no address of ours can reach it.
    NoRoute,
}

/// What the control core must react to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A neighbor's link-layer address became known, changed or was lost.
    Neighbor {
        /// The neighbor.
        address: IpAddr,
    },
}

/// How much is known of a neighbor (RFC 4861, section 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeighborState {
    /// Asked, not answered yet.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Known, and asked whether it is still there.
    Probing,
    /// Didn't answer.
    Failed,
}

/// A neighbor as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, if known.
    pub mac: Option<MacAddr>,
    /// How much is known.
    pub state: NeighborState,
    /// When it last answered us.
    pub confirmed: Option<Instant>,
}

/// A UDP datagram that came in fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The frame that it would have been.
    pub frame: Vec<u8>,
    /// A number that all of its source have: who spreads datagrams by it keeps their order.
    pub spread: usize,
}

/// The stack. Feed it with `handle_*` and `resolve`, then take all that `poll_frame`, `poll_segment`, `poll_event`,
/// `poll_datagram`, `poll_heard`, `poll_accepted` and `poll_for_kernel` have, then sleep until
/// [`HostStack::poll_timeout`].
pub struct HostStack {
    mac: MacAddr,
    mtu: u16,
    routes: Routes,
    neighbors: Neighbors,
    output: VecDeque<Vec<u8>>,
    announcements_left: u8,
    announce_at: Option<Instant>,
    defended: Option<Instant>,
    neighbor_replies: Budget,
    echo_replies: Budget,
    errors: icmp::Limits,
    reassembly: Reassembly,
    ids: Ids,
    datagrams: VecDeque<Datagram>,
    heard: VecDeque<Heard>,
    tcp: Tcp<Smol>,
    segments: VecDeque<Vec<u8>>,
    /// The host's kernel shares the addresses: all but these ports are its.
    kernel: Option<Arc<OwnPorts>>,
    for_kernel: VecDeque<Vec<u8>>,
    learning: learn::Learning,
    drops: Arc<Drops>,
}

impl HostStack {
    /// A stack that announces its addresses; `key` is one that nobody else knows.
    #[must_use]
    pub fn new(config: HostConfig, key: RandomState, now: Instant) -> Self {
        let routes = Routes::new(&config);
        let mut neighbors = Neighbors::default();
        neighbors.reconfigure(routes.routers(), |_| false);
        let mut stack = Self {
            mac: config.mac,
            mtu: config.mtu,
            routes,
            neighbors,
            output: VecDeque::new(),
            announcements_left: 0,
            announce_at: None,
            defended: None,
            neighbor_replies: Budget::new(limits::HOST_REPLIES_PER_SECOND, now),
            echo_replies: Budget::new(limits::HOST_REPLIES_PER_SECOND, now),
            errors: icmp::Limits::new(key.clone(), now),
            reassembly: Reassembly::default(),
            tcp: Tcp::new(key.clone(), now),
            segments: VecDeque::new(),
            learning: learn::Learning::new(key.clone()),
            ids: Ids::new(key),
            datagrams: VecDeque::new(),
            heard: VecDeque::new(),
            kernel: None,
            for_kernel: VecDeque::new(),
            drops: Arc::default(),
        };
        stack.announce(now);
        stack
    }

    /// The same, which counts what it ignores there.
    #[must_use]
    pub fn counting(mut self, drops: Arc<Drops>) -> Self {
        self.drops = drops;
        self
    }

    /// From now on the host's kernel has what is to none of these ports ([`Self::poll_for_kernel`]), nor otherwise ours;
    /// `None`: there is no way to it.
    pub fn share(&mut self, ports: Option<Arc<OwnPorts>>) {
        self.kernel = ports;
    }

    /// Takes a new configuration and announces the addresses if they or the hardware
    /// address changed. Neighbors that are still on-link are kept; those that aren't are
    /// lost (with an event), and a new hardware address changes all of them.
    pub fn reconfigure(&mut self, config: HostConfig, now: Instant) {
        let routes = Routes::new(&config);
        let same = routes.addresses().eq(self.routes.addresses()) && config.mac == self.mac;
        self.neighbors
            .reconfigure(routes.routers(), |address| routes.is_neighbor(address));
        if config.mac != self.mac {
            self.neighbors.touch_all();
        }
        self.mac = config.mac;
        self.mtu = config.mtu;
        self.routes = routes;
        self.keep_connections();
        if !same {
            self.announce(now);
        }
    }

    /// Announces all addresses, now and again a little later; also useful when the link
    /// has come up.
    pub fn announce(&mut self, now: Instant) {
        self.announcements_left = ANNOUNCEMENTS;
        self.announce_once(now);
    }

    /// Takes an Ethernet frame from the wire.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        if let Err(reason) = self.frame(frame, now) {
            self.count(reason);
        }
    }

    /// The way to `destination`; asks the next hop if it isn't known.
    ///
    /// A next hop is asked three times, a second apart; when none of that is answered,
    /// only another call has it asked again. From the first call on it is in use: it is
    /// kept fresh, and whatever changes about it is an event.
    pub fn resolve(&mut self, destination: IpAddr, now: Instant) -> Resolution {
        let Some(Way { source, next_hop }) = self.routes.way(destination) else {
            return Resolution::NoRoute;
        };
        match self.seek(next_hop, now) {
            Some(mac) => Resolution::Resolved {
                source,
                next_hop,
                mac,
            },
            None => Resolution::Pending { source, next_hop },
        }
    }

    /// The same for a next hop ([`Routes::way`]): where it is, is told by an event, at once if it is known.
    pub fn ask(&mut self, next_hop: IpAddr, now: Instant) {
        if self.routes.is_neighbor(next_hop) && self.seek(next_hop, now).is_some() {
            self.neighbors.tell(next_hop);
        }
    }

    fn seek(&mut self, next_hop: IpAddr, now: Instant) -> Option<MacAddr> {
        match self.neighbors.ask(next_hop, now) {
            Answer::Known(mac) => return Some(mac),
            Answer::Ask(solicit) => self.solicit(solicit),
            Answer::Waiting => {}
            Answer::Full => self.count(HostDrop::NeighborsFull),
        }
        None
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// The next event. Several changes of one neighbor between two calls are one event.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        let address = self.neighbors.poll_changed()?;
        self.tcp.wake();
        Some(HostEvent::Neighbor { address })
    }

    /// The next UDP datagram to us that came in fragments.
    pub fn poll_datagram(&mut self) -> Option<Datagram> {
        self.datagrams.pop_front()
    }

    /// The next error about a datagram that says to be ours.
    pub fn poll_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// The next frame for the host's kernel.
    pub fn poll_for_kernel(&mut self) -> Option<Vec<u8>> {
        self.for_kernel.pop_front()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.handle_learning(now);
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_once(now);
        }
        if self.neighbors.next().is_some_and(|at| at <= now) {
            // What finds no room stays due: poll_frame makes room.
            let room = limits::HOST_OUTPUT.saturating_sub(self.output.len());
            for solicit in self.neighbors.expire(now, room) {
                self.solicit(solicit);
            }
        }
        self.turn_connections(now);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [
            self.connections_due(),
            self.announce_at,
            self.neighbors.next(),
            self.reassembly.poll_timeout(),
            self.learning.poll_timeout(),
        ];
        due.into_iter().flatten().min()
    }

    /// All neighbors, in the order of their addresses.
    pub fn neighbors(&self) -> impl Iterator<Item = NeighborInfo> + '_ {
        self.neighbors.iter()
    }

    /// Where a neighbor is, if that is known; it is not asked.
    #[must_use]
    pub fn neighbor(&self, address: IpAddr) -> Option<MacAddr> {
        self.neighbors.mac(address)
    }

    /// The uplink's hardware address.
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Own addresses, the link-local one among them: what a classifier must let pass.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.routes.addresses()
    }

    /// What was ignored, by name, with counts above 0.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.drops.iter()
    }

    /// How often `reason` occurred.
    #[must_use]
    pub fn dropped(&self, reason: HostDrop) -> u64 {
        self.drops.of(reason)
    }

    /// What packets in fragments take, in bytes: at most [`limits::REASSEMBLY_HIGH`].
    #[must_use]
    pub const fn reassembly_memory(&self) -> usize {
        self.reassembly.memory()
    }

    /// Whose packet did not come together is told, if its first fragment came (RFC 1122, section 3.3.2; RFC 8200,
    /// section 4.5).
    fn expire(&mut self, now: Instant) {
        for _ in 0..limits::EXPIRED_AT_ONCE {
            match self.reassembly.expire(now) {
                None => return,
                Some(Expired::Refused) => {}
                Some(Expired::Incomplete { first }) => {
                    self.count(HostDrop::ReassemblyTimeout);
                    let first = first.unwrap_or_default();
                    let len = u32::try_from(first.len()).unwrap_or(0);
                    if let Ok(headers) = parse_frame(&first, len) {
                        self.tell(IcmpError::ReassemblyTimeExceeded, &headers, &first, now);
                    }
                }
            }
        }
    }

    fn announce_once(&mut self, now: Instant) {
        let addresses: Vec<_> = self.routes.addresses().collect();
        for address in addresses {
            self.reply(message::announcement(self.mac, address));
        }
        self.announcements_left = self.announcements_left.saturating_sub(1);
        self.announce_at = (self.announcements_left > 0).then(|| now + ANNOUNCE_AGAIN_AFTER);
    }

    fn solicit(&mut self, solicit: Solicit) {
        let frame = self
            .routes
            .asker(solicit.address)
            .and_then(|source| message::solicitation(self.mac, source, solicit));
        if let Some(frame) = frame {
            self.send(frame, limits::HOST_OUTPUT);
        }
    }

    /// Tells who sent us a packet what is wrong with it, if that may be told and was not told too often.
    fn tell(&mut self, error: IcmpError, headers: &Headers, frame: &[u8], now: Instant) {
        let Some((sender, ours)) = headers.addresses() else {
            return;
        };
        if self.is_to_us(headers)
            && let Some(frame) = message::error(self.mac, error, headers, frame, ours)
        {
            match self.errors.take(sender, now) {
                true => self.reply(frame),
                false => self.count(HostDrop::ErrorLimited),
            }
        }
    }

    /// Whether a packet is to us alone, by frame and by address.
    fn is_to_us(&self, headers: &Headers) -> bool {
        let destination = headers.addresses().map(|(_, destination)| destination);
        headers.ether.destination == self.mac
            && destination.is_some_and(|destination| self.routes.owns(destination))
    }

    fn reply(&mut self, frame: Vec<u8>) {
        self.send(frame, limits::HOST_OUTPUT - limits::HOST_OUTPUT_RESERVED);
    }

    /// Sends a packet of ours between `ends`, in fragments if the link takes it no other way: all of them, or nothing.
    fn reply_whole(&mut self, frame: Vec<u8>, ends: (IpAddr, IpAddr)) {
        if frame.len() <= ether::HEADER_LEN + usize::from(self.mtu) {
            return self.reply(frame);
        }
        let id = self.ids.next(ends.0, ends.1);
        let fragments = ip::split(&frame, self.mtu, id);
        let room = limits::HOST_OUTPUT - limits::HOST_OUTPUT_RESERVED;
        if fragments.len() == 0 || self.output.len() + fragments.len() > room {
            self.count(HostDrop::OutputFull);
        } else {
            self.output.extend(fragments);
        }
    }

    fn send(&mut self, frame: Vec<u8>, room: usize) {
        debug_assert!(frame.len() > ether::HEADER_LEN, "a frame was not written");
        if self.output.len() < room {
            self.output.push_back(frame);
        } else {
            self.count(HostDrop::OutputFull);
        }
    }

    fn count(&self, reason: HostDrop) {
        self.drops.count(reason);
    }
}
