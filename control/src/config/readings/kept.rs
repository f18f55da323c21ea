//! What is kept of a long file: its lines to compare with, and its peers with their places.
//!
//! In: a text, its drafts and the model that was built of them. Out: where another text differs; peers as they were.
//! Never: a second copy of what the model has; the text itself.
//!
//! There may be a hundred thousand peers, and all of this lies idle until the file is read again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;

use super::super::draft::{Known, Tunnel};
use super::super::report::Span;
use super::super::{Config, Name, Peer, common_ends};

/// The lines of a text, each as a number that none but equal lines share. Who writes files doesn't know the key.
pub(super) struct Prints {
    key: RandomState,
    lines: Box<[u64]>,
}

impl Prints {
    /// How many lines both texts begin with, and how many they end with: both by the same key.
    pub(super) fn common(&self, new: &Self) -> (usize, usize) {
        common_ends(&self.lines, &new.lines, |old, new| old == new)
    }

    pub(super) fn count(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn key(&self) -> RandomState {
        self.key.clone()
    }
}

/// A text and where its lines begin.
pub(super) struct Lines<'t> {
    text: &'t str,
    begin: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// With the prints of the lines.
    pub(super) fn of(text: &'t str, key: RandomState) -> (Self, Prints) {
        let (mut begin, mut prints) = (Vec::new(), Vec::new());
        let mut next = 0;
        for line in text.split('\n') {
            begin.push(next);
            prints.push(key.hash_one(line));
            next += line.len() + 1;
        }
        let prints = Prints {
            key,
            lines: prints.into(),
        };
        (Self { text, begin }, prints)
    }

    pub(super) fn whole(&self) -> &'t str {
        self.text
    }

    /// Behind the last one.
    pub(super) fn end(&self) -> usize {
        self.begin.len() + 1
    }

    /// The text of lines, from 1.
    pub(super) fn text(&self, lines: &Range<usize>) -> Option<&'t str> {
        let begin = *self.begin.get(lines.start.checked_sub(1)?)?;
        let end = self.begin.get(lines.end.checked_sub(1)?);
        self.text
            .get(begin..end.copied().unwrap_or(self.text.len()))
    }

    /// Whether only spaces stand ahead of a place in its line.
    fn is_first(&self, span: Span) -> bool {
        let line = self.text(&(span.line..span.line + 1));
        let ahead = line.and_then(|line| line.get(..span.column.checked_sub(1)?));
        ahead.is_some_and(|ahead| ahead.bytes().all(|byte| byte == b' '))
    }
}

/// The peers of a tunnel.
pub(super) struct Kept {
    pub(super) tunnel: Name,
    pub(super) peers: Arc<Known>,
}

impl Kept {
    /// Those of a tunnel; `None` if its peers don't begin one in a line, one below the other.
    pub(super) fn of(draft: &Tunnel, models: &[Arc<Peer>], lines: &Lines<'_>) -> Option<Self> {
        let spans = || draft.peers.iter().map(|peer| peer.name().span);
        let column = spans().next()?.column;
        let below = spans().is_sorted_by(|one, other| one.line < other.line);
        // Those that are known began their lines before.
        let mut read = draft.peers.read().iter();
        let begin_lines = read.all(|peer| lines.is_first(peer.name.span));
        if !below || !begin_lines || spans().any(|span| span.column != column) {
            return None;
        }
        Some(Self {
            tunnel: draft.name.value.clone(),
            peers: Arc::new(Known::of(&draft.peers, models)?),
        })
    }
}

/// Lets a configuration share the peers that did not change with what is kept of the one before.
pub(super) fn share(kept: &[Kept], config: &mut Config) {
    for tunnel in &mut config.tunnels {
        if let Some(kept) = kept.iter().find(|kept| kept.tunnel == tunnel.name) {
            tunnel.share(kept.peers.models());
        }
    }
}
