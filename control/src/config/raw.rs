//! The YAML text as a tree in which every key and value knows its place.
//!
//! In: text. Out: a tree of texts, lists and maps, or the one mistake of syntax that ended the
//! reading. Never: meaning: a scalar is the text that the operator wrote, so that `0660`,
//! `52:54:00:00:00:01` and `1e3` are what they look like.
//!
//! Limits: [`MAX_TEXT_LEN`] bytes of text, [`MAX_NODES`] nodes, [`MAX_DEPTH`] levels. An alias bomb ends at
//! [`MAX_REPLAYED`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::draft::AnyPeer;
use super::report::{Report, Span};

/// The longest file, in bytes. 100,000 peers take about 30 MiB.
pub(crate) const MAX_TEXT_LEN: usize = 64 << 20;

/// The most values in a file, aliases followed.
pub(super) const MAX_NODES: usize = 4_000_000;

/// The most values that aliases stand for.
const MAX_REPLAYED: usize = 200_000;

/// The deepest nesting; the deepest key of the schema lies at six.
const MAX_DEPTH: usize = 32;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// A value by its form.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `~`, `null` or nothing at all.
    Null,
    /// What was written, quotes and escapes resolved.
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// The form in words: "a list".
    pub(super) fn form(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Reads the text into a tree; a mistake of syntax goes to the report.
pub(crate) fn read(text: &str, report: &mut Report) -> Option<Node> {
    read_part(text, 0, report)
}

/// The same of one of several files, which the report knows by that number.
pub(super) fn read_part(text: &str, file: u16, report: &mut Report) -> Option<Node> {
    let whole = Span {
        file,
        ..Span::default()
    };
    if text.len() > MAX_TEXT_LEN {
        let message = format!(
            "the file has {} bytes, at most {MAX_TEXT_LEN} are read",
            text.len()
        );
        report.error(whole, message);
        return None;
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            max_documents: 2,
            max_total_scalar_bytes: 2 * MAX_TEXT_LEN,
            flow_nesting_limit: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
        },
        // All of them are wanted, each with its place.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Bare>>(text, options) {
        Ok(root) => Some(resolve(root, text, file)),
        Err(error) => {
            report_syntax(&error, text, whole, report);
            None
        }
    }
}

impl Node {
    /// How many values there are, keys among them.
    pub(super) fn values(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Text(_) => 0,
            Value::List(items) => items.iter().map(Self::values).sum(),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, value)| key.values() + value.values())
                .sum(),
        }
    }
}

/// Whether a text whose tree this is, but for these peers, would be read as a whole.
pub(super) fn may_be_read<'p>(
    text: &str,
    rest: &Node,
    peers: impl Iterator<Item = AnyPeer<'p>>,
) -> bool {
    // A name and a map, five keys with their values, a list's items.
    let peers = peers.map(|peer| 12 + peer.allowed_ips().count());
    text.len() <= MAX_TEXT_LEN && rest.values() + peers.sum::<usize>() <= MAX_NODES
}

fn report_syntax(error: &serde_saphyr::Error, text: &str, whole: Span, report: &mut Report) {
    let error = error.without_snippet();
    let span = error.location().map_or(whole, |location| Span {
        file: whole.file,
        line: usize::try_from(location.line()).unwrap_or(0),
        column: usize::try_from(location.column()).unwrap_or(0),
        width: 1,
    });
    if matches!(error, serde_saphyr::Error::MultipleDocuments { .. }) {
        report
            .error(span, "a second YAML document begins here")
            .help("expected one document: remove the `---` and what follows, or merge the two");
        return;
    }
    if let Some(tab) = tab_near(text, span) {
        report
            .error(tab, "a tab at the beginning of a line")
            .help("YAML is indented with spaces: replace the tab");
        return;
    }
    report
        .error(span, plain_message(&error.to_string(), span))
        .help("the file is not YAML from here on: what follows was not checked");
}

/// A tab in the indentation where the parser stopped, or in the line after.
fn tab_near(text: &str, span: Span) -> Option<Span> {
    let skipped = span.line.checked_sub(1)?;
    let lines = text.lines().enumerate().skip(skipped).take(2);
    lines
        .filter_map(|(index, line)| {
            let tab = line.find('\t')?;
            let indentation = line[..tab].bytes().all(|byte| byte == b' ');
            indentation.then_some(Span {
                file: span.file,
                line: index + 1,
                column: tab + 1,
                width: 1,
            })
        })
        .next()
}

/// The library's message without the place that is printed before it anyway.
fn plain_message(message: &str, span: Span) -> String {
    let place = format!(" at line {}, column {}", span.line, span.column);
    message.replace(&place, "")
}

/// A node as serde delivers it: a scalar that looks like a number or a boolean is still unread.
enum Bare {
    Null,
    Text(String),
    /// A number or a boolean: what was written stands in the source.
    Source,
    List(Vec<Spanned<Bare>>),
    Map(Vec<(Spanned<Bare>, Spanned<Bare>)>),
}

impl<'de> Deserialize<'de> for Bare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BareVisitor)
    }
}

struct BareVisitor;

impl<'de> Visitor<'de> for BareVisitor {
    type Value = Bare;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Bare, E> {
        Ok(Bare::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Bare, E> {
        Ok(Bare::Source)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Bare, E> {
        Ok(Bare::Source)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Bare, E> {
        Ok(Bare::Source)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Bare, E> {
        Ok(Bare::Source)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Bare, E> {
        Ok(Bare::Source)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Bare, E> {
        Ok(Bare::Source)
    }

    fn visit_str<E>(self, text: &str) -> Result<Bare, E> {
        Ok(Bare::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Bare, E> {
        Ok(Bare::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bare, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Bare::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bare, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Bare::Map(entries))
    }
}

/// Fills in the scalars that stand in the source. Recursion is bounded by [`MAX_DEPTH`].
fn resolve(spanned: Spanned<Bare>, text: &str, file: u16) -> Node {
    let source = source_of(&spanned, text);
    let mut span = Span {
        file,
        line: usize::try_from(spanned.referenced.line()).unwrap_or(0),
        column: usize::try_from(spanned.referenced.column()).unwrap_or(0),
        width: 1,
    };
    let value = match spanned.value {
        Bare::Null => Value::Null,
        Bare::Text(value) => {
            span.width = width(source);
            Value::Text(value)
        }
        Bare::Source => {
            span.width = width(source);
            Value::Text(source.trim().to_owned())
        }
        Bare::List(items) => {
            let items = items.into_iter().map(|item| resolve(item, text, file));
            Value::List(items.collect())
        }
        Bare::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (resolve(key, text, file), resolve(value, text, file)))
                .collect(),
        ),
    };
    Node { span, value }
}

fn source_of<'t>(spanned: &Spanned<Bare>, text: &'t str) -> &'t str {
    let span = spanned.defined.span();
    let range = span
        .byte_offset()
        .zip(span.byte_len())
        .and_then(|(offset, len)| {
            let start = usize::try_from(offset).ok()?;
            let len = usize::try_from(len).ok()?;
            text.get(start..start.checked_add(len)?)
        });
    range.unwrap_or_default()
}

/// The characters of the first line of a source text.
fn width(source: &str) -> u16 {
    let width = source.lines().next().map_or(1, |line| line.chars().count());
    u16::try_from(width).unwrap_or(u16::MAX)
}
