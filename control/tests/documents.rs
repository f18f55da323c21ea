//! The tables of docs/metrics.md are those that the program goes by.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use culvert::{events, metrics};
use culvert_dataplane::shared::drops::DropReason;
use culvert_stack::HostDrop;
use culvert_vhost::PortDrop;

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

/// What a source file says above each variant of an enumeration.
fn comments(file: &str) -> HashMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let (mut all, mut comment) = (HashMap::new(), String::new());
    for line in fs::read_to_string(path).unwrap().lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            let gap = if comment.is_empty() { "" } else { " " };
            comment += &format!("{gap}{text}");
            continue;
        }
        let is_of_word = |it: char| it.is_ascii_alphanumeric();
        let variant = line.split(|it: char| !is_of_word(it)).next().unwrap();
        let comment = std::mem::take(&mut comment);
        if !variant.is_empty() && !comment.is_empty() {
            all.entry(variant.to_owned()).or_insert(comment);
        }
    }
    all
}

fn losses() -> String {
    let mut table = "| reason | meaning |\n|---|---|\n".to_owned();
    let mut add = |comments: &HashMap<String, String>, variant: String, name: String| {
        let meaning = comments[&variant].trim_end_matches('.').replace('|', "\\|");
        writeln!(table, "| `{name}` | {meaning}. |").unwrap();
    };
    let of_packets = comments("dataplane/src/shared/drops.rs");
    for reason in DropReason::ALL {
        add(&of_packets, format!("{reason:?}"), reason.name().into());
    }
    let of_guests = comments("vhost/src/counters.rs");
    for reason in PortDrop::ALL {
        let name = reason.name().replace('_', "-");
        add(&of_guests, format!("{reason:?}"), name);
    }
    let of_hosts = comments("dataplane/stack/src/drops.rs");
    for reason in HostDrop::ALL {
        let name = format!("host-{}", reason.name());
        add(&of_hosts, format!("{reason:?}"), name);
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
fn every_metric_every_loss_and_every_event_is_explained() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let wanted = with_table(&text, "metrics", &families());
    let wanted = with_table(&wanted, "losses", &losses());
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
