//! `culvert diff [FROM [TO]]`, and `culvert config show`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::Value;

use super::args::{self, Place};
use super::output::{Output, OutputArgs, folded, width};
use super::{Failure, apply, check, print, wants_color};
use crate::api::bodies::{DiffBody, Side};
use crate::api::client::ClientError;
use crate::config::{Config, Readings};
use crate::plan::Layers;
use crate::plan::diff::{Changed, Diff};

pub(super) const AFTER_HELP: &str =
    "Exit status: 0 nothing differs, 1 something does, 2 it could not be found out.";

/// `culvert diff`.
#[derive(Debug, Args)]
pub(super) struct DiffCommand {
    /// What was: a file, a revision's number, or `running`, which is what runs at present, with what `wg` set
    /// [default: running]; a file alone is what comes
    #[arg(value_name = "FROM")]
    from: Option<PathBuf>,
    /// What comes: likewise [default: the file that was applied last, or culvert was started with, at last
    /// /etc/culvert/culvert.yaml]
    #[arg(value_name = "TO")]
    to: Option<PathBuf>,
    /// What comes: a file, whatever its name
    #[arg(short, long, value_name = "FILE", conflicts_with = "to")]
    file: Option<PathBuf>,
    /// Print the lines that differ, as `diff -u` does, of both as `culvert config show` prints them
    #[arg(long, conflicts_with = "output")]
    text: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

impl DiffCommand {
    const fn form(&self) -> Form {
        match (self.text, self.output.output) {
            (true, _) => Form::Lines,
            (false, Some(output)) => Form::Output(output),
            (false, None) => Form::Objects,
        }
    }
}

/// `culvert config show`.
#[derive(Debug, Args)]
pub(super) struct ConfigShow {
    /// One of `culvert history`, in the place of what runs
    #[arg(value_name = "REV")]
    revision: Option<u64>,
    /// With what `wg` set over it
    #[arg(long, conflicts_with = "revision")]
    drift: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

/// How a difference is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Object by object.
    Objects,
    /// As `diff -u` does.
    Lines,
    /// All of it, or objects.
    Output(Output),
}

/// Prints what differs, which is no success then.
pub(super) fn run(args: DiffCommand) -> Result<(), Failure> {
    let form = args.form();
    let client = args.place.client();
    let is_file = args.file.is_some();
    let (from, to) = sides(args.from, args.to.or(args.file));
    let from = from.as_deref().unwrap_or(Path::new(Side::RUNNING));
    let after = to.as_deref().filter(|_| !is_file).and_then(named);
    let to = args::file(to, &client)?;
    let lines = form == Form::Lines;
    let diff = match (named(from), after) {
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
    let text = text(&diff, &names, form, wants_color(&io::stdout()))?;
    print(&match form {
        Form::Objects => folded(&text, width(&io::stdout())),
        Form::Lines | Form::Output(_) => text,
    })?;
    match diff.is_empty() {
        true => Ok(()),
        false => Err(Failure::Told),
    }
}

/// A file alone is what comes, as for `apply`.
fn sides(from: Option<PathBuf>, to: Option<PathBuf>) -> (Option<PathBuf>, Option<PathBuf>) {
    match (from, to) {
        (Some(file), None) if named(&file).is_none() => (None, Some(file)),
        both => both,
    }
}

/// Its key files are named by their absolute paths, as they are of what runs.
fn load(path: &Path) -> Result<Config, Failure> {
    check::load(&std::path::absolute(path)?, &mut Readings::default())
}

/// What a running Culvert knows by that name; a file that is called so is `./running`, `./7`.
fn named(side: &Path) -> Option<Side> {
    Side::named(side.to_str()?)
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
        return format!("{from} and {to} are the same\n") + &rests(diff);
    }
    let text: String = diff.changes.iter().map(|it| object(it, color)).collect();
    format!("{from} → {to}\n{text}{}\n{}", summary(diff), rests(diff))
}

/// What of the API layer gives way, each in a line.
fn rests(diff: &Diff) -> String {
    diff.rests.iter().map(|line| format!("{line}\n")).collect()
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

/// Prints the running configuration, or a revision, as a file, which JSON is, too.
pub(super) fn show(args: &ConfigShow) -> Result<(), Failure> {
    let client = args.place.client();
    let text = match args.revision {
        Some(number) => client.revision(number)?.text,
        None => client.config(args.drift)?.text,
    };
    match args.output.output {
        Some(output @ Output::Json) => {
            let value: Value = serde_saphyr::from_str(&text)?;
            print(&output.text(&value)?.unwrap_or_default())
        }
        Some(Output::Yaml | Output::Wide) | None => print(&text),
    }
}

/// What would change, object by object.
pub(super) fn would(diff: &Diff) -> String {
    let color = wants_color(&io::stdout());
    let text: String = diff.changes.iter().map(|it| object(it, color)).collect();
    let text = format!("{text}{}\n{}", summary(diff), rests(diff));
    folded(&text, width(&io::stdout()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::diff::KeyChange;

    #[test]
    fn a_file_alone_is_what_comes() {
        let given = |from: Option<&str>, to: Option<&str>| {
            let (from, to) = sides(from.map(Into::into), to.map(Into::into));
            [from, to].map(|it| it.map(|it| it.display().to_string()))
        };
        let some = |word: &str| Some(word.to_owned());
        assert_eq!(given(Some("new.yaml"), None), [None, some("new.yaml")]);
        assert_eq!(given(Some("3"), None), [some("3"), None]);
        assert_eq!(given(Some("running"), None), [some("running"), None]);
        assert_eq!(given(Some("a"), Some("b")), [some("a"), some("b")]);
        assert_eq!(given(None, None), [None, None]);
    }

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
            rests: Vec::new(),
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
