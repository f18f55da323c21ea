//! The guest RX ring: frames to the guest.
//!
//! In: frames with offload metadata, as private bytes or as ranges of another guest's memory.
//! Out: filled buffers, given back in order, published once per burst.
//! Never: a wait for buffers: a ring without room is a named drop.
//!
//! ```text
//!   frame    | header 12 | part 0 | part 1 ... |
//!   buffers  | chain 0, full | chain 1, full | chain 2, the rest |     (MRG_RXBUF)
//!            | chain 0, the rest |                                     (without)
//! ```

use std::ptr::NonNull;
use std::sync::MutexGuard;

use culvert_wire::VnetHeader;

use crate::config::Offloads;
use crate::counters::{PortDrop, RingCounters};
use crate::limits;
use crate::memory::raw;

use super::fill::{Writer, words_of};
use super::frame::HEADER_LEN;
use super::gate::Attempt;
use super::tx::publish;
use super::walk::{Direction, Walk, walk_chains};
use super::{Ring, RingFault, RingLayout, RingState, with_layout};

/// Spins that [`GuestRx::lock_briefly`] makes before it gives up: some microseconds, which is
/// about one burst of another worker's.
const SPINS: u32 = 2000;
/// Chains walked ahead of need, so that their buffers are on the way into the cache.
const STAGE: u16 = 32;

/// A port's guest RX ring.
pub struct GuestRx {
    pub(crate) ring: Ring,
}

impl std::fmt::Debug for GuestRx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRx")
            .field("live", &self.ring.is_live())
            .finish_non_exhaustive()
    }
}

impl GuestRx {
    pub(crate) fn new(ring: Ring) -> Self {
        Self { ring }
    }

    /// Takes the ring for a burst, or says at once why not
    /// ([`PortDrop::NotReady`] or [`PortDrop::Busy`]).
    ///
    /// # Errors
    /// The reason by which the caller drops the burst's frames.
    #[inline]
    pub fn try_lock(&self) -> Result<RxBurst<'_>, PortDrop> {
        match self.ring.try_lock() {
            Attempt::Locked(mut state) => {
                state.scratch.chains.clear();
                state.scratch.segments.clear();
                Ok(RxBurst {
                    ring: &self.ring,
                    state,
                    staged: 0,
                    followed: 0,
                    frames: 0,
                    bytes: 0,
                    expected: usize::from(STAGE),
                    is_dry: false,
                    is_failed: false,
                })
            }
            Attempt::Busy => Err(PortDrop::Busy),
            Attempt::NotReady => Err(PortDrop::NotReady),
        }
    }

    /// Like [`try_lock`](Self::try_lock), but waits a few microseconds for another worker's
    /// burst, and once lets others have this processor: that worker may be waiting for one, if
    /// it has none of its own.
    ///
    /// # Errors
    /// As [`try_lock`](Self::try_lock).
    pub fn lock_briefly(&self) -> Result<RxBurst<'_>, PortDrop> {
        for _ in 0..SPINS {
            match self.try_lock() {
                Err(PortDrop::Busy) => std::hint::spin_loop(),
                other => return other,
            }
        }
        std::thread::yield_now();
        self.try_lock()
    }

    /// True while the ring runs (a look without the lock).
    #[inline]
    pub fn is_live(&self) -> bool {
        self.ring.is_live()
    }

    /// The fault that stopped the ring, if one did.
    pub fn fault(&self) -> Option<RingFault> {
        self.ring.fault()
    }

    /// This ring's counters.
    pub fn counters(&self) -> &RingCounters {
        &self.ring.counters
    }
}

/// A guest RX ring held by one worker. Dropping it publishes the frames and calls the guest.
pub struct RxBurst<'a> {
    ring: &'a Ring,
    state: MutexGuard<'a, RingState>,
    /// Chains of the scratch that are used up.
    staged: usize,
    /// Descriptors followed in this burst.
    followed: u64,
    frames: u64,
    bytes: u64,
    expected: usize,
    /// The guest's buffers ran out.
    is_dry: bool,
    is_failed: bool,
}

impl std::fmt::Debug for RxBurst<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RxBurst")
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl RxBurst<'_> {
    /// What the guest accepts: the `GUEST_*` offloads that it acknowledged. Read it per burst;
    /// a rebooted guest may have changed its mind.
    pub fn offloads(&self) -> Offloads {
        let accepted = Offloads::GUEST_CSUM
            | Offloads::GUEST_TSO4
            | Offloads::GUEST_TSO6
            | Offloads::GUEST_ECN
            | Offloads::GUEST_USO4
            | Offloads::GUEST_USO6;
        self.state
            .active
            .as_ref()
            .map_or(Offloads::empty(), |active| {
                active.features.offloads() & accepted
            })
    }

    /// True if a frame may fill several buffers. Without it, frames of more than the guest's
    /// buffer size (often 1526 bytes with the header) are dropped by name.
    pub fn is_mergeable(&self) -> bool {
        self.state
            .active
            .as_ref()
            .is_some_and(|active| active.features.mergeable())
    }

    /// Says how many frames will be delivered, so that no more buffers are looked at ahead.
    pub fn expect(&mut self, frames: usize) {
        self.expected = frames.clamp(1, usize::from(STAGE));
    }

    /// Delivers one frame, given as pieces of private memory.
    ///
    /// # Errors
    /// The reason, already counted, if the frame was dropped.
    pub fn deliver(&mut self, vnet: &VnetHeader, parts: &[&[u8]]) -> Result<(), PortDrop> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        if let Some(target) = self.place_alone(vnet, len) {
            let mut target = target.as_ptr();
            for part in parts {
                // SAFETY: the parts are as long together as what was taken for them; private
                // memory is disjoint from the guest's.
                unsafe {
                    raw::copy(part.as_ptr(), target, part.len());
                    target = target.add(part.len());
                }
            }
            return Ok(());
        }
        self.place(vnet, len, |writer| {
            for part in parts {
                // SAFETY: it is a slice of private memory, which is disjoint from the guest's.
                unsafe { writer.write(part.as_ptr(), part.len()) };
            }
        })
    }

    /// Delivers one frame whose first bytes are `head` and whose rest lies in `ranges`, of this
    /// or another guest's memory.
    ///
    /// # Safety
    /// Every range is valid for reads during the call (a [`TxBurst`](super::tx::TxBurst) that
    /// is alive vouches for its own), and none overlaps buffers that this ring's guest offered
    /// for writing unless the guest itself arranged that.
    ///
    /// # Errors
    /// The reason, already counted, if the frame was dropped.
    pub unsafe fn deliver_ranges(
        &mut self,
        vnet: &VnetHeader,
        head: &[u8],
        ranges: impl Iterator<Item = (NonNull<u8>, usize)> + Clone,
    ) -> Result<(), PortDrop> {
        let len = head.len() as u64 + ranges.clone().map(|(_, length)| length as u64).sum::<u64>();
        self.place(vnet, len, |writer| {
            // SAFETY: the head is a slice of private memory; for the ranges the caller vouches.
            unsafe {
                writer.write(head.as_ptr(), head.len());
                for (address, length) in ranges {
                    writer.write(address.as_ptr(), length);
                }
            }
        })
    }

    /// The usual shape: the next chain is known, is a single segment and holds the frame. Writes
    /// the header, gives the chain back, and returns where the frame goes: the guest doesn't
    /// look there before the burst is published.
    #[inline]
    fn place_alone(&mut self, vnet: &VnetHeader, len: u64) -> Option<NonNull<u8>> {
        let RingState { active, scratch } = &mut *self.state;
        let chain = scratch.chains.get(self.staged)?;
        let need = len + VnetHeader::LEN as u64;
        if self.is_failed
            || chain.bad.is_some()
            || chain.count != 1
            || need > u64::from(chain.bytes)
            || len > u64::from(limits::FRAME_MAX)
        {
            return None;
        }
        // What is logged is logged after it was written: elsewhere.
        let active = active.as_mut().filter(|active| active.log.is_none())?;
        let segment = scratch.segments.get(chain.first as usize)?;
        let (low, high) = words_of(vnet, 1);
        // SAFETY: the segment is all of the chain, so it holds header and frame, and was checked
        // for this burst.
        let target = unsafe {
            let header = segment.address.as_ptr();
            if raw::header_words(header) != (low, high) {
                raw::store_header_words(header, low, high);
            }
            segment.address.add(VnetHeader::LEN)
        };
        #[allow(clippy::cast_possible_truncation, reason = "at most the frame's limit")]
        let written = need as u32;
        with_layout!(&mut active.layout, layout => {
            layout.keep_together(1);
            layout.give_back(chain, written);
        });
        self.staged += 1;
        self.frames += 1;
        self.bytes += len;
        Some(target)
    }

    /// Takes buffers for a frame of `len` bytes, writes its header, lets `fill` write the rest,
    /// and gives the buffers back.
    fn place(
        &mut self,
        vnet: &VnetHeader,
        len: u64,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), PortDrop> {
        let outcome = self.place_uncounted(vnet, len, fill);
        match outcome {
            Ok(()) => {
                self.frames += 1;
                self.bytes += len;
            }
            Err(reason) => self.ring.counters.add_drops(reason, 1),
        }
        outcome
    }

    fn place_uncounted(
        &mut self,
        vnet: &VnetHeader,
        len: u64,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), PortDrop> {
        if self.is_failed {
            return Err(PortDrop::NotReady);
        }
        if len > u64::from(limits::FRAME_MAX) {
            return Err(PortDrop::FrameTooBig);
        }
        let need = len + VnetHeader::LEN as u64;
        // 1. Chains enough for header and frame.
        let (first, count) = self.gather(need)?;
        let RingState { active, scratch } = &mut *self.state;
        let Some(active) = active.as_mut() else {
            return Err(PortDrop::NotReady);
        };
        let chains = &scratch.chains[first..first + count];
        // 2. The header says how many.
        let start = chains[0].segments().start;
        let end = chains[count - 1].segments().end;
        let mut writer = Writer {
            segments: &scratch.segments[start..end],
            offset: 0,
            log: active.log.as_deref(),
        };
        writer.write_header(vnet, u16::try_from(count).unwrap_or(u16::MAX));
        fill(&mut writer);
        // 3. All but the last go back full.
        let mut left = need;
        with_layout!(&mut active.layout, layout => {
            layout.keep_together(count);
            for chain in chains {
                let written = u64::from(chain.bytes).min(left);
                left -= written;
                #[allow(clippy::cast_possible_truncation, reason = "at most the frame's limit")]
                layout.give_back(chain, written as u32);
            }
        });
        self.staged += count;
        Ok(())
    }

    /// Makes sure that staged chains hold `need` bytes; returns the first one's index and how
    /// many they are.
    fn gather(&mut self, need: u64) -> Result<(usize, usize), PortDrop> {
        let is_mergeable = self.is_mergeable();
        loop {
            let mut sum = 0u64;
            let mut count = 0;
            let mut is_bad = false;
            for chain in &self.state.scratch.chains[self.staged..] {
                count += 1;
                // The header must lie in the first chain, and every chain must help.
                let least = if count == 1 { HEADER_LEN } else { 1 };
                if chain.bad.is_some() || chain.bytes < least {
                    is_bad = true;
                    break;
                }
                sum += u64::from(chain.bytes);
                if sum >= need {
                    return Ok((self.staged, count));
                }
                if !is_mergeable || count == limits::FRAME_CHAINS_MAX {
                    return Err(PortDrop::FrameTooBig);
                }
            }
            if is_bad {
                self.discard(count);
                return Err(PortDrop::BadBuffer);
            }
            self.stage()?;
        }
    }

    /// Gives `count` staged chains back empty: one of them is unusable.
    fn discard(&mut self, count: usize) {
        let RingState { active, scratch } = &mut *self.state;
        let Some(active) = active.as_mut() else {
            return;
        };
        let chains = &scratch.chains[self.staged..self.staged + count];
        with_layout!(&mut active.layout, layout => {
            for chain in chains {
                layout.give_back(chain, 0);
            }
        });
        self.staged += count;
    }

    /// Walks more chains, behind those that are staged. For frames that it takes, a guest may have
    /// us follow descriptors; for those that it loses, no more than one walk's.
    fn stage(&mut self) -> Result<(), PortDrop> {
        let earned = limits::FRAME_FOLLOWED_MAX * self.frames;
        if self.followed.saturating_sub(earned) > limits::CHAIN_MAX as u64 {
            return Err(PortDrop::BadBuffer);
        }
        let RingState { active, scratch } = &mut *self.state;
        let Some(active) = active.as_mut() else {
            return Err(PortDrop::NotReady);
        };
        if self.staged == scratch.chains.len() {
            // Nothing is left of the old ones: start over in the same memory.
            scratch.chains.clear();
            scratch.segments.clear();
            self.staged = 0;
        }
        let before = scratch.chains.len();
        let walked = with_layout!(&mut active.layout, layout => {
            walk_chains(
                layout,
                self.expected,
                Walk {
                    memory: &active.memory,
                    hint: &mut active.hint,
                    segments: &mut scratch.segments,
                    direction: Direction::Writable,
                    indirect: active.features.indirect(),
                    header: true,
                    followed: 0,
                },
                &mut scratch.chains,
            )
        });
        self.followed += walked.as_ref().map_or(0, |&followed| followed as u64);
        match walked {
            Ok(_) if scratch.chains.len() > before => Ok(()),
            Ok(_) if before > self.staged && scratch.segments.len() > limits::CHAIN_MAX => {
                // The scratch is full of buffers too small for any frame.
                Err(PortDrop::FrameTooBig)
            }
            Ok(_) => {
                self.is_dry = true;
                Err(PortDrop::RingFull)
            }
            Err(fault) => {
                self.is_failed = true;
                self.ring.fail(fault);
                Err(PortDrop::NotReady)
            }
        }
    }
}

impl Drop for RxBurst<'_> {
    fn drop(&mut self) {
        let Some(active) = self.state.active.as_mut() else {
            return;
        };
        if !self.is_failed {
            publish(self.ring, active);
            if active.is_truncated() {
                self.ring.fail(RingFault::MemoryTruncated);
            }
        }
        with_layout!(&mut active.layout, layout => {
            layout.rewind();
            if self.frames >= u64::from(STAGE) && !self.is_dry && !self.is_failed {
                layout.look_ahead(STAGE);
            }
        });
        if self.frames > 0 {
            self.ring.counters.add_traffic(self.frames, self.bytes);
        }
    }
}
