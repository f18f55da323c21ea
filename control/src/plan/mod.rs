//! The plan: what changes from the desired state of now to another, object by object.
//!
//! In: the desired state in its layers, and a whole file or the edits of `wg`. Out: typed changes, each with its
//! object, old → new and impact, in words, too. Never: a socket, a device, a clock: the engine carries plans out.
//!
//! Rooms: [`api`] what was laid over a file for single objects, [`claims`] what of it belongs to one port, [`diff`] what differs, to be read, [`layers`] what is desired and by whom, `overlay` what of it `wg` set, [`proposal`] a file with the way to it,
//! [`words`] changes as text.

pub mod api;
pub mod claims;
pub mod diff;
pub mod layers;
mod overlay;
pub mod proposal;
pub mod words;

use std::sync::Arc;

use culvert_dataplane::uplink::udp;
use ipnet::IpNet;

use crate::config::{
    Api, Cores, DpdkUplink, Memory, Metrics, Name, Network, NetworkRoute, Peer, Port, PortDriver,
    Tunnel, Uplink, UplinkDriver,
};

pub use api::Laid;
pub use diff::Diff;
pub use layers::Layers;
pub use proposal::Proposal;

/// Something that comes, changes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<T> {
    /// It comes.
    Add(T),
    /// It changes.
    Change {
        /// From this.
        old: T,
        /// To this.
        new: T,
    },
    /// It goes.
    Remove(T),
}

impl<T> Edit<T> {
    /// From `old` to `new`; `None` if that is no change.
    pub fn between(old: Option<T>, new: Option<T>) -> Option<Self>
    where
        T: PartialEq,
    {
        match (old, new) {
            (Some(old), Some(new)) if old == new => None,
            (Some(old), Some(new)) => Some(Self::Change { old, new }),
            (None, Some(new)) => Some(Self::Add(new)),
            (Some(old), None) => Some(Self::Remove(old)),
            (None, None) => None,
        }
    }

    /// What it was.
    pub fn before(&self) -> Option<&T> {
        match self {
            Self::Add(_) => None,
            Self::Change { old, .. } | Self::Remove(old) => Some(old),
        }
    }

    /// What it becomes.
    pub fn after(&self) -> Option<&T> {
        match self {
            Self::Add(new) | Self::Change { new, .. } => Some(new),
            Self::Remove(_) => None,
        }
    }

    /// The same where only some things are there, and others are none.
    pub fn among(&self, is_there: impl Fn(&T) -> bool) -> Option<Edit<&T>> {
        let [old, new] = [self.before(), self.after()].map(|it| it.filter(|it| is_there(it)));
        match (old, new) {
            (Some(old), Some(new)) => Some(Edit::Change { old, new }),
            (None, new) => new.map(Edit::Add),
            (old, None) => old.map(Edit::Remove),
        }
    }

    /// What it becomes, or was.
    pub fn any(&self) -> &T {
        match self {
            Self::Add(it) | Self::Change { new: it, .. } | Self::Remove(it) => it,
        }
    }
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a plan has few of them")]
pub enum Change {
    /// The process's threads.
    Cores {
        /// As they run.
        old: Cores,
        /// As they are wanted.
        new: Cores,
    },
    /// The process's memory.
    Memory {
        /// As it is.
        old: Memory,
        /// As it is wanted.
        new: Memory,
        /// DPDK has taken it.
        is_taken: bool,
    },
    /// What is told to those who measure.
    Metrics {
        /// As it was.
        old: Metrics,
        /// As it is wanted.
        new: Metrics,
    },
    /// Who may ask and change.
    Api {
        /// As it is.
        old: Box<Api>,
        /// As it is wanted.
        new: Box<Api>,
    },
    /// An uplink.
    Uplink(Edit<Uplink>),
    /// A tunnel, without its peers. Those of a tunnel that goes go with it.
    Tunnel(Edit<Tunnel>),
    /// A peer of a tunnel.
    Peer(PeerChange),
    /// A network, with its routes.
    Network(Edit<Network>),
    /// A route of a network that stays.
    Route {
        /// The network.
        network: Name,
        /// What changes of it.
        edit: Edit<NetworkRoute>,
    },
    /// A port.
    Port {
        /// What changes of it.
        edit: Edit<Port>,
        /// It is opened anew, whatever changes: it is down.
        anew: bool,
    },
}

/// A change of a peer: its identity is its tunnel and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// Its tunnel.
    pub tunnel: Name,
    /// Old and new have one key.
    pub edit: Edit<Arc<Peer>>,
    /// The endpoint that it becomes (or that it has none) counts from now on, wherever the peer was heard since.
    pub moves: bool,
}

/// What a change costs those whom it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    /// Nothing: packets go on.
    None,
    /// Sessions end; those that stay begin anew.
    DropsSession,
    /// The port's socket or interface is made anew: its guest has no link for a moment.
    ReopensPort,
    /// The port's socket or interface goes.
    ClosesPort,
    /// The uplink is opened anew: no packet passes meanwhile.
    RestartsUplink,
    /// It is fixed while the process runs.
    NeedsRestart,
}

impl Change {
    /// Of an uplink.
    pub fn uplink(&self) -> Option<&Edit<Uplink>> {
        if let Self::Uplink(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// Of a tunnel itself.
    pub fn tunnel(&self) -> Option<&Edit<Tunnel>> {
        if let Self::Tunnel(edit) = self {
            Some(edit)
        } else {
            None
        }
    }

    /// Of a peer.
    pub fn peer(&self) -> Option<&PeerChange> {
        if let Self::Peer(change) = self {
            Some(change)
        } else {
            None
        }
    }

    /// Of a port.
    pub fn port(&self) -> Option<&Edit<Port>> {
        if let Self::Port { edit, .. } = self {
            Some(edit)
        } else {
            None
        }
    }

    /// Whether it is about what others call a thing, and no packet knows of it.
    pub fn is_of_labels(&self) -> bool {
        match (self, self.peer().map(|change| &change.edit)) {
            (
                Self::Port {
                    edit: Edit::Change { old, new },
                    anew: false,
                },
                _,
            ) => {
                let labels = new.labels.clone();
                let old = old.clone();
                Port { labels, ..old } == *new
            }
            (_, Some(Edit::Change { old, new })) => {
                let labels = new.labels.clone();
                let old = Peer::clone(old);
                Peer { labels, ..old } == **new
            }
            _ => false,
        }
    }

    /// What it costs.
    pub fn impact(&self) -> Impact {
        match self {
            Self::Cores { .. } => Impact::NeedsRestart,
            Self::Memory { old, new, is_taken } => match *is_taken || old.mtu_max != new.mtu_max {
                true => Impact::NeedsRestart,
                // It is read when DPDK starts.
                false => Impact::None,
            },
            Self::Uplink(Edit::Change { old, new }) if restarts(old, new) => Impact::RestartsUplink,
            Self::Uplink(_) => Impact::None,
            Self::Tunnel(edit) => tunnel_impact(edit),
            Self::Peer(change) => match change.edit.among(|peer| peer.enabled) {
                Some(Edit::Remove(_)) => Impact::DropsSession,
                Some(Edit::Add(_) | Edit::Change { .. }) | None => Impact::None,
            },
            Self::Network(_) | Self::Route { .. } | Self::Metrics { .. } | Self::Api { .. } => {
                Impact::None
            }
            Self::Port { edit, anew } => port_impact(edit, *anew),
        }
    }
}

fn tunnel_impact(edit: &Edit<Tunnel>) -> Impact {
    match edit {
        Edit::Add(_) => Impact::None,
        Edit::Remove(_) => Impact::DropsSession,
        Edit::Change { old, new } if old.private_key != new.private_key => Impact::DropsSession,
        Edit::Change { .. } => Impact::None,
    }
}

/// Whether a change of an uplink opens it anew. Sockets stay as long as they are bound to the same addresses; a device
/// is set up once, and its buffers are as long as its MTU is.
pub fn restarts(old: &Uplink, new: &Uplink) -> bool {
    let addresses = |uplink: &Uplink| -> Vec<_> {
        let addresses = uplink.addresses.iter();
        addresses.map(IpNet::addr).collect()
    };
    let (before, after) = (addresses(old), addresses(new));
    match (&old.driver, &new.driver) {
        _ if !old.enabled && !new.enabled => false,
        _ if old.enabled != new.enabled => true,
        (UplinkDriver::Udp(one), UplinkDriver::Udp(two)) => {
            one.device != two.device || udp::binds(&before) != udp::binds(&after)
        }
        (UplinkDriver::Dpdk(one), UplinkDriver::Dpdk(two)) => {
            let queues =
                |uplink: &Uplink| (uplink.mtu, uplink.queues, uplink.queue_workers.clone());
            let opened = |it: &DpdkUplink| {
                let devices: Vec<_> = it.devices().cloned().collect();
                (devices, it.rx_descriptors, it.tx_descriptors)
            };
            opened(one) != opened(two) || queues(old) != queues(new) || old.has_v6() != new.has_v6()
        }
        (UplinkDriver::Udp(_), UplinkDriver::Dpdk(_))
        | (UplinkDriver::Dpdk(_), UplinkDriver::Udp(_)) => true,
    }
}

fn port_impact(edit: &Edit<Port>, anew: bool) -> Impact {
    match edit.among(|port| port.enabled) {
        Some(Edit::Remove(_)) => Impact::ClosesPort,
        Some(Edit::Change { old, new }) if anew || reopens(old, new) => Impact::ReopensPort,
        Some(Edit::Add(_) | Edit::Change { .. }) | None => Impact::None,
    }
}

/// Whether a change of a port opens it anew. An interface is kept where that can be: with it would go what the host
/// has put on it.
fn reopens(old: &Port, new: &Port) -> bool {
    let stays =
        old.driver == new.driver && old.queues == new.queues && old.offloads == new.offloads;
    let is_vhost = matches!(new.driver, PortDriver::VhostUser(_));
    !stays || (is_vhost && (old.mac != new.mac || old.mtu != new.mtu))
}

#[cfg(test)]
mod tests;
