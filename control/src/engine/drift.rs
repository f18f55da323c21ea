//! Drift: where the running configuration differs from the file that was applied last.
//!
//! In: two configurations. Out: the differences in words. Never: a key.

use std::collections::HashMap;

use crate::config::{Peer, Tunnel};

/// What differs at a tunnel itself, and which peers of the file it hasn't.
pub(super) fn of_tunnel(running: &Tunnel, file: Option<&Tunnel>) -> Vec<String> {
    let Some(file) = file else {
        return vec!["not in the file".into()];
    };
    let mut drift = Vec::new();
    if running.private_key != file.private_key {
        drift.push("private_key".into());
    }
    if running.listen_port != file.listen_port {
        drift.push(format!("listen_port (file: {})", file.listen_port));
    }
    if running.fwmark != file.fwmark {
        drift.push(format!("fwmark (file: {:#x})", file.fwmark));
    }
    let present: HashMap<_, _> = by_key(running).collect();
    let gone = by_key(file).filter(|(key, _)| !present.contains_key(key));
    drift.extend(gone.map(|(_, peer)| format!("peer {} removed", peer.name)));
    drift
}

/// What differs at a peer: keys of the file.
pub(super) fn of_peer(running: &Peer, file: Option<&Peer>) -> Vec<String> {
    let Some(file) = file else {
        return vec!["not in the file".into()];
    };
    let differs = [
        ("preshared_key", running.preshared_key != file.preshared_key),
        ("endpoint", running.endpoint != file.endpoint),
        ("allowed_ips", running.allowed_ips != file.allowed_ips),
        (
            "persistent_keepalive",
            running.persistent_keepalive != file.persistent_keepalive,
        ),
    ];
    let named = differs.into_iter().filter(|(_, differs)| *differs);
    named.map(|(name, _)| name.to_owned()).collect()
}

/// A tunnel's peers by their keys.
pub(super) fn by_key(tunnel: &Tunnel) -> impl Iterator<Item = (&crate::keys::PublicKey, &Peer)> {
    tunnel.peers.iter().map(|peer| (&peer.public_key, peer))
}
