//! The rings: where a worker and the guest meet.
//!
//! In: what the session thread installs (memory, addresses, features), what the guest wrote.
//! Out: frames from guest TX rings, frames into guest RX rings.
//! Never: `dyn`, an allocation or a system call per frame; a guest range outside of a burst.
//!
//! Threads: a worker takes a ring with `try_lock` once per burst and holds it for the burst.
//! The session thread takes the same lock to start, stop or change the ring. **That lock is
//! the quiescing mechanism**: whatever a worker knows of guest memory, it knows through a
//! burst, and a burst is a borrow of the locked ring (`gate`).
//!
//! Inside: [`split`] and `packed` walk the two layouts behind one enum, chosen once per burst;
//! [`tx`] and [`rx`] are what workers see.

pub(crate) mod call;
mod fill;
pub(crate) mod frame;
mod gate;
mod keep;
pub(crate) mod kick;
mod packed;
pub(crate) mod rx;
mod split;
pub(crate) mod tx;
mod walk;

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use virtio_bindings::{virtio_config, virtio_net, virtio_ring};

use crate::config::Offloads;
use crate::counters::RingCounters;
use crate::memory::{DirtyLog, GuestMemory};

use gate::Gate;
pub(crate) use keep::Keeper;
use kick::Kick;
use packed::PackedRing;
use split::SplitRing;
use walk::{Chain, Descriptor, Walk};

/// What `gate` is made of; `tests/model` has its own.
mod sync {
    pub(super) use std::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, Ordering},
    };
}

/// Why a ring was stopped: what the guest or its VMM did. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RingFault {
    /// The available index ran ahead by more than the ring's size.
    AvailableIndexJump = 1,
    /// A descriptor index lies outside of its table.
    DescriptorOutOfRange,
    /// A chain is longer than its ring, which is a loop, or longer than we follow.
    ChainTooLong,
    /// An indirect table where none was negotiated.
    IndirectNotNegotiated,
    /// An indirect table in an indirect table, or one that the chain continues after.
    IndirectNested,
    /// An indirect table whose length is no multiple of a descriptor's, empty or too long.
    IndirectLength,
    /// An indirect table outside of the guest's memory.
    IndirectAddress,
    /// The ring itself lies outside of the guest's memory.
    RingAddress,
    /// A ring size that the layout doesn't allow.
    RingSize,
    /// The frontend truncated a memory file that was in use.
    MemoryTruncated,
    /// A packed ring's position that can't be, or can't be restored.
    Position,
}

impl RingFault {
    const ALL: [Self; 11] = [
        Self::AvailableIndexJump,
        Self::DescriptorOutOfRange,
        Self::ChainTooLong,
        Self::IndirectNotNegotiated,
        Self::IndirectNested,
        Self::IndirectLength,
        Self::IndirectAddress,
        Self::RingAddress,
        Self::RingSize,
        Self::MemoryTruncated,
        Self::Position,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AvailableIndexJump => "available_index_jump",
            Self::DescriptorOutOfRange => "descriptor_out_of_range",
            Self::ChainTooLong => "chain_too_long",
            Self::IndirectNotNegotiated => "indirect_not_negotiated",
            Self::IndirectNested => "indirect_nested",
            Self::IndirectLength => "indirect_length",
            Self::IndirectAddress => "indirect_address",
            Self::RingAddress => "ring_address",
            Self::RingSize => "ring_size",
            Self::MemoryTruncated => "memory_truncated",
            Self::Position => "ring_position",
        }
    }
}

/// Features that the guest acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Negotiated(pub(crate) u64);

impl Negotiated {
    const fn has(self, number: u32) -> bool {
        self.0 >> number & 1 != 0
    }

    pub(crate) const fn version_1(self) -> bool {
        self.has(virtio_config::VIRTIO_F_VERSION_1)
    }

    pub(crate) const fn packed(self) -> bool {
        self.has(virtio_config::VIRTIO_F_RING_PACKED)
    }

    pub(crate) const fn event_idx(self) -> bool {
        self.has(virtio_ring::VIRTIO_RING_F_EVENT_IDX)
    }

    pub(crate) const fn in_order(self) -> bool {
        self.has(virtio_config::VIRTIO_F_IN_ORDER)
    }

    pub(crate) const fn indirect(self) -> bool {
        self.has(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC)
    }

    pub(crate) const fn mergeable(self) -> bool {
        self.has(virtio_net::VIRTIO_NET_F_MRG_RXBUF)
    }

    pub(crate) const fn log_all(self) -> bool {
        self.0 & crate::config::LOG_ALL != 0
    }

    pub(crate) const fn offloads(self) -> Offloads {
        Offloads::from_bits_truncate(self.0)
    }

    /// True if the guest may say anything in the headers of its frames: without these features
    /// it sends all zeros (section 5.1.6.2), and there is nothing to read.
    pub(crate) const fn sends_metadata(self) -> bool {
        self.offloads().intersects(
            Offloads::CSUM
                .union(Offloads::HOST_TSO4)
                .union(Offloads::HOST_TSO6)
                .union(Offloads::HOST_USO),
        )
    }
}

/// Addresses of a ring in the frontend's space, as SET_VRING_ADDR names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    pub(crate) descriptor: u64,
    /// Available ring, or the driver's event area of a packed ring.
    pub(crate) driver: u64,
    /// Used ring, or the device's event area of a packed ring.
    pub(crate) device: u64,
    /// Guest address by which writes to the used ring are logged, if they are.
    pub(crate) log: Option<u64>,
}

/// Everything that a ring needs to run.
pub(crate) struct RingPlan {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) features: Negotiated,
    pub(crate) size: u16,
    pub(crate) addresses: RingAddresses,
    /// Position, as SET_VRING_BASE gave it.
    pub(crate) base: u32,
    pub(crate) log: Option<Arc<DirtyLog>>,
    pub(crate) call: Option<Arc<OwnedFd>>,
    /// Where packed rings keep their positions, and this ring's index there.
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) index: usize,
}

/// One checked piece of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) address: NonNull<u8>,
    pub(crate) length: u32,
    pub(crate) guest: u64,
}

/// The two layouts. Matched once per burst, never per frame.
#[derive(Debug)]
pub(crate) enum Layout {
    Split(SplitRing),
    Packed(PackedRing),
}

/// Runs `$body` with `$ring` bound to the layout inside `$layout`.
macro_rules! with_layout {
    ($layout:expr, $ring:ident => $body:expr) => {
        match $layout {
            $crate::ring::Layout::Split($ring) => $body,
            $crate::ring::Layout::Packed($ring) => $body,
        }
    };
}
pub(crate) use with_layout;

/// A ring that runs.
pub(crate) struct Active {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) features: Negotiated,
    pub(crate) layout: Layout,
    pub(crate) log: Option<Arc<DirtyLog>>,
    pub(crate) call: Option<Arc<OwnedFd>>,
    /// The region that answered last.
    pub(crate) hint: usize,
}

impl Active {
    /// True once a file was found truncated under the memory or the log.
    pub(crate) fn is_truncated(&self) -> bool {
        self.memory.is_truncated() || self.log.as_ref().is_some_and(|log| log.is_truncated())
    }
}

/// What both layouts can do. Chains go back in the order in which they were walked.
pub(crate) trait RingLayout {
    /// Where the ring stands, as GET_VRING_BASE tells it.
    fn base(&self) -> u32;

    /// Forgets what was walked and not given back.
    fn rewind(&mut self);

    /// A lower bound of the chains that are available at the cursor; 0 only if there is none.
    /// A layout that can know more looks again unless it knows of `wanted`.
    fn available(&mut self, wanted: u16) -> Result<u16, RingFault>;

    /// Prefetches what a walk will read and write that begins here: `ready` chains are known
    /// to be available, up to `max` are wanted.
    fn prefetch(&self, ready: u16, max: u16);

    /// Prefetches for the next burst, when this one came to no end of what the guest offers: the
    /// lines are on their way while the worker does something else.
    fn look_ahead(&self, count: u16);

    /// The descriptor at the cursor, read once, and the id of its chain, if that ends with it.
    /// `None` if no chain is available.
    fn peek(&mut self) -> Result<Option<(Descriptor, u16)>, RingFault>;

    /// Moves the cursor over the chain at it, which is a single descriptor.
    fn step(&mut self);

    /// Walks the chain at the cursor, which [`peek`](Self::peek) told of, and moves the cursor.
    fn walk(&mut self, first: Descriptor, id: u16, walk: &mut Walk<'_>)
    -> Result<Chain, RingFault>;

    /// Makes sure that the next `count` chains given back become visible together.
    fn keep_together(&mut self, count: usize);

    /// Gives the oldest walked chain back, with `written` bytes in it. The guest sees it after
    /// [`publish`](Self::publish).
    fn give_back(&mut self, chain: &Chain, written: u32);

    /// Makes everything that was given back visible, and logs those writes. Returns whether the
    /// guest wants a call.
    fn publish(&mut self, log: Option<&DirtyLog>) -> bool;

    /// Asks the guest to kick for the next chain. True if there are chains already: for those,
    /// no kick comes. The write is logged.
    fn enable_notifications(&mut self, log: Option<&DirtyLog>) -> bool;

    /// Asks the guest not to kick.
    fn disable_notifications(&mut self, log: Option<&DirtyLog>);
}

/// What the lock guards.
#[derive(Default)]
pub(crate) struct RingState {
    pub(crate) active: Option<Active>,
    pub(crate) scratch: Scratch,
}

/// A burst's private memory, allocated once per ring.
pub(crate) struct Scratch {
    pub(crate) segments: Vec<Segment>,
    pub(crate) chains: Vec<Chain>,
    /// Guest TX only: filled by the first fetch.
    pub(crate) frames: Vec<frame::TxFrame>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            segments: Vec::with_capacity(crate::limits::SEGMENTS_MAX),
            chains: Vec::with_capacity(4 * crate::limits::BURST_MAX),
            frames: Vec::new(),
        }
    }
}

// SAFETY: the raw addresses inside point into mappings that `Active::memory` holds, or are
// leftovers in `Scratch` that every burst clears before it reads; the lock around this state
// gives it to one thread at a time.
unsafe impl Send for RingState {}

/// One ring of a port, for its whole life.
pub(crate) struct Ring {
    gate: Gate<RingState>,
    pub(crate) counters: RingCounters,
    pub(crate) kick: Kick,
    /// Wakes the session thread after a fault.
    alarm: Arc<OwnedFd>,
}

impl Ring {
    pub(crate) fn new(alarm: Arc<OwnedFd>) -> std::io::Result<Self> {
        Ok(Self {
            gate: Gate::new(RingState::default()),
            counters: RingCounters::default(),
            kick: Kick::new()?,
            alarm,
        })
    }

    /// True while the ring runs.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.gate.is_live()
    }

    /// The fault that stopped the ring, if one did.
    pub(crate) fn fault(&self) -> Option<RingFault> {
        let number = self.gate.fault();
        RingFault::ALL
            .into_iter()
            .find(|fault| *fault as u8 == number)
    }

    /// The worker's side: the ring if it runs and nobody holds it.
    #[inline]
    pub(crate) fn try_lock(&self) -> gate::Attempt<'_, RingState> {
        self.gate.try_enter()
    }

    /// Starts the ring.
    pub(crate) fn start(&self, plan: RingPlan) -> Result<(), RingFault> {
        let layout = if plan.features.packed() {
            Layout::Packed(PackedRing::new(&plan)?)
        } else {
            Layout::Split(SplitRing::new(&plan)?)
        };
        let active = Active {
            memory: plan.memory,
            features: plan.features,
            layout,
            log: plan.log,
            call: plan.call,
            hint: 0,
        };
        self.gate.start(|state| state.active = Some(active));
        Ok(())
    }

    /// Stops the ring and says where it stood. Afterwards nobody holds any of its ranges.
    pub(crate) fn stop(&self) -> Option<u32> {
        let active = self.gate.stop(|state| state.active.take());
        active.map(|active| with_layout!(&active.layout, ring => ring.base()))
    }

    /// Replaces the call descriptor of a running ring, and calls once through the new one: a
    /// call through the old one may have been lost.
    pub(crate) fn set_call(&self, call: Option<Arc<OwnedFd>>) {
        if let Some(active) = &mut self.gate.enter().active {
            active.call = call;
            if let Some(call) = &active.call {
                call::signal(call.as_fd());
            }
        }
    }

    /// Changes features and log of a running ring whose layout stays.
    pub(crate) fn set_logging(&self, features: Negotiated, log: Option<Arc<DirtyLog>>) {
        if let Some(active) = &mut self.gate.enter().active {
            active.features = features;
            active.log = log;
        }
    }

    /// The side of the worker who holds it: the guest broke the ring. The session thread takes it from here.
    ///
    /// The ring's state stays until then: dropping the memory may unmap it, which is no work
    /// for a worker.
    pub(crate) fn fail(&self, fault: RingFault) {
        self.gate.fail(fault as u8);
        self.counters.add_fault();
        kick::signal(self.alarm.as_fd());
    }

    /// Records a fault that the session thread found itself.
    pub(crate) fn set_fault(&self, fault: RingFault) {
        self.gate.fail(fault as u8);
        self.counters.add_fault();
    }
}
