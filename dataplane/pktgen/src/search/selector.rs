//! One goal's way through its targets: which load it would try next.
//!
//! In: the bounds of its current target. Out: a load, or that the goal is reached. Never: a load that its bounds already
//! decide on.
//!
//! A target begins with what the one before it found: both bounds are tried again at the new length (or the middle between
//! them, if they are close to enough), then a bound that failed is looked for outside, in steps that grow, then the interval
//! is halved until it is narrow.

use super::goal::Target;
use super::grid::Load;

/// What a target's trials have found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The largest lower bound below the upper one.
    pub(super) lower: Option<Load>,
    /// The smallest upper bound.
    pub(super) upper: Option<Load>,
}

#[derive(Clone, Debug)]
pub(super) struct Selector {
    /// Places in the search's list of targets; the coarsest first.
    targets: Vec<usize>,
    current: usize,
    /// What the target before found, or the first trials.
    from: Bounds,
    /// By how much the next step outside goes.
    stride: u32,
    /// Whether its last nomination is such a step.
    step: Option<Step>,
}

/// A step outside of what the target before found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Down,
    Up,
}

/// The edges of what may be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges {
    pub(super) top: Load,
}

impl Selector {
    pub(super) fn new(targets: Vec<usize>, from: Bounds) -> Self {
        Self {
            targets,
            current: 0,
            from,
            stride: 0,
            step: None,
        }
    }

    /// Begins with what the first trials found.
    pub(super) const fn advance_from(&mut self, from: Bounds) {
        self.from = from;
    }

    /// Its coarsest target.
    pub(super) fn first(&self) -> usize {
        self.targets[0]
    }

    /// Its goal.
    pub(super) fn last(&self) -> usize {
        self.targets[self.targets.len() - 1]
    }

    /// The target it is at.
    pub(super) fn target(&self) -> usize {
        self.targets[self.current]
    }

    /// What to try next for its current target; `None` if that is reached, or can't be.
    pub(super) fn nominate(
        &mut self,
        bounds: Bounds,
        target: &Target,
        width: u32,
        edges: Edges,
    ) -> Option<Load> {
        if self.stride == 0 {
            self.stride = self.first_stride(width, target.expansion);
        }
        if is_closed(bounds, width, edges) {
            return None;
        }
        self.step = None;
        let refined = self.refine(bounds, width);
        if refined.is_some() {
            // What is near is expected near: steps outside begin small again.
            self.stride = width.saturating_mul(target.expansion);
            return refined;
        }
        let (load, step) = match (bounds.lower, bounds.upper) {
            (None, Some(upper)) => (down(upper, self.stride, width), Some(Step::Down)),
            (Some(lower), None) => (up(lower, self.stride, width, edges.top), Some(Step::Up)),
            (Some(lower), Some(upper)) => self.between(lower, upper, width, target.expansion),
            // Nothing is decided yet: the first loads are tried until they are.
            (None, None) => return self.from.upper.or(self.from.lower),
        };
        self.step = step;
        Some(load)
    }

    /// Within both bounds: near what the target before found, in steps outside, as long as these are shorter than half of
    /// the interval; then the middle.
    fn between(
        &mut self,
        lower: Load,
        upper: Load,
        width: u32,
        expansion: u32,
    ) -> (Load, Option<Step>) {
        let middle = middle(lower, upper, width);
        let below = upper.saturating_sub(self.stride);
        if self
            .from
            .upper
            .is_some_and(|from| middle < below && below < from)
        {
            return (below, Some(Step::Down));
        }
        let above = lower.saturating_add(self.stride);
        if self
            .from
            .lower
            .is_some_and(|from| from < above && above < middle)
        {
            return (above, Some(Step::Up));
        }
        let part = (middle - lower).min(upper - middle);
        self.stride = part.max(width).saturating_mul(expansion);
        (middle, None)
    }

    /// Goes on to the next target, if there is one.
    pub(super) fn advance(&mut self, bounds: Bounds) -> bool {
        if self.current + 1 == self.targets.len() {
            return false;
        }
        self.current += 1;
        self.from = bounds;
        self.stride = 0;
        true
    }

    /// A load that it had nominated was tried: if it is a bound where the step came from, the next goes further.
    pub(super) fn tried(&mut self, load: Load, after: Bounds, expansion: u32) {
        let again = match self.step {
            Some(Step::Down) => after.upper == Some(load),
            Some(Step::Up) => after.lower == Some(load),
            None => false,
        };
        if again {
            self.stride = self.stride.saturating_mul(expansion);
        }
    }

    fn first_stride(&self, width: u32, expansion: u32) -> u32 {
        let between = self
            .from
            .lower
            .zip(self.from.upper)
            .map_or(0, |(lower, upper)| upper.abs_diff(lower));
        width.max(between).saturating_mul(expansion)
    }

    /// One of the bounds that the target before found, or the middle if they are close.
    fn refine(&self, bounds: Bounds, width: u32) -> Option<Load> {
        let both = self
            .from
            .lower
            .zip(self.from.upper)
            .filter(|(lower, upper)| lower < upper);
        let close =
            both.filter(|(lower, upper)| upper - lower > width && upper - lower <= 2 * width);
        let halved = close.map(|(lower, upper)| middle(lower, upper, width));
        let mut candidates = [halved, self.from.lower, self.from.upper]
            .into_iter()
            .flatten();
        candidates.find(|&load| is_open(bounds, load))
    }
}

/// Whether trials have not decided on a load yet.
fn is_open(bounds: Bounds, load: Load) -> bool {
    bounds.lower.is_none_or(|lower| lower < load) && bounds.upper.is_none_or(|upper| upper > load)
}

fn is_closed(bounds: Bounds, width: u32, edges: Edges) -> bool {
    match (bounds.lower, bounds.upper) {
        (Some(lower), Some(upper)) => upper - lower <= width,
        (Some(lower), None) => lower >= edges.top,
        (None, Some(upper)) => upper == 0,
        (None, None) => false,
    }
}

/// Below an upper bound; down to the least load if what is left is less than a width.
fn down(upper: Load, stride: u32, width: u32) -> Load {
    let load = upper.saturating_sub(stride.max(1));
    if load < width { 0 } else { load }
}

/// Above a lower bound; up to the highest load if what is left is less than a width.
fn up(lower: Load, stride: u32, width: u32, top: Load) -> Load {
    let load = lower.saturating_add(stride.max(1)).min(top);
    if top - load < width { top } else { load }
}

/// Near the middle, so that the upper part is a width times a power of two: halving that ends at the width exactly.
fn middle(lower: Load, upper: Load, width: u32) -> Load {
    let whole = upper - lower;
    if whole <= 2 * width {
        return lower + whole / 2;
    }
    let mut part = width;
    while part <= whole / 4 {
        part *= 2;
    }
    // Both `part` and its double are candidates; the one nearer to the middle.
    let double = part.saturating_mul(2);
    let nearer = |part: u32| whole.abs_diff(part.saturating_mul(2));
    let part = if double < whole && nearer(double) < nearer(part) {
        double
    } else {
        part
    };
    upper - part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_middle_halves_the_interval_in_few_steps(lower in 0u32..1 << 20, whole in 2u32..1 << 20, width in 1u32..5000) {
            prop_assume!(whole > width);
            let (mut low, mut high) = (lower, lower + whole);
            let mut steps = 0;
            while high - low > width {
                let load = middle(low, high, width);
                prop_assert!(load > low && load < high);
                // The worse half.
                if load - low > high - load { high = load } else { low = load }
                steps += 1;
            }
            let least = (f64::from(whole) / f64::from(width)).log2().ceil();
            prop_assert!(f64::from(steps) <= least + 1.0, "{steps} of {least}");
        }

        #[test]
        fn steps_outside_stay_inside_the_edges(at in 0u32..10_000, stride: u32, width in 1u32..200) {
            prop_assert!(down(at + 1, stride, width) < at + 1);
            let load = up(at, stride, width, 10_000);
            prop_assert!(load > at && load <= 10_000);
        }
    }
}
