//! A worker on one processor, and all that is outside on another.
//!
//! In: a way, a scale, how many frames. Out: how long the worker took for them, with the outside's own work left out. Never:
//! memory that the worker itself has written: what it reads has just come from the other processor.

use std::{
    collections::VecDeque,
    fs, hint,
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use culvert_aead::Engine;
use culvert_dataplane::{
    shared::{hop::Hop, limits},
    uplink::{
        dpdk::{self, sys},
        memory::{self, Wire},
    },
};
use culvert_vhost::frontend::Frontend;

use super::{
    Peers, Scale, Site, Size, Way, collect,
    null::{self, pin},
};

/// Where the worker is, and where all else.
pub(crate) const WORKER: usize = 0;
const OUTSIDE: usize = 1;

/// Datagrams that fit on the wire, about as many as a device's queue holds: the same buffers come again soon.
const WIRE: usize = 512;

/// A site whose outside is on processor 1. Its caller is on processor 0.
pub(crate) struct Rig {
    pub(crate) way: Way,
    pub(crate) scale: Scale,
    site: Site,
    /// Keeps the device open.
    _device: Option<dpdk::DpdkUplink>,
    orders: Sender<Order>,
    answers: Receiver<Answer>,
    delivered: u64,
}

impl Rig {
    /// `number`: that of its device, which no other has.
    pub(crate) fn new(
        way: Way,
        scale: Scale,
        number: usize,
        eal: sys::Eal,
        engine: Engine,
    ) -> Self {
        let (queue, wire, device, hop) = match way {
            Way::Out => {
                let (device, queue, hop) = null::open(eal, number);
                (queue, None, Some(device), hop)
            }
            Way::In => {
                let (queue, wire) = memory::open(&memory::Config {
                    uplink: super::UPLINK,
                    tunnel: super::TUNNEL,
                    address: super::ADDRESS.into(),
                    datagrams: WIRE,
                    longest: super::LONGEST,
                });
                (queue, Some(wire), None, Hop::kernel(super::UPLINK))
            }
        };
        let site = Site::new(scale, queue, hop, engine);
        let outside = Outside {
            guests: site.guests(),
            wire,
            far: Peers::new(scale),
            sealed: VecDeque::new(),
            scale,
            serial: 0,
        };
        let (orders, heard) = channel();
        let (answer, answers) = channel();
        thread::spawn(move || outside.run(&heard, &answer));
        Self {
            way,
            scale,
            site,
            _device: device,
            orders,
            answers,
            delivered: 0,
        }
    }

    /// New keys at both ends.
    pub(crate) fn renew_keys(&mut self) {
        self.site.renew_keys();
        self.order(Order::RenewKeys);
    }

    /// A burst's time: of each guest's, or one for them.
    pub(crate) fn burst(&mut self, size: Size, frames: usize) -> Duration {
        match self.way {
            Way::Out => self.outward(size, frames),
            Way::In => self.inward(size, frames),
        }
    }

    /// Plaintext or datagrams for the AEAD alone, which processor 1 has just written.
    pub(crate) fn written(&mut self, size: Size, frames: usize) -> Vec<Vec<u8>> {
        match self.order(Order::Write(self.way, size, frames)) {
            Answer::Written(written) => written,
            Answer::Done | Answer::Collected(_) => panic!("an answer of another kind"),
        }
    }

    /// From the guests' rings into the device.
    fn outward(&mut self, size: Size, frames: usize) -> Duration {
        self.order(Order::Post(size, frames));
        let packets = self.scale.guests * frames * size.packets();
        let until = self.site.sent() + packets as u64;
        let start = Instant::now();
        while self.site.sent() < until {
            self.site.worker.step();
        }
        let spent = start.elapsed();
        assert_eq!(self.site.sent(), until, "each frame is so many packets");
        spent
    }

    /// From memory into the guests' rings, which they empty while the clock stands.
    fn inward(&mut self, size: Size, frames: usize) -> Duration {
        self.order(Order::Send(size, frames));
        let mut spent = Duration::ZERO;
        for _ in 0..(frames * size.packets()).div_ceil(limits::UPLINK_BURST) {
            let start = Instant::now();
            self.site.worker.step();
            spent += start.elapsed();
            self.order(Order::Collect);
        }
        spent
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

    /// Asserts that all that came was accepted, and that nothing was lost without a name.
    pub(crate) fn settle(self) {
        let (accepted, dropped) = (self.site.accepted(), self.site.dropped());
        match self.way {
            Way::Out => assert_eq!(dropped, 0, "nothing is lost"),
            Way::In => {
                assert_eq!(super::load(&self.site.uplink.counters.rx_packets), accepted);
                assert_eq!(accepted, self.delivered + dropped);
            }
        }
    }
}

/// The processor's own name.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": "));
    name.map_or("unknown processor", |(_, name)| name.trim())
        .to_owned()
}

/// What processor 1 is told to do. It answers each.
pub(crate) enum Order {
    /// Each guest posts so many frames.
    Post(Size, usize),
    /// Peers send what so many frames are.
    Send(Size, usize),
    /// The guests take what came, and say how many packets.
    Collect,
    /// Plaintext, or datagrams, for the AEAD alone.
    Write(Way, Size, usize),
    /// New keys: counters begin anew.
    RenewKeys,
}

/// What processor 1 answers.
pub(crate) enum Answer {
    Done,
    Collected(u64),
    Written(Vec<Vec<u8>>),
}

/// Everything beside the worker, on processor 1.
struct Outside {
    guests: Vec<Frontend>,
    wire: Option<Wire>,
    far: Peers,
    /// What waits for room on the wire.
    sealed: VecDeque<(SocketAddr, Vec<u8>)>,
    scale: Scale,
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
                for (guest, driver) in self.guests.iter_mut().enumerate() {
                    for _ in 0..frames {
                        let (vnet, frame) = self.scale.frame(size, guest, self.serial);
                        assert!(driver.send_frame(0, &vnet, &frame), "room in the ring");
                        self.serial += 1;
                    }
                }
            }
            Order::Send(size, frames) => {
                self.sealed.extend(self.far.seal(size, frames));
                self.feed();
            }
            Order::Collect => {
                self.feed();
                return Answer::Collected(self.guests.iter_mut().map(collect).sum());
            }
            Order::Write(Way::Out, size, frames) => {
                let len = size.packet_len();
                return Answer::Written(vec![vec![1; len]; frames * size.packets()]);
            }
            // Sealed with the key of one peer and counters from 0 on: see `Alone::open`.
            Order::Write(Way::In, size, frames) => {
                let sealed = Peers::new(Scale::peers(1)).seal(size, frames).into_iter();
                return Answer::Written(sealed.map(|(_, datagram)| datagram).collect());
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
