//! Nested prefixes as disjoint ranges.
//!
//! In: prefixes, each ahead of those inside it. Out: ranges in their order, in leaves. Never: two neighbors of one origin.

use std::{net::IpAddr, sync::Arc};

use super::{
    Prefix,
    prefix::{mask_v4, mask_v6},
    table::{Leaf, Leaves},
    tree::Key,
};

/// Ranges in a leaf when a table is built.
const LEAF_FILL: usize = 192;

/// The value of a range, and how long the prefix is that it comes from.
pub(super) type Origin<V> = Option<(V, u8)>;

/// Ranges in their order, those of one origin joined.
pub(super) struct Painted<K, V>(pub(super) Vec<(K, Origin<V>)>);

impl<K, V> Default for Painted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Key, V: Copy + Eq> Painted<K, V> {
    pub(super) fn push(&mut self, start: K, origin: Origin<V>) {
        if self.0.last().is_some_and(|(last, _)| *last == start) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(_, last)| *last != origin) {
            self.0.push((start, origin));
        }
    }
}

/// A prefix as the range that it covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<K, V> {
    first: K,
    last: K,
    len: u8,
    value: V,
}

impl<V: Copy> Route<u32, V> {
    pub(super) fn v4((prefix, value): (&Prefix, &V)) -> Option<Self> {
        let IpAddr::V4(address) = prefix.address else {
            return None;
        };
        let first = address.to_bits();
        Some(Self {
            first,
            last: first | !mask_v4(prefix.len),
            len: prefix.len,
            value: *value,
        })
    }
}

impl<V: Copy> Route<u128, V> {
    pub(super) fn v6((prefix, value): (&Prefix, &V)) -> Option<Self> {
        let IpAddr::V6(address) = prefix.address else {
            return None;
        };
        let first = address.to_bits();
        Some(Self {
            first,
            last: first | !mask_v6(prefix.len),
            len: prefix.len,
            value: *value,
        })
    }
}

/// Turns nested prefixes, each ahead of those inside it, into leaves of disjoint ranges, of which the first starts at 0.
pub(super) fn leaves<K: Key, V: Copy + Eq, const B: usize>(
    routes: impl Iterator<Item = Route<K, V>>,
) -> Leaves<K, V, B> {
    let mut ranges = Painted::default();
    ranges.push(K::ZERO, None);
    // The prefixes around the current address, the innermost last.
    let mut open: Vec<(K, (V, u8))> = Vec::new();
    let close = |open: &mut Vec<(K, (V, u8))>, ranges: &mut Painted<K, V>, before: Option<K>| {
        while let Some(&(last, _)) = open.last() {
            if before.is_some_and(|start| last >= start) {
                break;
            }
            open.pop();
            // What ends at the highest address has nothing behind it.
            if let Some(next) = last.next() {
                ranges.push(next, open.last().map(|&(_, origin)| origin));
            }
        }
    };
    for route in routes {
        close(&mut open, &mut ranges, Some(route.first));
        let origin = (route.value, route.len);
        ranges.push(route.first, Some(origin));
        open.push((route.last, origin));
    }
    close(&mut open, &mut ranges, None);
    let leaves = ranges.0.chunks(LEAF_FILL);
    leaves.map(|ranges| Arc::new(Leaf::new(ranges))).collect()
}
