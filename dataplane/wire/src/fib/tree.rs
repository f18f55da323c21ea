//! A static B-tree over numbers in order.
//!
//! In: starts of ranges. Out: the place of the last one that is not above a number. Never: a change.

/// An address as a number.
pub(super) trait Key: Copy + Ord {
    const ZERO: Self;
    const MAX: Self;
    /// The next number, if there is one.
    fn next(self) -> Option<Self>;
}

impl Key for u32 {
    const ZERO: Self = 0;
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Key for u128 {
    const ZERO: Self = 0;
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Node<K, const B: usize>(pub(super) [K; B]);

/// Levels of a tree over n starts: 16^8 and 8^11 are more than memory holds.
const LEVELS_MAX: usize = 12;

/// Starts in order, and a tree over them.
///
/// Level 0 holds all starts in order, `B` to a node; entry j of a higher level is the
/// first start of node j below. The last node of a level is filled up with the highest
/// address; `entries` knows how many are real.
#[derive(Clone, Debug)]
pub(super) struct Tree<K, const B: usize> {
    /// All levels' nodes, the leaves first.
    pub(super) nodes: Box<[Node<K, B>]>,
    /// Per level, the highest first: where its nodes begin, how many entries it has.
    levels: Box<[(usize, usize)]>,
}

impl<K: Key, const B: usize> Tree<K, B> {
    pub(super) fn new(mut starts: Vec<K>) -> Self {
        let mut nodes = Vec::new();
        let mut levels = Vec::new();
        while levels.len() < LEVELS_MAX {
            levels.push((nodes.len(), starts.len()));
            nodes.extend(starts.chunks(B).map(|chunk| {
                let mut node = Node([K::MAX; B]);
                node.0[..chunk.len()].copy_from_slice(chunk);
                node
            }));
            if starts.len() <= B {
                break;
            }
            starts = starts.iter().copied().step_by(B).collect();
        }
        levels.reverse();
        Self {
            nodes: nodes.into(),
            levels: levels.into(),
        }
    }

    /// The place of the last start that is not above `key`.
    #[inline]
    pub(super) fn find(&self, key: K) -> Option<usize> {
        let mut index = 0;
        for &(base, entries) in &*self.levels {
            let node = self.nodes.get(base + index)?;
            // Counted in 32 bits, the width of an IPv4 comparison's lanes.
            let not_above: u32 = node.0.iter().map(|start| u32::from(*start <= key)).sum();
            // The filling counts only for the highest address, which is in the last range.
            index = (index * B + not_above as usize)
                .min(entries)
                .checked_sub(1)?;
        }
        Some(index)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.levels)
    }
}
