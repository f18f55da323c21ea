//! A NIC's place: the wire by which the device under test reaches the far end of a tunnel, sealed packets on it.
//!
//! In: a socket of DPDK's `net_vhost`, the far end's key, how much memory a trial may take. Out: a trial's packets, sealed
//! before it begins; what comes back, opened. Never: a packet of a session that ends before the trial does, a counter twice.
//!
//! ```text
//!   seat ── our rings ── net_vhost, the device's uplink ── its tunnel ── a guest
//! ```
//!
//! Whoever drives the rings of a vhost-user device is its wire: what we send the device receives. What is none of a trial,
//! its neighbor's questions and handshakes, is answered between trials, and within one as it comes.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use culvert_dataplane::shared::clock;
use culvert_pktgen::{Profile, Receive, Transmit};
use culvert_vhost::Offloads;
use culvert_wire::{MacAddr, VnetHeader, ether};

use super::ahead::{Ahead, AheadError};
use super::far::FarEnd;
use super::host::Host;
use super::rings::{GuestOptions, Rings};
use super::seat::{BURST, Lost};
use super::stop::Stop;

/// The far end's.
const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0xfe]);
/// As a NIC's rings are long.
const RING_SIZE: u16 = 1024;
/// How long the device may take to answer: a link is looked at once a second, the protocol asks again after five.
const ANSWER: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_millis(1);
/// How often it is asked where the device is.
const ASK: Duration = Duration::from_millis(100);
/// How often the peer's timers are looked at while a trial runs.
const LOOK_NS: u64 = 20_000_000;
/// What a trial takes beside sending: waiting for the last packets.
const AROUND: Duration = Duration::from_secs(5);
/// A session that would last for less than this beyond a trial is not begun to seal with.
const SPARE: Duration = Duration::from_secs(10);

/// Why there is no trial on the wire.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The rings.
    #[error("the wire: {0}")]
    Lost(#[from] Lost),
    /// Nobody answers.
    #[error("the device under test has not shaken hands for {ANSWER:?}")]
    NoAnswer,
    /// The trial can't be sealed.
    #[error(transparent)]
    Ahead(#[from] AheadError),
    /// Sealing took so long.
    #[error(
        "the trial took {0:?} to seal, and its session would end in its middle: make it shorter"
    )]
    TooSlow(Duration),
    /// Ctrl-C.
    #[error("ended while hands were shaken")]
    Interrupted,
}

/// The wire.
#[derive(Debug)]
pub struct Wire {
    rings: Rings,
    far: FarEnd,
    host: Host,
    ahead: Ahead,
    /// A burst of frames that came, so far apart.
    came: Vec<u8>,
    stride: usize,
    catch_up_ns: u64,
    look_ns: u64,
    /// What sealing the last trial took.
    sealing: Duration,
    stop: Stop,
}

impl Wire {
    /// Connects to a device that listens; trials are sealed in `memory` bytes.
    ///
    /// # Errors
    /// Nobody listens, the device refuses, or the system has no such memory.
    pub fn connect(socket: &Path, far: FarEnd, memory: usize, stop: Stop) -> io::Result<Self> {
        let options = GuestOptions {
            is_packed: false,
            ring_size: RING_SIZE,
            offloads: Offloads::empty(),
        };
        let ahead = Ahead::new(memory);
        let stride = far.outer_mtu() as usize + ether::HEADER_LEN;
        Ok(Self {
            rings: Rings::connect(socket, &options, stride, &stop)?,
            host: host(&far)?,
            far,
            ahead: ahead?,
            came: vec![0; BURST * stride],
            stride,
            catch_up_ns: 0,
            look_ns: 0,
            sealing: Duration::ZERO,
            stop,
        })
    }

    /// Connects anew: the device has restarted, and its sessions have ended.
    ///
    /// # Errors
    /// As [`Wire::connect`].
    pub(super) fn reconnect(&mut self) -> io::Result<()> {
        self.host = host(&self.far)?;
        self.rings.reconnect()
    }

    /// Seals all that a trial will send, by a session that outlasts it.
    pub(super) fn prepare(
        &mut self,
        transmit: &mut Transmit,
        profile: &Profile,
    ) -> Result<(), WireError> {
        (self.catch_up_ns, self.look_ns) = (profile.catch_up_ns, 0);
        let trial_ns = profile.duration_ns.saturating_add(profile.catch_up_ns);
        let trial = Duration::from_nanos(trial_ns) + AROUND;
        if !self.is_fresh(trial + SPARE + 2 * self.sealing) {
            self.shake_hands()?;
        }
        let outer = self.host.outer().ok_or(WireError::NoAnswer)?;
        let begun = Instant::now();
        let when = (clock::monotonic(), &self.stop);
        self.ahead
            .seal(transmit, &mut self.host.peer, &outer, when)?;
        self.sealing = begun.elapsed();
        match self.is_fresh(trial) {
            true => Ok(()),
            false => Err(WireError::TooSlow(self.sealing)),
        }
    }

    /// Whether there is a session for so long.
    fn is_fresh(&self, needed: Duration) -> bool {
        let now = clock::monotonic();
        let until = self.host.peer.seals_until(now);
        until.is_some_and(|until| now.after(needed) < until)
    }

    /// Until there is a new session.
    fn shake_hands(&mut self) -> Result<(), WireError> {
        let before = self.host.peer.seals_until(clock::monotonic());
        self.host.peer.call(clock::now());
        let (mut ask, until) = (Instant::now(), Instant::now() + ANSWER);
        loop {
            if self.host.outer().is_none() && Instant::now() >= ask {
                self.host.ask();
                ask = Instant::now() + ASK;
            }
            self.take(|_| {})?;
            self.host.peer.turn(clock::now());
            self.say()?;
            let session = self.host.peer.seals_until(clock::monotonic());
            if session.is_some() && session != before {
                return Ok(());
            }
            if !self.is_connected() {
                return Err(Lost::Gone.into());
            }
            if self.stop.is_asked() {
                return Err(WireError::Interrupted);
            }
            if Instant::now() > until {
                return Err(WireError::NoAnswer);
            }
            thread::sleep(TURN);
        }
    }

    #[inline]
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.ahead.due_ns()
    }

    /// Sends what is due; how many frames, and whether the ring was full.
    #[inline]
    pub(super) fn send(
        &mut self,
        transmit: &mut Transmit,
        now_ns: u64,
    ) -> Result<(usize, bool), Lost> {
        // Also those for which there is no room: each is late by the fault of its time.
        self.ahead.expire(now_ns, self.catch_up_ns, transmit);
        let mut due = self.ahead.due(now_ns);
        self.rings.send_ready(|| due.next())
    }

    /// Frames that a ring holds, and bytes of what a buffer of the other one has room for.
    pub(super) fn room(&self) -> (usize, u32) {
        self.rings.room()
    }

    /// Takes what came: the trial's packets, and what is answered.
    #[inline]
    pub(super) fn receive(&mut self, receive: &mut Receive, now_ns: u64) -> Result<usize, Lost> {
        if now_ns >= self.look_ns {
            self.look_ns = now_ns + LOOK_NS;
            self.host.turn(self.due_ns().is_some(), clock::now());
            self.say()?;
        }
        self.take(|frame| receive.frame(frame, 0, now_ns))
    }

    pub(super) fn close(&mut self, now_ns: u64, transmit: &mut Transmit) {
        self.ahead.close(now_ns, transmit);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.rings.is_connected()
    }

    /// A burst at most; `frame` is shown what was sealed.
    fn take(&mut self, frame: impl FnMut(&[u8])) -> Result<usize, Lost> {
        let (mut lens, mut count) = ([0; BURST], 0);
        let taken = self.rings.receive(|_, frame| {
            let place = self.came.chunks_exact_mut(self.stride).nth(count);
            // Longer than the wire carries: it is nobody's.
            if let Some(place) = place.and_then(|it| it.get_mut(..frame.len())) {
                place.copy_from_slice(frame);
                lens[count] = frame.len();
                count += 1;
            }
        })?;
        if count > 0 {
            let places = self.came.chunks_exact_mut(self.stride);
            let frames = places.zip(&lens[..count]).map(|(it, len)| &mut it[..*len]);
            self.host.hear(frames, clock::now(), frame);
            self.say()?;
        }
        Ok(taken)
    }

    fn say(&mut self) -> Result<(), Lost> {
        let host = &mut self.host;
        self.rings.send(|room| {
            let frame = host.poll_frame()?;
            room[..frame.len()].copy_from_slice(&frame);
            Some((VnetHeader::default(), frame.len()))
        })?;
        Ok(())
    }
}

fn host(far: &FarEnd) -> io::Result<Host> {
    let [device, own] = far.places();
    let peer = far.peer().map_err(io::Error::other)?;
    Ok(Host::new((MAC, own), device, peer))
}
