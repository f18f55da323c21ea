//! Objects by their names, in parts that copies share.
//!
//! In: objects, one by one. Out: the same set with one that is another. Never: a copy of all for a change of one.

use std::{
    array,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use super::{Made, Object, Said, Told};
use crate::config::Name;

/// Parts of a set of objects.
const PARTS: usize = 64;

/// An object of the layer.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// What was laid down.
    pub said: Arc<Said>,
    /// What it is; or why it rests, and the file counts alone.
    pub counts: Result<Arc<T>, Arc<str>>,
    /// When it came, among the others.
    pub turn: u64,
}

type Part<T, K> = HashMap<K, Entry<T>>;

/// Objects by their names; routes by where they lead.
#[derive(Clone, Debug)]
pub(in crate::plan) struct Objects<T, K = Name>(Box<[Arc<Part<T, K>>; PARTS]>);

impl<T, K> Default for Objects<T, K> {
    fn default() -> Self {
        let empty = Arc::default();
        Self(Box::new(array::from_fn(|_| Arc::clone(&empty))))
    }
}

impl<T, K: Clone + Eq + Hash> Objects<T, K> {
    /// What an object is, if the layer has it and it does not rest.
    pub(in crate::plan) fn counting(&self, name: &K) -> Option<&Arc<T>> {
        self.get(name)?.counts.as_ref().ok()
    }

    pub(in crate::plan) fn get(&self, name: &K) -> Option<&Entry<T>> {
        self.0[part(name)].get(name)
    }

    pub(in crate::plan) fn is_empty(&self) -> bool {
        self.0.iter().all(|part| part.is_empty())
    }

    pub(in crate::plan) fn iter(&self) -> impl Iterator<Item = (&K, &Entry<T>)> {
        self.0.iter().flat_map(|part| part.iter())
    }

    /// Those that rest, and why.
    pub(super) fn resting(&self) -> impl Iterator<Item = (&K, &Arc<str>)> {
        self.iter()
            .filter_map(|(key, entry)| Some((key, entry.counts.as_ref().err()?)))
    }

    /// All, in the order in which they came.
    pub(in crate::plan) fn in_order(&self) -> Vec<(&K, &Entry<T>)> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by_key(|(_, entry)| entry.turn);
        all
    }

    /// Has an object be what `entry` says, or not at all.
    pub(super) fn put(&mut self, name: &K, entry: Option<Entry<T>>)
    where
        T: Clone,
    {
        let part = Arc::make_mut(&mut self.0[part(name)]);
        match entry {
            Some(entry) => drop(part.insert(name.clone(), entry)),
            None => drop(part.remove(name)),
        }
    }
}

/// Which part has a key.
fn part(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % PARTS as u64).unwrap_or_default()
}

impl<T: Clone, K: Clone + Eq + Hash> Objects<T, K> {
    pub(super) fn lay(
        &mut self,
        name: &K,
        made: Option<(Said, Result<Made, Arc<str>>)>,
        turn: u64,
        own: impl Fn(Made) -> Option<Arc<T>>,
    ) {
        let turn = self.get(name).map_or(turn, |entry| entry.turn);
        let other = || Arc::from("it is another kind of object");
        let entry = made.map(|(said, made)| Entry {
            said: Arc::new(said),
            counts: made.and_then(|made| own(made).ok_or_else(other)),
            turn,
        });
        self.put(name, entry);
    }
}

impl<T: Clone> Entry<T> {
    pub(super) fn tell(&self, object: Object) -> (u64, Told) {
        let told = Told {
            object,
            said: Arc::clone(&self.said),
            rests: self.counts.as_ref().err().cloned(),
        };
        (self.turn, told)
    }

    /// The same over another file.
    pub(super) fn now(&self, counts: Result<Arc<T>, Arc<str>>) -> Self {
        Self {
            counts,
            ..self.clone()
        }
    }
}
