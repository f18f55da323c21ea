//! Mistakes in a configuration file, and how they are shown.
//!
//! In: what was found wrong, and where. Out: text for people. Never: the contents of key files, or a
//! key that was written into the file by mistake: its letters are shown as `*`, as are those of
//! all that looks like a key in a line that does not say `public`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::panic::Location;
use std::path::{Path, PathBuf};

use super::limits::{MISTAKES_KEPT, MISTAKES_SHOWN, WARNINGS_ALIKE};
use crate::keys::KEY_TEXT_LEN;

/// A place in a file's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// 0 is the file itself, others are those that it includes, in the order of their reading.
    pub file: u16,
    /// Line, from 1; 0 when no line is meant (the file could not be read).
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; at least one caret is drawn.
    pub width: u16,
}

/// Whether a file with it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, but is probably not what was meant.
    Warning,
}

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// Where it is.
    pub span: Span,
    /// What was found.
    pub message: String,
    /// What would have been right, and how to mend it: one line each.
    pub help: Vec<String>,
    /// The rule that found it: where in this program it is told.
    rule: &'static Location<'static>,
}

/// Some mistakes of a report, in the order of the file's lines, and how many there are besides.
#[derive(Debug)]
pub struct Shown<'r> {
    /// Those that are shown.
    pub mistakes: Vec<&'r Mistake>,
    /// In words, what is not.
    pub rest: Vec<String>,
}

/// How often a rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    rule: &'static Location<'static>,
    severity: Severity,
    kept: usize,
    /// Beyond [`MISTAKES_KEPT`].
    left_out: usize,
    /// Where the last one of these was, which is written over by the next.
    last: Option<Box<Mistake>>,
}

impl Broken {
    /// The rules are those of this program: they are few.
    fn of<'a>(
        all: &'a mut Vec<Self>,
        severity: Severity,
        rule: &'static Location<'static>,
    ) -> &'a mut Self {
        let is_it = |it: &Self| it.rule == rule && it.severity == severity;
        let place = all.iter().position(is_it).unwrap_or(all.len());
        if place == all.len() {
            all.push(Self {
                rule,
                severity,
                kept: 0,
                left_out: 0,
                last: None,
            });
        }
        &mut all[place]
    }
}

/// Everything found wrong with one file and those that it includes, in the order of their lines; of what breaks a rule
/// again and again the first ones, and a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    files: Vec<(PathBuf, String)>,
    mistakes: Vec<Mistake>,
    broken: Vec<Broken>,
    /// Texts that are not shown.
    secrets: Vec<String>,
}

impl Report {
    /// An empty report about a file and the text read from it.
    pub fn new(file: &Path, text: &str) -> Self {
        Self {
            files: vec![(file.to_owned(), text.to_owned())],
            mistakes: Vec::new(),
            broken: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// Begins with a file that is included; gives its number in places.
    pub(crate) fn begin(&mut self, file: &Path, text: &str) -> u16 {
        let number = u16::try_from(self.files.len()).unwrap_or(u16::MAX);
        self.files.push((file.to_owned(), text.to_owned()));
        number
    }

    fn file(&self, span: Span) -> Option<&(PathBuf, String)> {
        self.files.get(usize::from(span.file))
    }

    /// The folder in which relative paths begin that stand there.
    pub(crate) fn folder(&self, span: Span) -> &Path {
        let folder = self.file(span).and_then(|(path, _)| path.parent());
        folder.unwrap_or(Path::new(""))
    }

    /// A line in words, for the help of a mistake elsewhere: with its file where there are several.
    pub(crate) fn line(&self, span: Span) -> String {
        match self.file(span) {
            Some((path, _)) if self.files.len() > 1 => {
                format!("line {} of {}", span.line, path.display())
            }
            _ => format!("line {}", span.line),
        }
    }

    /// The first place of a word; without one, the file itself.
    pub(crate) fn find(&self, word: &str) -> Span {
        let files = (0_u16..).zip(&self.files);
        let mut lines = files.flat_map(|(file, (_, text))| {
            let lines = text.lines().enumerate();
            lines.map(move |(line, text)| (file, line + 1, text))
        });
        let found = lines.find_map(|(file, line, text)| {
            let at = text.find(word)?;
            Some(Span {
                file,
                line,
                column: text[..at].chars().count() + 1,
                width: u16::try_from(word.chars().count()).unwrap_or(u16::MAX),
            })
        });
        found.unwrap_or_default()
    }

    /// Where a mistake is: `FILE:LINE:COLUMN`.
    pub fn place(&self, mistake: &Mistake) -> String {
        let span = mistake.span;
        let file = self.file(span).map_or(Path::new(""), |(path, _)| path);
        match span.line {
            0 => file.display().to_string(),
            line => format!("{}:{line}:{}", file.display(), span.column),
        }
    }

    /// Adds an error and gives it back for its help lines.
    #[track_caller]
    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Mistake {
        self.push(Severity::Error, span, message.into())
    }

    /// Adds a warning and gives it back for its help lines.
    #[track_caller]
    pub(crate) fn warning(&mut self, span: Span, message: impl Into<String>) -> &mut Mistake {
        self.push(Severity::Warning, span, message.into())
    }

    /// Keeps a text of the file from being shown.
    pub(crate) fn hide(&mut self, secret: &str) {
        // One letter would hide half of every line, and is no secret.
        let lines = secret.lines().map(str::trim).filter(|line| line.len() > 1);
        self.secrets.extend(lines.map(String::from));
    }

    /// The mistakes that are kept, in the order of the file's lines.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// Whether all mistakes are kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.broken.iter().all(|it| it.left_out == 0)
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many errors there are, in words.
    pub fn summary(&self) -> String {
        match self.errors() {
            1 => "the configuration has a mistake".into(),
            errors => format!("the configuration has {errors} mistakes"),
        }
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// Mistakes for people: `max` at most, errors before warnings, and of warnings that say the same of many things the
    /// first.
    pub fn shown(&self, max: usize) -> Shown<'_> {
        let mut mistakes: Vec<_> = self.of(Severity::Error).take(max).collect();
        let errors_left = self.errors() - mistakes.len();
        let mut rules: HashMap<_, (&Mistake, usize, usize)> = HashMap::new();
        for warning in self.of(Severity::Warning) {
            let (_, shown, left) = rules.entry(warning.rule).or_insert((warning, 0, 0));
            if *shown < WARNINGS_ALIKE && mistakes.len() < max {
                *shown += 1;
                mistakes.push(warning);
            } else {
                *left += 1;
            }
        }
        for broken in &self.broken {
            if let Some((_, _, left)) = rules.get_mut(broken.rule) {
                *left += broken.left_out;
            }
        }
        mistakes.sort_by_key(|mistake| mistake.span);
        let mut rules: Vec<_> = rules.into_values().filter(|rule| rule.2 > 0).collect();
        rules.sort_by_key(|rule| rule.0.span);
        let alike = |(first, _, left): &(&Mistake, usize, usize)| {
            let (line, message) = (self.line(first.span), &first.message);
            format!("and {left} more warnings like that in {line}: {message}")
        };
        let errors = (errors_left > 0).then(|| format!("and {errors_left} more errors"));
        Shown {
            mistakes,
            rest: errors.into_iter().chain(rules.iter().map(alike)).collect(),
        }
    }

    /// Every mistake with the line it is on, as far as they are [`shown`](Self::shown); `color` adds ANSI colours.
    pub fn render(&self, color: bool) -> String {
        let paint = Paint { color };
        let mut out = String::new();
        let Shown { mistakes, rest } = self.shown(MISTAKES_SHOWN);
        for mistake in mistakes {
            self.render_one(&mut out, mistake, paint);
        }
        for line in rest {
            let _ = writeln!(out, "{line}\n");
        }
        out
    }

    pub(crate) fn sort(&mut self) {
        self.mistakes.sort_by_key(|mistake| mistake.span);
        self.mistakes.dedup_by(|one, other| one.is_same(other));
    }

    #[track_caller]
    fn push(&mut self, severity: Severity, span: Span, message: String) -> &mut Mistake {
        let rule = Location::caller();
        let message = masked(&message);
        let mistake = Mistake {
            severity,
            span,
            message,
            help: Vec::new(),
            rule,
        };
        let broken = Broken::of(&mut self.broken, severity, rule);
        if broken.kept == MISTAKES_KEPT {
            broken.left_out += 1;
            return broken.last.insert(Box::new(mistake));
        }
        broken.kept += 1;
        self.mistakes.push(mistake);
        let last = self.mistakes.len() - 1;
        &mut self.mistakes[last]
    }

    fn count(&self, severity: Severity) -> usize {
        let left_out = self.broken.iter().filter(|it| it.severity == severity);
        self.of(severity).count() + left_out.map(|it| it.left_out).sum::<usize>()
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Mistake> {
        let mistakes = self.mistakes.iter();
        mistakes.filter(move |mistake| mistake.severity == severity)
    }

    /// A line without its secrets and what may be one, as wide as before.
    fn hidden(&self, line: &str) -> String {
        let line = &masked(line);
        let hide = |line: String, secret: &String| {
            line.replace(secret.as_str(), &"*".repeat(secret.chars().count()))
        };
        self.secrets.iter().fold(line.to_owned(), hide)
    }

    fn render_one(&self, out: &mut String, mistake: &Mistake, paint: Paint) {
        let (word, tone) = match mistake.severity {
            Severity::Error => ("error", Paint::RED),
            Severity::Warning => ("warning", Paint::YELLOW),
        };
        let span = mistake.span;
        let place = self.place(mistake);
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{}: {}: {}",
            paint.with(Paint::BOLD, &place),
            paint.with(tone, word),
            paint.with(Paint::BOLD, &mistake.message)
        );
        let margin = self.render_line(out, span, tone, paint);
        for help in &mistake.help {
            let _ = writeln!(
                out,
                "{:margin$} {} {help}",
                "",
                paint.with(Paint::BLUE, "=")
            );
        }
        out.push('\n');
    }

    /// The line with a caret below; gives back the width of the margin.
    fn render_line(&self, out: &mut String, span: Span, tone: &str, paint: Paint) -> usize {
        let line = span
            .line
            .checked_sub(1)
            .and_then(|n| self.file(span)?.1.lines().nth(n));
        let Some(line) = line else { return 1 };
        let line = &self.hidden(line);
        let number = span.line.to_string();
        let margin = number.len();
        let before = span.column.saturating_sub(1);
        let (shown, skipped) = excerpt(line, before);
        // A tab is as wide as the terminal likes: one space each keeps the caret in place.
        let shown: String = shown
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let carets = usize::from(span.width).clamp(
            1,
            shown
                .chars()
                .count()
                .saturating_sub(before - skipped)
                .max(1),
        );
        let bar = paint.with(Paint::BLUE, "|");
        let _ = writeln!(out, "{:margin$} {bar}", "");
        let _ = writeln!(out, "{} {bar} {shown}", paint.with(Paint::BLUE, &number));
        let _ = writeln!(
            out,
            "{:margin$} {bar} {:indent$}{}",
            "",
            "",
            paint.with(tone, &"^".repeat(carets)),
            indent = before - skipped
        );
        margin
    }
}

impl Mistake {
    /// Whether it says the same, by whichever rule.
    fn is_same(&self, other: &Self) -> bool {
        let rule = self.rule;
        *self
            == Self {
                rule,
                ..other.clone()
            }
    }

    /// Adds a line of help.
    pub(crate) fn help(&mut self, line: impl Into<String>) -> &mut Self {
        self.help.push(line.into());
        self
    }
}

/// A line without what looks like a key, unless it says that it is a public one: a file of keys may be named where a
/// configuration is expected, and a key written where none belongs.
fn masked(line: &str) -> String {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let is_key = |word: &str| word.len() == KEY_TEXT_LEN && word.ends_with('=');
    let is_public = || line.to_ascii_lowercase().contains("public");
    if !line.split(|c| !is_letter(c)).any(is_key) || is_public() {
        return line.to_owned();
    }
    let mut left = line;
    let mut masked = String::with_capacity(line.len());
    while !left.is_empty() {
        let end = left.find(|c| !is_letter(c)).unwrap_or(left.len());
        let (word, rest) = left.split_at(end);
        match is_key(word) {
            true => masked.extend(std::iter::repeat_n('*', word.len())),
            false => masked.push_str(word),
        }
        let next = rest.find(is_letter).unwrap_or(rest.len());
        let (between, rest) = rest.split_at(next);
        masked.push_str(between);
        left = rest;
    }
    masked
}

/// The part of a line that is shown around a column, and how many characters are cut before it.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    const WIDEST: usize = 120;
    const BEFORE: usize = 60;
    if line.chars().count() <= WIDEST {
        return (line.to_owned(), 0);
    }
    let skipped = column.saturating_sub(BEFORE);
    (line.chars().skip(skipped).take(WIDEST).collect(), skipped)
}

/// Adds colours, or doesn't.
#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    const BOLD: &'static str = "1";
    const RED: &'static str = "1;31";
    const YELLOW: &'static str = "1;33";
    const BLUE: &'static str = "1;34";

    fn with(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
