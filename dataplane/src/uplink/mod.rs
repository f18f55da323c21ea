//! Uplinks: where sealed datagrams leave and arrive.
//!
//! In: rooms filled with sealed datagrams, each with its path; bursts from the
//! network. Out: datagrams on the wire; received datagrams with their source and
//! tunnel; everything else for the host stack. Never: a look into a datagram's
//! content, a wait, an allocation per packet.
//!
//! A queue belongs to one worker. Its halves are separate, so that a received
//! burst can be held while something else is sent.
//!
//! ```text
//!  room   |<- headroom: Ethernet, IP, UDP ->|<- datagram, up to room.len() - TAILROOM ->|<- TAILROOM ->|
//!                                           ^ Room::bytes_mut starts here
//! ```

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod memory;
pub mod udp;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    ptr::NonNull,
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use culvert_wire::{Checksum, ports::OwnPorts};
use culvert_wireguard::Instant;

use crate::shared::{
    awaited::Awaited,
    drops::Drops,
    hop::Hop,
    ids::{TunnelIndex, UplinkIndex},
    path::Path,
    punt::Punts,
};

/// An uplink as the snapshot holds it: what a worker needs to tell its datagrams
/// apart.
#[derive(Debug)]
pub struct Uplink {
    /// Its number.
    pub index: UplinkIndex,
    /// The operator's name for it.
    pub name: String,
    /// Its own addresses (DPDK: nobody else answers for them).
    pub addresses: Vec<IpAddr>,
    /// UDP ports and the tunnels that listen on them, sorted.
    pub tunnels: Vec<(u16, TunnelIndex)>,
    /// Of paths that lead over no neighbor of ours: the kernel's way, or no way.
    pub hop: Arc<Hop>,
    /// The host's kernel has all that comes here and is for nobody of ours; what is, is known by these ports.
    pub kernel: Option<Arc<OwnPorts>>,
    /// What went through it.
    pub counters: Arc<UplinkCounters>,
}

impl Uplink {
    /// The tunnel that listens on `port`.
    #[must_use]
    pub fn tunnel(&self, port: u16) -> Option<TunnelIndex> {
        let tunnels = &self.tunnels;
        let place = tunnels
            .binary_search_by_key(&port, |&(listen, _)| listen)
            .ok()?;
        tunnels.get(place).map(|&(_, tunnel)| tunnel)
    }

    /// Whether `tunnel` listens here.
    #[must_use]
    pub fn hears(&self, tunnel: TunnelIndex) -> bool {
        self.tunnels.iter().any(|&(_, it)| it == tunnel)
    }
}

/// An uplink's counters: datagrams, without the host stack's frames.
#[derive(Debug, Default)]
pub struct UplinkCounters {
    /// Datagrams received.
    pub rx_packets: AtomicU64,
    /// Bytes of datagrams received.
    pub rx_bytes: AtomicU64,
    /// Datagrams handed to the device or kernel.
    pub tx_packets: AtomicU64,
    /// Bytes of datagrams handed to the device or kernel.
    pub tx_bytes: AtomicU64,
    /// Datagrams that were sent in fragments of ours; what a kernel cuts, it counts itself.
    pub tx_fragmented: AtomicU64,
    /// Losses.
    pub drops: Drops,
    /// Handshake messages come faster than they are taken. Set by workers; the control core
    /// takes it back and asks callers for cookies.
    pub crowded: AtomicBool,
    /// What its host stack waits for.
    pub awaited: Awaited,
}

impl UplinkCounters {
    fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Packets both ways.
    fn carried(&self) -> u64 {
        self.rx_packets.load(Ordering::Relaxed) + self.tx_packets.load(Ordering::Relaxed)
    }
}

/// A received UDP payload, in memory of its queue.
pub struct Datagram {
    start: NonNull<u8>,
    len: u32,
    /// Where it came from.
    pub source: SocketAddr,
    /// The local address it came to, if known.
    pub local: Option<IpAddr>,
    /// The tunnel whose port it came to.
    pub tunnel: TunnelIndex,
    /// The outer header's ECN bits.
    pub ecn: u8,
    /// The kernel joined no other one behind it: where a burst may best be divided.
    pub ends: bool,
}

#[allow(unsafe_code, reason = "a named room: views of a queue's own buffers")]
impl Datagram {
    /// # Safety
    /// `start..start + len` is private memory of the queue, overlaps no other
    /// datagram, and stays valid and unshared until the queue's next `receive`.
    unsafe fn new(
        start: NonNull<u8>,
        len: u32,
        source: SocketAddr,
        local: Option<IpAddr>,
        tunnel: TunnelIndex,
        ecn: u8,
    ) -> Self {
        Self {
            start,
            len,
            source,
            local,
            tunnel,
            ecn,
            ends: true,
        }
    }

    /// The payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: by the contract of `new`; a `Datagram` is only reachable through
        // a borrow of its queue, so `receive` can't be called meanwhile.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }

    /// The payload, to be opened in place. Nothing behind its end may be written:
    /// the next datagram may lie there.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the view unique.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) }
    }
}

/// What the outer IP header takes from the inner packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outer {
    /// The traffic class.
    pub tos: u8,
    /// The hop limit; 0 leaves it to the uplink.
    pub hops: u8,
    /// Nobody on the way may cut it.
    pub whole: bool,
}

impl From<u8> for Outer {
    fn from(tos: u8) -> Self {
        Self {
            tos,
            ..Self::default()
        }
    }
}

/// Room for one outgoing datagram.
pub struct Room {
    start: NonNull<u8>,
    len: u32,
}

#[allow(unsafe_code, reason = "a named room: views of a queue's own buffers")]
impl Room {
    /// # Safety
    /// `start..start + len` is private memory of the queue that overlaps no other
    /// room, valid until the queue has sent or dropped the room.
    unsafe fn new(start: NonNull<u8>, len: u32) -> Self {
        Self { start, len }
    }

    /// The first `len` bytes: what was written there.
    fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: by the contract of `new`; `&self` keeps everybody from writing. Of memory that was never
        // written the bytes are old ones, or zero.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), len.min(self.len as usize)) }
    }

    /// The memory: the datagram starts at 0 and may be up to
    /// `len() - culvert_aead::TAILROOM` bytes long.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the contract of `new`; `&mut self` makes the view unique.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) }
    }
}

/// The receiving half of a queue.
pub enum Rx {
    /// Kernel sockets.
    Udp(udp::Rx),
    /// One end of a wire in memory.
    Memory(memory::Rx),
    /// A DPDK device's queue.
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Rx),
}

impl Rx {
    /// Receives a burst of datagrams, in the order of their arrival; what is not a datagram for one of the uplink's
    /// tunnels goes to `punts` or is dropped by name. The last burst's buffers are given back first.
    ///
    /// `tunnel` is the one that the queue serves. A device's queue serves all, and tells their datagrams apart; the
    /// others receive nothing without one.
    pub fn receive(
        &mut self,
        uplink: &Uplink,
        tunnel: Option<TunnelIndex>,
        punts: &mut Punts,
        now: Instant,
    ) -> &mut [Datagram] {
        match (self, tunnel) {
            (Self::Udp(rx), Some(tunnel)) => rx.receive(uplink, tunnel),
            (Self::Memory(rx), Some(tunnel)) => rx.receive(uplink, tunnel),
            #[cfg(feature = "dpdk")]
            (Self::Dpdk(rx), _) => rx.receive(uplink, punts, now),
            (Self::Udp(_) | Self::Memory(_), None) => {
                let _ = (punts, now);
                &mut []
            }
        }
    }

    /// Whether a look at it is a load from memory; otherwise it is a system call.
    #[must_use]
    pub fn is_polled(&self) -> bool {
        match self {
            Self::Udp(_) => false,
            Self::Memory(_) => true,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => true,
        }
    }

    /// The worker slept so long. `ready` says which of the descriptors that [`Self::descriptors`] named have
    /// something.
    pub fn woken(&mut self, ready: &[bool], slept: Duration) {
        match self {
            Self::Udp(rx) => rx.woken(ready, slept),
            Self::Memory(_) => {}
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => {}
        }
    }

    /// When to look again for what none of the descriptors tells of, because more than its
    /// share was received.
    #[must_use]
    pub fn owed(&self) -> Option<Duration> {
        match self {
            Self::Udp(rx) => rx.owed(),
            Self::Memory(_) => None,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => None,
        }
    }

    /// Adds what to poll before sleeping; a queue without descriptors must be looked at
    /// again after a short time.
    pub fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        match self {
            Self::Udp(rx) => rx.descriptors(list),
            Self::Memory(_) => {}
            #[cfg(feature = "dpdk")]
            Self::Dpdk(rx) => rx.descriptors(list),
        }
    }
}

/// The sending half of a queue.
///
/// Calling order: `reserve`, fill `rooms()` from the first on, `commit` each in
/// order, `flush`. Rooms that were not committed stay reserved.
pub enum Tx {
    /// Kernel sockets.
    Udp(udp::Tx),
    /// One end of a wire in memory.
    Memory(memory::Tx),
    /// A DPDK device's queue.
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Tx),
}

impl Tx {
    /// Makes up to `count` (at most `limits::SUB_BATCH`) rooms available for datagrams
    /// of up to `longest` bytes, and says how many there are: fewer when buffers or the
    /// device's queue run short.
    pub fn reserve(&mut self, count: usize, longest: usize) -> usize {
        match self {
            Self::Udp(tx) => tx.reserve(count, longest),
            Self::Memory(tx) => tx.reserve(count),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.reserve(count),
        }
    }

    /// The reserved rooms.
    pub fn rooms(&mut self) -> &mut [Room] {
        match self {
            Self::Udp(tx) => tx.rooms(),
            Self::Memory(tx) => tx.rooms(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.rooms(),
        }
    }

    /// The longest datagram that a room can carry along any path.
    #[must_use]
    pub fn datagram_max(&self) -> usize {
        match self {
            Self::Udp(tx) => tx.datagram_max(),
            Self::Memory(tx) => tx.datagram_max(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.datagram_max(),
        }
    }

    /// Whether a datagram's sum is of use to `commit`.
    #[must_use]
    pub fn needs_sums(&self) -> bool {
        match self {
            // The kernel's sockets sum while they copy, or leave it to the device.
            Self::Udp(_) => false,
            // There is no UDP header around it.
            Self::Memory(_) => false,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.needs_sums(),
        }
    }

    /// Says that the next room holds a datagram of `len` bytes for `path` with these
    /// fields of the outer IP header. `sum` is the datagram's, if it is known already.
    #[inline]
    pub fn commit(&mut self, len: usize, path: &Arc<Path>, outer: Outer, sum: Option<Checksum>) {
        match self {
            Self::Udp(tx) => {
                let _ = sum;
                tx.commit(len, path, outer);
            }
            Self::Memory(tx) => tx.commit(len, path, outer),
            // What leaves by a device of ours does not come back by the kernel's routes.
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.commit(len, path, outer, sum),
        }
    }

    /// Sends what was committed. What does not go out is `uplink`'s loss, and never
    /// sent again.
    pub fn flush(&mut self, uplink: &Uplink) {
        match self {
            Self::Udp(tx) => tx.flush(uplink),
            Self::Memory(tx) => tx.flush(uplink),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.flush(uplink),
        }
    }

    /// Has a device that speaks by itself (a bond with LACP) do so: once a turn.
    #[inline]
    pub fn keep_up(&mut self) {
        match self {
            Self::Udp(_) | Self::Memory(_) => {}
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.keep_up(),
        }
    }

    /// Sends an Ethernet frame that the host stack made. `false`: this uplink has
    /// no Ethernet of its own, or no room.
    pub fn send_frame(&mut self, frame: &[u8]) -> bool {
        match self {
            Self::Udp(_) | Self::Memory(_) => {
                let _ = frame;
                false
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.send_frame(frame),
        }
    }

    /// Puts an Ethernet frame of the host's kernel behind others that wait for [`Self::send_put`]. `false` as for
    /// [`Self::send_frame`].
    pub fn put_frame(&mut self, frame: &[u8]) -> bool {
        match self {
            Self::Udp(_) | Self::Memory(_) => {
                let _ = frame;
                false
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.put_frame(frame),
        }
    }

    /// Sends the frames that were put. What does not go out is `uplink`'s loss.
    pub fn send_put(&mut self, uplink: &Uplink) {
        match self {
            Self::Udp(_) | Self::Memory(_) => {
                let _ = uplink;
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(tx) => tx.send_put(uplink),
        }
    }
}

/// A worker's queue of an uplink: sockets of one tunnel's port, or a queue of a device, which all tunnels share.
pub struct Queue {
    /// The uplink.
    pub uplink: UplinkIndex,
    /// The tunnel, when the queue serves only one (sockets do).
    pub tunnel: Option<TunnelIndex>,
    /// The receiving half.
    pub rx: Rx,
    /// The sending half.
    pub tx: Tx,
}

impl Queue {
    /// What changes a UDP queue's sockets.
    #[must_use]
    pub fn marker(&self) -> Option<udp::Marker> {
        match &self.rx {
            Rx::Udp(rx) => Some(rx.marker()),
            Rx::Memory(_) => None,
            #[cfg(feature = "dpdk")]
            Rx::Dpdk(_) => None,
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("uplink", &self.uplink)
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}

/// Asserts that a queue can be sent to its worker.
#[allow(
    unsafe_code,
    reason = "a named room: ownership of a queue's buffers moves with it"
)]
// SAFETY: datagrams and rooms point into buffers that their queue alone owns, and
// a queue is used by one worker at a time.
unsafe impl Send for Datagram {}
#[allow(
    unsafe_code,
    reason = "a named room: ownership of a queue's buffers moves with it"
)]
// SAFETY: as for `Datagram`.
unsafe impl Send for Room {}
