//! `culvert layer show|del`, and what the commands of single objects share.
//!
//! In: keys as words of a command line, or in a file. Out: their text; what was laid over the file. Never: a meaning of
//! keys.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::args::Place;
use super::output::OutputArgs;
use super::show::list::ListArgs;
use super::{Failure, print};
use crate::api::client::ClientError;
use crate::config::object::PRESHARED_KEY;
use crate::config::{Disk, KeyFiles as _, Name};
use crate::layer::told::{LaidObject, Text};
use crate::plan::api::HIDDEN;
use crate::state::Applied;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print it as a part of a file
    Show {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Have the file alone count for an object again, or remove one that the file has not
    Del {
        /// What it is
        #[arg(value_parser = ["port", "peer", "route", "uplink"])]
        kind: String,
        /// Its name; of a peer TUNNEL/PEER, of a route NETWORK/PREFIX
        name: String,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Show { output, place } => {
            let layer = place.client().layer()?;
            output.print(&layer, || text(&layer))
        }
        Command::Del {
            kind,
            name,
            output,
            place,
        } => {
            let below = match kind.as_str() {
                "peer" => super::peer::path(&name)?,
                "route" => super::route::path(&name)?,
                "uplink" => super::uplink::path(&name)?,
                _ => super::port::path(&name)?,
            };
            let path = format!("/v1/layer/{below}");
            let applied = changed(&place, output, (Method::DELETE, &path), String::new())?;
            // The control core was not asked.
            if applied.generation == 0 && !output.is_for_programs() {
                print(&format!(
                    "nothing to do: nothing was laid down for {kind} {name}\n"
                ))?;
            }
            Ok(())
        }
    }
}

/// A part of a file, with what has to be said of it ahead.
fn text(layer: &Text) -> String {
    let said = layer.objects.iter().map(|it| {
        let LaidObject {
            object,
            own,
            rests,
            keys,
        } = it;
        let has_key = keys.get(PRESHARED_KEY).is_some_and(|it| it.is_string());
        let key = has_key.then(|| format!("# {object} has a preshared key, which is not told\n"));
        let head = match (rests, own) {
            (Some(why), _) => format!("# {object} rests, the file counts alone: {why}\n"),
            (None, false) => format!("# {object} lies over the file's\n"),
            (None, true) => String::new(),
        };
        head + &key.unwrap_or_default()
    });
    said.collect::<String>() + &layer.text
}

/// What is to become of an object.
#[derive(Debug, Subcommand)]
pub(super) enum Object {
    /// List all: the file's, and those that were added
    List(ListArgs),
    /// Add one
    Add {
        /// Its name; of a peer TUNNEL/PEER
        name: String,
        #[command(flatten)]
        given: Given,
        /// It may be there already: it is given the keys then
        #[arg(long)]
        may_exist: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Set keys of one; of one that the file has they lie over the file's
    Set {
        /// Its name; of a peer TUNNEL/PEER
        name: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Switch one on again
    Up(Switched),
    /// Switch one off, until `up`: a port is not open, a peer has no session and no routes
    Down(Switched),
    /// Remove one that was added
    Del {
        /// Its name; of a peer TUNNEL/PEER
        name: String,
        /// It need not be there
        #[arg(long)]
        if_exists: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
}

impl Object {
    /// `path` says where the API has what is named so, `list` prints all of them.
    pub(super) fn run(
        self,
        path: impl Fn(&str) -> Result<String, Failure>,
        list: fn(&ListArgs) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::List(args) => list(&args),
            Self::Add {
                name,
                given,
                may_exist,
                output,
                place,
            } => {
                let query = if may_exist { "may_exist" } else { "new" };
                let path = format!("{}?{query}=true", path(&name)?);
                change(&place, output, (Method::PUT, &path), given.text()?)
            }
            Self::Set {
                name,
                given,
                output,
                place,
            } => {
                let path = path(&name)?;
                change(&place, output, (Method::PATCH, &path), given.text()?)
            }
            Self::Up(of) => of.switch(true, path),
            Self::Down(of) => of.switch(false, path),
            Self::Del {
                name,
                if_exists,
                output,
                place,
            } => {
                let path = format!("{}?if_exists={if_exists}", path(&name)?);
                change(&place, output, (Method::DELETE, &path), String::new())
            }
        }
    }
}

/// What is switched on or off.
#[derive(Debug, Args)]
pub(super) struct Switched {
    /// Its name; of a peer TUNNEL/PEER
    name: String,
    /// It need not be there
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    place: Place,
}

impl Switched {
    pub(super) fn switch(
        self,
        enabled: bool,
        path: impl Fn(&str) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let path = format!("{}?if_exists={}", path(&self.name)?, self.if_exists);
        let keys = format!("enabled: {enabled}\n");
        change(&self.place, self.output, (Method::PATCH, &path), keys)
    }
}

/// Keys of an object.
#[derive(Debug, Args)]
pub(super) struct Given {
    /// Its keys, as a file has them: `network=blue`, `addresses=10.1.1.5,10.1.1.6`, `offloads='{uso: false}'`; without a
    /// value the default counts
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<String>,
    /// A label, beside those that it has; without a value it is taken away
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// A file with its keys, in YAML or JSON; `-` is the standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["keys", "labels"])]
    file: Option<PathBuf>,
    /// Of a peer: the file of a key shared with it, which only its owner can read; it is read here, and its key sent
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    preshared_key_file: Option<PathBuf>,
}

impl Given {
    /// A text in which each key has a line.
    fn text(&self) -> Result<String, Failure> {
        let mut text = match &self.file {
            Some(path) => read(path)?,
            None => {
                let keys = self.keys.iter().map(|word| line(word));
                let lines = keys.chain(labels(&self.labels));
                lines.collect::<Result<String, _>>()?
            }
        };
        if let Some(path) = &self.preshared_key_file {
            let key = Disk.read(path).map_err(|error| {
                Failure::Line(format!("the preshared key in {}: {error}", path.display()))
            })?;
            text = format!("{PRESHARED_KEY}: {}\n{text}", &*key);
        }
        Ok(text)
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::Line(format!(
            "can't read {}: {error}",
            path.display()
        ))),
    }
}

/// Labels as a line of YAML, if there are some.
fn labels(words: &[String]) -> Option<Result<String, Failure>> {
    let label = |word: &String| match word.split_once('=') {
        Some((key, "")) => Ok((key.to_owned(), Value::Null)),
        Some((key, value)) => Ok((key.to_owned(), value.into())),
        None => Err(Failure::Line(format!(
            "`--label {word}` is no KEY=VALUE: expected one as in `--label vm=7f3a`"
        ))),
    };
    let labels = words.iter().map(label).collect::<Result<Map<_, _>, _>>();
    let line = labels.map(|labels| format!("labels: {}\n", Value::Object(labels)));
    (!words.is_empty()).then_some(line)
}

/// `KEY=VALUE` as YAML.
fn line(word: &str) -> Result<String, Failure> {
    let Some((key, value)) = word
        .split_once('=')
        .filter(|(key, _)| Name::new(key).is_some())
    else {
        let error = format!("`{word}` is no KEY=VALUE: expected one as in `network=blue`");
        return Err(Failure::Line(error));
    };
    if key == PRESHARED_KEY && !matches!(value, "" | HIDDEN) {
        let error = "a command's words are seen by others: put the key into a file that only its owner can read, and say --preshared-key-file FILE";
        return Err(Failure::Line(error.into()));
    }
    let quoted = |text: &str| Value::from(text).to_string();
    let value = match value {
        "" => "null".to_owned(),
        // YAML already; an endpoint, as `[2001:db8::1]:51820`, is none.
        list if list.starts_with(['[', '{']) && is_yaml(list) => list.to_owned(),
        list if is_list(key) => {
            let items = list.split(',').map(|item| quoted(item.trim()));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        single => quoted(single),
    };
    Ok(format!("{key}: {value}\n"))
}

/// Whether it is a list or a section as a file has them.
fn is_yaml(text: &str) -> bool {
    let value = serde_saphyr::from_str::<Value>(text);
    value.is_ok_and(|value| value.is_array() || value.is_object())
}

/// Whether commas part a key's values.
fn is_list(key: &str) -> bool {
    matches!(key, "addresses" | "allowed_ips" | "queue_workers")
}

/// A name as a part of a path, where it means nothing else.
pub(super) fn segment(name: &str) -> Result<&str, Failure> {
    let error = || {
        format!(
            "{name:?} is no name: expected 1 to {} letters, digits, `.`, `_` or `-`, beginning with a letter, a digit or `_`",
            Name::MAX_LEN
        )
    };
    match Name::new(name) {
        Some(_) => Ok(name),
        None => Err(Failure::Line(error())),
    }
}

/// Has something changed, and prints what.
pub(super) fn change(
    place: &Place,
    output: OutputArgs,
    asked: (Method, &str),
    keys: String,
) -> Result<(), Failure> {
    changed(place, output, asked, keys).map(drop)
}

fn changed(
    place: &Place,
    output: OutputArgs,
    (method, path): (Method, &str),
    keys: String,
) -> Result<Applied, Failure> {
    match place.client().change(method, path, keys) {
        Ok(applied) => {
            let _ = io::stderr().write_all(applied.warnings.as_bytes());
            output.print(&applied, || {
                let changes = applied.changes.iter().map(|line| format!("{line}\n"));
                changes.collect()
            })?;
            super::apply::failed(&applied)?;
            Ok(applied)
        }
        Err(ClientError::Refused(refusal)) if output.is_for_programs() => {
            Err(output.refused(&refusal))
        }
        Err(ClientError::Refused(refusal)) => {
            Err(Failure::Report(match refusal.report.is_empty() {
                true => format!("culvert: {}\n", refusal.error),
                false => refusal.report,
            }))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_more_of_a_path_than_one_part() {
        assert_eq!(segment("web-1.a_b").map_err(|_| ()), Ok("web-1.a_b"));
        for wrong in [
            "",
            "x#f",
            "x?if_exists=true",
            "a b",
            "a/b",
            "..",
            "%41",
            "\u{1b}[1m",
            "é",
        ] {
            let Err(Failure::Line(error)) = segment(wrong) else {
                panic!("{wrong:?} was taken");
            };
            assert!(
                error.contains("is no name") && !error.contains('\u{1b}'),
                "{error}"
            );
        }
    }

    #[test]
    fn words_are_lines_of_a_file() {
        let text = |word| line(word).map_err(|_| ());
        assert_eq!(text("network=blue"), Ok("network: \"blue\"\n".into()));
        assert_eq!(
            text("addresses=10.1.1.5,fd00::5"),
            Ok("addresses: [\"10.1.1.5\", \"fd00::5\"]\n".into())
        );
        assert_eq!(
            text("offloads={uso: false}"),
            Ok("offloads: {uso: false}\n".into())
        );
        assert_eq!(
            text("endpoint=[2001:db8::1]:51820"),
            Ok("endpoint: \"[2001:db8::1]:51820\"\n".into())
        );
        assert_eq!(text("guard="), Ok("guard: null\n".into()));
        assert_eq!(text("mac=a=b"), Ok("mac: \"a=b\"\n".into()));
        for wrong in ["network", "=blue", "a b=c"] {
            assert_eq!(text(wrong), Err(()), "{wrong}");
        }
    }
}
