//! The names that dashboards of WireGuard's exporters ask for (`prometheus_wireguard_exporter`).
//!
//! In: a survey. Out: three families, if the configuration wants them and the peers are not too many. Never: an
//! endpoint as a label: peers that roam would make series without end.
//!
//! `wireguard_latest_handshake_seconds` is a time since 1970 there, and 0 stands for never, whatever its HELP says.

use std::sync::atomic::Ordering;

use super::families::{self as of, Family};
use super::text::{Gone, Text};
use crate::report::{Survey, look::PeerSight};

pub(super) fn write(survey: &Survey, text: &mut Text<'_>) -> Result<(), Gone> {
    let wanted = &survey.head.desired.file().metrics;
    if !wanted.wireguard_exporter {
        return Ok(());
    }
    let peers = survey.peers().count();
    let too_many = peers > wanted.wireguard_exporter_peers as usize;
    text.single(&of::EXPORTER_LEFT_OUT, if too_many { peers } else { 0 })?;
    if too_many {
        return Ok(());
    }
    each(survey, text, &of::WG_SENT, |sight| {
        sight.cell.traffic.tx_bytes.load(Ordering::Relaxed)
    })?;
    each(survey, text, &of::WG_RECEIVED, |sight| {
        sight.cell.traffic.rx_bytes.load(Ordering::Relaxed)
    })?;
    each(survey, text, &of::WG_HANDSHAKE, |sight| {
        sight.last_handshake.map_or(0, |at| at.as_secs())
    })
}

fn each(
    survey: &Survey,
    text: &mut Text<'_>,
    family: &Family,
    value: impl Fn(&PeerSight) -> u64,
) -> Result<(), Gone> {
    text.family(family);
    for (tunnel, config, sight) in survey.peers() {
        let prefixes: Vec<_> = config.allowed_ips.iter().map(ToString::to_string).collect();
        let labels = [
            tunnel.as_str(),
            &config.public_key.to_base64(),
            &prefixes.join(","),
            config.name.as_str(),
        ];
        text.sample(family, &labels, value(sight))?;
    }
    Ok(())
}
