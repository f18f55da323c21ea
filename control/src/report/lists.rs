//! Lists that are told a page at a time.
//!
//! In: which items, how many, behind which one. Out: a page in the order of the items' names, one item after the other,
//! and where the next page begins. Never: an item made that is not told, or kept when it is; more asked of the core than
//! a page needs, as far as the configuration tells things apart.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Reader,
    called::{Called, matches},
    look,
};
use crate::{
    api::SendError,
    config::{self, Name},
    state::Peer,
};

/// Items of a page, unless others are asked for.
pub const PAGE: usize = 1_000;

/// Items of a page at most. All things are looked through for each page: who reads all of a list asks for long ones.
pub const LIMIT: usize = 10_000;

/// Peers that are looked at for a page, as many as the longest has, where only the core can tell which of them are
/// wanted: the page may have fewer then, and a next one all the same.
const LOOKED_AT: usize = LIMIT;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// By their names.
    pub items: Vec<T>,
    /// What `after` has to be for the next page, if there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which part of a list.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Items behind this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Which items.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Of this name: routes of this table, neighbors of this place, losses of this scope.
    pub name: Option<String>,
    /// Called so, in any of the ways of [`super::called`].
    pub like: Option<String>,
    /// Peers of this tunnel.
    pub tunnel: Option<String>,
    /// Peers in this state.
    pub state: Option<String>,
    /// Ports and peers with this label.
    pub label: Option<(String, String)>,
}

/// Takes the items of a page, in their order.
pub type Put<'p, T> = &'p mut dyn FnMut(T);

/// Where the next page begins, if there is more.
pub type Told = Result<Option<String>, SendError>;

impl Which {
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|it| it == name)
    }

    /// Whether one of these is meant.
    pub(super) fn is_like<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> bool {
        let like = self.like.as_deref();
        like.is_none_or(|like| names.any(|name| matches(like, name)))
    }

    /// Whether this text is meant, which is written only if somebody asks.
    pub(super) fn is_like_text(&self, text: impl ToString) -> bool {
        let like = self.like.as_deref();
        like.is_none_or(|like| matches(like, &text.to_string()))
    }

    pub(super) fn has_label(&self, labels: &config::Labels) -> bool {
        let has = |(key, value): &(String, String)| labels.get(key) == Some(value.as_str());
        self.label.as_ref().is_none_or(has)
    }

    fn has_peer(&self, tunnel: &Name, peer: &config::Peer) -> bool {
        let of = self.tunnel.as_deref();
        of.is_none_or(|it| it == tunnel.as_str())
            && self.is_named(peer.name.as_str())
            && self.has_label(&peer.labels)
            && self.is_like_peer(tunnel, peer)
    }

    /// As [`Called`] of a peer that is shown. What no pattern of the kind can mean is not written.
    fn is_like_peer(&self, tunnel: &Name, peer: &config::Peer) -> bool {
        let Some(like) = &self.like else { return true };
        let is_open = like.contains('*');
        let key = || peer.public_key.to_base64();
        matches(like, peer.name.as_str())
            || matches(like, tunnel.as_str())
            || (is_open || like.contains('/')) && matches(like, &name(tunnel, peer))
            || (is_open || like.len() == crate::keys::KEY_TEXT_LEN) && matches(like, &key())
    }
}

/// The first items behind a place, of whatever comes in any order. It never holds more than two pages.
pub(super) struct Pick<K, T> {
    after: Option<K>,
    limit: usize,
    kept: Vec<(K, T)>,
    /// So many came that nothing behind this one is among the first.
    last: Option<K>,
}

impl<K: Ord + Clone, T> Pick<K, T> {
    pub(super) fn new(after: Option<K>, limit: usize) -> Self {
        Self {
            after,
            limit,
            kept: Vec::new(),
            last: None,
        }
    }

    /// Whether what has this key is behind where the page begins.
    pub(super) fn is_behind(&self, key: &K) -> bool {
        self.after.as_ref().is_none_or(|after| key > after)
    }

    /// Whether what has this key is wanted by all that is known.
    pub(super) fn wants(&self, key: &K) -> bool {
        self.is_behind(key) && self.last.as_ref().is_none_or(|last| key <= last)
    }

    pub(super) fn offer(&mut self, key: K, item: T) {
        if self.wants(&key) {
            self.kept.push((key, item));
            if self.kept.len() > 2 * self.limit {
                self.cut();
            }
        }
    }

    /// Whether only what comes ahead of some of those that are kept is of interest.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() > self.limit
    }

    /// Keeps one more than may be told: it says that there are more.
    fn cut(&mut self) {
        if self.kept.len() > self.limit + 1 {
            let by_key = |(one, _): &(K, T), (other, _): &(K, T)| one.cmp(other);
            let (_, (last, _), _) = self.kept.select_nth_unstable_by(self.limit, by_key);
            self.last = Some(last.clone());
            self.kept.truncate(self.limit + 1);
        }
    }

    /// Those that may be told, in order, and whether there are more.
    pub(super) fn done(mut self) -> (Vec<(K, T)>, bool) {
        self.cut();
        self.kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        let is_more = self.kept.len() > self.limit;
        self.kept.truncate(self.limit);
        (self.kept, is_more)
    }
}

/// A page of few items, which are there already.
pub fn among<T: Called>(
    items: Vec<T>,
    (which, window): (&Which, &Window),
    name: impl Fn(&T) -> &str,
    key: impl Fn(&T) -> String,
    put: Put<'_, T>,
) -> Option<String> {
    let mut pick = Pick::new(window.after.clone(), window.limit);
    for item in items {
        let like = which.like.as_deref();
        if which.is_named(name(&item)) && like.is_none_or(|like| item.is_called(like)) {
            pick.offer(key(&item), item);
        }
    }
    let (items, is_more) = pick.done();
    let last = items.last().map(|(key, _)| key.clone());
    items.into_iter().for_each(|(_, item)| put(item));
    last.filter(|_| is_more)
}

/// A peer's name among all.
fn name(tunnel: &Name, peer: &config::Peer) -> String {
    format!("{tunnel}/{}", peer.name)
}

/// A tunnel's and a peer's name in a text of both.
pub(super) fn both(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or((text, ""))
}

/// A peer with its tunnel.
pub(super) type Named<'r> = (&'r Name, &'r Arc<config::Peer>);

impl Reader<'_> {
    /// A page of the peers.
    pub(super) fn list_peers(&self, which: &Which, window: &Window, put: Put<'_, Peer>) -> Told {
        let (wanted, is_more) = self.wanted(which, window);
        let is_wanted = |peer: &Peer| which.state.as_ref().is_none_or(|it| *it == peer.state);
        let (mut room, mut last) = (window.limit, None);
        let next = |last: Option<Named<'_>>| last.map(|(tunnel, peer)| name(tunnel, peer));
        let same = wanted.chunk_by(|(one, _), (other, _)| one == other);
        for page in same.flat_map(|same| same.chunks(look::PEERS)) {
            if room == 0 {
                return Ok(next(last));
            }
            for (config, peer) in self.told(page)? {
                if room == 0 {
                    return Ok(next(last));
                }
                last = Some(config);
                if let Some(peer) = peer.filter(is_wanted) {
                    put(peer);
                    room -= 1;
                }
            }
        }
        Ok(next(last.filter(|_| is_more)))
    }

    /// What the configuration has of them behind where the window begins, in the order of their names, and whether
    /// there are more than are looked at for a page.
    fn wanted(&self, which: &Which, window: &Window) -> (Vec<Named<'_>>, bool) {
        let limit = match which.state {
            Some(_) => LOOKED_AT,
            None => window.limit,
        };
        let mut pick = Pick::new(window.after.as_deref().map(both), limit);
        for tunnel in self.head.desired.file().tunnels.iter().map(|it| &it.name) {
            for peer in self.head.desired.peers(tunnel) {
                let key = (tunnel.as_str(), peer.name.as_str());
                if pick.wants(&key) && which.has_peer(tunnel, peer) {
                    pick.offer(key, (tunnel, peer));
                }
            }
        }
        let (wanted, is_more) = pick.done();
        (wanted.into_iter().map(|(_, peer)| peer).collect(), is_more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another() {
        let page = |after: Option<&'static str>| {
            let mut pick = Pick::new(after, 2);
            for name in ["c", "a", "d", "b"] {
                pick.offer(name, ());
            }
            let (items, is_more) = pick.done();
            (items.into_iter().map(|(key, ())| key).collect(), is_more)
        };
        let names = |names: &[&'static str]| -> Vec<_> { names.into() };
        assert_eq!(page(None), (names(&["a", "b"]), true));
        assert_eq!(page(Some("b")), (names(&["c", "d"]), false));
        // One that has gone meanwhile.
        assert_eq!(page(Some("bb")), (names(&["c", "d"]), false));
        assert_eq!(page(Some("d")), (names(&[]), false));
    }

    /// Whatever is offered in whatever order: no more is kept than two pages, and most is not even looked at again.
    #[test]
    fn a_page_of_many_is_all_that_is_kept() {
        let (all, limit) = (100_003_u64, 50);
        let mut pick = Pick::new(Some(999), limit);
        let (mut kept, mut wanted) = (0, 0);
        for number in 0..all {
            // A generator of the group: each number once, in no order.
            let number = number * 77_777 % all;
            wanted += usize::from(pick.wants(&number));
            pick.offer(number, number);
            kept = kept.max(pick.kept.len());
        }
        let (items, is_more) = pick.done();
        let items: Vec<_> = items.into_iter().map(|(_, number)| number).collect();
        assert_eq!(items, (1_000..1_050).collect::<Vec<_>>());
        assert!(is_more);
        assert!(kept <= 2 * limit + 1, "{kept}");
        assert!(wanted < 2_000, "{wanted}");
    }
}
