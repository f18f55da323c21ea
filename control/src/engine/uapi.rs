//! What `wg` asks: a tunnel's state, and changes to it.
//!
//! In: requests that the server read. Out: answers; changed configurations, carried out as those of a file are.
//! Never: a way of its own to change a tunnel.

use std::sync::atomic::Ordering;

use culvert_dataplane::shared::limits::PEERS;
use culvert_wireguard::Now;

use super::{Engine, apply::Manner, tunnels::TunnelState};
use crate::{
    config::{Config, Name, Tunnel, Uapi, UplinkDriver},
    uapi::{self, Answer, Ask, Change, Device, Errno, Peer, carry::carry_out, server},
};

impl Engine {
    /// Answers a request of `wg`'s protocol.
    pub(super) fn ask(&mut self, tunnel: &Name, ask: Ask, now: Now) -> Answer {
        if self.config.tunnel(tunnel).is_none() {
            return Answer::Refused(Errno::NODEV);
        }
        match ask {
            Ask::Get => match self.tell(tunnel) {
                Some(device) => Answer::Device(Box::new(device)),
                None => Answer::Refused(Errno::NODEV),
            },
            Ask::Set(changes) => match self.set(tunnel, &changes, now) {
                Ok(()) => Answer::Done,
                Err(errno) => Answer::Refused(errno),
            },
        }
    }

    fn tell(&self, name: &Name) -> Option<Device> {
        let config = self.config.tunnel(name)?;
        let tunnel = self.tunnels.get(self.tunnel_slot(name)?)?;
        Some(Device {
            private_key: config.private_key.clone(),
            listen_port: config.listen_port,
            fwmark: config.fwmark,
            peers: config
                .peers
                .iter()
                .filter_map(|peer| self.tell_peer(tunnel, peer))
                .collect(),
        })
    }

    fn tell_peer(&self, tunnel: &TunnelState, config: &crate::config::Peer) -> Option<Peer> {
        let id = tunnel.device.find(&config.public_key)?;
        let cell = &self.peers.get(*tunnel.peers.get(&id)?)?.cell;
        let status = tunnel.device.peer(id)?;
        Some(Peer {
            public_key: config.public_key,
            preshared_key: config.preshared_key.clone(),
            endpoint: status.endpoint,
            last_handshake: status.last_handshake,
            tx_bytes: cell.traffic.tx_bytes.load(Ordering::Relaxed),
            rx_bytes: cell.traffic.rx_bytes.load(Ordering::Relaxed),
            persistent_keepalive: config.persistent_keepalive.unwrap_or(0),
            allowed_ips: config.allowed_ips.clone(),
        })
    }

    /// Carries changes out. If a port can't be had, those before it are carried out.
    fn set(&mut self, name: &Name, changes: &[Change], now: Now) -> Result<(), Errno> {
        let mut config = self.config.clone();
        let Some(tunnel) = config.tunnels.iter_mut().find(|t| &t.name == name) else {
            return Err(Errno::NODEV);
        };
        let ruled = self.ruled.as_ref().and_then(|ruled| ruled.tunnel(name));
        let nuances = carry_out(changes, tunnel, |key| {
            let known = ruled?.peers.iter().find(|peer| &peer.public_key == key)?;
            Some(known.name.clone())
        });
        let (port, fwmark) = (tunnel.listen_port, tunnel.fwmark);
        check_limits(&config, name)?;
        if config.tunnels.iter().map(|t| t.peers.len()).sum::<usize>() > PEERS {
            return Err(Errno::NOMEM);
        }
        let manner = Manner::Wg {
            tunnel: name.clone(),
            nuances,
        };
        match self.change(config, &manner, now) {
            Ok(applied) => {
                for change in applied.changes {
                    tracing::debug!("by wg: {change}");
                }
                Ok(())
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

    /// Whether the names that must be had can be.
    pub(super) fn check_wg_names(&self, new: &Config) -> Result<(), String> {
        for tunnel in &new.tunnels {
            let Uapi::Name(name) = &tunnel.uapi else {
                continue;
            };
            let mut served = self.tunnels.iter().filter_map(|(_, t)| t.served.as_ref());
            if !served.any(|(own, _)| own == name) {
                server::probe(name.as_str())
                    .map_err(|error| format!("tunnel {}: {error}", tunnel.name))?;
            }
        }
        Ok(())
    }

    /// Opens and closes sockets, so that `wg` finds the tunnels under the names of the configuration.
    pub(super) fn serve_wg(&mut self) {
        for (_, tunnel) in self.tunnels.iter_mut() {
            let wanted = wg_name(&tunnel.config);
            if tunnel.served.as_ref().map(|(name, _)| name) != wanted {
                tunnel.served = None;
            }
        }
        for (_, tunnel) in self.tunnels.iter_mut() {
            let Some(name) = wg_name(&tunnel.config).cloned() else {
                continue;
            };
            if tunnel.served.is_some() {
                continue;
            }
            let tunnel_name = tunnel.name.clone();
            let served = server::directory()
                .and_then(|directory| server::open(&directory, name.as_str()))
                .map_err(|error| error.to_string())
                .and_then(|socket| {
                    let served = self.server.serve(socket, tunnel_name);
                    served.map_err(|error| error.to_string())
                });
            match (served, &tunnel.config.uapi) {
                (Ok(served), _) => tunnel.served = Some((name, served)),
                (Err(error), Uapi::Auto) => {
                    tracing::info!(tunnel = %tunnel.name, error, "`wg` can't be served");
                }
                (Err(error), _) => {
                    tracing::error!(tunnel = %tunnel.name, error, "`wg` can't be served");
                }
            }
        }
    }
}

/// What the kernel would refuse, of a tunnel that leaves by DPDK, whose packets it doesn't see.
fn check_limits(config: &Config, name: &Name) -> Result<(), Errno> {
    let tunnel = config.tunnel(name).ok_or(Errno::NODEV)?;
    let uplink = config.uplink(&tunnel.uplink);
    if !matches!(
        uplink.map(|uplink| &uplink.driver),
        Some(UplinkDriver::Dpdk(_))
    ) {
        return Ok(());
    }
    if tunnel.fwmark != 0 {
        return Err(Errno::INVAL);
    }
    let has_it = |other: &Tunnel| {
        other.name != tunnel.name
            && other.uplink == tunnel.uplink
            && other.listen_port == tunnel.listen_port
    };
    if tunnel.listen_port != 0 && config.tunnels.iter().any(has_it) {
        return Err(Errno::ADDRINUSE);
    }
    Ok(())
}

/// The name under which `wg` shall find a tunnel.
fn wg_name(tunnel: &Tunnel) -> Option<&Name> {
    match &tunnel.uapi {
        Uapi::Off => None,
        Uapi::Name(name) => Some(name),
        Uapi::Auto => Some(&tunnel.name).filter(|name| uapi::is_name(name.as_str())),
    }
}

#[cfg(test)]
mod tests;
