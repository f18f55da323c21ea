//! The peers of a tunnel in the file's order: those that were read, and among them those that are known from the reading
//! before.
//!
//! In: drafts; models with the places of what their drafts had, and how far those have moved. Out: one peer after the
//! other. Never: a draft of a peer that is known: there may be a hundred thousand.

use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::report::Span;
use super::super::section::At;
use super::super::{Endpoint, Name, Peer as Model, build};
use super::Peer;
use crate::keys::PublicKey;

/// The peers of a tunnel.
#[derive(Default)]
pub(in crate::config) struct Peers {
    read: Vec<Peer>,
    known: Arc<Known>,
    runs: Vec<Run>,
}

/// Peers in a row.
struct Run {
    /// The number of the first of them among all.
    begin: usize,
    peers: Range<usize>,
    /// How many lines further down they stand than they did. Those without were read.
    down: Option<isize>,
}

impl Run {
    fn end(&self) -> usize {
        self.begin + self.peers.len()
    }
}

impl From<Vec<Peer>> for Peers {
    fn from(read: Vec<Peer>) -> Self {
        let mut peers = Self::default();
        peers.push(0..read.len(), None);
        Self { read, ..peers }
    }
}

impl Peers {
    fn push(&mut self, peers: Range<usize>, down: Option<isize>) {
        if !peers.is_empty() {
            let begin = self.len();
            self.runs.push(Run { begin, peers, down });
        }
    }

    /// Lays peers that are known among those that were read: runs of them, one below the other, each with how far it has
    /// moved down. `None` if those that were read don't stand one below the other.
    pub(in crate::config) fn lay_among(
        &mut self,
        known: Arc<Known>,
        runs: Vec<(Range<usize>, isize)>,
    ) -> Option<()> {
        let line = |peer: &Peer| peer.name.span.line;
        if !self.read.is_sorted_by_key(line) {
            return None;
        }
        self.runs.clear();
        self.known = known;
        let mut next = 0;
        for (peers, down) in runs {
            let first = self.known.at(peers.start, down)?.name().span.line;
            let end = self.read.partition_point(|peer| line(peer) < first);
            self.push(next..end, None);
            self.push(peers, Some(down));
            next = next.max(end);
        }
        self.push(next..self.read.len(), None);
        Some(())
    }

    pub(in crate::config) fn len(&self) -> usize {
        self.runs.last().map_or(0, Run::end)
    }

    pub(in crate::config) fn iter(&self) -> impl Iterator<Item = AnyPeer<'_>> + Clone {
        let runs = self.runs.iter();
        runs.flat_map(|run| run.peers.clone().filter_map(|place| self.at(run, place)))
    }

    pub(in crate::config) fn get(&self, number: usize) -> Option<AnyPeer<'_>> {
        let behind = self.runs.partition_point(|run| run.begin <= number);
        let run = self.runs.get(behind.checked_sub(1)?)?;
        self.at(run, run.peers.start + (number - run.begin))
    }

    fn at(&self, run: &Run, place: usize) -> Option<AnyPeer<'_>> {
        match run.down {
            Some(down) => self.known.at(place, down),
            None => self.read.get(place).map(AnyPeer::Read),
        }
    }

    pub(in crate::config) fn read(&self) -> &[Peer] {
        &self.read
    }

    pub(in crate::config) fn read_mut(&mut self) -> &mut [Peer] {
        &mut self.read
    }
}

/// A peer that was read, or is known.
#[derive(Clone, Copy)]
pub(in crate::config) enum AnyPeer<'d> {
    Read(&'d Peer),
    Known {
        model: &'d Arc<Model>,
        places: &'d [Place],
        down: isize,
    },
}

impl<'d> AnyPeer<'d> {
    pub(in crate::config) fn name(self) -> At<&'d Name> {
        match self {
            Self::Read(draft) => At::new(&draft.name.value, draft.name.span),
            Self::Known { model, .. } => At::new(&model.name, self.span(0)),
        }
    }

    pub(in crate::config) fn public_key(self) -> Option<At<PublicKey>> {
        match self {
            Self::Read(draft) => draft.public_key,
            Self::Known { model, .. } => Some(At::new(model.public_key, self.span(1))),
        }
    }

    pub(in crate::config) fn endpoint(self) -> Option<At<&'d Endpoint>> {
        match self {
            Self::Read(draft) => draft
                .endpoint
                .as_ref()
                .map(|at| At::new(&at.value, at.span)),
            Self::Known { model, .. } => {
                let endpoint = model.endpoint.as_ref()?;
                Some(At::new(endpoint, self.span(2)))
            }
        }
    }

    pub(in crate::config) fn allowed_ips(self) -> impl Iterator<Item = At<IpNet>> + 'd {
        let count = match self {
            Self::Read(draft) => draft.allowed_ips.len(),
            Self::Known { model, .. } => model.allowed_ips.len(),
        };
        (0..count).map(move |number| match self {
            Self::Read(draft) => draft.allowed_ips[number],
            Self::Known { model, .. } => {
                let ahead = 2 + usize::from(model.endpoint.is_some());
                At::new(model.allowed_ips[number], self.span(ahead + number))
            }
        })
    }

    pub(in crate::config) fn is_enabled(self) -> bool {
        match self {
            Self::Read(draft) => draft.enabled,
            Self::Known { model, .. } => model.enabled,
        }
    }

    /// The model of it: what is known has one.
    pub(in crate::config) fn model(self) -> Option<Arc<Model>> {
        match self {
            Self::Read(draft) => build::peer(draft),
            Self::Known { model, .. } => Some(Arc::clone(model)),
        }
    }

    /// Where one of the things stands that are known of it.
    fn span(self, number: usize) -> Span {
        match self {
            Self::Read(draft) => draft.name.span,
            Self::Known { places, down, .. } => {
                let place = places.get(number).copied().unwrap_or_default();
                place.span(down)
            }
        }
    }
}

/// Peers as they were read, with the places of what they have.
#[derive(Default)]
pub(in crate::config) struct Known {
    peers: Box<[(Arc<Model>, u32)]>,
    /// The places of each peer up to its number: name, key, endpoint if it has one, prefixes in the model's order.
    places: Box<[Place]>,
}

impl Known {
    /// Those of a tunnel with their models; `None` if a place can't be kept.
    pub(in crate::config) fn of(peers: &Peers, models: &[Arc<Model>]) -> Option<Self> {
        // Most have one prefix and no endpoint, or were known before.
        let most = 3 * models.len() + peers.known.places.len();
        let mut places = Vec::with_capacity(most);
        let mut all = Vec::with_capacity(models.len());
        for (peer, model) in peers.iter().zip(models) {
            match peer {
                AnyPeer::Read(draft) => places.extend(of_draft(draft, model)?),
                AnyPeer::Known {
                    places: known,
                    down,
                    ..
                } => places.extend(known.iter().map(|place| place.moved(down))),
            }
            all.push((Arc::clone(model), u32::try_from(places.len()).ok()?));
        }
        Some(Self {
            peers: all.into(),
            places: places.into(),
        })
    }

    pub(in crate::config) fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.peers.iter().map(|(model, _)| model)
    }

    /// A peer that has moved down by so many lines.
    pub(in crate::config) fn at(&self, number: usize, down: isize) -> Option<AnyPeer<'_>> {
        let (model, end) = self.peers.get(number)?;
        let ahead = number.checked_sub(1).and_then(|it| self.peers.get(it));
        let begin = ahead.map_or(0, |(_, end)| *end as usize);
        let places = self.places.get(begin..*end as usize)?;
        Some(AnyPeer::Known {
            model,
            places,
            down,
        })
    }

    /// Where a peer began.
    pub(in crate::config) fn span(&self, number: usize) -> Option<Span> {
        Some(self.at(number, 0)?.name().span)
    }

    /// How many peers began ahead of a line.
    pub(in crate::config) fn ahead_of(&self, line: usize) -> usize {
        let is_ahead = |number| self.span(number).is_some_and(|span| span.line < line);
        let (mut low, mut high) = (0, self.peers.len());
        while low < high {
            let middle = low.midpoint(high);
            match is_ahead(middle) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }
}

/// The places of a peer, its prefixes in the model's order; `None` if one can't be kept.
fn of_draft(draft: &Peer, model: &Model) -> Option<Vec<Place>> {
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
#[derive(Clone, Copy, Default)]
pub(in crate::config) struct Place {
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

    /// As many lines further down: a text has fewer than a number holds.
    fn moved(self, down: isize) -> Self {
        let line = (self.line as usize).saturating_add_signed(down);
        Self {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            ..self
        }
    }

    fn span(self, down: isize) -> Span {
        let Self {
            line,
            column,
            width,
        } = self.moved(down);
        Span {
            file: 0,
            line: line as usize,
            column: column.into(),
            width,
        }
    }
}
