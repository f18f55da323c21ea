//! A file of results, read.
//!
//! In: a text. Out: the machine's facts, the lines of sections, what failed. Never: a line that is passed over.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::unit::Better;

/// The version of a file's shape.
pub(crate) const FORMAT: u64 = 1;

/// Everything that a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// Facts of the machine and of the run, by name.
    pub(crate) machine: BTreeMap<String, String>,
    pub(crate) lines: Vec<Line>,
    /// Sections that ended early, and how.
    pub(crate) failed: Vec<(String, String)>,
}

/// A figure, as a section printed it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) section: String,
    pub(crate) case: String,
    pub(crate) unit: String,
    pub(crate) value: f64,
    pub(crate) reference: Option<Reference>,
    pub(crate) origin: Origin,
}

/// What it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Above 1: Culvert is better. `None`: the unit doesn't say what is better, and neither did the section.
    pub(crate) ratio: Option<f64>,
}

/// How a figure came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Origin {
    /// MRR, NDR, PDR.
    pub(crate) method: Option<String>,
    /// Turns that count, since nobody else had the processor.
    pub(crate) quiet: Option<u64>,
    /// Of how many turns it is the median.
    pub(crate) turns: Option<u64>,
}

/// What a line is.
pub(crate) enum Told {
    Figure(Line),
    Failed { section: String, how: String },
}

impl Run {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let head: Value = serde_json::from_str(lines.next().context("it is empty")?)?;
        ensure!(
            head["format"].as_u64() == Some(FORMAT),
            "its first line is not of format {FORMAT}"
        );
        let facts = head["machine"].as_object().into_iter().flatten();
        let facts =
            facts.filter_map(|(name, fact)| Some((name.clone(), fact.as_str()?.to_owned())));
        let mut run = Self {
            machine: facts.collect(),
            ..Self::default()
        };
        for line in lines {
            run.take(Told::parse(line)?);
        }
        Ok(run)
    }

    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        self.machine.get(name).map(String::as_str)
    }

    /// Names of sections with figures, in the order in which they ran.
    pub(crate) fn sections(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for line in &self.lines {
            if !names.contains(&line.section.as_str()) {
                names.push(&line.section);
            }
        }
        names
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Figure(line) => self.lines.push(line),
            Told::Failed { section, how } => self.failed.push((section, how)),
        }
    }
}

impl Told {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let object: Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let text = |name: &str| object[name].as_str().map(str::to_owned);
        let section = text("section").with_context(|| format!("no `section`: {line}"))?;
        if let Some(how) = text("failed") {
            return Ok(Self::Failed { section, how });
        }
        let (Some(case), Some(unit), Some(value)) =
            (text("case"), text("unit"), object["value"].as_f64())
        else {
            bail!("a figure has `case`, `unit` and a `value`: {line}");
        };
        let count = |name: &str| object[name].as_u64();
        Ok(Self::Figure(Line {
            reference: Reference::parse(&object, &unit, value),
            origin: Origin {
                method: text("method"),
                quiet: count("quiet"),
                turns: count("turns").or(count("rounds")).or(count("pairs")),
            },
            section,
            case,
            unit,
            value,
        }))
    }
}

impl Reference {
    fn parse(object: &Value, unit: &str, value: f64) -> Option<Self> {
        let (name, other) = (
            object["reference"].as_str()?.to_owned(),
            object["reference_value"].as_f64()?,
        );
        let computed = Better::of(unit).map(|better| match better {
            Better::Lower => other / value,
            Better::Higher => value / other,
        });
        let ratio = object["ratio"].as_f64().or(computed);
        Some(Self {
            name,
            value: other,
            ratio: ratio.filter(|it| it.is_finite()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_with_what_sections_say_of_their_figures() {
        let run = Run::parse(
            r#"{"format":1,"machine":{"processor":"X","steal":"0 %"}}
               {"section":"way","case":"out","unit":"ns/packet","value":84.2,"reference":"aead alone","reference_value":60,"ratio":0.71,"quiet":118,"turns":120}
               {"section":"gso","case":"tcp","unit":"Gbit/s","value":9,"method":"MRR","rounds":5,"reference":"wireguard-go","reference_value":3}
               {"section":"gso","failed":"status 1"}"#,
        )
        .unwrap();
        assert_eq!(run.fact("processor"), Some("X"));
        assert_eq!(run.sections(), ["way", "gso"]);
        let [way, gso] = &run.lines[..] else {
            panic!("{run:?}")
        };
        assert_eq!((way.origin.quiet, way.origin.turns), (Some(118), Some(120)));
        assert_eq!(gso.origin.method.as_deref(), Some("MRR"));
        assert_eq!(gso.origin.turns, Some(5));
        // It is computed where a section has none.
        assert_eq!(gso.reference.as_ref().unwrap().ratio, Some(3.0));
        assert_eq!(run.failed, [("gso".into(), "status 1".into())]);
    }

    #[test]
    fn what_is_none_is_refused_with_the_line() {
        let why = |text: &str| format!("{:#}", Run::parse(text).unwrap_err());
        assert!(why("").contains("empty"));
        assert!(why(r#"{"section":"wire"}"#).contains("format 1"));
        let head = r#"{"format":1,"machine":{}}"#;
        assert!(why(&format!("{head}\nhello")).contains("not JSON: hello"));
        let line = r#"{"section":"wire","case":"x","unit":"ns"}"#;
        assert!(why(&format!("{head}\n{line}")).contains(line));
    }
}
