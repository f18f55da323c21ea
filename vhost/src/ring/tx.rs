//! The guest TX ring: frames from the guest.
//!
//! In: chains that the guest made available. Out: frames, each with its offload header, a
//! private copy of its first bytes, and checked ranges for the rest.
//! Never: a copy of the payload, a decision on a second read, a range beyond the burst.
//!
//! One burst, in order:
//! 1. [`GuestTx::try_lock`] takes the ring.
//! 2. [`TxBurst::fetch`] walks the next chains. Nothing is consumed.
//! 3. The worker reads [`TxBurst::frame`] and uses [`TxBurst::ranges`] while it holds the burst.
//! 4. [`TxBurst::complete`] gives the first frames' buffers back, in order.
//! 5. Dropping the burst publishes them once and calls the guest if it asked for that.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::MutexGuard;

use culvert_wire::VnetHeader;

use crate::counters::RingCounters;
use crate::limits;
use crate::memory::raw;

use super::frame::{HEADER_LEN, Ranges, TxFrame, read_frame};
use super::gate::Attempt;
use super::walk::{Direction, Walk, walk_chains};
use super::{Active, Ring, RingFault, RingLayout, RingState, call, with_layout};

/// A port's guest TX ring.
pub struct GuestTx {
    pub(crate) ring: Ring,
}

impl std::fmt::Debug for GuestTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestTx")
            .field("live", &self.ring.is_live())
            .finish_non_exhaustive()
    }
}

impl GuestTx {
    pub(crate) fn new(ring: Ring) -> Self {
        Self { ring }
    }

    /// Takes the ring for a burst. `None` if it doesn't run, or the session thread or another
    /// worker has it just now.
    #[inline]
    pub fn try_lock(&self) -> Option<TxBurst<'_>> {
        match self.ring.try_lock() {
            Attempt::Locked(mut state) => {
                state.scratch.chains.clear();
                state.scratch.segments.clear();
                Some(TxBurst {
                    ring: &self.ring,
                    state,
                    frames: 0,
                    extra: 0,
                    completed_frames: 0,
                    completed_bytes: 0,
                    is_failed: false,
                })
            }
            Attempt::Busy | Attempt::NotReady => None,
        }
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

    /// A descriptor that is readable after the guest kicked this ring: the same one for the
    /// port's whole life. Sleep on it after [`TxBurst::enable_notifications`] said that nothing
    /// is pending.
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        self.ring.kick.as_fd()
    }

    /// Whether the guest has a way to kick this ring. If not, whoever sleeps must look at the ring
    /// every now and then.
    pub fn can_kick(&self) -> bool {
        self.ring.kick.is_set()
    }

    /// Takes the kicks that woke the worker.
    pub fn clear_kick(&self) {
        if self.ring.kick.clear() {
            self.ring.counters.add_kick();
        }
    }

    /// This ring's counters.
    pub fn counters(&self) -> &RingCounters {
        &self.ring.counters
    }
}

/// A guest TX ring held by one worker.
pub struct TxBurst<'a> {
    ring: &'a Ring,
    state: MutexGuard<'a, RingState>,
    /// Frames fetched.
    frames: usize,
    /// Descriptors followed and chains without a frame, in the last fetch.
    extra: usize,
    completed_frames: u64,
    completed_bytes: u64,
    is_failed: bool,
}

impl std::fmt::Debug for TxBurst<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxBurst")
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl TxBurst<'_> {
    /// Walks the next chains and copies their heads; returns the number of frames, at most
    /// `max` and [`limits::BURST_MAX`].
    ///
    /// Frames of an earlier fetch that were not completed come again. Chains that hold no
    /// usable frame are counted by reason and go back with the frames around them.
    pub fn fetch(&mut self, max: usize) -> usize {
        (self.frames, self.extra) = (0, 0);
        if self.is_failed {
            return 0;
        }
        let RingState { active, scratch } = &mut *self.state;
        let Some(active) = active.as_mut() else {
            return 0;
        };
        scratch.chains.clear();
        scratch.segments.clear();
        let max = max.min(limits::BURST_MAX);
        let metadata = active.features.sends_metadata();
        let walked = with_layout!(&mut active.layout, layout => {
            walk_chains(
                layout,
                max,
                Walk {
                    memory: &active.memory,
                    hint: &mut active.hint,
                    segments: &mut scratch.segments,
                    direction: Direction::Readable,
                    indirect: active.features.indirect(),
                    header: metadata,
                    followed: 0,
                },
                &mut scratch.chains,
            )
        });
        let followed = match walked {
            Ok(followed) => followed,
            Err(fault) => {
                // What came before the fault is abandoned too: the ring stops here.
                self.fail(fault);
                return 0;
            }
        };
        if scratch.frames.is_empty() {
            scratch.frames = vec![TxFrame::EMPTY; limits::BURST_MAX];
        }
        let mut frames = 0;
        for (index, chain) in scratch.chains.iter_mut().enumerate() {
            if chain.bad.is_none() {
                let segments = &scratch.segments[chain.segments()];
                let frame = &mut scratch.frames[frames];
                match read_frame(segments, chain.bytes, metadata, frame) {
                    Ok(()) => {
                        frame.first = chain.first as usize;
                        frame.count = chain.count as usize;
                        frame.chains = index + 1;
                        frames += 1;
                    }
                    Err(reason) => chain.bad = Some(reason),
                }
            }
        }
        self.frames = frames;
        self.extra = followed + scratch.chains.len() - frames;
        if frames == 0 {
            self.complete(0);
        }
        frames
    }

    /// What the last fetch has cost beyond the bytes of its frames, in bytes: a guest pays for the
    /// descriptors that it has us follow, and for chains that hold no frame.
    pub fn extra_cost(&self) -> u32 {
        u32::try_from(self.extra)
            .unwrap_or(u32::MAX)
            .saturating_mul(limits::FOLLOWED_COST)
    }

    /// Frame `index` of the last fetch.
    ///
    /// # Panics
    /// If `index` is not less than what [`fetch`](Self::fetch) returned.
    #[inline]
    pub fn frame(&self, index: usize) -> &TxFrame {
        assert!(index < self.frames, "a frame of the last fetch");
        &self.state.scratch.frames[index]
    }

    /// Takes off the VLAN tag that frame `index` is known to have, by its head: until the next fetch it is as if it
    /// had none.
    ///
    /// # Panics
    /// As [`frame`](Self::frame).
    pub fn untag(&mut self, index: usize) {
        assert!(index < self.frames, "a frame of the last fetch");
        self.state.scratch.frames[index].untag();
    }

    /// The checked ranges of guest memory that hold `len` bytes from `offset` of frame `index`
    /// (offset 0 is the Ethernet header; of a frame whose tag was taken off, from behind that header on). They stop
    /// early if the frame does.
    ///
    /// The ranges are valid for reads until the burst ends. The guest may rewrite them at any
    /// moment: read volatile or in assembly, never through a reference, and decide nothing.
    #[inline]
    pub fn ranges(&self, index: usize, offset: u32, len: u32) -> Ranges<'_> {
        let frame = self.frame(index);
        let left = len.min(frame.len.saturating_sub(offset));
        Ranges {
            segments: &self.state.scratch.segments[frame.first..frame.first + frame.count],
            skip: u64::from(offset) + u64::from(frame.left_out) + VnetHeader::LEN as u64,
            left,
        }
    }

    /// Copies bytes from `offset` of frame `index` and returns their number: less than asked
    /// for if the frame ends.
    pub fn copy(&self, index: usize, offset: u32, destination: &mut [u8]) -> usize {
        let len = u32::try_from(destination.len()).unwrap_or(u32::MAX);
        let mut done = 0;
        for (address, length) in self.ranges(index, offset, len) {
            let target = &mut destination[done..done + length];
            // SAFETY: the range is valid for reads while the burst lives; `target` is private
            // and just as long.
            unsafe { raw::copy(address.as_ptr(), target.as_mut_ptr(), length) };
            done += length;
        }
        done
    }

    /// Gives the buffers of the first `frames` frames of the last fetch back to the guest, with
    /// the unusable chains between them. The others stay in the ring. One call per fetch.
    pub fn complete(&mut self, frames: usize) {
        let frames = frames.min(self.frames);
        let RingState { active, scratch } = &mut *self.state;
        let Some(active) = active.as_mut() else {
            return;
        };
        // Unusable chains right behind the last completed frame go too.
        let mut chains = if frames == 0 {
            0
        } else {
            scratch.frames[frames - 1].chains
        };
        while scratch
            .chains
            .get(chains)
            .is_some_and(|chain| chain.bad.is_some())
        {
            chains += 1;
        }
        let mut bytes = 0;
        with_layout!(&mut active.layout, layout => {
            for chain in &scratch.chains[..chains] {
                layout.give_back(chain, 0);
                match chain.bad {
                    None => bytes += u64::from(chain.bytes - HEADER_LEN),
                    Some(reason) => self.ring.counters.add_drops(reason, 1),
                }
            }
            layout.rewind();
        });
        self.completed_frames += frames as u64;
        self.completed_bytes += bytes;
        scratch.chains.clear();
        self.frames = 0;
    }

    /// True if the guest has made more chains available than were completed.
    pub fn is_pending(&mut self) -> bool {
        if self.is_failed {
            return false;
        }
        let Some(active) = self.state.active.as_mut() else {
            return false;
        };
        let pending = with_layout!(&mut active.layout, layout => {
            layout.rewind();
            layout.available(1)
        });
        match pending {
            Ok(count) => count > 0,
            Err(fault) => {
                self.fail(fault);
                false
            }
        }
    }

    /// Asks the guest to kick for the next chain. True if work arrived meanwhile: then don't
    /// sleep.
    #[must_use = "a kick for work that is already there never comes"]
    pub fn enable_notifications(&mut self) -> bool {
        // What was completed in this burst must be visible before anyone sleeps on it.
        self.publish();
        let Some(active) = self.state.active.as_mut() else {
            return false;
        };
        let log = active.log.as_deref();
        with_layout!(&mut active.layout, layout => layout.enable_notifications(log))
    }

    /// Asks the guest not to kick, while the worker polls. Cheap if it was asked already.
    pub fn disable_notifications(&mut self) {
        if let Some(active) = self.state.active.as_mut() {
            let log = active.log.as_deref();
            with_layout!(&mut active.layout, layout => layout.disable_notifications(log));
        }
    }

    fn fail(&mut self, fault: RingFault) {
        self.is_failed = true;
        self.ring.fail(fault);
    }

    fn publish(&mut self) {
        if self.is_failed {
            return;
        }
        let Some(active) = self.state.active.as_mut() else {
            return;
        };
        publish(self.ring, active);
        if active.is_truncated() {
            self.fail(RingFault::MemoryTruncated);
        }
    }
}

impl Drop for TxBurst<'_> {
    fn drop(&mut self) {
        self.publish();
        if self.completed_frames > 0 {
            self.ring
                .counters
                .add_traffic(self.completed_frames, self.completed_bytes);
        }
        if let Some(active) = self.state.active.as_mut() {
            with_layout!(&mut active.layout, layout => layout.rewind());
        }
    }
}

/// Publishes what was given back and calls the guest if it asked for that.
pub(super) fn publish(ring: &Ring, active: &mut Active) {
    let log = active.log.as_deref();
    let wants_call = with_layout!(&mut active.layout, layout => layout.publish(log));
    if wants_call && let Some(call) = &active.call {
        call::signal(call.as_fd());
        ring.counters.add_call();
    }
}
