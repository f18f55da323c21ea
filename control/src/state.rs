//! What a running Culvert tells about itself: the items of the API's lists, and what `show` prints of them.
//!
//! In: the engine fills these in. Out: JSON, tables. Never: a private or preshared key.
//!
//! Counters count from the start of the process. Times are seconds; `unix` times count from 1970.

mod tunnels;
mod uplinks;

use std::collections::BTreeMap;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    tunnels::{EndpointName, Peer, PeerError, Route, Tunnel, Way},
    uplinks::{AddressConflict, Learned, LearnedRoute, NameServer, Neighbor, Nic, Uplink},
};
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
    /// Uplinks: link, traffic, drops, what they have learned: lease, servers of names, MTU
    Uplinks,
    /// Tunnels: uplinks, port, peers, public key
    Tunnels,
    /// Tunnels and peers: endpoint, last handshake, traffic
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
    /// Its network; of a port with VLANs that of frames without a tag, if there is one.
    pub network: String,
    /// The networks that it joins by VLANs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<PortVlan>,
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

/// A VLAN of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortVlan {
    /// Its number.
    pub vlan: u16,
    /// The network that the port joins by it.
    pub network: String,
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
