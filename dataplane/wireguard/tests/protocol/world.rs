//! Endpoints on a virtual clock: devices with a small data path of their own, and a network between them that
//! loses, delays, repeats and reorders.
//!
//! In: what a test does. Out: what arrived, and a log of everything that was on the wire. Never: a clock, a thread.
//!
//! ```text
//!        node 0                                     node 1
//!  test ─▶ worker ─── data ──▶ ┌─────────┐ ──▶ worker ─▶ inbox
//!            │ ▲               │ network │       │ ▲
//!  reports,  ▼ │ events        └─────────┘       ▼ │
//!  lossy   Device ─ handshakes ──▲     └──────▶ Device
//! ```
//!
//! The worker uses the crate's own types: `Keypair::reserve`, `receivable`, `replay`, `confirm`. What it
//! tells the device goes over a ring that may lose it, and by flags that are swept now and then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use culvert_wireguard::limits::MAX_STAGED_PACKETS;
use culvert_wireguard::message::{DATA_HEADER_LEN, DATA_MIN_LEN, DataHeader, Kind, TAG_LEN};
use culvert_wireguard::padding::padded_len;
use culvert_wireguard::{
    Budget, Config, Device, Event, Handshake, Instant, Keypair, Now, PeerConfig, PeerId,
    PresharedKey, PrivateKey, PublicKey, SendRefusal, Traffic,
};
use rand_core::{Rng, SeedableRng};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

pub(crate) const MTU: usize = 1420;
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A datagram that was put on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) from: usize,
    pub(crate) source: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Sent {
    pub(crate) fn kind(&self) -> Kind {
        Kind::of(&self.bytes).expect("nodes send well-formed messages")
    }

    pub(crate) fn is_keepalive(&self) -> bool {
        self.bytes.len() == DATA_MIN_LEN && self.kind() == Kind::Data
    }
}

/// How the network and the rings treat what they carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Datagrams lost, of 100.
    pub(crate) loss: u32,
    /// Datagrams delivered twice, of 100.
    pub(crate) duplicates: u32,
    /// The greatest delay: more than the time between two datagrams reorders them.
    pub(crate) delay: Duration,
    /// Reports of workers lost, of 100.
    pub(crate) ring_loss: u32,
    /// How often the flags behind the rings are swept.
    pub(crate) sweep: Duration,
}

impl Faults {
    /// Nothing is lost, everything arrives at once.
    pub(crate) const NONE: Self = Self {
        loss: 0,
        duplicates: 0,
        delay: Duration::ZERO,
        ring_loss: 0,
        sweep: Duration::ZERO,
    };
}

/// What a worker keeps per peer.
#[derive(Default)]
struct WorkerPeer {
    current: Option<Arc<Keypair>>,
    endpoint: Option<SocketAddr>,
    /// What waits for a key: the oldest makes room for the newest (kernel `device.c`).
    staged: VecDeque<Vec<u8>>,
    traffic: Traffic,
    moved: Option<SocketAddr>,
    needs_key: bool,
}

pub(crate) struct Node {
    pub(crate) device: Device,
    pub(crate) address: SocketAddr,
    pub(crate) public_key: PublicKey,
    /// Payloads that arrived, with their peer.
    pub(crate) inbox: Vec<(PeerId, Vec<u8>)>,
    /// All events, with their time.
    pub(crate) events: Vec<(Instant, Event)>,
    /// What became of each handshake datagram.
    pub(crate) verdicts: Vec<Handshake>,
    /// Payloads that had to make room, or were given up.
    pub(crate) staged_drops: usize,
    /// Why workers dropped data packets.
    pub(crate) data_drops: Vec<&'static str>,
    pub(crate) refusals: Vec<SendRefusal>,
    /// Handshake messages that the device believes to wait.
    pub(crate) backlog: usize,
    keypairs: BTreeMap<u32, Arc<Keypair>>,
    workers: BTreeMap<PeerId, WorkerPeer>,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) unix_offset: i64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) faults: Faults,
    pub(crate) wire: Vec<Sent>,
    /// Every key and counter that sealed a packet: none twice.
    sealed: HashSet<([u8; 32], u64)>,
    in_flight: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    order: u64,
    rng: ChaCha20Rng,
    next_sweep: Instant,
    pub(crate) budget: Budget,
}

impl World {
    /// Nodes at 192.0.2.1, .2, …, that all have each other as peers. Peer `n` of a node is the `n`th other node.
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        Self::with_config(nodes, seed, Config::default())
    }

    pub(crate) fn with_config(nodes: usize, seed: u64, config: Config) -> Self {
        let mut world = Self::strangers(nodes, seed, config);
        for a in 0..nodes {
            for b in (0..nodes).filter(|b| *b != a) {
                world.introduce(a, b);
            }
        }
        world
    }

    /// Nodes without peers.
    pub(crate) fn strangers(nodes: usize, seed: u64, config: Config) -> Self {
        let mut rng = rng(seed);
        let node = |n: usize| {
            let private_key = PrivateKey::generate(&mut rng);
            let public_key = private_key.public_key();
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            Node {
                device: Device::new(
                    config,
                    Some(private_key),
                    Box::new(ChaCha20Rng::from_seed(seed)),
                ),
                address: address(n),
                public_key,
                inbox: Vec::new(),
                events: Vec::new(),
                verdicts: Vec::new(),
                staged_drops: 0,
                data_drops: Vec::new(),
                refusals: Vec::new(),
                backlog: 0,
                keypairs: BTreeMap::new(),
                workers: BTreeMap::new(),
            }
        };
        let nodes = (0..nodes).map(node).collect();
        Self {
            now: Instant(1_000_000_000_000),
            unix_offset: 0,
            nodes,
            faults: Faults::NONE,
            wire: Vec::new(),
            sealed: HashSet::new(),
            in_flight: BinaryHeap::new(),
            order: 0,
            rng,
            next_sweep: Instant(0),
            budget: Budget::default(),
        }
    }

    /// Makes `b` a peer of `a`, with its endpoint.
    pub(crate) fn introduce(&mut self, a: usize, b: usize) -> PeerId {
        let config = PeerConfig {
            public_key: self.nodes[b].public_key,
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: Some(self.nodes[b].address),
        };
        self.add(a, config)
    }

    pub(crate) fn add(&mut self, node: usize, config: PeerConfig) -> PeerId {
        let endpoint = config.endpoint;
        let now = self.now();
        let peer = self.nodes[node].device.add_peer(config, now).unwrap();
        self.nodes[node].workers.insert(
            peer,
            WorkerPeer {
                endpoint,
                ..WorkerPeer::default()
            },
        );
        self.drain(node);
        peer
    }

    /// `b` is a peer of `a` again, as it was when it was parked.
    pub(crate) fn revive(&mut self, a: usize, b: usize) -> Option<PeerId> {
        let (now, key) = (self.now(), self.nodes[b].public_key);
        let peer = self.nodes[a].device.revive_peer(&key, now)?;
        let endpoint = self.nodes[a].device.peer(peer).unwrap().endpoint;
        let worker = WorkerPeer {
            endpoint,
            ..WorkerPeer::default()
        };
        self.nodes[a].workers.insert(peer, worker);
        self.drain(a);
        Some(peer)
    }

    pub(crate) fn now(&self) -> Now {
        let unix = i128::try_from(EPOCH.as_nanos()).unwrap()
            + i128::from(self.now.as_nanos())
            + i128::from(self.unix_offset) * 1_000_000_000;
        Now {
            monotonic: self.now,
            unix: Duration::from_nanos(u64::try_from(unix).unwrap()),
        }
    }

    /// The peer that `b` is to `a`.
    pub(crate) fn peer(&self, a: usize, b: usize) -> PeerId {
        self.nodes[a]
            .device
            .find(&self.nodes[b].public_key)
            .expect("they know each other")
    }

    /// Calls a device and passes on what comes out of it.
    pub(crate) fn device<R>(&mut self, node: usize, act: impl FnOnce(&mut Device, Now) -> R) -> R {
        let now = self.now();
        let result = act(&mut self.nodes[node].device, now);
        self.drain(node);
        result
    }

    /// A guest of `a` sends a packet to `b`.
    pub(crate) fn send(&mut self, a: usize, b: usize, payload: &[u8]) {
        assert!(!payload.is_empty());
        let peer = self.peer(a, b);
        self.send_to(a, peer, payload);
    }

    pub(crate) fn send_to(&mut self, a: usize, peer: PeerId, payload: &[u8]) {
        let node = &mut self.nodes[a];
        let worker = node.workers.entry(peer).or_default();
        if worker.staged.len() >= MAX_STAGED_PACKETS {
            worker.staged.pop_front();
            node.staged_drops += 1;
        }
        worker.staged.push_back(payload.to_vec());
        self.flush(a, peer);
    }

    /// Datagram `bytes` reaches node `to`, as if from `source`.
    pub(crate) fn inject(&mut self, to: usize, source: SocketAddr, bytes: &[u8]) {
        let now = self.now();
        if Kind::of(bytes) == Some(Kind::Data) {
            self.receive_data(to, source, bytes);
        } else {
            let node = &mut self.nodes[to];
            let verdict = node
                .device
                .handle_handshake(bytes, source, node.backlog, now);
            node.verdicts.push(verdict);
            self.drain(to);
        }
    }

    /// Lets `time` pass: deliveries, timers and sweeps happen in order.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.deliver_due();
        while let Some(at) = self.next_step().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.deliver_due();
            self.sweep_if_due();
            for node in 0..self.nodes.len() {
                while self.nodes[node]
                    .device
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    self.device(node, Device::handle_timeout);
                }
                self.drain(node);
            }
        }
        self.now = end;
    }

    /// Runs until no datagram is in flight.
    pub(crate) fn settle(&mut self) {
        self.run(self.faults.delay * 4 + self.faults.sweep * 2);
    }

    /// Loses what is on its way.
    pub(crate) fn lose_in_flight(&mut self) {
        self.in_flight.clear();
    }

    /// Delivers what is on its way to a node, and nothing else.
    pub(crate) fn deliver_to(&mut self, node: usize) {
        for Reverse((_, _, which)) in std::mem::take(&mut self.in_flight) {
            let Sent {
                source, to, bytes, ..
            } = self.wire[which].clone();
            if self.nodes[node].address == to {
                self.inject(node, source, &bytes);
            }
        }
    }

    /// A node has another address from now on.
    pub(crate) fn move_node(&mut self, node: usize, address: SocketAddr) {
        self.nodes[node].address = address;
    }

    pub(crate) fn endpoint(&self, a: usize, b: usize) -> Option<SocketAddr> {
        self.nodes[a].device.peer(self.peer(a, b)).unwrap().endpoint
    }

    pub(crate) fn current(&self, a: usize, b: usize) -> Option<Arc<Keypair>> {
        self.nodes[a].workers[&self.peer(a, b)].current.clone()
    }

    pub(crate) fn keypairs(&self, node: usize) -> Vec<Arc<Keypair>> {
        self.nodes[node].keypairs.values().cloned().collect()
    }

    pub(crate) fn staged(&self, a: usize, b: usize) -> usize {
        self.nodes[a].workers[&self.peer(a, b)].staged.len()
    }

    /// What node `from` put on the wire since `since`.
    pub(crate) fn sent_by(&self, from: usize, since: Instant) -> impl Iterator<Item = &Sent> {
        self.wire
            .iter()
            .filter(move |sent| sent.from == from && sent.at >= since)
    }

    pub(crate) fn count(&self, from: usize, since: Instant, kind: Kind) -> usize {
        self.sent_by(from, since)
            .filter(|sent| sent.kind() == kind)
            .count()
    }

    pub(crate) fn payloads(&self, node: usize) -> Vec<Vec<u8>> {
        self.nodes[node]
            .inbox
            .iter()
            .map(|(_, payload)| payload.clone())
            .collect()
    }

    /// Both sides have a session, `a` as its initiator, and have exchanged a packet each way.
    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        self.send(a, b, b"hello");
        self.settle();
        self.send(b, a, b"hello yourself");
        self.settle();
        assert_eq!(
            self.nodes[b].inbox.pop().map(|(_, p)| p),
            Some(b"hello".to_vec())
        );
        assert_eq!(
            self.nodes[a].inbox.pop().map(|(_, p)| p),
            Some(b"hello yourself".to_vec())
        );
    }

    // The worker.

    /// Sends what is staged, if there is a key for it.
    fn flush(&mut self, node: usize, peer: PeerId) {
        let now = self.now;
        let Some(worker) = self.nodes[node].workers.get_mut(&peer) else {
            return;
        };
        let staged = worker.staged.len();
        if staged == 0 {
            return;
        }
        let range = match &worker.current {
            Some(keypair) => keypair.reserve(staged, now),
            None => Err(SendRefusal::Invalidated),
        };
        match range {
            Ok(range) => {
                let keypair = Arc::clone(worker.current.as_ref().expect("it gave out counters"));
                let payloads: Vec<_> = worker.staged.drain(..).collect();
                worker.traffic.data_sent = Some(now);
                for (payload, counter) in payloads.iter().zip(range) {
                    self.seal(node, peer, &keypair, counter, payload);
                }
                self.report(node, peer);
            }
            Err(refusal) => {
                worker.needs_key = true;
                self.nodes[node].refusals.push(refusal);
                self.report(node, peer);
            }
        }
    }

    fn keepalive(&mut self, node: usize, peer: PeerId) {
        let now = self.now;
        let Some(worker) = self.nodes[node].workers.get_mut(&peer) else {
            return;
        };
        if !worker.staged.is_empty() {
            return self.flush(node, peer);
        }
        let Some(keypair) = worker.current.clone() else {
            return;
        };
        if let Ok(mut range) = keypair.reserve(1, now) {
            worker.traffic.keepalive_sent = Some(now);
            let counter = range.next().expect("one was reserved");
            self.seal(node, peer, &keypair, counter, &[]);
        }
        self.report(node, peer);
    }

    fn seal(&mut self, node: usize, peer: PeerId, keypair: &Keypair, counter: u64, payload: &[u8]) {
        let fresh = self.sealed.insert((*keypair.sending_key(), counter));
        assert!(fresh, "a counter was used twice with one key");
        assert!(
            self.now.since(keypair.created()) < secs(180),
            "an expired key sealed"
        );
        let padded = padded_len(payload.len(), MTU);
        let mut bytes = vec![0; DATA_HEADER_LEN + padded + TAG_LEN];
        let header = DataHeader {
            receiver: keypair.remote_index(),
            counter,
        };
        header.write(bytes.first_chunk_mut().unwrap());
        let body = &mut bytes[DATA_HEADER_LEN..DATA_HEADER_LEN + padded];
        body[..payload.len()].copy_from_slice(payload);
        let tag = cipher(keypair.sending_key())
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), body)
            .unwrap();
        bytes[DATA_HEADER_LEN + padded..].copy_from_slice(tag.as_ref());
        let Some(to) = self.nodes[node].workers[&peer].endpoint else {
            return;
        };
        self.transmit(node, to, bytes);
    }

    fn receive_data(&mut self, node: usize, source: SocketAddr, datagram: &[u8]) {
        let now = self.now;
        let outcome = self.open_data(node, datagram);
        let (keypair, payload) = match outcome {
            Ok(opened) => opened,
            Err(reason) => return self.nodes[node].data_drops.push(reason),
        };
        assert!(
            now.since(keypair.created()) < secs(180),
            "an expired key opened"
        );
        let peer = keypair.peer();
        let confirmed = keypair.confirm();
        let node_state = &mut self.nodes[node];
        let Some(worker) = node_state.workers.get_mut(&peer) else {
            return;
        };
        if worker.endpoint != Some(source) {
            worker.endpoint = Some(source);
            worker.moved = Some(source);
        }
        if payload.is_empty() {
            worker.traffic.keepalive_received = Some(now);
        } else {
            worker.traffic.data_received = Some(now);
            node_state.inbox.push((peer, payload));
        }
        if confirmed && !self.dice(self.faults.ring_loss) {
            let index = keypair.local_index();
            self.device(node, |device, now| {
                device.handle_confirmed(peer, index, now)
            });
        }
        self.report(node, peer);
    }

    fn open_data(
        &self,
        node: usize,
        datagram: &[u8],
    ) -> Result<(Arc<Keypair>, Vec<u8>), &'static str> {
        let header = DataHeader::parse(datagram).ok_or("malformed")?;
        let keypair = self.nodes[node]
            .keypairs
            .get(&header.receiver)
            .ok_or("unknown index")?;
        if !keypair.receivable(self.now) {
            return Err("expired");
        }
        let mut payload = datagram[DATA_HEADER_LEN..].to_vec();
        let opened = cipher(keypair.receiving_key())
            .open_in_place(nonce(header.counter), Aad::empty(), &mut payload)
            .map_err(|_| "forged")?
            .len();
        payload.truncate(opened);
        if !keypair.replay().accept(header.counter) {
            return Err("replayed");
        }
        // Tests send text: padding is what is zero at the end.
        while payload.last() == Some(&0) {
            payload.pop();
        }
        Ok((Arc::clone(keypair), payload))
    }

    /// Tells the device about a peer, unless the ring is full: then the next sweep does.
    fn report(&mut self, node: usize, peer: PeerId) {
        if self.faults.sweep.is_zero() {
            self.sweep_peer(node, peer);
        } else if self.nodes[node].workers[&peer].needs_key && !self.dice(self.faults.ring_loss) {
            self.nodes[node].workers.get_mut(&peer).unwrap().needs_key = false;
            self.device(node, |device, now| device.initiate(peer, now));
        }
    }

    fn sweep_if_due(&mut self) {
        if self.now < self.next_sweep {
            return;
        }
        self.next_sweep = self.now + self.faults.sweep.max(ms(10));
        for node in 0..self.nodes.len() {
            let peers: Vec<_> = self.nodes[node].workers.keys().copied().collect();
            for peer in peers {
                self.sweep_peer(node, peer);
            }
        }
    }

    fn sweep_peer(&mut self, node: usize, peer: PeerId) {
        let Some(worker) = self.nodes[node].workers.get_mut(&peer) else {
            return;
        };
        let traffic = std::mem::take(&mut worker.traffic);
        let moved = worker.moved.take();
        let needs_key = std::mem::take(&mut worker.needs_key);
        if let Some(endpoint) = moved {
            self.device(node, |device, _| device.handle_endpoint(peer, endpoint));
        }
        if traffic != Traffic::default() {
            self.device(node, |device, now| {
                device.handle_traffic(peer, traffic, now)
            });
        }
        if needs_key {
            self.device(node, |device, now| device.initiate(peer, now));
        }
    }

    fn drain(&mut self, node: usize) {
        let now = self.now();
        let device = &mut self.nodes[node].device;
        while device.handle_calls(&mut self.budget, 64, now) > 0 {}
        while let Some(event) = self.nodes[node].device.poll_event() {
            self.nodes[node].events.push((self.now, event.clone()));
            self.apply(node, event);
        }
        while let Some(transmit) = self.nodes[node].device.poll_transmit() {
            self.transmit(node, transmit.to, transmit.bytes().to_vec());
        }
    }

    fn apply(&mut self, node: usize, event: Event) {
        let state = &mut self.nodes[node];
        match event {
            Event::KeypairAdded { keypair, .. } => {
                let before = state.keypairs.insert(keypair.local_index(), keypair);
                assert!(before.is_none(), "an index was given out twice");
            }
            Event::KeypairRemoved { local_index, .. } => {
                let gone = state.keypairs.remove(&local_index);
                assert!(gone.is_some(), "a keypair was removed that isn't there");
            }
            Event::CurrentKeypair { peer, keypair } => {
                state.workers.entry(peer).or_default().current = keypair;
            }
            Event::SendKeepalive { peer } => self.keepalive(node, peer),
            Event::FlushStaged { peer } => self.flush(node, peer),
            Event::DropStaged { peer } => {
                let dropped = state
                    .workers
                    .entry(peer)
                    .or_default()
                    .staged
                    .drain(..)
                    .count();
                state.staged_drops += dropped;
            }
            Event::EndpointMoved { peer, endpoint } => {
                state.workers.entry(peer).or_default().endpoint = Some(endpoint);
            }
            Event::PeerRemoved { peer } => {
                state.workers.remove(&peer);
            }
            Event::SourceStale { .. }
            | Event::Unanswered { .. }
            | Event::HandshakeCompleted { .. }
            | Event::HandshakeGivenUp { .. } => {}
        }
    }

    // The network.

    fn transmit(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let source = self.nodes[from].address;
        self.wire.push(Sent {
            at: self.now,
            from,
            source,
            to,
            bytes,
        });
        let copies = if self.dice(self.faults.loss) {
            0
        } else {
            1 + usize::from(self.dice(self.faults.duplicates))
        };
        for _ in 0..copies {
            let delay = u64::try_from(self.faults.delay.as_nanos()).unwrap();
            let delay = if delay == 0 {
                0
            } else {
                self.rng.next_u64() % delay
            };
            self.order += 1;
            let at = self.now + Duration::from_nanos(delay);
            self.in_flight
                .push(Reverse((at, self.order, self.wire.len() - 1)));
        }
    }

    fn deliver_due(&mut self) {
        while let Some(Reverse((at, _, which))) = self.in_flight.peek().copied()
            && at <= self.now
        {
            self.in_flight.pop();
            let Sent {
                source, to, bytes, ..
            } = self.wire[which].clone();
            if let Some(node) = self.nodes.iter().position(|node| node.address == to) {
                self.inject(node, source, &bytes);
            }
        }
    }

    fn next_step(&self) -> Option<Instant> {
        let timers = self
            .nodes
            .iter()
            .filter_map(|node| node.device.poll_timeout());
        let calls = self
            .nodes
            .iter()
            .filter_map(|node| node.device.poll_calls(&self.budget));
        let delivery = self.in_flight.peek().map(|Reverse((at, ..))| *at);
        let sweep = (!self.faults.sweep.is_zero() && self.is_dirty()).then_some(self.next_sweep);
        timers.chain(calls).chain(delivery).chain(sweep).min()
    }

    fn is_dirty(&self) -> bool {
        let workers = self.nodes.iter().flat_map(|node| node.workers.values());
        workers
            .into_iter()
            .any(|w| w.needs_key || w.moved.is_some() || w.traffic != Traffic::default())
    }

    fn dice(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.next_u32() % 100 < percent
    }
}

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    ChaCha20Rng::from_seed(bytes)
}

pub(crate) fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(node).unwrap() + 1], 51820))
}

/// Another implementation than the crate's own, and one that is fast without optimization.
fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the right length"),
    )
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
