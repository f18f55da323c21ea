//! Handshake messages: sending initiations, answering, taking responses and cookies.
//!
//! In: datagrams with their source, requests for a key. Out: messages, sessions; the reason of every drop. Never: an
//! answer to a message without a valid mac1; an X25519 for one without a valid mac2 while under load.

use std::net::SocketAddr;

use super::Device;
use super::api::{Event, Handshake, HandshakeDrop, Transmit};
use super::common::Core;
use super::peer::{Peer, StaticStatic};
use crate::calls::Standing;
use crate::cookie::CookieRefusal;
use crate::crypto::Secret;
use crate::keys::PrivateKey;
use crate::limits::{HANDSHAKE_TOS, INITIATION_INTERVAL};
use crate::message::{CookieReply, Initiation, Message, Response};
use crate::noise::{Claimed, Initiated, Initiator, Proven};
use crate::time::{Now, Tai64n};

/// Whether an initiation may leave: at most one per REKEY_TIMEOUT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Something asks for a key: the count of attempts starts again.
    First,
    /// No response came in time.
    Retry,
}

impl Device {
    pub(super) fn receive_handshake(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        backlog: usize,
        now: Now,
    ) -> Result<Handshake, HandshakeDrop> {
        if !self.core.up {
            return Err(HandshakeDrop::Down);
        }
        match Message::parse(datagram) {
            Some(Message::Initiation(initiation)) => {
                if let Some(sent) = self.screen(datagram, source, backlog, now)? {
                    return Ok(sent);
                }
                self.receive_initiation(&initiation, source, now)
            }
            Some(Message::Response(response)) => {
                if let Some(sent) = self.screen(datagram, source, backlog, now)? {
                    return Ok(sent);
                }
                self.receive_response(&response, source, now)
            }
            Some(Message::CookieReply(reply)) => self.receive_cookie(&reply, now),
            Some(Message::Data(_)) | None => Err(HandshakeDrop::Malformed),
        }
    }

    /// What is checked before any X25519: mac1 always; under load mac2, and then the source's rate. A source that
    /// isn't proven gets a cookie.
    fn screen(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        backlog: usize,
        now: Now,
    ) -> Result<Option<Handshake>, HandshakeDrop> {
        let core = &mut self.core;
        let under_load = core.under_load(backlog, now.monotonic);
        let identity = core.identity.as_mut().ok_or(HandshakeDrop::NoIdentity)?;
        if !identity.checker.verify_mac1(datagram) {
            return Err(HandshakeDrop::InvalidMac1);
        }
        if !under_load {
            return Ok(None);
        }
        if identity
            .checker
            .verify_mac2(datagram, source, now.monotonic, &mut *core.rng)
        {
            let allowed = core.limiter.allow(source.ip(), now.monotonic);
            return if allowed {
                Ok(None)
            } else {
                Err(HandshakeDrop::RateLimited)
            };
        }
        let reply = identity
            .checker
            .reply(datagram, source, now.monotonic, &mut *core.rng);
        let reply = reply.ok_or(HandshakeDrop::Malformed)?;
        core.transmits
            .push_back(Transmit::new(None, source, 0, &reply));
        Ok(Some(Handshake::CookieSent))
    }

    fn receive_initiation(
        &mut self,
        initiation: &Initiation<'_>,
        source: SocketAddr,
        now: Now,
    ) -> Result<Handshake, HandshakeDrop> {
        let identity = self
            .core
            .identity
            .as_ref()
            .ok_or(HandshakeDrop::NoIdentity)?;
        let claimed = Claimed::read(&identity.private_key, &identity.public_key, initiation);
        let claimed = claimed.ok_or(HandshakeDrop::Undecryptable)?;
        let peer = self
            .find(&claimed.remote)
            .ok_or(HandshakeDrop::UnknownPeer)?;
        self.with(peer, |peer, core| {
            peer.answer(core, claimed, initiation, source, now)
        })
        .unwrap_or(Err(HandshakeDrop::UnknownPeer))
    }

    fn receive_response(
        &mut self,
        response: &Response<'_>,
        source: SocketAddr,
        now: Now,
    ) -> Result<Handshake, HandshakeDrop> {
        let peer = self
            .core
            .indices
            .lookup(response.receiver())
            .ok_or(HandshakeDrop::UnknownIndex)?;
        self.with(peer, |peer, core| {
            peer.take_response(core, response, source, now)
        })
        .unwrap_or(Err(HandshakeDrop::UnknownIndex))
    }

    /// A cookie reply names the message that it answers, and proves that its sender saw it. It moves no endpoint.
    fn receive_cookie(
        &mut self,
        reply: &CookieReply<'_>,
        now: Now,
    ) -> Result<Handshake, HandshakeDrop> {
        let id = self
            .core
            .indices
            .lookup(reply.receiver())
            .ok_or(HandshakeDrop::UnknownIndex)?;
        self.with(id, |peer, _| {
            peer.jar.take(reply, &peer.public_key, now.monotonic)
        })
        .ok_or(HandshakeDrop::UnknownIndex)?
        .map_err(|refusal| match refusal {
            CookieRefusal::Unexpected => HandshakeDrop::UnexpectedCookie,
            CookieRefusal::Undecryptable => HandshakeDrop::Undecryptable,
        })?;
        Ok(Handshake::CookieAccepted(id))
    }
}

impl Peer {
    /// A packet waits for a key.
    pub(super) fn need_key(&mut self, core: &mut Core, now: Now) {
        if !core.up {
            return;
        }
        if self
            .current
            .as_ref()
            .is_some_and(|keypair| keypair.sendable(now.monotonic).is_ok())
        {
            core.events.push_back(Event::FlushStaged { peer: self.id });
            return;
        }
        self.renew(core, now);
    }

    /// Has the peer called, whether there is a key or not.
    pub(super) fn renew(&mut self, core: &mut Core, now: Now) {
        self.initiate(core, Attempt::First, now);
        // Held back by a handshake message of the last seconds, with no retry pending (after a response of ours that
        // was never confirmed): a lone packet must not wait for ever.
        self.retry_later(core, now);
    }

    /// Has an initiation sent when it is this peer's turn, unless a handshake message left less than REKEY_TIMEOUT
    /// ago (for a silent peer: less than it is waited for).
    pub(super) fn initiate(&mut self, core: &mut Core, attempt: Attempt, now: Now) {
        if attempt == Attempt::First {
            self.timers.handshake_attempts = 0;
        }
        if self.ticket.is_none() && self.may_call(core, now) {
            let has_session = self.current.is_some();
            let standing = Standing::new(has_session, self.unanswered);
            self.ticket = Some(core.calls.enter(standing, self.id));
        }
    }

    /// Gives up the place among those that wait to be called; answers whether there was one.
    pub(super) fn leave_queue(&mut self, core: &mut Core) -> bool {
        let ticket = self.ticket.take();
        if let Some(ticket) = &ticket {
            core.calls.leave(ticket);
        }
        ticket.is_some()
    }

    fn may_call(&self, core: &Core, now: Now) -> bool {
        let patience = self.patience();
        let held = |sent: crate::Instant| !sent.is_older_than(patience, now.monotonic);
        core.up
            && core.identity.is_some()
            && self.endpoint.is_some()
            && !self.handshake_sent.is_some_and(held)
    }

    /// It is this peer's turn: sends an initiation, if nothing has made it needless meanwhile.
    pub(super) fn call(&mut self, core: &mut Core, now: Now) {
        self.ticket = None;
        let Some(place) = self.place().filter(|_| self.may_call(core, now)) else {
            self.retry_later(core, now);
            return;
        };
        if self.unanswered > 0 {
            core.events.push_back(Event::Unanswered {
                peer: self.id,
                calls: self.unanswered,
            });
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.handshake_sent = Some(now.monotonic);
        let Some(mut message) = self.open_initiation(core, now) else {
            return;
        };
        self.jar
            .add_macs(&mut message, &self.public_key, now.monotonic);
        self.note_handshake_sent(core, now.monotonic);
        self.note_initiated(core, now.monotonic);
        core.transmits
            .push_back(Transmit::new(Some(self.id), place, HANDSHAKE_TOS, &message));
    }

    /// Where to call: at the endpoint, then at all places in turn. Data follow when an answer has come from there.
    fn place(&self) -> Option<SocketAddr> {
        let endpoint = self.endpoint?;
        let others = self.elsewhere.iter().filter(|place| **place != endpoint);
        let count = 1 + others.clone().count();
        let turn = self.unanswered as usize % count;
        std::iter::once(&endpoint).chain(others).nth(turn).copied()
    }

    /// Begins a handshake in place of one that may still be open. `None` if there is no index or no way to agree.
    fn open_initiation(
        &mut self,
        core: &mut Core,
        now: Now,
    ) -> Option<[u8; crate::message::INITIATION_LEN]> {
        self.close_initiation(core);
        let timestamp = Tai64n::from_unix(now.unix).max(self.timestamp_sent.successor());
        let identity = core.identity.as_ref()?;
        let static_static = self
            .static_static
            .with(&identity.private_key, &self.public_key)?;
        let local_index = core.indices.allocate(self.id, &mut *core.rng)?;
        let initiator = Initiator {
            public_key: &identity.public_key,
            remote: &self.public_key,
            static_static,
        };
        let ephemeral = PrivateKey::generate(&mut *core.rng);
        let Some((initiated, message)) =
            Initiated::begin(&initiator, ephemeral, local_index, timestamp)
        else {
            core.indices.release(local_index);
            return None;
        };
        self.timestamp_sent = timestamp;
        self.initiated = Some(Box::new(initiated));
        Some(message)
    }

    /// Answers an initiation whose sender claims to be this peer.
    fn answer(
        &mut self,
        core: &mut Core,
        claimed: Claimed,
        initiation: &Initiation<'_>,
        source: SocketAddr,
        now: Now,
    ) -> Result<Handshake, HandshakeDrop> {
        let identity = core.identity.as_ref().ok_or(HandshakeDrop::NoIdentity)?;
        let static_static = self
            .static_static
            .with(&identity.private_key, &self.public_key);
        let static_static = static_static.ok_or(HandshakeDrop::Undecryptable)?;
        let (proven, timestamp) = claimed
            .prove(static_static, initiation)
            .ok_or(HandshakeDrop::Undecryptable)?;
        self.accept_initiation(timestamp, now)?;
        self.move_endpoint(core, source);
        self.respond(core, proven, source, now)?;
        self.note_received(now.monotonic);
        Ok(Handshake::InitiationAccepted(self.id))
    }

    /// Refuses replayed initiations and floods of them; notes this one.
    fn accept_initiation(&mut self, timestamp: Tai64n, now: Now) -> Result<(), HandshakeDrop> {
        if timestamp <= self.timestamp_received {
            return Err(HandshakeDrop::ReplayedTimestamp);
        }
        if self
            .initiation_accepted
            .is_some_and(|last| !last.is_older_than(INITIATION_INTERVAL, now.monotonic))
        {
            return Err(HandshakeDrop::InitiationFlood);
        }
        self.timestamp_received = timestamp;
        self.initiation_accepted = Some(now.monotonic);
        Ok(())
    }

    fn respond(
        &mut self,
        core: &mut Core,
        proven: Proven,
        to: SocketAddr,
        now: Now,
    ) -> Result<(), HandshakeDrop> {
        self.handshake_sent = Some(now.monotonic);
        let local_index = core
            .indices
            .allocate(self.id, &mut *core.rng)
            .ok_or(HandshakeDrop::NoFreeIndex)?;
        let ephemeral = PrivateKey::generate(&mut *core.rng);
        let Some((keys, mut message)) =
            proven.respond(&ephemeral, &self.preshared_key, local_index)
        else {
            core.indices.release(local_index);
            return Err(HandshakeDrop::Undecryptable);
        };
        self.jar
            .add_macs(&mut message, &self.public_key, now.monotonic);
        self.begin_session(core, keys, now.monotonic);
        self.note_session(now.monotonic);
        self.note_handshake_sent(core, now.monotonic);
        core.transmits
            .push_back(Transmit::new(Some(self.id), to, HANDSHAKE_TOS, &message));
        Ok(())
    }

    /// Takes the response to our open initiation.
    fn take_response(
        &mut self,
        core: &mut Core,
        response: &Response<'_>,
        source: SocketAddr,
        now: Now,
    ) -> Result<Handshake, HandshakeDrop> {
        let identity = core.identity.as_ref().ok_or(HandshakeDrop::NoIdentity)?;
        let open = self
            .initiated
            .take_if(|initiated| initiated.local_index() == response.receiver());
        let initiated = open.ok_or(HandshakeDrop::UnexpectedResponse)?;
        let Some(keys) = initiated.finish(&identity.private_key, &self.preshared_key, response)
        else {
            self.initiated = Some(initiated);
            return Err(HandshakeDrop::Undecryptable);
        };
        self.move_endpoint(core, source);
        self.begin_session(core, keys, now.monotonic);
        self.note_session(now.monotonic);
        self.note_handshake_complete(core, now);
        // Staged packets, else an empty one: the responder may send only once it hears from us.
        core.events
            .push_back(Event::SendKeepalive { peer: self.id });
        self.note_received(now.monotonic);
        Ok(Handshake::ResponseAccepted(self.id))
    }
}

impl StaticStatic {
    fn with(&mut self, private_key: &PrivateKey, remote: &crate::PublicKey) -> Option<&Secret> {
        if matches!(self, Self::Unknown) {
            *self = private_key.agree(remote).map_or(Self::Void, Self::Known);
        }
        match self {
            Self::Known(secret) => Some(secret),
            Self::Unknown | Self::Void => None,
        }
    }
}
