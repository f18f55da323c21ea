//! The same figure, several times.
//!
//! In: values. Out: their median and range, and whether two of them differ beyond the noise. Never: a mean.

/// With several samples of both: by how much medians have to differ, besides that ranges are apart.
const BEYOND: f64 = 0.03;
/// With a single one of either: nothing is known of the noise, so it has to be more.
const BEYOND_SINGLE: f64 = 0.10;

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
        let middle = self.0.len() / 2;
        match (self.0.len() % 2, self.0.get(middle)) {
            (0, Some(upper)) => f64::midpoint(self.0[middle - 1], *upper),
            (_, value) => value.copied().unwrap_or(f64::NAN),
        }
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

    /// Whether a change is more than the noise. An exact figure has none, but for what is not worth a word.
    pub(crate) fn differs_from(&self, earlier: &Self, is_exact: bool) -> bool {
        let growth = self.growth_since(earlier).abs();
        match self.is_single() || earlier.is_single() {
            true if is_exact => growth > BEYOND,
            true => growth > BEYOND_SINGLE,
            false => self.is_apart_from(earlier) && growth > BEYOND,
        }
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        self.least() > other.most() || self.most() < other.least()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Samples::of([3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples::of([4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn from_nothing_to_something_is_a_change() {
        let (nothing, something) = (Samples::of([0.0]), Samples::of([1.0]));
        assert!(something.differs_from(&nothing, false));
        assert!(!nothing.differs_from(&nothing, false));
    }
}
