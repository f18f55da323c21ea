//! What is wrong with what an operator asked for.
//!
//! In: where it stands, what was found, what would have been right. Out: a value that the command prints as `check`
//! prints its mistakes, with the line of the path. Never: a print.

use std::fmt;

/// One thing wrong, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, as keys from the outermost: `streams[0].size`. A flag's path is its name.
    pub path: String,
    /// What was found.
    pub message: String,
    /// What would have been right: one line each.
    pub help: Vec<String>,
}

impl Mistake {
    /// A mistake at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            help: Vec::new(),
        }
    }

    /// Adds what would have been right.
    #[must_use]
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        self.help
            .iter()
            .try_for_each(|line| write!(f, "\n  help: {line}"))
    }
}

/// What was wrong with a single text; whoever knows where it stands makes a [`Mistake`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What was found.
    pub message: String,
    /// What would have been right.
    pub help: String,
}

impl Wrong {
    /// What was found, and what would have been right.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }

    /// With where it stands.
    #[must_use]
    pub fn at(self, path: impl Into<String>) -> Mistake {
        Mistake::new(path, self.message).help(self.help)
    }
}
