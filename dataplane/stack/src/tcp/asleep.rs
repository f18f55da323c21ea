//! Asleep: who begins a connection has none before he has shown that he hears us.
//!
//! In: his SYN, what comes behind it. Out: the answer to the SYN; the connection, once that was acknowledged. Never: a
//! buffer for who has not done so; a segment that neither repeats the SYN nor acknowledges the answer, taken.
//!
//! What is kept is the SYN and what the answer's sequence number is made of. Of both the connection is made twice: to
//! answer, and when the acknowledgment comes, as it was then. So a flood of SYNs costs their bytes.

use culvert_wire::{TcpView, ether, ipv6, parse::Tcp as Segment, tcp::flags};
use culvert_wireguard::Instant;

use super::{
    PROTOCOL,
    blind::Numbers,
    connection::{Connection, Phase},
    table::Ends,
};

/// A connection that may be asleep yet.
pub(crate) enum Sleeper<C> {
    /// Nobody has acknowledged anything.
    Asleep(Asleep),
    /// The connection.
    Awake(Box<C>),
}

/// What is known of one that is not open yet.
pub(crate) struct Asleep {
    ends: Ends,
    seed: u64,
    mtu: u16,
    began: Instant,
    /// Empty until it has come.
    syn: Vec<u8>,
    /// What acknowledges our answer.
    acknowledgment: Option<u32>,
    is_over: bool,
}

impl Asleep {
    /// Takes a packet; answers the connection if it is open now.
    fn take<C: Connection>(
        &mut self,
        packet: &[u8],
        now: Instant,
        answers: &mut Vec<Vec<u8>>,
    ) -> Option<C> {
        let segment = segment(packet)?;
        let (kind, sequence) = (segment.flags(), segment.sequence());
        let first = self::segment(&self.syn).map(TcpView::sequence);
        let begins = kind & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
        if begins && first.is_none_or(|first| first == sequence) {
            self.syn = packet.to_vec();
            self.answer::<C>(answers);
            return None;
        }
        let next = first.map(|first| first.wrapping_add(1));
        if kind & flags::RST != 0 {
            // Only whoever has sent the SYN knows it (RFC 5961, section 3.2).
            self.is_over |= next == Some(sequence);
            return None;
        }
        let is_heard = self.is_heard(kind, segment.acknowledgment());
        let mut connection: C = is_heard.then(|| self.made(&mut Vec::new()))?;
        connection.take(packet, now, answers);
        (connection.phase() != Phase::Opening).then_some(connection)
    }

    /// Whether a segment acknowledges our answer.
    fn is_heard(&self, kind: u8, acknowledgment: u32) -> bool {
        kind & (flags::ACK | flags::SYN | flags::RST) == flags::ACK
            && self.acknowledgment == Some(acknowledgment)
    }

    /// The connection as it is when it has answered the SYN.
    fn made<C: Connection>(&self, answers: &mut Vec<Vec<u8>>) -> C {
        let mut connection = C::accept(self.ends, self.seed, self.mtu, self.began);
        connection.take(&self.syn, self.began, answers);
        let room = answers.len() + 1;
        connection.turn(self.began, answers, room);
        connection
    }

    fn answer<C: Connection>(&mut self, answers: &mut Vec<Vec<u8>>) {
        let before = answers.len();
        let connection: C = self.made(answers);
        self.is_over = connection.phase() != Phase::Opening;
        let answer = answers[before..].last();
        let answer = answer.and_then(|frame| segment(frame.get(ether::HEADER_LEN..)?));
        self.acknowledgment = answer
            .filter(|it| it.flags() & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK)
            .map(|it| it.sequence().wrapping_add(1));
    }
}

/// A packet's TCP header; what is not whole was dropped ahead of this.
fn segment(packet: &[u8]) -> Option<TcpView<'_>> {
    let at = match packet.first()? >> 4 {
        4 => usize::from(packet.first()? & 15) * 4,
        // What stands ahead of it in IPv6 no host of ours needs to begin a connection.
        _ => (packet.get(6) == Some(&PROTOCOL)).then_some(ipv6::HEADER_LEN)?,
    };
    TcpView::new(packet.get(at..)?)
}

impl<C: Connection> Connection for Sleeper<C> {
    fn accept(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Self {
        Self::Asleep(Asleep {
            ends,
            seed,
            mtu,
            began: now,
            syn: Vec::new(),
            acknowledgment: None,
            is_over: false,
        })
    }

    fn connect(ends: Ends, seed: u64, mtu: u16, now: Instant) -> Option<Self> {
        C::connect(ends, seed, mtu, now).map(|it| Self::Awake(Box::new(it)))
    }

    fn take(&mut self, packet: &[u8], now: Instant, answers: &mut Vec<Vec<u8>>) {
        match self {
            Self::Awake(connection) => connection.take(packet, now, answers),
            Self::Asleep(asleep) => {
                if let Some(connection) = asleep.take(packet, now, answers) {
                    *self = Self::Awake(Box::new(connection));
                }
            }
        }
    }

    fn opens(&self, segment: &Segment) -> bool {
        match self {
            Self::Awake(connection) => connection.opens(segment),
            Self::Asleep(asleep) => asleep.is_heard(segment.flags, segment.acknowledgment),
        }
    }

    fn numbers(&self) -> Option<Numbers> {
        match self {
            Self::Awake(connection) => connection.numbers(),
            Self::Asleep(_) => None,
        }
    }

    fn challenge(&mut self, now: Instant, answers: &mut Vec<Vec<u8>>) {
        if let Self::Awake(connection) = self {
            connection.challenge(now, answers);
        }
    }

    fn turn(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>, room: usize) {
        if let Self::Awake(connection) = self {
            connection.turn(now, frames, room);
        }
    }

    /// Whoever hears no answer repeats the SYN.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Awake(connection) => connection.due(now),
            Self::Asleep(_) => None,
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Awake(connection) => connection.phase(),
            Self::Asleep(asleep) if asleep.is_over => Phase::Closed,
            Self::Asleep(_) => Phase::Opening,
        }
    }

    fn read(&mut self, take: impl FnOnce(&[u8]) -> usize) -> usize {
        match self {
            Self::Awake(connection) => connection.read(take),
            Self::Asleep(_) => 0,
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Awake(connection) => connection.has_ended(),
            Self::Asleep(asleep) => asleep.is_over,
        }
    }

    fn room(&self) -> usize {
        match self {
            Self::Awake(connection) => connection.room(),
            Self::Asleep(_) => 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Awake(connection) => connection.write(bytes),
            Self::Asleep(_) => 0,
        }
    }

    fn close(&mut self) {
        match self {
            Self::Awake(connection) => connection.close(),
            Self::Asleep(asleep) => asleep.is_over = true,
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Awake(connection) => connection.abort(),
            Self::Asleep(asleep) => asleep.is_over = true,
        }
    }

    fn has_under_way(&self, sequence: u32) -> bool {
        match self {
            Self::Awake(connection) => connection.has_under_way(sequence),
            Self::Asleep(_) => false,
        }
    }

    /// The answer to a SYN is too long for nobody.
    fn narrow(&mut self, mtu: u16) {
        if let Self::Awake(connection) = self {
            connection.narrow(mtu);
        }
    }
}
