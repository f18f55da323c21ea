//! Threads and memory: what the process is given once.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what workers and DPDK are started with. Never: a file's text.

/// Threads and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The CPU of the control core; unpinned without one.
    pub control: Option<CpuId>,
    /// One entry per worker, at least one.
    pub workers: Vec<WorkerCore>,
    /// What a worker does when it has nothing to do.
    pub poll: Poll,
}

/// One worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerCore {
    /// The CPU it is pinned to; the scheduler's choice without one.
    pub cpu: Option<CpuId>,
}

/// A CPU as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

/// A worker by its place in `cores.workers`, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(pub u16);

/// What a worker does when its queues are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Sleep after an idle spell until a kick, a device's interrupt or a short timer.
    #[default]
    Adaptive,
    /// Never sleep: the core belongs to the worker.
    Busy,
}

/// What DPDK is given when it starts, and the bound of all MTUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether DPDK takes its memory from hugepages.
    pub hugepages: Hugepages,
    /// Memory for packet buffers and DPDK, in MiB.
    pub megabytes: u32,
    /// The largest MTU that any uplink or port may be given while the process runs, if the file bounds it.
    pub mtu_max: Option<u16>,
}

/// Where DPDK's memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages if the machine has enough free ones, else ordinary pages.
    #[default]
    Auto,
    /// Hugepages or no start.
    Required,
    /// Ordinary pages.
    Off,
}
