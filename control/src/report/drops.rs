//! What was lost, wherever it was.
//!
//! In: counters, where they are; of ports what the core has summed. Out: those that are not zero. Never: a look at a
//! peer by the core; the name of one that has lost nothing.

use std::{borrow::Cow, collections::HashMap, fmt};

use super::{
    Reader,
    lists::{Pick, Put, Told, Which, Window, both},
    look::{self, Look, Lost},
};
use crate::{
    api::{Request, SendError, ask},
    config::Name,
    state::Drop,
};

/// A counter's place in the list: `port`, `peer` or `uplink`, its name, which a peer has behind its tunnel's, the reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'d> {
    kind: &'d str,
    name: (&'d str, &'d str),
    reason: Cow<'d, str>,
}

impl<'d> Key<'d> {
    fn new(kind: &'d str, name: (&'d str, &'d str), reason: Cow<'d, str>) -> Self {
        Self { kind, name, reason }
    }

    /// Of a page's `next`; what it doesn't say comes ahead of all that has it.
    fn parse(text: &'d str) -> Self {
        let mut words = text.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        Self {
            kind: word(),
            name: both(word()),
            reason: word().into(),
        }
    }

    fn scope(&self) -> String {
        let Self { kind, name, .. } = self;
        match name {
            (name, "") => format!("{kind} {name}"),
            (tunnel, peer) => format!("{kind} {tunnel}/{peer}"),
        }
    }

    fn is_wanted(&self, which: &Which) -> bool {
        let is_named = which.name.as_ref().is_none_or(|name| *name == self.scope());
        let own = || {
            let scope = self.scope();
            scope
                .split_once(' ')
                .map_or(String::new(), |(_, own)| own.to_owned())
        };
        is_named && (which.is_like([&*self.reason].into_iter()) || which.is_like_text(own()))
    }
}

/// As a page's `next` has it.
impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.scope(), self.reason)
    }
}

/// The counters of a page.
struct Page<'d> {
    pick: Pick<Key<'d>, u64>,
    which: &'d Which,
}

impl<'d> Page<'d> {
    fn offer(&mut self, key: Key<'d>, packets: u64) {
        if self.pick.wants(&key) && key.is_wanted(self.which) {
            self.pick.offer(key, packets);
        }
    }

    fn offer_all(&mut self, kind: &'d str, name: (&'d str, &'d str), lost: &'d Lost) {
        for (reason, packets) in lost {
            self.offer(Key::new(kind, name, reason.into()), *packets);
        }
    }

    /// Whether something of that name can be on it.
    fn may_have(&self, kind: &'d str, name: &'d Name) -> bool {
        // There is no such reason: it comes behind all.
        let last = Key::new(kind, (name.as_str(), ""), "~".into());
        self.pick.is_behind(&last)
            && (self.which.name.as_ref()).is_none_or(|name| *name == last.scope())
    }
}

impl Reader<'_> {
    /// A page of the counters that are not zero.
    pub(super) fn list_drops(&self, which: &Which, window: &Window, put: Put<'_, Drop>) -> Told {
        let after = window.after.as_deref().map(Key::parse);
        let mut page = Page {
            pick: Pick::new(after, window.limit),
            which,
        };
        self.lost_by_peers(&mut page)?;
        self.lost_by_ports(&mut page)?;
        for uplink in &self.head.uplinks {
            page.offer_all("uplink", (&uplink.name, ""), &uplink.drops);
        }
        let (counters, is_more) = page.pick.done();
        let last = counters.last().map(|(key, _)| key.to_string());
        for (key, packets) in counters {
            put(Drop {
                scope: key.scope(),
                reason: key.reason.into_owned(),
                packets,
            });
        }
        Ok(last.filter(|_| is_more))
    }

    /// Their cells say who they are, so that only those have to be looked for that have lost anything.
    fn lost_by_peers<'d>(&'d self, page: &mut Page<'d>) -> Result<(), SendError> {
        let cells = ask(self.requester, |reply| Request::Look(Look::Cells(reply)))?;
        let lost = cells.peers.iter().map(|(_, cell)| cell);
        let lost = lost.filter(|cell| cell.drops.total() > 0);
        let lost: HashMap<_, _> = lost.map(|cell| ((cell.tunnel, cell.key), cell)).collect();
        for tunnel in self.head.desired.file().tunnels.iter().map(|it| &it.name) {
            let place = cells.tunnels.iter().find(|(_, name)| name == tunnel);
            let Some(&(place, _)) = place.filter(|_| !lost.is_empty()) else {
                continue;
            };
            for peer in self.head.desired.peers(tunnel) {
                let Some(cell) = lost.get(&(place, peer.public_key)) else {
                    continue;
                };
                for (reason, packets) in cell.drops.iter() {
                    let name = (tunnel.as_str(), peer.name.as_str());
                    page.offer(Key::new("peer", name, reason.name().into()), packets);
                }
            }
        }
        Ok(())
    }

    /// In the order of their names, as far as a page needs them.
    fn lost_by_ports<'d>(&'d self, page: &mut Page<'d>) -> Result<(), SendError> {
        let names = self.head.desired.ports().map(|port| &port.name);
        let mut names: Vec<_> = names.filter(|name| page.may_have("port", name)).collect();
        names.sort_unstable();
        for names in names.chunks(look::PORTS) {
            if page.pick.is_full() {
                break;
            }
            let asked = names.iter().map(|&name| (name.clone(), None)).collect();
            let told = self.ask(asked, Look::Losses)?;
            for (name, (_, lost)) in names.iter().zip(told) {
                for (reason, packets) in lost.into_iter().flatten() {
                    let name = (name.as_str(), "");
                    page.offer(Key::new("port", name, reason.into()), packets);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_what_the_next_one_begins_behind() {
        for key in [
            Key::new("peer", ("wg0", "hv-b"), "no-key".into()),
            Key::new("port", ("vm1", ""), "ring-full".into()),
        ] {
            assert_eq!(Key::parse(&key.to_string()), key);
            // What somebody made up begins ahead of what it could mean.
            for text in ["", "p", "peer wg0", "peer wg0/hv-b"] {
                assert!(Key::parse(text) < key, "{text}");
            }
        }
    }
}
