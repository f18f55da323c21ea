//! Keeps the lines of a run.
//!
//! In: lines, as sections print them. Out: the file, whole after every line, so that a run that is ended has what it
//! measured. Never: a line that is lost: what is no figure goes to standard error.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::machine::{self, Ticks};
use crate::run::{FORMAT, Told};

/// The fact that tells how far the processors are from each other.
const LINE: &str = "cache line";

/// How it records.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Lines are printed, too.
    json: bool,
    /// What the run was asked for.
    asked: String,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--json" => options.json = true,
                "--options" => {
                    let text = words.next().context("--options takes a text")?;
                    options.asked = (*text).to_owned();
                }
                other => bail!("no option {other}"),
            }
        }
        Ok(options)
    }
}

/// Takes lines until there are no more.
pub(crate) fn record(file: &Path, options: &Options, lines: impl BufRead) -> Result<()> {
    let mut ledger = Ledger::begin(file, &options.asked)?;
    for line in lines.lines() {
        let line = line?;
        if let Err(error) = Told::parse(&line) {
            eprintln!("{error:#}");
            continue;
        }
        if options.json {
            println!("{line}");
        }
        ledger.keep(&line)?;
    }
    ledger.end()
}

/// A file that is being written.
struct Ledger<'f> {
    file: &'f Path,
    facts: BTreeMap<String, String>,
    began: Instant,
    ticks: Ticks,
    lines: String,
}

impl<'f> Ledger<'f> {
    fn begin(file: &'f Path, asked: &str) -> Result<Self> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut facts = machine::facts();
        facts.insert("options".into(), asked.to_owned());
        facts.insert(LINE.into(), format!("{} before", machine::cache_line()));
        let mut ledger = Self {
            file,
            facts,
            began: Instant::now(),
            ticks: Ticks::now(),
            lines: String::new(),
        };
        ledger.write()?;
        Ok(ledger)
    }

    fn keep(&mut self, line: &str) -> Result<()> {
        self.lines += line;
        self.lines.push('\n');
        self.write()
    }

    /// Processors that are near each other when a run begins may be far at its end.
    fn end(mut self) -> Result<()> {
        let after = format!(", {} after", machine::cache_line());
        self.facts.entry(LINE.into()).or_default().push_str(&after);
        self.write()
    }

    /// Beside the file and then in its place: a reader never sees half of it.
    fn write(&mut self) -> Result<()> {
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        let stolen = 100.0 * Ticks::now().stolen_since(self.ticks);
        self.facts
            .insert("took".into(), format!("{minutes:.1} minutes"));
        self.facts.insert("steal".into(), format!("{stolen:.2} %"));
        let head = json!({ "format": FORMAT, "machine": &self.facts });
        let beside = self.file.with_extension("part");
        fs::write(&beside, format!("{head}\n{}", self.lines))
            .and_then(|()| fs::rename(&beside, self.file))
            .with_context(|| format!("can't write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Run;

    #[test]
    fn what_was_measured_is_in_the_file_with_the_machine_ahead() {
        let file =
            std::env::temp_dir().join(format!("cv-ledger-{}/results.json", std::process::id()));
        let options = Options::parse(&["--options", "wire"]).unwrap();
        let lines =
            "{\"section\":\"wire\",\"case\":\"x\",\"unit\":\"ns\",\"value\":1}\nno figure\n";
        record(&file, &options, lines.as_bytes()).unwrap();
        let run = Run::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        fs::remove_dir_all(file.parent().unwrap()).unwrap();
        assert_eq!((run.lines.len(), run.fact("options")), (1, Some("wire")));
        for fact in ["processor", "kernel", "steal", "took", "date", LINE] {
            assert!(run.fact(fact).is_some(), "{fact}: {run:?}");
        }
    }
}
