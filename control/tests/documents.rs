//! The tables of docs/metrics.md are those that the program goes by.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use culvert::{events, metrics};

fn families() -> String {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for family in metrics::ALL {
        let labels: Vec<_> = family.labels.iter().map(|it| format!("`{it}`")).collect();
        let (name, kind, labels) = (family.name, family.kind.name(), labels.join(", "));
        writeln!(table, "| `{name}` | {kind} | {labels} | {} |", family.help).unwrap();
    }
    table
}

fn kinds() -> String {
    let mut table = "| type | level | fields | meaning |\n|---|---|---|---|\n".to_owned();
    for kind in events::KINDS {
        let fields: Vec<_> = kind.fields.iter().map(|it| format!("`{it}`")).collect();
        let level = kind.level.as_str().to_lowercase();
        let (word, fields, meaning) = (kind.word, fields.join(", "), kind.meaning.trim());
        writeln!(table, "| `{word}` | {level} | {fields} | {meaning} |").unwrap();
    }
    table
}

/// A document with a table between its marks.
fn with_table(text: &str, what: &str, table: &str) -> String {
    let marks = ["begin", "end"].map(|word| format!("<!-- the {what} {word} -->"));
    let (head, rest) = text.split_once(&marks[0]).unwrap();
    let (_, tail) = rest.split_once(&marks[1]).unwrap();
    format!("{head}{}\n\n{table}\n{}{tail}", marks[0], marks[1])
}

#[test]
fn every_metric_and_every_event_is_explained() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let wanted = with_table(&text, "metrics", &families());
    let wanted = with_table(&wanted, "events", &kinds());
    if text != wanted {
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.md");
        fs::write(&beside, wanted).unwrap();
        panic!(
            "docs/metrics.md is not what the program goes by; {} is",
            beside.display()
        );
    }
}
