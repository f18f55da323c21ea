//! A DHCP client for IPv4 (RFC 2131), of one interface.
//!
//! In: messages that came to its port, the news that another host has the address, the time. Out: frames, a lease. Never:
//! an address beyond its lease; an answer to what it did not ask; more frames than [`limits::DHCP_OUTPUT`] that wait; a
//! rush, however often servers refuse what they offered, or we what they lent.
//!
//! ```text
//!            ┌────────────── refused, expired, declined ───────────────┐
//!            ▼                                                         │
//!  waiting ─▶ selecting ─ offer ▶ requesting ─ ack ▶ bound ─▶ renewing ─▶ rebinding
//!                                                      ▲
//!  rebooting, with a lease of an earlier run ──────────┘ ack, or nobody answers
//! ```
//!
//! Whether another host has the address is asked by whoever begins to use it, as of any other (`own`). Whoever can't use it
//! beside something else says so ([`Client::refuse`]): it is given back, and offers of that prefix are passed over, while
//! servers are asked ever later for another.
//!
//! What an earlier run had is asked for, and used when a server says yes. When nobody answers it is used, too, for as long as it was lent
//! (section 3.2), and any server is asked.

mod message;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    net::Ipv4Addr,
    time::Duration,
};

use culvert_wire::{MacAddr, dhcp};
use culvert_wireguard::Instant;
use dhcproto::v4::MessageType;

use self::message::{FOREVER, Grant, Reply, Says};
use super::{
    HostDrop,
    guests::frame,
    learned::{Held, Lease, Terms, Unusable},
    limits,
};

/// The first wait for an answer (RFC 2131, section 4.1); it doubles.
const ANSWER: Duration = Duration::from_secs(4);
/// The same for a lease of an earlier run: it may be used without an answer.
const ANSWER_REBOOT: Duration = Duration::from_secs(2);
/// How often it doubles at the most.
const DOUBLINGS: u32 = 4;
/// How far off a second it is, either way.
const JITTER: Duration = Duration::from_secs(1);
/// How often a server is asked for what it offered.
const REQUESTS: u32 = 4;
/// How often servers are asked for a lease of an earlier run.
const REBOOT_REQUESTS: u32 = 2;
/// The least wait between two tries to renew (section 4.4.5).
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// The wait after an address that another had (section 3.1).
const DECLINED: Duration = Duration::from_secs(10);

enum State {
    /// Begins anew when it is due.
    Waiting,
    /// Asks who offers something.
    Selecting { tries: u32 },
    /// Takes an offer.
    Requesting { offer: Box<Terms>, tries: u32 },
    /// Asks for what an earlier run had.
    Rebooting { held: Box<Held>, tries: u32 },
    /// Has an address.
    Bound { lease: Box<Lease>, phase: Phase },
}

/// What is asked about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing.
    Rest,
    /// Its server, for more time.
    Renewing,
    /// Any server.
    Rebinding,
}

/// The client. Feed it with `handle_*`, then take what [`Client::poll_frame`] has and look at [`Client::lease`].
pub(crate) struct Client {
    mac: MacAddr,
    key: RandomState,
    draws: u64,
    state: State,
    /// When it does something next.
    due: Instant,
    xid: u32,
    /// When it began to ask, for what it asks now.
    began: Instant,
    /// When what an answer lends begins.
    asked: Instant,
    /// Where the server's last message came from: who passes things on to it.
    server_mac: Option<MacAddr>,
    /// How often in a row nothing came of an offer.
    failures: u32,
    /// What can't be used.
    unusable: Option<Unusable>,
    /// How often in a row that was lent.
    given_back: u32,
    output: VecDeque<Vec<u8>>,
}

impl Client {
    /// Begins, with the lease that an earlier run had.
    pub(crate) fn new(mac: MacAddr, key: RandomState, held: Option<Held>, now: Instant) -> Self {
        let held = held.filter(|held| !is_over(held.expires, now));
        let state = match held.map(Box::new) {
            Some(held) => State::Rebooting { held, tries: 0 },
            None => State::Waiting,
        };
        let mut client = Self {
            mac,
            key,
            draws: 0,
            state,
            due: now,
            xid: 0,
            began: now,
            asked: now,
            server_mac: None,
            failures: 0,
            unusable: None,
            given_back: 0,
            output: VecDeque::new(),
        };
        client.begin_exchange(now);
        client.handle_timeout(now);
        client
    }

    /// What it has.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound { lease, .. } => Some(lease),
            State::Waiting
            | State::Selecting { .. }
            | State::Requesting { .. }
            | State::Rebooting { .. } => None,
        }
    }

    /// The next frame to send.
    pub(crate) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) const fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due > now {
            return;
        }
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Waiting => self.select(0, now),
            State::Selecting { tries } => self.select(tries, now),
            State::Requesting { offer, tries } if tries < REQUESTS => {
                self.request(offer, tries, now);
            }
            State::Requesting { .. } => self.fail(now),
            State::Rebooting { held, tries } => self.reboot(held, tries, now),
            State::Bound { lease, .. } => self.keep(lease, now),
        }
    }

    /// Takes a message that came to the client's port, in a frame of `from`.
    pub(crate) fn handle_message(
        &mut self,
        bytes: &[u8],
        from: MacAddr,
        now: Instant,
    ) -> Result<(), HostDrop> {
        // Nothing answers what nobody has asked for.
        let reply = self
            .asks()
            .then(|| message::read(bytes, self.mac, self.xid));
        let reply = reply.flatten().ok_or(HostDrop::DhcpUnasked)?;
        let granted = match (&self.state, reply) {
            (State::Selecting { .. }, Reply::Offer(grant)) if self.refuses(&grant.terms) => {
                return Err(HostDrop::DhcpUnusable);
            }
            (State::Selecting { .. }, Reply::Offer(grant)) => {
                self.asked = now;
                self.request(Box::new(grant.terms), 0, now);
                return Ok(());
            }
            (State::Requesting { offer, .. }, Reply::Ack(grant)) if is_of(&grant, offer) => {
                Some(grant)
            }
            (State::Rebooting { held, .. }, Reply::Ack(grant))
                if grant.terms.address == held.terms.address =>
            {
                Some(grant)
            }
            // Another server may answer for the one that lent it: it has heard what was asked.
            (State::Bound { lease, .. }, Reply::Ack(grant))
                if grant.terms.address == lease.terms.address =>
            {
                Some(grant)
            }
            (State::Requesting { offer, .. }, Reply::Nak(server)) if server == offer.server => None,
            (State::Rebooting { .. } | State::Bound { .. }, Reply::Nak(_)) => None,
            _ => return Err(HostDrop::DhcpUnasked),
        };
        self.server_mac = Some(from);
        match granted {
            Some(grant) => self.take(grant, now),
            None => self.fail(now),
        }
        Ok(())
    }

    /// Whether a message may be an answer.
    const fn asks(&self) -> bool {
        match self.state {
            State::Waiting => false,
            State::Selecting { .. } | State::Requesting { .. } | State::Rebooting { .. } => true,
            State::Bound { phase, .. } => !matches!(phase, Phase::Rest),
        }
    }

    /// The number of the exchange in which it waits for an answer.
    pub(crate) fn exchange(&self) -> Option<u32> {
        self.asks().then_some(self.xid)
    }

    /// Another host has `address`.
    pub(crate) fn handle_duplicate(&mut self, address: Ipv4Addr, now: Instant) {
        let lease = self.lease().filter(|it| it.terms.address == address);
        let Some(Lease { terms, .. }) = lease else {
            return;
        };
        let says = Says {
            kind: MessageType::Decline,
            xid: self.xid,
            secs: 0,
            own: None,
            wanted: Some(terms.address),
            server: Some(terms.server),
        };
        self.broadcast(says);
        self.fail(now);
        self.due = self.due.max(now + DECLINED);
    }

    /// From now on this can't be used: it is given back if it is lent, and is not asked for. `None`: anything can, and what
    /// could not is asked for at once.
    pub(crate) fn refuse(&mut self, unusable: Option<Unusable>, now: Instant) {
        if std::mem::replace(&mut self.unusable, unusable) == unusable {
            return;
        }
        match (unusable, &self.state) {
            (Some(_), _) => self.give_back_unusable(now),
            (None, State::Waiting | State::Selecting { .. }) => {
                (self.state, self.due, self.given_back) = (State::Waiting, now, 0);
            }
            (None, State::Requesting { .. } | State::Rebooting { .. } | State::Bound { .. }) => {
                self.given_back = 0
            }
        }
    }

    fn refuses(&self, terms: &Terms) -> bool {
        self.unusable.is_some_and(|it| it.is_of(terms))
    }

    /// Release, not decline: no other host has it (RFC 2131, section 4.4.6).
    fn give_back_unusable(&mut self, now: Instant) {
        if !self.lease().is_some_and(|it| self.refuses(&it.terms)) {
            return;
        }
        self.give_back();
        self.state = State::Waiting;
        let wait = self.patience(ANSWER, self.given_back);
        self.due = now + wait;
        self.given_back = self.given_back.saturating_add(1);
    }

    /// Ends: it gives back what it has, and has frames left to send, and nothing else.
    pub(crate) fn release(mut self) -> impl Iterator<Item = Vec<u8>> {
        self.give_back();
        self.output.into_iter()
    }

    /// What no server has confirmed is nobody's to be told of.
    fn give_back(&mut self) {
        if let (Some(lease), Some(_)) = (self.lease(), self.server_mac) {
            let says = Says {
                kind: MessageType::Release,
                xid: self.xid,
                secs: 0,
                own: Some(lease.terms.address),
                wanted: None,
                server: Some(lease.terms.server),
            };
            let server = lease.terms.server;
            self.send(says, server);
        }
    }

    fn begin_exchange(&mut self, now: Instant) {
        self.began = now;
        self.xid = u32::try_from(self.draw() >> 32).unwrap_or(0);
    }

    fn select(&mut self, tries: u32, now: Instant) {
        if tries == 0 {
            self.begin_exchange(now);
        }
        let says = self.says(MessageType::Discover, now);
        self.broadcast(says);
        self.due = now + self.patience(ANSWER, tries);
        self.state = State::Selecting {
            tries: tries.saturating_add(1),
        };
    }

    fn request(&mut self, offer: Box<Terms>, tries: u32, now: Instant) {
        let says = Says {
            wanted: Some(offer.address),
            server: Some(offer.server),
            ..self.says(MessageType::Request, now)
        };
        self.broadcast(says);
        self.due = now + self.patience(ANSWER, tries);
        let tries = tries.saturating_add(1);
        self.state = State::Requesting { offer, tries };
    }

    fn reboot(&mut self, held: Box<Held>, tries: u32, now: Instant) {
        if is_over(held.expires, now) || self.refuses(&held.terms) {
            return self.select(0, now);
        }
        if tries >= REBOOT_REQUESTS {
            let lease = Lease {
                terms: held.terms,
                renew_at: now,
                rebind_at: now,
                expires: held.expires,
            };
            return self.keep(Box::new(lease), now);
        }
        if tries == 0 {
            self.asked = now;
        }
        let says = Says {
            wanted: Some(held.terms.address),
            ..self.says(MessageType::Request, now)
        };
        self.broadcast(says);
        self.due = now + self.patience(ANSWER_REBOOT, tries);
        let tries = tries + 1;
        self.state = State::Rebooting { held, tries };
    }

    /// A server lends something.
    fn take(&mut self, grant: Grant, now: Instant) {
        let lease = Box::new(self.lease_of(grant));
        if !is_over(lease.expires, now) {
            self.failures = 0;
            self.due = lease.renew_at;
            let phase = Phase::Rest;
            self.state = State::Bound { lease, phase };
            // Its server lends it with another mask now.
            self.give_back_unusable(now);
        }
    }

    fn lease_of(&mut self, grant: Grant) -> Lease {
        let Grant {
            terms,
            lease,
            renew,
            rebind,
        } = grant;
        let after = |seconds: u32| self.asked + Duration::from_secs(seconds.into());
        if lease == FOREVER {
            return Lease {
                terms,
                renew_at: Instant(u64::MAX),
                rebind_at: Instant(u64::MAX),
                expires: None,
            };
        }
        // Told times count if they are in order, and no rush.
        let told = renew.zip(rebind).filter(|&(renew, rebind)| {
            (limits::DHCP_LEASE_MIN / 2..rebind).contains(&renew) && rebind < lease
        });
        let (renew, rebind) = told.unwrap_or((lease / 2, lease - lease / 8));
        Lease {
            terms,
            renew_at: after(renew),
            rebind_at: after(rebind),
            expires: Some(after(lease)),
        }
    }

    /// Asks for more time, or gives up what is over.
    fn keep(&mut self, lease: Box<Lease>, now: Instant) {
        if is_over(lease.expires, now) {
            return self.select(0, now);
        }
        self.begin_exchange(now);
        self.asked = now;
        let says = Says {
            own: Some(lease.terms.address),
            ..self.says(MessageType::Request, now)
        };
        let (phase, end) = match lease.rebind_at <= now {
            true => (Phase::Rebinding, lease.expires),
            false => (Phase::Renewing, Some(lease.rebind_at)),
        };
        match phase {
            Phase::Renewing => self.send(says, lease.terms.server),
            Phase::Rest | Phase::Rebinding => self.broadcast(says),
        }
        let half = end.map_or(Duration::ZERO, |end| end.since(now) / 2);
        let again = now + half.max(RENEW_AGAIN);
        self.due = end.map_or(again, |end| end.min(again));
        self.state = State::Bound { lease, phase };
    }

    /// Nothing came of an offer or a lease. The first time it begins anew at once: another network, mostly.
    fn fail(&mut self, now: Instant) {
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => ANSWER * (1 << n.min(DOUBLINGS)),
        };
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting;
        self.due = now + wait;
    }

    fn says(&self, kind: MessageType, now: Instant) -> Says {
        let secs = now.since(self.began).as_secs();
        Says {
            kind,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            own: None,
            wanted: None,
            server: None,
        }
    }

    /// Says it to everyone on the link.
    fn broadcast(&mut self, says: Says) {
        self.send_by(MacAddr::BROADCAST, says, Ipv4Addr::BROADCAST);
    }

    /// Says it to a server, by whoever brought its last message.
    fn send(&mut self, says: Says, to: Ipv4Addr) {
        match self.server_mac {
            Some(mac) => self.send_by(mac, says, to),
            None => self.broadcast(says),
        }
    }

    fn send_by(&mut self, mac: MacAddr, says: Says, to: Ipv4Addr) {
        let from = says.own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let ports = (dhcp::CLIENT_V4, dhcp::SERVER_V4);
        let payload = message::write(self.mac, says);
        self.push(frame::udp4((self.mac, mac), (from, to), ports, &payload));
    }

    fn push(&mut self, frame: Vec<u8>) {
        if self.output.len() < limits::DHCP_OUTPUT {
            self.output.push_back(frame);
        }
    }

    fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        self.key.hash_one(self.draws)
    }

    /// Something shorter.
    fn chance(&mut self, spread: Duration) -> Duration {
        let nanos = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.draw() % nanos.max(1))
    }

    /// How long the answer to one of several tries is waited for.
    fn patience(&mut self, first: Duration, tries: u32) -> Duration {
        let wait = first * (1 << tries.min(DOUBLINGS));
        wait - JITTER + self.chance(2 * JITTER)
    }
}

/// Whether a server lends what it had offered or lent before.
fn is_of(grant: &Grant, terms: &Terms) -> bool {
    grant.terms.address == terms.address && grant.terms.server == terms.server
}

fn is_over(expires: Option<Instant>, now: Instant) -> bool {
    expires.is_some_and(|expires| expires <= now)
}
