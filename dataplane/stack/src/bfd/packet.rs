//! Control packets (RFC 5880, section 4.1).
//!
//! In: a datagram's payload, or what it is to say. Out: the same, checked, or bytes. Never: a session's state.

use std::time::Duration;

/// Length without authentication, in bytes.
pub const LEN: usize = 24;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Switched off.
    AdminDown,
    /// Nothing is heard, or it just was.
    Down,
    /// We hear the other end, which does not hear us yet, as far as we know.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    fn of(bits: u8) -> Self {
        Self::ALL[usize::from(bits & 3)]
    }

    /// Its name for operators.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }
}

/// Why a packet is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Cut short, of another version, or contradicting itself.
    Malformed,
    /// It wants to be authenticated, which ours are not.
    Authenticated,
    /// It names another session than ours.
    OtherSession,
    /// It names none, and ours is up.
    NoSession,
}

/// What a control packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its sender's.
    pub state: State,
    /// Why its sender's session went down last.
    pub diagnostic: u8,
    /// An answer is wanted, now.
    pub poll: bool,
    /// It is that answer.
    pub is_final: bool,
    /// Its sender wants no packets while both are up.
    pub demand: bool,
    /// So many of its sender's packets may be missed; never 0.
    pub multiplier: u8,
    /// Its sender's session; never 0.
    pub my_discriminator: u32,
    /// Ours, as far as its sender knows.
    pub your_discriminator: u32,
    /// Its sender wants to send no more often.
    pub desired_tx: Duration,
    /// Its sender takes packets no more often.
    pub min_rx: Duration,
}

impl Packet {
    /// Reads one.
    ///
    /// # Errors
    /// When it must be discarded whatever the session (RFC 5880, section 6.8.6).
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let head: &[u8; LEN] = bytes.first_chunk().ok_or(Refused::Malformed)?;
        let [first, flags, multiplier, len, ..] = *head;
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let micros = |at| Duration::from_micros(u64::from(word(at)));
        let is_whole = usize::from(len) >= LEN && usize::from(len) <= bytes.len();
        let says_something = multiplier != 0 && word(4) != 0 && flags & MULTIPOINT == 0;
        let is_both = flags & (POLL | FINAL) == POLL | FINAL;
        if first >> 5 != VERSION || !is_whole || !says_something || is_both {
            return Err(Refused::Malformed);
        }
        if flags & AUTHENTICATED != 0 {
            return Err(Refused::Authenticated);
        }
        Ok(Self {
            state: State::of(flags >> 6),
            diagnostic: first & 0x1f,
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_tx: micros(12),
            min_rx: micros(16),
        })
    }

    /// Writes it.
    #[must_use]
    pub fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        let state = State::ALL.iter().position(|it| *it == self.state);
        let state = u8::try_from(state.unwrap_or(0)).unwrap_or(0);
        bytes[0] = VERSION << 5 | self.diagnostic & 0x1f;
        bytes[1] = state << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.demand, DEMAND);
        bytes[2] = self.multiplier;
        bytes[3] = u8::try_from(LEN).unwrap_or(0);
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        // No echo packets are taken.
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_tx),
            micros(self.min_rx),
            0,
        ];
        for (place, word) in words.into_iter().enumerate() {
            bytes[4 + 4 * place..8 + 4 * place].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Packet = Packet {
        state: State::Up,
        diagnostic: 3,
        poll: true,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 0x0102_0304,
        your_discriminator: 0xa0b0_c0d0,
        desired_tx: Duration::from_millis(300),
        min_rx: Duration::from_millis(50),
    };

    #[test]
    fn what_is_written_is_read_and_stands_where_the_rfc_has_it() {
        let bytes = PACKET.bytes();
        assert_eq!(bytes[..4], [0x23, 0xe0, 3, 24]);
        assert_eq!(bytes[4..12], [1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0]);
        assert_eq!(bytes[12..16], 300_000u32.to_be_bytes());
        assert_eq!(Packet::parse(&bytes), Ok(PACKET));
        for state in State::ALL {
            let packet = Packet {
                state,
                poll: false,
                is_final: true,
                demand: true,
                ..PACKET
            };
            assert_eq!(Packet::parse(&packet.bytes()), Ok(packet));
        }
    }

    #[test]
    fn what_must_be_discarded_is() {
        let changed = |place: usize, byte: u8| {
            let mut bytes = PACKET.bytes();
            bytes[place] = byte;
            Packet::parse(&bytes)
        };
        for (place, byte) in [
            (0, 0x03),        // version 0
            (0, 0x43),        // version 2
            (1, 0xe0 | 0x01), // multipoint
            (1, 0xe0 | 0x10), // poll and final
            (2, 0),           // no multiplier
            (3, 23),          // too short
            (3, 25),          // longer than it is
        ] {
            assert_eq!(
                changed(place, byte),
                Err(Refused::Malformed),
                "{place} {byte:#x}"
            );
        }
        assert_eq!(changed(1, 0xe4), Err(Refused::Authenticated));
        let nobody = Packet {
            my_discriminator: 0,
            ..PACKET
        };
        assert_eq!(Packet::parse(&nobody.bytes()), Err(Refused::Malformed));
        for len in 0..LEN {
            assert_eq!(
                Packet::parse(&PACKET.bytes()[..len]),
                Err(Refused::Malformed)
            );
        }
        // What is behind its end is not its own.
        let padded = [&PACKET.bytes()[..], &[7; 40]].concat();
        assert_eq!(Packet::parse(&padded), Ok(PACKET));
    }
}
