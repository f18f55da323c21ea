//! Ways: where packets go on the link.
//!
//! In: destinations, next hops, the time. Out: hardware addresses, questions for those that are not known. Never: a wait; a packet.

use std::net::IpAddr;

use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::{HostDrop, HostStack, Resolution, Way, neighbors::Answer};

impl HostStack {
    /// The way to `destination`; asks the next hop if it isn't known.
    ///
    /// A next hop is asked three times, a second apart; when none of that is answered,
    /// only another call has it asked again. From the first call on it is in use: it is
    /// kept fresh, and whatever changes about it is an event.
    ///
    /// An address of ours is where we are: what is sent there comes back. While the address to send from is asked for
    /// itself, every next hop is pending.
    pub fn resolve(&mut self, destination: IpAddr, now: Instant) -> Resolution {
        if self.own.uses(destination) {
            return Resolution::Resolved {
                source: destination,
                next_hop: destination,
                mac: self.config.mac,
            };
        }
        let Some(Way { source, next_hop }) = self.routes.way(destination) else {
            return Resolution::NoRoute;
        };
        match self.seek(next_hop, now) {
            Some(mac) => Resolution::Resolved {
                source,
                next_hop,
                mac,
            },
            None => Resolution::Pending { source, next_hop },
        }
    }

    /// The same for a next hop ([`Routes::way`]): where it is, is told by an event, at once if it is known.
    pub fn ask(&mut self, next_hop: IpAddr, now: Instant) {
        if self.routes.is_neighbor(next_hop) && self.seek(next_hop, now).is_some() {
            self.neighbors.tell(next_hop);
        }
    }

    /// Nothing is sent to a next hop any more that was asked for: it is kept as long as there is room.
    pub fn let_go(&mut self, next_hop: IpAddr) {
        self.neighbors.let_go(next_hop);
    }

    /// Asks a next hop that was there whether it still is, unless it has said so lately. If it does not answer, an
    /// event follows. One that is not there is asked as by [`HostStack::ask`].
    pub fn verify(&mut self, next_hop: IpAddr, now: Instant) {
        if self.routes.is_neighbor(next_hop) && self.seek(next_hop, now).is_some() {
            self.check(next_hop, now);
        }
    }

    /// Asks who is known whether it is still there, unless it has said so lately.
    pub(super) fn check(&mut self, neighbor: IpAddr, now: Instant) {
        if let Some(solicit) = self.neighbors.verify(neighbor, now) {
            self.solicit(solicit);
        }
    }

    /// Where an answer goes to who has spoken to us `from` there, if he is on the link: back, unless he has answered from
    /// elsewhere, and is asked again then: what is merely heard of him leads nothing astray. Linux asks for everyone (RFC 1122, section 2.3.2.2, has the answer wait for that): then
    /// whoever forges many has them all asked for and remembered as in use.
    pub(crate) fn way_back(&mut self, to: IpAddr, from: MacAddr, now: Instant) -> Option<MacAddr> {
        if self.routes.next_hop(to) != Some(to) {
            return None;
        }
        let answered = self.neighbors.answered_since(to, Instant::from_nanos(0));
        let known = answered.map_or(from, |answered| answered.mac);
        if known != from {
            self.check(to, now);
        }
        Some(known)
    }

    pub(super) fn seek(&mut self, next_hop: IpAddr, now: Instant) -> Option<MacAddr> {
        let asker = self.routes.asker(next_hop);
        let may_speak = asker.is_some_and(|asker| self.own.uses(asker));
        match self.neighbors.ask(next_hop, now) {
            Answer::Known(mac) => return may_speak.then_some(mac),
            Answer::Ask(solicit) => self.solicit(solicit),
            Answer::Waiting => {}
            Answer::Full => self.count(HostDrop::NeighborsFull),
        }
        None
    }

    /// Where a neighbor is, if that is known and it may be spoken to; it is not asked.
    #[must_use]
    pub fn neighbor(&self, address: IpAddr) -> Option<MacAddr> {
        let asker = self.routes.asker(address)?;
        self.neighbors.mac(address).filter(|_| self.own.uses(asker))
    }
}
