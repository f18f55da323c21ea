//! The frontend against a backend that we did not write, and both backends side by side.
//!
//! The reference is a stock device (`stock`) on the rust-vmm crates. Every scenario runs against
//! it and against our port, which reflects frames in the same way. What the crates can't do is
//! left out, each with its reason:
//!
//! - packed rings: `virtio-queue` has none;
//! - calls without EVENT_IDX: `virtio-queue` ignores the driver's wish for none;
//! - mergeable buffers that appear together: `virtio-queue` publishes one by one (the scenarios
//!   wait for the frame's own chain, which comes last);
//! - truncated and looping chains: to `virtio-queue` they look like chains that end.
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod stock;

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use common::{Bench, PATIENCE, header, is_up, pattern, variants};
use culvert_vhost::frontend::{Frontend, FrontendConfig, Piece};
use culvert_vhost::{LinkDown, Port, PortDrop, PortEvent, RingOptions};
use culvert_wire::VnetHeader;
use stock::Stock;

const RX: usize = 0;
const TX: usize = 1;
const HEADER: usize = VnetHeader::LEN;

/// A backend that reflects, and the frontend that drives it.
struct Rig {
    frontend: Frontend,
    backend: Backend,
    name: &'static str,
}

enum Backend {
    Ours(Box<Bench>),
    Stock(Stock),
}

impl Rig {
    /// Both backends with running rings, filled by the frontend.
    fn both(config: &FrontendConfig) -> [Self; 2] {
        let mut rigs = Self::both_bare(config);
        for rig in &mut rigs {
            rig.frontend.start().unwrap();
            rig.wait_up();
        }
        rigs
    }

    /// Both backends, negotiated, without rings.
    fn both_bare(config: &FrontendConfig) -> [Self; 2] {
        let pairs = config.queue_pairs;
        let bench = Bench::new(|port| port.queue_pairs = pairs);
        let stock = Stock::new(pairs.into());
        let attach = |path: &std::path::Path| {
            let stream = UnixStream::connect(path).unwrap();
            let mut frontend = Frontend::attach(stream, config.clone()).unwrap();
            frontend.negotiate().unwrap();
            frontend.share_memory().unwrap();
            // Nothing that was wanted is missing: the scenarios test what they say.
            let rings = config.rings - RingOptions::IN_ORDER;
            assert_eq!(frontend.features() & rings.bits(), rings.bits());
            frontend
        };
        [
            Self {
                frontend: attach(&bench.path()),
                backend: Backend::Ours(Box::new(bench)),
                name: "ours",
            },
            Self {
                frontend: attach(stock.path()),
                backend: Backend::Stock(stock),
                name: "stock",
            },
        ]
    }

    fn wait_up(&self) {
        if let Backend::Ours(bench) = &self.backend {
            let pairs = self.frontend.queues.len() as u16 / 2;
            bench.wait(|event| is_up(event, pairs));
        }
    }

    fn wait_down(&self) {
        if let Backend::Ours(bench) = &self.backend {
            let reason = LinkDown::Stopped;
            bench.wait(|event| *event == PortEvent::LinkDown { reason });
        }
    }

    /// Lets our port's worker run; the stock device has threads.
    fn turn(&self) {
        if let Backend::Ours(bench) = &self.backend {
            for pair in 0..self.frontend.queues.len() as u16 / 2 {
                reflect(bench.port(), pair);
            }
        }
    }

    /// Chains that the device gave back so far, modulo 2^16.
    fn used(&self, ring: usize) -> u16 {
        let areas = self.frontend.queues[ring].driver.areas();
        self.frontend.memory.load(areas.device + 2)
    }

    /// Waits until a ring's used index is `wanted`.
    fn wait_used(&self, ring: usize, wanted: u16) {
        self.turn();
        let until = Instant::now() + PATIENCE;
        while self.used(ring) != wanted {
            assert!(
                Instant::now() < until,
                "{}: ring {ring} stands at {} instead of {wanted}",
                self.name,
                self.used(ring)
            );
            std::thread::yield_now();
        }
    }

    /// Waits before a new wish for calls: a chain is seen before the device has looked whether a
    /// call is wanted for it, and it must not find the next wish there.
    fn settle(&self) {
        if let Backend::Stock(stock) = &self.backend {
            stock.settle();
        }
    }

    /// Waits for calls, of which there is at least one, and takes them.
    fn wait_calls(&self, ring: usize) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.frontend.take_calls(ring) {
                0 => assert!(Instant::now() < until, "{}: no call", self.name),
                calls => return calls,
            }
            std::thread::yield_now();
        }
    }

    /// Ends the session; both backends must have survived all that they were given.
    fn finish(self) {
        let Self {
            frontend, backend, ..
        } = self;
        drop(frontend);
        match backend {
            Backend::Ours(bench) => {
                for pair in 0..bench.config.queue_pairs {
                    let tx = bench.port().guest_tx(pair);
                    assert_eq!(tx.fault(), None);
                    assert!(
                        PortDrop::ALL
                            .iter()
                            .all(|&drop| tx.counters().drops(drop) == 0)
                    );
                }
            }
            Backend::Stock(mut stock) => stock.join(),
        }
    }
}

/// Our port as a reflector: what finds no buffer stays in the guest TX ring.
fn reflect(port: &Port, pair: u16) {
    while let Some(mut tx) = port.guest_tx(pair).try_lock() {
        let count = tx.fetch(32);
        let mut done = 0;
        if let Ok(mut rx) = port.guest_rx(pair).try_lock() {
            while done < count {
                let frame = tx.frame(done);
                let (vnet, mut bytes) = (frame.vnet, vec![0; frame.len as usize]);
                assert_eq!(tx.copy(done, 0, &mut bytes), bytes.len());
                match rx.deliver(&vnet, &[&bytes]) {
                    Ok(()) => done += 1,
                    Err(PortDrop::RingFull) => break,
                    Err(reason) => panic!("{reason:?}"),
                }
            }
        }
        tx.complete(done);
        if done < count || count == 0 {
            return;
        }
    }
}

/// What both backends can do.
fn split_variants() -> impl Iterator<Item = FrontendConfig> {
    variants()
        .into_iter()
        .filter(|config| !config.rings.contains(RingOptions::PACKED))
}

fn sent_as(sent: &VnetHeader, got: &VnetHeader) -> bool {
    let num_buffers = got.num_buffers;
    *got == VnetHeader {
        num_buffers,
        ..*sent
    }
}

#[test]
fn frames_of_every_length_come_back() {
    const LENGTHS: [usize; 13] = [
        14, 15, 60, 64, 243, 244, 245, 257, 1514, 1518, 4096, 9014, 65_550,
    ];
    for config in split_variants() {
        for mut rig in Rig::both(&config) {
            let what = format!("{}: {config:?}", rig.name);
            let mut sent = 0;
            for (round, &len) in LENGTHS.iter().cycle().take(3 * LENGTHS.len()).enumerate() {
                let most = if config.indirect { 64 } else { 256 };
                if (len + HEADER).div_ceil(config.piece_len as usize) > most {
                    continue;
                }
                let (vnet, frame) = (header(round as u16), pattern(len, round as u64));
                assert!(rig.frontend.send_frame(0, &vnet, &frame), "{what}");
                sent += 1;
                rig.wait_used(TX, sent);
                let (got, bytes) = rig.frontend.receive_frame(0).unwrap();
                assert!(sent_as(&vnet, &got) && bytes == frame, "{what}: {len}");
                let buffers = (len + HEADER).div_ceil(config.buffer_len as usize);
                assert_eq!(usize::from(got.num_buffers), buffers, "{what}: {len}");
                assert!(rig.frontend.receive_frame(0).is_none());
            }
            rig.finish();
        }
    }
}

#[test]
fn bursts_wrap_around_the_ring_in_order() {
    for mut config in split_variants().filter(|config| config.piece_len > 100) {
        config.ring_size = 32;
        for mut rig in Rig::both(&config) {
            let mut next = 0u64;
            for _ in 0..100 {
                let first = next;
                while rig
                    .frontend
                    .send_frame(0, &VnetHeader::default(), &pattern(60, next))
                {
                    next += 1;
                    if next - first == 32 {
                        break;
                    }
                }
                assert!(next > first);
                rig.wait_used(TX, next as u16);
                for seed in first..next {
                    let (_, bytes) = rig.frontend.receive_frame(0).unwrap();
                    assert!(bytes == pattern(60, seed), "{}", rig.name);
                }
            }
            rig.finish();
        }
    }
}

#[test]
fn indices_wrap_around_at_16_bits() {
    for rings in [
        RingOptions::empty(),
        RingOptions::EVENT_IDX | RingOptions::MRG_RXBUF,
    ] {
        let config = FrontendConfig {
            rings,
            ..FrontendConfig::default()
        };
        for mut rig in Rig::both(&config) {
            let mut sent = 0u64;
            while sent < 66_000 {
                for seed in sent..sent + 250 {
                    let vnet = VnetHeader::default();
                    assert!(
                        rig.frontend
                            .send_frame(0, &vnet, &seed.to_le_bytes().repeat(2))
                    );
                }
                rig.wait_used(TX, (sent + 250) as u16);
                for seed in sent..sent + 250 {
                    let (_, bytes) = rig.frontend.receive_frame(0).unwrap();
                    assert!(
                        bytes == seed.to_le_bytes().repeat(2),
                        "{}: {seed}",
                        rig.name
                    );
                }
                sent += 250;
            }
            rig.finish();
        }
    }
}

#[test]
fn the_guest_is_called_only_when_it_asked() {
    let config = FrontendConfig {
        rings: RingOptions::EVENT_IDX | RingOptions::MRG_RXBUF,
        ..FrontendConfig::default()
    };
    for mut rig in Rig::both(&config) {
        let mut sent = 0;
        // Our port calls when a ring starts; the stock device does not.
        rig.frontend.take_calls(RX);
        for round in 0..200 {
            let is_wanted = round % 3 != 1;
            rig.settle();
            let Frontend { memory, queues, .. } = &mut rig.frontend;
            queues[RX].driver.set_calls(memory, is_wanted);
            for seed in 0..4 {
                let frame = pattern(60, seed);
                assert!(rig.frontend.send_frame(0, &VnetHeader::default(), &frame));
            }
            sent += 4;
            rig.wait_used(TX, sent);
            for seed in 0..4 {
                let (_, bytes) = rig.frontend.receive_frame(0).unwrap();
                assert!(bytes == pattern(60, seed), "{}", rig.name);
            }
            // One that was not asked for would turn up here or in the next round.
            if is_wanted {
                assert_eq!(rig.wait_calls(RX), 1, "{}: round {round}", rig.name);
            } else {
                assert_eq!(rig.frontend.take_calls(RX), 0, "{}", rig.name);
            }
        }
        rig.finish();
    }
}

#[test]
fn several_queue_pairs() {
    let config = FrontendConfig {
        queue_pairs: 4,
        rings: RingOptions::EVENT_IDX | RingOptions::MRG_RXBUF,
        ..FrontendConfig::default()
    };
    for mut rig in Rig::both(&config) {
        for round in 1..20u16 {
            for pair in 0..4 {
                let frame = pattern(1000 + usize::from(pair), round.into());
                assert!(rig.frontend.send_frame(pair, &header(pair), &frame));
            }
            for pair in 0..4 {
                rig.wait_used(2 * usize::from(pair) + 1, round);
                let (got, bytes) = rig.frontend.receive_frame(pair).unwrap();
                assert!(sent_as(&header(pair), &got));
                assert!(bytes == pattern(1000 + usize::from(pair), round.into()));
            }
        }
        rig.finish();
    }
}

#[test]
fn a_guest_that_reboots_is_served_again() {
    for config in split_variants().filter(|config| config.piece_len > 100) {
        for mut rig in Rig::both(&config) {
            for round in 0..3u64 {
                for sent in 1..=5 {
                    let frame = pattern(90, round);
                    assert!(rig.frontend.send_frame(0, &header(0), &frame));
                    rig.wait_used(TX, sent);
                    assert!(rig.frontend.receive_frame(0).unwrap().1 == frame);
                }
                for ring in [RX, TX] {
                    assert_eq!(rig.frontend.stop_ring(ring).unwrap(), 5, "{}", rig.name);
                }
                rig.wait_down();
                let Frontend { memory, queues, .. } = &mut rig.frontend;
                for queue in queues {
                    queue.driver.reset(memory);
                }
                rig.frontend.start().unwrap();
                rig.wait_up();
            }
            rig.finish();
        }
    }
}

#[test]
fn a_stopped_ring_goes_on_where_it_stood() {
    for config in split_variants().filter(|config| config.piece_len > 100) {
        for mut rig in Rig::both(&config) {
            for seed in 0..60u16 {
                if seed % 3 == 0 {
                    let base = rig.frontend.stop_ring(TX).unwrap();
                    assert_eq!(base, u32::from(seed), "{}", rig.name);
                    // Made available while the ring stands still.
                    assert!(
                        rig.frontend
                            .send_frame(0, &header(0), &pattern(90, seed.into()))
                    );
                    rig.frontend.start_ring(TX, base, None).unwrap();
                    // Our port looks by itself; others start with a kick.
                    rig.frontend.kick(TX);
                } else {
                    assert!(
                        rig.frontend
                            .send_frame(0, &header(0), &pattern(90, seed.into()))
                    );
                }
                rig.wait_used(TX, seed + 1);
                let (_, bytes) = rig.frontend.receive_frame(0).unwrap();
                assert!(bytes == pattern(90, seed.into()), "{}", rig.name);
            }
            rig.finish();
        }
    }
}

/// A driver without a policy: it does what the script says, and writes down what comes back.
struct Mirror {
    rig: Rig,
    /// Guest memory for buffers, by ring: one slot per chain id.
    slots: [u64; 2],
    tables: [u64; 2],
    /// Where each ring's used index is, or will be.
    used: [u16; 2],
    /// Pieces of the guest RX buffers that are out, by chain id.
    buffers: Vec<Vec<Piece>>,
    record: Vec<Entry>,
}

/// One thing that a driver sees.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// A chain that came back: ring, id, bytes written, and what they are.
    Used(usize, u16, u32, Vec<u8>),
    Base(usize, u32),
    Calls(u64),
}

impl Entry {
    /// In a line, without the bytes.
    fn shown(&self) -> String {
        match self {
            Self::Used(ring, id, written, _) => format!("ring {ring}: {id}, {written} bytes"),
            Self::Base(..) | Self::Calls(_) => format!("{self:?}"),
        }
    }
}

/// Guest memory per chain.
const SLOT: u64 = 80 * 1024;
const TABLE: u64 = 16 * 64;
const RING: u16 = 64;

impl Mirror {
    fn both(rings: RingOptions) -> [Self; 2] {
        let config = FrontendConfig {
            rings,
            ring_size: RING,
            memory: 64 << 20,
            buffer_len: 64,
            ..FrontendConfig::default()
        };
        Rig::both_bare(&config).map(|mut rig| {
            for ring in [RX, TX] {
                rig.frontend.start_ring(ring, 0, None).unwrap();
            }
            rig.wait_up();
            let memory = &mut rig.frontend.memory;
            let mut take = |each| [RX, TX].map(|_| memory.take(u64::from(RING) * each, 4096));
            let mut mirror = Self {
                slots: take(SLOT),
                tables: take(TABLE),
                rig,
                used: [0; 2],
                buffers: vec![Vec::new(); RING.into()],
                record: Vec::new(),
            };
            // Our port calls when a ring starts; the stock device does not.
            for ring in [RX, TX] {
                mirror.rig.frontend.take_calls(ring);
            }
            mirror.set_calls(false);
            mirror
        })
    }

    fn set_calls(&mut self, wanted: bool) {
        self.rig.settle();
        let Frontend { memory, queues, .. } = &mut self.rig.frontend;
        queues[RX].driver.set_calls(memory, wanted);
        queues[TX].driver.set_calls(memory, false);
    }

    /// Makes a chain of pieces of these lengths available; false without room.
    fn add(&mut self, ring: usize, lengths: &[u32], is_indirect: bool, bytes: &[u8]) -> bool {
        let Frontend { memory, queues, .. } = &mut self.rig.frontend;
        let driver = &mut queues[ring].driver;
        let entries = if is_indirect { 1 } else { lengths.len() as u16 };
        let Some(id) = driver.next_id(entries) else {
            return false;
        };
        let slot = self.slots[ring] + u64::from(id) * SLOT;
        let mut at = slot;
        let mut left = bytes;
        let pieces: Vec<Piece> = lengths
            .iter()
            .map(|&len| {
                if ring == TX {
                    let (now, rest) = left.split_at(len as usize);
                    memory.write(at, now);
                    left = rest;
                } else {
                    memory.write(at, &vec![0; len as usize]);
                }
                let piece = Piece {
                    guest: at,
                    len,
                    is_writable: ring == RX,
                };
                // A gap, so that a write past the end hits nothing that is compared as data.
                at += u64::from(len) + 3;
                piece
            })
            .collect();
        assert!(at - slot <= SLOT);
        let table = is_indirect.then_some(self.tables[ring] + u64::from(id) * TABLE);
        assert_eq!(driver.add(memory, &pieces, table), Some(id));
        if ring == RX {
            self.buffers[usize::from(id)] = pieces;
        }
        true
    }

    /// Notes the calls for the guest RX ring, which come behind the buffers.
    fn note_calls(&mut self, is_one_due: bool) {
        let calls = if is_one_due {
            self.rig.wait_calls(RX)
        } else {
            self.rig.frontend.take_calls(RX)
        };
        self.record.push(Entry::Calls(calls));
    }

    /// Stops both rings and starts them where they stood.
    fn pause(&mut self) {
        for ring in [RX, TX] {
            let base = self.rig.frontend.stop_ring(ring).unwrap();
            self.record.push(Entry::Base(ring, base));
            self.rig.frontend.start_ring(ring, base, None).unwrap();
            // Our port looks by itself; others start with a kick.
            self.rig.frontend.kick(ring);
        }
        self.rig.frontend.take_calls(RX);
    }

    fn kick(&mut self, ring: usize) {
        let Frontend { memory, queues, .. } = &mut self.rig.frontend;
        if queues[ring].driver.needs_kick(memory) {
            self.rig.frontend.kick(ring);
        }
    }

    /// Waits until the device gave back `counts` more chains, and takes them.
    fn collect(&mut self, counts: [u16; 2]) {
        for ring in [RX, TX] {
            self.used[ring] = self.used[ring].wrapping_add(counts[ring]);
            self.rig.wait_used(ring, self.used[ring]);
            let Frontend { memory, queues, .. } = &mut self.rig.frontend;
            while let Some((id, written)) = queues[ring].driver.collect(memory) {
                let mut bytes = Vec::new();
                if ring == RX {
                    for piece in &self.buffers[usize::from(id)] {
                        // With the gap behind it, which must stay as it was.
                        let mut part = vec![0; piece.len as usize + 3];
                        memory.read(piece.guest, &mut part);
                        bytes.extend(part);
                    }
                }
                self.record.push(Entry::Used(ring, id, written, bytes));
            }
        }
    }
}

/// A generator of numbers that is the same everywhere (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % limit
    }

    /// Cuts `total` bytes into 1 to `most` pieces, none of them empty.
    fn cut(&mut self, total: u32, most: u64) -> Vec<u32> {
        let mut lengths = Vec::new();
        let mut left = total;
        for _ in 1..1 + self.below(most) {
            if left > 1 {
                let now = 1 + self.below(u64::from(left - 1)) as u32;
                lengths.push(now);
                left -= now;
            }
        }
        lengths.push(left);
        lengths
    }
}

/// The same driver's actions for both backends, and what the specification says of them.
fn run_script(rings: RingOptions, seed: u64) {
    let is_mergeable = rings.contains(RingOptions::MRG_RXBUF);
    let may_indirect = rings.contains(RingOptions::INDIRECT_DESC);
    let has_events = rings.contains(RingOptions::EVENT_IDX);
    let mut numbers = Numbers(seed);
    let mut mirrors = Mirror::both(rings);
    // The model: room of the buffers and lengths of the frames that the device has.
    let (mut buffers, mut frames) = (VecDeque::new(), VecDeque::new());
    for step in 0..300u64 {
        // The wish comes first: a device that still looks sees a chain before its kick.
        let is_call_wanted = has_events && numbers.below(2) == 0;
        for mirror in &mut mirrors {
            mirror.set_calls(is_call_wanted);
        }
        // 1. Buffers.
        for _ in 0..numbers.below(20) {
            let room = if is_mergeable {
                1000 + numbers.below(2500) as u32
            } else {
                66_000
            };
            let lengths = numbers.cut(room, 4);
            let is_indirect = may_indirect && numbers.below(2) == 0;
            let done = mirrors
                .each_mut()
                .map(|mirror| mirror.add(RX, &lengths, is_indirect, &[]));
            assert_eq!(done[0], done[1]);
            if done[0] {
                buffers.push_back(room);
            }
        }
        // 2. Frames.
        for _ in 0..numbers.below(12) {
            let longest = if numbers.below(4) == 0 { 9000 } else { 200 };
            let len = 14 + numbers.below(longest) as usize;
            let mut bytes = header(step as u16).write().to_vec();
            bytes.extend(pattern(len, numbers.below(u64::MAX)));
            let lengths = numbers.cut(bytes.len() as u32, 6);
            let is_indirect = may_indirect && numbers.below(2) == 0;
            let done = mirrors
                .each_mut()
                .map(|mirror| mirror.add(TX, &lengths, is_indirect, &bytes));
            assert_eq!(done[0], done[1]);
            if done[0] {
                frames.push_back(bytes.len() as u32);
            }
        }
        // 3. What the device can do with them.
        let mut counts = [0; 2];
        while let Some(&need) = frames.front() {
            let mut sum = 0;
            let count = buffers.iter().take_while(|&&room| {
                let is_short = sum < need;
                sum += if is_short { room } else { 0 };
                is_short
            });
            let count = count.count();
            if sum < need {
                break;
            }
            buffers.drain(..count);
            frames.pop_front();
            counts[RX] += count as u16;
            counts[TX] += 1;
        }
        // 4. What it does.
        let is_pause = frames.is_empty() && numbers.below(8) == 0;
        for mirror in &mut mirrors {
            for ring in [RX, TX] {
                mirror.kick(ring);
            }
            mirror.collect(counts);
            if has_events {
                mirror.note_calls(is_call_wanted && counts[RX] > 0);
            }
            if is_pause {
                mirror.pause();
            }
        }
    }
    assert!(mirrors[0].record.len() > 1000);
    let [ours, stock] = mirrors;
    for (index, (ours, stock)) in ours.record.iter().zip(&stock.record).enumerate() {
        assert!(
            ours == stock,
            "{rings:?}, {seed}, entry {index}: {} and {}",
            ours.shown(),
            stock.shown()
        );
    }
    assert_eq!(ours.record.len(), stock.record.len());
    ours.rig.finish();
    stock.rig.finish();
}

const SEEDS: std::ops::Range<u64> = 1..4;

#[test]
fn both_backends_do_the_same_with_plain_rings() {
    SEEDS.for_each(|seed| run_script(RingOptions::empty(), seed));
}

#[test]
fn both_backends_do_the_same_with_mergeable_buffers() {
    SEEDS.for_each(|seed| run_script(RingOptions::MRG_RXBUF, seed));
}

#[test]
fn both_backends_do_the_same_with_indirect_tables_and_events() {
    let rings = RingOptions::INDIRECT_DESC | RingOptions::EVENT_IDX;
    SEEDS.for_each(|seed| run_script(rings, seed));
}

#[test]
fn both_backends_do_the_same_with_everything() {
    let rings = RingOptions::MRG_RXBUF | RingOptions::INDIRECT_DESC | RingOptions::EVENT_IDX;
    SEEDS.for_each(|seed| run_script(rings, seed));
}
