//! Reading maps by their tables.
//!
//! In: nodes of the tree and the [`Table`] that a map should follow. Out: values with their spans;
//! everything that doesn't fit goes to the report, and `None` stands for a value that was reported
//! already. Never: relations between values.

use std::collections::HashMap;
use std::fmt;

use super::raw::{Node, Value};
use super::report::{Report, Span};
use super::schema::{Form, Presence, Table};
use super::{Name, value};

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> At<T> {
    pub(super) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// One of a map by numbers.
pub(super) enum Numbered<'n> {
    /// Its keys.
    Section(Section<'n>),
    /// What stands for them, and what it is called.
    Short(&'n Node, String),
}

/// A map that follows a table.
pub(super) struct Section<'n> {
    /// "tunnel `wg0`"
    title: String,
    /// Where the section's name stands (or the map, if it has no name).
    pub(super) span: Span,
    table: &'static Table,
    entries: HashMap<&'n str, (Span, &'n Node)>,
    /// Keys that unknown ones were probably meant to be: not missing, but misspelt.
    misspelt: Vec<&'static str>,
    unknown: usize,
}

/// Unknown keys of one section for which is looked what was meant: that takes a look at each known one.
const EXPLAINED: usize = 100;

impl<'n> Section<'n> {
    /// Whether a key that is not known was probably meant to be this one.
    pub(super) fn misspells(&self, name: &str) -> bool {
        self.misspelt.contains(&name)
    }

    /// Reads a map's keys; reports unknown, doubled and missing ones.
    pub(super) fn open(
        node: &'n Node,
        title: impl fmt::Display,
        span: Span,
        table: &'static Table,
        report: &mut Report,
    ) -> Option<Self> {
        let title = title.to_string();
        let map = match &node.value {
            Value::Map(map) => map.as_slice(),
            Value::Null => &[],
            other @ (Value::Text(_) | Value::List(_)) => {
                let message = format!("{title} is {}, expected a map", other.form());
                let names = table.keys.iter().map(|key| key.name);
                report
                    .error(node.span, message)
                    .help(format!("its keys: {}", list(names)));
                return None;
            }
        };
        let mut section = Self {
            title,
            span,
            table,
            entries: HashMap::with_capacity(map.len()),
            misspelt: Vec::new(),
            unknown: 0,
        };
        for (key, value) in map {
            section.add(key, value, report);
        }
        section.report_missing(report);
        Some(section)
    }

    fn add(&mut self, key: &'n Node, value: &'n Node, report: &mut Report) {
        let Value::Text(name) = &key.value else {
            let message = format!("{} is no key of {}", key.value.form(), self.title);
            report.error(key.span, message).help("expected a word");
            return;
        };
        if self.table.key(name).is_none() {
            if !(std::ptr::eq(self.table, &raw const super::schema::FILE) && name.starts_with("x-"))
            {
                self.report_unknown(name, key.span, value, report);
            }
            return;
        }
        if let Some((first, _)) = self.entries.get(name.as_str()) {
            let message = format!("`{name}` stands twice in {}", self.title);
            let first = report.line(*first);
            report
                .error(key.span, message)
                .help(format!("it stands in {first} already: keep one of the two"));
            return;
        }
        self.entries.insert(name, (key.span, value));
    }

    fn report_unknown(&mut self, name: &str, span: Span, value: &Node, report: &mut Report) {
        if let (Some(_), Value::Text(secret)) = (inline_secret(name), &value.value) {
            report.hide(secret);
        }
        let mistake = report.error(span, format!("unknown key `{name}` in {}", self.title));
        let table = self.table;
        if let Some(file_key) = inline_secret(name) {
            mistake.help("keys are never written into the configuration");
            mistake.help(format!(
                "put the key into a file that only its owner can read, and its path here: `{file_key}: /etc/culvert/NAME.key`"
            ));
            self.misspelt.push(file_key);
            return;
        }
        if let Some(words) = of_wg(name) {
            mistake.help(words);
            return;
        }
        self.unknown += 1;
        if self.unknown > EXPLAINED {
            return;
        }
        let names = || table.keys.iter().map(|key| key.name);
        match nearest(name, names()) {
            Some(near) => {
                self.misspelt.push(near);
                mistake.help(format!("did you mean `{near}`?"))
            }
            None => mistake.help(format!("expected one of: {}", list(names()))),
        };
    }

    fn report_missing(&self, report: &mut Report) {
        for key in self.table.keys {
            if key.presence == Presence::Required && self.lacks(key.name) {
                let message = format!("{} has no `{}`", self.title, key.name);
                report.error(self.span, message).help(format!(
                    "expected `{}: {}`: {}",
                    key.name,
                    value::example(&key.form),
                    lower_first(key.doc)
                ));
            }
        }
    }

    /// The section in words: "tunnel `wg0`".
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Where a key's name stands, if the section has it.
    pub(super) fn key_span(&self, name: &str) -> Option<Span> {
        self.entries.get(name).map(|(span, _)| *span)
    }

    /// Whether a key is absent, and not merely misspelt.
    pub(super) fn lacks(&self, name: &str) -> bool {
        !self.entries.contains_key(name) && !self.misspelt.contains(&name)
    }

    /// A key's node, if the section has it.
    pub(super) fn node(&self, name: &str) -> Option<&'n Node> {
        debug_assert!(
            self.table.key(name).is_some(),
            "no key {name} in {}",
            self.table.title
        );
        self.entries.get(name).map(|(_, node)| *node)
    }

    /// What a key's value looks like.
    pub(super) fn example(&self, name: &str) -> String {
        value::example(&self.form(name))
    }

    /// The form that the table has for a key.
    fn form(&self, name: &str) -> Form {
        self.table
            .key(name)
            .expect("sections are asked for keys of their table")
            .form
    }

    /// A key's value, read by `read`.
    pub(super) fn get<T>(
        &self,
        name: &str,
        report: &mut Report,
        read: impl FnOnce(&Node, &str, &mut Report) -> Option<T>,
    ) -> Option<At<T>> {
        let node = self.node(name)?;
        let what = format!("`{name}` of {}", self.title);
        read(node, &what, report).map(|value| At::new(value, node.span))
    }

    /// A whole number in the table's range.
    pub(super) fn integer(&self, name: &str, report: &mut Report) -> Option<At<u32>> {
        let Form::Integer { min, max } = self.form(name) else {
            unreachable!("{name} is an integer in its table")
        };
        self.get(name, report, |node, what, report| {
            value::integer(node, what, min, max, report)
        })
    }

    /// Whole seconds in the table's range.
    pub(super) fn seconds(&self, name: &str, report: &mut Report) -> Option<At<u32>> {
        let Form::Seconds { min, max } = self.form(name) else {
            unreachable!("{name} is a time in its table")
        };
        self.get(name, report, |node, what, report| {
            value::seconds(node, what, (min, max), report)
        })
    }

    /// One of the table's words.
    pub(super) fn choice(&self, name: &str, report: &mut Report) -> Option<At<&'static str>> {
        let Form::Choice(words) = self.form(name) else {
            unreachable!("{name} is a choice in its table")
        };
        self.get(name, report, |node, what, report| {
            value::choice(node, what, words, report)
        })
    }

    /// A list, each item read by `read`. Items that were reported are left out.
    pub(super) fn list<T>(
        &self,
        name: &str,
        report: &mut Report,
        mut read: impl FnMut(&Node, &str, &mut Report) -> Option<T>,
    ) -> Vec<At<T>> {
        let Some(node) = self.node(name) else {
            return Vec::new();
        };
        let what = format!("`{name}` of {}", self.title);
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            // One item without its dash is what was meant.
            Value::Text(_) => std::slice::from_ref(node),
            other @ (Value::Null | Value::Map(_)) => {
                report
                    .error(node.span, format!("{what} is {}, expected a list", other.form()))
                    .help("a list is written `[a, b]`, or one item a line behind `- `; an empty one `[]`");
                return Vec::new();
            }
        };
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let read = read(item, &what, report);
            values.extend(read.map(|value| At::new(value, item.span)));
        }
        values
    }

    /// A map from names to sections. A name whose section is no map is there all the same, so that
    /// references to it are not mistakes of their own.
    pub(super) fn named(
        &self,
        name: &str,
        report: &mut Report,
    ) -> Vec<(At<Name>, Option<Section<'n>>)> {
        let Form::Named(table) = self.form(name) else {
            unreachable!("{name} is a map of names in its table")
        };
        let Some(node) = self.node(name) else {
            return Vec::new();
        };
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other @ (Value::Text(_) | Value::List(_)) => {
                let message = format!(
                    "`{name}` of {} is {}, expected a map",
                    self.title,
                    other.form()
                );
                report.error(node.span, message).help(format!(
                    "expected the name of each {} followed by its keys",
                    table.title
                ));
                return Vec::new();
            }
        };
        let mut seen: HashMap<Name, Span> = HashMap::with_capacity(entries.len());
        let mut sections = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let Some(name) = value::name(key, &format!("the name of a {}", table.title), report)
            else {
                continue;
            };
            if let Some(first) = seen.get(&name) {
                let message = format!("a second {} named `{name}`", table.title);
                let first = report.line(*first);
                report.error(key.span, message).help(format!(
                    "the first stands in {first}: give one of them another name"
                ));
                continue;
            }
            seen.insert(name.clone(), key.span);
            let title = format!("{} `{name}`", table.title);
            let section = Section::open(node, title, key.span, table, report);
            sections.push((At::new(name, key.span), section));
        }
        sections
    }

    /// A map from numbers to sections, or to what stands for one.
    pub(super) fn numbered(&self, name: &str, report: &mut Report) -> Vec<(At<u32>, Numbered<'n>)> {
        let Form::Numbered {
            min, max, table, ..
        } = self.form(name)
        else {
            unreachable!("{name} is a map of numbers in its table")
        };
        let Some(node) = self.node(name) else {
            return Vec::new();
        };
        let what = format!("`{name}` of {}", self.title);
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other @ (Value::Text(_) | Value::List(_)) => {
                let message = format!("{what} is {}, expected a map", other.form());
                report.error(node.span, message).help(format!(
                    "expected the number of each {} followed by what it is, as in `{{ {min}: … }}`",
                    table.title
                ));
                return Vec::new();
            }
        };
        let mut seen: HashMap<u32, Span> = HashMap::with_capacity(entries.len());
        let mut found = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let called = format!("a {} in {what}", table.title);
            let Some(number) = value::integer(key, &called, min, max, report) else {
                continue;
            };
            if let Some(first) = seen.get(&number) {
                let message = format!("{} {number} stands twice in {what}", table.title);
                let first = report.line(*first);
                report
                    .error(key.span, message)
                    .help(format!("it stands in {first} already: keep one of the two"));
                continue;
            }
            seen.insert(number, key.span);
            let title = format!("{} {number} of {}", table.title, self.title);
            let item = match &node.value {
                Value::Text(_) => Numbered::Short(node, title),
                Value::Null | Value::List(_) | Value::Map(_) => {
                    match Section::open(node, title, key.span, table, report) {
                        Some(section) => Numbered::Section(section),
                        None => continue,
                    }
                }
            };
            found.push((At::new(number, key.span), item));
        }
        found
    }

    /// A list of sections without names.
    pub(super) fn tables(&self, name: &str, report: &mut Report) -> Vec<Section<'n>> {
        let Form::Tables(table) = self.form(name) else {
            unreachable!("{name} is a list of maps in its table")
        };
        let Some(node) = self.node(name) else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            if !matches!(node.value, Value::Null) {
                let form = node.value.form();
                report
                    .error(
                        node.span,
                        format!("`{name}` of {} is {form}, expected a list", self.title),
                    )
                    .help(format!(
                        "expected one {} a line behind `- `; an empty list is `[]`",
                        table.title
                    ));
            }
            return Vec::new();
        };
        let open = |item| {
            let title = format!("{} of {}", table.title, self.title);
            Section::open(item, title, item.span, table, report)
        };
        items.iter().filter_map(open).collect()
    }

    /// A map from texts to the table's words.
    pub(super) fn words(&self, name: &str, report: &mut Report) -> Vec<(String, &'static str)> {
        let Form::Words(words) = self.form(name) else {
            unreachable!("{name} is a map to words in its table")
        };
        let Some(node) = self.node(name) else {
            return Vec::new();
        };
        let what = format!("`{name}` of {}", self.title);
        let Value::Map(entries) = &node.value else {
            let message = format!("{what} is {}, expected a map", node.value.form());
            report.error(node.span, message);
            return Vec::new();
        };
        let mut read: Vec<(String, &'static str)> = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let Some(text) = value::text(key, &format!("a name in {what}"), report) else {
                continue;
            };
            if read.iter().any(|(other, _)| other == text) {
                report
                    .error(key.span, format!("`{text}` stands twice in {what}"))
                    .help("leave one of the two");
                continue;
            }
            let word = value::choice(node, &format!("`{text}` of {what}"), words, report);
            read.extend(word.map(|word| (text.to_owned(), word)));
        }
        read
    }

    /// A map of fixed keys; an empty one when the key is left out.
    pub(super) fn table(&self, name: &str, report: &mut Report) -> Option<Section<'n>> {
        let (Form::Table(table) | Form::Either(&Form::Table(table), _)) = self.form(name) else {
            unreachable!("{name} is a map in its table")
        };
        let (span, node) = self.entries.get(name)?;
        let title = if std::ptr::eq(self.table, &raw const super::schema::FILE) {
            format!("`{name}`")
        } else {
            format!("`{name}` of {}", self.title)
        };
        Section::open(node, title, *span, table, report)
    }
}

/// The key that should have been written instead of an inline secret.
fn inline_secret(name: &str) -> Option<&'static str> {
    match name.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "privatekey" | "secretkey" => Some("private_key_file"),
        "presharedkey" | "psk" => Some("preshared_key_file"),
        _ => None,
    }
}

/// What there is for a key that `wg` or `wg-quick` has under a name that is far from ours.
fn of_wg(name: &str) -> Option<&'static str> {
    match name.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "keepalive" => Some("did you mean `persistent_keepalive`?"),
        "interface" => Some(
            "what `wg-quick` has under [Interface] are keys of a tunnel: `listen_port`, `private_key_file`",
        ),
        "peer" => Some("did you mean `peers`, each by its name?"),
        "dns" => Some("`wg-quick`'s DNS is the guests' or the host's own affair: remove it"),
        "table" | "saveconfig" => Some(
            "that is `wg-quick`'s: routes are those of `allowed_ips` and of a network's `routes`; remove it",
        ),
        "preup" | "postup" | "predown" | "postdown" => Some(
            "that is `wg-quick`'s: the configuration runs no command; systemd's units do: ExecStartPre=, ExecStartPost=",
        ),
        _ => None,
    }
}

/// The known word that a word was probably meant to be.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '.'], "_");
    let word = plain(word);
    // A third of the word may differ, and one letter always.
    let allowed = (word.chars().count() / 3).max(1);
    let distance = |known: &str| strsim::damerau_levenshtein(&word, &plain(known));
    let by_distance = known
        .map(|known| (distance(known), known))
        .min_by_key(|(far, _)| *far);
    by_distance
        .filter(|(far, _)| *far <= allowed)
        .map(|(_, known)| known)
}

/// "`a`, `b`, `c`", cut after twenty.
pub(super) fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let mut words = words.map(|word| format!("`{word}`"));
    let mut shown: Vec<String> = words.by_ref().take(SHOWN).collect();
    let more = words.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}
