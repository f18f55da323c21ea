//! The whole way out against the seal alone: 64 KiB frames from a guest into a DPDK device that takes everything.
//!
//! In: two processors, libdpdk's `net_null`. Out: nanoseconds per frame both ways, and the median of the turns' ratios.
//! Never: a comparison of runs that were not next to each other in time, of memory that is nearer to one side, or of
//! turns in which another guest of the machine worked on our core (`quiet` says how many of the turns did count; if
//! hardly any, all do, and the case says `disturbed`).
//!
//! ```text
//!   processor 1: a guest's driver ── ring ── vhost port ── worker (processor 0) ── tunnel ── net_null
//!   processor 1: writes memory    ──────────────────────── seal   (processor 0) ── buffers
//! ```
//! Both begin with the same number of frames that processor 1 has just written, and end when the last packet is
//! sealed (and handed to the device). The seal's reference is `Engine::seal`, fused: it reads the payload where the
//! other processor wrote it and writes packets into buffers of its own; it knows all of its jobs beforehand. The second
//! reference, `Engine::seal_with`, also sums the payloads on its way, as the whole way must for the inner checksums.
//!
//! Usage: cargo bench -p culvert-dataplane --bench outbound -- [--json] [--case TEXT] [--profile way|seal|sums]
//! With `--profile` one of them alone, for a profiler to look at.

#![allow(
    unsafe_code,
    reason = "a benchmark: memory that another processor writes"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark: it displays, and stops where it fails"
)]

#[path = "../aead/benches/turns/mod.rs"]
mod turns;

use std::{
    hint,
    net::SocketAddr,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use culvert_aead::{Engine, Jobs, SealJob, Segment, TAG_LEN, TAILROOM};
use culvert_dataplane::{
    shared::{
        clock,
        control_link::{self, Attention, Command},
        hop::Hop,
        ids::{
            AttachmentIndex, NetworkIndex, PeerIndex, PortIndex, TunnelIndex, UplinkIndex,
            WorkerIndex,
        },
        path::Path,
        peer::Peer,
        sessions::SessionTable,
        snapshot::{
            Attachment, Guard, Guest, Network, NextHop, Port, Snapshot, SnapshotCell, Tunnel,
        },
    },
    uplink::{
        Uplink,
        dpdk::{self, sys},
    },
    worker::{Polling, Worker, WorkerStats},
};
use culvert_vhost::{
    self as vhost, PortConfig,
    frontend::{Frontend, FrontendConfig},
};
use culvert_wire::{
    MacAddr, VnetHeader,
    fib::{Fib, Prefix},
};
use culvert_wireguard::{Keypair, PeerId, Role};
use rustix::thread::{CpuSet, sched_setaffinity};
use turns::Turns;

const WORKER: usize = 0;
const GUEST: usize = 1;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const PORT: u16 = 51_820;

const MTU: u16 = 1420;
const ETHERNET: usize = 14;
/// IPv4 and TCP without options.
const HEADERS: usize = 40;
const SEGMENT: usize = MTU as usize - HEADERS;
/// Packets that a full frame becomes.
const PACKETS: usize = 47;
const PAYLOAD: usize = SEGMENT * PACKETS;
const FRAME: usize = ETHERNET + HEADERS + PAYLOAD;

/// Frames that are written before the clock starts. With two they are as fresh as can be, with sixteen they fill
/// half of a usual second-level cache.
const FRAMES: [usize; 2] = [2, 16];
/// Turns that make a figure, and how many there are at the most when others disturb.
const TURNS: usize = 1000;
const MOST_TURNS: usize = 6000;
/// Turns that one key is used for.
const ROUNDS: usize = 200;

fn main() {
    let mut json = false;
    let mut wanted = String::new();
    let mut profiled = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--case" => wanted = words.next().expect("--case takes a text"),
            "--profile" => profiled = words.next(),
            // Cargo's own.
            "--bench" => {}
            _ => panic!("no option {word}"),
        }
    }
    let mut rig = Rig::new();
    if !json {
        println!(
            "{:32} {:>12} {:>23} {:>7} {:>11}   target",
            "ns per 64 KiB frame, medians", "culvert", "reference", "cost", "quiet"
        );
    }
    for frames in FRAMES {
        let case = format!("outbound/vhost-to-net_null/{frames}x64KiB");
        if !case.contains(&wanted) {
            continue;
        }
        if let Some(side) = &profiled {
            let spent = (0..TURNS / ROUNDS).map(|_| {
                rig.renew_key();
                let rounds = (0..ROUNDS).map(|_| match side.as_str() {
                    "way" => rig.whole_way(frames),
                    "seal" => rig.seal_alone(frames, false),
                    "sums" => rig.seal_alone(frames, true),
                    _ => panic!("--profile takes way, seal or sums"),
                });
                median(rounds)
            });
            println!("{case} {side}: {:.0} ns per frame", median(spent));
            continue;
        }
        let turns = rig.compare(frames);
        let ([own, references @ ..], quiet) = turns.figures();
        let names = [("aead alone", Some(1.25)), ("aead with sums", None)];
        for (reference, (name, target)) in references.iter().zip(names) {
            if json {
                println!(
                    "{{\"section\":\"gso\",\"case\":\"{case}\",\"unit\":\"ns/frame\",\"value\":{:.0},\
                     \"reference\":\"{name}\",\"reference_value\":{:.0},\"ratio\":{:.3},\"quiet\":{quiet}}}",
                    own.time, reference.time, reference.ratio
                );
                continue;
            }
            let cost = 1.0 / reference.ratio;
            let target = target.map_or(String::new(), |target| {
                format!("{target}{}", if cost > target { "  short" } else { "" })
            });
            println!(
                "{case:32} {:>12.0} {name:>14} {:>8.0} {cost:>7.3} {:>11}   {target}{}",
                own.time,
                reference.time,
                format!("{quiet} of {}", turns.taken()),
                if turns.are_disturbed() {
                    "  disturbed"
                } else {
                    ""
                }
            );
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn pin(processor: usize) {
    let mut processors = CpuSet::new();
    processors.set(processor);
    sched_setaffinity(None, &processors).expect("two processors");
}

const IDLE: usize = 0;
/// Post frames; or write the reference's memory.
const POST: usize = 1 << 8;
const WRITE: usize = 2 << 8;

/// What the guest's processor is told, and how often it was done with it.
#[derive(Default)]
struct Orders {
    order: AtomicUsize,
    done: AtomicUsize,
}

impl Orders {
    /// Lets the other processor do something, and waits until it is done.
    fn give(&self, order: usize) {
        let before = self.done.load(Ordering::Acquire);
        self.order.store(order, Ordering::Release);
        while self.done.load(Ordering::Acquire) == before {
            hint::spin_loop();
        }
    }
}

struct Rig {
    worker: Worker,
    uplink: Arc<Uplink>,
    /// Keeps the device open.
    _device: dpdk::DpdkUplink,
    _control: control_link::ControlEnd,
    _dir: tempfile::TempDir,
    peer: Arc<Peer>,
    orders: Arc<Orders>,
    /// Where the reference's frames lie, in the guest's memory.
    source: Vec<NonNull<u8>>,
    engine: Engine,
    rooms: Vec<Vec<u8>>,
    counter: u64,
}

impl Rig {
    fn new() -> Self {
        pin(WORKER);
        let eal = sys::Eal::init(sys::EalConfig {
            memory_mb: 128,
            ..sys::EalConfig::default()
        })
        .expect("EAL");
        pin(WORKER);
        let dir = tempfile::TempDir::new().unwrap();
        let config = PortConfig::new("guest", dir.path().join("guest"), MAC);
        let port = Arc::new(Port {
            index: PortIndex(0),
            name: config.name.clone(),
            attachment: AttachmentIndex(0),
            guest: Guest::Vhost(Arc::new(vhost::Port::open(config, |_| {}).unwrap())),
            queues: 1,
            drops: Arc::default(),
        });
        let attachment = Arc::new(Attachment {
            index: AttachmentIndex(0),
            port: PortIndex(0),
            network: NetworkIndex(0),
            mac: MAC,
            addresses: vec!["10.0.0.2".parse().unwrap()],
            link_locals: Arc::default(),
            errors: Arc::default(),
            guard: Guard::Strict,
        });
        let own = "192.0.2.1".parse().unwrap();
        let (device, queues) = dpdk::open(
            eal,
            &dpdk::Config {
                uplink: UplinkIndex(0),
                device: "net_null0,no-rx=1",
                addresses: &[own],
                mtu: 1500,
                workers: 1,
                queues: 1,
                descriptors: [None, None],
            },
        )
        .expect("net_null");
        let uplink = Arc::new(Uplink {
            index: UplinkIndex(0),
            name: "null".into(),
            addresses: vec![own],
            tunnels: vec![(PORT, TunnelIndex(0))],
            hop: Arc::new(Hop::nowhere(UplinkIndex(0))),
            counters: Arc::default(),
        });
        let peer = Arc::new(Peer::new(PeerIndex(0), TunnelIndex(0), PeerId(0)));
        let sessions = Arc::new(SessionTable::new(1024));
        let behind = || Prefix::new("10.1.0.0".parse().unwrap(), 16).unwrap();
        let snapshot = Snapshot {
            generation: 1,
            ports: [Some(port)].into_iter().collect(),
            attachments: [Some(attachment)].into_iter().collect(),
            networks: [Some(Arc::new(Network {
                name: "network".into(),
                gateway_mac: GATEWAY,
                gateways: vec!["10.0.0.1".parse().unwrap()],
                prefixes: vec![Prefix::new("10.0.0.0".parse().unwrap(), 24).unwrap()],
                tunnel: Some(TunnelIndex(0)),
                macs: [(MAC, AttachmentIndex(0))].into(),
                listeners: 1,
                routes: Fib::build([(behind(), NextHop::Peer(PeerIndex(0)))]),
                plain: None,
            }))]
            .into_iter()
            .collect(),
            tunnels: [Some(Arc::new(Tunnel {
                name: "tunnel".into(),
                mtu: MTU,
                network: Some(NetworkIndex(0)),
                allowed: Fib::build([(behind(), PeerIndex(0))]),
                mac1: None,
                sessions,
            }))]
            .into_iter()
            .collect(),
            peers: [Some(Arc::clone(&peer))].into_iter().collect(),
            uplinks: [Some(Arc::clone(&uplink))].into_iter().collect(),
            workers: vec![Arc::new(vec![(PortIndex(0), 0)])],
        };
        let endpoint: SocketAddr = "192.0.2.2:51820".parse().unwrap();
        peer.publish_path(Some(Path::new(
            endpoint,
            Some(own),
            PORT,
            Arc::new(Hop::ethernet(UplinkIndex(0), device.mac(), Some(GATEWAY))),
        )));
        let attention = Arc::new(Attention::new().unwrap());
        let (end, mut control) = control_link::link(attention, 1).unwrap();
        let worker = Worker::new(
            WorkerIndex::from_slot(0),
            Arc::new(SnapshotCell::from_pointee(snapshot)),
            end,
            Polling::Busy,
            Arc::new(WorkerStats::default()),
        );
        for queue in queues {
            assert!(control.send(Command::AttachUplink(Box::new(queue))));
        }
        let mut frontend =
            Frontend::connect(&dir.path().join("guest"), FrontendConfig::default()).unwrap();
        let stride = FRAME.next_multiple_of(64) as u64 + 192;
        let most = FRAMES.into_iter().max().unwrap_or(1);
        let at: Vec<u64> = (0..most)
            .map(|_| frontend.memory.take(stride, 64))
            .collect();
        let source = at
            .iter()
            .map(|&guest| {
                let user = usize::try_from(frontend.memory.user_of(guest)).unwrap();
                NonNull::new(std::ptr::with_exposed_provenance_mut(user)).unwrap()
            })
            .collect();
        let orders = Arc::new(Orders::default());
        let heard = Arc::clone(&orders);
        thread::spawn(move || drive(&mut frontend, &at, &heard));
        let mut rig = Self {
            worker,
            uplink,
            _device: device,
            _control: control,
            _dir: dir,
            peer,
            orders,
            source,
            engine: Engine::new(),
            rooms: vec![vec![0; 16 + usize::from(MTU) + TAG_LEN + TAILROOM + 320]; 64],
            counter: 0,
        };
        while rig.worker.step() {}
        rig
    }

    /// Turns of the whole way, the seal alone and the seal with sums, nanoseconds per frame: within a millisecond the
    /// machine does not change its mind about clock rates and caches as it does within a second.
    fn compare(&mut self, frames: usize) -> Turns<3> {
        let mut turns = Turns::new(TURNS, MOST_TURNS);
        while !turns.done() {
            if turns.taken().is_multiple_of(ROUNDS) {
                self.renew_key();
            }
            let before = turns::room();
            let mut spent = [0.0; 3];
            for turn in 0..3 {
                let side = (turns.taken() + turn) % 3;
                spent[side] = match side {
                    0 => self.whole_way(frames),
                    _ => self.seal_alone(frames, side == 2),
                };
            }
            turns.push(spent, turns::is_quiet(before.min(turns::room())));
        }
        turns
    }

    /// A new key: none is used for longer than a figure takes.
    fn renew_key(&mut self) {
        self.peer.publish_keypair(Some(Arc::new(Keypair::from_parts(
            PeerId(0),
            Role::Initiator,
            (1, 2),
            ([1; 32], [2; 32]),
            clock::monotonic(),
        ))));
    }

    /// Nanoseconds per frame from the guest's ring into the device.
    fn whole_way(&mut self, frames: usize) -> f64 {
        let sent = &self.uplink.counters.tx_packets;
        self.orders.give(POST | frames);
        let until = load(sent) + (frames * PACKETS) as u64;
        let start = Instant::now();
        while load(sent) < until {
            self.worker.step();
        }
        let spent = start.elapsed();
        assert_eq!(load(sent), until, "each frame is cut into {PACKETS}");
        per_frame(spent, frames)
    }

    /// Nanoseconds per frame for sealing the same bytes, with or without their sums.
    fn seal_alone(&mut self, frames: usize, sums: bool) -> f64 {
        let key = [1; 32];
        self.orders.give(WRITE | frames);
        let mut spent = Duration::ZERO;
        for &start in &self.source[..frames] {
            let payload: Vec<[Segment<'_>; 1]> = (0..PACKETS)
                .map(|packet| {
                    let offset = ETHERNET + HEADERS + packet * SEGMENT;
                    // SAFETY: the frame lies in the guest's memory, which is mapped as long as its thread runs: for
                    // ever.
                    [unsafe { Segment::from_raw(start.add(offset), SEGMENT) }]
                })
                .collect();
            let mut jobs = Jobs::<SealJob<'_>>::new();
            for (source, room) in payload.iter().zip(&mut self.rooms) {
                let len = usize::from(MTU).next_multiple_of(16).min(usize::from(MTU));
                let job =
                    SealJob::gather(&key, self.counter, HEADERS, source, &mut room[16..], len);
                self.counter += 1;
                assert!(jobs.push(job.unwrap()).is_ok());
            }
            let start = Instant::now();
            if sums {
                self.engine.seal_with(&mut jobs, |_, _, _| ());
            } else {
                self.engine.seal(&mut jobs);
            }
            spent += start.elapsed();
        }
        per_frame(spent, frames)
    }
}

fn per_frame(spent: Duration, frames: usize) -> f64 {
    spent.as_nanos() as f64 / frames as f64
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The guest's processor.
fn drive(frontend: &mut Frontend, at: &[u64], orders: &Orders) {
    pin(GUEST);
    let mut frame = frame();
    let vnet = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        hdr_len: small(ETHERNET + HEADERS),
        gso_size: small(SEGMENT),
        csum_start: small(ETHERNET + 20),
        csum_offset: 16,
        num_buffers: 0,
    };
    let mut serial = 0u8;
    loop {
        let order = orders.order.swap(IDLE, Ordering::Acquire);
        if order == IDLE {
            hint::spin_loop();
            continue;
        }
        for &at in at.iter().take(order & 0xff) {
            serial = serial.wrapping_add(1);
            frame[ETHERNET + HEADERS..].fill(serial);
            if order & WRITE != 0 {
                frontend.memory.write(at, &frame);
            } else {
                assert!(frontend.send_frame(0, &vnet, &frame), "room in the ring");
            }
        }
        orders.done.fetch_add(1, Ordering::Release);
    }
}

/// A length of the frame, all of which are less than 64 KiB.
fn small(len: usize) -> u16 {
    u16::try_from(len).expect("less than 64 KiB")
}

/// A TCP super-frame as a driver posts it: lengths of the whole, the checksum field seeded.
fn frame() -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend(GATEWAY.0);
    frame.extend(MAC.0);
    frame.extend([8, 0]);
    let length = small(HEADERS + PAYLOAD).to_be_bytes();
    let mut ip = [
        0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 1, 0, 2,
    ];
    let sum = culvert_wire::Checksum::of(&ip).complement();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend([
        0x30, 0x39, 0xd4, 0x31, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.resize(FRAME, 0);
    frame
}
