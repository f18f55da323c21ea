//! A trial's datagrams, sealed before it begins: the wire side of a tunnel, without a cipher in the generator's way.
//!
//! In: what is due and when, peers with sessions, how much memory there may be. Out: datagrams in the order of their times,
//! each once. Never: a counter twice, more memory than was allowed, a datagram later than the catch-up time lets it be.
//!
//! ```text
//!  arena   | headers | data message 0 | headers | data message 1 | …      in one piece
//!  index   | length, and what has to be known of it should its time pass | …
//! ```
//!
//! One Ethernet frame of a stream becomes one data message: who sends sealed packets has cut super-frames before.

use culvert_aead::TAILROOM;
use culvert_pktgen::transmit::{Due, Kept, Transmit};
use culvert_wire::ether;
use culvert_wireguard::{Instant, SendRefusal, message::DATA_HEADER_LEN};

use super::{outer::Outer, peer::Peer};

/// A peer, and what is around its datagrams where the seat is a wire.
pub struct Sender {
    /// Who seals.
    pub peer: Peer,
    /// Nothing where a kernel puts headers around datagrams.
    pub outer: Option<Outer>,
}

/// Why a trial can't be sealed ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AheadError {
    /// The memory is full.
    #[error(
        "{} MiB hold the first {:.3} s of the trial sealed; make it shorter, or allow more memory",
        .bytes >> 20, *.until_ns as f64 / 1e9
    )]
    Full {
        /// How much was allowed.
        bytes: usize,
        /// Packets that are due before this time have room.
        until_ns: u64,
    },
    /// A peer has no session to seal with.
    #[error("peer {peer} can't seal: {refusal}")]
    Session {
        /// Which, of those that were given.
        peer: usize,
        /// Why.
        refusal: SendRefusal,
    },
}

/// A sealed trial.
#[derive(Debug, Default)]
pub struct Ahead {
    arena: Vec<u8>,
    index: Vec<Entry>,
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

impl Ahead {
    /// Seals all that a seat sends in a trial, each packet by the sender that `whose` names. Memory of an earlier trial is
    /// used again.
    ///
    /// # Errors
    /// The memory is full, or a peer has no session. What was sealed until then is lost with its counters.
    ///
    /// # Panics
    /// If `whose` names no sender.
    pub fn seal(
        &mut self,
        transmit: &mut Transmit,
        senders: &mut [Sender],
        whose: impl Fn(&Due) -> usize,
        bytes_max: usize,
        now: Instant,
    ) -> Result<(), AheadError> {
        self.arena.clear();
        self.index.clear();
        (self.next, self.at) = (0, 0);
        let longest = transmit.longest();
        while let Some(due_ns) = transmit.due_ns() {
            let Some(due) = transmit.next(due_ns) else {
                break;
            };
            let place = whose(&due);
            let Sender { peer, outer } = &mut senders[place];
            let headers = outer.as_ref().map_or(0, Outer::headers_len);
            let room = headers + peer.room(longest);
            if self.bytes() + room + size_of::<Entry>() > bytes_max {
                return Err(AheadError::Full {
                    bytes: bytes_max,
                    until_ns: due_ns,
                });
            }
            let counters = peer.reserve(1, now);
            let counter = counters
                .map_err(|refusal| AheadError::Session {
                    peer: place,
                    refusal,
                })?
                .next()
                .expect("one was asked for");

            // 1. The frame, so that its packet lies where the message's plaintext does.
            let start = self.arena.len();
            self.arena.resize(start + room, 0);
            let buffer = &mut self.arena[start..];
            let message = &mut buffer[headers..];
            let frame = &mut message[DATA_HEADER_LEN - ether::HEADER_LEN..];
            let packet_len = transmit.write(&due, frame, false) - ether::HEADER_LEN;
            // 2. The message, whose header takes the place of the frame's.
            let len = headers + peer.seal(counter, packet_len, message);
            // 3. What is around it.
            if let Some(outer) = outer {
                outer.write(&mut buffer[..len]);
            }
            self.arena.truncate(start + len);
            self.index.push(Entry {
                kept: due.kept(),
                len: u32::try_from(len).expect("a frame is shorter"),
            });
        }
        Ok(())
    }

    /// Memory that is in use, and what the next seal writes beyond it.
    fn bytes(&self) -> usize {
        self.arena.len() + TAILROOM + self.index.len() * size_of::<Entry>()
    }

    /// Datagrams of the trial.
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
        self.index
            .get(self.next)
            .map(|entry| entry.kept.intended_ns())
    }

    /// The next datagram whose time has come; those whose time has passed by more than `catch_up_ns` are told to `transmit`
    /// as missed.
    #[inline]
    pub fn next(
        &mut self,
        now_ns: u64,
        catch_up_ns: u64,
        transmit: &mut Transmit,
    ) -> Option<(&[u8], Kept)> {
        while let Some(&Entry { kept, len }) = self.index.get(self.next) {
            if kept.intended_ns() > now_ns {
                return None;
            }
            let start = self.at;
            self.next += 1;
            self.at += len as usize;
            if kept.intended_ns() + catch_up_ns >= now_ns {
                return Some((&self.arena[start..self.at], kept));
            }
            transmit.missed(&kept);
        }
        None
    }

    /// Ends the trial: what has not been sent is not sent any more.
    pub fn close(&mut self, transmit: &mut Transmit) {
        for entry in &self.index[self.next..] {
            transmit.missed(&entry.kept);
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
        let [near, mut far] = session();
        let mut senders = [Sender {
            peer: near,
            outer: Some(outer()),
        }];
        let mut transmit = Transmit::new(&profile, "", &rates, 3);
        let mut receive = Receive::new(&profile, "", 3);
        let mut ahead = Ahead::default();
        let sealed = ahead.seal(
            &mut transmit,
            &mut senders,
            |_| 0,
            32 * MIB,
            at(1).monotonic,
        );
        sealed.unwrap();
        assert_eq!(ahead.len(), 10_000);

        // Nothing is taken between 30 and 50 ms, and every hundredth is refused; the last 10 ms are never reached.
        let (mut sent, mut refused) = (0, 0);
        for now in (0..90_000_000).step_by(10_000) {
            if (30_000_000..50_000_000).contains(&now) {
                continue;
            }
            while let Some((frame, kept)) = ahead.next(now, profile.catch_up_ns, &mut transmit) {
                assert!(kept.intended_ns() <= now);
                if sent % 100 == 99 {
                    refused += 1;
                    sent += 1;
                    transmit.refused_ahead(&kept);
                    continue;
                }
                sent += 1;
                let mut frame = frame.to_vec();
                let Came::Datagram { payload, .. } = look(&mut frame, MacAddr([4; 6])) else {
                    panic!("a datagram");
                };
                let opened = far.open([payload], at(1), |frame| receive.frame(frame, 0, now));
                assert_eq!(opened.packets, 1);
            }
        }
        ahead.close(&mut transmit);
        transmit.close(100_000_000);
        let around = trial::Around::default();
        let trial = trial::Trial::of(&profile, &[&transmit], &[&receive], around);
        let counts = trial.total;
        assert_eq!(counts.sent.intended, 10_000);
        assert_eq!(counts.sent.offered, sent);
        assert_eq!(counts.sent.sent, sent - refused);
        // 19 ms of the stall are too late, and the last 10 ms.
        let unsent = counts.sent.unsent - refused;
        assert!((2_850..=2_950).contains(&unsent), "{unsent}");
        assert_eq!(counts.received.received, counts.sent.sent);
        assert_eq!((counts.lost, counts.received.corrupted), (0, 0));
        assert_eq!(trial.strange, Default::default());
    }

    #[test]
    fn memory_bounds_a_trial_and_says_how_much_of_it_has_room() {
        let profile = profile(&[("rate", "1mpps"), ("duration", "10s")]);
        let rates = profile.packets_per_s(None).unwrap();
        let [near, _] = session();
        let mut senders = [Sender {
            peer: near,
            outer: None,
        }];
        let mut ahead = Ahead::default();
        let mut transmit = Transmit::new(&profile, "", &rates, 1);
        let sealed = ahead.seal(&mut transmit, &mut senders, |_| 0, MIB, at(1).monotonic);
        let Err(AheadError::Full { until_ns, bytes }) = sealed else {
            panic!("a MiB is too little");
        };
        assert!((10_000_000..11_000_000).contains(&until_ns), "{until_ns}");
        assert_eq!(bytes, MIB);
        let text = sealed.unwrap_err().to_string();
        assert!(text.starts_with("1 MiB hold the first 0.010 s"), "{text}");

        let late = ahead.seal(
            &mut Transmit::new(&profile, "", &rates, 2),
            &mut senders,
            |_| 0,
            MIB,
            at(200).monotonic,
        );
        let refusal = SendRefusal::Expired;
        assert_eq!(late, Err(AheadError::Session { peer: 0, refusal }));
    }
}
