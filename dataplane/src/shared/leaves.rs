//! A table in leaves: a copy shares them, and a change copies the one that it touches.
//!
//! In: items by their places. Out: the same; copies that cost a reference per leaf. Never: a place between others given
//! up: what is taken out leaves it empty.

use std::{array, sync::Arc};

/// Places in a leaf: a change copies so many references, and a copy of the table one per leaf.
const LEAF: usize = 256;

/// Items by their places.
#[derive(Clone, Debug)]
pub struct Leaves<T>(Vec<Arc<[Option<T>; LEAF]>>);

impl<T> Default for Leaves<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Leaves<T> {
    /// All places, vacant ones among them.
    #[must_use]
    pub fn places(&self) -> usize {
        self.0.len() * LEAF
    }

    /// All items with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let places = self.0.iter().flat_map(|leaf| leaf.iter()).enumerate();
        places.filter_map(|(place, item)| Some((place, item.as_ref()?)))
    }

    /// The item at a place.
    #[inline]
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&T> {
        self.0.get(place / LEAF)?.get(place % LEAF)?.as_ref()
    }
}

impl<T: Clone> Leaves<T> {
    /// The item at a place, to be changed.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        let leaf = Arc::make_mut(self.0.get_mut(place / LEAF)?);
        leaf[place % LEAF].as_mut()
    }

    /// Puts an item to a place, or takes it from there.
    pub fn set(&mut self, place: usize, item: Option<T>) {
        while self.0.len() <= place / LEAF {
            self.0.push(Arc::new(array::from_fn(|_| None)));
        }
        Arc::make_mut(&mut self.0[place / LEAF])[place % LEAF] = item;
    }
}

impl<T: Clone> FromIterator<Option<T>> for Leaves<T> {
    fn from_iter<I: IntoIterator<Item = Option<T>>>(items: I) -> Self {
        let mut leaves = Self::default();
        for (place, item) in items.into_iter().enumerate() {
            leaves.set(place, item);
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_did_not_change() {
        let mut now: Leaves<usize> = (0..1_000).map(Some).collect();
        let before = now.clone();
        now.set(300, None);
        now.set(2_000, Some(7));
        assert_eq!((before.get(300), now.get(300)), (Some(&300), None));
        assert_eq!((before.get(2_000), now.get(2_000)), (None, Some(&7)));
        assert_eq!(
            (now.get(299), now.get(1_999), now.get(9_999)),
            (Some(&299), None, None)
        );
        let shared = before
            .0
            .iter()
            .zip(&now.0)
            .filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), 3);
    }

    #[test]
    fn items_are_told_with_their_places() {
        let mut leaves = Leaves::default();
        for place in [700, 3, 255] {
            leaves.set(place, Some(place));
        }
        leaves.set(3, None);
        *leaves.get_mut(700).unwrap() = 7;
        assert_eq!(leaves.get_mut(701), None);
        let items: Vec<_> = leaves.iter().map(|(place, item)| (place, *item)).collect();
        assert_eq!(items, [(255, 255), (700, 7)]);
        assert_eq!(leaves.places(), 768);
    }
}
