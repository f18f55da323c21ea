//! What is kept of a long file: its lines to compare with, and its peers with their places.
//!
//! In: a text, its drafts and the model that was built of them. Out: drafts of peers, as they were. Never: a second copy
//! of what the model has; the text itself.
//!
//! There may be a hundred thousand peers, and all of this lies idle until the file is read again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;

use super::super::draft;
use super::super::report::Span;
use super::super::section::At;
use super::super::{Config, Name, Peer};
use super::Lines;

/// The lines of a text, each as a number that none but equal lines share. Who writes files doesn't know the key.
pub(super) struct Prints {
    key: RandomState,
    lines: Box<[u64]>,
}

impl Prints {
    pub(super) fn of(text: &str) -> Self {
        let key = RandomState::new();
        let lines = text.split('\n').map(|line| key.hash_one(line)).collect();
        Self { key, lines }
    }

    /// How many lines both texts begin with, and how many they end with.
    pub(super) fn common(&self, text: &str) -> (usize, usize) {
        let new = || text.split('\n').map(|line| self.key.hash_one(line));
        let same = |(old, new): &(&u64, u64)| *old == new;
        let ahead = self.lines.iter().zip(new()).take_while(same).count();
        let behind = self.lines[ahead..].iter().rev().zip(new().rev());
        let left = new().count() - ahead;
        (ahead, behind.take(left).take_while(same).count())
    }

    pub(super) fn count(&self) -> usize {
        self.lines.len()
    }
}

/// The peers of a tunnel.
pub(super) struct Kept {
    pub(super) tunnel: Name,
    peers: Box<[(Arc<Peer>, u32)]>,
    /// The places of each peer up to its number: name, key, endpoint if it has one, prefixes in the model's order.
    places: Box<[Place]>,
}

impl Kept {
    /// Those of a tunnel; `None` if its peers don't begin one in a line, one below the other.
    pub(super) fn of(
        draft: &draft::Tunnel,
        model: &[Arc<Peer>],
        lines: &Lines<'_>,
    ) -> Option<Self> {
        let spans: Vec<Span> = draft.peers.iter().map(|peer| peer.name.span).collect();
        let column = spans.first()?.column;
        let below = spans.windows(2).all(|pair| pair[0].line < pair[1].line);
        let mut first = spans.iter().map(|span| lines.is_first(*span));
        if !below || spans.iter().any(|span| span.column != column) || !first.all(|is| is) {
            return None;
        }
        let mut places = Vec::new();
        let mut peers = Vec::with_capacity(model.len());
        for (draft, model) in draft.peers.iter().zip(model) {
            places.extend(of_peer(draft, model)?);
            peers.push((Arc::clone(model), u32::try_from(places.len()).ok()?));
        }
        Some(Self {
            tunnel: draft.name.value.clone(),
            peers: peers.into(),
            places: places.into(),
        })
    }

    pub(super) fn model(&self, peer: usize) -> Option<&Arc<Peer>> {
        self.peers.get(peer).map(|(model, _)| model)
    }

    pub(super) fn models(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.iter().map(|(model, _)| model)
    }

    fn places(&self, peer: usize) -> &[Place] {
        let end = |peer: usize| self.peers.get(peer).map_or(0, |(_, end)| *end as usize);
        let begin = peer.checked_sub(1).map_or(0, end);
        self.places.get(begin..end(peer)).unwrap_or_default()
    }

    /// Where a peer begins.
    pub(super) fn span(&self, peer: usize) -> Option<Span> {
        self.places(peer).first().map(|place| place.span())
    }

    /// How many peers begin ahead of a line.
    pub(super) fn ahead_of(&self, line: usize) -> usize {
        let peers = 0..self.peers.len();
        let line_of = |peer| self.span(peer).map_or(0, |span| span.line);
        partition(peers, |peer| line_of(peer) < line)
    }

    /// The draft that a peer without a preshared key was.
    pub(super) fn draft(&self, peer: usize) -> Option<draft::Peer> {
        let model = self.model(peer)?;
        let mut spans = self.places(peer).iter().map(|place| place.span());
        Some(draft::Peer {
            name: At::new(model.name.clone(), spans.next()?),
            public_key: Some(At::new(model.public_key, spans.next()?)),
            preshared_key: None,
            preshared_key_file: None,
            endpoint: match model.endpoint.clone() {
                Some(endpoint) => Some(At::new(endpoint, spans.next()?)),
                None => None,
            },
            allowed_ips: (model.allowed_ips.iter().zip(spans))
                .map(|(net, span)| At::new(*net, span))
                .collect(),
            persistent_keepalive: model.persistent_keepalive,
            labels: model.labels.clone(),
            enabled: model.enabled,
        })
    }
}

/// The first of some numbers for which something that begins as true is false.
fn partition(numbers: Range<usize>, is_ahead: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (numbers.start, numbers.end);
    while low < high {
        let middle = low.midpoint(high);
        match is_ahead(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

/// The places of a peer, its prefixes in the model's order; `None` if one can't be kept.
fn of_peer(draft: &draft::Peer, model: &Peer) -> Option<Vec<Place>> {
    let mut prefixes: Vec<_> = draft.allowed_ips.iter().collect();
    prefixes.sort_by_key(|at| at.value);
    // The model has each once.
    if prefixes.len() != model.allowed_ips.len() {
        return None;
    }
    let endpoint = draft.endpoint.as_ref().map(|at| at.span);
    [draft.name.span, draft.public_key.as_ref()?.span]
        .into_iter()
        .chain(endpoint)
        .chain(prefixes.into_iter().map(|at| at.span))
        .map(Place::of)
        .collect()
}

/// A span in little room.
#[derive(Clone, Copy)]
struct Place {
    line: u32,
    column: u16,
    width: u16,
}

impl Place {
    fn of(span: Span) -> Option<Self> {
        Some(Self {
            line: span.line.try_into().ok()?,
            column: span.column.try_into().ok()?,
            width: span.width,
        })
    }

    fn span(self) -> Span {
        Span {
            file: 0,
            line: self.line as usize,
            column: self.column.into(),
            width: self.width,
        }
    }
}

/// Lets a configuration share the peers that did not change with what is kept of the one before.
pub(super) fn share(kept: &[Kept], config: &mut Config) {
    for tunnel in &mut config.tunnels {
        if let Some(kept) = kept.iter().find(|kept| kept.tunnel == tunnel.name) {
            tunnel.share(kept.models());
        }
    }
}
