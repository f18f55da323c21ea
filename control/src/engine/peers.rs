//! Peers, and the lists of those that something has to be done for.
//!
//! In: what happens to a peer. Out: lists that a round takes off. Never: a peer twice on a list of which once is enough;
//! a look at all peers.

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use culvert_dataplane::shared::peer::{Peer as Cell, signal};
use culvert_wireguard::Instant;

use super::{
    health::Health,
    heard::{Cut, LastError},
    places::Places,
    pmtu::Probed,
};
use crate::config;

/// A peer, as the control core keeps it.
pub(super) struct PeerState {
    pub(super) cell: Arc<Cell>,
    pub(super) config: Arc<config::Peer>,
    pub(super) tunnel: usize,
    /// The uplink that it is reached by: its tunnel's, until it is heard by another.
    pub(super) uplink: usize,
    /// Where it was when it was given its path, or was heard since.
    pub(super) known_at: Option<SocketAddr>,
    /// It was heard there from a new place, and stays there as long as that works: of several uplinks no other is chosen.
    pub(super) follows: bool,
    /// Whether it had to leave an uplink lately, and how often.
    pub(super) moves: Health,
    /// The uplink that counts it as reached by it.
    pub(super) carried: Option<usize>,
    /// The local address that the peer last wrote to: the source of answers.
    pub(super) local: Option<IpAddr>,
    /// When the last of its handshake messages came: where it was before, it is no more.
    pub(super) called: Instant,
    /// Whether the operator was last told that it is there.
    pub(super) is_up: bool,
    /// Whether it was there before.
    pub(super) was_up: bool,
    /// When its next hop was last asked for.
    pub(super) refreshed: Instant,
    /// Whether it has to be given a new path.
    listed: Listed,
    /// Where it may be.
    pub(super) places: Places,
    /// The search for what its path lets through, once it was sent to.
    pub(super) probed: Option<Box<Probed>>,
    /// What was said last about datagrams to it.
    pub(super) last_error: Option<Box<LastError>>,
    /// To what its datagrams are cut, by the word of one on its path.
    pub(super) cut: Option<Box<Cut>>,
}

/// Peers that something has to be done for; clones are one list.
#[derive(Clone, Debug, Default)]
pub(super) struct Outdated(Rc<RefCell<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    paths: VecDeque<usize>,
    places: Vec<usize>,
    heard: Vec<usize>,
}

impl Outdated {
    /// Takes off some of those that have to be given a new path; whether there are more.
    pub(super) fn take_paths(&self, most: usize) -> (Vec<usize>, bool) {
        let paths = &mut self.0.borrow_mut().paths;
        let some = paths.drain(..most.min(paths.len())).collect();
        (some, !paths.is_empty())
    }

    /// Takes off those that the configuration has somewhere else.
    pub(super) fn take_places(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.borrow_mut().places)
    }

    /// Takes off those that were heard.
    pub(super) fn take_heard(&self) -> Vec<usize> {
        std::mem::take(&mut self.0.borrow_mut().heard)
    }
}

/// A peer's entries on the lists: one of a kind at most.
#[derive(Debug)]
struct Listed {
    slot: usize,
    path: bool,
    places: bool,
    lists: Outdated,
}

impl PeerState {
    /// A peer that is new at its tunnel's uplink: its path and its places are to be found.
    pub(super) fn new(
        cell: Arc<Cell>,
        config: Arc<config::Peer>,
        (tunnel, uplink): (usize, usize),
        outdated: &Outdated,
        now: Instant,
    ) -> Self {
        let listed = Listed {
            slot: cell.index.slot(),
            path: false,
            places: false,
            lists: outdated.clone(),
        };
        let mut peer = Self {
            cell,
            config,
            tunnel,
            uplink,
            known_at: None,
            follows: false,
            moves: Health::default(),
            carried: None,
            local: None,
            called: Instant::default(),
            is_up: false,
            was_up: false,
            refreshed: now,
            listed,
            places: Places::default(),
            probed: None,
            last_error: None,
            cut: None,
        };
        peer.outdate_path();
        peer.outdate_places();
        peer
    }

    /// Frames wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.cell.staged.load(Ordering::Relaxed) > 0
    }

    /// It was heard by `uplink`. Who stays where it was is led by us, if there are several uplinks: what still comes by
    /// another one says nothing.
    pub(super) fn heard_by(
        &mut self,
        source: SocketAddr,
        (uplink, local): (usize, Option<IpAddr>),
        is_led: bool,
    ) {
        let stays = self.known_at.replace(source) == Some(source);
        if is_led && stays && uplink != self.uplink {
            return;
        }
        self.follows |= is_led && !stays;
        (self.uplink, self.local) = (uplink, local);
    }

    /// The peer has to be given a new path, soon.
    pub(super) fn outdate_path(&mut self) {
        let Listed { slot, lists, .. } = &self.listed;
        if !self.listed.path {
            lists.0.borrow_mut().paths.push_back(*slot);
        }
        self.listed.path = true;
    }

    /// The configuration has the peer somewhere else.
    pub(super) fn outdate_places(&mut self) {
        self.places.heard = None;
        self.places.is_settled = false;
        self.places.renewed = None;
        self.list_places();
    }

    fn list_places(&mut self) {
        let Listed { slot, lists, .. } = &self.listed;
        if !self.listed.places {
            lists.0.borrow_mut().places.push(*slot);
        }
        self.listed.places = true;
    }

    /// It was parked, and is reached by `uplink` again. Of what workers told of it last, all is old but that its peer has
    /// the newest session: answers those signals.
    pub(super) fn come_back(&mut self, uplink: usize) -> u32 {
        let told = self.cell.take_signals() & signal::CONFIRMED;
        let _ = self.cell.take_moved();
        if self.uplink != uplink {
            (self.uplink, self.local) = (uplink, None);
        }
        (self.follows, self.carried) = (false, None);
        (self.listed.path, self.listed.places) = (false, false);
        self.outdate_path();
        self.list_places();
        told
    }

    /// Its places are looked for now.
    pub(super) fn renew_places(&mut self) {
        self.listed.places = false;
    }

    /// Something authentic came from where the protocol has the peer now.
    pub(super) fn note_heard(&self) {
        let Listed { slot, lists, .. } = &self.listed;
        lists.0.borrow_mut().heard.push(*slot);
    }

    /// The peer is given a new path now, which has its next hop asked for.
    pub(super) fn renew_path(&mut self, now: Instant) {
        self.listed.path = false;
        self.refreshed = now;
    }

    /// The configured endpoint as text, to tell a changed configuration.
    pub(super) fn configured_endpoint(&self) -> Option<String> {
        self.config.endpoint.as_ref().map(ToString::to_string)
    }
}
