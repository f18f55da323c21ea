//! What a running Culvert tells about itself: the items of the API's lists, and what `show` prints of them.
//!
//! In: the engine fills these in. Out: JSON, tables. Never: a private or preshared key.
//!
//! Counters count from the start of the process. Times are seconds; `unix` times count from 1970.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Diff;

/// What the process is, and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// This machine's name from the configuration.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The configuration's file.
    pub config: String,
    /// How often a configuration was applied, the first one included.
    pub generation: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// What is missing of the log.
    #[serde(default)]
    pub log: Log,
    /// The revision that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The change that waits for its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// What an operator has to know of the start or of the last rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// Everything: what `culvert show --json` prints. Its lists are in the order of names, and of numbers in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// This machine's name from the configuration.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The configuration's file.
    pub config: String,
    /// How often a configuration was applied, the first one included.
    pub generation: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// What is missing of the log.
    #[serde(default)]
    pub log: Log,
    /// The revision that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The change that waits for its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// What an operator has to know of the start or of the last rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Uplinks.
    pub uplinks: Vec<Uplink>,
    /// Tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Peers, tunnel by tunnel.
    pub peers: Vec<Peer>,
    /// Routes, table by table.
    pub routes: Vec<Route>,
    /// By place and address.
    pub neighbors: Vec<Neighbor>,
    /// The control core first, then the workers.
    pub cores: Vec<Core>,
    /// Every drop counter that is not zero.
    pub drops: Vec<Drop>,
}

/// Nothing is known of things yet.
impl From<Status> for State {
    fn from(status: Status) -> Self {
        Self {
            node: status.node,
            version: status.version,
            pid: status.pid,
            config: status.config,
            generation: status.generation,
            uptime_s: status.uptime_s,
            log: status.log,
            revision: status.revision,
            pending: status.pending,
            notice: status.notice,
            ..Self::default()
        }
    }
}

impl State {
    /// Whether it has no thing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
            && self.uplinks.is_empty()
            && self.tunnels.is_empty()
            && self.peers.is_empty()
            && self.routes.is_empty()
            && self.neighbors.is_empty()
            && self.cores.is_empty()
            && self.drops.is_empty()
    }

    /// Takes over another one's things.
    pub fn append(&mut self, mut other: Self) {
        self.ports.append(&mut other.ports);
        self.uplinks.append(&mut other.uplinks);
        self.tunnels.append(&mut other.tunnels);
        self.peers.append(&mut other.peers);
        self.routes.append(&mut other.routes);
        self.neighbors.append(&mut other.neighbors);
        self.cores.append(&mut other.cores);
        self.drops.append(&mut other.drops);
    }

    /// Puts all lists in order, and leaves each thing in once.
    pub fn sort(&mut self) {
        sort(&mut self.ports, |it| it.name.clone());
        sort(&mut self.uplinks, |it| it.name.clone());
        sort(&mut self.tunnels, |it| it.name.clone());
        sort(&mut self.peers, |it| format!("{}\n{}", it.tunnel, it.name));
        sort(&mut self.routes, |it| {
            format!("{}\n{}\n{}\n{}", it.table, it.to, it.source, it.next_hop)
        });
        sort(&mut self.neighbors, |it| {
            format!("{}\n{}", it.place, it.address)
        });
        sort(&mut self.cores, |it| it.name.clone());
        sort(&mut self.drops, |it| format!("{}\n{}", it.scope, it.reason));
    }
}

fn sort<T>(items: &mut Vec<T>, key: impl Fn(&T) -> String) {
    items.sort_by_cached_key(|it| natural(&key(it)));
    items.dedup_by(|one, other| key(one) == key(other));
}

/// A text that sorts as people count: `vm2` comes ahead of `vm10`.
fn natural(text: &str) -> String {
    let mut key = String::with_capacity(2 * text.len());
    let mut rest = text;
    while let Some(digit) = rest.find(|c: char| c.is_ascii_digit()) {
        let (ahead, number) = rest.split_at(digit);
        let end = number.find(|c: char| !c.is_ascii_digit());
        let (number, behind) = number.split_at(end.unwrap_or(number.len()));
        // A longer number is a larger one; the mark stands where digits do among other characters.
        let length = u32::try_from(number.len()).unwrap_or(u32::MAX);
        let mark = char::from_u32(u32::from('0').saturating_add(length.min(9)));
        key.extend([ahead, mark.unwrap_or('9').encode_utf8(&mut [0; 4]), number]);
        rest = behind;
    }
    key + rest
}

/// A change that waits for its confirmation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pending {
    /// The revision that runs, and may go.
    pub revision: u64,
    /// The one that comes back unless it is confirmed.
    pub previous: u64,
    /// Who applied it.
    pub user: String,
    /// Until then.
    pub seconds_left: u64,
    /// What takes it back when it goes down: `peer wg0/hv-b`, `port vm1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// It is confirmed by itself when all of these hold.
    #[serde(default)]
    pub auto: bool,
}

impl std::fmt::Display for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            revision,
            previous,
            user,
            seconds_left,
            ..
        } = self;
        write!(
            f,
            "revision {revision} (by {user}) waits for its confirmation, {seconds_left} s more: `culvert confirm \
             {revision}` keeps it, `culvert rollback` brings revision {previous} back"
        )
    }
}

/// A part of the state, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Ports and uplinks: link, traffic, drops
    Ports,
    /// Peers: endpoint, last handshake, traffic
    Peers,
    /// Routes of every network and uplink
    Routes,
    /// Neighbors of every network and uplink
    Neighbors,
    /// Cores: load, bursts, sleeps, what each serves
    Cores,
    /// Every drop counter that is not zero
    Drops,
}

impl Part {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Lines that the log has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Log {
    /// They could not be written: stderr's disk was full, its reader gone or too slow.
    pub lost: u64,
    /// One cause had too many.
    pub left_out: u64,
}

/// Packets and bytes one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Packets: at a port, frames as the guest sees them.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// One port. `rx` is what Culvert received from the guest, `tx` what it sent to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// `vhost-user`, `tun` or `tap`.
    pub driver: String,
    /// The socket's path or the interface's name.
    pub socket: String,
    /// Whether the guest's side is there.
    pub connected: bool,
    /// Whether packets can pass.
    pub link_up: bool,
    /// Whether it is switched off: it is not open.
    #[serde(default)]
    pub disabled: bool,
    /// Why they can't, or what else is wrong with the guest's side: `memory not shared`, `legacy driver`,
    /// `rings broken: …`, `another VMM waits`; `not open: …` of a port that could not be opened, which is tried again.
    #[serde(default)]
    pub hindrance: Option<String>,
    /// What was negotiated with the guest, by the names of the specification.
    pub features: Vec<String>,
    /// Queue pairs in use.
    pub queues: u16,
    /// Queue pairs offered.
    pub queues_max: u16,
    /// The guest's Ethernet address.
    pub mac: String,
    /// The MTU that the guest was offered, in bytes.
    pub mtu: u16,
    /// From the guest.
    pub rx: Traffic,
    /// To the guest.
    pub tx: Traffic,
    /// Lost packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// What others call it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

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
    /// Lost packets by reason.
    pub drops: BTreeMap<String, u64>,
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
    /// Addresses that are not used, and why.
    pub refused: Vec<String>,
}

/// A route that was learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LearnedRoute {
    /// The prefix.
    pub to: String,
    /// The router; without one, the prefix is on the link.
    pub via: Option<String>,
}

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
    /// `unanswered` (who is pinged behind it does not answer).
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
    /// Where it came from: `gateway`, `allowed-ips`, `config`, `layer`, `learned`.
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

/// One core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    /// `control`, or a worker's place in the configuration: `worker 0`.
    pub name: String,
    /// The CPU it is pinned to.
    pub cpu: Option<u16>,
    /// The share of the time with work, 0 to 1, over the last second or so.
    pub busy: f64,
    /// Bursts that held a packet.
    pub bursts: u64,
    /// Packets in them.
    pub packets: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
    /// What it serves: `vm1:0`, `wan0:1`.
    pub queues: Vec<String>,
    /// Of the control core its longest time without a look at what else is due, of a worker its longest turn, in
    /// microseconds, over the last second or so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_us: Option<u64>,
    /// Of the control core: the most of a processor's time that it had in one such time. Where it is much less, others
    /// had the processor in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_cpu_us: Option<u64>,
    /// Of the control core: how often that was longer than `1ms`, `10ms`, `100ms`, `1s`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub longer_than: BTreeMap<String, u64>,
}

/// One drop counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drop {
    /// Where: `port vm1`, `peer wg0/hv-b`, `uplink wan0`, `worker 0`.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// How many packets.
    pub packets: u64,
}

/// What `apply` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// The configuration's number from now on.
    pub generation: u64,
    /// What changed, one line each: `port vm2 added`. Empty: nothing did.
    pub changes: Vec<String>,
    /// What of it could not be done, one line each: an operator has to see to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// The rendered warnings about the file, if there are any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub warnings: String,
    /// The revision that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// It waits for its confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// What else there is to know, one line each: what `wg` had set and is gone; how far a rollback went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What would change, if nothing was to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<Diff>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_in_which_people_count() {
        let mut names = [
            "vm10", "vm2", "b", "vm1", "vm2a", "vm", "vm02", "a9z", "vm2",
        ];
        names.sort_by_key(|name| natural(name));
        let sorted = [
            "a9z", "b", "vm", "vm1", "vm2", "vm2", "vm2a", "vm02", "vm10",
        ];
        assert_eq!(names, sorted);
    }

    #[test]
    fn each_thing_is_there_once() {
        let port = |name: &str| Port {
            name: name.into(),
            ..Port::default()
        };
        let mut state = State {
            ports: ["b", "a", "b"].map(port).into(),
            ..State::default()
        };
        state.sort();
        let names: Vec<_> = state.ports.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
