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
//! A ring is of bytes, so that it holds many small frames or a few long ones in the same room. Ahead of each frame stand
//! its length and its uplink.
//!
//! Threads: one [`KernelEnd`] per worker, one [`WorkerLane`] per worker at the thread; the host stacks' thread has a ring
//! of the same kind towards it.

use std::sync::Arc;

use culvert_wireguard::Instant;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    shared::{drops::DropReason, ids::UplinkIndex, limits, wake::Wake},
    worker::rate::Rate,
};

/// What stands ahead of a frame.
const AHEAD: usize = 8;

/// Frames go in here.
pub struct FrameSender(Producer<u8>);

/// And come out there.
pub struct FrameReceiver {
    ring: Consumer<u8>,
    /// For a frame that lies in two pieces.
    whole: Vec<u8>,
}

/// A ring of this many bytes.
#[must_use]
pub fn frames(bytes: usize) -> (FrameSender, FrameReceiver) {
    let (sender, ring) = RingBuffer::new(bytes);
    let whole = Vec::with_capacity(limits::FRAME_MAX);
    (FrameSender(sender), FrameReceiver { ring, whole })
}

impl FrameSender {
    /// Whether a frame of this length finds room.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.0.slots() >= AHEAD + len
    }

    /// Hands a frame over; `false` if it finds no room.
    pub fn push(&mut self, uplink: UplinkIndex, frame: &[u8]) -> bool {
        let Ok(len) = u32::try_from(frame.len()) else {
            return false;
        };
        if frame.len() > limits::FRAME_MAX || !self.has_room(frame.len()) {
            return false;
        }
        let mut ahead = [0; AHEAD];
        ahead[..4].copy_from_slice(&len.to_ne_bytes());
        ahead[4..].copy_from_slice(&uplink.0.to_ne_bytes());
        // There is room for both; whoever takes them waits for the second.
        let _ = self.0.push_entire_slice(&ahead);
        let _ = self.0.push_entire_slice(frame);
        true
    }
}

impl FrameReceiver {
    /// Shows the oldest frame to `look`, and lets it go.
    pub fn take<R>(&mut self, look: impl FnOnce(UplinkIndex, &[u8]) -> R) -> Option<R> {
        let (len, uplink) = self.next()?;
        let chunk = self.ring.read_chunk(AHEAD + len).ok()?;
        let (first, second) = chunk.as_slices();
        let frame = match (first.get(AHEAD..), second) {
            (Some(frame), []) => frame,
            _ => {
                self.whole.clear();
                self.whole.extend_from_slice(first);
                self.whole.extend_from_slice(second);
                &self.whole[AHEAD..]
            }
        };
        let answer = look(uplink, frame);
        chunk.commit_all();
        Some(answer)
    }

    /// The length and the uplink of the oldest frame that lies there whole.
    fn next(&mut self) -> Option<(usize, UplinkIndex)> {
        let mut ahead = [0; AHEAD];
        let chunk = self.ring.read_chunk(AHEAD).ok()?;
        let (first, second) = chunk.as_slices();
        ahead[..first.len()].copy_from_slice(first);
        ahead[first.len()..].copy_from_slice(second);
        let [a, b, c, d, e, f, g, h] = ahead;
        let len = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let uplink = UplinkIndex(u32::from_ne_bytes([e, f, g, h]));
        (self.ring.slots() >= AHEAD + len).then_some((len, uplink))
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

/// A worker's end of frames for the kernel.
pub struct ToKernel {
    frames: FrameSender,
    rate: Rate,
    bell: Arc<Wake>,
    /// Something was pushed that the thread was not told of.
    untold: bool,
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
        self.untold |= taken;
        taken.then_some(()).ok_or(DropReason::ExceptionQueueFull)
    }

    /// Tells the thread of what was pushed; whether anything was.
    pub fn ring(&mut self) -> bool {
        let untold = std::mem::take(&mut self.untold);
        if untold {
            self.bell.notify();
        }
        untold
    }
}

/// A worker's end.
pub struct KernelEnd {
    /// Frames for the kernel.
    pub to_kernel: ToKernel,
    /// Frames that it sends.
    pub from_kernel: FrameReceiver,
}

/// The thread's end of one worker.
pub struct WorkerLane {
    /// Frames for the kernel.
    pub to_kernel: FrameReceiver,
    from_kernel: FrameSender,
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
    pub fn ring(&self) {
        self.worker.notify();
    }
}

/// The link of the worker that is woken by `worker`; `thread` wakes the exception path's.
#[must_use]
pub fn link(worker: Arc<Wake>, thread: Arc<Wake>, now: Instant) -> (KernelEnd, WorkerLane) {
    let (to_kernel, for_kernel) = frames(limits::EXCEPTION_RING);
    let (from_kernel, of_kernel) = frames(limits::EXCEPTION_RING);
    let end = KernelEnd {
        to_kernel: ToKernel {
            frames: to_kernel,
            rate: Rate::new(limits::EXCEPTION_AT_ONCE, now),
            bell: thread,
            untold: false,
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
    fn frames_of_any_length_come_out_as_they_went_in() {
        let (mut sender, mut receiver) = frames(1_000);
        assert!(receiver.is_empty() && receiver.take(|_, _| ()).is_none());
        // Lengths that the ring is no multiple of: frames and what stands ahead of them are cut anywhere.
        for turn in 0..2_000_u32 {
            let lens = [turn % 97, (turn * 7) % 301, 0];
            let made = |n: u32| vec![(turn + n).to_le_bytes()[0]; n as usize];
            for len in lens {
                assert!(sender.push(UplinkIndex(turn), &made(len)));
            }
            for len in lens {
                let same = receiver.take(|uplink, frame| (uplink.0, frame == made(len)));
                assert_eq!(same, Some((turn, true)));
            }
        }
        assert!(receiver.is_empty());
        assert!(!sender.push(UPLINK, &[0; 993]) && sender.push(UPLINK, &[0; 992]));
        assert!(!sender.push(UPLINK, &[]) && !sender.has_room(0));
        assert_eq!(receiver.take(|_, frame| frame.len()), Some(992));
    }

    #[test]
    fn a_flood_is_lost_by_name_and_told_once() {
        let [worker, thread] = [(); 2].map(|()| Arc::new(Wake::new().unwrap()));
        let (mut end, mut lane) = link(Arc::clone(&worker), Arc::clone(&thread), at(0));
        let mut lost = Vec::new();
        for _ in 0..10_000 {
            lost.extend(end.to_kernel.push(UPLINK, &[0; 60], at(0)).err());
        }
        assert!(lost.iter().all(|it| *it == DropReason::ExceptionQueueFull));
        let taken = std::iter::from_fn(|| lane.to_kernel.take(|_, _| ())).count();
        assert_eq!(taken, limits::EXCEPTION_AT_ONCE as usize);
        assert_eq!(taken + lost.len(), 10_000);
        thread.announce();
        assert!(end.to_kernel.ring() && thread.is_rung());
        assert!(!end.to_kernel.ring(), "told already");

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
            taken += std::iter::from_fn(|| lane.to_kernel.take(|_, _| ())).count();
        }
        let most = (limits::EXCEPTION_PER_SECOND + limits::EXCEPTION_AT_ONCE) as usize;
        assert!(
            (1_000_000_000 / 8 / 1_514..=most).contains(&taken),
            "{taken}"
        );
    }
}
