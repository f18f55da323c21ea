//! Tunnels and peers, and what was lost anywhere.
//!
//! In: a survey. Out: their samples, family by family: a peer's counters are read when they are written. Never: a list
//! of all samples.

use std::sync::atomic::Ordering;

use culvert_wireguard::Now;

use super::Chosen;
use super::families::{self as of, Family};
use super::text::{Gone, Text};
use crate::config;
use crate::report::{Survey, look::PeerSight, standing};

pub(super) fn write(survey: &Survey, chosen: &Chosen, text: &mut Text<'_>) -> Result<(), Gone> {
    tunnels(survey, text)?;
    let mut each = |family, value: fn(&PeerSight, Now) -> Option<u64>| {
        each(survey, chosen, text, family, value)
    };
    each(&of::PEER_UP, |sight, now| {
        Some((standing(sight, now) == "up").into())
    })?;
    each(&of::PEER_SILENT, |sight, _| Some(sight.is_silent.into()))?;
    each(&of::PEER_UNANSWERED, |sight, _| {
        Some(sight.unanswered.into())
    })?;
    each(&of::PEER_HANDSHAKE, |sight, _| {
        sight.last_handshake.map(|at| at.as_secs())
    })?;
    each(&of::PEER_STAGED, |sight, _| {
        Some(sight.cell.staged.load(Ordering::Relaxed))
    })?;
    each(&of::PEER_RX_BYTES, |sight, _| {
        Some(sight.cell.traffic.rx_bytes.load(Ordering::Relaxed))
    })?;
    each(&of::PEER_RX_PACKETS, |sight, _| {
        Some(sight.cell.traffic.rx_packets.load(Ordering::Relaxed))
    })?;
    each(&of::PEER_TX_BYTES, |sight, _| {
        Some(sight.cell.traffic.tx_bytes.load(Ordering::Relaxed))
    })?;
    each(&of::PEER_TX_PACKETS, |sight, _| {
        Some(sight.cell.traffic.tx_packets.load(Ordering::Relaxed))
    })?;
    dropped(survey, text)
}

fn tunnels(survey: &Survey, text: &mut Text<'_>) -> Result<(), Gone> {
    text.family(&of::TUNNEL_INFO);
    for tunnel in &survey.tunnels {
        let key = tunnel.public_key.as_deref().unwrap_or_default();
        text.sample(&of::TUNNEL_INFO, &[&tunnel.name, &tunnel.uplink, key], 1u64)?;
    }
    text.family(&of::TUNNEL_UPLINK);
    for tunnel in &survey.tunnels {
        for (uplink, peers) in &tunnel.uplinks {
            text.sample(&of::TUNNEL_UPLINK, &[&tunnel.name, uplink], *peers)?;
        }
    }
    text.family(&of::PEERS);
    for (tunnel, peers) in &survey.peers {
        for state in ["up", "calling", "silent", "unknown", "idle"] {
            let in_state = |(_, sight): &&(_, PeerSight)| standing(sight, survey.clock) == state;
            let count = peers.iter().filter(in_state).count();
            text.sample(&of::PEERS, &[tunnel.as_str(), state], count)?;
        }
        let all = survey.head.desired.peers(tunnel);
        let disabled = all.filter(|peer| !peer.enabled).count();
        text.sample(&of::PEERS, &[tunnel.as_str(), "disabled"], disabled)?;
    }
    Ok(())
}

/// A family of which each peer has one sample, or none.
fn each(
    survey: &Survey,
    chosen: &Chosen,
    text: &mut Text<'_>,
    family: &Family,
    value: fn(&PeerSight, Now) -> Option<u64>,
) -> Result<(), Gone> {
    text.family(family);
    for (tunnel, config, sight) in survey.peers() {
        if let Some(value) = value(sight, survey.clock) {
            let own = chosen.of_thing(|key| config.labels.get(key));
            text.labelled(family, &[tunnel, &config.name], own, value)?;
        }
    }
    Ok(())
}

fn dropped(survey: &Survey, text: &mut Text<'_>) -> Result<(), Gone> {
    let family = &of::DROPPED;
    text.family(family);
    let ports = survey.ports.iter().map(|it| ("port", &it.name, &it.drops));
    let uplinks = survey.head.uplinks.iter();
    let uplinks = uplinks.map(|it| ("uplink", &it.name, &it.drops));
    for (scope, name, drops) in ports.chain(uplinks) {
        for (reason, count) in drops {
            text.sample(family, &[scope, name, reason], *count)?;
        }
    }
    for (tunnel, config, sight) in survey.peers() {
        for (reason, count) in sight.cell.drops.iter() {
            let name = of_peer(tunnel, config);
            text.sample(family, &["peer", &name, reason.name()], count)?;
        }
    }
    Ok(())
}

fn of_peer(tunnel: &config::Name, peer: &config::Peer) -> String {
    format!("{tunnel}/{}", peer.name)
}
