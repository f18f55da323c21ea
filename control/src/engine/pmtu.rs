//! What peers' paths let through: by the operator's word, or found out.
//!
//! In: that a peer is sent to, answers to probes, deadlines. Out: probes for workers to send, paths that have to be
//! built anew, events. Never: a probe of a peer that is not sent to; a look at peers that are not probed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use culvert_dataplane::shared::{
    control_link::{Command, Probe},
    ids::{PeerIndex, UplinkIndex},
    path::Path,
    peer::signal,
};
use culvert_stack::pmtu::{self, Bucket, Phase, Quiet, Search};
use culvert_wireguard::Instant;
use ipnet::IpNet;

use super::{Engine, due::Due, peers::PeerState, uplinks::UplinkState};
use crate::{
    config::{self, Name, Pmtu},
    events::Event,
};

/// Searches that wait for something, by their peers' places.
#[derive(Default)]
pub(super) struct Probing {
    due: Due,
    bucket: Bucket,
    /// The same by the clock of those that nobody answers.
    quiet_bucket: Bucket,
}

impl Probing {
    /// When the first one's time comes.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first()
    }
}

/// A peer whose path is searched.
pub(super) struct Probed {
    search: Search,
    /// Nobody behind the peer answers: the search waits for the peer's empty packets, and has a clock of its own.
    quiet: Option<Quiet>,
    /// Where it leads.
    way: Option<(SocketAddr, UplinkIndex)>,
    /// The identifier of its probes.
    id: u16,
    /// What was told of it last.
    told: Option<u16>,
}

impl Probed {
    /// Answers are known by the peer's number: who answers is authentic, so it need not be hard to guess, only another
    /// one than of most pings.
    fn new(peer: PeerIndex) -> Self {
        let [_, _, high, low] = peer.0.to_be_bytes();
        Self {
            search: Search::new(0, 0),
            quiet: None,
            way: None,
            id: (u16::from_be_bytes([high, low]) ^ 0xc01f).max(1),
            told: None,
        }
    }
}

impl Probed {
    /// Whether there is nobody to be asked.
    fn wait_for(&mut self, quiet: bool, now: Instant) {
        if quiet != self.quiet.is_some() {
            self.quiet = quiet.then(|| Quiet::new(now));
            // What it knows, it knows by another clock.
            self.search.restart(self.search.ceiling());
        }
    }

    /// What was found of a path that takes `ceiling` bytes at most.
    fn known_of(&mut self, path: &Path, ceiling: u16) -> Option<NonZeroU16> {
        let way = Some((path.endpoint, path.uplink()));
        if (self.way, self.search.ceiling()) != (way, ceiling) {
            self.way = way;
            self.search.restart(ceiling);
        }
        self.search.mtu().and_then(NonZeroU16::new)
    }

    /// What the search's clock shows.
    fn clock(&self, now: Instant) -> Instant {
        self.quiet.as_ref().map_or(now, |_| Quiet::clock(now))
    }

    /// The next probe, and when to look again. Where nobody is asked, nothing else calls a peer without a key.
    fn poll(
        &mut self,
        probing: &mut Probing,
        is_keyed: bool,
        now: Instant,
    ) -> (Option<pmtu::Probe>, Option<Instant>) {
        let Self { search, quiet, .. } = self;
        match quiet {
            None => {
                let probe = search.poll_probe(now, &mut probing.bucket);
                (probe, search.poll_timeout(now))
            }
            Some(quiet) if is_keyed => {
                let probe = quiet.poll_probe(search, now, &mut probing.quiet_bucket);
                (probe, quiet.poll_timeout(search, now))
            }
            Some(_) => (None, None),
        }
    }
}

/// What is known of a peer's path, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// Bytes of whole IP packets.
    pub mtu: Option<u16>,
    /// In a word.
    pub known: &'static str,
}

impl PeerState {
    fn pmtu(&self, tunnel: &config::Tunnel) -> Pmtu {
        self.config.pmtu.unwrap_or(tunnel.pmtu)
    }

    /// What `path` lets through, as far as it is known: no more than its link takes. Where it leads elsewhere, what was
    /// found says nothing.
    pub(super) fn path_mtu(
        &mut self,
        tunnel: &config::Tunnel,
        uplink: &UplinkState,
        path: &Path,
    ) -> Option<NonZeroU16> {
        let link = uplink.taught.used().mtu;
        let known = match self.pmtu(tunnel) {
            Pmtu::Off => None,
            Pmtu::Fixed(mtu) => Some(mtu),
            Pmtu::Probe => {
                let whole = tunnel.mtu.saturating_add(path.overhead());
                let ceiling = whole.min(uplink.config.mtu).min(link.unwrap_or(u16::MAX));
                let probed = self.probed.as_deref_mut();
                probed.and_then(|probed| probed.known_of(path, ceiling))
            }
        };
        // Unless it takes all that this uplink may send.
        let link = link.filter(|&link| link < uplink.config.mtu);
        let link = link.and_then(NonZeroU16::new);
        known.into_iter().chain(link).min()
    }

    /// What is known, for whoever asks; the uplink has learned what its link takes.
    pub(super) fn path_mtu_sight(
        &self,
        tunnel: &config::Tunnel,
        uplink: Option<&UplinkState>,
    ) -> PathMtu {
        let search = self.probed.as_deref().map(|probed| &probed.search);
        let (mtu, known) = match (self.pmtu(tunnel), search.map(Search::phase)) {
            (Pmtu::Off, _) => (None, "off"),
            (Pmtu::Fixed(mtu), _) => (Some(mtu.get()), "configured"),
            (Pmtu::Probe, None) => (None, "idle"),
            (Pmtu::Probe, Some(Phase::Silent)) => (None, "unanswered"),
            (Pmtu::Probe, Some(Phase::Done)) => (search.and_then(Search::mtu), "found"),
            (Pmtu::Probe, Some(Phase::Base | Phase::Search)) => {
                (search.and_then(Search::mtu), "searching")
            }
        };
        let link = uplink.and_then(|uplink| {
            let learned = uplink.taught.used().mtu?;
            (learned < uplink.config.mtu).then_some(learned)
        });
        match link {
            Some(link) if mtu.is_none_or(|mtu| link < mtu) => PathMtu {
                mtu: Some(link),
                known: "link",
            },
            _ => PathMtu { mtu, known },
        }
    }

    /// Workers noticed this of it: whether its search may have something to do.
    pub(super) fn note_path(&mut self, tunnel: &config::Tunnel, bits: u32, now: Instant) -> bool {
        let has = |bit| bits & bit != 0;
        let sent = has(signal::DATA_SENT);
        let waits = (self.probed.as_ref()).is_some_and(|probed| probed.quiet.is_some());
        let heard = waits && has(signal::DATA_RECEIVED | signal::KEEPALIVE_RECEIVED);
        let answered = has(signal::PROBE_ANSWERED);
        if !(sent || heard || answered) || self.pmtu(tunnel) != Pmtu::Probe {
            return false;
        }
        if self.probed.is_none() {
            // The next path that is built says where it leads.
            self.outdate_path();
        }
        let cell = &self.cell;
        let probed = self.probed.get_or_insert_with(|| {
            let probed = Probed::new(cell.index);
            cell.expect_answers(probed.id);
            Box::new(probed)
        });
        let Probed { search, quiet, .. } = &mut **probed;
        match quiet {
            Some(quiet) => {
                if sent || has(signal::DATA_RECEIVED) {
                    quiet.handle_traffic(now);
                }
                if has(signal::KEEPALIVE_RECEIVED) {
                    quiet.handle_empty(search, now);
                }
            }
            None => {
                if sent {
                    search.handle_traffic(now);
                }
                if answered {
                    search.handle_answer(cell.answered(), now);
                }
            }
        }
        true
    }

    /// ICMP claims that no more than `mtu` bytes pass; whether that is to be tried.
    pub(super) fn hint_path(&mut self, mtu: u16, proven: bool, now: Instant) -> bool {
        self.probed.as_deref_mut().is_some_and(|probed| {
            let clock = probed.clock(now);
            probed.search.handle_hint(mtu, proven, clock)
        })
    }

    /// What was found does not count any more, or nothing is to be found out.
    pub(super) fn forget_path_mtu(&mut self) {
        self.probed = None;
        self.cell.expect_answers(0);
        self.outdate_path();
    }
}

impl Engine {
    /// Sends the probes that are due.
    pub(super) fn probe_paths(&mut self, now: Instant) {
        for slot in self.probing.due.passed(now) {
            self.probe_path(slot, now);
        }
    }

    /// Lets one peer's search go on.
    pub(super) fn probe_path(&mut self, slot: usize, now: Instant) {
        let due = self.search_on(slot, now);
        self.probing.due.note(slot, due, false);
    }

    /// The same; when it is to go on again.
    fn search_on(&mut self, slot: usize, now: Instant) -> Option<Instant> {
        let peer = self.peers.get_mut(slot)?;
        let tunnel = self.tunnels.get(peer.tunnel)?;
        let network = self.networks.behind(&tunnel.name);
        let network = network.and_then(|network| self.networks.table.get(network));
        let network = &network?.config;
        let asked = ends(network, &peer.config);
        let keypair = peer.cell.keypair();
        let keypair = keypair.as_ref();
        let is_keyed = keypair.is_some_and(|keypair| keypair.sendable(now).is_ok());
        let probed = peer.probed.as_deref_mut()?;
        probed.wait_for(asked.is_none(), now);
        // Without a way nothing leaves.
        let ((source, destination), _) = asked.or_else(|| nobody(network)).zip(probed.way)?;
        let (probe, due) = probed.poll(&mut self.probing, is_keyed, now);
        let (id, mtu) = (probed.id, probed.search.mtu());
        if probed.told != mtu {
            probed.told = mtu;
            tell(&tunnel.name, &peer.config.name, mtu);
            peer.outdate_path();
        }
        if let Some(probe) = probe {
            let probe = Probe {
                size: probe.size,
                source,
                destination,
                id,
                token: probe.token,
                asks: asked.is_some(),
            };
            // One that is lost counts as one that did not pass.
            let command = Command::Probe(PeerIndex::from_slot(slot), Box::new(probe));
            self.workers.send(0, command);
        }
        due
    }
}

fn tell(tunnel: &Name, peer: &Name, mtu: Option<u16>) {
    let (tunnel, peer) = (tunnel.clone(), peer.clone());
    let event = match mtu {
        Some(mtu) => Event::PathMtuFound { tunnel, peer, mtu },
        None => Event::PathMtuUnknown { tunnel, peer },
    };
    event.tell();
}

/// Between which addresses a peer's path is probed: one of ours in its network, and one behind it.
fn ends(network: &config::Network, peer: &config::Peer) -> Option<(IpAddr, IpAddr)> {
    let is_single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
    let singles = peer.allowed_ips.iter().filter(is_single).map(IpNet::addr);
    let ours = |of: IpAddr| {
        let mut ours = network.gateways.iter().map(IpNet::addr);
        ours.find(|ours| ours.is_ipv4() == of.is_ipv4())
    };
    let mut all = peer.probe.into_iter().chain(singles);
    all.find_map(|there| Some((ours(there)?, there)))
}

/// The same where nobody is known behind a peer: what it gets is for all on its link, and goes no further.
fn nobody(network: &config::Network) -> Option<(IpAddr, IpAddr)> {
    const ALL_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
    const ALL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let ours = network.gateways.first()?.addr();
    Some((ours, if ours.is_ipv4() { ALL_V4 } else { ALL_V6 }))
}
