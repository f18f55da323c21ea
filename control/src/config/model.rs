//! What a checked configuration says, as types.
//!
//! In: nothing; [`super::parse`] builds these. Out: the values that the snapshot compiler, the
//! ports and the uplinks are made from. Never: text, spans or anything still to be validated.
//!
//! Every reference by name (a port's network, a network's tunnel, a tunnel's uplink) is known to
//! resolve. References are names and not indices so that one item of two configurations can be
//! compared with `==`: `apply` decides by that what did not change.

mod api;
mod cores;
mod labels;
mod mac;
mod metrics;
mod name;
mod network;
mod port;
mod served;
mod tunnel;
mod uplink;

use std::path::PathBuf;

pub use self::{
    api::{Api, ApiSocket, ApiTls, Role},
    cores::{Cores, CpuId, Hugepages, Memory, Poll, WorkerCore, WorkerIndex},
    labels::Labels,
    mac::MacAddr,
    metrics::{Metrics, metrics_label},
    name::Name,
    network::{Dhcp, Network, NetworkRoute, NextHop, Ra},
    port::{
        Account, Attachment, Guard, Offloads, Port, PortDriver, SocketMode, SocketPath,
        VhostUserPort,
    },
    served::{Door, RESPONDER_PORTS, Served},
    tunnel::{Endpoint, Peer, Pmtu, Tunnel, Uapi},
    uplink::{
        Bfd, DpdkBus, DpdkDevice, DpdkUplink, Exception, UdpUplink, Uplink, UplinkDriver,
        UplinkNeighbor, UplinkRoute,
    },
};
pub(crate) use self::{
    served::OwnUdp,
    tunnel::{common_ends, is_same},
};
use super::places::Places;

/// A whole configuration file that holds no mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from (as given; used in messages and for SIGHUP).
    pub source: PathBuf,
    /// This machine's name in logs and in the API.
    pub node: Name,
    /// Threads and where they run.
    pub cores: Cores,
    /// What DPDK is given when it starts, and the bound of all MTUs.
    pub memory: Memory,
    /// What is told to those who measure.
    pub metrics: Metrics,
    /// Who may ask and change.
    pub api: Api,
    /// In the file's order.
    pub uplinks: Vec<Uplink>,
    /// In the file's order.
    pub tunnels: Vec<Tunnel>,
    /// In the file's order.
    pub networks: Vec<Network>,
    /// In the file's order.
    pub ports: Vec<Port>,
    /// Where things stand in these lists, which stay as they are from the first look-up on.
    pub places: Places,
}

impl Config {
    /// The uplink of that name.
    pub fn uplink(&self, name: &Name) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| &uplink.name == name)
    }

    /// Whether DPDK drives one of its uplinks.
    pub fn drives_devices(&self) -> bool {
        let drivers = self.uplinks.iter().map(|uplink| &uplink.driver);
        drivers
            .into_iter()
            .any(|driver| matches!(driver, UplinkDriver::Dpdk(_)))
    }

    /// The tunnel of that name.
    pub fn tunnel(&self, name: &Name) -> Option<&Tunnel> {
        self.tunnels.get(self.tunnel_place(name)?)
    }

    /// The network of that name.
    pub fn network(&self, name: &Name) -> Option<&Network> {
        self.networks.get(self.network_place(name)?)
    }

    /// The port of that name.
    pub fn port(&self, name: &Name) -> Option<&Port> {
        self.ports.get(self.port_place(name)?)
    }

    /// The network that uses a tunnel: at most one does.
    pub fn network_of_tunnel(&self, tunnel: &Name) -> Option<&Network> {
        self.networks.get(self.user_place(tunnel)?)
    }

    /// The uplink that a tunnel's packets leave by.
    ///
    /// # Panics
    ///
    /// If `tunnel` belongs to another configuration.
    pub fn uplink_of(&self, tunnel: &Tunnel) -> &Uplink {
        self.uplink(&tunnel.uplink)
            .expect("a checked tunnel names an uplink of its configuration")
    }

    /// The uplinks that a tunnel's packets may leave by, the first choice first.
    pub fn uplinks_of<'c>(&'c self, tunnel: &'c Tunnel) -> impl Iterator<Item = &'c Uplink> {
        tunnel.uplinks().filter_map(|name| self.uplink(name))
    }

    /// The networks that a port is part of.
    pub fn networks_of<'c>(&'c self, port: &'c Port) -> impl Iterator<Item = &'c Network> {
        port.networks().filter_map(|name| self.network(name))
    }

    /// Whether a port is the one of a network without a router.
    pub fn is_plain(&self, port: &Port) -> bool {
        self.networks_of(port).any(Network::is_plain)
    }
}
