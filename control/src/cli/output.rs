//! `-o`: how an answer is printed, with the same meaning at every command.
//!
//! In: what is to be printed. Out: its text for programs; lines that a terminal has room for. Never: a table; each
//! command has its own.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, print};

/// The form of an answer; without one it is a table of 80 characters, or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For programs
    Json,
    /// The same for people who want all of it
    Yaml,
    /// Tables with all columns
    Wide,
}

impl Output {
    /// All of a value, if that is what is wanted.
    pub(super) fn text(self, value: &impl Serialize) -> Result<Option<String>, Failure> {
        match self {
            Self::Json => Ok(Some(serde_json::to_string_pretty(value)? + "\n")),
            Self::Yaml => Ok(Some(serde_saphyr::to_string(value)?)),
            Self::Wide => Ok(None),
        }
    }
}

/// `-o`.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OutputArgs {
    /// How it is printed: json or yaml for programs, wide for all columns
    #[arg(short, long, value_name = "FORM", hide_possible_values = true)]
    pub(super) output: Option<Output>,
}

impl OutputArgs {
    /// A value's text for programs, if that is wanted.
    pub(super) fn text(self, value: &impl Serialize) -> Result<Option<String>, Failure> {
        let text = self.output.map(|output| output.text(value)).transpose()?;
        Ok(text.flatten())
    }

    /// Prints a value for programs, or what is for people.
    pub(super) fn print(
        self,
        value: &impl Serialize,
        for_people: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        print(&self.text(value)?.unwrap_or_else(for_people))
    }

    /// Prints why nothing was done, for programs.
    pub(super) fn refused(self, why: &impl Serialize) -> Failure {
        match self.print(why, String::new) {
            Ok(()) => Failure::Told,
            Err(error) => error,
        }
    }

    /// Whether a program reads it.
    pub(super) fn is_for_programs(self) -> bool {
        matches!(self.output, Some(Output::Json | Output::Yaml))
    }
}

/// No terminal is taken for narrower.
const NARROWEST: usize = 80;

/// How many characters a line may have; `None`: nobody looks at it.
pub(super) fn width(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok();
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    stream.is_terminal().then(|| columns.max(NARROWEST))
}

/// Breaks lines that are longer than a terminal is wide, between words; what stands between backticks stays together.
/// What goes on is indented.
pub(super) fn folded(text: &str, width: Option<usize>) -> String {
    match width {
        Some(width) => text
            .split_inclusive('\n')
            .map(|line| fold(line, width))
            .collect(),
        None => text.to_owned(),
    }
}

fn fold(line: &str, width: usize) -> String {
    if line.trim_end_matches('\n').chars().count() <= width {
        return line.to_owned();
    }
    let indent = line.len() - line.trim_start_matches(' ').len();
    let mut folded = " ".repeat(indent);
    let mut column = indent;
    for word in words(&line[indent..]) {
        let len = word.chars().count();
        let is_first = column == indent;
        if !is_first && column + 1 + len > width {
            folded += &format!("\n{}", " ".repeat(indent + 2));
            column = indent + 2;
        } else if !is_first {
            folded.push(' ');
            column += 1;
        }
        folded += &word;
        column += len;
    }
    folded + "\n"
}

/// What may not be broken.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    for word in line.split_ascii_whitespace() {
        match words.last_mut().filter(|_| is_open) {
            Some(last) => *last += &format!(" {word}"),
            None => words.push(word.to_owned()),
        }
        is_open ^= word.matches('`').count() % 2 == 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = "short one\n  a line of words and `a command` in it\nend\n";
        assert_eq!(folded(text, None), text);
        assert_eq!(
            folded(text, Some(26)),
            "short one\n  a line of words and\n    `a command` in it\nend\n"
        );
        // What has no place to be broken at stays whole.
        assert_eq!(folded("abcdefgh ij\n", Some(5)), "abcdefgh\n  ij\n");
    }
}
