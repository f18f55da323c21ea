//! Where peers may be: what the configuration says, what names stand for, and where each was heard last.
//!
//! In: peers with a new configuration, what names stand for, places where peers were heard, calls that nobody
//! answered. Out: the places that the protocol calls in turn; what is kept for a restart. Never: a wait for a name;
//! data sent where the peer was not heard while it is heard elsewhere.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use culvert_wireguard::{Instant, Now, PeerUpdate};

use super::{Engine, endpoint_key, endpoints::Kept, names::Key};
use crate::{config::Endpoint, events::Event};

/// Calls without an answer after which a name may stand for another place by now.
const SUSPECT_AFTER: u32 = 2;
/// Calls without an answer after which an operator is told, and names are asked for once more: half a minute.
pub(super) const SILENT_AFTER: u32 = 6;
/// How often new addresses of a name make a peer that does not answer one that was never called: a name that stands
/// for others each time would keep it from ever being silent.
const RENEWED_AGAIN: Duration = Duration::from_secs(300);
/// Peers whose places an answer changes, in a round.
const SEEKS_PER_ROUND: usize = 512;

/// What the control core knows of a peer's places.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The name under which it waits for answers.
    pub(super) name: Option<Key>,
    /// Where the configuration says that it is: the addresses of its name, or the one that it has.
    configured: Vec<SocketAddr>,
    /// Where it was heard last, in this run or before.
    pub(super) heard: Option<SocketAddr>,
    /// What is kept of that for a restart.
    kept: Option<Arc<Kept>>,
    /// It was heard since the configuration last said where it is, and is not silent.
    pub(super) is_settled: bool,
    /// When its name last had new addresses that were called as if nothing had been called in vain.
    pub(super) renewed: Option<Instant>,
}

impl Places {
    /// Whether a restart would find it where it is.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// What the configuration stands for now; whether new places are called as if nothing had been called in vain.
    fn reconfigure(&mut self, configured: Vec<SocketAddr>, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.configured, configured);
        let is_due = |renewed: Instant| now.since(renewed) >= RENEWED_AGAIN;
        let renews = self.renewed.is_none_or(is_due);
        let mut places = self.configured.iter();
        if renews && places.any(|place| !before.contains(place)) {
            self.renewed = Some(now);
        }
        renews
    }

    /// All places but the endpoint, which the protocol calls first.
    fn elsewhere(&self, endpoint: SocketAddr) -> Vec<SocketAddr> {
        let mut places = Vec::new();
        for place in self.configured.iter().copied().chain(self.heard) {
            if place != endpoint && !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// Where data go from now on, after an answer. What was remembered counts as long as the name stands for what it
    /// stood for then; a peer that is heard stays where it is.
    fn endpoint(&self, now: Option<SocketAddr>, same_answer: bool) -> Option<SocketAddr> {
        let stays = |now: &SocketAddr| {
            self.is_settled
                || self.configured.contains(now)
                || (same_answer && self.heard == Some(*now))
        };
        now.filter(stays).or(self.configured.first().copied())
    }
}

impl Engine {
    /// Sees to peers whose place the configuration has changed, and to names; whether there is more to do at once.
    pub(super) fn seek_peers(&mut self, now: Now) -> bool {
        for slot in self.outdated.take_heard() {
            self.heard(slot, now);
        }
        for slot in self.outdated.take_places() {
            self.seek(slot, now);
        }
        self.endpoints.begun();
        for _ in 0..SEEKS_PER_ROUND {
            let Some(slot) = self.next_answered(now.monotonic) else {
                break;
            };
            self.seek(slot, now);
        }
        let asks = self.ask_for_names(now.monotonic);
        asks || !self.names.answered.is_empty()
    }

    /// Gives the protocol a peer's places as they are known now.
    fn seek(&mut self, slot: usize, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.renew_places();
        let (name, port) = match &peer.config.endpoint {
            Some(Endpoint::Host { name, port }) => (Some((peer.tunnel, name.clone())), *port),
            Some(Endpoint::Address(_)) | None => (None, 0),
        };
        if peer.places.name != name
            && let Some(before) = std::mem::replace(&mut peer.places.name, name.clone())
        {
            self.names.leave(&before, slot);
        }
        if peer.places.heard.is_none()
            && let Some(tunnel) = self.tunnels.get(peer.tunnel)
        {
            let configured = peer.configured_endpoint();
            let key = endpoint_key(&tunnel.name, &peer.config);
            let kept = &mut peer.places.kept;
            if kept.is_none() {
                *kept = self.endpoints.adopt(slot, key);
            }
            let last = kept.as_ref();
            peer.places.heard = last.and_then(|kept| kept.last(configured.as_deref()));
        }
        let configured = match (&peer.config.endpoint, name) {
            (Some(Endpoint::Address(address)), _) => vec![*address],
            (_, Some(name)) => {
                let mut found = self.names.want(&name, slot, now.monotonic);
                found.iter_mut().for_each(|address| address.set_port(port));
                found
            }
            (_, None) => Vec::new(),
        };
        let patiently = !peer.places.reconfigure(configured, now.monotonic);
        self.tell_places(slot, patiently, now);
    }

    fn tell_places(&mut self, slot: usize, patiently: bool, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(peer.tunnel) else {
            return;
        };
        let before = tunnel
            .device
            .peer(peer.cell.id)
            .and_then(|status| status.endpoint);
        let kept = peer.places.kept.as_ref();
        let same = kept.is_some_and(|kept| kept.had_answer(&peer.places.configured));
        let Some(endpoint) = peer.places.endpoint(before, same) else {
            return;
        };
        let moves = before != Some(endpoint);
        let update = PeerUpdate {
            endpoint: moves.then_some(endpoint),
            elsewhere: Some(peer.places.elsewhere(endpoint)),
            patiently,
            ..PeerUpdate::default()
        };
        tunnel.device.update_peer(peer.cell.id, update, now);
        if moves {
            peer.local = None;
            if before.is_none() && !self.lone {
                tunnel.device.initiate(peer.cell.id, now);
            }
        }
    }

    /// A peer was heard at its endpoint: that is kept, and called besides what the configuration says.
    fn heard(&mut self, slot: usize, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let Some(tunnel) = self.tunnels.get(peer.tunnel) else {
            return;
        };
        let status = tunnel.device.peer(peer.cell.id);
        let Some(endpoint) = status.and_then(|status| status.endpoint) else {
            return;
        };
        peer.places.is_settled = true;
        peer.places.renewed = None;
        let before = peer.places.heard.replace(endpoint);
        if before == Some(endpoint) {
            return;
        }
        if let Some(before) = before {
            Event::PeerMoved {
                tunnel: tunnel.name.clone(),
                peer: peer.config.name.clone(),
                from: before,
                to: endpoint,
            }
            .tell();
        }
        let key = endpoint_key(&tunnel.name, &peer.config);
        let configured = peer.configured_endpoint();
        let answer = peer.places.configured.clone();
        peer.places.kept = self.endpoints.note(slot, key, configured, answer, endpoint);
        self.tell_places(slot, false, now);
    }

    /// A peer has not answered so many calls.
    pub(super) fn unanswered(&mut self, slot: usize, calls: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if (calls == SUSPECT_AFTER || calls.is_multiple_of(SILENT_AFTER))
            && let Some(name) = &peer.places.name
        {
            self.names.doubt(name, now);
        }
        if calls == SILENT_AFTER {
            peer.places.is_settled = false;
            peer.is_up = false;
            let Some(tunnel) = self.tunnels.get(peer.tunnel) else {
                return;
            };
            let status = tunnel.device.peer(peer.cell.id);
            let endpoint = status.and_then(|status| status.endpoint);
            let others = endpoint.map(|endpoint| peer.places.elsewhere(endpoint));
            let tried = endpoint.into_iter().chain(others.into_iter().flatten());
            let tried: Vec<_> = tried.map(|place| place.to_string()).collect();
            Event::PeerSilent {
                tunnel: tunnel.name.clone(),
                peer: peer.config.name.clone(),
                calls,
                tried: tried.join(", "),
            }
            .tell();
        }
    }
}

#[cfg(test)]
mod tests;
