//! What changed between two runs, beyond the noise.
//!
//! In: two runs. Out: a text: what got better and what got worse, what came and went, what the machine had otherwise.
//! Never: figures of two processors beside each other: of those, ratios to references alone.
//!
//! A figure changed if its ranges don't overlap and its medians differ by more than 3 %, or with less than four samples on
//! either side by more than 10 %, which is said. Counts of instructions have no noise.

use std::fmt::{self, Display, Formatter};

use culvert_pktgen::report::digits;

use crate::run::Run;
use crate::samples::Samples;
use crate::series::Series;
use crate::unit::{Better, is_exact};

/// The facts that differ in any two runs, and say nothing of figures.
const OF_EVERY_RUN: [&str; 5] = ["date", "took", "load", "steal", "cache line"];

/// Two runs, compared.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Comparison {
    /// The two processors, if they differ.
    processors: Option<(String, String)>,
    /// Which of the two was `--full`, if the other one was not.
    full: Option<&'static str>,
    changes: Vec<Change>,
    /// Figures that stayed as they were, as far as can be seen.
    steady: usize,
    /// Cases that the later run alone has, and the earlier one alone.
    came: Vec<String>,
    went: Vec<String>,
    /// Cases without a ratio, where only those are compared.
    left_out: usize,
    /// Facts that differ: with them, figures may differ for that reason alone.
    facts: Vec<(String, String, String)>,
    /// Sections of the later run that ended early.
    failed: Vec<(String, String)>,
}

/// A figure that changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    name: String,
    unit: String,
    way: Way,
    old: Samples,
    new: Samples,
}

/// Which way a figure went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Worse,
    Better,
    /// The unit doesn't say what is better.
    Unsaid,
}

/// Compares.
pub(crate) fn compare(old: &Run, new: &Run) -> Comparison {
    let mut comparison = Comparison {
        processors: processors(old, new),
        full: full(old, new),
        facts: facts(old, new),
        failed: new.failed.clone(),
        ..Comparison::default()
    };
    let (before, after) = (Series::of(old), Series::of(new));
    for now in &after {
        if let Some(then) = before.iter().find(|it| it.key() == now.key()) {
            comparison.judge(then, now);
        }
    }
    comparison.came = alone(&after, &before);
    comparison.went = alone(&before, &after);
    comparison
}

/// Cases that others don't have, by name; a section that they have nothing of as a whole.
fn alone(these: &[Series], others: &[Series]) -> Vec<String> {
    let mut names = Vec::new();
    for it in these
        .iter()
        .filter(|it| !others.iter().any(|other| other.key() == it.key()))
    {
        let is_known = others.iter().any(|other| other.section == it.section);
        let name = match is_known {
            true => it.name(),
            false => format!("{}, the whole section", it.section),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn processors(old: &Run, new: &Run) -> Option<(String, String)> {
    let of = |run: &Run| run.fact("processor").unwrap_or("unknown").to_owned();
    let (old, new) = (of(old), of(new));
    (old != new).then_some((old, new))
}

fn full(old: &Run, new: &Run) -> Option<&'static str> {
    let is_full = |run: &Run| {
        let options = run.fact("options").unwrap_or_default();
        options.split(' ').any(|word| word == "--full")
    };
    match (is_full(old), is_full(new)) {
        (true, false) => Some("earlier"),
        (false, true) => Some("later"),
        (false, false) | (true, true) => None,
    }
}

fn facts(old: &Run, new: &Run) -> Vec<(String, String, String)> {
    let mut names: Vec<&String> = old.machine.keys().chain(new.machine.keys()).collect();
    names.sort();
    names.dedup();
    let told = names
        .into_iter()
        .filter(|name| !OF_EVERY_RUN.contains(&name.as_str()));
    let both = told.map(|name| {
        let of = |run: &Run| run.fact(name).unwrap_or("–").to_owned();
        (name.clone(), of(old), of(new))
    });
    both.filter(|(_, old, new)| old != new).collect()
}

impl Comparison {
    fn judge(&mut self, then: &Series, now: &Series) {
        let (old, new, unit, better) = match self.processors {
            None => (
                &then.values,
                &now.values,
                now.unit.clone(),
                Better::of(&now.unit),
            ),
            Some(_) => match (&then.reference, &now.reference) {
                (Some(then), Some(now)) if then.ratios.len() > 0 && now.ratios.len() > 0 => (
                    &then.ratios,
                    &now.ratios,
                    "× the reference".into(),
                    Some(Better::Higher),
                ),
                _ => {
                    self.left_out += 1;
                    return;
                }
            },
        };
        if !new.differs_from(old, &unit) {
            self.steady += 1;
            return;
        }
        let grew = new.median() > old.median();
        let way = match better {
            None => Way::Unsaid,
            Some(better) if grew == (better == Better::Higher) => Way::Better,
            Some(_) => Way::Worse,
        };
        self.changes.push(Change {
            name: now.name(),
            unit,
            way,
            old: old.clone(),
            new: new.clone(),
        });
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some((old, new)) = &self.processors {
            writeln!(
                f,
                "The files can't be compared: the processor was {old} and is {new}. Ratios to references alone are."
            )?;
            writeln!(
                f,
                "Without a reference, and so left out: {}\n",
                self.left_out
            )?;
        }
        if let Some(which) = self.full {
            writeln!(
                f,
                "Only the {which} run was --full: its figures are of longer trials, and may differ for that reason alone.\n"
            )?;
        }
        for (way, title) in [
            (Way::Worse, "Worse"),
            (Way::Better, "Better"),
            (Way::Unsaid, "Changed"),
        ] {
            let changes: Vec<&Change> = self.changes.iter().filter(|it| it.way == way).collect();
            if !changes.is_empty() {
                writeln!(f, "{title}:")?;
                changes
                    .iter()
                    .try_for_each(|change| writeln!(f, "  {change}"))?;
            }
        }
        writeln!(
            f,
            "Beyond the noise: {}. Within it: {}.",
            self.changes.len(),
            self.steady
        )?;
        for (title, names) in [("New", &self.came), ("Gone", &self.went)] {
            if !names.is_empty() {
                writeln!(f, "{title}:")?;
                names.iter().try_for_each(|name| writeln!(f, "  {name}"))?;
            }
        }
        for (section, how) in &self.failed {
            writeln!(
                f,
                "{section} ended early: {how}. What it lacks is among what is gone."
            )?;
        }
        if !self.facts.is_empty() {
            writeln!(f, "Otherwise now:")?;
            for (name, old, new) in &self.facts {
                writeln!(f, "  {name}: {old} -> {new}")?;
            }
        }
        Ok(())
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let growth = 100.0 * self.new.growth_since(&self.old);
        let by = match growth.is_finite() {
            true => format!("{growth:+.1} %"),
            false => "from nothing".into(),
        };
        let (old, new) = (ranged(&self.old), ranged(&self.new));
        write!(f, "{}: {old} -> {new} {} ({by}", self.name, self.unit)?;
        let few = self.old.few_with(&self.new);
        match few.filter(|_| !is_exact(&self.unit)) {
            None => f.write_str(")"),
            Some(1) => f.write_str("; of a single measurement)"),
            Some(count) => write!(f, "; of {count} measurements)"),
        }
    }
}

/// The median, with the range where there are several.
pub(crate) fn ranged(samples: &Samples) -> String {
    let median = digits(samples.median());
    match samples.is_single() {
        true => median,
        false => format!(
            "{median} [{}, {}]",
            digits(samples.least()),
            digits(samples.most())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run on a processor, of lines `SECTION CASE UNIT VALUE [RATIO]`.
    fn run(processor: &str, lines: &[&str]) -> Run {
        let mut text = format!(
            "{{\"format\":1,\"machine\":{{\"processor\":\"{processor}\",\"kernel\":\"{processor}'s\",\"load\":\"{}\"}}}}\n",
            lines.len()
        );
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [section, case, unit, value, ratio @ ..] = &words[..] else {
                panic!("{line}")
            };
            text += &format!(
                r#"{{"section":"{section}","case":"{case}","unit":"{unit}","value":{value}"#
            );
            for ratio in ratio {
                text += &format!(r#","reference":"other","reference_value":1,"ratio":{ratio}"#);
            }
            text += "}\n";
        }
        Run::parse(&text).unwrap()
    }

    fn compared(old: &[&str], new: &[&str]) -> Comparison {
        compare(&run("X", old), &run("X", new))
    }

    fn ways(comparison: &Comparison) -> Vec<Way> {
        comparison.changes.iter().map(|it| it.way).collect()
    }

    #[test]
    fn several_samples_changed_if_their_ranges_are_apart() {
        let times = |all: [u32; 4]| all.map(|ns| format!("wire x ns {ns}"));
        let compared = |old: [u32; 4], new: [u32; 4]| {
            let (old, new) = (times(old), times(new));
            let [old, new] = [&old, &new].map(|all| all.each_ref().map(String::as_str));
            compared(&old, &new)
        };
        let old = [100, 102, 102, 104];
        let apart = compared(old, [106, 108, 108, 110]);
        assert_eq!(ways(&apart), [Way::Worse]);
        assert!(
            apart
                .to_string()
                .contains("wire x: 102 [100, 104] -> 108 [106, 110] ns (+5.9 %)"),
            "{apart}"
        );
        let overlapping = compared(old, [104, 120, 125, 130]);
        assert_eq!((ways(&overlapping), overlapping.steady), (vec![], 1));
    }

    #[test]
    fn ranges_that_are_apart_by_little_are_no_change() {
        let old = ["wire x ns 100"; 4];
        let near = compared(&old, &["wire x ns 102"; 4]);
        assert_eq!(ways(&near), []);
        let far = compared(&old, &["wire x ns 104"; 4]);
        assert_eq!(ways(&far), [Way::Worse]);
    }

    #[test]
    fn two_runs_that_lie_apart_may_do_so_by_chance_and_it_is_said() {
        let old = ["wire x ns 100", "wire x ns 101"];
        assert_eq!(
            ways(&compared(&old, &["wire x ns 107", "wire x ns 108"])),
            []
        );
        let far = compared(&old, &["wire x ns 120", "wire x ns 121"]);
        assert_eq!(ways(&far), [Way::Worse]);
        assert!(far.to_string().contains("; of 2 measurements)"), "{far}");
    }

    #[test]
    fn a_single_measurement_has_to_differ_by_more_and_it_is_said() {
        assert_eq!(ways(&compared(&["wire x ns 100"], &["wire x ns 109"])), []);
        let single = compared(&["wire x ns 100"], &["wire x ns 112"]);
        assert_eq!(ways(&single), [Way::Worse]);
        assert!(
            single
                .to_string()
                .contains("100 -> 112 ns (+12.0 %; of a single measurement)"),
            "{single}"
        );
        // One side is enough.
        let one_side = compared(&["wire x ns 100", "wire x ns 101"], &["wire x ns 108"]);
        assert_eq!(ways(&one_side), []);
    }

    #[test]
    fn counts_of_instructions_have_no_noise() {
        let unit = "counts x instructions/packet";
        let one = |value: u32| run("X", &[&format!("{unit} {value}")]);
        assert_eq!(ways(&compare(&one(1000), &one(1040))), [Way::Worse]);
        assert_eq!(ways(&compare(&one(1000), &one(1020))), []);
        assert!(
            !compare(&one(1000), &one(1040))
                .to_string()
                .contains("single")
        );
    }

    #[test]
    fn what_is_better_is_the_units_to_say() {
        let both = compared(
            &["a time ns 100", "a rate Mpps 10", "a thing bananas 3"],
            &["a time ns 50", "a rate Mpps 5", "a thing bananas 6"],
        );
        assert_eq!(ways(&both), [Way::Better, Way::Worse, Way::Unsaid]);
        let text = both.to_string();
        let places = [
            "Worse:\n  a rate",
            "Better:\n  a time",
            "Changed:\n  a thing",
        ]
        .map(|it| text.find(it));
        assert!(places.is_sorted() && places[0].is_some(), "{text}");
    }

    #[test]
    fn cases_that_came_or_went_are_named() {
        let both = compared(
            &["a x ns 1", "a gone ns 1", "b y ns 1", "b z ns 1"],
            &["a new ns 1 2", "a x ns 1"],
        );
        assert_eq!(both.came, ["a new, beside other"]);
        assert_eq!(both.went, ["a gone", "b, the whole section"]);
        let text = both.to_string();
        assert!(
            text.contains("New:\n  a new, beside other\nGone:\n  a gone\n  b, the"),
            "{text}"
        );
    }

    #[test]
    fn of_another_processor_ratios_alone_are_compared() {
        let old = run("X", &["a x ns 100 2", "a y ns 100 2", "a alone ns 100"]);
        let new = run("Y", &["a x ns 900 2", "a y ns 100 1", "a alone ns 900"]);
        let both = compare(&old, &new);
        assert_eq!(
            (ways(&both), both.steady, both.left_out),
            (vec![Way::Worse], 1, 1)
        );
        let text = both.to_string();
        assert!(
            text.contains("can't be compared: the processor was X and is Y"),
            "{text}"
        );
        assert!(
            text.contains("a y, beside other: 2.000 -> 1.000 × the reference (-50.0 %"),
            "{text}"
        );
        assert!(
            text.contains("  kernel: X's -> Y's\n") && !text.contains("load"),
            "{text}"
        );
    }

    #[test]
    fn a_short_run_beside_a_full_one_is_told_ahead() {
        let run = |options: &str| {
            let mut run = run("X", &["a x ns 1"]);
            run.machine.insert("options".into(), options.into());
            run
        };
        let told = |old: &str, new: &str| compare(&run(old), &run(new)).to_string();
        assert!(told("all", "--full --json").starts_with("Only the later run was --full"));
        assert!(told("--full", "way").starts_with("Only the earlier run was --full"));
        assert!(!told("--full", "--full --rounds 2").contains("--full:"));
    }

    #[test]
    fn what_failed_is_told_with_what_is_gone() {
        let mut now = run("X", &["a x ns 1"]);
        now.failed.push(("gso".into(), "status 1".into()));
        let text = compare(&run("X", &["a x ns 1", "gso tcp ns 1"]), &now).to_string();
        assert!(
            text.contains("Gone:\n  gso, the whole section\ngso ended early: status 1"),
            "{text}"
        );
    }
}
