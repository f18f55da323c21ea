//! `culvert diff [FROM [TO]]`, and `culvert config show`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::output::Output;
use super::{Failure, apply, check, print, wants_color};
use crate::api::bodies::{DiffBody, Side};
use crate::api::client::{Client, ClientError};
use crate::config::{Config, Readings};
use crate::plan::Layers;
use crate::plan::diff::{Changed, Diff};

/// The word for what runs, where a file could be named.
const RUNNING: &str = "running";

/// How a difference is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Object by object.
    Objects,
    /// As `diff -u` does.
    Lines,
    /// All of it, or objects.
    Output(Output),
}

/// Prints what differs, which is no success then.
pub(super) fn run(
    from: Option<&Path>,
    to: Option<&Path>,
    run_dir: &Path,
    form: Form,
) -> Result<(), Failure> {
    let client = Client::new(run_dir);
    let from = from.unwrap_or(Path::new(RUNNING));
    let to = apply::file(to.map(Path::to_owned), &client)?;
    let lines = form == Form::Lines;
    let diff = match (named(from), named(&to)) {
        // Nobody has to run for that.
        (None, None) => {
            let old = Layers::new(Arc::new(load(from)?));
            Diff::between(&old, load(&to)?, lines)
        }
        (before, after) => client
            .diff(&DiffBody {
                from: side(before, from)?,
                to: side(after, &to)?,
                text: lines,
            })
            .map_err(refused)?,
    };
    let names = [from, &to].map(|it| it.display().to_string());
    print(&text(&diff, &names, form, wants_color(&io::stdout()))?)?;
    match diff.is_empty() {
        true => Ok(()),
        false => Err(Failure::Differs),
    }
}

/// Its key files are named by their absolute paths, as they are of what runs.
fn load(path: &Path) -> Result<Config, Failure> {
    check::load(&std::path::absolute(path)?, &mut Readings::default())
}

/// What a running Culvert knows by that name; a file that is called so is `./running`, `./7`.
fn named(side: &Path) -> Option<Side> {
    match side.to_str()? {
        RUNNING => Some(Side::Running),
        number => number.parse().ok().map(Side::Revision),
    }
}

fn side(named: Option<Side>, path: &Path) -> Result<Side, Failure> {
    match named {
        Some(side) => Ok(side),
        None => Ok(Side::File(apply::read(path)?)),
    }
}

fn refused(error: ClientError) -> Failure {
    if let ClientError::Refused(refusal) = error {
        let text = format!("{}culvert: {}\n", refusal.report, refusal.error);
        return Failure::Report(text);
    }
    error.into()
}

fn text(diff: &Diff, names: &[String; 2], form: Form, color: bool) -> Result<String, Failure> {
    Ok(match form {
        Form::Output(output) => match output.text(diff)? {
            Some(text) => text,
            None => objects(diff, names, color),
        },
        Form::Lines => lines(diff, names, color),
        Form::Objects => objects(diff, names, color),
    })
}

fn lines(diff: &Diff, names: &[String; 2], color: bool) -> String {
    let [from, to] = names;
    let text = diff.text.as_deref().unwrap_or_default();
    if text.is_empty() && diff.is_empty() {
        return String::new();
    }
    if text.is_empty() {
        // What a key file holds stands in no line.
        return objects(diff, names, color);
    }
    let painted = text.lines().map(|line| {
        let mark = line.chars().next().unwrap_or(' ');
        paint(line, mark, color) + "\n"
    });
    format!("--- {from}\n+++ {to}\n") + &painted.collect::<String>()
}

fn objects(diff: &Diff, [from, to]: &[String; 2], color: bool) -> String {
    if diff.is_empty() {
        return format!("{from} and {to} are the same\n");
    }
    let text: String = diff.changes.iter().map(|it| object(it, color)).collect();
    format!("{from} → {to}\n{text}{}\n", summary(diff))
}

fn object(change: &Changed, color: bool) -> String {
    let mark = match &*change.action {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let impact = match &*change.impact {
        "none" => String::new(),
        impact => format!("  ({impact})"),
    };
    let head = paint(&format!("{mark} {}", change.object), mark, color);
    let keys = change.keys.iter();
    let keys = keys.map(|it| format!("    {}: {} → {}\n", it.key, it.old, it.new));
    format!("{head}{impact}\n") + &keys.collect::<String>()
}

/// How much it is, and what it costs.
fn summary(diff: &Diff) -> String {
    let count = diff.changes.len();
    let mut text = format!("{count} {}", if count == 1 { "change" } else { "changes" });
    for impact in [
        "drops session",
        "reopens port",
        "closes port",
        "restarts uplink",
        "needs a restart",
    ] {
        let such = diff.changes.iter().filter(|it| it.impact == impact);
        match such.count() {
            0 => {}
            count => text += &format!("; {impact}: {count}"),
        }
    }
    text
}

fn paint(text: &str, mark: char, color: bool) -> String {
    let code = match mark {
        '+' => 32,
        '-' => 31,
        '~' => 33,
        '@' => 36,
        _ => return text.to_owned(),
    };
    match color {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// Prints the running configuration, or a revision, as a file.
pub(super) fn show(run_dir: &Path, revision: Option<u64>, drift: bool) -> Result<(), Failure> {
    let client = Client::new(run_dir);
    match revision {
        Some(number) => print(&client.revision(number)?.text),
        None => print(&client.config(drift)?.text),
    }
}

/// What would change, object by object.
pub(super) fn would(diff: &Diff) -> String {
    let color = wants_color(&io::stdout());
    let text: String = diff.changes.iter().map(|it| object(it, color)).collect();
    format!("{text}{}\n", summary(diff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::diff::KeyChange;

    /// As when only the content of a key file is another.
    #[test]
    fn what_stands_in_no_line_is_told_by_its_objects() {
        let key = KeyChange {
            key: "private_key".into(),
            old: "one".into(),
            new: "another".into(),
        };
        let changed = Changed {
            object: "tunnel wg0".into(),
            action: "changed".into(),
            impact: "drops session".into(),
            keys: vec![key],
        };
        let mut diff = Diff {
            changes: vec![changed],
            text: Some(String::new()),
        };
        let names = ["running", "c.yaml"].map(String::from);
        let text = |diff: &Diff| text(diff, &names, Form::Lines, false).unwrap();
        assert_eq!(
            text(&diff),
            "running → c.yaml\n~ tunnel wg0  (drops session)\n    private_key: one → another\n\
             1 change; drops session: 1\n"
        );
        diff.changes.clear();
        assert_eq!(text(&diff), "");
    }
}
