//! What a port counts, and the names of what it refuses.
//!
//! In: increments, once per burst, from whoever holds the ring. Out: plain loads for anyone.
//! Never: a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame was lost at a port. The names are stable: they appear in the CLI and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum PortDrop {
    /// Guest to us: a buffer lies outside of the guest's memory.
    BadAddress,
    /// Guest to us: a buffer that the device would have to write.
    WrongDirection,
    /// Guest to us: shorter than the virtio-net header and an Ethernet header.
    TooShort,
    /// Guest to us: longer than any packet.
    TooLong,
    /// To the guest: its ring has no room.
    RingFull,
    /// To the guest: the ring is not started, not enabled or stopped by a fault.
    NotReady,
    /// To the guest: another worker held the ring for too long.
    Busy,
    /// To the guest: the frame fits into no buffer that it may use.
    FrameTooBig,
    /// To the guest: a buffer of the guest's was unusable and went back empty.
    BadBuffer,
}

impl PortDrop {
    /// Number of reasons.
    pub const COUNT: usize = 9;

    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::BadAddress,
        Self::WrongDirection,
        Self::TooShort,
        Self::TooLong,
        Self::RingFull,
        Self::NotReady,
        Self::Busy,
        Self::FrameTooBig,
        Self::BadBuffer,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadAddress => "guest_bad_address",
            Self::WrongDirection => "guest_wrong_direction",
            Self::TooShort => "guest_frame_too_short",
            Self::TooLong => "guest_frame_too_long",
            Self::RingFull => "guest_ring_full",
            Self::NotReady => "guest_ring_not_ready",
            Self::Busy => "guest_ring_busy",
            Self::FrameTooBig => "guest_buffer_too_small",
            Self::BadBuffer => "guest_bad_buffer",
        }
    }
}

/// Counters of one ring. Written by whoever holds the ring's lock, once per burst.
#[derive(Debug, Default)]
pub struct RingCounters {
    frames: AtomicU64,
    bytes: AtomicU64,
    kicks: AtomicU64,
    calls: AtomicU64,
    faults: AtomicU64,
    drops: [AtomicU64; PortDrop::COUNT],
}

impl RingCounters {
    /// Frames that passed.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes of those frames, without virtio-net headers.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Kicks of the guest that woke a worker.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    /// Calls (interrupts) sent to the guest.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Times that the ring was stopped because of what the guest wrote into it.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Frames lost for a reason.
    pub fn drops(&self, reason: PortDrop) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn add_traffic(&self, frames: u64, bytes: u64) {
        // Only the ring's holder is here, so these need not be locked operations.
        let add = |counter: &AtomicU64, more| {
            counter.store(
                counter.load(Ordering::Relaxed).wrapping_add(more),
                Ordering::Relaxed,
            );
        };
        add(&self.frames, frames);
        add(&self.bytes, bytes);
    }

    pub(crate) fn add_kick(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `frames` lost for `reason`; the data path names here what it loses at this ring.
    pub fn add_drops(&self, reason: PortDrop, frames: u64) {
        self.drops[reason as usize].fetch_add(frames, Ordering::Relaxed);
    }
}

/// Counters of one port's session.
#[derive(Debug, Default)]
pub struct PortCounters {
    pub(crate) connections: AtomicU64,
    pub(crate) refused_sessions: AtomicU64,
    pub(crate) refused_messages: AtomicU64,
    pub(crate) messages: AtomicU64,
}

impl PortCounters {
    /// Connections of a VMM so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that ended because of what the VMM sent.
    pub fn refused_sessions(&self) -> u64 {
        self.refused_sessions.load(Ordering::Relaxed)
    }

    /// Messages that were refused and answered, after which the session went on.
    pub fn refused_messages(&self) -> u64 {
        self.refused_messages.load(Ordering::Relaxed)
    }

    pub(crate) fn add_refused_session(&self) {
        self.refused_sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// vhost-user messages handled.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}
