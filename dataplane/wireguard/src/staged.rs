//! Packets that wait for a key.
//!
//! In: packets (of whatever type the data path has) with their length in bytes. Out: the same, oldest first; those
//! that had to make room. Never: more packets or bytes than the limits; an allocation after construction.

use std::collections::VecDeque;

use crate::limits::MAX_STAGED_PACKETS;

/// A bounded queue that drops its oldest packets rather than refuse the newest (kernel `device.c`).
#[derive(Debug)]
pub struct Staged<T> {
    packets: VecDeque<(T, usize)>,
    bytes: usize,
    max_packets: usize,
    max_bytes: usize,
}

impl<T> Default for Staged<T> {
    fn default() -> Self {
        Self::new(MAX_STAGED_PACKETS, usize::MAX)
    }
}

impl<T> Staged<T> {
    /// An empty queue of at most `max_packets` (at least one) and `max_bytes`.
    #[must_use]
    pub fn new(max_packets: usize, max_bytes: usize) -> Self {
        let max_packets = max_packets.max(1);
        Self {
            packets: VecDeque::with_capacity(max_packets),
            bytes: 0,
            max_packets,
            max_bytes,
        }
    }

    /// Appends a packet of `len` bytes; `dropped` gets each packet that made room, oldest first. A packet longer
    /// than all the room there is goes to `dropped` itself.
    pub fn push(&mut self, packet: T, len: usize, mut dropped: impl FnMut(T)) {
        if len > self.max_bytes {
            return dropped(packet);
        }
        while self.packets.len() >= self.max_packets || self.bytes > self.max_bytes - len {
            let Some(oldest) = self.pop() else { break };
            dropped(oldest);
        }
        self.packets.push_back((packet, len));
        self.bytes += len;
    }

    /// Takes the oldest packet.
    pub fn pop(&mut self) -> Option<T> {
        let (packet, len) = self.packets.pop_front()?;
        self.bytes -= len;
        Some(packet)
    }

    /// Takes all packets, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.bytes = 0;
        self.packets.drain(..).map(|(packet, _)| packet)
    }

    /// Packets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut staged = Staged::new(2, 100);
        let mut dropped = Vec::new();
        for n in 0..4 {
            staged.push(n, 10, |packet| dropped.push(packet));
        }
        assert_eq!(dropped, [0, 1]);
        assert_eq!((staged.len(), staged.bytes()), (2, 20));
        assert_eq!(staged.drain().collect::<Vec<_>>(), [2, 3]);
        assert_eq!((staged.is_empty(), staged.bytes()), (true, 0));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut staged = Staged::new(10, 100);
        let mut dropped = Vec::new();
        for (n, len) in [(0, 40), (1, 40), (2, 101), (3, 100)] {
            staged.push(n, len, |packet| dropped.push(packet));
        }
        assert_eq!(dropped, [2, 0, 1]);
        assert_eq!(staged.pop(), Some(3));
        assert_eq!(staged.bytes(), 0);
    }
}
