//! A peer's timers (whitepaper section 6; kernel `timers.c`, and the renewal rules of `send.c` and `receive.c`).
//!
//! In: what was sent and received, and when. Out: handshakes, keepalives, the wiping of keys. Never: a clock.
//!
//! | timer | set | cleared | when it fires |
//! |---|---|---|---|
//! | retransmit handshake | initiation sent | session confirmed | a further initiation, or giving up |
//! | send keepalive | data received, unless set | anything sent | an empty packet |
//! | new handshake | data sent, unless set | anything received | an initiation |
//! | zero keys | session made; giving up, unless set | – | all keys are wiped |
//! | persistent keepalive | anything sent or received | – | an empty packet |

use std::time::Duration;

use super::api::{Event, Traffic};
use super::common::Core;
use super::handshake::Attempt;
use super::peer::Peer;
use crate::keypair::{Keypair, Role};
use crate::limits::{
    BACK_OFF_AFTER, BACK_OFF_MAX, KEEPALIVE_TIMEOUT, MAX_TIMER_HANDSHAKES, REKEY_AFTER_TIME,
    REKEY_ON_RECEIVE_AFTER, REKEY_TIMEOUT, ZERO_KEYS_AFTER,
};
use crate::time::{Instant, Now};

/// When each timer fires, and what their rules remember.
#[derive(Default)]
pub(super) struct Timers {
    pub(super) retransmit_handshake: Option<Instant>,
    pub(super) send_keepalive: Option<Instant>,
    pub(super) new_handshake: Option<Instant>,
    pub(super) zero_keys: Option<Instant>,
    pub(super) persistent_keepalive: Option<Instant>,
    pub(super) handshake_attempts: u32,
    need_another_keepalive: bool,
    /// The passive keepalive that is on its way to a worker leaves the timer for another one alone.
    another_keepalive_set: bool,
    sent_last_minute_handshake: bool,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    ZeroKeys,
    RetransmitHandshake,
    NewHandshake,
    SendKeepalive,
    PersistentKeepalive,
}

impl Timers {
    fn all(&self) -> [(Timer, Option<Instant>); 5] {
        [
            (Timer::ZeroKeys, self.zero_keys),
            (Timer::RetransmitHandshake, self.retransmit_handshake),
            (Timer::NewHandshake, self.new_handshake),
            (Timer::SendKeepalive, self.send_keepalive),
            (Timer::PersistentKeepalive, self.persistent_keepalive),
        ]
    }

    fn earliest(&self) -> Option<(Instant, Timer)> {
        let set = self
            .all()
            .into_iter()
            .filter_map(|(timer, at)| Some((at?, timer)));
        set.min_by_key(|(at, _)| *at)
    }

    const fn clear(&mut self, timer: Timer) {
        match timer {
            Timer::ZeroKeys => self.zero_keys = None,
            Timer::RetransmitHandshake => self.retransmit_handshake = None,
            Timer::NewHandshake => self.new_handshake = None,
            Timer::SendKeepalive => self.send_keepalive = None,
            Timer::PersistentKeepalive => self.persistent_keepalive = None,
        }
    }
}

/// What workers do, in the order in which it counts when it happens at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Sent { data: bool },
    Received { data: bool },
}

impl Peer {
    /// Tells the device when this peer must be woken.
    pub(super) fn enter_deadline(&self, core: &mut Core) {
        if let Some((at, _)) = self.timers.earliest() {
            core.deadlines.no_later_than(self.id, at);
        }
    }

    /// Fires what is due, in time's order. A timer that fires sets none that is due at once, so that each fires at
    /// most once here.
    pub(super) fn fire_timers(&mut self, core: &mut Core, now: Now) {
        for _ in 0..self.timers.all().len() {
            let Some((at, timer)) = self.timers.earliest() else {
                return;
            };
            if at > now.monotonic {
                return;
            }
            self.timers.clear(timer);
            match timer {
                Timer::ZeroKeys => self.clear(core),
                Timer::RetransmitHandshake => self.retransmit_handshake(core, now),
                Timer::NewHandshake => {
                    core.events.push_back(Event::SourceStale { peer: self.id });
                    self.initiate(core, Attempt::First, now);
                }
                Timer::SendKeepalive => self.passive_keepalive(core, now),
                Timer::PersistentKeepalive => self.persistent_keepalive(core, now),
            }
        }
    }

    fn retransmit_handshake(&mut self, core: &mut Core, now: Now) {
        if self.timers.handshake_attempts > MAX_TIMER_HANDSHAKES {
            self.timers.send_keepalive = None;
            core.events.push_back(Event::DropStaged { peer: self.id });
            core.events
                .push_back(Event::HandshakeGivenUp { peer: self.id });
            // What is left of a half-made exchange goes, too.
            self.timers
                .zero_keys
                .get_or_insert(now.monotonic + ZERO_KEYS_AFTER);
            return;
        }
        self.timers.handshake_attempts += 1;
        core.events.push_back(Event::SourceStale { peer: self.id });
        self.initiate(core, Attempt::Retry, now);
        // A response of ours may have moved the clock of the 5 s: try again when it has run out.
        self.retry_later(core, now);
    }

    /// Sees to it that a held-back initiation is tried again, if no retry is pending.
    pub(super) fn retry_later(&mut self, core: &mut Core, now: Now) {
        let possible = core.up && core.identity.is_some() && self.endpoint.is_some();
        if possible
            && self.ticket.is_none()
            && self.timers.retransmit_handshake.is_none()
            && let Some(sent) = self.handshake_sent
        {
            self.timers.retransmit_handshake =
                Some((sent + self.patience()).max(now.monotonic) + core.jitter());
        }
    }

    /// How long a handshake message of ours holds back the next initiation.
    pub(super) fn patience(&self) -> Duration {
        let doublings = self.unanswered.saturating_sub(BACK_OFF_AFTER).min(8);
        (REKEY_TIMEOUT * (1 << doublings)).min(BACK_OFF_MAX)
    }

    /// There is a new place to call: what was called in vain before doesn't count.
    pub(super) fn call_anew(&mut self, core: &mut Core, now: Now) {
        let waited = self.leave_queue(core) | self.timers.retransmit_handshake.take().is_some();
        self.unanswered = 0;
        if waited {
            self.initiate(core, Attempt::First, now);
            self.retry_later(core, now);
        }
    }

    fn passive_keepalive(&mut self, core: &mut Core, now: Now) {
        self.keepalive(core, now);
        if std::mem::take(&mut self.timers.need_another_keepalive) {
            self.timers.send_keepalive = Some(now.monotonic + KEEPALIVE_TIMEOUT);
            self.timers.another_keepalive_set = true;
        }
    }

    fn persistent_keepalive(&mut self, core: &mut Core, now: Now) {
        let Some(interval) = self.persistent_keepalive else {
            return;
        };
        self.keepalive(core, now);
        // Sending sets the timer anew; this is for a keepalive that can't be sent.
        self.timers.persistent_keepalive = Some(now.monotonic + interval);
    }

    /// Sends what is staged, else an empty packet; without a key, asks for one.
    fn keepalive(&mut self, core: &mut Core, now: Now) {
        if self
            .current
            .as_ref()
            .is_some_and(|keypair| keypair.sendable(now.monotonic).is_ok())
        {
            core.events
                .push_back(Event::SendKeepalive { peer: self.id });
        } else {
            self.initiate(core, Attempt::First, now);
            self.retry_later(core, now);
        }
    }

    /// A persistent keepalive is due now, then at its interval.
    pub(super) fn start_persistent_keepalive(&mut self, core: &Core, now: Instant) {
        if core.up && self.persistent_keepalive.is_some() {
            self.timers.persistent_keepalive = Some(now);
        }
    }

    /// Applies a report of the workers.
    pub(super) fn traffic(&mut self, core: &mut Core, traffic: Traffic, now: Now) {
        if !core.up {
            return;
        }
        self.promote_if_confirmed(core, now);
        let mut seen = [
            (traffic.keepalive_sent, Seen::Sent { data: false }),
            (traffic.data_sent, Seen::Sent { data: true }),
            (traffic.keepalive_received, Seen::Received { data: false }),
            (traffic.data_received, Seen::Received { data: true }),
        ];
        // A stable sort: what is equal in time stays in the order above.
        seen.sort_by_key(|(at, _)| *at);
        for (at, seen) in seen {
            let Some(at) = at.map(|at| at.min(now.monotonic)) else {
                continue;
            };
            match seen {
                Seen::Sent { data } => self.note_traffic_sent(core, data, at, now),
                Seen::Received { data } => self.note_traffic_received(core, data, at, now),
            }
        }
    }

    /// A worker saw the first valid packet of the keypair with this index.
    pub(super) fn confirmed(&mut self, core: &mut Core, local_index: u32, now: Now) {
        if core.up
            && self
                .next
                .as_ref()
                .is_some_and(|next| next.local_index() == local_index)
        {
            self.promote(core, now);
        }
    }

    fn promote_if_confirmed(&mut self, core: &mut Core, now: Now) {
        if self.next.as_ref().is_some_and(|next| next.is_confirmed()) {
            self.promote(core, now);
        }
    }

    fn promote(&mut self, core: &mut Core, now: Now) {
        self.promote_next(core);
        self.note_handshake_complete(core, now);
        core.events.push_back(Event::FlushStaged { peer: self.id });
    }

    fn note_traffic_sent(&mut self, core: &mut Core, data: bool, at: Instant, now: Now) {
        let another = std::mem::take(&mut self.timers.another_keepalive_set) && !data;
        let send_keepalive = self.timers.send_keepalive.filter(|_| another);
        self.note_sent(at);
        self.timers.send_keepalive = send_keepalive;
        if data && self.timers.new_handshake.is_none() {
            self.timers.new_handshake =
                Some(at + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + core.jitter());
        }
        let renew_after = REKEY_AFTER_TIME
            + if self.yields_renewal {
                REKEY_TIMEOUT
            } else {
                Duration::ZERO
            };
        let due = |keypair: &Keypair| {
            keypair.is_worn()
                || keypair.role() == Role::Initiator
                    && keypair.created().is_older_than(renew_after, now.monotonic)
        };
        if self
            .current
            .as_ref()
            .is_some_and(|keypair| keypair.sends() && due(keypair))
        {
            self.initiate(core, Attempt::First, now);
        }
    }

    fn note_traffic_received(&mut self, core: &mut Core, data: bool, at: Instant, now: Now) {
        self.note_received(at);
        if data {
            if self.timers.send_keepalive.is_none() {
                self.timers.send_keepalive = Some(at + KEEPALIVE_TIMEOUT);
            } else {
                self.timers.need_another_keepalive = true;
            }
        }
        let due = |keypair: &Keypair| {
            keypair.role() == Role::Initiator
                && keypair
                    .created()
                    .is_older_than(REKEY_ON_RECEIVE_AFTER, now.monotonic)
        };
        if !self.timers.sent_last_minute_handshake
            && self
                .current
                .as_ref()
                .is_some_and(|keypair| keypair.sends() && due(keypair))
        {
            self.timers.sent_last_minute_handshake = true;
            self.initiate(core, Attempt::First, now);
        }
    }

    /// Something authentic was received: handshake message, data or keepalive.
    pub(super) fn note_received(&mut self, at: Instant) {
        self.unanswered = 0;
        self.timers.new_handshake = None;
        self.restart_persistent_keepalive(at);
    }

    /// Data or a keepalive was sent.
    fn note_sent(&mut self, at: Instant) {
        self.timers.send_keepalive = None;
        self.restart_persistent_keepalive(at);
    }

    /// An initiation or a response is sent.
    pub(super) fn note_handshake_sent(&mut self, core: &Core, at: Instant) {
        debug_assert!(core.up, "nothing is sent while the device is down");
        self.note_sent(at);
    }

    pub(super) fn note_initiated(&mut self, core: &mut Core, at: Instant) {
        self.timers.retransmit_handshake = Some(at + self.patience() + core.jitter());
    }

    /// New keys were derived.
    pub(super) fn note_session(&mut self, at: Instant) {
        self.timers.zero_keys = Some(at + ZERO_KEYS_AFTER);
    }

    /// Both sides have the new keys: our response was confirmed, or we have the other's.
    pub(super) fn note_handshake_complete(&mut self, core: &mut Core, now: Now) {
        self.leave_queue(core);
        self.timers.retransmit_handshake = None;
        self.timers.handshake_attempts = 0;
        self.timers.sent_last_minute_handshake = false;
        self.last_handshake = Some(now.unix);
        core.events.push_back(Event::HandshakeCompleted {
            peer: self.id,
            at: now.unix,
        });
    }

    fn restart_persistent_keepalive(&mut self, at: Instant) {
        if let Some(interval) = self.persistent_keepalive {
            self.timers.persistent_keepalive = Some(at + interval);
        }
    }
}
