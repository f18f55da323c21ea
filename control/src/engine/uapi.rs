//! What `wg` asks: a tunnel's state, and changes to it.
//!
//! In: requests that the server read. Out: answers; changed configurations, carried out as those of a file are.
//! Never: a way of its own to change a tunnel.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_dataplane::shared::limits::PEERS;
use culvert_wireguard::Now;
use ipnet::IpNet;

use super::{Engine, apply::Goal, peers::PeerState, tunnels::TunnelState};
pub(super) use crate::uapi::doors::Names;
use crate::{
    config::{self, Name, OwnUdp, Tunnel, Uapi, UplinkDriver},
    events::Event,
    keys::PublicKey,
    plan::{self, Edit},
    uapi::{
        Answer, Ask, Change, Device, Errno, Peer,
        carry::{self, Standing},
        doors::{Told, wg_name},
    },
};

/// How long the sockets of a changed file may take before their failures are news only.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same at the start.
const OPENED: Duration = Duration::from_secs(10);
/// Peers that are told of at once, and places that are looked at for them: a fraction of a millisecond. What is told is
/// shared: a vector for each peer, freed by another thread, would be memory of the core's heap in ever so many pieces.
const TOLD_PEERS: usize = 128;
const TOLD_PLACES: usize = 4_096;

impl Engine {
    /// Answers a request of `wg`'s protocol.
    pub(super) fn ask(&mut self, tunnel: &Name, ask: Ask, now: Now) -> Answer {
        match ask {
            Ask::Get(from) => match self.tell(tunnel, from) {
                Some((device, rest)) => Answer::Device(Box::new(device), rest),
                None => Answer::Refused(Errno::NODEV),
            },
            Ask::Set(changes) => match self.set(tunnel, &changes, now) {
                Ok(()) => Answer::Done,
                Err(errno) => Answer::Refused(errno),
            },
        }
    }

    /// A tunnel with those of its peers that have one of the next places, and where the rest begins.
    pub(super) fn tell(&self, name: &Name, from: usize) -> Option<(Device, Option<usize>)> {
        let slot = self.tunnel_slot(name)?;
        let tunnel = self.tunnels.get(slot)?;
        let places = self.peers.places();
        let mut peers = Vec::new();
        let mut rest = from;
        while rest < places.min(from + TOLD_PLACES) && peers.len() < TOLD_PEERS {
            let peer = self.peers.get(rest).filter(|peer| peer.tunnel == slot);
            peers.extend(peer.and_then(|peer| tell_peer(tunnel, peer)));
            rest += 1;
        }
        let device = Device {
            private_key: tunnel.config.private_key.clone(),
            listen_port: tunnel.config.listen_port,
            fwmark: tunnel.config.fwmark,
            peers,
        };
        Some((device, (rest < places).then_some(rest)))
    }

    /// Carries changes out. If a port can't be had, those before it are carried out.
    fn set(&mut self, name: &Name, changes: &[Change], now: Now) -> Result<(), Errno> {
        let tunnel = self
            .tunnel_slot(name)
            .and_then(|slot| self.tunnels.get(slot));
        let tunnel = tunnel.ok_or(Errno::NODEV)?;
        let plan = carry::carry_out(
            changes,
            &Present {
                engine: self,
                tunnel,
            },
        );
        self.check_limits(&plan)?;
        let mut heads = plan.iter().filter_map(|change| change.tunnel()?.after());
        let wanted = heads.next().unwrap_or(&tunnel.config);
        let (port, fwmark) = (wanted.listen_port, wanted.fwmark);
        match self.carry_out(plan, Goal::Wg, now) {
            Ok(applied) => {
                if let Some(first) = applied.changes.first().filter(|_| !self.lone) {
                    Event::Drift {
                        tunnel: name.clone(),
                        changes: applied.changes.len(),
                        first: first.clone(),
                    }
                    .tell();
                }
                for change in applied.changes {
                    tracing::debug!("by wg: {change}");
                }
                for failure in &applied.failures {
                    tracing::warn!(tunnel = %name, "wg's change is carried out, and this failed: {failure}");
                }
                if applied.failures.is_empty() {
                    Ok(())
                } else {
                    Err(Errno::BUSY)
                }
            }
            Err(error) => {
                tracing::warn!(tunnel = %name, %error, "wg's change is refused");
                // Before others of these changes take what is looked at.
                let why = self.why(name, port, fwmark);
                let port = |change: &Change| matches!(change, Change::ListenPort(_));
                if let Some(before) = changes.iter().position(port)
                    && before > 0
                {
                    self.set(name, &changes[..before], now)?;
                }
                Err(why)
            }
        }
    }

    /// Why a tunnel can't be as it was asked to be: what the kernel says to its port and its mark.
    fn why(&self, name: &Name, port: u16, fwmark: u32) -> Errno {
        let slot = self.tunnel_slot(name);
        let tunnel = slot.and_then(|slot| self.tunnels.get(slot));
        let Some(tunnel) = tunnel else {
            return Errno::NODEV;
        };
        // A port that it has already would be found taken, by itself.
        let own = tunnel.config.listen_port;
        let port = if port == own { 0 } else { port };
        let uplink = self.uplinks.get(tunnel.uplink);
        let refusal = uplink.and_then(|uplink| uplink.refuses(port, fwmark));
        let number = refusal.and_then(|refusal| refusal.errno());
        number
            .and_then(|number| u16::try_from(number).ok())
            .map_or(Errno::AGAIN, Errno)
    }

    /// What no kernel would refuse, and we can't have.
    fn check_limits(&self, plan: &[plan::Change]) -> Result<(), Errno> {
        let mut peers = self.peers.len();
        for edit in plan
            .iter()
            .filter_map(plan::Change::peer)
            .map(|change| &change.edit)
        {
            match edit {
                Edit::Add(_) => peers += 1,
                Edit::Remove(_) => peers = peers.saturating_sub(1),
                Edit::Change { .. } => {}
            }
        }
        for new in plan.iter().filter_map(|change| change.tunnel()?.after()) {
            let uplinks = new.uplinks().filter_map(|name| self.uplinks.named(name));
            let devices = uplinks.map(|uplink| &uplink.config);
            let devices = devices.filter(|it| matches!(it.driver, UplinkDriver::Dpdk(_)));
            for device in devices {
                let tunnels = self.tunnels.iter().map(|(_, tunnel)| &tunnel.config);
                check_on_device((&device.name, device.own_udp()), new, tunnels)?;
            }
        }
        if peers > PEERS {
            Err(Errno::NOMEM)
        } else {
            Ok(())
        }
    }

    /// Has `wg` find the tunnels under the names of the configuration; answers what failed of those that must be
    /// found. They are tried again, and what becomes of them is news.
    pub(super) fn serve_wg(&mut self) -> Vec<String> {
        let tunnels = self.tunnels.iter().map(|(_, tunnel)| tunnel);
        let names: Names = tunnels
            .filter_map(|tunnel| Some((tunnel.name.clone(), wg_name(&tunnel.config)?.clone())))
            .collect();
        if names == self.wg_names && !self.tunnels.iter().any(|(_, tunnel)| tunnel.lacks_wg()) {
            return Vec::new();
        }
        for (_, tunnel) in self.tunnels.iter_mut() {
            let wanted = wg_name(&tunnel.config);
            if tunnel.served.as_ref().map(|(name, _)| name) != wanted {
                tunnel.served = None;
            }
            if wanted.is_none() {
                tunnel.unserved = None;
            }
        }
        self.wg_names.clone_from(&names);
        self.doors.order(names);
        // Before the first round there is nothing that it holds up.
        self.doors
            .wait(if self.rounds == 0 { OPENED } else { PATIENCE });
        self.take_wg_news();
        let tunnels = self.tunnels.iter();
        tunnels
            .filter_map(|(_, tunnel)| tunnel.wg_failure())
            .collect()
    }

    /// What has become of the sockets that `wg` finds tunnels by.
    pub(super) fn take_wg_news(&mut self) {
        for Told {
            tunnel,
            name,
            found,
        } in self.doors.news()
        {
            let slot = self.tunnel_slot(&tunnel);
            let tunnel = slot.and_then(|slot| self.tunnels.get_mut(slot));
            if let Some(tunnel) = tunnel.filter(|tunnel| wg_name(&tunnel.config) == Some(&name)) {
                tunnel.heard_of_wg(name, found);
            }
        }
    }
}

fn tell_peer(tunnel: &TunnelState, peer: &PeerState) -> Option<Peer> {
    let status = tunnel.device.peer(peer.cell.id)?;
    let traffic = &peer.cell.traffic;
    Some(Peer {
        config: Arc::clone(&peer.config),
        endpoint: status.endpoint,
        last_handshake: status.last_handshake,
        tx_bytes: traffic.tx_bytes.load(Ordering::Relaxed),
        rx_bytes: traffic.rx_bytes.load(Ordering::Relaxed),
    })
}

impl TunnelState {
    /// Whether `wg` is to find it and does not.
    fn lacks_wg(&self) -> bool {
        self.served.is_none() && wg_name(&self.config).is_some()
    }

    /// That `wg` must find it and does not.
    fn wg_failure(&self) -> Option<String> {
        let must = matches!(self.config.uapi, Uapi::Name(_));
        let why = self.unserved.as_deref();
        let why = why.unwrap_or("the system takes long to make its socket");
        let name = &self.name;
        (must && self.lacks_wg())
            .then(|| format!("tunnel {name}: `wg` can't be served, which is tried again: {why}"))
    }

    /// Says once that `wg` can't be served.
    fn heard_of_wg(&mut self, name: Name, found: Result<PathBuf, String>) {
        let error = match found {
            Ok(path) => {
                self.served = Some((name, path));
                self.unserved = None;
                return;
            }
            Err(error) => error,
        };
        self.served = None;
        let told = self.unserved.replace(error.clone());
        if told.as_ref() == Some(&error) {
            return;
        }
        if matches!(self.config.uapi, Uapi::Name(_)) {
            tracing::error!(tunnel = %self.name, error, "`wg` can't be served");
        } else {
            tracing::info!(tunnel = %self.name, error, "`wg` can't be served");
        }
    }
}

/// A tunnel, as a `set` finds it.
struct Present<'e> {
    engine: &'e Engine,
    tunnel: &'e TunnelState,
}

impl Present<'_> {
    fn at(&self, place: usize) -> Option<&Arc<config::Peer>> {
        Some(&self.engine.peers.get(place)?.config)
    }
}

impl Standing for Present<'_> {
    fn head(&self) -> &Tunnel {
        &self.tunnel.config
    }

    fn own_key(&self) -> Option<PublicKey> {
        self.tunnel.device.public_key()
    }

    fn peer(&self, key: &PublicKey) -> Option<Arc<config::Peer>> {
        self.at(self.tunnel.place(key)?).cloned()
    }

    fn keys(&self) -> Vec<PublicKey> {
        let peers = self.engine.desired.peers(&self.tunnel.name);
        peers.map(|peer| peer.public_key).collect()
    }

    fn owner(&self, net: &IpNet) -> Option<PublicKey> {
        Some(self.at(self.tunnel.owner(net)?)?.public_key)
    }

    fn is_named(&self, name: &Name) -> bool {
        self.tunnel.named(name).is_some()
    }

    fn former_name(&self, key: &PublicKey) -> Option<Name> {
        let desired = &self.engine.desired;
        desired.former_name(&self.tunnel.name, key).cloned()
    }
}

/// What the kernel would refuse, of a tunnel that leaves by DPDK, whose packets it doesn't see.
fn check_on_device<'t>(
    (device, own): (&Name, OwnUdp),
    new: &Tunnel,
    mut tunnels: impl Iterator<Item = &'t Tunnel>,
) -> Result<(), Errno> {
    if new.fwmark != 0 && new.backups.is_empty() {
        return Err(Errno::INVAL);
    }
    let has_it = |other: &Tunnel| {
        let is_there = other.uplinks().any(|uplink| uplink == device);
        other.name != new.name && is_there && other.listen_port == new.listen_port
    };
    let is_own = own.key_of(new.listen_port).is_some();
    if new.listen_port != 0 && (is_own || tunnels.any(has_it)) {
        return Err(Errno::ADDRINUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
