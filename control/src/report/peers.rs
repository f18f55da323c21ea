//! Peers.
//!
//! In: their configurations, cells and states. Out: peers as they are shown. Never: a key but the public one.

use std::{sync::Arc, sync::atomic::Ordering};

use culvert_dataplane::shared::clock;
use culvert_wireguard::Now;

use super::{
    Reader,
    lists::Named,
    look::{self, Look, PeerSight},
    named,
};
use crate::{
    api::SendError,
    config::{self, Name},
    engine::LastError,
    state::{EndpointName, Peer, PeerError, Traffic},
};

impl Reader<'_> {
    /// Peers of one tunnel, as they are shown; nothing of those that are gone. At most a page of the core's.
    pub(super) fn told<'p>(
        &self,
        peers: &[Named<'p>],
    ) -> Result<Vec<(Named<'p>, Option<Peer>)>, SendError> {
        let Some(&(tunnel, _)) = peers.first() else {
            return Ok(Vec::new());
        };
        let enabled = peers.iter().filter(|(_, peer)| peer.enabled);
        let asked = enabled.map(|(_, peer)| (peer.public_key, None)).collect();
        let look = |asked, reply| Look::Peers(tunnel.clone(), asked, reply);
        let mut seen = self.ask(asked, look)?.into_iter();
        let now = clock::now();
        let tell = |&(tunnel, config): &Named<'p>| {
            if !config.enabled {
                return ((tunnel, config), Some(configured(tunnel, config)));
            }
            let sight = seen.next().and_then(|(_, sight)| sight);
            let told = sight.map(|sight| Peer {
                drift: self.drift(tunnel, config),
                ..peer(tunnel, config, &sight, now)
            });
            ((tunnel, config), told)
        };
        Ok(peers.iter().map(tell).collect())
    }

    /// What the core tells of a tunnel's peers.
    pub(super) fn sights(
        &self,
        tunnel: &Name,
    ) -> Result<Vec<(&Arc<config::Peer>, PeerSight)>, SendError> {
        self.sights_of(tunnel, self.head.desired.peers(tunnel).collect())
    }

    /// What the core tells of these peers of a tunnel.
    pub(super) fn sights_of<'p>(
        &self,
        tunnel: &Name,
        peers: Vec<&'p Arc<config::Peer>>,
    ) -> Result<Vec<(&'p Arc<config::Peer>, PeerSight)>, SendError> {
        let key = |peer: &&Arc<config::Peer>| peer.public_key;
        let look = |asked, reply| Look::Peers(tunnel.clone(), asked, reply);
        self.pages(peers, look::PEERS, key, look)
    }

    pub(super) fn drift(&self, tunnel: &Name, peer: &config::Peer) -> Vec<String> {
        match self.head.is_lone {
            true => Vec::new(),
            false => self.head.desired.peer_drift(tunnel, &peer.public_key),
        }
    }
}

/// Whether it has a session, and is heard.
pub(super) fn answers(sight: &PeerSight, now: Now) -> bool {
    let keypair = sight.cell.keypair();
    let sendable = keypair
        .as_ref()
        .is_some_and(|it| it.sendable(now.monotonic).is_ok());
    sendable && sight.unanswered == 0 && !sight.is_silent
}

/// What is known of a peer that is disabled: what the configuration says.
fn configured(tunnel: &Name, config: &config::Peer) -> Peer {
    Peer {
        tunnel: tunnel.to_string(),
        name: config.name.to_string(),
        public_key: config.public_key.to_base64(),
        preshared_key: config.preshared_key.is_some(),
        allowed_ips: config.allowed_ips.iter().map(ToString::to_string).collect(),
        keypair: "none".into(),
        state: "disabled".into(),
        persistent_keepalive_s: config.persistent_keepalive,
        labels: config.labels.to_map(),
        ..Peer::default()
    }
}

pub(super) fn peer(tunnel: &Name, config: &config::Peer, sight: &PeerSight, now: Now) -> Peer {
    let PeerSight { cell, endpoint, .. } = sight;
    let traffic = &cell.traffic;
    let at = sight.last_handshake;
    Peer {
        endpoint: *endpoint,
        uplink: sight.uplink.as_ref().map(ToString::to_string),
        endpoint_name: sight.name.as_ref().map(|known| EndpointName {
            name: config
                .endpoint
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            state: match (&known.error, known.addresses.is_empty()) {
                (Some(_), _) => "failed",
                (None, true) => "asked",
                (None, false) => "found",
            }
            .into(),
            addresses: known.addresses.clone(),
            error: known.error.clone(),
            asked_in_s: known.asked_in.map(|it| it.as_secs()),
        }),
        last_handshake_unix: at.map(|at| at.as_secs()),
        last_handshake_age_s: at.map(|at| now.unix.saturating_sub(at).as_secs()),
        keypair: match sendable(sight, now) {
            Some(true) => "current",
            Some(false) => "expired",
            None => "none",
        }
        .into(),
        state: standing(sight, now).into(),
        unanswered: sight.unanswered,
        rx: Traffic {
            packets: traffic.rx_packets.load(Ordering::Relaxed),
            bytes: traffic.rx_bytes.load(Ordering::Relaxed),
        },
        tx: Traffic {
            packets: traffic.tx_packets.load(Ordering::Relaxed),
            bytes: traffic.tx_bytes.load(Ordering::Relaxed),
        },
        path_mtu: sight.path.mtu,
        path_mtu_known: sight.path.known.into(),
        fragmented: traffic.fragmented.load(Ordering::Relaxed),
        last_error: sight.last_error.map(|error| last_error(error, now)),
        staged: cell.staged.load(Ordering::Relaxed),
        drops: named(cell.drops.iter()),
        ..configured(tunnel, config)
    }
}

fn last_error(LastError { problem, from, at }: LastError, now: Now) -> PeerError {
    PeerError {
        what: problem.name().into(),
        mtu: problem.mtu(),
        from: Some(from),
        age_s: now.monotonic.since(at).as_secs(),
    }
}

/// Whether there is a key to seal with, and it may.
fn sendable(sight: &PeerSight, now: Now) -> Option<bool> {
    let keypair = sight.cell.keypair();
    let keypair = keypair.as_ref();
    keypair.map(|keypair| keypair.sendable(now.monotonic).is_ok())
}

/// How things stand with a peer, in one word.
pub(crate) fn standing(sight: &PeerSight, now: Now) -> &'static str {
    match (sight.unanswered, sendable(sight, now), sight.endpoint) {
        _ if sight.is_silent => "silent",
        (_, Some(true), _) => "up",
        (1.., ..) => "calling",
        (0, _, None) => "unknown",
        (0, _, Some(_)) => "idle",
    }
}
