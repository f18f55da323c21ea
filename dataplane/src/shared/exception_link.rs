//! Between workers and the thread of the exception path: frames for the host's kernel, and frames that it sends.
//!
//! In: frames, each with its uplink. Out: the same at the other end, in order. Never: a wait; an allocation per frame; the
//! host stacks' rings.
//!
//! ```text
//!  a worker ── rate ─▶ 1 MiB ─▶ thread ─▶ the uplink's TAP      what finds no room: exception-queue-full
//!           ◀───────── 1 MiB ◀─ thread ◀─ the uplink's TAP      what finds no room stays in the TAP
//! ```
//!
//! Threads: one [`KernelEnd`] per worker, one [`WorkerLane`] per worker at the thread; the host stacks' thread has a ring
//! of the same kind towards it.

use std::sync::Arc;

use crate::{
    shared::{
        drops::DropReason,
        frames::{FrameReceiver, FrameSender, frames},
        ids::UplinkIndex,
        limits,
        wake::Wake,
    },
    worker::rate::Rate,
};
use culvert_wireguard::Instant;

/// A worker's end of frames for the kernel.
pub struct ToKernel {
    frames: FrameSender<UplinkIndex>,
    rate: Rate,
    bell: Arc<Wake>,
}

impl ToKernel {
    /// Hands a frame over.
    ///
    /// # Errors
    /// Under which name it is lost.
    pub fn push(
        &mut self,
        uplink: UplinkIndex,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let taken =
            self.rate.take(limits::EXCEPTION_PER_SECOND, now) && self.frames.push(uplink, frame);
        taken.then_some(()).ok_or(DropReason::ExceptionQueueFull)
    }

    /// Tells the thread of what was pushed; whether anything was.
    pub fn ring(&mut self) -> bool {
        let is_news = self.frames.tell();
        if is_news {
            self.bell.notify();
        }
        is_news
    }
}

/// A worker's end.
pub struct KernelEnd {
    /// Frames for the kernel.
    pub to_kernel: ToKernel,
    /// Frames that it sends.
    pub from_kernel: FrameReceiver<UplinkIndex>,
}

/// The thread's end of one worker.
pub struct WorkerLane {
    /// Frames for the kernel.
    pub to_kernel: FrameReceiver<UplinkIndex>,
    from_kernel: FrameSender<UplinkIndex>,
    worker: Arc<Wake>,
}

impl WorkerLane {
    /// Whether the worker has room for a frame of this length.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.from_kernel.has_room(len)
    }

    /// Has the worker send a frame, of which it is told by [`Self::ring`].
    pub fn send(&mut self, uplink: UplinkIndex, frame: &[u8]) -> bool {
        self.from_kernel.push(uplink, frame)
    }

    /// Tells the worker that there is something to send.
    pub fn ring(&mut self) {
        self.from_kernel.tell();
        self.worker.notify();
    }
}

/// The link of the worker that is woken by `worker`; `thread` wakes the exception path's.
#[must_use]
pub fn link(worker: Arc<Wake>, thread: Arc<Wake>, now: Instant) -> (KernelEnd, WorkerLane) {
    // Frames are not shorter.
    let count = limits::EXCEPTION_RING / 64;
    let (to_kernel, for_kernel) = frames(count, limits::EXCEPTION_RING);
    let (from_kernel, of_kernel) = frames(count, limits::EXCEPTION_RING);
    let end = KernelEnd {
        to_kernel: ToKernel {
            frames: to_kernel,
            rate: Rate::new(limits::EXCEPTION_AT_ONCE, now),
            bell: thread,
        },
        from_kernel: of_kernel,
    };
    let lane = WorkerLane {
        to_kernel: for_kernel,
        from_kernel,
        worker,
    };
    (end, lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: UplinkIndex = UplinkIndex(3);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_flood_is_lost_by_name_and_told_once() {
        let [worker, thread] = [(); 2].map(|()| Arc::new(Wake::new().unwrap()));
        let (mut end, mut lane) = link(Arc::clone(&worker), Arc::clone(&thread), at(0));
        let mut lost = Vec::new();
        for _ in 0..10_000 {
            lost.extend(end.to_kernel.push(UPLINK, &[0; 60], at(0)).err());
        }
        thread.announce();
        assert!(end.to_kernel.ring() && thread.is_rung());
        assert!(!end.to_kernel.ring(), "told already");
        assert!(lost.iter().all(|it| *it == DropReason::ExceptionQueueFull));
        let taken = std::iter::from_fn(|| lane.to_kernel.take(|_, _| ())).count();
        assert_eq!(taken, limits::EXCEPTION_AT_ONCE as usize);
        assert_eq!(taken + lost.len(), 10_000);

        // Long ones fill the ring ahead of the rate, and what the kernel sends has a ring of its own.
        while end.to_kernel.push(UPLINK, &[0; 1_514], at(1_000)).is_ok() {}
        assert!(lane.has_room(1_514) && lane.send(UPLINK, &[7; 1_514]));
        worker.announce();
        lane.ring();
        assert!(worker.is_rung());
        assert_eq!(end.from_kernel.take(|_, frame| frame.len()), Some(1_514));
    }

    #[test]
    fn a_second_has_what_a_gigabit_takes_and_no_more() {
        let wake = || Arc::new(Wake::new().unwrap());
        let (mut end, mut lane) = link(wake(), wake(), at(0));
        let mut taken = 0;
        for millis in 0..1_000 {
            for _ in 0..400 {
                let _ = end.to_kernel.push(UPLINK, &[0; 1_514], at(millis));
            }
            end.to_kernel.ring();
            taken += std::iter::from_fn(|| lane.to_kernel.take(|_, _| ())).count();
        }
        let most = (limits::EXCEPTION_PER_SECOND + limits::EXCEPTION_AT_ONCE) as usize;
        assert!(
            (1_000_000_000 / 8 / 1_514..=most).contains(&taken),
            "{taken}"
        );
    }
}
