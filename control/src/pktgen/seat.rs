//! A seat: where frames leave and arrive, and the half of a trial that belongs to it.
//!
//! In: the time, a trial's beginning and end. Out: frames at their times, what came; whether the generator itself was away
//! from it for longer than its rings hold. Never: a wait; an allocation while a trial runs.

use std::io;

use culvert_pktgen::profile::Stream;
use culvert_pktgen::transmit::Fault;
use culvert_pktgen::{Profile, Receive, Transmit};
use culvert_vhost::frontend::Broken;

use super::guest::Guest;
use super::memory::Memory;
use super::wire::{Wire, WireError};

/// Frames that a seat sends or takes at a time, as DPDK's applications do.
pub const BURST: usize = 32;

/// The device is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It did something with its rings that no device may do.
    #[error("{0}")]
    Broken(#[from] Broken),
    /// It has gone, and was not found again.
    #[error("there is no connection")]
    Gone,
}

/// What a seat is.
#[derive(Debug)]
pub enum Place {
    /// A guest's.
    Guest(Guest),
    /// A loop in memory.
    Memory(Memory),
    /// A NIC's, on the wire side of a tunnel.
    Wire(Box<Wire>),
}

/// A seat: its name, its place, its halves of a trial.
#[derive(Debug)]
pub struct Seat {
    /// What streams call it.
    pub name: String,
    /// What it is.
    pub place: Place,
    /// What it sends and has received in the trial that runs.
    pub halves: Halves,
    visits: Visits,
}

/// Both halves of a trial.
#[derive(Debug)]
pub struct Halves {
    /// What is sent.
    pub transmit: Transmit,
    /// What came.
    pub receive: Receive,
}

impl Seat {
    /// A seat that sends and receives those streams of a profile that name it.
    #[must_use]
    pub fn new(name: &str, place: Place, profile: &Profile) -> Self {
        let rates = vec![0.0; profile.streams.len()];
        Self {
            name: name.into(),
            place,
            halves: Halves {
                transmit: Transmit::new(profile, name, &rates, 0),
                receive: Receive::new(profile, name, 0),
            },
            visits: Visits::default(),
        }
    }

    /// Gets ready for a trial, before its clock runs: here a place takes its time.
    ///
    /// # Errors
    /// What is sealed ahead can't be.
    pub fn prepare(
        &mut self,
        profile: &Profile,
        packets_per_s: &[f64],
        trial: u8,
    ) -> Result<(), WireError> {
        self.halves.transmit.again(profile, packets_per_s, trial);
        self.halves.receive.again(profile, trial);
        let (sends_ns, hears_ns) = self.holds_ns(profile, packets_per_s);
        self.visits = Visits {
            holds_ns: sends_ns.min(hears_ns),
            hears_ns,
            ..Visits::default()
        };
        match &mut self.place {
            Place::Guest(_) => {}
            Place::Memory(memory) => memory.begin(),
            Place::Wire(wire) => wire.prepare(&mut self.halves.transmit, profile)?,
        }
        Ok(())
    }

    /// When the next frame is due, if there is one.
    #[inline]
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        match &self.place {
            Place::Guest(_) | Place::Memory(_) => self.halves.transmit.due_ns(),
            Place::Wire(wire) => wire.due_ns(),
        }
    }

    /// Notes that it is looked at. What is late from here on is the device's fault if it had no room when it was looked at
    /// before, and that was not long ago.
    #[inline]
    pub fn visit(&mut self, now_ns: u64) {
        let is_in_time = self.visits.note(now_ns);
        let fault = match self.visits.is_pushed_back && is_in_time {
            true => Fault::Device,
            false => Fault::Generator,
        };
        self.halves.transmit.blame(fault);
    }

    /// Sends what is due, a burst at most.
    ///
    /// # Errors
    /// The device can't be sent to any more.
    #[inline]
    pub fn send(&mut self, now_ns: u64) -> Result<Work, Lost> {
        let is_due = |due_ns: Option<u64>| due_ns.is_some_and(|due| due <= now_ns);
        if !is_due(self.due_ns()) {
            return Ok(Work::None);
        }
        let transmit = &mut self.halves.transmit;
        let (frames, is_full) = match &mut self.place {
            Place::Guest(guest) => guest.send(transmit, now_ns)?,
            Place::Memory(memory) => memory.send(transmit, now_ns),
            Place::Wire(wire) => wire.send(transmit, now_ns)?,
        };
        if is_full {
            transmit.expire(now_ns);
        }
        let is_left = is_due(self.due_ns());
        self.visits.is_pushed_back = is_full && is_left;
        if frames > 0 {
            self.visits.sent_ns = now_ns;
        }
        Ok(match frames {
            _ if is_left && !is_full => Work::More,
            0 => Work::None,
            _ => Work::Some,
        })
    }

    /// Takes what came, a burst at most. `now` is the time at which it was looked for. Returns how many frames there were.
    ///
    /// # Errors
    /// The device can't be heard any more.
    #[inline]
    pub fn receive(&mut self, now: impl FnOnce() -> u64) -> Result<usize, Lost> {
        let receive = &mut self.halves.receive;
        match &mut self.place {
            Place::Guest(guest) => guest.receive(receive, now()),
            Place::Memory(memory) => Ok(memory.receive(receive, now())),
            Place::Wire(wire) => wire.receive(receive, now()),
        }
    }

    /// Ends sending at a time: what was intended before and has not left is unsent.
    pub fn close(&mut self, now_ns: u64) {
        // From here on it listens alone.
        self.visits.holds_ns = self.visits.hears_ns;
        let transmit = &mut self.halves.transmit;
        if let Place::Wire(wire) = &mut self.place {
            wire.close(now_ns, transmit);
        }
        transmit.close(now_ns);
    }

    /// When the last frame left.
    #[must_use]
    pub const fn sent_ns(&self) -> u64 {
        self.visits.sent_ns
    }

    /// What it missed of its trial.
    #[must_use]
    pub const fn away(&self) -> Away {
        self.visits.away
    }

    /// How long it may be left alone: until a ring's worth is due, or what is due is too late; until a ring is full of what
    /// comes.
    fn holds_ns(&self, profile: &Profile, packets_per_s: &[f64]) -> (u64, u64) {
        let (room, buffer) = match &self.place {
            Place::Guest(guest) => guest.room(),
            Place::Memory(memory) => memory.room(),
            Place::Wire(wire) => wire.room(),
        };
        let is_here = |end: &str| end.is_empty() || end == self.name;
        let entries = |is_of: &dyn Fn(&Stream) -> bool, buffer: u32| {
            let streams = profile.streams.iter().zip(packets_per_s);
            let streams = streams.filter(|(stream, _)| is_of(stream));
            let rates = streams.map(|(stream, rate)| {
                let segments = stream.mix.mean(|len| f64::from(stream.segments(len)));
                let buffers = |bytes: u32| f64::from(bytes.div_ceil(buffer).max(1));
                rate / segments * stream.mix.mean(|len| buffers(len.bare_bytes()))
            });
            rates.fold(0.0, |sum: f64, it| sum + it)
        };
        let sent = entries(&|it| is_here(&it.from), u32::MAX);
        let received = entries(&|it| is_here(&it.to), buffer);
        // A rate of zero fills nothing: a float's infinity is the most that there is.
        let fills_ns = |rate: f64| whole(room as f64 / rate * 1e9);
        let late_ns = match sent > 0.0 {
            true => profile.catch_up_ns,
            false => u64::MAX,
        };
        (fills_ns(sent).min(late_ns), fills_ns(received))
    }

    /// Whether the device is still there. A system call.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match &self.place {
            Place::Guest(guest) => guest.is_connected(),
            Place::Memory(_) => true,
            Place::Wire(wire) => wire.is_connected(),
        }
    }

    /// Sits down anew, at a device that has restarted.
    ///
    /// # Errors
    /// It is not there.
    pub fn reconnect(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Guest(guest) => guest.reconnect(),
            Place::Memory(_) => Ok(()),
            Place::Wire(wire) => wire.reconnect(),
        }
    }
}

/// What there was to do at a visit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Nothing.
    #[default]
    None,
    /// All of it was done.
    Some,
    /// A burst, and more behind it.
    More,
}

/// Times in which nobody looked at a seat, longer than its rings hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Away {
    /// How often.
    pub times: u64,
    /// In all.
    pub total_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

/// When a seat was looked at.
#[derive(Debug, Default)]
struct Visits {
    last_ns: u64,
    holds_ns: u64,
    /// The same where nothing is sent.
    hears_ns: u64,
    sent_ns: u64,
    /// Whether the device had no room for what was due, the last time.
    is_pushed_back: bool,
    away: Away,
}

impl Visits {
    /// One more; whether it is soon enough after the last.
    #[inline]
    fn note(&mut self, now_ns: u64) -> bool {
        let since_ns = now_ns - self.last_ns;
        self.last_ns = now_ns;
        if since_ns <= self.holds_ns {
            return true;
        }
        let away = &mut self.away;
        away.times += 1;
        away.total_ns += since_ns;
        away.longest_ns = away.longest_ns.max(since_ns);
        false
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time: positive, and what is beyond 64 bits is as long as anything"
)]
const fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use culvert_pktgen::Trial;
    use culvert_pktgen::tree::Node;
    use culvert_pktgen::trial::Around;

    use super::*;

    /// A seat over the loop, of which nothing comes back by itself: a device that has stopped.
    fn seat(flags: &[(&str, &str)]) -> (Profile, Seat) {
        let profile = Profile::read(&Node::of_flags(flags.iter().copied())).unwrap();
        let rates = profile.packets_per_s(None).unwrap();
        let place = Place::Memory(Memory::new(60));
        let mut seat = Seat::new("", place, &profile);
        seat.prepare(&profile, &rates, 1).unwrap();
        (profile, seat)
    }

    fn trial(profile: &Profile, seat: &Seat) -> Trial {
        let Halves { transmit, receive } = &seat.halves;
        Trial::of(profile, &[transmit], &[receive], Around::default())
    }

    const FLAGS: [(&str, &str); 2] = [("rate", "100kpps"), ("duration", "100ms")];
    const US: u64 = 1000;

    #[test]
    fn what_is_late_because_nobody_looked_is_the_generator_s_fault() {
        let (profile, mut seat) = seat(&FLAGS);
        for now_us in (0..100_000).step_by(10) {
            if !(30_000..50_000).contains(&now_us) {
                seat.visit(now_us * US);
                seat.send(now_us * US).unwrap();
                seat.receive(|| now_us * US).unwrap();
            }
        }
        seat.close(profile.duration_ns);
        let sent = trial(&profile, &seat).total.sent;
        // The last of 20 ms was caught up with.
        assert!((1_890..=1_910).contains(&sent.unsent), "{sent:?}");
        assert_eq!(sent.own_unsent, sent.unsent);
        let away = seat.away();
        assert_eq!((away.times, away.longest_ns), (1, 20_010 * US));
    }

    #[test]
    fn what_is_late_because_the_device_had_no_room_is_its_fault_and_a_hole() {
        let (profile, mut seat) = seat(&FLAGS);
        for now_us in (0..100_000).step_by(10) {
            seat.visit(now_us * US);
            seat.send(now_us * US).unwrap();
            // It stands still from 30 ms to 50 ms: then its ring is full.
            if !(30_000..50_000).contains(&now_us) {
                seat.receive(|| now_us * US).unwrap();
            }
        }
        seat.close(profile.duration_ns);
        let trial = trial(&profile, &seat);
        let sent = trial.total.sent;
        assert!((1_600..=1_700).contains(&sent.unsent), "{sent:?}");
        assert_eq!((sent.own_unsent, seat.away().times), (0, 0));
        let [hole] = trial.holes[..] else {
            panic!("{:?}", trial.holes)
        };
        assert_eq!(hole.lost, sent.unsent + trial.total.lost);
        assert!(
            (32_000 * US..33_000 * US).contains(&hole.from_ns),
            "{hole:?}"
        );
        assert!((48_000 * US..50_000 * US).contains(&hole.to_ns), "{hole:?}");
    }

    #[test]
    fn a_device_s_fault_ends_where_the_generator_was_away() {
        let (profile, mut seat) = seat(&FLAGS);
        for now_us in (0..100_000).step_by(10) {
            // The ring is full when the generator goes away, and empty when it is back.
            let is_still = (20_000..30_000).contains(&now_us);
            if !(30_000..50_000).contains(&now_us) {
                seat.visit(now_us * US);
                seat.send(now_us * US).unwrap();
                if !is_still {
                    seat.receive(|| now_us * US).unwrap();
                }
            } else {
                seat.receive(|| now_us * US).unwrap();
            }
        }
        seat.close(profile.duration_ns);
        let sent = trial(&profile, &seat).total.sent;
        let of_device = sent.unsent - sent.own_unsent;
        assert!((600..=700).contains(&of_device), "{sent:?}");
        assert!((1_890..=2_010).contains(&sent.own_unsent), "{sent:?}");
    }

    #[test]
    fn a_seat_may_be_left_alone_until_its_rings_are_full() {
        let holds = |flags: &[(&str, &str)]| seat(flags).1.visits.holds_ns;
        // 256 frames, and never longer than a packet may be late.
        assert_eq!(holds(&[("rate", "1mpps")]), 256 * US);
        assert_eq!(holds(&[("rate", "1kpps")]), 1000 * US);
        assert_eq!(
            holds(&[("rate", "1kpps"), ("catch_up", "1s")]),
            256_000 * US
        );
        let (mut profile, mut away) = seat(&FLAGS);
        profile.streams[0].from = "a".into();
        profile.streams[0].to = "b".into();
        away.prepare(&profile, &[1e6], 2).unwrap();
        assert_eq!(away.visits.holds_ns, u64::MAX);
    }
}
