//! Who says to be a router, and has not answered yet.
//!
//! In: advertisements, who answers, the time. Out: those of who does. Never: more than [`limits::RA_CLAIMS`], nor one in the
//! way of others for longer than [`limits::RA_CLAIM_GRACE`]; a claim beyond [`LIFE`].

use std::{net::Ipv6Addr, time::Duration};

use culvert_wireguard::Instant;

use super::advertisement::Advertisement;
use crate::{HostDrop, limits};

/// How long an answer is waited for: our own address may have to be asked for first.
const LIFE: Duration = Duration::from_secs(10);

struct Claim {
    /// The last that it said.
    said: Advertisement,
    heard: Instant,
    /// When it said the first.
    since: Instant,
}

/// All of them, the oldest first.
#[derive(Default)]
pub(super) struct Claims {
    all: Vec<Claim>,
    unanswered: usize,
}

impl Claims {
    pub(super) fn has(&self, router: Ipv6Addr) -> bool {
        self.all.iter().any(|claim| claim.said.router == router)
    }

    /// One more. An error says that one was lost, this or an older one.
    pub(super) fn add(&mut self, said: Advertisement, now: Instant) -> Result<(), HostDrop> {
        let mut all = self.all.iter_mut();
        if let Some(known) = all.find(|it| it.said.router == said.router) {
            (known.said, known.heard) = (said, now);
            return Ok(());
        }
        let is_full = self.all.len() >= limits::RA_CLAIMS;
        let oldest = self.all.first().filter(|_| is_full);
        if oldest.is_some_and(|it| !it.since.is_older_than(limits::RA_CLAIM_GRACE, now)) {
            return Err(HostDrop::AdvertisedFull);
        }
        if is_full {
            self.all.remove(0);
        }
        self.all.push(Claim {
            said,
            heard: now,
            since: now,
        });
        (!is_full).then_some(()).ok_or(HostDrop::AdvertisedFull)
    }

    /// Those of routers that answer, and when they came; those of who is known not to are lost.
    pub(super) fn take_answered(
        &mut self,
        answers: impl Fn(Ipv6Addr) -> Option<bool>,
    ) -> Vec<(Advertisement, Instant)> {
        let mut answered = Vec::new();
        for claim in std::mem::take(&mut self.all) {
            match answers(claim.said.router) {
                Some(true) => answered.push((claim.said, claim.heard)),
                Some(false) => self.unanswered += 1,
                None => self.all.push(claim),
            }
        }
        answered
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.all.first().map(|oldest| oldest.since + LIFE)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let before = self.all.len();
        self.all.retain(|claim| claim.since + LIFE > now);
        self.unanswered += before - self.all.len();
    }

    /// How many did not answer since the last call.
    pub(super) fn take_unanswered(&mut self) -> usize {
        std::mem::take(&mut self.unanswered)
    }
}
