//! Lists that are told a page at a time.
//!
//! In: which items, how many, behind which one. Out: a page in the order of the items' names, and where the next one
//! begins. Never: more peers asked of the core than a page needs, as far as the configuration tells them apart.

use std::{cmp::Ordering, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reader, called::matches, look};
use crate::{
    api::{Requester, SendError},
    config::{self, Name},
    state::Peer,
};

/// Items of a page, unless others are asked for.
pub const PAGE: usize = 1_000;

/// Items of a page at most. A list is put together for each of its pages: who reads all of it asks for long ones.
pub const LIMIT: usize = 10_000;

/// Peers that are looked at for a page, as many as the longest has: one may have fewer than were asked for, and a next
/// one all the same.
const LOOKED_AT: usize = LIMIT;

/// No page reaches further.
const REACHED: usize = LOOKED_AT + look::PEERS;

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

impl<T> Page<T> {
    /// The part of a whole list, by its items' keys.
    pub fn of(items: Vec<T>, window: &Window, key: impl Fn(&T) -> String) -> Self {
        let behind = |key: &String| window.after.as_ref().is_none_or(|after| key > after);
        let keyed = items.into_iter().map(|item| (key(&item), item));
        let mut keyed: Vec<_> = keyed.filter(|(key, _)| behind(key)).collect();
        let by_key = |(one, _): &(String, T), (other, _): &(String, T)| one.cmp(other);
        let is_more = keyed.len() > window.limit;
        if is_more {
            keyed.select_nth_unstable_by(window.limit, by_key);
            keyed.truncate(window.limit);
        }
        keyed.sort_by(by_key);
        let last = keyed.last().map(|(key, _)| key.clone());
        Self {
            items: keyed.into_iter().map(|(_, item)| item).collect(),
            next: last.filter(|_| is_more),
        }
    }
}

/// Which peers.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// Of this tunnel.
    pub tunnel: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// Called so, in any of the ways of [`super::called`].
    pub like: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// With this label.
    pub label: Option<(String, String)>,
}

impl Peers {
    fn has(&self, tunnel: &Name, peer: &config::Peer) -> bool {
        let is = |wanted: &Option<String>, name: &Name| {
            wanted.as_deref().is_none_or(|it| it == name.as_str())
        };
        let has_label =
            |(key, value): &(String, String)| peer.labels.get(key) == Some(value.as_str());
        is(&self.tunnel, tunnel)
            && is(&self.name, &peer.name)
            && self.label.as_ref().is_none_or(has_label)
            && self
                .like
                .as_ref()
                .is_none_or(|it| is_like(it, tunnel, peer))
    }
}

/// As [`Called`](super::called::Called) of a peer that is shown; its key is written last.
fn is_like(pattern: &str, tunnel: &Name, peer: &config::Peer) -> bool {
    matches(pattern, peer.name.as_str())
        || matches(pattern, tunnel.as_str())
        || matches(pattern, &key(tunnel, peer))
        || matches(pattern, &peer.public_key.to_base64())
}

/// A page of the peers.
///
/// # Errors
///
/// When the engine has ended.
pub fn peers(
    requester: &Requester,
    which: &Peers,
    window: &Window,
) -> Result<Page<Peer>, SendError> {
    let reader = Reader::open(requester)?;
    let mut wanted = reader.wanted(which, window);
    let mut items = Vec::new();
    let mut looked_at = 0;
    while !wanted.is_empty() && items.len() < window.limit && looked_at < LOOKED_AT {
        let room = match which.state {
            // As many as can be taken.
            None => window.limit - items.len(),
            Some(_) => look::PEERS,
        };
        let tunnel = wanted[0].0;
        let same = wanted
            .iter()
            .take(room)
            .take_while(|(it, _)| *it == tunnel)
            .count();
        let page: Vec<_> = wanted.drain(..same).map(|(_, peer)| peer).collect();
        looked_at += same;
        let last = page.last().map(|peer| key(tunnel, peer));
        for told in reader.told(tunnel, page)? {
            if which
                .state
                .as_ref()
                .is_some_and(|state| *state != told.state)
            {
                continue;
            }
            if items.len() == window.limit {
                // The page is full within what was looked at: the next one begins behind its last peer.
                let last = items
                    .last()
                    .map(|it: &Peer| format!("{}/{}", it.tunnel, it.name));
                return Ok(Page { items, next: last });
            }
            items.push(told);
        }
        if wanted.is_empty() {
            break;
        }
        if items.len() >= window.limit || looked_at >= LOOKED_AT {
            return Ok(Page { items, next: last });
        }
    }
    Ok(Page { items, next: None })
}

type Named<'r> = (&'r Name, &'r Arc<config::Peer>);

fn by_name((tunnel, peer): &Named<'_>, (other, another): &Named<'_>) -> Ordering {
    let names = (tunnel.as_str(), peer.name.as_str());
    names.cmp(&(other.as_str(), another.name.as_str()))
}

fn key(tunnel: &Name, peer: &config::Peer) -> String {
    format!("{tunnel}/{}", peer.name)
}

impl Reader<'_> {
    /// What the configuration has of them, in the order of their names, behind where the window begins.
    fn wanted(&self, which: &Peers, window: &Window) -> Vec<Named<'_>> {
        let after = window
            .after
            .as_deref()
            .map(|after| after.split_once('/').unwrap_or((after, "")));
        let behind = |tunnel: &Name, peer: &config::Peer| {
            after.is_none_or(|after| (tunnel.as_str(), peer.name.as_str()) > after)
        };
        let tunnels = self.head.desired.file().tunnels.iter().map(|it| &it.name);
        let all =
            tunnels.flat_map(|tunnel| self.head.desired.peers(tunnel).map(move |it| (tunnel, it)));
        let mut wanted: Vec<_> = all
            .filter(|(tunnel, it)| which.has(tunnel, it) && behind(tunnel, it))
            .collect();
        if wanted.len() > REACHED {
            // Of the others it is enough to know that they are there.
            wanted.select_nth_unstable_by(REACHED, by_name);
            wanted.truncate(REACHED + 1);
        }
        wanted.sort_unstable_by(by_name);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another() {
        let names = ["c", "a", "d", "b"];
        let page = |after: Option<&str>| {
            let window = Window {
                after: after.map(Into::into),
                limit: 2,
            };
            Page::of(names.to_vec(), &window, |it| (*it).to_owned())
        };
        let first = page(None);
        assert_eq!(
            (first.items, first.next.as_deref()),
            (vec!["a", "b"], Some("b"))
        );
        let last = page(Some("b"));
        assert_eq!((last.items, last.next), (vec!["c", "d"], None));
        // One that has gone meanwhile.
        assert_eq!(page(Some("bb")).items, ["c", "d"]);
        assert_eq!(page(Some("d")).items, [""; 0]);
    }
}
