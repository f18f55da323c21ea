//! The exception path: the host's kernel beside Culvert on an uplink that DPDK has.
//!
//! In: which uplinks the kernel shares, frames that workers have for it, frames that it sends. Out: interfaces with the
//! uplinks' addresses, the same frames at the other ends. Never: a wait for the core or a worker, nor theirs for this
//! thread; the host stacks' time; a frame of the kernel's that speaks as us.
//!
//! ```text
//!            ┌─── what is shared (one store) ───▶┐                   ┌──────┐
//!  control   │                                   │ exception path's  │ TAP, │ SSH, BGP,
//!  core      │     each worker ─ frames, 1 MiB ─▶│ thread       ◀───▶│ with │ OSPF, LLDP
//!            └                 ◀─ frames, 1 MiB ─│                   │ NIC's│
//!                 host stacks' thread ── fragments, errors, pings ──▶│ MAC  │
//!                                                                    └──────┘
//! ```
//!
//! A frame costs this thread a system call, in which the kernel does what it does with it: no worker pays for that, and
//! what floods the path takes this thread's time alone, and no more of it than the workers' rates let through.
//!
//! The interface goes with the process that made it, however that ends.
//!
//! Rooms: [`tap`] the interface, [`server`] the thread, [`routes`] what the kernel's tables say.

mod core_end;
mod routes;
mod server;
mod tap;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use culvert_dataplane::{
    guest::tun::Tun,
    shared::{ids::UplinkIndex, wake::Wake},
    uplink::UplinkCounters,
};
use culvert_stack::Drops;
use culvert_wire::{MacAddr, ports::OwnPorts};

pub(crate) use self::{
    core_end::Exceptions,
    routes::{Followed, Learned},
    tap::{Presence, Setting, Tap},
};

/// What the kernel shares of an uplink.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Its interface.
    pub(crate) tun: Arc<Tun>,
    /// What is not the kernel's.
    pub(crate) ports: Arc<OwnPorts>,
}

/// An uplink that the kernel shares.
pub(crate) struct Way {
    /// Where its frames come from and go to.
    pub(crate) tun: Arc<Tun>,
    /// The device's.
    pub(crate) mac: MacAddr,
    /// Ours and the kernel's.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ours alone.
    pub(crate) ports: Arc<OwnPorts>,
    /// What of the kernel's frames may not leave.
    pub(crate) drops: Arc<Drops>,
    /// What is lost on its way to the kernel.
    pub(crate) counters: Arc<UplinkCounters>,
    /// Which worker sends for it.
    pub(crate) worker: usize,
    /// The longest IP packet.
    pub(crate) mtu: u16,
    /// Senders on this machine may leave sums to the device.
    pub(crate) is_partial: bool,
}

/// What both ends hold.
struct Shared {
    /// Wakes the thread.
    wake: Arc<Wake>,
    ways: ArcSwap<BTreeMap<UplinkIndex, Arc<Way>>>,
    ends: AtomicBool,
}
