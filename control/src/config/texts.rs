//! The texts that a configuration consists of: a file, and what it includes.
//!
//! In: a path. Out: texts with their paths, as they can travel to a process that opens none of them. Never: whether they
//! make sense; that is [`super::include`]'s to find out, of texts alone.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::report::{Report, Span};
use super::{include, limits, raw};

/// Where a process finds what it was started with, as a shell's `<(...)`.
const HANDED: [&str; 3] = ["/dev/stdin", "/dev/fd", "/proc/self/fd"];

/// A file and what it includes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts {
    /// The file's path: for messages, and where relative paths in it begin.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it and what it includes name in `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub included: Vec<Included>,
}

/// One path of an `include`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Included {
    /// The path; a relative one begins at the folder of the file that names it.
    pub path: PathBuf,
    /// The file, or those of a folder in the order of their names.
    #[serde(default)]
    pub files: Vec<SourceText>,
    /// Why it can't be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hindrance: Option<String>,
}

/// A file that is included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceText {
    /// Its path.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

impl Texts {
    /// A file that includes nothing, or what it includes did not come along.
    #[must_use]
    pub fn alone(path: &Path, text: String) -> Self {
        Self {
            path: path.to_owned(),
            text,
            included: Vec::new(),
        }
    }

    /// Reads a file and what it includes.
    ///
    /// # Errors
    ///
    /// When the file can't be read. What it includes and can't be had is told with its place later.
    pub fn read(path: &Path) -> Result<Self, Report> {
        let text = text_of(path)?;
        let mut texts = Self::alone(path, text);
        texts.included = Gathering::of(&texts).included;
        Ok(texts)
    }

    /// Reads what is handed to a process, under that name; relative paths in it begin where the process is.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    pub(crate) fn read_handed(name: &Path, handed: impl io::Read) -> Result<Self, Report> {
        let text = read_whole(handed).map_err(|error| unread(name, &error))?;
        let mut texts = Self::alone(name, text);
        texts.included = Gathering::of(&texts).included;
        Ok(texts)
    }

    /// What stands for a path of an `include`.
    pub(super) fn included(&self, path: &Path) -> Option<&Included> {
        self.included.iter().find(|it| it.path == path)
    }
}

fn text_of(path: &Path) -> Result<String, Report> {
    let text = open(path).and_then(read_whole);
    text.map_err(|error| unread(path, &error))
}

/// One byte more than the limit, so that a file of any length ends with the right message.
fn read_whole(file: impl io::Read) -> io::Result<String> {
    let limit = u64::try_from(raw::MAX_TEXT_LEN).unwrap_or(u64::MAX);
    read_up_to(file, limit.saturating_add(1))
}

fn unread(path: &Path, error: &io::Error) -> Report {
    let mut report = Report::new(path, "");
    let mistake = report.error(Span::default(), format!("can't read the file: {error}"));
    mistake
        .help("expected the path of a YAML file, as in `culvert check /etc/culvert/culvert.yaml`");
    report
}

/// Opens a file. A FIFO would keep the reader waiting, unless this process was handed it.
fn open(path: &Path) -> io::Result<File> {
    let is_handed = HANDED.iter().any(|it| path.starts_with(it));
    match is_handed || fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("not a file")),
    }
}

fn read_up_to(file: impl io::Read, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// What is read of the disk.
struct Gathering {
    included: Vec<Included>,
    seen: HashSet<PathBuf>,
    /// Bytes and files that may still come.
    room: usize,
    files: usize,
}

impl Gathering {
    fn of(texts: &Texts) -> Self {
        let mut gathering = Self {
            included: Vec::new(),
            seen: HashSet::new(),
            room: raw::MAX_TEXT_LEN.saturating_sub(texts.text.len()),
            files: limits::INCLUDED_FILES,
        };
        let named = include::paths(&texts.path, &texts.text);
        gathering.follow(named, limits::INCLUDES_NESTED);
        gathering
    }

    /// Reads these, and what they include; so many levels of it.
    fn follow(&mut self, named: Vec<PathBuf>, levels: usize) {
        if levels == 0 {
            return;
        }
        for path in named {
            if self.seen.insert(path.clone()) {
                let included = self.read(path);
                let files = included.files.iter();
                let next = files.flat_map(|file| include::paths(&file.path, &file.text));
                let next = next.collect();
                self.included.push(included);
                self.follow(next, levels - 1);
            }
        }
    }

    fn read(&mut self, path: PathBuf) -> Included {
        match self.files_of(&path) {
            Ok(files) => Included {
                path,
                files,
                hindrance: None,
            },
            Err(error) => Included {
                path,
                files: Vec::new(),
                hindrance: Some(error.to_string()),
            },
        }
    }

    fn files_of(&mut self, path: &Path) -> io::Result<Vec<SourceText>> {
        let kind = fs::metadata(path)?;
        if !kind.is_dir() {
            return Ok(vec![self.file(path)?]);
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            // What begins with a dot is an editor's, or what a tool swaps.
            if text.ends_with(".yaml") && !text.starts_with('.') {
                paths.push(path.join(&name));
            }
        }
        paths.sort_unstable();
        paths.iter().map(|path| self.file(path)).collect()
    }

    fn file(&mut self, path: &Path) -> io::Result<SourceText> {
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        self.files = (self.files.checked_sub(1))
            .ok_or_else(|| io::Error::other("too many files are included"))?;
        let limit = u64::try_from(self.room)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let text = open(path).and_then(|file| read_up_to(file, limit));
        let text = text.map_err(told)?;
        let left = self.room.checked_sub(text.len());
        self.room = left.ok_or_else(|| {
            let most = raw::MAX_TEXT_LEN;
            io::Error::other(format!("all files together have more than {most} bytes"))
        })?;
        Ok(SourceText {
            path: path.to_owned(),
            text,
        })
    }
}
