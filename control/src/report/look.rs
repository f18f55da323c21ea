//! What the control core is asked for by those who read.
//!
//! In: names and keys, at most a page of them. Out: counters that are shared, and what only the core knows. Never: work
//! that grows with the peers.
//!
//! A page takes a fraction of a millisecond of the core; between two of them it does what else is due.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use culvert_dataplane::{
    shared::{ids::TunnelIndex, leaves::Leaves, peer::Peer as Cell, snapshot::Snapshot},
    worker::WorkerStats,
};
use culvert_stack::NeighborInfo;

use crate::{
    api::Reply,
    config::{CpuId, Name},
    engine::{LastError, PathMtu},
    exception::Learned,
    keys::PublicKey,
    plan::Layers,
    state::{Port, Tunnel, Uplink},
};

/// Peers of a page.
pub const PEERS: usize = 128;
/// Tunnels of a page.
pub const TUNNELS: usize = 64;
/// Ports of a page: each has its rings' counters summed.
pub const PORTS: usize = 32;

/// What is asked for by its name or key, each with what is told of it, if it is there. It is the asker's memory, which the
/// core fills in and gives back: so the core takes and frees none for it, and waits for nobody who tidies up his.
pub type Asked<K, T> = Vec<(K, Option<T>)>;

/// Lost packets by reason.
pub type Lost = BTreeMap<String, u64>;

/// One look at what the core has.
#[derive(Debug)]
pub enum Look {
    /// What is desired, and what is few.
    Head(Reply<Box<Head>>),
    /// Ports.
    Ports(Asked<Name, Port>, Reply<Asked<Name, Port>>),
    /// What ports have lost.
    Losses(Asked<Name, Lost>, Reply<Asked<Name, Lost>>),
    /// Tunnels, without their drift.
    Tunnels(Asked<Name, Tunnel>, Reply<Asked<Name, Tunnel>>),
    /// Peers of one tunnel.
    Peers(
        Name,
        Asked<PublicKey, PeerSight>,
        Reply<Asked<PublicKey, PeerSight>>,
    ),
    /// All peers' counters, and whose tunnels are which.
    Cells(Reply<Cells>),
    /// What workers go by.
    Snapshot(Reply<Arc<Snapshot>>),
    /// What stacks know of their neighbors: each has a bounded table.
    Neighbors(Reply<Vec<NeighborSight>>),
}

/// The counters of all peers that are there.
#[derive(Debug)]
pub struct Cells {
    /// By their places.
    pub peers: Leaves<Arc<Cell>>,
    /// The names of their tunnels.
    pub tunnels: Vec<(TunnelIndex, Name)>,
}

/// By uplinks' names.
#[derive(Debug, Default)]
pub struct OfKernel(pub(crate) Vec<(Name, Arc<Learned>)>);

/// What every reader begins with.
#[derive(Debug)]
pub struct Head {
    /// What is desired.
    pub desired: Layers,
    /// No file rules it.
    pub is_lone: bool,
    /// The snapshot's number.
    pub generation: u64,
    /// When it started, since 1970.
    pub started: Duration,
    /// Since the start.
    pub uptime: Duration,
    /// All uplinks.
    pub uplinks: Vec<Uplink>,
    /// What uplinks have of the kernel's tables.
    pub of_kernel: OfKernel,
    /// Ports that are not open.
    pub down: Vec<Name>,
    /// Tunnels whose UDP port is not open.
    pub deaf: Vec<Name>,
    /// The control core's own load.
    pub core: CoreLoad,
    /// The workers'.
    pub workers: Vec<WorkerSight>,
}

/// How busy the control core is.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreLoad {
    /// The share of the time in which it worked, over the last second or so.
    pub busy: f64,
    /// How long it has worked since the start.
    pub worked: Duration,
    /// How often it slept.
    pub sleeps: u64,
    /// The longest time without a look at what else is due, over the last second or so.
    pub longest: Duration,
    /// The most of a processor's time that one such time took.
    pub heaviest: Duration,
    /// How often it went longer than 1, 10, 100 and 1,000 ms without one.
    pub long: [u64; 4],
}

/// A worker.
#[derive(Debug)]
pub struct WorkerSight {
    /// Where it runs.
    pub cpu: Option<CpuId>,
    /// The share of the time in which it worked.
    pub busy: f64,
    /// Its longest turn up to the last reading, about a second ago at most.
    pub longest: Duration,
    /// Its counters.
    pub stats: Arc<WorkerStats>,
}

/// What changes by itself of a peer.
#[derive(Debug)]
pub struct PeerSight {
    /// Its counters and its key.
    pub cell: Arc<Cell>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The uplink that it is reached by.
    pub uplink: Option<Name>,
    /// Since 1970.
    pub last_handshake: Option<Duration>,
    /// Calls without an answer.
    pub unanswered: u32,
    /// They are so many that it is given up for now.
    pub is_silent: bool,
    /// What its path lets through.
    pub path: PathMtu,
    /// What was said last about datagrams to it.
    pub last_error: Option<LastError>,
    /// What its name stands for, if the configuration has one.
    pub name: Option<NameSight>,
}

/// A name that an endpoint has.
#[derive(Debug)]
pub struct NameSight {
    /// What it was found to stand for.
    pub addresses: Vec<IpAddr>,
    /// Why it was not found the last time.
    pub error: Option<String>,
    /// When it is asked for next; nothing while it is.
    pub asked_in: Option<Duration>,
}

/// A neighbor of an uplink.
#[derive(Debug)]
pub struct NeighborSight {
    /// The uplink.
    pub uplink: Name,
    /// What its stack knows.
    pub known: NeighborInfo,
}
