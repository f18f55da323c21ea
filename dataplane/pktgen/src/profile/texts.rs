//! Values under their keys: from texts to types, with the path of each mistake.
//!
//! In: keys and values of a stream and of its profile. Out: values, or defaults and a mistake. Never: what keys come to
//! together.

use super::read::{Pairs, join};
use crate::limits::TRIAL_NS_MAX;
use crate::mistake::{Mistake, Wrong};
use crate::number;
use crate::range::{Kind, Range, family};
use crate::tree::Node;

/// Keys of one place and, below them, those that hold for all streams.
pub(super) struct Texts<'n, 'm> {
    own: &'n Pairs,
    stream: Option<(&'n str, &'n Pairs)>,
    mistakes: &'m mut Vec<Mistake>,
}

impl<'n, 'm> Texts<'n, 'm> {
    pub(super) fn new(
        own: &'n Pairs,
        stream: Option<(&'n str, &'n Pairs)>,
        mistakes: &'m mut Vec<Mistake>,
    ) -> Self {
        Self {
            own,
            stream,
            mistakes,
        }
    }

    pub(super) fn own(&self, key: &str) -> Option<&'n Node> {
        self.own
            .iter()
            .find(|(it, _)| it == key)
            .map(|(_, node)| node)
    }

    /// A key's value, and its path: where it stands.
    fn find(&self, key: &str) -> Option<(String, &'n Node)> {
        let path = self.stream.map(|(path, _)| path);
        let below = |common: &'n Pairs| {
            common
                .iter()
                .find(|(it, _)| it == key)
                .map(|(_, node)| node)
        };
        let own = self.own(key).map(|node| (join(path, key), node));
        own.or_else(|| Some((key.into(), below(self.stream?.1)?)))
            .filter(|(_, node)| *node != &Node::Null)
    }

    fn single(&mut self, key: &str) -> Option<(String, &'n str)> {
        let (path, node) = self.find(key)?;
        match node {
            Node::Text(text) => Some((path, text)),
            Node::Null | Node::List(_) | Node::Map(_) => {
                let message = format!("is {}", node.form());
                self.complain(Mistake::new(path, message).help("expected a single value"));
                None
            }
        }
    }

    /// A common key is read once for every stream: its mistake is one.
    fn complain(&mut self, mistake: Mistake) {
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.single(key).map(|(_, text)| text.into())
    }

    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
        default: T,
    ) -> T {
        let Some((path, text)) = self.single(key) else {
            return default;
        };
        parse(text).unwrap_or_else(|wrong| {
            self.complain(wrong.at(path));
            default
        })
    }

    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        least: u64,
        most: u64,
        default: T,
    ) -> T {
        let wrong = |text: &str| {
            Wrong::new(
                format!("is `{text}`"),
                format!("expected a whole number, {least} to {most}"),
            )
        };
        let parse = |text: &str| {
            let number: Option<u64> = text.trim().replace('_', "").parse().ok();
            number
                .filter(|number| (least..=most).contains(number))
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| wrong(text))
        };
        self.parsed(key, parse, default)
    }

    pub(super) fn duration(&mut self, key: &str, default: u64) -> u64 {
        let help = "expected a time of 1ns to 78h, as in 60s, 500ms or 10us";
        let parse = |text: &str| {
            let ns = number::duration_ns(text).filter(|ns| (1..=TRIAL_NS_MAX).contains(ns));
            ns.ok_or_else(|| Wrong::new(format!("is `{text}`"), help))
        };
        self.parsed(key, parse, default)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let parse = |text: &str| {
            let found = words.iter().find(|(word, _)| *word == text);
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            found.map(|(_, value)| *value).ok_or_else(|| {
                Wrong::new(
                    format!("is `{text}`"),
                    format!("expected {}", names.join(" or ")),
                )
            })
        };
        self.parsed(key, parse, default)
    }

    pub(super) fn range(&mut self, key: &str, kind: Kind, default: u128) -> Range {
        self.parsed(key, |text| Range::parse(kind, text), Range::of(default))
    }

    /// The kind of its addresses: both ends have one.
    pub(super) fn families(&mut self) -> Kind {
        let source = self
            .single("source")
            .map(|(path, text)| (path, family(text)));
        let destination = self
            .single("destination")
            .map(|(path, text)| (path, family(text)));
        let kind = |end: &Option<(String, Result<Kind, Wrong>)>| {
            end.as_ref()
                .and_then(|(_, kind)| kind.as_ref().ok().copied())
        };
        match (kind(&source), kind(&destination)) {
            (Some(source_kind), Some(kind)) if source_kind != kind => {
                let path = destination.map(|(path, _)| path).unwrap_or_default();
                let message = "is of another family than `source`";
                self.complain(
                    Mistake::new(path, message)
                        .help("expected two addresses of IPv4, or two of IPv6"),
                );
                source_kind
            }
            (source, destination) => source.or(destination).unwrap_or(Kind::V4),
        }
    }
}
