//! DPDK: bindings to the system's libdpdk, and a small safe layer over them.
//!
//! *In*: devargs, buffer sizes, queue counts. *Out*: an [`Eal`], [`Device`]s that are plugged while the
//! process runs, their [`RxQueue`]s and [`TxQueue`]s, and [`Mbuf`]s in bursts. *Never*: a decision about a
//! packet, a protocol, a thread of its own, a line on standard output.
//!
//! Rust sees nothing of DPDK but `shim.h`, whose C side settles inline functions, macros, thread-locals and
//! the differences between releases (22.11 and later): no field of a DPDK struct is named here.
//!
//! Order of use: [`Eal::init`] once, [`Mempool::new`], [`Device::plug`], [`Device::start`]; on each worker
//! thread [`Registration::new`]; then bursts; at the end give the queues back and [`Device::close`].
//! DPDK takes memory when it starts, for pools and for devices, whatever other threads do; at no other time.

mod burst;
mod departures;
mod devargs;
mod device;
mod eal;
mod kernel;
mod log;
mod mbuf;
mod mempool;
mod queue;
mod thread;

#[allow(
    non_camel_case_types,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated from shim.h, whose comments document it"
)]
mod ffi {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use crate::{
    burst::{BURST, MbufBurst},
    device::{
        Capabilities, Device, DeviceConfig, DeviceError, Link, Multicast, Offloads, Started, Stats,
    },
    eal::{Eal, EalConfig, EalError, Errno, Hugepages, Memory, Pci, version},
    log::{LogLevel, LogSink},
    mbuf::{Mbuf, OuterIp, RawMbuf, RxChecksum},
    mempool::{Mempool, MempoolError},
    queue::{Room, RxQueue, TxQueue},
    thread::Registration,
};

/// Bytes ahead of the data in a fresh mbuf, where outer headers are written.
#[expect(clippy::cast_possible_truncation, reason = "checked beside it")]
pub const HEADROOM: u16 = {
    assert!(ffi::CULVERT_HEADROOM <= 0xffff);
    ffi::CULVERT_HEADROOM as u16
};
