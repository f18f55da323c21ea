//! Longest-prefix match for IPv4 and IPv6.
//!
//! In: prefixes with values, as they come and go, on the control thread. Out: for an address, the value
//! of the longest prefix that holds it.
//! Never: a change of a table that was given out (a new one shares what did not change), unsafe code, an
//! allocation in a look-up.
//!
//! Prefixes are flattened into disjoint ranges of addresses, sorted by their start, each
//! with the value of the longest prefix over it; a look-up finds the last start that is
//! not above the address, in a static B-tree whose nodes are one or two cache lines.
//!
//! ```text
//!   prefixes      10.0.0.0/8 a    10.1.0.0/16 b
//!   ranges        0.0.0.0 -   10.0.0.0 a   10.1.0.0 b   10.2.0.0 a   11.0.0.0 -
//! ```
//!
//! Ranges lie in leaves of some hundred, each with a tree of its own, and one more tree over the leaves' first
//! starts. A [`Routes`] knows the prefixes; a change of one rewrites the leaves that it covers, and the tree over all
//! leaves. Each range remembers how long the prefix is that it comes from: a prefix that comes takes what shorter
//! ones had, one that goes gives its own to the next shorter one.
//!
//! Why not a poptrie: its depth follows the prefixes' length, so IPv6 /64s cost eight
//! dependent loads where this takes six at 100,000 prefixes and two at ten; it counts
//! bits, which costs a dozen instructions on a processor baseline without POPCNT, where
//! this compares, which every baseline vectorises; and its worst case depends on who
//! chooses the prefixes, where this one is the logarithm of their number. Memory is 13
//! bytes (IPv4) or 25 (IPv6) per range, of which n prefixes make at most 2n + 1.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// An address with the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; `None` if the family has fewer.
    pub const fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if len <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask_v4(len)))
            }
            IpAddr::V6(a) if len <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask_v6(len)))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, len })
    }

    /// The prefix that holds one address.
    pub const fn host(address: IpAddr) -> Self {
        let len = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, len }
    }

    /// The first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bits, not of a container"
    )]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// True if `address` lies in the prefix.
    pub const fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(p), IpAddr::V4(a)) => a.to_bits() & mask_v4(self.len) == p.to_bits(),
            (IpAddr::V6(p), IpAddr::V6(a)) => a.to_bits() & mask_v6(self.len) == p.to_bits(),
            _ => false,
        }
    }
}

const fn mask_v4(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

const fn mask_v6(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - len)
    }
}

/// Ranges in a leaf when a table is built, and the most that it may grow to.
const LEAF_FILL: usize = 192;
const LEAF_MAX: usize = 256;
/// Fewer are joined with a neighbor's.
const LEAF_MIN: usize = 64;

/// A finished table. A clone is the same table.
#[derive(Clone, Debug)]
pub struct Fib<V> {
    v4: Arc<Table<u32, V, 16>>,
    v6: Arc<Table<u128, V, 8>>,
}

impl<V: Copy + Eq> Default for Fib<V> {
    fn default() -> Self {
        Self::build([])
    }
}

impl<V: Copy + Eq> Fib<V> {
    /// A table of these prefixes. Of equal prefixes the later one counts.
    pub fn build(routes: impl IntoIterator<Item = (Prefix, V)>) -> Self {
        let routes: BTreeMap<_, _> = routes.into_iter().collect();
        let table = |is_v4| {
            routes
                .iter()
                .filter(move |(prefix, _)| prefix.address.is_ipv4() == is_v4)
        };
        Self {
            v4: Arc::new(Table::new(leaves(table(true).filter_map(Route::v4)))),
            v6: Arc::new(Table::new(leaves(table(false).filter_map(Route::v6)))),
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    /// As [`Fib::lookup`], for IPv4.
    #[inline]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<V> {
        self.v4.lookup(address.to_bits())
    }

    /// As [`Fib::lookup`], for IPv6.
    #[inline]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<V> {
        self.v6.lookup(address.to_bits())
    }

    /// Bytes that the table occupies on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes()
    }
}

/// Of the same prefix that of the highest rank counts.
pub type Rank = u8;

/// Prefixes that come and go, and the table of them.
#[derive(Debug)]
pub struct Routes<V> {
    prefixes: BTreeMap<(Prefix, Rank), V>,
    /// How many prefixes there are of each length.
    v4_lens: [u32; 33],
    v6_lens: [u32; 129],
    fib: Fib<V>,
    v4: Leaves<u32, V, 16>,
    v6: Leaves<u128, V, 8>,
    /// Leaves are newer than the table.
    changed: bool,
}

type Leaves<K, V, const B: usize> = Vec<Arc<Leaf<K, V, B>>>;

impl<V: Copy + Eq> Default for Routes<V> {
    fn default() -> Self {
        Self::build([])
    }
}

impl<V: Copy + Eq> Routes<V> {
    /// These prefixes. Of equal ones of the same rank the later one counts.
    pub fn build(routes: impl IntoIterator<Item = (Prefix, Rank, V)>) -> Self {
        let routes = routes.into_iter();
        let prefixes: BTreeMap<_, _> = routes
            .map(|(prefix, rank, value)| ((prefix, rank), value))
            .collect();
        let (mut v4_lens, mut v6_lens) = ([0; 33], [0; 129]);
        for (prefix, _) in prefixes.keys() {
            match prefix.address {
                IpAddr::V4(_) => v4_lens[usize::from(prefix.len)] += 1,
                IpAddr::V6(_) => v6_lens[usize::from(prefix.len)] += 1,
            }
        }
        let fib = Fib::build(
            prefixes
                .iter()
                .map(|((prefix, _), value)| (*prefix, *value)),
        );
        Self {
            prefixes,
            v4_lens,
            v6_lens,
            v4: fib.v4.leaves.to_vec(),
            v6: fib.v6.leaves.to_vec(),
            fib,
            changed: false,
        }
    }

    /// The value of this very prefix.
    pub fn get(&self, prefix: Prefix) -> Option<V> {
        let ranks = self
            .prefixes
            .range((prefix, Rank::MIN)..=(prefix, Rank::MAX));
        ranks.last().map(|(_, value)| *value)
    }

    /// Gives a prefix a value.
    pub fn set(&mut self, prefix: Prefix, rank: Rank, value: V) {
        let before = self.get(prefix);
        if self.prefixes.insert((prefix, rank), value).is_none() {
            self.count(prefix, 1);
        }
        self.update(prefix, before);
    }

    /// Takes a prefix out if it has that value.
    pub fn unset(&mut self, prefix: Prefix, rank: Rank, value: V) {
        if self.prefixes.get(&(prefix, rank)) != Some(&value) {
            return;
        }
        let before = self.get(prefix);
        self.prefixes.remove(&(prefix, rank));
        self.count(prefix, -1);
        self.update(prefix, before);
    }

    /// The table as it is now.
    pub fn fib(&mut self) -> Fib<V> {
        self.finish();
        self.fib.clone()
    }

    /// The table as it was when [`Routes::finish`] was called last.
    pub fn finished(&self) -> &Fib<V> {
        &self.fib
    }

    /// Makes a table of the changes since the last time.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.fib = Fib {
                v4: Arc::new(Table::new(self.v4.clone())),
                v6: Arc::new(Table::new(self.v6.clone())),
            };
        }
    }

    fn count(&mut self, prefix: Prefix, by: i32) {
        let lens = match prefix.address {
            IpAddr::V4(_) => &mut self.v4_lens[..],
            IpAddr::V6(_) => &mut self.v6_lens[..],
        };
        let count = &mut lens[usize::from(prefix.len)];
        *count = count.saturating_add_signed(by);
    }

    /// Carries over to the leaves that a prefix had the value `before`.
    fn update(&mut self, prefix: Prefix, before: Option<V>) {
        let now = self.get(prefix);
        if now == before {
            return;
        }
        let origin = match now {
            Some(value) => Some((value, prefix.len)),
            None => self.around(prefix),
        };
        self.changed = true;
        match prefix.address {
            IpAddr::V4(address) => {
                let first = address.to_bits();
                paint(
                    &mut self.v4,
                    first,
                    first | !mask_v4(prefix.len),
                    prefix.len,
                    origin,
                );
            }
            IpAddr::V6(address) => {
                let first = address.to_bits();
                paint(
                    &mut self.v6,
                    first,
                    first | !mask_v6(prefix.len),
                    prefix.len,
                    origin,
                );
            }
        }
    }

    /// The value and length of the longest prefix around another one.
    fn around(&self, prefix: Prefix) -> Option<(V, u8)> {
        let lens = match prefix.address {
            IpAddr::V4(_) => &self.v4_lens[..],
            IpAddr::V6(_) => &self.v6_lens[..],
        };
        (0..prefix.len)
            .rev()
            .filter(|len| lens[usize::from(*len)] > 0)
            .find_map(|len| {
                let around = Prefix::new(prefix.address, len)?;
                Some((self.get(around)?, len))
            })
    }
}

/// Gives what lies in a range and comes from a prefix of at most `len` bits another origin.
fn paint<K: Key, V: Copy + Eq, const B: usize>(
    leaves: &mut Leaves<K, V, B>,
    first: K,
    last: K,
    len: u8,
    origin: Origin<V>,
) {
    let of = |leaves: &Leaves<K, V, B>, key: K| {
        leaves
            .partition_point(|leaf| leaf.first() <= key)
            .saturating_sub(1)
    };
    let (from, mut to) = (of(leaves, first), of(leaves, last) + 1);
    // 1. The ranges of the leaves that it touches, cut at its ends.
    let mut ranges = Painted::default();
    let end = last.next();
    for leaf in leaves.get(from..to).unwrap_or_default() {
        for (start, had) in leaf.ranges() {
            ranges.push(start, had);
        }
    }
    let mut painted = Painted::default();
    let mut ranges = ranges.0.into_iter().peekable();
    while let Some((start, had)) = ranges.next() {
        let next = ranges.peek().map(|(next, _)| *next);
        let is_older = had.is_none_or(|(_, of)| of <= len);
        // 2. Each is in three parts: ahead of it, inside, behind it. Empty ones are none.
        let inside = start.max(first);
        if start < inside {
            painted.push(start, had);
        }
        if inside <= last && next.is_none_or(|next| inside < next) {
            painted.push(inside, if is_older { origin } else { had });
        }
        if let Some(behind) = end.map(|end| start.max(end))
            && next.is_none_or(|next| behind < next)
        {
            painted.push(behind, had);
        }
    }
    // 3. Few are joined with the neighbor's.
    if painted.0.len() < LEAF_MIN
        && let Some(neighbor) = leaves.get(to)
    {
        neighbor
            .ranges()
            .for_each(|(start, had)| painted.push(start, had));
        to += 1;
    }
    let pieces = painted.0.len().div_ceil(LEAF_MAX).max(1);
    let size = painted.0.len().div_ceil(pieces).max(1);
    let new = painted
        .0
        .chunks(size)
        .map(|ranges| Arc::new(Leaf::new(ranges)));
    leaves.splice(from..to, new.collect::<Vec<_>>());
}

/// The value of a range, and how long the prefix is that it comes from.
type Origin<V> = Option<(V, u8)>;

/// Ranges in their order, those of one origin joined.
struct Painted<K, V>(Vec<(K, Origin<V>)>);

impl<K, V> Default for Painted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Key, V: Copy + Eq> Painted<K, V> {
    fn push(&mut self, start: K, origin: Origin<V>) {
        if self.0.last().is_some_and(|(last, _)| *last == start) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(_, last)| *last != origin) {
            self.0.push((start, origin));
        }
    }
}

/// An address as a number.
trait Key: Copy + Ord {
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

/// A prefix as the range that it covers.
#[derive(Clone, Copy, Debug)]
struct Route<K, V> {
    first: K,
    last: K,
    len: u8,
    value: V,
}

impl<V: Copy> Route<u32, V> {
    fn v4((prefix, value): (&Prefix, &V)) -> Option<Self> {
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
    fn v6((prefix, value): (&Prefix, &V)) -> Option<Self> {
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

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node<K, const B: usize>([K; B]);

/// Levels of a tree over n starts: 16^8 and 8^11 are more than memory holds.
const LEVELS_MAX: usize = 12;

/// Starts in order, and a tree over them.
///
/// Level 0 holds all starts in order, `B` to a node; entry j of a higher level is the
/// first start of node j below. The last node of a level is filled up with the highest
/// address; `entries` knows how many are real.
#[derive(Clone, Debug)]
struct Tree<K, const B: usize> {
    /// All levels' nodes, the leaves first.
    nodes: Box<[Node<K, B>]>,
    /// Per level, the highest first: where its nodes begin, how many entries it has.
    levels: Box<[(usize, usize)]>,
}

impl<K: Key, const B: usize> Tree<K, B> {
    fn new(mut starts: Vec<K>) -> Self {
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
    fn find(&self, key: K) -> Option<usize> {
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

    fn heap_bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.levels)
    }
}

/// Some ranges that follow each other.
#[derive(Debug)]
struct Leaf<K, V, const B: usize> {
    starts: Tree<K, B>,
    values: Box<[Option<V>]>,
    /// How long the prefixes are that the values come from.
    lens: Box<[u8]>,
}

impl<K: Key, V: Copy + Eq, const B: usize> Leaf<K, V, B> {
    fn new(ranges: &[(K, Origin<V>)]) -> Self {
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
    fn first(&self) -> K {
        self.starts.nodes.first().map_or(K::ZERO, |node| node.0[0])
    }

    fn ranges(&self) -> impl Iterator<Item = (K, Origin<V>)> {
        let starts = self.starts.nodes.iter().flat_map(|node| node.0);
        let origins = self
            .values
            .iter()
            .zip(&self.lens)
            .map(|(value, len)| value.map(|value| (value, *len)));
        starts.zip(origins)
    }

    #[inline]
    fn lookup(&self, key: K) -> Option<V> {
        *self.values.get(self.starts.find(key)?)?
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>() + self.starts.heap_bytes() + size_of_val(&*self.values) + self.lens.len()
    }
}

/// Disjoint ranges that cover all addresses.
#[derive(Debug)]
struct Table<K, V, const B: usize> {
    leaves: Box<[Arc<Leaf<K, V, B>>]>,
    /// Over the leaves' first starts; of one leaf alone nobody asks.
    starts: Tree<K, B>,
}

impl<K: Key, V: Copy + Eq, const B: usize> Table<K, V, B> {
    fn new(leaves: Leaves<K, V, B>) -> Self {
        Self {
            starts: Tree::new(leaves.iter().map(|leaf| leaf.first()).collect()),
            leaves: leaves.into(),
        }
    }

    #[inline]
    fn lookup(&self, key: K) -> Option<V> {
        if let [leaf] = &*self.leaves {
            return leaf.lookup(key);
        }
        self.leaves.get(self.starts.find(key)?)?.lookup(key)
    }

    fn heap_bytes(&self) -> usize {
        let leaves: usize = self.leaves.iter().map(|leaf| leaf.heap_bytes()).sum();
        leaves + size_of_val(&*self.leaves) + self.starts.heap_bytes()
    }
}

/// Turns nested prefixes, each ahead of those inside it, into leaves of disjoint ranges, of which the first starts at 0.
fn leaves<K: Key, V: Copy + Eq, const B: usize>(
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn naive(routes: &[(Prefix, u32)], address: IpAddr) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        for (prefix, value) in routes {
            if prefix.contains(address) && best.is_none_or(|(len, _)| prefix.len() >= len) {
                best = Some((prefix.len(), *value));
            }
        }
        best.map(|(_, value)| value)
    }

    /// Addresses that crowd together, so that prefixes nest and abut.
    fn v4() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>(),
            (0u32..64).prop_map(|n| n << 26),
            (0u32..512).prop_map(|n| 0x0a00_0000 | n),
            (0u32..512).prop_map(|n| u32::MAX - n),
        ]
        .prop_map(|bits| Ipv4Addr::from_bits(bits).into())
    }

    fn v6() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u128>(),
            (0u128..64).prop_map(|n| n << 122),
            (0u128..512).prop_map(|n| (0xfd << 120) | (n << 60)),
            (0u128..512).prop_map(|n| u128::MAX - n),
        ]
        .prop_map(|bits| Ipv6Addr::from_bits(bits).into())
    }

    fn route() -> impl Strategy<Value = (Prefix, u32)> {
        let prefix = prop_oneof![
            (v4(), 0u8..=32).prop_map(|(a, len)| Prefix::new(a, len).unwrap()),
            (v6(), 0u8..=128).prop_map(|(a, len)| Prefix::new(a, len).unwrap()),
        ];
        (prefix, 0u32..8)
    }

    proptest! {
        #[test]
        fn agrees_with_a_scan(
            routes in vec(route(), 0..300),
            probes in vec(prop_oneof![v4(), v6()], 100),
        ) {
            let fib = Fib::build(routes.iter().copied());
            let edges = routes.iter().flat_map(|(prefix, _)| match prefix.address() {
                IpAddr::V4(a) => {
                    let last = a.to_bits() | !mask_v4(prefix.len());
                    [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                        .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
                }
                IpAddr::V6(a) => {
                    let last = a.to_bits() | !mask_v6(prefix.len());
                    [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                        .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
                }
            });
            for address in edges.chain(probes) {
                prop_assert_eq!(fib.lookup(address), naive(&routes, address), "{}", address);
            }
        }
    }

    /// Prefixes that crowd together, of two ranks.
    fn change() -> impl Strategy<Value = (bool, Prefix, u8, u32)> {
        (any::<bool>(), route(), 0u8..2)
            .prop_map(|(comes, (prefix, value), rank)| (comes, prefix, rank, value % 3))
    }

    proptest! {
        #[test]
        fn changes_come_to_what_a_build_does(
            begin in vec(route(), 0..40),
            changes in vec(change(), 1..80),
            probes in vec(prop_oneof![v4(), v6()], 20),
        ) {
            let mut model: BTreeMap<(Prefix, u8), u32> = begin.iter().map(|(p, v)| ((*p, 0), *v)).collect();
            let mut routes = Routes::build(begin.iter().map(|(prefix, value)| (*prefix, 0, *value)));
            let old = routes.fib();
            for (comes, prefix, rank, value) in changes {
                if comes {
                    model.insert((prefix, rank), value);
                    routes.set(prefix, rank, value);
                } else if model.get(&(prefix, rank)) == Some(&value) {
                    model.remove(&(prefix, rank));
                    routes.unset(prefix, rank, value);
                } else {
                    routes.unset(prefix, rank, value);
                }
            }
            let fib = routes.fib();
            let all: Vec<_> = model.iter().map(|((prefix, _), value)| (*prefix, *value)).collect();
            let edges = all.iter().chain(&begin).flat_map(|(prefix, _)| match prefix.address() {
                IpAddr::V4(a) => {
                    let last = a.to_bits() | !mask_v4(prefix.len());
                    [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                        .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
                }
                IpAddr::V6(a) => {
                    let last = a.to_bits() | !mask_v6(prefix.len());
                    [a.to_bits(), last, a.to_bits().wrapping_sub(1), last.wrapping_add(1)]
                        .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
                }
            });
            for address in edges.chain(probes) {
                prop_assert_eq!(fib.lookup(address), naive(&all, address), "{}", address);
                prop_assert_eq!(old.lookup(address), naive(&begin, address), "{}", address);
            }
        }
    }

    #[test]
    fn a_change_among_many_shares_all_leaves_but_one() {
        let prefix = |n: u32| Prefix::new(Ipv4Addr::from_bits(n << 8).into(), 24).unwrap();
        let mut routes = Routes::build((0..100_000).map(|n| (prefix(n), 0, n)));
        let before = routes.fib();
        routes.set(prefix(50_000), 0, 7);
        let after = routes.fib();
        let old = before.v4.leaves.iter();
        let shared = old.filter(|old| after.v4.leaves.iter().any(|new| Arc::ptr_eq(old, new)));
        assert_eq!(shared.count(), before.v4.leaves.len() - 1);
        assert_eq!(after.lookup(prefix(50_000).address()), Some(7));
        assert_eq!(before.lookup(prefix(50_000).address()), Some(50_000));
    }

    #[test]
    fn leaves_that_grow_are_cut_and_those_that_shrink_joined() {
        let prefix = |n: u32| Prefix::new(Ipv4Addr::from_bits(n).into(), 32).unwrap();
        let mut routes = Routes::default();
        (0..10_000).for_each(|n| routes.set(prefix(2 * n), 0, n));
        let full = routes.fib().v4.leaves.len();
        assert!(
            (20_000 / LEAF_MAX..=20_000 / LEAF_MIN).contains(&full),
            "{full}"
        );
        (0..9_990).for_each(|n| routes.unset(prefix(2 * n), 0, n));
        let left = routes.fib().v4.leaves.len();
        assert!(left <= 2, "{left}");
        assert_eq!(
            routes.fib().lookup_v4(Ipv4Addr::from_bits(2 * 9_995)),
            Some(9_995)
        );
    }

    #[test]
    fn an_empty_table_knows_nothing() {
        let fib = Fib::<u32>::default();
        assert_eq!(fib.lookup("255.255.255.255".parse().unwrap()), None);
        assert_eq!(fib.lookup("::".parse().unwrap()), None);
    }

    #[test]
    fn a_hundred_thousand_prefixes_stay_compact_and_right() {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u32::try_from(state >> 32).unwrap()
        };
        let mut routes = Vec::new();
        for value in 0..50_000u32 {
            let len = 8 + u8::try_from(next() % 25).unwrap();
            let v4 = Ipv4Addr::from_bits(next());
            routes.push((Prefix::new(v4.into(), len).unwrap(), value));
            let v6 = u128::from(next()) << 96 | u128::from(next()) << 64;
            let v6 = Ipv6Addr::from_bits(v6);
            routes.push((Prefix::new(v6.into(), 4 * len).unwrap(), value));
        }
        let fib = Fib::build(routes.iter().copied());
        // At most 2n + 1 ranges of each family, the trees' upper levels below a fifth.
        assert!(fib.heap_bytes() < 50_000 * 2 * (13 + 25) * 4 / 3);
        for (prefix, _) in routes.iter().step_by(997) {
            let address = prefix.address();
            assert_eq!(fib.lookup(address), naive(&routes, address));
        }
    }
}
