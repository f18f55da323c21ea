//! `labels` of ports and peers, and which of them metrics have.
//!
//! In, out, never: as [`super`].

use super::Reader;
use crate::config::raw::{Node, Value};
use crate::config::report::Report;
use crate::config::section::Section;
use crate::config::{Labels, limits, value};

const KEYS: &str = "expected 1 to 63 letters, digits, `_`, `.`, `-` or `/`, beginning with a letter, a digit or `_`";

impl Reader<'_> {
    pub(super) fn labels(&mut self, section: &Section<'_>) -> Labels {
        let Some(node) = section.node("labels") else {
            return Labels::default();
        };
        let what = format!("`labels` of {}", section.title());
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other @ (Value::Text(_) | Value::List(_)) => {
                let message = format!("{what} is {}, expected a map", other.form());
                let mistake = self.report.error(node.span, message);
                mistake.help("expected keys with values, as in `{ vm: 7f3a… }`");
                return Labels::default();
            }
        };
        if entries.len() > Labels::COUNT {
            let message = format!("{what} has {}", entries.len());
            let mistake = self.report.error(node.span, message);
            mistake.help(format!("expected at most {}", Labels::COUNT));
        }
        let mut read: Vec<(String, String)> = Vec::with_capacity(entries.len());
        for (key, node) in entries.iter().take(Labels::COUNT) {
            let Some(key_text) = label_key(key, &format!("a key in {what}"), self.report) else {
                continue;
            };
            if read.iter().any(|(other, _)| *other == key_text) {
                let message = format!("`{key_text}` stands twice in {what}");
                let mistake = self.report.error(key.span, message);
                mistake.help("leave one of the two");
                continue;
            }
            let what = format!("`{key_text}` in {what}");
            if let Some(text) = label_value(node, &what, self.report) {
                read.push((key_text, text));
            }
        }
        read.into_iter().collect()
    }

    /// The keys whose values metrics have as labels.
    pub(super) fn metrics_labels(&mut self, section: &Section<'_>) -> Vec<String> {
        let keys = section.list("labels", self.report, label_key);
        if let Some(at) = keys.get(limits::METRICS_LABELS) {
            self.report
                .error(
                    at.span,
                    format!("`labels` of `metrics` has {} keys", keys.len()),
                )
                .help(format!(
                    "expected at most {}: each makes every series longer",
                    limits::METRICS_LABELS
                ));
        }
        for (index, at) in keys.iter().enumerate() {
            let name = crate::config::metrics_label(&at.value);
            let other = keys[..index]
                .iter()
                .find(|other| crate::config::metrics_label(&other.value) == name);
            if let Some(other) = other {
                let message = format!(
                    "`{}` and `{}` in `labels` of `metrics` are both called `{name}` there",
                    other.value, at.value
                );
                let mistake = self.report.error(at.span, message);
                mistake.help("leave one of the two");
            }
        }
        keys.into_iter().map(|at| at.value).collect()
    }
}

fn label_key(node: &Node, what: &str, report: &mut Report) -> Option<String> {
    let text = value::text(node, what, report)?;
    if Labels::is_key(text) {
        return Some(text.to_owned());
    }
    let mistake = report.error(node.span, format!("{what} is `{text:.80}`"));
    mistake.help(KEYS);
    None
}

fn label_value(node: &Node, what: &str, report: &mut Report) -> Option<String> {
    let text = value::text(node, what, report)?;
    if text.len() <= Labels::VALUE_LEN {
        return Some(text.to_owned());
    }
    let message = format!("{what} has {} bytes", text.len());
    let mistake = report.error(node.span, message);
    mistake.help(format!("expected at most {}", Labels::VALUE_LEN));
    None
}
