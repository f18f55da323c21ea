//! Connection: one, as the table sees it, and smoltcp's.
//!
//! In: packets to its ends, bytes to send, the time. Out: the bytes that came, in order; packets; when it wants to be
//! looked at again. Never: another's packet: the table finds connections by their ends.

use std::time::Duration;

use culvert_wire::{ether, parse::Tcp as Segment, tcp::flags};
use culvert_wireguard::Instant;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, Socket, SocketBuffer, State},
    wire::{HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint},
};

use super::{
    blind::{Numbers, Progress},
    device::Wire,
    pace::{self, Pace},
    recovery::{Recovery, Said},
    table::Ends,
};
use crate::limits;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not both have heard each other yet.
    Opening,
    /// Bytes may come, or be sent.
    Open,
    /// Both have ended it, and late segments are kept from the next one between the same ends (RFC 9293: TIME-WAIT).
    Waiting,
    /// It is over: ended by both, reset or given up.
    Closed,
}

/// One connection, whoever wrote it.
pub(crate) trait Connection: Sized {
    /// Waits for the SYN that is the next packet. `seed` is a number that nobody can guess; the first sequence number is
    /// made of it.
    fn accept(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Self;
    /// Begins one.
    fn connect(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Option<Self>;
    /// Takes a packet, whose sums were looked at. What has to be answered at once is.
    fn take(&mut self, packet: &[u8], now: Instant, answers: &mut Vec<Vec<u8>>);
    /// Whether it may be open once it has taken a segment.
    fn opens(&self, segment: &Segment) -> bool;
    /// Where it is, once it is open.
    fn numbers(&self) -> Option<Numbers>;
    /// Asks the other what he means, unless he was just asked.
    fn challenge(&mut self, now: Instant, answers: &mut Vec<Vec<u8>>);
    /// Does what is due, and sends until so many frames lie there.
    fn turn(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>, room: usize);
    /// When it has something to do next.
    fn due(&mut self, now: Instant) -> Option<Instant>;
    /// How far it is.
    fn phase(&self) -> Phase;
    /// Shows bytes that came, and forgets as many of them as are taken; 0 if there are none.
    fn read(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize;
    /// The other sends no more, and all that it sent was taken.
    fn has_ended(&self) -> bool;
    /// How many bytes can be taken to be sent; 0 once no more may be.
    fn room(&self) -> usize;
    /// Takes bytes to send; answers how many.
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// No more is sent than was written.
    fn close(&mut self);
    /// Ends it at once; the other is told.
    fn abort(&mut self);
    /// Whether that number was sent, and is not acknowledged.
    fn has_under_way(&self, sequence: u32) -> bool;
    /// Its packets are no longer than this from now on.
    fn narrow(&mut self, mtu: u16);
}

/// smoltcp's.
pub(crate) struct Smol {
    ends: Ends,
    seed: u64,
    mtu: u16,
    pace: Pace,
    recovery: Recovery,
    progress: Progress,
    /// It has seen a packet: a listener no more.
    has_heard: bool,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Smol {
    fn new(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Self {
        let buffer = || SocketBuffer::new(vec![0; limits::CONNECTION_BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        // The other of the two, CUBIC, goes by the clock.
        socket.set_congestion_control(CongestionControl::Reno);
        socket.set_nagle_enabled(false);
        let limit = u64::try_from(limits::OPENING_LIFE.as_micros()).unwrap_or(0);
        socket.set_timeout(Some(smoltcp::time::Duration::from_micros(limit)));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mut pace = Pace::new(now);
        let interface = interface(ends, seed, mtu, pace.told(now));
        Self {
            ends,
            seed,
            mtu,
            pace,
            recovery: Recovery::new(ends, now),
            progress: Progress::default(),
            has_heard: false,
            interface,
            sockets,
            handle,
        }
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Shows smoltcp a packet.
    fn show(&mut self, packet: &[u8], now: Instant, answers: &mut Vec<Vec<u8>>) {
        let told = self.pace.told(now);
        let first = answers.len();
        let mut device = Wire {
            incoming: Some(packet),
            outgoing: answers,
            room: 0,
            mtu: self.mtu,
        };
        self.interface
            .poll_ingress_single(told, &mut device, &mut self.sockets);
        self.note_sent(&answers[first..], now);
    }

    fn note_sent(&mut self, frames: &[Vec<u8>], now: Instant) {
        for packet in frames.iter().filter_map(|it| it.get(ether::HEADER_LEN..)) {
            let Some(said) = Said::read(packet) else {
                continue;
            };
            self.recovery.note_sent(&said, now);
            if said.flags & (flags::ACK | flags::RST) == flags::ACK {
                let waiting = self.waiting();
                self.progress
                    .note_acknowledged(said.acknowledgment, waiting);
            }
        }
    }

    /// Whether the first segment should be sent again. What is not acceptable says nothing of what has come (RFC 9293,
    /// section 3.10.7.4): it may be anyone's.
    fn note_came(&mut self, packet: &[u8], now: Instant) -> bool {
        let numbers = self.numbers();
        let said = Said::read(packet)
            .filter(|said| numbers.is_none_or(|numbers| numbers.holds(said.sequence, said.len)));
        said.is_some_and(|said| self.recovery.note_came(&said, now))
    }

    /// What of the other's was not read: bytes, and his end.
    fn waiting(&self) -> u32 {
        let socket = self.socket();
        let has_ended = match socket.state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait => 1,
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2 => 0,
        };
        u32::try_from(socket.recv_queue()).unwrap_or(0) + has_ended
    }

    /// Has the first segment that is not acknowledged sent again.
    fn nudge(&mut self, now: Instant, answers: &mut Vec<Vec<u8>>) {
        let nudges: Vec<_> = self.recovery.nudges().collect();
        for packet in nudges {
            self.show(&packet, now, answers);
        }
    }

    /// Once it is open, its time passes as fast as its peers expect, and silence is looked for.
    fn keep_pace(&mut self) {
        const DELAY: Duration = Duration::from_millis(10);
        let state = self.socket().state();
        let rate = match state {
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::TimeWait => pace::PLAIN,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => pace::OPEN,
        };
        self.pace.set(rate);
        let socket = self.socket_mut();
        if rate == pace::OPEN && socket.keep_alive().is_none() {
            socket.set_keep_alive(Some(pace::lasting(limits::CONNECTION_KEEPALIVE)));
            socket.set_timeout(Some(pace::lasting(limits::CONNECTION_SILENCE)));
            socket.set_ack_delay(Some(pace::lasting(DELAY)));
        }
    }
}

/// All addresses are its neighbors: finding the way is the stack's.
fn interface(ends: Ends, seed: u64, mtu: u16, now: smoltcp::time::Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut device = Wire {
        incoming: None,
        outgoing: &mut Vec::new(),
        room: 0,
        mtu,
    };
    let mut interface = Interface::new(config, &mut device, now);
    interface.update_ip_addrs(|addresses| {
        // The first finds room.
        let _ = addresses.push(IpCidr::new(ends.local.ip().into(), 0));
    });
    interface
}

impl Connection for Smol {
    fn accept(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Self {
        let mut new = Self::new(ends, seed, mtu, now);
        // A new socket, and a port that a SYN was sent to, which has no 0.
        let _ = new.socket_mut().listen(IpListenEndpoint::from(ends.local));
        new
    }

    fn connect(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Option<Self> {
        let mut new = Self::new(ends, seed, mtu, now);
        let Self {
            interface,
            sockets,
            handle,
            ..
        } = &mut new;
        let socket: &mut Socket<'static> = sockets.get_mut(*handle);
        let (local, remote) = (IpEndpoint::from(ends.local), IpEndpoint::from(ends.remote));
        socket.connect(interface.context(), remote, local).ok()?;
        Some(new)
    }

    fn take(&mut self, packet: &[u8], now: Instant, answers: &mut Vec<Vec<u8>>) {
        let (waits, before) = (self.socket().send_queue(), self.recovery.acknowledged());
        let is_lost = self.note_came(packet, now);
        self.show(packet, now, answers);
        // Behind a closed window smoltcp takes nothing, not even an acknowledgment that is good (RFC 9293, section 3.10.7.4):
        // the other is there who has filled what we told him of, before we rounded it down to nothing.
        let has_moved = self.recovery.acknowledged() != before;
        if has_moved && waits > 0 && self.socket().send_queue() == waits {
            let again = self.recovery.acknowledgment();
            self.show(&again, now, answers);
        }
        self.has_heard = true;
        if is_lost {
            self.nudge(now, answers);
        }
        self.keep_pace();
    }

    fn opens(&self, _: &Segment) -> bool {
        self.phase() == Phase::Opening
    }

    fn numbers(&self) -> Option<Numbers> {
        let socket = self.socket();
        let window = socket.recv_capacity() - socket.recv_queue();
        match socket.state() {
            State::Closed | State::Listen | State::SynSent | State::SynReceived => None,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => Some(Numbers {
                next: self.progress.next(self.waiting())?,
                window: u32::try_from(window).unwrap_or(0),
                sent: self.recovery.sent(),
            }),
        }
    }

    fn challenge(&mut self, now: Instant, answers: &mut Vec<Vec<u8>>) {
        if let Some(Numbers { next, .. }) = self.numbers() {
            let question = self.recovery.question(next);
            self.show(&question, now, answers);
        }
    }

    fn turn(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>, room: usize) {
        if self.recovery.due().is_some_and(|at| at <= now) {
            self.recovery.note_probe(now);
            self.nudge(now, frames);
        }
        let told = self.pace.told(now);
        let first = frames.len();
        let mut device = Wire {
            incoming: None,
            outgoing: frames,
            room,
            mtu: self.mtu,
        };
        self.interface.poll(told, &mut device, &mut self.sockets);
        self.note_sent(&frames[first..], now);
        self.keep_pace();
    }

    fn due(&mut self, now: Instant) -> Option<Instant> {
        let told = self.pace.told(now);
        let due = self.interface.poll_at(told, &self.sockets);
        let due = due.map(|due| self.pace.real(due));
        [due, self.recovery.due()].into_iter().flatten().min()
    }

    fn phase(&self) -> Phase {
        let socket = self.socket();
        match socket.state() {
            // The other has thought better of it (RFC 9293, section 3.10.7.4).
            State::Listen if self.has_heard => Phase::Closed,
            State::Listen | State::SynSent | State::SynReceived => Phase::Opening,
            State::Closed => Phase::Closed,
            State::TimeWait => Phase::Waiting,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => Phase::Open,
        }
    }

    fn read(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let socket = self.socket_mut();
        if socket.recv_queue() == 0 {
            return 0;
        }
        let taken = |bytes: &mut [u8]| {
            let taken = take(bytes).min(bytes.len());
            (taken, taken)
        };
        let read = socket.recv(taken).unwrap_or(0);
        self.progress.note_read(read);
        read
    }

    fn has_ended(&self) -> bool {
        !self.socket().may_recv()
    }

    fn room(&self) -> usize {
        let socket = self.socket();
        match socket.may_send() {
            true => socket.send_capacity() - socket.send_queue(),
            false => 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.socket_mut().send_slice(bytes).unwrap_or(0)
    }

    fn close(&mut self) {
        self.socket_mut().close();
    }

    fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn has_under_way(&self, sequence: u32) -> bool {
        self.recovery.has_under_way(sequence)
    }

    fn narrow(&mut self, mtu: u16) {
        if mtu < self.mtu {
            self.mtu = mtu;
            let told = self.pace.told(self.pace.last());
            self.interface = interface(self.ends, self.seed, mtu, told);
        }
    }
}
