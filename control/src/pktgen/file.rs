//! A file of streams: the same keys as flags, in YAML or JSON.
//!
//! In: a text. Out: a tree for `culvert_pktgen`; mistakes with their lines, told as those of a configuration are. Never:
//! what a key means.

use std::path::Path;

use culvert_pktgen::Mistake;
use culvert_pktgen::tree::Node;

use crate::config::{RawNode, RawValue, Report, Span, raw_tree};

/// A file's tree, and where everything in it stands.
#[derive(Debug)]
pub struct Streams {
    report: Report,
    root: RawNode,
}

impl Streams {
    /// Reads a text.
    ///
    /// # Errors
    /// A mistake of syntax.
    pub fn read(path: &Path, text: &str) -> Result<Self, Report> {
        let mut report = Report::new(path, text);
        match raw_tree(text, &mut report) {
            Some(root) => Ok(Self { report, root }),
            None => Err(report),
        }
    }

    /// What it says.
    #[must_use]
    pub fn tree(&self) -> Node {
        tree(&self.root)
    }

    /// Mistakes that a profile has, each with its line.
    #[must_use]
    pub fn report(mut self, mistakes: &[Mistake]) -> Report {
        for mistake in mistakes {
            let span = place(&self.root, &mistake.path);
            let message = format!("`{}` {}", mistake.path, mistake.message);
            let told = self.report.error(span, message);
            for line in &mistake.help {
                told.help(line.clone());
            }
        }
        self.report.sort();
        self.report
    }
}

fn tree(node: &RawNode) -> Node {
    match &node.value {
        RawValue::Null => Node::Null,
        RawValue::Text(text) => Node::Text(text.clone()),
        RawValue::List(items) => Node::List(items.iter().map(tree).collect()),
        RawValue::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|(key, value)| (text_of(key), tree(value)));
            Node::Map(pairs.collect())
        }
    }
}

fn text_of(node: &RawNode) -> String {
    match &node.value {
        RawValue::Text(text) => text.clone(),
        RawValue::Null | RawValue::List(_) | RawValue::Map(_) => String::new(),
    }
}

/// Where a path leads: to its end, or as far as it goes.
fn place(root: &RawNode, path: &str) -> Span {
    let mut node = root;
    let steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
    for step in steps {
        let next = match &node.value {
            RawValue::Map(entries) => entries
                .iter()
                // Of a key that stands there twice the last one is the mistake.
                .rfind(|(key, _)| text_of(key) == step)
                .map(|(_, value)| value),
            RawValue::List(items) => step.parse().ok().and_then(|place: usize| items.get(place)),
            RawValue::Null | RawValue::Text(_) => None,
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    node.span
}

#[cfg(test)]
mod tests {
    use culvert_pktgen::Profile;

    use super::*;

    fn told(text: &str) -> String {
        let streams = match Streams::read(Path::new("s.yaml"), text) {
            Ok(streams) => streams,
            Err(report) => return report.render(false),
        };
        match Profile::read(&streams.tree()) {
            Ok(_) => String::new(),
            Err(mistakes) => streams.report(&mistakes).render(false),
        }
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        assert_eq!(
            told("rate: 1mpps\nstreams:\n- { size: 64 }\n- { size: imix, name: b }\n"),
            ""
        );
        let text = told("rate: 10mps\nstreams:\n- size: 64\n- { name: b, sise: 9 }\n");
        assert!(
            text.contains("s.yaml:1:7") && text.contains("10mps"),
            "{text}"
        );
        assert!(
            text.contains("s.yaml:4:20") && text.contains("is `size` meant?"),
            "{text}"
        );
        let text = told("rate: [1\n");
        assert!(text.contains("s.yaml:"), "{text}");
        let text = told("seed: 1\nseed: 2\n");
        assert!(
            text.contains("s.yaml:2:7") && text.contains("twice"),
            "{text}"
        );
    }
}
