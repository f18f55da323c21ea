//! Heard: what others say became of datagrams of ours.
//!
//! In: ICMP errors that host stacks and the kernel have heard, where peers' paths lead. Out: hints for the searches of
//! what paths let through, a peer's last error. Never: an error that is believed: it has to quote what a peer is sent, and
//! even then it says no more than what to try; a look at all peers.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use culvert_dataplane::shared::{
    drops::DropReason,
    ids::{Scope, UplinkIndex},
    path::Path,
};
use culvert_stack::{Heard, Problem, Quoted, pmtu::BASE};
use culvert_wireguard::Instant;

use super::{Engine, peers::PeerState};

/// The first word of a data message (whitepaper, section 5.4.6), and the highest of the other kinds'.
const DATA: u32 = 4;
/// For how long an error is remembered (RFC 8201, section 4).
const CUT: Duration = Duration::from_secs(600);

/// What was said last about datagrams to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastError {
    /// What was wrong.
    pub problem: Problem,
    /// Who said so.
    pub from: IpAddr,
    /// When.
    pub at: Instant,
}

/// Whose paths lead where, by the hash of that: of two that lead to one place, the one that was noted last.
#[derive(Debug, Default)]
pub(super) struct Quotable {
    key: RandomState,
    places: HashMap<u64, usize>,
    by_place: Vec<u64>,
}

impl Quotable {
    /// The peer in `place` is sent to from `port` by `uplink` now.
    pub(super) fn note(
        &mut self,
        place: usize,
        (uplink, port, remote): (UplinkIndex, u16, Option<SocketAddr>),
    ) {
        let new = remote.map_or(0, |remote| self.hash((uplink, port, remote)));
        if self.by_place.len() <= place {
            self.by_place.resize(place + 1, 0);
        }
        let old = std::mem::replace(&mut self.by_place[place], new);
        if old != new && self.places.get(&old) == Some(&place) {
            self.places.remove(&old);
        }
        if new != 0 {
            self.places.insert(new, place);
        }
    }

    /// Whose it may be.
    fn find(&self, uplink: UplinkIndex, about: &Quoted) -> Option<usize> {
        let hash = self.hash((uplink, about.local.port(), about.remote));
        self.places.get(&hash).copied()
    }

    fn hash(&self, (uplink, port, remote): (UplinkIndex, u16, SocketAddr)) -> u64 {
        self.key
            .hash_one((uplink.0, port, remote.ip(), remote.port()))
            .max(1)
    }
}

impl Engine {
    /// Takes what was heard.
    pub(super) fn hear_errors(&mut self, now: Instant) {
        while let Some((scope, heard)) = self.netstack.next_heard() {
            self.hear(scope, &heard, now);
        }
    }

    /// Takes an error that was heard in a scope, or by the kernel.
    pub(super) fn hear(&mut self, scope: Option<Scope>, heard: &Heard, now: Instant) {
        match self.quoted(scope, &heard.about) {
            Some(place) => self.hear_error(place, heard, now),
            None => self.miss_error(scope, heard),
        }
    }

    /// The peer that was sent what an error quotes.
    fn quoted(&self, scope: Option<Scope>, about: &Quoted) -> Option<usize> {
        let uplinks = self
            .uplinks
            .iter()
            .filter(|(_, uplink)| uplink.scope() == scope);
        let mut places =
            uplinks.filter_map(|(slot, _)| self.quotable.find(UplinkIndex::from_slot(slot), about));
        places.find(|&place| {
            let peer = self.peers.get(place);
            peer.is_some_and(|peer| peer.was_sent(about))
        })
    }

    fn hear_error(&mut self, place: usize, heard: &Heard, now: Instant) {
        let Some(peer) = self.peers.get_mut(place) else {
            return;
        };
        peer.last_error = Some(Box::new(LastError {
            problem: heard.problem,
            from: heard.from,
            at: now,
        }));
        let Some(mtu) = heard.problem.mtu() else {
            return;
        };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        // Who knows the receiver's index has seen what we send.
        let proven = heard.about.start.is_some_and(is_data);
        let is_cut = proven && peer.cut_path(mtu, now);
        if peer.hint_path(mtu, proven, now) {
            self.probe_path(place, now);
        } else if is_cut {
            // That is all.
        } else if let Some(uplink) = self.uplinks.get(peer.uplink) {
            uplink.counters.drops.add(DropReason::ErrorIgnored, 1);
        }
    }

    /// An error that quotes nothing that a peer is sent. Of those that the kernel hears, most are about others' datagrams.
    fn miss_error(&mut self, scope: Option<Scope>, heard: &Heard) {
        let port = heard.about.local.port();
        let by_kernel = || {
            let mut tunnels = self.tunnels.iter();
            let tunnel = tunnels.find(|(_, tunnel)| tunnel.config.listen_port == port);
            tunnel.map(|(_, tunnel)| tunnel.uplink)
        };
        let place = match scope {
            Some(Scope::Uplink(index)) => Some(index.slot()),
            Some(Scope::Guest(_)) => None,
            None => by_kernel(),
        };
        if let Some(uplink) = place.and_then(|place| self.uplinks.get(place)) {
            uplink.counters.drops.add(DropReason::ErrorUnmatched, 1);
        }
    }
}

/// To what datagrams to one place are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    mtu: NonZeroU16,
    remote: SocketAddr,
    until: Instant,
}

impl PeerState {
    /// Somebody on the path says that it lets `mtu` bytes through: longer datagrams are cut here from now on, if nobody
    /// below does; whether that is new. A lie costs fragments.
    fn cut_path(&mut self, mtu: u16, now: Instant) -> bool {
        let path = self.cell.path();
        let Some(path) = path.as_ref().filter(|path| !path.hop.is_kernels()) else {
            return false;
        };
        let mtu = NonZeroU16::new(mtu.max(BASE)).filter(|mtu| mtu.get() < path.uncut());
        let Some(mtu) = mtu else {
            return false;
        };
        self.cut = Some(Box::new(Cut {
            mtu,
            remote: path.endpoint,
            until: now + CUT,
        }));
        self.outdate_path();
        true
    }

    /// To what datagrams along `path` are cut.
    pub(super) fn cut(&self, path: &Path, now: Instant) -> Option<NonZeroU16> {
        let cut = self.cut.as_deref();
        let cut = cut.filter(|cut| cut.remote == path.endpoint && cut.until > now);
        cut.map(|cut| cut.mtu)
    }

    /// Whether an error quotes what it is sent now: from there to there, by a key that it has, if that is quoted.
    fn was_sent(&self, about: &Quoted) -> bool {
        let path = self.cell.path();
        let Some(path) = path.as_ref() else {
            return false;
        };
        let (remote, local) = (path.endpoint, about.local);
        let is_way = (remote.ip(), remote.port()) == (about.remote.ip(), about.remote.port())
            && path.port == local.port()
            && path.source.is_none_or(|source| source == local.ip());
        is_way && about.start.is_none_or(|start| self.may_begin(start))
    }

    fn may_begin(&self, start: [u8; 8]) -> bool {
        let [a, b, c, d, receiver @ ..] = start;
        let keypair = self.cell.keypair();
        let known = keypair.as_ref().map(|keypair| keypair.remote_index());
        match u32::from_le_bytes([a, b, c, d]) {
            DATA => known == Some(u32::from_le_bytes(receiver)),
            kind => (1..DATA).contains(&kind),
        }
    }
}

fn is_data([a, b, c, d, ..]: [u8; 8]) -> bool {
    u32::from_le_bytes([a, b, c, d]) == DATA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_by_where_paths_lead_and_one_by_one_place() {
        let mut quotable = Quotable::default();
        let (a, b) = (UplinkIndex(0), UplinkIndex(1));
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let about = |remote: &str| Quoted {
            local: at("192.0.2.1:51820"),
            remote: at(remote),
            start: None,
        };
        quotable.note(7, (a, 51820, Some(at("198.51.100.2:1"))));
        assert_eq!(quotable.find(a, &about("198.51.100.2:1")), Some(7));
        assert_eq!(quotable.find(b, &about("198.51.100.2:1")), None);
        assert_eq!(quotable.find(a, &about("198.51.100.2:2")), None);
        // It moves, and nobody is found where it was.
        quotable.note(7, (b, 51820, Some(at("198.51.100.9:1"))));
        assert_eq!(quotable.find(a, &about("198.51.100.2:1")), None);
        assert_eq!(quotable.find(b, &about("198.51.100.9:1")), Some(7));
        // Another comes there, and the first leaves without a trace of the other.
        quotable.note(3, (b, 51820, Some(at("198.51.100.9:1"))));
        quotable.note(7, (b, 51820, None));
        assert_eq!(quotable.find(b, &about("198.51.100.9:1")), Some(3));
        assert_eq!(quotable.places.len(), 1);
    }
}
