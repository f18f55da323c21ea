//! The host stack of a DPDK uplink: what a kernel would do below UDP.
//!
//! In: Ethernet frames that workers punted, questions about destinations, the time.
//! Out: frames to send, the link-layer address of a destination's next hop, events when
//! one changes, how own addresses stand; datagrams out of fragments, what errors say about ours, what it learns of itself; bytes of connections
//! (`tcp`), datagrams of endpoints (`udp`). Never: a socket, a clock, a worker's state; redirects.
//!
//! One stack per scope ([`Stacks`]), which today is an uplink. Everything is bounded
//! (`limits`), nothing that the network sends can panic, and what is ignored is counted by name.

pub mod bfd;
mod dhcp;
pub mod dns;
mod drops;
mod exception;
mod groups;
pub mod guests;
mod icmp;
mod input;
pub mod ip;
mod learn;
mod learned;
pub mod limits;
mod liveness;
mod message;
mod neighbors;
mod own;
pub mod pmtu;
mod random;
mod routes;
mod slaac;
mod stacks;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod udp;
mod values;
mod ways;

use std::{
    collections::VecDeque,
    hash::RandomState,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use culvert_wire::{
    MacAddr, ether,
    icmp::IcmpError,
    mld,
    parse::{Headers, parse_frame},
    ports::OwnPorts,
};
use culvert_wireguard::Instant;

pub use self::{
    drops::{Drops, HostDrop},
    exception::may_leave,
    icmp::{Heard, Problem, Quoted, hear_v4, hear_v6},
    learned::{Held, Learned, LearnedAddress, Learns, Lease, Route, Teacher, Terms, Unusable},
    own::Standing,
    routes::{HostRoute, LEARNED_METRIC, Routes, Way, link_local},
    stacks::Stacks,
    values::{
        AwaitedNeighbor, Datagram, HostConfig, HostEvent, NeighborInfo, NeighborState, Resolution,
    },
};
use self::{
    groups::{Groups, Report},
    input::Budget,
    ip::{Expired, Ids, Reassembly},
    liveness::Liveness,
    neighbors::{Neighbors, Solicit},
    own::{Own, Say},
    random::Random,
    tcp::{Sleeper, Smol, Tcp},
};

/// The stack. Feed it with `handle_*` and `resolve`, then take all that `poll_frame`, `poll_segment`, `poll_event`,
/// `poll_datagram`, `poll_heard`, `poll_accepted` and `poll_for_kernel` have, then sleep until
/// [`HostStack::poll_timeout`].
pub struct HostStack {
    config: HostConfig,
    /// What that says, without addresses that are another's.
    routes: Routes,
    own: Own,
    groups: Groups,
    /// Hardware addresses of this process.
    kin: Vec<MacAddr>,
    neighbors: Neighbors,
    random: Random,
    output: VecDeque<Vec<u8>>,
    /// Frames of ours to ourselves.
    returning: VecDeque<Vec<u8>>,
    neighbor_replies: Budget,
    echo_replies: Budget,
    errors: icmp::Limits,
    reassembly: Reassembly,
    ids: Ids,
    datagrams: VecDeque<Datagram>,
    heard: VecDeque<Heard>,
    tcp: Tcp<Sleeper<Smol>>,
    segments: VecDeque<Vec<u8>>,
    /// The host's kernel shares the addresses: all but these ports are its.
    kernel: Option<Arc<OwnPorts>>,
    for_kernel: VecDeque<Vec<u8>>,
    learning: learn::Learning,
    endpoints: udp::Endpoints,
    waiting: VecDeque<udp::Waiting>,
    look_at: Option<Instant>,
    drops: Arc<Drops>,
    /// With the neighbor whose life is watched.
    liveness: Option<Liveness>,
}

impl HostStack {
    /// A stack that asks whether others have its addresses before it uses them; `key` is one that nobody else knows.
    #[must_use]
    pub fn new(config: HostConfig, key: RandomState, now: Instant) -> Self {
        Self::begin(config, key, |_| false, now)
    }

    /// The same, but those addresses that are `known` to be ours are used and announced at once.
    #[must_use]
    pub fn begin(
        config: HostConfig,
        key: RandomState,
        known: impl Fn(IpAddr) -> bool,
        now: Instant,
    ) -> Self {
        let mut stack = Self {
            routes: Routes::new(&config),
            own: Own::default(),
            groups: Groups::new(now),
            kin: Vec::new(),
            neighbors: Neighbors::new(Random::new(key.clone())),
            random: Random::new(key.clone()),
            output: VecDeque::new(),
            returning: VecDeque::new(),
            neighbor_replies: Budget::new(limits::HOST_REPLIES_PER_SECOND, now),
            echo_replies: Budget::new(limits::HOST_REPLIES_PER_SECOND, now),
            errors: icmp::Limits::new(key.clone(), now),
            reassembly: Reassembly::default(),
            tcp: Tcp::new(key.clone()),
            segments: VecDeque::new(),
            learning: learn::Learning::new(key.clone()),
            endpoints: udp::Endpoints::new(key.clone()),
            waiting: VecDeque::new(),
            look_at: None,
            ids: Ids::new(key),
            datagrams: VecDeque::new(),
            heard: VecDeque::new(),
            kernel: None,
            for_kernel: VecDeque::new(),
            drops: Arc::default(),
            config,
            liveness: None,
        };
        stack.own.set(stack.routes.addresses(), known, now);
        stack.groups.set(stack.routes.addresses(), now);
        stack.route(now);
        stack.handle_timeout(now);
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

    /// Takes a new configuration. Addresses that stay are used as before, others are asked for first; neighbors that are
    /// still on-link are kept, and those that aren't are lost (with an event). A new hardware address is announced for
    /// all addresses, and changes all neighbors' paths.
    pub fn reconfigure(&mut self, config: HostConfig, now: Instant) {
        let has_moved = config.mac != self.config.mac;
        self.config = config;
        let addresses = Routes::new(&self.config);
        self.own.set(addresses.addresses(), |_| false, now);
        self.groups.set(addresses.addresses(), now);
        self.route(now);
        if has_moved {
            self.neighbors.touch_all();
            self.own.announce(now);
        }
        self.keep_connections();
        self.handle_timeout(now);
    }

    /// The link has come up, maybe to another switch: all addresses are announced.
    pub fn link_came_up(&mut self, now: Instant) {
        self.own.announce(now);
        self.groups.say_again(now);
        self.handle_timeout(now);
    }

    /// What these say of addresses of ours is no conflict.
    fn know_kin(&mut self, macs: &[MacAddr]) {
        self.kin = macs.to_vec();
    }

    /// Routes without what is another's, and neighbors by them.
    fn route(&mut self, now: Instant) {
        self.routes = Routes::among(&self.config, |address| !self.own.is_anothers(address));
        let routes = &self.routes;
        self.neighbors.reconfigure(
            routes.routers(),
            &self.config.neighbors,
            |address| routes.is_neighbor(address),
            now,
        );
    }

    /// Takes an Ethernet frame from the wire.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        if let Err(reason) = self.frame(frame, now) {
            self.count(reason);
        }
        self.settle(now);
    }

    /// What frames lead to: routes without an address that another has, and what we have told ourselves.
    fn settle(&mut self, now: Instant) {
        if self.own.is_changed() {
            self.route(now);
        }
        // What comes of these waits for the next round.
        for _ in 0..self.returning.len() {
            if let Some(frame) = self.returning.pop_front()
                && let Err(reason) = self.own_frame(&frame, now)
            {
                self.count(reason);
            }
        }
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// The next event. Several changes of one neighbor between two calls are one event.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        if let Some((address, standing)) = self.own.poll_changed() {
            return Some(HostEvent::Own { address, standing });
        }
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
        self.report_groups(now);
        self.expire_own(now);
        self.send_liveness(now);
        if self.neighbors.next().is_some_and(|at| at <= now) {
            // What finds no room stays due: poll_frame makes room.
            let room = limits::HOST_OUTPUT.saturating_sub(self.output.len());
            for solicit in self.neighbors.expire(now, room) {
                self.solicit(solicit);
            }
            self.look_at_routers(now);
        }
        self.send_waiting(now);
        self.turn_connections(now);
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let at_once = Instant::from_nanos(0);
        let due = [
            self.connections_due(),
            (!self.returning.is_empty()).then_some(at_once),
            self.own.poll_timeout(),
            self.groups.poll_timeout(),
            self.waiting_due(),
            self.neighbors.next(),
            self.reassembly.poll_timeout(),
            self.learning.poll_timeout(),
            self.liveness.as_ref().map(Liveness::due),
        ];
        due.into_iter().flatten().min()
    }

    /// All neighbors, in the order of their addresses.
    pub fn neighbors(&self) -> impl Iterator<Item = NeighborInfo> + '_ {
        self.neighbors.iter()
    }

    /// Neighbors that were asked and have not answered, if that has changed since the last call.
    pub fn take_awaited(&mut self) -> Option<Vec<AwaitedNeighbor>> {
        self.neighbors.take_awaited()
    }

    /// Own addresses, and how they stand.
    pub fn own(&self) -> impl Iterator<Item = (IpAddr, Standing)> + '_ {
        self.own.iter()
    }

    /// The uplink's hardware address.
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.config.mac
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

    /// Reports are from the link-local address, while it is not used yet from nobody (RFC 3590).
    fn report_groups(&mut self, now: Instant) {
        let mac = self.config.mac;
        let near = link_local(mac);
        let source = match self.own.uses(near.into()) {
            true => near,
            false => Ipv6Addr::UNSPECIFIED,
        };
        for report in self.groups.expire(&mut self.random, now) {
            let frame = match report {
                Report::Records(records) => mld::report(mac, source, &records),
                Report::V1(group) => mld::report_v1(mac, source, group),
            };
            self.send(frame, limits::HOST_OUTPUT);
        }
    }

    /// Those that wait for an address of ours to be used are asked for once it is.
    fn expire_own(&mut self, now: Instant) {
        let mac = self.config.mac;
        let before = self.own.iter().filter(|(_, it)| it.is_used()).count();
        for say in self.own.expire(now, &mut self.random) {
            let frame = match say {
                Say::Probe(address) => message::probe(mac, address),
                Say::Announce(address) => message::announcement(mac, address),
            };
            self.send(frame, limits::HOST_OUTPUT);
        }
        let after = self.own.iter().filter(|(_, it)| it.is_used()).count();
        if after > before {
            self.route(now);
            self.neighbors.touch_all();
            self.neighbors.ask_again(now);
            // There may be an address to say it from, which routers insist on.
            self.groups.say_again(now);
            self.send_learners(now);
        }
    }

    fn solicit(&mut self, solicit: Solicit) {
        let frame = self
            .routes
            .asker(solicit.address)
            .filter(|&source| self.own.uses(source))
            .and_then(|source| message::solicitation(self.config.mac, source, solicit));
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
            && let Some(frame) = message::error(self.config.mac, error, headers, frame, ours)
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
        headers.ether.destination == self.config.mac
            && destination.is_some_and(|destination| self.own.uses(destination))
    }

    fn reply(&mut self, frame: Vec<u8>) {
        self.send(frame, limits::HOST_OUTPUT - limits::HOST_OUTPUT_RESERVED);
    }

    /// Sends a packet of ours between `ends`, in fragments if the link takes it no other way: all of them, or nothing.
    fn reply_whole(&mut self, frame: Vec<u8>, ends: (IpAddr, IpAddr)) {
        if frame.len() <= ether::HEADER_LEN + usize::from(self.config.mtu) {
            return self.reply(frame);
        }
        let id = self.ids.next(ends.0, ends.1);
        let fragments = ip::split(&frame, self.config.mtu, id);
        let room = limits::HOST_OUTPUT - limits::HOST_OUTPUT_RESERVED;
        if fragments.len() == 0 || self.output.len() + fragments.len() > room {
            self.count(HostDrop::OutputFull);
        } else {
            fragments.for_each(|fragment| self.send(fragment, room));
        }
    }

    fn send(&mut self, frame: Vec<u8>, room: usize) {
        debug_assert!(frame.len() > ether::HEADER_LEN, "a frame was not written");
        let is_ours = frame.starts_with(&self.config.mac.0);
        let (queue, room) = match is_ours {
            true => (&mut self.returning, limits::HOST_RETURNING),
            false => (&mut self.output, room),
        };
        if queue.len() < room {
            queue.push_back(frame);
        } else {
            self.count(HostDrop::OutputFull);
        }
    }

    fn count(&self, reason: HostDrop) {
        self.drops.count(reason);
    }
}
