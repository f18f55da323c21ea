//! What is told of uplinks and of who is next to one.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Traffic;

/// One uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// `dpdk` or `udp`.
    pub driver: String,
    /// The device, if it has one.
    pub device: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Whether it is switched off: it is not open.
    #[serde(default)]
    pub disabled: bool,
    /// The state of its BFD session, if it has one: `up`, `init`, `down`, `admin-down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// Mbit/s, if the device tells.
    pub speed_mbps: Option<u64>,
    /// Its addresses with their prefix lengths, learned ones behind the configured.
    pub addresses: Vec<String>,
    /// Those of them that another host has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<AddressConflict>,
    /// Servers that names of its peers are asked of, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<NameServer>,
    /// What it has learned of itself, if it is to learn anything.
    #[serde(default)]
    pub learned: Option<Learned>,
    /// In bytes.
    pub mtu: u16,
    /// RX and TX queues.
    pub queues: u16,
    /// The interface by which the host's kernel shares it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
    /// How many routes the kernel's tables have for it, if they are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes_learned: Option<usize>,
    /// How many they have beyond what is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes_refused: Option<usize>,
    /// From the wire.
    pub rx: Traffic,
    /// To the wire.
    pub tx: Traffic,
    /// Datagrams that were cut before they left, to fit their paths (dpdk; a kernel counts its own).
    #[serde(default)]
    pub fragmented: u64,
    /// The NIC that DPDK drives for it, while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<Nic>,
    /// Lost packets by reason.
    pub drops: BTreeMap<String, u64>,
}

/// What a NIC is, and has lost by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nic {
    /// DPDK's driver.
    pub driver: String,
    /// The NUMA node that it is at, if that is known.
    pub numa_node: Option<u32>,
    /// RX queues in use.
    pub rx_queues: usize,
    /// TX queues in use.
    pub tx_queues: usize,
    /// RX queues that it has at most.
    pub max_rx_queues: u16,
    /// TX queues that it has at most.
    pub max_tx_queues: u16,
    /// The longest IP packet that it can be configured for.
    pub max_mtu: u16,
    /// Whether it spreads flows over its RX queues by a hash (RSS).
    pub rss: bool,
    /// Sums that are left to it: `rx-ipv4`, `rx-udp`, `tx-udp`.
    pub offloads: Vec<String>,
    /// Sums that could be.
    pub capabilities: Vec<String>,
    /// Packets that each RX queue has received.
    pub received: Vec<u64>,
    /// Packets that it lost because nobody took them in time.
    pub missed: u64,
    /// Packets that it received in error.
    pub rx_errors: u64,
    /// Packets that it could not send.
    pub tx_errors: u64,
    /// Times when it had no buffer to receive into.
    pub no_buffer: u64,
}

/// An own address that another host has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AddressConflict {
    /// The address.
    pub address: String,
    /// Where the other is.
    pub mac: String,
    /// Whether it is used here all the same: it was, before the other came.
    pub used: bool,
}

/// A server of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// Who says so: `config`, `dhcp` or `ra`.
    pub source: String,
}

/// What an uplink has learned of itself, by DHCP and of routers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Learned {
    /// Addresses in use, with their prefix lengths.
    pub addresses: Vec<String>,
    /// Routes in use.
    pub routes: Vec<LearnedRoute>,
    /// Servers of names.
    pub dns: Vec<String>,
    /// The domain of names without one.
    pub domain: Option<String>,
    /// The longest packet that the link takes, if that was said: it counts if it is less than the uplink's `mtu`.
    pub mtu: Option<u16>,
    /// The DHCP server that lends the IPv4 address.
    pub server: Option<String>,
    /// In how many seconds that ends, unless it is lent again.
    pub expires_in: Option<u64>,
    /// Addresses that are not used, and what they overlap. A lease's was given back.
    pub refused: Vec<String>,
    /// Routes that are not used, and what they overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_refused: Vec<String>,
    /// Routes that the host's kernel is not given (`exception`), and what they overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_kept_from_kernel: Vec<String>,
}

/// A route that was learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LearnedRoute {
    /// The prefix.
    pub to: String,
    /// The router; without one, the prefix is on the link.
    pub via: Option<String>,
    /// Of equal prefixes the least counts.
    #[serde(default)]
    pub metric: u32,
}

/// One neighbor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Neighbor {
    /// `network blue` or `uplink wan0`.
    pub place: String,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, once known.
    pub mac: Option<String>,
    /// `reachable`, `stale`, `probing`, `incomplete`, `static`.
    pub state: String,
    /// Seconds since it was confirmed.
    pub age_s: Option<u64>,
    /// The port behind which it lies.
    pub port: Option<String>,
}
