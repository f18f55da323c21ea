//! What benchmarks measured, kept and shown: `scripts/bench` records with it, prints with it, compares with it.
//!
//! In: the lines that sections print with `--json`; files of earlier runs. Out: such a file; tables for a terminal, and for
//! docs/benchmarks.md; what changed between two files; a page for a browser. Never: a figure that no section printed, a
//! judgement within the noise.
//!
//! A file has one JSON object per line. The first is the run's: `{"format": 1, "machine": {FACT: TEXT}}`. Each other one is
//! a section's: `section`, `case`, `unit`, `value`; `reference`, `reference_value` and `ratio` (above 1: Culvert is better)
//! where there is something to compare with; and what it knows of how the figure came about: `method` (MRR, NDR, PDR),
//! `quiet` (turns that count), `turns`, `rounds` or `pairs` (of how many the value is the median). The same case several
//! times are several samples: the noise is their spread. A section that ended early leaves `{"section", "failed"}`.
//!
//! ```text
//! culvert-bench-ledger record FILE [--json] [--options TEXT]   lines from standard input; with --json also printed
//! culvert-bench-ledger table FILE [--markdown | --write FILE]  a table per section; or between the marks of a document
//! culvert-bench-ledger compare OLD NEW
//! culvert-bench-ledger page FILE
//! ```

#![forbid(unsafe_code)]

mod compare;
mod machine;
mod page;
mod record;
mod run;
mod samples;
mod series;
mod table;
mod unit;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::run::Run;

const USAGE: &str = "culvert-bench-ledger record FILE [--json] [--options TEXT] | table FILE [--markdown | --write FILE] | \
                     compare OLD NEW | page FILE";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match carry_out(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(words: &[&str]) -> Result<()> {
    match words {
        ["record", file, options @ ..] => {
            let options = record::Options::parse(options)?;
            record::record(Path::new(file), &options, io::stdin().lock())
        }
        ["table", file] => {
            print!("{}", table::text(&read(file)?));
            Ok(())
        }
        ["table", file, "--markdown"] => {
            print!("{}", table::markdown(&read(file)?));
            Ok(())
        }
        ["table", file, "--write", document] => write(document, &table::markdown(&read(file)?)),
        ["compare", old, new] => {
            print!("{}", compare::compare(&read(old)?, &read(new)?));
            Ok(())
        }
        ["page", file] => {
            print!("{}", page::page(&read(file)?));
            Ok(())
        }
        _ => bail!("usage: {USAGE}"),
    }
}

fn read(file: &str) -> Result<Run> {
    let text = fs::read_to_string(file).with_context(|| format!("can't read {file}"))?;
    Run::parse(&text).with_context(|| format!("{file} is no file of results"))
}

fn write(document: &str, tables: &str) -> Result<()> {
    let text = fs::read_to_string(document).with_context(|| format!("can't read {document}"))?;
    let written = table::between_marks(&text, tables).with_context(|| document.to_owned())?;
    fs::write(document, written).with_context(|| format!("can't write {document}"))
}
