//! Prefixes that come and go.
//!
//! In: prefixes with values and ranks, one by one. Out: the table of them. Never: a leaf made anew that a change doesn't
//! touch.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    Fib, Prefix,
    prefix::{mask_v4, mask_v6},
    ranges::{Origin, Painted},
    table::{Leaf, Leaves, Table},
    tree::Key,
};

/// The most ranges that a leaf may grow to.
pub(super) const LEAF_MAX: usize = 256;
/// Fewer are joined with a neighbor's.
pub(super) const LEAF_MIN: usize = 64;

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
        let mut ranks = prefixes.iter().peekable();
        let highest = std::iter::from_fn(move || {
            loop {
                let ((prefix, _), value) = ranks.next()?;
                // Of the same prefix that of the highest rank is the last.
                if ranks.peek().is_none_or(|((next, _), _)| next != prefix) {
                    return Some((prefix, value));
                }
            }
        });
        let fib = Fib::sorted(highest);
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

    /// The value of this very prefix and rank.
    pub fn at(&self, prefix: Prefix, rank: Rank) -> Option<V> {
        self.prefixes.get(&(prefix, rank)).copied()
    }

    /// A prefix that has an address in common with that one. Those of fewer bits than `least` don't count: they say where
    /// everything else goes.
    pub fn overlap(&self, with: Prefix, least: u8) -> Option<Prefix> {
        let above = (least..with.len).filter_map(|len| Prefix::new(with.address, len));
        let is_here = |prefix: &Prefix| self.get(*prefix).is_some();
        let first = (Prefix { len: 0, ..with }, Rank::MIN);
        let within = self.prefixes.range(first..).map(|((prefix, _), _)| *prefix);
        let within = within.take_while(|prefix| with.contains(prefix.address));
        let mut within = within.filter(|prefix| prefix.len >= least);
        above.into_iter().find(is_here).or_else(|| within.next())
    }

    /// How many prefixes there are, of each rank.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks for that")]
    pub fn len(&self) -> usize {
        self.prefixes.len()
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
