//! Handshake messages come to sockets of their own, so that a flood of them fills
//! nobody else's buffer and gets no more than its share of the worker.
//!
//! In: the sockets of a port, the time. Out: a few handshake messages per burst.
//! Never: a data packet; more than `limits::CALLS_PER_SECOND` of those that carry no
//! cookie.
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
//! addresses gets no cookies.

use std::{os::fd::BorrowedFd, sync::Arc};

use culvert_wireguard::Instant;

use super::socket::{Received, Rule, Socket};
use crate::{clock, limits};

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

/// The lanes of one tunnel, both families; one worker reads them.
pub(super) struct Calls {
    /// With a cookie, without.
    lanes: [[Option<Arc<Socket>>; 2]; LANES],
    credit: u32,
    refilled: Instant,
    /// Bursts since the lanes were looked at.
    turns: u32,
    /// Messages may wait for credit, and no descriptor will tell.
    owed: bool,
}

impl Calls {
    pub(super) fn new(lanes: [[Option<Arc<Socket>>; 2]; LANES]) -> Self {
        Self {
            lanes,
            credit: limits::CALLS_BURST,
            refilled: clock::monotonic(),
            turns: 0,
            owed: false,
        }
    }

    /// Whether it is the lanes' turn: every so often, and at once when the worker was woken. Their descriptors wake
    /// it, so messages wait for no more than a few looks.
    pub(super) fn is_due(&mut self, woken: bool) -> bool {
        self.turns += 1;
        let due = woken || self.turns >= limits::CALLS_EVERY;
        if due {
            self.turns = 0;
        }
        due
    }

    /// Receives into the slots from `first` on, at most to `end`; answers how many
    /// messages came.
    pub(super) fn receive(&mut self, received: &mut Received, first: usize, end: usize) -> usize {
        let end = end.min(first + limits::CALLS_PER_TURN);
        let mut next = first;
        for socket in self.lanes[0].iter().flatten() {
            next += received.receive(socket, next, end - next);
        }
        self.refill();
        let affordable = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let end = end.min(next + affordable);
        let plain = next;
        for socket in self.lanes[1].iter().flatten() {
            next += received.receive(socket, next, end - next);
        }
        let spent = u32::try_from(next - plain).unwrap_or(0);
        self.credit = self.credit.saturating_sub(spent);
        self.owed = self.credit == 0;
        next - first
    }

    fn refill(&mut self) {
        /// Nanoseconds that one message costs.
        const PRICE: u64 = 1_000_000_000 / limits::CALLS_PER_SECOND as u64;
        if self.credit == limits::CALLS_BURST {
            self.refilled = clock::monotonic();
            return;
        }
        let now = clock::monotonic();
        let earned = now.as_nanos().saturating_sub(self.refilled.as_nanos()) / PRICE;
        if earned > 0 {
            self.refilled = now;
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.credit = self.credit.saturating_add(earned).min(limits::CALLS_BURST);
        }
    }

    /// Whether the worker must look again without being woken.
    pub(super) fn owed(&self) -> bool {
        self.owed
    }

    pub(super) fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        use std::os::fd::AsFd as _;
        let lanes = if self.owed {
            &self.lanes[..1]
        } else {
            &self.lanes
        };
        list.extend(
            lanes
                .iter()
                .flatten()
                .flatten()
                .map(|socket| socket.as_fd()),
        );
    }
}
