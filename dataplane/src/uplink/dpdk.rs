//! The DPDK uplink: a device of any poll-mode driver, one pair of queues per worker.
//!
//! In: frames from the device; sealed datagrams with their paths; the host stack's
//! frames. Out: datagrams with their tunnel, punts to the host stack, frames on the
//! wire. Never: a copy of a datagram, a system call of our own, a neighbor look-up:
//! a path knows its next hop or its datagrams are dropped by name.
//!
//! Buffers come from two pools, so that a flood inbound can't stop the way out. A
//! room is an mbuf of the TX pool with the pool's whole headroom ahead; the headers
//! are written there, in front of the datagram, when it is committed.
//!
//! Threads: `open` and `DpdkUplink` are the control core's; the queues go to workers.
//! With fewer TX queues than workers, workers share them under a lock taken once per
//! burst; with fewer RX queues, some workers have none.

#![allow(
    unsafe_code,
    reason = "a named room: datagrams and rooms are views of mbufs"
)]

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

pub use culvert_dpdk_sys as sys;
use culvert_dpdk_sys::{
    Device, DeviceConfig, DeviceError, Eal, Link, Mempool, MempoolError, Offloads, Stats, TxQueue,
};
use culvert_wire::MacAddr;

use super::Queue;
use crate::shared::{ids::UplinkIndex, limits};

mod awaited;
mod classify;
mod cut;
mod encap;
mod owner;
mod rx;
mod tx;
mod whole;

use encap::{HEADERS_MAX, UdpChecksum};
pub use rx::Rx;
pub use tx::Tx;
use tx::TxSlot;
pub(crate) use whole::receive_whole;

const _: () = assert!(culvert_dpdk_sys::HEADROOM as usize >= HEADERS_MAX);
const _: () = assert!(culvert_dpdk_sys::BURST >= limits::SUB_BATCH);

/// Bursts that `receive` may hold.
const BURSTS: usize = limits::UPLINK_BURST.div_ceil(culvert_dpdk_sys::BURST);

/// Mbufs that a worker's thread may keep in a pool's cache.
const CACHE: u32 = 256;

/// Mbufs of a pool that a worker has in its hands or its thread in the cache, which
/// grows to half as much again before it gives back.
#[expect(clippy::cast_possible_truncation, reason = "limits are small")]
const WORKER_HOLDS: u32 =
    (BURSTS * culvert_dpdk_sys::BURST + limits::SUB_BATCH) as u32 + CACHE * 3 / 2;

/// A pool's bound, far above what rings and workers come to.
const MBUFS_MAX: u32 = 1 << 20;

/// IPv4 and UDP headers; IPv6 and UDP headers.
const OVERHEAD_V4: usize = 28;
const OVERHEAD_V6: usize = 48;

/// What is wanted of a device.
pub struct Config<'a> {
    /// The uplink's number.
    pub uplink: UplinkIndex,
    /// The device: a PCI address or a virtual device's arguments.
    pub device: &'a str,
    /// A bond's members, in the same words.
    pub members: &'a [String],
    /// The uplink's own addresses.
    pub addresses: &'a [IpAddr],
    /// The longest IP packet on this link.
    pub mtu: u16,
    /// Workers, each of which gets a queue.
    pub workers: usize,
    /// Queues that the device is given, at most one per worker; with fewer, the last
    /// workers have none to receive from and share those to send to.
    pub queues: usize,
    /// Entries of each RX and each TX ring; `None` leaves it to the driver.
    pub descriptors: [Option<u16>; 2],
}

/// Why a DPDK uplink can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its buffers.
    #[error(transparent)]
    Pool(#[from] MempoolError),
    /// The MTU can't carry IPv6's smallest packet, or is beyond our buffers.
    #[error("an uplink's MTU is 1280 to {max} bytes, not {mtu}", max = limits::DEVICE_MTU_MAX)]
    Mtu {
        /// The MTU asked for.
        mtu: u16,
    },
}

/// An open device, as the control core keeps it.
pub struct DpdkUplink {
    device: Device,
    // Behind the device: it must be gone before they are.
    pools: Vec<Arc<Mempool>>,
    queues: [usize; 2],
    offloads: Offloads,
    mtu: u16,
}

/// Opens a device and makes one queue per worker.
///
/// # Errors
/// When the device can't be had or started, or memory is short; the message says
/// what mends it.
pub fn open(eal: Eal, config: &Config<'_>) -> Result<(DpdkUplink, Vec<Queue>), OpenError> {
    // 1. Plug; the device says how large its buffers must be.
    if !(1_280..=limits::DEVICE_MTU_MAX).contains(&usize::from(config.mtu)) {
        return Err(OpenError::Mtu { mtu: config.mtu });
    }
    let workers = config.workers.max(1);
    let wanted = u16::try_from(config.queues.clamp(1, workers)).unwrap_or(u16::MAX);
    let device = Device::plug(eal, config.device, config.members, wanted)?;
    let rx_queues = wanted.min(device.capabilities().max_rx_queues).max(1);
    let tx_queues = wanted.min(device.capabilities().max_tx_queues).max(1);

    // 2. Two pools, for what the rings, the workers' bursts and the caches hold.
    let [rx_default, tx_default] = device.descriptors();
    let rx_descriptors = config.descriptors[0].unwrap_or(rx_default);
    let tx_descriptors = config.descriptors[1].unwrap_or(tx_default);
    let workers_hold = u32::try_from(workers)
        .unwrap_or(u32::MAX)
        .saturating_mul(WORKER_HOLDS);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let node = device.capabilities().numa_node;
    let pool = |kind: &str, ring: u32, room: usize| {
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        let count = ring
            .saturating_add(workers_hold)
            .min(MBUFS_MAX)
            .next_power_of_two()
            - 1;
        Mempool::near(
            node,
            eal,
            &format!("{kind}{}.{serial}", config.uplink.0),
            count,
            CACHE,
            room,
        )
    };
    // Each member of a bond has rings of its own.
    let members = u32::try_from(config.members.len().max(1)).unwrap_or(u32::MAX);
    let ring = |entries: u16, queues: u16| {
        let entries = u32::from(entries) * u32::from(queues);
        entries.saturating_mul(members)
    };
    let rx_ring = ring(rx_descriptors, rx_queues);
    let tx_ring = ring(tx_descriptors, tx_queues);
    let rx_room = usize::try_from(device.rx_room(config.mtu)).unwrap_or(usize::MAX);
    // An odd number of cache lines apart: buffers at multiples of 4 KiB would compete
    // for the same cache sets.
    let tx_room = (usize::from(config.mtu) + culvert_aead::TAILROOM).next_multiple_of(128) + 64;
    // From here on what is open is closed again if something fails.
    let mut uplink = DpdkUplink {
        device,
        pools: Vec::new(),
        queues: [0; 2],
        offloads: Offloads::default(),
        mtu: config.mtu,
    };
    let rx_pool = uplink.keep(pool("rx", rx_ring, rx_room)?);
    let tx_pool = uplink.keep(pool("tx", tx_ring, tx_room)?);

    // 3. Start. IPv4's header checksum is cheaper here than asking for it.
    let started = uplink.device.start(&DeviceConfig {
        rx_pools: &vec![Arc::clone(&rx_pool); usize::from(rx_queues)],
        tx_queues,
        rx_descriptors: Some(rx_descriptors),
        tx_descriptors: Some(tx_descriptors),
        mtu: config.mtu,
        offloads: Offloads {
            tx_ipv4: false,
            ..Offloads::ALL
        },
    })?;

    // 4. Deal the queues out.
    let mac = uplink.mac();
    let partial = uplink.device.is_on_kernel();
    uplink.queues = [started.rx.len(), started.tx.len()];
    uplink.offloads = started.offloads;
    let mut rx = started.rx.into_iter();
    let tx = deal(started.tx, workers);
    let checksum = if started.offloads.tx_udp {
        UdpChecksum::Offload
    } else {
        UdpChecksum::Software
    };
    let datagram_max = datagram_max(config.mtu, config.addresses);
    let list = (0_u16..).zip(tx).map(|(worker, tx)| Queue {
        uplink: config.uplink,
        tunnel: None,
        rx: super::Rx::Dpdk(Rx::new(rx.next(), mac, partial)),
        tx: super::Tx::Dpdk(Tx::new(
            tx,
            Arc::clone(&tx_pool),
            datagram_max,
            checksum,
            worker,
        )),
    });
    let list = list.collect();
    Ok((uplink, list))
}

/// Distinguishes the pools of a device that is opened again.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// One TX queue per worker, shared in turn where there are too few.
fn deal(queues: Vec<TxQueue>, workers: usize) -> Vec<TxSlot> {
    if queues.len() >= workers {
        return queues.into_iter().take(workers).map(TxSlot::Own).collect();
    }
    let shared: Vec<_> = queues
        .into_iter()
        .map(|queue| Arc::new(Mutex::new(queue)))
        .collect();
    shared
        .iter()
        .cycle()
        .take(workers)
        .map(|queue| TxSlot::Shared(Arc::clone(queue)))
        .collect()
}

/// The longest datagram that fits the MTU over each IP version in use.
fn datagram_max(mtu: u16, addresses: &[IpAddr]) -> usize {
    let overhead = if addresses.iter().any(IpAddr::is_ipv6) {
        OVERHEAD_V6
    } else {
        OVERHEAD_V4
    };
    usize::from(mtu) - overhead
}

impl DpdkUplink {
    fn keep(&mut self, pool: Mempool) -> Arc<Mempool> {
        let pool = Arc::new(pool);
        self.pools.push(Arc::clone(&pool));
        pool
    }

    /// Its MAC address.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        MacAddr(self.device.mac())
    }

    /// Its MTU.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The device: its name, what it can do.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// RX and TX queues in use; with fewer than workers, these share.
    #[must_use]
    pub fn queues(&self) -> [usize; 2] {
        self.queues
    }

    /// Offloads in use.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The link's state.
    ///
    /// # Errors
    /// When the driver can't say.
    pub fn link(&self) -> Result<Link, DeviceError> {
        self.device.link()
    }

    /// The device's own counters.
    ///
    /// # Errors
    /// When the driver can't say.
    pub fn stats(&self) -> Result<Stats, DeviceError> {
        self.device.stats()
    }

    /// Stops and unplugs the device and frees its buffers. All its queues must have
    /// been given up by their workers and dropped.
    ///
    /// # Errors
    /// `QueuesInUse`, after which it can be tried again; else the device's own error.
    pub fn close(&mut self) -> Result<(), DeviceError> {
        self.device.close()?;
        for pool in self.pools.drain(..) {
            if let Some(pool) = Arc::into_inner(pool) {
                // SAFETY: the device is gone. No queue is left, and a queue gives its
                // mbufs back before it drops its share of the device and the pool,
                // so no thread is about to. A pool that still lacks mbufs stays.
                let _ = unsafe { pool.free() };
            }
        }
        Ok(())
    }
}

impl Drop for DpdkUplink {
    fn drop(&mut self) {
        // What workers still hold stays until the process ends.
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests;
