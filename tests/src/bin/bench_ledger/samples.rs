//! The same figure, several times.
//!
//! In: values. Out: their median and range, and whether two of them differ beyond the noise. Never: a mean.

use crate::unit::{is_exact, least};

/// By how much medians have to differ, besides that ranges are apart.
const BEYOND: f64 = 0.03;
/// With few samples of either: little is known of the noise, so it has to be more.
const BEYOND_FEW: f64 = 0.10;
/// So many of both are not few. Ranges of the same figure lie apart by chance in 2 · n!² / (2n)! of cases: of two samples
/// each in a third, of three in a tenth, of four in 3 %.
const ENOUGH: usize = 4;

/// Values of one case, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn all(&self) -> &[f64] {
        &self.0
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        culvert_tests::median(self.0.iter().copied())
    }

    pub(crate) fn is_single(&self) -> bool {
        self.0.len() < 2
    }

    /// By what share of the earlier median the later one is larger.
    pub(crate) fn growth_since(&self, earlier: &Self) -> f64 {
        let (old, new) = (earlier.median(), self.median());
        match new - old {
            0.0 => 0.0,
            // From nothing to something is without measure.
            change => change / old.abs(),
        }
    }

    /// Whether a change is more than the noise, and than a figure of its `unit` is worth a word for.
    pub(crate) fn differs_from(&self, earlier: &Self, unit: &str) -> bool {
        let beyond = match is_exact(unit) || self.with(earlier) >= ENOUGH {
            true => BEYOND,
            false => BEYOND_FEW,
        };
        let growth = self.growth_since(earlier).abs();
        let is_worth_it = match growth.is_finite() && self.median() != 0.0 {
            true => growth > beyond,
            // Everything is infinitely more than nothing.
            false => (self.median() - earlier.median()).abs() > least(unit),
        };
        self.is_apart_from(earlier) && is_worth_it
    }

    /// How many samples a comparison rests on, if they are too few to know the noise by.
    pub(crate) fn few_with(&self, other: &Self) -> Option<usize> {
        Some(self.with(other)).filter(|count| *count < ENOUGH)
    }

    fn with(&self, other: &Self) -> usize {
        self.len().min(other.len())
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        self.least() > other.most() || self.most() < other.least()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_nothing_to_something_is_a_change_if_it_is_worth_a_word() {
        let nothing = Samples::of([0.0]);
        let differs = |value, unit| {
            let it = Samples::of([value]);
            let ways = [
                it.differs_from(&nothing, unit),
                nothing.differs_from(&it, unit),
            ];
            assert_eq!(ways[0], ways[1], "{value} {unit}");
            ways[0]
        };
        assert!(differs(1.0, "ns") && !differs(0.0, "ns"));
        assert!(differs(0.2, "%") && !differs(0.05, "%"));
        assert!(differs(2.0, "lost/change") && !differs(0.25, "lost/change"));
    }

    #[test]
    fn few_samples_have_to_be_apart_by_more() {
        let differs = |old: &[f64], new: &[f64]| {
            Samples::of(new.iter().copied()).differs_from(&Samples::of(old.iter().copied()), "ns")
        };
        let (old, new) = ([100.0, 100.5, 101.0, 101.5], [106.0, 106.5, 107.0, 107.5]);
        assert!(differs(&old, &new));
        for count in 1..4 {
            assert!(!differs(&old[..count], &new[..count]), "{count}");
            assert!(!differs(&old, &new[..count]) && !differs(&old[..count], &new));
        }
        assert!(differs(&old[..2], &[115.0, 116.0]));
        // What lies within the range of others has been seen before.
        assert!(!differs(&[100.0, 101.0, 130.0], &[115.0]));
    }
}
