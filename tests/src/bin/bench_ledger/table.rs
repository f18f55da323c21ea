//! Tables, a section each: for a terminal, and as Markdown for a document.
//!
//! In: a run. Out: texts: the machine's facts, then both raw values and behind them the ratio. Never: a ratio without the
//! values that it is of.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use culvert_pktgen::report::digits;

use crate::compare::ranged;
use crate::run::Run;
use crate::series::Series;

/// Where a document has the tables.
const MARKS: [&str; 2] = ["<!-- results -->", "<!-- /results -->"];

const HEAD: [&str; 6] = ["case", "Culvert", "unit", "reference", "ratio", "how"];
const NUM_COLUMNS: usize = HEAD.len();

type Row = [String; NUM_COLUMNS];

/// For a terminal.
pub(crate) fn text(run: &Run) -> String {
    let mut out = String::new();
    for (name, fact) in &run.machine {
        // A String takes everything; so below.
        let _ = writeln!(out, "{name:<12} {fact}");
    }
    for (section, rows) in sections(run) {
        let widths = widths(&rows);
        let _ = writeln!(out, "\n== {section}");
        for row in [&HEAD.map(str::to_owned)].into_iter().chain(&rows) {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            let line: Vec<String> = cells.collect();
            let _ = writeln!(out, "{}", line.join("  ").trim_end());
        }
    }
    out + &failures(run)
}

/// For a document.
pub(crate) fn markdown(run: &Run) -> String {
    let mut out = String::from("| the run | |\n|---|---|\n");
    for (name, fact) in &run.machine {
        let _ = writeln!(out, "| {name} | {} |", escaped(fact));
    }
    for (section, rows) in sections(run) {
        let _ = writeln!(
            out,
            "\n### {section}\n\n| {} |\n|---|--:|---|--:|--:|---|",
            HEAD.join(" | ")
        );
        for row in rows {
            let _ = writeln!(out, "| {} |", row.map(|cell| escaped(&cell)).join(" | "));
        }
    }
    out + &failures(run)
}

/// A document with the tables between its marks.
pub(crate) fn between_marks(document: &str, tables: &str) -> Result<String> {
    let [open, close] = MARKS;
    let (before, rest) = document
        .split_once(open)
        .with_context(|| format!("it has no {open}"))?;
    let Some((_, after)) = rest.split_once(close) else {
        bail!("it has no {close} behind {open}");
    };
    Ok(format!(
        "{before}{open}\n\n{}\n\n{close}{after}",
        tables.trim_end()
    ))
}

fn sections(run: &Run) -> Vec<(&str, Vec<Row>)> {
    let all = Series::of(run);
    let of = |section: &str| {
        all.iter()
            .filter(|it| it.section == section)
            .map(row)
            .collect()
    };
    run.sections()
        .into_iter()
        .map(|section| (section, of(section)))
        .collect()
}

fn row(series: &Series) -> Row {
    let reference = series.reference.as_ref();
    [
        series.case.clone(),
        ranged(&series.values),
        series.unit.clone(),
        reference.map_or(String::new(), |it| {
            format!("{}: {}", it.name, digits(it.values.median()))
        }),
        series
            .ratio()
            .map_or(String::new(), |ratio| format!("{ratio:.2}")),
        series.origin.clone(),
    ]
}

fn widths(rows: &[Row]) -> [usize; NUM_COLUMNS] {
    let mut widths = HEAD.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn failures(run: &Run) -> String {
    let line = |(section, how): &(String, String)| format!("\n{section} ended early: {how}.\n");
    run.failed.iter().map(line).collect()
}

/// A cell's text: a bar would end it, and `<` begin a tag.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run::parse(
            r#"{"format":1,"machine":{"processor":"X | Y"}}
               {"section":"way","case":"out","unit":"ns","value":84.2,"reference":"aead alone","reference_value":60,"ratio":0.71,"quiet":118,"turns":120}
               {"section":"throughput","case":"v2v/64","unit":"Mpps","value":3,"method":"MRR"}
               {"section":"throughput","case":"v2v/64","unit":"Mpps","value":4,"method":"MRR"}
               {"section":"gso","failed":"status 1"}"#,
        )
        .unwrap()
    }

    #[test]
    fn both_values_come_first_and_the_ratio_behind_them() {
        let text = markdown(&run());
        for line in [
            "| processor | X \\| Y |",
            "| out | 84.20 | ns | aead alone: 60.00 | 0.71 | 118 of 120 turns quiet |",
            "| v2v/64 | 3.500 [3.000, 4.000] | Mpps |  |  | MRR, median of 2 runs |",
            "gso ended early: status 1.",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_terminal_has_columns() {
        let text = text(&run());
        let (head, way) = (
            text.find("\ncase  Culvert").unwrap(),
            text.find("\nout   84.20").unwrap(),
        );
        assert!(text.find("== way").unwrap() < head && head < way, "{text}");
    }

    #[test]
    fn the_document_has_marks_and_every_section_of_the_script() {
        let document = include_str!("../../../../docs/benchmarks.md");
        let script = include_str!("../../../../scripts/bench");
        assert!(between_marks(document, "").is_ok());
        let list = script
            .lines()
            .find_map(|it| it.strip_prefix("SECTIONS=("))
            .unwrap();
        let sections: Vec<&str> = list.trim_end_matches(')').split(' ').collect();
        assert!(script.contains(&format!("# Sections: {}.\n", sections.join(", "))));
        for section in sections {
            assert!(
                document.contains(&format!("\n| `{section}` | ")),
                "{section}"
            );
        }
    }

    #[test]
    fn a_document_keeps_what_is_around_its_marks() {
        let document = "# A\n\n<!-- results -->\nold\n<!-- /results -->\n\nend\n";
        let written = between_marks(document, "| new |\n").unwrap();
        assert_eq!(
            written,
            "# A\n\n<!-- results -->\n\n| new |\n\n<!-- /results -->\n\nend\n"
        );
        assert_eq!(between_marks(&written, "| new |\n").unwrap(), written);
        assert!(
            between_marks("# A", "").is_err() && between_marks("<!-- results -->", "").is_err()
        );
    }
}
