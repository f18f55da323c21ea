//! Mistakes in a configuration file, and how they are shown.
//!
//! In: what was found wrong, and where. Out: text for people. Never: the contents of key files, or a
//! key that was written into the file by mistake: its letters are shown as `*`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A place in the file's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Line, from 1; 0 when no line is meant (the file could not be read).
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; at least one caret is drawn.
    pub width: usize,
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
}

/// Everything found wrong with one file, in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    file: PathBuf,
    text: String,
    mistakes: Vec<Mistake>,
    /// Texts that are not shown.
    secrets: Vec<String>,
}

impl Report {
    /// An empty report about a file and the text read from it.
    pub fn new(file: &Path, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            mistakes: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// Adds an error and gives it back for its help lines.
    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Mistake {
        self.push(Severity::Error, span, message.into())
    }

    /// Adds a warning and gives it back for its help lines.
    pub(crate) fn warning(&mut self, span: Span, message: impl Into<String>) -> &mut Mistake {
        self.push(Severity::Warning, span, message.into())
    }

    /// Keeps a text of the file from being shown.
    pub(crate) fn hide(&mut self, secret: &str) {
        // One letter would hide half of every line, and is no secret.
        let lines = secret.lines().map(str::trim).filter(|line| line.len() > 1);
        self.secrets.extend(lines.map(String::from));
    }

    /// The mistakes, in the order of the file's lines.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
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

    /// Every mistake with the line it is on; `color` adds ANSI colours.
    pub fn render(&self, color: bool) -> String {
        let paint = Paint { color };
        let mut out = String::new();
        for mistake in self.mistakes.iter().take(super::limits::MISTAKES_SHOWN) {
            self.render_one(&mut out, mistake, paint);
        }
        let hidden = self
            .mistakes
            .len()
            .saturating_sub(super::limits::MISTAKES_SHOWN);
        if hidden > 0 {
            let _ = writeln!(out, "and {hidden} more\n");
        }
        out
    }

    pub(crate) fn sort(&mut self) {
        self.mistakes.sort_by_key(|mistake| mistake.span);
        self.mistakes.dedup();
    }

    fn push(&mut self, severity: Severity, span: Span, message: String) -> &mut Mistake {
        self.mistakes.push(Mistake {
            severity,
            span,
            message,
            help: Vec::new(),
        });
        let last = self.mistakes.len() - 1;
        &mut self.mistakes[last]
    }

    fn count(&self, severity: Severity) -> usize {
        let same = |mistake: &&Mistake| mistake.severity == severity;
        self.mistakes.iter().filter(same).count()
    }

    /// A line without its secrets, as wide as before.
    fn hidden(&self, line: &str) -> String {
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
        let place = if span.line == 0 {
            self.file.display().to_string()
        } else {
            format!("{}:{}:{}", self.file.display(), span.line, span.column)
        };
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
            .and_then(|n| self.text.lines().nth(n));
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
        let carets = span.width.clamp(
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
    /// Adds a line of help.
    pub(crate) fn help(&mut self, line: impl Into<String>) -> &mut Self {
        self.help.push(line.into());
        self
    }
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
