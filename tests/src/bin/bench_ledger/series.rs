//! The lines of a run by what they measure.
//!
//! In: lines. Out: one value for each case and reference, with all its samples. Never: another order than the lines'.

use std::collections::BTreeSet;

use crate::run::{Line, Run};
use crate::samples::Samples;

/// A case beside a reference, or alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) section: String,
    pub(crate) case: String,
    pub(crate) unit: String,
    pub(crate) values: Samples,
    pub(crate) reference: Option<Other>,
    /// How its figures came about, in words.
    pub(crate) origin: String,
}

/// The reference's figures, and how many times better Culvert's are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) values: Samples,
    pub(crate) ratios: Samples,
}

impl Series {
    /// All of a run.
    pub(crate) fn of(run: &Run) -> Vec<Self> {
        let mut groups: Vec<Vec<&Line>> = Vec::new();
        for line in &run.lines {
            match groups.iter_mut().find(|group| is_same(group[0], line)) {
                Some(group) => group.push(line),
                None => groups.push(vec![line]),
            }
        }
        groups.iter().map(|group| Self::of_lines(group)).collect()
    }

    fn of_lines(lines: &[&Line]) -> Self {
        let first = lines[0];
        let references = || lines.iter().filter_map(|line| line.reference.as_ref());
        let reference = first.reference.as_ref().map(|it| Other {
            name: it.name.clone(),
            values: Samples::of(references().map(|it| it.value)),
            ratios: Samples::of(references().filter_map(|it| it.ratio)),
        });
        Self {
            section: first.section.clone(),
            case: first.case.clone(),
            unit: first.unit.clone(),
            values: Samples::of(lines.iter().map(|line| line.value)),
            reference,
            origin: origin(lines),
        }
    }

    /// What makes it the same in another run.
    pub(crate) fn key(&self) -> (&str, &str, &str, Option<&str>) {
        let reference = self.reference.as_ref().map(|it| it.name.as_str());
        (&self.section, &self.case, &self.unit, reference)
    }

    /// What a reader calls it.
    pub(crate) fn name(&self) -> String {
        let beside = self
            .reference
            .as_ref()
            .map(|it| format!(", beside {}", it.name));
        format!(
            "{} {}{}",
            self.section,
            self.case,
            beside.unwrap_or_default()
        )
    }

    /// How many times better than the reference, in the median.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let ratios = &self.reference.as_ref()?.ratios;
        (ratios.len() > 0).then(|| ratios.median())
    }
}

fn is_same(a: &Line, b: &Line) -> bool {
    let reference = |line: &Line| line.reference.as_ref().map(|it| it.name.clone());
    (&a.section, &a.case, &a.unit) == (&b.section, &b.case, &b.unit) && reference(a) == reference(b)
}

/// "MRR, median of 3 runs, each of 120 turns, 355 of 360 quiet".
fn origin(lines: &[&Line]) -> String {
    let methods: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.origin.method.as_deref())
        .collect();
    let mut words: Vec<String> = methods.into_iter().map(str::to_owned).collect();
    let turns: Option<u64> = lines.iter().map(|line| line.origin.turns).sum();
    let quiet: Option<u64> = lines.iter().map(|line| line.origin.quiet).sum();
    match lines.len() {
        1 => {}
        count => words.push(format!("median of {count} runs")),
    }
    words.extend(match (quiet, turns) {
        (Some(quiet), Some(turns)) => Some(format!("{quiet} of {turns} turns quiet")),
        (Some(quiet), None) => Some(format!("{quiet} quiet turns")),
        (None, Some(turns)) => Some(format!("median of {turns} turns")),
        (None, None) => words.is_empty().then(|| "one run".into()),
    });
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(lines: &str) -> Vec<Series> {
        let text = format!("{{\"format\":1,\"machine\":{{}}}}\n{lines}");
        Series::of(&Run::parse(&text).unwrap())
    }

    #[test]
    fn the_same_case_several_times_are_samples_of_one_figure() {
        let all = series(
            r#"{"section":"way","case":"out","unit":"ns","value":3,"reference":"aead","reference_value":2,"quiet":9,"turns":10}
               {"section":"wire","case":"parse","unit":"ns","value":7}
               {"section":"way","case":"out","unit":"ns","value":1,"reference":"aead","reference_value":2,"quiet":8,"turns":10}
               {"section":"way","case":"out","unit":"ns","value":2,"reference":"aead","reference_value":2,"quiet":10,"turns":10}"#,
        );
        let [way, wire] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!(way.values, Samples::of([1.0, 2.0, 3.0]));
        assert_eq!(way.ratio(), Some(1.0));
        assert_eq!(way.origin, "median of 3 runs, 27 of 30 turns quiet");
        assert_eq!((wire.ratio(), wire.origin.as_str()), (None, "one run"));
    }

    #[test]
    fn references_are_kept_apart_and_methods_are_said() {
        let all = series(
            r#"{"section":"gso","case":"tcp","unit":"Gbit/s","value":3,"reference":"a","reference_value":1,"method":"MRR","rounds":5}
               {"section":"gso","case":"tcp","unit":"Gbit/s","value":3,"reference":"b","reference_value":2}"#,
        );
        let names: Vec<String> = all.iter().map(Series::name).collect();
        assert_eq!(names, ["gso tcp, beside a", "gso tcp, beside b"]);
        assert_eq!(all[0].origin, "MRR, median of 5 turns");
    }
}
