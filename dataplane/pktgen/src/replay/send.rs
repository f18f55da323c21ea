//! Sending a capture: at the times it was captured, faster, slower, or at a rate.
//!
//! In: a capture, the time. Out: its frames, in order, again and again; what was sent and what its time passed of. Never: a
//! change to a frame: it has no signature, and what comes of it is counted by the device alone.

use super::Capture;
use crate::limits::SKIPPED_AT_ONCE;
use crate::pace::Pace;
use crate::transmit::Sent;

/// When frames leave.
#[derive(Clone, Debug)]
pub enum Times {
    /// As they were captured, at a multiple of the speed.
    Captured {
        /// 1: as captured; 2: in half of the time.
        speed: f64,
    },
    /// At a pace of its own.
    Paced(Pace),
}

/// A capture that is sent.
#[derive(Clone, Debug)]
pub struct Replay {
    capture: Capture,
    times: Times,
    rounds: u64,
    round: u64,
    place: usize,
    catch_up_ns: u64,
    sent: Sent,
}

impl Replay {
    /// From its first frame, so many times; a pace ends by itself before.
    #[must_use]
    pub const fn new(capture: Capture, times: Times, rounds: u64, catch_up_ns: u64) -> Self {
        Self {
            capture,
            times,
            rounds,
            round: 0,
            place: 0,
            catch_up_ns,
            sent: Sent {
                intended: 0,
                offered: 0,
                sent: 0,
                unsent: 0,
                own_unsent: 0,
                bare_bytes: 0,
            },
        }
    }

    /// When the next frame is due.
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        if self.round == self.rounds {
            return None;
        }
        match &self.times {
            Times::Paced(pace) => pace.due_ns(),
            Times::Captured { speed } => {
                let (_, captured_ns) = self.capture.frame(self.place)?;
                let before = self.round as f64 * self.round_ns() as f64;
                Some(crate::number::whole((before + captured_ns as f64) / speed))
            }
        }
    }

    /// The next frame whose time has come, and its intended time.
    pub fn next(&mut self, now_ns: u64) -> Option<(&[u8], u64)> {
        let mut due = self.due_ns().filter(|&due| due <= now_ns)?;
        let mut skipped = 0;
        while due + self.catch_up_ns < now_ns {
            self.count(false);
            skipped += 1;
            if skipped == SKIPPED_AT_ONCE {
                return None;
            }
            due = self.due_ns().filter(|&due| due <= now_ns)?;
        }
        let place = self.place;
        self.count(true);
        self.capture.frame(place).map(|(frame, _)| (frame, due))
    }

    /// The device did not take the frame that was given last.
    pub const fn refused(&mut self, len: usize) {
        self.sent.sent -= 1;
        self.sent.unsent += 1;
        self.sent.bare_bytes -= len as u64;
    }

    /// What was sent.
    #[must_use]
    pub const fn sent(&self) -> Sent {
        self.sent
    }

    /// The distance between two rounds: as long as the capture, and its mean gap; a nanosecond a frame at least, so that a
    /// capture without times goes on in time.
    fn round_ns(&self) -> u64 {
        let last = self.capture.len().saturating_sub(1);
        let whole = self.capture.frame(last).map_or(0, |(_, ns)| ns);
        (whole + whole / (last.max(1) as u64)).max(self.capture.len() as u64)
    }

    fn count(&mut self, offered: bool) {
        let len = self
            .capture
            .frame(self.place)
            .map_or(0, |(frame, _)| frame.len());
        self.sent.intended += 1;
        if offered {
            self.sent.offered += 1;
            self.sent.sent += 1;
            self.sent.bare_bytes += len as u64;
        } else {
            self.sent.unsent += 1;
        }
        if let Times::Paced(pace) = &mut self.times {
            pace.take();
        }
        self.place += 1;
        if self.place == self.capture.len() {
            self.place = 0;
            self.round += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Shape;
    use crate::replay::Room;

    /// Three frames, at 0, 1 and 3 ms.
    fn capture() -> Capture {
        let mut file = [0xa1b2_3c4du32, 0, 0, 0, 65_535, 1]
            .map(u32::to_le_bytes)
            .concat();
        for (ns, fill) in [(0u32, 1u8), (1_000_000, 2), (3_000_000, 3)] {
            file.extend([5, ns, 60, 60].map(u32::to_le_bytes).concat());
            file.extend([fill; 60]);
        }
        Capture::read(&mut &file[..], Room::default()).unwrap()
    }

    fn all(mut replay: Replay, step: usize) -> (Vec<(u8, u64)>, Sent) {
        let mut frames = Vec::new();
        for now in (0..100_000_000).step_by(step) {
            while let Some((frame, due)) = replay.next(now) {
                frames.push((frame[0], due / 1000));
            }
        }
        (frames, replay.sent())
    }

    #[test]
    fn frames_leave_as_they_were_captured() {
        let replay = Replay::new(capture(), Times::Captured { speed: 2.0 }, 2, 1_000_000);
        let (frames, sent) = all(replay, 1000);
        // A round is 3 ms and a mean gap of 1.5 ms.
        assert_eq!(
            frames,
            [(1, 0), (2, 500), (3, 1500), (1, 2250), (2, 2750), (3, 3750)]
        );
        assert_eq!((sent.intended, sent.sent, sent.bare_bytes), (6, 6, 360));
    }

    #[test]
    fn a_capture_without_times_goes_on() {
        let mut file = [0xa1b2_3c4du32, 0, 0, 0, 65_535, 1]
            .map(u32::to_le_bytes)
            .concat();
        file.extend([5, 0, 60, 60].map(u32::to_le_bytes).concat());
        file.extend([1; 60]);
        let capture = Capture::read(&mut &file[..], Room::default()).unwrap();
        let mut replay = Replay::new(capture, Times::Captured { speed: 1.0 }, u64::MAX, 0);
        // More than one call steps over.
        assert!(replay.next(10_000_000).is_none());
        assert_eq!(replay.sent().unsent, u64::from(SKIPPED_AT_ONCE));
    }

    #[test]
    fn frames_leave_at_a_rate_and_what_is_late_is_unsent() {
        let pace = Pace::new(Shape::Constant, 10_000.0, 1_000_000, 0, 1);
        let (frames, sent) = all(
            Replay::new(capture(), Times::Paced(pace.clone()), 100, 50_000),
            1000,
        );
        assert_eq!(frames[..4], [(1, 0), (2, 100), (3, 200), (1, 300)]);
        assert_eq!((frames.len(), sent.unsent), (10, 0));
        let (frames, mut sent) = all(
            Replay::new(capture(), Times::Paced(pace), 100, 50_000),
            400_000,
        );
        assert_eq!(
            frames.iter().map(|it| it.1).collect::<Vec<_>>(),
            [0, 400, 800]
        );
        assert_eq!((sent.intended, sent.unsent), (10, 7));
        sent.add(&Sent::default());
    }
}
