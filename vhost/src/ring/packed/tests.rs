//! A crash at every moment, a guest that went on, a guest that is another one.

use super::*;
use crate::memory::{GuestMemory, RegionDescription};
use crate::ring::walk::Direction;
use crate::ring::{Negotiated, RingAddresses};

const GUEST: u64 = 0x10_0000;
const SIZE: u16 = 8;

/// A ring of eight in a file, all of it available in the lap with wrap bit 1.
struct Guest {
    file: std::fs::File,
    memory: Arc<GuestMemory>,
    keeper: Arc<Keeper>,
}

impl Guest {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        let description = RegionDescription {
            guest: GUEST,
            size: 1 << 16,
            frontend: 0x7000_0000,
            offset: 0,
        };
        let memory = GuestMemory::default()
            .with_region(description, &file)
            .unwrap();
        let keeper = Arc::new(Keeper::new(None, 1).unwrap());
        let guest = Self {
            file,
            memory: Arc::new(memory),
            keeper,
        };
        guest.fill(0..SIZE, AVAILABLE);
        guest
    }

    /// Makes descriptors available.
    fn fill(&self, range: std::ops::Range<u16>, flags: u16) {
        for index in range {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&(GUEST + 0x1000 * u64::from(index + 1)).to_le_bytes());
            bytes[8..12].copy_from_slice(&100u32.to_le_bytes());
            bytes[12..14].copy_from_slice(&(index + 40).to_le_bytes());
            bytes[14..].copy_from_slice(&flags.to_le_bytes());
            self.write(16 * u64::from(index), &bytes);
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn flags(&self, index: u16) -> u16 {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 2];
        self.file
            .read_exact_at(&mut bytes, 16 * u64::from(index) + 14)
            .unwrap();
        u16::from_le_bytes(bytes)
    }

    /// The ring as a backend finds it that knows nothing.
    fn ring(&self) -> PackedRing {
        let user = 0x7000_0000;
        PackedRing::new(&RingPlan {
            memory: Arc::clone(&self.memory),
            features: Negotiated::default(),
            size: SIZE,
            addresses: RingAddresses {
                descriptor: user,
                driver: user + 0x800,
                device: user + 0x900,
                log: None,
            },
            base: 0x8000_8000,
            log: None,
            call: None,
            keeper: Arc::clone(&self.keeper),
            index: 0,
        })
        .unwrap()
    }

    fn walk(&self, ring: &mut PackedRing, count: usize) -> Vec<Chain> {
        let (mut hint, mut segments) = (0, Vec::new());
        let mut walk = Walk {
            memory: &self.memory,
            hint: &mut hint,
            segments: &mut segments,
            direction: Direction::Readable,
            indirect: false,
            header: true,
            followed: 0,
        };
        let mut next = || {
            let (first, id) = ring.peek().unwrap().unwrap();
            ring.walk(first, id, &mut walk).unwrap()
        };
        (0..count).map(|_| next()).collect()
    }

    fn give_back(&self, ring: &mut PackedRing, count: usize) {
        for chain in self.walk(ring, count) {
            ring.give_back(&chain, 0);
        }
    }
}

#[test]
fn a_crash_before_the_commit_changes_nothing() {
    let guest = Guest::new();
    let mut ring = guest.ring();
    guest.give_back(&mut ring, 2);
    ring.publish(None);
    // Dies with three more in the journal.
    guest.give_back(&mut ring, 3);
    let ring = guest.ring();
    assert_eq!(ring.next, Position(2 | 0x8000));
    assert_eq!(guest.flags(1), AVAILABLE | USED);
    assert_eq!(guest.flags(2), AVAILABLE);
}

#[test]
fn a_crash_after_the_commit_is_finished_wherever_it_happened() {
    for written in 0..=3u16 {
        let guest = Guest::new();
        let mut ring = guest.ring();
        guest.give_back(&mut ring, 2);
        ring.publish(None);
        guest.give_back(&mut ring, 3);
        ring.slot().commit(3, ring.next.0);
        // Written so far, from the last one down; the first one comes last.
        for index in (5 - written)..5 {
            guest.write(16 * u64::from(index) + 8, &0u32.to_le_bytes());
            guest.write(
                16 * u64::from(index) + 14,
                &(AVAILABLE | USED).to_le_bytes(),
            );
        }
        let ring = guest.ring();
        assert_eq!(ring.next, Position(5 | 0x8000));
        for index in 0..SIZE {
            let is_used = guest.flags(index) & USED != 0;
            assert_eq!(is_used, index < 5, "{written} written, descriptor {index}");
        }
    }
}

#[test]
fn what_the_guest_took_back_after_the_commit_is_not_written_again() {
    let guest = Guest::new();
    let mut ring = guest.ring();
    guest.give_back(&mut ring, 3);
    ring.slot().commit(3, ring.next.0);
    ring.write_noted(3);
    // The guest uses the first two again, in the next lap.
    guest.fill(0..2, USED);
    let ring = guest.ring();
    assert_eq!(ring.next, Position(3 | 0x8000));
    assert_eq!(guest.flags(0), USED);
    assert_eq!(guest.flags(1), USED);
}

#[test]
fn a_guest_that_went_all_the_way_round_is_recognised() {
    let guest = Guest::new();
    let mut ring = guest.ring();
    guest.give_back(&mut ring, 8);
    ring.publish(None);
    guest.fill(0..SIZE, USED);
    assert_eq!(guest.ring().next, Position(0));
    let mut ring = guest.ring();
    guest.give_back(&mut ring, 3);
    ring.publish(None);
    assert_eq!(guest.ring().next, Position(3));
}

#[test]
fn a_rebooted_guests_ring_is_not_taken_for_the_old_one() {
    // However far the old one came, in either lap.
    for taken in 1..15usize {
        for is_filled in [false, true] {
            let guest = Guest::new();
            let mut ring = guest.ring();
            guest.give_back(&mut ring, taken.min(8));
            ring.publish(None);
            if taken > 8 {
                guest.fill(0..SIZE, USED);
                guest.give_back(&mut ring, taken - 8);
                ring.publish(None);
            }
            guest.write(0, &[0; 16 * SIZE as usize]);
            if is_filled {
                guest.fill(0..SIZE, AVAILABLE);
            }
            let fresh = Position(0x8000);
            assert_eq!(
                guest.ring().next,
                fresh,
                "{taken} taken, filled: {is_filled}"
            );
        }
    }
}
