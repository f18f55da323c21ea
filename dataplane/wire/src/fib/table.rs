//! Ranges in leaves, and the tree over them.
//!
//! In: ranges in their order. Out: the value of the one that holds an address. Never: a change of a leaf.

use std::sync::Arc;

use super::{
    ranges::Origin,
    tree::{Key, Tree},
};

pub(super) type Leaves<K, V, const B: usize> = Vec<Arc<Leaf<K, V, B>>>;

/// Some ranges that follow each other.
#[derive(Debug)]
pub(super) struct Leaf<K, V, const B: usize> {
    starts: Tree<K, B>,
    values: Box<[Option<V>]>,
    /// How long the prefixes are that the values come from.
    lens: Box<[u8]>,
}

impl<K: Key, V: Copy + Eq, const B: usize> Leaf<K, V, B> {
    pub(super) fn new(ranges: &[(K, Origin<V>)]) -> Self {
        Self {
            starts: Tree::new(ranges.iter().map(|(start, _)| *start).collect()),
            values: ranges
                .iter()
                .map(|(_, origin)| origin.map(|(value, _)| value))
                .collect(),
            lens: ranges
                .iter()
                .map(|(_, origin)| origin.map_or(0, |(_, len)| len))
                .collect(),
        }
    }

    /// The first start.
    pub(super) fn first(&self) -> K {
        self.starts.nodes.first().map_or(K::ZERO, |node| node.0[0])
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = (K, Origin<V>)> {
        let starts = self.starts.nodes.iter().flat_map(|node| node.0);
        let origins = self
            .values
            .iter()
            .zip(&self.lens)
            .map(|(value, len)| value.map(|value| (value, *len)));
        starts.zip(origins)
    }

    #[inline]
    pub(super) fn lookup(&self, key: K) -> Option<V> {
        *self.values.get(self.starts.find(key)?)?
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.starts.heap_bytes() + size_of_val(&*self.values) + self.lens.len()
    }
}

/// Disjoint ranges that cover all addresses.
#[derive(Debug)]
pub(super) struct Table<K, V, const B: usize> {
    pub(super) leaves: Box<[Arc<Leaf<K, V, B>>]>,
    /// Over the leaves' first starts; of one leaf alone nobody asks.
    starts: Tree<K, B>,
}

impl<K: Key, V: Copy + Eq, const B: usize> Table<K, V, B> {
    pub(super) fn new(leaves: Leaves<K, V, B>) -> Self {
        Self {
            starts: Tree::new(leaves.iter().map(|leaf| leaf.first()).collect()),
            leaves: leaves.into(),
        }
    }

    #[inline]
    pub(super) fn lookup(&self, key: K) -> Option<V> {
        if let [leaf] = &*self.leaves {
            return leaf.lookup(key);
        }
        self.leaves.get(self.starts.find(key)?)?.lookup(key)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let leaves: usize = self.leaves.iter().map(|leaf| leaf.heap_bytes()).sum();
        leaves + size_of_val(&*self.leaves) + self.starts.heap_bytes()
    }
}
