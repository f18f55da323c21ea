//! Numbered places for things that come and go with the configuration.
//!
//! In: things to keep. Out: numbers that stay while the thing does. Never: a number
//! given out again while another was free for longer.

use std::collections::VecDeque;

/// A table whose free places are taken in turn.
#[derive(Debug)]
pub(super) struct Slots<T> {
    items: Vec<Option<T>>,
    vacant: VecDeque<usize>,
    taken: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            vacant: VecDeque::new(),
            taken: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Sets a place aside: nobody else gets it until it is vacated.
    pub(super) fn reserve(&mut self) -> usize {
        self.vacant.pop_front().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() - 1
        })
    }

    /// Keeps `item` in a place that was set aside, or that `take` emptied.
    pub(super) fn put(&mut self, slot: usize, item: T) {
        if self.items[slot].replace(item).is_none() {
            self.taken += 1;
        }
    }

    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// How many places others can't have.
    pub(super) fn in_use(&self) -> usize {
        self.items.len() - self.vacant.len()
    }

    /// Takes the item out, but nobody gets its place before `vacate`.
    pub(super) fn take(&mut self, slot: usize) -> Option<T> {
        let item = self.items.get_mut(slot)?.take()?;
        self.taken -= 1;
        Some(item)
    }

    /// Lets others have a place that was set aside, or that `take` emptied.
    pub(super) fn vacate(&mut self, slot: usize) {
        self.vacant.push_back(slot);
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.items.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.items.get_mut(slot)?.as_mut()
    }

    /// All items with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.items
            .iter()
            .enumerate()
            .filter_map(|(slot, item)| Some((slot, item.as_ref()?)))
    }

    /// All items with their places.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.items
            .iter_mut()
            .enumerate()
            .filter_map(|(slot, item)| Some((slot, item.as_mut()?)))
    }

    /// The number of places, taken or not.
    pub(super) fn places(&self) -> usize {
        self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    impl Slots<char> {
        fn insert(&mut self, item: char) -> usize {
            let slot = self.reserve();
            self.put(slot, item);
            slot
        }

        fn remove(&mut self, slot: usize) -> Option<char> {
            let item = self.take(slot);
            self.vacate(slot);
            item
        }
    }

    #[test]
    fn the_longest_vacant_place_is_taken_first() {
        let mut slots = Slots::default();
        assert_eq!(
            [slots.insert('a'), slots.insert('b'), slots.insert('c')],
            [0, 1, 2]
        );
        assert_eq!(slots.remove(1), Some('b'));
        assert_eq!(slots.remove(0), Some('a'));
        assert_eq!(slots.insert('d'), 1);
        assert_eq!(slots.insert('e'), 0);
        assert_eq!(slots.get(2), Some(&'c'));
    }

    #[test]
    fn a_place_that_is_kept_is_given_to_nobody() {
        let mut slots = Slots::default();
        slots.insert('a');
        assert_eq!(slots.take(0), Some('a'));
        assert_eq!(slots.insert('b'), 1);
        slots.vacate(0);
        assert_eq!(slots.insert('c'), 0);
        let aside = slots.reserve();
        assert_eq!((slots.insert('d'), slots.len()), (3, 3));
        slots.put(aside, 'e');
        assert_eq!((slots.get(2), slots.len()), (Some(&'e'), 4));
    }
}
