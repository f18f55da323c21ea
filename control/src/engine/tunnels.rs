//! Tunnels and their peers: the protocol's state machines, and what the workers see of
//! them.
//!
//! In: handshake messages, signals that workers raised, deadlines, configuration. Out:
//! published keypairs and paths, commands to workers, log lines an operator waits for.
//! Never: a packet's payload, a secret key in a log.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use culvert_dataplane::{
    shared::{
        ids::{PeerIndex, TunnelIndex},
        peer::{Origin, Peer as Cell, signal},
        sessions::{Session, SessionTable},
    },
    uplink::udp::Marker,
};
use culvert_wire::fib::{Fib, Prefix, Routes};
use culvert_wireguard::{
    Device, Event, Handshake, HandshakeDrop, Instant, Now, PeerConfig, PeerId, PeerUpdate,
    PresharedKey, PublicKey, Traffic, Transmit, limits::MAX_PEERS,
};
use ipnet::IpNet;
use rand_core::UnwrapErr;

use super::{
    networks::{apart, prefix},
    peers::{Outdated, PeerState},
    slots::Slots,
    table::Named,
};
use crate::config::{self, Endpoint, Name};
use crate::events;

/// Receiver-index slots per peer: a handshake and three keypairs take four, if all peers have them at once; a few more
/// keep allocation constant in time.
const SLOTS_PER_PEER: usize = 5;
/// Slots of a tunnel's table at the least; it grows with its peers.
const SLOTS_MIN: usize = 1 << 12;

/// A tunnel, as the control core keeps it.
pub(super) struct TunnelState {
    pub(super) name: Name,
    /// Without its peers.
    pub(super) config: config::Tunnel,
    /// One of its uplinks, to which its sockets belong that have no other one's place.
    pub(super) uplink: usize,
    /// What it has on its other uplinks.
    pub(super) backups: Vec<Seat>,
    /// All of its uplinks, the first choice first.
    pub(super) order: Vec<usize>,
    /// How many peers are reached by each.
    pub(super) carried: BTreeMap<usize, usize>,
    /// When it left another one: by which uplink something came before, says nothing any more.
    pub(super) moved: Instant,
    pub(super) device: Device,
    pub(super) sessions: Arc<SessionTable>,
    /// Place in the engine's table of peers, by the device's.
    pub(super) peers: HashMap<PeerId, usize>,
    /// The same by the peers' names.
    names: HashMap<Name, usize>,
    /// Who may send from which address.
    allowed: Routes<PeerIndex>,
    /// Peers' prefixes are not in that table yet: so many change that it is built anew.
    is_rebuilt: bool,
    /// Handshake messages that came to nothing, by reason.
    pub(super) drops: BTreeMap<&'static str, u64>,
    /// Messages whose way is known since they were made.
    outgoing: Vec<Outgoing>,
    /// Set the mark of its sockets.
    pub(super) markers: Vec<Marker>,
    /// Where `wg` finds it, and under which name.
    pub(super) served: Option<(Name, PathBuf)>,
    /// Why `wg` doesn't find it, as it was told last.
    pub(super) unserved: Option<String>,
}

/// What a tunnel has on one of several uplinks.
pub(super) struct Seat {
    pub(super) uplink: usize,
    /// Set the mark of its sockets there.
    pub(super) markers: Vec<Marker>,
}

/// A handshake message on its way out.
pub(super) struct Outgoing {
    pub(super) message: Transmit,
    /// How a stranger's message came, which is answered so. A peer has a way of its own.
    pub(super) came: Option<Way>,
}

/// An uplink's place, and which of our addresses is spoken from, if that is known.
pub(super) type Way = (usize, Option<IpAddr>);

impl From<Transmit> for Outgoing {
    fn from(message: Transmit) -> Self {
        let came = None;
        Self { message, came }
    }
}

/// What a tunnel wants of the engine after it was driven.
#[expect(
    clippy::large_enum_variant,
    reason = "most are messages, and none is kept"
)]
pub(super) enum Wish {
    /// Send this handshake message.
    Transmit(Outgoing),
    /// Flush what waits for the peer, or send an empty packet.
    Keepalive(usize),
    /// Flush what waits for the peer.
    Flush(usize),
    /// Drop what waits for the peer.
    DropStaged(usize),
    /// The peer's path must be built anew.
    Path(usize),
    /// The peer has not answered so many calls.
    Unanswered(usize, u32),
}

impl Named for TunnelState {
    const IS_DRIVEN: bool = true;

    fn name(&self) -> &Name {
        &self.name
    }
}

impl TunnelState {
    pub(super) fn new(config: config::Tunnel, uplink: usize) -> Self {
        let slots = slots_for(0);
        let sessions = Arc::new(SessionTable::new(slots as usize));
        let device = Device::new(
            culvert_wireguard::Config {
                index_slots: slots,
                ..Default::default()
            },
            config.private_key.clone(),
            Box::new(UnwrapErr(getrandom::SysRng)),
        );
        Self {
            name: config.name.clone(),
            config,
            uplink,
            backups: Vec::new(),
            order: vec![uplink],
            carried: BTreeMap::new(),
            moved: Instant::default(),
            device,
            sessions,
            peers: HashMap::new(),
            names: HashMap::new(),
            allowed: Routes::default(),
            is_rebuilt: false,
            drops: BTreeMap::new(),
            outgoing: Vec::new(),
            markers: Vec::new(),
            served: None,
            unserved: None,
        }
    }

    /// The places of its uplinks.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = usize> + Clone {
        let backups = self.backups.iter().map(|seat| seat.uplink);
        std::iter::once(self.uplink).chain(backups)
    }

    /// What sets the mark of its sockets on an uplink of its.
    pub(super) fn markers_on(&mut self, uplink: usize) -> Option<&mut Vec<Marker>> {
        if self.uplink == uplink {
            return Some(&mut self.markers);
        }
        let mut seats = self.backups.iter_mut();
        let seat = seats.find(|seat| seat.uplink == uplink)?;
        Some(&mut seat.markers)
    }

    /// The uplink of its first choice.
    pub(super) fn first_choice(&self) -> usize {
        self.order.first().copied().unwrap_or(self.uplink)
    }

    /// Counts a peer at the uplink that it is reached by now.
    pub(super) fn carry(&mut self, peer: &mut PeerState, by: Option<usize>) {
        if peer.carried == by {
            return;
        }
        let before = std::mem::replace(&mut peer.carried, by);
        if let Some(count) = before.and_then(|it| self.carried.get_mut(&it)) {
            *count -= 1;
        }
        self.carried.retain(|_, count| *count > 0);
        if let Some(by) = by {
            *self.carried.entry(by).or_default() += 1;
        }
    }

    /// Makes room for so many peers. Workers find new sessions with the next snapshot, which whoever adds peers
    /// has to publish anyway.
    pub(super) fn make_room(&mut self, peers: usize) {
        let slots = slots_for(peers);
        if slots as usize > self.sessions.slots() {
            self.device.grow(slots);
            self.sessions = Arc::new(self.sessions.grown(slots as usize));
        }
    }

    /// Adds a configured peer; `endpoint` is where it is thought to be.
    pub(super) fn add_peer(
        &mut self,
        tunnel: usize,
        config: Arc<config::Peer>,
        endpoint: Option<SocketAddr>,
        (peers, outdated): (&mut Slots<PeerState>, &Outdated),
        now: Now,
    ) -> Result<usize, culvert_wireguard::ConfigError> {
        let id = self.device.add_peer(
            PeerConfig {
                public_key: config.public_key,
                preshared_key: preshared(&config),
                persistent_keepalive: keepalive(&config),
                endpoint,
            },
            now,
        )?;
        let slot = peers.reserve();
        let cell = Cell::new(
            PeerIndex::from_slot(slot),
            TunnelIndex::from_slot(tunnel),
            id,
        );
        let cell = Arc::new(cell.with_key(config.public_key));
        self.peers.insert(id, slot);
        self.know(slot, None, Some(&config));
        let peer = PeerState::new(
            cell,
            config,
            (tunnel, self.first_choice()),
            outdated,
            now.monotonic,
        );
        peers.put(slot, peer);
        Ok(slot)
    }

    /// The place of the peer with that key.
    pub(super) fn place(&self, key: &PublicKey) -> Option<usize> {
        self.peers.get(&self.device.find(key)?).copied()
    }

    /// The place of the peer with that name.
    pub(super) fn named(&self, name: &Name) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The place of the peer that has this very prefix.
    pub(super) fn owner(&self, net: &IpNet) -> Option<usize> {
        self.allowed.get(prefix(*net)?).map(PeerIndex::slot)
    }

    /// A prefix of a peer's that overlaps that one ([`Routes::overlap`]).
    pub(super) fn allowed_overlap(&self, with: Prefix, least: u8) -> Option<Prefix> {
        self.allowed.overlap(with, least)
    }

    /// Who may send from which address, as of the last [`TunnelState::finish`].
    pub(super) fn allowed(&self) -> &Fib<PeerIndex> {
        self.allowed.finished()
    }

    /// So many peers change that the table of their prefixes is better built anew.
    pub(super) fn rebuild(&mut self) {
        self.is_rebuilt = true;
    }

    /// Makes a table of all changes.
    pub(super) fn finish(&mut self, peers: &Slots<PeerState>) {
        if std::mem::take(&mut self.is_rebuilt) {
            self.allowed = Routes::build(self.peers.values().flat_map(|&slot| {
                let config = peers.get(slot).map(|peer| &peer.config);
                let nets = config.into_iter().flat_map(|config| &config.allowed_ips);
                nets.filter_map(move |net| Some((prefix(*net)?, 0, PeerIndex::from_slot(slot))))
            }));
        }
        self.allowed.finish();
    }

    /// Knows name and prefixes of the peer at `place`, and those that it had no more, as far as they are not
    /// another's already. Without `old` it is new, without `new` it is gone.
    fn know(&mut self, place: usize, old: Option<&config::Peer>, new: Option<&config::Peer>) {
        let (before, now) = (old.map(|old| &old.name), new.map(|new| &new.name));
        if let Some(before) = before.filter(|before| Some(*before) != now)
            && self.names.get(before) == Some(&place)
        {
            self.names.remove(before);
        }
        if let Some(now) = now {
            self.names.insert(now.clone(), place);
        }
        if self.is_rebuilt {
            return;
        }
        let before = old.map_or(&[][..], |old| &old.allowed_ips);
        let (gone, come) = apart(before, new.map_or(&[][..], |new| &new.allowed_ips));
        let peer = PeerIndex::from_slot(place);
        gone.into_iter()
            .for_each(|prefix| self.allowed.unset(prefix, 0, peer));
        come.into_iter()
            .for_each(|prefix| self.allowed.set(prefix, 0, peer));
    }

    /// Removes a peer that was taken from its place, or parks it.
    pub(super) fn forget_peer(&mut self, place: usize, peer: &mut PeerState, parks: bool) {
        self.carry(peer, None);
        match parks {
            true => self.device.park_peer(peer.cell.id),
            false => self.device.remove_peer(peer.cell.id),
        }
        self.peers.remove(&peer.cell.id);
        self.know(place, Some(&peer.config), None);
    }

    /// Takes a parked peer back, as `config` has it now; whether it was parked.
    pub(super) fn revive_peer(
        &mut self,
        peer: &mut PeerState,
        config: &Arc<config::Peer>,
        now: Now,
    ) -> bool {
        let (id, place) = (peer.cell.id, peer.cell.index.slot());
        if self.device.revive_peer(&config.public_key, now).is_none() {
            return false;
        }
        self.peers.insert(id, place);
        let old = Arc::clone(&peer.config);
        self.know(place, None, Some(&old));
        let moves = old.endpoint != config.endpoint;
        self.update_peer(peer, Arc::clone(config), moves, now);
        true
    }

    /// Takes over what changed in a peer's configuration. Its session goes on. If it `moves`, its endpoint counts,
    /// wherever it was heard since.
    pub(super) fn update_peer(
        &mut self,
        peer: &mut PeerState,
        config: Arc<config::Peer>,
        moves: bool,
        now: Now,
    ) {
        let (id, place) = (peer.cell.id, peer.cell.index.slot());
        let old = std::mem::replace(&mut peer.config, config);
        let config = Arc::clone(&peer.config);
        self.know(place, Some(&old), Some(&config));
        let update = PeerUpdate {
            preshared_key: (old.preshared_key != config.preshared_key).then(|| preshared(&config)),
            persistent_keepalive: (old.persistent_keepalive != config.persistent_keepalive)
                .then(|| keepalive(&config).unwrap_or_default()),
            endpoint: config
                .endpoint
                .as_ref()
                .filter(|_| moves)
                .and_then(Endpoint::address),
            elsewhere: moves.then(Vec::new),
            patiently: false,
        };
        self.device.update_peer(id, update, now);
        if moves {
            if config.endpoint.is_none() {
                // It has to call first, as if nobody had ever said where it is.
                self.device.forget_endpoint(id);
            }
            // They were learned on the way from the old place.
            (peer.uplink, peer.local, peer.follows) = (self.first_choice(), None, false);
            peer.outdate_path();
        }
        if moves || old.endpoint != config.endpoint {
            peer.outdate_places();
        }
        if (old.pmtu, old.probe) != (config.pmtu, config.probe) {
            peer.forget_path_mtu();
        }
    }

    /// The way by which something came: what came before the tunnel left its uplink is answered by the new one.
    fn way_back(&self, origin: &Origin) -> Way {
        match origin.at < self.moved {
            true => (self.uplink, None),
            false => (origin.uplink.slot(), origin.local),
        }
    }

    /// A handshake message from the wire.
    pub(super) fn handshake(
        &mut self,
        message: &[u8],
        origin: Origin,
        backlog: usize,
        peers: &mut Slots<PeerState>,
        now: Now,
    ) {
        let way = self.way_back(&origin);
        let verdict = (self.device).handle_handshake(message, origin.source, backlog, now);
        let id = match verdict {
            Handshake::InitiationAccepted(id)
            | Handshake::ResponseAccepted(id)
            | Handshake::CookieAccepted(id) => id,
            Handshake::CookieSent => {
                self.count("handshake-cookie-sent");
                let came = Some(way);
                let messages = std::iter::from_fn(|| self.device.poll_transmit());
                let outgoing = messages.map(|message| Outgoing { message, came });
                self.outgoing.extend(outgoing);
                return;
            }
            Handshake::Dropped(reason) => {
                self.count(drop_name(reason));
                return;
            }
        };
        let is_led = self.order.len() > 1;
        if let Some(peer) = self.peers.get(&id).and_then(|slot| peers.get_mut(*slot)) {
            peer.cell.traffic.received(1, message.len() as u64);
            if verdict != Handshake::CookieAccepted(id) {
                peer.note_heard();
                peer.called = origin.at;
                let before = (peer.uplink, peer.local);
                peer.heard_by(origin.source, way, is_led);
                if (peer.uplink, peer.local) != before {
                    peer.outdate_path();
                }
            }
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.drops.entry(name).or_default() += 1;
    }

    /// What workers noticed about a peer since the last look.
    pub(super) fn signals(&mut self, peer: &mut PeerState, bits: u32, now: Now) {
        let id = peer.cell.id;
        let at = |bit: u32| (bits & bit != 0).then_some(now.monotonic);
        if bits & signal::CONFIRMED != 0 {
            self.device
                .handle_confirmed(id, peer.cell.confirmed_index(), now);
        }
        if bits & signal::MOVED != 0
            && let Some(origin) = peer.cell.take_moved()
        {
            // A worker may have published a path of its own.
            peer.outdate_path();
            if origin.at >= peer.called {
                self.device.handle_endpoint(id, origin.source);
                peer.note_heard();
                let (uplink, local) = self.way_back(&origin);
                let way = (uplink, local.or(peer.local));
                peer.heard_by(origin.source, way, self.order.len() > 1);
            }
        }
        let traffic = Traffic {
            data_sent: at(signal::DATA_SENT),
            data_received: at(signal::DATA_RECEIVED),
            keepalive_sent: at(signal::KEEPALIVE_SENT),
            keepalive_received: at(signal::KEEPALIVE_RECEIVED),
        };
        if traffic != Traffic::default() {
            self.device.handle_traffic(id, traffic, now);
        }
        if bits & signal::KEY_WANTED != 0 {
            self.device.initiate(id, now);
        }
        if bits & signal::NEXT_HOP_WANTED != 0 {
            peer.outdate_path();
        }
    }

    /// Carries out the device's events and collects what is left for the engine.
    pub(super) fn drain(&mut self, peers: &mut Slots<PeerState>, wishes: &mut Vec<Wish>) {
        while let Some(event) = self.device.poll_event() {
            self.event(event, peers, wishes);
        }
        wishes.extend(self.outgoing.drain(..).map(Wish::Transmit));
        while let Some(message) = self.device.poll_transmit() {
            wishes.push(Wish::Transmit(message.into()));
        }
    }

    fn event(&mut self, event: Event, peers: &mut Slots<PeerState>, wishes: &mut Vec<Wish>) {
        match event {
            Event::KeypairAdded { peer, keypair } => {
                if let Some(peer) = self.state(peer, peers) {
                    let peer = Arc::clone(&peer.cell);
                    self.sessions.publish(Session { keypair, peer });
                }
            }
            Event::KeypairRemoved { local_index, .. } => self.sessions.remove(local_index),
            Event::CurrentKeypair { peer, keypair } => {
                if let Some(peer) = self.state(peer, peers) {
                    peer.cell.publish_keypair(keypair);
                }
            }
            Event::SendKeepalive { peer } => {
                wishes.extend(self.peers.get(&peer).copied().map(Wish::Keepalive));
            }
            Event::FlushStaged { peer } => {
                wishes.extend(self.peers.get(&peer).copied().map(Wish::Flush));
            }
            Event::DropStaged { peer } => {
                wishes.extend(self.peers.get(&peer).copied().map(Wish::DropStaged));
            }
            Event::EndpointMoved { peer, .. } => {
                wishes.extend(self.peers.get(&peer).copied().map(Wish::Path));
            }
            Event::SourceStale { peer } => {
                if let Some(state) = self.state(peer, peers) {
                    state.local = None;
                }
                wishes.extend(self.peers.get(&peer).copied().map(Wish::Path));
            }
            Event::HandshakeCompleted { peer, .. } => {
                let endpoint = self.device.peer(peer).and_then(|status| status.endpoint);
                if let Some(state) = self.state(peer, peers)
                    && let Some(endpoint) = endpoint
                    && !std::mem::replace(&mut state.is_up, true)
                {
                    let (tunnel, peer) = (self.name.clone(), state.config.name.clone());
                    let event = match std::mem::replace(&mut state.was_up, true) {
                        false => events::Event::PeerUp {
                            tunnel,
                            peer,
                            endpoint,
                        },
                        true => events::Event::PeerHeard {
                            tunnel,
                            peer,
                            endpoint,
                        },
                    };
                    event.tell();
                }
            }
            Event::Unanswered { peer, calls } => {
                let slot = self.peers.get(&peer).copied();
                wishes.extend(slot.map(|slot| Wish::Unanswered(slot, calls)));
            }
            Event::HandshakeGivenUp { .. } | Event::PeerRemoved { .. } => {}
        }
    }

    fn state<'p>(&self, id: PeerId, peers: &'p mut Slots<PeerState>) -> Option<&'p mut PeerState> {
        peers.get_mut(*self.peers.get(&id)?)
    }
}

/// Slots of the receiver-index table for so many peers: a power of two.
fn slots_for(peers: usize) -> u32 {
    let slots = peers.min(MAX_PEERS) * SLOTS_PER_PEER;
    u32::try_from(slots.max(SLOTS_MIN).next_power_of_two()).unwrap_or(1 << 31)
}

fn preshared(config: &config::Peer) -> PresharedKey {
    config.preshared_key.clone().unwrap_or_default()
}

fn keepalive(config: &config::Peer) -> Option<Duration> {
    config
        .persistent_keepalive
        .map(|seconds| Duration::from_secs(seconds.into()))
}

/// The stable name under which operators see why a handshake message was dropped.
fn drop_name(reason: HandshakeDrop) -> &'static str {
    match reason {
        HandshakeDrop::Malformed => "handshake-malformed",
        HandshakeDrop::NoIdentity => "handshake-no-identity",
        HandshakeDrop::InvalidMac1 => "handshake-mac1-invalid",
        HandshakeDrop::RateLimited => "handshake-rate-limited",
        HandshakeDrop::Undecryptable => "handshake-undecryptable",
        HandshakeDrop::UnknownPeer => "handshake-peer-unknown",
        HandshakeDrop::ReplayedTimestamp => "handshake-replayed",
        HandshakeDrop::InitiationFlood => "handshake-too-soon",
        HandshakeDrop::UnknownIndex => "handshake-index-unknown",
        HandshakeDrop::UnexpectedResponse => "handshake-response-unexpected",
        HandshakeDrop::UnexpectedCookie => "handshake-cookie-unexpected",
        HandshakeDrop::NoFreeIndex => "handshake-no-free-index",
        HandshakeDrop::Down => "handshake-tunnel-down",
    }
}
