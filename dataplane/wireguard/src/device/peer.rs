//! One peer: its configuration, its keypairs, its endpoint.
//!
//! In: calls of the device. Out: events, through the core. Never: another peer.
//!
//! Keypairs move as in the kernel (`noise.c`). An initiator's keypair becomes *current* at once, and what was *next*
//! (else *current*) becomes *previous*. A responder's keypair becomes *next* and waits for the first valid packet,
//! which makes it *current*.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::api::{Event, PeerConfig, PeerStatus, PeerUpdate};
use super::common::Core;
use super::timing::Timers;
use crate::PeerId;
use crate::calls::Ticket;
use crate::cookie::Jar;
use crate::crypto::Secret;
use crate::keypair::{Keypair, Role, SessionKeys};
use crate::keys::{PresharedKey, PublicKey};
use crate::noise::Initiated;
use crate::time::{Instant, Now, Tai64n};

/// One peer of a device.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) public_key: PublicKey,
    pub(super) preshared_key: PresharedKey,
    pub(super) static_static: StaticStatic,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) elsewhere: Box<[SocketAddr]>,
    pub(super) persistent_keepalive: Option<Duration>,
    pub(super) last_handshake: Option<Duration>,

    /// The initiation that waits for its response. Apart from the kernel, an initiation from the other side leaves
    /// it open: when both sides call at once, both succeed instead of both waiting for the next try.
    pub(super) initiated: Option<Box<Initiated>>,
    pub(super) jar: Jar,
    /// The greatest timestamp that the peer has proven.
    pub(super) timestamp_received: Tai64n,
    /// The timestamp of our last initiation: the next is later, even if the clock was set back.
    pub(super) timestamp_sent: Tai64n,
    pub(super) initiation_accepted: Option<Instant>,
    /// When we last sent an initiation or a response.
    pub(super) handshake_sent: Option<Instant>,
    /// Its place among those that wait to be called.
    pub(super) ticket: Option<Ticket>,
    /// Initiations sent since something authentic was received.
    pub(super) unanswered: u32,

    pub(super) previous: Option<Arc<Keypair>>,
    pub(super) current: Option<Arc<Keypair>>,
    pub(super) next: Option<Arc<Keypair>>,
    /// Both sides made a session at once and each is an initiator: this one leaves it to the other to renew first,
    /// or both would call at once again, every two minutes.
    pub(super) yields_renewal: bool,

    pub(super) timers: Timers,
}

/// The shared secret of both static keys, computed when it is first needed.
pub(super) enum StaticStatic {
    Unknown,
    /// The peer's key is of low order.
    Void,
    Known(Secret),
}

impl Peer {
    pub(super) fn new(id: PeerId, config: PeerConfig) -> Self {
        Self {
            id,
            public_key: config.public_key,
            preshared_key: config.preshared_key,
            static_static: StaticStatic::Unknown,
            endpoint: config.endpoint,
            elsewhere: Box::default(),
            persistent_keepalive: config.persistent_keepalive.and_then(interval),
            last_handshake: None,
            initiated: None,
            jar: Jar::default(),
            timestamp_received: Tai64n::default(),
            timestamp_sent: Tai64n::default(),
            initiation_accepted: None,
            handshake_sent: None,
            ticket: None,
            unanswered: 0,
            previous: None,
            current: None,
            next: None,
            yields_renewal: false,
            timers: Timers::default(),
        }
    }

    pub(super) const fn id(&self) -> PeerId {
        self.id
    }

    pub(super) const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    pub(super) const fn status(&self) -> PeerStatus<'_> {
        PeerStatus {
            peer: self.id,
            public_key: self.public_key,
            preshared_key: &self.preshared_key,
            endpoint: self.endpoint,
            persistent_keepalive: self.persistent_keepalive,
            last_handshake: self.last_handshake,
            unanswered: self.unanswered,
            current: self.current.as_ref(),
        }
    }

    pub(super) fn update(&mut self, core: &mut Core, update: PeerUpdate, now: Now) {
        let anew = self.is_to_be_called_anew(&update);
        if let Some(preshared_key) = update.preshared_key {
            self.preshared_key = preshared_key;
        }
        if let Some(endpoint) = update.endpoint {
            self.move_endpoint(core, endpoint);
        }
        if let Some(mut elsewhere) = update.elsewhere {
            // The new ones first; known ones keep their order, or the turns would not reach all of them.
            elsewhere.sort_by_key(|place| {
                let known = self.elsewhere.iter().position(|known| known == place);
                known.map_or(0, |nth| nth + 1)
            });
            self.elsewhere = elsewhere.into_boxed_slice();
        }
        if anew {
            self.call_anew(core, now);
        }
        if let Some(after) = update.persistent_keepalive.map(interval) {
            let before = std::mem::replace(&mut self.persistent_keepalive, after);
            if after.is_none() {
                self.timers.persistent_keepalive = None;
            } else if before.is_none() {
                self.start_persistent_keepalive(core, now.monotonic);
            }
        }
        if update.endpoint.is_some() && core.up {
            core.events.push_back(Event::FlushStaged { peer: self.id });
        }
    }

    /// Whether an update has a place that was not called before, and is not told patiently: then that waits for its
    /// turn. The order of an answer of DNS changes each time, and says nothing new. An endpoint that comes alone asks
    /// for a call, wherever it is.
    fn is_to_be_called_anew(&self, update: &PeerUpdate) -> bool {
        if update.patiently {
            return false;
        }
        let is_new = |place| self.endpoint != Some(place) && !self.elsewhere.contains(&place);
        match &update.elsewhere {
            Some(elsewhere) => elsewhere.iter().copied().chain(update.endpoint).any(is_new),
            None => update.endpoint.is_some(),
        }
    }

    /// The peer is at `endpoint` now.
    pub(super) fn move_endpoint(&mut self, core: &mut Core, endpoint: SocketAddr) {
        if self.endpoint.replace(endpoint) != Some(endpoint) {
            core.events.push_back(Event::EndpointMoved {
                peer: self.id,
                endpoint,
            });
        }
    }

    /// Our identity changed: what was derived from the old one ends, but packets that are on their way still open.
    pub(super) fn change_identity(&mut self, core: &mut Core, flush: bool) {
        self.static_static = StaticStatic::Unknown;
        self.close_initiation(core);
        self.handshake_sent = None;
        for keypair in [&self.next, &self.current].into_iter().flatten() {
            keypair.end_sending();
        }
        if flush && core.up {
            core.events.push_back(Event::FlushStaged { peer: self.id });
        }
    }

    pub(super) fn bring_down(&mut self, core: &mut Core) {
        core.events.push_back(Event::DropStaged { peer: self.id });
        core.deadlines.remove(self.id);
        self.timers = Timers::default();
        self.handshake_sent = None;
        self.unanswered = 0;
        self.leave_queue(core);
        self.clear(core);
    }

    /// Forgets the open initiation and all keypairs.
    pub(super) fn clear(&mut self, core: &mut Core) {
        self.close_initiation(core);
        let current = self.current.take();
        if current.is_some() {
            core.events.push_back(Event::CurrentKeypair {
                peer: self.id,
                keypair: None,
            });
        }
        for keypair in [self.next.take(), self.previous.take(), current] {
            self.discard(core, keypair);
        }
    }

    pub(super) fn close_initiation(&mut self, core: &mut Core) {
        if let Some(initiated) = self.initiated.take() {
            core.indices.release(initiated.local_index());
        }
    }

    /// Takes a new session's keys into use.
    pub(super) fn begin_session(&mut self, core: &mut Core, keys: SessionKeys, now: Instant) {
        let role = keys.role;
        let keypair = Arc::new(Keypair::new(self.id, keys, now));
        core.events.push_back(Event::KeypairAdded {
            peer: self.id,
            keypair: Arc::clone(&keypair),
        });
        match role {
            Role::Initiator => {
                let next = self.next.take();
                let own = core.identity.as_ref().map(|identity| identity.public_key);
                self.yields_renewal = next.is_some() && own > Some(self.public_key);
                let current = self.current.replace(Arc::clone(&keypair));
                core.events.push_back(Event::CurrentKeypair {
                    peer: self.id,
                    keypair: Some(keypair),
                });
                // A next keypair that was never confirmed takes current's way; current then goes at once.
                let (kept, dropped) = if next.is_some() {
                    (next, current)
                } else {
                    (current, None)
                };
                let previous = std::mem::replace(&mut self.previous, kept);
                self.discard(core, dropped);
                self.discard(core, previous);
            }
            Role::Responder => {
                let next = self.next.replace(keypair);
                self.discard(core, next);
                let previous = self.previous.take();
                self.discard(core, previous);
            }
        }
    }

    /// The next keypair has received its first valid packet: it is current from now on.
    pub(super) fn promote_next(&mut self, core: &mut Core) {
        let Some(next) = self.next.take() else { return };
        next.confirm();
        core.events.push_back(Event::CurrentKeypair {
            peer: self.id,
            keypair: Some(Arc::clone(&next)),
        });
        let current = self.current.replace(next);
        let previous = std::mem::replace(&mut self.previous, current);
        self.discard(core, previous);
    }

    pub(super) fn discard(&self, core: &mut Core, keypair: Option<Arc<Keypair>>) {
        let Some(keypair) = keypair else { return };
        let is_known = !keypair.is_parked();
        keypair.end();
        core.indices.release(keypair.local_index());
        if is_known {
            core.events.push_back(Event::KeypairRemoved {
                peer: self.id,
                local_index: keypair.local_index(),
            });
        }
    }
}

/// An interval in use: none if zero, else at least a second, so that no configuration makes a timer spin.
fn interval(interval: Duration) -> Option<Duration> {
    (!interval.is_zero()).then(|| interval.max(Duration::from_secs(1)))
}
