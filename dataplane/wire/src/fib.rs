//! Longest-prefix match for IPv4 and IPv6.
//!
//! In: prefixes with values, once, on the control thread. Out: for an address, the value
//! of the longest prefix that holds it.
//! Never: a change after the build (a new table replaces an old one), unsafe code, an
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
//! Why not a poptrie: its depth follows the prefixes' length, so IPv6 /64s cost eight
//! dependent loads where this takes six at 100,000 prefixes and two at ten; it counts
//! bits, which costs a dozen instructions on a processor baseline without POPCNT, where
//! this compares, which every baseline vectorises; and its worst case depends on who
//! chooses the prefixes, where this one is the logarithm of their number. Memory is 12
//! bytes (IPv4) or 24 (IPv6) per range, of which n prefixes make at most 2n + 1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// A finished table.
#[derive(Clone, Debug)]
pub struct Fib<V> {
    v4: Ranges<u32, V, 16>,
    v6: Ranges<u128, V, 8>,
}

impl<V: Copy + Eq> Default for Fib<V> {
    fn default() -> Self {
        Self::build([])
    }
}

impl<V: Copy + Eq> Fib<V> {
    /// A table of these prefixes. Of equal prefixes the later one counts.
    pub fn build(routes: impl IntoIterator<Item = (Prefix, V)>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (prefix, value) in routes {
            match prefix.address {
                IpAddr::V4(address) => {
                    let first = address.to_bits();
                    let last = first | !mask_v4(prefix.len);
                    v4.push(Route { first, last, value });
                }
                IpAddr::V6(address) => {
                    let first = address.to_bits();
                    let last = first | !mask_v6(prefix.len);
                    v6.push(Route { first, last, value });
                }
            }
        }
        Self {
            v4: Ranges::build(v4),
            v6: Ranges::build(v6),
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
    value: V,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node<K, const B: usize>([K; B]);

/// Levels of a tree over n ranges: 16^8 and 8^11 ranges are more than memory holds.
const LEVELS_MAX: usize = 12;

/// Disjoint ranges that cover all addresses, and the tree over their starts.
///
/// Level 0 holds all starts in order, `B` to a node; entry j of a higher level is the
/// first start of node j below. The last node of a level is filled up with the highest
/// address; `entries` knows how many are real.
#[derive(Clone, Debug)]
struct Ranges<K, V, const B: usize> {
    /// All levels' nodes, the leaves first.
    nodes: Vec<Node<K, B>>,
    /// Per level: where its nodes begin, how many entries it has.
    levels: [(usize, usize); LEVELS_MAX],
    depth: usize,
    /// The value of each range.
    values: Vec<Option<V>>,
}

impl<K: Key, V: Copy + Eq, const B: usize> Ranges<K, V, B> {
    fn build(routes: Vec<Route<K, V>>) -> Self {
        let (mut starts, values) = flatten(routes);
        let mut nodes = Vec::new();
        let mut levels = [(0, 0); LEVELS_MAX];
        let mut depth = 0;
        while depth < LEVELS_MAX {
            levels[depth] = (nodes.len(), starts.len());
            depth += 1;
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
        nodes.shrink_to_fit();
        Self {
            nodes,
            levels,
            depth,
            values,
        }
    }

    #[inline]
    fn lookup(&self, key: K) -> Option<V> {
        let mut index = 0;
        for &(base, entries) in self.levels.get(..self.depth)?.iter().rev() {
            let node = self.nodes.get(base + index)?;
            // Counted in 32 bits, the width of an IPv4 comparison's lanes.
            let not_above: u32 = node.0.iter().map(|start| u32::from(*start <= key)).sum();
            // The first start of the whole table is 0, so the count is never 0; the
            // filling counts only for the highest address, which is in the last range.
            index = (index * B + not_above as usize)
                .min(entries)
                .checked_sub(1)?;
        }
        *self.values.get(index)?
    }

    fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<K, B>>()
            + self.values.capacity() * size_of::<Option<V>>()
    }
}

/// Turns nested prefixes into disjoint ranges: their starts, the first of them 0, and
/// the value from each start on.
fn flatten<K: Key, V: Copy + Eq>(mut routes: Vec<Route<K, V>>) -> (Vec<K>, Vec<Option<V>>) {
    // A prefix comes before those inside it; equal ones keep their order.
    routes.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
    let mut starts = Vec::with_capacity(routes.len() + 1);
    let mut values: Vec<Option<V>> = Vec::with_capacity(routes.len() + 1);
    let mut emit = |start: K, value: Option<V>| {
        if starts.last() == Some(&start) {
            starts.pop();
            values.pop();
        }
        if values.last() != Some(&value) {
            starts.push(start);
            values.push(value);
        }
    };
    emit(K::ZERO, None);
    // The prefixes around the current address, the innermost last.
    let mut open: Vec<(K, V)> = Vec::new();
    let close = |open: &mut Vec<(K, V)>, emit: &mut dyn FnMut(K, Option<V>), before: Option<K>| {
        while let Some(&(last, _)) = open.last() {
            if before.is_some_and(|start| last >= start) {
                break;
            }
            open.pop();
            // What ends at the highest address has nothing behind it.
            if let Some(next) = last.next() {
                emit(next, open.last().map(|&(_, value)| value));
            }
        }
    };
    for route in routes {
        close(&mut open, &mut emit, Some(route.first));
        emit(route.first, Some(route.value));
        open.push((route.last, route.value));
    }
    close(&mut open, &mut emit, None);
    starts.shrink_to_fit();
    values.shrink_to_fit();
    (starts, values)
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
        assert!(fib.heap_bytes() < 50_000 * 2 * (12 + 24) * 5 / 4);
        for (prefix, _) in routes.iter().step_by(997) {
            let address = prefix.address();
            assert_eq!(fib.lookup(address), naive(&routes, address));
        }
    }
}
