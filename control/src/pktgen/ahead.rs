//! A trial's datagrams, sealed before it begins: the wire side of a tunnel, without a cipher in the generator's way.
//!
//! In: what is due and when, a peer with a session, how much memory there may be. Out: frames in the order of their times,
//! each once. Never: a counter twice, more memory than was allowed, a frame later than the catch-up time lets it be.
//!
//! ```text
//!  arena   | headers | data message 0 | headers | data message 1 | …      in one piece
//!  index   | length, and what has to be known of it should its time pass | …
//! ```
//!
//! Both have room for all that is allowed from the beginning; pages are taken when they are written to. One Ethernet frame of
//! a stream becomes one data message: who sends sealed packets has cut super-frames before.

use std::io;

use culvert_pktgen::transmit::{Kept, Transmit};
use culvert_wire::ether;
use culvert_wireguard::{
    Instant, SendRefusal,
    message::{DATA_HEADER_LEN, DATA_MIN_LEN},
};

use super::{
    outer::Outer,
    peer::{BURST, Peer},
    stop::Stop,
};

/// Why a trial can't be sealed ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AheadError {
    /// The memory is full.
    #[error(
        "{} MiB hold the first {:.3} s of the trial sealed: make it shorter, or allow more memory (`--memory`)",
        .bytes >> 20, *.until_ns as f64 / 1e9
    )]
    Full {
        /// How much was allowed.
        bytes: usize,
        /// Packets that are due before this time have room.
        until_ns: u64,
    },
    /// There is no session to seal with.
    #[error("the peer can't seal: {0}")]
    Session(#[from] SendRefusal),
    /// Ctrl-C.
    #[error("ended while a trial was sealed")]
    Interrupted,
}

/// A sealed trial.
#[derive(Debug)]
pub struct Ahead {
    bytes_max: usize,
    arena: Vec<u8>,
    index: Vec<Entry>,
    /// Where a burst is made, each packet with the room that its seal needs.
    making: Vec<u8>,
    /// The next to be sent: in the index, and where it begins.
    next: usize,
    at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kept: Kept,
    /// With the headers.
    len: u32,
}

const ENTRY: usize = size_of::<Entry>();

impl Ahead {
    /// Of so many bytes at most.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn new(bytes_max: usize) -> io::Result<Self> {
        let mut ahead = Self {
            bytes_max,
            arena: Vec::new(),
            index: Vec::new(),
            making: Vec::new(),
            next: 0,
            at: 0,
        };
        ahead.arena.try_reserve_exact(bytes_max)?;
        let most = bytes_max / (DATA_MIN_LEN + ENTRY);
        ahead.index.try_reserve_exact(most)?;
        Ok(ahead)
    }

    /// For how many seconds it holds frames of `mean_bytes` at a rate.
    #[must_use]
    pub fn holds_s(bytes_max: usize, packets_per_s: f64, mean_bytes: f64) -> f64 {
        bytes_max as f64 / (packets_per_s * (mean_bytes + ENTRY as f64))
    }

    /// Seals all that a seat sends in a trial. Memory of an earlier trial is used again.
    ///
    /// # Errors
    /// The memory is full, the peer has no session, or an end was asked for. What was sealed until then is lost with its counters.
    pub fn seal(
        &mut self,
        transmit: &mut Transmit,
        peer: &mut Peer,
        outer: &Outer,
        (now, stop): (Instant, &Stop),
    ) -> Result<(), AheadError> {
        self.arena.clear();
        self.index.clear();
        (self.next, self.at) = (0, 0);
        let stride = outer.headers_len() + peer.room(transmit.longest());
        self.making.resize(BURST * stride, 0);
        let mut burst = Vec::with_capacity(BURST);
        loop {
            if stop.is_asked() {
                return Err(AheadError::Interrupted);
            }
            burst.clear();
            // 1. Packets where data messages have them: the header of a packet's frame is ahead of that.
            for place in self.making.chunks_exact_mut(stride) {
                let Some(due) = transmit.due_ns().and_then(|due| transmit.next(due)) else {
                    break;
                };
                let frame = &mut place[outer.headers_len() + DATA_HEADER_LEN - ether::HEADER_LEN..];
                let len = transmit.write(&due, frame, false) - ether::HEADER_LEN;
                burst.push((due.kept(), len));
            }
            if burst.is_empty() {
                return Ok(());
            }
            // 2. The messages, whose headers take the place of those.
            let places = self.making.chunks_exact_mut(stride);
            let packets = places.zip(&burst);
            let packets = packets.map(|(place, it)| (&mut place[outer.headers_len()..], it.1));
            peer.seal(packets, now)?;
            // 3. What is around them.
            for (place, (kept, len)) in self.making.chunks_exact_mut(stride).zip(&burst) {
                let frame = &mut place[..outer.headers_len() + peer.sealed_len(*len)];
                outer.write(frame);
                let taken = self.arena.len() + self.index.len() * ENTRY;
                if taken + frame.len() + ENTRY > self.bytes_max {
                    return Err(AheadError::Full {
                        bytes: self.bytes_max,
                        until_ns: kept.intended_ns(),
                    });
                }
                self.arena.extend_from_slice(frame);
                self.index.push(Entry {
                    kept: *kept,
                    len: u32::try_from(frame.len()).expect("a frame is shorter"),
                });
            }
        }
    }

    /// Frames of the trial.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// When the next one is due.
    #[inline]
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        Some(self.index.get(self.next)?.kept.intended_ns())
    }

    /// Steps over frames that are late by more than `catch_up_ns`, and tells `transmit` that they were missed.
    #[inline]
    pub fn expire(&mut self, now_ns: u64, catch_up_ns: u64, transmit: &mut Transmit) {
        while let Some(entry) = self.index.get(self.next) {
            if entry.kept.intended_ns() + catch_up_ns >= now_ns {
                return;
            }
            transmit.missed(&entry.kept);
            self.next += 1;
            self.at += entry.len as usize;
        }
    }

    /// The frames whose time has come, one after the other.
    #[inline]
    pub fn due(&mut self, now_ns: u64) -> impl Iterator<Item = &[u8]> {
        let (arena, index) = (&self.arena[..], &self.index[..]);
        let (next, at) = (&mut self.next, &mut self.at);
        std::iter::from_fn(move || {
            let entry = index.get(*next)?;
            if entry.kept.intended_ns() > now_ns {
                return None;
            }
            let start = *at;
            *next += 1;
            *at += entry.len as usize;
            Some(&arena[start..*at])
        })
    }

    /// Ends the trial at a time: what was due before and has not left is missed, what would be due later was never intended.
    pub fn close(&mut self, now_ns: u64, transmit: &mut Transmit) {
        for entry in &self.index[self.next..] {
            if entry.kept.intended_ns() < now_ns {
                transmit.missed(&entry.kept);
            } else {
                transmit.withdrawn(&entry.kept);
            }
        }
        self.next = self.index.len();
    }
}

#[cfg(test)]
mod tests {
    use culvert_pktgen::{profile::Profile, receive::Receive, tree::Node, trial};
    use culvert_wire::MacAddr;

    use super::{
        super::{
            outer::{Came, look},
            peer::tests::{at, session},
        },
        *,
    };

    const MIB: usize = 1 << 20;

    fn profile(flags: &[(&str, &str)]) -> Profile {
        Profile::read(&Node::of_flags(flags.iter().copied())).unwrap()
    }

    fn outer() -> Outer {
        Outer {
            near: (MacAddr([2; 6]), "192.0.2.1:1".parse().unwrap()),
            far: (MacAddr([4; 6]), "192.0.2.2:2".parse().unwrap()),
        }
    }

    /// A trial from one peer to another: sealed ahead, sent by a device that stalls, opened.
    #[test]
    fn what_was_sealed_ahead_arrives_and_what_was_missed_is_unsent() {
        let profile = profile(&[
            ("rate", "100kpps"),
            ("duration", "100ms"),
            ("size", "imix"),
            ("source_port", "1000+7"),
        ]);
        let rates = profile.packets_per_s(None).unwrap();
        let [mut near, mut far] = session();
        let mut transmit = Transmit::new(&profile, "", &rates, 3);
        let mut receive = Receive::new(&profile, "", 3);
        let mut ahead = Ahead::new(32 * MIB).unwrap();
        let when = (at(1).monotonic, &Stop::default());
        let sealed = ahead.seal(&mut transmit, &mut near, &outer(), when);
        sealed.unwrap();
        assert_eq!(ahead.len(), 10_000);

        // Nothing is taken between 30 and 50 ms, and it is ended ahead of the last 10 ms.
        let mut sent = 0;
        for now in (0..90_000_000).step_by(10_000) {
            if (30_000_000..50_000_000).contains(&now) {
                continue;
            }
            ahead.expire(now, profile.catch_up_ns, &mut transmit);
            let due: Vec<_> = ahead.due(now).map(<[u8]>::to_vec).collect();
            for mut frame in due {
                sent += 1;
                let Came::Datagram { payload, .. } = look(&mut frame, MacAddr([4; 6])) else {
                    panic!("a datagram");
                };
                let opened = far.open([payload], at(1), |frame| receive.frame(frame, 0, now));
                assert_eq!(opened.packets, 1);
            }
        }
        assert_eq!(ahead.due_ns(), Some(89_990_000 + 10_000));
        ahead.close(90_000_000, &mut transmit);
        transmit.close(90_000_000);
        let around = trial::Around::default();
        let trial = trial::Trial::of(&profile, &[&transmit], &[&receive], around);
        let counts = trial.total;
        assert_eq!(counts.sent.intended, 9_000);
        assert_eq!((counts.sent.offered, counts.sent.sent), (sent, sent));
        // 19 ms of the stall are too late.
        let unsent = counts.sent.unsent;
        assert!((1_850..=1_950).contains(&unsent), "{unsent}");
        assert_eq!(counts.received.received, counts.sent.sent);
        assert_eq!((counts.lost, counts.received.corrupted), (0, 0));
        assert_eq!(trial.strange, Default::default());
    }

    #[test]
    fn memory_bounds_a_trial_and_says_how_much_of_it_has_room() {
        let profile = profile(&[
            ("rate", "1mpps"),
            ("duration", "10s"),
            ("outer", "ipv4"),
            ("mtu", "1420"),
        ]);
        let rates = profile.packets_per_s(None).unwrap();
        let [mut near, _] = session();
        let mut ahead = Ahead::new(MIB).unwrap();
        let stop = Stop::default();
        let mut seal = |trial, now| {
            let mut transmit = Transmit::new(&profile, "", &rates, trial);
            ahead.seal(&mut transmit, &mut near, &outer(), (now, &stop))
        };
        let Err(AheadError::Full { until_ns, bytes }) = seal(1, at(1).monotonic) else {
            panic!("a MiB is too little");
        };
        // As much as was told before.
        let mean_bytes = profile.mean_lengths(&rates).outer_bare_bytes;
        let told_ns = Ahead::holds_s(MIB, 1e6, mean_bytes) * 1e9;
        assert!(
            (until_ns as f64 - told_ns).abs() < 1e5,
            "{until_ns} {told_ns}"
        );
        assert_eq!(bytes, MIB);
        let text = AheadError::Full { until_ns, bytes }.to_string();
        assert!(text.starts_with("1 MiB hold the first 0.00"), "{text}");
        let late = seal(2, at(200).monotonic);
        assert_eq!(late, Err(AheadError::Session(SendRefusal::Expired)));
        stop.ask();
        assert_eq!(seal(3, at(1).monotonic), Err(AheadError::Interrupted));
    }
}
