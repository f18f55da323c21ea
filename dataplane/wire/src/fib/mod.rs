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

mod prefix;
mod ranges;
mod routes;
mod table;
#[cfg(test)]
mod tests;
mod tree;

pub use self::{
    prefix::Prefix,
    routes::{Rank, Routes},
};
use self::{
    ranges::{Route, leaves},
    table::Table,
};

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
        Self::sorted(routes.iter())
    }

    /// A table of prefixes in their order, each once.
    fn sorted<'r>(routes: impl Iterator<Item = (&'r Prefix, &'r V)> + Clone) -> Self
    where
        V: 'r,
    {
        let table = |is_v4| {
            let routes = routes.clone();
            routes.filter(move |(prefix, _)| prefix.address.is_ipv4() == is_v4)
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
