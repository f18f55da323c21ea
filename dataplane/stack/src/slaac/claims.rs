//! Who says to be a router, and has not answered yet from where it says so.
//!
//! In: advertisements, who answers, the time. Out: those of who does. Never: a claim changed by what comes from elsewhere;
//! more than [`limits::RA_CLAIMS`], nor one in the way of others for longer than [`limits::RA_CLAIM_GRACE`]; a claim beyond
//! [`LIFE`].

use std::{net::Ipv6Addr, time::Duration};

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::{Presence, advertisement::Advertisement};
use crate::{HostDrop, limits};

/// How long an answer is waited for: our own address may have to be asked for first.
const LIFE: Duration = Duration::from_secs(10);
/// An answer counts that came shortly before its claim; one that speaks against it has to have come after it, which is what
/// has come since so much later (`Neighbors::answered_since`).
const SHORTLY: Duration = Duration::from_secs(2);

struct Claim {
    /// The last that it said.
    said: Advertisement,
    /// From where.
    mac: MacAddr,
    heard: Instant,
    /// When it said the first.
    since: Instant,
}

/// All of them, the oldest first.
#[derive(Default)]
pub(super) struct Claims {
    all: Vec<Claim>,
    lost: Vec<HostDrop>,
}

impl Claims {
    pub(super) fn has(&self, router: Ipv6Addr) -> bool {
        self.all.iter().any(|claim| claim.said.router == router)
    }

    /// One more. An error says that one was lost, this or an older one.
    pub(super) fn add(
        &mut self,
        said: Advertisement,
        mac: MacAddr,
        now: Instant,
    ) -> Result<(), HostDrop> {
        let mut all = self.all.iter_mut();
        if let Some(known) = all.find(|it| (it.said.router, it.mac) == (said.router, mac)) {
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
            mac,
            heard: now,
            since: now,
        });
        (!is_full).then_some(()).ok_or(HostDrop::AdvertisedFull)
    }

    /// Those of routers that have answered, from where, and when they came; those of who has not, or otherwise, are lost.
    pub(super) fn take_answered(
        &mut self,
        known: impl Fn(Ipv6Addr, Instant) -> Presence,
    ) -> Vec<(Advertisement, MacAddr, Instant)> {
        let mut answered = Vec::new();
        for claim in std::mem::take(&mut self.all) {
            let since = |time| known(claim.said.router, time);
            match (since(claim.since), since(claim.since + SHORTLY)) {
                (Presence::There(it), _) if it.mac == claim.mac && it.is_router => {
                    answered.push((claim.said, claim.mac, claim.heard));
                }
                (_, Presence::There(_)) => self.lost.push(HostDrop::AdvertisedDoubtful),
                (Presence::Silent, _) => self.lost.push(HostDrop::AdvertisedUnanswered),
                _ => self.all.push(claim),
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
        let over = before - self.all.len();
        (self.lost).extend(std::iter::repeat_n(HostDrop::AdvertisedUnanswered, over));
    }

    /// What was lost since the last call: no more than there are claims.
    pub(super) fn poll_lost(&mut self) -> Option<HostDrop> {
        self.lost.pop()
    }
}
