//! What a file includes becomes a part of its tree.
//!
//! In: texts with their paths. Out: one tree whose places know their files, or mistakes. Never: the disk: what did not
//! come along is a mistake.
//!
//! What a file has comes ahead of what it includes. Maps of names (tunnels, networks, ports, …) are put together by name.
//! A thing belongs to one file: if it stands in two, both are there, and whoever reads the tree names both places. So
//! does a key that is no such map. But a section that has only maps of names, as a tunnel with nothing but `peers`, adds
//! to the section of that name.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::raw::{self, Node, Value};
use super::report::{Report, Span};
use super::schema::{self, Form, Table};
use super::texts::{Included, Texts};
use super::{limits, value};

const KEY: &str = "include";

type Entries = Vec<(Node, Node)>;

/// The paths that a text includes, if it can be read.
pub(super) fn paths(path: &Path, text: &str) -> Vec<PathBuf> {
    // Most texts don't, and are read once then.
    if !text.contains(KEY) {
        return Vec::new();
    }
    let mut unheard = Report::new(path, "");
    let Some(Node {
        value: Value::Map(entries),
        ..
    }) = raw::read(text, &mut unheard)
    else {
        return Vec::new();
    };
    let nodes = entries.iter().filter(|(key, _)| is(key, KEY));
    let nodes = nodes.flat_map(|(_, value)| items(value));
    let paths = nodes.filter_map(|item| value::path(item, KEY, &mut unheard));
    let folder = path.parent().unwrap_or(Path::new(""));
    paths.map(|path| folder.join(path)).collect()
}

/// Whether a tree includes something.
pub(super) fn any(root: &Node) -> bool {
    matches!(&root.value, Value::Map(entries) if entries.iter().any(|(key, _)| is(key, KEY)))
}

/// The tree of a file and all that it includes; `None` if a part of it can't be read, which is reported.
pub(super) fn tree(texts: &Texts, report: &mut Report) -> Option<Node> {
    let mut root = raw::read(&texts.text, report)?;
    if !any(&root) {
        return Some(root);
    }
    let mut expansion = Expansion {
        texts,
        above: Vec::new(),
        seen: HashMap::new(),
        parts: Vec::new(),
        values: 0,
        is_whole: true,
    };
    let Value::Map(entries) = root.value else {
        return Some(root);
    };
    expansion.file(texts.path.clone(), entries, Span::default(), report);
    root.value = Value::Map(put_together(expansion.parts));
    expansion.is_whole.then_some(root)
}

struct Expansion<'t> {
    texts: &'t Texts,
    /// The files that include the one that is read, each in the one before.
    above: Vec<PathBuf>,
    /// Where each file was included.
    seen: HashMap<PathBuf, Span>,
    parts: Vec<Entries>,
    values: usize,
    is_whole: bool,
}

impl<'t> Expansion<'t> {
    /// Takes a file's tree, and then what it includes.
    fn file(&mut self, path: PathBuf, entries: Entries, named: Span, report: &mut Report) {
        let (includes, entries): (Entries, Entries) =
            entries.into_iter().partition(|(key, _)| is(key, KEY));
        self.seen.insert(plain(&path), named);
        self.parts.push(entries);
        if let [(first, _), (second, _), ..] = includes.as_slice() {
            let first = report.line(first.span);
            report
                .error(second.span, "`include` stands twice in the file")
                .help(format!(
                    "it stands in {first} already: make one list of the two"
                ));
            self.is_whole = false;
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        self.above.push(path);
        for (_, node) in includes.iter().take(1) {
            self.list(node, &folder, report);
        }
        self.above.pop();
    }

    fn list(&mut self, node: &Node, folder: &Path, report: &mut Report) {
        if matches!(node.value, Value::Map(_)) {
            self.is_whole = false;
            report
                .error(node.span, "`include` is a map, expected a list of paths")
                .help("a list is written `[a, b]`, or one item a line behind `- `");
        }
        for item in items(node) {
            match value::path(item, "a path of `include`", report) {
                Some(path) => self.path(&folder.join(path), item.span, report),
                None => self.is_whole = false,
            }
        }
    }

    fn path(&mut self, path: &Path, span: Span, report: &mut Report) {
        let shown = path.display();
        let texts: &'t Texts = self.texts;
        let errors = report.errors();
        match texts.included(path) {
            _ if self.above.len() > limits::INCLUDES_NESTED => {
                let way: Vec<_> = self
                    .above
                    .iter()
                    .map(|it| it.display().to_string())
                    .collect();
                report
                    .error(span, format!("`{shown}` is included too deep: by {}", way.join(", by ")))
                    .help(format!(
                        "what is included may include, {} levels deep: name it in a file further up",
                        limits::INCLUDES_NESTED
                    ));
            }
            None => {
                report
                    .error(span, format!("`{shown}` is included, and did not come along"))
                    .help("the API opens no file: `culvert apply` and `culvert diff` read what is included, and send it along")
                    .help("expected its text in `included`, or all in one text");
            }
            Some(Included {
                hindrance: Some(error),
                ..
            }) => {
                let mistake = report.error(span, format!("`{shown}` can't be included: {error}"));
                if let Some(folder) = shown.to_string().strip_suffix("/*.yaml") {
                    mistake.help(format!(
                        "expected the folder itself, whose *.yaml are included: `{folder}`"
                    ));
                } else {
                    mistake.help("expected the path of a file, or of a folder whose *.yaml are included; a relative one begins at this file's folder");
                }
            }
            Some(included) if included.files.is_empty() => {
                report
                    .warning(span, format!("the folder `{shown}` has no *.yaml"))
                    .help(
                        "files with other names, and those that begin with a dot, are not included",
                    );
            }
            Some(included) => {
                for file in &included.files {
                    self.text(&file.path, &file.text, span, report);
                }
            }
        }
        self.is_whole &= report.errors() == errors;
    }

    fn text(&mut self, path: &Path, text: &str, named: Span, report: &mut Report) {
        let shown = path.display();
        let same = plain(path);
        if self.above.iter().any(|it| plain(it) == same) {
            let ring = self.above.iter().skip_while(|it| plain(it) != same);
            let ring: Vec<_> = ring.map(|it| it.display().to_string()).collect();
            report
                .error(named, format!("`{shown}` includes itself"))
                .help(format!(
                    "{} includes {shown}: remove one of these",
                    ring.join(" includes ")
                ));
            return;
        }
        if let Some(first) = self.seen.get(&same) {
            let first = report.line(*first);
            report
                .error(named, format!("`{shown}` is included twice"))
                .help(format!(
                    "it is included in {first} already: remove one of the two"
                ));
            return;
        }
        if self.seen.len() > limits::INCLUDED_FILES {
            report.error(
                named,
                format!("more than {} files are included", limits::INCLUDED_FILES),
            );
            return;
        }
        let file = report.begin(path, text);
        let Some(root) = raw::read_part(text, file, report) else {
            return;
        };
        self.values += root.values();
        if self.values > raw::MAX_NODES {
            report.error(
                named,
                format!(
                    "all files together have more than {} values",
                    raw::MAX_NODES
                ),
            );
            return;
        }
        let entries = match root.value {
            Value::Map(entries) => entries,
            Value::Null => Vec::new(),
            other @ (Value::Text(_) | Value::List(_)) => {
                let message = format!("the file is {}, expected a map", other.form());
                report.error(root.span, message).help(
                    "expected sections as in the file that includes it: `ports:`, `tunnels:`, …",
                );
                return;
            }
        };
        let entries = entries
            .into_iter()
            .filter(|(key, value)| !is_idle(key, value, report));
        let entries = entries.collect();
        self.file(path.to_owned(), entries, named, report);
    }
}

/// A path by which a file is known again: without steps down and up.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for step in path.components() {
        let last = plain.components().next_back();
        match (step, last) {
            (Component::ParentDir, Some(Component::Normal(_))) => {
                plain.pop();
            }
            (Component::CurDir, _) => {}
            _ => plain.push(step),
        }
    }
    plain
}

/// What an included file may say again, and what it keeps to itself.
fn is_idle(key: &Node, value: &Node, report: &mut Report) -> bool {
    if is(key, "version") {
        let _ = value::integer(value, "`version` of the file", 1, 1, report);
        return true;
    }
    matches!(&key.value, Value::Text(name) if name.starts_with("x-"))
}

fn is(key: &Node, name: &str) -> bool {
    matches!(&key.value, Value::Text(text) if text == name)
}

/// The items of a list; one item without its dash is what was meant.
fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Text(_) => std::slice::from_ref(node),
        Value::Null | Value::Map(_) => &[],
    }
}

/// Maps of names become one each; all else stays side by side.
fn put_together(parts: Vec<Entries>) -> Entries {
    merged(&schema::FILE, parts.into_iter().flatten())
}

fn merged(table: &Table, entries: impl Iterator<Item = (Node, Node)>) -> Entries {
    let mut all: Entries = Vec::new();
    let mut places: HashMap<&'static str, usize> = HashMap::new();
    let mut names: HashMap<&'static str, HashMap<String, usize>> = HashMap::new();
    for (key, value) in entries {
        let named = named(table, &key);
        let Some((name, of)) = named.filter(|_| is_map(&value)) else {
            all.push((key, value));
            continue;
        };
        let place = *places.entry(name).or_insert_with(|| {
            let map = Value::Map(Vec::new());
            let span = value.span;
            all.push((key, Node { span, value: map }));
            all.len() - 1
        });
        let sections = entries_of(&mut all[place].1);
        let names = names.entry(name).or_default();
        if let Value::Map(more) = value.value {
            more.into_iter()
                .for_each(|(name, section)| add(of, sections, names, name, section));
        }
    }
    all
}

/// Adds a section by its name: to the one that is there, if one of the two only has maps of names.
fn add(
    of: &Table,
    sections: &mut Entries,
    names: &mut HashMap<String, usize>,
    name: Node,
    section: Node,
) {
    let Value::Text(text) = &name.value else {
        sections.push((name, section));
        return;
    };
    let Some(&place) = names.get(text) else {
        names.insert(text.clone(), sections.len());
        sections.push((name, section));
        return;
    };
    let (first_name, first) = &mut sections[place];
    let adds = only_adds(of, &section);
    let of_one_file = first_name.span.file == name.span.file;
    if of_one_file || !(adds || only_adds(of, first)) {
        sections.push((name, section));
        return;
    }
    if !adds {
        // What is wrong with the whole section is so where its other keys are.
        (first_name.span, first.span) = (name.span, section.span);
    }
    if let Value::Map(more) = section.value {
        let entries = std::mem::take(entries_of(first));
        *entries_of(first) = merged(of, entries.into_iter().chain(more));
    }
}

/// Whether a section has maps of names and nothing else.
fn only_adds(table: &Table, section: &Node) -> bool {
    match &section.value {
        Value::Map(entries) if !entries.is_empty() => entries
            .iter()
            .all(|(key, value)| named(table, key).is_some() && is_map(value)),
        Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => false,
    }
}

fn named(table: &Table, key: &Node) -> Option<(&'static str, &'static Table)> {
    let Value::Text(name) = &key.value else {
        return None;
    };
    let key = table.key(name)?;
    let Form::Named(of) = key.form else {
        return None;
    };
    Some((key.name, of))
}

/// A map, or nothing where one is expected.
fn is_map(value: &Node) -> bool {
    matches!(value.value, Value::Map(_) | Value::Null)
}

fn entries_of(node: &mut Node) -> &mut Entries {
    match &mut node.value {
        Value::Map(entries) => entries,
        Value::Null | Value::Text(_) | Value::List(_) => unreachable!("asked of maps alone"),
    }
}
