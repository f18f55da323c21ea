//! What the tables say of values is what readers take.

use std::path::Path;

use super::super::{Disk, parse, value::example};
use super::*;

/// Every value that the reference, the JSON schema or a mistake's help gives for a key is taken where it is said to stand.
#[test]
fn every_value_that_the_tables_give_is_taken() {
    let mut tried = 0;
    walk(&FILE, &|inner| inner, &mut tried);
    assert!(tried > 100, "{tried}");
}

/// `place` puts keys of the table where they stand in a file.
fn walk(table: &Table, place: &dyn Fn(String) -> String, tried: &mut usize) {
    for key in table.keys {
        for value in values(&key.form).into_iter().chain(default(key)) {
            let beside = beside(key.name);
            take(key, &place(format!("{beside}{}: {value}", key.name)));
            *tried += 1;
        }
        let (open, close, table) =
            if let Form::Table(table) | Form::Either(&Form::Table(table), _) = key.form {
                ("{ ", " }", table)
            } else if let Form::Named(table) = key.form {
                ("{ NAME: { ", " } }", table)
            } else if let Form::Tables(table) = key.form {
                ("[{ ", " }]", table)
            } else {
                continue;
            };
        let below = |inner| place(format!("{}: {open}{inner}{close}", key.name));
        walk(table, &below, tried);
    }
}

/// Whatever else is missing there, the key's own value is no mistake.
fn take(key: &Key, text: &str) {
    let report = match parse(&format!("{{ {text} }}"), Path::new("hv.yaml"), &Disk) {
        Ok((_, report)) | Err(report) => report,
    };
    let own = format!("`{}` of ", key.name);
    let wrong = |it: &super::super::Mistake| {
        it.message.starts_with(&own) || it.message.starts_with("unknown key")
    };
    assert!(
        !report.mistakes().iter().any(wrong),
        "{text}\n{}",
        report.render(false)
    );
}

/// What a value has to agree with.
fn beside(key: &str) -> &'static str {
    match key {
        "probe" => "allowed_ips: [192.0.2.0/24], ",
        _ => "",
    }
}

/// Those that can be written as they are given.
fn values(form: &Form) -> Vec<String> {
    match form {
        Integer { min, max } => vec![min.to_string(), max.to_string()],
        Form::Bool => vec!["true".into(), "false".into()],
        Form::Choice(words) => words.iter().map(|&word| word.into()).collect(),
        Form::Words(words) => words.iter().map(|it| format!("{{ NAME: {it} }}")).collect(),
        Form::Key => vec!["hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".into()],
        Form::Labels => vec!["{ KEY: TEXT }".into()],
        Form::Seconds { min, max } => {
            let least = (*min).max(1);
            let off = (*min == 0).then(|| "off".into());
            let numbers = [format!("{least}s"), format!("{max}s"), max.to_string()];
            let more = [example(form)].into_iter().chain(off);
            numbers.into_iter().chain(more).collect()
        }
        Form::Either(first, second) => [values(first), values(second)].concat(),
        Form::List(item) => {
            let items = values(item).into_iter();
            items.map(|it| format!("[{it}]")).collect()
        }
        Form::Numbered {
            min, max, short, ..
        } => {
            let one = |number| format!("{{ {number}: {} }}", example(short));
            vec![one(min), one(max), "{}".into()]
        }
        // What stands for a word of the operator's own.
        Form::Text | Form::Tables(_) | Form::Table(_) | Form::Named(_) => Vec::new(),
        Form::Name
        | Form::Reference(_)
        | Form::Path
        | Form::Interface
        | Form::Prefix
        | Form::Destination
        | Form::Address
        | Form::Endpoint
        | Form::Listen
        | Form::Mac
        | Form::Permissions
        | Form::Account => vec![example(form)],
    }
}

/// A default that stands in the reference as a value.
fn default(key: &Key) -> Option<String> {
    let Presence::Default(text) = key.presence else {
        return None;
    };
    let is_time = matches!(key.form, Form::Seconds { .. });
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_word = matches!(text, "true" | "false" | "off" | "[]" | "{}");
    (is_time || is_number || is_word).then(|| text.to_owned())
}
