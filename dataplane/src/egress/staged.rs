//! Frames that wait for a peer's key.
//!
//! In: frames whose peer has no usable keypair, copied uncut. Out: the same frames,
//! in order, when the key is there. Never: growth; the oldest frame makes room, by
//! name, for the newest, per peer and in total.
//!
//! One per worker. Frames lie one behind the other in a ring of bytes; entries name
//! them in the order of their arrival.
//!
//! ```text
//!  memory  |......|frame 1 (dead)|frame 2|frame 3|.........|  wraps; no frame is split
//!                 ^ front's start                ^ head
//! ```

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    ops::Range,
};

use culvert_wire::VnetHeader;

use crate::{
    guest::frames::Frames,
    shared::{ids::PeerIndex, limits},
};

struct Waiting {
    peer: PeerIndex,
    vnet: VnetHeader,
    start: usize,
    len: usize,
    dead: bool,
}

/// One worker's waiting frames.
pub(crate) struct Staged {
    memory: Box<[u8]>,
    entries: VecDeque<Waiting>,
    /// Where the next frame goes.
    head: usize,
    /// Frames that wait, by peer: a look-up per packet must not cost more because some
    /// guest fills the ring. No peer is here without a frame.
    waiting: HashMap<PeerIndex, usize>,
}

impl Staged {
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; limits::STAGED_BYTES].into_boxed_slice(),
            entries: VecDeque::with_capacity(limits::STAGED_FRAMES),
            head: 0,
            waiting: HashMap::with_capacity(limits::STAGED_FRAMES),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a frame waits for `peer`.
    pub(crate) fn holds(&self, peer: PeerIndex) -> bool {
        self.waiting.contains_key(&peer)
    }

    /// Copies frame `i` behind the others. `dropped` gets each older frame that
    /// made room for it. `false` if the frame itself can't be kept.
    pub(crate) fn push(
        &mut self,
        peer: PeerIndex,
        frames: &impl Frames,
        i: usize,
        mut dropped: impl FnMut(PeerIndex, VnetHeader, &[u8]),
    ) -> bool {
        let len = frames.len(i);
        if len > limits::FRAME_MAX {
            return false;
        }
        let waiting = self.waiting.get(&peer).copied().unwrap_or(0);
        if waiting >= limits::STAGED_PER_PEER
            && let Some((vnet, place)) = self.take(peer)
        {
            dropped(peer, vnet, self.bytes(place));
        }
        while self.entries.len() >= limits::STAGED_FRAMES {
            self.pop_front(&mut dropped);
        }
        let start = loop {
            if let Some(start) = self.place(len) {
                break start;
            }
            self.pop_front(&mut dropped);
        };
        if !frames.copy(i, 0, &mut self.memory[start..start + len]) {
            return false;
        }
        self.head = start + len;
        *self.waiting.entry(peer).or_default() += 1;
        self.entries.push_back(Waiting {
            peer,
            vnet: *frames.vnet(i),
            start,
            len,
            dead: false,
        });
        true
    }

    /// Where `len` bytes fit between the newest and the oldest frame.
    fn place(&self, len: usize) -> Option<usize> {
        let Some(front) = self.entries.front() else {
            return Some(0);
        };
        let tail = front.start;
        if self.head > tail {
            // Used: tail..head. Free: head..end, then 0..tail.
            if self.memory.len() - self.head >= len {
                Some(self.head)
            } else {
                (tail > len).then_some(0)
            }
        } else {
            // Used: tail..end and 0..head. Free: head..tail; one byte stays free, so
            // that a full ring can't be taken for an empty one.
            (tail - self.head > len).then_some(self.head)
        }
    }

    fn pop_front(&mut self, dropped: &mut impl FnMut(PeerIndex, VnetHeader, &[u8])) {
        if let Some(entry) = self.entries.pop_front()
            && !entry.dead
        {
            self.forget_one(entry.peer);
            let place = entry.start..entry.start + entry.len;
            dropped(entry.peer, entry.vnet, self.bytes(place));
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.entries.front().is_some_and(|e| e.dead) {
            self.entries.pop_front();
        }
    }

    /// The oldest frame that waits for `peer`, taken out; its bytes lie at this place
    /// until the next `push`.
    pub(crate) fn take(&mut self, peer: PeerIndex) -> Option<(VnetHeader, Range<usize>)> {
        if !self.holds(peer) {
            return None;
        }
        let position = self
            .entries
            .iter()
            .position(|e| e.peer == peer && !e.dead)?;
        let entry = &mut self.entries[position];
        entry.dead = true;
        let (vnet, range) = (entry.vnet, entry.start..entry.start + entry.len);
        self.forget_one(peer);
        self.trim();
        Some((vnet, range))
    }

    /// The bytes of a frame that was taken out.
    pub(crate) fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.memory[place]
    }

    fn forget_one(&mut self, peer: PeerIndex) {
        if let Entry::Occupied(mut waiting) = self.waiting.entry(peer) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::frames::{OwnFrame, OwnFrames};

    fn frame(fill: u8, len: usize) -> Vec<u8> {
        vec![fill; len]
    }

    fn push(staged: &mut Staged, peer: u32, bytes: &[u8]) -> Vec<PeerIndex> {
        let mut dropped = Vec::new();
        let own = [OwnFrame {
            vnet: VnetHeader::default(),
            bytes,
        }];
        assert!(
            staged.push(PeerIndex(peer), &OwnFrames(&own), 0, |p, _, _| dropped
                .push(p))
        );
        dropped
    }

    fn take(staged: &mut Staged, peer: u32) -> Vec<u8> {
        let (_, place) = staged.take(PeerIndex(peer)).unwrap();
        staged.bytes(place).to_vec()
    }

    #[test]
    fn frames_come_back_in_order_and_only_to_their_peer() {
        let mut staged = Staged::new();
        for fill in 1..=3 {
            assert!(push(&mut staged, 7, &frame(fill, 100)).is_empty());
            assert!(push(&mut staged, 8, &frame(fill + 100, 60_000)).is_empty());
        }
        for fill in 1..=3 {
            assert_eq!(take(&mut staged, 7), frame(fill, 100));
        }
        assert!(staged.take(PeerIndex(7)).is_none());
        for fill in 101..=103 {
            assert_eq!(take(&mut staged, 8), frame(fill, 60_000));
        }
        assert!(staged.is_empty());
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let mut staged = Staged::new();
        for fill in 0..limits::STAGED_PER_PEER {
            assert!(push(&mut staged, 1, &[u8::try_from(fill).unwrap(); 64]).is_empty());
        }
        assert_eq!(push(&mut staged, 1, &[255; 64]), [PeerIndex(1)]);
        assert_eq!(take(&mut staged, 1)[0], 1);
    }

    #[test]
    fn bytes_are_bounded_and_never_overlap() {
        let mut staged = Staged::new();
        let mut alive = VecDeque::new();
        for round in 0..5_000u32 {
            let fill = u8::try_from(round % 251).unwrap();
            let len = 1 + (round as usize * 7_919) % 65_000;
            let dropped = push(&mut staged, round % 40, &frame(fill, len));
            alive.push_back((round % 40, fill, len));
            for peer in dropped {
                let position = alive.iter().position(|&(p, _, _)| p == peer.0).unwrap();
                alive.remove(position);
            }
        }
        for (peer, fill, len) in alive {
            assert_eq!(take(&mut staged, peer), frame(fill, len));
        }
        assert!(staged.is_empty());
    }
}
