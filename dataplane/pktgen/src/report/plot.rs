//! Plots as SVG: axes, lines, dots, bars. Colors are classes of the page's style, so a plot is right in light and in dark.
//!
//! In: values in the units of the axes. Out: `<svg>`. Never: a script, a font, a picture from elsewhere.

use std::fmt::Write as _;

use super::words::{digits, escaped, trimmed};

const WIDTH: f64 = 500.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 52.0;

/// How values are laid out on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// One side of a plot.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    label: String,
    scale: Scale,
    min: f64,
    max: f64,
    /// Where lines are, and what stands there.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to a round number above all values.
    pub(super) fn linear(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let max = values.filter(|it| it.is_finite()).fold(0.0, f64::max);
        let step = round_step(max);
        let steps = (max / step).ceil().max(1.0);
        let places = (0u32..=12)
            .map(f64::from)
            .take_while(|&place| place <= steps);
        Self {
            label: label.into(),
            scale: Scale::Linear,
            min: 0.0,
            max: step * steps,
            ticks: places
                .map(|place| (place * step, tick(place * step)))
                .collect(),
        }
    }

    /// Powers of ten around all values that are more than zero.
    pub(super) fn log(
        label: &str,
        values: impl Iterator<Item = f64>,
        name: impl Fn(f64) -> String,
    ) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|it| *it > 0.0 && it.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let (from, to) = (low.log10().floor(), high.log10().ceil());
        let to = if to > from { to } else { from + 1.0 };
        let powers = (0u32..=24)
            .map(|step| from + f64::from(step))
            .take_while(|&power| power <= to);
        Self {
            label: label.into(),
            scale: Scale::Log,
            min: 10f64.powf(from),
            max: 10f64.powf(to),
            ticks: powers
                .map(|power| 10f64.powf(power))
                .map(|value| (value, name(value)))
                .collect(),
        }
    }

    /// Names side by side, at 0, 1, 2…
    pub(super) fn names(label: &str, names: &[String]) -> Self {
        let ticks = (0u32..).map(f64::from).zip(names.iter().cloned());
        Self {
            label: label.into(),
            scale: Scale::Linear,
            min: -0.5,
            max: names.len() as f64 - 0.5,
            ticks: ticks.collect(),
        }
    }

    /// With ticks of its own.
    pub(super) fn with_ticks(mut self, ticks: Vec<(f64, String)>) -> Self {
        self.ticks = ticks;
        self
    }

    /// 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => (value.max(self.min) / self.min).ln() / (self.max / self.min).ln(),
        };
        share.clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, so that a handful of steps reaches a value.
fn round_step(max: f64) -> f64 {
    if max <= 0.0 {
        return 1.0;
    }
    let rough = max / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .iter()
        .map(|it| it * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(power * 10.0)
}

fn tick(value: f64) -> String {
    trimmed(&digits(value))
}

/// A plot that is being drawn.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    /// What a reader without eyes is told.
    title: String,
    body: String,
}

impl Plot {
    pub(super) fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self {
            x,
            y,
            title: title.into(),
            body: String::new(),
        }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (
            LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    /// A line through points; `series` is the number of its color.
    pub(super) fn line(&mut self, points: &[(f64, f64)], series: usize, dashed: bool) {
        let mut path = String::new();
        for (place, point) in points.iter().enumerate() {
            let (x, y) = self.place(*point);
            let letter = if place == 0 { 'M' } else { 'L' };
            // A String takes everything; so below.
            let _ = write!(path, "{letter}{x:.1} {y:.1}");
        }
        let dashed = if dashed { " dashed" } else { "" };
        let _ = write!(
            self.body,
            "<path class=\"line s{}{dashed}\" d=\"{path}\"/>",
            series % 6
        );
    }

    /// A dot that says what it is; a hollow one is irregular.
    pub(super) fn dot(&mut self, point: (f64, f64), series: usize, hollow: bool, says: &str) {
        let (x, y) = self.place(point);
        let hollow = if hollow { " hollow" } else { "" };
        let _ = write!(
            self.body,
            "<circle class=\"dot s{}{hollow}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{}</title></circle>",
            series % 6,
            escaped(says)
        );
    }

    /// A line from the bottom to the top, with its name; names of several are below each other.
    pub(super) fn upright(&mut self, x: f64, series: usize, name: &str) {
        let ((x, bottom), (_, top)) = (self.place((x, self.y.min)), self.place((x, self.y.max)));
        let _ = write!(
            self.body,
            "<line class=\"mark s{0}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom:.1}\" y2=\"{top:.1}\"/>\
             <text class=\"name s{0}\" x=\"{1:.1}\" y=\"{2:.1}\">{3}</text>",
            series % 6,
            x + 4.0,
            top + 12.0 + 15.0 * (series % 6) as f64,
            escaped(name)
        );
    }

    /// A part of a column, from one value to another.
    pub(super) fn bar(&mut self, at: f64, from: f64, to: f64, series: usize, says: &str) {
        let width = (0.56 * (WIDTH - LEFT - RIGHT) / (self.x.max - self.x.min)).min(88.0);
        let ((x, low), (_, high)) = (self.place((at, from)), self.place((at, to)));
        let _ = write!(
            self.body,
            "<rect class=\"bar s{}\" x=\"{:.1}\" y=\"{high:.1}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            series % 6,
            x - width / 2.0,
            (low - high).max(0.0),
            escaped(says)
        );
    }

    /// The whole picture.
    pub(super) fn svg(&self) -> String {
        let title = escaped(&self.title);
        let mut out =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        for (value, name) in &self.y.ticks {
            let (left, y) = self.place((self.x.min, *value));
            let right = WIDTH - RIGHT;
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                y + 4.0,
                escaped(name)
            );
        }
        let (_, bottom) = self.place((self.x.min, self.y.min));
        for (value, name) in &self.x.ticks {
            let (x, _) = self.place((*value, self.y.min));
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                escaped(name)
            );
        }
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"label\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 8.0,
            escaped(&self.x.label),
            f64::midpoint(TOP, HEIGHT - BOTTOM),
            escaped(&self.y.label)
        );
        out.push_str(&self.body);
        out.push_str("</svg>");
        out
    }
}

/// What colors mean, beside a plot.
pub(super) fn legend(names: &[String]) -> String {
    let item = |(place, name): (usize, &String)| {
        format!(
            "<span><i class=\"s{}\"></i>{}</span>",
            place % 6,
            escaped(name)
        )
    };
    let items: String = names.iter().enumerate().map(item).collect();
    format!("<p class=\"legend\">{items}</p>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = |max| {
            let axis = Axis::linear("", [max].into_iter());
            (axis.max, axis.ticks.len())
        };
        assert_eq!(ends(14.88), (15.0, 4));
        assert_eq!(ends(1.0), (1.0, 6));
        assert_eq!(ends(0.0), (1.0, 2));
        let axis = Axis::log("", [3.0, 900.0, 0.0].into_iter(), tick);
        assert_eq!((axis.min, axis.max, axis.ticks.len()), (1.0, 1000.0, 4));
        assert_eq!(Axis::log("", std::iter::empty(), tick).ticks.len(), 2);
        assert_eq!(Axis::log("", [10.0].into_iter(), tick).ticks.len(), 2);
    }

    #[test]
    fn everything_is_within_the_picture() {
        let axis = || Axis::linear("x", [10.0].into_iter());
        let plot = Plot::new("a", axis(), axis());
        for point in [(0.0, 0.0), (10.0, 10.0), (99.0, -5.0), (f64::INFINITY, 3.0)] {
            let (x, y) = plot.place(point);
            assert!(
                (LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                "{point:?}: {x} {y}"
            );
        }
    }
}
