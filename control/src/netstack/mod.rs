//! The host stacks' thread: ARP, ND, ping and TCP of the uplinks whose link layer is ours, and what guests ask their
//! gateways.
//!
//! In: what stacks there are to be, what guests are told, questions of the control core, frames that workers punted, ICMP
//! errors that the kernel hears, the time. Out: news of neighbors and errors about what we sent to the core, frames to workers, what readers ask for. Never: a wait for the core or a worker, nor theirs for
//! this thread; a worker's or the core's time: whatever floods the stacks, it is this thread's budget that it takes.
//!
//! ```text
//!              ┌──── what is to be (one store) ───▶┐
//!  control     │──── questions, 1024 wait ────────▶│ stacks'  ◀── punts, by class ──┐
//!  core        │◀─── news of neighbors, 1024 wait ─│ thread   ─── frames, 1024 ────▶│ each worker
//!              │◀─── errors, 256 wait ─────────────│
//!              └◀─── how far it has come ──────────┘
//! ```
//!
//! What stacks there are to be, and what guests are told, is a value that is replaced as a whole, as workers' snapshots are: no order of that kind
//! can be lost, however far the thread is behind; the same goes for what stacks learn of themselves, the other way. A question that finds no room is counted, and asked again while
//! somebody waits for the answer. News that find no room stay with their stack, and are told later.

mod core_end;
mod datagrams;
mod guests;
mod names;
mod server;
mod services;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use arc_swap::ArcSwap;
use culvert_dataplane::{
    shared::{
        ids::{AttachmentIndex, Scope},
        wake::Wake,
    },
    uplink::UplinkCounters,
};
use culvert_stack::{Drops, Heard, Held, HostConfig, Learns, Routes, Standing, Unusable, bfd};
use culvert_wire::MacAddr;

use self::guests::Guests;
#[cfg(test)]
pub(crate) use self::server::Server;
pub(crate) use self::{
    core_end::NetStack,
    guests::{Guest, Told},
    names::{Answer, Asker, Question},
    services::Services,
};
use crate::{api::Reply, config::Name, exception::Kernel, report::look::NeighborSight};

/// A stack that there is to be.
pub(crate) struct Host {
    /// Which one its scope has had: another number is another stack, that knows no neighbor yet.
    pub(crate) birth: u64,
    /// The uplink's.
    pub(crate) name: Name,
    pub(crate) config: HostConfig,
    /// What it learns of itself.
    pub(crate) learns: Learns,
    /// A lease that it had before.
    pub(crate) held: Option<Held>,
    /// What is not to be lent, because it can't be used.
    pub(crate) unusable: Option<Unusable>,
    /// What that says, for whoever asks for a way.
    pub(crate) routes: Routes,
    /// The host's kernel, if it shares the uplink.
    pub(crate) kernel: Option<Kernel>,
    /// The neighbor whose life is watched, and who looks at that.
    pub(crate) bfd: Option<(bfd::Config, Arc<bfd::Watch>)>,
    /// What it serves by itself.
    pub(crate) services: Services,
    /// Servers that names are asked of.
    pub(crate) nameservers: Vec<IpAddr>,
    /// What the stack loses.
    pub(crate) drops: Arc<Drops>,
    /// What its frames lose on their way out.
    pub(crate) counters: Arc<UplinkCounters>,
}

/// All of them.
#[derive(Default)]
struct Hosts {
    generation: u64,
    stacks: BTreeMap<Scope, Arc<Host>>,
    guests: Guests,
}

/// A question.
enum Order {
    /// Where is this next hop? The answer is a piece of news.
    Ask(Scope, IpAddr),
    /// No question: nothing is sent to this next hop any more.
    LetGo(Scope, IpAddr),
    /// No question: the link of this scope has come up.
    LinkUp(Scope),
    /// Is this next hop still there? Only if it is not there is a piece of news.
    Verify(Scope, IpAddr),
    /// Which neighbors are known?
    Neighbors(Reply<Vec<NeighborSight>>),
    /// No question: have these guests hear their routers.
    Advertise(Vec<AttachmentIndex>),
    /// Where is a host of this name, as the scope's servers say?
    LookUp(Scope, Question),
}

/// What a stack has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) scope: Scope,
    /// Of the stack that tells it.
    pub(crate) birth: u64,
    pub(crate) learned: Learned,
}

/// Of whom, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// Where a neighbor is now.
    Neighbor {
        address: IpAddr,
        /// `None`: nobody knows.
        mac: Option<MacAddr>,
    },
    /// How an own address stands now.
    Own { address: IpAddr, standing: Standing },
}

/// An error about a datagram, and the scope that it was heard in; `None`: the kernel heard it.
type HeardIn = (Option<Scope>, Heard);

/// What stacks have learned of themselves, each by its number: replaced as a whole, as what is to be.
pub(crate) type Taught = BTreeMap<Scope, (u64, Arc<culvert_stack::Learned>)>;

/// What both ends hold.
struct Shared {
    /// Wakes the thread.
    wake: Arc<Wake>,
    hosts: ArcSwap<Hosts>,
    /// What stacks have learned of themselves.
    taught: ArcSwap<Taught>,
    /// The generation of hosts by which the thread goes, once nothing of those before it is on its way to a worker.
    adopted: AtomicU64,
    ends: AtomicBool,
}
