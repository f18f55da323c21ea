//! A device's queues: where packets come in and go out.
//!
//! *In*: bursts. *Out*: bursts. *Never*: an oversized frame on a kernel device (it would wedge
//! `net_af_packet`; [`TxQueue::burst`] drops it and says so), a lock, a wait of our own.
//!
//! A queue belongs to one thread at a time (it may move between threads, and its methods want it mutable).
//! While one is alive its device can't be closed.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{burst::MbufBurst, device::Port, ffi, kernel};

/// Whether a TX queue has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room for as many packets.
    Yes,
    /// There isn't just now.
    No,
    /// This driver can't tell: send and see.
    Unknown,
}

/// A receive queue.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Port>,
    queue: u16,
    socket: Option<OwnedFd>,
    /// Packets since the start. This handle alone writes it, the device reads it.
    received: Arc<AtomicU64>,
}

impl RxQueue {
    pub(crate) fn new(
        port: Arc<Port>,
        queue: u16,
        socket: Option<OwnedFd>,
        received: Arc<AtomicU64>,
    ) -> Self {
        Self {
            port,
            queue,
            socket,
            received,
        }
    }

    /// Adds received packets to the burst, as many as there are and fit; returns how many.
    #[inline]
    pub fn burst(&mut self, burst: &mut MbufBurst) -> usize {
        let (port, queue) = (self.port.id, self.queue);
        // SAFETY: the port is started as long as a queue of it lives, `self` is the only handle of this
        // queue, and the burst hands that many slots. Received mbufs have one owner.
        let fill = |slots, count| unsafe { ffi::culvert_rx_burst(port, queue, slots, count) };
        let count = burst.fill_some(fill);
        if count > 0 {
            let before = self.received.load(Ordering::Relaxed);
            self.received
                .store(before + count as u64, Ordering::Relaxed);
        }
        count
    }

    /// What to poll for reading before sleeping: it is ready while packets wait. None: this driver has
    /// nothing to wait on, and the queue must be looked at again after a short time.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let socket = self.socket.as_ref()?.as_fd();
        // An interface that went down would keep the poll from waiting.
        kernel::clear_error(socket);
        Some(socket)
    }

    /// The queue's number.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

/// A transmit queue.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Port>,
    queue: u16,
    descriptors: u16,
    oversized: u64,
    is_bond: bool,
}

impl TxQueue {
    pub(crate) fn new(port: Arc<Port>, queue: u16, descriptors: u16, is_bond: bool) -> Self {
        Self {
            port,
            queue,
            descriptors,
            oversized: 0,
            is_bond,
        }
    }

    /// Has a bond send what it has to say by itself (LACP wants it ten times a second at least); nothing with any other
    /// device.
    #[inline]
    pub fn keep_up(&mut self) {
        if self.is_bond {
            let (port, queue) = (self.port.id, self.queue);
            // SAFETY: as in `burst`; of no mbufs none is looked at.
            unsafe { ffi::culvert_tx_burst(port, queue, std::ptr::null_mut(), 0) };
        }
    }

    /// Sends the burst's packets in order, as many as the device takes now; returns how many. The others
    /// stay, first in the burst. Sent mbufs are the driver's.
    ///
    /// Frames above [`TxQueue::frame_limit`] are freed instead and counted ([`TxQueue::oversized`]). The
    /// caller doesn't make them; one that slipped through would wedge the queue.
    #[inline]
    pub fn burst(&mut self, burst: &mut MbufBurst) -> usize {
        let limit = self.frame_limit();
        if burst.iter().any(|mbuf| mbuf.frame_len() > limit) {
            self.drop_oversized(burst, limit);
        }
        let (port, queue) = (self.port.id, self.queue);
        // SAFETY: as in `RxQueue::burst`; the driver takes ownership of the first mbufs, as many as it says.
        burst.take_front(|slots, count| unsafe { ffi::culvert_tx_burst(port, queue, slots, count) })
    }

    #[cold]
    fn drop_oversized(&mut self, burst: &mut MbufBurst, limit: u32) {
        let before = burst.len();
        burst.retain(|mbuf| mbuf.frame_len() <= limit);
        self.oversized += (before - burst.len()) as u64;
    }

    /// Frames that were dropped because they were longer than the limit.
    #[must_use]
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    /// A hint whether `count` packets would find room.
    #[must_use]
    pub fn room(&self, count: u16) -> Room {
        // SAFETY: the port is started, and this is the queue's only handle.
        match unsafe { ffi::culvert_tx_room(self.port.id, self.queue, count, self.descriptors) } {
            0 => Room::No,
            1.. => Room::Yes,
            _ => Room::Unknown,
        }
    }

    /// Bytes of the longest Ethernet frame (without FCS) that may be sent now.
    #[inline]
    #[must_use]
    pub fn frame_limit(&self) -> u32 {
        self.port.frame_limit.load(Ordering::Relaxed)
    }

    /// Descriptors of the queue.
    #[must_use]
    pub fn descriptors(&self) -> u16 {
        self.descriptors
    }

    /// The queue's number.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }
}
