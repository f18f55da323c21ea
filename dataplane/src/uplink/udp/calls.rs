//! Handshake messages come to sockets of their own, so that a flood of them fills
//! nobody else's buffer and gets no more than its share of the worker.
//!
//! In: the sockets of a port, the time. Out: a few handshake messages per burst.
//! Never: a data packet; more than `limits::CALLS_PER_SECOND` of a kind while there is
//! anything else to do.
//!
//! The kernel sorts: a classic BPF program on the port's `SO_REUSEPORT` group chooses
//! the socket by the message's first bytes. What overflows a lane is dropped where it
//! arrives, at the sender's expense on one machine and in the softirq on two.
//!
//! | socket of the group | what comes to it |
//! |---|---|
//! | 0 … workers − 1 | data, by receiver index: a session stays with one worker |
//! | workers | handshake messages with a mac2, cookie replies |
//! | workers + 1 | handshake messages without, and what is no message at all |
//!
//! Who answers a cookie reply gets a lane without the crowd; a sender that invents
//! addresses gets no cookies. Of a crowd a sample is answered, the larger the less there is
//! to carry: a caller gets in with one of its next calls, not at the sessions' expense.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use culvert_wireguard::Instant;

use super::socket::{Received, Rule, Socket};
use crate::{
    shared::{clock, limits},
    worker::rate::Rate,
};

/// The lanes' number.
pub(super) const LANES: usize = 2;

/// Offsets of the mac2 in an initiation and a response (whitepaper, section 5.4.2).
const MAC2_OF_INITIATION: u32 = 132;
const MAC2_OF_RESPONSE: u32 = 76;

/// The program that sorts a group with so many data sockets. A load beyond a
/// message's end ends it with 0: the first data socket, where it is dropped by name.
pub(super) fn sorting(workers: u32) -> Vec<Rule> {
    let (cookie, plain) = (workers, workers + 1);
    let by_mac2 = |at: u32| {
        [
            Rule::load_word(at),
            Rule::unless_equal(0, 7),
            Rule::load_word(at + 4),
            Rule::unless_equal(0, 5),
            Rule::load_word(at + 8),
            Rule::unless_equal(0, 3),
            Rule::load_word(at + 12),
            Rule::unless_equal(0, 1),
            Rule::answer(plain),
            Rule::answer(cookie),
        ]
    };
    let mut rules = vec![
        Rule::load_byte(0),
        // Data: the receiver index's low bits are random.
        Rule::unless_equal(4, 3),
        Rule::load_word(4),
        Rule::modulo(workers),
        Rule::answer_loaded(),
        // A cookie reply.
        Rule::unless_equal(3, 1),
        Rule::answer(cookie),
    ];
    for (kind, mac2) in [(1, MAC2_OF_INITIATION), (2, MAC2_OF_RESPONSE)] {
        rules.push(Rule::unless_equal(kind, 10));
        rules.extend(by_mac2(mac2));
    }
    rules.push(Rule::answer(plain));
    rules
}

/// The sockets of both families for messages of one kind.
struct Lane {
    sockets: [Option<Arc<Socket>>; 2],
    rate: Rate,
    /// One of the sockets has something, says the kernel.
    ready: bool,
    /// More came than was taken: what waits is taken as credit comes, and no descriptor tells.
    crowded: bool,
    /// Whose turn it is to be first: a crowd in one family takes nothing from the other.
    v6_first: bool,
}

impl Lane {
    fn receive(
        &mut self,
        received: &mut Received,
        first: usize,
        end: usize,
        (per_second, now): (u32, Instant),
    ) -> usize {
        let credit = self.rate.refill(per_second, now);
        let affordable = usize::try_from(credit).unwrap_or(usize::MAX);
        let end = end.min(first + affordable);
        let mut next = first;
        let [v4, v6] = self.sockets.each_ref();
        let families = if self.v6_first { [v6, v4] } else { [v4, v6] };
        for socket in families.into_iter().flatten() {
            if next < end {
                next += received.receive(socket, next, end - next);
            }
        }
        self.v6_first = !self.v6_first;
        self.ready = false;
        self.crowded = next == end;
        self.rate.spend(u32::try_from(next - first).unwrap_or(0));
        next - first
    }

    /// Those that are to wake the worker.
    fn sockets(&self) -> impl Iterator<Item = &Arc<Socket>> {
        self.sockets.iter().flatten().filter(|_| !self.crowded)
    }
}

/// The lanes of one tunnel; one worker reads them.
pub(super) struct Calls {
    /// With a cookie, without.
    lanes: [Lane; LANES],
    /// When they were looked at.
    looked: Instant,
    /// Bursts since the time was looked at.
    turns: u32,
    idleness: Idleness,
}

impl Calls {
    pub(super) fn sockets(&self) -> impl Iterator<Item = &Arc<Socket>> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.sockets.iter().flatten())
    }

    pub(super) fn new(lanes: [[Option<Arc<Socket>>; 2]; LANES]) -> Self {
        let now = clock::monotonic();
        Self {
            lanes: lanes.map(|sockets| Lane {
                sockets,
                rate: Rate::new(limits::CALLS_BURST, now),
                ready: false,
                crowded: false,
                v6_first: false,
            }),
            looked: now,
            turns: 0,
            idleness: Idleness::new(now),
        }
    }

    /// Whether it is the lanes' turn: when the kernel says that something waits, and every so often.
    pub(super) fn is_due(&mut self) -> Option<Instant> {
        if self.lanes.iter().any(|lane| lane.ready) {
            return Some(clock::monotonic());
        }
        self.turns += 1;
        if self.turns < limits::CALLS_EVERY && !self.is_crowded() {
            return None;
        }
        self.turns = 0;
        let now = clock::monotonic();
        (now.since(self.looked) >= self.period()).then_some(now)
    }

    fn period(&self) -> Duration {
        if self.idleness.idle {
            limits::CALLS_PERIOD_IDLE
        } else {
            limits::CALLS_PERIOD
        }
    }

    /// Receives into the slots from `first` on, at most to `end`; answers how many
    /// messages came. `carried` are the uplink's packets so far, both ways, all workers'.
    pub(super) fn receive(
        &mut self,
        received: &mut Received,
        first: usize,
        end: usize,
        (now, carried): (Instant, u64),
    ) -> usize {
        self.looked = now;
        let per_second = if self.idleness.at(now, carried) {
            limits::CALLS_PER_SECOND_IDLE
        } else {
            limits::CALLS_PER_SECOND
        };
        let end = end.min(first + limits::CALLS_PER_TURN);
        let mut next = first;
        let mut left = LANES;
        for lane in &mut self.lanes {
            // No lane takes another's room.
            let end = next + (end - next) / left;
            left -= 1;
            next += lane.receive(received, next, end, (per_second, now));
        }
        self.idleness.taken += (next - first) as u64;
        next - first
    }

    /// When the worker must look again without being woken, if it must.
    pub(super) fn owed(&self) -> Option<Duration> {
        self.is_crowded().then(|| self.period())
    }

    /// More come than are taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.lanes.iter().any(|lane| lane.crowded)
    }

    pub(super) fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        let sockets = self.lanes.iter().flat_map(Lane::sockets);
        list.extend(sockets.map(|socket| socket.as_fd()));
    }

    /// The worker slept so long; which of the descriptors have something.
    pub(super) fn woken(&mut self, mut ready: impl Iterator<Item = bool>, slept: Duration) {
        for lane in &mut self.lanes {
            let count = lane.sockets().count();
            // Each is asked: the next lane's come behind.
            lane.ready |= ready.by_ref().take(count).fold(false, |any, one| any | one);
        }
        self.idleness.slept += slept;
    }
}

/// Whether there was little to do lately: few packets of sessions came or went by any worker, and this one slept
/// now and then.
struct Idleness {
    begun: Instant,
    slept: Duration,
    /// Calls that were taken: each may be answered.
    taken: u64,
    /// Packets that the uplink had carried when this began.
    carried: u64,
    idle: bool,
}

impl Idleness {
    /// How long is lately.
    const WINDOW: Duration = Duration::from_millis(10);
    /// How few are few, in that time.
    const FEW: u64 = 128;

    fn new(now: Instant) -> Self {
        Self {
            begun: now,
            slept: Duration::ZERO,
            taken: 0,
            carried: 0,
            idle: false,
        }
    }

    /// Judges, if it is time; `carried` packets came and went so far, calls and answers included.
    fn at(&mut self, now: Instant, carried: u64) -> bool {
        let window = now.since(self.begun);
        if window >= Self::WINDOW {
            let calls = 2 * self.taken;
            let few = carried.saturating_sub(self.carried + calls) < Self::FEW;
            *self = Self {
                idle: few && self.slept >= window / 8,
                carried,
                ..Self::new(now)
            };
        }
        self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn nap(idleness: &mut Idleness) {
        idleness.slept += Duration::from_millis(2);
    }

    #[test]
    fn idle_is_who_sleeps_and_carries_little() {
        let mut idleness = Idleness::new(at(0));
        nap(&mut idleness);
        assert!(!idleness.at(at(9), 0), "too early to say");
        assert!(idleness.at(at(10), 0));
        assert!(idleness.at(at(15), 0), "as long as nothing else is known");
        assert!(!idleness.at(at(20), 0), "it did not sleep");
        nap(&mut idleness);
        assert!(!idleness.at(at(30), 128), "much was carried");
        nap(&mut idleness);
        assert!(idleness.at(at(40), 255), "what was is forgotten");
    }

    #[test]
    fn answers_to_calls_are_nothing_to_carry() {
        let mut idleness = Idleness::new(at(0));
        nap(&mut idleness);
        idleness.taken = 600;
        assert!(idleness.at(at(10), 1_200));
        nap(&mut idleness);
        idleness.taken = 600;
        assert!(!idleness.at(at(20), 2 * 1_200 + 128));
    }
}
