//! What is told of tunnels: peers, and ways to them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Traffic;

/// One tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Its uplink, or the first choice of several.
    pub uplink: String,
    /// By which of its uplinks how many of its peers are reached.
    #[serde(default)]
    pub uplinks: BTreeMap<String, usize>,
    /// In base64, if it has an identity.
    pub public_key: Option<String>,
    /// Its UDP port.
    pub listen_port: u16,
    /// The mark on its packets; 0 is none.
    pub fwmark: u32,
    /// The largest inner packet, in bytes.
    pub mtu: u16,
    /// How many peers it has, without those that are disabled.
    pub peers: usize,
    /// The socket by which `wg` finds it, if it has one.
    pub uapi: Option<String>,
    /// Why it has none though it is to have one, which is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uapi_hindrance: Option<String>,
    /// What `wg` changed against the file, peers apart.
    pub drift: Vec<String>,
}

/// The name that a peer's endpoint has in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointName {
    /// With its port.
    pub name: String,
    /// `found`, `asked`: nobody has answered yet; `failed`: it was not found, what was found before still counts.
    pub state: String,
    /// What it stands for, in the order in which they are tried.
    pub addresses: Vec<IpAddr>,
    /// Why it was not found.
    pub error: Option<String>,
    /// When it is asked for again.
    pub asked_in_s: Option<u64>,
}

/// An ICMP error about a datagram to a peer. Nothing follows from it but that a path's MTU is looked at: anybody can send
/// one who knows or guesses whom to name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerError {
    /// `unreachable`, `port-unreachable`, `prohibited`, `too-big`, `time-exceeded`, `parameter-problem`.
    pub what: String,
    /// The longest packet that is said to pass, of `too-big`.
    pub mtu: Option<u32>,
    /// Who said so.
    pub from: Option<IpAddr>,
    /// Seconds since then.
    pub age_s: u64,
}

/// One peer of one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// The tunnel's name.
    pub tunnel: String,
    /// The peer's name.
    pub name: String,
    /// In base64.
    pub public_key: String,
    /// Whether a preshared key is set.
    pub preshared_key: bool,
    /// Where it was heard last, or where the configuration says.
    pub endpoint: Option<SocketAddr>,
    /// The uplink that it is reached by.
    #[serde(default)]
    pub uplink: Option<String>,
    /// The name that it has in the configuration.
    #[serde(default)]
    pub endpoint_name: Option<EndpointName>,
    /// Its prefixes.
    pub allowed_ips: Vec<String>,
    /// When the last handshake was complete, in seconds since 1970.
    pub last_handshake_unix: Option<u64>,
    /// Seconds since then.
    pub last_handshake_age_s: Option<u64>,
    /// `none`, `handshake`, `current`, `expired`: whether there is a key to seal with.
    pub keypair: String,
    /// `up`: there is a session. `calling`: handshakes are sent. `silent`: they are not answered, for half a minute or
    /// more. `unknown`: nobody knows where it is, it has to call. `disabled`: it is switched off. `idle`: none of these.
    #[serde(default)]
    pub state: String,
    /// Handshakes without an answer since it was heard last.
    #[serde(default)]
    pub unanswered: u32,
    /// Seconds between keepalives.
    pub persistent_keepalive_s: Option<u16>,
    /// Sealed bytes and packets from it.
    pub rx: Traffic,
    /// Sealed bytes and packets to it.
    pub tx: Traffic,
    /// The longest IP packet that its path lets through whole, in bytes, as far as that is known.
    #[serde(default)]
    pub path_mtu: Option<u16>,
    /// How: `configured`, `found` by probes, or why not: `off`, `idle` (nothing was sent to it yet), `searching`,
    /// `unanswered` (who is pinged behind it does not answer); `link`: what its uplink has learned of the link is less.
    #[serde(default)]
    pub path_mtu_known: String,
    /// IPv4 packets that were sent to it in fragments: they may be cut, and exceed what fits.
    #[serde(default)]
    pub fragmented: u64,
    /// The last ICMP error about a datagram to it.
    #[serde(default)]
    pub last_error: Option<PeerError>,
    /// Packets that wait for a key.
    pub staged: u64,
    /// Lost packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// What `wg` changed against the file: its keys, or `not in the file`.
    #[serde(default)]
    pub drift: Vec<String>,
    /// What others call it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One route of a network or of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// `network blue` or `uplink wan0`: which table.
    pub table: String,
    /// The prefix.
    pub to: String,
    /// In words: `peer hv-b (wg0)`, `via 10.1.1.20`, `on-link`, `unreachable`.
    pub next_hop: String,
    /// Of equal prefixes of an uplink the least counts. What is on the link by an address has none: it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// Where it came from: `gateway`, `allowed-ips`, `config`, `layer`, `learned`, `kernel` (`routes_from`).
    pub source: String,
}

/// Where a packet would go from a network, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Way {
    /// Where it is for.
    pub to: IpAddr,
    /// The port that it comes from, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The network that it is in.
    pub network: String,
    /// `peer`, `port`, `gateway`, `unreachable` (and the sender is told), `dropped`.
    pub verdict: String,
    /// The same in words.
    pub next_hop: String,
    /// The prefix that leads there, and where it is from; or why it goes nowhere.
    pub because: String,
    /// The port that it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The tunnel that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// The peer that it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Where the peer is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The uplink that it leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The outer source, where it is not the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The Ethernet address of the next hop, where it is not the kernel's business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbor: Option<String>,
    /// The largest packet that fits the tunnel, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What hinders it at present.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            to: IpAddr::from([0; 4]),
            from: None,
            network: String::new(),
            verdict: String::new(),
            next_hop: String::new(),
            because: String::new(),
            port: None,
            tunnel: None,
            peer: None,
            endpoint: None,
            uplink: None,
            source: None,
            neighbor: None,
            mtu: None,
            notes: Vec::new(),
        }
    }
}
