//! The whole way, both ways, against the AEAD alone.
//!
//! In: two processors, libdpdk's `net_null`. Out: nanoseconds per packet of the way and of the AEAD, medians, and how
//! many turns they are of. Never: a comparison of runs that were not next to each other in time, of memory that is
//! nearer to one side, or of turns in which another guest of the machine worked on our core (`quiet` says how many of
//! the turns did count; if hardly any, all do, and the case says `disturbed`).
//!
//! ```text
//!                processor 1                              processor 0
//!   out:  a guest's driver ── ring ── vhost port ── worker ── tunnel ── net_null
//!   in:   sealed packets in memory ── tunnel ── worker ── vhost port ── ring ── a guest's driver
//! ```
//! A turn begins with a burst that processor 1 has just written and ends when its last packet is with the device or in
//! the guest's ring; the worker may need several of its own turns for it. What comes in bears counters that were never
//! seen, in order, through the replay window, and every packet that was accepted is delivered or lost under a name. The
//! AEAD alone seals or opens as many packets of the same lengths that processor 1 has just written, in the same batches,
//! and knows all of its jobs beforehand.
//!
//! Usage: cargo bench -p culvert-dataplane --bench way -- [--json] [--case TEXT] [--kernel avx512|avx2|portable]
//!        [--turns N]

#![allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark: it displays, and stops where it fails"
)]

mod site;
#[path = "../aead/benches/turns/mod.rs"]
mod turns;

use std::{
    collections::VecDeque,
    env, fs, hint,
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use culvert_aead::{Engine, Jobs, Kernel, OpenJob, SealJob, Segment, TAILROOM};
use culvert_dataplane::{
    shared::{hop::Hop, limits},
    uplink::{
        dpdk::{self, sys},
        memory::{self, Wire},
    },
};
use culvert_vhost::frontend::Frontend;
use culvert_wireguard::message::DATA_HEADER_LEN;
use site::{
    Peers, Site, Size, Way,
    null::{self, pin},
};
use turns::Turns;

const WORKER: usize = 0;
const OUTSIDE: usize = 1;

const BURSTS: [usize; 4] = [1, 8, 32, 128];
const PEERS: [usize; 2] = [1, 1000];
/// Turns that make a figure, how many there are at the most when others disturb, and packets that make one in any case:
/// the largest bursts take long.
const TURNS: usize = 1000;
const MOST: usize = 6;
const PACKETS: usize = 200_000;
const LEAST_TURNS: usize = 50;
/// Turns that one key is used for.
const ROUNDS: usize = 200;
/// Datagrams that fit on the wire, about as many as a device's queue holds: the same buffers come again soon.
const WIRE: usize = 512;

fn main() {
    let options = Options::read(env::args().skip(1));
    let eal = null::eal(WORKER);
    let processor = processor();
    if !options.json {
        println!("{processor}, kernel {}", options.engine().kernel().name());
        println!(
            "{:30} {:>8} {:>8} {:>8} {:>7} {:>7} {:>13}",
            "ns per packet, medians", "way", "aead", "but aead", "cost", "Mpps", "quiet"
        );
    }
    for way in [Way::Out, Way::In] {
        for peers in PEERS {
            let mut rig = None;
            for (size, burst) in shapes() {
                let name = format!("{}/{}/burst-{burst}/peers-{peers}", way.name(), size.name());
                if name.contains(&options.case) {
                    let rig = rig.get_or_insert_with(|| Rig::new(way, peers, eal, &options));
                    let turns = rig.compare(size, burst, &options);
                    show(&name, &turns, &processor, options.json);
                }
            }
            if let Some(rig) = rig {
                rig.settle();
            }
        }
    }
}

fn shapes() -> impl Iterator<Item = (Size, usize)> {
    Size::ALL
        .into_iter()
        .flat_map(|size| BURSTS.map(|burst| (size, burst)))
}

/// What was asked for.
struct Options {
    json: bool,
    case: String,
    kernel: Kernel,
    turns: usize,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            json: false,
            case: String::new(),
            kernel: Kernel::best(),
            turns: TURNS,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value behind the option");
            match word.as_str() {
                "--json" => options.json = true,
                "--case" => options.case = value(),
                "--kernel" => {
                    let name = value();
                    let mut kernels = Kernel::ALL.into_iter();
                    options.kernel = kernels
                        .find(|kernel| kernel.name() == name)
                        .expect("avx512, avx2 or portable");
                }
                "--turns" => options.turns = value().parse().expect("a number of turns"),
                // Cargo's own.
                "--bench" => {}
                _ => panic!("no option {word}"),
            }
        }
        options
    }

    fn engine(&self) -> Engine {
        Engine::with_kernel(self.kernel).expect("a kernel of this processor")
    }
}

/// The processor's own name.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": "));
    name.map_or("unknown processor", |(_, name)| name.trim())
        .to_owned()
}

fn show(name: &str, turns: &Turns<2>, processor: &str, json: bool) {
    let ([way, aead], quiet) = turns.figures();
    let (taken, mpps) = (turns.taken(), 1000.0 / way.time);
    if json {
        println!(
            "{{\"section\":\"way\",\"case\":\"{name}\",\"unit\":\"ns/packet\",\"value\":{:.1},\
             \"reference\":\"aead alone\",\"reference_value\":{:.1},\"ratio\":{:.3},\"but_aead\":{:.1},\
             \"mpps\":{mpps:.3},\"quiet\":{quiet},\"turns\":{taken},\"processor\":\"{processor}\"}}",
            way.time,
            aead.time,
            aead.ratio,
            way.time - aead.time
        );
        return;
    }
    println!(
        "{name:30} {:>8.1} {:>8.1} {:>8.1} {:>7.3} {mpps:>7.3} {:>13}{}",
        way.time,
        aead.time,
        way.time - aead.time,
        1.0 / aead.ratio,
        format!("{quiet} of {taken}"),
        if turns.are_disturbed() {
            "  disturbed"
        } else {
            ""
        }
    );
}

/// What processor 1 is told to do. It answers each.
enum Order {
    /// The guest posts frames.
    Post(Size, usize),
    /// Peers send what so many frames are.
    Send(Size, usize),
    /// The guest takes what came, and says how many packets.
    Collect,
    /// Plaintext, or datagrams, for the AEAD alone.
    Write(Way, Size, usize),
    /// New keys: counters begin anew.
    RenewKeys,
}

/// What processor 1 answers.
enum Answer {
    Done,
    Collected(u64),
    Written(Vec<Vec<u8>>),
}

/// Everything beside the worker, on processor 1.
struct Outside {
    guest: Frontend,
    wire: Option<Wire>,
    far: Peers,
    /// What waits for room on the wire.
    sealed: VecDeque<(SocketAddr, Vec<u8>)>,
    peers: usize,
    serial: usize,
}

impl Outside {
    fn run(mut self, orders: &Receiver<Order>, answers: &Sender<Answer>) {
        pin(OUTSIDE);
        loop {
            match orders.try_recv() {
                Ok(order) => {
                    if answers.send(self.obey(&order)).is_err() {
                        return;
                    }
                }
                Err(TryRecvError::Empty) => hint::spin_loop(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn obey(&mut self, order: &Order) -> Answer {
        match *order {
            Order::Post(size, frames) => {
                for _ in 0..frames {
                    let (vnet, frame) = site::frame(size, self.peers, self.serial);
                    assert!(self.guest.send_frame(0, &vnet, &frame), "room in the ring");
                    self.serial += 1;
                }
            }
            Order::Send(size, frames) => {
                self.sealed.extend(self.far.seal(size, frames));
                self.feed();
            }
            Order::Collect => {
                self.feed();
                return Answer::Collected(site::collect(&mut self.guest));
            }
            Order::Write(Way::Out, size, frames) => {
                let len = size.packet_len();
                return Answer::Written(vec![vec![1; len]; frames * size.packets()]);
            }
            // Sealed with the key of one peer and counters from 0 on: see `Rig::open_alone`.
            Order::Write(Way::In, size, frames) => {
                let sealed = Peers::new(1).seal(size, frames).into_iter();
                return Answer::Written(
                    sealed
                        .map(|(_, datagram): (SocketAddr, _)| datagram)
                        .collect(),
                );
            }
            Order::RenewKeys => self.far.renew_keys(),
        }
        Answer::Done
    }

    /// Sends what there is room for.
    fn feed(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        while let Some((from, datagram)) = self.sealed.front()
            && wire.send(*from, 0, datagram)
        {
            self.sealed.pop_front();
        }
    }
}

/// A site and the AEAD alone, on processor 0.
struct Rig {
    way: Way,
    site: Site,
    /// Keeps the device open.
    _device: Option<dpdk::DpdkUplink>,
    orders: Sender<Order>,
    answers: Receiver<Answer>,
    engine: Engine,
    rooms: Vec<Vec<u8>>,
    counter: u64,
    delivered: u64,
}

impl Rig {
    fn new(way: Way, peers: usize, eal: sys::Eal, options: &Options) -> Self {
        let (queue, wire, device, hop) = match way {
            Way::Out => {
                let (device, queue, hop) = null::open(eal, peers);
                (queue, None, Some(device), hop)
            }
            Way::In => {
                let (queue, wire) = memory::open(&memory::Config {
                    uplink: site::UPLINK,
                    tunnel: site::TUNNEL,
                    address: site::ADDRESS.into(),
                    datagrams: WIRE,
                    longest: site::LONGEST,
                });
                (queue, Some(wire), None, Hop::kernel(site::UPLINK))
            }
        };
        let site = Site::new(peers, queue, hop, options.engine());
        let outside = Outside {
            guest: site.guest(),
            wire,
            far: Peers::new(peers),
            sealed: VecDeque::new(),
            peers,
            serial: 0,
        };
        let (orders, heard) = channel();
        let (answer, answers) = channel();
        thread::spawn(move || outside.run(&heard, &answer));
        let longest = site::LONGEST + TAILROOM;
        Self {
            way,
            site,
            _device: device,
            orders,
            answers,
            engine: options.engine(),
            rooms: vec![vec![0; longest]; limits::UPLINK_BURST],
            counter: 0,
            delivered: 0,
        }
    }

    /// Lets processor 1 do something, and waits until it is done.
    fn order(&mut self, order: Order) -> Answer {
        self.orders.send(order).expect("processor 1 lives");
        loop {
            match self.answers.try_recv() {
                Ok(Answer::Collected(packets)) => {
                    self.delivered += packets;
                    return Answer::Done;
                }
                Ok(answer) => return answer,
                Err(TryRecvError::Empty) => hint::spin_loop(),
                Err(TryRecvError::Disconnected) => panic!("processor 1 failed"),
            }
        }
    }

    /// Turns of the way and of the AEAD alone, nanoseconds per packet: within a millisecond the machine does not change
    /// its mind about clock rates and caches as it does within a second.
    fn compare(&mut self, size: Size, burst: usize, options: &Options) -> Turns<2> {
        let packets = burst * size.packets();
        let enough = options
            .turns
            .min((PACKETS / packets).max(LEAST_TURNS.min(options.turns)));
        let mut turns = Turns::new(enough, MOST * enough);
        while !turns.done() {
            if turns.taken().is_multiple_of(ROUNDS) {
                self.site.renew_keys();
                self.order(Order::RenewKeys);
            }
            let before = turns::room();
            let mut spent = [0.0; 2];
            for turn in 0..2 {
                let side = (turns.taken() + turn) % 2;
                let time = match (side, self.way) {
                    (0, Way::Out) => self.outward(size, burst),
                    (0, Way::In) => self.inward(size, burst),
                    (_, Way::Out) => self.seal_alone(size, burst),
                    (_, Way::In) => self.open_alone(size, burst),
                };
                spent[side] = time.as_nanos() as f64 / packets as f64;
            }
            turns.push(spent, turns::is_quiet(before.min(turns::room())));
        }
        turns
    }

    /// From the guest's ring into the device.
    fn outward(&mut self, size: Size, burst: usize) -> Duration {
        self.order(Order::Post(size, burst));
        let until = self.site.sent() + (burst * size.packets()) as u64;
        let start = Instant::now();
        while self.site.sent() < until {
            self.site.worker.step();
        }
        let spent = start.elapsed();
        assert_eq!(self.site.sent(), until, "each frame is so many packets");
        spent
    }

    /// From memory into the guest's ring, which the guest empties while the clock stands.
    fn inward(&mut self, size: Size, burst: usize) -> Duration {
        self.order(Order::Send(size, burst));
        let mut spent = Duration::ZERO;
        for _ in 0..(burst * size.packets()).div_ceil(limits::UPLINK_BURST) {
            let start = Instant::now();
            self.site.worker.step();
            spent += start.elapsed();
            self.order(Order::Collect);
        }
        spent
    }

    fn written(&mut self, size: Size, burst: usize) -> Vec<Vec<u8>> {
        match self.order(Order::Write(self.way, size, burst)) {
            Answer::Written(written) => written,
            Answer::Done | Answer::Collected(_) => panic!("an answer of another kind"),
        }
    }

    /// Seals what processor 1 wrote, as many packets at a time as a worker does.
    fn seal_alone(&mut self, size: Size, burst: usize) -> Duration {
        let written = self.written(size, burst);
        let (key, len) = ([1; 32], site::padded(size.packet_len()));
        let mut spent = Duration::ZERO;
        for batch in written.chunks(batch(size)) {
            let sources: Vec<_> = batch
                .iter()
                .map(|text| [Segment::from(&text[..])])
                .collect();
            let mut jobs = Jobs::<SealJob<'_>, { limits::SUB_BATCH }>::new();
            for (source, room) in sources.iter().zip(&mut self.rooms) {
                let body = &mut room[DATA_HEADER_LEN..];
                let job = SealJob::gather(&key, self.counter, 0, source, body, len).unwrap();
                self.counter += 1;
                assert!(jobs.push(job).is_ok());
            }
            let start = Instant::now();
            self.engine.seal(&mut jobs);
            spent += start.elapsed();
        }
        spent
    }

    /// Opens what processor 1 sealed, as many packets at a time as a worker does.
    fn open_alone(&mut self, size: Size, burst: usize) -> Duration {
        let mut written = self.written(size, burst);
        let key = site::key(0, Way::In);
        let mut spent = Duration::ZERO;
        let mut counter = 0;
        for batch in written.chunks_mut(limits::UPLINK_BURST) {
            let mut jobs = Jobs::<OpenJob<'_>, { limits::UPLINK_BURST }>::new();
            for datagram in batch {
                let sealed = &mut datagram[DATA_HEADER_LEN..];
                let job = OpenJob::in_place(&key, counter, sealed).unwrap();
                counter += 1;
                assert!(jobs.push(job).is_ok());
            }
            let start = Instant::now();
            self.engine.open(&mut jobs);
            spent += start.elapsed();
            assert!(jobs.iter().all(OpenJob::ok), "authentic packets");
        }
        spent
    }

    /// Asserts that all that came was accepted, and that nothing was lost without a name.
    fn settle(self) {
        let (accepted, dropped) = (self.site.accepted(), self.site.dropped());
        match self.way {
            Way::Out => assert_eq!(dropped, 0, "nothing is lost"),
            Way::In => {
                assert_eq!(site::load(&self.site.uplink.counters.rx_packets), accepted);
                assert_eq!(accepted, self.delivered + dropped);
            }
        }
    }
}

/// Packets that a worker seals together: those of a burst from a ring, or a whole sub-batch.
fn batch(size: Size) -> usize {
    match size {
        Size::Packet(_) => limits::GUEST_BURST,
        Size::SuperFrame => limits::SUB_BATCH,
    }
}
