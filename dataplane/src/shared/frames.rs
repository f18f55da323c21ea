//! Frames from one thread to another, in order.
//!
//! In: frames, each with what it belongs to. Out: the same at the other end. Never: a wait; an allocation per frame; half
//! a frame.
//!
//! Bytes lie in a ring of their own, back to back, so that it holds many small frames or a few long ones in the same room
//! and who sends writes these alone; heads lie in another. Heads are shown all at once when the sender tells of them: a
//! processor that looks for the next one takes a line of memory from the one that writes there, and that costs more than a
//! frame.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::shared::limits;

#[derive(Clone, Copy)]
struct Head<T> {
    tag: T,
    len: usize,
}

/// Frames go in here.
pub struct FrameSender<T> {
    bytes: Producer<u8>,
    heads: Producer<Head<T>>,
    /// What the other end was not told of.
    untold: Vec<Head<T>>,
    /// At least so many heads find room, the untold among them.
    room: usize,
}

/// And come out there.
pub struct FrameReceiver<T> {
    bytes: Consumer<u8>,
    heads: Consumer<Head<T>>,
    /// For a frame that lies in two pieces.
    whole: Vec<u8>,
}

/// Rings for so many frames, and so many bytes.
#[must_use]
pub fn frames<T: Copy>(count: usize, bytes: usize) -> (FrameSender<T>, FrameReceiver<T>) {
    let (to_heads, heads) = RingBuffer::new(count);
    let (to_bytes, bytes) = RingBuffer::new(bytes);
    let sender = FrameSender {
        bytes: to_bytes,
        heads: to_heads,
        untold: Vec::with_capacity(count),
        room: count,
    };
    let whole = Vec::with_capacity(limits::FRAME_MAX);
    let receiver = FrameReceiver {
        bytes,
        heads,
        whole,
    };
    (sender, receiver)
}

impl<T: Copy> FrameSender<T> {
    /// Whether a frame of this length finds room.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.heads.slots() > self.untold.len() && self.bytes.slots() >= len
    }

    /// Takes a frame, which the other end sees when it is told; `false` if it finds no room.
    pub fn push(&mut self, tag: T, frame: &[u8]) -> bool {
        if self.untold.len() == self.room {
            self.room = self.heads.slots();
        }
        let len = frame.len();
        let is_taken = len <= limits::FRAME_MAX
            && self.untold.len() < self.room
            && self.bytes.push_entire_slice(frame).is_ok();
        if is_taken {
            self.untold.push(Head { tag, len });
        }
        is_taken
    }

    /// Shows the other end what was pushed; whether anything was.
    pub fn tell(&mut self) -> bool {
        if self.untold.is_empty() {
            return false;
        }
        let told = self.heads.push_entire_slice(&self.untold);
        debug_assert!(told.is_ok(), "each had its room");
        self.room -= self.untold.len();
        self.untold.clear();
        true
    }
}

impl<T> FrameReceiver<T> {
    /// Shows the oldest frame to `look`, and lets it go.
    pub fn take<R>(&mut self, look: impl FnOnce(T, &[u8]) -> R) -> Option<R> {
        let Head { tag, len } = self.heads.pop().ok()?;
        let chunk = self.bytes.read_chunk(len).ok()?;
        let (first, second) = chunk.as_slices();
        let frame = match second {
            [] => first,
            second => {
                self.whole.clear();
                self.whole.extend_from_slice(first);
                self.whole.extend_from_slice(second);
                &self.whole
            }
        };
        let answer = look(tag, frame);
        chunk.commit_all();
        Some(answer)
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_any_length_come_out_as_they_went_in() {
        let (mut sender, mut receiver) = frames(4, 1_000);
        assert!(receiver.is_empty() && receiver.take(|_, _| ()).is_none());
        // Lengths that the ring is no multiple of: frames are cut anywhere.
        for turn in 0..2_000_u32 {
            let lens = [turn % 97, (turn * 7) % 301, 0];
            let made = |n: u32| vec![(turn + n).to_le_bytes()[0]; n as usize];
            for len in lens {
                assert!(sender.push(turn, &made(len)));
            }
            assert!(receiver.is_empty(), "it was told nothing yet");
            assert!(sender.tell() && !sender.tell());
            for len in lens {
                let same = receiver.take(|tag, frame| (tag, frame == made(len)));
                assert_eq!(same, Some((turn, true)));
            }
        }
        assert!(receiver.is_empty());
    }

    #[test]
    fn what_finds_no_room_is_refused_and_hurts_nobody() {
        let (mut sender, mut receiver) = frames(3, 1_000);
        assert!(!sender.push('a', &[0; 1_001]) && sender.push('b', &[0; 1_000]));
        assert!(!sender.push('c', &[0]) && !sender.has_room(1));
        // Of heads, too; those that were not told of are among them.
        assert!(sender.push('d', &[]) && sender.push('e', &[]));
        assert!(!sender.push('f', &[]) && !sender.has_room(0));
        sender.tell();
        let mut take = || receiver.take(|tag, frame| (tag, frame.len()));
        assert_eq!(take(), Some(('b', 1_000)));
        assert!(sender.has_room(1_000) && sender.push('g', &[7; 9]) && !sender.push('h', &[]));
        sender.tell();
        let rest: Vec<_> = std::iter::from_fn(take).collect();
        assert_eq!(rest, [('d', 0), ('e', 0), ('g', 9)]);
    }
}
