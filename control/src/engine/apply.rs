//! Changes: from the running configuration to a new one.
//!
//! In: a checked configuration. Out: the new state of things, or an error and no change
//! at all. Never: a session interrupted that the change does not concern.
//!
//! 1. What is fixed while the process runs is compared; a difference needs a restart.
//! 2. What can fail (sockets, ports) is opened beside the old things.
//! 3. Nothing fails from here on: peers and tunnels are changed, a snapshot is
//!    published, workers adopt it at their next burst.
//! 4. When all workers have, the old things are closed.

mod ports;
mod tunnels;

use std::{sync::Arc, time::Duration};

use culvert_dataplane::{
    shared::{
        control_link::Command,
        ids::{PeerIndex, TunnelIndex, UplinkIndex},
        limits::PEER_PLACES,
    },
    uplink::UplinkQueue,
};
use culvert_wireguard::Now;

use super::{Engine, ports::PortState, uplinks::UplinkState};
use crate::{
    api::ApplyError,
    config::{self, Config, Name},
    state::Applied,
    uapi::carry::Nuances,
};

/// How long workers may take to adopt a snapshot: they do at their next burst.
const ADOPTION: Duration = Duration::from_secs(1);

/// Ports that are tried when any will do.
const PORT_TRIES: usize = 20;

/// What was opened before anything was changed.
#[derive(Default)]
struct Prepared {
    /// Ports by their name.
    ports: Vec<PortState>,
    /// Ports whose socket an old port still has: they open when that one is closed.
    late: Vec<config::Port>,
    /// Sockets of new tunnels, and of tunnels that move to another port.
    tunnels: Vec<(Name, Sockets)>,
}

/// A tunnel's port: on a UDP uplink bound.
struct Sockets {
    port: u16,
    queues: Vec<UplinkQueue>,
}

/// How a change is meant.
pub(super) enum Manner {
    /// A file says it.
    File,
    /// `wg` asked it of one tunnel: only what it says is done. New peers are not called, and where they were heard
    /// last doesn't count.
    Wg {
        /// That tunnel. Another may have a peer with the same key.
        tunnel: Name,
        /// What its configuration can't say.
        nuances: Nuances,
    },
}

impl Manner {
    /// What `wg` says of a tunnel besides its configuration.
    fn of(&self, tunnel: &Name) -> Option<&Nuances> {
        match self {
            Self::Wg {
                tunnel: of,
                nuances,
            } if of == tunnel => Some(nuances),
            Self::Wg { .. } | Self::File => None,
        }
    }

    /// Whether the configuration says it all.
    fn is_plain(&self) -> bool {
        match self {
            Self::File => true,
            Self::Wg { nuances, .. } => *nuances == Nuances::default(),
        }
    }
}

impl Engine {
    /// Applies a configuration, logs what changed.
    pub(super) fn apply(&mut self, config: Config, now: Now) -> Result<Applied, ApplyError> {
        let ruled = config.clone();
        let applied = self.change(config, &Manner::File, now)?;
        self.ruled = Some(ruled);
        crate::api::log_applied(&applied);
        Ok(applied)
    }

    /// Steps 1 to 4.
    pub(super) fn change(
        &mut self,
        mut config: Config,
        manner: &Manner,
        now: Now,
    ) -> Result<Applied, ApplyError> {
        let fixed = self.fixed_differences(&config);
        if !fixed.is_empty() {
            return Err(ApplyError::NeedsRestart(fixed));
        }
        let same = Config {
            source: self.config.source.clone(),
            ..config.clone()
        } == self.config;
        let whole = self.ports.iter().all(|(_, port)| !port.is_gone());
        if same && whole && manner.is_plain() && self.generation > 0 {
            return Ok(Applied {
                generation: self.generation,
                changes: Vec::new(),
            });
        }
        let prepared = self.prepare(&config).map_err(ApplyError::Failed)?;
        let mut changes = Vec::new();
        for (name, sockets) in &prepared.tunnels {
            // From here on the configuration has the number that was chosen.
            let tunnel = config.tunnels.iter_mut().find(|t| &t.name == name);
            if let Some(tunnel) = tunnel {
                tunnel.listen_port = sockets.port;
            }
        }
        self.change_tunnels(&config, prepared.tunnels, manner, now, &mut changes);
        let moved = self.moves(&config);
        let closing = self.change_ports(&config, prepared.ports, &prepared.late, &mut changes);
        self.note_other_changes(&config, &mut changes);
        self.config = config;
        self.publish();
        for command in moved {
            self.workers.send(0, command);
        }
        drop(closing);
        self.serve_wg();
        if !prepared.late.is_empty() {
            self.open_late(prepared.late, &mut changes);
            self.publish();
        }
        Ok(Applied {
            generation: self.generation,
            changes,
        })
    }

    /// Step 1: what differs and can't be changed while the process runs.
    fn fixed_differences(&self, new: &Config) -> Vec<String> {
        let old = &self.config;
        let mut differences = Vec::new();
        let mut fixed = |differs: bool, what: String| {
            if differs {
                differences.push(what);
            }
        };
        fixed(old.cores != new.cores, "`cores` changed".into());
        fixed(old.memory != new.memory, "`memory` changed".into());
        for uplink in &new.uplinks {
            match self
                .uplinks
                .iter()
                .find(|(_, u)| u.config.name == uplink.name)
            {
                None => fixed(true, format!("uplink {} is new", uplink.name)),
                Some((_, old)) => {
                    fixed(
                        old.config != *uplink,
                        format!("uplink {} changed", uplink.name),
                    );
                }
            }
        }
        for (_, uplink) in self.uplinks.iter() {
            let name = &uplink.config.name;
            fixed(new.uplink(name).is_none(), format!("uplink {name} is gone"));
        }
        for tunnel in &new.tunnels {
            if let Some((_, old)) = self.tunnels.iter().find(|(_, t)| t.name == tunnel.name) {
                fixed(
                    old.config.uplink != tunnel.uplink,
                    format!("tunnel {} moves to another uplink", tunnel.name),
                );
            }
        }
        differences
    }

    /// Step 2.
    fn prepare(&self, new: &Config) -> Result<Prepared, String> {
        let peers: usize = new.tunnels.iter().map(|tunnel| tunnel.peers.len()).sum();
        if self.peers.iter().count() + self.leaving.len() + peers > PEER_PLACES {
            return Err(
                "the peers of an earlier change are leaving still: try again in a second".into(),
            );
        }
        let mut prepared = Prepared::default();
        let mut next_tunnel = self.tunnels.next();
        for tunnel in &new.tunnels {
            let old = self.tunnels.iter().find(|(_, t)| t.name == tunnel.name);
            let slot = match old {
                Some((_, old)) if old.config.listen_port == tunnel.listen_port => continue,
                Some((slot, _)) => slot,
                None => next_tunnel,
            };
            if old.is_none() {
                next_tunnel = self.tunnels.places().max(next_tunnel + 1);
            }
            let (index, uplink) = self
                .uplinks
                .iter()
                .find(|(_, uplink)| uplink.config.name == tunnel.uplink)
                .ok_or_else(|| format!("tunnel {}: no uplink {}", tunnel.name, tunnel.uplink))?;
            let open = |port| -> Result<Sockets, String> {
                let queues = uplink.open_tunnel(
                    UplinkIndex::from_slot(index),
                    TunnelIndex::from_slot(slot),
                    port,
                    tunnel.fwmark,
                    self.workers.count(),
                );
                let queues = queues.map_err(|error| format!("tunnel {}: {error}", tunnel.name))?;
                Ok(Sockets { port, queues })
            };
            let sockets = match tunnel.listen_port {
                0 => self.choose_port(index, uplink, open)?,
                port => open(port)?,
            };
            prepared.tunnels.push((tunnel.name.clone(), sockets));
        }
        self.check_wg_names(new)?;
        for port in &new.ports {
            match self.ports.iter().find(|(_, p)| p.config.name == port.name) {
                Some((_, old)) if !old.needs_reopening(port) => {}
                _ if self.ports.iter().any(|(_, p)| p.occupies(port)) => {
                    prepared.late.push(port.clone());
                }
                _ => {
                    let network = new.network_of(port);
                    let opened = self.open_port(port.clone(), network)?;
                    prepared.ports.push(opened);
                }
            }
        }
        Ok(prepared)
    }

    /// Opens a port that is free. Somebody may take it between the look and the bind: then another.
    fn choose_port(
        &self,
        index: usize,
        uplink: &UplinkState,
        open: impl Fn(u16) -> Result<Sockets, String>,
    ) -> Result<Sockets, String> {
        let mut refused = String::new();
        for _ in 0..PORT_TRIES {
            let port = uplink.free_port()?;
            let mut own = self.tunnels.iter().filter(|(_, t)| t.uplink == index);
            if own.any(|(_, tunnel)| tunnel.config.listen_port == port) {
                continue;
            }
            match open(port) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn note_other_changes(&self, new: &Config, changes: &mut Vec<String>) {
        for network in &new.networks {
            match self.config.network(&network.name) {
                None => changes.push(format!("network {} added", network.name)),
                Some(old) if old != network => {
                    changes.push(format!("network {} changed", network.name));
                }
                Some(_) => {}
            }
        }
        for network in &self.config.networks {
            if new.network(&network.name).is_none() {
                changes.push(format!("network {} removed", network.name));
            }
        }
    }

    /// Lets new peers have the numbers of removed ones. No worker can stage a frame for
    /// them any more, and none is left when this command is done: a frame for one peer
    /// is never sent to another that got its number.
    fn release_peers(&mut self) {
        for (place, uplink) in std::mem::take(&mut self.leaving) {
            if self.tell_all(|| Command::ForgetStaged(PeerIndex::from_slot(place), uplink)) {
                self.peers.vacate(place);
            } else {
                self.leaving.push((place, uplink));
            }
        }
    }

    /// Publishes a snapshot and waits until all workers go by it, so that what only
    /// older ones knew can be closed.
    pub(super) fn publish(&mut self) {
        self.generation += 1;
        let old = self.snapshots.swap(Arc::new(self.compile(self.generation)));
        self.workers.wake_all();
        if self.workers.await_generation(self.generation, ADOPTION) {
            self.release_peers();
        } else {
            tracing::warn!("a worker is slow to adopt the new configuration");
        }
        self.retired.push(old);
        self.retired
            .retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}
