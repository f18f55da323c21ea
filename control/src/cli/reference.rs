//! `culvert schema --markdown`: the tables of the configuration for people.

use std::fmt::Write as _;

use crate::config::schema::{FILE, Form, Presence, Table};

/// The reference, section by section, in the order in which a reader meets them.
pub(super) fn text() -> String {
    let mut out = String::new();
    section(&mut out, "The file", &FILE);
    out
}

fn section(out: &mut String, path: &str, table: &Table) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "### {path}\n");
    if !table.doc.is_empty() {
        let _ = writeln!(out, "{}\n", table.doc);
    }
    let _ = writeln!(
        out,
        "| key | value | default | meaning |\n|---|---|---|---|"
    );
    for key in table.keys {
        let default = match key.presence {
            Presence::Required => "**required**".into(),
            Presence::Default(default) if is_value(&key.form, default) => format!("`{default}`"),
            Presence::Default(default) => default.to_owned(),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {default} | {} |",
            key.name,
            form(&key.form),
            key.doc
        );
    }
    out.push('\n');
    for key in table.keys {
        let below = |last: &str| match path {
            "The file" => format!("`{last}`"),
            _ => format!("{}.{last}`", path.trim_end_matches('`')),
        };
        if let Form::Numbered { table, .. } = key.form {
            section(out, &below(&format!("{}.NUMBER", key.name)), table);
        } else if let Form::Named(table) = key.form {
            section(out, &below(&format!("{}.NAME", key.name)), table);
        } else if let Form::Tables(table) = key.form {
            section(out, &below(&format!("{}[]", key.name)), table);
        } else if let Form::Table(table) | Form::Either(&Form::Table(table), _) = key.form {
            section(out, &below(key.name), table);
        }
    }
}

/// Whether a default is written as it could stand in the file, and not in words.
fn is_value(form: &Form, default: &str) -> bool {
    let number = !default.is_empty() && default.bytes().all(|byte| byte.is_ascii_digit());
    let choice = matches!(form, Form::Choice(words) if words.contains(&default));
    let word = matches!(default, "true" | "false" | "off" | "all" | "[]" | "{}");
    number || choice || word
}

fn form(of: &Form) -> String {
    match *of {
        Form::Text => "text".into(),
        Form::Name => "a name".into(),
        Form::Reference(kind) => format!("the name of a {kind}").replace("a uplink", "an uplink"),
        Form::Integer { min, max } if min == max => format!("`{min}`"),
        Form::Integer { min, max } => format!("{min} to {max}"),
        Form::Bool => "`true`, `false`".into(),
        Form::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Form::Path => "a path".into(),
        Form::Key => "44 characters of base64".into(),
        Form::Interface => "address/length".into(),
        Form::Prefix => "prefix/length".into(),
        Form::Destination => "prefix/length or `default`".into(),
        Form::Address => "an address".into(),
        Form::Endpoint => "`ADDRESS:PORT`, `[ADDRESS]:PORT`, `NAME:PORT`".into(),
        Form::Listen => "`ADDRESS:PORT`, `[ADDRESS]:PORT`".into(),
        Form::Mac => "`\"52:54:00:00:00:01\"`".into(),
        Form::Seconds { min: 0, max } => format!("`1s` to `{max}s` (or `{max}`), `off`"),
        Form::Seconds { min, max } => format!("`{min}s` to `{max}s` (or `{max}`)"),
        Form::Permissions => "octal digits".into(),
        Form::Account => "a name or a number".into(),
        Form::Words(words) => format!("a map from text to one of {}", form(&Form::Choice(words))),
        Form::Labels => "a map from keys to texts".into(),
        Form::List(item) => format!("a list: {}", form(item)),
        Form::Tables(_) => "a list of maps, below".into(),
        Form::Table(_) => "a map, below".into(),
        Form::Named(_) => "a map from names to maps, below".into(),
        Form::Numbered {
            min, max, short, ..
        } => format!(
            "a map from {min} to {max} to maps, below, or to {}",
            form(short)
        ),
        Form::Either(first, second) => format!("{}; or {}", form(first), form(second)),
    }
}
