//! Peers.
//!
//! In: their configurations, cells and states. Out: peers as they are shown. Never: a key but the public one.

use std::{sync::Arc, sync::atomic::Ordering};

use culvert_dataplane::shared::clock;
use culvert_wireguard::Now;

use super::{
    Reader,
    look::{self, Look, PeerSight},
    named,
};
use crate::{
    api::SendError,
    config::{self, Name},
    state::{Peer, Traffic},
};

impl Reader<'_> {
    pub(super) fn peers(&self) -> Result<Vec<Peer>, SendError> {
        let mut peers = Vec::new();
        for tunnel in &self.head.desired.file().tunnels {
            let name = &tunnel.name;
            let desired = self.head.desired.peers(name).collect();
            let key = |peer: &&Arc<config::Peer>| peer.public_key;
            let look = |keys, reply| Look::Peers(name.clone(), keys, reply);
            let seen = self.pages(desired, look::PEERS, key, look)?;
            let now = clock::now();
            peers.extend(seen.iter().map(|(config, sight)| Peer {
                drift: self.drift(name, config),
                ..peer(name, config, sight, now)
            }));
        }
        Ok(peers)
    }

    fn drift(&self, tunnel: &Name, peer: &config::Peer) -> Vec<String> {
        match self.head.is_lone {
            true => Vec::new(),
            false => self.head.desired.peer_drift(tunnel, &peer.public_key),
        }
    }
}

fn peer(tunnel: &Name, config: &config::Peer, sight: &PeerSight, now: Now) -> Peer {
    let PeerSight { cell, endpoint, .. } = sight;
    let traffic = &cell.traffic;
    let sendable = cell
        .keypair()
        .as_ref()
        .map(|k| k.sendable(now.monotonic).is_ok());
    let at = sight.last_handshake;
    Peer {
        tunnel: tunnel.to_string(),
        name: config.name.to_string(),
        public_key: config.public_key.to_base64(),
        preshared_key: config.preshared_key.is_some(),
        endpoint: *endpoint,
        allowed_ips: config.allowed_ips.iter().map(ToString::to_string).collect(),
        last_handshake_unix: at.map(|at| at.as_secs()),
        last_handshake_age_s: at.map(|at| now.unix.saturating_sub(at).as_secs()),
        keypair: match sendable {
            Some(true) => "current",
            Some(false) => "expired",
            None => "none",
        }
        .into(),
        state: match (sight.unanswered, sendable, endpoint) {
            _ if sight.is_silent => "silent",
            (_, Some(true), _) => "up",
            (1.., ..) => "calling",
            (0, _, None) => "unknown",
            (0, _, Some(_)) => "idle",
        }
        .into(),
        unanswered: sight.unanswered,
        persistent_keepalive_s: config.persistent_keepalive,
        rx: Traffic {
            packets: traffic.rx_packets.load(Ordering::Relaxed),
            bytes: traffic.rx_bytes.load(Ordering::Relaxed),
        },
        tx: Traffic {
            packets: traffic.tx_packets.load(Ordering::Relaxed),
            bytes: traffic.tx_bytes.load(Ordering::Relaxed),
        },
        staged: cell.staged.load(Ordering::Relaxed),
        drops: named(&cell.drops),
        drift: Vec::new(),
    }
}
