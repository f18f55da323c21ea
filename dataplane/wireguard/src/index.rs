//! Receiver indices: which peer a handshake or keypair index of ours belongs to.
//!
//! In: requests for a new index, randomness. Out: random indices whose low bits are a free slot, so that a fixed
//! table of slots finds a keypair in one step. Never: two live indices with one slot.

use rand_core::CryptoRng;

use crate::PeerId;

/// Draws before the search turns from luck to looking.
const DRAWS: u32 = 64;

const FREE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Slot {
    index: u32,
    peer: u32,
}

/// All indices of a device.
pub(crate) struct IndexTable {
    slots: Vec<Slot>,
}

impl IndexTable {
    /// A table of `slots`, rounded up to a power of two (at most 2^31).
    pub(crate) fn new(slots: u32) -> Self {
        let slots = slots.clamp(1, 1 << 31).next_power_of_two();
        Self {
            slots: vec![
                Slot {
                    index: 0,
                    peer: FREE
                };
                slots as usize
            ],
        }
    }

    /// Makes room for `slots` or more; live indices stay what they are. Their low bits differ, so with one more bit
    /// they still do.
    pub(crate) fn grow(&mut self, slots: u32) {
        if slots as usize <= self.slots.len() {
            return;
        }
        let mut grown = Self::new(slots);
        for taken in self.slots.iter().filter(|slot| slot.peer != FREE) {
            let at = grown.slot(taken.index);
            grown.slots[at] = *taken;
        }
        *self = grown;
    }

    /// A new index for a peer, or `None` if all slots are taken.
    pub(crate) fn allocate(&mut self, peer: PeerId, rng: &mut dyn CryptoRng) -> Option<u32> {
        for _ in 0..DRAWS {
            let index = rng.next_u32();
            if self.claim(index, peer) {
                return Some(index);
            }
        }
        // Nearly full: take the first free slot behind a random one; the other bits stay random.
        let (start, mask) = (rng.next_u32(), self.mask());
        (0..self.slots.len())
            .map(|step| advance(start, step, mask))
            .find(|index| self.claim(*index, peer))
    }

    /// Gives an index back.
    pub(crate) fn release(&mut self, index: u32) {
        let at = self.slot(index);
        if self.slots[at].index == index {
            self.slots[at].peer = FREE;
        }
    }

    /// The owner of a live index.
    pub(crate) fn lookup(&self, index: u32) -> Option<PeerId> {
        let slot = self.slots[self.slot(index)];
        (slot.peer != FREE && slot.index == index).then_some(PeerId(slot.peer))
    }

    fn claim(&mut self, index: u32, peer: PeerId) -> bool {
        let at = self.slot(index);
        let free = self.slots[at].peer == FREE;
        if free {
            self.slots[at] = Slot {
                index,
                peer: peer.0,
            };
        }
        free
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 2^31 slots")]
    fn mask(&self) -> u32 {
        (self.slots.len() - 1) as u32
    }

    fn slot(&self, index: u32) -> usize {
        (index & self.mask()) as usize
    }
}

/// `start` with its low bits moved on by `step`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "steps are below the number of slots"
)]
const fn advance(start: u32, step: usize, mask: u32) -> u32 {
    start & !mask | start.wrapping_add(step as u32) & mask
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chacha20::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn every_slot_is_given_once_and_then_none() {
        let mut rng = ChaCha20Rng::from_seed([0; 32]);
        let mut table = IndexTable::new(200);
        let indices: Vec<_> = (0..256)
            .map(|peer| table.allocate(PeerId(peer), &mut rng).unwrap())
            .collect();
        assert_eq!(
            indices
                .iter()
                .map(|index| index & 255)
                .collect::<HashSet<_>>()
                .len(),
            256
        );
        assert_eq!(table.allocate(PeerId(0), &mut rng), None);
        for (peer, index) in indices.iter().enumerate() {
            assert_eq!(
                table.lookup(*index),
                Some(PeerId(u32::try_from(peer).unwrap()))
            );
            assert_eq!(table.lookup(index ^ 0x8000_0000), None, "all 32 bits count");
        }
        table.release(indices[7] ^ 0x8000_0000);
        assert!(
            table.lookup(indices[7]).is_some(),
            "only the live index gives the slot back"
        );
        table.release(indices[7]);
        assert_eq!(table.lookup(indices[7]), None);
        let again = table.allocate(PeerId(9), &mut rng).unwrap();
        assert_eq!(again & 255, indices[7] & 255);
        assert_eq!(table.lookup(again), Some(PeerId(9)));
    }

    #[test]
    fn live_indices_survive_growth() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut table = IndexTable::new(64);
        let before: Vec<_> = (0..64)
            .map(|peer| table.allocate(PeerId(peer), &mut rng).unwrap())
            .collect();
        table.release(before[5]);
        table.grow(16);
        assert_eq!(table.mask(), 63, "it never shrinks");
        table.grow(1_000);
        assert_eq!(table.mask(), 1_023);
        for (peer, index) in before.iter().enumerate() {
            let owner = PeerId(u32::try_from(peer).unwrap());
            assert_eq!(table.lookup(*index), (peer != 5).then_some(owner));
        }
        let after: HashSet<_> = (64..64 + 1_024 - 63)
            .map(|peer| table.allocate(PeerId(peer), &mut rng).unwrap() & 1_023)
            .collect();
        assert_eq!(after.len(), 1_024 - 63);
        assert_eq!(table.allocate(PeerId(0), &mut rng), None);
    }

    #[test]
    fn high_bits_are_random() {
        let mut rng = ChaCha20Rng::from_seed([0; 32]);
        let mut table = IndexTable::new(1);
        let indices: HashSet<_> = (0..100)
            .map(|_| {
                let index = table.allocate(PeerId(0), &mut rng).unwrap();
                table.release(index);
                index
            })
            .collect();
        assert!(indices.len() > 95);
    }
}
