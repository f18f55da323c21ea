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
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

pub use culvert_dpdk_sys as sys;
use culvert_dpdk_sys::{
    Device, DeviceConfig, DeviceError, Eal, Link, MbufBurst, Mempool, MempoolError, Offloads,
    OuterIp, Room as TxRoom, RxQueue, Stats, TxQueue,
};
use culvert_wire::{Checksum, MacAddr};
use culvert_wireguard::Instant;

use super::{Datagram, Room, Uplink, UplinkQueue};
use crate::loss::{Lost, lose, lose_all};
use crate::shared::{
    drops::DropReason,
    ids::{Scope, UplinkIndex},
    limits,
    path::Path,
    punt::Punts,
};

mod classify;
mod encap;

use classify::{Accepted, Checks, Verdict, classify};
use encap::{HEADERS_MAX, Template, UdpChecksum};

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

/// The shortest Ethernet frame, without FCS (IEEE 802.3, section 3.2.8).
const FRAME_MIN: usize = 60;

/// IPv4 and UDP headers; IPv6 and UDP headers.
const OVERHEAD_V4: usize = 28;
const OVERHEAD_V6: usize = 48;

/// Times a burst is offered to a queue that takes a part of it at a time.
const ATTEMPTS: usize = 4;

/// Reservations refused in a row before a full queue counts as stalled: from then on
/// datagrams are taken and dropped by name, so that a dead link doesn't hold guests'
/// frames that go elsewhere.
const STALLED: u32 = 4_096;

/// What is wanted of a device.
pub struct Config<'a> {
    /// The uplink's number.
    pub uplink: UplinkIndex,
    /// The device: a PCI address or a virtual device's arguments.
    pub device: &'a str,
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
pub fn open(eal: Eal, config: &Config<'_>) -> Result<(DpdkUplink, Vec<UplinkQueue>), OpenError> {
    // 1. Plug; the device says how large its buffers must be.
    if !(1_280..=limits::DEVICE_MTU_MAX).contains(&usize::from(config.mtu)) {
        return Err(OpenError::Mtu { mtu: config.mtu });
    }
    let workers = config.workers.max(1);
    let wanted = u16::try_from(config.queues.clamp(1, workers)).unwrap_or(u16::MAX);
    let device = Device::plug(eal, config.device, wanted)?;
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
    let pool = |kind: &str, ring: u32, room: usize| {
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        let count = ring
            .saturating_add(workers_hold)
            .min(MBUFS_MAX)
            .next_power_of_two()
            - 1;
        Mempool::new(
            eal,
            &format!("{kind}{}.{serial}", config.uplink.0),
            count,
            CACHE,
            room,
        )
    };
    let rx_ring = u32::from(rx_descriptors) * u32::from(rx_queues);
    let tx_ring = u32::from(tx_descriptors) * u32::from(tx_queues);
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
    let partial = uplink.device.capabilities().kernel_interface.is_some();
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
    let list = (0_u16..).zip(tx).map(|(worker, tx)| UplinkQueue {
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

/// The receiving half.
pub struct Rx {
    /// What `datagrams` points into. Before the queue: see `DpdkUplink::close`.
    held: Box<[MbufBurst; BURSTS]>,
    datagrams: Vec<Datagram>,
    queue: Option<RxQueue>,
    mac: MacAddr,
    partial: bool,
}

impl Rx {
    fn new(queue: Option<RxQueue>, mac: MacAddr, partial: bool) -> Self {
        Self {
            held: Box::new([const { MbufBurst::new() }; BURSTS]),
            datagrams: Vec::with_capacity(BURSTS * culvert_dpdk_sys::BURST),
            queue,
            mac,
            partial,
        }
    }

    pub(super) fn receive(
        &mut self,
        uplink: &Uplink,
        punts: &mut Punts,
        now: Instant,
    ) -> &mut [Datagram] {
        // 1. The last burst's buffers go home, then new ones come.
        self.datagrams.clear();
        for held in self.held.iter_mut() {
            held.clear();
        }
        let Some(queue) = &mut self.queue else {
            return &mut self.datagrams;
        };
        for held in self.held.iter_mut() {
            queue.burst(held);
            if held.vacancy() > 0 {
                break;
            }
        }

        // 2. Each frame gets its verdict.
        let mut bytes = 0;
        for held in self.held.iter_mut() {
            held.iter()
                .take(4)
                .for_each(culvert_dpdk_sys::Mbuf::prefetch);
            for position in 0..held.len() {
                if let Some(ahead) = held.get(position + 4) {
                    ahead.prefetch();
                }
                let mbuf = &held[position];
                let checks = Checks {
                    ip: mbuf.rx_ip_checksum(),
                    udp: mbuf.rx_l4_checksum(),
                    partial: self.partial,
                };
                let accept = |datagram: Accepted| {
                    let Accepted {
                        payload,
                        source,
                        local,
                        tunnel,
                        ecn,
                    } = datagram;
                    let len = u32::try_from(payload.len()).unwrap_or(0);
                    bytes += u64::from(len);
                    // SAFETY: the payload lies in the bytes of an mbuf that `held` owns
                    // until the next `receive`, one datagram per mbuf.
                    self.datagrams.push(unsafe {
                        let start = NonNull::new_unchecked(mbuf.data().add(payload.start));
                        Datagram::new(start, len, source, Some(local), tunnel, ecn)
                    });
                };
                let verdict = if mbuf.segments() == 1 {
                    classify(mbuf.bytes(), checks, self.mac, uplink, accept)
                } else {
                    Verdict::Drop(DropReason::OuterMalformed)
                };
                match verdict {
                    Verdict::Datagram => {}
                    Verdict::Punt(class) => {
                        let scope = Scope::Uplink(uplink.index);
                        if let Err(reason) = punts.push(class, scope, mbuf.bytes(), now) {
                            lose(uplink.books(), reason, Lost::Wire(mbuf.bytes()));
                        }
                    }
                    Verdict::Drop(reason) => {
                        lose(uplink.books(), reason, Lost::Wire(mbuf.bytes()));
                    }
                }
            }
        }
        if !self.datagrams.is_empty() {
            uplink.counters.received(self.datagrams.len() as u64, bytes);
        }
        &mut self.datagrams
    }

    pub(super) fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        list.extend(self.queue.as_ref().and_then(RxQueue::descriptor));
    }
}

/// A worker's TX queue.
enum TxSlot {
    Own(TxQueue),
    Shared(Arc<Mutex<TxQueue>>),
}

impl TxSlot {
    /// Sends what the queue takes; the rest stays in the burst. Answers how many
    /// frames were dropped because the link has become too narrow for them.
    fn send(&mut self, burst: &mut MbufBurst) -> u64 {
        match self {
            Self::Own(queue) => send_all(queue, burst),
            Self::Shared(queue) => {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                send_all(&mut queue, burst)
            }
        }
    }

    /// A shared queue's room is gone before one could use it: it isn't asked.
    fn room(&self, count: usize) -> TxRoom {
        match self {
            Self::Own(queue) => queue.room(u16::try_from(count).unwrap_or(u16::MAX)),
            Self::Shared(_) => TxRoom::Unknown,
        }
    }

    fn frame_limit(&self) -> u32 {
        match self {
            Self::Own(queue) => queue.frame_limit(),
            Self::Shared(queue) => queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .frame_limit(),
        }
    }
}

fn send_all(queue: &mut TxQueue, burst: &mut MbufBurst) -> u64 {
    let oversized = queue.oversized();
    // Some drivers free descriptors only when they are asked to send.
    for _ in 0..ATTEMPTS {
        if burst.is_empty() {
            break;
        }
        queue.burst(burst);
    }
    queue.oversized() - oversized
}

/// The sending half.
pub struct Tx {
    /// What `rooms` points into, in order; the first `committed` have their headers.
    /// Before the queue and the pool: see `DpdkUplink::close`.
    reserved: Box<MbufBurst>,
    rooms: Vec<Room>,
    committed: usize,
    /// Committed datagrams that can't go out, by reason, until `flush` counts them.
    refused: Vec<DropReason>,
    template: Option<Template>,
    queue: TxSlot,
    pool: Arc<Mempool>,
    checksum: UdpChecksum,
    datagram_max: usize,
    frame_limit: usize,
    id: u16,
    stalled: u32,
}

impl Tx {
    fn new(
        queue: TxSlot,
        pool: Arc<Mempool>,
        datagram_max: usize,
        checksum: UdpChecksum,
        worker: u16,
    ) -> Self {
        Self {
            reserved: Box::default(),
            rooms: Vec::with_capacity(limits::SUB_BATCH),
            committed: 0,
            refused: Vec::with_capacity(limits::SUB_BATCH),
            template: None,
            frame_limit: usize::try_from(queue.frame_limit()).unwrap_or(usize::MAX),
            queue,
            pool,
            checksum,
            datagram_max,
            // Workers start far apart, so that fragments of two datagrams on their way
            // to one host don't share an identification.
            id: worker.wrapping_mul(0x2f35),
            stalled: 0,
        }
    }

    pub(super) fn reserve(&mut self, count: usize) -> usize {
        let count = count.min(limits::SUB_BATCH);
        // A queue without room leaves the frames to the guest; one that stays without
        // is a dead link.
        if self.queue.room(count) == TxRoom::No {
            self.stalled = self.stalled.saturating_add(1);
            if self.stalled < STALLED {
                self.rooms.clear();
                return 0;
            }
        } else {
            self.stalled = 0;
        }
        let have = self.reserved.len();
        if have < count && !self.pool.alloc(&mut self.reserved, count - have) {
            // Fewer, one at a time: the pool is nearly dry.
            while self.reserved.len() < count && self.pool.alloc(&mut self.reserved, 1) {}
        }
        self.rooms.clear();
        self.rooms
            .extend(self.reserved.iter_mut().take(count).map(|mbuf| {
                let memory = mbuf.room_mut();
                let len = u32::try_from(memory.len()).unwrap_or(0);
                // SAFETY: an mbuf that `reserved` owns, one room per mbuf; rooms are made
                // anew whenever `reserved` changes.
                unsafe { Room::new(NonNull::from(memory).cast(), len) }
            }));
        self.rooms.len()
    }

    pub(super) fn rooms(&mut self) -> &mut [Room] {
        &mut self.rooms
    }

    pub(super) fn datagram_max(&self) -> usize {
        self.datagram_max
    }

    pub(super) fn needs_sums(&self) -> bool {
        self.checksum == UdpChecksum::Software
    }

    pub(super) fn commit(&mut self, len: usize, path: &Arc<Path>, tos: u8, sum: Option<Checksum>) {
        let Some(mbuf) = self.reserved.get_mut(self.committed) else {
            debug_assert!(false, "more datagrams committed than rooms reserved");
            return;
        };
        self.committed += 1;
        // 1. The path's headers, mostly those of the datagram before.
        if !self
            .template
            .as_ref()
            .is_some_and(|template| template.is_of(path))
        {
            match Template::new(path) {
                Ok(template) => self.template = Some(template),
                Err(reason) => {
                    self.template = None;
                    return refuse(mbuf, reason, &mut self.refused);
                }
            }
        }
        let Some(template) = &self.template else {
            return;
        };

        // 2. In front of the datagram, if the whole fits the link.
        if len + template.len() > self.frame_limit {
            return refuse(mbuf, DropReason::UplinkRefused, &mut self.refused);
        }
        let Some(frame) = mbuf.set_packet(len, template.len()) else {
            return refuse(mbuf, DropReason::UplinkRefused, &mut self.refused);
        };
        self.id = self.id.wrapping_add(1);
        template.write(frame, tos, self.id, self.checksum, sum);

        // 3. What is left to the NIC.
        if self.checksum == UdpChecksum::Offload {
            let (ip, l3_len) = if template.is_v6() {
                (OuterIp::V6, 40)
            } else {
                (OuterIp::V4 { checksum: false }, 20)
            };
            mbuf.request_checksums(14, l3_len, ip, true);
        }
    }

    pub(super) fn flush(&mut self, uplink: &Uplink) {
        // 1. Committed mbufs part from those that stay reserved, if any do.
        let rest =
            (self.committed < self.reserved.len()).then(|| self.reserved.split_off(self.committed));
        self.committed = 0;
        self.rooms.clear();
        if !self.refused.is_empty() {
            for reason in self.refused.drain(..) {
                lose(uplink.books(), reason, Lost::Count(1));
            }
            self.reserved.retain(|mbuf| !mbuf.is_empty());
        }

        // 2. Send; what the queue doesn't take is lost.
        if !self.reserved.is_empty() {
            let (packets, bytes) = totals(&self.reserved);
            let narrow = self.queue.send(&mut self.reserved);
            let (full, full_bytes) = totals(&self.reserved);
            let lost = self.reserved.iter().map(|mbuf| Lost::Wire(mbuf.bytes()));
            lose_all(uplink.books(), DropReason::UplinkFull, lost);
            self.reserved.clear();
            if narrow > 0 {
                let lost = Lost::Count(usize::try_from(narrow).unwrap_or(usize::MAX));
                lose(uplink.books(), DropReason::UplinkRefused, lost);
            }
            let sent = packets - full - narrow;
            if sent > 0 {
                uplink.counters.sent(sent, bytes - full_bytes);
            }
        }
        if let Some(rest) = rest {
            *self.reserved = rest;
        }
    }

    pub(super) fn send_frame(&mut self, frame: &[u8]) -> bool {
        let mut burst = MbufBurst::new();
        if frame.len() > self.frame_limit || !self.pool.alloc(&mut burst, 1) {
            return false;
        }
        let mbuf = &mut burst[0];
        // Not every device pads a short frame by itself.
        let len = frame.len().max(FRAME_MIN);
        let Some(room) = mbuf.room_mut().get_mut(..len) else {
            return false;
        };
        let (bytes, padding) = room.split_at_mut(frame.len());
        bytes.copy_from_slice(frame);
        padding.fill(0);
        mbuf.set_len(u16::try_from(len).expect("no more than the room, which is a u16"));
        self.queue.send(&mut burst) == 0 && burst.is_empty()
    }
}

/// Marks a committed mbuf as not to be sent: it has no bytes.
fn refuse(mbuf: &mut culvert_dpdk_sys::Mbuf, reason: DropReason, refused: &mut Vec<DropReason>) {
    mbuf.set_len(0);
    refused.push(reason);
}

/// Datagrams of a burst and their bytes, without headers.
fn totals(burst: &MbufBurst) -> (u64, u64) {
    let datagram = |mbuf: &culvert_dpdk_sys::Mbuf| {
        let headers = u64::from(culvert_dpdk_sys::HEADROOM - mbuf.headroom());
        u64::from(mbuf.len()).saturating_sub(headers)
    };
    (burst.len() as u64, burst.iter().map(datagram).sum())
}

#[cfg(test)]
mod tests;
