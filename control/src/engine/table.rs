//! Tables that know what changed in them.
//!
//! In: named things, as they come, change and go. Out: the same by place and by name; the places that changed, and, of
//! things that are driven, those that were touched at all. Never: a change that a snapshot shows and that leaves its place
//! unmarked: what is put in or taken out marks it, and so does whoever asks with [`Table::change`].

use std::{
    collections::{BTreeSet, HashMap},
    ops::Deref,
};

use super::slots::Slots;
use crate::config::Name;

/// Something with a name of its own.
pub(super) trait Named {
    /// Whether somebody asks which were touched: tunnels are driven then.
    const IS_DRIVEN: bool = false;

    /// It stays while the thing does.
    fn name(&self) -> &Name;
}

/// Things in their places.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Slots<T>,
    places: HashMap<Name, usize>,
    changed: BTreeSet<usize>,
    touched: BTreeSet<usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            places: HashMap::new(),
            changed: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }
}

/// To look.
impl<T> Deref for Table<T> {
    type Target = Slots<T>;

    fn deref(&self) -> &Slots<T> {
        &self.slots
    }
}

impl<T: Named> Table<T> {
    /// The place of the thing that has this name.
    pub(super) fn place(&self, name: &Name) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The thing that has this name.
    pub(super) fn named(&self, name: &Name) -> Option<&T> {
        self.slots.get(self.place(name)?)
    }

    /// As [`Slots::reserve`].
    pub(super) fn reserve(&mut self) -> usize {
        self.slots.reserve()
    }

    /// As [`Slots::put`].
    pub(super) fn put(&mut self, slot: usize, item: T) {
        self.places.insert(item.name().clone(), slot);
        self.slots.put(slot, item);
        self.mark(slot);
    }

    /// Keeps `item`; answers its place.
    pub(super) fn insert(&mut self, item: T) -> usize {
        let slot = self.slots.reserve();
        self.put(slot, item);
        slot
    }

    /// As [`Slots::take`].
    pub(super) fn take(&mut self, slot: usize) -> Option<T> {
        let item = self.slots.take(slot)?;
        if self.place(item.name()) == Some(slot) {
            self.places.remove(item.name());
        }
        self.mark(slot);
        Some(item)
    }

    /// As [`Slots::vacate`].
    pub(super) fn vacate(&mut self, slot: usize) {
        self.slots.vacate(slot);
    }

    /// Takes the item out of its place, which others may have.
    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        let item = self.take(slot)?;
        self.slots.vacate(slot);
        Some(item)
    }

    /// Something of it changes that snapshots show.
    pub(super) fn change(&mut self, slot: usize) -> Option<&mut T> {
        let item = self.slots.get_mut(slot)?;
        self.changed.insert(slot);
        if T::IS_DRIVEN {
            self.touched.insert(slot);
        }
        Some(item)
    }

    /// Nothing of it changes that snapshots show.
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        let item = self.slots.get_mut(slot)?;
        if T::IS_DRIVEN {
            self.touched.insert(slot);
        }
        Some(item)
    }

    /// Nothing of it changes that anybody waits for.
    pub(super) fn untouched(&mut self, slot: usize) -> Option<&mut T> {
        self.slots.get_mut(slot)
    }

    /// Nothing of them changes that snapshots show.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        let items = self.slots.iter_mut();
        items.inspect(|&(slot, _)| {
            if T::IS_DRIVEN {
                self.touched.insert(slot);
            }
        })
    }

    fn mark(&mut self, slot: usize) {
        self.changed.insert(slot);
        if T::IS_DRIVEN {
            self.touched.insert(slot);
        }
    }

    /// The places that changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.changed)
    }

    /// The places that somebody asked for to change something since the last call of [`Table::take_touched`].
    pub(super) fn touched(&self) -> impl Iterator<Item = usize> {
        self.touched.iter().copied()
    }

    /// The same, and forgets them.
    pub(super) fn take_touched(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.touched)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Thing(Name, u8);

    impl Named for Thing {
        const IS_DRIVEN: bool = true;

        fn name(&self) -> &Name {
            &self.0
        }
    }

    fn thing(name: &str) -> Thing {
        Thing(Name::new(name).unwrap(), 0)
    }

    #[derive(Debug)]
    struct Still(Name);

    impl Named for Still {
        fn name(&self) -> &Name {
            &self.0
        }
    }

    #[test]
    fn of_what_nobody_drives_no_touch_is_noted() {
        let mut table = Table::default();
        let slot = table.insert(Still(Name::new("a").unwrap()));
        table.iter_mut().for_each(drop);
        assert!(table.change(slot).is_some() && table.get_mut(slot).is_some());
        assert_eq!(table.take_touched(), BTreeSet::new());
        assert_eq!(table.take_changed(), BTreeSet::from([slot]));
    }

    #[test]
    fn what_changes_is_told_once_and_found_by_its_name() {
        let mut table = Table::default();
        let places = ["a", "b", "c"].map(|name| table.insert(thing(name)));
        assert_eq!(table.take_changed(), BTreeSet::from(places));
        assert_eq!(table.take_changed(), BTreeSet::new());
        let [a, b, c] = places;
        table.change(c).unwrap().1 = 7;
        assert_eq!(table.get_mut(b).unwrap().1, 0);
        assert_eq!(table.change(9), None);
        assert_eq!(table.remove(a), Some(thing("a")));
        assert_eq!(table.take_changed(), BTreeSet::from([a, c]));
        assert_eq!(table.take_touched(), BTreeSet::from([a, b, c]));
        table.untouched(b);
        table.iter_mut().take(1).for_each(drop);
        assert_eq!(table.touched().collect::<Vec<_>>(), [b]);
        let name = |name: &str| Name::new(name).unwrap();
        assert_eq!(table.place(&name("a")), None);
        assert_eq!(table.named(&name("c")).unwrap().1, 7);
        // Another one of the name is there before the first goes.
        let again = table.insert(thing("b"));
        table.remove(b);
        assert_eq!(table.place(&name("b")), Some(again));
    }
}
