//! Bidirectional Forwarding Detection (RFC 5880), asynchronous, over one hop (RFC 5881): whether a neighbor hears us, and
//! we it, several times a second.
//!
//! In: control packets of one neighbor, the time, a number that nobody can guess. Out: control packets, each when it is
//! due; the session's state and what it says of the path. Never: a clock, a frame, an address; a packet believed that
//! names another session, or once it is up none; more packets than both ends want.
//!
//! Who names no session can be anyone on the link. A session that is up has told its number to the other end, which
//! repeats it: without it nothing moves such a session. RFC 5880, section 6.8.6, would go by the address; so who begins
//! anew is heard a detection time later, when he is missed.
//!
//! Rooms: [`packet`] the wire's form, `watch` what others see of a session.
//!
//! ```text
//!            hears Down           hears Init, Up
//!   Down ───────────────▶ Init ─────────────────▶ Up
//!    │ ▲      hears Init   │ silence, AdminDown    │
//!    │ └───────────────────┴───────────────────────┘ silence, hears Down or AdminDown
//!    └────────────────────────────────────────────▶ Up
//! ```

pub mod packet;
#[cfg(test)]
mod tests;
mod watch;

use std::{net::IpAddr, time::Duration};

use culvert_wireguard::Instant;

pub use self::{
    packet::{Packet, Refused, State},
    watch::Watch,
};

/// UDP port of control packets over one hop (RFC 5881, section 4).
pub const PORT: u16 = 3784;
/// TTL of control packets: nobody beyond the link can send them (RFC 5881, section 5).
pub const TTL: u8 = 255;
/// While a session is not up, packets are no closer together (RFC 5880, section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// A session that was never up says nothing of its path for so long: the other end may start later.
const GRACE: Duration = Duration::from_secs(10);
/// Source ports (RFC 5881, section 4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// What an operator says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The neighbor.
    pub peer: IpAddr,
    /// Between two packets, ours and theirs, once the session is up.
    pub interval: Duration,
    /// So many of ours may be missed before the other end takes us for gone.
    pub multiplier: u8,
}

/// What the other end said last.
#[derive(Clone, Copy, Debug)]
struct Remote {
    state: State,
    discriminator: u32,
    min_rx: Duration,
    desired_tx: Duration,
    multiplier: u8,
    demand: bool,
}

impl Default for Remote {
    /// RFC 5880, section 6.8.1.
    fn default() -> Self {
        Self {
            state: State::Down,
            discriminator: 0,
            min_rx: Duration::from_micros(1),
            desired_tx: Duration::ZERO,
            multiplier: 0,
            demand: false,
        }
    }
}

/// One session. Feed it with [`Session::handle`], take packets from [`Session::poll`] at [`Session::due`].
#[derive(Debug)]
pub struct Session {
    config: Config,
    discriminator: u32,
    source_port: u16,
    state: State,
    diagnostic: u8,
    remote: Remote,
    /// Until then it says nothing of its path, unless it is up earlier.
    grace: Option<Instant>,
    /// When the other end is taken for gone.
    silent_at: Option<Instant>,
    sent: Option<Instant>,
    send_at: Instant,
    /// Our interval has changed, and the other end has not acknowledged that.
    polls: bool,
    /// The other end waits for our acknowledgment.
    owes_final: bool,
    random: u64,
}

impl Session {
    /// A session that begins; `random` is a number that nobody can guess.
    #[must_use]
    pub fn new(config: Config, random: u64, now: Instant) -> Self {
        let ports = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
        let port = u16::try_from((random >> 40) % ports).unwrap_or(0);
        let discriminator = u32::try_from(random & 0xffff_ffff).unwrap_or(1).max(1);
        Self {
            config,
            discriminator,
            source_port: SOURCE_PORTS.start() + port,
            state: State::Down,
            diagnostic: 0,
            remote: Remote::default(),
            grace: Some(now + GRACE),
            silent_at: None,
            sent: None,
            send_at: now,
            polls: false,
            owes_final: false,
            random: random | 1,
        }
    }

    /// The number by which the other end names it.
    #[must_use]
    pub const fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// What it was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The UDP port that it sends from.
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        self.source_port
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it went down last (RFC 5880, section 4.1).
    #[must_use]
    pub const fn diagnostic(&self) -> u8 {
        self.diagnostic
    }

    /// Whether the path may be relied on. It may while the other end has switched its session off, which says nothing of
    /// the path (RFC 5882, section 3.2), and at first.
    #[must_use]
    pub fn passes(&self) -> bool {
        let is_off = self.remote.state == State::AdminDown;
        self.state == State::Up || is_off || self.grace.is_some()
    }

    /// Takes a control packet of the neighbor (RFC 5880, section 6.8.6).
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn handle(&mut self, bytes: &[u8], now: Instant) -> Result<(), Refused> {
        let packet = Packet::parse(bytes)?;
        match packet.your_discriminator {
            0 if self.state == State::Up => return Err(Refused::NoSession),
            0 if matches!(packet.state, State::Down | State::AdminDown) => {}
            yours if yours == self.discriminator => {}
            _ => return Err(Refused::OtherSession),
        }
        let interval = self.interval();
        self.remote = Remote {
            state: packet.state,
            discriminator: packet.my_discriminator,
            min_rx: packet.min_rx,
            desired_tx: packet.desired_tx,
            multiplier: packet.multiplier,
            demand: packet.demand,
        };
        self.polls &= !packet.is_final;
        self.owes_final |= packet.poll;
        let before = self.state;
        self.go(match (self.state, packet.state) {
            (State::Down, State::Down) => State::Init,
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => State::Up,
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => State::Down,
            (state, _) => state,
        });
        if before != State::Down && self.state == State::Down {
            // The neighbor signaled its session down.
            self.diagnostic = 3;
        }
        self.silent_at = Some(now + self.detection());
        let wanted = self.interval();
        if wanted < interval {
            self.plan(now);
        }
        if self.owes_final {
            self.send_at = now;
        }
        Ok(())
    }

    fn go(&mut self, state: State) {
        let before = std::mem::replace(&mut self.state, state);
        if before != state && state == State::Up {
            (self.grace, self.diagnostic) = (None, 0);
            // Our packets come closer together from now on.
            self.polls = true;
        }
        if state != State::Up {
            self.polls = false;
        }
    }

    /// How long the other end may be silent (RFC 5880, section 6.8.4).
    fn detection(&self) -> Duration {
        let apart = self.config.interval.max(self.remote.desired_tx);
        apart * u32::from(self.remote.multiplier)
    }

    /// Between two packets of ours, before jitter.
    fn interval(&self) -> Duration {
        self.desired_tx().max(self.remote.min_rx)
    }

    fn desired_tx(&self) -> Duration {
        match self.state {
            State::Up => self.config.interval,
            State::AdminDown | State::Down | State::Init => self.config.interval.max(SLOW),
        }
    }

    /// When the next packet leaves: by up to a quarter earlier than the interval, so that nobody falls into step (RFC
    /// 5880, section 6.8.7); with a multiplier of 1 by a tenth at least.
    fn plan(&mut self, now: Instant) {
        let least = if self.config.multiplier == 1 { 10 } else { 0 };
        let off = least + u32::try_from(self.next_random() % (26 - u64::from(least))).unwrap_or(0);
        let interval = self.interval() * (100 - off) / 100;
        self.send_at = self.sent.map_or(now, |sent| (sent + interval).max(now));
    }

    /// A xorshift: for jitter alone.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Does what is due, and gives the packet that is to be sent now.
    pub fn poll(&mut self, now: Instant) -> Option<[u8; packet::LEN]> {
        self.grace = self.grace.filter(|grace| *grace > now);
        if self.silent_at.is_some_and(|at| at <= now) {
            self.silent_at = None;
            self.remote = Remote::default();
            if matches!(self.state, State::Init | State::Up) {
                self.diagnostic = 1;
                self.go(State::Down);
                self.plan(now);
            }
        }
        if self.send_at > now {
            return None;
        }
        let is_final = std::mem::take(&mut self.owes_final);
        let wanted = self.is_wanted() || is_final;
        let packet = wanted.then(|| self.packet(is_final));
        self.sent = Some(now);
        self.plan(now);
        packet
    }

    /// Whether the other end wants packets (RFC 5880, section 6.8.7).
    fn is_wanted(&self) -> bool {
        let remote = &self.remote;
        let demands = remote.demand && self.state == State::Up && remote.state == State::Up;
        !remote.min_rx.is_zero() && (!demands || self.polls)
    }

    fn packet(&self, is_final: bool) -> [u8; packet::LEN] {
        Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            poll: self.polls && !is_final,
            is_final,
            demand: false,
            multiplier: self.config.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_tx: self.desired_tx(),
            min_rx: self.config.interval,
        }
        .bytes()
    }

    /// When [`Session::poll`] has something to do.
    #[must_use]
    pub fn due(&self) -> Instant {
        let others = self.silent_at.into_iter().chain(self.grace);
        others.fold(self.send_at, Instant::min)
    }
}
