//! A DPDK device that takes everything, and a processor to drive it from.
//!
//! In: a number. Out: the device, its queue, the way behind it. Never: a packet on a wire.

use culvert_dataplane::{
    shared::hop::Hop,
    uplink::{
        Queue,
        dpdk::{self, DpdkUplink, sys},
    },
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this thread on a processor.
pub(crate) fn pin(processor: usize) {
    let mut processors = CpuSet::new();
    processors.set(processor);
    sched_setaffinity(None, &processors).expect("two processors");
}

/// EAL, from a thread that stays on `processor`.
pub(crate) fn eal(processor: usize) -> sys::Eal {
    pin(processor);
    let eal = sys::Eal::init(sys::EalConfig {
        memory_mb: 128,
        ..sys::EalConfig::default()
    })
    .expect("EAL");
    pin(processor);
    eal
}

/// The device `net_null` of this number, which must be open as long as its queue is used.
pub(crate) fn open(eal: sys::Eal, number: usize) -> (DpdkUplink, Queue, Hop) {
    let (device, mut queues) = dpdk::open(
        eal,
        &dpdk::Config {
            members: &[],
            uplink: super::UPLINK,
            device: &format!("net_null{number},no-rx=1"),
            addresses: &[super::ADDRESS.into()],
            mtu: 1500,
            workers: 1,
            queues: 1,
            descriptors: [None, None],
        },
    )
    .expect("net_null");
    let hop = Hop::ethernet(super::UPLINK, device.mac(), Some(super::GATEWAY));
    (device, queues.remove(0), hop)
}
