//! Loads on a grid, at equal distances in logarithmic space: two searches ask for the same load when they mean the same.
//!
//! In: the least and the highest load, the goals' widths. Out: loads by their numbers, widths in numbers. Never: a load
//! outside the limits.

use crate::number;

/// Steps of the grid in the narrowest width, so that rounding a width down takes a hundredth of it at most.
const STEPS_PER_WIDTH: f64 = 128.0;

/// A load's number; 0 is the least load.
pub(super) type Load = u32;

#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    min: f64,
    max: f64,
    /// The highest load's number.
    top: Load,
    /// The logarithm of the ratio between two neighbors.
    step: f64,
}

impl Grid {
    pub(super) fn new(min: f64, max: f64, narrowest_width: f64) -> Self {
        let whole = (max / min).ln();
        let steps = (whole / logarithmic(narrowest_width) * STEPS_PER_WIDTH)
            .ceil()
            .clamp(1.0, 4e9);
        let top = u32::try_from(number::whole(steps)).unwrap_or(u32::MAX);
        Self {
            min,
            max,
            top,
            step: whole / f64::from(top),
        }
    }

    pub(super) const fn top(&self) -> Load {
        self.top
    }

    pub(super) fn packets_per_s(&self, load: Load) -> f64 {
        if load >= self.top {
            return self.max;
        }
        self.min * (f64::from(load) * self.step).exp()
    }

    /// The highest load of the grid that is not above a rate.
    pub(super) fn below(&self, packets_per_s: f64) -> Load {
        if packets_per_s >= self.max {
            return self.top;
        }
        let steps = ((packets_per_s / self.min).ln() / self.step).floor();
        let load = if steps > 0.0 {
            u32::try_from(number::whole(steps)).unwrap_or(self.top)
        } else {
            0
        };
        load.min(self.top - 1)
    }

    /// A relative width in steps, rounded down: bounds are no further apart than asked for.
    pub(super) fn width(&self, relative: f64) -> u32 {
        let steps = (logarithmic(relative) / self.step * (1.0 + 1e-12)).floor();
        u32::try_from(number::whole(steps))
            .unwrap_or(u32::MAX)
            .max(1)
    }
}

/// A share of the upper bound as the logarithm of the ratio of both.
fn logarithmic(relative: f64) -> f64 {
    -(-relative).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_widths_are_within_what_was_asked() {
        for (min, max, width) in [
            (9001.0, 14_880_952.0, 0.005),
            (1.0, 2.0, 0.5),
            (1000.0, 1001.0, 0.01),
        ] {
            let grid = Grid::new(min, max, width);
            assert_eq!(grid.packets_per_s(0), min);
            assert_eq!(grid.packets_per_s(grid.top()), max);
            let steps = grid.width(width);
            for load in (0..grid.top().saturating_sub(steps)).step_by(997) {
                let (low, high) = (grid.packets_per_s(load), grid.packets_per_s(load + steps));
                let relative = (high - low) / high;
                assert!(
                    relative <= width * (1.0 + 1e-9) && relative > width * 0.98,
                    "{relative} of {width}"
                );
                assert!(grid.below(low * (1.0 + 1e-9)) == load);
            }
        }
    }
}
