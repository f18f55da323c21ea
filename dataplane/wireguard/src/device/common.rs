//! What all peers of a device share.
//!
//! In: peers' requests for indices, jitter, deadlines. Out: events and messages, queued. Never: a peer.

use std::collections::VecDeque;
use std::time::Duration;

use rand_core::CryptoRng;

use super::api::{Config, Event, Transmit};
use crate::calls::Calls;
use crate::cookie::Checker;
use crate::index::IndexTable;
use crate::keys::{PrivateKey, PublicKey};
use crate::limits::{REKEY_TIMEOUT_JITTER_MAX, UNDER_LOAD_LINGER};
use crate::ratelimiter::RateLimiter;
use crate::time::Instant;
use crate::timers::Deadlines;

/// Who we are, with what follows from it.
pub(super) struct Identity {
    pub(super) private_key: PrivateKey,
    pub(super) public_key: PublicKey,
    pub(super) checker: Checker,
}

impl Identity {
    pub(super) fn new(private_key: PrivateKey) -> Self {
        let public_key = private_key.public_key();
        Self {
            private_key,
            public_key,
            checker: Checker::new(&public_key),
        }
    }
}

/// What all peers of a device share.
pub(super) struct Core {
    pub(super) up: bool,
    pub(super) identity: Option<Identity>,
    pub(super) indices: IndexTable,
    pub(super) deadlines: Deadlines,
    pub(super) calls: Calls,
    pub(super) limiter: RateLimiter,
    pub(super) rng: Box<dyn CryptoRng + Send>,
    pub(super) events: VecDeque<Event>,
    pub(super) transmits: VecDeque<Transmit>,
    under_load_backlog: usize,
    last_under_load: Option<Instant>,
}

impl Core {
    pub(super) fn new(
        config: Config,
        identity: Option<Identity>,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        Self {
            up: true,
            identity,
            indices: IndexTable::new(config.index_slots),
            deadlines: Deadlines::default(),
            calls: Calls::default(),
            limiter: RateLimiter::default(),
            rng,
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            under_load_backlog: config.under_load_backlog,
            last_under_load: None,
        }
    }

    /// A random delay of less than a third of a second, so that peers don't call in step.
    pub(super) fn jitter(&mut self) -> Duration {
        let below =
            u64::try_from(REKEY_TIMEOUT_JITTER_MAX.as_nanos()).expect("a third of a second");
        Duration::from_nanos(self.rng.next_u64() % below)
    }

    /// Whether handshakes must prove their source: many wait now, or did within the last second.
    pub(super) fn under_load(&mut self, backlog: usize, now: Instant) -> bool {
        if backlog >= self.under_load_backlog {
            self.last_under_load = Some(now);
        }
        self.last_under_load
            .is_some_and(|last| !last.is_older_than(UNDER_LOAD_LINGER, now))
    }
}
